"""One assignment in a course's folder: what became of each submission, and nbgrader's gradebook."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat

from sft_teach import __version__, exercises
from sft_teach.errors import DataError, SFTTeachError
from sft_teach.grading import intake, notebook
from sft_teach.grading.engine import Result
from sft_teach.grading.intake import Student, Submission
from sft_teach.grading.pages import assemble

COURSE = "sft"  # as in nbgrader_config.py
COLUMNS = (
    "assignment", "student", "lms_id", "name", "status", "score", "max_score", "raw_score",
    "late_penalty", "submitted", "note",
)  # fmt: skip
NEW_SECRET = (
    "grading/secret was not there though this course has been graded before. A new one was made, "
    "and with it the hidden inputs change: put the old one back from your backup if you have it"
)
PENDING = "This written answer is not graded yet: its points are still missing."


class Course:
    """One assignment in a course's folder.

    Raises:
        DataError: there is no such assignment.
        SFTTeachError: the folder cannot be written, or what is noted in it is damaged.
    """

    def __init__(self, root: Path, assignment: str):
        self.root = Path(root).resolve()
        self.assignment = exercises.known(self.root, assignment)
        self.master = self.root / "solutions" / self.assignment / f"{self.assignment}.ipynb"
        self.read = notebook.read_master(self.master)
        self.release = nbformat.reads(exercises.release(self.root, self.assignment), as_version=4)
        self.folder = self.root / "grading"
        self.warnings: list[str] = []
        try:
            self.folder.mkdir(exist_ok=True, mode=0o700)
            if not all(os.access(folder, os.W_OK) for folder in (self.root, self.folder)):
                raise PermissionError(0, "read-only")
            self.secret = self._secret()
        except OSError as error:
            raise SFTTeachError(
                f"{self.folder} cannot be written ({error.strerror}): grading needs a course "
                "folder that you may write."
            ) from error
        self.state: dict[str, dict[str, Any]] = _load(self._path())
        self.students: list[Student] | None = None
        self.entered = False  # into the gradebook
        self._rules: dict[str, str] | None = None

    def _secret(self) -> bytes:
        """The course's secret; made once. With another one, grading again draws other inputs."""
        path = self.folder / "secret"
        graded = (self.root / "gradebook.db").is_file() or any(self.folder.glob("*.json"))
        with contextlib.suppress(FileExistsError):
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
            if graded:
                self.warnings.append(NEW_SECRET)
        try:
            return bytes.fromhex(path.read_text().strip())
        except ValueError as error:
            raise SFTTeachError(
                f"{path} is damaged: expected 64 hexadecimal digits. Restore it from a backup, or "
                "remove it: a new one is made, and hidden inputs change with it."
            ) from error

    # -- the roster --------------------------------------------------------------------------
    def use_roster(self, path: Path | None) -> list[Student] | None:
        """Read a roster and remember it; without one, the roster that was used before.

        Forgetting it once would otherwise make everybody exist twice, under made-up ids.
        """
        kept = self.folder / "roster.csv"
        if path is not None:
            self.students = intake.read_roster(path)
            if Path(path).resolve() != kept:
                _write(kept, Path(path).read_bytes())
        elif kept.is_file():
            self.students = intake.read_roster(kept)
        return self.students

    # -- what is done ------------------------------------------------------------------------
    def _path(self) -> Path:
        return self.folder / f"{self.assignment}.json"

    def _save(self) -> None:
        _write(self._path(), json.dumps(self.state, indent=1, sort_keys=True) + "\n")

    def master_digest(self) -> str:
        """Changes with what decides whether the hidden tests are right."""
        return hashlib.sha256(self.master.read_bytes() + __version__.encode()).hexdigest()

    def is_master_sound(self) -> bool:
        """Whether this very master has been seen to get full points from its own tests."""
        path = self.folder / "masters" / self.assignment
        return path.is_file() and path.read_text() == self.master_digest()

    def note_sound_master(self) -> None:
        (self.folder / "masters").mkdir(exist_ok=True)
        _write(self.folder / "masters" / self.assignment, self.master_digest())

    def digest(self, submission: Submission) -> str:
        """Changes with all that a grade follows from; the rules for lateness among it."""
        whole = hashlib.sha256()
        parts = (self.master.read_bytes(), submission.notebook or b"", self.secret)
        late = f"{submission.submitted} {self._late_rules(submission.student)}"
        for part in (*parts, __version__.encode(), late.encode()):
            whole.update(len(part).to_bytes(8, "little") + part)
        return whole.hexdigest()

    def _late_rules(self, student: str) -> str:
        """Due date, extension and penalty, as far as they are set."""
        if self._rules is None:
            config = exercises.settings(self.root)
            sections = ("LateSubmissionPlugin", "AssignLatePenalties")
            penalty = json.dumps([config.get(name, {}) for name in sections], default=str)
            self._rules = {"": f"None {penalty}"}
            with _gradebook(self.root) as gradebook:
                for assignment in gradebook.assignments if gradebook else ():
                    if assignment.name == self.assignment:
                        self._rules[""] = f"{assignment.duedate} {penalty}"
                        for handed_in in assignment.submissions:
                            self._rules[handed_in.student.id] = f"{handed_in.duedate} {penalty}"
        return self._rules.get(student, self._rules[""])

    def is_done(self, submission: Submission) -> bool:
        noted = self.state.get(submission.student, {})
        there = (self._autograded(submission.student) / f"{self.assignment}.ipynb").is_file()
        there &= (self.root / "gradebook.db").is_file()
        return there and noted.get("digest") == self.digest(submission)

    def note_failure(self, submission: Submission, reason: str) -> None:
        """Note why a submission has no grade. An earlier grade of this student stays valid."""
        self._keep_unreadable(submission)
        noted = self.state.get(submission.student, {})
        failure = self._about(submission) | {"failed": reason}
        if "result" in noted:
            noted["newer"] = failure
        else:
            self.state[submission.student] = failure | {"stranger": not submission.known}
        self._save()

    def forget_strangers(self, submission: Submission) -> None:
        """Drop a nobody whose submission turned out to be this student's, with a better roster."""
        for other, noted in list(self.state.items()):
            same = noted.get("stranger") and noted["origin"] == submission.origin
            if same and other != submission.student:
                del self.state[other]

    def settle(self, student: str) -> None:
        """Let the earlier grade stand, though something newer could not be graded."""
        self.state.get(student, {}).pop("newer", None)

    def failures(self) -> dict[str, str]:
        """Why students have no grade, or none for what they handed in last; until it is settled."""
        found = {}
        for student, noted in self.state.items():
            if "failed" in noted:
                found[student] = noted["failed"]
            elif "newer" in noted:
                found[student] = _kept_earlier(noted["newer"])
        return found

    def flags(self, student: str) -> list[str]:
        """What looked odd when a student's submission was graded."""
        return self.state.get(student, {}).get("result", {}).get("flags", [])

    def _about(self, submission: Submission) -> dict[str, Any]:
        when = submission.submitted
        return {
            "name": submission.name,
            "origin": submission.origin,
            "submitted": when.isoformat(" ") if when else "",
        }

    # -- submissions that are kept -----------------------------------------------------------
    def _submitted(self, student: str) -> Path:
        return self.root / "submitted" / student / self.assignment

    def kept(self, student: str) -> Submission | None:
        """What lies in submitted/ for a student."""
        folder = self._submitted(student)
        path, stamp = folder / f"{self.assignment}.ipynb", folder / intake.STAMP
        if any(p.is_symlink() for p in (folder, folder.parent, path)) or not path.is_file():
            return None
        when = intake.parsed(stamp.read_text("utf-8", "replace")) if stamp.is_file() else None
        name = self.state.get(student, {}).get("name", student)
        return Submission(student, name, path.read_bytes(), when, str(path.relative_to(self.root)))

    def graded_newer(self, submission: Submission) -> datetime | None:
        """When the student handed in what is graded, if that was later than this, and other."""
        noted = self.state.get(submission.student, {})
        if submission.submitted is None or "result" not in noted or not noted["submitted"]:
            return None
        graded = datetime.fromisoformat(noted["submitted"])
        kept = self.kept(submission.student)
        same = kept is not None and kept.notebook == submission.notebook
        return None if same or submission.submitted >= graded else graded

    def timed(self, submission: Submission) -> Submission:
        """The same with the time that was known for the same file before, if it has none."""
        if submission.submitted is None and submission.notebook is not None:
            kept = self.kept(submission.student)
            if kept is not None and kept.notebook == submission.notebook:
                return replace(submission, submitted=kept.submitted)
        return submission

    def _keep(self, submission: Submission) -> None:
        """A copy where nbgrader expects submissions, if they came in another form."""
        folder = self._submitted(submission.student)
        target, stamp = folder / f"{self.assignment}.ipynb", folder / intake.STAMP
        if any(p.is_symlink() for p in (folder, folder.parent, target, stamp)):
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = self.kept(submission.student)
        if kept is None or kept.notebook != submission.notebook:
            _write(target, submission.notebook)
        if kept is None or kept.submitted != submission.submitted:
            _stamp(stamp, submission.submitted)

    def _keep_unreadable(self, submission: Submission) -> None:
        """A copy of what could not be graded: the next download may not have it."""
        if submission.notebook:
            folder = self.folder / "unreadable" / submission.student
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / f"{self.assignment}.ipynb", submission.notebook)

    def forget(self, student: str) -> list[str]:
        """Take a student out of this assignment; what was handed in is moved, not deleted."""
        found = []
        if self.state.pop(student, None) is not None:
            self._save()
            found.append(str(self._path().relative_to(self.root)))
        with _gradebook(self.root) as gradebook:
            if gradebook is not None and _in_gradebook(gradebook, self.assignment, student):
                gradebook.remove_submission(self.assignment, student)
                if not gradebook.find_student(student).submissions:
                    gradebook.remove_student(student)
                found.append("gradebook.db")
        for kind in ("submitted", "autograded", "feedback"):
            folder = self.root / kind / student / self.assignment
            if intake.safe_id(student) == student and folder.is_dir() and not folder.is_symlink():
                target = self.folder / "forgotten" / student / self.assignment / kind
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, target)
                with contextlib.suppress(OSError):
                    folder.parent.rmdir()  # where it is empty
                found.append(str(folder.relative_to(self.root)))
        if not found:
            raise DataError(f"Nothing of {student!r} in {self.assignment}: nothing was changed.")
        return found

    # -- the gradebook -----------------------------------------------------------------------
    def _autograded(self, student: str) -> Path:
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
            new_gradebook(self.root / "gradebook.db")
        more = Config()
        more.CourseDirectory.db_url = f"sqlite:///{self.root / 'gradebook.db'}"
        exercises.release(self.root, self.assignment, more)
        self.entered = True

    def record(self, submission: Submission, result: Result) -> None:
        """Enter one result and write the feedback; what was noted before stays until then."""
        if not self.entered:
            self.enter()
        self._keep(submission)
        by_hand = self._by_hand(submission.student)
        self._autograde(submission, result)
        written = self._written(submission)
        result.flags += self._settle_by_hand(submission, by_hand, written)
        self._feedback(submission.student)
        noted = self.state.get(submission.student, {})
        content = hashlib.sha256(submission.notebook).hexdigest()
        # The earlier one graded once more does not settle what became of the newer one.
        newer = {"newer": noted["newer"]} if "newer" in noted else {}
        newer = newer if noted.get("notebook") == content else {}
        self.state[submission.student] = (
            self._about(submission)
            | newer
            | {
                "digest": self.digest(submission),
                "notebook": content,
                "result": result.as_dict(),
                "written": written,
            }
        )
        self._save()  # last: from now on it counts as done

    def _autograde(self, submission: Submission, result: Result) -> None:
        from nbgrader.converters import Autograde
        from nbgrader.coursedir import CourseDirectory
        from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, SaveAutoGrades

        student = submission.student
        staged = self.folder / "staged" / student / self.assignment
        staged.mkdir(parents=True, exist_ok=True)
        copy, stamp = staged / f"{self.assignment}.ipynb", staged / intake.STAMP
        assembled = assemble(self.release, submission.notebook, self.read, result)
        _write(copy, nbformat.writes(assembled))
        _stamp(stamp, submission.submitted)
        if submission.submitted is None:
            self._forget_time(student)
        config = self._config(student)
        config.CourseDirectory.submitted_directory = str(staged.parents[1])
        config.Autograde.pop("pre_convert_hook")  # see guard.py: nothing is executed here
        config.Autograde.sanitize_preprocessors = [CheckCellMetadata]
        # No Execute: what the cells are worth is known, and stands in their outputs.
        config.Autograde.autograde_preprocessors = [
            SaveAutoGrades, AssignLatePenalties, CheckCellMetadata
        ]  # fmt: skip
        _convert(Autograde(coursedir=CourseDirectory(config=config), config=config))
        for path in (copy, stamp):
            path.unlink(missing_ok=True)
        self._enter_names(student)

    def _forget_time(self, student: str) -> None:
        """nbgrader would keep the time of an earlier submission."""
        with _gradebook(self.root) as gradebook:
            if _in_gradebook(gradebook, self.assignment, student):
                gradebook.find_submission(self.assignment, student).timestamp = None
                gradebook.db.commit()

    def _enter_names(self, student: str) -> None:
        """What the roster says of a student, for nbgrader's pages and its export."""
        row = next((s for s in self.students or () if s.student == student), None)
        if row is None:
            return
        known = {"first_name": row.first_name, "last_name": row.last_name, "email": row.email}
        if not row.first_name and not row.last_name:
            known["last_name"] = row.name
        # nbgrader's export writes them as they are.
        if known := {key: harmless(value) for key, value in known.items() if value}:
            with _gradebook(self.root) as gradebook:
                gradebook.update_or_create_student(student, **known)

    def _feedback(self, student: str) -> None:
        """The student's page; it says so where a written answer is not graded yet."""
        from nbgrader.converters import GenerateFeedback
        from nbgrader.coursedir import CourseDirectory

        self._comment_pending(student, PENDING)
        config = self._config(student)
        _convert(GenerateFeedback(coursedir=CourseDirectory(config=config), config=config))
        self._comment_pending(student, None)  # formgrader's own pages come after grading by hand
        page = self.root / "feedback" / student / self.assignment / f"{self.assignment}.html"
        _write(page, readable(page.read_text("utf-8")))

    def _comment_pending(self, student: str, words: str | None) -> None:
        with _gradebook(self.root) as gradebook:
            (book,) = gradebook.find_submission(self.assignment, student).notebooks
            pending = {grade.name for grade in book.grades if grade.needs_manual_grade}
            for comment in book.comments:
                if comment.name in pending and comment.name in self.read.written:
                    comment.auto_comment = words
            gradebook.db.commit()

    # -- points by hand ----------------------------------------------------------------------
    def _written(self, submission: Submission) -> dict[str, str]:
        """Hashes of the answers that are graded by hand."""
        answers = notebook.normalise(notebook.read(submission.notebook), self.read).answers
        return {
            name: hashlib.sha256(answers[name].strip().encode()).hexdigest()
            for name in self.read.written
        }

    def _by_hand(self, student: str) -> dict[str, bool]:
        """The cells with points given by hand, and whether they wait to be looked at again."""
        with _gradebook(self.root) as gradebook:
            if not _in_gradebook(gradebook, self.assignment, student):
                return {}
            books = gradebook.find_submission(self.assignment, student).notebooks
            return {
                grade.name: grade.needs_manual_grade
                for book in books
                for grade in book.grades
                if grade.manual_score is not None
            }

    def _settle_by_hand(
        self, submission: Submission, before: dict[str, bool], written: dict[str, str]
    ) -> list[str]:
        """Points by hand stay with the answer that they were given for, and only with it.

        nbgrader keeps them whatever the new answer is, and marks them all as not graded.
        """
        if not before:
            return []
        noted = self.state.get(submission.student, {})
        same = noted.get("notebook") == hashlib.sha256(submission.notebook).hexdigest()
        flags = []
        with _gradebook(self.root) as gradebook:
            (book,) = gradebook.find_submission(self.assignment, submission.student).notebooks
            comments = {comment.name: comment for comment in book.comments}
            for grade in book.grades:
                name = grade.name
                if name not in before:
                    continue
                earlier = noted.get("written", {}).get(name)
                if name in written and earlier is not None and earlier != written[name]:
                    points = f"{grade.manual_score:g}"
                    flags.append(
                        f"{name} is another text than the one graded by hand: its {points} points "
                        "were taken back"
                    )
                    grade.manual_score = grade.extra_credit = None
                    grade.needs_manual_grade = grade.auto_score is None
                    if name in comments:
                        comments[name].manual_comment = None
                elif same or earlier is not None:
                    grade.needs_manual_grade = before[name]
            gradebook.db.commit()
        return flags

    # -- grades.csv --------------------------------------------------------------------------
    def missing(self) -> list[str]:
        """Who is in the roster and has handed in nothing so far."""
        return [s.student for s in self.students or () if s.student not in self.state]

    def write_grades(self) -> Path:
        """grades.csv: a failed or missing submission has no score, which is not the same as 0.

        All assignments' lines are made anew, from what is noted and the gradebook.
        """
        rows = []
        with _gradebook(self.root) as gradebook:
            for path in sorted({*self.folder.glob("*.json"), self._path()}):
                ours = path == self._path()
                state = self.state if ours else _load(path)
                rows += self._rows(path.stem, state, _scores(gradebook, path.stem))
        rows.sort(key=lambda row: (row["assignment"], row["student"]))
        path = self.root / "grades.csv"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows({k: harmless(str(v)) for k, v in row.items()} for row in rows)
        os.replace(temporary, path)
        return path

    def _rows(self, assignment: str, state: dict, scores: dict) -> Iterator[dict[str, Any]]:
        roster = {student.student: student for student in self.students or ()}
        for student in (*state, *(s for s in roster if s not in state)):
            noted = state.get(student)
            row = {"assignment": assignment, "student": student}
            row |= {"name": (noted or {}).get("name", "")}
            if known := roster.get(student):
                row |= {"name": known.name or row["name"], "lms_id": known.lms_id}
            if noted is None:
                row["status"] = "missing"
            elif "failed" in noted:
                row |= {"status": "failed", "note": noted["failed"]}
            elif student not in scores:
                row |= {"status": "failed", "note": "not in gradebook.db any more: grade again"}
            else:
                row |= scores[student] | {"note": "; ".join(_notes(noted))}
            yield row | {"submitted": (noted or {}).get("submitted", "")}


def _notes(noted: dict) -> list[str]:
    newer = [_kept_earlier(noted["newer"])] if "newer" in noted else []
    return newer + noted["result"].get("flags", [])


def _kept_earlier(newer: dict) -> str:
    when = f" of {newer['submitted']}" if newer["submitted"] else ""
    words = f"newer submission{when} could not be graded: {newer['failed']}"
    return f"{words} (kept the earlier one; --again settles it)"


def _scores(gradebook, assignment: str) -> dict[str, dict[str, Any]]:
    """What the gradebook says of each student; the score is what remains after the penalty."""
    from nbgrader.api import MissingEntry

    try:
        handed_in = gradebook.assignment_submissions(assignment) if gradebook else []
    except MissingEntry:
        return {}
    found = {}
    for submission in handed_in:
        penalty = submission.late_submission_penalty or 0.0
        found[submission.student.id] = {
            "status": "by hand" if submission.needs_manual_grade else "graded",
            "score": round(max(0.0, submission.score - penalty), 4),
            "max_score": round(submission.max_score, 4),
            "raw_score": round(submission.score, 4),
            "late_penalty": round(penalty, 4),
        }
    return found


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236)."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def readable(page: str) -> str:
    """nbgrader's page with the tasks' names in its list, and without links into the course."""
    page = re.sub(r'(<a href="#(\w+)__hidden">)Test cell</a>', r"\1\2</a>", page)
    return re.sub(r'<a href="\.\./[^"]*">(.*?)</a>', r"\1", page, flags=re.S)


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        state = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        state = None
    if not isinstance(state, dict) or not all(isinstance(noted, dict) for noted in state.values()):
        raise SFTTeachError(
            f"{path} is damaged. Restore it from a backup, or remove it: all submissions of "
            f"{path.stem} are then graded again; points given by hand are in gradebook.db."
        )
    return state


def _write(path: Path, content: str | bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


def _stamp(path: Path, when: datetime | None) -> None:
    """A timestamp.txt as nbgrader reads it, in UTC; none where no time is known."""
    if when is None:
        path.unlink(missing_ok=True)
    else:
        _write(path, f"{when:%Y-%m-%d %H:%M:%S.%f} UTC\n")


@contextlib.contextmanager
def _gradebook(root: Path) -> Iterator[Any]:
    """nbgrader's gradebook, or None where there is none yet."""
    from nbgrader.api import Gradebook

    if not (root / "gradebook.db").is_file():
        yield None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Gradebook(f"sqlite:///{root / 'gradebook.db'}", COURSE) as gradebook:
            yield gradebook


def _in_gradebook(gradebook, assignment: str, student: str) -> bool:
    from nbgrader.api import MissingEntry

    try:
        gradebook.find_submission(assignment, student)
    except MissingEntry:
        return False
    return True


def new_gradebook(path: Path) -> None:
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
