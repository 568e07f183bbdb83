"""What the benchmarks share: the same data and models for both sides, medians, a results file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sft_teach  # noqa: F401 - before torch, which reads the thread settings that it makes

# isort: split
import torch
from torch import nn

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


JOBS = [
    Job("SST-5, sentences", "sst5", 128, 32, 30),
    Job("IMDB, 256 tokens", "imdb", 256, 16, 12),
    Job("IMDB, 512 tokens", "imdb", 512, 16, 8),
]

# So many batches both samplers sort by length at a time, of a data set that is large enough.
WINDOW = 50


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
    """Token ids and labels of `n` examples, or of all if there are fewer; the classes' names.

    Where a data set has no validation split, a tenth of its training texts is set aside as one.
    """
    part = data.carve_validation(load(job.data), 0.1, seed=0)[split]
    part = data.subset(part, min(n, len(part)), seed)
    ids = batching.tokenize(part["text"], models.load_tokenizer(), job.max_length)
    return ids, [int(label) for label in part["label"]], data.label_names(part)


def inputs_of(job: Job):
    """`ids_of` for one pass of `updates` batches with the lengths and the padding of a whole epoch.

    Of as many batches as a sampler sorts at a time, some at even distances, from short to long. All
    sides get exactly these texts, once each; who sorts them by length finds the same batches again.
    """
    ids, labels, names = ids_of(job, WINDOW * job.batch_size)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    whole = len(ids) // job.batch_size
    if whole < job.updates:
        raise SFTTeachError(f"{job.name}: {whole} batches of texts, but {job.updates} updates.")
    picked = [int((k + 0.5) * whole / job.updates) * job.batch_size for k in range(job.updates)]
    rows = [i for start in picked for i in order[start : start + job.batch_size]]
    return [ids[i] for i in rows], [labels[i] for i in rows], names


class Work:
    """What a model is asked to do from now on: real tokens, computed positions, operations.

    Counted in front of the model, in the same way for every side: which shows that all got the same
    tokens, and how much padding each computed besides.
    """

    def __init__(self, model: nn.Module):
        self.tokens = self.positions = self.squares = 0
        self.hook = model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, arguments, keywords) -> None:
        mask = keywords["attention_mask"]
        lengths = mask.sum(1)
        self.positions += mask.numel()
        self.tokens += int(lengths.sum())
        self.squares += int((lengths * lengths).sum())

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.positions


def operations(
    depth: int, width: int, tokens: float, squares: float, shortened: bool = True
) -> float:
    """Of forward and backward: products with weights, and attention.

    12 d^2 weights a layer, 6 operations for each weight and token, 12 d for each pair of tokens and
    layer.

    Args:
        depth: L, layers.
        width: d, numbers per token.
        tokens: over all texts.
        squares: sum of the squared numbers of tokens of all texts.
        shortened: the last layer is computed for [CLS] only, which the head reads: of its weights
            only keys and values (2 d^2) work for every token, and its attention has one query.
    """
    layers = depth - 1 if shortened else depth
    weights = (12 * layers + 2 * shortened) * width**2
    return 6 * weights * tokens + 12 * layers * width * squares


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median with the smallest and the largest."""
    keys = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, digits) for key, value in keys.items()}


def own_process(script: str, *arguments: str, **variables: str) -> Any:
    """Run a benchmark's part in a process of its own; its last line is JSON."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True,
                          env=os.environ | variables)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def machine() -> dict:
    return experiments.machine() | {"accelerate": version("accelerate")}


def write(name: str, description: str, rows: list[dict], path: Path | None = None, **more) -> None:
    """results/benchmark-NAME.json, in the form that every table of results has."""
    contents = {
        "experiment": f"benchmark-{name}",
        "description": description,
        "command": f"python benchmarks/{name}.py",
        "machine": machine(),
        **more,
        "rows": rows,
    }
    path = path or ROOT / "results" / f"benchmark-{name}.json"
    path.write_text(json.dumps(contents, indent=1) + "\n")


def add(name: str, description: str, rows: list[dict], path: Path | None, **key) -> None:
    """Like `write`, but rows in the file that differ from `key` (part="speed", say) stay there.

    Those keep the machine and the versions that they were measured with.
    """
    file = path or ROOT / "results" / f"benchmark-{name}.json"
    before = json.loads(file.read_text()) if file.is_file() else {"rows": []}
    kept = [row for row in before["rows"] if any(row.get(k) != v for k, v in key.items())]
    here = machine()
    if kept and before["machine"] != here:
        kept = [{"machine": before["machine"], **row} for row in kept]
    order = [job.name for job in JOBS]
    whole = sorted(kept + rows, key=lambda row: order.index(row["job"]) if "job" in row else -1)
    write(name, description, whole, file)


def matrix_product_speed(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a large product: what the processor can do."""
    a, b = torch.randn(2048, 1536, dtype=dtype), torch.randn(1536, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(3):
            a @ b
        best = min(best, (time.perf_counter() - started) / 3)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / best


def peak_memory_mb() -> int:
    """The highest this process ever had. (Not ru_maxrss: a child begins with its parent's.)"""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return round(int(line.split()[1]) / 1024)


def needed_by(work: Work) -> float:
    """Operations that MiniLM's products need for what was asked of it."""
    return operations(6, 384, work.tokens, work.squares)
