"""Checks of ex03: the loss, by hand. The right answers are PyTorch's own losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, tensor

from sft_teach.checks.core import Case, Mistake, Seen, Task, fresh, is_right, look, with_gradient

# Any loss of torch; log_softmax, softmax and logsumexp stay allowed.
LOSSES = (
    "cross_entropy", "nll_loss", "kl_div", "binary_cross_entropy", "mse_loss", "gaussian_nll_loss",
    "binary_cross_entropy_with_logits", "multi_margin_loss", "linear_cross_entropy",
    "CrossEntropyLoss", "NLLLoss", "KLDivLoss", "BCELoss", "BCEWithLogitsLoss", "MSELoss",
    "cross_entropy_loss",
)  # fmt: skip

ONE = tensor([[1.0, 2.0, 3.0]])
TWO = tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
SQUARE = tensor([[1.0, 0.0, -1.0], [2.0, 2.5, 0.0], [0.5, -2.0, 4.0]])
DEEP = tensor([[[0.0, -1.0, 2.0], [1.0, 1.5, -0.5]], [[-1.0, 0.5, 1.0], [3.0, -3.0, 0.5]]])
BIG = tensor([[1e4, 0.0, -1e4], [9_000.0, 9_001.0, 9_000.5]])
LOW = tensor([[-1e4, -9_999.0, -9_998.0], [-9e3, -9e3, -9e3]])
APART = tensor([[1e4, 9_999.0], [-1e4, -9_999.0]])  # each row harmless, the rows far apart
COARSE = {"atol": 5e-3, "rtol": 1e-4}  # float32 has no more at 1e4

FINITE = "the right, finite numbers, however large or small the logits"


def log_p(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1)


def picked(scores: Tensor, labels: Tensor) -> Tensor:
    """The score of each row's label."""
    return scores.gather(-1, labels[..., None])[..., 0]


def unstable(logits: Tensor, dim: int = -1) -> Tensor:
    """Right on paper: exp overflows above 88, and all exp underflow below -104."""
    return logits - logits.exp().sum(dim, keepdim=True).log()


def unshifted(logits: Tensor) -> Tensor:
    """Each row's largest logit is 0."""
    return logits - logits.max(-1, keepdim=True).values


def lacks_gradient(seen: list) -> bool:
    """The first outcome has the value, and a gradient that never came."""
    value = seen[0].value
    return isinstance(value, dict) and isinstance(value.get("gradient"), str)


def agrees(task: Task, seen: list[Seen], cases: Iterable[int]) -> bool:
    """Whether these cases came out right."""
    return all(
        is_right(seen[i], look(task.reference, task, task.cases[i]), task.cases[i])
        for i in cases
        if i < len(seen)
    )


def part(seen: list[Seen], case: int, name: str) -> Any:
    """A named part of a case's outcome, or None."""
    value = seen[case].value if case < len(seen) else None
    return value.get(name) if isinstance(value, dict) else None


NO_GRADIENT = Mistake(
    "the value no longer depends on the logits for autograd, so nothing can be trained with it. "
    "Look for .item(), .detach(), .data or torch.tensor(...) on the way.",
    when=lacks_gradient,
)

# --- log_softmax --------------------------------------------------------------------------------
LOG_SOFTMAX = Task(
    reference=log_p,
    cases=[
        Case(
            fresh(ONE),
            "log-probabilities, here (-2.408, -1.408, -0.408): their exponentials sum to 1",
        ),
        Case(fresh(TWO), "each row separately: the exponentials of every row sum to 1"),
        Case(fresh(SQUARE), "each row separately: the exponentials of every row sum to 1"),
        Case(fresh(ONE[0]), "the last dimension, also of a 1-d tensor"),
        Case(fresh(DEEP), "the last dimension, also of a 3-d tensor"),
        Case(fresh(BIG), FINITE, **COARSE),
        Case(fresh(LOW), FINITE, **COARSE),
        Case(
            fresh(APART),
            "the right, finite numbers in each row, also where rows lie far apart",
            **COARSE,
        ),
    ],
    mistakes=[
        Mistake(
            "these are probabilities, not their logarithms. Which step is missing at the end?",
            lambda x: torch.softmax(x, -1),
        ),
        Mistake(
            "normalised over the first dimension. The classes are in the last one: dim=-1.",
            lambda x: torch.log_softmax(x, 0),
        ),
        Mistake(
            "normalised over all numbers at once. Each row is a distribution of its own: dim=-1.",
            lambda x: torch.log_softmax(x.flatten(), 0).reshape(x.shape),
        ),
        Mistake(
            "the sign is flipped. A log-probability is never above 0.",
            lambda x: -torch.log_softmax(x, -1),
        ),
        Mistake(
            "a logarithm of base 2. The course uses the natural one (torch.log).",
            lambda x: torch.log_softmax(x, -1) / torch.log(tensor(2.0)),
        ),
        Mistake(
            "the row's normaliser is subtracted from the wrong entries: its shape lost the last "
            "dimension and was broadcast along columns. Keep it with keepdim=True.",
            lambda x: x - torch.logsumexp(x, -1),
        ),
        Mistake(
            "right for small logits, but not finite for large ones: exp(10000) overflows. Subtract "
            "the row's largest logit first; that changes no probability.",
            unstable,
        ),
        Mistake(
            "right for small logits, but not finite for large ones: exp(10000) overflows, and a "
            "probability that underflows to 0 has the logarithm -inf. Subtract the row's largest "
            "logit first, and do not take the log of a quotient: the log of it is a difference.",
            lambda x: (x.exp() / x.exp().sum(-1, keepdim=True)).log(),
        ),
        Mistake(
            "the row's largest logit is subtracted inside the sum only, so that every result is "
            "off by it. It must go from both places, or be added back.",
            lambda x: x - unshifted(x).exp().sum(-1, keepdim=True).log(),
        ),
        Mistake(
            "a probability that underflows to 0 has the logarithm -inf. Do not take the log of a "
            "softmax: work with logits minus log-sum-exp throughout.",
            lambda x: torch.softmax(x, -1).log(),
        ),
        Mistake(
            "the largest logit of the whole tensor is subtracted. A row far below it then "
            "underflows; subtract each row's own largest (dim=-1, keepdim=True).",
            lambda x: unstable(x - x.max()),
        ),
        Mistake(
            "a small constant inside the logarithm changes the result where a probability is tiny. "
            "Subtract the row's largest logit instead; nothing needs protection then.",
            lambda x: (torch.softmax(x, -1) + 1e-9).log(),
        ),
    ],
)

# --- cross_entropy ------------------------------------------------------------------------------
LABELS = tensor([0, 2])
THREE = tensor([2, 0, 2])


def _per_row_loss(scores: Tensor, labels: Tensor) -> Tensor:
    return -picked(scores, labels)


CROSS_ENTROPY = Task(
    reference=F.cross_entropy,
    cases=[
        Case(
            fresh(tensor([[0.0, 0.0]]), tensor([1])),
            "log 2 = 0.693 for two equal logits, and the gradient (0.5, -0.5)",
            with_gradient,
        ),
        Case(
            fresh(ONE, tensor([2])), "minus the log-probability of the label, 0.408", with_gradient
        ),
        Case(fresh(TWO, LABELS), "the mean over the rows, and its gradient", with_gradient),
        Case(fresh(SQUARE, THREE), "the mean over the rows, and its gradient", with_gradient),
        Case(fresh(BIG, tensor([2, 0])), FINITE, with_gradient, **COARSE),
        Case(fresh(LOW, LABELS), FINITE, with_gradient, **COARSE),
    ],
    mistakes=[
        NO_GRADIENT,
        Mistake(
            "the sum over the rows. The task asks for their mean, so that the loss does not grow "
            "with the batch.",
            lambda x, y: F.cross_entropy(x, y, reduction="sum"),
        ),
        Mistake(
            "one loss per row. Take their mean at the end.",
            lambda x, y: F.cross_entropy(x, y, reduction="none"),
        ),
        Mistake(
            "the sign is flipped: this is the log-likelihood, which is to be made large. The loss "
            "is its negative.",
            lambda x, y: -F.cross_entropy(x, y),
        ),
        Mistake(
            "the probabilities of the labels, not their logarithms.",
            lambda x, y: -picked(x.softmax(-1), y).mean(),
        ),
        Mistake(
            "the labels' raw logits. A logit alone says nothing about the other classes: take "
            "log_softmax first.",
            lambda x, y: -picked(x, y).mean(),
        ),
        Mistake(
            "softmax over the first dimension, that is, over the batch. The classes are in the "
            "last one.",
            lambda x, y: -picked(torch.log_softmax(x, 0), y).mean(),
        ),
        Mistake(
            "every row was asked about every label: log_p[:, labels] has shape (N, N). Pair them: "
            "log_p[torch.arange(N), labels], or gather.",
            lambda x, y: -log_p(x)[:, y].mean(),
        ),
        Mistake(
            "divided by the number of all logits (N times C). Only N of the products are the "
            "labels' own: divide by N.",
            lambda x, y: F.cross_entropy(x, y) / x.shape[-1],
        ),
        Mistake(
            "the highest log-probability of each row is used, not the one of its label: a wrong "
            "answer would cost nothing.",
            lambda x, y: -log_p(x).max(-1).values.mean(),
        ),
        Mistake(
            "the highest log-probability of each row is used, not the one of its label: a wrong "
            "answer would cost nothing.",
            lambda x, y: -log_p(x).amax(-1).mean(),
        ),
        Mistake(
            "the mean over all log-probabilities: the labels are not used.",
            lambda x, y: -log_p(x).mean(),
        ),
        Mistake(
            "log_softmax is applied to probabilities: softmax was taken already. Give it the "
            "logits.",
            lambda x, y: F.cross_entropy(x.softmax(-1), y),
        ),
        Mistake(
            "right for small logits, but not finite for large ones. Use log_softmax or logsumexp, "
            "which subtract the largest logit first.",
            lambda x, y: -picked(unstable(x), y).mean(),
        ),
        Mistake(
            "a probability that underflows to 0 has the logarithm -inf. Use log_softmax instead of "
            "the log of a softmax.",
            lambda x, y: -picked(x.softmax(-1).log(), y).mean(),
        ),
        Mistake(
            "a small constant inside the logarithm hides how wrong a confident answer is. Use "
            "log_softmax; nothing needs protection then.",
            lambda x, y: -picked((x.softmax(-1) + 1e-9).log(), y).mean(),
        ),
    ],
    forbidden=LOSSES,
)

# --- soft_cross_entropy -------------------------------------------------------------------------
HALF = tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
ONE_HOT = tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
HOLE = tensor([[1.0, -torch.inf, 2.0], [0.5, 0.0, -torch.inf]])
HOLE_TARGETS = tensor([[0.25, 0.0, 0.75], [0.5, 0.5, 0.0]])
FAR = tensor([[0.0, -200.0]])
EVEN = tensor([[0.5, 0.5]])
RULED_OUT = tensor([[0.0, -torch.inf]])


def gradient_where_finite(function, arguments: tuple) -> dict[str, Any]:
    """The loss, and its gradient for the finite logits only: at -inf there is none to ask for."""
    outcome = with_gradient(function, arguments)
    if isinstance(outcome.get("gradient"), Tensor):
        outcome["gradient"] = outcome["gradient"][arguments[0].isfinite()]
    return outcome


def cost(function, arguments: tuple) -> Any:
    """The loss where it must be infinite; some write a very large number in its place."""
    value = function(*arguments)
    huge = isinstance(value, Tensor) and value.numel() == 1 and value.item() > 1e6
    return "infinite" if huge else value


def _floor(seen: list[Seen]) -> bool:
    """All is right but the loss of a far too low logit, which is too small."""
    value = part(seen, 3, "value")
    low = isinstance(value, Tensor) and value.numel() == 1 and 0 < value.item() < 99
    return low and agrees(SOFT_CROSS_ENTROPY, seen, range(3))


def _soft(logits: Tensor, targets: Tensor) -> Tensor:
    """torch's loss for finite logits; a hole is left out of the sum before anything is computed."""
    hole = targets == 0
    return -(targets * log_p(logits).masked_fill(hole, 0.0)).sum(-1).mean()


SOFT_CROSS_ENTROPY = Task(
    reference=_soft,
    cases=[
        Case(fresh(ONE, tensor([[0.2, 0.3, 0.5]])), "-sum y log p, here 1.108", with_gradient),
        Case(fresh(TWO, HALF), "-sum y log p of each row, the mean over rows", with_gradient),
        Case(fresh(SQUARE, ONE_HOT), "with one-hot targets the usual cross-entropy", with_gradient),
        Case(
            fresh(FAR, EVEN),
            "100.0: half of the target lies on a class with the log-probability -200",
            with_gradient,
        ),
        Case(fresh(BIG, HALF), FINITE, with_gradient, **COARSE),
        Case(
            fresh(RULED_OUT, EVEN),
            "an infinite loss: half of the target lies on a class of probability 0",
            cost,
        ),
        Case(
            fresh(HOLE, HOLE_TARGETS),
            "a finite loss and finite gradients: a target of 0 contributes exactly 0, also where "
            "its logit is -inf",
            gradient_where_finite,
        ),
    ],
    mistakes=[
        NO_GRADIENT,
        Mistake(
            "the sum over all rows. The mean over rows is asked for.",
            lambda x, y: _soft(x, y) * len(x),
        ),
        Mistake(
            "the mean over rows and classes. Sum over the classes, then mean over the rows.",
            lambda x, y: _soft(x, y) / x.shape[-1],
        ),
        Mistake(
            "one loss per row. Take their mean at the end.",
            lambda x, y: -(y * log_p(x).masked_fill(y == 0, 0.0)).sum(-1),
        ),
        Mistake("the minus sign is missing.", lambda x, y: -_soft(x, y)),
        Mistake(
            "this is the KL divergence: the targets' own entropy has been subtracted. The "
            "cross-entropy keeps it.",
            lambda x, y: _soft(x, y) + torch.special.entr(y).sum(-1).mean() * -1,
        ),
        Mistake(
            "only the most probable target class is used. Every class counts with its own share.",
            lambda x, y: F.cross_entropy(x, y.argmax(-1)),
        ),
        Mistake(
            "prediction and target are swapped: -sum p log y. The logarithm belongs to the "
            "prediction.",
            lambda x, y: -(x.softmax(-1) * y.log()).sum(-1).mean(),
        ),
        Mistake(
            "softmax over the first dimension, that is, over the batch. The classes are in the "
            "last one.",
            lambda x, y: -(y * torch.log_softmax(x, 0)).sum(-1).mean(),
        ),
        Mistake(
            "probabilities where their logarithms belong.",
            lambda x, y: -(y * x.softmax(-1)).sum(-1).mean(),
        ),
        Mistake(
            "whatever is infinite is left out. Only a target of 0 contributes nothing; a target of "
            "0.5 on a class that was ruled out costs infinitely much.",
            lambda x, y: -(y * log_p(x).masked_fill(log_p(x).isinf(), 0.0)).sum(-1).mean(),
        ),
        Mistake(
            "0 times -inf is NaN. Where the target is 0, replace the log-probability by 0 before "
            "you multiply.",
            lambda x, y: -(y * log_p(x)).sum(-1).mean(),
        ),
        Mistake(
            "a small constant inside the logarithm (or a clamp of the probability) changes the "
            "loss where a probability is tiny. Use log_softmax, and mask where the target is 0.",
            lambda x, y: -(y * (x.softmax(-1) + 1e-9).log()).sum(-1).mean(),
        ),
        Mistake(
            "a floor under logits or probabilities (a clamp, a small constant in the logarithm) "
            "makes a very wrong answer cheaper than it is. Use log_softmax, without a floor.",
            when=_floor,
        ),
        Mistake(
            "not finite for large logits: a probability underflows to 0 and its logarithm is -inf. "
            "Use log_softmax instead of the log of a softmax.",
            lambda x, y: -(y * x.softmax(-1).log()).sum(-1).mean(),
        ),
        Mistake(
            "not finite: a probability underflows to 0, its logarithm is -inf, and what is masked "
            "afterwards still goes through the gradient. Use log_softmax, and mask that.",
            lambda x, y: -torch.where(y == 0, 0.0, y * x.softmax(-1).log()).sum(-1).mean(),
        ),
    ],
    forbidden=LOSSES,
)


# --- cross_entropy_grad -------------------------------------------------------------------------
def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """p - y, before the division by N."""
    return logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])


def _chain_rule(logits: Tensor, labels: Tensor) -> Tensor:
    """-1/p at the label, times the derivatives of the softmax: 0/0 where p is 0."""
    p = logits.softmax(-1)
    own = picked(p, labels)[:, None]
    return own * _error(logits, labels) / own / len(logits)


def _all_columns(logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.softmax(-1)
    p[:, labels] -= 1
    return p / len(logits)


def without_autograd(function, arguments: tuple) -> Any:
    """What the function returns where autograd records nothing."""
    with torch.inference_mode():
        logits, labels = (argument.clone() for argument in arguments)
        result = function(logits, labels)
        return result.clone() if isinstance(result, Tensor) else result


def by_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's own gradient of its own loss."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, labels.clone()), leaf)
    return gradient


CROSS_ENTROPY_GRAD = Task(
    reference=by_autograd,
    cases=[
        Case(
            fresh(tensor([[0.0, 0.0]]), tensor([1])),
            "one number per logit; the label's is negative, the others' positive, sum 0",
            without_autograd,
        ),
        Case(fresh(ONE, tensor([0])), "the gradient of minus log p(label)", without_autograd),
        Case(fresh(TWO, LABELS), "the gradient of the mean over the rows", without_autograd),
        Case(fresh(SQUARE, THREE), "the gradient of the mean over the rows", without_autograd),
        Case(fresh(BIG, LABELS), FINITE, without_autograd, **COARSE),
        Case(
            fresh(BIG, tensor([2, 1])),
            "the right, finite numbers, also where the label's probability is 0",
            without_autograd,
            **COARSE,
        ),
    ],
    mistakes=[
        Mistake(
            "the gradient of the summed loss. The loss is a mean over N rows: divide by N.",
            _error,
        ),
        Mistake(
            "the sign is flipped: this is y - p, the direction of a descent step. The gradient "
            "itself is p - y (over N).",
            lambda x, y: -_error(x, y) / len(x),
        ),
        Mistake(
            "the sign is flipped, and the division by N is missing.",
            lambda x, y: -_error(x, y),
        ),
        Mistake(
            "divided by the number of all logits (N times C). The loss is a mean over N rows.",
            lambda x, y: _error(x, y) / x.numel(),
        ),
        Mistake(
            "divided by the number of classes. The loss is a mean over N rows: divide by N.",
            lambda x, y: _error(x, y) / x.shape[-1],
        ),
        Mistake(
            "the 1 is subtracted after the division by N, so that it is not divided. Subtract "
            "first.",
            lambda x, y: x.softmax(-1) / len(x) - F.one_hot(y, x.shape[-1]),
        ),
        Mistake(
            "log-probabilities where probabilities belong: it is p that is compared with y.",
            lambda x, y: (log_p(x) - F.one_hot(y, x.shape[-1])) / len(x),
        ),
        Mistake(
            "one_hot was not told how many classes there are: it makes as many columns as the "
            "largest label of this batch needs. Give it C.",
            lambda x, y: (x.softmax(-1) - F.one_hot(y)) / len(x),
        ),
        Mistake(
            "the 1 is subtracted from the columns of all labels in every row. Each row has one "
            "label: pair the rows with their labels.",
            _all_columns,
        ),
        Mistake(
            "not finite where the label's probability underflows to 0: there is a division by it. "
            "Multiply the two derivatives out on paper first; it cancels.",
            _chain_rule,
        ),
        Mistake(
            "the probabilities alone: the 1 at the label has not been subtracted.",
            lambda x, y: x.softmax(-1) / len(x),
        ),
        Mistake(
            "softmax over the first dimension, that is, over the batch. The classes are in the "
            "last one.",
            lambda x, y: (x.softmax(0) - F.one_hot(y, x.shape[-1])) / len(x),
        ),
        Mistake(
            "the raw logits minus one-hot: softmax is missing.",
            lambda x, y: (x - F.one_hot(y, x.shape[-1])) / len(x),
        ),
        Mistake(
            "only the labels' own logits got a gradient. Raising any other logit raises the loss "
            "too.",
            lambda x, y: _error(x, y) * F.one_hot(y, x.shape[-1]) / len(x),
        ),
        Mistake(
            "a factor p(1 - p) too many: that is the derivative of a squared error behind a "
            "sigmoid. For cross-entropy it cancels.",
            lambda x, y: _error(x, y) * x.softmax(-1) * (1 - x.softmax(-1)) / len(x),
        ),
        Mistake(
            "right for small logits, but not finite for large ones. Use torch.softmax, which "
            "subtracts the largest logit first.",
            lambda x, y: (
                x.exp() / x.exp().sum(-1, keepdim=True) - F.one_hot(y, x.shape[-1])
            ) / len(x),
        ),
        Mistake(
            "autograd was used. Write the closed form: it is one line.",
            when=lambda seen: "does not require grad" in str(seen[0].error)
            or "Inference tensor" in str(seen[0].error),
        ),
    ],
    forbidden=("autograd", "backward", "grad", *LOSSES),
)  # fmt: skip


# --- smoothed_cross_entropy ---------------------------------------------------------------------
def _smoothed(logits: Tensor, labels: Tensor, eps: float) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=eps)


def _mixed(logits: Tensor, labels: Tensor, own: float, uniform: float) -> Tensor:
    """own x (-log p(label)) + uniform x (-sum over classes of log p), mean over rows."""
    scores = log_p(logits)
    return -(own * picked(scores, labels) + uniform * scores.sum(-1)).mean()


SMOOTHED_CROSS_ENTROPY = Task(
    reference=_smoothed,
    cases=[
        Case(
            fresh(ONE, tensor([2]), 0.3),
            "-sum q log p for the mixed target q, here 0.708",
            with_gradient,
        ),
        Case(fresh(TWO, LABELS, 0.0), "with eps = 0 the usual cross-entropy", with_gradient),
        Case(fresh(TWO, LABELS, 0.2), "the mean over the rows", with_gradient),
        Case(fresh(SQUARE, THREE, 1.0), "with eps = 1 the labels do not matter", with_gradient),
        Case(fresh(BIG, LABELS, 0.1), FINITE, with_gradient, **COARSE),
    ],
    mistakes=[
        NO_GRADIENT,
        Mistake(
            "eps is not used: this is the usual cross-entropy.",
            lambda x, y, e: F.cross_entropy(x, y),
        ),
        Mistake(
            "eps is spread over the other C - 1 classes. Here it is spread over all C, the label's "
            "own among them.",
            lambda x, y, e: _mixed(x, y, 1 - e - e / (x.shape[-1] - 1), e / (x.shape[-1] - 1)),
        ),
        Mistake(
            "the label's own class gets 1 - eps and no share of the uniform part: the target does "
            "not sum to 1. Add eps / C to every class.",
            lambda x, y, e: _mixed(x, y, 1 - e - e / x.shape[-1], e / x.shape[-1]),
        ),
        Mistake(
            "the uniform part was added on top: the target sums to 1 + eps. The one-hot part must "
            "shrink to 1 - eps.",
            lambda x, y, e: _mixed(x, y, 1.0, e / x.shape[-1]),
        ),
        Mistake(
            "only the one-hot part is there, times 1 - eps. The uniform part, eps / C on every "
            "class, is missing.",
            lambda x, y, e: (1 - e) * F.cross_entropy(x, y),
        ),
        Mistake(
            "every class gets eps, not eps / C: the uniform part must sum to eps over all classes.",
            lambda x, y, e: _mixed(x, y, 1 - e, e),
        ),
        Mistake(
            "eps and 1 - eps are swapped: eps is the share of the uniform part.",
            lambda x, y, e: _smoothed(x, y, 1 - e),
        ),
        Mistake(
            "the sum over the rows. Their mean is asked for.",
            lambda x, y, e: _smoothed(x, y, e) * len(x),
        ),
        Mistake("the minus sign is missing.", lambda x, y, e: -_smoothed(x, y, e)),
        Mistake(
            "divided by the number of classes one time too many. Sum over the classes, then mean "
            "over the rows.",
            lambda x, y, e: _smoothed(x, y, e) / x.shape[-1],
        ),
        Mistake(
            "not finite for large logits: a probability underflows to 0 and its logarithm is -inf. "
            "Use log_softmax.",
            lambda x, y, e: (
                -(
                    (1 - e) * picked(x.softmax(-1).log(), y) + e * x.softmax(-1).log().mean(-1)
                ).mean()
            ),
        ),
    ],
    forbidden=LOSSES,
)

# --- masked_cross_entropy -----------------------------------------------------------------------
MASKED = tensor([[1, 2], [-100, 0]])
GONE = tensor([[-100, -100], [-100, -100]])
CLASS_TWO = tensor([[1, 2], [2, 0]])  # with ignore_index = 2
CLASS_ZERO = tensor([[0, 2], [1, 1]])  # with ignore_index = 0
SEVEN = tensor([[1, 7], [7, 0]])  # with ignore_index = 7


def _masked(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """PyTorch's sum over the mean's own count; 0 where nothing counts."""
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    total = F.cross_entropy(*flat, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp_min(1)


def _mean_of_means(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    if labels.ndim == 1:  # one row
        return _masked(logits, labels, ignore_index)
    rows = [_masked(x, y, ignore_index) for x, y in zip(logits, labels, strict=True)]
    return torch.stack(rows).mean()


def _nan_when_empty(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return F.cross_entropy(*flat, ignore_index=ignore_index)


def _no_gradient_when_empty(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    gone = (labels == ignore_index).all()
    return tensor(0.0) if gone else _masked(logits, labels, ignore_index)


def _new_zero_when_empty(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    gone = (labels == ignore_index).all()
    return tensor(0.0, requires_grad=True) if gone else _masked(logits, labels, ignore_index)


def _fixed(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Negative labels are left out, whatever ignore_index is; gather has an error of its own."""
    counts = labels >= 0
    return -(picked(log_p(logits), labels.clamp(min=0)) * counts).sum() / counts.sum().clamp(min=1)


def _clamped(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    return -picked(log_p(logits), labels.clamp(min=0)).mean()


def _squeezed(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """squeeze() without a dimension: (4, 1) becomes (4,), and broadcasts."""
    counts = labels != ignore_index
    scores = picked(log_p(logits), labels.masked_fill(~counts, 0)).squeeze()
    return -(scores * counts).sum() / counts.sum().clamp(min=1)


def _squeezed_and_selected(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    counts = labels != ignore_index
    scores = picked(log_p(logits), labels.masked_fill(~counts, 0)).squeeze()
    return -scores[counts].sum() / counts.sum().clamp(min=1)


def _only_nothing_is_nan(seen: list[Seen]) -> bool:
    value = part(seen, 8, "value")
    return (
        isinstance(value, Tensor)
        and bool(value.isnan().all())
        and agrees(MASKED_CROSS_ENTROPY, seen, range(8))
    )


def _only_a_high_label_fails(seen: list[Seen]) -> bool:
    return (
        len(seen) > 5
        and seen[5].raised in ("IndexError", "RuntimeError")
        and agrees(MASKED_CROSS_ENTROPY, seen, (0, 1, 2, 3, 4, 6, 7))
    )


NOT_FIXED = (
    "ignore_index is not used: the label to leave out may be another number than -100, and need "
    "not be negative. Compare with the argument."
)
SQUEEZED = (
    "a dimension of length 1 was lost: squeeze() without an argument drops every one of them. Say "
    "which dimension is to go."
)
MASKED_CROSS_ENTROPY = Task(
    reference=_masked,
    cases=[
        Case(fresh(TWO, LABELS), "nothing ignored: the usual cross-entropy", with_gradient),
        Case(
            fresh(TWO, tensor([0, -100])), "the mean over the one label that counts", with_gradient
        ),
        Case(fresh(DEEP, MASKED), "the mean over all unignored positions", with_gradient),
        Case(fresh(DEEP, CLASS_TWO, 2), "the positions labelled 2 left out", with_gradient),
        Case(fresh(DEEP, CLASS_ZERO, 0), "the positions labelled 0 left out", with_gradient),
        Case(fresh(DEEP, SEVEN, 7), "the positions labelled 7 left out", with_gradient),
        Case(
            fresh(DEEP[:, :1], tensor([[1], [-100]])),
            "the mean over the one label that counts, also where a dimension has length 1",
            with_gradient,
        ),
        Case(fresh(BIG, tensor([1, -100])), FINITE, with_gradient, **COARSE),
        Case(
            fresh(DEEP, GONE),
            "0, with gradients of 0, when every position is ignored",
            with_gradient,
        ),
    ],
    mistakes=[
        Mistake(
            "right, but when every position is ignored it returns a 0 that does not depend on the "
            "logits, and backward fails. Let the 0 come out of the same computation.",
            _no_gradient_when_empty,
        ),
        Mistake(
            "right, but when every position is ignored it returns a new 0 that has nothing to do "
            "with the logits: they get no gradient. Let the 0 come out of the same computation.",
            _new_zero_when_empty,
        ),
        NO_GRADIENT,
        Mistake(
            "NaN when every position is ignored: 0 divided by 0. Divide by at least 1.",
            _nan_when_empty,
        ),
        Mistake(
            "NaN when every position is ignored: 0 divided by 0. Divide by at least 1.",
            when=_only_nothing_is_nan,
        ),
        Mistake(
            "ignore_index above the largest class ends in an error: only negative labels are "
            "replaced before they are used as an index. Replace what equals ignore_index.",
            when=_only_a_high_label_fails,
        ),
        Mistake(SQUEEZED, _squeezed),
        Mistake(SQUEEZED, _squeezed_and_selected),
        Mistake(
            "the ignored positions are left out of the sum, but still counted in the mean. Divide "
            "by the number of labels that count.",
            lambda x, y, i=-100: _masked(x, y, i) * (y != i).float().mean(),
        ),
        Mistake(
            "a mean of row means: a token in a row with few labels counts more. Take one mean over "
            "all unignored positions.",
            _mean_of_means,
        ),
        Mistake(
            "the sum over the positions. Divide by the number of labels that count.",
            lambda x, y, i=-100: _masked(x, y, i) * (y != i).sum(),
        ),
        Mistake(NOT_FIXED, lambda x, y, i=-100: _masked(x, y, -100)),
        Mistake(NOT_FIXED, _fixed),
        Mistake(
            "label 0 is left out, or used where a label is ignored. 0 is a class like any other.",
            lambda x, y, i=-100: _masked(x, y.masked_fill(y == i, 0), 0),
        ),
        Mistake(
            "nothing is ignored: the ignored positions were given label 0 and counted.",
            lambda x, y, i=-100: _masked(x, y.masked_fill(y == i, 0), -100),
        ),
        Mistake(
            "nothing is ignored: negative labels became label 0 and were counted.",
            _clamped,
        ),
        Mistake(
            "the ignored label is used as an index: there is no class -100 (or it picks one from "
            "the end). Replace it by any class first, then leave that position out of the mean.",
            lambda x, y, i=-100: -picked(log_p(x), y)[y != i].mean(),
        ),
        Mistake("the minus sign is missing.", lambda x, y, i=-100: -_masked(x, y, i)),
        Mistake(
            "only for (N, C). Logits may have any number of dimensions before the classes.",
            lambda x, y, i=-100: _masked(x, y, i) if x.ndim == 2 else x.shape[3],
        ),
    ],
    forbidden=LOSSES,
)

TASKS = {
    "log_softmax": LOG_SOFTMAX,
    "cross_entropy": CROSS_ENTROPY,
    "soft_cross_entropy": SOFT_CROSS_ENTROPY,
    "cross_entropy_grad": CROSS_ENTROPY_GRAD,
    "smoothed_cross_entropy": SMOOTHED_CROSS_ENTROPY,
    "masked_cross_entropy": MASKED_CROSS_ENTROPY,
}
