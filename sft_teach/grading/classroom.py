"""Grade a whole class, into nbgrader's gradebook: what `sft-teach grade ASSIGNMENT` does.

The engine says what each submission is worth. nbgrader keeps the rest: its gradebook, late
penalties, grading by hand in formgrader, feedback pages, export. What it gets to see of a
submission is a notebook that was put together anew: the release, with the student's sources in it,
without outputs of the student's, and with our own result in each test cell.

    grading/secret             the course's secret, made at the first run; keep it, tell nobody
    grading/ASSIGNMENT.json    what became of each submission
    submitted/, autograded/, feedback/, gradebook.db        as in any nbgrader course
    grades.csv                 one line per student and assignment

A run may be stopped at any moment and started again: a submission that is done is skipped as long
as neither it nor the master has changed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import queue
import re
import secrets
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from sft_teach import __version__, exercises
from sft_teach.errors import SFTTeachError
from sft_teach.grading import engine, intake, notebook
from sft_teach.grading.engine import Result
from sft_teach.grading.intake import Submission
from sft_teach.progress import bar


@dataclass
class Report:
    """What a run did. `failed` has, for each submission that got no grade, the reason."""

    assignment: str
    graded: dict[str, Result] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    interrupted: bool = False

    def __str__(self) -> str:
        lines = [
            f"{self.assignment}: {len(self.graded)} graded, {len(self.unchanged)} unchanged, "
            f"{len(self.failed)} failed, {len(self.missing)} missing"
        ]
        lines += [f"  FAILED   {student}: {why}" for student, why in sorted(self.failed.items())]
        lines += [f"  look at  {s}: {'; '.join(f)}" for s, f in sorted(self.flags.items())]
        if self.interrupted:
            lines.append("Interrupted. The same command goes on from here.")
        return "\n".join(lines)


def grade_class(
    assignment: str,
    root: Path,
    submissions: Path | None = None,
    *,
    roster: Path | None = None,
    jobs: int = 1,
    again: bool = False,
) -> Report:
    """Grade all submissions of an assignment that are new or have changed.

    Args:
        assignment: name of a folder in `root`/solutions.
        root: the course's folder.
        submissions: a folder or zip (see `intake`); None is `root`/submitted.
        roster: see `intake.collect`.
        jobs: how many submissions are graded at a time.
        again: grade also what has not changed.

    Raises:
        IntakeError: there are no submissions, or they cannot be taken in.
        SandboxUnavailable: nothing is graded without a sandbox.
        DataError: there is no such assignment.
    """
    where = submissions or root / "submitted"
    found = intake.collect(where, assignment, roster)
    course = Course(root, assignment)
    report = Report(assignment)
    handed_in = {submission.student for submission in found}
    if roster is not None:
        everybody = [student.student for student in intake.read_roster(roster)]
        report.missing = [student for student in everybody if student not in handed_in]
    todo = []
    for submission in found:
        if problem := submission.problem or _unreadable(submission):
            course.note_failure(submission, problem)
            report.failed[submission.student] = problem
        elif not again and course.is_done(submission):
            report.unchanged.append(submission.student)
        else:
            todo.append(submission)
    try:
        with bar(len(todo), f"grading {assignment}", unit="notebook") as progress:
            for submission, result in _graded(course, todo, max(1, min(jobs, len(todo)))):
                _enter(course, submission, result, report)
                progress.update()
    except KeyboardInterrupt:
        report.interrupted = True
    course.write_grades(report.missing)
    return report


def _unreadable(submission: Submission) -> str:
    try:
        notebook.read(submission.notebook)
    except notebook.UnreadableNotebook as error:
        return str(error)
    return ""


def _enter(course: Course, submission: Submission, result: Result, report: Report) -> None:
    """Put one result into the gradebook, or note why that was not possible."""
    reason = result.failed
    if reason is None:
        try:
            course.record(submission, result)
        except (Exception, SystemExit) as error:  # nbgrader's many kinds: one student, not all
            reason = f"nbgrader could not record it: {error}"
    if reason is not None:
        course.note_failure(submission, reason)
        report.failed[submission.student] = reason
        return
    report.graded[submission.student] = result
    if result.flags:
        report.flags[submission.student] = result.flags


def _graded(
    course: Course, todo: list[Submission], jobs: int
) -> Iterator[tuple[Submission, Result]]:
    """Results as they come, from so many graders side by side."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    for submission in todo:
        waiting.put(submission)

    def work() -> None:
        try:
            with engine.Grader(course.master) as grader:
                while not stop.is_set():
                    submission = waiting.get_nowait()
                    student = submission.student
                    done.put(
                        (submission, grader.grade(submission.notebook, student, course.secret))
                    )
        except queue.Empty:
            pass
        except BaseException as error:  # of the engine itself: it ends the run, below
            done.put((None, error))

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            submission, result = done.get()
            if submission is None:
                raise result
            yield submission, result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Course:
    """One assignment in a course's folder."""

    def __init__(self, root: Path, assignment: str):
        self.root, self.assignment = Path(root).resolve(), assignment
        self.master = self.root / "solutions" / assignment / f"{assignment}.ipynb"
        self.read = notebook.read_master(self.master)
        self.release = nbformat.reads(exercises.release(self.root, assignment), as_version=4)
        self.folder = self.root / "grading"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self.secret = self._secret()
        self.state: dict[str, dict[str, Any]] = self._load()
        self.entered = False  # into the gradebook

    def _secret(self) -> bytes:
        """The course's secret; made once. With another one, grading again draws other inputs."""
        path = self.folder / "secret"
        with contextlib.suppress(FileExistsError):
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        try:
            return bytes.fromhex(path.read_text().strip())
        except ValueError as error:
            raise SFTTeachError(
                f"{path} is damaged: expected 64 hexadecimal digits. Restore it from a backup, or "
                "remove it: a new one is made, and hidden inputs change with it."
            ) from error

    # -- what is done ------------------------------------------------------------------------
    def _path(self) -> Path:
        return self.folder / f"{self.assignment}.json"

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self._path().read_text("utf-8"))
        except FileNotFoundError:
            return {}

    def _save(self) -> None:
        _write(self._path(), json.dumps(self.state, indent=1, sort_keys=True) + "\n")

    def digest(self, submission: Submission) -> str:
        """Changes with the submission, the master, the package and the course's secret."""
        whole = hashlib.sha256()
        parts = (self.master.read_bytes(), submission.notebook or b"", self.secret)
        for part in (*parts, __version__.encode(), str(submission.submitted).encode()):
            whole.update(len(part).to_bytes(8, "little") + part)
        return whole.hexdigest()

    def is_done(self, submission: Submission) -> bool:
        noted = self.state.get(submission.student, {})
        there = (self._graded(submission.student) / f"{self.assignment}.ipynb").is_file()
        there &= (self.root / "gradebook.db").is_file()
        return there and noted.get("digest") == self.digest(submission)

    def note_failure(self, submission: Submission, reason: str) -> None:
        self.state[submission.student] = self._about(submission) | {"failed": reason}
        self._save()

    def _about(self, submission: Submission) -> dict[str, Any]:
        when = submission.submitted
        return {
            "name": submission.name,
            "origin": submission.origin,
            "submitted": when.isoformat(" ") if when else "",
        }

    # -- the gradebook -----------------------------------------------------------------------
    def _graded(self, student: str) -> Path:
        return self.root / "autograded" / student / self.assignment

    def _config(self, student: str = "*"):
        config = exercises.settings(self.root)
        config.CourseDirectory.root = str(self.root)
        config.CourseDirectory.assignment_id = self.assignment
        config.CourseDirectory.student_id = student
        config.CourseDirectory.db_url = f"sqlite:///{self.root / 'gradebook.db'}"
        config.BaseConverter.force = True
        return config

    def enter(self) -> None:
        """Tell the gradebook of the assignment, its cells and their points."""
        from traitlets.config import Config

        if not (self.root / "gradebook.db").is_file():
            _new_gradebook(self.root / "gradebook.db")
        more = Config()
        more.CourseDirectory.db_url = f"sqlite:///{self.root / 'gradebook.db'}"
        exercises.release(self.root, self.assignment, more)
        self.entered = True

    def record(self, submission: Submission, result: Result) -> None:
        """Enter one result and write the feedback; what was noted before stays until then."""
        from nbgrader.converters import Autograde, GenerateFeedback
        from nbgrader.coursedir import CourseDirectory
        from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, SaveAutoGrades

        if not self.entered:
            self.enter()
        student = submission.student
        self._keep(submission)
        staged = self.folder / "staged" / student / self.assignment
        staged.mkdir(parents=True, exist_ok=True)
        _write(
            staged / f"{self.assignment}.ipynb",
            nbformat.writes(assemble(self.release, submission.notebook, self.read, result)),
        )
        stamp = staged / "timestamp.txt"
        stamp.unlink(missing_ok=True)
        if submission.submitted:
            _write(stamp, submission.submitted.isoformat(" ") + "\n")
        config = self._config(student)
        config.CourseDirectory.submitted_directory = str(staged.parents[1])
        config.Autograde.pop("pre_convert_hook")  # see guard.py: nothing is executed here
        config.Autograde.sanitize_preprocessors = [CheckCellMetadata]
        # No Execute: what the cells are worth is known, and stands in their outputs.
        config.Autograde.autograde_preprocessors = [
            SaveAutoGrades, AssignLatePenalties, CheckCellMetadata
        ]  # fmt: skip
        _convert(Autograde(coursedir=CourseDirectory(config=config), config=config))
        config = self._config(student)
        _convert(GenerateFeedback(coursedir=CourseDirectory(config=config), config=config))
        for path in (staged / f"{self.assignment}.ipynb", stamp):
            path.unlink(missing_ok=True)
        self.state[student] = self._about(submission) | {
            "digest": self.digest(submission),
            "result": result.as_dict(),
        }
        self._save()  # last: from now on it counts as done

    def _keep(self, submission: Submission) -> None:
        """A copy where nbgrader expects submissions, if they came in another form."""
        folder = self.root / "submitted" / submission.student / self.assignment
        target = folder / f"{self.assignment}.ipynb"
        if folder.is_symlink() or folder.parent.is_symlink() or target.is_symlink():
            return
        if target.is_file() and target.read_bytes() == submission.notebook:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write(target, submission.notebook)
        if submission.submitted:
            _write(folder / "timestamp.txt", submission.submitted.isoformat(" ") + "\n")

    def write_grades(self, missing: list[str]) -> Path:
        """grades.csv: a failed or missing submission has no score, which is not the same as 0."""
        rows = [row for row in self._kept_rows() if row["assignment"] != self.assignment]
        scores = self._scores()
        for student, noted in self.state.items():
            row = {"assignment": self.assignment, "student": student, "name": noted["name"]}
            row |= {"submitted": noted["submitted"]}
            if "failed" in noted:
                row |= {"status": "failed", "note": noted["failed"]}
            elif student in scores:
                row |= scores[student]
            rows.append(row)
        rows += [
            {"assignment": self.assignment, "student": student, "status": "missing"}
            for student in missing
        ]
        rows.sort(key=lambda row: (row["assignment"], row["student"]))
        path = self.root / "grades.csv"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows({k: harmless(str(v)) for k, v in row.items()} for row in rows)
        os.replace(temporary, path)
        return path

    def _kept_rows(self) -> list[dict[str, str]]:
        path = self.root / "grades.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row.keys() == set(COLUMNS)]

    def _scores(self) -> dict[str, dict[str, Any]]:
        from nbgrader.api import Gradebook, MissingEntry

        if not (self.root / "gradebook.db").is_file():
            return {}
        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}", COURSE) as gradebook:
            try:
                handed_in = gradebook.assignment_submissions(self.assignment)
            except MissingEntry:
                return {}
            return {
                submission.student.id: {
                    "status": "by hand" if submission.needs_manual_grade else "graded",
                    "score": round(submission.score, 4),
                    "max_score": round(submission.max_score, 4),
                    "late_penalty": round(submission.late_submission_penalty or 0.0, 4),
                }
                for submission in handed_in
            }


COURSE = "sft"  # as in nbgrader_config.py
COLUMNS = (
    "assignment", "student", "name", "status", "score", "max_score", "late_penalty", "submitted",
    "note",
)  # fmt: skip


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236)."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def _write(path: Path, content: str | bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


def _new_gradebook(path: Path) -> None:
    """An empty gradebook, made under another name: it is there whole or not at all."""
    from nbgrader.api import Gradebook

    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    # nbgrader calls `alembic` by name, which an environment that is not activated does not have.
    search = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{search}"
    try:
        Gradebook(f"sqlite:///{temporary}", COURSE).close()
    finally:
        os.environ["PATH"] = search
    os.replace(temporary, path)


def _convert(converter) -> None:
    converter.log.setLevel("CRITICAL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's use of SQLAlchemy warns at each submission
        converter.start()


# --- the notebook that nbgrader sees ------------------------------------------------------------
def assemble(release, submitted: bytes, master, result: Result):
    """The release with the student's sources in it, and a result in each test cell.

    Cells that the learner added follow the cell they followed there. Outputs, attachments and
    metadata of the submission are left behind. Texts become quoted plain text: nbgrader's pages
    render Markdown with whatever HTML, script or javascript: link is in it.
    """
    tree = notebook.read(submitted)
    answers = notebook.normalise(tree, master).answers
    tasks = {task.name: task for task in result.tasks}
    following = _added(release, tree)
    assembled = nbformat.from_dict({**release, "cells": []})
    assembled.cells += following.get(None, [])
    for original in release.cells:
        cell = nbformat.from_dict(json.loads(json.dumps(original)))
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if cell.metadata.get("nbgrader", {}).get("solution") and name in answers:
            changed = answers[name].strip() != cell.source.strip()  # else: "No response."
            plain = cell.cell_type == "markdown" and changed
            cell.source = quoted(answers[name]) if plain else answers[name]
        if name.endswith("__hidden") and (task := tasks.get(name.removesuffix("__hidden"))):
            cell.outputs = _verdict(task)
        elif name.endswith("__check") and (task := tasks.get(name.removesuffix("__check"))):
            text = task.hint or (f"{task.name}: right." if task.points else "")
            cell.outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
        assembled.cells.append(cell)
        assembled.cells += following.get(cell.id, [])
    return assembled


def _added(release, tree: dict) -> dict[str | None, list]:
    """Cells of a submission that the release does not have, by the id of the cell before them."""
    ids = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell.id for cell in release.cells}
    ids.pop(None, None)
    sources = {" ".join(cell.source.split()): cell.id for cell in release.cells}
    before, following = None, {}
    for raw in tree["cells"]:
        if not isinstance(raw, dict) or raw.get("cell_type") not in ("code", "markdown"):
            continue
        source = notebook.source_of(raw)
        known = ids.get(notebook.grade_id_of(raw)) or sources.get(" ".join(source.split()))
        if known:
            before = known
        elif source.strip():
            if raw["cell_type"] == "code":
                cell = nbformat.v4.new_code_cell(source)
            else:
                cell = nbformat.v4.new_markdown_cell(quoted(source))
            following.setdefault(before, []).append(cell)
    return following


def quoted(text: str) -> str:
    """Text as a fenced block of plain text, its long lines wrapped."""
    lines = [
        part
        for line in text.expandtabs(4).splitlines()
        for part in textwrap.wrap(line, 96, replace_whitespace=False, drop_whitespace=False) or [""]
    ]
    longest = max((len(run) for run in re.findall("~+", text)), default=0)
    fence = "~" * max(4, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence])


def _verdict(task: engine.TaskResult) -> list:
    """What nbgrader reads the points from, and the learner the hint: plain text, nothing else."""
    shown = f"{task.points:g} of {task.max_points:g} points"
    if task.points >= task.max_points:
        return [nbformat.v4.new_output("stream", text=f"{shown}\n")]
    if task.points > 0:
        data = {"text/plain": f"{task.points:g}"}
        return [nbformat.v4.new_output("execute_result", data=data, execution_count=None)]
    hint = task.hint or "The hidden tests found a mistake that the check does not know."
    return [
        nbformat.v4.new_output("error", ename=shown, evalue=hint, traceback=[f"{shown}. {hint}"])
    ]
