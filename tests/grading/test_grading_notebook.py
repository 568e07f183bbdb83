"""What counts as an answer, whatever was done to the notebook; and what its source says."""

from __future__ import annotations

import copy

import practice
import pytest
from practice import PRACTICE, RIGHT, cell, submission

from sft_teach.errors import DataError
from sft_teach.grading import notebook, sources


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    path = tmp_path_factory.mktemp("master") / "practice.ipynb"
    path.write_bytes(practice.as_bytes(practice.master()))
    return notebook.read_master(path)


def answers(tree: dict, master) -> dict[str, str]:
    return notebook.normalise(notebook.read(practice.as_bytes(tree)), master).answers


def wanted(**changed) -> dict[str, str]:
    return {name: RIGHT[name].strip("\n") for name in PRACTICE} | changed


def test_what_the_master_says(master):
    assert [test.name for test in master.tests] == list(PRACTICE)
    assert master.parameters["noise"] == ["like", "generator"]
    assert master.own["halve"] == {"changes": ["tensors"]}
    assert master.stubs["scaled"].split() == practice.stub("scaled").split()
    assert "BEGIN HIDDEN" not in master.locked["scaled__hidden"]
    assert "import torch" in master.imports


def test_an_honest_notebook_has_no_flags(master):
    result = notebook.normalise(submission(), master)
    assert result.answers == wanted() and result.flags == []
    assert [c.task for c in result.cells] == [None, *PRACTICE]  # the figure of the master is idle


def test_metadata_lost(master):
    tree = submission()
    for c in tree["cells"]:
        c["metadata"] = {}
    assert answers(tree, master) == wanted()


def test_cells_deleted_reordered_and_duplicated(master):
    tree = submission()
    tree["cells"] = [c for c in reversed(tree["cells"]) if "halve" not in str(c["metadata"])]
    tree["cells"] += copy.deepcopy(tree["cells"][:6])
    result = notebook.normalise(tree, master)
    expected = wanted()
    del expected["halve"]
    assert result.answers == expected
    assert any("no answer cell for halve" in flag for flag in result.flags)
    assert any("duplicated" in flag for flag in result.flags)
    assert any("deleted" in flag for flag in result.flags)


def test_of_two_answers_the_last_that_was_written_counts(master):
    tree = submission({"scaled": practice.stub("scaled")})
    new = cell("def scaled(x, by):\n    return 1", "scaled", solution=True)
    tree["cells"] += [new, cell(practice.stub("scaled"), "scaled", solution=True)]
    assert answers(tree, master)["scaled"] == new["source"]
    tree = submission({"scaled": practice.stub("scaled")}, last="def scaled(x, by):\n    return 2")
    assert answers(tree, master)["scaled"].endswith("2")


def test_test_cells_of_the_submission_never_run(master):
    tree = submission()
    for c in tree["cells"]:
        if "__" in c["metadata"].get("nbgrader", {}).get("grade_id", ""):
            c["source"] = "scaled = print"
            c["metadata"]["nbgrader"]["points"] = 1000
    result = notebook.normalise(tree, master)
    assert not any("print" in c.source for c in result.cells)
    assert sum("was changed" in flag for flag in result.flags) == 2 * len(PRACTICE)


def test_forged_metadata_makes_no_task(master):
    tree = submission(last="evil = 1")
    tree["cells"][-1]["metadata"]["nbgrader"] = {"grade_id": "evil", "grade": True, "points": 99}
    result = notebook.normalise(tree, master)
    assert "evil" not in result.answers and result.cells[-1].task is None


def test_masters_that_cannot_be_used(tmp_path):
    path = tmp_path / "bad.ipynb"
    twice = practice.master()
    twice["cells"].append(twice["cells"][1])
    for tree in (practice.notebook([]), twice):
        path.write_bytes(practice.as_bytes(tree))
        with pytest.raises(DataError):
            notebook.read_master(path)


def test_needed_cells_follow_names():
    cells = ["import torch", "def a(): return 1", "def b(): return a() + c", "c = 2", "d = b()"]
    assert sources.needed(cells, 2) == [1, 2, 3]
    assert sources.needed(cells, 0) == [0]
    assert sources.needed(cells, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("source", "meddles"),
    [
        ("import torch\nx = torch.ones(3)\nx[0] = 1\nx.grad = None", False),
        ("class A(torch.nn.Module):\n    def __init__(self):\n        super().__init__()", False),
        ("import torch\ntorch.exp = None", True),
        ("import torch.nn.functional as F\nF.softmax = 1", True),
        ("import sys", True),
        ("torch.set_default_dtype(torch.float64)", True),
        ("().__class__", True),
        ("exec('1')", True),
        ("def (", True),
        ("%timeit 1\nx = 1", False),
    ],
)
def test_cells_that_may_spoil_others(source, meddles):
    assert sources.names(source).meddles is meddles


LOSSES = ("torch.nn.functional.cross_entropy", "nll_loss", "backward")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn.functional as F\nF.cross_entropy(1)", True),
        ("import torch\ntorch.nn.functional.cross_entropy(1)", True),
        ("from torch.nn import functional\nfunctional.cross_entropy", True),
        ("from torch.nn.functional import cross_entropy as ce\nce(1)", True),
        ("from torch.nn.functional import *\ncross_entropy(1)", True),
        ("import torch\nF = torch.nn\nF.functional.nll_loss(1)", True),
        ("import torch\ngetattr(torch, 'nll_loss')", True),
        ("x.backward()", True),
        ("def cross_entropy(a): return a\ncross_entropy(1)", False),
        ("backward = 1\nprint(backward)", False),
        ("import torch\ntorch.log_softmax(1)  # torch.nn.functional.cross_entropy", False),
    ],
)
def test_forbidden_names(source, found):
    assert bool(sources.uses([source], [source], LOSSES)) is found


def test_what_is_said_about_forbidden_names_is_plain():
    source = "import torch\ngetattr(torch, '<script>.nll_loss')"
    assert sources.uses([source], [source], LOSSES) == ["nll_loss"]


def test_a_star_import_elsewhere_is_not_what_parameters_and_builtins_are():
    star = "from sft_teach.checks.hidden import *"
    answer = "def f(logits, targets):\n    return len(logits) + targets"
    assert sources.uses([answer], [star, answer], ("sft_teach",)) == []
    taken = "def f(logits, draw=draw):\n    return draw(logits)"
    assert sources.uses([taken], [star, taken], ("sft_teach",)) == ["sft_teach.checks.hidden.draw"]
