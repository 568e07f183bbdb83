"""In process T: the functions of a submission as proxies that a test calls like ordinary ones."""

from __future__ import annotations

import inspect
import pickle
import random
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sft_teach.grading import protocol
from sft_teach.grading.protocol import Channel, Decoder, ProtocolFailure, Table

# An exception in S comes back as the first of these among its classes.
KINDS = {
    kind.__name__: kind
    for kind in (
        *(ValueError, TypeError, KeyError, IndexError, LookupError, ZeroDivisionError),
        *(OverflowError, ArithmeticError, NotImplementedError, RecursionError, RuntimeError),
        *(AttributeError, NameError, ImportError, AssertionError, MemoryError, OSError, Exception),
    )
}


class ArgumentChanged(AssertionError):
    """The function changed an argument, or the global random state, that it must leave alone."""


class Session:
    """The link to one process S.

    Attributes:
        broken: why nothing that S says counts any more; "" as long as it keeps to the protocol.
        calls: how often a proxy was called since `start`.
        moved: how often that moved the global random state.
        lenient: apply undeclared changes to the arguments instead of raising; a check compares them
            itself and names the mistake.
    """

    def __init__(self, channel: Channel):
        self.channel = channel
        self.broken, self.calls, self.moved, self.lenient = "", 0, 0, False
        self.until, self.reply_seconds = 0.0, 0.0
        self.released: list[int] = []

    def start(self, seconds: float, reply_seconds: float, lenient: bool = False) -> None:
        """Begin a test: it has `seconds` for everything, each answer `reply_seconds`."""
        self.calls, self.lenient = 0, lenient
        self.until, self.reply_seconds = time.monotonic() + seconds, reply_seconds

    def events(self, cells: int, boot: float, per_cell: float, total: float) -> dict:
        """Follow S through its cells: {"ready", "errors"} or {"stage", "cell", "reason"}."""
        stage, number, until = "boot", -1, time.monotonic() + boot + total
        try:
            while True:
                limit = boot if stage == "boot" else per_cell
                head, _ = self.channel.receive(max(0.0, min(limit, until - time.monotonic())))
                event = protocol.parse(head)
                if event.get("event") == "ready":
                    errors = event.get("errors")
                    return {"ready": True, "errors": _texts(errors, cells)}
                if event.get("event") == "cell" and stage != "boot":
                    number = min(cells - 1, max(0, int(event.get("number", 0))))
                stage = "cells"
        except (ProtocolFailure, TypeError, ValueError) as error:
            self.broken = str(error)
            return {"ready": False, "stage": stage, "cell": number, "reason": self.broken}

    def proxy(
        self, name: str, parameters: list[str], changes: list[str], still: bool = False
    ) -> Callable:
        """The function `name` of the submission.

        Args:
            parameters: their names.
            changes: those that it may change in place.
            still: moving the global random state is an error, as for the course's own tasks.
        """

        def call(*arguments, **options):
            moved = self.moved
            result = self.call(name, parameters, changes, arguments, options)
            if still and not self.lenient and self.moved != moved:
                raise ArgumentChanged("it moves the global random state")
            return result

        call.__name__ = call.__qualname__ = name
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        call.__signature__ = inspect.Signature([inspect.Parameter(p, kind) for p in parameters])
        return call

    def _exchange(self, request: dict, blob: bytes) -> tuple[dict, dict[str, Tensor]]:
        if self.broken:
            raise ProtocolFailure(self.broken)
        request["release"], self.released = self.released, []
        try:
            seconds = min(self.reply_seconds, self.until - time.monotonic())
            if seconds <= 0:
                raise ProtocolFailure("its answers took too long in all")
            self.channel.send(pickle.dumps(request), blob, seconds)
            head, answer = self.channel.receive(seconds)
            return protocol.parse(head), protocol.unpack(answer)
        except BaseException as error:
            # Whatever broke off here, the next bytes of S would be read in the wrong place.
            self.broken = str(error) or type(error).__name__
            raise

    def call(self, name, parameters, changes, arguments: tuple, options: dict) -> Any:
        """Call a function in S.

        Raises:
            ProtocolFailure: S broke the protocol.
            ArgumentChanged: it changed what is not in `changes`.
            Exception: what the function raised, as one of KINDS.
        """
        self.calls += 1
        table = Table()
        body = protocol.dump_arguments((arguments, options), table)
        states = (random.getstate(), torch.get_rng_state().numpy().tobytes())
        request = {
            "op": "call",
            "name": name,
            "body": body,
            "table": table.entries,
            "parameters": parameters,
            "changes": changes,
            "gradients": torch.is_grad_enabled(),
            "random": (*states, numpy.random.get_state()),
        }
        reply, tensors = self._exchange(request, protocol.pack(table.tensors))
        try:
            return self._result(reply, tensors, table, parameters, changes, arguments, options)
        except ProtocolFailure as error:
            self.broken = str(error)
            raise
        except Exception as error:
            if isinstance(error, ArgumentChanged) or getattr(error, "from_submission", False):
                raise
            # Not to be mistaken for an exception that a test waits for.
            self.broken = "an answer that cannot be read"
            raise ProtocolFailure(self.broken) from None

    def _result(self, reply, tensors, table, parameters, changes, arguments, options) -> Any:
        if reply.get("missing") is True:
            raise _own(NameError("the notebook defines no such function"))
        machines = protocol.stateful([arguments, options])
        named = dict(zip(parameters, arguments, strict=False)) | options
        self.moved += _move_random(reply["moved"])
        touched = [name for name in _texts(reply["touched"], 50) if name in named]
        if touched and not self.lenient:
            raise ArgumentChanged(f"it changes its argument {touched[0]}")
        allowed = None if self.lenient else _reachable([named[n] for n in changes if n in named])
        inputs = [t for t in table.objects if isinstance(t, Tensor) and t.requires_grad]

        def wrap(tensor: Tensor, handle: int) -> Tensor:
            if not inputs or not torch.is_grad_enabled():
                return tensor
            return Remote.apply(self, handle, tensor, *inputs)

        decoder = Decoder(tensors, table.objects, machines, wrap)
        for name in touched:
            if name in reply["lists"] and type(named[name]) in (list, dict):
                _refill(named[name], decoder.value(reply["lists"][name]))
        # The value first: an argument that is also the value is T's own object, changed below.
        value = decoder.value(reply["value"]) if "error" not in reply else None
        _restore(reply["changed"], table.objects, decoder, allowed, reshape=self.lenient)
        _restore_machines(reply["machines"], machines, decoder, allowed)
        if "error" in reply:
            raise _raised(reply["error"])
        return value

    def products(self, handle: int, gradient: Tensor, inputs: tuple[Tensor, ...]) -> list:
        """Vector-Jacobian products of an earlier result, one for each input or None."""
        blob = protocol.pack({"0": gradient})
        reply, tensors = self._exchange({"op": "products", "handle": handle}, blob)
        if "error" in reply:
            raise _raised(reply["error"])
        keys, products = reply.get("gradients"), []
        if not isinstance(keys, list) or len(keys) != len(inputs):
            self.broken = "gradients that cannot be read"
            raise ProtocolFailure(self.broken)
        for key, tensor in zip(keys, inputs, strict=True):
            product = None if key is None else tensors.get(key if isinstance(key, str) else "")
            wrong = key is not None and product is None
            if product is not None:
                wrong = product.shape != tensor.shape or product.dtype != tensor.dtype
            if wrong:
                self.broken = "gradients that cannot be read"
                raise ProtocolFailure(self.broken)
            products.append(product)
        return products


class Remote(torch.autograd.Function):
    """A value of S in T's graph: its backward asks S for the vector-Jacobian products."""

    @staticmethod
    def forward(ctx, session: Session, handle: int, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.session, ctx.handle = session, handle
        ctx.shapes = tuple(tensor.detach() for tensor in inputs)
        # Lives as long as this node of the graph; when it goes, S may drop its own.
        ctx.token = _Token()
        weakref.finalize(ctx.token, session.released.append, handle)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return None, None, None, *ctx.session.products(ctx.handle, gradient, ctx.shapes)


class _Token:
    pass


def _texts(value: Any, most: int) -> list[str]:
    if not isinstance(value, list):
        raise ProtocolFailure("an answer that cannot be read")
    return [item if isinstance(item, str) else "" for item in value[:most]]


def _own(error: Exception) -> Exception:
    error.from_submission = True
    return error


def _raised(description: Any) -> Exception:
    """The exception that S describes, as one of KINDS."""
    if not isinstance(description, dict):
        raise ProtocolFailure("an answer that cannot be read")
    names = _texts(description.get("kinds"), 20)
    kind = next((KINDS[name] for name in names if name in KINDS), RuntimeError)
    said = protocol.clean(description.get("said", ""))
    first = names[0] if names else ""
    if kind is RuntimeError and first and first not in KINDS:  # SystemExit, KeyboardInterrupt
        said = f"{protocol.clean(first, 60)}: {said}"
    return _own(kind(said))


def _move_random(names: Any) -> bool:
    """Move T's own global random states where S's moved, so that a test sees that."""
    names = _texts(names, 3)
    if "random" in names:
        random.random()
    if "torch" in names:
        torch.rand(1)
    if "numpy" in names:
        numpy.random.random()
    return bool(names)


def _reachable(values: list) -> set[int]:
    """The ids of all tensors and machines in values."""
    found: set[int] = set()

    def walk(item: Any) -> None:
        if isinstance(item, Tensor):
            found.add(id(item))
        elif isinstance(item, nn.Module):
            found.update((id(item), *map(id, item.parameters()), *map(id, item.buffers())))
        elif isinstance(item, torch.optim.Optimizer):
            found.add(id(item))
            found.update(map(id, protocol.optimized(item)))
            found.update(id(v) for state in item.state.values() for v in state.values())
        elif isinstance(item, (list, tuple)):
            for part in item:
                walk(part)
        elif isinstance(item, dict):
            for part in item.values():
                walk(part)

    walk(values)
    return found


def _refill(container: list | dict, value: Any) -> None:
    if type(value) is type(container):
        container.clear()
        container.extend(value) if isinstance(container, list) else container.update(value)


def _entries(mapping: Any, things: list) -> list[tuple[Any, dict]]:
    """The pairs (thing, what S says about it) of a mapping from numbers in decimal."""
    pairs = []
    for number, entry in mapping.items():
        index = int(number) if number.isascii() and number.isdigit() and len(number) < 7 else -1
        if not 0 <= index < len(things) or not isinstance(entry, dict):
            raise ProtocolFailure("an answer about arguments that do not exist")
        pairs.append((things[index], entry))
    return pairs


def _restore(
    changes: Any, objects: list, decoder: Decoder, allowed: set[int] | None, reshape: bool
) -> None:
    """Give T's own tensors and generators the contents that S's have now."""
    for thing, entry in _entries(changes, objects):
        if not isinstance(thing, Tensor):
            thing.set_state(protocol.checked_state(decoder.tensor(entry["data"])))
            continue
        if allowed is not None and id(thing) not in allowed:
            raise ProtocolFailure("it reports a change that it did not declare")
        with torch.no_grad():
            if "data" in entry:
                new = decoder.tensor(entry["data"])
                if reshape and new.shape != thing.shape and new.dtype == thing.dtype:
                    thing.data = new  # a check has its own words for it
                elif new.shape != thing.shape or new.dtype != thing.dtype:
                    raise ArgumentChanged(
                        "it changes the shape or dtype of an argument that it works on in place: "
                        f"{tuple(thing.shape)} {thing.dtype} to {tuple(new.shape)} {new.dtype}"
                    )
                else:
                    thing.copy_(new)
            if "grad" in entry:
                new = None if entry["grad"] is None else decoder.tensor(entry["grad"])
                if new is not None and (new.shape != thing.shape or new.dtype != thing.dtype):
                    raise ProtocolFailure("a gradient of another shape")
                _set_gradient(thing, new)


def _set_gradient(tensor: Tensor, new: Tensor | None) -> None:
    if new is None or tensor.grad is None:
        tensor.grad = new
    else:
        tensor.grad.copy_(new)  # whoever holds the gradient sees it change, as in one process


def _restore_machines(reports: Any, machines: list, decoder: Decoder, allowed) -> None:
    """Training flags of modules, state of optimizers."""
    for machine, entry in _entries(reports, machines):
        if allowed is not None and id(machine) not in allowed:
            continue  # a module whose parameters an allowed optimizer changes
        if isinstance(machine, nn.Module):
            modules = list(machine.modules())
            flags = entry["training"]
            if not isinstance(flags, list) or [type(f) for f in flags] != [bool] * len(modules):
                raise ProtocolFailure("an answer that cannot be read")
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag
        else:
            _restore_optimizer(machine, entry["state"], decoder)


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Any, decoder: Decoder) -> None:
    parameters, new = protocol.optimized(optimizer), {}
    numbers = [{"number": i} for i in range(len(parameters))]
    for number, entries in _entries(state, numbers):
        index = number["number"]
        new[index] = {}
        for name, item in entries.items():
            item = decoder.value(item)
            fits = type(item) in (int, float, bool)
            if isinstance(item, Tensor):
                fits = item.numel() == 1 or item.shape == parameters[index].shape
            if not fits or len(name) > 50 or len(new[index]) > 10:
                raise ProtocolFailure("an optimizer's state that cannot be")
            new[index][name] = item
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": new, "param_groups": groups})
