"""Checks of ex04: the fine-tuning loop. The right answers are PyTorch's own where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, tensor
from torch.optim.adamw import adamw

from sft_teach.checks.core import Case, Mistake, Seen, Task, fresh, is_right, look, same


def number(value: Any) -> Any:
    """An int as the float that it equals: both are Python numbers. Anything else as it is."""
    return float(value) if type(value) is int else value


def as_number(function: Callable, arguments: tuple) -> Any:
    return number(function(*arguments))


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same weights in each process, of both signs and none near 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.rand(parameter.shape, generator=generator) + 0.2
            sign = torch.where(torch.rand(parameter.shape, generator=generator) < 0.5, -1.0, 1.0)
            parameter.copy_(noise * sign)
    return model


def right_until(name: str, seen: list[Seen], last: int) -> bool:
    """Whether there are outcomes up to case `last`, and all before it are right."""
    task = TASKS[name]
    return len(seen) > last and all(
        is_right(one, look(task.reference, task, case), case)
        for one, case in zip(seen[:last], task.cases, strict=False)
    )


def breaks_off(name: str, case: int, error: str = "") -> Callable[[list[Seen]], bool]:
    """All is right until this case, which ends with an exception (of that name, if given)."""

    def when(seen: list[Seen]) -> bool:
        if not right_until(name, seen, case):
            return False
        return seen[case].error is not None and error in ("", seen[case].raised)

    return when


# --- warmup_linear ------------------------------------------------------------------------------
def _factor(step: int, warmup: int, total: int) -> float:
    if step >= total:
        return 0.0
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / (total - warmup)


def _rising(step: int, warmup: int, total: int, rise: Callable, fall: Callable) -> float:
    """With another way up or down; the three cases in the right order."""
    if step >= total:
        return 0.0
    return rise(step, warmup) if step < warmup else fall(step, warmup, total)


def _up(step: int, warmup: int) -> float:
    return (step + 1) / warmup


def _down(step: int, warmup: int, total: int) -> float:
    return (total - step) / (total - warmup)


def _up_whole(step: int, warmup: int) -> float:
    return (step + 1) // warmup


def _down_whole(step: int, warmup: int, total: int) -> float:
    return (total - step) // (total - warmup)


def _warmup_first(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.0 if step >= total else _down(step, warmup, total)


def _never_ending(step: int, warmup: int, total: int) -> float:
    return _up(step, warmup) if step < warmup else _down(step, warmup, total)


def _never_ending_guarded(step: int, warmup: int, total: int) -> float:
    return _up(step, warmup) if step < warmup else (total - step) / max(total - warmup, 1)


def _too_late(step: int, warmup: int, total: int) -> float:
    return 0.0 if step > total else _never_ending(step, warmup, total)


def _including_warmup(step: int, warmup: int, total: int) -> float:
    if step >= total:
        return 0.0
    return (step + 1) / warmup if step <= warmup else _down(step, warmup, total)


WARMUP_LINEAR = Task(
    reference=_factor,
    cases=[
        Case(fresh(0, 4, 10), "a quarter: the first of four steps of the warm-up", as_number),
        Case(fresh(3, 4, 10), "the last step of the warm-up reaches 1", as_number),
        Case(fresh(4, 4, 10), "1 at step = warmup, from where it falls", as_number),
        Case(fresh(7, 4, 10), "a half: half way between warmup and total", as_number),
        Case(fresh(9, 4, 10), "the last step is still above 0", as_number),
        Case(fresh(10, 4, 10), "0 at step = total", as_number),
        Case(fresh(14, 4, 10), "0 for every step after total", as_number),
        Case(fresh(0, 0, 5), "without a warm-up it starts at 1", as_number),
        Case(fresh(2, 0, 5), "without a warm-up it falls from the first step on", as_number),
        Case(fresh(1, 8, 3), "a quarter: the second of eight steps of the warm-up", as_number),
        Case(fresh(3, 8, 3), "0 for every step from total on, whatever warmup is", as_number),
        Case(fresh(5, 8, 3), "0 for every step from total on, whatever warmup is", as_number),
        Case(fresh(4, 4, 4), "0 at step = total, also where warmup = total", as_number),
        Case(fresh(0, 8, 3), "an eighth: the first of eight steps of the warm-up", as_number),
        Case(fresh(1, 4, 4), "a half: the second of four steps of the warm-up", as_number),
    ],
    mistakes=[
        Mistake(
            "the warm-up starts at 0, so that the first update does nothing. Steps count from 0: "
            "which share of the warm-up is done once step 0 has been taken?",
            lambda s, w, t: _rising(s, w, t, lambda s, w: s / w, _down),
        ),
        Mistake(
            "the warm-up does not reach 1 on its last step. It has exactly `warmup` steps.",
            lambda s, w, t: _rising(s, w, t, lambda s, w: (s + 1) / (w + 1), _down),
        ),
        Mistake(
            "step = total itself is not taken for the end. It is 0 there already: >= and not >.",
            _too_late,
        ),
        Mistake(
            "with a warm-up longer than the run, the rate goes on rising after step = total. Which "
            "of the three cases must be asked first?",
            _warmup_first,
        ),
        *[
            Mistake(
                "after step = total it goes on below 0: each update would step uphill. It stays 0 "
                "from there on.",
                wrong,
            )
            for wrong in (_never_ending, _never_ending_guarded)
        ],
        Mistake(
            "it falls by 1 / total a step, so that there is a jump where the warm-up ends. The "
            "fall takes total - warmup steps.",
            lambda s, w, t: _rising(s, w, t, _up, lambda s, w, t: (t - s) / t),
        ),
        Mistake(
            "the fall is one step early: at step = warmup the factor is still 1, and the last step "
            "of the run is above 0.",
            lambda s, w, t: _rising(s, w, t, _up, lambda s, w, t: (t - s - 1) / (t - w)),
        ),
        *[
            Mistake(
                "at step = warmup the factor is above 1. The warm-up is over there: compare with "
                "< and not with <=.",
                wrong,
            )
            for wrong in (
                _including_warmup,
                lambda s, w, t: _including_warmup(s, w, t) if w else _factor(s, w, t),
            )
        ],
        Mistake(
            "it stays at 1 after the warm-up. It falls in a line, to 0 at step = total.",
            lambda s, w, t: _rising(s, w, t, _up, lambda s, w, t: 1.0),
        ),
        Mistake(
            "after the warm-up it starts again at 0 and rises. It falls, from 1 to 0.",
            lambda s, w, t: _rising(s, w, t, _up, lambda s, w, t: (s - w) / (t - w)),
        ),
        Mistake(
            "this falls along a cosine. The task asks for a straight line.",
            lambda s, w, t: _rising(
                s, w, t, _up, lambda s, w, t: 0.5 + 0.5 * math.cos(math.pi * (s - w) / (t - w))
            ),
        ),
        *[
            Mistake(
                "whole-number division: `//` drops what comes after the point. Use `/`.",
                lambda s, w, t, rise=rise, fall=fall: float(_rising(s, w, t, rise, fall)),
            )
            for rise, fall in (
                (_up_whole, _down),
                (_up, _down_whole),
                (_up_whole, _down_whole),
            )
        ],
        *[
            Mistake(
                "a warm-up that is as long as the run or longer is shortened or left out. It is "
                "cut off: while step < warmup and step < total the factor is (step + 1) / warmup.",
                wrong,
            )
            for wrong in (
                lambda s, w, t: _factor(s, min(w, t), t),
                lambda s, w, t: _factor(s, w if w < t else 0, t),
                lambda s, w, t: _factor(s, w if w <= t else 0, t),
                lambda s, w, t: _factor(s, min(w, t - 1), t),
            )
        ],
        Mistake(
            "there is no warm-up: the factor falls from the first step on.",
            lambda s, w, t: max(0.0, (t - s) / t),
        ),
        Mistake(
            "with warmup = 0 it divides by 0. Ask whether there is a warm-up step to take before "
            "dividing by their number.",
            when=breaks_off("warmup_linear", 7, "ZeroDivisionError"),
        ),
        Mistake(
            "it divides by total - warmup where the two are equal. At step = total the answer is 0 "
            "before anything is divided.",
            when=breaks_off("warmup_linear", 12, "ZeroDivisionError"),
        ),
    ],
)  # fmt: skip


# --- clip_gradients -----------------------------------------------------------------------------
def clipped(function: Callable, arguments: tuple) -> dict[str, Any]:
    """The norm that came back, and the tensors that the caller holds."""
    grads, max_norm = arguments
    own = list(grads)
    norm = function(grads, max_norm)
    return {"norm": number(norm), "gradients": own}


def left_alone(function: Callable, arguments: tuple) -> dict[str, Any]:
    """For a norm that is infinite or NaN, which equals nothing and is asked for instead."""
    grads, max_norm = arguments
    own, before = list(grads), [g.clone() for g in grads]
    norm = number(function(grads, max_norm))
    kept = same(own, before, nan=True)
    gradients = "as before" if kept else f"now {[g.tolist() for g in own]}"
    if any(g.isnan().any() for g in before):
        is_nan = isinstance(norm, (float, Tensor)) and math.isnan(norm)
        return {"the norm is NaN": is_nan, "gradients": gradients}
    return {"norm": norm, "gradients": gradients}


def _norm(grads: list[Tensor]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in grads))


def _clip(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    if math.isfinite(norm) and norm > max_norm:
        _scale(grads, max_norm / norm)
    return norm


def _scale(grads: list[Tensor], factor: float) -> None:
    for g in grads:
        g.mul_(factor)


def _clip_by(measure: Callable[[list[Tensor]], float]) -> Callable:
    """Right but for how the length is measured."""

    def clip(grads: list[Tensor], max_norm: float) -> float:
        norm = measure(grads) if grads else 0.0
        if math.isfinite(norm) and norm > max_norm:
            _scale(grads, max_norm / norm)
        return norm

    return clip


def _clip_each(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    for g in grads if math.isfinite(norm) else []:
        _clip([g], max_norm)
    return norm


def _clip_values(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    if math.isfinite(norm):
        for g in grads:
            g.clamp_(-max_norm, max_norm)
    return norm


def _clip_values_always(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    for g in grads:
        g.clamp_(-max_norm, max_norm)
    return norm


def _clip_values_no_empty(kind: type[Exception]) -> Callable:
    """torch.cat refuses an empty list with a ValueError, torch.stack with a RuntimeError."""

    def clip(grads: list[Tensor], max_norm: float) -> float:
        if not grads:
            raise kind
        return _clip_values_always(grads, max_norm)

    return clip


def _clip_always(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    if math.isfinite(norm) and norm > 0:
        _scale(grads, max_norm / norm)
    return norm


def _clip_anything(grads: list[Tensor], max_norm: float) -> float:
    """As PyTorch's own does: a norm that is not finite changes all gradients."""
    norm = _norm(grads)
    _scale(grads, norm if math.isnan(norm) else min(1.0, max_norm / (norm + 1e-6)))
    return norm


def _clip_then_clear(grads: list[Tensor], max_norm: float) -> float:
    norm = _clip(grads, max_norm)
    if not math.isfinite(norm):
        for g in grads:
            g.zero_()
    return norm


def _clip_unless_infinite(grads: list[Tensor], max_norm: float) -> float:
    """NaN is not infinite, and `not norm <= max_norm` is true for it."""
    norm = _norm(grads)
    if not math.isinf(norm) and not norm <= max_norm:
        _scale(grads, max_norm / norm)
    return norm


def _clip_unless_nan(grads: list[Tensor], max_norm: float) -> float:
    norm = _norm(grads)
    if norm > max_norm:
        _scale(grads, max_norm / norm)
    return norm


def _clip_and_report_after(grads: list[Tensor], max_norm: float) -> float:
    norm = _clip(grads, max_norm)
    return min(norm, max_norm) if math.isfinite(norm) else norm


def _took_for_parameters(seen: list) -> bool:
    """clip_grad_norm_ looked for the gradients' own .grad, and found none."""
    value = seen[0].value
    return isinstance(value, dict) and same(value["norm"], 0.0, strict=False)


def _norm_is_a_tensor(seen: list) -> bool:
    value = seen[0].value
    return (
        isinstance(value, dict)
        and isinstance(value["norm"], Tensor)
        and same(value["norm"], 5.0, 1e-4, strict=False)
        and same(value["gradients"], [tensor([0.6, 0.0]), tensor([0.8])], 1e-4)
    )


def _measured_only(seen: list) -> bool:
    """The norms are right, and what should have been scaled is as it was."""
    value = seen[0].value
    return (
        isinstance(value, dict)
        and same(value["norm"], 5.0, 1e-4, strict=False)
        and same(value["gradients"], [tensor([3.0, 0.0]), tensor([4.0])])
    )


NONFINITE = "the norm is returned as it is, and no gradient is touched"

CLIP_GRADIENTS = Task(
    reference=_clip,
    changes=("grads",),
    cases=[
        Case(
            fresh([tensor([3.0, 0.0]), tensor([4.0])], 1.0),
            "norm 5 comes back, and the two tensors have a joint norm of 1, in the old direction",
            clipped,
        ),
        Case(
            fresh([tensor([0.3, 0.0]), tensor([0.4])], 1.0),
            "norm 0.5 comes back, and nothing else happens: it was short enough",
            clipped,
        ),
        Case(
            fresh([tensor([[1.0, -2.0], [3.0, 4.0]]), tensor([2.0, -2.0, 0.0]), tensor(5.0)], 2.0),
            "the norm before comes back, all tensors scaled by one and the same factor",
            clipped,
        ),
        Case(fresh([tensor([[6.0, 8.0]])], 4.0), "norm 10 comes back, norm 4 is left", clipped),
        Case(fresh([tensor([0.0, 0.0]), tensor([0.0])], 1.0), "norm 0, all stays 0", clipped),
        Case(fresh([], 1.0), "0.0 for an empty list", clipped),
        Case(fresh([tensor([math.inf, 1.0]), tensor([4.0])], 1.0), NONFINITE, left_alone),
        Case(fresh([tensor([1.0, -math.inf]), tensor([2.0])], 1.0), NONFINITE, left_alone),
        Case(fresh([tensor([3.0, 1.0]), tensor([math.nan])], 1.0), NONFINITE, left_alone),
    ],
    mistakes=[
        Mistake(
            "the norm is a tensor, and must be a Python number: .item() makes one.",
            when=_norm_is_a_tensor,
        ),
        Mistake(
            "the norm is right, but the tensors of the caller are as they were. Scale them in "
            "place (mul_, or *= on the tensor itself): a new tensor never reaches the caller.",
            when=_measured_only,
        ),
        Mistake(
            "a norm of 0 came: clip_grad_norm_ takes parameters and looks at their .grad. Here the "
            "tensors are the gradients themselves.",
            when=_took_for_parameters,
        ),
        Mistake(
            "each tensor was clipped by itself, which turns the direction of the step. There is "
            "one norm, over all tensors together, and one factor.",
            _clip_each,
        ),
        Mistake(
            "the norms of the tensors are added up. The global norm is the root of the sum of all "
            "squares: add the squares.",
            _clip_by(lambda grads: sum(float(g.norm()) for g in grads)),
        ),
        Mistake(
            "each tensor's own norm is used, and only the largest of them counts. The norm goes "
            "over all numbers of all tensors.",
            _clip_by(lambda grads: max(float(g.norm()) for g in grads)),
        ),
        Mistake(
            "the square root is missing: this is the squared norm.",
            _clip_by(lambda grads: _norm(grads) ** 2),
        ),
        Mistake(
            "this is the sum of absolute values (the L1 norm). The L2 norm is the root of the sum "
            "of squares.",
            _clip_by(lambda grads: sum(float(g.abs().sum()) for g in grads)),
        ),
        Mistake(
            "this is the largest entry, not the length. The L2 norm is the root of the sum of "
            "squares.",
            _clip_by(lambda grads: max(float(g.abs().max()) for g in grads)),
        ),
        Mistake(
            "the squares are averaged. A norm takes their sum.",
            _clip_by(lambda grads: _norm(grads) / math.sqrt(sum(g.numel() for g in grads))),
        ),
        *[
            Mistake(
                "every number is cut off at max_norm. Clipping the norm scales all of them by one "
                "factor and keeps the direction.",
                wrong,
            )
            for wrong in (
                _clip_values,
                _clip_values_always,
                _clip_values_no_empty(ValueError),
                _clip_values_no_empty(RuntimeError),
            )
        ],
        Mistake(
            "gradients that are short enough are made longer. Scale only where the norm exceeds "
            "max_norm.",
            _clip_always,
        ),
        Mistake(
            "the norm after clipping comes back. The task asks for the one before, the one worth "
            "writing into a log.",
            _clip_and_report_after,
        ),
        Mistake(
            "it breaks off with an empty list. Without any gradient the norm is 0.0.",
            when=breaks_off("clip_gradients", 5),
        ),
        Mistake(
            "with gradients of 0 it divides by 0. Nothing has to be scaled there.",
            when=breaks_off("clip_gradients", 4, "ZeroDivisionError"),
        ),
        Mistake(
            "where the norm is not finite nothing is returned. Return the norm as it is.",
            when=lambda seen: right_until("clip_gradients", seen, 6)
            and isinstance(seen[6].value, dict) and seen[6].value.get("norm", 0.0) is None,
        ),
        Mistake(
            "where the norm is not finite it breaks off. Return the norm and leave the gradients "
            "alone: what to do then is for the loop to decide.",
            when=breaks_off("clip_gradients", 6),
        ),
        Mistake(
            "with an infinite norm the gradients are scaled as well, by max_norm / infinity = 0. "
            "Leave them alone there, and return the norm.",
            _clip_unless_nan,
        ),
        Mistake(
            "NaN is not infinite, but it is not finite either: there the gradients must be left "
            "alone as well (math.isfinite knows both).",
            _clip_unless_infinite,
        ),
        Mistake(
            "with an infinity or NaN among the gradients all of them are changed (inf / inf is "
            "NaN, 1 / inf is 0). Leave them alone and return the norm, so that the loop can see "
            "it and decide.",
            _clip_anything,
        ),
        Mistake(
            "where the norm is not finite the gradients are set to 0. Leave them alone, so that "
            "the loop can see what happened.",
            _clip_then_clear,
        ),
        Mistake(
            "gradients that are short enough are made longer, and a norm that is not finite is "
            "divided by as well. Scale only where a finite norm exceeds max_norm.",
            lambda grads, max_norm: (
                norm := _norm(grads), _scale(grads, max_norm / (norm + 1e-6))
            )[0],
        ),
    ],
)  # fmt: skip


# --- decay_groups -------------------------------------------------------------------------------
def named_groups(function: Callable, arguments: tuple) -> Any:
    """The groups with names in place of parameters; their order within a group is free."""
    names = {id(parameter): name for name, parameter in arguments[0].named_parameters()}
    groups = function(*arguments)
    if not isinstance(groups, list):
        return groups

    def named(item: Any) -> str:
        known = "something that is no parameter of the model"
        return names.get(id(item), type(item).__name__ if isinstance(item, (str, tuple)) else known)

    shown = []
    for group in groups:
        if not isinstance(group, dict):
            shown.append(group)
            continue
        entry = dict(group)
        if isinstance(entry.get("params"), (list, tuple)):
            entry["params"] = sorted(map(named, entry["params"]))
        entry["weight_decay"] = number(entry.get("weight_decay", "missing"))
        shown.append(entry)
    return shown


def _grouped(parameters: list, decays: Callable, weight_decay: float) -> list[dict]:
    return [
        {"params": [p for p in parameters if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return _grouped(trainable, _is_matrix, weight_decay)


def _by_name(model: nn.Module, weight_decay: float, *words: str) -> list[dict]:
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = {id(p) for n, p in named if any(word in n.lower() for word in words)}
    return _grouped([p for _, p in named], lambda p: id(p) not in plain, weight_decay)


def _frozen_too(model: nn.Module, weight_decay: float) -> list[dict]:
    return _grouped(list(model.parameters()), _is_matrix, weight_decay)


def _frozen_without_decay(model: nn.Module, weight_decay: float) -> list[dict]:
    return _grouped(
        list(model.parameters()), lambda p: p.ndim >= 2 and p.requires_grad, weight_decay
    )


def _frozen_in_one(which: int) -> Callable:
    """`requires_grad` is asked for in the other group only."""

    def groups(model: nn.Module, weight_decay: float) -> list[dict]:
        right, careless = _groups(model, weight_decay), _frozen_too(model, weight_decay)
        return [careless[i] if i == which else right[i] for i in (0, 1)]

    return groups


def _by_name_frozen(*words: str) -> Callable:
    """Names decide, and whether a parameter requires grad plays no part."""

    def groups(model: nn.Module, weight_decay: float) -> list[dict]:
        named = list(model.named_parameters())
        plain = {id(p) for n, p in named if any(word in n.lower() for word in words)}
        return _grouped([p for _, p in named], lambda p: id(p) not in plain, weight_decay)

    return groups


def _tied_twice(model: nn.Module, weight_decay: float) -> list[dict]:
    own = [p for module in model.modules() for p in module.parameters(recurse=False)]
    return _grouped([p for p in own if p.requires_grad], _is_matrix, weight_decay)


def _top_only(model: nn.Module, weight_decay: float) -> list[dict]:
    own = [p for child in model.children() for p in child.parameters(recurse=False)]
    once = {id(p): p for p in [*model.parameters(recurse=False), *own] if p.requires_grad}
    return _grouped(list(once.values()), _is_matrix, weight_decay)


def _flat_only(model: nn.Module, weight_decay: float) -> list[dict]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return _grouped(trainable, lambda p: p.ndim == 2, weight_decay)


def _vectors_only(model: nn.Module, weight_decay: float) -> list[dict]:
    first, second = _groups(model, weight_decay)
    return [first, second | {"params": [p for p in second["params"] if p.ndim == 1]}]


def _swapped_decay(model: nn.Module, weight_decay: float) -> list[dict]:
    first, second = _groups(model, weight_decay)
    return [first | {"weight_decay": 0.0}, second | {"weight_decay": weight_decay}]


def _everywhere(model: nn.Module, weight_decay: float) -> list[dict]:
    return [group | {"weight_decay": weight_decay} for group in _groups(model, weight_decay)]


def _fixed_decay(model: nn.Module, weight_decay: float) -> list[dict]:
    return _groups(model, 0.01)


def _filled_only(model: nn.Module, weight_decay: float) -> list[dict]:
    return [group for group in _groups(model, weight_decay) if group["params"]]


def _more_than_one(model: nn.Module, weight_decay: float) -> list[dict]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return _grouped(trainable, lambda p: p.ndim >= 1, weight_decay)


def _encoder() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def _nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3))), nn.Tanh())


def _half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    return model


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    model[2].weight = model[0].weight
    return model


def _odd_shapes() -> nn.Module:
    """Three dimensions, none at all, and a matrix that is called bias."""
    odd = {"scale": nn.Parameter(tensor(1.0)), "bias": nn.Parameter(torch.ones(2, 2))}
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.ParameterDict(odd))


def _no_matrix() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))


def _not_a_list(seen: list) -> bool:
    value = seen[0].value
    return isinstance(value, list) and any(
        isinstance(group, dict) and "params" in group and not isinstance(group["params"], list)
        for group in value
    )


def _named_pairs(seen: list) -> bool:
    value = seen[0].value
    return isinstance(value, list) and any(
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and bool({"tuple", "str"} & set(group["params"]))
        for group in value
    )


def _other_keys(seen: list) -> bool:
    value = seen[0].value
    return isinstance(value, list) and any(
        isinstance(group, dict)
        and (set(group) != {"params", "weight_decay"} or group["weight_decay"] == "missing")
        for group in value
    )


DECAY_GROUPS = Task(
    reference=_groups,
    cases=[
        Case(
            lambda: (nn.Linear(3, 2), 0.1),
            "the weight in the first group with 0.1, the bias in the second with 0.0",
            named_groups,
            shown="nn.Linear(3, 2), 0.1",
        ),
        Case(
            lambda: (nn.TransformerEncoderLayer(4, 2, 8), 0.05),
            "four matrices in the first group, all biases and both LayerNorm scales in the second",
            named_groups,
            shown="nn.TransformerEncoderLayer(4, 2, 8), 0.05",
        ),
        Case(
            lambda: (_encoder(), 0.05),
            "embedding and matrix in the first group, biases and LayerNorm scale in the second",
            named_groups,
            shown="nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)), 0.05",
        ),
        Case(
            lambda: (_nested(), 0.05),
            "every parameter, however deep in the model",
            named_groups,
            shown="a Sequential in a Sequential, 0.05",
        ),
        Case(
            lambda: (_half_frozen(), 0.05),
            "parameters that do not require grad in neither group",
            named_groups,
            shown="Linear, LayerNorm, Linear; the first Linear and a bias are frozen, 0.05",
        ),
        Case(
            lambda: (_tied(), 0.05),
            "the shared matrix once",
            named_groups,
            shown="an Embedding and a Linear that share one matrix, 0.05",
        ),
        Case(
            lambda: (_odd_shapes(), 0.05),
            "2 or more dimensions in the first group, 1 or none in the second, whatever the names",
            named_groups,
            shown="a Conv1d, a parameter without dimensions and a matrix called bias, 0.05",
        ),
        Case(
            lambda: (_no_matrix(), 0.05),
            "two groups, also where one of them stays empty",
            named_groups,
            shown="two LayerNorms, 0.05",
        ),
    ],
    mistakes=[
        Mistake(
            "a group must have exactly the keys `params` and `weight_decay`: the optimizer "
            "looks for these two.",
            when=_other_keys,
        ),
        Mistake(
            "`params` holds names, or pairs of name and parameter. The optimizer wants the "
            "parameters themselves.",
            when=_named_pairs,
        ),
        Mistake(
            "`params` is not a list. A generator or a filter can be read only once.",
            when=_not_a_list,
        ),
        Mistake(
            "the groups are in the other order. The one with decay comes first.",
            lambda model, decay: _groups(model, decay)[::-1],
        ),
        Mistake(
            "the decay went to the wrong group. Matrices decay; biases and scales do not.",
            _swapped_decay,
        ),
        Mistake(
            "both groups decay. The second one has a weight_decay of 0.0.",
            _everywhere,
        ),
        Mistake(
            "the argument weight_decay is not used.",
            _fixed_decay,
        ),
        Mistake(
            "frozen parameters are in the groups. Whatever does not require grad belongs in "
            "neither.",
            _frozen_too,
        ),
        Mistake(
            "frozen parameters are in the second group. Whatever does not require grad belongs in "
            "neither.",
            _frozen_without_decay,
        ),
        Mistake(
            "frozen parameters are in the first group. Whatever does not require grad belongs in "
            "neither.",
            _frozen_in_one(0),
        ),
        Mistake(
            "frozen parameters are in the second group. Whatever does not require grad belongs in "
            "neither.",
            _frozen_in_one(1),
        ),
        *[
            Mistake(
                "names decide here, and frozen parameters are in the groups. Ask each parameter "
                "for its number of dimensions, and whether it requires grad.",
                _by_name_frozen(*words),
            )
            for words in (("bias", "norm"), ("bias",))
        ],
        Mistake(
            "a shared parameter is there twice; an optimizer would refuse it. model.parameters() "
            "gives each one once.",
            _tied_twice,
        ),
        Mistake(
            "names decide here. A scale in a Sequential is called 1.weight, and a matrix may be "
            "called bias: look at the number of dimensions.",
            lambda model, decay: _by_name(model, decay, "bias", "norm"),
        ),
        Mistake(
            "LayerNorm scales decay: they are called weight, not bias. Look at the number of "
            "dimensions, not at the name.",
            lambda model, decay: _by_name(model, decay, "bias"),
        ),
        Mistake(
            "only parameters with exactly 2 dimensions decay. A convolution's has 3, and decays "
            "too: 2 or more.",
            _flat_only,
        ),
        Mistake(
            "a parameter without dimensions (a single number) is in no group. All that is not in "
            "the first belongs in the second.",
            _vectors_only,
        ),
        Mistake(
            "parameters deeper in the model are missing. model.parameters() goes through all "
            "levels.",
            _top_only,
        ),
        Mistake(
            "vectors decay as well. Only parameters with 2 or more dimensions do.",
            _more_than_one,
        ),
        Mistake(
            "a group that stays empty is missing. There are always two, so that code that changes "
            "one of them finds it.",
            _filled_only,
        ),
    ],
)


# --- adamw_step ---------------------------------------------------------------------------------
def updated(function: Callable, arguments: tuple) -> dict[str, Any]:
    """What p, m and v hold after one update, and what was returned (None is asked for)."""
    p, _, m, v = arguments[:4]
    returned = function(*arguments)
    found = {"p": p, "m": m, "v": v}
    return found if returned is None else found | {"returned": returned}


def several(function: Callable, arguments: tuple) -> dict[str, Any]:
    """Three updates one after the other, on the same p, m and v."""
    p, gradients, m, v, *settings = arguments
    for step, g in enumerate(gradients, 1):
        function(p, g, m, v, step, *settings)
    return {"p": p, "m": m, "v": v}


def _adamw(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, step: int, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """torch's functional AdamW (building torch.optim.AdamW imports for seconds)."""
    adamw(
        [p], [g], [m], [v], [], [torch.tensor(float(step - 1))], foreach=False, amsgrad=False,
        beta1=betas[0], beta2=betas[1], lr=lr, weight_decay=weight_decay, eps=eps, maximize=False,
    )  # fmt: skip


def _adam_like(
    *,
    decay: str = "before",
    mean: bool = True,
    square: bool = True,
    shift: int = 0,
    denominator: Callable[[Tensor, float, float], Tensor] | None = None,
    sign: float = -1.0,
    moment: Callable[[Tensor], Tensor] = torch.square,
    swap: bool = False,
    power: Callable[[float, int], float] = pow,
) -> Callable:
    """AdamW with one thing done differently."""

    def step_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
        first, second = betas[::-1] if swap else betas
        if decay == "gradient":
            g = g + weight_decay * p
        elif decay == "before":
            p.mul_(1 - lr * weight_decay)
        elif decay == "without lr":
            p.mul_(1 - weight_decay)
        elif decay == "added":
            p.mul_(1 + lr * weight_decay)
        m.mul_(first).add_(g, alpha=1 - first)
        v.mul_(second).add_(moment(g), alpha=1 - second)
        m_hat = m / (1 - power(first, step + shift)) if mean else m
        correction = 1 - power(second, step + shift) if square else 1.0
        bottom = (v / correction).sqrt() + eps
        if denominator is not None:
            bottom = denominator(v, correction, eps)
        p.add_(sign * lr * m_hat / bottom)
        if decay == "after":
            p.mul_(1 - lr * weight_decay)

    return step_in_place


def _averages_by(
    share_m: Callable[[float], float] = lambda beta: 1 - beta,
    share_v: Callable[[float], float] = lambda beta: 1 - beta,
    keep_m: Callable[[float], float] = lambda beta: beta,
    keep_v: Callable[[float], float] = lambda beta: beta,
) -> Callable:
    """AdamW with other shares of the old averages and of the new gradient."""

    def step_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
        first, second = betas
        p.mul_(1 - lr * weight_decay)
        m.mul_(keep_m(first)).add_(g, alpha=share_m(first))
        v.mul_(keep_v(second)).addcmul_(g, g, value=share_v(second))
        m_hat, v_hat = m / (1 - first**step), v / (1 - second**step)
        p.sub_(lr * m_hat / (v_hat.sqrt() + eps))

    return step_in_place


def _one(beta: float) -> float:
    return 1.0


def _root_kept(p, g, m, v, *rest) -> None:
    _adamw(p, g, m, v, *rest)
    v.sqrt_()


def _corrected_root_kept(p, g, m, v, step, lr, betas, eps, weight_decay) -> None:
    _adamw(p, g, m, v, step, lr, betas, eps, weight_decay)
    v.div_(1 - betas[1] ** step).sqrt_()


def _moments_not_kept(p, g, m, v, *rest) -> None:
    _adamw(p, g, m.clone(), v.clone(), *rest)


def _corrected_kept(names: str) -> Callable:
    """The corrected averages are written back into m, v or both."""

    def step_in_place(p, g, m, v, step, lr, betas, eps, weight_decay):
        _adamw(p, g, m, v, step, lr, betas, eps, weight_decay)
        if "m" in names:
            m.div_(1 - betas[0] ** step)
        if "v" in names:
            v.div_(1 - betas[1] ** step)

    return step_in_place


def _decay_divided(p, g, m, v, step, lr, betas, eps, weight_decay) -> None:
    """The decay joins m_hat and is divided by the root as well."""
    old = p.clone()
    _adamw(p, g, m, v, step, lr, betas, eps, 0.0)
    root = (v / (1 - betas[1] ** step)).sqrt() + eps
    p.sub_(lr * weight_decay * old / root)


def _old_moments(p, g, m, v, step, lr, betas, eps, weight_decay) -> None:
    """Steps with the averages from before this gradient."""
    p.mul_(1 - lr * weight_decay)
    last = max(step - 1, 1)
    m_hat, v_hat = m / (1 - betas[0] ** last), v / (1 - betas[1] ** last)
    p.sub_(lr * m_hat / (v_hat.sqrt() + eps))
    m.mul_(betas[0]).add_(g, alpha=1 - betas[0])
    v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])


P, G = tensor([1.0, -2.0, 0.5]), tensor([0.5, 0.25, -1.0])
M, V = tensor([0.3, -0.1, 0.2]), tensor([0.4, 0.05, 0.9])
SQUARE = tensor([[1.0, -2.0], [0.5, 3.0]])
THREE_GRADIENTS = [
    tensor([[0.5, -0.1], [2.0, 0.3]]),
    tensor([[-0.4, 0.2], [1.0, -0.6]]),
    tensor([[0.9, 0.1], [-0.5, 0.7]]),
]


def _nothing_changed(seen: list) -> bool:
    value = seen[0].value
    return isinstance(value, dict) and all(
        same(value[name], start, strict=False)
        for name, start in (("p", tensor([1.0])), ("m", tensor([0.0])), ("v", tensor([0.0])))
    )


def _p_not_changed(seen: list) -> bool:
    """Neither from averages of 0 nor from others."""
    return len(seen) > 2 and all(
        isinstance(look.value, dict) and same(look.value["p"], start)
        for look, start in ((seen[0], tensor([1.0])), (seen[2], P))
    )


def _first_update() -> tuple:
    """An answer may well build torch.optim.AdamW; its imports are not to count as its time."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    zero = tensor([0.0])
    return tensor([1.0]), tensor([0.5]), zero, zero.clone(), 1, 0.1, (0.9, 0.999), 1e-8, 0.1


ADAMW_STEP = Task(
    reference=_adamw,
    changes=("p", "m", "v"),
    cases=[
        Case(
            _first_update,
            "p = 0.89, m = 0.05, v = 0.00025, as by hand in the task",
            updated,
        ),
        Case(
            fresh(tensor([1.0]), tensor([0.5]), tensor([0.0]), tensor([0.0]), 1, 0.1, (0.9, 0.999),
                  1e-8, 0.0),
            "p = 0.9: without decay the first step has the size of lr",
            updated,
        ),
        Case(
            fresh(P, G, M, V, 4, 0.1, (0.8, 0.95), 1e-8, 0.0),
            "one update like torch.optim.AdamW's, from averages that are not 0",
            updated,
        ),
        Case(
            fresh(P, G, M, V, 3, 0.5, (0.8, 0.95), 1e-8, 0.4),
            "one update like torch.optim.AdamW's, with a strong decay",
            updated,
        ),
        Case(
            fresh(P, G, M, V, 2, 0.5, (0.8, 0.95), 0.3, 0.0),
            "one update like torch.optim.AdamW's, with an eps that can be seen",
            updated,
        ),
        Case(
            fresh(SQUARE, THREE_GRADIENTS, torch.zeros(2, 2), torch.zeros(2, 2), 0.1,
                  (0.9, 0.99), 1e-8, 0.05),
            "three updates like torch.optim.AdamW's, on the same p, m and v",
            several,
            shown="p (2, 2), three gradients one after the other, m = v = 0",
        ),
    ],
    mistakes=[
        Mistake(
            "p, m and v are as they were. The update works in place (mul_, add_, sub_, copy_, or "
            "+= on the tensor): a new tensor bound to the same name never reaches the caller.",
            when=_nothing_changed,
        ),
        Mistake(
            "m and v are not updated in place, so that the next step would forget this gradient.",
            _moments_not_kept,
        ),
        Mistake(
            "p itself is as it was. Subtract the step from it in place (sub_ or -=).",
            when=_p_not_changed,
        ),
        Mistake(
            "it returns something. All results are in p, m and v; the function returns None.",
            when=lambda seen: isinstance(seen[0].value, dict)
            and "returned" in seen[0].value,
        ),
        Mistake(
            "the step goes uphill: subtract it.",
            _adam_like(sign=1.0),
        ),
        Mistake(
            "weight_decay is not used.",
            _adam_like(decay="none"),
        ),
        Mistake(
            "the decay is added to the gradient (Adam with L2). In AdamW it is decoupled: it "
            "shrinks p directly and never enters m and v.",
            _adam_like(decay="gradient"),
        ),
        Mistake(
            "the decay is not multiplied by the learning rate: p shrinks by lr x weight_decay.",
            _adam_like(decay="without lr"),
        ),
        Mistake(
            "the decay makes p larger. It pulls p towards 0.",
            _adam_like(decay="added"),
        ),
        Mistake(
            "the decay comes after the step and shrinks the step as well. Take it from p first.",
            _adam_like(decay="after"),
        ),
        Mistake(
            "the bias correction is missing. m and v start at 0 and are too small at first: divide "
            "by 1 - beta ** step.",
            _adam_like(mean=False, square=False),
        ),
        Mistake(
            "the bias correction of m is missing: divide by 1 - beta1 ** step.",
            _adam_like(mean=False),
        ),
        Mistake(
            "the bias correction of v is missing: divide by 1 - beta2 ** step.",
            _adam_like(square=False),
        ),
        Mistake(
            "the bias correction uses step + 1. `step` counts from 1 already.",
            _adam_like(shift=1),
        ),
        Mistake(
            "the bias correction uses step - 1. `step` counts from 1: the first update has "
            "step = 1.",
            _adam_like(shift=-1),
        ),
        Mistake(
            "the bias correction uses beta times step. It is beta to the power of step.",
            _adam_like(power=lambda beta, step: beta * step),
        ),
        Mistake(
            "eps is inside the square root. It is added to the root.",
            _adam_like(denominator=lambda v, c, eps: (v / c + eps).sqrt()),
        ),
        Mistake(
            "eps is added before the bias correction of v. Correct v first, take the root, then "
            "add eps.",
            _adam_like(denominator=lambda v, c, eps: (v.sqrt() + eps) / math.sqrt(c)),
        ),
        Mistake(
            "eps is missing in the denominator.",
            _adam_like(denominator=lambda v, c, eps: (v / c).sqrt()),
        ),
        Mistake(
            "the square root is missing: m is divided by v itself.",
            _adam_like(denominator=lambda v, c, eps: v / c + eps),
        ),
        Mistake(
            "v averages the gradient, not its square.",
            _adam_like(moment=lambda g: g),
        ),
        Mistake(
            "v averages the gradient's absolute value, not its square.",
            _adam_like(moment=torch.abs),
        ),
        Mistake(
            "the two betas are swapped: the first belongs to m, the second to v.",
            _adam_like(swap=True),
        ),
        Mistake(
            "beta and 1 - beta are swapped: the old average keeps the share beta.",
            _averages_by(*[lambda beta: beta] * 2, *[lambda beta: 1 - beta] * 2),
        ),
        *[
            Mistake(
                f"the new {what} with its whole size: its share is 1 minus beta, so that {name} "
                "stays an average.",
                _averages_by(**shares),
            )
            for what, name, shares in (
                ("gradient and its square are added", "each", {"share_m": _one, "share_v": _one}),
                ("gradient is added to m", "m", {"share_m": _one}),
                ("squared gradient is added to v", "v", {"share_v": _one}),
            )
        ],
        *[
            Mistake(
                f"the old {name} keeps its whole size: before the new share is added it shrinks to "
                "beta times what it was.",
                _averages_by(**shares),
            )
            for name, shares in (
                ("m and v each", {"keep_m": _one, "keep_v": _one}),
                ("m", {"keep_m": _one}),
                ("v", {"keep_v": _one}),
            )
        ],
        *[
            Mistake(
                "v holds a square root afterwards. A method that ends in an underscore (sqrt_) "
                "works in place: take the root of a new tensor.",
                wrong,
            )
            for wrong in (_root_kept, _corrected_root_kept)
        ],
        *[
            Mistake(
                f"the bias-corrected {what} written back into {where}. The correction is for this "
                "step only: compute it as a new tensor.",
                _corrected_kept(names),
            )
            for what, where, names in (
                ("averages are", "m and v", "mv"),
                ("m is", "m", "m"),
                ("v is", "v", "v"),
            )
        ],
        Mistake(
            "the decay is divided by the root of v as well. Only the gradient's average is; the "
            "decay shrinks p by lr x weight_decay x p.",
            _decay_divided,
        ),
        Mistake(
            "the step uses m and v from before this gradient. Update the averages first.",
            _old_moments,
        ),
    ],
)  # fmt: skip


# --- accumulated_loss ---------------------------------------------------------------------------
def gradients_and_loss(function: Callable, arguments: tuple) -> dict[str, Any]:
    """The loss, and the gradients that the parameters hold afterwards (None counts as zeros)."""
    micro_batches, model = arguments
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    modes = [module.training for module in model.modules()]
    loss = function(micro_batches, model)
    tracked = isinstance(loss, Tensor) and loss.requires_grad
    return {
        "loss": loss.detach() if isinstance(loss, Tensor) else loss,
        "gradients": [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters],
        "detached": not tracked,
        "parameters as before": same([p.detach() for p in parameters], before),
        "mode as before": modes == [module.training for module in model.modules()],
    }


def _sum_and_count(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    logits = model(inputs)
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return F.cross_entropy(*flat, reduction="sum"), int((labels != -100).sum())


def _accumulated(micro_batches: list[tuple[Tensor, Tensor]], model: nn.Module) -> Tensor:
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    return _accumulate(micro_batches, model, lambda loss, count: loss / total)


def _accumulate(micro_batches, model, part: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Backward of part(sum, count) of each micro-batch; the sum of the parts."""
    losses = []
    for inputs, labels in micro_batches:
        loss = part(*_sum_and_count(model, inputs, labels))
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _clear(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = None


def _mean_of_batch_means(micro_batches, model) -> Tensor:
    n = len(micro_batches)
    return _accumulate(micro_batches, model, lambda loss, count: loss / max(count, 1) / n)


def _mean_of_filled_means(micro_batches, model) -> Tensor:
    n = max(sum(bool((labels != -100).any()) for _, labels in micro_batches), 1)
    return _accumulate(micro_batches, model, lambda loss, count: loss / max(count, 1) / n)


def _torch_means(micro_batches, model) -> Tensor:
    """F.cross_entropy's own mean, NaN without labels, over the number of micro-batches."""
    n = len(micro_batches)
    return _accumulate(micro_batches, model, lambda loss, count: loss / torch.tensor(count) / n)


def _sum_of_means(micro_batches, model) -> Tensor:
    return _accumulate(micro_batches, model, lambda loss, count: loss / max(count, 1))


def _whole_sum(micro_batches, model) -> Tensor:
    return _accumulate(micro_batches, model, lambda loss, count: loss)


def _over_all_positions(micro_batches, model) -> Tensor:
    total = sum(labels.numel() for _, labels in micro_batches)
    return _accumulate(micro_batches, model, lambda loss, count: loss / total)


def _over_rows(micro_batches, model) -> Tensor:
    """The micro-batches' means weighed by their rows."""
    total = sum(len(labels) for _, labels in micro_batches)
    result = torch.zeros(())
    for inputs, labels in micro_batches:
        loss, count = _sum_and_count(model, inputs, labels)
        loss = loss / max(count, 1) * len(labels) / total
        loss.backward()
        result += loss.detach()
    return result


def _not_summed(micro_batches, model) -> Tensor:
    """Right gradients; the last micro-batch's share alone comes back."""
    _accumulated(micro_batches, model)
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    with torch.no_grad():
        return _sum_and_count(model, *micro_batches[-1])[0] / total


def _last_mean_returned(micro_batches, model) -> Tensor:
    _accumulated(micro_batches, model)
    with torch.no_grad():
        loss, count = _sum_and_count(model, *micro_batches[-1])
    return loss / max(count, 1)


def _mean_returned(micro_batches, model) -> Tensor:
    """Right gradients; the mean of the micro-batches' shares comes back."""
    return _accumulated(micro_batches, model) / len(micro_batches)


def _sum_returned(micro_batches, model) -> Tensor:
    return _accumulated(micro_batches, model) * max(
        sum(int((labels != -100).sum()) for _, labels in micro_batches), 1
    )


def _cleared_first(micro_batches, model) -> Tensor:
    _clear(model)
    return _accumulated(micro_batches, model)


def _cleared_between(micro_batches, model) -> Tensor:
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    losses = []
    for inputs, labels in micro_batches:
        _clear(model)
        loss = _sum_and_count(model, inputs, labels)[0] / total
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _without_backward(micro_batches, model) -> Tensor:
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    with torch.no_grad():
        return sum(_sum_and_count(model, *batch)[0] for batch in micro_batches) / total


def _last_backward_only(micro_batches, model) -> Tensor:
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    losses = [_sum_and_count(model, *batch)[0] / total for batch in micro_batches]
    losses[-1].backward()
    return torch.stack(losses).sum().detach()


def _nothing_to_divide_by(micro_batches, model) -> Tensor:
    total = torch.tensor(sum(int((labels != -100).sum()) for _, labels in micro_batches))
    return _accumulate(micro_batches, model, lambda loss, count: loss / total)


def _mean_times_count(micro_batches, model) -> Tensor:
    """The mean of a micro-batch without labels is NaN, and NaN times 0 too."""
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    return _accumulate(
        micro_batches, model, lambda loss, count: loss / torch.tensor(count) * count / total
    )


def _over_own(size: Callable[[Tensor], int], mean: bool) -> Callable:
    """Each micro-batch's sum over its own size, ignored labels counted; their sum or mean."""

    def accumulated(micro_batches, model) -> Tensor:
        result, n = torch.zeros(()), len(micro_batches) if mean else 1
        for inputs, labels in micro_batches:
            loss = _sum_and_count(model, inputs, labels)[0] / size(labels) / n
            loss.backward()
            result += loss.detach()
        return result

    return accumulated


def _over_all_rows(micro_batches, model) -> Tensor:
    total = sum(len(labels) for _, labels in micro_batches)
    return _accumulate(micro_batches, model, lambda loss, count: loss / total)


def _running_count(micro_batches, model) -> Tensor:
    """Divides by the labels seen so far."""
    seen = [0]

    def part(loss: Tensor, count: int) -> Tensor:
        seen[0] += count
        return loss / max(seen[0], 1)

    return _accumulate(micro_batches, model, part)


def _undivided_gradients(micro_batches, model) -> Tensor:
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    return _whole_sum(micro_batches, model) / total


def _old_ones_divided(micro_batches, model) -> Tensor:
    """Sums go backward, and all that .grad holds is divided in the end."""
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    loss = _whole_sum(micro_batches, model) / total
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= total
    return loss


def _only_loss_wrong(seen: list) -> bool:
    """Everything but the returned loss is right in the first two cases."""
    for one, case in zip(seen[:2], ACCUMULATED_LOSS.cases, strict=False):
        right = look(_accumulated, ACCUMULATED_LOSS, case).value
        if not isinstance(one.value, dict) or not isinstance(one.value["loss"], (Tensor, float)):
            return False
        if not same({**one.value, "loss": 0}, {**right, "loss": 0}, 1e-5, 1e-4):
            return False
    return any(
        not is_right(one, look(_accumulated, ACCUMULATED_LOSS, case), case)
        for one, case in zip(seen[:2], ACCUMULATED_LOSS.cases, strict=False)
    )


def _running_backward(micro_batches, model) -> Tensor:
    """Backward through the running sum: the first micro-batch counts again each time."""
    total = max(sum(int((labels != -100).sum()) for _, labels in micro_batches), 1)
    running: Any = 0.0
    for inputs, labels in micro_batches:
        running = running + _sum_and_count(model, inputs, labels)[0] / total
        running.backward(retain_graph=True)
    return running.detach()


def _first_class_ignored(micro_batches, model) -> Tensor:
    """Label 0 skipped instead of -100 (which is taken for class 0)."""
    changed = [(x, y.masked_fill(y == 0, -100)) for x, y in micro_batches]
    return _accumulated(changed, model)


def _linear(seed: int = 1) -> nn.Module:
    return filled(nn.Linear(2, 3), seed)


def _language_model(old: float | None = None) -> nn.Module:
    """Token ids (B, L) to logits (B, L, 4); `old` fills the gradients that are there."""
    model = filled(nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 4)), 2)
    if old is not None:
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, old * (i + 1))
    return model


ONE_BATCH = [(tensor([[1.0, -1.0], [0.5, 2.0]]), tensor([2, 0]))]
UNEQUAL = [
    (tensor([[1.0, -1.0]]), tensor([2])),
    (tensor([[0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]]), tensor([0, 1, 1])),
]
TOKENS = [
    (tensor([[0, 1, 2, 3]]), tensor([[1, -100, -100, -100]])),
    (tensor([[4, 3], [2, 0], [1, 1]]), tensor([[2, 3], [-100, 0], [1, 1]])),
]
ONE_IGNORED = [
    (tensor([[0, 1], [2, 4]]), tensor([[1, 2], [0, -100]])),
    (tensor([[3, 3, 1]]), tensor([[-100, -100, -100]])),
]
ALL_IGNORED = [(tensor([[0, 1]]), tensor([[-100, -100]])), (tensor([[2]]), tensor([[-100]]))]

ACCUMULATED_LOSS = Task(
    reference=_accumulated,
    changes=("model",),
    cases=[
        Case(
            lambda: (fresh(ONE_BATCH)()[0], _linear()),
            "the mean cross-entropy of the two labels, detached, and its gradients",
            gradients_and_loss,
            shown="[(inputs (2, 2), labels (2,))], nn.Linear(2, 3)",
        ),
        Case(
            lambda: (fresh(UNEQUAL)()[0], _linear()),
            "the mean over all 4 labels, and its gradients: each label counts 1/4",
            gradients_and_loss,
            shown="micro-batches of 1 and of 3 labels, nn.Linear(2, 3)",
        ),
        Case(
            lambda: (fresh(TOKENS)()[0], _language_model()),
            "the mean over the 6 labels that are not -100, and its gradients",
            gradients_and_loss,
            shown="micro-batches with 1 and 5 labels beside the ignored ones, a model of tokens",
        ),
        Case(
            lambda: (fresh(TOKENS)()[0], _language_model(old=0.5)),
            "gradients added to those that are there",
            gradients_and_loss,
            shown="the same micro-batches, a model that holds gradients already",
        ),
        Case(
            lambda: (fresh(ONE_IGNORED)()[0], _language_model()),
            "finite numbers, also where one micro-batch has no label: it counts nothing",
            gradients_and_loss,
            shown="two micro-batches, the second with labels of -100 only",
        ),
        Case(
            lambda: (fresh(ALL_IGNORED)()[0], _language_model(old=0.25)),
            "0 and unchanged gradients where no label counts",
            gradients_and_loss,
            shown="two micro-batches with labels of -100 only, a model that holds gradients",
        ),
        Case(
            lambda: (fresh(ALL_IGNORED)()[0], _language_model()),
            "0, and gradients that stay None or become zeros",
            gradients_and_loss,
            shown="two micro-batches with labels of -100 only",
        ),
    ],
    mistakes=[
        Mistake(
            "the parameters themselves were changed. This function only adds to their gradients; "
            "the optimizer's step comes later.",
            when=lambda seen: isinstance(seen[0].value, dict)
            and not seen[0].value["parameters as before"],
        ),
        Mistake(
            "the model's mode was changed. model.train() and model.eval() are the caller's affair.",
            when=lambda seen: isinstance(seen[0].value, dict)
            and not seen[0].value["mode as before"],
        ),
        Mistake(
            "logits (..., C) and labels (...) do not fit together as they are: cross_entropy looks "
            "for the classes in dimension 1. Flatten the logits to (N, C) and the labels to (N,).",
            when=lambda seen: any("Expected target size" in str(one.error) for one in seen),
        ),
        Mistake(
            "no gradient arrived in the parameters. Call backward on each micro-batch's share of "
            "the loss.",
            _without_backward,
        ),
        Mistake(
            "only the last micro-batch went backward. Every one adds its share to the gradients.",
            _last_backward_only,
        ),
        Mistake(
            "the gradients are cleared between the micro-batches, so that only the last one is "
            "left. backward adds, and here that is what you want.",
            _cleared_between,
        ),
        Mistake(
            "the gradients that were there are gone. Add to them; clearing is the caller's affair.",
            _cleared_first,
        ),
        Mistake(
            "a mean of the micro-batches' means: a label in a small micro-batch counts more than "
            "one in a large one. Divide each sum by the number of labels of ALL micro-batches.",
            _mean_of_batch_means,
        ),
        Mistake(
            "a mean of the micro-batches' means: a label in a small micro-batch counts more than "
            "one in a large one. Divide each sum by the number of labels of ALL micro-batches.",
            _mean_of_filled_means,
        ),
        Mistake(
            "without any label it divides 0 by 0 and the gradients turn into NaN. Divide by at "
            "least 1, or stop before backward.",
            _nothing_to_divide_by,
        ),
        Mistake(
            "a mean of the micro-batches' means, and NaN where one has no label. Divide each "
            "micro-batch's sum by the number of labels of ALL micro-batches.",
            _torch_means,
        ),
        Mistake(
            "the micro-batches' means are added up: with twice as many micro-batches the gradient "
            "would be twice as long. Divide each sum by the number of labels of ALL of them.",
            _sum_of_means,
        ),
        *[
            Mistake(
                "each micro-batch's sum is divided by its own size, and ignored labels are counted "
                "in it. Divide by the labels of ALL micro-batches that are not -100.",
                _over_own(size, mean),
            )
            for size in (Tensor.numel, len)
            for mean in (False, True)
        ],
        Mistake(
            "divided by the number of all rows. Divide by the number of labels that are not -100.",
            _over_all_rows,
        ),
        Mistake(
            "each micro-batch's sum is divided by the labels counted so far. Count those of ALL "
            "micro-batches before the first one goes backward.",
            _running_count,
        ),
        Mistake(
            "NaN where one micro-batch has no label: its own mean is 0 divided by 0, and NaN times "
            "0 stays NaN. Start from its sum instead of its mean.",
            _mean_times_count,
        ),
        Mistake(
            "the loss is right, but the sum went backward, so that the gradients are too large. "
            "Divide before backward.",
            _undivided_gradients,
        ),
        Mistake(
            "the gradients that were there are divided as well. Divide the loss before backward, "
            "and leave .grad alone.",
            _old_ones_divided,
        ),
        Mistake(
            "the sum over all labels. The mean is asked for: count all labels that are not -100 "
            "first, and divide each micro-batch's sum by that.",
            _whole_sum,
        ),
        Mistake(
            "ignored labels are counted in the divisor. Divide by the labels that are not -100.",
            _over_all_positions,
        ),
        Mistake(
            "the micro-batches are weighed by their rows. What counts is how many labels each has "
            "that are not -100.",
            _over_rows,
        ),
        Mistake(
            "the gradients are right, but what comes back is the last micro-batch's share of the "
            "loss. Add up all shares.",
            _not_summed,
        ),
        Mistake(
            "the gradients are right, but what comes back is the last micro-batch's own mean. Add "
            "up all micro-batches' shares.",
            _last_mean_returned,
        ),
        Mistake(
            "the gradients are right, but the returned loss is divided by the number of "
            "micro-batches. The shares add up to the mean already.",
            _mean_returned,
        ),
        Mistake(
            "the gradients are right, but what comes back is the sum over all labels. Return their "
            "mean.",
            _sum_returned,
        ),
        Mistake(
            "backward runs through a running sum, so that the first micro-batch counts again with "
            "each later one. Call backward on each share alone.",
            _running_backward,
        ),
        Mistake(
            "labels of 0 are skipped. 0 is a class like any other; -100 is the one to ignore.",
            _first_class_ignored,
        ),
        Mistake(
            "without any label it breaks off. It returns 0 there, and leaves the gradients alone.",
            when=breaks_off("accumulated_loss", 5),
        ),
        Mistake(
            "the returned loss still holds on to its graph, and with it the memory that "
            "accumulation was to save. Return it detached.",
            when=lambda seen: isinstance(seen[0].value, dict) and not seen[0].value["detached"],
        ),
        Mistake(
            "the gradients are right, but the returned loss is not. Return the mean over all "
            "labels that count: the shares that went backward add up to it.",
            when=_only_loss_wrong,
        ),
    ],
)  # fmt: skip


# --- train_step ---------------------------------------------------------------------------------
def after_steps(function: Callable, arguments: tuple) -> dict[str, Any]:
    """Losses, parameters, and what a BatchNorm has seen, after one step on each batch."""
    model, batches, optimizer, max_norm = arguments
    losses = [number(function(model, batch, optimizer, max_norm)) for batch in batches]
    passes = [int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    statistics = [b for n, b in model.named_buffers() if n.endswith("running_mean")]
    seen: dict[str, Any] = {"loss": losses[0]} if len(losses) == 1 else {"losses": losses}
    seen["parameters"] = [p.detach() for p in model.parameters()]
    seen["in train mode"] = all(module.training for module in model.modules())
    if passes:
        seen |= {"forward passes in train mode": passes[0], "running mean": statistics[0]}
    return seen


def _step(
    model, batch, optimizer, max_norm, *,
    train: str = "train", clear: str = "before", clip: str = "joint", steps: int = 1,
    loss_of: Callable = F.cross_entropy, returned: str = "before",
) -> Any:  # fmt: skip
    """One step with one thing done differently; by default the right one."""
    inputs, labels = batch
    parameters = list(model.parameters())
    if train in ("train", "train, then eval"):
        model.train()
    elif train == "eval":
        model.eval()
    if clear == "before":
        optimizer.zero_grad()
    loss = loss_of(model(inputs), labels)
    loss.backward()
    norm = torch.tensor(0.0)
    if clip == "joint":
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    elif clip == "each":
        for p in parameters:
            nn.utils.clip_grad_norm_([p], max_norm)
    elif clip == "value":
        nn.utils.clip_grad_value_(parameters, max_norm)
    elif clip == "always":
        norm = nn.utils.clip_grad_norm_(parameters, math.inf)
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(max_norm / norm)
    elif clip == "one":
        nn.utils.clip_grad_norm_(parameters, 1.0)
    for _ in range(steps):
        optimizer.step()
    if clear == "after":
        optimizer.zero_grad()
    if train == "train, then eval":
        model.eval()
    if returned == "after":
        with torch.no_grad():
            loss = loss_of(model(inputs), labels)
    return float(norm) if returned == "norm" else loss.item()


def _stepping(**differently: Any) -> Callable:
    return lambda model, batch, optimizer, max_norm: _step(
        model, batch, optimizer, max_norm, **differently
    )


def _train_step(model, batch, optimizer, max_norm) -> float:
    return _step(model, batch, optimizer, max_norm)


def _never_backward(model, batch, optimizer, max_norm) -> float:
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    optimizer.step()
    return loss.item()


def _summed_backward(model, batch, optimizer, max_norm) -> float:
    def summed(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    return _step(model, batch, optimizer, max_norm, loss_of=summed) / len(batch[1])


def _two_passes(model, batch, optimizer, max_norm) -> float:
    """The loss that is returned comes from a pass of its own before the step."""
    model.train()
    with torch.no_grad():
        loss = F.cross_entropy(model(batch[0]), batch[1]).item()
    _step(model, batch, optimizer, max_norm)
    return loss


FOUR = tensor([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.3], [1.5, 1.0]])
CLASSES = tensor([2, 0, 1, 2])
SECOND = tensor([[0.2, 1.0], [-1.0, 0.5], [2.0, -0.7]]), tensor([1, 1, 0])


def _small(lr: float = 0.5, momentum: float = 0.0, old: bool = False) -> tuple:
    model = filled(nn.Linear(2, 3), 3)
    if old:
        for p in model.parameters():
            p.grad = torch.full_like(p, 2.0)
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def _normed(frozen: bool = False) -> tuple:
    """In eval mode, and with a BatchNorm: it behaves differently there, and counts its passes."""
    layers = nn.BatchNorm1d(2), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)
    model = filled(nn.Sequential(*layers), 4).eval()
    if frozen:
        model[1].requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.SGD(trainable, lr=0.5)


def _with_adamw() -> tuple:
    model = filled(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), 5)
    model[0].requires_grad_(False)
    return model, torch.optim.AdamW([*model[2].parameters()], lr=0.1, weight_decay=0.1)


def _batches(n: int = 1) -> list:
    return fresh([(FOUR, CLASSES), SECOND, (FOUR[:2], CLASSES[:2])][:n])()[0]


def _made(parts: Callable[[], tuple], n: int, max_norm: float) -> Callable[[], tuple]:
    def make() -> tuple:
        model, optimizer = parts()
        return model, _batches(n), optimizer, max_norm

    return make


def _passes(seen: list) -> bool:
    """Everything right but the number of forward passes."""
    value = seen[3].value if len(seen) > 3 else None
    return isinstance(value, dict) and value.get("forward passes in train mode", 0) > 1


TRAIN_STEP = Task(
    reference=_train_step,
    changes=("model", "optimizer"),
    cases=[
        Case(
            _made(_small, 1, 100.0),
            "the mean loss before the step comes back; p - lr x gradient is left",
            after_steps,
            shown="nn.Linear(2, 3), a batch of 4, SGD with lr 0.5, max_norm 100",
        ),
        Case(
            _made(_small, 1, 0.1),
            "the same loss, and a step of the clipped length: lr x max_norm",
            after_steps,
            shown="nn.Linear(2, 3), a batch of 4, SGD with lr 0.5, max_norm 0.1",
        ),
        Case(
            _made(lambda: _small(old=True), 1, 100.0),
            "gradients that were there before play no part",
            after_steps,
            shown="a Linear that holds gradients of an earlier batch, SGD, max_norm 100",
        ),
        Case(
            _made(_normed, 1, 100.0),
            "the model in train mode, one forward pass, all layers updated",
            after_steps,
            shown="BatchNorm, Linear, Tanh, Linear in eval mode, SGD, max_norm 100",
        ),
        Case(
            _made(lambda: _small(0.3, 0.9), 3, 0.5),
            "three steps on three batches, the loss before each",
            after_steps,
            shown="nn.Linear(2, 3), SGD with momentum, max_norm 0.5, three batches in turn",
        ),
        Case(
            _made(lambda: _normed(frozen=True), 2, 0.2),
            "two steps with a frozen layer, which stays as it is",
            after_steps,
            shown="BatchNorm, a frozen Linear, Tanh, Linear in eval mode, SGD, max_norm 0.2",
        ),
        Case(
            _made(_with_adamw, 2, 1.0),
            "two steps of AdamW on the layer that is not frozen",
            after_steps,
            shown="a frozen Linear, Tanh, Linear, AdamW, max_norm 1.0",
        ),
    ],
    mistakes=[
        Mistake(
            "the parameters are as they were. Either the optimizer never steps, or it finds no "
            "gradient: its step comes after backward, and nothing is cleared in between.",
            _never_backward,
        ),
        Mistake(
            "the optimizer steps twice.",
            _stepping(steps=2),
        ),
        Mistake(
            "gradients are cleared only at the end. Those that were there at the start still get "
            "into the first step: clear before backward.",
            _stepping(clear="after"),
        ),
        Mistake(
            "old gradients are not cleared. backward adds to what is there: zero_grad comes first.",
            _stepping(clear="never"),
        ),
        Mistake(
            "the model stays in the mode in which it came. Training needs model.train(): dropout "
            "and BatchNorm behave differently in eval mode.",
            _stepping(train=""),
        ),
        Mistake(
            "the model was put into eval mode. Training needs model.train(): dropout and BatchNorm "
            "behave differently in eval mode.",
            _stepping(train="eval"),
        ),
        Mistake(
            "the model is in eval mode afterwards. Switch train mode on and leave it on: the next "
            "step needs it as well.",
            _stepping(train="train, then eval"),
        ),
        Mistake(
            "the gradients that the optimizer uses are not clipped. Clipping stands between "
            "backward and step; before the one or after the other it changes nothing.",
            _stepping(clip="none"),
        ),
        Mistake(
            "each parameter's gradient is clipped by itself. There is one norm over all of them.",
            _stepping(clip="each"),
        ),
        Mistake(
            "every entry of the gradient is cut off at max_norm. Clip the global norm "
            "(clip_grad_norm_).",
            _stepping(clip="value"),
        ),
        Mistake(
            "gradients that are short enough are made longer. Scale only where the norm exceeds "
            "max_norm.",
            _stepping(clip="always"),
        ),
        Mistake(
            "max_norm is not used: the norm is clipped to 1.",
            _stepping(clip="one"),
        ),
        Mistake(
            "the loss after the step comes back, from a second forward pass. Return the one that "
            "was computed before the step.",
            _stepping(returned="after"),
        ),
        Mistake(
            "the norm of the gradients comes back, not the loss.",
            _stepping(returned="norm"),
        ),
        Mistake(
            "the loss is right, but the sum over the batch went backward, so that the gradients "
            "are too large. Take the mean before backward.",
            _summed_backward,
        ),
        Mistake(
            "the summed loss. The mean over the batch is asked for.",
            _stepping(loss_of=lambda x, y: F.cross_entropy(x, y, reduction="sum")),
        ),
        Mistake(
            "softmax before the cross-entropy, which takes logits and does that itself.",
            _stepping(loss_of=lambda x, y: F.cross_entropy(x.softmax(-1), y)),
        ),
        Mistake(
            "the classes are taken from the first dimension: softmax over the batch.",
            _stepping(loss_of=lambda x, y: F.nll_loss(x.log_softmax(0), y)),
        ),
        Mistake(
            "more than one forward pass. The loss that backward uses is the one to return.",
            _two_passes,
        ),
        Mistake(
            "more than one forward pass: a BatchNorm sees the batch each time. Loss and gradients "
            "come from the same one.",
            when=_passes,
        ),
        Mistake(
            "a frozen parameter has no gradient (None). Leave those out, or use clip_grad_norm_, "
            "which does.",
            when=breaks_off("train_step", 5),
        ),
    ],
)  # fmt: skip

TASKS = {
    "warmup_linear": WARMUP_LINEAR,
    "clip_gradients": CLIP_GRADIENTS,
    "decay_groups": DECAY_GROUPS,
    "adamw_step": ADAMW_STEP,
    "accumulated_loss": ACCUMULATED_LOSS,
    "train_step": TRAIN_STEP,
}
