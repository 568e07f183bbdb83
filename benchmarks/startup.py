"""How soon the course answers: `import sft_teach`, and notebook 00's first classifier.

    python benchmarks/startup.py                     # about 2 minutes on two cores

The import is timed in new processes, beside an empty `python -c pass`. Notebook 00 is run as "Run
All Cells" does, from a kernel that is not started yet, on a warm disk (it has run once before),
with the defaults that a learner has: packaged data at the quick scale.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import common
import nbformat

NOTEBOOK = common.ROOT / "notebooks" / "00_welcome.ipynb"
FIRST_CLASSIFIER = "train"  # the cell's id


def process(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def first_accuracy() -> tuple[float, str]:
    """Seconds from starting a kernel until a trained classifier's accuracy stands there.

    Returns them with the line that says it. (The simplest rival's accuracy comes earlier.)
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": NOTEBOOK.parent}}
    client = NotebookClient(notebook, timeout=300, resources=where)
    started = time.perf_counter()
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
            text = "".join(o.get("text", "") for o in cell.get("outputs", []))
            if cell["id"] == FIRST_CLASSIFIER:
                [line] = [line for line in text.splitlines() if "accuracy" in line]
                return time.perf_counter() - started, line
    sys.exit(f"Notebook 00 has no cell {FIRST_CLASSIFIER!r}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ |= {"SFT_TEACH_SOURCE": "packaged", "SFT_TEACH_SCALE": "quick"}
    process("import sft_teach")
    empty, imported = [], []
    for _ in range(options.rounds):
        empty.append(process("pass"))
        imported.append(process("import sft_teach"))
    extra = [b - a for a, b in zip(empty, imported, strict=True)]
    first_accuracy()
    seconds, said = [], ""
    for _ in range(options.rounds):
        took, said = first_accuracy()
        seconds.append(took)
    rows = [
        {"what": "a process that imports sft_teach", "seconds": common.spread(imported)},
        {"what": "import sft_teach, beyond an empty process", "seconds": common.spread(extra)},
        {"what": "notebook 00, first accuracy", "seconds": common.spread(seconds, 1), "said": said},
    ]
    for row in rows:
        print(row, flush=True)
    common.write("startup", "Seconds until the course answers", rows, options.output)


if __name__ == "__main__":
    main()
