"""A class on its way into nbgrader's gradebook: nothing lost, nothing invented, nothing run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
from nbgrader.utils import parse_utc

from sft_teach import cli
from sft_teach.errors import SFTTeachError
from sft_teach.grading import classroom, engine, pages, sandbox
from sft_teach.grading import course as courses
from sft_teach.grading.engine import Result, TaskResult
from tests.exercises.harness import ROOT

NAME = "ex03_cross_entropy"
ESSAY_ID = f"{NAME}_essay"
POINTS = {"log_softmax": 3, "cross_entropy": 3, "soft_cross_entropy": 4, "cross_entropy_grad": 4,
          "smoothed_cross_entropy": 3, "masked_cross_entropy": 3}  # fmt: skip
SCRIPT = "<script>document.title = 'taken over'</script>"
ESSAY = f"""The single mean. {SCRIPT}

[click me](javascript:document.title='taken') <img src=x onerror="document.title='taken'">

~~~~
</pre>{SCRIPT}
"""


@pytest.fixture
def course(tmp_path) -> Path:
    shutil.copyfile(ROOT / "nbgrader_config.py", tmp_path / "nbgrader_config.py")
    shutil.copytree(ROOT / "solutions" / NAME, tmp_path / "solutions" / NAME)
    return tmp_path


def answers(*wrong: str, essay: str = "The single mean.", extra: str = "") -> bytes:
    """A submission with the master's answers; the named tasks are left as they were released."""
    master = nbformat.read(ROOT / "solutions" / NAME / f"{NAME}.ipynb", 4)
    solved = {c.id: c.source for c in master.cells}
    notebook = nbformat.read(ROOT / "exercises" / NAME / f"{NAME}.ipynb", 4)
    for cell in notebook.cells:
        grader = cell.metadata.get("nbgrader", {})
        if grader.get("solution") and cell.cell_type == "code":
            if grader["grade_id"] not in wrong:
                cell.source = solved[cell.id]
        elif grader.get("solution"):
            cell.source = essay or cell.source
    if extra:
        notebook.cells.insert(3, nbformat.v4.new_markdown_cell(extra))
    return nbformat.writes(notebook).encode()


def hand_in(course: Path, student: str, content: bytes, when: str = "") -> None:
    folder = course / "submitted" / student / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.ipynb").write_bytes(content)
    (folder / "timestamp.txt").write_text(when or "2026-03-01 12:00:00")


class Stand_in:
    """Grades without a sandbox, for what comes after grading: an untouched stub is wrong."""

    asked: list[str] = []

    def __init__(self, assignment, limits=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def grade(self, submission, student=None, secret=None) -> Result:
        if student is None:  # the master itself
            return Result(NAME, [TaskResult(n, p, p) for n, p in POINTS.items()])
        Stand_in.asked.append(student)
        cells = nbformat.reads(submission.decode(), 4).cells
        source = {c.metadata.get("nbgrader", {}).get("grade_id"): c.source for c in cells}
        tasks = []
        for name, points in POINTS.items():
            right = "NotImplementedError" not in source[name]
            hint = "" if right else f"{name}: not written yet."
            tasks.append(TaskResult(name, points * right, points, hint, "secret inputs 3.14159"))
        return Result(NAME, tasks)


@pytest.fixture(scope="session")
def empty_gradebook(tmp_path_factory) -> Path:
    """nbgrader makes one in seconds; a copy takes none."""
    path = tmp_path_factory.mktemp("gradebook") / "gradebook.db"
    courses.new_gradebook(path)
    return path


@pytest.fixture
def fast(monkeypatch, empty_gradebook):
    Stand_in.asked = []
    monkeypatch.setattr(courses, "new_gradebook", lambda path: shutil.copy(empty_gradebook, path))
    monkeypatch.setattr(engine, "Grader", Stand_in)
    return Stand_in


def grades(course: Path) -> dict[str, dict[str, str]]:
    with (course / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def feedback(course: Path, student: str) -> str:
    return (course / "feedback" / student / NAME / f"{NAME}.html").read_text("utf-8")


def test_a_class_is_graded_and_the_unreadable_is_no_zero(course, fast):
    hand_in(course, "ada", answers())
    hand_in(course, "bob", answers("cross_entropy", "log_softmax"))
    hand_in(course, "cyd", answers(*POINTS, essay=""))
    hand_in(course, "dan", b"{not json")
    report = classroom.grade_class(NAME, course)
    assert set(report.graded) == {"ada", "bob", "cyd"} and set(report.failed) == {"dan"}
    rows = grades(course)
    assert (rows["ada"]["status"], rows["ada"]["score"], rows["ada"]["max_score"]) == (
        "by hand", "20.0", "24.0",
    )  # fmt: skip
    assert rows["bob"]["score"] == "14.0"
    assert (rows["cyd"]["status"], rows["cyd"]["score"]) == ("graded", "0.0")
    assert rows["dan"]["status"] == "failed" and rows["dan"]["score"] == ""
    assert "not JSON" in rows["dan"]["note"] and "dan" in str(report)


def test_what_is_done_is_skipped_and_what_changed_is_graded_again(course, fast):
    for student in ("ada", "bob"):
        hand_in(course, student, answers("cross_entropy"))
    classroom.grade_class(NAME, course)
    secret = (course / "grading" / "secret").read_text()
    report = classroom.grade_class(NAME, course)
    assert report.unchanged == ["ada", "bob"] and not report.graded
    hand_in(course, "bob", answers())
    report = classroom.grade_class(NAME, course)
    assert report.unchanged == ["ada"] and set(report.graded) == {"bob"}
    assert grades(course)["bob"]["score"] == "20.0"
    assert fast.asked == ["ada", "bob", "bob"]
    assert set(classroom.grade_class(NAME, course, again=True).graded) == {"ada", "bob"}
    master = course / "solutions" / NAME / f"{NAME}.ipynb"
    master.write_text(
        master.read_text("utf-8").replace("**Time:** about", "**Time:** roughly"), "utf-8"
    )
    assert set(classroom.grade_class(NAME, course).graded) == {"ada", "bob"}
    assert (course / "grading" / "secret").read_text() == secret
    assert (course / "grading" / "secret").stat().st_mode & 0o077 == 0


def test_points_given_by_hand_survive_grading_again(course, fast):
    from nbgrader.api import Gradebook

    hand_in(course, "ada", answers("cross_entropy"))
    classroom.grade_class(NAME, course)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "sft") as gradebook:
        grade = gradebook.find_grade(f"{NAME}_essay", NAME, NAME, "ada")
        grade.manual_score, grade.needs_manual_grade = 3.5, False
        gradebook.db.commit()
    hand_in(course, "ada", answers())
    classroom.grade_class(NAME, course)
    assert grades(course)["ada"]["score"] == "23.5"
    assert grades(course)["ada"]["status"] == "graded"  # the essay is the one that was graded
    assert courses.PENDING not in feedback(course, "ada")


def test_points_given_by_hand_do_not_pass_on_to_another_text(course, fast):
    from nbgrader.api import Gradebook

    hand_in(course, "ada", answers())
    hand_in(course, "bob", answers())
    classroom.grade_class(NAME, course)
    assert courses.PENDING in feedback(course, "ada")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "sft") as gradebook:
        for student in ("ada", "bob"):
            assert gradebook.find_comment(ESSAY_ID, NAME, NAME, student).auto_comment is None
            grade = gradebook.find_grade(ESSAY_ID, NAME, NAME, student)
            grade.manual_score, grade.needs_manual_grade = 3.5, False
            gradebook.find_comment(ESSAY_ID, NAME, NAME, student).manual_comment = "Well said."
        gradebook.db.commit()
    hand_in(course, "ada", answers(essay="Something else."))
    hand_in(course, "bob", answers(essay=""))
    report = classroom.grade_class(NAME, course)
    rows = grades(course)
    assert (rows["ada"]["score"], rows["ada"]["status"]) == ("20.0", "by hand")
    assert (rows["bob"]["score"], rows["bob"]["status"]) == ("20.0", "graded")
    assert "3.5 points were taken back" in rows["ada"]["note"] and "3.5" in str(report)
    assert "Well said." not in feedback(course, "ada")


def test_late_penalties_are_nbgraders(course, fast):
    from nbgrader.api import Gradebook

    with (course / "nbgrader_config.py").open("a") as file:
        file.write("\nc.LateSubmissionPlugin.penalty_method = 'zero'\n")
    hand_in(course, "ada", answers(), "2026-03-01 11:00:00")
    classroom.grade_class(NAME, course)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "sft") as gradebook:
        gradebook.find_assignment(NAME).duedate = datetime(2026, 3, 1, 12)
        gradebook.db.commit()
    hand_in(course, "bob", answers(), "2026-03-01 13:00:00")
    classroom.grade_class(NAME, course, again=True)
    rows = grades(course)
    assert float(rows["ada"]["late_penalty"]) == 0 and float(rows["bob"]["late_penalty"]) == 20
    assert (rows["bob"]["raw_score"], rows["bob"]["score"]) == ("20.0", "0.0")
    assert rows["ada"]["score"] == "20.0"
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "sft") as gradebook:
        gradebook.find_assignment(NAME).duedate = datetime(2026, 3, 1, 14)
        gradebook.db.commit()
    assert len(classroom.grade_class(NAME, course).graded) == 2  # another due date: other grades
    assert grades(course)["bob"]["score"] == "20.0"


def test_the_guides_lines_for_canvas_join_the_grades(course, fast, monkeypatch):
    """As docs/teaching.md prints them, on a file of Canvas's form: its second row is no student."""
    roster = course / "students.csv"
    roster.write_text("student,name,lms_id\nada,Ada L,0071\nbob,Bob R,72\nzoe,Zoe Z,73\n")
    hand_in(course, "ada", answers())
    hand_in(course, "bob", answers("cross_entropy"))
    classroom.grade_class(NAME, course, roster=roster)
    (course / "canvas.csv").write_text(
        'Student,ID,SIS User ID,Section\n"    Points Possible",,,\n'
        '"R, Bob",72,s2,A\n"L, Ada",0071,s1,A\n"Z, Zoe",73,s3,A\n"Q, Quit",74,s4,A\n'
    )
    guide = (ROOT / "docs" / "teaching.md").read_text("utf-8")
    [lines] = [b for b in re.findall(r"```python\n(.*?)```", guide, re.S) if "canvas.csv" in b]
    monkeypatch.chdir(course)
    exec(compile(lines, "docs/teaching.md", "exec"), {})
    with (course / "upload.csv").open(newline="", encoding="utf-8") as file:
        scores = {row["Student"].strip(): row["score"] for row in csv.DictReader(file)}
    assert scores == {"Points Possible": "", "R, Bob": "17.0", "L, Ada": "20.0",
                      "Z, Zoe": "", "Q, Quit": ""}  # fmt: skip


def test_the_roster_names_who_is_missing_and_admits_nobody_else(course, fast, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text("student,name,lms_id\nada,=1+1,\nzoe,Zoe,\n", encoding="utf-8")
    hand_in(course, "ada", answers())
    hand_in(course, "eve", answers())
    report = classroom.grade_class(NAME, course, roster=roster)
    assert report.missing == ["zoe"] and report.failed == {"eve": "not in the roster"}
    rows = grades(course)
    assert rows["zoe"]["status"] == "missing" and rows["zoe"]["score"] == ""
    assert rows["ada"]["name"] == "'=1+1"  # text, not a formula
    classroom.grade_class(NAME, course, roster=roster)
    assert grades(course)["ada"]["name"] == "'=1+1"
    command = [sys.executable, "-m", "nbgrader", "export"]
    subprocess.run(command, cwd=course, capture_output=True, check=True)
    exported = (course / "export.csv").read_text()
    assert "'=1+1" in exported and "zoe" not in exported
    assert grades(course)["zoe"]["status"] == "missing"  # its default would have replaced ours


def test_feedback_has_the_hint_and_neither_tests_nor_scripts(course, fast):
    handed_in = answers("cross_entropy", essay=ESSAY, extra=ESSAY)
    hand_in(course, "ada", handed_in)
    classroom.grade_class(NAME, course)
    page = feedback(course, "ada")
    assert "cross_entropy: not written yet." in page and "0 of 3 points" in page
    for secret in ("hidden.draw", "BEGIN HIDDEN", "Rubric", "3.14159"):
        assert secret not in page, secret
    for alive in (SCRIPT, "javascript:document.title='taken')\"", "<img src=x"):
        assert alive not in page, alive
    assert page.count("The single mean.") == 2
    assert '<a href="#cross_entropy__hidden">cross_entropy</a>' in page
    assert 'href="../' not in page  # nothing of the course lies beside a page
    scripts = re.findall(r"<script[^>]*>", page)
    assert len(scripts) == 2 and "mathjax" in scripts[0].lower()  # nbgrader's, for formulas
    # What was handed in is kept as it came.
    kept = course / "submitted" / "ada" / NAME / f"{NAME}.ipynb"
    assert kept.read_bytes() == handed_in


def test_one_that_nbgrader_refuses_does_not_stop_the_others(course, fast, monkeypatch):
    for student in ("ada", "bob", "cyd"):
        hand_in(course, student, answers())
    assemble = courses.assemble

    def refuse(release, submitted, master, result):
        if len(list((course / "autograded").glob("*"))) == 1:
            raise RuntimeError("disk quota exceeded")
        return assemble(release, submitted, master, result)

    monkeypatch.setattr(courses, "assemble", refuse)
    report = classroom.grade_class(NAME, course)
    assert set(report.graded) == {"ada"} and set(report.failed) == {"bob", "cyd"}
    monkeypatch.setattr(courses, "assemble", assemble)
    report = classroom.grade_class(NAME, course)
    assert set(report.graded) == {"bob", "cyd"} and report.unchanged == ["ada"]
    assert {row["status"] for row in grades(course).values()} == {"by hand"}


def test_an_interrupted_run_says_so_and_goes_on(course, fast, monkeypatch, capsys):
    for student in ("ada", "bob", "cyd"):
        hand_in(course, student, answers())
    record = classroom.Course.record

    def interrupted(self, submission, result):
        if submission.student == "bob":
            raise KeyboardInterrupt
        record(self, submission, result)

    monkeypatch.setattr(classroom.Course, "record", interrupted)
    report = classroom.grade_class(NAME, course)
    assert report.interrupted and set(report.graded) == {"ada"}
    assert "waiting for the submission at work" in capsys.readouterr().err
    monkeypatch.setattr(classroom.Course, "record", record)
    report = classroom.grade_class(NAME, course)
    assert set(report.graded) == {"bob", "cyd"} and report.unchanged == ["ada"]


CHILD = """
import sys
from pathlib import Path
from sft_teach.grading import classroom, engine
from tests.grading.test_classroom import NAME, Stand_in
engine.Grader = Stand_in
print("start", flush=True)
print(classroom.grade_class(NAME, Path(sys.argv[1])))
"""


def test_a_kill_at_any_moment_leaves_a_gradebook_that_works(course):
    students = [f"student{i}" for i in range(3)]
    for student in students:
        hand_in(course, student, answers("cross_entropy"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for delay in (0.5, 1.5, 3.0, None):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(course)], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout.readline() == "start\n"
        if delay is not None:
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
        out, err = child.communicate()
        assert delay is not None or child.returncode == 0, err
        if (course / "gradebook.db").is_file():
            with sqlite3.connect(course / "gradebook.db") as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = grades(course)
    assert {student: rows[student]["score"] for student in students} == dict.fromkeys(
        students, "17.0"
    )
    assert not list((course / "grading").glob("staged/*/*/*"))


def test_nbgraders_own_autograder_is_refused(course):
    """Also where it would be forced to: formgrader has a button for that."""
    hand_in(course, "ada", answers(extra="x"))
    ran = course / "it ran"
    kept = course / "autograded" / "ada" / NAME / f"{NAME}.ipynb"
    kept.parent.mkdir(parents=True)
    kept.write_text("graded")
    path = course / "submitted" / "ada" / NAME / f"{NAME}.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(f"open({str(ran)!r}, 'w').close()"))
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "nbgrader", "autograde", NAME, "--force", "--create"]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert done.returncode != 0 and not ran.exists()
    assert "sft-teach grade ASSIGNMENT" in done.stderr + done.stdout
    assert kept.read_text() == "graded"  # nbgrader deletes it first, once it has begun


def test_a_damaged_secret_is_not_replaced_silently(course, fast):
    hand_in(course, "ada", answers())
    (course / "grading").mkdir()
    (course / "grading" / "secret").write_text("oops")
    with pytest.raises(SFTTeachError, match="Restore it from a backup"):
        classroom.grade_class(NAME, course)
    assert (course / "grading" / "secret").read_text() == "oops"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("-2", "'-2"),
        ("+4", "'+4"),
        ("\tx", "'\tx"),
        ("a=b", "a=b"),
    ],
)
def test_no_field_is_a_formula(text, kept):
    assert courses.harmless(text) == kept


def test_quoted_text_cannot_leave_its_fence():
    text = "a\n~~~~\nb\n~~~~~~~~\nc" + "x" * 300
    lines = pages.quoted(text).splitlines()
    assert lines[0] == "~~~~~~~~~text" and lines[-1] == "~~~~~~~~~"
    assert all(len(line) <= 96 and line != "~~~~~~~~~" for line in lines[1:-1])
    assert "".join(lines[1:-1]) == text.replace("\n", "")


def test_sigterm_ends_a_run_as_ctrl_c_does(course, monkeypatch, capsys):
    def grade_class(*arguments, **options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            return classroom.Report(NAME, interrupted=True)

    monkeypatch.setattr(classroom, "grade_class", grade_class)
    monkeypatch.setattr(cli, "repository", lambda: course)
    monkeypatch.setattr(sys, "argv", ["sft-teach", "grade", NAME])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 130 and "goes on from here" in capsys.readouterr().out


# --- what is noted, without nbgrader ------------------------------------------------------------
@pytest.fixture
def noted(fast, monkeypatch, empty_gradebook):
    """Grades without nbgrader, for what is decided around it."""
    entered = {}

    def autograde(self, submission, result):
        folder = self._autograded(submission.student)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.assignment}.ipynb").write_text("graded")
        entered[submission.student] = {"status": "graded", "score": float(result.points)}

    monkeypatch.setattr(courses.Course, "_autograde", autograde)
    monkeypatch.setattr(courses.Course, "_feedback", lambda self, student: None)
    monkeypatch.setattr(
        courses.Course, "enter", lambda self: shutil.copy(empty_gradebook, self.root)
    )
    monkeypatch.setattr(courses, "_scores", lambda gradebook, assignment: entered)
    return entered


def inbox(course: Path, files: dict[str, bytes], when=(2026, 3, 1, 12, 0, 0)) -> Path:
    path = course / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, when), content)
    return path


def moodle(student: str) -> str:
    return f"{student}_1_assignsubmission_file_/x.ipynb"


def test_a_submission_of_another_assignment_is_no_zero(course, noted):
    other = json.loads(answers())
    other["metadata"]["sft_teach"]["assignment"] = "ex01_data"
    hand_in(course, "ada", json.dumps(other).encode())
    report = classroom.grade_class(NAME, course)
    assert report.failed == {"ada": f"this is ex01_data, expected {NAME}"}
    assert grades(course)["ada"]["score"] == ""


def test_an_older_submission_does_not_replace_a_newer_one(course, noted):
    files = {"ada.ipynb": answers()}
    classroom.grade_class(NAME, course, inbox(course, files, (2026, 11, 20, 12, 0, 0)))
    older = inbox(course, {"ada.ipynb": answers("log_softmax")}, (2026, 11, 15, 12, 0, 0))
    report = classroom.grade_class(NAME, course, older)
    assert set(report.kept) == {"ada"} and report.unchanged == ["ada"] and report.complete
    assert "--again" in str(report) and grades(course)["ada"]["score"] == "20.0"
    kept = course / "submitted" / "ada" / NAME / f"{NAME}.ipynb"
    assert kept.read_bytes() == answers()
    classroom.grade_class(NAME, course, older, again=True)
    assert grades(course)["ada"]["score"] == "17.0"
    assert kept.read_bytes() == answers("log_softmax")


def test_a_corrected_time_is_kept_and_an_unknown_one_does_not_overwrite_it(course, noted):
    stamp = course / "submitted" / "ada" / NAME / "timestamp.txt"
    for hour in (12, 14):
        path = inbox(course, {"ada.ipynb": answers()}, (2026, 3, 1, hour, 0, 0))
        assert set(classroom.grade_class(NAME, course, path).graded) == {"ada"}
        when = datetime(2026, 3, 1, hour).astimezone(UTC)
        assert parse_utc(stamp.read_text().strip()) == when.replace(tzinfo=None)
        assert grades(course)["ada"]["submitted"] == when.isoformat(" ")
    assert classroom.grade_class(NAME, course).unchanged == ["ada"]
    folder = course / "flat"
    folder.mkdir()
    (folder / "ada.ipynb").write_bytes(answers())
    assert classroom.grade_class(NAME, course, folder).unchanged == ["ada"]
    (folder / "ada.ipynb").write_bytes(answers("log_softmax"))
    report = classroom.grade_class(NAME, course, folder)
    assert set(report.graded) == {"ada"} and "no time of handing in is known for 1" in str(report)
    assert not stamp.exists() and grades(course)["ada"]["submitted"] == ""


def test_an_unreadable_resubmission_leaves_the_grade_and_stays_listed(course, noted):
    path = inbox(course, {moodle("ada"): answers()})
    classroom.grade_class(NAME, course, path)
    broken = inbox(course, {moodle("ada"): b"{not json"}, (2026, 3, 2, 12, 0, 0))
    for where in (broken, None):
        report = classroom.grade_class(NAME, course, where)
        assert not report.complete and "kept the earlier one" in report.failed["ada_1"]
        row = grades(course)["ada_1"]
        assert (row["status"], row["score"]) == ("graded", "20.0") and "not JSON" in row["note"]
    master = course / "solutions" / NAME / f"{NAME}.ipynb"
    master.write_text(
        master.read_text("utf-8").replace("**Time:** about", "**Time:** roughly"), "utf-8"
    )
    report = classroom.grade_class(NAME, course)  # the earlier one, graded once more
    assert set(report.graded) == set(report.failed) == {"ada_1"}
    copy = course / "grading" / "unreadable" / "ada_1" / f"{NAME}.ipynb"
    assert copy.read_bytes() == b"{not json"
    mended = inbox(course, {moodle("ada"): answers("log_softmax")}, (2026, 3, 3, 12, 0, 0))
    assert classroom.grade_class(NAME, course, mended).complete
    assert grades(course)["ada_1"]["note"] == ""
    broken = inbox(course, {moodle("ada"): b"{not json"}, (2026, 3, 4, 12, 0, 0))
    assert not classroom.grade_class(NAME, course, broken).complete
    assert classroom.grade_class(NAME, course, again=True).complete


def test_a_failure_is_not_forgotten_by_the_next_run(course, noted):
    files = {moodle("ada"): answers(), moodle("bob"): b"{not json"}
    classroom.grade_class(NAME, course, inbox(course, files))
    report = classroom.grade_class(NAME, course)
    assert set(report.failed) == {"bob_1"} and not report.complete


def test_missing_is_who_never_handed_in_and_the_roster_is_remembered(course, noted):
    roster = course / "students.csv"
    roster.write_text("student,name,lms_id\nada,Ada L,1\nbob,Bob R,2\nzoe,Zoe Z,3\n")
    first = inbox(course, {"Ada L_1_assignsubmission_file_/x.ipynb": answers()})
    report = classroom.grade_class(NAME, course, first, roster=roster)
    assert report.missing == ["bob", "zoe"]
    late = inbox(course, {"Bob R_2_assignsubmission_file_/x.ipynb": answers()})
    report = classroom.grade_class(NAME, course, late)  # without --roster
    assert report.missing == ["zoe"] and set(report.graded) == {"bob"}
    rows = grades(course)
    assert {s: row["status"] for s, row in rows.items()} == {
        "ada": "graded", "bob": "graded", "zoe": "missing",
    }  # fmt: skip
    assert rows["zoe"]["name"] == "Zoe Z" and rows["bob"]["lms_id"] == "2"


def test_a_wrong_student_can_be_taken_out(course, noted):
    files = {moodle("ada"): answers(), moodle("Ada L"): answers()}
    classroom.grade_class(NAME, course, inbox(course, files))
    wrong = next(student for student in grades(course) if student != "ada_1")
    roster = course / "students.csv"
    roster.write_text("student,name\nada_1,ada\n")
    report = classroom.grade_class(NAME, course, roster=roster)
    assert f"--forget {wrong}" in str(report) or wrong in report.failed
    classroom.forget(NAME, course, wrong)
    assert set(grades(course)) == {"ada_1"} and not (course / "submitted" / wrong).exists()
    kept = course / "grading" / "forgotten" / wrong / NAME / "submitted" / f"{NAME}.ipynb"
    assert kept.read_bytes() == answers()
    with pytest.raises(SFTTeachError, match="nothing was changed"):
        classroom.forget(NAME, course, "nobody")


def test_what_is_left_out_is_listed_and_the_run_is_not_complete(course, noted):
    hand_in(course, "ada", answers())
    (course / "submitted" / "bob" / "ex03").mkdir(parents=True)
    (course / "submitted" / "bob" / "ex03" / "x.ipynb").write_bytes(answers())
    report = classroom.grade_class(NAME, course)
    assert not report.complete and "NOT TAKEN IN  bob/ex03/x.ipynb" in str(report)


def test_a_wrong_hidden_test_is_refused_before_anybody_loses_points(course, noted, monkeypatch):
    hand_in(course, "ada", answers())
    wrong = Result(NAME, [TaskResult("log_softmax", 0.0, 3.0, error="NameError: x (line 4 of)")])
    looked = []

    def grade(self, submission, student=None, secret=None):
        looked.append(student)
        assert b"BEGIN HIDDEN" not in submission
        return wrong

    with monkeypatch.context() as patch:
        patch.setattr(Stand_in, "grade", grade)
        with pytest.raises(SFTTeachError, match="log_softmax: 0 of 3, NameError: x .line 4"):
            classroom.grade_class(NAME, course)
    assert looked == [None] and not (course / "grades.csv").exists()
    assert set(classroom.grade_class(NAME, course).graded) == {"ada"}
    assert (course / "grading" / "masters" / NAME).is_file()


def test_what_looked_odd_is_said_again_and_in_grades_csv(course, noted, monkeypatch):
    hand_in(course, "ada", answers())
    grade = Stand_in.grade

    def odd(self, submission, student=None, secret=None):
        result = grade(self, submission, student, secret)
        result.flags = ["cell x was changed"]
        return result

    monkeypatch.setattr(Stand_in, "grade", odd)
    for _ in range(2):
        assert "look at  ada: cell x was changed" in str(classroom.grade_class(NAME, course))
    assert grades(course)["ada"]["note"] == "cell x was changed"


def test_a_lost_secret_is_said_and_so_is_damage(course, noted):
    hand_in(course, "ada", answers())
    assert not classroom.grade_class(NAME, course).notes
    (course / "grading" / "secret").unlink()
    report = classroom.grade_class(NAME, course)
    assert report.notes == [courses.NEW_SECRET] and not classroom.grade_class(NAME, course).notes
    (course / "grading" / f"{NAME}.json").write_text("{oops")
    with pytest.raises(SFTTeachError, match="json is damaged"):
        classroom.grade_class(NAME, course)
    shutil.rmtree(course / "grading")
    (course / "grading").write_text("in the way")
    with pytest.raises(SFTTeachError, match="grading cannot be written"):
        classroom.grade_class(NAME, course)


def test_an_assignment_may_be_given_as_its_folder_and_a_wrong_one_lists_all(course, noted):
    hand_in(course, "ada", answers())
    report = classroom.grade_class(f"solutions/{NAME}/", course)
    assert report.assignment == NAME and set(report.graded) == {"ada"}
    with pytest.raises(SFTTeachError, match=f"there are: {NAME}"):
        classroom.grade_class("ex99", course)


def test_the_lines_of_other_assignments_are_made_anew(course, noted):
    hand_in(course, "ada", answers())
    (course / "grading").mkdir()
    other = {"bob": {"name": "B", "origin": "", "submitted": "", "failed": "no notebook"}}
    (course / "grading" / "ex01_data.json").write_text(json.dumps(other))
    (course / "grades.csv").write_text("as nbgrader exports them\n")
    classroom.grade_class(NAME, course)
    assert {s: row["assignment"] for s, row in grades(course).items()} == {
        "ada": NAME, "bob": "ex01_data",
    }  # fmt: skip


needs_sandbox = pytest.mark.skipif(bool(sandbox.available()), reason=str(sandbox.available()))


@needs_sandbox
def test_from_a_folder_of_files_to_grades_by_the_command(course, monkeypatch, capsys):
    """The whole way once, two at a time, sandbox included."""
    folder = course / "inbox"
    folder.mkdir()
    (folder / "ada.ipynb").write_bytes(answers())
    (folder / "bob.ipynb").write_bytes(answers("cross_entropy"))
    (folder / "dan.ipynb").write_bytes(b"\xff\xfe garbage")
    monkeypatch.setattr(cli, "repository", lambda: course)
    monkeypatch.setattr(sys, "argv", ["sft-teach", "grade", NAME, "--jobs", "2", "--submissions",
                                      str(folder)])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1  # one could not be graded
    out = capsys.readouterr().out
    assert "2 graded, 0 unchanged, 1 failed" in out and "dan" in out
    rows = grades(course)
    assert rows["ada"]["score"] == "20.0" and rows["bob"]["score"] == "17.0"
    assert "not written yet" in feedback(course, "bob")
    noted = json.loads((course / "grading" / f"{NAME}.json").read_text())
    assert noted["ada"]["result"]["failed"] is None and "failed" in noted["dan"]


@needs_sandbox
def test_grade_one_prints_what_a_script_can_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.ipynb"
    path.write_bytes(answers("log_softmax"))
    monkeypatch.setattr(sys, "argv", ["sft-teach", "grade-one", str(path), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert result["assignment"] == NAME and result["failed"] is None
    points = {task["name"]: (task["points"], task["max_points"]) for task in result["tasks"]}
    assert points == {n: (0 if n == "log_softmax" else p, p) for n, p in POINTS.items()}
    hints = {task["name"]: task["hint"] for task in result["tasks"]}
    assert "not written yet" in hints["log_softmax"]
