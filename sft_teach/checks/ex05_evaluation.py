"""Checks of ex05: what the number is worth. The right answers are scikit-learn's and SciPy's."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, tensor

from sft_teach.checks.core import Case, Mistake, Seen, Task, fresh, is_right, look, same

UNEQUAL = "a ValueError: one of the two is longer than the other"
EMPTY = "a ValueError: nothing was measured"


def number(function: Callable, arguments: tuple) -> Any:
    """A probe: a whole number counts as the float that it equals (1 for 1.0)."""
    value = function(*arguments)
    return float(value) if type(value) is int else value


def unequal_and_empty(rule: Callable) -> Callable:
    """A wrong rule with the right errors for lists of unequal lengths, and for empty ones."""

    def wrong(first: Any, second: Any, *more: Any) -> Any:
        if len(first) != len(second) or len(first) == 0:
            raise ValueError("lengths")
        return rule(first, second, *more)

    return wrong


def wrong_values(name: str, seen: list[Seen]) -> set[int]:
    """Numbers of the cases with a result that is not right."""
    return _failing(name, seen, raising=False)


def _failing(name: str, seen: list[Seen], raising: bool) -> set[int]:
    task = TASKS[name]
    return {
        i
        for i, case in enumerate(task.cases)
        if (case.raises is not None) is raising
        and not (i < len(seen) and is_right(seen[i], look(task.reference, task, case), case))
    }


def takes(name: str, *groups: set[int], only: bool = False) -> Callable[[list[Seen]], bool]:
    """All results are right, but of each group of cases at least one is not refused.

    With `only`, exactly the cases of the groups are not refused.
    """

    def when(seen: list[Seen]) -> bool:
        if wrong_values(name, seen):
            return False
        missing = _failing(name, seen, raising=True)
        if only:
            return missing == set().union(*groups)
        return all(group & missing for group in groups)

    return when


def fails_at(name: str, case: int) -> Callable[[list[Seen]], bool]:
    """Of all results, only that of this case is not right."""
    return lambda seen: wrong_values(name, seen) == {case}


def refusals(name: str, unequal: set[int], empty: set[int], what: str = "lists") -> list[Mistake]:
    """Right results, but what has to be refused is not, or not with a ValueError."""
    return [
        Mistake(
            f"neither unequal lengths nor empty {what} are refused with a ValueError. Look at both "
            "lengths before you compute.",
            when=takes(name, unequal, empty),
        ),
        Mistake(
            f"{what} of unequal lengths are not refused with a ValueError. Compare the two lengths "
            "before you compute.",
            when=takes(name, unequal),
        ),
        Mistake(
            f"empty {what} are not refused with a ValueError, although nothing was measured.",
            when=takes(name, empty),
        ),
    ]


# --- confusion_matrix ---------------------------------------------------------------------------
def _counts(labels: list[int], predictions: list[int], num_classes: int) -> Tensor:
    """Pairs counted by torch.bincount; what is outside the range or has no partner is left out."""
    pairs = [
        t * num_classes + p
        for t, p in zip(labels, predictions, strict=False)
        if 0 <= t < num_classes and 0 <= p < num_classes
    ]
    cells = torch.bincount(tensor(pairs, dtype=torch.int64), minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _confusion(
    labels: list[int],
    predictions: list[int],
    num_classes: int,
    check: str = "length low high",
    rule: Callable = _counts,
) -> Tensor:
    classes = [*labels, *predictions]
    if "length" in check and len(labels) != len(predictions):
        raise ValueError("unequal lengths")
    if "empty" in check and not labels:
        raise ValueError("empty")
    if "low" in check and any(c < 0 for c in classes):
        raise ValueError("a class below 0")
    if "high" in check and any(c >= num_classes for c in classes):
        raise ValueError("a class above the last")
    return rule(labels, predictions, num_classes)


def _confusion_with(check: str = "length low high", rule: Callable = _counts) -> Callable:
    return lambda labels, predictions, n: _confusion(labels, predictions, n, check, rule)


def _as_large_as_seen(labels: list[int], predictions: list[int], num_classes: int) -> Tensor:
    return _counts(labels, predictions, max([*labels, *predictions], default=-1) + 1)


T3, P3 = [0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 0, 1]


def _only_seen(labels: list[int], predictions: list[int], num_classes: int) -> Tensor:
    """What scikit-learn gives without `labels`."""
    if len(labels) != len(predictions) or not labels:
        raise ValueError("lengths")
    seen = sorted({*labels, *predictions})
    place = {c: i for i, c in enumerate(seen)}
    return _counts([place[c] for c in labels], [place[c] for c in predictions], len(seen))


CONFUSION = Task(
    reference=_confusion,
    cases=[
        Case(fresh([0, 1, 1], [1, 1, 1], 2), "[[0, 1], [0, 2]]: a row is a true class"),
        Case(fresh(T3, P3, 3), "cell (i, j) counts: true class i, answered j"),
        Case(fresh([0, 2], [2, 0], 4), "4 x 4, also where a class does not occur"),
        Case(fresh([], [], 3), "3 x 3 zeros for two empty lists"),
        Case(fresh([0, 1, 1], [0, 1], 2), UNEQUAL, raises=ValueError),
        Case(fresh([], [0, 1], 2), UNEQUAL, raises=ValueError),
        Case(fresh([0, 2], [0, 1], 2), "a ValueError: there is no class 2", raises=ValueError),
        Case(fresh([0, 1], [0, 2], 2), "a ValueError: there is no class 2", raises=ValueError),
        Case(fresh([0, 1], [0, -1], 2), "a ValueError: there is no class -1", raises=ValueError),
        Case(fresh([-1, 1], [0, 0], 2), "a ValueError: there is no class -1", raises=ValueError),
        Case(fresh([0], [4], 3), "a ValueError: there is no class 4", raises=ValueError),
        Case(fresh([0, 1], [0, -3], 3), "a ValueError: there is no class -3", raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "two empty lists are refused. Here their matrix is all zeros.",
            _confusion_with("length empty low high"),
        ),
        Mistake(
            "lists of unequal lengths are not refused with a ValueError. Compare the two lengths "
            "before you count.",
            when=takes("confusion_matrix", {4, 5}),
        ),
        Mistake(
            "classes outside range(num_classes) are not refused with a ValueError, neither those "
            "below 0 nor those from num_classes on. Look at the classes before you count.",
            when=takes("confusion_matrix", {6, 7, 8, 9, 10, 11}, only=True),
        ),
        Mistake(
            "num_classes itself is let through, and then there is no such row. The last class is "
            "num_classes - 1.",
            when=takes("confusion_matrix", {6, 7}, only=True),
        ),
        Mistake(
            "only the labels are looked at: a prediction outside of range(num_classes) must raise "
            "a ValueError too.",
            when=takes("confusion_matrix", {7, 8, 10, 11}, only=True),
        ),
        Mistake(
            "only the predictions are looked at: a label outside of range(num_classes) must raise "
            "a ValueError too.",
            when=takes("confusion_matrix", {6, 9}, only=True),
        ),
        Mistake(
            "a class below 0 is not refused with a ValueError. An index of -1 means the last row "
            "to Python, so that nobody would notice: look at the classes before you count.",
            when=takes("confusion_matrix", {8, 9, 11}, only=True),
        ),
        Mistake(
            "a class of num_classes or above is not refused with a ValueError. Look at the "
            "classes before you count.",
            when=takes("confusion_matrix", {6, 7, 10}, only=True),
        ),
        Mistake(
            "a class that does not occur has no row, so that rows and columns no longer stand for "
            "their class. The matrix is num_classes x num_classes, whatever occurs.",
            _only_seen,
        ),
        Mistake(
            "the matrix is as large as the largest class that occurs. Its size is num_classes.",
            _as_large_as_seen,
        ),
        Mistake(
            "rows and columns are swapped. Rows are the true classes.",
            _confusion_with(rule=lambda t, p, n: _counts(p, t, n)),
        ),
        Mistake(
            "a pair that occurs several times is counted once: matrix[a, b] += 1 with lists of "
            "indices writes each cell a single time. Count one pair after the other, or bincount.",
            _confusion_with(rule=lambda t, p, n: _counts(t, p, n).clamp(max=1)),
        ),
        Mistake(
            "only right answers are counted. Every pair has a cell.",
            _confusion_with(rule=lambda t, p, n: _counts(t, p, n).diag().diag()),
        ),
        Mistake(
            "only wrong answers are counted. The right ones belong on the diagonal.",
            _confusion_with(rule=lambda t, p, n: _counts(t, p, n) - _counts(t, p, n).diag().diag()),
        ),
        Mistake(
            "these are shares. Counts are asked for.",
            _confusion_with(
                rule=lambda t, p, n: (
                    _counts(t, p, n) / _counts(t, p, n).sum(1, keepdim=True).clamp(min=1)
                )
            ),
        ),
    ],
)


# --- macro_f1 -----------------------------------------------------------------------------------
def _parts(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, true members and predicted members of each class, float64."""
    matrix = confusion.double()
    return matrix.diag(), matrix.sum(1), matrix.sum(0)


def _f1(confusion: Tensor) -> Tensor:
    """F1 of each class; 0 where it would be 0 / 0."""
    hits, true, predicted = _parts(confusion)
    return 2 * hits / (true + predicted).clamp(min=1)


def _share(a: Tensor, b: Tensor) -> Tensor:
    return a / b.clamp(min=1)


def _macro_f1(confusion: Tensor) -> float:
    """scikit-learn's, on one label and one prediction per count."""
    from sklearn.metrics import f1_score

    classes = range(len(confusion))
    pairs = [(i, j) for i in classes for j in classes for _ in range(int(confusion[i, j]))]
    if not pairs:
        return 0.0
    true, predicted = zip(*pairs, strict=True)
    score = f1_score(true, predicted, labels=classes, average="macro", zero_division=0)
    return float(score)


def _nan_f1(confusion: Tensor) -> Tensor:
    hits, true, predicted = _parts(confusion)
    precision, recall = hits / predicted, hits / true
    return 2 * precision * recall / (precision + recall)


def _of_means(confusion: Tensor) -> float:
    """F1 of the mean precision and the mean recall."""
    hits, true, predicted = _parts(confusion)
    precision, recall = _share(hits, predicted).mean().item(), _share(hits, true).mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _weighted(confusion: Tensor) -> float:
    true = confusion.double().sum(1)
    return (_f1(confusion) * true).sum().item() / max(true.sum().item(), 1)


def _mean_of(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def _where_true(confusion: Tensor) -> float:
    return _mean_of(_f1(confusion)[confusion.sum(1) > 0])


def _where_any(confusion: Tensor) -> float:
    return _mean_of(_f1(confusion)[confusion.sum(1) + confusion.sum(0) > 0])


def _where_hit(confusion: Tensor) -> float:
    return _mean_of(_f1(confusion)[confusion.diag() > 0])


def _accuracy(confusion: Tensor) -> float:
    return confusion.diag().sum().item() / max(confusion.sum().item(), 1)


MACRO_F1 = Task(
    reference=_macro_f1,
    cases=[
        Case(fresh(tensor([[2, 0], [0, 3]])), "1.0: every answer is right", number),
        Case(fresh(tensor([[3, 1], [2, 4]])), "the mean of the two classes' F1", number),
        Case(
            fresh(tensor([[50, 4, 1], [6, 5, 2], [3, 1, 2]])),
            "each class weighs the same, however many rows it has",
            number,
        ),
        Case(fresh(tensor([[4, 0, 1], [3, 0, 2], [1, 0, 6]])), "a class never answered", number),
        Case(fresh(tensor([[4, 1, 0], [2, 5, 1], [0, 0, 0]])), "a class that no label has", number),
        Case(
            fresh(tensor([[4, 0, 1], [0, 0, 0], [2, 0, 3]])),
            "a class neither true nor answered counts as 0 in the mean over all three",
            number,
        ),
        Case(fresh(tensor([[0, 3], [2, 0]])), "0.0: no answer is right", number),
        Case(fresh(tensor([[0, 0], [0, 0]])), "0.0 for a matrix of zeros", number),
    ],
    mistakes=[
        Mistake(
            "NaN for a matrix of zeros. Its macro-F1 is 0.0.",
            lambda m: _macro_f1(m) if m.any() else math.nan,
        ),
        Mistake(
            "NaN where a class is neither true nor answered: 0 divided by 0. Its F1 is 0.",
            lambda m: (2 * _parts(m)[0] / (_parts(m)[1] + _parts(m)[2])).mean().item(),
        ),
        Mistake(
            "a class that does not occur is left out of the mean. It counts as 0.",
            _where_any,
        ),
        Mistake(
            "a class that no label has is left out of the mean. It counts as 0: the mean is over "
            "all classes.",
            _where_true,
        ),
        Mistake(
            "a class without a right answer is left out of the mean. It counts as 0.",
            _where_hit,
        ),
        Mistake(
            "classes whose F1 was 0 divided by 0 are left out of the mean. They count as 0: the "
            "mean is over all classes.",
            lambda m: _nan_f1(m).nanmean().item(),
        ),
        Mistake(
            "NaN where a class has no right answer, or no row at all: 0 divided by 0. Its F1 is 0.",
            lambda m: _nan_f1(m).mean().item(),
        ),
        Mistake(
            "this is the accuracy (or the micro-averaged F1, which is the same here). Compute F1 "
            "for each class, then take the mean.",
            _accuracy,
        ),
        Mistake(
            "the classes are weighted by their number of rows. Macro means that each class weighs "
            "the same.",
            _weighted,
        ),
        Mistake(
            "precision and recall are averaged first, and F1 taken of the means. Take F1 of each "
            "class, then the mean.",
            _of_means,
        ),
        Mistake(
            "the mean precision. F1 needs recall as well.",
            lambda m: _share(_parts(m)[0], _parts(m)[2]).mean().item(),
        ),
        Mistake(
            "the mean recall. F1 needs precision as well.",
            lambda m: _share(_parts(m)[0], _parts(m)[1]).mean().item(),
        ),
        Mistake(
            "a factor 2 is missing: with every answer right, F1 is 1.",
            lambda m: _f1(m).mean().item() / 2,
        ),
        Mistake(
            "the sum over the classes. Their mean is asked for.",
            lambda m: _f1(m).sum().item(),
        ),
        Mistake(
            "one F1 per class. Take their mean at the end.",
            lambda m: _f1(m),
        ),
        Mistake(
            "the plain mean of precision and recall. F1 is their harmonic mean, which is small "
            "when either is.",
            lambda m: (
                ((_share(*_parts(m)[:2]) + _share(_parts(m)[0], _parts(m)[2])) / 2).mean().item()
            ),
        ),
        Mistake(
            "the right answers are counted in the denominator once, not twice: this is the Jaccard "
            "index, not F1.",
            lambda m: (
                _share(_parts(m)[0], _parts(m)[1] + _parts(m)[2] - _parts(m)[0]).mean().item()
            ),
        ),
    ],
)

# --- bootstrap_interval -------------------------------------------------------------------------
NOT_FLOATS = "the ends are no Python floats"
NO_PAIR = "not a tuple of two numbers"
A_LIST = "a list in place of a tuple"
HUNDREDS = [True] * 280 + [False] * 120
TEN = [True] * 9 + [False]
CHANCE = 1e-11  # that a right answer falls outside on one side of one end


def _end(right: float, n: int, p: float, resamples: int) -> tuple[float, float]:
    """Where the p-quantile of `resamples` accuracies of n draws lies, beyond reasonable doubt.

    The k-th smallest of R uniform numbers is Beta(k, R + 1 - k) distributed; the accuracies are
    such numbers sent through the binomial's quantile function. k is p R, give or take 2 for the
    several ways to define a quantile.
    """
    from scipy.stats import beta, binom

    k, accuracy = p * resamples, right / n
    low, high = k - 2, k + 2
    least = beta.ppf(CHANCE, low, resamples + 1 - low) if low > 0 else 0.0
    most = beta.isf(CHANCE, high, resamples + 1 - high) if high < resamples + 1 else 1.0
    ends = (max(binom.ppf(u, n, accuracy), 0.0) for u in (least, most))
    low, high = ends
    return float(low) / n, float(high) / n


def _ends(
    right: float, n: int, low: float, high: float, resamples: int
) -> list[tuple[float, float]]:
    return [_end(right, n, p, resamples) for p in (low, high)]


def _within(interval: tuple, ends: list[tuple[float, float]]) -> bool:
    return all(a - 1e-9 <= value <= b + 1e-9 for value, (a, b) in zip(interval, ends, strict=True))


def _odd(found: Any) -> str:
    """What keeps a result from being a tuple of two Python floats."""
    if type(found) is list and len(found) == 2:
        return A_LIST
    if type(found) is not tuple or len(found) != 2:
        return NO_PAIR
    return NOT_FLOATS if any(type(v) is not float for v in found) else ""


def interval(function: Callable, arguments: tuple) -> list[str] | str:
    """Broken rules about an interval; what it looks like where that is known."""
    correct, level, resamples, _ = arguments
    found = function(*arguments)
    if odd := _odd(found):
        return odd
    n, right = len(correct), sum(correct)
    low, high = (1 - level) / 2, (1 + level) / 2
    wanted = _ends(right, n, low, high, resamples)
    if _within(found, wanted):
        return []
    accuracy = right / n
    known = {
        "low and high are swapped": _within(found[::-1], wanted),
        "the interval is one point, the accuracy": _within(found, [(accuracy, accuracy)] * 2),
        "counts, not shares": _within(tuple(value / n for value in found), wanted),
        "percentages": _within(tuple(value / 100 for value in found), wanted),
        "hundredths of the shares": _within(
            found, _ends(right, n, low / 100, high / 100, resamples)
        ),
        "the whole 1 - level at each end": _within(
            found, _ends(right, n, 1 - level, level, resamples)
        ),
        "an interval of level 0.95": level < 0.8
        and _within(found, _ends(right, n, 0.025, 0.975, resamples)),
        "the wrong answers": _within(found, _ends(n - right, n, low, high, resamples)),
        "outside 0 to 1": not 0 <= found[0] <= found[1] <= 1,
    }
    for words, fits in known.items():
        if fits:
            return [words]
    return [
        f"{found[0]:.3f} to {found[1]:.3f}, where the ends lie at "
        f"{sum(wanted[0]) / 2:.3f} and {sum(wanted[1]) / 2:.3f}"
    ]


def repeats(function: Callable, arguments: tuple) -> list[str] | str:
    """Broken rules about seed and resamples: few resamples of many answers must scatter."""
    correct, level, resamples, _ = arguments
    lows = []
    for seed in range(20):
        found = function(list(correct), level, resamples, seed)
        if odd := _odd(found):
            return odd
        lows.append(found)
    if [function(list(correct), level, resamples, seed) for seed in range(4)] != lows[:4]:
        return ["the same seed gives two results"]
    if all(found == lows[0] for found in lows):
        return ["all seeds give the same result"]
    spread = max(low for low, _ in lows) - min(low for low, _ in lows)
    return [] if spread * len(correct) >= 4 else ["more resamples were drawn than asked for"]


def says(words: str) -> Callable[[list[Seen]], bool]:
    """Predicate of a mistake: the first broken rule that a probe reports has these words."""

    def when(seen: list[Seen]) -> bool:
        for one in seen:
            told = [one.value] if isinstance(one.value, str) else one.value
            if one.error is not None:
                return False
            if told and all(isinstance(text, str) for text in told):
                return any(words in text for text in told)
        return False

    return when


def _bootstrap(correct: list[bool], level: float, resamples: int, seed: int) -> tuple:
    if not correct:
        raise ValueError("empty")
    generator = torch.Generator().manual_seed(seed)
    values = tensor(correct, dtype=torch.float64)
    rows = torch.randint(len(correct), (resamples, len(correct)), generator=generator)
    ends = tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(values[rows].mean(1), ends).tolist()
    return low, high


def _of_two(*ends: float) -> Callable[[list[Seen]], bool]:
    """The large intervals are right, and of two answers, one of them right, this one comes."""

    def when(seen: list[Seen]) -> bool:
        usual = len(seen) > 4 and seen[0].value == seen[1].value == []
        return usual and same(seen[4].value, ends, 1e-9)

    return when


def _indexed_a_list(seen: list[Seen]) -> bool:
    words = str(seen[0].error)
    return seen[0].raised == "TypeError" and (
        "list indices must be integers" in words or "only integer" in words
    )


BOOTSTRAP = Task(
    reference=_bootstrap,
    cases=[
        Case(
            fresh(HUNDREDS, 0.4, 2000, 0),
            "the middle 40 % of the resampled accuracies",
            interval,
            shown="280 of 400 right, level 0.4, 2000 resamples, seed 0",
        ),
        Case(
            fresh(HUNDREDS, 0.9, 2000, 1),
            "the middle 90 % of the resampled accuracies",
            interval,
            shown="280 of 400 right, level 0.9, 2000 resamples, seed 1",
        ),
        Case(
            fresh(TEN, 0.95, 2000, 0),
            "accuracies that ten draws can have, none above 1",
            interval,
        ),
        Case(fresh([True] * 5, 0.9, 50, 0), "(1.0, 1.0): every resample is all right"),
        Case(
            fresh([True, False], 0.2, 2000, 0),
            "(0.5, 0.5): about half of all resamples of two answers hold one of each",
        ),
        Case(
            fresh([True] * 210 + [False] * 91, 0.5, 2, 0),
            "two resamples scatter from seed to seed",
            repeats,
            shown="210 of 301 right, level 0.5, 2 resamples, 20 seeds",
        ),
        Case(fresh([], 0.9, 50, 0), EMPTY, raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "a Python list takes one index at a time. Make an array or a tensor of `correct` "
            "first: these take all indices at once.",
            when=_indexed_a_list,
        ),
        Mistake(
            "the result is a list, and must be a tuple: (low, high).",
            when=says(A_LIST),
        ),
        Mistake(
            "the result must be a tuple of two numbers: (low, high).",
            when=says(NO_PAIR),
        ),
        Mistake(
            "the two ends must be Python floats. NumPy's and torch's numbers are not: float(...) "
            "makes one.",
            when=says(NOT_FLOATS),
        ),
        Mistake(
            "each resample is one answer short: it holds n - 1. Draw n, as many as there are.",
            when=_of_two(0.0, 1.0),
        ),
        Mistake(
            "each resample holds one answer too many, n + 1. Draw n, as many as there are.",
            when=_of_two(1 / 3, 2 / 3),
        ),
        Mistake(
            "the last answer is never drawn. The indices go from 0 to n - 1: does the upper end of "
            "the range belong to it?",
            when=_of_two(1.0, 1.0),
        ),
        Mistake(
            "the first answer is never drawn. The indices go from 0 to n - 1.",
            when=_of_two(0.0, 0.0),
        ),
        Mistake(
            "low and high are swapped: the lower end comes first.",
            when=says("low and high are swapped"),
        ),
        Mistake(
            "both ends are the accuracy itself: every resample holds the same answers. Draw with "
            "replacement, n indices for each resample.",
            when=says("one point"),
        ),
        Mistake(
            "these are counts of right answers. The accuracy is their share.",
            when=says("counts, not shares"),
        ),
        Mistake(
            "these are percentages. An accuracy is a number from 0 to 1.",
            when=says("percentages"),
        ),
        Mistake(
            "np.percentile counts in percent, the quantiles here are shares: both ends lie far too "
            "low.",
            when=says("hundredths"),
        ),
        Mistake(
            "1 - level is cut off at each end. Both ends together are 1 - level: half of it at "
            "each.",
            when=says("whole 1 - level"),
        ),
        Mistake(
            "this is a 95 % interval, whatever was asked for. Use the argument level.",
            when=says("level 0.95"),
        ),
        Mistake(
            "this is the interval of the share of wrong answers.",
            when=says("the wrong answers"),
        ),
        Mistake(
            "an end lies outside 0 to 1, which no resample can have: is this a formula with a "
            "standard error? Take quantiles of the resampled accuracies.",
            when=says("outside 0 to 1"),
        ),
        Mistake(
            "not the quantiles of resampled accuracies: too wide, too narrow, or shifted. Does "
            "each resample hold n answers, as many as there are, and are the quantiles "
            "(1 - level) / 2 and (1 + level) / 2?",
            when=says("where the ends lie at"),
        ),
        Mistake(
            "the result is not the same twice with the same seed. Draw from one generator made "
            "from the seed.",
            when=says("same seed gives two results"),
        ),
        Mistake(
            "the seed makes no difference. Make the generator from it, and draw.",
            when=says("all seeds give the same"),
        ),
        Mistake(
            "the number of resamples is fixed in the code: with 2 of them the ends must scatter "
            "more. Use the argument resamples.",
            when=says("more resamples were drawn"),
        ),
        Mistake(
            "an empty list is not refused with a ValueError, although nothing was measured.",
            when=takes("bootstrap_interval", {6}),
        ),
    ],
)

# --- expected_calibration_error -----------------------------------------------------------------
ONE = tensor([[0.17, 0.83]])  # nowhere near an edge of ten bins
SIX = tensor([[0.38, 0.62], [0.35, 0.65], [0.32, 0.68], [0.07, 0.93], [0.05, 0.95], [0.03, 0.97]])
SIX_LABELS = tensor([1, 0, 1, 1, 1, 0])
THREE = tensor(
    [[0.51, 0.30, 0.19], [0.15, 0.72, 0.13], [0.20, 0.24, 0.56], [0.03, 0.05, 0.92],
     [0.83, 0.10, 0.07], [0.36, 0.34, 0.30], [0.02, 0.97, 0.01], [0.61, 0.22, 0.17]]
)  # fmt: skip
THREE_LABELS = tensor([0, 2, 1, 2, 0, 2, 1, 1])
SURE = tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.14, 0.86]])
SURE_LABELS = tensor([0, 0, 1, 1])


def _bins(
    confidence: Tensor, right: Tensor, member: Tensor, bins: int, gap: Callable, weight: Callable
) -> float:
    """Sum over non-empty bins of weight x gap."""
    n, total = len(confidence), 0.0
    filled = int(torch.unique(member).numel())
    for i in range(-1, bins + 2):
        inside = member == i
        if inside.any():
            accuracy = right[inside].double().mean().item()
            mean = confidence[inside].double().mean().item()
            total += weight(int(inside.sum()), n, filled, bins) * gap(accuracy, mean, i, bins)
    return total


def _ece(
    probabilities: Tensor,
    labels: Tensor,
    bins: int,
    *,
    confidence: Callable = lambda p, y: p.max(-1).values,
    answer: Callable = lambda p, y: p.argmax(-1),
    member: Callable = lambda c, bins: torch.bucketize(
        c, torch.arange(1, bins, dtype=torch.float64) / bins
    ),
    gap: Callable = lambda accuracy, mean, i, bins: abs(accuracy - mean),
    weight: Callable = lambda inside, n, filled, bins: inside / n,
) -> float:
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError("lengths")
    sure = confidence(probabilities, labels).double()
    right = answer(probabilities, labels) == labels
    return _bins(sure, right, member(sure, bins), bins, gap, weight)


def _ece_with(**parts: Callable) -> Callable:
    return lambda probabilities, labels, bins: _ece(probabilities, labels, bins, **parts)


def _equal_counts(confidence: Tensor, bins: int) -> Tensor:
    """Bins that hold the same number of answers."""
    rank = confidence.argsort().argsort()
    return rank * bins // len(confidence)


def _above_chance(classes: int) -> Callable:
    """Bins between 1/C and 1."""

    def member(confidence: Tensor, bins: int) -> Tensor:
        share = (confidence - 1 / classes) / (1 - 1 / classes)
        return (share * bins).ceil().sub(1).clamp(0, bins - 1).long()

    return member


def _without_the_sure(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """A confidence of 1 falls out of [lo, hi)."""
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError("lengths")
    keep = probabilities.max(-1).values < 1
    if not keep.any():
        return 0.0
    return _ece(probabilities[keep], labels[keep], bins) * keep.double().mean().item()


def _nan_ece(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    sure = probabilities.max(-1).values.double()
    filled = torch.bucketize(sure, torch.arange(1, bins, dtype=torch.float64) / bins).unique()
    right = _ece(probabilities, labels, bins)
    return right if len(filled) == bins else math.nan


NO_ROWS = (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 10)
ECE = Task(
    reference=_ece,
    cases=[
        Case(fresh(ONE, tensor([1]), 10), "0.17: one answer, right, with confidence 0.83"),
        Case(fresh(ONE, tensor([0]), 10), "0.83: one answer, wrong, with confidence 0.83"),
        Case(fresh(SIX, SIX_LABELS, 10), "0.15, as by hand in the task"),
        Case(fresh(SIX, SIX_LABELS, 1), "|accuracy - mean confidence| over all"),
        Case(fresh(THREE, THREE_LABELS, 5), "the gaps of the filled bins, each by its share"),
        Case(fresh(THREE, THREE_LABELS, 12), "the gaps of the filled bins, each by its share"),
        Case(fresh(SURE, SURE_LABELS, 4), "a confidence of 1 belongs to the last bin"),
        Case(fresh(THREE, THREE_LABELS[:7], 5), UNEQUAL, raises=ValueError),
        Case(fresh(THREE[:7], THREE_LABELS, 5), UNEQUAL, raises=ValueError),
        Case(fresh(*NO_ROWS), EMPTY, raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "a confidence of exactly 1 is lost: the bins are (lo, hi], so 1 belongs to the last "
            "one.",
            _without_the_sure,
        ),
        Mistake(
            "a confidence of exactly 1 gets a bin of its own. The bins are (lo, hi], so 1 belongs "
            "to the last one.",
            _ece_with(member=lambda c, bins: (c * bins).floor().long()),
        ),
        *refusals("expected_calibration_error", {7, 8}, {9}, "tensors"),
        Mistake(
            "NaN where a bin is empty: it has no accuracy. Leave empty bins out.",
            _nan_ece,
        ),
        Mistake(
            "the plain mean over the filled bins. A bin weighs by its share of the answers.",
            _ece_with(weight=lambda inside, n, filled, bins: 1 / filled),
        ),
        Mistake(
            "divided by the number of bins. A bin weighs by its share of the answers.",
            _ece_with(weight=lambda inside, n, filled, bins: 1 / bins),
        ),
        Mistake(
            "the gaps are added up without weights. A bin weighs by its share of the answers.",
            _ece_with(weight=lambda inside, n, filled, bins: 1.0),
        ),
        Mistake(
            "gaps weighted by counts. Divide by the number of answers.",
            _ece_with(weight=lambda inside, n, filled, bins: inside),
        ),
        Mistake(
            "gaps upwards and downwards cancel before the absolute value is taken, as if all were "
            "one bin. It belongs inside the sum, once for each bin.",
            lambda p, y, bins: abs(_ece(p, y, bins, gap=lambda a, m, i, b: a - m)),
        ),
        Mistake(
            "gaps upwards and downwards cancel. Take the absolute value in each bin.",
            _ece_with(gap=lambda accuracy, mean, i, bins: accuracy - mean),
        ),
        Mistake(
            "gaps upwards and downwards cancel, and the sign is turned round. Take the absolute "
            "value in each bin.",
            _ece_with(gap=lambda accuracy, mean, i, bins: mean - accuracy),
        ),
        Mistake(
            "the gaps are squared. Their absolute value is asked for.",
            _ece_with(gap=lambda accuracy, mean, i, bins: (accuracy - mean) ** 2),
        ),
        Mistake(
            "the middle of the bin stands for the confidence. Take the mean confidence of the "
            "answers in it.",
            _ece_with(gap=lambda accuracy, mean, i, bins: abs(accuracy - (i + 0.5) / bins)),
        ),
        Mistake(
            "the confidence is the probability of the true label. The model does not know that: "
            "take its highest probability.",
            _ece_with(confidence=lambda p, y: p.gather(-1, y[:, None])[:, 0]),
        ),
        Mistake(
            "the probability of class 1 (or of the last one) is taken. The confidence is the "
            "highest probability of the row.",
            _ece_with(confidence=lambda p, y: p[:, 1]),
        ),
        Mistake(
            "the number of bins is fixed to 10. Use the argument bins.",
            lambda p, y, bins: _ece(p, y, 10),
        ),
        Mistake(
            "the bins hold equal numbers of answers. They are equally wide: (0, 1/bins], ...",
            _ece_with(member=_equal_counts),
        ),
        Mistake(
            "every answer is a bin of its own. Take the mean of each bin before the difference.",
            lambda p, y, bins: (
                (p.argmax(-1) == y).double().sub(p.max(-1).values.double()).abs().mean().item()
            ),
        ),
        Mistake(
            "the answers of the last bin are lost. Do the numbers of your bins begin at 0 or at 1?",
            _ece_with(gap=lambda a, m, i, bins: abs(a - m) if i < bins - 1 else 0.0),
        ),
        Mistake(
            "the bins divide 1/C to 1. They divide 0 to 1, although no confidence is below 1/C.",
            lambda p, y, bins: _ece(p, y, bins, member=_above_chance(p.shape[-1])),
        ),
        Mistake(
            "the bins divide the range from the lowest to the highest confidence. They divide 0 to "
            "1, whatever occurs.",
            _ece_with(
                member=lambda c, bins: (
                    ((c - c.min()) / (c.max() - c.min()).clamp(min=1e-9) * bins)
                    .ceil()
                    .sub(1)
                    .clamp(0, bins - 1)
                    .long()
                )
            ),
        ),
    ],
)


# --- mcnemar_exact ------------------------------------------------------------------------------
def _pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two models' right and wrong answers with these counts, in a fixed random order."""
    rows = [(True, True)] * both + [(True, False)] * only_a
    rows += [(False, True)] * only_b + [(False, False)] * neither
    random.Random(0).shuffle(rows)
    return [a for a, _ in rows], [b for _, b in rows]


def _discordant(correct_a: list[bool], correct_b: list[bool]) -> tuple[int, int]:
    pairs = list(zip(correct_a, correct_b, strict=False))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def _tail(k: int, n: int) -> float:
    """P[Binomial(n, 1/2) <= k]."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def _mcnemar(correct_a: list[bool], correct_b: list[bool]) -> float:
    """SciPy's exact binomial test of the discordant pairs."""
    from scipy.stats import binomtest

    if len(correct_a) != len(correct_b) or not correct_a:
        raise ValueError("lengths")
    only_a, only_b = _discordant(correct_a, correct_b)
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def _of_pairs(rule: Callable) -> Callable:
    """1.0 without discordant pairs; another rule for their counts. Nothing is refused."""
    return lambda a, b: rule(*_discordant(a, b)) if any(_discordant(a, b)) else 1.0


def _pairs_mistake(hint: str, rule: Callable) -> list[Mistake]:
    """With the right errors, and with none."""
    return [Mistake(hint, unequal_and_empty(_of_pairs(rule))), Mistake(hint, _of_pairs(rule))]


def _doubled(correct_a: list[bool], correct_b: list[bool]) -> float:
    """Twice the tail, whatever comes; 2 without discordant pairs."""
    pairs = _discordant(correct_a, correct_b)
    return 2 * _tail(min(pairs), sum(pairs))


def _split(a: int, b: int) -> float:
    """Probability of exactly this split."""
    return math.comb(a + b, a) / 2 ** (a + b)


def _chi_square(a: int, b: int, correction: int = 0) -> float:
    return math.erfc(math.sqrt(max(abs(a - b) - correction, 0) ** 2 / (a + b) / 2))


def _from_accuracies(correct_a: list[bool], correct_b: list[bool]) -> float:
    """As if the right answers of both were the coins."""
    a, b = sum(correct_a), sum(correct_b)
    return min(1.0, 2 * _tail(min(a, b), a + b)) if a + b else 1.0


def _all_rows(correct_a: list[bool], correct_b: list[bool]) -> float:
    return min(1.0, 2 * _tail(min(_discordant(correct_a, correct_b)), len(correct_a)))


def _nan_without_pairs(correct_a: list[bool], correct_b: list[bool]) -> float:
    p = _mcnemar(correct_a, correct_b)
    return p if any(_discordant(correct_a, correct_b)) else math.nan


def _fails_without_pairs(correct_a: list[bool], correct_b: list[bool]) -> float:
    p = _mcnemar(correct_a, correct_b)
    return p / int(any(_discordant(correct_a, correct_b)))


MCNEMAR = Task(
    reference=_mcnemar,
    cases=[
        Case(fresh(*_pair(3, 4, 1, 2)), "12 / 32 = 0.375: four discordant pairs to one", number),
        Case(fresh(*_pair(3, 1, 4, 2)), "the same with A and B exchanged", number),
        Case(
            fresh(*_pair(80, 8, 2, 10)),
            "112 / 1024, as by hand in the task",
            number,
            shown="100 answers; only A right 8 times, only B 2 times",
        ),
        Case(
            fresh(*_pair(70, 30, 50, 50)),
            "twice the probability of at most 30 heads in 80 throws",
            number,
            shown="200 answers; only A right 30 times, only B 50 times",
        ),
        Case(fresh(*_pair(2, 3, 3, 1)), "1.0: a p-value is at most 1", number),
        Case(fresh(*_pair(2, 0, 5, 1)), "2 / 32: no pair for A", number),
        Case(fresh([True, False], [True, False]), "1.0: there is no discordant pair", number),
        Case(
            fresh(*_pair(300, 560, 600, 40)),
            "twice the probability of at most 560 heads in 1160 throws",
            number,
            shown="1500 answers; only A right 560 times, only B 600 times",
        ),
        Case(fresh([True, False], [True]), UNEQUAL, raises=ValueError),
        Case(fresh([], [True]), UNEQUAL, raises=ValueError),
        Case(fresh([], []), EMPTY, raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "two models that never differ: there is nothing to divide by. Their p-value is 1.0.",
            _fails_without_pairs,
        ),
        Mistake(
            "NaN where two models never differ. Their p-value is 1.0.",
            _nan_without_pairs,
        ),
        Mistake(
            "0 where two models never differ. Nothing speaks against them being alike: 1.0.",
            lambda a, b: _mcnemar(a, b) if any(_discordant(a, b)) or len(a) != len(b) else 0.0,
        ),
        *refusals("mcnemar_exact", {8, 9}, {10}),
        Mistake(
            "with more than a thousand discordant pairs it fails: 0.5 ** n is 0 there, and the "
            "number of outcomes no longer fits into a float. Python's whole numbers have no limit: "
            "when do they become a float?",
            when=fails_at("mcnemar_exact", 7),
        ),
        *_pairs_mistake(
            "above 1 where both models win about as often: twice the tail counts the middle twice. "
            "A p-value is at most 1.",
            lambda a, b: 2 * _tail(min(a, b), a + b),
        ),
        *[
            Mistake(
                "above 1 where both models win about as often, and where they never differ: twice "
                "the tail counts the middle twice. A p-value is at most 1.",
                wrong,
            )
            for wrong in (unequal_and_empty(_doubled), _doubled)
        ],
        *_pairs_mistake(
            "one-sided: the tail must be doubled, because either model could have been ahead.",
            lambda a, b: _tail(min(a, b), a + b),
        ),
        *_pairs_mistake(
            "the probability of exactly this split. A p-value adds everything that is at least as "
            "lopsided.",
            _split,
        ),
        *_pairs_mistake(
            "twice the probability of exactly this split. Add everything that is at least as "
            "lopsided.",
            lambda a, b: min(1.0, 2 * _split(a, b)),
        ),
        *_pairs_mistake(
            "the sum ends one too early: at most min(n01, n10) includes min(n01, n10) itself.",
            lambda a, b: min(1.0, 2 * _tail(min(a, b) - 1, a + b)),
        ),
        *_pairs_mistake(
            "always model A's count is used: with A ahead, the tail is the wrong one. Take the "
            "smaller of the two.",
            lambda a, b: min(1.0, 2 * _tail(a, a + b)),
        ),
        *_pairs_mistake(
            "always model B's count is used: with B ahead, the tail is the wrong one. Take the "
            "smaller of the two.",
            lambda a, b: min(1.0, 2 * _tail(b, a + b)),
        ),
        *_pairs_mistake(
            "the larger of the two counts is used: the tail begins at the smaller one.",
            lambda a, b: min(1.0, 2 * _tail(max(a, b), a + b)),
        ),
        *_pairs_mistake(
            "the chi-square approximation. With few discordant pairs it is off: add up the "
            "binomial.",
            _chi_square,
        ),
        *_pairs_mistake(
            "the chi-square approximation with continuity correction. Add up the binomial instead.",
            lambda a, b: _chi_square(a, b, 1),
        ),
        Mistake(
            "all right answers are counted. Rows that both models get right say nothing about "
            "which is better: count where exactly one is right.",
            unequal_and_empty(_from_accuracies),
        ),
        Mistake(
            "the number of throws is that of all rows. Only the discordant pairs are thrown.",
            unequal_and_empty(_all_rows),
        ),
        Mistake(
            "1 minus the p-value. Small means: hardly a coincidence.",
            unequal_and_empty(lambda a, b: 1 - _mcnemar(a, b)),
        ),
    ],
)

# --- quadratic_kappa ----------------------------------------------------------------------------
GRADES = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
NEAR = [0, 0, 0, 1, 1, 1, 2, 2, 2, 1]
FAR = [0, 0, 2, 0, 1, 1, 1, 2, 0, 0]


def _disagreement(
    labels: list[int],
    predictions: list[int],
    num_classes: int,
    weight: Callable = lambda i, j: (i - j) ** 2,
) -> tuple[float, float]:
    """Observed and expected weighted disagreement."""
    observed = _counts(labels, predictions, num_classes).double()
    expected = observed.sum(1)[:, None] * observed.sum(0)[None, :] / observed.sum()
    grades = torch.arange(num_classes, dtype=torch.float64)
    weights = weight(grades[:, None], grades[None, :]).double()
    return (weights * observed).sum().item(), (weights * expected).sum().item()


def _kappa(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """scikit-learn's, with all classes listed; 1.0 where it divides 0 by 0."""
    from sklearn.metrics import cohen_kappa_score

    if len(labels) != len(predictions) or not labels:
        raise ValueError("lengths")
    if len({*labels, *predictions}) == 1:
        return 1.0
    classes = list(range(num_classes))
    return float(cohen_kappa_score(labels, predictions, labels=classes, weights="quadratic"))


def _kappa_of(rule: Callable, weight: Callable = lambda i, j: (i - j) ** 2) -> Callable:
    """The right errors; a rule for observed and expected disagreement."""
    return unequal_and_empty(lambda y, p, n: rule(*_disagreement(y, p, n, weight)))


def _one_minus(observed: float, expected: float) -> float:
    return 1 - observed / expected if expected else 1.0


def _agreement_kappa(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """The weights of disagreement used as if they were agreement."""
    observed, expected = _disagreement(labels, predictions, num_classes)
    top = (num_classes - 1) ** 2 * len(labels) or 1
    observed, expected = observed / top, expected / top
    return (observed - expected) / (1 - expected) if expected != 1 else 1.0


def _renumbered(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """Only the classes that occur, numbered anew: a gap is closed."""
    place = {c: i for i, c in enumerate(sorted({*labels, *predictions}))}
    return _kappa([place[c] for c in labels], [place[c] for c in predictions], len(place))


def _renumbered_nan(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """What scikit-learn gives without `labels`."""
    kappa = _renumbered(labels, predictions, num_classes)
    return kappa if len({*labels, *predictions}) > 1 else math.nan


def _correlation(constant: Callable) -> Callable:
    """Pearson's; `constant(labels, predictions)` where one of the two does not vary."""

    def correlation(labels: list[int], predictions: list[int], num_classes: int) -> float:
        y, p = tensor(labels, dtype=torch.float64), tensor(predictions, dtype=torch.float64)
        y, p = y - y.mean(), p - p.mean()
        scale = (y.norm() * p.norm()).item()
        return (y @ p).item() / scale if scale else constant(labels, predictions)

    return correlation


def _uniform_expected(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """As if every pair of classes were equally likely by chance."""
    observed, _ = _disagreement(labels, predictions, num_classes)
    grades = torch.arange(num_classes, dtype=torch.float64)
    mean = ((grades[:, None] - grades) ** 2).mean().item()
    return 1 - observed / (mean * len(labels)) if mean else 1.0


def _own_margins(labels: list[int], predictions: list[int], num_classes: int) -> float:
    """Expected from the true classes alone."""
    observed, _ = _disagreement(labels, predictions, num_classes)
    margin = torch.bincount(tensor(labels), minlength=num_classes).double()
    grades = torch.arange(num_classes, dtype=torch.float64)
    expected = (margin[:, None] * margin * (grades[:, None] - grades) ** 2).sum().item()
    return _one_minus(observed, expected / len(labels))


KAPPA = Task(
    reference=_kappa,
    cases=[
        Case(fresh([0, 1, 2], [0, 1, 2], 3), "1.0: every answer is right", number),
        Case(fresh(GRADES, NEAR, 3), "1 - 3 / 12.6: three mistakes, each one grade off", number),
        Case(fresh(GRADES, FAR, 3), "mistakes of two grades weigh four times as much", number),
        Case(fresh([0, 0, 2, 2], [2, 2, 0, 0], 3), "below 0: worse than chance", number),
        Case(fresh([0, 1, 4, 4, 1], [0, 4, 4, 1, 1], 5), "classes 2 and 3 do not occur", number),
        Case(fresh([0, 1, 2, 2], [1, 1, 1, 1], 3), "0.0: no better than chance", number),
        Case(fresh([2, 2], [2, 2], 4), "1.0: no disagreement is expected, and none is", number),
        Case(fresh([0, 0, 0], [0, 0, 0], 1), "1.0: there is one class", number),
        Case(fresh([0, 1, 1], [0, 1], 2), UNEQUAL, raises=ValueError),
        Case(fresh([], [0, 1], 2), UNEQUAL, raises=ValueError),
        Case(fresh([], [], 2), EMPTY, raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "NaN where the expected disagreement is 0: 0 divided by 0. Kappa is 1.0 there.",
            _kappa_of(lambda o, e: 1 - o / e if e else math.nan),
        ),
        Mistake(
            "the expected disagreement may be 0, and nothing can be divided by it. Kappa is 1.0 "
            "there.",
            _kappa_of(lambda o, e: 1 - o / e),
        ),
        Mistake(
            "0 where the expected disagreement is 0. All agree there: kappa is 1.0.",
            _kappa_of(lambda o, e: 1 - o / e if e else 0.0),
        ),
        *refusals("quadratic_kappa", {8, 9}, {10}),
        Mistake(
            "the classes that occur were numbered anew, so that a gap between them is closed and "
            "far mistakes look near. Use all of range(num_classes).",
            _renumbered,
        ),
        Mistake(
            "a gap between the classes that occur is closed, so that far mistakes look near (list "
            "all classes), and it is NaN where the expected disagreement is 0.",
            _renumbered_nan,
        ),
        Mistake(
            "linear weights |i - j|. Quadratic ones are (i - j) squared.",
            _kappa_of(_one_minus, lambda i, j: (i - j).abs()),
        ),
        Mistake(
            "all mistakes weigh the same: this is the kappa without weights. A mistake costs "
            "(i - j) squared.",
            _kappa_of(_one_minus, lambda i, j: i != j),
        ),
        Mistake(
            "the ratio itself. Kappa is 1 minus observed over expected.",
            _kappa_of(lambda o, e: o / e if e else 1.0),
        ),
        Mistake(
            "expected over observed: the ratio is upside down.",
            _kappa_of(lambda o, e: 1 - e / o if o else 1.0),
        ),
        Mistake(
            "the weights say how bad a mistake is, but are used as if they said how good an "
            "agreement is. Kappa is 1 minus observed over expected disagreement.",
            unequal_and_empty(_agreement_kappa),
        ),
        Mistake(
            "the expected counts are not scaled: E[i, j] is row sum times column sum divided by n.",
            unequal_and_empty(
                lambda y, p, n: _one_minus(
                    _disagreement(y, p, n)[0], _disagreement(y, p, n)[1] * len(y)
                )
            ),
        ),
        Mistake(
            "the expected counts are shares, the observed ones counts (or the other way round). "
            "Both must sum to n, or both to 1.",
            unequal_and_empty(
                lambda y, p, n: _one_minus(
                    _disagreement(y, p, n)[0], _disagreement(y, p, n)[1] / len(y)
                )
            ),
        ),
        Mistake(
            "by chance, every pair of classes is taken to be equally likely. How often a class "
            "occurs must count: row sum times column sum.",
            unequal_and_empty(_uniform_expected),
        ),
        Mistake(
            "the expected counts use the true classes twice. Take row sums and column sums.",
            unequal_and_empty(_own_margins),
        ),
        *[
            Mistake(
                "this is the correlation of labels and predictions. Kappa also sees whether one is "
                "shifted or stretched against the other.",
                unequal_and_empty(_correlation(constant)),
            )
            for constant in (
                lambda y, p: float(y == p),
                lambda y, p: 1.0,
                lambda y, p: 0.0,
                lambda y, p: math.nan,
            )
        ],
        Mistake(
            "this is the accuracy.",
            unequal_and_empty(
                lambda y, p, n: sum(a == b for a, b in zip(y, p, strict=True)) / len(y)
            ),
        ),
    ],
)

TASKS = {
    "confusion_matrix": CONFUSION,
    "macro_f1": MACRO_F1,
    "bootstrap_interval": BOOTSTRAP,
    "expected_calibration_error": ECE,
    "mcnemar_exact": MCNEMAR,
    "quadratic_kappa": KAPPA,
}
