"""The notebooks keep the course's conventions; nbval compares their outputs beside this."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sft_teach import runner

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work|Users|var|mnt|opt)/|[A-Z]:\\\\")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def codes(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list:
    return [(cell.id, output) for cell in codes(notebook) for output in cell.outputs]


def shown(output) -> str:
    """All text of an output: its stream, its HTML, its plain form."""
    return output.get("text", "") + "".join(map(str, output.get("data", {}).values()))


def test_the_course_is_complete():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{number}" for number in range(7)]


def test_it_is_a_valid_notebook_of_bearable_size(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_500_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata, "widget state of one run does not belong in it"


def test_cell_ids_are_words(notebook):
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z][\w-]*[a-z][\w-]*", cell.id), cell.id
        assert not re.fullmatch(r"[0-9a-f]{8}(-.*)?", cell.id), f"{cell.id} is a random id"
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


def test_it_was_run_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in codes(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_hold_neither_errors_nor_warnings(notebook):
    for cell, output in outputs(notebook):
        assert output.output_type != "error", cell
        assert output.get("name") != "stderr", f"{cell} writes to stderr: {shown(output)[:200]}"


def test_a_widget_without_its_kernel_leaves_text_not_an_error(notebook):
    for cell, output in outputs(notebook):
        assert runner.WIDGET not in output.get("data", {}), f"{cell}: store with run --in-place"


def test_at_most_a_third_of_the_cells_is_not_compared(path, notebook):
    ignored = [c.id for c in codes(notebook) if IGNORED in c.metadata.get("tags", [])]
    assert 3 * len(ignored) <= len(codes(notebook)), ignored
    if path.stem.startswith("03"):
        assert not ignored, "this notebook is deterministic: every output is compared"


def test_it_opens_with_goals_and_minutes_and_ends_with_recap_and_questions(notebook):
    first = notebook.cells[0].source
    assert re.search(r"\*\*(After this page you can|You will be able to)\*\*", first)
    assert re.search(r"\*\*Time:?\*\* .*\b(minutes|hour)\b", first) and "measured" in first.lower()
    cells = {cell.id: cell.source for cell in notebook.cells}
    closing = ["recap", "question-1", "question-2", "question-3"]
    assert [name for name in cells if name in closing] == closing
    assert cells["recap"].startswith("## Recap")
    for name in closing[1:]:
        question, answer = cells[name].split("<details><summary>Answer</summary>")
        options, explained = (
            {letter for letter in "abcd" if f"({letter})" in text} for text in (question, answer)
        )
        assert options == explained and len(options) >= 3, name


def test_explorers_stand_beside_static_figures():
    """Who reads without a kernel sees what an explorer draws."""
    found = []
    for path in NOTEBOOKS:
        cells = codes(nbformat.read(path, as_version=4))
        for i, cell in enumerate(cells):
            if re.search(r"widgets\.\w+_explorer\(", cell.source):
                found.append(cell.id)
                near = cells[max(i - 1, 0) : i + 3]
                drawn = [shown(o) for other in near if other is not cell for o in other.outputs]
                assert any("<img" in html or "<span" in html for html in drawn), cell.id
    assert len(found) >= 6, found


def test_code_cells_fit_on_a_glance(notebook):
    lines = {cell.id: len(cell.source.splitlines()) for cell in codes(notebook)}
    assert max(lines.values()) <= 20, lines
    long = {cell: n for cell, n in lines.items() if n > 15}
    assert 10 * len(long) <= len(lines), f"15 lines is the rule: {long}"


def test_nothing_of_this_machine_is_left_in_it(notebook):
    for cell in notebook.cells:
        texts = [cell.source, *(shown(output) for output in cell.get("outputs", []))]
        for text in texts:
            text = re.sub(r"base64,[\w+/=]+", "", text)
            assert not MACHINE_PATH.search(text), f"{cell.id}: an absolute path"


def test_every_image_has_an_alternative_text(notebook):
    for cell, output in outputs(notebook):
        assert "image/png" not in output.get("data", {}), f"{cell}: show figures with plots.show"
        for image in re.findall(r"<img\b[^>]*>", shown(output)):
            alt = re.search(r"""\balt=(?:"([^"]*)"|'([^']*)')""", image)
            assert alt and (alt[1] or alt[2] or "").strip(), f"{cell}: {image[:80]}"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert "![](" not in cell.source, f"{cell.id}: an image without alternative text"


def test_links_between_notebooks_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", cell.source):
                assert (path.parent / link).exists(), f"{cell.id}: {link}"


@pytest.mark.parametrize("number", ["05", "06"])
def test_official_splits_run_from_a_mirror(number, repository):
    """The same notebook on the data sets' own splits; other data, so outputs are not compared."""
    mirror = os.environ.get("SFT_TEACH_MIRROR")
    if not mirror:
        pytest.skip("SFT_TEACH_MIRROR names no directory of data sets laid out by hub id")
    book = next((path for path in NOTEBOOKS if path.stem.startswith(number)), None)
    assert book, f"there is no notebook {number}"
    switches = {"SFT_TEACH_SOURCE": mirror, "SFT_TEACH_SCALE": "quick"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", str(book)]
    done = subprocess.run(
        command, cwd=repository, env=os.environ | switches, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_notebooks_run_as_exported_scripts(path, notebook, tmp_path):
    """On a machine without Jupyter's pages: all of them compile, and the fastest one runs."""
    from nbconvert import PythonExporter

    source, _ = PythonExporter().from_notebook_node(notebook)
    compile(source, path.name, "exec")
    assert "get_ipython" not in source
    if path.stem.startswith("03"):
        script = tmp_path / "script.py"
        script.write_text(source, encoding="utf-8")
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "[figure: " in done.stdout and " | " in done.stdout  # figures and tables in words
