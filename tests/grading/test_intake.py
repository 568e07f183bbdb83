"""Submissions come in many forms; nothing of them is unpacked, followed or lost."""

from __future__ import annotations

import io
import os
import zipfile
from datetime import datetime
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
    assert found["ada"].submitted == datetime(2026, 1, 31, 12, 0, 1, 500000)


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
    assert found["jdoe"].submitted == datetime(2026, 1, 31, 12)
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
