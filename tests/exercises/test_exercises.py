"""Right answers pass and wrong ones fail, in the instant check and in the hidden tests alike.

`mutants_<assignment>.py` has, for each task, right answers of different construction and wrong ones
with one learner-like mistake each, beside the words of the hint that mistake must get.
"""

from __future__ import annotations

import importlib
import warnings

import pytest

from sft_teach import __version__, checks
from sft_teach.checks import CheckFailed, core
from tests.exercises.harness import SEEDS, HiddenTests, cell, master, solution

ASSIGNMENTS = checks.ASSIGNMENTS
TASKS = [(a, name) for a in ASSIGNMENTS for name in checks.tasks(a)]
each_task = pytest.mark.parametrize(("assignment", "name"), TASKS, ids=[t[1] for t in TASKS])
each_assignment = pytest.mark.parametrize("assignment", ASSIGNMENTS)


def mutants(assignment: str):
    return importlib.import_module(f"tests.exercises.mutants_{assignment}")


def verdict(name: str, function) -> CheckFailed | None:
    """What the instant check says: None if the answer is right."""
    try:
        checks.check(name, function, seconds=5)
    except CheckFailed as failed:
        return failed
    return None


@each_assignment
def test_a_master_has_the_cells_of_the_catalogue(assignment):
    notebook = master(assignment)
    ids = [c.metadata.get("nbgrader", {}).get("grade_id") for c in notebook.cells]
    wanted = [f"{n}{end}" for n in checks.tasks(assignment) for end in ("", "__check", "__hidden")]
    assert [i for i in ids if i] == [*wanted, f"{assignment}_essay"]
    assert notebook.metadata["sft_teach"] == {"assignment": assignment, "version": __version__}
    assert f'made_for("{__version__}")' in "".join(c.source for c in notebook.cells)
    for c in notebook.cells:
        grader = c.metadata.get("nbgrader", {})
        kind = (grader.get("grade"), grader.get("solution"), grader.get("locked"))
        grade_id = grader.get("grade_id", "")
        if grade_id.endswith("__check"):
            assert kind == (False, False, True) and "points" not in grader
        elif grade_id.endswith("__hidden"):
            assert kind == (True, False, True) and grader["points"] >= 1
        elif grade_id.endswith("_essay"):
            assert kind == (True, True, False) and "Rubric" in c.source
        elif grade_id:
            assert kind == (False, True, False) and "### BEGIN SOLUTION" in c.source
        assert not c.get("outputs") and c.get("execution_count") is None


@each_task
def test_there_are_enough_mistakes_and_mutants(assignment, name):
    right, wrong = mutants(assignment).RIGHT[name], mutants(assignment).WRONG[name]
    assert len(right) >= 3 and len(wrong) >= 6
    assert len({words for _, words in wrong}) >= 4, "too few different hints are tested"
    assert len(checks.tasks(assignment)[name].mistakes) >= 4


@each_task
def test_right_answers_pass_the_check(assignment, name, capsys):
    for function in [solution(assignment, name), *mutants(assignment).RIGHT[name]]:
        failed = verdict(name, function)
        assert failed is None, f"{function}: {failed}"
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.count("\n") == 1 + len(
        mutants(assignment).RIGHT[name]
    )


@each_task
def test_wrong_answers_are_named_by_the_check(assignment, name):
    for function, words in mutants(assignment).WRONG[name]:
        failed = verdict(name, function)
        assert failed is not None, f"{function} passed; expected: {words}"
        assert words in failed.message, f"{function}: {failed.message!r}, expected: {words}"
        lines = failed.message.splitlines()
        assert len(lines) == 1 if failed.recognised else len(lines) <= 3
        assert failed._render_traceback_() == lines


@each_task
def test_hidden_tests_tell_right_from_wrong_with_every_seed(assignment, name):
    hidden_tests = HiddenTests(assignment, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in [solution(assignment, name), *mutants(assignment).RIGHT[name]]:
            for seed in range(SEEDS):
                hidden_tests(function, seed)
        for function, words in mutants(assignment).WRONG[name]:
            passed = [seed for seed in range(SEEDS) if hidden_tests.passes(function, seed)]
            assert not passed, f"a wrong answer ({words}) passes with the seeds {passed}"


@each_task
def test_the_untouched_stub_is_recognised_and_scores_nothing(assignment, name):
    def stub(*arguments, **options):
        raise NotImplementedError

    failed = verdict(name, stub)
    assert failed.recognised and "not written yet" in failed.message
    assert not HiddenTests(assignment, name).passes(stub, 0)


@each_task
def test_a_mistake_of_the_check_is_a_mistake(assignment, name):
    """Each known mistake is caught, and with a hint of the list."""
    task = checks.tasks(assignment)[name]
    core.examine(name, task, task.reference)
    hints = [mistake.hint for mistake in task.mistakes]
    for mistake in task.mistakes:
        if mistake.wrong is not None:
            failed = verdict(name, mistake.wrong)
            assert failed is not None, f"passes: {mistake.hint}"
            assert any(hint in failed.message for hint in hints), failed.message


@each_assignment
def test_answers_stand_in_their_own_cells(assignment):
    """Every answer runs without the others: a learner may leave tasks out."""
    notebook = master(assignment)
    setup = next(c.source for c in notebook.cells if c.id == "setup")
    for name in checks.tasks(assignment):
        namespace: dict = {}
        exec(setup, namespace)
        exec(cell(notebook, name).source, namespace)
        HiddenTests(assignment, name)(namespace[name], 0)
