"""Keeps nbgrader's own autograder, which runs submissions unprotected, from being started here."""

from __future__ import annotations


def refuse(assignment: str, **context) -> None:
    """nbgrader's hook before it autogrades; `sft-teach grade` uses its converter without it.

    Raises:
        SystemExit: always; nbgrader passes over every other exception of a hook.
    """
    raise SystemExit(
        "nbgrader's own autograder would run what students handed in on this machine, unprotected. "
        f"Grade with `sft-teach grade {assignment}`; formgrader shows its results."
    )
