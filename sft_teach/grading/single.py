"""Grade one notebook without a gradebook: what `sft-teach grade-one NOTEBOOK` does."""

from __future__ import annotations

from pathlib import Path

from sft_teach import environment
from sft_teach.errors import DataError
from sft_teach.grading import engine, notebook
from sft_teach.grading.engine import Result


def grade_one(path: Path, assignment: str | None = None) -> Result:
    """Grade a notebook on hidden inputs that are new each time.

    Args:
        path: of the notebook.
        assignment: None takes the one that the notebook's metadata, its name or its folder says.

    Raises:
        DataError: the notebook does not say which assignment it is.
    """
    return engine.grade_notebook(path, assignment or assignment_of(path))


def assignment_of(path: Path) -> str:
    """Which assignment a notebook answers. Only names of this course are believed."""
    folder = environment.repository_root() / "solutions"
    known = sorted(p.parent.name for p in folder.glob("*/*.ipynb"))
    said = []
    try:
        metadata = notebook.read(path).get("metadata")
        own = metadata.get("sft_teach") if isinstance(metadata, dict) else None
        said.append(own.get("assignment") if isinstance(own, dict) else None)
    except notebook.UnreadableNotebook as error:
        raise DataError(f"{path} cannot be graded: {error}.") from None
    said += [name for name in known if name in path.name] + [path.resolve().parent.name]
    for name in said:
        if name in known:
            return name
    raise DataError(
        f"{path} does not say which assignment it answers. Name it with --assignment: "
        f"{', '.join(known)}."
    )


def as_text(result: Result) -> str:
    """A table for a terminal."""
    if result.failed:
        return f"{result.assignment}: not graded: {result.failed}"
    width = max(len(task.name) for task in result.tasks)
    lines = [
        f"{task.name:{width}}  {task.points:g} of {task.max_points:g}  {task.hint}".rstrip()
        for task in result.tasks
    ]
    lines.append(f"{'all':{width}}  {result.points:g} of {result.max_points:g}")
    return "\n".join([f"{result.assignment} (autograded tasks)", *lines, *result.flags])
