"""What the tests of the exercises share: masters, and running their hidden tests in-process."""

from __future__ import annotations

from pathlib import Path

import nbformat
import torch

from sft_teach import checks
from sft_teach.checks import hidden

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 50  # secret seeds per mutant: no wrong answer may pass with any, no right one fail


def master(assignment: str) -> nbformat.NotebookNode:
    """The nbgrader source notebook of an assignment."""
    return nbformat.read(ROOT / "solutions" / assignment / f"{assignment}.ipynb", as_version=4)


def cell(notebook: nbformat.NotebookNode, grade_id: str) -> nbformat.NotebookNode:
    """The one cell with that grade_id."""
    found = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    ]
    assert len(found) == 1, f"{len(found)} cells have the grade_id {grade_id}"
    return found[0]


def solution(assignment: str, name: str):
    """The function of the master's answer cell, with the notebook's own imports."""
    notebook = master(assignment)
    namespace: dict = {}
    for c in notebook.cells:
        kind = c.metadata.get("nbgrader", {})
        if c.id == "setup" or (c.cell_type == "code" and kind.get("solution")):
            exec(compile(c.source, f"{assignment}:{c.id}", "exec"), namespace)
    return namespace[name]


class HiddenTests:
    """A master's hidden-test cell, to be run on any function."""

    def __init__(self, assignment: str, name: str):
        source = cell(master(assignment), f"{name}__hidden").source
        self.name, self.task = name, checks.tasks(assignment)[name]
        self.code = compile(source, f"{assignment}:{name}__hidden", "exec")

    def __call__(self, function, seed: int) -> None:
        """Raise what the cell raises for this function, with the inputs of a secret seed."""
        hidden.use(f"secret {seed}".encode())
        try:
            with torch.random.fork_rng(devices=[]):
                function = hidden.strict(self.task, function)
                exec(self.code, {"torch": torch, "Tensor": torch.Tensor, self.name: function})
        finally:
            hidden.use(None)

    def passes(self, function, seed: int) -> bool:
        try:
            self(function, seed)
        except Exception:
            return False
        return True
