"""Which student handed in which notebook: nbgrader's tree, a flat folder, an LMS's zip download.

    submitted/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb      nbgrader's tree
    folder/NAME.ipynb                                  a flat folder
    Jane Doe_4711_assignsubmission_file_/x.ipynb       Moodle, a zip or what was unpacked from it
    doejane_4711_98765_x.ipynb, doejane_LATE_4711_…    Canvas, likewise

Each form may lie in a folder or in a zip. Nothing is unpacked to disk and no link is followed:
files are read into memory up to a limit. What cannot be read is a submission with a `problem`, so
that it is listed and never graded as 0; a notebook that is in no form is listed as left out.

Times are UTC throughout, as in nbgrader's gradebook. A file in a folder has none: its date on the
disk is that of the last copy, not of handing in.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from sft_teach.errors import SFTTeachError

MAX_NOTEBOOK = 20 * 2**20  # bytes; the largest exercise is 40 kB
MAX_FILES = 20_000  # in one zip
MAX_ZIP = 2 * 2**30  # bytes unpacked, all together
LINK = "it is a link, and links are not followed"
MAX_RATIO = 200  # of one entry: text packs 3 to 20 times, a bomb 1,000 times
STAMP = "timestamp.txt"
STRANGER = "not in the roster"


class IntakeError(SFTTeachError):
    """Submissions that cannot be taken in as they lie."""


@dataclass(frozen=True)
class Submission:
    """What one student handed in.

    Attributes:
        student: the gradebook's id; letters, digits, dot, underscore and dash only.
        name: as the LMS or the roster writes it.
        notebook: the file's bytes, or None where there is a problem.
        submitted: when, in UTC, if that is known.
        origin: where it was found.
        problem: why it cannot be graded, in one line, or "".
        known: False if the roster does not say whose it is.
    """

    student: str
    name: str
    notebook: bytes | None
    submitted: datetime | None
    origin: str
    problem: str = ""
    known: bool = True


@dataclass
class Intake:
    """What was found: submissions, one per student, and for each other notebook why not."""

    submissions: list[Submission] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """One file that was handed in, before it is known whose it is."""

    path: PurePosixPath
    content: bytes | None
    time: datetime | None
    problem: str = ""

    @property
    def is_notebook(self) -> bool:
        return self.path.suffix == ".ipynb"


@dataclass(frozen=True)
class Student:
    """A row of the roster."""

    student: str
    name: str = ""
    lms_id: str = ""
    first_name: str = ""
    last_name: str = ""
    email: str = ""


@dataclass(frozen=True)
class _Class:
    """What is needed to say whose a file is."""

    assignment: str
    students: list[Student] | None


def collect(
    where: str | Path, assignment: str, roster: str | Path | None = None
) -> list[Submission]:
    """The submissions of `take_in`."""
    students = None if roster is None else read_roster(roster)
    return take_in(where, assignment, students).submissions


def take_in(
    where: str | Path,
    assignment: str,
    students: list[Student] | None = None,
    others: Collection[str] = (),
) -> Intake:
    """All submissions to an assignment, one per student, sorted by student.

    Args:
        where: a folder or a zip, in one of the forms above.
        assignment: its name.
        students: the roster. With one, whoever is not in it becomes a problem, and nobody is made
            up.
        others: names of the course's other assignments, whose folders are passed over.

    Raises:
        IntakeError: there is nothing to take in, or the zip is damaged or dangerous.
    """
    where = Path(where)
    others = set(others) - {assignment}
    if where.is_file() and not zipfile.is_zipfile(where) and where.suffix != ".zip":
        raise IntakeError(
            f"{where} is one file: expected a folder or a zip. One notebook is graded by "
            "`sft-teach grade-one`."
        )
    if where.is_file():
        files = [file for file in _zip_files(where) if not others & set(file.path.parts[:-1])]
        files = _without_top(files)
    elif where.is_dir():
        files = list(_folder_files(where, assignment, others))
    else:
        raise IntakeError(
            f"No submissions: {where} is neither a folder nor a zip. Say where they are with "
            "--submissions."
        )
    course = _Class(assignment, students)
    form = _form(files, assignment)
    found = form(files, course, others)
    if not found.submissions and not found.left_out:
        raise IntakeError(
            f"No submissions of {assignment} in {where}. Expected STUDENT/{assignment}/"
            f"{assignment}.ipynb, NAME.ipynb, or a Moodle or Canvas download (a zip)."
        )
    found.submissions = sorted(_one_each(found.submissions), key=lambda s: (s.student, s.origin))
    return found


# --- the forms ----------------------------------------------------------------------------------
def _form(files: list[_File], assignment: str) -> Callable[..., Intake]:
    if any(_tree_student(file.path, assignment) for file in files):
        return _from_tree
    if any(_lms_name(file.path) for file in files):
        return _from_lms
    return _from_flat


def _tree_student(path: PurePosixPath, assignment: str) -> str | None:
    """STUDENT, if a path is .../STUDENT/ASSIGNMENT or below it."""
    folders = path.parts[:-1]
    if any(_lms_part(part) for part in folders):
        return None  # what a student packed into folders, as an LMS hands it on
    parts = path.parts if path.name == assignment else folders
    return parts[parts.index(assignment) - 1] if assignment in parts[1:] else None


def _from_tree(files: list[_File], course: _Class, others: set[str]) -> Intake:
    """nbgrader's STUDENT/ASSIGNMENT, with its timestamp.txt."""
    found, owned = Intake(), {}
    for file in files:
        student = _tree_student(file.path, course.assignment)
        if student is not None:
            owned.setdefault(student, []).append(file)
        elif file.is_notebook or file.problem == LINK:
            found.left_out[str(file.path)] = file.problem or (
                f"it is not in a folder STUDENT/{course.assignment}"
            )
    for student, theirs in owned.items():
        stamp = next((file for file in theirs if file.path.name == STAMP), None)
        when = parsed((stamp.content or b"").decode("utf-8", "replace")) if stamp else None
        handed_in = [file for file in theirs if file is not stamp]
        submission = _submission(student, "", handed_in, course, tree=True)
        found.submissions.append(replace(submission, submitted=when or submission.submitted))
    return found


def parsed(text: str) -> datetime | None:
    """The time in a timestamp.txt, in UTC; like nbgrader, without a zone it is taken for UTC."""
    from dateutil.parser import ParserError, parse
    from dateutil.tz import gettz

    text = text.strip()
    head, _, zone = text.rpartition(" ")
    named = gettz(zone) if head.count(" ") and re.fullmatch(r"[A-Za-z_/]+", zone) else None
    try:
        when = parse(head if named else text)
    except (ParserError, OverflowError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=named or UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return None


def _from_lms(files: list[_File], course: _Class, others: set[str]) -> Intake:
    """Files under the names that Moodle or Canvas gave them, put together by student."""
    found, owned = Intake(), {}
    for file in files:
        owner = _lms_name(file.path)
        if owner is None:
            if file.is_notebook:
                found.left_out[str(file.path)] = "its name is not one that Moodle or Canvas gives"
        elif "_onlinetext" not in "/".join(file.path.parts):
            owned.setdefault(owner, []).append(file)
    found.submissions = [
        _submission(name, number, theirs, course, moodle=moodle)
        for (name, number, moodle), theirs in owned.items()
    ]
    return found


_MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<rest>.*)")
_CANVAS = re.compile(r"(?P<name>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<rest>.+)")


def _lms_part(part: str) -> tuple[str, str, bool] | None:
    if found := _MOODLE.fullmatch(part):
        return found["name"], found["id"], True
    found = _CANVAS.fullmatch(part)
    return (found["name"], found["id"], False) if found else None


def _lms_name(path: PurePosixPath) -> tuple[str, str, bool] | None:
    """(name, number, whether by Moodle) of the student in a path, if an LMS wrote it."""
    return next((owner for part in path.parts if (owner := _lms_part(part))), None)


def _from_flat(files: list[_File], course: _Class, others: set[str]) -> Intake:
    """NAME.ipynb, side by side."""
    found = Intake()
    for file in files:
        if not file.is_notebook or file.path.name.startswith("."):
            continue
        name = file.path.stem.removeprefix("LATE_")
        if len(file.path.parts) > 1:
            why = f"expected NAME.ipynb or STUDENT/{course.assignment}/{course.assignment}.ipynb"
            found.left_out[str(file.path)] = why
        elif any(_only_names(name, known) for known in {course.assignment, *others}):
            why = "its name says the assignment, not the student: rename it to STUDENT.ipynb"
            found.left_out[str(file.path)] = why
        else:
            found.submissions.append(_submission(name, "", [file], course))
    return found


def _only_names(name: str, assignment: str) -> bool:
    """Whether a file's name is an assignment's and perhaps the number of a copy."""
    rest = folded(name).removeprefix(folded(assignment))
    return rest != folded(name) and re.fullmatch(r"(copy)?\d*", rest) is not None


def _without_top(files: list[_File]) -> list[_File]:
    """A zip's files without the one folder around them, if that holds a flat folder."""
    tops = {file.path.parts[0] for file in files}
    below = [file for file in files if len(file.path.parts) == 2 and file.is_notebook]
    if len(tops) != 1 or len(below) < 2 or _lms_part(tops.pop()):
        return files
    return [
        replace(file, path=PurePosixPath(*file.path.parts[1:] or file.path.parts)) for file in files
    ]


# --- files --------------------------------------------------------------------------------------
def _folder_files(folder: Path, assignment: str, others: set[str]) -> Iterator[_File]:
    """The files of a folder; a folder of the assignment's name counts, for it may be empty."""
    for path in sorted(folder.rglob("*")):
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        if ".ipynb_checkpoints" in inside.parts or others & set(inside.parts):
            continue
        if path.is_symlink():
            yield _File(inside, None, None, LINK)
        elif any(parent.is_symlink() for parent in _between(path, folder)):
            continue
        elif path.is_file():
            limit = MAX_NOTEBOOK if path.suffix == ".ipynb" else 200 if path.name == STAMP else -1
            if limit < 0:
                yield _File(inside, None, None)
                continue
            with path.open("rb") as file:
                yield _bounded(inside, file.read(limit + 1), None)
        elif path.name == assignment:
            yield _File(inside, None, None)


def _between(path: Path, folder: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]


def _bounded(path: PurePosixPath, content: bytes, when: datetime | None) -> _File:
    if len(content) > MAX_NOTEBOOK:
        return _File(path, None, when, f"larger than {MAX_NOTEBOOK // 2**20} MB")
    return _File(path, content, when)


def _zip_files(path: Path) -> Iterator[_File]:
    """The files of a zip, read and never unpacked; a dangerous zip is refused as a whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _refuse_bombs(path, entries)
            for entry in entries:
                name = PurePosixPath(entry.filename.replace("\\", "/"))
                if not {"__MACOSX", ".ipynb_checkpoints"} & set(name.parts):
                    yield _zip_file(archive, entry, name)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise IntakeError(f"{path.name} is no zip that can be read: {error}.") from error


def _refuse_bombs(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_ZIP:
        raise IntakeError(
            f"{path.name} would unpack to more than {MAX_FILES:,} files or {MAX_ZIP // 2**30} GB; "
            "nothing was taken from it."
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in parts[0]:
            raise IntakeError(
                f"{path.name} holds a path out of its folder ({entry.filename[:80]!r}); nothing "
                "was taken from it."
            )
        large = entry.file_size > 2**20
        if large and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise IntakeError(
                f"{path.name}: {entry.filename[:80]!r} unpacks to more than {MAX_RATIO} times its "
                "size, as zip bombs do; nothing was taken from it."
            )


def _zip_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: PurePosixPath) -> _File:
    try:
        when = datetime(*entry.date_time).astimezone(UTC)  # a zip has the local time
    except (ValueError, OverflowError):
        when = None
    if stat.S_ISLNK(entry.external_attr >> 16):
        return _File(path, None, when, LINK)
    if path.suffix != ".ipynb" and path.name != STAMP:
        return _File(path, None, when)
    try:
        with archive.open(entry) as file:  # the header's size may lie: read no more than the limit
            return _bounded(path, file.read(MAX_NOTEBOOK + 1), when)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        return _File(path, None, when, f"cannot be unpacked: {error}")


# --- whose it is --------------------------------------------------------------------------------
def _submission(
    name: str,
    number: str,
    files: list[_File],
    course: _Class,
    *,
    tree: bool = False,
    moodle: bool = False,
) -> Submission:
    """The one notebook among a student's files, and the student's id."""
    assignment = course.assignment
    student, shown, problem = _identify(name, number, course.students, tree, moodle)
    notebooks = [file for file in files if file.is_notebook]
    named = [file for file in notebooks if assignment in file.path.name]
    chosen = named if len(named) == 1 else notebooks
    times = [file.time for file in files if file.time]
    origin = str(files[0].path) if files else name
    known = not problem
    if problem:
        pass
    elif not chosen:
        folder = [file.problem for file in files if file.path.name == assignment and file.problem]
        handed_in = [file.path.name[:60] for file in files if file.path.name != assignment]
        words = ", ".join(handed_in[:3]) or "nothing"
        problem = folder[0] if folder else f"no notebook among what was handed in ({words})"
    elif len(chosen) > 1:
        words = ", ".join(file.path.name[:60] for file in chosen[:3])
        problem = f"{len(chosen)} notebooks, none or several of them named {assignment} ({words})"
    else:
        origin, problem = str(chosen[0].path), chosen[0].problem
    return Submission(
        student=student,
        name=shown,
        notebook=None if problem else chosen[0].content,
        submitted=max(times) if times else None,
        origin=origin,
        problem=problem,
        known=known,
    )


def _identify(
    name: str, number: str, students: list[Student] | None, tree: bool, moodle: bool
) -> tuple[str, str, str]:
    """(student, name, problem). The name decides; the number where the name does not.

    Moodle's numbers are new in each assignment: one of them may be another student's in the roster.
    """
    if students is None:
        if tree and safe_id(name) == name:
            return name, name, ""
        return safe_id(f"{name}_{number}" if number else name), name, ""
    numbered = [s for s in students if number and s.lms_id == number]
    named = [s for s in students if s.student == name]
    named = named or [s for s in students if s.name and folded(name) in _orders(s.name)]
    both = [s for s in named if s in numbered]
    problem = ""
    if len(named) == 1 and numbered and not both:
        problem = f"the name is that of {named[0].student}, the number that of "
        problem += f"{numbered[0].student} (Moodle's change: leave lms_id empty)"
    elif len(named) > 1 and not both:
        problem = f"{len(named)} students of the roster have this name"
    elif not named and numbered and moodle and numbered[0].name:
        problem = f"{STRANGER}; only its number is that of {numbered[0].student}"
    elif not named and not numbered:
        problem = STRANGER
    if problem:
        return safe_id(name), name, problem
    match = (both or named or numbered)[0]
    return match.student, match.name or name, ""


_LETTERS = str.maketrans({"ð": "d", "đ": "d", "ø": "o", "ł": "l", "æ": "ae", "œ": "oe", "þ": "th",
                          "ı": "i"})  # fmt: skip


def folded(name: str) -> str:
    """A name without accents, case and anything but letters and digits."""
    plain = unicodedata.normalize("NFKD", name).casefold().translate(_LETTERS)
    return "".join(c for c in plain if c.isalnum() and not unicodedata.combining(c))


def _orders(name: str) -> set[str]:
    """A full name folded, also with the last name first, as Canvas writes it."""
    words = name.replace(",", " ").split()
    return {folded(" ".join(words[i:] + words[:i])) for i in range(len(words))}


def safe_id(name: str) -> str:
    """A name as a folder's name: no separators, no leading dot, dash or formula sign.

    Names that lose something get a short hash, so that two of them never share a folder.
    """
    kept = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", kept).strip("._-")[:60]
    if kept == name and kept:
        return kept
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{kept or 'student'}-{digest}"


def _one_each(found: Iterable[Submission]) -> Iterator[Submission]:
    """The newest of a student's submissions; if the newest cannot be told, a problem."""
    groups: dict[str, list[Submission]] = {}
    for submission in found:
        groups.setdefault(submission.student, []).append(submission)
    for theirs in groups.values():
        if len(theirs) == 1:
            yield theirs[0]
            continue
        theirs.sort(key=lambda s: s.submitted or datetime.min.replace(tzinfo=UTC))
        newest, before = theirs[-1], theirs[-2]
        if newest.submitted == before.submitted or any(s.submitted is None for s in theirs):
            files = ", ".join(s.origin[-60:] for s in theirs[:3])
            words = f"handed in {len(theirs)} times, and the newest cannot be told ({files})"
            newest = replace(newest, notebook=None, problem=words)
        yield newest


# --- the roster ---------------------------------------------------------------------------------
OPTIONAL = ("name", "lms_id", "first_name", "last_name", "email")


def read_roster(path: str | Path) -> list[Student]:
    """The students of a CSV: a column `student` and any of OPTIONAL, in any order.

    Columns may be separated by commas, semicolons or tabs, as spreadsheets write them.

    Raises:
        IntakeError: the column `student` is missing, an id is not safe as a folder's name, or an id
            or a number of the LMS occurs twice.
    """
    path = Path(path)
    rows = _rows(path)
    students: list[Student] = []
    for line, row in enumerate(rows, start=2):
        student = (row["student"] or "").strip()
        if not student and not any(isinstance(v, str) and v.strip() for v in row.values()):
            continue
        if safe_id(student) != student:
            raise IntakeError(
                f"{path}, line {line}: {student!r} cannot be a folder's name. Use letters, digits, "
                "dot, underscore and dash."
            )
        more = {key: (row.get(key) or "").strip() for key in OPTIONAL}
        more["name"] = more["name"] or f"{more['first_name']} {more['last_name']}".strip()
        for other in students:
            if student == other.student:
                raise IntakeError(f"{path}, line {line}: {student!r} occurs twice.")
            if more["lms_id"] and more["lms_id"] == other.lms_id:
                words = f"lms_id {more['lms_id']} is also that of {other.student}"
                raise IntakeError(f"{path}, line {line}: {words}.")
        students.append(Student(student, **more))
    return students


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise IntakeError(f"The roster {path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise IntakeError(
            f"The roster {path} is not UTF-8 (byte {error.start:,}): save it from the spreadsheet "
            "as CSV UTF-8."
        ) from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or ()]
    rows = list(reader)
    if not rows or "student" not in reader.fieldnames:
        raise IntakeError(
            f"The roster {path} has no students: expected a first line `student,name,lms_id` and "
            f"one line per student; its first line is {first.strip()[:80]!r}."
        )
    return rows
