"""What the number is worth: predictions, metrics with intervals, comparisons and calibration.

Metrics come from scikit-learn, tests and optimisers from SciPy; notebooks 05 and 06 derive them by
hand and compare. All results are NumPy arrays or Python numbers, so nothing here depends on the
device that a model ran on.

Every interval is a percentile bootstrap over test examples: "how far could this score have moved,
had the same n examples been drawn again from where they came from?" Accuracy, F1, mean absolute
error and kappa all depend on the examples only through a table of counts (the confusion matrix, or
right/wrong for two models). Drawing n examples with replacement and counting them IS one draw from
a multinomial distribution over the cells of that table, so `_resampled_tables` draws the tables
directly: the same distribution as `scipy.stats.bootstrap` (the tests compare them), and 2,000
resamples of 25,000 reviews take milliseconds instead of building 2,000 x 25,000 indices.
`bootstrap` wraps SciPy for every statistic that is not a function of such a table.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sft_teach.errors import DataError

Interval = tuple[float, float]


# --------------------------------------------------------------------------- small shared checks


def _array(values, name: str, dtype=None) -> np.ndarray:
    """Anything list-like, a NumPy array or a torch tensor (any device) as a NumPy array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        values = values.numpy()
    array = np.asarray(values)
    if array.size == 0:
        raise DataError(f"{name} is empty: a score needs at least one example.")
    return array if dtype is None else array.astype(dtype)


def _same_length(**arrays: Sequence) -> None:
    """Raise if two named sequences differ in length, naming the lengths."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = " but ".join(f"{n} {name}" for name, n in lengths.items())
        raise DataError(f"{said}: expected one of each per example.")


def _check_resampling(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise DataError(f"level={level}: expected a share between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise DataError(f"resamples={resamples}: expected at least 1, usually 2000.")


def _classes(labels, name: str, num_classes: int | None = None) -> np.ndarray:
    """Class numbers as int64 (N,), checked against range(num_classes)."""
    array = _array(labels, name)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}: expected one class number per example.")
    whole = array.astype(np.int64)
    if not np.array_equal(whole, array):
        raise DataError(f"{name} holds {array[whole != array][0]!r}: expected whole class numbers.")
    outside = whole < 0 if num_classes is None else (whole < 0) | (whole >= num_classes)
    if outside.any():
        row = int(np.argmax(outside))
        expected = "0 and above" if num_classes is None else f"0 to {num_classes - 1}"
        raise DataError(f"{name}: row {row} holds class {whole[row]}: expected {expected}.")
    return whole


# --------------------------------------------------------------------------- predictions


@dataclass
class Predictions:
    """What a classifier answered: one row of logits per example, in the data set's own order.

    Attributes:
        logits: float32 (N, C), the scores before softmax.
        labels: int64 (N,) true classes, or None for texts without an answer.

    Raises:
        DataError: a shape that is not (N, C), a logit that is NaN or infinite, or a label outside
            range(C).
    """

    logits: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self):
        self.logits = _array(self.logits, "logits", np.float32)
        if self.logits.ndim != 2:
            raise DataError(f"logits have shape {self.logits.shape}: expected (examples, classes).")
        broken = ~np.isfinite(self.logits).all(axis=1)
        if broken.any():
            raise DataError(
                f"{broken.sum()} of {len(broken)} rows hold logits that are NaN or infinite "
                f"(first: row {int(np.argmax(broken))}). The model has diverged or its precision "
                'is too low: predict again with precision="float32" and look at the training loss.'
            )
        if self.labels is not None:
            self.labels = _classes(self.labels, "labels", self.num_classes)
            _same_length(logits=self.logits, labels=self.labels)

    @classmethod
    def from_probabilities(cls, probabilities, labels=None) -> Predictions:
        """From (N, C) probabilities, such as scikit-learn's `predict_proba`.

        The logits are log-probabilities; a probability of 0 becomes 1e-30 to keep them finite.
        """
        probabilities = _check_probabilities(probabilities)
        return cls(np.log(np.maximum(probabilities, 1e-30)), labels)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float64 (N, C); rows sum to 1."""
        from scipy.special import softmax

        return softmax(self.logits.astype(np.float64), axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest logit, int64 (N,); of equal ones the smallest number."""
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float64 (N,)."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """bool (N,): was the predicted class the true one?"""
        return self.predicted == self.require_labels()

    def require_labels(self) -> np.ndarray:
        """The labels, or a DataError where there are none to compare with."""
        if self.labels is None:
            raise DataError("These predictions have no labels: a score needs the true classes.")
        return self.labels

    def __repr__(self) -> str:
        known = "no labels" if self.labels is None else f"accuracy {self.correct.mean():.3f}"
        return f"Predictions({len(self)} examples, {self.num_classes} classes, {known})"


def predict(
    model,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = False,
) -> Predictions:
    """Logits for every example, in the data set's own order.

    Batches of similar length come longest first or shuffled; their `order` says which example each
    row is, and the rows are put back. Batches without `order` are taken as they come.

    Args:
        model: called with a batch's tensors (all but `labels`); returns logits (B, C), or an object
            that holds them as `.logits`. Moved to the device, left there, in the mode it had.
        batches: dicts with `input_ids` and `attention_mask` (B, L), and `labels` (B,) if known.
        device, precision: as in `TrainingConfig`.
        progress: show a bar over batches.

    Raises:
        DataError: no batches at all, or logits that are NaN or infinite.
    """
    from sft_teach.kernels import fast_kernels
    from sft_teach.training import choose_device, choose_precision, low_precision, width_of

    device = choose_device(device)
    dtype = choose_precision(precision, device)
    was_training = model.training
    model.to(device).eval()  # dropout would make the answer depend on chance
    order = getattr(batches, "order", None)
    logits, labels = [], []
    try:
        with torch.inference_mode(), low_precision(device, dtype):
            for batch in _bar(batches, "predict", progress):
                inputs = {k: v.to(device) for k, v in batch.items() if k != "labels"}
                with fast_kernels(device, dtype, width_of(batch)):
                    output = model(**inputs)
                logits.append(getattr(output, "logits", output).float().cpu())
                if "labels" in batch:
                    labels.append(batch["labels"].cpu())
    finally:
        model.train(was_training)
    if not logits:
        raise DataError("There were no batches: predicting needs at least one example.")
    rows = torch.cat(logits).numpy()
    known = torch.cat(labels).numpy() if labels else None
    if order is not None:
        rows = _restore_order(rows, order)
        known = None if known is None else _restore_order(known, order)
    return Predictions(rows, known)


def _restore_order(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Row k of the result is the row that was computed for example k."""
    order = np.asarray(order)
    if not np.array_equal(np.sort(order), np.arange(len(rows))):
        raise DataError(
            f"The batches gave {len(rows)} rows but their order lists {len(order)} examples: "
            "expected every example exactly once."
        )
    restored = np.empty_like(rows)
    restored[order] = rows
    return restored


def _bar(batches, description: str, show: bool):
    """Yield the batches, with a progress bar over them if wanted."""
    from sft_teach.progress import bar

    total = len(batches) if hasattr(batches, "__len__") else None
    with bar(total, description, show=show, unit="batch") as progress:
        for batch in batches:
            yield batch
            progress.update()


def features(
    body,
    tokenizer,
    texts: Sequence[str],
    max_length: int = 128,
    batch_size: int = 64,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """Frozen features: the mean of an encoder's last hidden states over a text's real tokens.

    Args:
        body: an encoder whose output has `last_hidden_state` (B, L, H), such as `load_body()`.
        texts: N strings. They are batched by length inside; the rows come back in this order.

    Returns:
        float32 (N, H).
    """
    from sft_teach.batching import LengthGroupedBatches, tokenize
    from sft_teach.kernels import fast_kernels
    from sft_teach.training import choose_device, choose_precision, low_precision, width_of

    device = choose_device(device)
    dtype = choose_precision(precision, device)
    ids = tokenize(list(texts), tokenizer, max_length)
    batches = LengthGroupedBatches(
        ids, batch_size=batch_size, pad_id=tokenizer.pad_token_id or 0, shuffle=False
    )
    was_training = body.training
    body.to(device).eval()
    rows = []
    try:
        with torch.inference_mode(), low_precision(device, dtype):
            for batch in _bar(batches, "features", progress):
                batch = {k: v.to(device) for k, v in batch.items()}
                with fast_kernels(device, dtype, width_of(batch)):
                    states = body(**batch).last_hidden_state.float()  # (B, L, H)
                mask = batch["attention_mask"].unsqueeze(-1).float()  # (B, L, 1)
                rows.append(((states * mask).sum(1) / mask.sum(1)).cpu())
    finally:
        body.train(was_training)
    return _restore_order(torch.cat(rows).numpy(), batches.order)


# --------------------------------------------------------------------------- bootstrap intervals


def _resampled_tables(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Count tables of `resamples` samples of n = table.sum() examples drawn with replacement.

    Args:
        table: counts of any shape.

    Returns:
        int64 (resamples, *table.shape).
    """
    counts = np.asarray(table, dtype=np.int64)
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=resamples)
    return draws.reshape(resamples, *counts.shape)


def _percentiles(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy_interval(
    correct, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of an accuracy.

    Args:
        correct: N bools, or a `Predictions`.
        level: share of resampled accuracies inside the interval.
        resamples: samples of n drawn with replacement.

    Returns:
        (low, high), shares between 0 and 1. If every answer is right (or wrong) all resamples agree
        and the interval is a point: with few examples that says nothing about the next one.
    """
    _check_resampling(level, resamples)
    right = _correct(correct)
    tables = _resampled_tables(np.array([right.sum(), (~right).sum()]), resamples, seed)
    return _percentiles(tables[:, 0] / len(right), level)


def _correct(values, name: str = "correct") -> np.ndarray:
    """bool (N,) from a `Predictions` or a list of right/wrong."""
    if isinstance(values, Predictions):
        return values.correct
    array = _array(values, name)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"{name}: expected one True or False per example (predictions == labels), "
            f"got an array of shape {array.shape} with values such as {array.ravel()[0]!r}."
        )
    return array.astype(bool)


def bootstrap(
    statistic: Callable[..., float],
    *arrays,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of any statistic, by `scipy.stats.bootstrap`.

    Args:
        statistic: called with as many 1-d arrays as are given; returns a number.
        arrays: N values each, resampled together: row i of one stays with row i of the others.

    Returns:
        (low, high); a single example gives a point, since it can only be drawn again.
    """
    from scipy.stats import bootstrap as scipy_bootstrap

    _check_resampling(level, resamples)
    data = [_array(values, f"array {i}") for i, values in enumerate(arrays)]
    if not data:
        raise DataError("bootstrap needs at least one array of observations.")
    _same_length(**{f"values in array {i}": values for i, values in enumerate(data)})
    if len(data[0]) == 1:
        value = float(statistic(*data))
        return value, value
    result = scipy_bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=level,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def seeds_summary(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds and its Student t interval: how much does the training's chance matter?

    With few seeds the interval is wide, as it should be (3 seeds: 4.3 standard errors each way).

    Returns:
        (mean, low, high); low and high are NaN for a single value, which says nothing about spread.
    """
    from scipy.stats import t

    scores = _array(values, "values", np.float64)
    _check_resampling(level, 1)
    mean = float(scores.mean())
    if len(scores) == 1:
        return mean, math.nan, math.nan
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    half = float(t.ppf((1 + level) / 2, len(scores) - 1)) * error
    return mean, mean - half, mean + half


# --------------------------------------------------------------------------- the report


def _macro_f1(tables: np.ndarray) -> np.ndarray:
    """Macro-F1 of confusion matrices (..., C, C); F1 of a class is 2 TP / (true + predicted)."""
    hits = np.diagonal(tables, axis1=-2, axis2=-1)
    members = tables.sum(axis=-1) + tables.sum(axis=-2)  # never 0 where hits are not
    return (2 * hits / np.maximum(members, 1)).mean(axis=-1)


def _mae(tables: np.ndarray) -> np.ndarray:
    """Mean |true - predicted| of confusion matrices (..., C, C)."""
    grades = np.arange(tables.shape[-1])
    distance = np.abs(grades[:, None] - grades[None, :])
    return (tables * distance).sum(axis=(-2, -1)) / tables.sum(axis=(-2, -1))


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Quadratic kappa of confusion matrices (..., C, C): 1 - observed / expected disagreement."""
    grades = np.arange(tables.shape[-1])
    weights = (grades[:, None] - grades[None, :]) ** 2
    n = tables.sum(axis=(-2, -1))
    chance = tables.sum(axis=-1)[..., :, None] * tables.sum(axis=-2)[..., None, :]
    observed = (tables * weights).sum(axis=(-2, -1)) * n
    expected = (chance * weights).sum(axis=(-2, -1))
    # Both are whole numbers; no disagreement by chance means none at all: 1 - 0 / 1.
    return 1 - observed / np.maximum(expected, 1)


def quadratic_kappa(labels, predictions, num_classes: int | None = None) -> float:
    """Cohen's kappa with quadratic weights: agreement beyond chance on ordered classes.

    1 is perfect, 0 what independent answers with the same frequencies would reach; an answer that
    is two grades off counts four times as much as one grade off (Cohen 1968). Where chance alone
    leaves no disagreement (both always give the same one class) it is 1.0.
    """
    from sklearn.metrics import cohen_kappa_score

    truth, answers = _pair(labels, predictions, num_classes)
    if len(set(truth) | set(answers)) == 1:
        return 1.0  # scikit-learn: 0 / 0
    # All classes are listed: scikit-learn numbers those it sees, and 0 and 4 would be neighbours.
    classes = range(num_classes or int(max(truth.max(), answers.max())) + 1)
    return float(cohen_kappa_score(truth, answers, weights="quadratic", labels=list(classes)))


def _pair(labels, predictions, num_classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    truth = _classes(labels, "labels", num_classes)
    answers = _classes(predictions, "predictions", num_classes)
    _same_length(labels=truth, predictions=answers)
    return truth, answers


@dataclass
class Report:
    """Scores of one model on one test set, each interval a percentile bootstrap over examples.

    Attributes:
        n: examples.
        accuracy, macro_f1: shares; `macro_f1` weighs every class alike, whatever its frequency.
        ece: expected calibration error with 10 bins, a share.
        mae: mean distance between true and predicted class, in classes (for ordered classes).
        kappa: quadratic kappa (for ordered classes; with two classes Cohen's kappa).
        confusion: int64 (C, C), rows the true class.
        per_class: one dict per class: name, n (true members), predicted, precision, recall, f1.
    """

    n: int
    level: float
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    ece: float
    mae: float
    mae_interval: Interval
    kappa: float
    kappa_interval: Interval
    confusion: np.ndarray
    label_names: list[str]
    per_class: list[dict] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str, str]]:
        """(metric, value, interval) as shown; ordered-class metrics only above two classes."""
        rows = [
            ("accuracy", f"{self.accuracy:.1%}", _percent(self.accuracy_interval)),
            ("macro-F1", f"{self.macro_f1:.1%}", _percent(self.macro_f1_interval)),
            ("calibration error", f"{self.ece:.1%}", ""),
        ]
        if len(self.label_names) > 2:
            mae, kappa = self.mae_interval, self.kappa_interval
            rows += [
                ("mean absolute error", f"{self.mae:.2f}", f"{mae[0]:.2f} to {mae[1]:.2f}"),
                ("quadratic kappa", f"{self.kappa:.2f}", f"{kappa[0]:.2f} to {kappa[1]:.2f}"),
            ]
        return rows

    def __str__(self) -> str:
        head = ("", f"n = {self.n:,}", f"{self.level:.0%} interval")
        return _text_table([head, *self.rows()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = f"<tr><th></th><th>n = {self.n:,}</th><th>{self.level:.0%} interval</th></tr>"
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

    def to_dict(self) -> dict:
        """Plain numbers and lists, ready for JSON."""
        plain = {key: value for key, value in vars(self).items() if key != "confusion"}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        return plain | {"confusion": self.confusion.tolist()}


def _percent(interval: Interval) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report(
    predictions: Predictions,
    label_names: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """All scores of labelled predictions, with intervals.

    Args:
        label_names: C names in the order of the class numbers; by default the numbers.
        level, resamples, seed: of the bootstrap.

    Raises:
        DataError: predictions without labels, or a wrong number of names.
    """
    from sklearn import metrics

    _check_resampling(level, resamples)
    truth, answers = predictions.require_labels(), predictions.predicted
    classes = list(range(predictions.num_classes))
    names = [str(c) for c in classes] if label_names is None else list(label_names)
    if len(names) != len(classes):
        raise DataError(f"{len(names)} label names but {len(classes)} classes in the logits.")
    confusion = metrics.confusion_matrix(truth, answers, labels=classes)
    tables = _resampled_tables(confusion, resamples, seed)
    return Report(
        n=len(truth),
        level=level,
        accuracy=float(metrics.accuracy_score(truth, answers)),
        accuracy_interval=accuracy_interval(predictions.correct, level, resamples, seed),
        macro_f1=float(
            metrics.f1_score(truth, answers, labels=classes, average="macro", zero_division=0)
        ),
        macro_f1_interval=_percentiles(_macro_f1(tables), level),
        ece=calibration(predictions.probabilities, truth).ece,
        mae=float(metrics.mean_absolute_error(truth, answers)),
        mae_interval=_percentiles(_mae(tables), level),
        kappa=quadratic_kappa(truth, answers, len(classes)),
        kappa_interval=_percentiles(_kappa(tables), level),
        confusion=confusion,
        label_names=names,
        per_class=_per_class(truth, answers, names),
    )


def _per_class(truth: np.ndarray, answers: np.ndarray, names: list[str]) -> list[dict]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        truth, answers, labels=range(len(names)), zero_division=0
    )
    predicted = np.bincount(answers, minlength=len(names))
    return [
        {
            "name": name,
            "n": int(n),
            "predicted": int(predicted[i]),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
        }
        for i, (name, precision, recall, f1, n) in enumerate(zip(names, *columns, strict=True))
    ]


def slices(
    predictions: Predictions,
    masks: Mapping[str, Sequence[bool]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict]:
    """Accuracy on parts of the test set, each with its own n and interval.

    Args:
        masks: name -> N bools, True for the examples of that slice. Slices may overlap.

    Returns:
        one dict per slice, in the order given: slice, n, accuracy, interval (low, high). An empty
        slice has n = 0 and NaN elsewhere.
    """
    correct = predictions.correct
    rows = []
    for name, values in masks.items():
        mask = _correct(values, f"the mask of slice {name!r}")
        if len(mask) != len(correct):
            raise DataError(
                f"Slice {name!r} has {len(mask)} entries but there are {len(correct)} predictions."
            )
        part = correct[mask]
        accuracy, interval = math.nan, (math.nan, math.nan)
        if len(part):
            accuracy = float(part.mean())
            interval = accuracy_interval(part, level, resamples, seed)
        rows.append({"slice": name, "n": len(part), "accuracy": accuracy, "interval": interval})
    return rows


# --------------------------------------------------------------------------- two models


@dataclass
class Comparison:
    """Two models on the same examples.

    Attributes:
        n: examples.
        n01: examples that A got wrong and B right; n10: that A got right and B wrong.
        p_value: exact McNemar test, two-sided: how likely so uneven a split of the examples on
            which they differ is, if both are equally good.
        difference: accuracy of A minus accuracy of B, with a paired bootstrap interval.
        data: what they were compared on, as told by the caller.
    """

    n: int
    n01: int
    n10: int
    p_value: float
    accuracy_a: float
    accuracy_b: float
    difference: float
    difference_interval: Interval
    level: float = 0.95
    names: tuple[str, str] = ("A", "B")
    data: str = "the same examples"

    def __str__(self) -> str:
        a, b = self.names
        low, high = self.difference_interval
        p = "< 0.0001" if self.p_value < 0.0001 else f"= {self.p_value:.4f}"
        return "\n".join(
            [
                f"{a} against {b} on {self.data} (n = {self.n:,})",
                f"  accuracy: {a} {self.accuracy_a:.1%}, {b} {self.accuracy_b:.1%}; difference "
                f"{100 * self.difference:+.1f} points, {self.level:.0%} interval "
                f"{100 * low:+.1f} to {100 * high:+.1f}",
                f"  they differ on {self.n10 + self.n01:,}: only {a} right on {self.n10:,}, "
                f"only {b} right on {self.n01:,}",
                f"  exact McNemar test: p {p}",
            ]
        )

    __repr__ = __str__

    def to_dict(self) -> dict:
        """Plain numbers and lists, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


def compare(
    a,
    b,
    *,
    names: tuple[str, str] = ("A", "B"),
    data: str = "the same examples",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Is the difference between two models on the same examples more than chance?

    Pairing matters: both saw the same easy and hard examples, so only those on which they differ
    carry information (McNemar 1947). Two separate intervals that overlap do not answer it.

    Args:
        a, b: each a `Predictions`, or N bools that say which answers were right; row i of both is
            the same example.
        names, data: how the models and the test set are called in the printed result.

    Raises:
        DataError: unequal lengths, or predictions whose labels differ.
    """
    from scipy.stats import binomtest

    _check_resampling(level, resamples)
    right_a, right_b = _correct(a, "a"), _correct(b, "b")
    if len(right_a) != len(right_b):
        raise DataError(
            f"a holds {len(right_a)} examples but b {len(right_b)}: expected the same test set."
        )
    if isinstance(a, Predictions) and isinstance(b, Predictions):
        differ = a.require_labels() != b.require_labels()
        if differ.any():
            raise DataError(
                f"The labels differ on {differ.sum()} of {len(differ)} rows (first: row "
                f"{int(np.argmax(differ))}): expected the same test set in the same order."
            )
    n, n10, n01 = len(right_a), int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    tables = _resampled_tables(np.array([n10, n01, n - n10 - n01]), resamples, seed)
    return Comparison(
        n=n,
        n01=n01,
        n10=n10,
        p_value=float(binomtest(n01, n01 + n10, 0.5).pvalue) if n01 + n10 else 1.0,
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=(n10 - n01) / n,
        difference_interval=_percentiles((tables[:, 0] - tables[:, 1]) / n, level),
        level=level,
        names=tuple(names),
        data=data,
    )


# --------------------------------------------------------------------------- calibration


def _check_probabilities(probabilities) -> np.ndarray:
    """float64 (N, C) with rows that sum to 1."""
    array = _array(probabilities, "probabilities", np.float64)
    if array.ndim != 2:
        raise DataError(f"probabilities have shape {array.shape}: expected (examples, classes).")
    bad = ~((array >= 0).all(axis=1) & (np.abs(array.sum(axis=1) - 1) < 1e-3))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"Row {row} of the probabilities is {np.round(array[row], 3).tolist()}: expected "
            "numbers from 0 on that sum to 1. Logits become probabilities through softmax."
        )
    return array


@dataclass
class Calibration:
    """How far confidence can be taken at its word.

    Attributes:
        bins: one dict per bin (low to high): lower, upper (confidence in (lower, upper]), count,
            confidence (mean), accuracy; the last two are NaN where count is 0.
        ece: expected calibration error: the mean over examples of their bin's
            |accuracy - mean confidence|.
        n: examples.
    """

    bins: list[dict]
    ece: float
    n: int

    def __str__(self) -> str:
        head = ("confidence", "n", "mean confidence", "accuracy")
        rows = [
            (
                f"{b['lower']:.2f} to {b['upper']:.2f}",
                f"{b['count']:,}",
                f"{b['confidence']:.1%}",
                f"{b['accuracy']:.1%}",
            )
            for b in self.bins
            if b["count"]
        ]
        return _text_table([head, *rows]) + f"\nexpected calibration error {self.ece:.1%}"

    __repr__ = __str__


def calibration(probabilities, labels, bins: int = 10) -> Calibration:
    """Compare confidence with accuracy, bin by bin (Guo et al. 2017, equations 2 and 3).

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: N true classes.
        bins: equal-width bins (lower, upper] on (0, 1].
    """
    probabilities = _check_probabilities(probabilities)
    labels = _classes(labels, "labels", probabilities.shape[1])
    _same_length(probabilities=probabilities, labels=labels)
    if bins < 1:
        raise DataError(f"bins={bins}: expected at least 1.")
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    # right=True puts a confidence that equals an edge into the bin below it; clip: 1 + rounding.
    member = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    rows, ece = [], 0.0
    for i in range(bins):
        inside = member == i
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else math.nan
        accuracy = float(correct[inside].mean()) if count else math.nan
        ece += count / len(labels) * abs(accuracy - mean) if count else 0.0
        rows.append(
            {
                "lower": float(edges[i]),
                "upper": float(edges[i + 1]),
                "count": count,
                "confidence": mean,
                "accuracy": accuracy,
            }
        )
    return Calibration(rows, ece, len(labels))


TEMPERATURE_BOUNDS = (0.05, 20.0)


def fit_temperature(logits, labels) -> float:
    """The temperature T for which softmax(logits / T) gives the labels the highest likelihood.

    One number, fitted on validation data, never on the test set. T > 1 softens an overconfident
    model. The predicted classes stay what they were (Guo et al. 2017, section 4.2).

    Returns:
        T, kept within 0.05 to 20: if every answer is right, no temperature is low enough.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    known = Predictions(logits, labels)
    scores, truth = known.logits.astype(np.float64), known.require_labels()
    own = scores[np.arange(len(truth)), truth]

    def mean_nll(log_t: float) -> float:
        beta = math.exp(-log_t)
        return float((logsumexp(scores * beta, axis=1) - own * beta).mean())

    # The loss is convex in 1 / T, so in log T it has one valley: a bounded search finds it.
    bounds = tuple(math.log(t) for t in TEMPERATURE_BOUNDS)
    found = minimize_scalar(mean_nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


# --------------------------------------------------------------------------- baselines


def majority_accuracy(train_labels, test_labels) -> float:
    """Test accuracy of always answering train's most frequent class (ties: the smallest label)."""
    train = _classes(train_labels, "train_labels")
    test = _classes(test_labels, "test_labels")
    return float((test == np.bincount(train).argmax()).mean())


class _Folds:
    """Shuffled stratified folds whose training part always holds every class.

    Unlike scikit-learn's StratifiedKFold it takes classes with fewer members than folds, as 50
    labels of five grades have: their members go to different folds, an only one is never held out.
    """

    def __init__(self, folds: int, seed: int):
        self.folds, self.seed = folds, seed

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        return self.folds

    def split(self, X, y, groups=None):
        y = np.asarray(y)
        shuffled = np.random.default_rng(self.seed).permutation(len(y))
        by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
        fold = np.empty(len(y), dtype=np.int64)
        fold[by_class] = np.arange(len(y)) % self.folds
        values, counts = np.unique(y, return_counts=True)
        fold[np.isin(y, values[counts == 1])] = -1
        for i in range(self.folds):
            yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)


def tfidf_baseline(seed: int = 0):
    """TF-IDF of words and word pairs with logistic regression: the baseline to beat.

    Made to be hard to beat, since a weak baseline proves nothing: word pairs ("not good"), words of
    one letter, contractions in one piece ("isn't", SST's "n't") and ! and ? count as terms; a term
    that only one text holds is left out; the regularisation C, from 1 to 100, is the one with the
    highest accuracy in 5-fold cross-validation on the training texts, because long texts want a
    far larger C (30 and more) than sentences (about 3).

    Returns:
        an unfitted scikit-learn Pipeline of `tfidf` and `classifier`: `.fit(texts, labels)`, then
        `.predict_proba(texts)`. The same seed gives the same model.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import Pipeline

    terms = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=2,
        token_pattern=r"(?u)\w+(?:'\w+)*|'\w+|[!?]",
    )
    # saga: the multinomial model for any number of classes, and ten times faster here than lbfgs.
    classifier = LogisticRegressionCV(
        Cs=[1.0, 3.0, 10.0, 30.0, 100.0],
        cv=_Folds(5, seed),
        scoring="accuracy",
        solver="saga",
        tol=1e-3,
        max_iter=1000,
        random_state=seed,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    return Pipeline([("tfidf", terms), ("classifier", classifier)])
