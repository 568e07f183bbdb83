"""Submissions come in many forms; nothing of them is unpacked, followed or lost."""

from __future__ import annotations

import io
import os
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sft_teach.grading import intake
from sft_teach.grading.intake import IntakeError, collect, safe_id

NAME = "ex03_cross_entropy"
NOTEBOOK = b'{"cells": []}'


def make_zip(path: Path, files: dict[str, bytes], when=(2026, 1, 31, 12, 0, 0)) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, when), content, zipfile.ZIP_DEFLATED)
    return path


def by_student(found) -> dict:
    assert len({s.student for s in found}) == len(found)
    return {s.student: s for s in found}


@pytest.fixture
def roster(tmp_path) -> Path:
    path = tmp_path / "roster.csv"
    path.write_text(
        "student,name,lms_id\njdoe,Jane Doe,4711\nbjork,Björk Guðmundsdóttir,\nkim,Kim Lee,\n"
        "kim2,Kim Lee,99\n",
        encoding="utf-8",
    )
    return path


def test_nbgraders_tree_with_its_time_stamp(tmp_path):
    for student in ("ada", "bob"):
        folder = tmp_path / student / NAME
        folder.mkdir(parents=True)
        (folder / f"{NAME}.ipynb").write_bytes(NOTEBOOK)
    (tmp_path / "ada" / NAME / "timestamp.txt").write_text("2026-01-31 12:00:01.5 Europe/Vienna")
    (tmp_path / "bob" / "another").mkdir()
    found = by_student(collect(tmp_path, NAME))
    assert found.keys() == {"ada", "bob"}
    assert found["ada"].notebook == NOTEBOOK and not found["ada"].problem
    assert found["ada"].submitted == datetime(2026, 1, 31, 11, 0, 1, 500000, UTC)


def test_a_flat_folder(tmp_path):
    (tmp_path / "ada.ipynb").write_bytes(NOTEBOOK)
    (tmp_path / "Bob Ross.ipynb").write_bytes(NOTEBOOK)
    (tmp_path / "notes.txt").write_text("x")
    names = {s.name: s.student for s in collect(tmp_path, NAME)}
    assert names["ada"] == "ada" and names["Bob Ross"].startswith("Bob_Ross-")
    assert len(names) == 2


@pytest.mark.parametrize("form", ["{}_assignsubmission_file_/{}", "{}_assignsubmission_file_{}"])
def test_moodle(tmp_path, roster, form):
    files = {
        form.format("Jane Doe_4711", f"{NAME}.ipynb"): NOTEBOOK,
        form.format("Björk Guðmundsdóttir_12", "my work.ipynb"): NOTEBOOK,
        form.format("Mallory_13", f"{NAME}.ipynb"): NOTEBOOK,
        form.format("Kim Lee_98", f"{NAME}.ipynb"): NOTEBOOK,
        form.format("Kim Lee_99", f"{NAME}.ipynb"): NOTEBOOK,
        "Jane Doe_4711_assignsubmission_onlinetext_/onlinetext.html": b"<p>hello</p>",
    }
    found = by_student(collect(make_zip(tmp_path / "all.zip", files), NAME, roster))
    assert found["jdoe"].notebook == NOTEBOOK and found["jdoe"].name == "Jane Doe"
    assert found["jdoe"].submitted == datetime(2026, 1, 31, 12).astimezone(UTC)
    assert found["bjork"].notebook == NOTEBOOK
    assert found["kim2"].notebook == NOTEBOOK  # by number, where two have one name
    problems = {s.name: s.problem for s in found.values() if s.problem}
    assert problems == {"Mallory": "not in the roster",
                        "Kim Lee": "2 students of the roster have this name"}  # fmt: skip


def test_canvas(tmp_path, roster):
    files = {
        "doejane_4711_9001_ex03_cross_entropy-1.ipynb": NOTEBOOK,
        "gudmundsdottirbjork_LATE_5_9002_answer.ipynb": NOTEBOOK,
        "leekim_99_9003_report.pdf": b"%PDF",
    }
    found = by_student(collect(make_zip(tmp_path / "all.zip", files), NAME, roster))
    assert found["jdoe"].notebook == NOTEBOOK
    assert (
        found["kim2"].problem == "no notebook among what was handed in (leekim_99_9003_report.pdf)"
    )
    without = by_student(collect(tmp_path / "all.zip", NAME))
    assert "doejane_4711" in without and len(without) == 3


def test_two_notebooks_that_cannot_be_told_apart_are_a_problem(tmp_path):
    files = {f"doejane_4711_90{i}_{NAME}.ipynb": NOTEBOOK for i in (8, 9)}
    (found,) = collect(make_zip(tmp_path / "all.zip", files), NAME)
    assert found.notebook is None and found.problem.startswith("2 notebooks")
    assert f"doejane_4711_909_{NAME}.ipynb" in found.problem


def test_the_newest_counts_where_the_roster_shows_that_two_are_one(tmp_path, roster):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for hour, text in ((9, b"new"), (8, b"old")):
            name = f"{'Jane Doe' if hour == 9 else 'jdoe'}_{hour}_assignsubmission_file_/x.ipynb"
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, hour, 0, 0)), text)
    (found,) = collect(path, NAME, roster)
    assert found.student == "jdoe" and found.notebook == b"new"


def test_two_notebooks_one_of_them_named_for_the_assignment(tmp_path):
    form = "Jane Doe_4711_assignsubmission_file_/{}"
    files = {form.format(f"{NAME} (1).ipynb"): NOTEBOOK, form.format("scratch.ipynb"): b"no"}
    (found,) = collect(make_zip(tmp_path / "all.zip", files), NAME)
    assert found.notebook == NOTEBOOK and not found.problem


@pytest.mark.parametrize(
    "name",
    ["../../etc/x.ipynb", "/etc/x.ipynb", "a/../../x.ipynb", "..\\..\\x.ipynb", "C:\\x.ipynb"],
)
def test_a_path_out_of_the_folder_refuses_the_zip(tmp_path, name):
    with pytest.raises(IntakeError, match="out of its folder"):
        collect(make_zip(tmp_path / "all.zip", {name: NOTEBOOK}), NAME)


def test_a_zip_bomb_is_refused_without_unpacking(tmp_path):
    bomb = make_zip(tmp_path / "all.zip", {"doejane_1_2_x.ipynb": b"\0" * (30 * 2**20)})
    assert bomb.stat().st_size < 200_000
    with pytest.raises(IntakeError, match="as zip bombs do"):
        collect(bomb, NAME)


def test_a_header_that_lies_about_the_size_does_not_fill_the_memory(tmp_path):
    path = make_zip(tmp_path / "all.zip", {"doejane_1_2_x.ipynb": b"\0" * (30 * 2**20)})
    data = bytearray(path.read_bytes())
    true = (30 * 2**20).to_bytes(4, "little")
    while (at := data.find(true)) >= 0:  # in the local and in the central header
        data[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    (found,) = collect(path, NAME)
    assert found.notebook is None or len(found.notebook) <= 1000


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_FILES", 3)
    files = {f"ada_{i}_1_x.ipynb": NOTEBOOK for i in range(4)}
    with pytest.raises(IntakeError, match="3 files"):
        collect(make_zip(tmp_path / "all.zip", files), NAME)


def test_a_large_notebook_is_a_problem_of_one_student(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_NOTEBOOK", 2**20)
    (tmp_path / "ada.ipynb").write_bytes(os.urandom(2**20 + 1))
    (tmp_path / "bob.ipynb").write_bytes(NOTEBOOK)
    found = by_student(collect(tmp_path, NAME))
    assert "larger than" in found["ada"].problem and found["bob"].notebook == NOTEBOOK


def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ada.ipynb").symlink_to(tmp_path / "secret.txt")
    (found,) = collect(folder, NAME)
    assert found.notebook is None and "links are not followed" in found.problem
    entry = zipfile.ZipInfo("doejane_1_2_x.ipynb")
    entry.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    (tmp_path / "link.zip").write_bytes(buffer.getvalue())
    (found,) = collect(tmp_path / "link.zip", NAME)
    assert found.notebook is None and "links are not followed" in found.problem


def test_a_linked_folder_of_a_student_is_not_entered(tmp_path):
    other = tmp_path / "other" / NAME
    other.mkdir(parents=True)
    (other / f"{NAME}.ipynb").write_bytes(b"of another student")
    submitted = tmp_path / "submitted" / "ada"
    submitted.mkdir(parents=True)
    (submitted / NAME).symlink_to(other)
    (found,) = collect(tmp_path / "submitted", NAME)
    assert found.student == "ada" and found.notebook is None and "link" in found.problem


def test_a_file_that_is_no_zip_says_so(tmp_path):
    (tmp_path / "all.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(IntakeError, match="no zip that can be read"):
        collect(tmp_path / "all.zip", NAME)
    with pytest.raises(IntakeError, match="neither a folder nor a zip"):
        collect(tmp_path / "missing", NAME)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntakeError, match="No submissions of ex03"):
        collect(tmp_path / "empty", NAME)


@pytest.mark.parametrize(
    "name",
    ["../../x", "=cmd()", "-rf", ".hidden", "a/b", "a\\b", "a\0b", "", "你好", "a" * 300, "a b"],
)
def test_a_students_id_is_safe_as_a_folder_and_in_a_spreadsheet(name):
    student = safe_id(name)
    assert 0 < len(student) < 80 and student[0] not in ".-=+@" and ".." not in student.split("_")
    assert set(student) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert student == safe_id(name) and safe_id("a b") != safe_id("a_b") != safe_id("a/b")


def test_a_roster_that_cannot_be_used_names_the_line(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("student,name\nada,Ada\n../x,X\n")
    with pytest.raises(IntakeError, match="line 3"):
        intake.read_roster(path)
    path.write_text("student,name\nada,Ada\nada,Ada\n")
    with pytest.raises(IntakeError, match="occurs twice"):
        intake.read_roster(path)
    path.write_text("who\nada\n")
    with pytest.raises(IntakeError, match="student,name,lms_id"):
        intake.read_roster(path)


def test_a_roster_as_a_spreadsheet_writes_it(tmp_path):
    path = tmp_path / "roster.csv"
    for mark in ";\t":
        lines = ("student, first_name,last_name,email", "ada,Ada,Lovelace,ada@example.org", ",,,")
        path.write_text("\n".join(lines).replace(",", mark), encoding="utf-8-sig")
        (ada,) = intake.read_roster(path)
        assert (ada.student, ada.name, ada.email) == ("ada", "Ada Lovelace", "ada@example.org")
    path.write_text("student,lms_id\nada,7\nbob,7\n")
    with pytest.raises(IntakeError, match="line 3: lms_id 7 is also that of ada"):
        intake.read_roster(path)
    path.write_bytes("student,name\nada,Zo\xeb\n".encode("latin-1"))
    with pytest.raises(IntakeError, match="save it .* as CSV UTF-8"):
        intake.read_roster(path)
    path.write_text("id;name\nada;Ada\n")
    with pytest.raises(IntakeError, match="its first line is 'id;name'"):
        intake.read_roster(path)


# --- nothing is dropped without a word ----------------------------------------------------------
def tree(*students: str, top: str = "") -> dict[str, bytes]:
    return {f"{top}{student}/{NAME}/{NAME}.ipynb": student.encode() for student in students}


@pytest.mark.parametrize("top", ["", "submitted/"])
def test_nbgraders_tree_in_a_zip(tmp_path, top):
    files = tree("ada", "bob", top=top)
    files[f"{top}ada/{NAME}/timestamp.txt"] = b"2026-01-30 08:00:00 UTC"
    files[f"{top}ada/ex01_data/ex01_data.ipynb"] = b"of another assignment"
    found = intake.take_in(make_zip(tmp_path / "all.zip", files), NAME, others=["ex01_data"])
    theirs = by_student(found.submissions)
    assert {s: theirs[s].notebook for s in theirs} == {"ada": b"ada", "bob": b"bob"}
    assert theirs["ada"].submitted == datetime(2026, 1, 30, 8, tzinfo=UTC)
    assert not found.left_out


def test_a_notebook_in_no_form_is_left_out_by_name(tmp_path):
    misnamed = ("bob/ex03/x.ipynb", f"cyd/{NAME.title()}/x.ipynb", "dan.ipynb")
    for name in (*tree("ada"), *misnamed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(NOTEBOOK)
    found = intake.take_in(tmp_path, NAME)
    assert [s.student for s in found.submissions] == ["ada"]
    assert set(found.left_out) == set(misnamed)
    assert all(f"STUDENT/{NAME}" in why for why in found.left_out.values())


def test_a_folder_beside_a_flat_folders_files_is_left_out_by_name(tmp_path):
    (tmp_path / "ada").mkdir()
    for name in ("ada/x.ipynb", "LATE_cyd.ipynb", f"{NAME} (1).ipynb", "ex01_data.ipynb"):
        (tmp_path / name).write_bytes(NOTEBOOK)
    found = intake.take_in(tmp_path, NAME, others=["ex01_data"])
    assert [s.student for s in found.submissions] == ["cyd"]
    assert set(found.left_out) == {"ada/x.ipynb", f"{NAME} (1).ipynb", "ex01_data.ipynb"}
    assert "STUDENT.ipynb" in found.left_out["ex01_data.ipynb"]


def test_a_flat_folder_in_a_zip(tmp_path):
    path = make_zip(tmp_path / "all.zip", {"class/ada.ipynb": b"1", "class/bob.ipynb": b"2"})
    assert by_student(collect(path, NAME)).keys() == {"ada", "bob"}
    files = {"ada/x.ipynb": b"1", "bob/x.ipynb": b"2", "cyd.ipynb": b"3"}
    found = intake.take_in(make_zip(tmp_path / "all.zip", files), NAME)
    assert len(found.left_out) == 2 and [s.student for s in found.submissions] == ["cyd"]


def test_one_file_is_no_class(tmp_path):
    (tmp_path / "ada.ipynb").write_bytes(NOTEBOOK)
    with pytest.raises(IntakeError, match="grade-one"):
        collect(tmp_path / "ada.ipynb", NAME)


# --- times --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-03-01 22:30:00", 22),
        ("2026-03-01 22:30:00 UTC", 22),
        ("2026-03-01 23:30:00+01:00", 22),
        ("2026-03-01T23:30:00+01:00", 22),
        ("2026-03-01 23:30:00.000000 +0100", 22),
        ("2026-03-01 23:30:00 Europe/Vienna", 22),
        ("2026-03-01 22:30:00.250000 UTC\n", 22),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_time_stamp_is_read_as_nbgrader_reads_it_or_better(text, hour):
    when = intake.parsed(text)
    assert (when and (when.hour, when.utcoffset().seconds)) == (hour and (hour, 0))


def test_a_zips_local_time_becomes_utc(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    try:
        path = make_zip(tmp_path / "all.zip", {"doejane_1_2_x.ipynb": NOTEBOOK})
        (found,) = collect(path, NAME)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.submitted == datetime(2026, 1, 31, 11, tzinfo=UTC)


def test_the_date_of_a_copy_on_the_disk_is_no_time_of_handing_in(tmp_path):
    (tmp_path / "ada.ipynb").write_bytes(NOTEBOOK)
    (found,) = collect(tmp_path, NAME)
    assert found.submitted is None


# --- whose it is --------------------------------------------------------------------------------
def test_the_name_decides_and_a_contradicting_number_is_a_problem(tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text("student,name,lms_id\nada,Ada Lovelace,100\nbob,Bob Ross,\ncyd,,300\n")
    form = "{}_assignsubmission_file_/a.ipynb"
    whose = ("Bob Ross_100", "LOVELACE, Áda_7", "Robert_100", "Sid_300")
    files = {form.format(name): name.encode() for name in whose}
    found = {s.name: s for s in collect(make_zip(tmp_path / "all.zip", files), NAME, roster)}
    assert found["Ada Lovelace"].student == "ada" and not found["Ada Lovelace"].problem
    assert "the name is that of bob, the number that of ada" in found["Bob Ross"].problem
    assert found["Robert"].problem.startswith(intake.STRANGER) and not found["Robert"].known
    assert found["Sid"].student == "cyd"
    canvas = make_zip(tmp_path / "canvas.zip", {"bobby_100_1_a.ipynb": NOTEBOOK})
    assert collect(canvas, NAME, roster)[0].student == "ada"  # Canvas's numbers stay the same
