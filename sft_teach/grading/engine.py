"""Grade one notebook, or many of one assignment one after the other.

    with Grader("ex03_cross_entropy") as grader:
        result = grader.grade("submission.ipynb", student="ada", secret=secret)

The engine itself never runs or unpickles anything of a submission. It starts the sandboxes, tells
them what to do, holds the deadlines, and decides what is tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sft_teach import banned, environment, exercises
from sft_teach.grading import notebook, sandbox, sources, view
from sft_teach.grading.notebook import Cell, Master, Submission
from sft_teach.grading.wire import Broken, Wire

START_TESTER = (
    f"import sys; sys.path[:0] = [{view.TEACHER!r}, {view.PACKAGES!r}]; "
    "from sft_teach.grading import tester; tester.main(int(sys.argv[1]))"
)
START_WORKER = (
    f"import sys; sys.path[:0] = [{view.PACKAGES!r}]; sys.argv = sys.argv[1:]; "
    "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes. Right answers take milliseconds; what exceeds these costs its own task.

    Attributes:
        reply: for one call of a function.
        task: for all calls of one hidden test.
        hint: for the check that looks for a hint.
        cell, cells: for one cell of the submission, and for all of them.
        submission: for everything; then the remaining tasks get no points.
        boot: for a process to start and import torch, before anything of a submission runs.
        memory: bytes that a submission may use beyond what Python and torch take.
    """

    reply: float = 10.0
    task: float = 40.0
    hint: float = 20.0
    cell: float = 20.0
    cells: float = 60.0
    submission: float = 300.0
    boot: float = 120.0
    memory: int = 2 << 30


@dataclass
class TaskResult:
    """What one task is worth.

    Attributes:
        hint: for the learner; names the mistake where sft_teach.checks recognises it.
        error: for the teacher.
        seconds: that its test took.
    """

    name: str
    points: float
    max_points: float
    hint: str = ""
    error: str = ""
    seconds: float = 0.0


@dataclass
class Result:
    """The grade of one notebook. With `failed` set it has none: that is not the same as 0."""

    assignment: str
    tasks: list[TaskResult] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    failed: str | None = None

    @property
    def points(self) -> float:
        return sum(task.points for task in self.tasks)

    @property
    def max_points(self) -> float:
        return sum(task.max_points for task in self.tasks)

    def as_dict(self) -> dict:
        """As JSON can hold it."""
        return asdict(self)


def grade_notebook(
    submission: str | os.PathLike[str] | bytes,
    assignment: str | os.PathLike[str],
    student: str | None = None,
    secret: bytes | None = None,
) -> Result:
    """Grade one notebook; see `Grader`."""
    with Grader(assignment) as grader:
        return grader.grade(submission, student, secret)


def submission_key(secret: bytes, assignment: str, student: str) -> bytes:
    """The key of one submission's hidden inputs, as `sft_teach.checks.hidden.student_key` has it.

    Written out here because that module imports torch, which the engine does without.
    """
    message = f"{len(assignment)}:{assignment}:{student}".encode()
    return hmac.new(secret, message, hashlib.sha256).digest()


class Grader:
    """Grades submissions of one assignment, its processes kept warm. Use it in one thread.

    Args:
        assignment: a name below solutions/, or the path of a master notebook.
        limits: seconds and bytes.
        spares: processes that import torch ahead, while the submission at hand is graded; more
            than one pays where each waits for the next and processors are idle.

    Raises:
        SandboxUnavailable: this machine has no sandbox; the message says what to do.
        DataError: there is no such assignment, or its master is unusable.
    """

    def __init__(
        self,
        assignment: str | os.PathLike[str],
        limits: Limits | None = None,
        spares: int = 1,
    ):
        sandbox.require()
        self.master: Master = notebook.read_master(_master_path(assignment))
        self.limits = limits or Limits()
        self.tester: Tester | None = None
        self.spares: list[Worker] = []
        self._wanted = spares

    def __enter__(self) -> Grader:
        try:
            self._start_spares()
            self.tester = Tester(self.master, self.limits)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        for process in (*self.spares, self.tester):
            if process is not None:
                process.close()
        self.spares, self.tester = [], None

    def grade(
        self,
        submission: str | os.PathLike[str] | bytes,
        student: str | None = None,
        secret: bytes | None = None,
    ) -> Result:
        """Grade one notebook.

        Args:
            submission: its path or its bytes.
            student, secret: hidden inputs follow from both, so that grading again repeats them;
                without a secret they are new each time.

        Returns:
            The result; `failed` says why where the notebook cannot be read, or answers another
            assignment.

        Raises:
            SandboxUnavailable: the processes do not start (any more).
        """
        try:
            tree = notebook.read(submission)
            notebook.require(tree, self.master.assignment)
        except notebook.UnreadableNotebook as error:
            return Result(self.master.assignment, failed=str(error))
        key = secrets.token_bytes(32)
        if secret is not None:
            key = submission_key(secret, self.master.assignment, student or "")
        return Grading(self, notebook.normalise(tree, self.master), key).run()

    def take_worker(self, cells: list[Cell]) -> Worker:
        """A fresh process S with these cells on its way to it; the next one starts to boot."""
        self._start_spares()
        worker = self.spares.pop(0)
        worker.give(cells, self.limits)
        self._start_spares()
        return worker

    def _start_spares(self) -> None:
        while len(self.spares) < max(1, self._wanted):
            self.spares.append(Worker(_slow_modules(self.master)))

    def restart_tester(self) -> None:
        self.tester.close()
        self.tester = Tester(self.master, self.limits)


def _slow_modules(master: Master) -> tuple[str, ...]:
    """What is worth importing before a submission is there."""
    # The first step of an optimizer imports it, which takes longer than all calls together.
    optimizers = any("torch.optim" in test.source for test in master.tests)
    return ("torch._dynamo",) if optimizers else ()


def _master_path(assignment: str | os.PathLike[str]) -> Path:
    path = Path(assignment)
    if path.suffix == ".ipynb":
        return path
    root = environment.repository_root()
    name = exercises.known(root, str(assignment))
    return root / "solutions" / name / f"{name}.ipynb"


class Worker:
    """Process S. It starts without a submission and waits for one.

    Args:
        modules: that it imports while it waits.
    """

    def __init__(self, modules: tuple[str, ...] = ()):
        self.control, control = socket.socketpair()
        self.link, link = socket.socketpair()
        numbers = (control.fileno(), link.fileno())
        arguments = ["-c", START_WORKER, f"{view.WORKER}/worker.py", *map(str, numbers)]
        arguments += modules
        self.process = sandbox.Process(view.of_worker(), arguments, numbers)
        control.close()
        link.close()

    def give(self, cells: list[Cell], limits: Limits) -> None:
        seconds = int(limits.submission) + 60
        job = {"cells": [asdict(cell) for cell in cells], "memory": limits.memory}
        data = json.dumps(job | {"seconds": seconds}).encode()
        self.control.settimeout(limits.boot)
        with contextlib.suppress(OSError):  # if it is gone, process T will say so
            self.control.sendall(len(data).to_bytes(8, "little") + data)

    def close(self) -> None:
        self.process.kill()
        self.control.close()
        self.link.close()


class Tester:
    """Process T."""

    def __init__(self, master: Master, limits: Limits):
        self.limits = limits
        control, inside = socket.socketpair()
        self.wire = Wire(control)
        number = inside.fileno()
        arguments = ["-c", START_TESTER, str(number)]
        self.process = sandbox.Process(view.of_tester(), arguments, (number,))
        inside.close()
        message = {
            "op": "open",
            "assignment": master.assignment,
            "tests": [asdict(test) for test in master.tests],
            "parameters": master.parameters,
            "changes": {n: own["changes"] for n, own in master.own.items() if "changes" in own},
            "imports": master.imports,
            "modules": _slow_modules(master),
            "limits": asdict(limits),
        }
        try:
            self.tasks: dict[str, dict] = self.wire.ask(message, limits.boot)["tasks"]
        except Broken as error:
            said = self.process.said()
            self.close()
            raise sandbox.SandboxUnavailable(
                f"The process for the hidden tests does not start: {error}. {said[-2000:]}"
            ) from None

    def attach(self, worker: Worker, cells: int) -> dict:
        limits = self.limits
        message = {"op": "attach", "cells": cells}
        return self.wire.ask(message, limits.boot + limits.cells + 10, worker.link.fileno())

    def test(self, name: str, key: bytes) -> dict:
        limits = self.limits
        seconds = limits.task + limits.hint + 2 * limits.reply + 10
        return self.wire.ask({"op": "test", "name": name, "key": key.hex()}, seconds)

    def close(self) -> None:
        self.process.kill()
        self.wire.close()


ROUNDS = 4  # with all cells in one process S, before each task left gets one of its own


class Grading:
    """One submission on its way through the processes."""

    def __init__(self, grader: Grader, submission: Submission, key: bytes):
        self.grader, self.submission, self.key = grader, submission, key
        self.until = time.monotonic() + grader.limits.submission
        self.flags = list(submission.flags)
        self.fatal: dict[int, str] = {}  # cells that ended or blocked process S, and how
        self.errors: dict[int, str] = {}  # cells that raised
        self.tried: set[str] = set()

    def run(self) -> Result:
        """Grade all tasks together; then those alone that other cells may have spoilt."""
        master = self.grader.master
        results = {test.name: TaskResult(test.name, 0.0, test.points) for test in master.tests}
        todo = [name for name in results if not self._is_banned(results[name])]
        banned = results.keys() - todo
        cells = list(range(len(self.submission.cells)))
        for _ in range(ROUNDS):
            if todo:
                todo = self._round(todo, cells, results)
                cells = [number for number in cells if number not in self.fatal]
        for name, result in results.items():
            if result.points == 0 and name not in banned and (alone := self._alone(name)):
                self._round([name], alone, results)
        return Result(master.assignment, list(results.values()), self.flags)

    def _round(self, todo: list[str], cells: list[int], results: dict) -> list[str]:
        """Run cells in one process S and tests on it; what is left when that process breaks."""
        chosen = [self.submission.cells[number] for number in cells]
        if time.monotonic() > self.until:
            for name in todo:
                results[name].error = "the time for this submission is used up"
            return []
        worker = self.grader.take_worker(chosen)
        try:
            attached = self._attach(worker, cells)
            if not attached:
                for name in todo:
                    results[name].error = self._cell_error(name) or "its cells do not run"
                return todo if self.fatal.keys() & set(cells) else []
            while todo and time.monotonic() <= self.until:
                name, *todo = todo
                if self._test(results[name]):
                    return todo
            return todo
        finally:
            worker.close()

    def _attach(self, worker: Worker, cells: list[int]) -> bool:
        """Let T follow S through the cells; remember the cell that S did not survive."""
        try:
            reply = self.grader.tester.attach(worker, len(cells))
        except Broken:
            self.grader.restart_tester()
            reply = {"ready": False, "stage": "cells", "cell": 0, "reason": "it broke the tests"}
        if reply["ready"]:
            self.errors |= {cells[i]: text for i, text in enumerate(reply["errors"]) if text}
            return True
        if reply["stage"] == "boot":  # nothing of the submission ran yet: no fault of its own
            raise sandbox.SandboxUnavailable(
                f"The sandbox for the submission does not start: {reply['reason']}. "
                f"{worker.process.said()[-2000:]}"
            )
        number = cells[max(0, reply["cell"])] if cells else 0
        self.fatal[number] = reply["reason"]
        self.flags.append(f"cell {number + 1} of its code broke off: {reply['reason']}")
        return False

    def _test(self, result: TaskResult) -> bool:
        """Test one task; True if process S cannot be used any more."""
        self.tried.add(result.name)
        try:
            reply = self.grader.tester.test(result.name, self.key)
        except Broken as error:
            self.grader.restart_tester()
            reply = {"points": 0.0, "kind": "broken", "error": f"the process of the tests: {error}"}
            reply |= {"hint": "", "seconds": 0.0, "broken": "the process of the tests ended"}
            self.flags.append(f"the process of the tests was started again after {result.name}")
        result.points, result.hint = reply["points"], reply["hint"]
        result.error, result.seconds = reply["error"], reply["seconds"]
        if reply["kind"] == "test":
            self.flags.append(f"the hidden test of {result.name} itself fails: {result.error}")
        if result.points < result.max_points and (cell := self._cell_error(result.name)):
            result.error = f"{result.error} (its cell: {cell})"
        return bool(reply["broken"])

    def _number(self, name: str) -> int | None:
        cells = self.submission.cells
        return next((i for i, cell in enumerate(cells) if cell.task == name), None)

    def _cell_error(self, name: str) -> str:
        number = self._number(name)
        return self.fatal.get(number) or self.errors.get(number) or ""

    def _alone(self, name: str) -> list[int]:
        """The cells that a task needs, if it is worth a process of its own; else nothing.

        It is if another cell may have spoilt it, or if it has not been tried.
        """
        number = self._number(name)
        if number is None:
            return []
        texts = [cell.source for cell in self.submission.cells]
        needed = sources.needed(texts, number)
        others = set(range(len(texts))) - set(needed)
        spoilt = any(n in self.fatal or sources.names(texts[n]).meddles for n in others)
        spoilt = spoilt or name not in self.tried
        return [n for n in needed if n not in self.fatal] if spoilt else []

    def _is_banned(self, result: TaskResult) -> bool:
        """Take the points of an answer that uses what its task forbids, and say so."""
        name = result.name
        own: Mapping = self.grader.master.own.get(name, {})
        entry = self.grader.tester.tasks.get(name, {})
        forbidden = tuple(own.get("forbidden", entry.get("forbidden", ())))
        number = self._number(name)
        if number is None:
            return False
        cells = self.submission.cells
        texts = [cell.source for cell in cells]
        answer = sources.defining(texts[number], name)
        helpers = [n for n in sources.needed(texts, number) if n != number and not cells[n].task]
        used = sources.uses([answer, *(texts[n] for n in helpers)], texts, forbidden)
        used += sources.uses([answer], texts, (banned.PACKAGE,))  # only a stub is there
        if used:
            result.error = f"forbidden: uses {', '.join(used)}"
            result.hint = banned.sentence(name, used[0])
            self.flags.append(f"{name} uses {', '.join(used)}, which its task forbids")
        return bool(used)
