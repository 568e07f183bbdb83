"""Grade one notebook without a gradebook: what `sft-teach grade-one NOTEBOOK` does."""

from __future__ import annotations

from pathlib import Path

from sft_teach import environment, exercises
from sft_teach.errors import DataError
from sft_teach.grading import engine, notebook
from sft_teach.grading.engine import Result


def grade_one(path: Path, assignment: str | None = None) -> Result:
    """Grade a notebook on hidden inputs that are new each time.

    Args:
        path: of the notebook.
        assignment: None takes the one that the notebook's metadata, its name or its folder says.

    Returns:
        The result; `failed` says why where the notebook cannot be read.

    Raises:
        DataError: the notebook does not say which assignment it is.
    """
    try:
        name = assignment or assignment_of(path)
        what = notebook.as_submission(path) if is_master(path) else path
    except notebook.UnreadableNotebook as error:
        return Result(assignment or path.name, failed=str(error))
    return engine.grade_notebook(what, name)


def is_master(path: Path) -> bool:
    """Whether a notebook is one of this course's masters: it must get full points."""
    folder = environment.repository_root() / "solutions"
    return path.resolve() in [master.resolve() for master in folder.glob("*/*.ipynb")]


def assignment_of(path: Path) -> str:
    """Which assignment a notebook answers. Only names of this course are believed."""
    known = exercises.names(environment.repository_root())
    metadata = notebook.read(path).get("metadata")
    own = metadata.get("sft_teach") if isinstance(metadata, dict) else None
    said = [own.get("assignment") if isinstance(own, dict) else None]
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
