"""What a sandboxed process can see of the file system: an allow-list, each entry read-only."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
PACKAGES, WORKER, TEACHER = "/srv/packages", "/srv/worker", "/srv/teacher"
# What an answer or a hidden test may import, with all that these need. Never sft_teach.
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "matplotlib", "tqdm")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class View:
    """Binds (source on this machine, path inside), symbolic links, and folders to be hidden."""

    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The arguments that make bubblewrap build this view.

        bubblewrap makes missing parents with mode 0700, which an unprivileged user cannot enter,
        so every parent is made here.
        """
        made, covered, arguments = {"/"}, [], []

        def make_parents(path: str) -> None:
            for parent in reversed(Path(path).parents):
                folder = str(parent)
                inside = any(folder == top or folder.startswith(f"{top}/") for top in covered)
                if folder not in made and not inside:
                    arguments.extend(("--perms", "0755", "--dir", folder))
                    made.add(folder)

        for source, target in self.binds:
            make_parents(target)
            arguments += ["--ro-bind", source, target]
            covered.append(target)
        for text, path in self.links:
            arguments += ["--symlink", text, path]
        for folder in self.hidden:
            arguments += ["--perms", "0755", "--tmpfs", folder, "--remount-ro", folder]
        for device in DEVICES:
            make_parents(device)
            arguments += ["--dev-bind", device, device]
        return arguments

    def again(self) -> View:
        """This view for a second bubblewrap inside the first: its top folders as they are.

        Not all of /tmp, where the second one has a folder of its own.
        """
        tops = {t if t.startswith("/tmp/") else f"/{Path(t).parts[1]}" for _, t in self.binds}
        return View(tuple((top, top) for top in sorted(tops)), self.links)


@lru_cache
def python() -> str:
    """The real interpreter, not the virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@lru_cache
def _system() -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]:
    """Binds, links and hidden folders for shared libraries and Python itself."""
    binds, links = [], []
    for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        if os.path.islink(folder):
            links.append((os.readlink(folder), folder))
        elif os.path.isdir(folder):
            binds.append((folder, folder))
    library = os.path.dirname(os.path.realpath(sysconfig.get_path("stdlib")))
    for path in (library, python()):
        if not any(path.startswith(f"{target}/") or path == target for _, target in binds):
            binds.append((path, path))
    # What the teacher installed beside Python may hold this very package.
    hidden = sorted(
        str(folder)
        for kind in ("site-packages", "dist-packages")
        for folder in Path(library).glob(f"python*/{kind}")
    )
    return binds, links, hidden


@lru_cache
def libraries() -> tuple[tuple[str, str], ...]:
    """Binds for LIBRARIES and everything they require, one per top-level module."""
    found, names, todo = {}, set(), list(LIBRARIES)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in names or name == "sft-teach":
            continue
        names.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts}:
            path = os.path.realpath(distribution.locate_file(top))
            usable = top not in ("..", "__pycache__", "sft_teach") and not top.endswith(".pth")
            if usable and os.path.exists(path):
                found[f"{PACKAGES}/{top}"] = path
    return tuple((source, target) for target, source in sorted(found.items()))


def of_worker() -> View:
    """What process S sees: Python, libraries, two files of its own, nothing of the course."""
    binds, links, hidden = _system()
    own = [(str(HERE / name), f"{WORKER}/{name}") for name in ("worker.py", "protocol.py")]
    return View((*binds, *libraries(), *own), tuple(links), tuple(hidden))


def of_tester() -> View:
    """What process T sees: as S, but `sft_teach`'s checks; no solutions, no gradebook."""
    binds, links, hidden = _system()
    package = HERE.parent
    own = [
        (str(package / name), f"{TEACHER}/sft_teach/{name}")
        for name in ("__init__.py", "errors.py", "banned.py", "checks")
        if (package / name).exists()
    ]
    # Without grading/__init__.py, which is for the engine's side.
    own += [
        (str(HERE / name), f"{TEACHER}/sft_teach/grading/{name}")
        for name in ("tester.py", "session.py", "protocol.py")
    ]
    return View((*binds, *libraries(), *own), tuple(links), tuple(hidden))
