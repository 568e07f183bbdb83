"""How a check finds out which mistake an answer holds, without showing a test or the answer.

A task is a list of cases and a list of known mistakes. A case makes small arguments and says in
words what must hold; a known mistake is an implementation that makes it, with the hint for it. An
answer that is wrong on a case is compared with each mistake's outcome: one that agrees on every
failing case, and fails on none that the answer passes, names the mistake. Anything else is shown as
the smallest failing input, what must hold there, and what came.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import inspect
import io
import math
import random
import reprlib
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ATOL, RTOL = 1e-5, 1e-4
SECONDS = 10.0  # for one call; the right answers take milliseconds

Probe = Callable[[Callable, tuple], Any]


# --- what a task is made of ---------------------------------------------------------------------
def returned(function: Callable, arguments: tuple) -> Any:
    """The usual probe: what the function returns."""
    return function(*arguments)


def with_gradient(function: Callable, arguments: tuple) -> dict[str, Any]:
    """A probe for losses: the value, and its gradient with respect to the first argument."""
    first = arguments[0].detach().clone().requires_grad_()
    value = function(first, *arguments[1:])
    if not isinstance(value, Tensor) or not value.requires_grad:
        return {"value": value, "gradient": "none: the value does not depend on the argument"}
    value.sum().backward()
    return {"value": value.detach(), "gradient": first.grad}


@dataclass(frozen=True)
class Case:
    """One look at a function.

    Args:
        make: returns fresh arguments at each call.
        expected: in words, what must hold, without giving the answer away.
        probe: `probe(function, arguments)` returns what is compared: nested lists, tuples and dicts
            of tensors, numbers, strings.
        raises: the exception that must come instead.
        shown: the input in words, where its repr would not help.
        atol, rtol: how far numbers may be off.
    """

    make: Callable[[], tuple]
    expected: str
    probe: Probe = returned
    raises: type[BaseException] | None = None
    shown: str = ""
    atol: float = ATOL
    rtol: float = RTOL


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its hint, and an implementation that makes it, or a test of the outcome.

    `when(seen)` gets the outcomes of all cases, in order.
    """

    hint: str
    wrong: Callable | None = None
    when: Callable[[list[Seen]], bool] | None = None


@dataclass(frozen=True)
class Task:
    """A task of the catalogue.

    Args:
        reference: a right answer, from library calls where there are any.
        cases: from the smallest to the most special.
        mistakes: the more specific first.
        changes: names of the arguments that the function may change in place.
        forbidden: dotted names that an answer must not use, or bare ones that none of its names may
            have in it (see `banned`).
    """

    reference: Callable
    cases: Sequence[Case]
    mistakes: Sequence[Mistake]
    changes: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


@dataclass
class Seen:
    """What came of one case."""

    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False
    changed: str = ""  # the first argument that was changed and must not be
    moved_random: bool = False  # the global random state

    @property
    def raised(self) -> str:
        return type(self.error).__name__ if self.error is not None else ""


class CheckFailed(Exception):
    """An answer that is not right yet. Jupyter shows the message alone, without a traceback.

    Attributes:
        task: name of the task.
        message: what the learner reads; one line if the mistake was recognised, else up to three.
        recognised: whether it was.
    """

    def __init__(self, task: str, message: str, recognised: bool):
        super().__init__(message)
        self.task, self.message, self.recognised = task, message, recognised

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing where in the check the error was raised."""
        return self.message.splitlines()


# --- looking ------------------------------------------------------------------------------------
def look(function: Callable, task: Task, case: Case, seconds: float = SECONDS) -> Seen:
    """Run one case on a function and note what came, whatever that is."""
    seen = Seen()
    observed = watched(function, task, seen)
    with _quiet(), torch.random.fork_rng(devices=[]):
        # The same global random numbers each time: an answer that draws from them repeats itself.
        torch.manual_seed(0)
        random.seed(0)
        # Outside the time limit: the first optimizer of a process takes seconds to import.
        arguments = case.make()
        try:
            with _time_limit(seconds):
                seen.value = case.probe(observed, arguments)
        except TimeoutError:
            seen.timed_out = True
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a check must not end the notebook
            seen.error = error
    return seen


def watched(function: Callable, task: Task, seen: Seen) -> Callable:
    """`function`, but noting changed arguments and a moved global random state."""
    names = list(inspect.signature(task.reference).parameters)

    def call(*arguments):
        before = [snapshot(argument) for argument in arguments]
        state, modules = _random_state(), len(sys.modules)
        result = function(*arguments)
        if len(sys.modules) == modules:  # a first `import sklearn` draws random numbers of its own
            seen.moved_random |= not same(_random_state(), state)
        for name, argument, old in zip(names, arguments, before, strict=False):
            if name not in task.changes and not same(snapshot(argument), old, nan=True):
                seen.changed = seen.changed or name
        return result

    return call


def _random_state() -> list:
    states = [torch.get_rng_state(), hash(random.getstate())]
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        states.append([kind, keys.tobytes(), *rest])
    return states


def snapshot(value: Any) -> Any:
    """A copy that later changes of `value` do not reach; generators and functions have none."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, nn.Module):
        parameters = {n: (p.detach().clone(), p.requires_grad) for n, p in value.named_parameters()}
        return parameters, [module.training for module in value.modules()]
    if isinstance(value, (list, tuple)):
        return type(value)(map(snapshot, value))
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, str, bool, type(None))) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of a learner's warnings on stderr, and no trace in the global random state."""
    numpy, state = sys.modules.get("numpy"), random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        if numpy:
            numpy.random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)
            if numpy:
                numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after so many seconds, on every platform.

    A timer thread sends what Ctrl-C sends (signals with a clock exist on Unix only). Off the main
    thread there is no way to interrupt, and no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, late, lock = threading.Event(), threading.Event(), threading.Lock()
    # A process started in the background ignores Ctrl-C, and every child of it does.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        if over.wait(seconds):
            return
        for _ in range(20):  # again and again: a bare `except:` may swallow the first ones
            with lock:
                if over.is_set():
                    return
                late.set()
                _thread.interrupt_main()
            if over.wait(0.25):
                return

    timer = threading.Thread(target=interrupt, daemon=True)
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                over.set()
        if late.is_set():  # it ended just when the interrupt was on its way: let that arrive here
            time.sleep(0.05)
    except KeyboardInterrupt:
        over.set()
        if not late.is_set():
            raise  # the learner's own Ctrl-C
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
    if late.is_set():
        raise TimeoutError(f"no result after {seconds:g} seconds")


# --- comparing ----------------------------------------------------------------------------------
def same(
    a: Any, b: Any, atol: float = 0.0, rtol: float = 0.0, nan: bool = False, strict: bool = True
) -> bool:
    """Whether two results agree: types, shapes and dtypes exactly, numbers within a tolerance.

    Args:
        nan: NaN equals NaN.
        strict: without it, a 0-d tensor equals a number, and dtypes do not matter.
    """
    if not strict:
        a, b = (_loose(v) for v in (a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not (a.is_floating_point() or a.is_complex()):
            return bool(torch.equal(a, b))
        return bool(torch.allclose(a.detach(), b.detach(), rtol, atol, equal_nan=nan))
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        if math.isnan(a) or math.isnan(b):
            return nan and math.isnan(a) and math.isnan(b)
        return a == b or abs(a - b) <= atol + rtol * abs(b)
    if isinstance(a, (list, tuple)):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(same(x, y, atol, rtol, nan, strict) for x, y in pairs)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(
            same(a[key], b[key], atol, rtol, nan, strict) for key in a
        )
    return bool(a == b)


def _loose(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().double() if value.ndim else float(value.detach())
    if isinstance(value, (bool, str)):
        return value
    return float(value) if isinstance(value, int) else value


def is_right(seen: Seen, right: Seen, case: Case) -> bool:
    """Whether an outcome is the one wanted."""
    if seen.timed_out or seen.changed:
        return False
    if case.raises is not None:
        return isinstance(seen.error, case.raises)
    if seen.error is not None:
        return False
    return same(seen.value, right.value, case.atol, case.rtol) and not seen.moved_random


def _alike(seen: Seen, wrong: Seen, case: Case) -> bool:
    """Whether an outcome is the one that a known mistake gives."""
    if seen.timed_out or wrong.timed_out:
        return seen.timed_out and wrong.timed_out
    if seen.error is not None or wrong.error is not None:
        return seen.raised == wrong.raised
    return same(seen.value, wrong.value, case.atol, case.rtol, nan=True, strict=False)


# --- the verdict --------------------------------------------------------------------------------
def examine(name: str, task: Task, function: Callable, seconds: float = SECONDS) -> None:
    """Return if `function` is right on every case.

    Raises:
        CheckFailed: with the mistake, where it is a known one.
    """
    if not callable(function):
        raise CheckFailed(name, f"{name}: expected a function, got {_short(function)}.", True)
    seen: list[Seen] = []
    for case in task.cases:
        seen.append(look(function, task, case, seconds))
        if seen[-1].timed_out or isinstance(seen[-1].error, NotImplementedError):
            break  # the rest would not tell more
    right = [look(task.reference, task, case) for case in task.cases]
    failing = [
        i for i, (s, r, case) in enumerate(zip(seen, right, task.cases, strict=False))
        if not is_right(s, r, case)
    ]  # fmt: skip
    if not failing:
        return
    first = failing[0]
    hint = (
        _plain_hint(task, seen[first], task.cases[first], seconds)
        or _container_hint(task, seen, right, failing)
        or _known_mistake(task, seen, right, failing)
        or _kind_hint(seen[first], right[first])
    )
    if hint:
        raise CheckFailed(name, f"{name}: {hint}", True)
    raise CheckFailed(name, _report(name, task.cases[first], seen[first], right[first]), False)


def _plain_hint(task: Task, seen: Seen, case: Case, seconds: float) -> str:
    """Mistakes that any function can make, seen without comparing numbers."""
    if isinstance(seen.error, NotImplementedError):
        return "not written yet. Replace `raise NotImplementedError` with your answer."
    if seen.timed_out:
        return (
            f"no result after {seconds:g} seconds, where milliseconds are enough. Look for a loop "
            "whose condition never becomes false."
        )
    if seen.changed:
        return (
            f"it changes its argument `{seen.changed}`. Whoever calls it still needs that as it "
            "was: work on a copy, or build a new value."
        )
    if isinstance(seen.error, SystemExit):
        return "it ends the program (exit). Return the result instead."
    parameters = len(case.make())
    if isinstance(seen.error, TypeError) and _was_called_wrongly(seen.error):
        return f"it must take {parameters} argument(s), as its first line had it: {seen.error}."
    if seen.error is None and case.raises is None and seen.value is None:
        return "it returns nothing. Is there a `return` on every way through it?"
    return ""


def _was_called_wrongly(error: TypeError) -> bool:
    """Whether the answer could not even be called: the error comes from the line that calls it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == __file__


def _container_hint(task: Task, seen: list[Seen], right: list[Seen], failing: list[int]) -> str:
    """The right numbers in the wrong kind of container, or a moved random state."""
    first = failing[0]
    case, one, wanted = task.cases[first], seen[first], right[first]
    if one.error is not None or wanted.error is not None or case.raises is not None:
        return ""
    if same(one.value, wanted.value, case.atol, case.rtol):
        return (
            "the global random state was moved, so that the result depends on what ran before, or "
            "changes what runs after. Draw only from a generator that is passed or made here."
        )
    compared = [i for i in failing if i < len(seen) and task.cases[i].raises is None]

    def agree(i: int) -> bool:
        tolerance = task.cases[i].atol, task.cases[i].rtol
        return not seen[i].error and same(
            seen[i].value, right[i].value, *tolerance, strict=False
        )  # fmt: skip

    if all(map(agree, compared)):
        what, got, kind = _difference(one.value, wanted.value)
        return f"the numbers are right, but {what} is {got}, and must be {kind}.{_remedy(got)}"
    return ""


def _known_mistake(task: Task, seen: list[Seen], right: list[Seen], failing: list[int]) -> str:
    """The hint of the known mistake whose outcomes are those of the answer.

    First one that explains every failing case; else one that explains the first failing cases, at
    least two and at least half: the answer holds a second mistake then, which the next check will
    name. A mistake that gives another result where the answer is right is not the answer's (whether
    it refuses bad input, which any answer may do besides, is left out of that). To agree where the
    mistake has the right numbers, and only their type is wrong, speaks for none.
    """
    partly = ""
    passing = [
        i for i in range(len(seen)) if i not in failing and task.cases[i].raises is None
    ]  # fmt: skip
    for mistake in task.mistakes:
        if mistake.when is not None and mistake.when(seen):
            return mistake.hint
        if mistake.wrong is None:
            continue
        alike = telling = 0
        for i in failing:
            if i >= len(seen):
                break
            case = task.cases[i]
            outcome = look(mistake.wrong, task, case)
            if not _alike(seen[i], outcome, case):
                break
            alike += 1
            telling += not _alike(right[i], outcome, case)
        whole = alike == len(failing) and telling > 0
        if not whole and (partly or telling < max(2, len(failing) / 2)):
            continue
        if not all(
            _alike(seen[i], look(mistake.wrong, task, task.cases[i]), task.cases[i])
            for i in passing
        ):
            continue
        if whole:
            return mistake.hint
        partly = mistake.hint
    return partly


def _kind_hint(seen: Seen, right: Seen) -> str:
    """Another kind of result than the one wanted."""
    if seen.error is not None or right.error is not None:
        return ""
    what, got, wanted = _difference(seen.value, right.value)
    return f"{what} is {got}, and must be {wanted}.{_remedy(got)}" if got != wanted else ""


def _remedy(got: str) -> str:
    return " Python's own come from float(...) and int(...)." if "NumPy" in got else ""


def _difference(value: Any, right: Any, what: str = "the result") -> tuple[str, str, str]:
    """What differs in kind, the kind that came, the kind that is wanted."""
    if isinstance(value, dict) and isinstance(right, dict) and value.keys() == right.keys():
        for key in right:  # of a probe: "value", "gradient"
            got, wanted = _kind(value[key]), _kind(right[key])
            if got != wanted:
                return f"the {key}", got, wanted
    if type(value) is type(right) and isinstance(value, (list, tuple)):
        for one, other in zip(value, right, strict=False):
            found = _difference(one, other, f"an item of {what}")
            if found[1] != found[2]:
                return found
    return what, _kind(value), _kind(right)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        article = "an" if kind[0] == "i" else "a"
        return f"a {value.ndim}-d {kind} tensor" if value.ndim == 0 else f"{article} {kind} tensor"
    if isinstance(value, tuple):
        return f"a tuple of ({', '.join(map(_kind, value))})"
    if type(value).__module__ == "numpy":  # a float64 is a float too, but not of Python's own type
        return f"a NumPy {type(value).__name__}"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _report(name: str, case: Case, seen: Seen, right: Seen) -> str:
    """Smallest input, what must hold, what came."""
    shown = case.shown or ", ".join(map(_short, case.make()))
    if seen.error is not None:
        came = f"{seen.raised}: {_clip(str(seen.error) or 'without a message')}"
        if case.raises is not None and isinstance(seen.error, AssertionError):
            came += f" (an `assert` is no `raise {case.raises.__name__}(...)`)"
    else:
        came = _came(seen.value, right.value, case)
        if isinstance(seen.value, BaseException):
            came += " (returned: an exception is to be raised)"
    return f"{name}({_clip(shown, 160)})\nexpected: {case.expected}\ncame:     {came}"


def _came(value: Any, right: Any, case: Case) -> str:
    """A result, in short; of a probe's several parts only those that are wrong."""
    if not (isinstance(value, dict) and isinstance(right, dict) and value.keys() == right.keys()):
        return _short(value)
    good = [key for key in right if same(value[key], right[key], case.atol, case.rtol)]
    wrong = {key: item for key, item in value.items() if key not in good}
    if not good or not wrong or not all(isinstance(key, str) for key in value):
        return _short(value)
    parts = "; ".join(f"{key} {_short(item)}" for key, item in wrong.items())
    return f"{_clip(parts)} (right: {', '.join(good)})"


class _Repr(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 12
        self.maxstring = self.maxother = 120
        self.maxlevel = 4

    def repr_float(self, value: float, level: int) -> str:
        text = f"{value:.5g}"
        return f"{text}.0" if text.lstrip("-").isdigit() else text  # 3.0 is a float, 3 is not

    def repr_dict(self, value: dict, level: int) -> str:  # in its own order: the loss comes first
        items = list(value.items())[: self.maxdict]
        shown = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in items]
        return "{" + ", ".join(shown + ["..."] * (len(value) > len(items))) + "}"

    def repr_Tensor(self, value: Tensor, level: int) -> str:  # noqa: N802 (reprlib's naming)
        if value.numel() <= 24:
            return f"tensor({self.repr1(value.detach().tolist(), 3)})"
        return f"tensor of shape {tuple(value.shape)}"

    def repr_Parameter(self, value: Tensor, level: int) -> str:  # noqa: N802
        return self.repr_Tensor(value, level)


_REPR = _Repr()


def _short(value: Any) -> str:
    try:
        return _clip(_REPR.repr(value))
    except Exception:  # a learner's object may refuse to show itself
        return f"<{type(value).__name__}>"


def _clip(text: str, length: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def fresh(*arguments: Any) -> Callable[[], tuple]:
    """`make` for a case: deep copies of these arguments at each call."""
    return lambda: tuple(copy.deepcopy(argument) for argument in arguments)
