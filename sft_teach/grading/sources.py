"""What a cell's source says about itself: names it makes and needs, and names it must not use.

This reads, and never runs, a submission. It decides which cells are needed and what is shown to the
teacher; it is no protection: a name can be hidden from it.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

# Imports and calls that leave the rest of the notebook as it was.
HARMLESS = frozenset(
    "torch math random numpy scipy sklearn collections itertools functools typing re string "
    "statistics operator heapq bisect copy dataclasses fractions decimal time matplotlib tqdm "
    "sft_teach __future__ collections.abc".split()
)
REACHING = frozenset(
    "setattr delattr exec eval compile globals locals vars __import__ open input breakpoint exit "
    "quit get_ipython".split()
)


@dataclass
class Names:
    """What one cell defines and uses.

    Attributes:
        made: names bound at the top level of the cell.
        used: names that are read anywhere in it.
        imports: dotted targets of imports by the name they are bound to; `*` lists star imports.
        functions: names of functions defined at the top level.
        meddles: it may change what other cells rely on, such as a patched module.
    """

    made: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    meddles: bool = False
    tree: ast.Module | None = None


def parse(source: str) -> ast.Module | None:
    """The syntax tree, without lines of magics where it has some; None if it is not Python."""
    for text in (source, "\n".join(map(_without_magic, source.splitlines()))):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _without_magic(line: str) -> str:
    bare = line.lstrip()
    return line[: len(line) - len(bare)] + "pass" if bare[:1] in ("%", "!", "?") else line


@lru_cache(maxsize=256)
def names(source: str) -> Names:
    """Read a cell. What does not parse defines nothing and counts as meddling."""
    found = Names(tree=parse(source))
    if found.tree is None:
        found.meddles = True
        return found
    try:
        _read(found)
    except RecursionError:
        found.meddles = True
    return found


def _read(found: Names) -> None:
    for statement in found.tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.functions.add(statement.name)
        for node in _top_level(statement):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.made.add(node.name)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.made.add(node.id)
    roots = {"torch", "builtins", "sys"}
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                found.imports[bound] = alias.name if alias.asname else bound
                found.meddles |= alias.name.partition(".")[0] not in HARMLESS
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found.meddles |= module.partition(".")[0] not in HARMLESS
            for alias in node.names:
                if alias.name == "*":
                    found.stars.append(module)
                else:
                    found.imports[alias.asname or alias.name] = f"{module}.{alias.name}"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.used.add(node.id)
            found.meddles |= node.id in REACHING
    found.made |= set(found.imports)
    roots |= set(found.imports)
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Attribute):
            stored = not isinstance(node.ctx, ast.Load) and _root(node) in roots
            hidden = node.attr.startswith(("__", "set_")) and node.attr != "__init__"
            found.meddles |= stored or hidden


def _top_level(node: ast.AST) -> Iterable[ast.AST]:
    """The nodes that run in the notebook's own namespace: not inside functions and classes."""
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(node):
        yield from _top_level(child)


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def needed(cells: list[str], target: int) -> list[int]:
    """The cells that a cell needs, itself included, in order: those that make the names it uses."""
    chosen, todo = set(), [target]
    while todo:
        number = todo.pop()
        if number in chosen:
            continue
        chosen.add(number)
        used = names(cells[number]).used
        for other, source in enumerate(cells):
            makes = names(source)
            if other not in chosen and (makes.made & used or makes.stars):
                todo.append(other)
    return sorted(chosen)


def defining(source: str, name: str) -> str:
    """What of a cell makes its answer: functions, classes, and what binds that name.

    A check or a figure that a learner wrote below the function is none of it.
    """
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    kept = []
    for statement in (names(source).tree or ast.Module([], [])).body:
        bound = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
        targets = [n.id for n in bound if isinstance(n.ctx, ast.Store)]
        if isinstance(statement, ast.ImportFrom):
            targets = [alias.asname or alias.name for alias in statement.names]
        binds = isinstance(statement, (ast.Assign, ast.AnnAssign, ast.ImportFrom))
        if isinstance(statement, definitions) or (binds and name in targets):
            kept.append(statement)
    return ast.unparse(ast.Module(kept, []))


def uses(sources: list[str], aliases: list[str], forbidden: tuple[str, ...]) -> list[str]:
    """Which of the forbidden names some cells use.

    Args:
        sources: the cells to look at.
        aliases: all cells of the notebook: imports in any of them count.
        forbidden: dotted names ("torch.nn.functional.cross_entropy"), or bare ones ("backward")
            that no attribute and no import may have. A name of the learner's own is not meant.
    """
    imports, stars, own = {}, [], set()
    for source in aliases:
        found = names(source)
        imports |= found.imports
        stars += found.stars
        own |= found.made - set(found.imports)
    hits = set()
    for source in sources:
        tree = names(source).tree or ast.Module([], [])
        local = own | _parameters(tree)
        for node in ast.walk(tree):
            for dotted in _dotted(node, imports, stars, local):
                for name in forbidden:
                    bare = "." not in name and name in dotted.split(".")
                    if bare or dotted == name or dotted.startswith(f"{name}."):
                        said = dotted.removeprefix(".")
                        plain = said.replace(".", "").isidentifier() and len(said) < 80
                        hits.add(said if plain else name)  # a text in getattr may be anything
    return sorted(hits)


def _parameters(tree: ast.AST) -> set[str]:
    """Parameters without a default: no star import can be what they stand for."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            plain = [*node.args.posonlyargs, *node.args.args]
            plain = plain[: len(plain) - len(node.args.defaults)]
            found.update(argument.arg for argument in plain)
    return found


def _dotted(node: ast.AST, imports: dict, stars: list, own: set) -> list[str]:
    """The names that a node may stand for; ".name" for an attribute of something unknown."""
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value, imports, stars, own)
        return [f"{name}.{node.attr}" for name in inner] or [f".{node.attr}"]
    if isinstance(node, ast.Name):
        if node.id in imports:
            return [imports[node.id]]
        ours = hasattr(builtins, node.id)  # `len` is none of the package's names
        modules = [m for m in stars if not (ours and m.partition(".")[0] == "sft_teach")]
        return [] if node.id in own else [f"{module}.{node.id}" for module in modules]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module or ''}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        texts = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
        return [f".{text}" for text in texts if isinstance(text, str)]
    return []
