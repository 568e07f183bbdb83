"""What the benchmarks share: the same data and models for both sides, medians, a results file."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sft_teach import batching, data, experiments, models
from sft_teach.errors import SFTTeachError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """One row of a table: which texts, how long, how many updates."""

    name: str
    data: str
    max_length: int
    batch_size: int
    updates: int

    @property
    def n(self) -> int:
        return self.batch_size * self.updates


JOBS = [
    Job("SST-5, sentences", "sst5", 128, 32, 30),
    Job("IMDB, 256 tokens", "imdb", 256, 16, 10),
    Job("IMDB, 512 tokens", "imdb", 512, 16, 6),
]


def dataset(name: str) -> str:
    """`name`, or "rt5" where the source does not have SST-5's official splits; rows name it."""
    try:
        data.load(name, show=False)
    except SFTTeachError:
        if name != "sst5":
            raise
        return "rt5"
    return name


def load(name: str):
    return data.load(dataset(name), show=False)


def ids_of(job: Job, n: int, split: str = "train", seed: int = 0):
    """Token ids and labels of `n` examples, truncated; and the names of the classes."""
    part = data.subset(load(job.data)[split], n, seed)
    ids = batching.tokenize(part["text"], models.load_tokenizer(), job.max_length)
    return ids, [int(label) for label in part["label"]], data.label_names(part)


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median with the smallest and the largest."""
    keys = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, digits) for key, value in keys.items()}


def own_process(script: str, *arguments: str) -> Any:
    """Run a benchmark's part in a process of its own; its last line is JSON."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def write(name: str, description: str, rows: list[dict], path: Path | None = None, **more) -> None:
    """results/benchmark-NAME.json, in the form that every table of results has."""
    contents = {
        "experiment": f"benchmark-{name}",
        "description": description,
        "command": f"python benchmarks/{name}.py",
        "machine": experiments.machine(),
        **more,
        "rows": rows,
    }
    path = path or ROOT / "results" / f"benchmark-{name}.json"
    path.write_text(json.dumps(contents, indent=1) + "\n")


def matrix_product_speed(threads: int | None = None) -> float:
    """Floating-point operations per second of a large product: what the processor can do."""
    import time

    a, b = torch.randn(2048, 1536), torch.randn(1536, 1536)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(3):
            a @ b
        best = min(best, (time.perf_counter() - started) / 3)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / best
