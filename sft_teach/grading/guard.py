"""Keeps nbgrader's own autograder, which runs submissions unprotected, from being started here."""

from __future__ import annotations

REFUSED = (
    "nbgrader's own autograder would run what students handed in on this machine, unprotected. "
    "Grade with `sft-teach grade ASSIGNMENT`; formgrader shows its results."
)


class AutogradeRefused(Exception):
    """No SystemExit: that would end the Jupyter server that formgrader runs in."""


def __getattr__(name: str):
    """nbgrader looks its hook `refuse` up when it makes its autograder: the moment to refuse.

    Once the hook is called, results of `sft-teach grade` are already deleted. That command uses
    nbgrader's converter without the hook.
    """
    if name == "refuse":
        raise AutogradeRefused(REFUSED)
    raise AttributeError(name)
