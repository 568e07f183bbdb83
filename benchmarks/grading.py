"""Grading a class: `sft-teach grade` against stock `nbgrader autograde`, on the same submissions.

    python benchmarks/grading.py            # 50 submissions of ex03, about 10 minutes on two cores

Both sides are whole commands, start-up included, on folders of their own, one after the other. Ours
also writes the feedback pages, which stock autograding does not; both must give the same points.
The submissions are the master's answers, each with another one of its six tasks left undone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NAME = "ex03_cross_entropy"
STOCK = """c = get_config()
c.CourseDirectory.course_id = "sft"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
"""


def submissions(folder: Path, count: int) -> None:
    """`count` students' notebooks in nbgrader's tree."""
    master = nbformat.read(ROOT / "solutions" / NAME / f"{NAME}.ipynb", 4)
    answers = {cell.id: cell.source for cell in master.cells}
    for number in range(count):
        notebook = nbformat.read(ROOT / "exercises" / NAME / f"{NAME}.ipynb", 4)
        written = [
            cell
            for cell in notebook.cells
            if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution")
        ]
        for position, cell in enumerate(written):
            if position != number % len(written):
                cell.source = answers[cell.id]
        target = folder / f"student{number:02d}" / NAME / f"{NAME}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(notebook, target)


def course(folder: Path, count: int, config: str) -> Path:
    shutil.copytree(ROOT / "solutions" / NAME, folder / "solutions" / NAME)
    (folder / "notebooks").mkdir()
    (folder / "nbgrader_config.py").write_text(config)
    submissions(folder / "submitted", count)
    return folder


def timed(command: list[str], folder: Path) -> float:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def ours(folder: Path, count: int, jobs: int) -> float:
    config = (ROOT / "nbgrader_config.py").read_text()
    course(folder, count, config)
    script = (
        "import sys; from pathlib import Path; from sft_teach.grading import classroom; "
        f"report = classroom.grade_class({NAME!r}, Path('.'), jobs={jobs}); "
        f"sys.exit(len(report.graded) != {count})"
    )
    return timed([sys.executable, "-c", script], folder)


def stock(folder: Path, count: int) -> float:
    course(folder, count, STOCK)
    nbgrader = [sys.executable, "-m", "nbgrader"]
    timed([*nbgrader, "generate_assignment", NAME, "--force"], folder)  # not timed: both have it
    return timed([*nbgrader, "autograde", NAME, "--create"], folder)


def points(folder: Path) -> list[float]:
    """The scores in a gradebook: both sides must have given the same."""
    with sqlite3.connect(folder / "gradebook.db") as database:
        rows = database.execute(
            "select s.student_id, sum(g.auto_score) from grade g join submitted_notebook n on "
            "g.notebook_id = n.id join submitted_assignment s on n.assignment_id = s.id "
            "group by s.student_id order by 1"
        )
        return [row[1] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--output", type=Path, default=ROOT / "results/benchmark-grading.json")
    options = parser.parse_args()
    sides = {
        "sft-teach grade --jobs 2": lambda folder: ours(folder, options.count, 2),
        "sft-teach grade --jobs 1": lambda folder: ours(folder, options.count, 1),
        "nbgrader autograde": lambda folder: stock(folder, options.count),
    }
    seconds, scores = {}, {}
    for name, run in sides.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            seconds[name] = round(run(folder), 1)
            scores[name] = points(folder)
        print(f"{name:26} {seconds[name]:7.1f} s for {options.count} submissions", flush=True)
    assert len({tuple(given) for given in scores.values()}) == 1, f"different points: {scores}"
    base = seconds["nbgrader autograde"]
    ratios = {name: round(value / base, 3) for name, value in seconds.items()}
    print("of stock nbgrader's time:", ", ".join(f"{n} {r:.2f}" for n, r in ratios.items()))
    from sft_teach import experiments

    contents = {
        "experiment": "benchmark-grading",
        "description": f"Seconds to grade {options.count} submissions of {NAME}, start-up included",
        "command": f"python benchmarks/grading.py --count {options.count}",
        "machine": experiments.machine(),
        "rows": [
            {"side": n, "submissions": options.count, "seconds": seconds[n], "ratio": ratios[n]}
            for n in seconds
        ],
    }
    options.output.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
