"""Checks of ex01: from labelled text to batches. Random answers are judged by their properties."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, tensor
from torch.nn.utils.rnn import pad_sequence

from sft_teach.checks.core import Case, Mistake, Seen, Task, fresh


# --- looking at random answers ------------------------------------------------------------------
def refusal(function: Callable, arguments: tuple) -> str:
    """A probe for bad arguments: the exception's name, or that there was none."""
    try:
        function(*arguments)
    except NotImplementedError:
        raise
    except ValueError:
        return "ValueError"
    except Exception as error:
        return type(error).__name__
    return "no error"


def says(words: str, anywhere: bool = False) -> Callable[[list[Seen]], bool]:
    """Predicate of a mistake: the first broken rule that a probe reports, or any, has these words.

    A probe reports a list of the rules that are broken, or a str if the kind of result is wrong.
    """

    def when(seen: list[Seen]) -> bool:
        for one in seen:
            told = [one.value] if isinstance(one.value, str) else one.value
            if one.error is None and told and all(isinstance(text, str) for text in told):
                if any(words in text for text in told):
                    return True
                if not anywhere:
                    return False
            elif one.error is not None and not anywhere:
                return False
        return False

    return when


PAIRS = "a pair where an index belongs"
NONES = "None where an index belongs"
NOT_INTS = "not lists of Python ints"


def not_ints(lists: Sequence[list]) -> str:
    """What stands where an index belongs; empty if there are ints only."""
    for value in (value for values in lists for value in values):
        if isinstance(value, tuple):
            return PAIRS
        if value is None:
            return NONES
        if isinstance(value, Tensor) or type(value).__module__ == "numpy":
            return NOT_INTS
        if type(value) is not int:
            return f"a {type(value).__name__} where an index belongs"
    return ""


# --- stratified_split ---------------------------------------------------------------------------
PARTS = ("train", "validation", "test")
TWELVE = [0] * 8 + [1] * 4
HALVES = [0] * 10 + [1] * 6 + [2] * 14
OTHER_NUMBERS = [9] * 8 + [4] * 4
RARE = [5, 9, 5, 2, 5, 9, 5, 5, 9, 5, 5, 9, 5, 5, 9]  # 9 of class 5, 5 of class 9, 1 of class 2
LONG = [0] * 100 + [1] * 100
MIXED = [0, 1] * 100

NOT_LISTS = "not a tuple of three lists"
ONE_OF_EACH = "every index in exactly one of the three parts"


def _kind_of_split(parts: Any) -> str:
    """What is wrong with the kind of a split; empty if nothing is."""
    if type(parts) is not tuple or len(parts) != 3 or any(type(p) is not list for p in parts):
        return NOT_LISTS
    return not_ints(parts)


def class_counts(function: Callable, arguments: tuple) -> Any:
    """Where a part holds another number of a class than it should."""
    labels, fractions, seed = arguments
    parts = function(list(labels), fractions, seed)
    if wrong := _kind_of_split(parts):
        return wrong
    broken = []
    for name, part, right in zip(PARTS, parts, _split(labels, fractions, seed), strict=True):
        counts = Counter(labels[i] for i in part if 0 <= i < len(labels))
        wanted = Counter(labels[i] for i in right)
        broken += [
            f"{name} holds {counts[c]} of class {c}, not {wanted[c]}"
            for c in sorted(set(labels))
            if counts[c] != wanted[c]
        ]
    return broken


def membership(function: Callable, arguments: tuple) -> Any:
    """Broken rules about which index is where."""
    n = len(arguments[0])
    parts = function(*arguments)
    if wrong := _kind_of_split(parts):
        return wrong
    times = Counter(i for part in parts for i in part)
    broken = []
    if any(not 0 <= i < n for i in times):
        broken.append("an index that does not exist")
    if any(count > 1 for count in times.values()):
        broken.append("an index is used twice")
    if any(i not in times for i in range(n)):
        broken.append("an index is in no part")
    return broken


def order_and_seed(function: Callable, arguments: tuple) -> Any:
    """Broken rules about order and seed, over four seeds."""
    labels, fractions, _ = arguments
    splits = [function(list(labels), fractions, seed) for seed in (0, 1, 2, 3)]
    again = function(list(labels), fractions, 0)
    for parts in splits:
        if wrong := _kind_of_split(parts):
            return wrong
    counts = [[sorted(Counter(labels[i] for i in p).items()) for p in parts] for parts in splits]
    held_out = [[sorted(p) for p in parts[1:]] for parts in splits]
    broken = []
    if again != splits[0]:
        broken.append("the same seed gives two results")
    elif any(c != counts[0] for c in counts):
        broken.append("the class counts change with the seed")
    elif all(parts == splits[0] for parts in splits):
        broken.append("all seeds give the same result")
    elif any(held_out[0][k] == held_out[s][k] for k in (0, 1) for s in (1, 2, 3)):
        broken.append("the same rows are held out with every seed")
    for name, part in zip(PARTS, splits[0], strict=True):
        classes = [labels[i] for i in part]
        if part == sorted(part):
            broken.append(f"{name} is in ascending order")
        elif sum(a != b for a, b in zip(classes, classes[1:], strict=False)) <= 1:
            broken.append(f"{name} holds all of one class before the other")
    return broken


def _split(
    labels: Sequence[int],
    fractions: Sequence[float],
    seed: int,
    counts: Callable = lambda fractions, n: (round(fractions[1] * n), round(fractions[2] * n)),
    check: str = "sum negative class",
    tolerance: float = 1e-9,
) -> tuple[list[int], list[int], list[int]]:
    """A split with the held-out counts of a class, and the errors named in `check`."""
    if "negative" in check and min(fractions) < 0:
        raise ValueError("negative fraction")
    if "sum" in check and abs(sum(fractions) - 1) > tolerance:
        raise ValueError("the fractions do not sum to 1")
    rng = random.Random(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    total = Counter(labels)
    held = {c: counts(fractions, n) for c, n in total.items()}
    if "total" in check and sum(a + b for a, b in held.values()) > len(labels):
        raise ValueError("more held out than there is")
    for c in sorted(total):
        rows = [i for i, label in enumerate(labels) if label == c]
        rng.shuffle(rows)
        a, b = held[c]
        if "class" in check and a + b > len(rows):
            raise ValueError("more held out than the class has")
        if "reach" in check and a + b >= len(rows):
            raise ValueError("nothing left for train")
        parts[0].extend(rows[a + b :])
        parts[1].extend(rows[:a])
        parts[2].extend(rows[a : a + b])
    for part in parts:
        rng.shuffle(part)
    return parts


def _with_counts(counts: Callable) -> Callable:
    return lambda labels, fractions, seed: _split(labels, fractions, seed, counts)


def _with_right_errors(counts: Callable) -> Callable:
    """The same, but with errors by the right counts."""

    def wrong(labels, fractions, seed):
        _split(labels, fractions, seed)
        return _split(labels, fractions, seed, counts, check="")

    return wrong


def _without_errors(counts: Callable) -> Callable:
    return lambda labels, fractions, seed: _split(labels, fractions, seed, counts, check="")


def _with_checks(check: str, tolerance: float = 1e-9) -> Callable:
    return lambda labels, fractions, seed: _split(
        labels, fractions, seed, check=check, tolerance=tolerance
    )


def _rounded_train(fractions: Sequence[float], n: int) -> tuple[int, int]:
    train, validation = round(fractions[0] * n), round(fractions[1] * n)
    return validation, n - train - validation


def _cuts(fractions: Sequence[float], n: int) -> tuple[int, int]:
    first, second = round(fractions[0] * n), round((fractions[0] + fractions[1]) * n)
    return second - first, n - second


def _cut_in_order(labels, fractions, seed):
    rows, n = list(range(len(labels))), len(labels)
    a, b = round(fractions[1] * n), round(fractions[2] * n)
    return rows[a + b :], rows[:a], rows[a : a + b]


def _whole_counts(labels, fractions, seed):
    share = [round(f * len(labels)) // len(set(labels)) for f in fractions]
    return _split(labels, fractions, seed, lambda f, n: (share[1], share[2]))


def _numbered(labels, fractions, seed):
    """Takes the classes to be 0, 1, 2, ...; rows of others are lost."""
    parts, number = _split(labels, fractions, seed), len(set(labels))
    return tuple([i for i in part if labels[i] < number] for part in parts)


def _refusing(bad: Callable) -> Callable:
    """The right split, but an error where `bad(parts, labels, fractions)`."""

    def wrong(labels, fractions, seed):
        parts = _split(labels, fractions, seed)
        if bad(parts, labels, fractions):
            raise ValueError("refused")
        return parts

    return wrong


def _lacks_a_class(parts, labels, fractions) -> bool:
    """Whether validation or test holds no row of some class."""
    return any({labels[i] for i in part} != set(labels) for part in parts[1:])


def _rest(f: Sequence[float], n: int) -> tuple[int, int]:
    """In two steps: the second fraction is taken of what the first step left."""
    first = round(f[1] * n)
    return first, round(f[2] * (n - first))


def _share_of_rest(f: Sequence[float], n: int) -> tuple[int, int]:
    """In two steps: the second fraction is made larger for that, and rounded once more."""
    first = round(f[1] * n)
    return first, round(f[2] / (1 - f[1]) * (n - first))


def _test_first(counts: Callable) -> Callable:
    """The same with test as the first step."""
    return lambda f, n: counts((f[0], f[2], f[1]), n)[::-1]


def _not_mapped_back(seen: list[Seen]) -> bool:
    broken = seen[4].value if len(seen) > 4 else None
    return isinstance(broken, list) and {"an index is used twice", "an index is in no part"} <= {
        text for text in broken if isinstance(text, str)
    }


OF_THE_REST = (
    "the part that is split off second takes its fraction of the rows that the first one left. A "
    "fraction is of the whole class: round(fraction * count)."
)
ROUNDED_TWICE = (
    "the part that is split off second gets a count that was rounded from what the first one left, "
    "and may be off by one. Both counts are of the whole class: round(fraction * count)."
)
EMPTY_REFUSED = (
    "an empty part is refused. It is none of the errors of the list: a fraction may be 0, and so "
    "may a rounded count."
)
REFUSED = "a ValueError, and not a split"
STRATIFIED_SPLIT = Task(
    reference=_split,
    cases=[
        Case(
            fresh(TWELVE, (0.5, 0.25, 0.25), 0),
            "of each class half in train, a quarter in validation, a quarter in test",
            class_counts,
        ),
        Case(
            fresh(OTHER_NUMBERS, (0.5, 0.25, 0.25), 0),
            "the same for the classes 9 and 4: any whole number may be a label",
            class_counts,
        ),
        Case(
            fresh(RARE, (0.7, 0.2, 0.1), 0),
            "of each class round(0.2 * count) in validation, round(0.1 * count) in test",
            class_counts,
        ),
        Case(
            fresh(HALVES, (0.5, 0.25, 0.25), 0),
            "of each class round(0.25 * count) in validation and in test, Python's round",
            class_counts,
        ),
        Case(fresh(HALVES, (0.5, 0.25, 0.25), 0), ONE_OF_EACH, membership),
        Case(
            fresh([0] * 4 + [1] * 2, (0.0, 0.5, 0.5), 0),
            "a train part may be empty: 2 and 1 of the classes in each of the others",
            class_counts,
        ),
        Case(
            fresh([0] * 4, (0.5, 0.5, 0.0), 0),
            "a fraction may be 0, and a part empty: 2 in train, 2 in validation",
            class_counts,
        ),
        Case(
            fresh([0] * 3, (0.8, 0.1, 0.1), 0),
            "all 3 in train: round(0.3) is 0, and a part may be empty",
            class_counts,
        ),
        Case(
            fresh(LONG, (0.6, 0.2, 0.2), 0),
            "shuffled parts that follow from the seed; nothing broken: []",
            order_and_seed,
            shown="100 zeros and 100 ones, (0.6, 0.2, 0.2), several seeds",
        ),
        Case(
            fresh(MIXED, (0.6, 0.2, 0.2), 0),
            "shuffled parts that follow from the seed; nothing broken: []",
            order_and_seed,
            shown="0, 1, 0, 1, ... (200 labels), (0.6, 0.2, 0.2), several seeds",
        ),
        Case(fresh(TWELVE, (0.5, 0.25, 0.5), 0), REFUSED, refusal),
        Case(fresh(TWELVE, (0.5, 0.25, 0.2), 0), REFUSED, refusal),
        Case(fresh(TWELVE, (0.5, 0.25, 0.2500001), 0), REFUSED, refusal),
        Case(
            fresh(TWELVE, (0.5, 0.25, 0.25 + 1e-11), 0),
            "a split: the sum is 1 within the tolerance of 1e-9",
            class_counts,
        ),
        Case(fresh([0] * 4, (0.6, 0.5, -0.1), 0), REFUSED, refusal),
        Case(fresh([0], (-0.1, 0.6, 0.5), 0), REFUSED, refusal),
        Case(fresh([0] * 3, (0.0, 0.5, 0.5), 0), REFUSED, refusal),
        Case(fresh([0] * 5 + [1] * 3, (0.0, 0.5, 0.5), 0), REFUSED, refusal),
    ],
    mistakes=[
        Mistake(
            "the result must be a tuple of three lists: train, validation and test.",
            when=says(NOT_LISTS),
        ),
        Mistake(
            "the indices must be Python ints. NumPy's and torch's numbers are not: turn them into "
            "a list with .tolist().",
            when=says(NOT_INTS),
        ),
        Mistake(
            "labels other than 0, 1, 2, ... end in an error. A label may be any whole number: go "
            "through those that occur.",
            when=lambda seen: len(seen) > 1 and seen[0].value == [] and bool(seen[1].error),
        ),
        Mistake(
            "the classes are taken to be 0, 1, 2, ...; rows with other labels are lost. A label "
            "may be any whole number: go through those that occur.",
            _numbered,
        ),
        Mistake(
            "a class that is too small to have a row in each part is refused, or ends in an error. "
            "Its rounded counts may be 0; its rows go to train then.",
            _refusing(_lacks_a_class),
        ),
        Mistake(
            "a class that is too small to have a row in each part is refused, or ends in an error. "
            "Its rounded counts may be 0; its rows go to train then.",
            when=lambda seen: (
                len(seen) > 13
                and bool(seen[2].error)
                and all(seen[i].value == [] for i in (0, 1, 3, 13))
            ),
        ),
        Mistake(EMPTY_REFUSED, _refusing(lambda parts, labels, f: not all(parts))),
        Mistake(EMPTY_REFUSED, _refusing(lambda parts, labels, f: not all(parts[1:]))),
        Mistake(
            "a fraction of 0 is refused. It is none of the errors of the list: only a negative one "
            "is.",
            _refusing(lambda parts, labels, fractions: min(fractions) <= 0),
        ),
        Mistake(
            "bad input is not refused. The list of errors is part of the task: for fractions that "
            "are negative or do not sum to 1, and for a class that is too small.",
            _with_checks(""),
        ),
        Mistake(
            "fractions whose sum is off by 0.0000001 are taken. The tolerance is 1e-9.",
            _with_checks("sum negative class", 1e-6),
        ),
        Mistake(
            "fractions that do not sum to 1 are taken without complaint. Raise a ValueError.",
            _with_checks("negative class"),
        ),
        Mistake(
            "fractions that sum to 1 are refused, because floating point makes the sum "
            "0.9999999999999999. Allow a difference of 1e-9.",
            _with_checks("sum negative class", 0.0),
        ),
        Mistake(
            "a negative fraction is taken as long as the sum is 1. Raise a ValueError, also where "
            "its count would round to 0.",
            _with_checks("sum class"),
        ),
        Mistake(
            "the held-out counts are compared with the whole list. No single class may be asked "
            "for more than it has: compare class by class.",
            _with_checks("sum negative total"),
        ),
        Mistake(
            "where the rounded counts hold out more than a class has, something is returned all "
            "the same (half of 3 is 2, twice). Raise a ValueError.",
            _with_checks("sum negative"),
        ),
        Mistake(
            "a class may be held out completely: an error is due only where validation and test "
            "ask for more than it has.",
            _with_checks("sum negative class reach"),
        ),
        Mistake(
            "these are labels, not their positions. What is asked is which rows go where: return "
            "positions in the list.",
            lambda labels, fractions, seed: tuple(
                [labels[i] for i in part] for part in _split(labels, fractions, seed)
            ),
        ),
        Mistake(
            "validation and test are swapped, in the fractions or in the result. The order is "
            "train, validation, test.",
            _with_counts(lambda f, n: (round(f[2] * n), round(f[1] * n))),
        ),
        Mistake(
            "train and test are swapped, in the fractions or in the result. The order is train, "
            "validation, test.",
            _with_counts(lambda f, n: (round(f[1] * n), n - round(f[2] * n) - round(f[1] * n))),
        ),
        Mistake(
            "the list is cut as it stands, without looking at the classes. Draw from each class "
            "separately.",
            _cut_in_order,
        ),
        Mistake(
            "the held-out counts are cut down to whole numbers (int or //). They are rounded: 1.5 "
            "becomes 2.",
            _with_counts(lambda f, n: (int(f[1] * n), int(f[2] * n))),
        ),
        Mistake(
            "the held-out counts are always rounded up. Python's round goes to the nearest whole "
            "number.",
            _with_counts(lambda f, n: (-int(-f[1] * n // 1), -int(-f[2] * n // 1))),
        ),
        Mistake(
            "a half is rounded up. Python's round takes the nearest even number: 2.5 becomes 2, "
            "and 3.5 becomes 4.",
            _with_counts(lambda f, n: (int(f[1] * n + 0.5), int(f[2] * n + 0.5))),
        ),
        Mistake(
            "train and validation are rounded, and test takes the rest. The rest belongs to train: "
            "round the two that are held out.",
            _with_counts(_rounded_train),
        ),
        Mistake(
            "the places to cut are rounded, not the counts. round(fraction * count) is wanted for "
            "validation and for test separately.",
            _with_counts(_cuts),
        ),
        Mistake(
            "the counts were made from the whole list, and the same taken from each class. A class "
            "gives its own share: round(fraction * count of that class).",
            _whole_counts,
        ),
        *(
            Mistake(hint, errors(order(counts)))
            for hint, counts in ((OF_THE_REST, _rest), (ROUNDED_TWICE, _share_of_rest))
            for order in (lambda counts: counts, _test_first)
            for errors in (_with_counts, _with_right_errors, _without_errors)
        ),
        Mistake(
            "some indices are in two parts and others in none. If you split in two steps: the "
            "second step counts its positions in the shortened list, and they must be translated "
            "back into positions in `labels`.",
            when=_not_mapped_back,
        ),
        Mistake(
            "an index is in no part. Train takes all that is left of a class: do not round its "
            "count as well.",
            when=says("in no part", anywhere=True),
        ),
        Mistake(
            "an index is in two parts: a test row that was trained on is a leak. Cut the parts one "
            "after the other from the same shuffled rows.",
            when=says("used twice", anywhere=True),
        ),
        Mistake(
            "the result is not the same twice with the same seed. Make one generator from the seed "
            "and draw everything from it.",
            when=says("same seed gives two results"),
        ),
        Mistake(
            "not stratified: the counts of the classes change with the seed. Draw from each class "
            "separately.",
            when=says("class counts change", anywhere=True),
        ),
        Mistake(
            "the seed makes no difference. Shuffle each class's rows with a generator made from "
            "it.",
            when=says("all seeds give the same"),
        ),
        Mistake(
            "the same rows are held out with every seed; only their order changes. Shuffle each "
            "class's rows before you cut, not only the parts afterwards.",
            when=says("same rows are held out"),
        ),
        Mistake(
            "a part is in ascending order. Shuffle the parts at the end.",
            when=says("in ascending order"),
        ),
        Mistake(
            "all of one class comes before the other. Shuffle every part once more when all "
            "classes are in it, or the first batches see one class only.",
            when=says("holds all of one class"),
        ),
    ],
)

# --- truncate_head_tail -------------------------------------------------------------------------
TEN = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def _truncate(ids: list[int], max_length: int, head: int) -> list[int]:
    if not 0 <= head <= max_length:
        raise ValueError(f"head={head} is not in 0..{max_length}")
    return _cut(ids, max_length, head)


def _cut(ids: list[int], max_length: int, head: int) -> list[int]:
    """Without the check of `head`."""
    if len(ids) <= max_length:
        return list(ids)
    return ids[:head] + ids[len(ids) - (max_length - head) :]


def _if_long(ids: list[int], max_length: int, wrong: Callable[[], list[int]]) -> list[int]:
    """Short lists as they are, others by a wrong rule."""
    return list(ids) if len(ids) <= max_length else wrong()


def _late_check(ids: list[int], max_length: int, head: int) -> list[int]:
    return list(ids) if len(ids) <= max_length else _truncate(ids, max_length, head)


def _one_sided(low: bool) -> Callable:
    def wrong(ids: list[int], max_length: int, head: int) -> list[int]:
        if head < 0 if low else head > max_length:
            raise ValueError("head")
        return _cut(ids, max_length, head)

    return wrong


def _too_strict(ids: list[int], max_length: int, head: int) -> list[int]:
    if not 0 < head < max_length:
        raise ValueError("head")
    return _cut(ids, max_length, head)


def _minus_zero(ids: list[int], max_length: int, head: int) -> list[int]:
    return _if_long(ids, max_length, lambda: ids[:head] + ids[-(max_length - head) :])


def _minus_zero_checked(ids: list[int], max_length: int, head: int) -> list[int]:
    _truncate(ids, max_length, head)
    return _minus_zero(ids, max_length, head)


MINUS_ZERO = (
    "when the head takes everything, the whole list is appended: ids[-0:] is the whole list, "
    "because -0 is 0. Count the tail's start from the front."
)


def _by_first_place(ids: list[int], max_length: int, head: int) -> list[int]:
    """list.index gives the first place of an id that comes again."""
    if len(ids) <= max_length:
        return list(ids)
    start = len(ids) - (max_length - head)
    return [x for x in ids if ids.index(x) < head or ids.index(x) >= start]


def _minus_zero_of_rest(ids: list[int], max_length: int, head: int) -> list[int]:
    return _if_long(ids, max_length, lambda: ids[:head] + ids[head:][-(max_length - head) :])


def _checked(rule: Callable) -> Callable:
    """The right errors, and a wrong rule."""

    def wrong(ids: list[int], max_length: int, head: int) -> list[int]:
        _truncate(ids, max_length, head)
        return rule(ids, max_length, head)

    return wrong


def _refusing_head(bad: Callable[[int, int], bool]) -> Callable:
    """The right errors, and one too many."""

    def wrong(ids: list[int], max_length: int, head: int) -> list[int]:
        if bad(max_length, head):
            raise ValueError("head")
        return _truncate(ids, max_length, head)

    return wrong


REST_MINUS_ZERO = (
    "when the head takes everything, the whole rest is appended: [-0:] is the whole list, because "
    "-0 is 0. Count the tail's start from the front."
)
HEAD_TWO = "the first 2 ids, then the last 3: five in all"
TRUNCATE = Task(
    reference=_truncate,
    cases=[
        Case(fresh([10, 11, 12], 5, 2), "unchanged: the list is short enough"),
        Case(fresh(TEN, 5, 2), HEAD_TWO),
        Case(fresh(TEN[:5], 5, 2), "unchanged: the list is just short enough"),
        Case(fresh(TEN[:6], 5, 2), HEAD_TWO),
        Case(fresh(TEN, 8, 1), "the first id, then the last 7"),
        Case(fresh([5, 7, 5, 5, 8, 5], 3, 1), "[5, 8, 5]: an id may come more than once"),
        Case(fresh(TEN, 4, 0), "the last 4 ids"),
        Case(fresh(TEN, 4, 4), "the first 4 ids and nothing else"),
        Case(fresh([], 4, 2), "an empty list"),
        Case(fresh(TEN, 0, 0), "an empty list"),
        Case(fresh([10, 11], 3, 3), "unchanged: the list is short enough"),
        Case(fresh(TEN, 4, 5), "a ValueError: head is above max_length", raises=ValueError),
        Case(fresh(TEN, 4, -1), "a ValueError: head is negative", raises=ValueError),
        Case(fresh([10, 11], 4, 5), "a ValueError: head is above max_length", raises=ValueError),
        Case(fresh([10, 11], 4, -1), "a ValueError: head is negative", raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "head = 0 and head = max_length are refused, but both are allowed: all from one end.",
            _too_strict,
        ),
        Mistake(
            "head = max_length is refused, but it is allowed: all from the front.",
            _refusing_head(lambda m, h: h == m),
        ),
        Mistake(
            "head = 0 is refused, but it is allowed: all from the end.",
            _refusing_head(lambda m, h: h == 0),
        ),
        Mistake(
            "max_length = 0 is refused. The result is an empty list then.",
            _refusing_head(lambda m, h: m == 0),
        ),
        Mistake(MINUS_ZERO, _minus_zero_checked),
        Mistake(REST_MINUS_ZERO, _checked(_minus_zero_of_rest)),
        Mistake(REST_MINUS_ZERO, _minus_zero_of_rest),
        Mistake(
            "ids that come more than once are mixed up: list.index knows the first place only. "
            "Decide by positions, not by ids.",
            _checked(_by_first_place),
        ),
        Mistake(
            "ids that come more than once are mixed up: list.index knows the first place only. "
            "Decide by positions, not by ids.",
            _by_first_place,
        ),
        Mistake(
            "a wrong `head` is found only where the list is too long. Raise the ValueError for "
            "short lists too: look at `head` first.",
            _late_check,
        ),
        Mistake("a negative `head` is not refused. Raise a ValueError.", _one_sided(False)),
        Mistake("a `head` above max_length is not refused. Raise a ValueError.", _one_sided(True)),
        Mistake(
            "a `head` outside 0..max_length is not refused. Raise a ValueError.",
            _cut,
        ),
        Mistake(
            "a `head` is refused because the list is shorter than it. It must be in 0..max_length; "
            "how long the list is does not matter.",
            lambda ids, m, h: _cut(ids, m, h if 0 <= h <= min(m, len(ids)) else int("head")),
        ),
        Mistake(MINUS_ZERO, _minus_zero),
        Mistake(
            "only the head is kept. The end of the list is missing.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:m]),
        ),
        Mistake(
            "only the tail is kept. The beginning of the list is missing.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[len(ids) - m :]),
        ),
        Mistake(
            "the list comes back as it is, however long.",
            lambda ids, m, h: list(ids),
        ),
        Mistake(
            "the tail is `head` ids long. It fills what the head leaves of max_length.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:h] + ids[len(ids) - h :]),
        ),
        Mistake(
            "head and tail are swapped: `head` ids come from the front.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[: m - h] + ids[len(ids) - h :]),
        ),
        Mistake(
            "the tail comes before the head. Keep the order of the text.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[len(ids) - (m - h) :] + ids[:h]),
        ),
        Mistake(
            "the tail is as long as max_length, so that head and tail together are longer than "
            "allowed. It fills what the head leaves.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:h] + ids[len(ids) - m :]),
        ),
        Mistake(
            "the ids after the head are the next ones, not the last ones.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:h] + ids[h:m]),
        ),
        Mistake(
            "the middle is cut out too late or too early: the tail starts at max_length - head. "
            "Count it from the end of the list.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:h] + ids[m - h :]),
        ),
        Mistake(
            "the tail is one id too short.",
            lambda ids, m, h: _if_long(
                ids, m, lambda: ids[:h] + ids[len(ids) - max(m - h - 1, 0) :]
            ),
        ),
        Mistake(
            "the tail is one id too long.",
            lambda ids, m, h: _if_long(ids, m, lambda: ids[:h] + ids[len(ids) - (m - h) - 1 :]),
        ),
        Mistake(
            "a list that is short enough is changed as well. Look at its length first.",
            lambda ids, m, h: ids[:h] + ids[max(len(ids) - (m - h), 0) :],
        ),
    ],
)

# --- pad_batch ----------------------------------------------------------------------------------
RAGGED = [[7, 8], [9, 6, 5, 4], [3]]
HOLDS_PAD = [[5, 0, 7], [4], [0, 2], [3, 0]]


def _pad(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """torch's own padding; the mask is padded ones."""
    rows = [tensor(row, dtype=torch.int64) for row in sequences]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask


def _pad_to(sequences: list[list[int]], pad_id: int, width: int) -> tuple[Tensor, Tensor]:
    rows = [(row + [pad_id] * width)[:width] for row in sequences]
    masks = [([1] * len(row) + [0] * width)[:width] for row in sequences]
    return tensor(rows, dtype=torch.int64), tensor(masks, dtype=torch.int64)


def _pad_left(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    rows = [[pad_id] * (width - len(row)) + row for row in sequences]
    masks = [[0] * (width - len(row)) + [1] * len(row) for row in sequences]
    return tensor(rows, dtype=torch.int64), tensor(masks, dtype=torch.int64)


def _no_dtype(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    rows = [row + [pad_id] * (width - len(row)) for row in sequences]
    masks = [[1] * len(row) + [0] * (width - len(row)) for row in sequences]
    return tensor(rows), tensor(masks)


def _mask_from_sum(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Everything up to the last id that is not padding."""
    ids, _ = _pad(sequences, pad_id)
    differs = (ids != pad_id).long()
    return ids, differs.flip(-1).cummax(-1).values.flip(-1) if differs.numel() else differs


def shapes(function: Callable, arguments: tuple) -> Any:
    """The shapes of empty tensors, and their types where rows with tokens give another type."""
    parts, others = function(*arguments), function([[7, 8], [9]], 0)
    for result in (parts, others):
        if type(result) is not tuple or not all(isinstance(part, Tensor) for part in result):
            return "not a tuple of two tensors"
    return [
        f"shape {tuple(part.shape)}" + ("" if part.dtype == other.dtype else f" of {part.dtype}")
        for part, other in zip(parts, others, strict=False)
    ]


PAD_BATCH = Task(
    reference=_pad,
    cases=[
        Case(fresh([[7, 8, 9]], 0), "one row, nothing to pad: the ids, and a mask of ones"),
        Case(fresh([[7, 8], [9]], 0), "[[7, 8], [9, 0]] with the mask [[1, 1], [1, 0]]"),
        Case(fresh(RAGGED, 0), "rows of 4, the real tokens first, then padding"),
        Case(fresh(RAGGED, 2), "the padding is pad_id, here 2; in the mask it is 0"),
        Case(
            fresh(HOLDS_PAD, 0),
            "a real token counts, also where it equals pad_id: mask rows 111, 100, 110, 110",
        ),
        Case(fresh([[2], []], 0), "an empty row is padding only"),
        Case(fresh([[], []], 0), "two tensors of shape (2, 0), int64 as ever", shapes),
    ],
    mistakes=[
        Mistake(
            "ids and mask are swapped: return the ids first.",
            lambda s, p: _pad(s, p)[::-1],
        ),
        Mistake(
            "the mask is computed from the ids, so a real token that equals pad_id counts as "
            "padding. The lengths know which tokens are real.",
            lambda s, p: (_pad(s, p)[0], (_pad(s, p)[0] != p).long()),
        ),
        Mistake(
            "the mask is computed from the ids: a real token at the end of a row that equals "
            "pad_id counts as padding. The lengths know which tokens are real.",
            _mask_from_sum,
        ),
        Mistake(
            "the mask is computed from the ids and compares with 0. What is padding does not "
            "depend on any id: use the lengths.",
            lambda s, p: (_pad(s, p)[0], (_pad(s, p)[0] != 0).long()),
        ),
        Mistake(
            "padded on the left. The real tokens come first, the padding after them.",
            _pad_left,
        ),
        Mistake(
            "the padding is always 0. Use the argument pad_id.",
            lambda s, p: (_pad(s, 0)[0], _pad(s, p)[1]),
        ),
        Mistake(
            "the padding of the mask is pad_id as well. In the mask, padding is 0 whatever the id "
            "is.",
            lambda s, p: (_pad(s, p)[0], _pad(s, p)[1] + (1 - _pad(s, p)[1]) * p),
        ),
        Mistake(
            "the mask is inverted: 1 on real tokens, 0 on padding.",
            lambda s, p: (_pad(s, p)[0], 1 - _pad(s, p)[1]),
        ),
        Mistake(
            "the mask is 1 everywhere. It must be 0 on padding.",
            lambda s, p: (_pad(s, p)[0], torch.ones_like(_pad(s, p)[1])),
        ),
        Mistake(
            "cut to the shortest row. Nothing is cut here: pad to the longest one.",
            lambda s, p: _pad_to(s, p, min(map(len, s))),
        ),
        Mistake(
            "as wide as the first row. Pad to the longest row of the batch.",
            lambda s, p: _pad_to(s, p, len(s[0])),
        ),
        Mistake(
            "one column too many: every row ends in padding. The longest row needs none.",
            lambda s, p: _pad_to(s, p, max(map(len, s)) + 1),
        ),
        Mistake(
            "the shape is (longest, batch). One text is one row: batch first.",
            lambda s, p: tuple(part.T.contiguous() for part in _pad(s, p)),
        ),
        Mistake(
            "right, but for a batch of empty rows the tensors are float32: with no number in it, "
            "torch cannot tell the type. Say dtype=torch.int64.",
            _no_dtype,
        ),
        Mistake(
            "empty rows are left out. Each sequence is a row, also one without tokens.",
            lambda s, p: _pad([row for row in s if row] or s, p),
        ),
    ],
)

# --- length_grouped_batches ---------------------------------------------------------------------
SIX = [3, 5, 9, 4, 7, 8]


def _spread(n: int, longest: int = 400) -> list[int]:
    """Lengths from 1 to `longest`, most of them short, in a fixed random order."""
    rng = random.Random(n)
    return [1 + int(longest * rng.random() ** 2) for _ in range(n)]


NOT_BATCHES = "not a list of lists"
AS_IT_STANDS = "neighbours in the list as it stands share a batch"
RANKS = "the numbers are ranks, not positions"


def padded(batches: list[list[int]], lengths: list[int]) -> int:
    """Computed places: batch length x longest member, summed."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def allowed(lengths: list[int], batch_size: int) -> float:
    """1.05 x the larger of what sorting up and sorting down gives."""
    up = sorted(range(len(lengths)), key=lengths.__getitem__)
    plans = [
        [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for order in (up, up[::-1])
    ]
    return 1.05 * max(padded(plan, lengths) for plan in plans)


def _kind_of_batches(batches: Any) -> str:
    if type(batches) is not list or any(type(batch) is not list for batch in batches):
        return NOT_BATCHES
    return not_ints(batches)


def batching(function: Callable, arguments: tuple) -> Any:
    """Broken rules about one list of batches."""
    lengths, size, _ = arguments
    batches = function(*arguments)
    if wrong := _kind_of_batches(batches):
        return wrong
    times = Counter(i for batch in batches for i in batch)
    broken = []
    if any(not 0 <= i < len(lengths) for i in times):
        return ["an index that does not exist"]
    if any(count > 1 for count in times.values()):
        broken.append("an index comes twice")
    if any(i not in times for i in range(len(lengths))):
        broken.append("an index is missing")
    if any(not batch for batch in batches):
        return [*broken, "an empty batch"]
    if any(len(batch) > size for batch in batches):
        broken.append("a batch is longer than batch_size")
    if sum(len(batch) < size for batch in batches) > 1:
        broken.append("more than one batch is shorter than batch_size")
    if not broken and (cost := padded(batches, lengths)) > (limit := allowed(lengths, size)):
        broken.append(f"{cost:,} computed places, at most {int(limit):,} are allowed")
        broken += _misread(batches, lengths, size)
    return broken


def _misread(batches: list[list[int]], lengths: list[int], size: int) -> list[str]:
    """What else than positions in `lengths` the numbers seem to be; empty if nothing."""
    found = {frozenset(batch) for batch in batches}
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ranks = sorted(range(len(lengths)), key=order.__getitem__)
    rows = {AS_IT_STANDS: list(range(len(lengths))), RANKS: ranks}
    return [
        name
        for name, row in rows.items()
        if found == {frozenset(row[i : i + size]) for i in range(0, len(row), size)}
    ]


def _says_twice(kind: str) -> Callable[[list[Seen]], bool]:
    """Whether both of the first two cases say so: a single one may be chance."""
    return lambda seen: (
        len(seen) > 1 and all(isinstance(one.value, list) and kind in one.value for one in seen[:2])
    )


def batch_order(function: Callable, arguments: tuple) -> Any:
    """Broken rules about the order of batches, over four seeds."""
    lengths, size, _ = arguments
    runs = [function(list(lengths), size, seed) for seed in (0, 1, 2, 3)]
    again = function(list(lengths), size, 0)
    for batches in runs:
        if wrong := _kind_of_batches(batches):
            return wrong
    longest = [[max((lengths[i] for i in batch), default=0) for batch in run] for run in runs]
    broken = []
    if again != runs[0]:
        broken.append("the same seed gives two results")
    if any(order == sorted(order) for order in longest):
        broken.append("the batches come from short to long")
    elif any(order == sorted(order, reverse=True) for order in longest):
        broken.append("the batches come from long to short")
    elif all(order == longest[0] for order in longest):
        broken.append("all seeds give the same order of batches")
    return broken


def _grouped(lengths: list[int], batch_size: int, seed: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    random.Random(seed).shuffle(batches)
    return batches


GROUPED = "few computed places, every index once, full batches; nothing broken: []"
ORDERED = "the seed shuffles the batches; nothing broken: []"
LENGTH_GROUPED = Task(
    reference=_grouped,
    cases=[
        Case(fresh(SIX, 2, 0), GROUPED, batching),
        Case(fresh(SIX[:5], 2, 0), GROUPED, batching),
        Case(fresh(SIX, 8, 0), "one batch of all six; nothing broken: []", batching),
        Case(fresh([4] * 7, 3, 0), GROUPED, batching),
        Case(
            fresh(_spread(96), 8, 1),
            GROUPED,
            batching,
            shown="96 lengths from 1 to 400, batch_size 8, seed 1",
        ),
        Case(
            fresh(_spread(163), 8, 2),
            GROUPED,
            batching,
            shown="163 lengths from 1 to 400, batch_size 8, seed 2",
        ),
        Case(
            fresh(_spread(163), 8, 0),
            ORDERED,
            batch_order,
            shown="163 lengths from 1 to 400, batch_size 8, several seeds",
        ),
    ],
    mistakes=[
        Mistake(
            "the result must be a list of batches, each batch a list of indices.",
            when=says(NOT_BATCHES),
        ),
        Mistake(
            "the indices must be Python ints. NumPy's and torch's numbers are not: turn them into "
            "a list with .tolist().",
            when=says(NOT_INTS),
        ),
        Mistake(
            "a batch holds pairs, where indices belong. What was needed for sorting goes out "
            "again: keep the index alone.",
            when=says(PAIRS),
        ),
        Mistake(
            "a batch holds None: the last one was filled up. It may be shorter than the others; "
            "leave the filling out.",
            when=says(NONES),
        ),
        Mistake(
            "the batches hold neighbours in the list as it stands. If you did sort: are these "
            "positions in the sorted list? A batch holds positions in `lengths`.",
            when=_says_twice(AS_IT_STANDS),
        ),
        Mistake(
            "these are ranks: each text's place in the sorted list, in the order of `lengths`. "
            "Sorting once by length gives positions; sorting those again gives ranks.",
            when=_says_twice(RANKS),
        ),
        Mistake(
            "a number that is no index: are these the lengths themselves? Batches hold positions "
            "in the list, sorted by the length that stands there.",
            when=says("does not exist"),
        ),
        Mistake(
            "an index comes more than once. Each text is used once per pass.",
            when=says("comes twice"),
        ),
        Mistake(
            "an index is missing: texts are lost, as when the last, shorter batch is dropped. Keep "
            "it.",
            when=says("is missing"),
        ),
        Mistake("there is an empty batch. Where does the cutting stop?", when=says("empty batch")),
        Mistake(
            "a batch is longer than batch_size.",
            when=says("longer than batch_size"),
        ),
        Mistake(
            "more than one batch is shorter than batch_size. Cut one sorted list from the front, "
            "so that only the last batch may be short.",
            when=says("more than one batch is shorter"),
        ),
        Mistake(
            "too much padding: long and short texts share a batch. Sort all of them by length "
            "before you cut, and shuffle nothing but whole batches after that.",
            when=says("computed places"),
        ),
        Mistake(
            "the result is not the same twice with the same seed. Draw from one generator made "
            "from the seed.",
            when=says("same seed gives two results"),
        ),
        Mistake(
            "the batches come from short to long: the model would see all short texts first, in "
            "every epoch. Shuffle the batches (not the texts in them) with the seed.",
            when=says("from short to long"),
        ),
        Mistake(
            "the batches come from long to short, whatever the seed. Shuffle the batches with it.",
            when=says("from long to short"),
        ),
        Mistake(
            "the seed makes no difference to the order of the batches. Make the generator from it.",
            when=says("all seeds give the same order"),
        ),
    ],
)

# --- majority_baseline --------------------------------------------------------------------------
TRAIN = [1, 1, 0, 1, 2]
TEST = [0, 1, 2, 1, 0, 1, 0, 0, 2]
TIED = [5, 3, 9, 12, 7, 9, 5, 3, 7, 2]  # 3, 5, 7 and 9 twice each
TIED_TEST = [9, 9, 9, 9, 7, 7, 7, 5, 5, 3, 2, 2, 2, 2, 2, 2]


def _tallest(train: list[int], pick: Callable = min) -> int:
    counts = Counter(train)
    return pick(c for c in counts if counts[c] == max(counts.values()))


def _share(label: int, labels: list[int]) -> float:
    return sum(value == label for value in labels) / len(labels)


def _majority(train_labels: list[int], test_labels: list[int]) -> float:
    if not train_labels or not test_labels:
        raise ValueError("no labels")
    return _share(_tallest(train_labels), test_labels)


def _of_majority(rule: Callable) -> Callable:
    """The right errors, and a wrong rule."""

    def wrong(train_labels: list[int], test_labels: list[int]) -> float:
        if not train_labels or not test_labels:
            raise ValueError("no labels")
        return rule(train_labels, test_labels)

    return wrong


def _silent(train_labels: list[int], test_labels: list[int]) -> float:
    if not train_labels or not test_labels:
        return 0.0
    return _majority(train_labels, test_labels)


def _half_silent(train_labels: list[int], test_labels: list[int]) -> float:
    return _majority(train_labels, test_labels) if test_labels else 0.0


def _nan_if_empty(train_labels: list[int], test_labels: list[int]) -> float:
    return _majority(train_labels, test_labels) if test_labels else float("nan")


def _another_error(seen: list[Seen]) -> bool:
    """Empty lists raise, but not all of them a ValueError."""
    errors = [one.error for one in seen]
    raised = not any(errors[:6]) and all(errors[6:]) and len(errors) == 8
    floats = all(type(one.value) is float for one in seen[:6])
    return raised and floats and not all(isinstance(error, ValueError) for error in errors[6:])


ANSWER_ONE = "the share of test labels that equal train's most frequent class"
MAJORITY = Task(
    reference=_majority,
    cases=[
        Case(fresh([1], [1]), "1.0: the only class is always right"),
        Case(fresh(TRAIN, TEST), ANSWER_ONE + " (that class is 1): 3 of 9"),
        Case(fresh([3, 3, 4], [4, 5, 4]), "0.0: the class does not occur in the test part"),
        Case(fresh([4, 4, 0, 4], [4, 0, 4, 4, 4, 1, 4]), ANSWER_ONE + " (that class is 4): 5 of 7"),
        Case(fresh(TIED, TIED_TEST), "of equally frequent classes the smallest label (3): 1 of 16"),
        Case(fresh([8, 1, 1, 8], [8, 8, 8, 1]), "the smallest label again (1): 1 of 4"),
        Case(fresh([], [0]), "a ValueError: there is nothing to count", raises=ValueError),
        Case(fresh([0], []), "a ValueError: there is nothing to be right on", raises=ValueError),
    ],
    mistakes=[
        Mistake(
            "an empty test part gives NaN, as if something had been measured. Raise a ValueError.",
            _nan_if_empty,
        ),
        Mistake(
            "an empty test part gives 0, as if something had been measured. Raise a ValueError.",
            _half_silent,
        ),
        Mistake(
            "an empty list gives 0, as if something had been measured. Raise a ValueError.",
            _silent,
        ),
        Mistake(
            "the most frequent class of the test part is used. That is peeking: a baseline may "
            "look at train only.",
            _of_majority(lambda a, b: _share(_tallest(b), b)),
        ),
        Mistake(
            "the accuracy on train. The class comes from train, the accuracy from test.",
            _of_majority(lambda a, b: _share(_tallest(a), a)),
        ),
        Mistake(
            "the number of right answers. Divide by the number of test labels.",
            _of_majority(lambda a, b: float(b.count(_tallest(a)))),
        ),
        Mistake(
            "divided by the number of train labels. The accuracy is a share of the test part.",
            _of_majority(lambda a, b: b.count(_tallest(a)) / len(a)),
        ),
        Mistake(
            "the share of wrong answers. Accuracy counts the right ones.",
            _of_majority(lambda a, b: 1 - _share(_tallest(a), b)),
        ),
        Mistake(
            "the class itself. What is asked is how often it is right on the test part.",
            _of_majority(lambda a, b: float(_tallest(a))),
        ),
        Mistake(
            "a percentage. An accuracy is a number from 0 to 1.",
            _of_majority(lambda a, b: 100 * _share(_tallest(a), b)),
        ),
        Mistake(
            "the rarest class is used, not the most frequent one.",
            _of_majority(lambda a, b: _share(min(set(a), key=a.count), b)),
        ),
        Mistake(
            "the largest label is used, not the most frequent one.",
            _of_majority(lambda a, b: _share(max(a), b)),
        ),
        Mistake(
            "of equally frequent classes the largest label is taken. The smallest is asked for.",
            _of_majority(lambda a, b: _share(_tallest(a, max), b)),
        ),
        Mistake(
            "of equally frequent classes the one that comes first in train is taken, so the order "
            "of the rows decides. The smallest label is asked for.",
            _of_majority(lambda a, b: _share(Counter(a).most_common(1)[0][0], b)),
        ),
        Mistake(
            "of equally frequent classes the one that comes last in train is taken. The smallest "
            "label is asked for.",
            _of_majority(lambda a, b: _share(Counter(a[::-1]).most_common(1)[0][0], b)),
        ),
        Mistake(
            "of equally frequent classes the one that a set names first is taken. A set has no "
            "order that you could count on; the smallest label is asked for.",
            _of_majority(lambda a, b: _share(max(set(a), key=a.count), b)),
        ),
        Mistake(
            "an empty list must raise a ValueError. Another error comes now: look at the lists "
            "before you compute.",
            when=_another_error,
        ),
    ],
)

TASKS = {
    "stratified_split": STRATIFIED_SPLIT,
    "truncate_head_tail": TRUNCATE,
    "pad_batch": PAD_BATCH,
    "length_grouped_batches": LENGTH_GROUPED,
    "majority_baseline": MAJORITY,
}
