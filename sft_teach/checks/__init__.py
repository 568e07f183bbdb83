"""Instant checks of the exercises: is my answer right, and if not, which mistake is it?

    from sft_teach.checks import check
    check("log_softmax", log_softmax)

imports torch and nothing else of the course, so that it works beside any notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from sft_teach import __version__, banned
from sft_teach.checks.core import SECONDS, CheckFailed, Task, examine

ASSIGNMENTS = (
    "ex01_data",
    "ex02_pretraining",
    "ex03_cross_entropy",
    "ex04_loop",
    "ex05_evaluation",
)

__all__ = ["ASSIGNMENTS", "CheckFailed", "check", "find", "made_for", "tasks"]


def check(name: str, function: Callable, *, seconds: float = SECONDS) -> None:
    """Say in one line that an answer is right, or which mistake it holds.

    Args:
        name: of the task, as in `check("log_softmax", log_softmax)`.
        function: your answer.
        seconds: limit of one call.

    Raises:
        CheckFailed: the answer is not right yet; the message names the mistake where it is a known
            one, else it shows a small input, what must hold there, and what came. So does an
            answer that uses what its task forbids.
        LookupError: there is no such task.
    """
    assignment, task = find(name)
    examine(name, task, function, seconds)
    if said := banned.hint(name, function, task.forbidden, set(tasks(assignment)) - {name}):
        raise CheckFailed(name, said, True)
    print(f"{name}: right on all {len(task.cases)} checks.")


def tasks(assignment: str) -> dict[str, Task]:
    """The tasks of one assignment by name, in the order of the catalogue."""
    if assignment not in ASSIGNMENTS:
        raise LookupError(f"no assignment {assignment!r}; there are: {', '.join(ASSIGNMENTS)}.")
    return import_module(f"sft_teach.checks.{assignment}").TASKS


def find(name: str) -> tuple[str, Task]:
    """The assignment and the task of that name."""
    for assignment in ASSIGNMENTS:
        if name in tasks(assignment):
            return assignment, tasks(assignment)[name]
    known = ", ".join(name for assignment in ASSIGNMENTS for name in tasks(assignment))
    raise LookupError(f"no task {name!r}; there are: {known}.")


def made_for(version: str) -> None:
    """Say so if a notebook was made for another version of the package than the installed one."""
    if version != __version__:
        print(
            f"Note: this notebook was made for sft_teach {version}; installed is {__version__}. "
            "Checks may differ. Take the notebook and the package from the same release."
        )
