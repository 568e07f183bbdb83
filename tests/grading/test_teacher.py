"""What a teacher who changes an exercise is told: markers, hidden tests, one notebook's grade."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import practice
import pytest
import torch

from sft_teach import cli, environment, exercises
from sft_teach.checks import hidden
from sft_teach.errors import DataError
from sft_teach.grading import engine, notebook, sandbox, single
from sft_teach.grading.engine import Result, TaskResult

ROOT = Path(__file__).resolve().parents[2]
NAME = "practice"


@pytest.fixture
def teachers(tmp_path, monkeypatch) -> Path:
    """A course with one master, practice."""
    folder = tmp_path / "solutions" / NAME
    folder.mkdir(parents=True)
    shutil.copyfile(ROOT / "nbgrader_config.py", tmp_path / "nbgrader_config.py")
    (folder / f"{NAME}.ipynb").write_text(json.dumps(practice.master(("scaled", "positive"))))
    monkeypatch.setattr(environment, "repository_root", lambda: tmp_path)
    return tmp_path


def spoil(course: Path, old: str, new: str) -> None:
    path = course / "solutions" / NAME / f"{NAME}.ipynb"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["sft-teach", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "says"),
    [
        ("    ### END SOLUTION", "cell scaled: `### END SOLUTION` is missing"),
        ("### BEGIN HIDDEN TESTS", "cell scaled__hidden: `### BEGIN HIDDEN TESTS` is missing"),
    ],
)
def test_a_missing_marker_is_named_with_its_cell(teachers, old, says):
    spoil(teachers, old, "")
    with pytest.raises(DataError, match=says):
        exercises.release(teachers, NAME)


def test_a_hidden_test_without_markers_is_not_released(teachers):
    spoil(teachers, "### BEGIN HIDDEN TESTS", "")
    spoil(teachers, "### END HIDDEN TESTS", "")
    with pytest.raises(DataError, match="scaled__hidden: expected the test between"):
        exercises.release(teachers, NAME)


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        (torch.tensor([[1.0, 2.0], [3.0, 7.0]]), "most at [1, 1]: expected 4, got 7"),
        (torch.tensor([[1.0, float("nan")], [3.0, 7.0]]), "most at [0, 1]: expected 2, got nan"),
        (torch.ones(2, 2).double(), "the dtype is torch.float64, expected torch.float32"),
        (torch.ones(3), "expected tensor"),
    ],
)
def test_a_failing_comparison_says_where(actual, says):
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for one, other, path in ((actual, expected, ""), ([0, actual], [0, expected], "[1]")):
        with pytest.raises(AssertionError) as error:
            hidden.assert_close(one, other)
        assert says.replace("at [", f"at {path}[") in str(error.value)


def test_a_failing_comparison_names_the_item():
    with pytest.raises(AssertionError, match=r"at \['b'\]: expected 2.0, got 3.0"):
        hidden.assert_close({"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 2.0})


def test_grade_one_refuses_another_assignment(teachers, monkeypatch, capsys, tmp_path):
    tree = practice.submission(tasks=("scaled", "positive"))
    tree["metadata"]["sft_teach"] = {"assignment": "ex01_data"}
    with pytest.raises(notebook.UnreadableNotebook, match="this is ex01_data, expected practice"):
        notebook.require(tree, NAME)
    tree["metadata"]["sft_teach"] = {"assignment": "<script>"}
    with pytest.raises(notebook.UnreadableNotebook, match="this is another assignment"):
        notebook.require(tree, NAME)


def test_grade_one_prints_json_of_a_broken_file_too(teachers, monkeypatch, capsys, tmp_path):
    (tmp_path / "x.ipynb").write_text("{oops")
    code, out = run(monkeypatch, capsys, "grade-one", str(tmp_path / "x.ipynb"), "--json")
    assert code == 1 and "not JSON" in json.loads(out)["failed"]


def test_grade_one_of_a_master_says_what_its_tests_get_wrong(teachers, monkeypatch, capsys):
    seen = []

    def grade(submission, assignment, student=None, secret=None):
        seen.append(submission)
        tasks = [TaskResult("scaled", 0.0, 1.0, error="NameError: y (line 4 of the hidden test)")]
        return Result(NAME, tasks)

    monkeypatch.setattr(engine, "grade_notebook", grade)
    path = teachers / "solutions" / NAME / f"{NAME}.ipynb"
    code, out = run(monkeypatch, capsys, "grade-one", str(path))
    assert code == 1 and "scaled: 0 of 1, NameError: y (line 4" in out
    assert b"HIDDEN TESTS" not in seen[0]
    copy = teachers / f"{NAME}.ipynb"
    shutil.copyfile(path, copy)
    code, out = run(monkeypatch, capsys, "grade-one", str(copy))
    assert code == 0 and "NameError" not in out  # a submission may lose points


@pytest.mark.skipif(bool(sandbox.available()), reason=str(sandbox.available()))
def test_a_master_gets_full_points_without_a_word(teachers):
    result = single.grade_one(teachers / "solutions" / NAME / f"{NAME}.ipynb")
    assert result.points == result.max_points > 0 and not result.flags
    spoil(teachers, "expected = x * 2.5", "expected = y * 2.5")
    result = single.grade_one(teachers / "solutions" / NAME / f"{NAME}.ipynb")
    assert [task.points > 0 for task in result.tasks] == [False, True]
