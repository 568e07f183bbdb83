"""Right and wrong answers to ex04, as learners write them."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# --- warmup_linear ------------------------------------------------------------------------------
def warmup_by_cases(step, warmup, total):
    if step >= total:
        return 0  # an int is a Python number as well
    elif step < warmup:
        return (step + 1) / warmup
    return 1 - (step - warmup) / (total - warmup)


def warmup_one_line(step, warmup, total):
    if step < min(warmup, total):
        return (1 + step) / warmup
    return max(total - step, 0) / max(total - warmup, 1)


def warmup_by_min(step, warmup, total):
    rise = (step + 1) / warmup if warmup else 1.0
    fall = (total - step) / (total - warmup) if total > warmup else float(step < total)
    return max(0.0, min(1.0, rise, fall)) if step < total else 0.0


def warmup_from_zero(step, warmup, total):
    if step >= total:
        return 0.0
    return step / warmup if step < warmup else (total - step) / (total - warmup)


def warmup_asked_first(step, warmup, total):
    if step < warmup:
        return (step + 1) / warmup
    if step >= total:
        return 0.0
    return (total - step) / (total - warmup)


def warmup_below_zero(step, warmup, total):
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(total - warmup, 1)


def warmup_zero_divides(step, warmup, total):
    if step >= total:
        return 0.0
    return min((step + 1) / warmup, (total - step) / (total - warmup))


def warmup_over_total(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) / warmup if step < warmup else 1 - step / total


def warmup_one_early(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) / warmup if step < warmup else (total - step - 1) / (total - warmup)


def warmup_inclusive(step, warmup, total):
    if step >= total:
        return 0.0
    if step <= warmup and warmup:
        return (step + 1) / warmup
    return (total - step) / (total - warmup)


def warmup_stays(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) / warmup if step < warmup else 1.0


def warmup_too_late(step, warmup, total):
    """> for >=: right wherever total - warmup is above 0."""
    if step > total:
        return 0.0
    return (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)


def warmup_cosine(step, warmup, total):
    if step >= total:
        return 0.0
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def warmup_plus_one(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) / (warmup + 1) if step < warmup else (total - step) / (total - warmup)


def warmup_whole(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) // warmup if step < warmup else (total - step) / (total - warmup)


def warmup_whole_fall(step, warmup, total):
    if step >= total:
        return 0.0
    return (step + 1) / warmup if step < warmup else float((total - step) // (total - warmup))


def warmup_never_ends(step, warmup, total):
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / (total - warmup)


def warmup_shortened(step, warmup, total):
    return warmup_by_cases(step, min(warmup, total), total)


def warmup_dropped(step, warmup, total):
    if warmup >= total:
        warmup = 0
    return warmup_by_cases(step, warmup, total)


def warmup_dropped_beyond(step, warmup, total):
    if warmup > total:
        warmup = 0
    return warmup_by_cases(step, warmup, total)


def warmup_none(step, warmup, total):
    return max(0.0, (total - step) / total)


RIGHT = {"warmup_linear": [warmup_by_cases, warmup_one_line, warmup_by_min]}
WRONG = {
    "warmup_linear": [
        (warmup_from_zero, "the warm-up starts at 0"),
        (warmup_asked_first, "must be asked first"),
        (warmup_below_zero, "goes on below 0"),
        (warmup_zero_divides, "with warmup = 0 it divides by 0"),
        (warmup_over_total, "total - warmup steps"),
        (warmup_one_early, "one step early"),
        (warmup_inclusive, "compare with < and not with <="),
        (warmup_stays, "stays at 1"),
        (warmup_too_late, ">= and not >"),
        (warmup_cosine, "a straight line"),
        (warmup_plus_one, "exactly `warmup` steps"),
        (warmup_whole, "whole-number division"),
        (warmup_whole_fall, "whole-number division"),
        (warmup_never_ends, "goes on below 0"),
        (warmup_shortened, "cut off"),
        (warmup_dropped, "cut off"),
        (warmup_dropped_beyond, "cut off"),
        (warmup_none, "there is no warm-up"),
        (lambda step, warmup, total: torch.tensor(warmup_by_min(step, warmup, total)), "tensor"),
    ]
}


# --- clip_gradients -----------------------------------------------------------------------------
def clip_flat(grads, max_norm):
    if not grads:
        return 0.0
    norm = torch.cat([g.reshape(-1) for g in grads]).norm().item()
    if math.isfinite(norm) and norm > max_norm:
        for g in grads:
            g *= max_norm / norm
    return norm


def clip_stack(grads, max_norm):
    norms = [torch.linalg.vector_norm(g) for g in grads]
    norm = torch.linalg.vector_norm(torch.stack(norms)).item() if norms else 0.0
    if not math.isinf(norm) and not math.isnan(norm):
        factor = min(1.0, max_norm / (norm + 1e-6))  # PyTorch's protection
        for g in grads:
            g.mul_(factor)
    return norm


def clip_library(grads, max_norm):
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    before = [g.clone() for g in grads]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not math.isfinite(norm):
        for g, old in zip(grads, before, strict=True):
            g.copy_(old)
    return norm


def clip_divides(grads, max_norm):
    norm = sum(float((g**2).sum()) for g in grads) ** 0.5
    if max_norm < norm < math.inf:
        for g in grads:
            g.div_(norm / max_norm)
    return norm


def clip_each(grads, max_norm):
    for g in grads:
        clip_divides([g], max_norm)
    return math.sqrt(sum(float(g.square().sum()) for g in grads))


def clip_each_right_norm(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    for g in grads:
        if math.isfinite(norm):
            clip_divides([g], max_norm)
    return norm


def clip_as_parameters(grads, max_norm):
    return nn.utils.clip_grad_norm_(grads, max_norm).item()


def clip_new_tensors(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if max_norm < norm < math.inf:
        for i, g in enumerate(grads):
            grads[i] = g * max_norm / norm
    return norm


def clip_loop_variable(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if max_norm < norm < math.inf:
        for g in grads:
            g = g * max_norm / norm
    return norm


def clip_like_torch(grads, max_norm):
    if not grads:
        return 0.0
    norm = torch.cat([g.flatten() for g in grads]).norm()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor)
    return norm.item()


def clip_no_guard(grads, max_norm):
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_no_nan_guard(grads, max_norm):
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    if norm != math.inf and not norm <= max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_zeroes(grads, max_norm):
    norm = clip_divides(grads, max_norm)
    if not math.isfinite(norm):
        for g in grads:
            g.zero_()
    return norm


def clip_always(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if math.isfinite(norm):
        for g in grads:
            g.mul_(max_norm / (norm + 1e-6))
    return norm


def clip_zero_division(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if math.isfinite(norm) and grads:
        factor = min(1.0, max_norm / norm)
        for g in grads:
            g.mul_(factor)
    return norm


def clip_no_empty(grads, max_norm):
    norm = torch.stack([g.norm() for g in grads]).norm().item()
    if max_norm < norm < math.inf:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_returns_after(grads, max_norm):
    clip_divides(grads, max_norm)
    return math.sqrt(sum(float(g.square().sum()) for g in grads))


def clip_squared(grads, max_norm):
    norm = sum(float(g.square().sum()) for g in grads)
    if max_norm < norm < math.inf:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_summed(grads, max_norm):
    norm = float(sum(g.norm().item() for g in grads))
    if max_norm < norm < math.inf:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_values(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    for g in grads if math.isfinite(norm) else []:
        g.clamp_(-max_norm, max_norm)
    return norm


def clip_absolute(grads, max_norm):
    norm = float(sum(g.abs().sum().item() for g in grads))
    if max_norm < norm < math.inf:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_finite_only(grads, max_norm):
    """Leaves out what is not finite, and returns a norm that is."""
    norm = math.sqrt(sum(float(g[g.isfinite()].square().sum()) for g in grads))
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def clip_returns_nothing(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if not math.isfinite(norm):
        return None
    return clip_divides(grads, max_norm)


def clip_refuses(grads, max_norm):
    norm = clip_divides([g.clone() for g in grads], max_norm)
    if not math.isfinite(norm):
        raise ValueError(norm)
    return clip_divides(grads, max_norm)


def clip_values_no_empty(grads, max_norm):
    norm = torch.cat([g.flatten() for g in grads]).norm().item()
    for g in grads if math.isfinite(norm) else []:
        g.clamp_(-max_norm, max_norm)
    return norm


def clip_values_unguarded(grads, max_norm):
    """By value, whatever the norm; and torch.cat has no word for an empty list."""
    norm = torch.cat([g.flatten() for g in grads]).norm().item()
    for g in grads:
        g.clamp_(-max_norm, max_norm)
    return norm


def clip_tensor_norm(grads, max_norm):
    """A tensor comes back, and with an empty list an error."""
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    if torch.isfinite(norm) and norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


RIGHT["clip_gradients"] = [clip_flat, clip_stack, clip_library, clip_divides]
WRONG["clip_gradients"] = [
    (clip_each_right_norm, "clipped by itself"),
    (clip_each, "expected:"),
    (clip_as_parameters, "takes parameters"),
    (clip_new_tensors, "a new tensor never reaches the caller"),
    (clip_loop_variable, "a new tensor never reaches the caller"),
    (clip_like_torch, "inf / inf is NaN"),
    (clip_no_guard, "with an infinite norm"),
    (clip_no_nan_guard, "NaN is not infinite"),
    (clip_zeroes, "are set to 0"),
    (clip_always, "are made longer"),
    (clip_zero_division, "with gradients of 0 it divides by 0"),
    (clip_no_empty, "with an empty list"),
    (clip_returns_after, "the norm after clipping"),
    (clip_squared, "square root is missing"),
    (clip_summed, "add the squares"),
    (clip_values, "cut off at max_norm"),
    (clip_absolute, "sum of absolute values"),
    (clip_returns_nothing, "nothing is returned"),
    (clip_refuses, "it breaks off"),
    (clip_values_unguarded, "cut off at max_norm"),
    (clip_tensor_norm, "the norm is a tensor"),
    (clip_values_no_empty, "cut off at max_norm"),
    (lambda grads, max_norm: np.float64(clip_divides(grads, max_norm)), "a NumPy float64"),
    (clip_finite_only, "expected:"),
    (lambda grads, max_norm: torch.tensor(clip_divides(grads, max_norm)), "the norm is a 0-d"),
]


# --- decay_groups -------------------------------------------------------------------------------
def groups_by_loop(model, weight_decay):
    first, second = [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        (first if parameter.dim() > 1 else second).append(parameter)
    return [
        {"params": first, "weight_decay": weight_decay},
        {"params": second, "weight_decay": 0.0},
    ]


def groups_by_identity(model, weight_decay):
    once = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            once[id(parameter)] = parameter
    kept = [p for p in once.values() if p.requires_grad]
    matrices = [p for p in kept if len(p.shape) >= 2]
    known = {id(p) for p in matrices}
    rest = [p for p in kept if id(p) not in known]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"weight_decay": 0, "params": rest},
    ]


def groups_by_name(model, weight_decay):
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decays = sorted(n for n, p in named.items() if p.ndim >= 2)
    other = sorted(set(named) - set(decays))
    return [
        dict(params=[named[n] for n in decays], weight_decay=weight_decay),
        dict(params=[named[n] for n in other], weight_decay=0.0),
    ]


def _split(parameters, decays, weight_decay):
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]


def groups_bias_by_name(model, weight_decay):
    first, second = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (second if name.endswith("bias") else first).append(p)
    return [
        {"params": first, "weight_decay": weight_decay},
        {"params": second, "weight_decay": 0.0},
    ]


def groups_norm_by_name(model, weight_decay):
    first, second = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            plain = "bias" in name or "norm" in name.lower()
            (second if plain else first).append(p)
    return [
        {"params": first, "weight_decay": weight_decay},
        {"params": second, "weight_decay": 0.0},
    ]


def groups_with_frozen(model, weight_decay):
    return _split(model.parameters(), lambda p: p.ndim >= 2, weight_decay)


def groups_frozen_second(model, weight_decay):
    return _split(model.parameters(), lambda p: p.ndim >= 2 and p.requires_grad, weight_decay)


def groups_tied_twice(model, weight_decay):
    named = model.named_parameters(remove_duplicate=False)
    return _split([p for _, p in named if p.requires_grad], lambda p: p.ndim >= 2, weight_decay)


def groups_only_two(model, weight_decay):
    kept = [p for p in model.parameters() if p.requires_grad]
    return _split(kept, lambda p: p.ndim == 2, weight_decay)


def groups_no_scalar(model, weight_decay):
    groups = groups_by_loop(model, weight_decay)
    groups[1]["params"] = [p for p in groups[1]["params"] if p.ndim == 1]
    return groups


def groups_one_missing(model, weight_decay):
    return [group for group in groups_by_loop(model, weight_decay) if group["params"]]


def groups_same_decay(model, weight_decay):
    return [group | {"weight_decay": weight_decay} for group in groups_by_loop(model, weight_decay)]


def groups_one_key(model, weight_decay):
    first, second = groups_by_loop(model, weight_decay)
    return [first, {"params": second["params"]}]


def groups_pairs(model, weight_decay):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [pair for pair in named if pair[1].ndim >= 2], "weight_decay": weight_decay},
        {"params": [pair for pair in named if pair[1].ndim < 2], "weight_decay": 0.0},
    ]


def groups_filter(model, weight_decay):
    groups = groups_by_loop(model, weight_decay)
    return [group | {"params": filter(None.__ne__, group["params"])} for group in groups]


def groups_shallow(model, weight_decay):
    kept = [p for c in model.children() for p in c.parameters(recurse=False) if p.requires_grad]
    kept += [p for p in model.parameters(recurse=False) if p.requires_grad]
    return _split({id(p): p for p in kept}.values(), lambda p: p.ndim >= 2, weight_decay)


def groups_fixed(model, weight_decay):
    return groups_by_loop(model, 0.01)


def groups_frozen_first_only(model, weight_decay):
    """`requires_grad` is asked for in the second group alone."""
    kept = list(model.parameters())
    return [
        {"params": [p for p in kept if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in kept if p.ndim < 2 and p.requires_grad], "weight_decay": 0.0},
    ]


def groups_frozen_second_only(model, weight_decay):
    kept = list(model.parameters())
    return [
        {
            "params": [p for p in kept if p.ndim >= 2 and p.requires_grad],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in kept if p.ndim < 2], "weight_decay": 0.0},
    ]


def groups_by_name_frozen(model, weight_decay):
    named = list(model.named_parameters())
    plain = [p for n, p in named if "bias" in n or "norm" in n]
    return [
        {"params": [p for n, p in named if not ("bias" in n or "norm" in n)],
         "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]  # fmt: skip


def groups_with_names(model, weight_decay):
    first, second = groups_by_loop(model, weight_decay)
    return [first | {"name": "decay"}, second | {"name": "rest"}]


RIGHT["decay_groups"] = [groups_by_loop, groups_by_identity, groups_by_name]
WRONG["decay_groups"] = [
    (groups_bias_by_name, "LayerNorm scales decay"),
    (groups_norm_by_name, "names decide here"),
    (groups_with_frozen, "frozen parameters are in the groups"),
    (groups_frozen_second, "frozen parameters are in the second"),
    (groups_frozen_first_only, "frozen parameters are in the first"),
    (groups_frozen_second_only, "frozen parameters are in the second"),
    (groups_by_name_frozen, "names decide here, and frozen"),
    (groups_with_names, "exactly the keys"),
    (groups_tied_twice, "a shared parameter is there twice"),
    (groups_only_two, "2 or more"),
    (groups_no_scalar, "a single number"),
    (groups_one_missing, "There are always two"),
    (groups_same_decay, "both groups decay"),
    (groups_one_key, "exactly the keys"),
    (groups_pairs, "pairs of name and parameter"),
    (groups_filter, "`params` is not a list"),
    (groups_shallow, "deeper in the model"),
    (groups_fixed, "weight_decay is not used"),
    (lambda model, decay: groups_by_loop(model, decay)[::-1], "in the other order"),
    (lambda model, decay: tuple(groups_by_loop(model, decay)), "must be a list"),
    (lambda model, decay: groups_by_loop(model, decay)[0], "must be a list"),
]


# --- adamw_step ---------------------------------------------------------------------------------
def adamw_formula(p, g, m, v, step, lr, betas, eps, weight_decay):
    b1, b2 = betas
    m.copy_(b1 * m + (1 - b1) * g)
    v.copy_(b2 * v + (1 - b2) * g**2)
    ratio = (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
    p.copy_(p - lr * weight_decay * p - lr * ratio)


def adamw_like_torch(p, g, m, v, step, lr, betas, eps, weight_decay):
    p *= 1 - lr * weight_decay
    m.lerp_(g, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    root = (v.sqrt() / math.sqrt(1 - betas[1] ** step)).add_(eps)
    p.addcdiv_(m, root, value=-lr / (1 - betas[0] ** step))


def adamw_assigned(p, g, m, v, step, lr, betas, eps, weight_decay):
    m[...] = betas[0] * m + (1 - betas[0]) * g
    v[...] = betas[1] * v + (1 - betas[1]) * g.square()
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    p -= lr * (m_hat / (v_hat**0.5 + eps) + weight_decay * p)


def adamw_library(p, g, m, v, step, lr, betas, eps, weight_decay):
    parameter = nn.Parameter(p.clone())
    options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW([parameter], **options)
    count = torch.tensor(float(step - 1))
    optimizer.state[parameter] = {"step": count, "exp_avg": m, "exp_avg_sq": v}
    parameter.grad = g.clone()
    optimizer.step()
    p.copy_(parameter.detach())


def _adamw_but(
    decay=lambda p, lr, wd: p * (1 - lr * wd),
    gradient=lambda g, p, wd: g,
    averages=lambda b1, b2: (b1, b2),
    square=torch.square,
    correct=lambda b1, b2, t: (1 - b1**t, 1 - b2**t),
    root=lambda v, c, eps: (v / c).sqrt() + eps,
    sign=-1,
):
    """A step with one thing changed."""

    def step_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
        b1, b2 = averages(*betas)
        g = gradient(g, p, weight_decay)
        m.copy_(b1 * m + (1 - b1) * g)
        v.copy_(b2 * v + (1 - b2) * square(g))
        c1, c2 = correct(b1, b2, step)
        p.copy_(decay(p, lr, weight_decay) + sign * lr * (m / c1) / root(v, c2, eps))

    return step_in_place


def adamw_not_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
    b1, b2 = betas
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    p = p - lr * weight_decay * p
    p = p - lr * (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)


def adamw_p_only(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p, g, m.clone(), v.clone(), step, lr, betas, eps, weight_decay)


def adamw_moments_only(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p.clone(), g, m, v, step, lr, betas, eps, weight_decay)


def adamw_corrected_kept(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p, g, m, v, step, lr, betas, eps, weight_decay)
    m /= 1 - betas[0] ** step
    v /= 1 - betas[1] ** step


def adamw_g_changed(p, g, m, v, step, lr, betas, eps, weight_decay):
    g.add_(p, alpha=weight_decay)
    adamw_formula(p, g, m, v, step, lr, betas, eps, 0.0)


def adamw_decay_after(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p, g, m, v, step, lr, betas, eps, 0.0)
    p *= 1 - lr * weight_decay


def adamw_returns(p, g, m, v, *rest):
    adamw_formula(p, g, m, v, *rest)
    return p


def adamw_old_averages(p, g, m, v, step, lr, betas, eps, weight_decay):
    old_m, old_v = m.clone(), v.clone()
    adamw_formula(p.clone(), g, m, v, step, lr, betas, eps, weight_decay)
    last = max(step - 1, 1)
    m_hat, v_hat = old_m / (1 - betas[0] ** last), old_v / (1 - betas[1] ** last)
    p.copy_(p * (1 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + eps))


def adamw_shape(p, g, m, v, *rest):
    adamw_formula(p, g, m, v, *rest)
    p.resize_(1, *p.shape)


def adamw_shares(m_share=None, v_share=None, m_keep=None, v_keep=None):
    """The update with other shares in the two averages (None: the right one)."""

    def step_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
        b1, b2 = betas
        m.copy_((m_keep or b1) * m + (m_share or 1 - b1) * g)
        v.copy_((v_keep or b2) * v + (v_share or 1 - b2) * g**2)
        ratio = (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
        p.copy_(p - lr * weight_decay * p - lr * ratio)

    return step_in_place


def adamw_m_divided(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p, g, m, v, step, lr, betas, eps, weight_decay)
    m /= 1 - betas[0] ** step


def adamw_v_divided(p, g, m, v, step, lr, betas, eps, weight_decay):
    adamw_formula(p, g, m, v, step, lr, betas, eps, weight_decay)
    v /= 1 - betas[1] ** step


def adamw_decay_inside(p, g, m, v, step, lr, betas, eps, weight_decay):
    b1, b2 = betas
    m.copy_(b1 * m + (1 - b1) * g)
    v.copy_(b2 * v + (1 - b2) * g**2)
    top = m / (1 - b1**step) + weight_decay * p
    p.copy_(p - lr * top / ((v / (1 - b2**step)).sqrt() + eps))


def adamw_root_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
    b1, b2 = betas
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p.mul_(1 - lr * weight_decay)
    root = v.sqrt_() / math.sqrt(1 - b2**step)
    p.sub_(lr * (m / (1 - b1**step)) / (root + eps))


RIGHT["adamw_step"] = [adamw_formula, adamw_like_torch, adamw_assigned, adamw_library]
WRONG["adamw_step"] = [
    (adamw_not_in_place, "p, m and v are as they were"),
    (adamw_p_only, "m and v are not updated in place"),
    (adamw_moments_only, "p itself is as it was"),
    (adamw_g_changed, "changes its argument `g`"),
    (adamw_corrected_kept, "written back into m and v"),
    (adamw_decay_after, "Take it from p first"),
    (adamw_returns, "returns None"),
    (adamw_old_averages, "from before this gradient"),
    (adamw_shape, "expected:"),
    (
        _adamw_but(lambda p, lr, wd: p, gradient=lambda g, p, wd: g + wd * p),
        "Adam with L2",
    ),
    (_adamw_but(lambda p, lr, wd: p * (1 - wd)), "not multiplied by the learning rate"),
    (_adamw_but(lambda p, lr, wd: p), "weight_decay is not used"),
    (_adamw_but(lambda p, lr, wd: p * (1 + lr * wd)), "pulls p towards 0"),
    (_adamw_but(averages=lambda b1, b2: (b2, b1)), "the two betas are swapped"),
    (_adamw_but(averages=lambda b1, b2: (1 - b1, 1 - b2)), "expected:"),
    (adamw_shares(m_share=1, v_share=1), "its share is 1 minus beta"),
    (adamw_shares(m_share=1), "gradient is added to m with its whole size"),
    (adamw_shares(v_share=1), "squared gradient is added to v with its whole size"),
    (adamw_shares(m_keep=1, v_keep=1), "the old m and v each keeps its whole size"),
    (adamw_shares(m_keep=1), "the old m keeps its whole size"),
    (adamw_shares(v_keep=1), "the old v keeps its whole size"),
    (adamw_m_divided, "bias-corrected m is written back into m"),
    (adamw_v_divided, "bias-corrected v is written back into v"),
    (adamw_decay_inside, "the decay is divided by the root"),
    (adamw_root_in_place, "v holds a square root"),
    (_adamw_but(square=torch.abs), "absolute value"),
    (_adamw_but(correct=lambda b1, b2, t: (1, 1)), "bias correction is missing"),
    (_adamw_but(correct=lambda b1, b2, t: (1 - b1**t, 1)), "bias correction of v is missing"),
    (_adamw_but(correct=lambda b1, b2, t: (1, 1 - b2**t)), "bias correction of m is missing"),
    (
        _adamw_but(correct=lambda b1, b2, t: (1 - b1 ** (t + 1), 1 - b2 ** (t + 1))),
        "uses step + 1",
    ),
    (_adamw_but(correct=lambda b1, b2, t: (1 - b1 * t, 1 - b2 * t)), "beta times step"),
    (_adamw_but(root=lambda v, c, eps: (v / c + eps).sqrt()), "inside the square root"),
    (_adamw_but(root=lambda v, c, eps: (v.sqrt() + eps) / c**0.5), "before the bias correction"),
    (_adamw_but(root=lambda v, c, eps: v / c + eps), "square root is missing"),
    (_adamw_but(root=lambda v, c, eps: (v / c).sqrt()), "eps is missing"),
    (_adamw_but(sign=1), "uphill"),
]


# --- accumulated_loss ---------------------------------------------------------------------------
def _flat(model, inputs, labels):
    logits = model(inputs)
    return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)


def _count(micro_batches):
    return sum((labels != -100).sum().item() for _, labels in micro_batches)


def accumulated_means(micro_batches, model):
    """Each micro-batch's own mean, weighed by its share of the labels."""
    count, total = _count(micro_batches), torch.tensor(0.0)
    for inputs, labels in micro_batches:
        n = (labels != -100).sum().item()
        if n:
            loss = F.cross_entropy(*_flat(model, inputs, labels)) * (n / count)
            loss.backward()
            total = total + loss.detach()
    return total


def accumulated_scaled(micro_batches, model):
    """Sums first; one division at the end, of what was added."""
    count = max(_count(micro_batches), 1)
    total = torch.zeros(())
    old = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    for inputs, labels in micro_batches:
        logits, flat = _flat(model, inputs, labels)
        keep = flat != -100
        picked = torch.log_softmax(logits, -1)[keep, flat[keep]]
        (-picked.sum()).backward()
        total -= picked.sum().detach()
    for p, before in zip(model.parameters(), old, strict=True):
        if p.grad is not None:
            p.grad /= count
            p.grad += 0 if before is None else before
    return total / count


def accumulated_at_once(micro_batches, model):
    """Right gradients, though not the memory that was to be saved."""
    count = _count(micro_batches)
    if count == 0:
        return torch.zeros(())
    losses = [
        F.cross_entropy(*_flat(model, *batch), reduction="sum") / count for batch in micro_batches
    ]
    sum(losses).backward()
    return sum(losses).detach()


def _accumulate(micro_batches, model, divisor):
    total = torch.zeros(())
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum")
        loss = loss / divisor(labels)
        loss.backward()
        total += loss.detach()
    return total


def accumulated_right(micro_batches, model):
    count = max(_count(micro_batches), 1)
    return _accumulate(micro_batches, model, lambda labels: count)


def accumulated_mean_of_means(micro_batches, model):
    total = torch.zeros(())
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels)) / len(micro_batches)
        loss.backward()
        total += loss.detach()
    return total


def accumulated_sum_of_means(micro_batches, model):
    return _accumulate(micro_batches, model, lambda labels: max((labels != -100).sum().item(), 1))


def accumulated_sum(micro_batches, model):
    return _accumulate(micro_batches, model, lambda labels: 1)


def accumulated_all_positions(micro_batches, model):
    count = sum(labels.numel() for _, labels in micro_batches)
    return _accumulate(micro_batches, model, lambda labels: count)


def accumulated_safe_means(micro_batches, model):
    n = len(micro_batches)
    return _accumulate(
        micro_batches, model, lambda labels: n * max((labels != -100).sum().item(), 1)
    )


def accumulated_unguarded(micro_batches, model):
    count = torch.tensor(_count(micro_batches))
    return _accumulate(micro_batches, model, lambda labels: count)


def accumulated_zero_division(micro_batches, model):
    """A Python number in the divisor: 0.0 / 0 of a tensor is NaN, of a number an error."""
    count = _count(micro_batches)
    return _accumulate(micro_batches, model, lambda labels: 1 / (1 / count))


def accumulated_cleared(micro_batches, model):
    model.zero_grad()
    return accumulated_right(micro_batches, model)


def accumulated_cleared_between(micro_batches, model):
    count, total = max(_count(micro_batches), 1), torch.zeros(())
    for inputs, labels in micro_batches:
        model.zero_grad()
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / count
        loss.backward()
        total += loss.detach()
    return total


def accumulated_last(micro_batches, model):
    count = max(_count(micro_batches), 1)
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / count
        loss.backward()
    return loss.detach()


def accumulated_no_backward(micro_batches, model):
    count = max(_count(micro_batches), 1)
    total = torch.zeros(())
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum")
        total += loss.detach() / count
    return total


def accumulated_with_graph(micro_batches, model):
    count, total = max(_count(micro_batches), 1), torch.zeros(())
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / count
        loss.backward(retain_graph=True)
        total = total + loss
    return total


def accumulated_running(micro_batches, model):
    count, total = max(_count(micro_batches), 1), torch.zeros(())
    for inputs, labels in micro_batches:
        total = total + F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / count
        total.backward(retain_graph=True)
    return total.detach()


def accumulated_average_returned(micro_batches, model):
    return accumulated_right(micro_batches, model) / len(micro_batches)


def accumulated_by_rows(micro_batches, model):
    rows = sum(len(labels) for _, labels in micro_batches)
    return _accumulate(
        micro_batches,
        model,
        lambda labels: rows * max((labels != -100).sum().item(), 1) / len(labels),
    )


def accumulated_and_stepped(micro_batches, model):
    loss = accumulated_right(micro_batches, model)
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return loss


def accumulated_in_double(micro_batches, model):
    """Adds up in float64, and returns float32."""
    count, total = max(_count(micro_batches), 1), torch.zeros((), dtype=torch.float64)
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / count
        loss.backward()
        total += loss.detach().double()
    return total.float()


def accumulated_eval(micro_batches, model):
    model.eval()
    return accumulated_right(micro_batches, model)


def accumulated_unflattened(micro_batches, model):
    count, total = max(_count(micro_batches), 1), torch.zeros(())
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(model(inputs), labels, reduction="sum") / count
        loss.backward()
        total += loss.detach()
    return total


def accumulated_mean_times_count(micro_batches, model):
    count, total = max(_count(micro_batches), 1), torch.zeros(())
    for inputs, labels in micro_batches:
        n = (labels != -100).sum()
        loss = F.cross_entropy(*_flat(model, inputs, labels)) * n / count
        loss.backward()
        total += loss.detach()
    return total


def accumulated_numel(micro_batches, model):
    return _accumulate(micro_batches, model, lambda labels: labels.numel())


def accumulated_numel_mean(micro_batches, model):
    return _accumulate(micro_batches, model, lambda labels: labels.numel() * len(micro_batches))


def accumulated_len(micro_batches, model):
    return _accumulate(micro_batches, model, lambda labels: len(labels))


def accumulated_all_rows(micro_batches, model):
    rows = sum(len(labels) for _, labels in micro_batches)
    return _accumulate(micro_batches, model, lambda labels: rows)


def accumulated_running_count(micro_batches, model):
    count, total = 0, torch.zeros(())
    for inputs, labels in micro_batches:
        count += (labels != -100).sum().item()
        loss = F.cross_entropy(*_flat(model, inputs, labels), reduction="sum") / max(count, 1)
        loss.backward()
        total += loss.detach()
    return total


def accumulated_undivided(micro_batches, model):
    return accumulated_sum(micro_batches, model) / max(_count(micro_batches), 1)


def accumulated_old_divided(micro_batches, model):
    count = max(_count(micro_batches), 1)
    loss = accumulated_sum(micro_batches, model) / count
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= count
    return loss


def accumulated_times_size(micro_batches, model):
    return accumulated_right(micro_batches, model) * len(micro_batches[0][1])


RIGHT["accumulated_loss"] = [
    accumulated_means, accumulated_scaled, accumulated_at_once, accumulated_right,
    accumulated_in_double,
]  # fmt: skip
WRONG["accumulated_loss"] = [
    (accumulated_mean_of_means, "NaN where one has no label"),
    (accumulated_safe_means, "a mean of the micro-batches' means: a label"),
    (accumulated_sum_of_means, "means are added up"),
    (accumulated_sum, "the sum over all labels"),
    (accumulated_all_positions, "ignored labels are counted"),
    (accumulated_unguarded, "0 by 0"),
    (accumulated_zero_division, "without any label it breaks off"),
    (accumulated_cleared, "the gradients that were there are gone"),
    (accumulated_cleared_between, "cleared between the micro-batches"),
    (accumulated_last, "last micro-batch's share of the loss"),
    (accumulated_no_backward, "no gradient arrived"),
    (accumulated_with_graph, "Return it detached"),
    (accumulated_running, "running sum"),
    (accumulated_average_returned, "divided by the number of micro-batches"),
    (accumulated_by_rows, "weighed by their rows"),
    (accumulated_eval, "the model's mode was changed"),
    (accumulated_unflattened, "looks for the classes in dimension 1"),
    (accumulated_mean_times_count, "NaN times 0 stays NaN"),
    (accumulated_numel, "divided by its own size"),
    (accumulated_numel_mean, "divided by its own size"),
    (accumulated_len, "divided by its own size"),
    (accumulated_all_rows, "number of all rows"),
    (accumulated_running_count, "counted so far"),
    (accumulated_undivided, "the sum went backward"),
    (accumulated_old_divided, "divided as well"),
    (accumulated_times_size, "the returned loss is not"),
    (accumulated_and_stepped, "the parameters themselves were changed"),
    (lambda batches, model: accumulated_right(batches, model).item(), "the loss is a float"),
]


# --- train_step ---------------------------------------------------------------------------------
def step_plain(model, batch, optimizer, max_norm):
    model.train()
    optimizer.zero_grad(set_to_none=False)
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm)
    optimizer.step()
    return float(loss)


def step_by_hand(model, batch, optimizer, max_norm):
    """Clears before and after, clips by hand, computes the loss by hand."""
    inputs, labels = batch
    model.train(True)
    model.zero_grad()
    log_p = model(inputs).log_softmax(-1)
    loss = -log_p[torch.arange(len(labels)), labels].mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in grads]).norm().item()
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach().item()


def step_with_autograd(model, batch, optimizer, max_norm):
    for module in model.modules():
        module.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loss = nn.CrossEntropyLoss()(model(batch[0]), batch[1])
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = g
    value = loss.item()
    nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    return value


def _step(
    model, batch, optimizer, max_norm, *,
    order="clear forward backward clip step", train=True, loss=F.cross_entropy,
    clip=nn.utils.clip_grad_norm_, value=lambda loss, model, batch: loss.item(),
):  # fmt: skip
    """A step whose parts come in the given order; model.eval() for train=False."""
    model.train(train)
    parameters = list(model.parameters())
    for part in order.split():
        if part == "clear":
            optimizer.zero_grad()
        elif part == "forward":
            result = loss(model(batch[0]), batch[1])
        elif part == "backward":
            result.backward()
        elif part == "clip":
            clip(parameters, max_norm)
        elif part == "step":
            optimizer.step()
    return value(result, model, batch)


def _stepping(**options):
    return lambda model, batch, optimizer, max_norm: _step(
        model, batch, optimizer, max_norm, **options
    )


def _order(order):
    return _stepping(order=order)


def step_no_train(model, batch, optimizer, max_norm):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


def step_frozen_none(model, batch, optimizer, max_norm):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    if norm > max_norm:
        for p in model.parameters():
            p.grad.mul_(max_norm / norm)
    optimizer.step()
    return loss.item()


def step_loss_first(model, batch, optimizer, max_norm):
    """A pass of its own for the loss that is returned."""
    model.train()
    value = F.cross_entropy(model(batch[0]), batch[1]).item()
    _step(model, batch, optimizer, max_norm)
    return value


def step_accuracy_too(model, batch, optimizer, max_norm):
    """A second pass, for a measure that nobody asked for."""
    value = _step(model, batch, optimizer, max_norm)
    with torch.no_grad():
        (model(batch[0]).argmax(-1) == batch[1]).float().mean()
    return value


def step_training_flag(model, batch, optimizer, max_norm):
    """Sets the outer module's flag only."""
    model.training = True
    return step_no_train(model, batch, optimizer, max_norm)


def _clip_each(parameters, max_norm):
    for p in parameters:
        nn.utils.clip_grad_norm_([p], max_norm)


def step_ends_in_eval(model, batch, optimizer, max_norm):
    loss = step_plain(model, batch, optimizer, max_norm)
    model.eval()
    return loss


def step_sum_backward(model, batch, optimizer, max_norm):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1], reduction="sum")
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item() / len(batch[1])


RIGHT["train_step"] = [step_plain, step_by_hand, step_with_autograd]
WRONG["train_step"] = [
    (_order("forward backward clip step"), "old gradients are not cleared"),
    (_order("forward backward clip step clear"), "cleared only at the end"),
    (_order("forward backward clear clip step"), "the parameters are as they were"),
    (_order("clear forward step backward clip"), "the parameters are as they were"),
    (_order("clear forward backward clip"), "the optimizer never steps"),
    (_order("clear forward backward step"), "are not clipped"),
    (_order("clear forward backward step clip"), "are not clipped"),
    (_order("clear forward clip backward step"), "are not clipped"),
    (_order("clear forward backward clip step step"), "steps twice"),
    (step_no_train, "Training needs model.train()"),
    (_stepping(train=False), "Training needs model.train()"),
    (step_ends_in_eval, "in eval mode afterwards"),
    (step_sum_backward, "the sum over the batch went backward"),
    (step_training_flag, "Training needs model.train()"),
    (step_frozen_none, "a frozen parameter has no gradient"),
    (step_loss_first, "more than one forward pass"),
    (step_accuracy_too, "more than one forward pass"),
    (_stepping(clip=_clip_each), "clipped by itself"),
    (_stepping(clip=nn.utils.clip_grad_value_), "cut off at max_norm"),
    (_stepping(loss=nn.CrossEntropyLoss(reduction="sum")), "the summed loss"),
    (_stepping(loss=lambda x, y: F.cross_entropy(x.softmax(-1), y)), "softmax before"),
    (
        _stepping(
            value=lambda loss, model, batch: F.cross_entropy(model(batch[0]), batch[1]).item()
        ),
        "the loss after the step",
    ),
    (_stepping(value=lambda loss, model, batch: loss), "the loss is a 0-d float32 tensor"),
    (_stepping(value=lambda loss, model, batch: None), "the loss is None"),
]
