"""The check's manners: what it prints, what it survives, what it never shows."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from sft_teach import checks
from sft_teach.checks import CheckFailed, check, core
from sft_teach.checks.core import Case, Mistake, Task, fresh


def right(values: list[float], factor: float) -> list[float]:
    return [factor * value for value in values]


SCALED = Task(
    reference=right,
    cases=[
        Case(fresh([1.0], 2.0), "each value times the factor"),
        Case(fresh([1.0, -3.0], 0.5), "each value times the factor"),
    ],
    mistakes=[
        Mistake("added instead of multiplied.", lambda v, f: [x + f for x in v]),
        Mistake("only the first value.", lambda v, f: [f * v[0]]),
    ],
)


def message(function, seconds: float = 5.0) -> CheckFailed:
    with pytest.raises(CheckFailed) as caught:
        core.examine("scaled", SCALED, function, seconds)
    return caught.value


def test_a_right_answer_gets_one_line_and_none(capsys):
    assert check("log_softmax", lambda x: torch.log_softmax(x, -1)) is None
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.startswith("log_softmax: right")
    assert captured.out.count("\n") == 1


def test_a_known_mistake_is_named_in_one_line():
    failed = message(lambda values, factor: [v + factor for v in values])
    assert failed.recognised and str(failed) == "scaled: added instead of multiplied."
    assert failed._render_traceback_() == ["scaled: added instead of multiplied."]


def test_an_unknown_one_shows_input_property_and_outcome():
    failed = message(lambda values, factor: [7.0 for _ in values])
    assert not failed.recognised
    assert failed.message.splitlines() == [
        "scaled([1.0], 2.0)",
        "expected: each value times the factor",
        "came:     [7.0]",
    ]


def test_an_exception_of_the_answer_is_what_came():
    failed = message(lambda values, factor: values[factor])
    assert "came:     TypeError: list indices must be integers" in failed.message


def test_a_second_mistake_keeps_the_first_from_being_named():
    """The first case looks like "only the first value" plus 1: no known mistake explains it."""
    assert not message(lambda values, factor: [factor * values[0] + 1]).recognised


def endless(values, factor):
    while True:
        pass


def deaf(values, factor):
    for _ in range(3):  # swallows the first interrupts
        try:
            while True:
                pass
        except KeyboardInterrupt:
            continue
    return values


@pytest.mark.parametrize("function", [endless, deaf])
def test_an_endless_loop_is_stopped(function):
    failed = message(function, seconds=0.3)
    assert failed.recognised and "no result after 0.3 seconds" in failed.message
    core.examine("scaled", SCALED, right)  # no interrupt comes late


def test_an_endless_loop_is_stopped_where_interrupts_are_ignored():
    """As in a server that was started in the background, and its kernels."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert "no result after" in message(endless, seconds=0.3).message
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_by_the_learner_is_not_a_timeout():
    def interrupted(values, factor):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        core.examine("scaled", SCALED, interrupted)


def test_stderr_stays_quiet(capfd):
    def noisy(values, factor):
        warnings.warn("old-fashioned", stacklevel=1)
        print("debug", file=sys.stderr)
        return right(values, factor)

    core.examine("scaled", SCALED, noisy)
    assert capfd.readouterr().err == ""


def test_the_notebook_survives_an_exit():
    assert "ends the program" in message(lambda values, factor: sys.exit(3)).message


def test_a_changed_argument_is_named():
    def in_place(values, factor):
        for i in range(len(values)):
            values[i] *= factor
        return values

    assert "changes its argument `values`" in message(in_place).message


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1)])
def test_a_moved_global_random_state_is_named(draw):
    def moving(values, factor):
        draw()
        return right(values, factor)

    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    assert "global random state" in message(moving).message
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all()


def test_what_is_not_a_function_is_said_so():
    assert "expected a function, got 3" in message(3).message


def test_too_few_parameters_are_named():
    assert "must take 2 argument(s)" in message(lambda values: values).message


def test_a_wrong_call_inside_the_answer_is_not_its_own_signature():
    def inner(x):
        return x

    assert "must take" not in message(lambda values, factor: inner(values, factor)).message


def test_right_numbers_in_the_wrong_kind():
    failed = message(lambda values, factor: tuple(right(values, factor)))
    assert "must be a list" in failed.message


def test_an_object_that_equals_everything_is_not_right():
    class Equal(float):
        def __eq__(self, other):
            return True

        def __abs__(self):
            return 0.0

        __hash__ = float.__hash__

    message(lambda values, factor: [Equal(9) for _ in values])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(LookupError, match="log_softmax"):
        check("logsoftmax", right)


def test_a_notebook_of_another_version_is_told(capsys):
    checks.made_for(checks.__version__)
    assert capsys.readouterr().out == ""
    checks.made_for("0.0.1")
    captured = capsys.readouterr()
    assert "made for sft_teach 0.0.1" in captured.out and captured.err == ""


def test_checks_need_torch_and_nothing_else_of_the_course():
    heavy = "transformers datasets sklearn scipy matplotlib nbgrader IPython pandas"
    code = (
        "import sys; from sft_teach import checks; [checks.tasks(a) for a in checks.ASSIGNMENTS]; "
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (torch.zeros(0), torch.zeros(3), False),  # an empty tensor is close to everything
        (torch.zeros(2, 3), torch.zeros(3), False),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64), False),
        (1.0, torch.tensor(1.0), False),
        (True, 1, False),
        (float("nan"), float("nan"), False),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), False),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2e-4]), False),
        (torch.tensor([1.0]), torch.tensor([1.0 + 5e-5]), True),
        ((1, [2.0]), (1, [2.0]), True),
        ([1, 2], (1, 2), False),
        ({("a", "b"): 1}, {("a", "b"): 1}, True),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), False),
    ],
)
def test_comparison_is_strict(a, b, equal):
    assert core.same(a, b, core.ATOL, core.RTOL) is equal
