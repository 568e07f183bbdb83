"""Make `exercises/` from the masters in `solutions/`: what `sft-teach exercises` does.

nbgrader's own generator takes the answers out. It removes the release folder when a marker is
misspelt, and copies every other file beside a master to the students; so it works on copies of the
notebooks in a temporary folder, and what it made is looked over before it replaces anything.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from sft_teach.errors import DataError

# What must not reach a learner, whatever became of the markers around it.
SECRETS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME", "Rubric", "hidden.draw")


def generate(root: Path) -> list[Path]:
    """Write exercises/NAME/NAME.ipynb for each solutions/NAME/NAME.ipynb; returns what changed.

    The same masters give the same bytes.

    Raises:
        DataError: nbgrader is not installed or refuses a master, or an answer would be left in a
            release. Nothing has been changed then.
    """
    masters = sorted((root / "solutions").glob("*/*.ipynb"))
    if not masters:
        raise DataError(f"No masters: expected notebooks {root / 'solutions'}/NAME/NAME.ipynb.")
    with tempfile.TemporaryDirectory() as temporary:
        course = Path(temporary)
        made = {}
        for master in masters:
            target = course / "solutions" / master.parent.name / master.name
            target.parent.mkdir(parents=True)
            shutil.copyfile(master, target)
            made[master] = _released(root, course, master)
        return [path for master, text in made.items() if (path := _replace(root, master, text))]


def names(root: Path) -> list[str]:
    """The assignments of a course: the folders of solutions/ that hold their master."""
    return sorted(p.stem for p in (root / "solutions").glob("*/*.ipynb") if p.parent.name == p.stem)


def known(root: Path, assignment: str) -> str:
    """The name of an assignment, also where its folder was given, as a shell completes it.

    Raises:
        DataError: there is no such assignment; the message lists those there are.
    """
    name = Path(assignment).name.removesuffix(".ipynb")
    if name not in names(root):
        there = ", ".join(names(root)) or "none"
        raise DataError(
            f"There is no assignment {assignment} in {root / 'solutions'}; there are: {there}."
        )
    return name


def release(root: Path, assignment: str, config=None) -> str:
    """The release of one assignment, as `generate` writes it; nothing in `root` is changed.

    Args:
        config: further settings for nbgrader, to enter the assignment into a gradebook.
    """
    assignment = known(root, assignment)
    master = root / "solutions" / assignment / f"{assignment}.ipynb"
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "solutions" / assignment / master.name
        target.parent.mkdir(parents=True)
        shutil.copyfile(master, target)
        return _released(root, Path(temporary), master, config)


def _released(root: Path, course: Path, master: Path, more=None) -> str:
    """nbgrader's release of one master, looked over."""
    try:
        from nbgrader.converters import GenerateAssignment
        from nbgrader.coursedir import CourseDirectory
    except ImportError as error:
        raise DataError(
            "Exercises are made by nbgrader: pip install -c constraints.txt -e '.[teach]'"
        ) from error
    _require_markers(root, master)
    config = settings(root)
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.assignment_id = master.parent.name
    config.SaveCells.enabled = more is not None
    config.GenerateAssignment.no_database = more is None
    config.BaseConverter.force = True
    config.merge(more or {})
    converter = GenerateAssignment(coursedir=CourseDirectory(config=config), config=config)
    converter.log.setLevel("CRITICAL")  # our own error says what went wrong
    try:
        converter.start()
    except (Exception, SystemExit) as error:
        words = str(error).rstrip(".")
        raise DataError(f"nbgrader refuses {master.relative_to(root)}: {words}.") from error
    text = (course / "exercises" / master.parent.name / master.name).read_text("utf-8")
    for secret in SECRETS:
        if secret in text:
            raise DataError(
                f"{master.relative_to(root)}: its release still holds {secret!r}. Are the markers "
                "in pairs, each on a line of its own, in a cell that nbgrader treats as it says?"
            )
    for cell in json.loads(text)["cells"]:
        kind = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "code" and kind.get("solution"):
            if f"def {kind['grade_id']}(" not in "".join(cell["source"]):
                raise DataError(
                    f"{master.relative_to(root)}: the release of {kind['grade_id']} has lost its "
                    "first line. Is `### BEGIN SOLUTION` spelt right, below the signature?"
                )
    return text


def _require_markers(root: Path, master: Path) -> None:
    """Name the cell whose markers are not in pairs; nbgrader only says that one is missing.

    A hidden test without markers would be released as it is.
    """
    for cell in json.loads(master.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        graded = cell["metadata"].get("nbgrader", {})
        name = graded.get("grade_id") or cell.get("id", "without a name")
        where = f"{master.relative_to(root)}, cell {name}"
        for kind in ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME"):
            begin, end = (source.count(f"### {edge} {kind}") for edge in ("BEGIN", "END"))
            if begin != end:
                edge = "END" if end < begin else "BEGIN"
                raise DataError(f"{where}: `### {edge} {kind}` is missing.")
        if name.endswith("__hidden") and cell["cell_type"] == "code":
            if "### BEGIN HIDDEN TESTS" not in source:
                raise DataError(
                    f"{where}: expected the test between `### BEGIN HIDDEN TESTS` and `### END "
                    "HIDDEN TESTS`. Without them learners would be given the test."
                )


def settings(root: Path):
    """nbgrader_config.py as a traitlets Config."""
    from traitlets.config import PyFileConfigLoader

    return PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()


def _replace(root: Path, master: Path, text: str) -> Path | None:
    path = root / "exercises" / master.parent.name / master.name
    if path.is_file() and path.read_text("utf-8") == text:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
