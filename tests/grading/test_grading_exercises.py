"""The answers of the mutant tests get the same verdict through the proxies as in one process.

Process S runs in a thread here: what is compared is what the protocol makes of arguments, values,
changes, gradients and errors, not the sandbox.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from sft_teach.grading import engine, notebook, protocol, tester
from sft_teach.grading.session import Session

checks = pytest.importorskip("sft_teach.checks")
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = 3  # every third wrong answer; 1 takes all of them and three times as long
CASES = [
    (assignment, name)
    for assignment in checks.ASSIGNMENTS
    if (ROOT / "tests" / "exercises" / f"mutants_{assignment}.py").is_file()
    and (ROOT / "solutions" / assignment / f"{assignment}.ipynb").is_file()
    for name in checks.tasks(assignment)
]


@pytest.fixture(scope="module")
def worker():
    """The code of process S, which is a script beside its protocol.py and no part of a package."""
    sys.path.insert(0, str(Path(tester.__file__).parent))
    yield importlib.import_module("worker")
    sys.path.pop(0)


@contextlib.contextmanager
def attached(worker, assignment: str, name: str, function):
    """Process T's state with a function in place of a submission."""
    near, far = socket.socketpair()
    server = worker.Server(worker.Channel(far), {name: function})

    def serve() -> None:
        with contextlib.suppress(worker.protocol.ProtocolFailure):
            server.serve()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    master = notebook.read_master(ROOT / "solutions" / assignment / f"{assignment}.ipynb")
    message = {
        "assignment": assignment,
        "tests": [asdict(test) for test in master.tests],
        "parameters": master.parameters,
        "changes": {},
        "limits": asdict(engine.Limits()),
        "imports": master.imports,
        "modules": [],
    }
    state = tester.Tester(message)
    state.session = Session(protocol.Channel(near))
    try:
        yield state
    finally:
        near.close()
        thread.join(10)
        far.close()


def verdict(worker, assignment: str, name: str, function) -> tuple[bool, str]:
    """Whether it gets all points, and what the check says about it, through the proxies."""
    with attached(worker, assignment, name, function) as state, contextlib.redirect_stdout(None):
        reply = state.test({"name": name, "key": "00" * 32})
        full = next(test["points"] for test in state.tests if test["name"] == name)
        return reply["points"] == full, reply["hint"] or state._hint(name, "wrong")


@pytest.mark.parametrize(("assignment", "name"), CASES)
def test_the_same_verdict_through_the_proxies(worker, monkeypatch, assignment, name):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "exercises"))
    answers = importlib.import_module(f"mutants_{assignment}")
    for function in answers.RIGHT[name]:
        right, hint = verdict(worker, assignment, name, function)
        assert right, f"{function.__name__}: {hint}"
        assert "right on the check's examples" in hint
    for function, *_ in answers.WRONG[name][::SAMPLE]:
        right, hint = verdict(worker, assignment, name, function)
        assert not right, function.__name__
        with contextlib.redirect_stdout(io.StringIO()):
            with pytest.raises(checks.CheckFailed) as direct:
                checks.check(name, function)
        assert hint == str(direct.value), function.__name__
