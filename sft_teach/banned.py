"""What an answer uses and must not: read from its bytecode, so that a check can say it in time.

The grader looks at the source of the notebook instead (`grading.sources`); both say the same
sentence. Neither is a protection: a name can be hidden.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

PACKAGE = "sft_teach"


def used(function: Callable, skip: Collection[str] = ()) -> Iterator[str]:
    """Dotted names that a function uses, ".name" for an attribute of something unknown.

    Helpers that stand beside it in the notebook are looked into as well.

    Args:
        function: the answer.
        skip: names of helpers not to look into: the answers of other tasks.
    """
    seen: set[types.CodeType] = set()
    todo = [(getattr(function, "__code__", None), getattr(function, "__globals__", {}))]
    while todo:
        code, names = todo.pop()
        if not isinstance(code, types.CodeType) or code in seen:
            continue
        seen.add(code)
        todo += [(constant, names) for constant in code.co_consts]  # inner functions
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                yield f".{step.argval}"
            elif step.opname in ("IMPORT_NAME", "IMPORT_FROM"):
                yield str(step.argval)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in names:
                value = names[step.argval]
                if getattr(value, "__globals__", None) is names:  # a function of the notebook's own
                    if step.argval not in skip:
                        todo.append((value.__code__, names))
                else:
                    yield _dotted(value)


def _dotted(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"{module}.{name}" if isinstance(module, str) else name
    return ""  # a constant


def hint(name: str, function: Callable, forbidden: Collection[str], skip: Collection[str]) -> str:
    """What to say of an answer that uses a forbidden name; "" if it uses none."""
    itself = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    if _within(itself, PACKAGE) and not _within(itself, f"{PACKAGE}.checks"):
        return sentence(name, itself)
    for dotted in used(function, skip):
        if _within(dotted, PACKAGE) and not _within(dotted, f"{PACKAGE}.checks"):
            return sentence(name, dotted)
        for banned in forbidden:
            bare = "." not in banned and banned in dotted.split(".")
            if bare or _within(dotted, banned):
                return sentence(name, dotted.removeprefix("."))
    return ""


def sentence(name: str, dotted: str) -> str:
    """The same words in the check and in the feedback."""
    if _within(dotted, PACKAGE):
        return f"{name}: it uses {dotted}. Write it yourself: the course's package is no answer."
    return (
        f"{name}: it uses {dotted}, which this task asks you to do without. "
        "Write that step yourself."
    )


def _within(dotted: str, whole: str) -> bool:
    return dotted == whole or dotted.startswith(f"{whole}.")
