"""What hidden-test cells are written with: inputs nobody can foresee, comparisons that are strict.

    from sft_teach.checks import hidden
    draw = hidden.draw("log_softmax")
    logits = torch.randn(3, 4, generator=draw)
    hidden.assert_close(log_softmax(logits), torch.log_softmax(logits, -1))

The inputs follow from a key. The grader sets one per submission (an HMAC of the course's secret,
the assignment and the student), so that grading again repeats them; without a key they are new in
each process.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any

import torch

from sft_teach.checks.core import ATOL, RTOL, Seen, Task, _short, same, watched

KEY = "SFT_TEACH_HIDDEN_KEY"  # hexadecimal
_key: bytes | None = None


def use(key: bytes | None) -> None:
    """Set the key from which all inputs follow; None forgets it."""
    global _key
    _key = key


def student_key(secret: bytes, assignment: str, student: str) -> bytes:
    """The key of one submission: HMAC-SHA256 of the course's secret."""
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    message = f"{len(assignment)}:{assignment}:{student}".encode()
    return hmac.new(secret, message, hashlib.sha256).digest()


def seed(task: str) -> int:
    """A number from 0 to 2**31 - 1 for this task, for `random.Random` or NumPy."""
    global _key
    if _key is None:
        _key = bytes.fromhex(os.environ[KEY]) if KEY in os.environ else os.urandom(32)
    return int.from_bytes(hmac.new(_key, task.encode(), hashlib.sha256).digest()[:4], "big") >> 1


def draw(task: str) -> torch.Generator:
    """A generator for this task's inputs."""
    return torch.Generator().manual_seed(seed(task))


def strict(task: Task, function: Callable) -> Callable:
    """`function`, but changing an argument that the task does not name is an error.

    So is moving the global random state. The grader's proxies do the same.
    """

    def call(*arguments):
        seen = Seen()
        result = watched(function, task, seen)(*arguments)
        assert_true(not seen.changed, f"the argument {seen.changed} was changed")
        assert_true(not seen.moved_random, "the global random state was moved")
        return result

    return call


def assert_close(actual: Any, expected: Any, atol: float = ATOL, rtol: float = RTOL) -> None:
    """Numbers within atol + rtol * |expected|; types, shapes, dtypes exactly; NaN is never right.

    Lists, tuples and dicts are compared item by item; a Python float is not a 0-d tensor.
    """
    if not same(actual, expected, atol, rtol):
        words = f"expected {_short(expected)}, got {_short(actual)}"
        raise AssertionError(words + _where(actual, expected))


def _where(actual: Any, expected: Any, path: str = "") -> str:
    """Where two results differ most, for the teacher; "" where `_short` says all there is."""
    if isinstance(actual, (list, tuple, dict)) and type(actual) is type(expected):
        if len(actual) != len(expected):
            return ""
        keys = actual.keys() if isinstance(actual, dict) else range(len(actual))
        for key in keys:
            if isinstance(expected, dict) and key not in expected:
                return f"; {path}[{key!r}] is not expected"
            if not same(actual[key], expected[key], ATOL, RTOL):
                inner = _where(actual[key], expected[key], f"{path}[{key!r}]")
                shown = f"expected {_short(expected[key])}, got {_short(actual[key])}"
                return inner or f"; at {path}[{key!r}]: {shown}"
    both = isinstance(actual, torch.Tensor) and isinstance(expected, torch.Tensor)
    if not both or actual.shape != expected.shape or not actual.numel():
        return ""
    if actual.is_complex() or expected.is_complex():
        return ""
    if actual.dtype != expected.dtype:
        return f"; the dtype is {actual.dtype}, expected {expected.dtype}"
    away = (actual.detach().double() - expected.detach().double()).abs()
    away = torch.where(away.isnan(), torch.inf, away)
    index = [int(i) for i in torch.unravel_index(away.argmax(), away.shape)]
    values = [float(t.detach()[tuple(index)]) for t in (expected, actual)]
    place = f"{path}{index if index else ''}"
    return f"; most at {place or 'its value'}: expected {values[0]:.6g}, got {values[1]:.6g}"


def assert_equal(actual: Any, expected: Any) -> None:
    """Equal and of the same type: True is not 1, a tensor is not a list."""
    if not same(actual, expected):
        raise AssertionError(f"expected exactly {_short(expected)}, got {_short(actual)}")


def assert_true(condition: Any, words: str) -> None:
    """A property; `condition` must be the bool True, not an object that claims to be."""
    if condition is not True:
        raise AssertionError(words)


def assert_raises(kind: type[Exception], function: Callable, *arguments: Any) -> None:
    """`function(*arguments)` raises `kind` or a subclass; anything else passes through."""
    try:
        value = function(*arguments)
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}, got {_short(value)}")
