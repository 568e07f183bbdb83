"""The practice course on disk, and one warm grader for all tests that grade."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import practice
import pytest

from sft_teach.grading import sandbox
from sft_teach.grading.engine import Grader, Limits

# Short, because attacks use them up; long enough for a machine with other work to do.
LIMITS = Limits(reply=4.0, task=10.0, hint=4.0, cell=5.0, cells=15.0)


@pytest.fixture(scope="session")
def course(tmp_path_factory) -> Path:
    """A teacher's folder with everything that a submission would like to read or change."""
    folder = tmp_path_factory.mktemp("course")
    files = {
        "solutions/practice/practice.ipynb": json.dumps(practice.master()),
        "gradebook.db": "grades of everybody",
        "secret.key": "the course secret",
        "submissions/ada/practice/practice.ipynb": json.dumps(practice.submission()),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def master(course) -> Path:
    return course / "solutions" / "practice" / "practice.ipynb"


def state(folder: Path) -> dict[str, str]:
    """Every file below a folder with its content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def grader(master):
    """One Grader for the session, as for a class."""
    if reason := sandbox.available():
        pytest.skip(reason)
    with Grader(master, LIMITS, spares=2) as warm:
        yield warm


@pytest.fixture
def grade(grader, course):
    """Grade a notebook, and see that nothing of the teacher's changed."""

    def run(tree: dict | bytes, **options):
        before = state(course)
        data = tree if isinstance(tree, bytes) else practice.as_bytes(tree)
        result = grader.grade(data, **options)
        assert state(course) == before, "the teacher's files were changed"
        return result

    return run
