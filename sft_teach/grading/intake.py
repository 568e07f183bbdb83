"""Which student handed in which notebook: nbgrader's tree, a flat folder, an LMS's zip download.

    submitted/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb      nbgrader's tree
    folder/NAME.ipynb                                  a flat folder
    Jane Doe_4711_assignsubmission_file_/x.ipynb       Moodle, a zip or what was unpacked from it
    doejane_4711_98765_x.ipynb, doejane_LATE_4711_…    Canvas, likewise

Nothing is unpacked to disk and no link is followed: files are read into memory up to a limit. What
cannot be read is a submission with a `problem`, so that it is listed and never graded as 0.
"""

from __future__ import annotations

import csv
import hashlib
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from sft_teach.errors import SFTTeachError

MAX_NOTEBOOK = 20 * 2**20  # bytes; the largest exercise is 40 kB
MAX_FILES = 20_000  # in one zip
MAX_ZIP = 2 * 2**30  # bytes unpacked, all together
LINK = "it is a link, and links are not followed"
MAX_RATIO = 200  # of one entry: text packs 3 to 20 times, a bomb 1,000 times


class IntakeError(SFTTeachError):
    """Submissions that cannot be taken in as they lie."""


@dataclass(frozen=True)
class Submission:
    """What one student handed in.

    Attributes:
        student: the gradebook's id; letters, digits, dot, underscore and dash only.
        name: as the LMS or the roster writes it.
        notebook: the file's bytes, or None where there is a problem.
        submitted: when, in local time, if that is known.
        origin: where it was found.
        problem: why it cannot be graded, in one line, or "".
    """

    student: str
    name: str
    notebook: bytes | None
    submitted: datetime | None
    origin: str
    problem: str = ""


@dataclass(frozen=True)
class _File:
    """One file that was handed in, before it is known whose it is."""

    path: PurePosixPath
    content: bytes | None
    time: datetime | None
    problem: str = ""


@dataclass(frozen=True)
class Student:
    """A row of the roster."""

    student: str
    name: str
    lms_id: str


def collect(
    where: str | Path, assignment: str, roster: str | Path | None = None
) -> list[Submission]:
    """All submissions to an assignment, one per student, sorted by student.

    Args:
        where: a folder or a zip, in one of the forms above.
        assignment: its name.
        roster: a CSV with the columns `student` (the gradebook's id), `name` and, for LMS files,
            `lms_id` (the number in their names); the last two may be empty. With a roster, whoever
            is not in it becomes a problem, and nobody is made up.

    Raises:
        IntakeError: there is nothing to take in, or the zip is damaged or dangerous.
    """
    where = Path(where)
    students = None if roster is None else read_roster(roster)
    if where.is_file():
        found = _from_lms(list(_zip_files(where)), assignment, students)
    elif where.is_dir():
        found = _from_folder(where, assignment, students)
    else:
        raise IntakeError(f"No submissions: {where} is neither a folder nor a zip.")
    if not found:
        raise IntakeError(
            f"No submissions of {assignment} in {where}. Expected STUDENT/{assignment}/"
            f"{assignment}.ipynb, NAME.ipynb, or a Moodle or Canvas download (a zip)."
        )
    return sorted(_one_each(found), key=lambda s: (s.student, s.origin))


# --- the forms ----------------------------------------------------------------------------------
def _from_folder(where: Path, assignment: str, students) -> list[Submission]:
    folders = sorted(where.glob(f"*/{assignment}"))
    if folders:
        return [_from_tree(folder, assignment, students) for folder in folders if folder.is_dir()]
    files = list(_folder_files(where))
    if any(_lms_name(file.path) for file in files):
        return _from_lms(files, assignment, students)
    flat = [file for file in files if file.path.suffix == ".ipynb" and len(file.path.parts) == 1]
    return [_submission(file.path.stem, "", [file], assignment, students) for file in flat]


def _from_tree(folder: Path, assignment: str, students) -> Submission:
    """nbgrader's STUDENT/ASSIGNMENT, with its timestamp.txt."""
    if folder.is_symlink() or folder.parent.is_symlink():
        files = [_File(PurePosixPath("folder.ipynb"), None, None, LINK)]
    else:
        files = [file for file in _folder_files(folder) if file.path.suffix == ".ipynb"]
    submission = _submission(folder.parent.name, "", files, assignment, students, tree=True)
    stamp = folder / "timestamp.txt"
    if stamp.is_file() and not stamp.is_symlink():
        when = _parsed(stamp.read_bytes()[:200].decode("utf-8", "replace").strip())
        submission = replace(submission, submitted=when or submission.submitted)
    return submission


def _parsed(text: str) -> datetime | None:
    from dateutil.parser import ParserError, parse

    try:
        when = parse(text, ignoretz=text.count(" ") > 1)  # "2026-01-31 12:00:00 Europe/Vienna"
    except (ParserError, OverflowError):
        try:
            when = parse(" ".join(text.split()[:2]))
        except (ParserError, OverflowError):
            return None
    return when.astimezone().replace(tzinfo=None) if when.tzinfo else when


def _from_lms(files: list[_File], assignment: str, students) -> list[Submission]:
    """Files under the names that Moodle or Canvas gave them, put together by student."""
    owned: dict[tuple[str, str], list[_File]] = {}
    strays = []
    for file in files:
        owner = _lms_name(file.path)
        if owner is None:
            strays.append(file)
        elif "_onlinetext" not in file.path.parts[0]:
            owned.setdefault(owner, []).append(file)
    found = [
        _submission(name, number, theirs, assignment, students)
        for (name, number), theirs in owned.items()
    ]
    for file in strays:  # as in a flat folder: NAME.ipynb
        if file.path.suffix == ".ipynb" and not file.path.name.startswith("."):
            found.append(_submission(file.path.stem, "", [file], assignment, students))
    return found


_MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<rest>.*)")
_CANVAS = re.compile(r"(?P<name>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<rest>.+)")


def _lms_name(path: PurePosixPath) -> tuple[str, str] | None:
    """(name, number) of the student in a path's first part, if an LMS wrote it."""
    for part in path.parts:
        if found := _MOODLE.fullmatch(part) or _CANVAS.fullmatch(part):
            return found["name"], found["id"]
    return None


# --- files --------------------------------------------------------------------------------------
def _folder_files(folder: Path) -> Iterator[_File]:
    for path in sorted(folder.rglob("*")):
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        if ".ipynb_checkpoints" in inside.parts:
            continue
        if path.is_symlink():
            yield _File(inside, None, None, LINK)
        elif path.is_file() and all(not parent.is_symlink() for parent in _between(path, folder)):
            when = datetime.fromtimestamp(path.stat().st_mtime).replace(microsecond=0)
            if path.suffix != ".ipynb":
                yield _File(inside, None, when)
                continue
            with path.open("rb") as file:
                yield _bounded(inside, file.read(MAX_NOTEBOOK + 1), when)


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
                yield _zip_file(archive, entry)
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


def _zip_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _File:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    try:
        when = datetime(*entry.date_time)
    except ValueError:
        when = None
    if stat.S_ISLNK(entry.external_attr >> 16):
        return _File(path, None, when, LINK)
    if path.suffix != ".ipynb":
        return _File(path, None, when)
    try:
        with archive.open(entry) as file:  # the header's size may lie: read no more than the limit
            return _bounded(path, file.read(MAX_NOTEBOOK + 1), when)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        return _File(path, None, when, f"cannot be unpacked: {error}")


# --- whose it is --------------------------------------------------------------------------------
def _submission(
    name: str, number: str, files: list[_File], assignment: str, students, tree: bool = False
) -> Submission:
    """The one notebook among a student's files, and the student's id."""
    student, shown, problem = _identify(name, number, students, tree)
    notebooks = [file for file in files if file.path.suffix == ".ipynb"]
    named = [file for file in notebooks if assignment in file.path.name]
    chosen = named if len(named) == 1 else notebooks
    times = [file.time for file in files if file.time]
    origin = str(files[0].path) if files else name
    if problem:
        pass
    elif not chosen:
        handed_in = ", ".join(file.path.name[:60] for file in files[:3]) or "nothing"
        problem = f"no notebook among what was handed in ({handed_in})"
    elif len(chosen) > 1:
        problem = f"{len(chosen)} notebooks, none or several of them named {assignment}"
    else:
        origin, problem = str(chosen[0].path), chosen[0].problem
    return Submission(
        student=student,
        name=shown,
        notebook=None if problem else chosen[0].content,
        submitted=max(times) if times else None,
        origin=origin,
        problem=problem,
    )


def _identify(name: str, number: str, students, tree: bool) -> tuple[str, str, str]:
    """(student, name, problem)."""
    if students is None:
        if tree and safe_id(name) == name:
            return name, name, ""
        return safe_id(f"{name}_{number}" if number else name), name, ""
    by_number = [s for s in students if number and s.lms_id == number]
    by_id = [s for s in students if s.student == name]
    by_name = [s for s in students if s.name and folded(name) in _orders(s.name)]
    for matches in (by_number, by_id, by_name):
        if len(matches) == 1:
            return matches[0].student, matches[0].name or name, ""
        if matches:
            return safe_id(name), name, f"{len(matches)} students of the roster have this name"
    return safe_id(name), name, "not in the roster"


def folded(name: str) -> str:
    """A name without accents, case and anything but letters and digits."""
    plain = unicodedata.normalize("NFKD", name)
    return "".join(c for c in plain.casefold() if c.isalnum() and not unicodedata.combining(c))


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
        theirs.sort(key=lambda s: s.submitted or datetime.min)
        newest, before = theirs[-1], theirs[-2]
        if newest.submitted == before.submitted:
            words = f"handed in {len(theirs)} times, and the newest cannot be told"
            newest = replace(newest, notebook=None, problem=words)
        yield newest


def read_roster(path: str | Path) -> list[Student]:
    """The students of a CSV with the columns student, name, lms_id (any order, UTF-8).

    Raises:
        IntakeError: a column `student` is missing, an id is not safe as a folder's name, or occurs
            twice.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise IntakeError(f"The roster {path} cannot be read: {error}.") from error
    if not rows or "student" not in rows[0]:
        raise IntakeError(
            f"The roster {path} has no students: expected a first line `student,name,lms_id` and "
            "one line per student."
        )
    students = []
    for line, row in enumerate(rows, start=2):
        student = (row["student"] or "").strip()
        if safe_id(student) != student:
            raise IntakeError(
                f"{path}, line {line}: {student!r} cannot be a folder's name. Use letters, digits, "
                "dot, underscore and dash."
            )
        if any(student == other.student for other in students):
            raise IntakeError(f"{path}, line {line}: {student!r} occurs twice.")
        name, number = ((row.get(key) or "").strip() for key in ("name", "lms_id"))
        students.append(Student(student, name, number))
    return students
