"""exercises/ is what the masters give, no more and no less, and works as a learner's notebook."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from sft_teach import checks, exercises
from sft_teach.errors import DataError
from tests.exercises.harness import ROOT, cell

ASSIGNMENTS = checks.ASSIGNMENTS
each_assignment = pytest.mark.parametrize("assignment", ASSIGNMENTS)


@pytest.fixture
def course(tmp_path):
    """A copy of the masters of ex03 that may be spoiled."""
    shutil.copyfile(ROOT / "nbgrader_config.py", tmp_path / "nbgrader_config.py")
    shutil.copytree(
        ROOT / "solutions/ex03_cross_entropy", tmp_path / "solutions/ex03_cross_entropy"
    )
    exercises.generate(tmp_path)
    return tmp_path


def release(root, assignment="ex03_cross_entropy"):
    return root / "exercises" / assignment / f"{assignment}.ipynb"


def spoil(course, old: str, new: str) -> None:
    path = course / "solutions/ex03_cross_entropy/ex03_cross_entropy.ipynb"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_committed_exercises_are_generated_from_the_masters(tmp_path):
    shutil.copytree(ROOT / "solutions", tmp_path / "solutions")
    shutil.copyfile(ROOT / "nbgrader_config.py", tmp_path / "nbgrader_config.py")
    exercises.generate(tmp_path)
    made = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "exercises").rglob("*.*")}
    committed = {p.relative_to(ROOT): p.read_bytes() for p in (ROOT / "exercises").rglob("*.*")}
    committed = {p: b for p, b in committed.items() if ".ipynb_checkpoints" not in p.parts}
    assert made.keys() == committed.keys()
    assert all(made[path] == committed[path] for path in made), "run `make exercises`"


def test_the_same_masters_give_the_same_bytes(course):
    before = release(course).read_bytes()
    assert exercises.generate(course) == []
    assert release(course).read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("### END SOLUTION", "### END SOLUTON"),
        ("### BEGIN HIDDEN TESTS", "### BEGIN HIDDEN TEST"),
        ("### BEGIN SOLUTION", "### BEGINN SOLUTION"),
    ],
)
def test_a_misspelt_marker_is_refused_and_changes_nothing(course, old, new):
    before = release(course).read_bytes()
    spoil(course, old, new)
    with pytest.raises(DataError, match="ex03_cross_entropy"):
        exercises.generate(course)
    assert release(course).read_bytes() == before


def test_files_beside_a_master_are_not_released(course):
    (course / "solutions/ex03_cross_entropy/answers.txt").write_text("42")
    exercises.generate(course)
    assert [p.name for p in release(course).parent.iterdir()] == ["ex03_cross_entropy.ipynb"]


def run(path, tmp_path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    options = dict(timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}})
    NotebookClient(notebook, kernel_name="python3", **options).execute()
    return notebook


def errors(c) -> list:
    return [o for o in c.get("outputs", []) if o.output_type == "error"]


@each_assignment
def test_an_untouched_exercise_stops_at_its_stubs_and_nowhere_else(assignment, tmp_path):
    notebook = run(release(ROOT, assignment), tmp_path)
    for name in checks.tasks(assignment):
        (error,) = errors(cell(notebook, f"{name}__check"))
        assert error.ename == "CheckFailed"
        assert error.traceback == [f"{name}: not written yet. Replace `raise NotImplementedError` "
                                   "with your answer."]  # fmt: skip
    for c in notebook.cells:
        for error in errors(c):
            assert error.ename in ("CheckFailed", "NotImplementedError"), (c.id, error.evalue)
        assert not any(o.get("name") == "stderr" for o in c.get("outputs", [])), c.id
        if c.cell_type == "code" and c.metadata.get("nbgrader", {}).get("solution"):
            assert not errors(c), "defining a stub is no error"


@each_assignment
def test_a_master_runs_and_each_check_says_right(assignment, tmp_path):
    path = ROOT / "solutions" / assignment / f"{assignment}.ipynb"
    notebook = run(path, tmp_path)
    for c in notebook.cells:
        assert not errors(c), (c.id, errors(c))
        assert not any(o.get("name") == "stderr" for o in c.get("outputs", [])), c.id
    for name, task in checks.tasks(assignment).items():
        (output,) = cell(notebook, f"{name}__check").outputs
        assert output.text == f"{name}: right on all {len(task.cases)} checks.\n"
    for c in notebook.cells:  # a figure is drawn, with words for those who cannot see it
        if c.id.endswith("-figure"):
            assert any("<img alt=" in o.get("data", {}).get("text/html", "") for o in c.outputs)
