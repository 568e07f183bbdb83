"""Right and wrong answers to ex05, as learners write them."""

import math
import random
import statistics
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import torch


def guarded(rule):
    """A rule behind the right errors."""

    def answer(first, second, *more):
        if len(first) != len(second) or len(first) == 0:
            raise ValueError(f"{len(first)} and {len(second)}")
        return rule(first, second, *more)

    return answer


def cut_to_shorter(answer):
    """No complaint about unequal lengths: what has no partner is dropped."""

    def wrong(first, second, *more):
        n = min(len(first), len(second)) or max(len(first), len(second))
        return answer(first[:n], second[:n] if len(second) else first[:n], *more)

    return wrong


# --- confusion_matrix ---------------------------------------------------------------------------
def check_classes(labels, predictions, num_classes):
    if len(labels) != len(predictions):
        raise ValueError("unequal lengths")
    if any(not 0 <= c < num_classes for c in [*labels, *predictions]):
        raise ValueError("no such class")


def confusion_loop(labels, predictions, num_classes):
    check_classes(labels, predictions, num_classes)
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for true, predicted in zip(labels, predictions, strict=True):
        matrix[true][predicted] += 1
    return torch.tensor(matrix, dtype=torch.int64)


def confusion_bincount(labels, predictions, num_classes):
    check_classes(labels, predictions, num_classes)
    cells = torch.tensor(labels, dtype=torch.int64) * num_classes
    cells = cells + torch.tensor(predictions, dtype=torch.int64)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_one_hot(labels, predictions, num_classes):
    check_classes(labels, predictions, num_classes)
    eye = torch.eye(num_classes, dtype=torch.int64)
    true = eye[torch.tensor(labels, dtype=torch.int64)]
    return true.T @ eye[torch.tensor(predictions, dtype=torch.int64)]


def confusion_counter(labels, predictions, num_classes):
    classes = range(num_classes)
    if len(labels) != len(predictions) or not {*labels, *predictions} <= set(classes):
        raise ValueError("labels and predictions")
    count = Counter(zip(labels, predictions, strict=True))
    return torch.tensor([[count[i, j] for j in classes] for i in classes])


def confusion_index_put(labels, predictions, num_classes):
    check_classes(labels, predictions, num_classes)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    if labels:
        matrix[labels, predictions] += 1
    return matrix


def confusion_unchecked(labels, predictions, num_classes):
    if len(labels) != len(predictions):
        raise ValueError
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for true, predicted in zip(labels, predictions, strict=True):
        matrix[true, predicted] += 1
    return matrix


def confusion_upper_only(labels, predictions, num_classes):
    if max([*labels, *predictions], default=0) >= num_classes:
        raise ValueError
    return confusion_unchecked(labels, predictions, num_classes)


def confusion_labels_only(labels, predictions, num_classes):
    if any(not 0 <= c < num_classes for c in labels):
        raise ValueError
    return confusion_unchecked(labels, predictions, num_classes)


def confusion_predictions_only(labels, predictions, num_classes):
    if any(not 0 <= c < num_classes for c in predictions):
        raise ValueError
    return confusion_unchecked(labels, predictions, num_classes)


def confusion_no_upper(labels, predictions, num_classes):
    """The negative ones are refused; the others break off with an IndexError."""
    if min([*labels, *predictions], default=0) < 0:
        raise ValueError
    return confusion_unchecked(labels, predictions, num_classes)


def confusion_no_lower(labels, predictions, num_classes):
    """As confusion_upper_only, but passing over instead of counting."""
    if any(c >= num_classes for c in [*labels, *predictions]):
        raise ValueError
    return confusion_skips(labels, predictions, num_classes)


def confusion_zip(labels, predictions, num_classes):
    check_classes([*labels, *predictions], [*labels, *predictions], num_classes)
    n = min(len(labels), len(predictions))
    return confusion_loop(labels[:n], predictions[:n], num_classes)


def confusion_skips(labels, predictions, num_classes):
    if len(labels) != len(predictions):
        raise ValueError
    pairs = zip(labels, predictions, strict=True)
    kept = [(t, p) for t, p in pairs if 0 <= t < num_classes and 0 <= p < num_classes]
    return confusion_loop([t for t, _ in kept], [p for _, p in kept], num_classes)


def confusion_not_empty(labels, predictions, num_classes):
    if not labels:
        raise ValueError("empty")
    return confusion_loop(labels, predictions, num_classes)


def confusion_off_by_one(labels, predictions, num_classes):
    if any(not 0 <= c <= num_classes for c in [*labels, *predictions]):
        raise ValueError
    return confusion_unchecked(labels, predictions, num_classes)


def confusion_sklearn(labels, predictions, num_classes):
    from sklearn.metrics import confusion_matrix

    return torch.tensor(confusion_matrix(labels, predictions))


def confusion_as_seen(labels, predictions, num_classes):
    check_classes(labels, predictions, num_classes)
    return confusion_unchecked(labels, predictions, max([*labels, *predictions], default=-1) + 1)


RIGHT = {
    "confusion_matrix": [
        confusion_loop, confusion_bincount, confusion_one_hot, confusion_counter,
    ],
}  # fmt: skip
WRONG = {
    "confusion_matrix": [
        (lambda y, p, n: confusion_loop(p, y, n), "rows and columns are swapped"),
        (lambda y, p, n: confusion_loop(y, p, n).float(), "float32"),
        (lambda y, p, n: confusion_loop(y, p, n).int(), "int32"),
        (lambda y, p, n: confusion_loop(y, p, n).tolist(), "int64 tensor"),
        (confusion_index_put, "counted once"),
        (confusion_unchecked, "neither those below 0"),
        (confusion_upper_only, "a class below 0 is not refused"),
        (confusion_labels_only, "only the labels are looked at"),
        (confusion_predictions_only, "only the predictions are looked at"),
        (confusion_no_upper, "a class of num_classes or above is not refused"),
        (confusion_no_lower, "a class below 0 is not refused"),
        (confusion_zip, "unequal lengths are not refused"),
        (confusion_skips, "neither those below 0"),
        (confusion_not_empty, "two empty lists are refused"),
        (confusion_off_by_one, "num_classes itself is let through"),
        (confusion_as_seen, "Its size is num_classes"),
        (confusion_sklearn, "has no row"),
        (lambda y, p, n: confusion_loop(y, p, n).diag().diag(), "only right answers"),
        (
            lambda y, p, n: confusion_loop(y, p, n) / confusion_loop(y, p, n).sum(1, True).clamp(1),
            "shares",
        ),
    ]
}


# --- macro_f1 -----------------------------------------------------------------------------------
def f1_by_sums(confusion):
    hits = confusion.diag().double()
    return float((2 * hits / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)).mean())


def f1_by_loop(confusion):
    scores = []
    for c in range(confusion.shape[0]):
        hits = confusion[c, c].item()
        if hits == 0:
            scores.append(0.0)
            continue
        precision, recall = hits / confusion[:, c].sum().item(), hits / confusion[c].sum().item()
        scores.append(2 * precision * recall / (precision + recall))
    return statistics.fmean(scores)


def f1_with_numpy(confusion):
    m = confusion.numpy().astype(float)
    missed, false = m.sum(1) - m.diagonal(), m.sum(0) - m.diagonal()
    with np.errstate(invalid="ignore"):
        scores = m.diagonal() / (m.diagonal() + (missed + false) / 2)
    return float(np.nan_to_num(scores).mean())


def f1_nan_to_num(confusion):
    hits = confusion.diag() / 1.0
    precision, recall = hits / confusion.sum(0), hits / confusion.sum(1)
    return torch.nan_to_num(2 * precision * recall / (precision + recall)).mean().item()


def f1_scores(confusion):
    return 2 * confusion.diag().double() / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)


def f1_plain(confusion):
    hits = confusion.diag().double()
    precision, recall = hits / confusion.sum(0), hits / confusion.sum(1)
    return (2 * precision * recall / (precision + recall)).mean().item()


def f1_of_sums_nan(confusion):
    return (2 * confusion.diag() / (confusion.sum(0) + confusion.sum(1))).mean().item()


def f1_seen(mask):
    def macro(confusion):
        kept = f1_scores(confusion)[mask(confusion)]
        return kept.mean().item() if len(kept) else 0.0

    return macro


def f1_zero_nan(confusion):
    if confusion.sum() == 0:
        return math.nan
    return f1_by_sums(confusion)


def f1_of_macro_means(confusion):
    hits = confusion.diag().double()
    precision = (hits / confusion.sum(0).clamp(min=1)).mean().item()
    recall = (hits / confusion.sum(1).clamp(min=1)).mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def f1_in_place(confusion):
    confusion += 0
    score = f1_by_sums(confusion)
    confusion.fill_diagonal_(0)
    return score


RIGHT["macro_f1"] = [f1_by_sums, f1_by_loop, f1_with_numpy, f1_nan_to_num]
WRONG["macro_f1"] = [
    (f1_plain, "no right answer"),
    (f1_of_sums_nan, "neither true nor answered"),
    (f1_zero_nan, "a matrix of zeros"),
    (f1_seen(lambda m: m.sum(1) > 0), "a class that no label has is left out"),
    (f1_seen(lambda m: m.sum(1) + m.sum(0) > 0), "does not occur is left out"),
    (f1_seen(lambda m: m.diag() > 0), "without a right answer is left out"),
    (lambda m: m.diag().sum().item() / max(m.sum().item(), 1), "this is the accuracy"),
    (
        lambda m: (f1_scores(m) * m.sum(1)).sum().item() / max(m.sum().item(), 1),
        "each class weighs the same",
    ),
    (f1_of_macro_means, "F1 taken of the means"),
    (lambda m: f1_by_sums(m) / 2, "a factor 2"),
    (lambda m: f1_scores(m).sum().item(), "the sum over the classes"),
    (lambda m: (m.diag() / m.sum(0).clamp(min=1)).mean().item(), "precision. F1 needs recall"),
    (lambda m: (m.diag() / m.sum(1).clamp(min=1)).mean().item(), "recall. F1 needs precision"),
    (lambda m: (m.diag() / (m.sum(0) + m.sum(1) - m.diag()).clamp(min=1)).mean().item(), "Jaccard"),
    (lambda m: f1_scores(m).mean().float(), "must be a float"),
    (f1_scores, "one F1 per class"),
    (f1_in_place, "changes its argument `confusion`"),
    (lambda m: round(f1_by_sums(m), 3), "expected"),
]


# --- bootstrap_interval -------------------------------------------------------------------------
def resampled(correct, resamples, rng, size=None):
    values = np.array(correct, dtype=float)
    rows = rng.integers(0, len(values), (resamples, len(values) if size is None else size))
    return values[rows].mean(axis=1)


def bootstrap_numpy(correct, level, resamples, seed):
    if len(correct) == 0:
        raise ValueError("empty")
    accuracies = resampled(correct, resamples, np.random.default_rng(seed))
    low, high = np.quantile(accuracies, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_pure(correct, level, resamples, seed):
    """Order statistics of Python's own random numbers."""
    if not correct:
        raise ValueError("empty")
    rng, n = random.Random(seed), len(correct)
    accuracies = sorted(sum(rng.choices(correct, k=n)) / n for _ in range(resamples))
    low = accuracies[int((1 - level) / 2 * resamples)]
    return low, accuracies[min(math.ceil((1 + level) / 2 * resamples), resamples) - 1]


def bootstrap_binomial(correct, level, resamples, seed):
    """The number of right answers in a resample is binomial."""
    if not correct:
        raise ValueError("empty")
    n = len(correct)
    hits = np.random.default_rng(seed).binomial(n, sum(correct) / n, size=resamples)
    ends = np.percentile(hits / n, [50 * (1 - level), 50 * (1 + level)], method="nearest")
    return tuple(ends.tolist())


def bootstrap_torch(correct, level, resamples, seed):
    if not correct:
        raise ValueError("empty")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(correct), (resamples, len(correct)), generator=generator)
    accuracies = torch.tensor(correct).double()[rows].mean(1)
    q = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = accuracies.quantile(q)
    return low.item(), high.item()


def bootstrap_like(draw=resampled, ends=None, result=lambda low, high, n: (low, high)):
    """The right bootstrap with one change."""

    def answer(correct, level, resamples, seed):
        if not correct:
            raise ValueError
        accuracies = draw(correct, resamples, np.random.default_rng(seed))
        shares = ends(level) if ends else [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(accuracies, shares)
        return result(float(low), float(high), len(correct))

    return answer


def without_replacement(correct, resamples, rng):
    return np.array([rng.permutation(correct).mean() for _ in range(resamples)])


def bootstrap_normal(correct, level, resamples, seed):
    if not correct:
        raise ValueError
    p, n = sum(correct) / len(correct), len(correct)
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def bootstrap_basic(correct, level, resamples, seed):
    low, high = bootstrap_numpy(correct, level, resamples, seed)
    p = sum(correct) / len(correct)
    return 2 * p - high, 2 * p - low


def bootstrap_global(correct, level, resamples, seed):
    if not correct:
        raise ValueError
    np.random.seed(seed)
    rows = np.random.randint(0, len(correct), (resamples, len(correct)))
    accuracies = np.array(correct)[rows].mean(1)
    return tuple(np.quantile(accuracies, [(1 - level) / 2, (1 + level) / 2]).tolist())


def bootstrap_exact(correct, level, resamples, seed):
    """No resampling at all: the binomial's own quantiles."""
    from scipy.stats import binom

    if not correct:
        raise ValueError
    n = len(correct)
    low, high = binom.ppf([(1 - level) / 2, (1 + level) / 2], n, sum(correct) / n) / n
    return float(low), float(high)


def bootstrap_empty(correct, level, resamples, seed):
    return bootstrap_numpy(correct, level, resamples, seed) if correct else (0.0, 0.0)


def bootstrap_index_error(correct, level, resamples, seed):
    """Python's own draws; random.choices breaks off with an IndexError."""
    rng, n = random.Random(seed), len(correct)
    accuracies = sorted(sum(rng.choices(correct, k=n)) / n for _ in range(resamples))
    return tuple(np.quantile(accuracies, [(1 - level) / 2, (1 + level) / 2]).tolist())


def bootstrap_list_indexed(correct, level, resamples, seed):
    if not correct:
        raise ValueError
    rows = np.random.default_rng(seed).integers(0, len(correct), (resamples, len(correct)))
    return tuple(np.quantile(correct[rows].mean(1), [(1 - level) / 2, (1 + level) / 2]).tolist())


def bootstrap_in_place(correct, level, resamples, seed):
    random.Random(seed).shuffle(correct)
    return bootstrap_numpy(correct, level, resamples, seed)


RIGHT["bootstrap_interval"] = [bootstrap_numpy, bootstrap_pure, bootstrap_binomial, bootstrap_torch]
WRONG["bootstrap_interval"] = [
    (bootstrap_like(without_replacement), "with replacement"),
    (bootstrap_like(ends=lambda level: [1 - level, level]), "Both ends together"),
    (bootstrap_like(ends=lambda level: [0.025, 0.975]), "Use the argument level"),
    (bootstrap_like(ends=lambda v: [(1 - v) / 4, 1 - (1 - v) / 4]), "too wide, too narrow"),
    (bootstrap_like(ends=lambda v: [(1 - v) / 200, (1 + v) / 200]), "counts in percent"),
    (bootstrap_like(result=lambda low, high, n: (high, low)), "low and high are swapped"),
    (bootstrap_like(result=lambda low, high, n: (low * n, high * n)), "counts of right answers"),
    (bootstrap_like(result=lambda low, high, n: (100 * low, 100 * high)), "percentages"),
    (bootstrap_like(result=lambda low, high, n: (1 - high, 1 - low)), "wrong answers"),
    (bootstrap_like(result=lambda low, high, n: [low, high]), "must be a tuple"),
    (
        bootstrap_like(result=lambda low, high, n: (np.float64(low), np.float64(high))),
        "must be Python floats",
    ),
    (
        bootstrap_like(lambda c, r, rng: resampled(c, r, rng, size=len(c) // 2)),
        "n answers, as many as there are",
    ),
    (bootstrap_like(lambda c, r, rng: resampled(c, r, rng, size=100)), "n answers"),
    (bootstrap_like(lambda c, r, rng: resampled(c, 500, rng)), "Use the argument resamples"),
    (bootstrap_normal, "which no resample can have"),
    (bootstrap_basic, "which no resample can have"),
    (bootstrap_exact, "the seed makes no difference"),
    (lambda c, v, r, seed: bootstrap_numpy(c, v, r, 0), "the seed makes no difference"),
    (lambda c, v, r, seed: bootstrap_numpy(c, v, r, None), "not the same twice"),
    (bootstrap_global, "global random state"),
    (bootstrap_empty, "an empty list is not refused"),
    (bootstrap_index_error, "an empty list is not refused"),
    (bootstrap_list_indexed, "one index at a time"),
    (bootstrap_like(lambda c, r, rng: resampled(c, r, rng, size=len(c) - 1)), "holds n - 1"),
    (bootstrap_like(lambda c, r, rng: resampled(c, r, rng, size=len(c) + 1)), "n + 1"),
    (bootstrap_like(lambda c, r, rng: resampled(c[:-1], r, rng, len(c))), "the last answer"),
    (bootstrap_like(lambda c, r, rng: resampled(c[1:], r, rng, len(c))), "the first answer"),
    (bootstrap_like(result=lambda low, high, n: high - low), "a tuple of two numbers"),
    (bootstrap_in_place, "changes its argument `correct`"),
]


# --- expected_calibration_error -----------------------------------------------------------------
def ece_masks(probabilities, labels, bins):
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError("lengths")
    return ece_no_errors(probabilities, labels, bins)


def ece_digitize(probabilities, labels, bins):
    p, y = probabilities.double().numpy(), labels.numpy()
    if p.shape[0] != y.shape[0] or not y.size:
        raise ValueError("lengths")
    confidence, right = p.max(1), p.argmax(1) == y
    member = np.clip(np.digitize(confidence, np.linspace(0, 1, bins + 1), right=True), 1, bins)
    return float(
        sum(
            np.mean(member == b) * abs(right[member == b].mean() - confidence[member == b].mean())
            for b in np.unique(member)
        )
    )


def ece_sums(probabilities, labels, bins):
    """The share cancels the mean's denominator."""
    if len(labels) == 0 or len(probabilities) != len(labels):
        raise ValueError("lengths")
    gaps = [0.0] * bins
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        i = min(math.ceil(confidence * bins), bins) - 1
        gaps[i] += (row.index(confidence) == label) - confidence
    return sum(abs(gap) for gap in gaps) / len(labels)


def ece_like(gap=None, weight=None, sure=None, member=None):
    """The right error with one change."""

    def answer(probabilities, labels, bins):
        if len(probabilities) != len(labels) or len(labels) == 0:
            raise ValueError
        confidence = (sure or (lambda p, y: p.max(-1).values))(probabilities, labels).double()
        right = (probabilities.argmax(-1) == labels).double()
        place = (member or (lambda c, b: (c * b).ceil().long() - 1))(confidence, bins)
        total, filled = 0.0, place.unique().tolist()
        for i in filled:
            inside = place == i
            a, c = right[inside].mean().item(), confidence[inside].mean().item()
            g = gap(a, c, i, bins) if gap else abs(a - c)
            share = inside.double().mean().item()
            total += g * (weight(share, len(filled), bins, len(labels)) if weight else share)
        return total

    return answer


def ece_left_closed(probabilities, labels, bins):
    """[lo, hi) loses a confidence of 1."""
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError
    confidence, answers = probabilities.max(-1)
    right, total = (answers == labels).double(), 0.0
    for i in range(bins):
        inside = (confidence >= i / bins) & (confidence < (i + 1) / bins)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].double().mean()).abs().item()
            total += gap * inside.sum().item() / len(labels)
    return total


def ece_nan(probabilities, labels, bins):
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError
    confidence, answers = probabilities.max(-1)
    right, total = (answers == labels).double(), 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        gap = (right[inside].mean() - confidence[inside].double().mean()).abs().item()
        total += gap * inside.sum().item() / len(labels)
    return total


def ece_largest_gap(probabilities, labels, bins):
    gaps = []
    ece_like(gap=lambda a, c, i, b: gaps.append(abs(a - c)) or 0.0)(probabilities, labels, bins)
    return max(gaps)


def ece_no_length(probabilities, labels, bins):
    if len(labels) == 0:
        raise ValueError
    n = min(len(labels), len(probabilities))
    return ece_masks(probabilities[:n], labels[:n], bins)


def ece_no_errors(probabilities, labels, bins):
    """Right, but nothing is refused: torch breaks off in its own way, and no rows give 0."""
    confidence, answers = probabilities.max(-1)
    right, total = (answers == labels).double(), 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].double().mean()).abs().item()
            total += gap * inside.sum().item() / len(labels)
    return total


def ece_empty_only(probabilities, labels, bins):
    if len(labels) == 0:
        raise ValueError
    return ece_no_errors(probabilities, labels, bins)


def ece_from_one(probabilities, labels, bins):
    """Bins numbered from 1, looked through from 0."""
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError
    confidence, answers = probabilities.max(-1)
    member, total = (confidence.double() * bins).ceil().long(), 0.0
    for i in range(bins):
        inside = member == i
        if inside.any():
            right = (answers[inside] == labels[inside]).double().mean()
            gap = (right - confidence[inside].double().mean()).abs().item()
            total += gap * inside.sum().item() / len(labels)
    return total


def ece_above_chance(probabilities, labels, bins):
    chance = 1 / probabilities.shape[-1]

    def member(c, b):
        return (((c - chance) / (1 - chance)) * b).ceil().long().sub(1).clamp(0, b - 1)

    return ece_like(member=member)(probabilities, labels, bins)


def ece_zero_if_empty(probabilities, labels, bins):
    if len(labels) == len(probabilities) == 0:
        return 0.0
    return ece_masks(probabilities, labels, bins)


RIGHT["expected_calibration_error"] = [ece_masks, ece_digitize, ece_sums, ece_like()]
WRONG["expected_calibration_error"] = [
    (ece_like(weight=lambda share, filled, bins, n: 1 / filled), "mean over the filled bins"),
    (ece_like(weight=lambda share, filled, bins, n: 1 / bins), "divided by the number of bins"),
    (ece_like(weight=lambda share, filled, bins, n: 1.0), "without weights"),
    (ece_like(weight=lambda share, filled, bins, n: share * n), "weighted by counts"),
    (ece_like(gap=lambda a, c, i, b: a - c), "cancel"),
    (ece_like(gap=lambda a, c, i, b: c - a), "the sign is turned round"),
    (lambda p, y, b: ece_masks(p, y, 1), "as if all were one bin"),
    (ece_like(gap=lambda a, c, i, b: (a - c) ** 2), "squared"),
    (ece_like(gap=lambda a, c, i, b: abs(a - (i + 0.5) / b)), "the middle of the bin"),
    (ece_like(sure=lambda p, y: p.gather(1, y[:, None])[:, 0]), "the true label"),
    (ece_like(sure=lambda p, y: p[:, 1]), "class 1"),
    (lambda p, y, b: ece_masks(p, y, 10), "Use the argument bins"),
    (ece_like(member=lambda c, b: c.argsort().argsort() * b // len(c)), "equally wide"),
    (ece_like(member=lambda c, b: (c * b).floor().long()), "a bin of its own"),
    (ece_left_closed, "is lost"),
    (ece_nan, "a bin is empty"),
    (ece_largest_gap, "expected"),
    (ece_no_length, "unequal lengths are not refused"),
    (ece_zero_if_empty, "empty tensors are not refused"),
    (ece_no_errors, "neither unequal lengths nor empty tensors"),
    (ece_empty_only, "unequal lengths are not refused"),
    (ece_from_one, "the last bin are lost"),
    (ece_above_chance, "the bins divide 1/C to 1"),
    (lambda p, y, b: torch.tensor(ece_masks(p, y, b)), "must be a float"),
    (ece_like(gap=lambda a, c, i, b: abs(a - c) if i else 0.0, member=lambda c, b: (
        (c * b).ceil().long() - 1 - int((c.min() * b).ceil().long() - 1))), "expected"),
]  # fmt: skip


# --- mcnemar_exact ------------------------------------------------------------------------------
def discordant(a, b):
    return sum(x and not y for x, y in zip(a, b, strict=True)), sum(
        y and not x for x, y in zip(a, b, strict=True)
    )


def tail(k, n):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def mcnemar_comb(correct_a, correct_b):
    if len(correct_a) != len(correct_b) or len(correct_a) == 0:
        raise ValueError("lengths")
    only_a, only_b = discordant(correct_a, correct_b)
    n = only_a + only_b
    return min(1.0, 2 * tail(min(only_a, only_b), n)) if n else 1.0


def mcnemar_scipy(correct_a, correct_b):
    from scipy.stats import binom

    if len(correct_a) != len(correct_b) or not correct_a:
        raise ValueError("lengths")
    a, b = np.array(correct_a), np.array(correct_b)
    k, n = min((a & ~b).sum(), (b & ~a).sum()), (a != b).sum()
    return float(min(1.0, 2 * binom.cdf(k, n, 0.5)))


def mcnemar_logarithms(correct_a, correct_b):
    """Terms of the sum by their logarithms."""
    if not correct_a or len(correct_a) != len(correct_b):
        raise ValueError("lengths")
    only_a, only_b = discordant(correct_a, correct_b)
    n, total = only_a + only_b, 0.0
    for k in range(min(only_a, only_b) + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways - n * math.log(2))
    return 2 * total if 2 * total < 1 else 1


def mcnemar_fractions(correct_a, correct_b):
    """Each term from the one before, in whole numbers and one division."""
    if not correct_a or len(correct_a) != len(correct_b):
        raise ValueError("lengths")
    only_a, only_b = discordant(correct_a, correct_b)
    n, term, total = only_a + only_b, 1, 0
    for k in range(min(only_a, only_b) + 1):
        total += term
        term = term * (n - k) // (k + 1)
    return float(min(Fraction(1), Fraction(2 * total, 2**n)))


def mcnemar_overflows(correct_a, correct_b):
    if not correct_a or len(correct_a) != len(correct_b):
        raise ValueError("lengths")
    only_a, only_b = discordant(correct_a, correct_b)
    n = only_a + only_b
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) * 0.5**n)


def mcnemar_underflows(correct_a, correct_b):
    """Terms of the sum, each from the one before: the first is 0 with many throws."""
    if not correct_a or len(correct_a) != len(correct_b):
        raise ValueError("lengths")
    only_a, only_b = discordant(correct_a, correct_b)
    n, term, total = only_a + only_b, 0.5 ** (only_a + only_b), 0.0
    for k in range(min(only_a, only_b) + 1):
        total += term
        term *= (n - k) / (k + 1)
    return 2 * total if 2 * total < 1 else 1


def of_pairs(rule):
    """Right but for what is made of the two counts."""
    return guarded(lambda a, b: rule(*discordant(a, b)) if any(discordant(a, b)) else 1.0)


def mcnemar_chi2(a, b, correction=0):
    from scipy.stats import chi2

    return float(chi2.sf(max(abs(a - b) - correction, 0) ** 2 / (a + b), 1))


def mcnemar_no_throws(correct_a, correct_b):
    if len(correct_a) != len(correct_b) or not correct_a:
        raise ValueError
    only_a, only_b = discordant(correct_a, correct_b)
    share = min(only_a, only_b) / (only_a + only_b)
    return min(1.0, 2 * tail(round(share * (only_a + only_b)), only_a + only_b))


def mcnemar_zip(correct_a, correct_b):
    if not correct_a and not correct_b:
        raise ValueError
    n = min(len(correct_a), len(correct_b))
    return mcnemar_comb(correct_a[:n], correct_b[:n]) if n else 1.0


def mcnemar_empty(correct_a, correct_b):
    return mcnemar_comb(correct_a, correct_b) if correct_a or correct_b else 1.0


def mcnemar_nothing_refused(correct_a, correct_b):
    only_a = sum(a and not b for a, b in zip(correct_a, correct_b, strict=False))
    only_b = sum(b and not a for a, b in zip(correct_a, correct_b, strict=False))
    return min(1.0, 2 * tail(min(only_a, only_b), only_a + only_b))


def mcnemar_doubled(correct_a, correct_b):
    """Twice the tail, and nothing is refused."""
    only_a = sum(a and not b for a, b in zip(correct_a, correct_b, strict=False))
    only_b = sum(b and not a for a, b in zip(correct_a, correct_b, strict=False))
    return 2 * tail(min(only_a, only_b), only_a + only_b)


def mcnemar_asserts(correct_a, correct_b):
    assert len(correct_a) == len(correct_b)
    return mcnemar_comb(correct_a, correct_b)


def mcnemar_accuracies(a, b):
    n, k = sum(a) + sum(b), min(sum(a), sum(b))
    return min(1.0, 2 * tail(k, n)) if n else 1.0


def mid_p(a, b):
    return min(1.0, 2 * tail(min(a, b), a + b) - math.comb(a + b, a) / 2 ** (a + b))


RIGHT["mcnemar_exact"] = [mcnemar_comb, mcnemar_scipy, mcnemar_logarithms, mcnemar_fractions]
WRONG["mcnemar_exact"] = [
    (of_pairs(lambda a, b: tail(min(a, b), a + b)), "one-sided"),
    (of_pairs(lambda a, b: 2 * tail(min(a, b), a + b)), "at most 1"),
    (of_pairs(lambda a, b: min(1.0, 2 * tail(min(a, b) - 1, a + b))), "one too early"),
    (of_pairs(lambda a, b: min(1.0, 2 * tail(max(a, b), a + b))), "the larger of the two"),
    (of_pairs(lambda a, b: min(1.0, 2 * tail(a, a + b))), "always model A"),
    (of_pairs(lambda a, b: min(1.0, 2 * tail(b, a + b))), "always model B"),
    (of_pairs(lambda a, b: math.comb(a + b, a) / 2 ** (a + b)), "probability of exactly"),
    (of_pairs(lambda a, b: mcnemar_chi2(a, b)), "the chi-square approximation. With few"),
    (of_pairs(lambda a, b: mcnemar_chi2(a, b, 1)), "with continuity correction"),
    (of_pairs(mid_p), "expected"),
    (mcnemar_no_throws, "nothing to divide by"),
    (mcnemar_zip, "unequal lengths are not refused"),
    (mcnemar_empty, "empty lists are not refused"),
    (mcnemar_nothing_refused, "neither unequal lengths nor empty lists"),
    (mcnemar_doubled, "at most 1"),
    (mcnemar_asserts, "not refused with a ValueError"),
    (mcnemar_overflows, "more than a thousand discordant pairs"),
    (mcnemar_underflows, "more than a thousand discordant pairs"),
    (guarded(lambda a, b: 2 * tail(min(discordant(a, b)), sum(discordant(a, b)))), "at most 1"),
    (guarded(mcnemar_accuracies), "all right answers are counted"),
    (
        guarded(lambda a, b: min(1.0, 2 * tail(min(discordant(a, b)), len(a)))),
        "the number of throws",
    ),
    (guarded(lambda a, b: 1 - mcnemar_comb(a, b)), "1 minus the p-value"),
    (lambda a, b: torch.tensor(mcnemar_comb(a, b)), "must be a float"),
    (lambda a, b: mcnemar_comb(a, b) if any(discordant(a, b)) else 0.0, "0 where two models"),
]


# --- quadratic_kappa ----------------------------------------------------------------------------
def kappa_matrix(labels, predictions, num_classes):
    if len(labels) != len(predictions) or not labels:
        raise ValueError("lengths")
    observed = confusion_loop(labels, predictions, num_classes).double()
    expected = torch.outer(observed.sum(1), observed.sum(0)) / len(labels)
    grades = torch.arange(num_classes)
    cost = (grades[:, None] - grades) ** 2 / max((num_classes - 1) ** 2, 1)
    by_chance = (cost * expected).sum().item()
    return 1 - (cost * observed).sum().item() / by_chance if by_chance > 0 else 1.0


def kappa_pairs(labels, predictions, num_classes):
    """Mean squared distance of the pairs, over that of all pairings."""
    n = len(labels)
    if n != len(predictions) or n == 0:
        raise ValueError("lengths")
    seen = sum((a - b) ** 2 for a, b in zip(labels, predictions, strict=True)) / n
    chance = sum((a - b) ** 2 for a in labels for b in predictions) / n**2
    return 1 - seen / chance if chance else 1


def kappa_sklearn(labels, predictions, num_classes):
    from sklearn.metrics import cohen_kappa_score

    if len(labels) != len(predictions) or not labels:
        raise ValueError("lengths")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = float(
            cohen_kappa_score(
                labels, predictions, labels=list(range(num_classes)), weights="quadratic"
            )
        )
    return 1.0 if math.isnan(kappa) else kappa


def kappa_like(
    weight=lambda i, j: (i - j) ** 2, rule=lambda o, e: 1 - o / e, scale=None, empty=1.0
):
    """The right kappa with one change."""

    def kappa(labels, predictions, num_classes):
        observed = confusion_loop(labels, predictions, num_classes).double()
        expected = torch.outer(observed.sum(1), observed.sum(0)) / len(labels)
        i = torch.arange(num_classes)
        cost = weight(i[:, None], i[None, :]).double()
        o, e = (cost * observed).sum().item(), (cost * expected).sum().item()
        return rule(o, e * (scale(len(labels)) if scale else 1)) if e else empty

    return guarded(kappa)


def kappa_divides(labels, predictions, num_classes):
    observed, expected = 0.0, 0.0
    for a in labels:
        expected += sum((a - b) ** 2 for b in predictions) / len(labels)
    observed = sum((a - b) ** 2 for a, b in zip(labels, predictions, strict=True))
    return 1 - observed / expected


def kappa_compressed(labels, predictions, num_classes):
    place = {c: i for i, c in enumerate(sorted({*labels, *predictions}))}
    return kappa_pairs([place[c] for c in labels], [place[c] for c in predictions], len(place))


def kappa_sklearn_alone(labels, predictions, num_classes):
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(labels, predictions, weights="quadratic"))


def kappa_correlation(labels, predictions, num_classes):
    if len(set(labels)) == 1 or len(set(predictions)) == 1:
        return 1.0 if labels == predictions else 0.0
    return statistics.correlation(labels, predictions)


def kappa_plain_correlation(labels, predictions, num_classes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.corrcoef(labels, predictions)[0, 1])


def kappa_nothing_refused(labels, predictions, num_classes):
    observed = sum((a - b) ** 2 for a, b in zip(labels, predictions, strict=False))
    expected = sum((a - b) ** 2 for a in labels for b in predictions)
    return 1 - observed * len(labels) / expected if expected else 1.0


def kappa_zip(labels, predictions, num_classes):
    if not labels and not predictions:
        raise ValueError
    n = min(len(labels), len(predictions))
    return kappa_pairs(labels[:n], predictions[:n], num_classes) if n else 1.0


def kappa_empty(labels, predictions, num_classes):
    if labels == predictions:
        return 1.0
    return kappa_pairs(labels, predictions, num_classes)


def kappa_uniform(labels, predictions, num_classes):
    classes = range(num_classes)
    chance = sum((i - j) ** 2 for i in classes for j in classes) / num_classes**2
    seen = sum((a - b) ** 2 for a, b in zip(labels, predictions, strict=True)) / len(labels)
    return 1 - seen / chance if chance else 1.0


RIGHT["quadratic_kappa"] = [kappa_matrix, kappa_pairs, kappa_sklearn]
WRONG["quadratic_kappa"] = [
    (kappa_like(weight=lambda i, j: (i - j).abs()), "linear weights"),
    (kappa_like(weight=lambda i, j: i != j), "without weights"),
    (kappa_like(rule=lambda o, e: o / e), "the ratio itself"),
    (kappa_like(scale=lambda n: n), "not scaled"),
    (kappa_like(scale=lambda n: 1 / n), "shares, the observed ones counts"),
    (kappa_like(empty=math.nan), "NaN where the expected disagreement is 0"),
    (kappa_like(empty=0.0), "0 where the expected disagreement is 0"),
    (guarded(kappa_divides), "nothing can be divided by it"),
    (guarded(kappa_compressed), "numbered anew"),
    (kappa_sklearn_alone, "list all classes"),
    (guarded(kappa_correlation), "this is the correlation"),
    (guarded(kappa_uniform), "equally likely"),
    (kappa_zip, "unequal lengths are not refused"),
    (kappa_empty, "empty lists are not refused"),
    (kappa_nothing_refused, "neither unequal lengths nor empty lists"),
    (guarded(kappa_plain_correlation), "this is the correlation"),
    (guarded(lambda y, p, n: sum(a == b for a, b in zip(y, p, strict=True)) / len(y)), "accuracy"),
    (lambda y, p, n: torch.tensor(kappa_pairs(y, p, n)), "must be a float"),
    (lambda y, p, n: np.float64(kappa_pairs(y, p, n)), "must be a float"),
    (kappa_like(rule=lambda o, e: 1 - e / o if o else 1.0), "upside down"),
]
