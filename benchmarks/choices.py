"""What each choice of the loop is worth: the same training with one thing changed, taking turns.

    python benchmarks/choices.py

Above 1.0 the choice pays: the run without it takes so many times as long, on the same texts. Some
changes are no alternative but a bound: without any dropout, say, one sees what faster random
numbers could give. "Nothing, once more" shows how far chance goes. A first round is left out; later
ones have other seeds, the same for all, and another order. Kernels of torch.compile come from the
first round; each model is still traced anew, as each `fit` does. A change of the environment has
processes of its own, since a C library reads it once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import common
import torch
from sides import without_dropout
from torch import nn

from sft_teach import models, training
from sft_teach.batching import LengthGroupedBatches


class PreparedBatches(LengthGroupedBatches):
    """The tensors of an epoch, made by whoever asks first after a change of the seed."""

    prepared_for = None

    def __iter__(self):
        if self.prepared_for != self.seed:
            self.prepared, self.prepared_for = list(super().__iter__()), self.seed
        return iter(self.prepared)


@dataclass
class Change:
    """One thing that is done otherwise."""

    name: str
    encoder: dict = field(default_factory=dict)  # arguments of load_encoder
    model: Callable | None = None  # called with the model
    config: dict = field(default_factory=dict)
    batches: Callable = LengthGroupedBatches
    patch: Callable = contextlib.nullcontext
    threads: int | None = None
    once: bool = False  # so slow that one round on the first job must do
    variables: dict = field(default_factory=dict)  # of the environment, so of processes of its own
    native_only: bool = False  # changes nothing where bfloat16 is not the loop's choice


def frozen_embeddings(model) -> None:
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)


def optimizer(**options):
    original = torch.optim.AdamW
    return mock.patch(
        "torch.optim.AdamW", lambda groups, **given: original(groups, **(given | options))
    )


def clipping(**options):
    original = nn.utils.clip_grad_norm_
    return mock.patch("torch.nn.utils.clip_grad_norm_", partial(original, **options))


# The precision that `fit` does not choose here. bfloat16 without hardware takes very long.
NATIVE = training.choose_precision() == torch.bfloat16
OTHER = "float32" if NATIVE else "bfloat16"

UPDATES = (10, 5, 4)  # of each job
AS_IT_IS = Change("as it is")
CHANGES = [
    Change("nothing, once more (how far chance goes)"),
    Change("batches in random order, padded to their longest",
           batches=partial(LengthGroupedBatches, window=1)),
    Change("tensors of all batches made beforehand (a bound)", batches=PreparedBatches),
    Change("attention dropout 0.1, as published (no fused attention)",
           encoder={"attention_dropout": 0.1}),
    Change("last layer for all tokens", encoder={"all_tokens": True}),
    Change("AdamW not fused, one kernel per operation (foreach)",
           patch=partial(optimizer, fused=False, foreach=True)),
    Change("AdamW not fused, a loop over tensors",
           patch=partial(optimizer, fused=False, foreach=False)),
    Change("clipping in a loop over tensors", patch=partial(clipping, foreach=False)),
    Change("clipping left out (a bound)", patch=partial(
        mock.patch, "torch.nn.utils.clip_grad_norm_", lambda *_: torch.zeros(()))),
    Change("no dropout at all (a bound)", model=without_dropout),
    Change("word embeddings frozen (a bound)", model=frozen_embeddings),
    Change("torch.compile", config={"compile": True}),
    Change("fused attention for short texts as well", native_only=True,
           patch=partial(mock.patch, "sft_teach.kernels._SHORT", 0)),
    Change("attention written out for all texts", native_only=True,
           patch=partial(mock.patch, "sft_teach.kernels._SHORT", 512)),
    Change("dropout by torch", patch=partial(
        mock.patch, "sft_teach.kernels.dropout", torch.nn.functional.dropout)),
    Change("free memory kept by glibc until the end",
           variables={"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000"}),
    Change(OTHER, config={"precision": OTHER}, once=not NATIVE),
    Change("one thread", threads=1),
]  # fmt: skip


class Side:
    """A change with its own copy of model and batches, ready to be timed again and again."""

    def __init__(self, change: Change, batch_size: int, ids, labels, names):
        self.change = change
        self.start = models.load_encoder(label_names=names, **change.encoder)
        if change.model:
            change.model(self.start)
        self.batches = change.batches(ids, labels, batch_size)
        self.seconds: list[float] = []
        self.padding: list[float] = []
        self.losses: list[float] = []

    def run(self, seed: int) -> None:
        """Seed 0 warms up: it is not counted."""
        config = training.TrainingConfig(seed=seed, **self.change.config)
        self.batches.seed = seed
        next(iter(self.batches))  # what is prepared beforehand is prepared now
        model, threads = copy.deepcopy(self.start), torch.get_num_threads()
        torch.set_num_threads(self.change.threads or threads)
        with self.change.patch():
            started = time.perf_counter()
            history = training.fit(model, self.batches, config, progress=False)
            seconds = time.perf_counter() - started
        torch.set_num_threads(threads)
        if seed:
            self.seconds.append(seconds)
            self.precision = history.precision
            self.padding.append(self.batches.padding_waste())
            self.losses += [step["loss"] for step in history.steps]


def in_own_processes(change: Change, number: int, rounds: int) -> tuple:
    """The loop as it is and the change in turns, a new process for each run (for `row_of`)."""
    sides = tuple(SimpleNamespace(change=c, seconds=[], padding=[], losses=[])
                  for c in (AS_IT_IS, change))  # fmt: skip
    for seed in range(1, rounds + 1):
        for side in sides if seed % 2 else reversed(sides):
            found = common.own_process(
                "choices.py", "--timed", side.change.name, str(number), str(seed),
                **side.change.variables,
            )  # fmt: skip
            side.precision = found["precision"]
            for name in ("seconds", "padding", "losses"):
                getattr(side, name).extend(found[name])
    return sides


def timed(name: str, number: int, seed: int) -> None:
    [change] = [change for change in (AS_IT_IS, *CHANGES) if change.name == name]
    side = Side(change, *inputs_of(job_of(number)))
    side.run(seed=0)
    side.run(seed=seed)
    print(json.dumps({name: getattr(side, name)
                      for name in ("precision", "seconds", "padding", "losses")}))  # fmt: skip


def job_of(number: int) -> common.Job:
    return replace(common.JOBS[number], updates=UPDATES[number])


def inputs_of(job: common.Job) -> tuple:
    return (job.batch_size, *common.inputs_of(job))


def row_of(job: common.Job, ours, side) -> dict:
    ratios = [b / a for a, b in zip(ours.seconds, side.seconds, strict=False)]
    return {"job": job.name, "data": common.dataset(job.data), "updates": job.updates,
            "change": side.change.name, "precision": side.precision,
            "seconds": common.spread(side.seconds, 2), "times_as_long": common.spread(ratios),
            "mean_loss": round(statistics.mean(side.losses), 4),
            "padding_waste": round(statistics.mean(side.padding), 3),
            "rounds": len(side.seconds)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", help="only changes with this text in their name")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--timed", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timed:
        name, number, seed = options.timed
        timed(name, int(number), int(seed))
        return
    for number in options.jobs:
        job = job_of(number)
        changes = [
            change
            for change in CHANGES
            if (not options.only or options.only in change.name)
            and not (change.once and number)
            and not (change.native_only and not NATIVE)
        ]
        pairs = []  # what a side is compared with, and the side
        together = [change for change in changes if not change.variables]
        if together or not options.only:
            inputs = inputs_of(job)
            sides = [Side(change, *inputs) for change in (AS_IT_IS, *together)]
            for round_number in range(options.rounds + 1):
                first = round_number % len(sides)  # nobody always comes after the same one
                for side in sides[first:] + sides[:first]:
                    if not side.change.once or round_number == 1:
                        side.run(seed=round_number)
            pairs += [(sides[0], side) for side in sides]
        pairs += [in_own_processes(change, number, options.rounds)
                  for change in changes if change.variables]  # fmt: skip
        rows = []
        for ours, side in pairs:
            row = row_of(job, ours, side)
            if options.only or side.change.variables:  # it is not beside the table's first row
                row["unchanged_seconds"] = common.spread(ours.seconds, 2)
            rows.append(row)
            print(json.dumps(row), flush=True)
        said = "The same training with one thing changed"
        if options.only:  # the other rows stay, and so does theirs of the unchanged run
            for row in rows:
                if row["change"] != AS_IT_IS.name:
                    common.add("choices", said, [row], options.output, job=job.name,
                               change=row["change"])  # fmt: skip
        else:
            common.add("choices", said, rows, options.output, job=job.name)


if __name__ == "__main__":
    main()
