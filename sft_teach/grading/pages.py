"""The notebook that nbgrader sees of a submission: the release with the student's sources in it.

It was put together anew, without outputs of the student's, and has our own result in each test
cell.
"""

from __future__ import annotations

import json
import re
import textwrap

import nbformat

from sft_teach.grading import engine, notebook
from sft_teach.grading.engine import Result


def assemble(release, submitted: bytes, master, result: Result):
    """The release with the student's sources in it, and a result in each test cell.

    Cells that the learner added follow the cell they followed there. Outputs, attachments and
    metadata of the submission are left behind. Texts become quoted plain text: nbgrader's pages
    render Markdown with whatever HTML, script or javascript: link is in it.
    """
    tree = notebook.read(submitted)
    answers = notebook.normalise(tree, master).answers
    tasks = {task.name: task for task in result.tasks}
    following = _added(release, tree)
    assembled = nbformat.from_dict({**release, "cells": []})
    assembled.cells += following.get(None, [])
    for original in release.cells:
        cell = nbformat.from_dict(json.loads(json.dumps(original)))
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if cell.metadata.get("nbgrader", {}).get("solution") and name in answers:
            changed = answers[name].strip() != cell.source.strip()  # else: "No response."
            plain = cell.cell_type == "markdown" and changed
            cell.source = quoted(answers[name]) if plain else answers[name]
        if name.endswith("__hidden") and (task := tasks.get(name.removesuffix("__hidden"))):
            cell.outputs = _verdict(task)
        elif name.endswith("__check") and (task := tasks.get(name.removesuffix("__check"))):
            text = task.hint or (f"{task.name}: right." if task.points else "")
            cell.outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
        assembled.cells.append(cell)
        assembled.cells += following.get(cell.id, [])
    return assembled


def _added(release, tree: dict) -> dict[str | None, list]:
    """Cells of a submission that the release does not have, by the id of the cell before them."""
    ids = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell.id for cell in release.cells}
    ids.pop(None, None)
    sources = {" ".join(cell.source.split()): cell.id for cell in release.cells}
    before, following = None, {}
    for raw in tree["cells"]:
        if not isinstance(raw, dict) or raw.get("cell_type") not in ("code", "markdown"):
            continue
        source = notebook.source_of(raw)
        known = ids.get(notebook.grade_id_of(raw)) or sources.get(" ".join(source.split()))
        if known:
            before = known
        elif source.strip():
            if raw["cell_type"] == "code":
                cell = nbformat.v4.new_code_cell(source)
            else:
                cell = nbformat.v4.new_markdown_cell(quoted(source))
            following.setdefault(before, []).append(cell)
    return following


def quoted(text: str) -> str:
    """Text as a fenced block of plain text, its long lines wrapped."""
    lines = [
        part
        for line in text.expandtabs(4).splitlines()
        for part in textwrap.wrap(line, 96, replace_whitespace=False, drop_whitespace=False) or [""]
    ]
    longest = max((len(run) for run in re.findall("~+", text)), default=0)
    fence = "~" * max(4, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence])


def _verdict(task: engine.TaskResult) -> list:
    """What nbgrader reads the points from, and the learner the hint: plain text, nothing else."""
    shown = f"{task.points:g} of {task.max_points:g} points"
    if task.points >= task.max_points:
        return [nbformat.v4.new_output("stream", text=f"{shown}\n")]
    if task.points > 0:
        data = {"text/plain": f"{task.points:g}"}
        return [nbformat.v4.new_output("execute_result", data=data, execution_count=None)]
    hint = task.hint or "The hidden tests found a mistake that the check does not know."
    return [
        nbformat.v4.new_output("error", ename=shown, evalue=hint, traceback=[f"{shown}. {hint}"])
    ]
