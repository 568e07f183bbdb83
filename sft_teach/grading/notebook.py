"""A submission against its master: what counts as an answer, whatever was done to the notebook.

Test cells, points and metadata come from the master; from the submission come the sources of its
answers and of the learner's other cells, nothing else.
"""

from __future__ import annotations

import ast
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from sft_teach.errors import DataError
from sft_teach.grading import sources

FILE_BYTES, CODE_BYTES, CELLS, JSON_DEPTH = 20 << 20, 1 << 20, 1000, 60
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*", re.M | re.S)
TESTS = re.compile(r"^### BEGIN HIDDEN TESTS.*?^### END HIDDEN TESTS[^\n]*", re.M | re.S)
STUB = "raise NotImplementedError"
HIDDEN = "__hidden"


class UnreadableNotebook(DataError):
    """A submission that cannot be graded at all; the message says what is wrong with the file."""


@dataclass
class Cell:
    """A code cell that is to run, and the task that it answers if it does."""

    source: str
    task: str | None = None


@dataclass
class Test:
    """An autograded test cell of the master."""

    name: str
    source: str
    points: float


@dataclass
class Master:
    """What grading needs of a master notebook.

    Attributes:
        parameters: names of the parameters of each answer function.
        own: per task, what its answer cell's metadata `sft_teach` says (`changes`, `forbidden`,
            lists of names); sft_teach.checks knows the tasks of the course itself.
        stubs: the released answer cells.
        plain: sources of the other code cells.
        imports: the import statements in them.
        locked: released sources of the cells that learners must not change, by grade_id.
        written: grade_ids of answers that are text, graded by hand.
    """

    assignment: str
    tests: list[Test] = field(default_factory=list)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    own: dict[str, dict] = field(default_factory=dict)
    stubs: dict[str, str] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    locked: dict[str, str] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)


@dataclass
class Submission:
    """A normalised submission: the cells to run, the answers by grade_id, what looked odd."""

    cells: list[Cell]
    answers: dict[str, str]
    flags: list[str]


# --- reading ------------------------------------------------------------------------------------
def read(notebook: str | os.PathLike[str] | bytes) -> dict:
    """The notebook in a file or in bytes, with its outer structure checked.

    Raises:
        UnreadableNotebook: it is too large, no regular file, no UTF-8, no JSON, or no notebook.
    """
    data = notebook if isinstance(notebook, bytes) else _file(notebook)
    if len(data) > FILE_BYTES:
        raise UnreadableNotebook(f"the file has {len(data):,} bytes, more than {FILE_BYTES:,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableNotebook(f"the file is not UTF-8 (byte {error.start:,})") from None
    if _depth(text) > JSON_DEPTH:
        raise UnreadableNotebook(f"the JSON is nested more than {JSON_DEPTH} deep")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableNotebook(f"the file is not JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("cells"), list):
        raise UnreadableNotebook("the JSON is not a notebook: it has no list of cells")
    if tree.get("nbformat") != 4:
        raise UnreadableNotebook("the notebook is not in format 4: open it in JupyterLab, save it")
    if len(tree["cells"]) > CELLS:
        raise UnreadableNotebook(f"the notebook has more than {CELLS:,} cells")
    if sum(len(source_of(cell)) for cell in tree["cells"]) > CODE_BYTES:
        raise UnreadableNotebook(f"the cells hold more than {CODE_BYTES:,} characters")
    return tree


def require(tree: dict, assignment: str) -> None:
    """Refuse a notebook that says it answers another assignment: that is no 0.

    Raises:
        UnreadableNotebook: with the name of the other assignment.
    """
    metadata = tree.get("metadata")
    own = metadata.get("sft_teach") if isinstance(metadata, dict) else None
    said = own.get("assignment") if isinstance(own, dict) else None
    if isinstance(said, str) and said != assignment:
        name = said if re.fullmatch(r"[\w.-]{1,60}", said, re.A) else "another assignment"
        raise UnreadableNotebook(f"this is {name}, expected {assignment}")


def _file(path: str | os.PathLike[str]) -> bytes:
    try:
        # A link could lead to another student's answers, a pipe nowhere.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableNotebook(f"the file cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UnreadableNotebook("it is not a regular file")
    with os.fdopen(number, "rb") as file:
        return file.read(FILE_BYTES + 1)


def _depth(text: str) -> int:
    """How deep brackets are nested outside of strings."""
    depth = deepest = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*+"?+|[\[{]|[\]}]', text, re.S):
        mark = text[found.start()]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def source_of(cell) -> str:
    source = cell.get("source", "") if isinstance(cell, dict) else ""
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    source = source if isinstance(source, str) else ""
    return source.encode("utf-8", "replace").decode()  # a lone surrogate is no text


def _metadata(cell) -> dict:
    """A cell's nbgrader metadata as far as it has the right form."""
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    graded = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return graded if isinstance(graded, dict) else {}


def grade_id_of(cell) -> str:
    name = _metadata(cell).get("grade_id")
    return name if isinstance(name, str) else ""


# --- the master ---------------------------------------------------------------------------------
def read_master(path: str | os.PathLike[str]) -> Master:
    """Read a master notebook; its file name is the assignment's.

    Raises:
        DataError: it is no master, or two of its cells have one grade_id.
    """
    path = Path(path)
    try:
        tree = read(path)
    except UnreadableNotebook as error:
        raise DataError(f"The master {path} cannot be read: {error}.") from None
    master, seen = Master(path.stem), set()
    for cell in tree["cells"]:
        graded, name, source = _metadata(cell), grade_id_of(cell), source_of(cell)
        if name and name in seen:
            raise DataError(f"The master {path} has two cells with the grade_id {name}.")
        seen.add(name)
        code = cell.get("cell_type") == "code"
        if graded.get("solution") and code:
            _read_answer(master, name, source, cell)
        elif graded.get("solution"):
            master.written.append(name)
        elif graded.get("grade") and code:
            points = float(graded.get("points", 0))
            master.tests.append(Test(name.removesuffix(HIDDEN), source, points))
        elif not name and code:
            master.plain.append(source)
        if name and not graded.get("solution"):
            master.locked[name] = TESTS.sub("", source)
    if not master.tests:
        raise DataError(
            f"The master {path} has no autograded test: expected code cells with the nbgrader "
            'metadata "grade": true, "solution": false.'
        )
    for source in master.plain:
        for statement in (sources.parse(source) or ast.Module([], [])).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                master.imports.append(ast.unparse(statement))
    return master


def as_submission(path: str | os.PathLike[str]) -> bytes:
    """A master as a learner would hand it in: with the answers, without the hidden tests."""
    tree = read(path)
    for cell in tree["cells"]:
        if isinstance(cell, dict):
            cell["source"] = TESTS.sub("", source_of(cell))
    return json.dumps(tree).encode()


def _read_answer(master: Master, name: str, source: str, cell: dict) -> None:
    master.stubs[name] = SOLUTION.sub(rf"\1{STUB}", source)
    own = cell["metadata"].get("sft_teach")
    master.own[name] = own if isinstance(own, dict) else {}
    for statement in (sources.parse(source) or ast.Module([], [])).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            parts = statement.args
            arguments = (*parts.posonlyargs, *parts.args, *parts.kwonlyargs)
            master.parameters[name] = [argument.arg for argument in arguments]


# --- the submission -----------------------------------------------------------------------------
def normalise(tree: dict, master: Master) -> Submission:
    """Find the answers in a notebook and the cells that must run for them.

    An answer is the last cell with its grade_id that is not the untouched stub; failing that, the
    last cell that defines the function. Cells of the master's that nothing needs do not run.
    """
    flags: list[str] = []
    cells = [cell for cell in tree["cells"] if isinstance(cell, dict)]
    code = [
        (grade_id_of(cell), source_of(cell))
        for cell in cells
        if cell.get("cell_type") == "code" and grade_id_of(cell) not in master.locked
    ]
    for name, released in master.locked.items():
        found = [source_of(cell) for cell in cells if grade_id_of(cell) == name]
        how = {0: "deleted", 1: "" if found and _same(found[0], released) else "changed"}
        if how := how.get(len(found), "duplicated"):
            flags.append(f"cell {name} was {how}; the master's own is used")
    chosen = {name: _choose(name, code, master, flags) for name in master.stubs}
    owner = {number: name for name, number in chosen.items() if number is not None}
    answers = {name: code[number][1] for number, name in owner.items()}
    for name in master.written:
        texts = [source_of(cell) for cell in cells if grade_id_of(cell) == name]
        answers[name] = texts[-1] if texts else ""
    runnable = [
        Cell(source, owner.get(number))
        for number, (name, source) in enumerate(code)
        if number in owner or (name not in master.stubs and source.strip())
    ]
    return Submission(_without_idle(runnable, master), answers, flags)


def _choose(name: str, code: list, master: Master, flags: list[str]) -> int | None:
    """The number of the cell that answers a task, or None."""
    marked = [number for number, (grade_id, _) in enumerate(code) if grade_id == name]
    if len(marked) > 1:
        flags.append(f"{len(marked)} cells have the grade_id {name}; the last answer counts")
    tried = [n for n in marked if not _same(code[n][1], master.stubs[name])]
    defining = [n for n in tried if name in sources.names(code[n][1]).made]
    elsewhere = [
        number
        for number, (grade_id, source) in enumerate(code)
        if grade_id not in master.stubs and name in sources.names(source).functions
    ]
    if not defining and elsewhere:
        flags.append(f"{name} was found in another cell than its own")
    for candidates in (defining, elsewhere, tried, marked):
        if candidates:
            return candidates[-1]
    flags.append(f"there is no answer cell for {name}")
    return None


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def _without_idle(cells: list[Cell], master: Master) -> list[Cell]:
    """Leave out the master's own cells that make nothing the other cells use, such as figures."""
    plain = {" ".join(source.split()) for source in master.plain}
    ours = [not cell.task and " ".join(cell.source.split()) in plain for cell in cells]
    texts, keep = [cell.source for cell in cells], set()
    for number in range(len(cells)):
        if not ours[number]:
            keep.update(sources.needed(texts, number), [number])
    return [cell for number, cell in enumerate(cells) if number in keep]
