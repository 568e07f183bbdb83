"""Right and wrong answers to ex03, as learners write them."""

import torch
import torch.nn.functional as F


# --- log_softmax --------------------------------------------------------------------------------
def lse_by_library(logits):
    return logits - torch.logsumexp(logits, dim=-1, keepdim=True)


def by_rows(logits):
    flat = logits.reshape(-1, logits.shape[-1])
    rows = [row - row.max() - (row - row.max()).exp().sum().log() for row in flat]
    return torch.stack(rows).reshape(logits.shape)


def by_module(logits):
    return torch.nn.LogSoftmax(dim=-1)(logits)


def overflowing(logits):
    return logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))


def log_of_softmax(logits):
    return torch.log(torch.softmax(logits, dim=-1))


def first_dimension(logits):
    return logits - torch.logsumexp(logits, dim=0, keepdim=True)


def only_softmax(logits):
    e = torch.exp(logits - logits.max(-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def global_max(logits):
    z = logits - logits.max()
    return z - z.exp().sum(-1, keepdim=True).log()


def no_keepdim(logits):
    return logits - logits.logsumexp(-1)


def sign_turned(logits):
    return torch.logsumexp(logits, -1, keepdim=True) - logits


def epsilon_in_log(logits):
    return torch.log(torch.softmax(logits, -1) + 1e-9)


def in_place(logits):
    logits -= torch.logsumexp(logits, -1, keepdim=True)
    return logits


def clamped(logits):
    return torch.log_softmax(logits.clamp(-50, 50), -1)


def quotient_first(logits):
    e = logits.exp()
    return (e / e.sum(-1, keepdim=True)).log()


def max_in_the_sum_only(logits):
    m = logits.max(-1, keepdim=True).values
    return logits - (logits - m).exp().sum(-1, keepdim=True).log()


def base_two(logits):
    return torch.log2(torch.softmax(logits, -1))


RIGHT = {"log_softmax": [lse_by_library, by_rows, by_module]}
WRONG = {
    "log_softmax": [
        (overflowing, "exp(10000) overflows"),
        (log_of_softmax, "Do not take the log of a softmax"),
        (first_dimension, "The classes are in the last one"),
        (only_softmax, "probabilities, not their logarithms"),
        (global_max, "subtract each row's own largest"),
        (no_keepdim, "keepdim=True"),
        (sign_turned, "sign is flipped"),
        (epsilon_in_log, "small constant inside the logarithm"),
        (in_place, "changes its argument `logits`"),
        (clamped, "expected:"),
        (base_two, "base 2"),
        (quotient_first, "do not take the log of a quotient"),
        (max_in_the_sum_only, "inside the sum only"),
        (lambda logits: torch.log_softmax(logits, -1).tolist(), "the result is a list"),
    ]
}


# --- cross_entropy ------------------------------------------------------------------------------
def gathered(logits, labels):
    return -torch.log_softmax(logits, -1).gather(1, labels[:, None]).mean()


def with_one_hot(logits, labels):
    one_hot = F.one_hot(labels, logits.shape[1])
    return -(one_hot * torch.log_softmax(logits, -1)).sum() / len(labels)


def lse_minus_logit(logits, labels):
    return (torch.logsumexp(logits, -1) - logits[range(len(labels)), labels]).mean()


def summed(logits, labels):
    return -torch.log_softmax(logits, -1)[range(len(labels)), labels].sum()


def plus(logits, labels):
    return torch.log_softmax(logits, -1)[range(len(labels)), labels].mean()


def every_label(logits, labels):
    return -torch.log_softmax(logits, -1)[:, labels].mean()


def over_all(logits, labels):
    return -(F.one_hot(labels, logits.shape[1]) * torch.log_softmax(logits, -1)).mean()


def over_batch(logits, labels):
    return -torch.log_softmax(logits, 0)[range(len(labels)), labels].mean()


def of_probabilities(logits, labels):
    return -torch.softmax(logits, -1)[range(len(labels)), labels].mean()


def detached(logits, labels):
    return torch.tensor(gathered(logits, labels).item())


def log_of_the_softmax(logits, labels):
    return -torch.log(torch.softmax(logits, -1)[range(len(labels)), labels]).mean()


def twice(logits, labels):
    return gathered(torch.softmax(logits, -1), labels)


def protected(logits, labels):
    return -(torch.softmax(logits, -1)[range(len(labels)), labels] + 1e-9).log().mean()


RIGHT["cross_entropy"] = [gathered, with_one_hot, lse_minus_logit]
WRONG["cross_entropy"] = [
    (summed, "the sum over the rows"),
    (plus, "sign is flipped"),
    (every_label, "Pair them"),
    (over_all, "divide by N"),
    (over_batch, "over the batch"),
    (of_probabilities, "not their logarithms"),
    (detached, "no longer depends on the logits"),
    (log_of_the_softmax, "instead of the log of a softmax"),
    (twice, "softmax was taken already"),
    (protected, "small constant inside the logarithm"),
    (lambda z, y: -torch.log_softmax(z, -1).max(-1)[0].mean(), "highest log-probability"),
    (lambda z, y: -torch.log_softmax(z, -1).amax(1).mean(), "highest log-probability"),
    (lambda z, y: gathered(z.clamp(-50, 50), y), "the right, finite numbers"),
    (lambda logits, labels: gathered(logits, labels)[None], "must be a 0-d float32 tensor"),
    (lambda logits, labels: -torch.log_softmax(logits, -1)[range(len(labels)), labels], "per row"),
]


# --- soft_cross_entropy -------------------------------------------------------------------------
def mask_then_sum(logits, targets):
    log_p = torch.where(targets == 0, torch.zeros_like(logits), torch.log_softmax(logits, -1))
    return -(targets * log_p).sum() / len(logits)


def only_where_positive(logits, targets):
    log_p = logits - torch.logsumexp(logits, -1, keepdim=True)
    keep = targets > 0
    return -(targets[keep] * log_p[keep]).sum() / logits.shape[0]


def by_rows_soft(logits, targets):
    losses = []
    for z, y in zip(logits, targets, strict=True):
        k = y != 0
        losses.append(-(y[k] * torch.log_softmax(z, 0)[k]).sum())
    return torch.stack(losses).mean()


def soft_large_instead_of_infinite(logits, targets):
    return -(targets * torch.log_softmax(logits, -1).clamp(min=-1e9)).sum(-1).mean()


def soft_plain(logits, targets):
    return -(targets * torch.log_softmax(logits, -1)).sum(-1).mean()


def soft_without_infinities(logits, targets):
    log_p = torch.log_softmax(logits, -1)
    return -(targets * log_p.masked_fill(log_p.isinf(), 0.0)).sum(-1).mean()


def soft_where_softmax(logits, targets):
    log_p = torch.log(torch.softmax(logits, -1))
    return -torch.where(targets == 0, 0.0, targets * log_p).sum(-1).mean()


RIGHT["soft_cross_entropy"] = [
    mask_then_sum, only_where_positive, by_rows_soft, soft_large_instead_of_infinite,
]  # fmt: skip
WRONG["soft_cross_entropy"] = [
    (soft_plain, "0 times -inf is NaN"),
    (lambda z, y: mask_then_sum(z, y) * len(z), "the sum over all rows"),
    (lambda z, y: mask_then_sum(z, y) / z.shape[1], "mean over rows and classes"),
    (lambda z, y: -mask_then_sum(z, y), "minus sign"),
    (lambda z, y: -torch.log_softmax(z, -1)[range(len(z)), y.argmax(-1)].mean(), "most probable"),
    (lambda z, y: -(z.softmax(-1) * y.log()).sum(-1).mean(), "swapped"),
    (lambda z, y: -(y * torch.log_softmax(z, 0)).sum(-1).mean(), "over the batch"),
    (lambda z, y: -(y * (z.softmax(-1) + 1e-9).log()).sum(-1).mean(), "small constant"),
    (lambda z, y: -(y * (z.softmax(-1) + 1e-12).log()).sum(-1).mean(), "a floor under"),
    (lambda z, y: -(y * z.clamp(min=-30).log_softmax(-1)).sum(-1).mean(), "a floor under"),
    (lambda z, y: -(y * z.softmax(-1).clamp(min=1e-7).log()).sum(-1).mean(), "a floor under"),
    (soft_without_infinities, "costs infinitely much"),
    (soft_where_softmax, "Use log_softmax"),
    (lambda z, y: mask_then_sum(z, y) - torch.special.entr(y).sum(-1).mean(), "KL divergence"),
    (lambda z, y: mask_then_sum(z.detach(), y), "no longer depends"),
]


# --- cross_entropy_grad -------------------------------------------------------------------------
def grad_one_hot(logits, labels):
    return (logits.softmax(-1) - F.one_hot(labels, logits.shape[1])) / len(labels)


def grad_loop(logits, labels):
    out = torch.empty_like(logits)
    for n, (z, y) in enumerate(zip(logits, labels.tolist(), strict=True)):
        out[n] = torch.softmax(z, 0)
        out[n, y] -= 1
    return out / logits.shape[0]


def grad_scatter(logits, labels):
    p = torch.log_softmax(logits, 1).exp() / len(logits)
    return p.scatter_add(1, labels[:, None], torch.full((len(logits), 1), -1 / len(logits)))


def grad_chain_rule(logits, labels):
    """The loss's derivative by p, times the softmax's derivatives by z."""
    p = logits.softmax(-1)
    by_p = torch.zeros_like(p)
    rows = torch.arange(len(labels))
    by_p[rows, labels] = -1 / p[rows, labels]
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return (by_p[:, :, None] * jacobian).sum(1) / len(labels)


def grad_every_column(logits, labels):
    p = logits.softmax(-1)
    p[:, labels] -= 1
    return p / len(labels)


def by_autograd(logits, labels):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(-torch.log_softmax(leaf, -1)[range(len(labels)), labels].mean(),
                               leaf)[0]  # fmt: skip


RIGHT["cross_entropy_grad"] = [grad_one_hot, grad_loop, grad_scatter]
WRONG["cross_entropy_grad"] = [
    (lambda z, y: grad_one_hot(z, y) * len(y), "divide by N"),
    (lambda z, y: -grad_one_hot(z, y), "p - y (over N)"),
    (lambda z, y: grad_one_hot(z, y) / z.shape[1], "N times C"),
    (lambda z, y: z.softmax(-1) / len(y), "has not been subtracted"),
    (lambda z, y: (z.softmax(0) - F.one_hot(y, z.shape[1])) / len(y), "over the batch"),
    (lambda z, y: (z - F.one_hot(y, z.shape[1])) / len(y), "softmax is missing"),
    (lambda z, y: grad_one_hot(z, y) * F.one_hot(y, z.shape[1]), "any other logit"),
    (
        lambda z, y: (z.exp() / z.exp().sum(-1, keepdim=True) - F.one_hot(y, z.shape[1])) / len(y),
        "not finite for large ones",
    ),
    (lambda z, y: grad_one_hot(z, y).double(), "float64"),
    (lambda z, y: -grad_one_hot(z, y) * len(y), "division by N is missing"),
    (grad_chain_rule, "there is a division by it"),
    (grad_every_column, "the columns of all labels"),
    (lambda z, y: grad_one_hot(z, y) * len(y) / z.shape[1], "divided by the number of classes"),
    (lambda z, y: (z.softmax(-1) - F.one_hot(y)) / len(y), "how many classes there are"),
    (lambda z, y: z.softmax(-1) / len(y) - F.one_hot(y, z.shape[1]), "after the division"),
    (lambda z, y: (z.log_softmax(-1) - F.one_hot(y, z.shape[1])) / len(y), "log-probabilities"),
]

# --- smoothed_cross_entropy ---------------------------------------------------------------------


def smooth_target(logits, labels, eps):
    n, c = logits.shape
    target = torch.full((n, c), eps / c)
    target[range(n), labels] += 1 - eps
    return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()


def smooth_two_parts(logits, labels, eps):
    log_p = torch.log_softmax(logits, -1)
    nll = -log_p.gather(1, labels[:, None]).squeeze(1)
    return ((1 - eps) * nll - eps * log_p.mean(-1)).mean()


def smooth_lse(logits, labels, eps):
    picked = logits[torch.arange(len(labels)), labels]
    own = (1 - eps) * picked + eps * logits.mean(-1)
    return (torch.logsumexp(logits, -1) - own).mean()


def smooth_others(logits, labels, eps):
    n, c = logits.shape
    target = torch.full((n, c), eps / (c - 1))
    target[range(n), labels] = 1 - eps
    return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()


def smooth_overwritten(logits, labels, eps):
    n, c = logits.shape
    target = torch.full((n, c), eps / c)
    target[range(n), labels] = 1 - eps
    return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()


def smooth_added(logits, labels, eps):
    target = F.one_hot(labels, logits.shape[1]) + eps / logits.shape[1]
    return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()


RIGHT["smoothed_cross_entropy"] = [smooth_target, smooth_two_parts, smooth_lse]
WRONG["smoothed_cross_entropy"] = [
    (smooth_others, "spread over all C"),
    (smooth_overwritten, "does not sum to 1"),
    (smooth_added, "added on top"),
    (lambda z, y, e: smooth_target(z, y, 0.0), "eps is not used"),
    (lambda z, y, e: (1 - e) * smooth_target(z, y, 0.0), "only the one-hot part"),
    (lambda z, y, e: smooth_target(z, y, 1 - e), "swapped"),
    (lambda z, y, e: smooth_target(z, y, e) * len(y), "the sum over the rows"),
    (lambda z, y, e: -smooth_target(z, y, e), "minus sign"),
    (
        lambda z, y, e: (
            (1 - e) * smooth_target(z, y, 0.0) - e * torch.log_softmax(z, -1).sum(-1).mean()
        ),
        "not eps / C",
    ),
    (lambda z, y, e: smooth_target(z, y, e).item(), "no longer depends"),
]  # fmt: skip


# --- masked_cross_entropy -----------------------------------------------------------------------
def masked_select(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    log_p = torch.log_softmax(logits[keep], -1)
    total = log_p.gather(-1, labels[keep][:, None]).sum()
    return -total / max(int(keep.sum()), 1)


def masked_weights(logits, labels, ignore_index=-100):
    flat, y = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    weight = (y != ignore_index).float()
    safe = torch.where(y == ignore_index, torch.zeros_like(y), y)
    losses = torch.logsumexp(flat, -1) - flat[torch.arange(len(y)), safe]
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


def masked_branch(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    if not keep.any():
        return (logits * 0.0).sum()
    return -torch.log_softmax(logits[keep], -1)[range(int(keep.sum())), labels[keep]].mean()


def masked_nan(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    return -torch.log_softmax(logits[keep], -1)[range(int(keep.sum())), labels[keep]].mean()


def masked_fixed(logits, labels, ignore_index=-100):
    return masked_weights(logits, labels, -100)


def masked_rows(logits, labels, ignore_index=-100):
    if labels.ndim == 1:
        return masked_weights(logits, labels, ignore_index)
    rows = zip(logits, labels, strict=True)
    return torch.stack([masked_weights(z, y, ignore_index) for z, y in rows]).mean()


def masked_no_graph(logits, labels, ignore_index=-100):
    if (labels == ignore_index).all():
        return torch.tensor(0.0)
    return masked_weights(logits, labels, ignore_index)


def masked_over_all(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    return masked_weights(logits, labels, ignore_index) * keep.sum() / labels.numel()


def masked_zero(logits, labels, ignore_index=-100):
    return masked_weights(logits, labels.masked_fill(labels == ignore_index, 0), 0)


def masked_counts_all(logits, labels, ignore_index=-100):
    return masked_weights(logits, labels.masked_fill(labels == ignore_index, 0), -100)


def masked_sum(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    return masked_weights(logits, labels, ignore_index) * keep.sum()


def masked_index(logits, labels, ignore_index=-100):
    log_p = torch.log_softmax(logits, -1)
    return -log_p.gather(-1, labels[..., None])[..., 0][labels != ignore_index].mean()


def masked_if_negative(logits, labels, ignore_index=-100):
    """The same whatever ignore_index is."""
    keep = labels >= 0
    of_label = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -(of_label * keep).sum() / keep.sum().clamp(min=1)


def masked_fixed_by_index(logits, labels, ignore_index=-100):
    keep = labels != -100
    of_label = torch.log_softmax(logits[keep], -1)[torch.arange(int(keep.sum())), labels[keep]]
    return -of_label.sum() / max(int(keep.sum()), 1)


def masked_clamps_labels(logits, labels, ignore_index=-100):
    """Right unless ignore_index is above the classes."""
    keep = labels != ignore_index
    of_label = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -(of_label * keep).sum() / keep.sum().clamp(min=1)


def masked_clamped_and_counted(logits, labels, ignore_index=-100):
    return -torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None]).mean()


def masked_squeeze(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    safe = labels.masked_fill(~keep, 0)
    of_label = torch.log_softmax(logits, -1).gather(-1, safe.unsqueeze(-1)).squeeze()
    return -(of_label * keep).sum() / keep.sum().clamp(min=1)


def masked_squeeze_select(logits, labels, ignore_index=-100):
    keep = labels != ignore_index
    safe = labels.masked_fill(~keep, 0)
    losses = -torch.log_softmax(logits, -1).gather(-1, safe.unsqueeze(-1)).squeeze()
    return losses[keep].sum() / keep.sum().clamp(min=1)


def masked_new_zero(logits, labels, ignore_index=-100):
    if (labels == ignore_index).all():
        return torch.tensor(0.0, requires_grad=True)
    return masked_weights(logits, labels, ignore_index)


def masked_divides(logits, labels, ignore_index=-100):
    keep = (labels != ignore_index).float()
    safe = labels.masked_fill(labels == ignore_index, 0)
    losses = -torch.log_softmax(logits, -1).gather(-1, safe[..., None])[..., 0]
    return (losses * keep).sum() / keep.sum()


RIGHT["masked_cross_entropy"] = [masked_select, masked_weights, masked_branch]
WRONG["masked_cross_entropy"] = [
    (masked_nan, "0 divided by 0"),
    (masked_fixed, "ignore_index is not used"),
    (masked_rows, "mean of row means"),
    (masked_no_graph, "backward fails"),
    (masked_over_all, "still counted in the mean"),
    (masked_zero, "0 is a class like any other"),
    (masked_counts_all, "nothing is ignored"),
    (masked_sum, "the sum over the positions"),
    (masked_index, "used as an index"),
    (masked_if_negative, "ignore_index is not used"),
    (masked_fixed_by_index, "ignore_index is not used"),
    (masked_clamps_labels, "only negative labels are"),
    (masked_clamped_and_counted, "nothing is ignored"),
    (masked_squeeze, "a dimension of length 1 was lost"),
    (masked_squeeze_select, "a dimension of length 1 was lost"),
    (masked_new_zero, "nothing to do with the logits"),
    (masked_divides, "0 divided by 0"),
    (lambda z, y, i=-100: -masked_weights(z, y, i), "minus sign"),
]
