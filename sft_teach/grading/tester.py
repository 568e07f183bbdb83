"""Process T: runs the master's hidden tests against a submission in process S.

It lives on from submission to submission of one assignment. The engine tells it over one socket
what to do and hands it, for each process S, the socket that leads there. It sees the hidden tests,
the checks and one submission's key; not the course's secret, the gradebook or other assignments.

Usage: main(NUMBER): of the inherited socket to the engine.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import hmac
import importlib
import io
import json
import os
import random
import socket
import time
import traceback
import warnings
from typing import Any

import numpy
import torch

from sft_teach.grading import protocol
from sft_teach.grading.protocol import Channel, ProtocolFailure
from sft_teach.grading.session import ArgumentChanged, Session

MEMORY = 4 << 30  # bytes beyond what the libraries take
IMPORTS = ("torch", "math", "random", "numpy", "scipy", "sklearn", "collections", "itertools")


class Tester:
    """The state of process T: one assignment, and the submission at hand."""

    def __init__(self, message: dict):
        self.assignment, self.tests = message["assignment"], message["tests"]
        self.parameters, self.own = message["parameters"], message["changes"]
        self.limits = message["limits"]
        self.prelude = self._prelude(message["imports"])
        self.tasks = self._tasks()
        for name in ("torch.testing", *message["modules"]):  # not in the time of the first test
            importlib.import_module(name)
        self.session: Session | None = None

    def _tasks(self) -> dict[str, Any]:
        """The entries of sft_teach.checks for this assignment; none for a teacher's own one."""
        try:
            from sft_teach import checks

            return dict(checks.tasks(self.assignment))
        except (ImportError, LookupError):
            return {}

    @staticmethod
    def _prelude(imports: list[str]) -> dict[str, Any]:
        """What hidden tests find imported: what the master's plain cells import."""
        namespace: dict[str, Any] = {"torch": torch}
        for line in imports:
            with contextlib.suppress(ImportError):
                exec(line, namespace)
        return namespace

    def describe(self) -> dict:
        """What the engine needs to know of the tasks."""
        return {
            name: {"forbidden": list(getattr(task, "forbidden", ()))}
            for name, task in self.tasks.items()
        }

    def attach(self, link: socket.socket, message: dict) -> dict:
        """Take a new process S and follow it through its cells."""
        if self.session is not None:
            self.session.channel.sock.close()
        self.session = Session(Channel(link))
        limits = self.limits
        return self.session.events(
            message["cells"], limits["boot"], limits["cell"], limits["cells"]
        )

    def test(self, message: dict) -> dict:
        """Run one hidden test, and if it fails the check, for a hint."""
        name, key = message["name"], bytes.fromhex(message["key"])
        test = next(test for test in self.tests if test["name"] == name)
        begin = time.monotonic()
        self._seed(name, key)
        self.session.start(self.limits["task"], self.limits["reply"])
        points, kind, error = self._run(test)
        if self.session.broken:  # whatever the test made of it
            points, kind, error = 0.0, "broken", self.session.broken
        elif self.session.calls == 0 and kind != "wrong":
            points, kind = 0.0, "test"
            error = error or "the hidden test never calls the function"
        hint = ""
        if points < test["points"] and kind != "test":
            hint = self._hint(name, kind)
        return {
            "points": points,
            "kind": kind,
            "error": error,
            "hint": hint,
            "seconds": time.monotonic() - begin,
            "broken": self.session.broken,
        }

    def _seed(self, name: str, key: bytes) -> None:
        """Make all that is random here follow from the key, whatever ran before."""
        number = int.from_bytes(hmac.new(key, f"global {name}".encode(), hashlib.sha256).digest())
        random.seed(number)
        torch.manual_seed(number % 2**63)
        numpy.random.seed(number % 2**32)
        torch.set_default_dtype(torch.float32)
        with contextlib.suppress(ImportError):
            from sft_teach.checks import hidden

            hidden.use(key)

    def _proxies(self) -> dict[str, Any]:
        return {
            name: self.session.proxy(name, parameters, self._changes(name), name in self.tasks)
            for name, parameters in self.parameters.items()
        }

    def _changes(self, name: str) -> list[str]:
        if name in self.own:
            return self.own[name]
        return list(getattr(self.tasks.get(name), "changes", ()))

    def _run(self, test: dict) -> tuple[float, str, str]:
        """Points, "right" | "wrong" | "broken" | "test", and words for the teacher."""
        namespace = {**self.prelude, **self._proxies(), "__name__": "hidden_test"}
        try:
            value = _execute(test["source"], f"<hidden test of {test['name']}>", namespace)
        except ProtocolFailure as error:
            return 0.0, "broken", str(error)
        except BaseException as error:
            own = self.session.calls == 0 and not isinstance(error, AssertionError)
            return 0.0, "test" if own else "wrong", _words(error)
        if type(value) in (int, float):  # nbgrader's partial credit: the value of the last line
            return min(float(test["points"]), max(0.0, float(value))), "right", ""
        return float(test["points"]), "right", ""

    def _hint(self, name: str, kind: str) -> str:
        """What the check says about the answer; in the words of a check where it cannot run."""
        if kind == "broken":
            return BROKEN.get(self.session.broken, f"{name}: {BROKEN['']}")
        if name not in self.tasks:
            return ""
        from sft_teach.checks import core

        self.session.start(self.limits["hint"], self.limits["reply"], lenient=True)
        function = self.session.proxy(name, self.parameters[name], self._changes(name))
        try:
            core.examine(name, self.tasks[name], function)
        except core.CheckFailed as failed:
            return failed.message
        except BaseException:
            return ""
        return f"{name}: right on the check's examples, but not on all of the hidden ones."


BROKEN = {
    "no answer in time": "no result in time, where milliseconds are enough. Look for a loop whose "
    "condition never becomes false.",
    "its process ended": "it ends the whole program. Return the result instead.",
    "": "its result cannot be read. Return what the task asks for, and nothing else.",
}


def _execute(source: str, filename: str, namespace: dict) -> Any:
    """Run a cell; the value of its last line, unless that line is a call of the submission."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, filename, "exec"), namespace)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), filename, "eval"), namespace)
    return None if isinstance(last.value, ast.Call) else value


def _words(error: BaseException) -> str:
    """An error in one line, with the line of the test that it came from."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith("<hidden test")
    ]
    where = f" (line {lines[-1]} of the hidden test)" if lines else ""
    name = "" if type(error) in (AssertionError, ArgumentChanged) else f"{type(error).__name__}: "
    return f"{name}{protocol.clean(error)}{where}"


def serve(control: socket.socket) -> None:
    """Answer the engine until it closes the socket."""
    channel, tester = Channel(control), None
    while True:
        message = json.loads(channel.receive()[0])
        if message["op"] == "open":
            tester = Tester(message)
            reply = {"tasks": tester.describe()}
        elif message["op"] == "attach":
            control.settimeout(10)
            _, numbers, _, _ = socket.recv_fds(control, 1, 1)
            reply = tester.attach(socket.socket(fileno=numbers[0]), message)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                reply = tester.test(message)
        channel.send(json.dumps(reply).encode())


def main(number: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    protocol.confine(MEMORY)
    control = socket.socket(fileno=number)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    with contextlib.suppress(ProtocolFailure):
        serve(control)
