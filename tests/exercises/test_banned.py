"""A check names what an answer must not use, wherever the name stands, and nothing else."""

from __future__ import annotations

import pytest

from sft_teach import banned
from sft_teach.checks import CheckFailed, check

LOSSES = ("torch.nn.functional.cross_entropy", "torch.nn.CrossEntropyLoss")
SETUP = """
import math
import torch
import torch.nn.functional as F
import torch.nn.functional as short
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import cross_entropy as other
"""


def said(source: str, forbidden=LOSSES, skip=(), name: str = "answer") -> str:
    """What is said of the function `name` of a notebook with this source."""
    notebook = {"__name__": "__main__"}
    exec(SETUP + source, notebook)
    return banned.hint(name, notebook[name], forbidden, skip)


FORBIDDEN = {
    "as an attribute": "def answer(x, y): return F.cross_entropy(x, y)",
    "as a long attribute": "def answer(x, y): return torch.nn.functional.cross_entropy(x, y)",
    "through an alias of the module": "def answer(x, y): return short.cross_entropy(x, y)",
    "through an alias of the function": "def answer(x, y): return other(x, y)",
    "imported by name": "def answer(x, y): return cross_entropy(x, y)",
    "imported inside": """
def answer(x, y):
    from torch.nn.functional import cross_entropy as loss
    return loss(x, y)
""",
    "bound to a new name": "loss = F.cross_entropy\ndef answer(x, y): return loss(x, y)",
    "as a class": "def answer(x, y): return nn.CrossEntropyLoss()(x, y)",
    "in a helper": """
def helper(x, y):
    return F.cross_entropy(x, y)
def answer(x, y):
    return helper(x, y)
""",
    "in a helper of a helper": """
def deep(x, y):
    return F.cross_entropy(x, y)
def helper(x, y):
    return deep(x, y)
def answer(x, y):
    return helper(x, y)
""",
    "in a comprehension": "def answer(x, y): return sum([F.cross_entropy(x, y) for _ in range(3)])",
    "in a generator": "def answer(x, y): return sum(F.cross_entropy(x, y) for _ in range(3))",
    "in a lambda": "def answer(x, y): return (lambda: F.cross_entropy(x, y))()",
    "in an inner function": """
def answer(x, y):
    def inner():
        return F.cross_entropy(x, y)
    return inner()
""",
}


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_name_is_named(source):
    # A bare name, as the tasks have them, and a dotted one mean the same function here.
    words = said(source, ("cross_entropy", "CrossEntropyLoss"))
    assert "asks you to do without" in words and words.startswith("answer: it uses ")
    assert "cross_entropy" in words or "CrossEntropyLoss" in words


@pytest.mark.parametrize("source", ["other(x, y)", "cross_entropy(x, y)"])
def test_a_dotted_name_is_found_by_what_it_is_bound_to(source):
    assert "it uses torch.nn.functional.cross_entropy" in said(f"def answer(x, y): return {source}")


HARMLESS = {
    "a right answer": "def answer(x, y): return -x.log_softmax(-1)[range(len(y)), y].mean()",
    "a function of the learner's own with that name": """
def cross_entropy(x, y):
    return -x.log_softmax(-1)[range(len(y)), y].mean()
def answer(x, y):
    return cross_entropy(x, y)
""",
    "a local variable of that name": """
def answer(x, y):
    cross_entropy = -x.log_softmax(-1)[range(len(y)), y]
    return cross_entropy.mean()
""",
    "another answer that may use it": """
def other_task(x, y):
    return F.cross_entropy(x, y)
def answer(x, y):
    return other_task(x, y)
""",
    "imported beside it, not used": "def answer(x, y): return math.log(len(y))",
    "a name that only begins alike": "def answer(x, y): return cross_entropy_of(x)\n"
    "def cross_entropy_of(x): return x.mean()",
    "in a text": "def answer(x, y):\n    'not F.cross_entropy'\n    return 'F.cross_entropy'",
}


@pytest.mark.parametrize("source", HARMLESS.values(), ids=HARMLESS)
def test_what_is_not_meant_passes(source):
    assert said(source, ("cross_entropy", *LOSSES), skip=("other_task",)) == ""


PACKAGE = {
    "inside an answer": "from sft_teach import evaluation\n"
    "def answer(x, y): return evaluation.accuracy_interval(x)",
    "by name": "from sft_teach.evaluation import accuracy_interval\n"
    "def answer(x, y): return accuracy_interval(x)",
    "imported inside": "def answer(x, y):\n"
    "    from sft_teach.evaluation import accuracy_interval as f\n    return f(x)",
    "in a helper": "from sft_teach import evaluation\n"
    "def helper(x): return evaluation.accuracy_interval(x)\n"
    "def answer(x, y): return helper(x)",
}


@pytest.mark.parametrize("source", PACKAGE.values(), ids=PACKAGE)
def test_the_package_is_no_answer(source):
    words = said(source, ())
    assert "answer: it uses sft_teach" in words and "Write it yourself" in words


def test_the_packages_function_itself_is_no_answer():
    words = said("from sft_teach.training import warmup_factor as answer", ())
    assert "it uses sft_teach.training.warmup_factor" in words


def test_the_check_says_it_and_does_not_say_right(capsys):
    from sft_teach.checks import ex03_cross_entropy

    name = next(n for n, task in ex03_cross_entropy.TASKS.items() if task.forbidden)
    notebook = {"__name__": "__main__", "right": ex03_cross_entropy.TASKS[name].reference}
    exec(SETUP + f"def {name}(*given):\n    F.cross_entropy\n    return right(*given)", notebook)
    with pytest.raises(CheckFailed, match="asks you to do without"):
        check(name, notebook[name])
    assert capsys.readouterr().out == ""
