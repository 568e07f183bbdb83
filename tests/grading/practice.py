"""Two small assignments that need every way of passing arguments and values, for the tests here.

`master(tasks)` is the teacher's notebook, `RIGHT` an answer to each task, `submission(...)` a
learner's notebook. PRACTICE is what most tests grade; LOOP needs optimizers, which import slowly.
"""

from __future__ import annotations

import json

RIGHT = {
    "scaled": '''
def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    """x times by."""
    return x * by
''',
    "tally": '''
def tally(words: dict[tuple[str, ...], int], ids: list[int]) -> tuple[dict, dict, dict]:
    """Words with doubled counts; how often each id comes; the share of each word's first symbol."""
    doubled = {word: 2 * count for word, count in words.items()}
    seen = {i: ids.count(i) for i in ids}
    return doubled, seen, {word[0]: count / sum(words.values()) for word, count in words.items()}
''',
    "halve": '''
def halve(tensors: list[torch.Tensor]) -> float:
    """Halve all tensors in place; returns the sum that they had."""
    total = sum(t.sum().item() for t in tensors)
    for t in tensors:
        t.mul_(0.5)
    return float(total)
''',
    "noise": '''
def noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise in the shape of `like`, drawn from the generator."""
    return torch.rand(like.shape, generator=generator)
''',
    "train_step": '''
def train_step(model, batch: tuple[torch.Tensor, torch.Tensor], optimizer) -> float:
    """One step; returns the loss before it."""
    inputs, labels = batch
    model.train()
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()
''',
    "soft_loss": '''
def soft_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with soft targets."""
    return -(targets * torch.log_softmax(logits, -1)).sum(-1).mean()
''',
    "gather": '''
def gather(batches: list, model) -> torch.Tensor:
    """Adds the gradients of the mean squared output over all batches; returns that mean."""
    size = sum(len(batch) for batch in batches)
    total = 0.0
    for batch in batches:
        loss = model(batch).square().sum() / size
        loss.backward()
        total += loss.detach()
    return total
''',
    "positive": '''
def positive(values: list[int]) -> list[int]:
    """The values again; ValueError if one is negative."""
    if any(v < 0 for v in values):
        raise ValueError(f"negative value in {values}")
    return list(values)
''',
}
HIDDEN = {
    "scaled": """
for size in (1, 3, 7):
    x = torch.randn(2, size)
    expected = x * 2.5
    torch.testing.assert_close(scaled(x, 2.5), expected)
""",
    "tally": """
words = {("a", "b"): 3, ("c",): 1}
doubled, seen, share = tally(words, [5, 7, 5])
assert doubled == {("a", "b"): 6, ("c",): 2}, doubled
assert seen == {5: 2, 7: 1} and all(type(key) is int for key in seen), seen
assert share == {"a": 0.75, "c": 0.25} and type(share["a"]) is float, share
""",
    "halve": """
tensors = [torch.ones(3), torch.full((2, 2), 4.0)]
first = tensors[0]
assert halve(tensors) == 19.0
torch.testing.assert_close(first, torch.full((3,), 0.5))
torch.testing.assert_close(tensors[1], torch.full((2, 2), 2.0))
""",
    "noise": """
draw = torch.Generator().manual_seed(3)
like = torch.zeros(4, 5)
one, two = noise(like, draw), noise(like, draw)
assert one.shape == (4, 5) and not torch.equal(one, two)
again = torch.Generator().manual_seed(3)
torch.testing.assert_close(noise(like, again), one)
torch.testing.assert_close(torch.rand(4, 5, generator=again), two)
""",
    "train_step": """
import copy
torch.manual_seed(5)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).eval()
twin = copy.deepcopy(model)
batch = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
other = torch.optim.AdamW(twin.parameters(), lr=0.1)
for _ in range(3):
    twin.train()
    other.zero_grad()
    loss = torch.nn.functional.cross_entropy(twin(batch[0]), batch[1])
    loss.backward()
    other.step()
    value = train_step(model, batch, optimizer)
    assert type(value) is float
    torch.testing.assert_close(torch.tensor(value), loss.detach())
    for mine, wanted in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, wanted)
        torch.testing.assert_close(mine.grad, wanted.grad)
assert model.training and model[1].training
assert int(optimizer.state[model[0].weight]["step"]) == 3
""",
    "gather": """
model = torch.nn.Linear(3, 1)
tied = torch.nn.Sequential(model, torch.nn.Flatten(), torch.nn.Sigmoid())
batches = [torch.randn(2, 3), torch.randn(5, 3)]
loss = tied(torch.cat(batches)).square().mean()
wanted = torch.autograd.grad(loss, list(model.parameters()))
tied.weight_tied = model.weight
model.weight.grad = torch.ones(1, 3)
value = gather(batches, tied)
torch.testing.assert_close(value, loss.detach())
torch.testing.assert_close(model.weight.grad, wanted[0] + 1)
torch.testing.assert_close(model.bias.grad, wanted[1])
""",
    "soft_loss": """
logits = torch.randn(5, 3, requires_grad=True)
targets = torch.softmax(torch.randn(5, 3), -1)
expected = torch.nn.functional.cross_entropy(logits, targets)
(wanted,) = torch.autograd.grad(expected, logits)
value = soft_loss(logits * 1.0, targets)
torch.testing.assert_close(value, expected)
value.backward()
torch.testing.assert_close(logits.grad, wanted)
""",
    "positive": """
assert positive([1, 2, 0]) == [1, 2, 0]
try:
    positive([1, -2])
except ValueError:
    pass
else:
    raise AssertionError("no ValueError for a negative value")
""",
}
OWN = {
    "halve": {"changes": ["tensors"]},
    "train_step": {"changes": ["model", "optimizer"]},
    "gather": {"changes": ["model"]},
    "soft_loss": {"forbidden": ["torch.nn.functional.cross_entropy", "CrossEntropyLoss"]},
}
PRACTICE = ("scaled", "tally", "halve", "noise", "soft_loss", "positive")
LOOP = ("train_step", "gather")
POINTS = {name: number for number, name in enumerate(RIGHT, 1)}
ALL = float(sum(POINTS[name] for name in PRACTICE))
SETUP = "import torch\nfrom sft_teach import plots\nfrom sft_teach.checks import check"
FIGURE = "figure = plots.curve(scaled)"


def cell(source: str, grade_id: str = "", **flags) -> dict:
    """A code cell; with a grade_id it has nbgrader's metadata."""
    graded = {"grade": False, "solution": False, "locked": True, "task": False, "schema_version": 3}
    metadata = {"nbgrader": graded | {"grade_id": grade_id} | flags} if grade_id else {}
    return {
        "cell_type": "code",
        "id": (grade_id or f"c{abs(hash(source)) % 10**9}").replace("_", "-"),
        "metadata": metadata,
        "source": source.strip("\n"),
        "outputs": [],
        "execution_count": None,
    }


def notebook(cells: list[dict]) -> dict:
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def stub(name: str) -> str:
    """The released answer cell: signature, docstring, NotImplementedError."""
    return "\n".join([*RIGHT[name].strip("\n").splitlines()[:2], "    raise NotImplementedError"])


def _master_answer(name: str) -> dict:
    first, second, *body = RIGHT[name].strip("\n").splitlines()
    body = ["    ### BEGIN SOLUTION", *body, "    ### END SOLUTION"]
    answer = cell("\n".join([first, second, *body]), name, solution=True, locked=False)
    if name in OWN:
        answer["metadata"]["sft_teach"] = OWN[name]
    return answer


def _test(name: str, source: str) -> dict:
    return cell(source, f"{name}__hidden", grade=True, points=POINTS[name])


HEADING = "# Points: the hidden tests run here."


def master(tasks: tuple[str, ...] = PRACTICE) -> dict:
    cells = [cell(SETUP)]
    for name in tasks:
        hidden = f"{HEADING}\n### BEGIN HIDDEN TESTS\n{HIDDEN[name].strip()}\n### END HIDDEN TESTS"
        cells += [
            _master_answer(name),
            cell(f'check("{name}", {name})', f"{name}__check"),
            _test(name, hidden),
        ]
    return notebook([*cells[:3], cell(FIGURE), *cells[3:]])


def submission(
    answers: dict[str, str] | None = None, first: str = "", last: str = "", tasks=PRACTICE
) -> dict:
    """A learner's notebook: right answers, except those given.

    Args:
        first, last: source of an own cell before and after all answers.
    """
    answers = RIGHT | (answers or {})
    cells = [cell(SETUP)] + ([cell(first)] if first else [])
    for name in tasks:
        cells += [
            cell(answers[name], name, solution=True, locked=False),
            cell(f'check("{name}", {name})', f"{name}__check"),
            _test(name, HEADING),
        ]
    cells.insert(3, cell(FIGURE))
    return notebook(cells + ([cell(last)] if last else []))


def as_bytes(tree: dict) -> bytes:
    return json.dumps(tree).encode()
