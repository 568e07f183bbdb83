"""Submissions of learners who mean well: right answers get their points, wrong ones lose theirs."""

from __future__ import annotations

import json

import practice
import pytest
from practice import ALL, LOOP, POINTS, PRACTICE, RIGHT, cell, submission

from sft_teach.grading import sandbox
from sft_teach.grading.engine import Grader, grade_notebook, submission_key

WRONG = {
    "scaled": "def scaled(x, by):\n    return x + by",
    "tally": "def tally(words, ids):\n    return words, {str(i): 1 for i in ids}, {}",
    "halve": "def halve(tensors):\n    return float(sum(t.sum() for t in tensors))",
    "noise": "def noise(like, generator):\n    return torch.rand(like.shape)",
    "soft_loss": RIGHT["soft_loss"].replace(".mean()", ".mean().detach()"),
    "positive": "def positive(values):\n    return list(values)",
}


def lost(result) -> set[str]:
    """The tasks that did not get all of their points."""
    return {task.name for task in result.tasks if task.points < task.max_points}


def test_right_answers_get_all_points(grade):
    result = grade(submission())
    assert result.failed is None and result.flags == []
    assert {task.name: task.points for task in result.tasks} == {n: POINTS[n] for n in PRACTICE}
    assert result.points == result.max_points == ALL
    assert json.loads(json.dumps(result.as_dict()))["tasks"][0]["max_points"] == 1.0


@pytest.mark.parametrize("tasks", [PRACTICE[::2], PRACTICE[1::2]])
def test_a_wrong_answer_loses_only_its_task(grade, tasks):
    result = grade(submission({task: WRONG[task] for task in tasks}))
    assert lost(result) == set(tasks)
    assert all(t.error for t in result.tasks if t.name in tasks)


def test_models_optimizers_and_gradients(tmp_path, grader):
    path = tmp_path / "loop.ipynb"
    path.write_bytes(practice.as_bytes(practice.master(LOOP)))
    wrong = {
        "train_step": RIGHT["train_step"].replace("model.train()", "model.eval()"),
        "gather": RIGHT["gather"].replace("/ size", "/ len(batch)"),
    }
    with Grader(path) as loop:
        right = loop.grade(practice.as_bytes(submission(tasks=LOOP)))
        assert lost(right) == set() and len(right.tasks) == 2
        assert loop.grade(practice.as_bytes(submission(wrong, tasks=LOOP))).points == 0


def test_all_answers_wrong_or_missing(grade):
    assert grade(submission(WRONG)).points == 0
    stubs = grade(submission({name: practice.stub(name) for name in PRACTICE}))
    assert stubs.points == 0 and stubs.failed is None
    assert all("NotImplementedError" in task.error for task in stubs.tasks)


def test_a_changed_argument_is_a_mistake(grade):
    changing = "def scaled(x, by):\n    return x.mul_(by)"
    sorting = "def positive(values):\n    values.sort()\n" + "\n".join(
        RIGHT["positive"].strip().splitlines()[2:]
    )
    result = grade(submission({"scaled": changing, "positive": sorting}))
    assert lost(result) == {"scaled", "positive"}
    assert "changes its argument x" in result.tasks[0].error


def test_helpers_imports_and_earlier_answers(grade):
    helper = "import math as m\nFACTOR = m.exp(0)\ndef double(x):\n    return 2 * x * FACTOR"
    answers = {
        "scaled": "def scaled(x, by):\n    return double(x) * by / 2",
        "soft_loss": "from torch import log_softmax\n"
        "def soft_loss(logits, targets):\n"
        "    return scaled(-(targets * log_softmax(logits, -1)).sum(-1).mean(), 1.0)",
    }
    assert grade(submission(answers, first=helper)).points == ALL


def test_a_cell_that_fails_costs_nothing_else(grade):
    broken = "%matplotlib inline\n1 / 0"
    answers = {"noise": "def noise(like, generator)\n    return 0"}  # no colon
    result = grade(submission(answers, first=broken, last="this is not Python"))
    assert lost(result) == {"noise"}
    assert "SyntaxError" in next(t for t in result.tasks if t.name == "noise").error


def test_a_function_counts_as_its_own_cell_left_it(grade):
    assert grade(submission(last="def scaled(x, by):\n    return None")).points == ALL


def test_what_is_forbidden_costs_its_task(grade):
    aliased = (
        "import torch.nn.functional as F\n"
        "def soft_loss(logits, targets):\n    return F.cross_entropy(logits, targets)"
    )
    result = grade(submission({"soft_loss": aliased}))
    assert lost(result) == {"soft_loss"}
    assert "torch.nn.functional.cross_entropy" in result.tasks[4].hint
    assert any("soft_loss" in flag for flag in result.flags)


def test_a_check_or_a_figure_below_the_answer_costs_nothing(grade):
    more = (
        "\n\nfrom sft_teach.checks import check\nfrom sft_teach import plots\n"
        "check('scaled', scaled)\nfigure = plots.curve(scaled)\n"
    )
    compared = (
        "\n\nz, p = torch.randn(2, 3), torch.full((2, 3), 1 / 3)\n"
        "print(soft_loss(z, p), torch.nn.functional.cross_entropy(z, p))\n"
    )
    answers = {name: RIGHT[name] + text for name, text in
               (("scaled", more), ("soft_loss", compared))}  # fmt: skip
    result = grade(submission(answers))
    assert lost(result) == set() and not any(" uses " in flag for flag in result.flags)


def test_hidden_inputs_follow_from_secret_and_student(grade):
    # The first input is in the error of an answer that raises it.
    telling = {"scaled": "def scaled(x, by):\n    raise ValueError(x.tolist())"}
    said = [
        grade(submission(telling), student=student, secret=secret).tasks[0].error
        for student, secret in (("ada", b"s"), ("ada", b"s"), ("bob", b"s"), ("ada", b"t"))
    ]
    assert said[0] == said[1] and len(set(said)) == 3
    assert grade(submission(telling)).tasks[0].error not in said


def test_the_key_is_the_one_of_the_checks():
    hidden = pytest.importorskip("sft_teach.checks.hidden")
    assert submission_key(b"s", "ex", "ada") == hidden.student_key(b"s", "ex", "ada")


def test_submissions_do_not_see_each_other(grade):
    leave = "import builtins\nbuiltins.left_behind = 1\nopen('/tmp/left', 'w').write('1')"
    find = {
        "scaled": "import builtins, os\ndef scaled(x, by):\n"
        "    raise ValueError([hasattr(builtins, 'left_behind'), os.path.exists('/tmp/left')])"
    }
    assert grade(submission(first=leave)).points == ALL
    assert "[False, False]" in grade(submission(find)).tasks[0].error


def test_a_cold_start_and_a_path(master, course, tmp_path):
    if reason := sandbox.available():
        pytest.skip(reason)
    own = "noise_level = 3"
    path = tmp_path / "ada.ipynb"
    path.write_bytes(practice.as_bytes(submission(first=own)))
    assert grade_notebook(path, master, student="ada", secret=b"s").points == ALL


def test_the_test_of_a_teacher_that_fails_is_flagged(tmp_path, grader):
    tree = practice.notebook(
        [
            cell(RIGHT["scaled"], "scaled", solution=True, locked=False),
            cell("undefined_name", "scaled__hidden", grade=True, points=2),
            cell(RIGHT["noise"], "noise", solution=True, locked=False),
            cell("import os\nos._exit(1)", "noise__hidden", grade=True, points=2),
            cell(RIGHT["positive"], "positive", solution=True, locked=False),
            cell("positive\nshare = 0.5\nshare", "positive__hidden", grade=True, points=2),
            cell(RIGHT["tally"], "tally", solution=True, locked=False),
            cell("positive([1])\nshare = 0.5\nshare", "tally__hidden", grade=True, points=2),
        ]
    )
    path = tmp_path / "broken.ipynb"
    path.write_bytes(practice.as_bytes(tree))
    with Grader(path) as own:
        result = own.grade(practice.as_bytes(submission()))
    assert [task.points for task in result.tasks] == [0, 0, 0, 0.5]  # the last: partial credit
    assert "the hidden test of scaled itself fails" in result.flags[-3]
    assert "started again after noise" in result.flags[-2]
    assert "never calls the function" in result.flags[-1]
