"""Run the course without a browser: a kernel and a page per notebook, and the seconds."""

from __future__ import annotations

import copy
import html as html_escapes
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from traitlets.config import Config

from sft_teach import environment, progress
from sft_teach.errors import SFTTeachError

# Other users of this machine cannot listen to the kernel, which else says so on the terminal.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "<p><em>A control stands here when this cell runs in JupyterLab.</em></p>"


@dataclass
class Run:
    """One notebook's run: how long, how much memory, and where it failed if it did."""

    path: Path
    notebook: nbformat.NotebookNode
    seconds: float = 0.0
    peak_mb: float | None = None
    slowest: tuple[float, str] = (0.0, "")
    problem: str = ""

    @property
    def title(self) -> str:
        for cell in self.notebook.cells:
            found = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE)
            if cell.cell_type == "markdown" and found:
                return found[1].strip()
        return self.path.stem


def run_all(
    paths: Sequence[Path], *, html: Path | None = None, in_place: bool = False, bar: bool = True
) -> bool:
    """Run notebooks one after the other and print a table of seconds.

    Args:
        paths: the notebooks. One that fails does not stop the others.
        html: folder for one page per notebook and an index.html.
        in_place: store the outputs in the notebooks, as they are committed: at the quick scale,
            from the packaged source; a notebook that fails or writes to stderr is left as it was.
            The seconds go to results/notebook_seconds.json.
        bar: show a progress bar over the notebooks.

    Returns:
        True if all of them ran.

    Raises:
        SFTTeachError: there is no such notebook, or none at all; or `in_place` where nothing can be
            stored.
    """
    if not paths:
        raise SFTTeachError("No notebooks to run: expected them in the folder notebooks/.")
    for path in paths:
        if not Path(path).is_file():
            raise SFTTeachError(f"There is no notebook {path}. They are in the folder notebooks/.")
    if in_place:
        from sft_teach import experiments

        for folder in {environment.results_dir(), *(Path(path).parent for path in paths)}:
            experiments.require_writable(folder, "run without --in-place, which stores nothing")
        os.environ |= {"SFT_TEACH_SCALE": "quick", "SFT_TEACH_SOURCE": "packaged"}
    where = environment.source_name(environment.source())
    print(f"scale {environment.scale()}, source {where}, {len(paths)} notebooks")
    runs = []
    with progress.bar(len(paths), "notebooks", show=bar, unit="notebook") as shown:
        for path in paths:
            runs.append(execute(Path(path), shown.set_postfix_str))
            if html:
                write_page(runs[-1], Path(html))
            if in_place and not runs[-1].problem:
                store(runs[-1])
            shown.update()
    if html:
        print(f"pages: {write_index(runs, Path(html))}")
    if in_place:
        record(runs)
    print(as_text(runs))
    return not any(run.problem for run in runs)


def execute(path: Path, on_cell=lambda text: None) -> Run:
    """Run one notebook in a fresh kernel of this Python, from its own folder.

    Args:
        path: the notebook; the file is not changed.
        on_cell: called with a line of text at the start of each cell.
    """
    run = Run(path, nbformat.read(path, as_version=4))
    client = NotebookClient(
        run.notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent.resolve())}},
        record_timing=False,
        store_widget_state=False,
        config=ENCRYPTED,
    )
    begin = time.perf_counter()
    try:
        with client.setup_kernel():
            for number, cell in enumerate(run.notebook.cells):
                on_cell(f"{path.stem} cell {number + 1}/{len(run.notebook.cells)}")
                start = time.perf_counter()
                client.execute_cell(cell, number)
                run.slowest = max(run.slowest, (time.perf_counter() - start, cell.id))
            run.peak_mb = _peak_mb(client)
    except (CellExecutionError, DeadKernelError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        run.problem = f"cell {cell.id}: {_plain(lines[-1]) if lines else type(error).__name__}"
    run.seconds = time.perf_counter() - begin
    return run


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _peak_mb(client: NotebookClient) -> float | None:
    """The kernel's largest resident memory so far, in MB, where the system keeps that number."""
    status = Path(f"/proc/{getattr(client.km.provisioner, 'pid', 0)}/status")
    if not status.is_file():
        return None
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak[1]) / 1000 if peak else None


def as_text(runs: Sequence[Run]) -> str:
    """The table of seconds, with the slowest cell of each notebook and what failed."""
    width = max(len(run.path.stem) for run in runs)
    lines = [f"{'notebook':{width}}  seconds  peak MB  slowest cell"]
    for run in runs:
        memory = "" if run.peak_mb is None else f"{run.peak_mb:.0f}"
        slowest = f"{run.slowest[1]} ({run.slowest[0]:.1f} s)"
        lines.append(f"{run.path.stem:{width}}  {run.seconds:7.1f}  {memory:>7}  {slowest}")
        if run.problem:
            lines.append(f"{'':{width}}  FAILED in {run.problem}")
    lines.append(f"{'all':{width}}  {sum(run.seconds for run in runs):7.1f}")
    return "\n".join(lines)


def store(run: Run) -> None:
    """Write a run's outputs into its notebook, without what changes from run to run."""
    for cell in run.notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                run.problem = f"cell {cell.id}: it writes to stderr, so its outputs are not stored"
                return
    still(run.notebook)
    run.notebook.metadata.pop("widgets", None)
    run.notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(run.notebook, run.path)


def still(notebook: nbformat.NotebookNode) -> None:
    """Leave of each widget what reads well without its kernel, which else shows as an error."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None):
                output["data"].setdefault("text/html", WIDGET_NOTE)


def record(runs: Sequence[Run]) -> Path:
    """Keep the seconds in results/notebook_seconds.json, beside the speed of this machine.

    `sft-teach doctor` scales them to the learner's machine; README shows them.
    """
    from sft_teach import doctor, experiments

    path = environment.results_dir() / "notebook_seconds.json"
    rows = {}
    if path.is_file():
        rows = {row["notebook"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    for run in runs:
        if not run.problem:
            memory = None if run.peak_mb is None else round(run.peak_mb)
            rows[run.path.stem] = {
                "notebook": run.path.stem,
                "title": run.title,
                "seconds": round(run.seconds, 1),
                "peak_mb": memory,
            }
    contents = {
        "experiment": "notebook_seconds",
        "description": "Seconds per notebook, scale quick, packaged source",
        "command": "sft-teach run --in-place",
        "machine": experiments.machine(),
        "tokens_per_second": round(doctor.training_speed()),
        "rows": [rows[name] for name in sorted(rows)],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return path


# --- pages --------------------------------------------------------------------------------------
def write_page(run: Run, folder: Path) -> Path:
    """Write a notebook with its outputs as one HTML page."""
    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(run.notebook)
    still(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    resources = {"metadata": {"name": run.title}}
    page, _ = HTMLExporter().from_notebook_node(notebook, resources=resources)
    page = re.sub(r'(href="[\w./-]*?)\.ipynb(["#])', r"\1.html\2", page)
    path = folder / f"{run.path.stem}.html"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


CODE = re.compile(r"(```.*?```|~~~.*?~~~|`[^`\n]+`)", re.DOTALL)
FORMULA = re.compile(r"(?<!\\)\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<line>[^$\n]+?)\$", re.DOTALL)
MARKDOWN = str.maketrans({mark: f"&#{ord(mark)};" for mark in "*_`~[]|$\\"})


def with_mathml(markdown: str) -> str:
    """Markdown with its TeX formulas as MathML, which browsers draw without the internet.

    A formula that cannot be converted stays, for MathJax.
    """
    from latex2mathml.converter import convert

    def formula(found: re.Match) -> str:
        display = "block" if found["block"] else "inline"
        try:
            mathml = convert(found["block"] or found["line"], display=display)
        except Exception:  # the converter has many kinds of errors; TeX is the fallback for all
            return found[0]
        return mathml.replace("\n", " ").translate(MARKDOWN)

    parts = CODE.split(markdown)  # every second one is code
    parts[::2] = [FORMULA.sub(formula, part) for part in parts[::2]]
    return "".join(parts)


def write_index(runs: Sequence[Run], folder: Path) -> Path:
    """Write index.html, which leads to the pages of `runs`."""
    rows = "\n".join(
        f'<tr><td><a href="{run.path.stem}.html">{html_escapes.escape(run.title)}</a></td>'
        f"<td>{run.seconds:.0f} s</td><td>{html_escapes.escape(run.problem) or 'ran'}</td></tr>"
        for run in runs
    )
    path = folder / "index.html"
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Supervised fine-tuning of language models</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto }}
td, th {{ text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #ddd }}
</style></head><body>
<h1>Supervised fine-tuning of language models</h1>
<p>Scale: {environment.scale()}. Source of data and weights:
{html_escapes.escape(environment.source_name(environment.source()))}.</p>
<table><thead><tr><th>Notebook</th><th>Took</th><th>State</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
""",
        encoding="utf-8",
    )
    return path
