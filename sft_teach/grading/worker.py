"""Process S: runs a submission's cells, then calls its functions when process T asks.

Everything here is in the hands of the submission once its first cell runs: nothing that this
process says is believed further than `protocol.py` can check it. It is started as a script in its
sandbox, where `protocol.py` lies beside it and sft_teach is the stub made below.

Usage: worker.py CONTROL LINK [MODULE ...]: the numbers of two inherited sockets, to the engine and
to process T; modules to import before there is anything to do.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.abc
import json
import os
import random
import socket
import sys
import types
from typing import Any

import numpy
import torch
from torch import Tensor, nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import protocol  # noqa: E402
from protocol import Channel, Encoder, load_arguments, optimized, pack, stateful  # noqa: E402

WORDS = (
    "{}: while an exercise is graded sft_teach is not there, except for a `check` that does "
    "nothing. Write the answer with torch and Python alone."
)


# --- the stub of sft_teach ----------------------------------------------------------------------
def install_stub() -> None:
    """Put a package sft_teach into place whose check does nothing and which has no other names."""

    def module(name: str, **contents: Any) -> None:
        def missing(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            raise ImportError(WORDS.format(f"{name}.{attribute}"), name="sft_teach")

        stub = types.ModuleType(name)
        stub.__dict__.update(contents, __path__=[], __getattr__=missing)
        sys.modules[name] = stub

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "sft_teach":
                raise ImportError(WORDS.format(name), name="sft_teach")
            return None

    def nothing(*arguments, **options) -> None:
        """What a check does while an exercise is graded."""

    module("sft_teach")
    checks = {"check": nothing, "made_for": nothing}
    checks["CheckFailed"] = type("CheckFailed", (Exception,), {})
    module("sft_teach.checks", **checks)
    sys.modules["sft_teach"].checks = sys.modules["sft_teach.checks"]
    sys.meta_path.insert(0, Finder())


# --- cells --------------------------------------------------------------------------------------
def parse_cell(source: str) -> ast.Module:
    """A cell's syntax tree; where it only parses without its magics, they are left out."""
    try:
        return ast.parse(source)
    except SyntaxError:
        lines = [
            f"{line[: len(line) - len(line.lstrip())]}pass" if line.lstrip()[:1] in "%!?" else line
            for line in source.splitlines()
        ]
        return ast.parse("\n".join(lines))


def run_cell(source: str, name: str, namespace: dict) -> str:
    """Run a cell statement by statement, and return what went wrong, if anything."""
    skipped = ""
    try:
        for statement in parse_cell(source).body:
            code = compile(ast.Module([statement], []), name, "exec")
            try:
                exec(code, namespace)
            except ImportError as error:
                # A cell that sets up a notebook imports torch and a figure of the course together.
                if getattr(error, "name", None) != "sft_teach":
                    raise
                skipped = str(error)
    except BaseException as error:  # SystemExit and KeyboardInterrupt end a cell, not the process
        return describe(error)["text"]
    return skipped


def describe(error: BaseException) -> dict:
    """An exception as data: the names of its classes, and what it says."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    try:
        text = str(error)[: 2 * protocol.TEXT]
    except BaseException:
        text = "(no message)"
    return {"kinds": kinds[:20], "said": text, "text": f"{kinds[0]}: {text}"}


# --- comparing before and after -----------------------------------------------------------------
def content(tensor: Tensor | None) -> Any:
    if tensor is None or tensor.layout is not torch.strided:
        return repr(tensor)
    data = tensor.detach().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), data.view(torch.uint8).numpy().tobytes()


def fingerprint(value: Any) -> Any:
    """A value as nested tuples that compare equal as long as nothing in it changed."""
    if isinstance(value, Tensor):
        return content(value), content(value.grad if value.is_leaf else None)
    if isinstance(value, nn.Module):
        tensors = [*value.named_parameters(), *value.named_buffers()]
        flags = [module.training for module in value.modules()]
        return flags, [(name, fingerprint(tensor)) for name, tensor in tensors]
    if isinstance(value, torch.optim.Optimizer):
        groups = [
            [len(group["params"]), *(repr(v) for k, v in group.items() if k != "params")]
            for group in value.param_groups
        ]
        return groups, state_of(value, content), [fingerprint(p) for p in optimized(value)]
    if isinstance(value, (list, tuple)):
        return type(value), [fingerprint(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(repr(key), fingerprint(item)) for key, item in value.items()]
    return "a generator" if isinstance(value, protocol.Random) else repr(value)


def state_of(optimizer: torch.optim.Optimizer, encode) -> dict[str, dict]:
    """Its state by the parameter's number, tensors and numbers encoded."""
    state = {}
    for number, parameter in enumerate(optimized(optimizer)):
        if entries := optimizer.state.get(parameter):
            state[str(number)] = {
                str(key): encode(item) if isinstance(item, Tensor) else item
                for key, item in entries.items()
                if isinstance(item, (Tensor, int, float))
            }
    return state


def random_states() -> dict[str, Any]:
    kind, keys, *rest = numpy.random.get_state()
    return {
        "random": random.getstate(),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, keys.tobytes(), *rest),
    }


# --- serving ------------------------------------------------------------------------------------
class Server:
    """Answers the requests of process T."""

    def __init__(self, channel: Channel, functions: dict[str, Any]):
        self.channel, self.functions = channel, functions
        self.graphs: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self.handles = 0

    def serve(self) -> None:
        while True:
            head, blob = self.channel.receive()
            request = protocol.pickle.loads(head)
            for handle in request["release"]:
                self.graphs.pop(handle, None)
            answer = self.call if request["op"] == "call" else self.products
            reply, tensors = answer(request, protocol.unpack(blob))
            try:
                text = json.dumps(reply)
            except (ValueError, RecursionError) as error:
                text, tensors = json.dumps({"error": describe(error)}), {}
            self.channel.send(text.encode(), pack(tensors))

    def call(self, request: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict]:
        """Call a function and report its value, or its error, and what it changed."""
        function = self.functions.get(request["name"])
        if not callable(function):
            return {"missing": True}, {}
        (arguments, options), objects = load_arguments(request["body"], request["table"], tensors)
        machines = stateful([arguments, options])
        named = dict(zip(request["parameters"], arguments, strict=False)) | options
        before = {name: fingerprint(value) for name, value in named.items()}
        tables = [self._tensor_state(thing) for thing in objects]
        machine_states = [fingerprint(machine) for machine in machines]
        self._set_random(request["random"])
        moved, modules = random_states(), len(sys.modules)
        reply: dict[str, Any] = {}
        try:
            with torch.set_grad_enabled(request["gradients"]):
                value = function(*arguments, **options)
        except BaseException as error:
            reply["error"] = describe(error)
        now = random_states()
        # A first `import sklearn` inside an answer draws random numbers of its own.
        same = moved if len(sys.modules) != modules else now
        reply["moved"] = [name for name in moved if moved[name] != same[name]]

        inputs = [thing for thing in objects if isinstance(thing, Tensor) and thing.requires_grad]
        encoder = Encoder(objects, machines, lambda tensor: self._keep(tensor, inputs))
        if "error" not in reply:
            reply["value"] = encoder.value(value)
        touched = [name for name, value in named.items() if fingerprint(value) != before[name]]
        reply["touched"] = [name for name in touched if name not in request["changes"]]
        plain = Encoder(objects, machines)
        plain.tensors = encoder.tensors
        reply["lists"] = {
            name: plain.value(named[name])
            for name in reply["touched"]
            if type(named[name]) in (list, dict)
        }
        reply["changed"] = self._changes(objects, tables, plain)
        reply["machines"] = {
            str(number): self._machine(machine, plain)
            for number, machine in enumerate(machines)
            if fingerprint(machine) != machine_states[number]
        }
        return reply, encoder.tensors

    def _keep(self, tensor: Tensor, inputs: list[Tensor]) -> int:
        self.handles += 1
        self.graphs[self.handles] = tensor, inputs
        return self.handles

    @staticmethod
    def _tensor_state(thing: Any) -> tuple:
        if isinstance(thing, Tensor):
            return content(thing), content(thing.grad)
        return (thing.get_state().numpy().tobytes(),)

    def _changes(self, objects: list, before: list, encoder: Encoder) -> dict[str, dict]:
        """New contents, gradients and generator states, by number in the table."""
        changes: dict[str, dict] = {}
        for number, thing in enumerate(objects):
            now = self._tensor_state(thing)
            entry = changes.setdefault(str(number), {})
            if now[0] != before[number][0]:
                tensor = thing if isinstance(thing, Tensor) else thing.get_state()
                entry["data"] = encoder.tensor(tensor)
            if len(now) == 2 and now[1] != before[number][1]:
                entry["grad"] = None if thing.grad is None else encoder.tensor(thing.grad)
        return {number: entry for number, entry in changes.items() if entry}

    @staticmethod
    def _machine(machine: Any, encoder: Encoder) -> dict:
        if isinstance(machine, nn.Module):
            return {"training": [module.training for module in machine.modules()]}
        return {"state": state_of(machine, lambda tensor: {"x": encoder.tensor(tensor)})}

    @staticmethod
    def _set_random(states: tuple) -> None:
        python, of_torch, of_numpy = states
        random.setstate(python)
        torch.set_rng_state(torch.frombuffer(bytearray(of_torch), dtype=torch.uint8))
        numpy.random.set_state(of_numpy)

    def products(self, request: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict]:
        """Vector-Jacobian products of an earlier result with respect to its inputs."""
        output, inputs = self.graphs[request["handle"]]
        try:
            # The same as grad_outputs=..., which would import sympy first: a second, for nothing.
            total = (output * tensors["0"]).sum()
            gradients = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
        except Exception as error:
            return {"error": describe(error)}, {}
        kept = {str(i): gradient for i, gradient in enumerate(gradients) if gradient is not None}
        return {"gradients": [str(i) if str(i) in kept else None for i in range(len(inputs))]}, kept


def read_job(control: socket.socket) -> dict:
    """The submission's cells and the limits, from the engine."""
    with contextlib.closing(control):
        file = control.makefile("rb")
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size))


def silence() -> None:
    """Standard input is empty from here on, and what is printed goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def main() -> None:
    control, link = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        importlib.import_module(name)
    job = read_job(control)
    sys.path.pop(0)
    sys.argv = [""]
    install_stub()
    silence()
    protocol.confine(job["memory"], job["seconds"])
    channel = Channel(link)
    channel.send(json.dumps({"event": "started"}).encode())
    notebook = types.ModuleType("__main__")
    sys.modules["__main__"] = notebook
    functions, errors = {}, []
    for number, cell in enumerate(job["cells"]):
        channel.send(json.dumps({"event": "cell", "number": number}).encode())
        errors.append(run_cell(cell["source"], f"<cell {number + 1}>", notebook.__dict__))
        if cell["task"]:
            functions[cell["task"]] = notebook.__dict__.get(cell["task"])
    channel.send(json.dumps({"event": "ready", "errors": errors}).encode())
    with contextlib.suppress(protocol.ProtocolFailure):
        Server(channel, functions).serve()


if __name__ == "__main__":
    main()
