"""Time until a useful accuracy: ours, Trainer as it comes, and Trainer tuned like ours.

    python benchmarks/time_to_accuracy.py            # about 3 hours of one core

SST-5, 8,000 sentences, evaluated every 800 sentences on the whole validation split (by the same
code for all; not counted). The target of a pair is one point below the lower of the two last
accuracies; the time is that of the first evaluation that reaches it. Time is processor time of one
thread on a CPU, so that other work on the machine changes little, and wall time on a GPU.

Trainer's default recipe is `TrainingArguments()` alone: batches of 8, three epochs. "Tuned" and
ours have the same budget: the best last validation accuracy of three learning rates, seed 100,
everything else fixed (batch size 16, two epochs, 10 % warm-up, batches grouped by length). A run
that was stopped goes on with what is missing, in the same precision.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import common
import sides
import torch

from sft_teach import experiments, training
from sft_teach.batching import LengthGroupedBatches

N, EVERY, BATCH = 8000, 800, 16
DEFAULTS = {"epochs": 3, "batch_size": 8}  # of TrainingArguments()
RATES = (5e-5, 1e-4, 2e-4)
TUNED = ("ours", "Trainer, tuned")
SIDES = ("ours", "Trainer, default recipe", "Trainer, tuned")
JOB = common.Job("SST-5, sentences", "sst5", 128, BATCH, N // BATCH)


SHORT = [{"input_ids": torch.tensor([[101, 102]]), "attention_mask": torch.ones(1, 2).long(),
          "labels": torch.tensor([0])}]  # fmt: skip


class StopWatch:
    """Counts training; stands still while the model is evaluated."""

    def __init__(self):
        self.clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        self.curve: list[dict] = []
        self.seconds, self.began = 0.0, self.clock()

    def evaluate(self, model, batches, examples: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += self.clock() - self.began
        device = next(model.parameters()).device
        found = training.evaluate(model, batches, device, training.choose_precision())
        self.curve.append({"examples": examples, "seconds": round(self.seconds, 1),
                           "accuracy": round(found["accuracy"], 4)})  # fmt: skip
        self.began = self.clock()


def ours(names, seed, rate, train, validation, every, epochs) -> list[dict]:
    model = sides.our_model(names, seed)
    watch = StopWatch()

    class Evaluation:
        """Asked for its batches when `fit` evaluates: that is the moment."""

        def __iter__(self):
            done = (len(watch.curve) + 1) * every
            watch.evaluate(model, validation, done)
            return iter(SHORT)  # what fit makes of it is not used, and takes no time

    batches = LengthGroupedBatches(*train, BATCH, seed=seed)
    config = training.TrainingConfig(
        learning_rate=rate, epochs=epochs, seed=seed, eval_every=every // BATCH
    )
    training.fit(model, batches, config, validation=Evaluation(), progress=False)
    return watch.curve


def theirs(names, seed, rate, train, validation, every, epochs) -> list[dict]:
    """`rate` None is the default recipe."""
    from transformers import TrainerCallback

    tuned = {} if rate is None else {
        "learning_rate": rate, "per_device_train_batch_size": BATCH, "weight_decay": 0.01,
        "num_train_epochs": epochs,
        "warmup_steps": round(0.1 * epochs * N / BATCH), "train_sampling_strategy":
        "group_by_length", "bf16": sides.precision() == "bfloat16",
    }  # fmt: skip
    model = sides.their_model(names, seed, attention_dropout=0.0 if tuned else None)
    if tuned:
        model.set_attn_implementation(sides.best_attention(JOB))

    class Evaluation(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            done = state.global_step * arguments.per_device_train_batch_size
            if done % every == 0:
                watch.evaluate(model, validation, done)

    with tempfile.TemporaryDirectory() as folder:
        made = sides.trainer(model, *train, folder, [Evaluation()], seed=seed, **tuned)
        watch = StopWatch()
        made.train()
    return watch.curve


def first_reaching(curve: list[dict], target: float) -> float:
    return next(point["seconds"] for point in curve if point["accuracy"] >= target)


def compare(runs: list[dict], seeds) -> list[dict]:
    """Ratios per seed of both Trainers' times to ours."""
    rows = []
    for other in SIDES[1:]:
        mine, ratios = [], []
        for seed in seeds:
            pair = [
                next(r for r in runs if (r["side"], r["seed"]) == (s, seed))
                for s in ("ours", other)
            ]
            target = min(run["curve"][-1]["accuracy"] for run in pair) - 0.01
            ours, theirs = (first_reaching(run["curve"], target) for run in pair)
            mine.append({"seed": seed, "target": round(target, 4), "ours": ours, "Trainer": theirs})
            ratios.append(theirs / ours)
        seconds = {s: common.spread([row[s] for row in mine], 1) for s in ("ours", "Trainer")}
        last = {
            side: common.spread(
                [r["curve"][-1]["accuracy"] for r in runs if r["side"] == side and "seed" in r], 4
            )
            for side in ("ours", other)
        }
        rates = {r["side"]: r.get("learning_rate") for r in runs}
        precisions = {r["side"]: r.get("precision") for r in runs}
        rows.append({"comparison": other, "rates": [rates["ours"], rates[other]],
                     "precisions": [precisions["ours"], precisions[other]],
                     "job": JOB.name, "seeds": len(mine), "seconds": seconds,
                     "speed_ratio": common.spread(ratios), "last_accuracy": last,
                     "per_seed": mine})  # fmt: skip
    return rows


def recipe(side: str, epochs: int) -> dict:
    """What is the same in all runs of a side."""
    own = {"epochs": epochs, "batch_size": BATCH} if side in TUNED else DEFAULTS
    precision = sides.precision() if side in TUNED else "float32"
    return {"n_train": N, "every": EVERY, "precision": precision, **own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="of ours and of Trainer, tuned")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.output or common.ROOT / "results" / "benchmark-time_to_accuracy.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    stored = [row for row in rows if "curve" in row]
    runs = [row for row in stored if recipe(row["side"], options.epochs).items() <= row.items()]
    if len(runs) < len(stored):
        print(f"{len(stored) - len(runs)} stored runs had other settings: left out.", flush=True)
    ids, labels, names = common.ids_of(JOB, N)
    held_out, truth, _ = common.ids_of(JOB, 1101, "validation")
    validation = list(LengthGroupedBatches(held_out, truth, 64, shuffle=False))

    machine = experiments.machine()
    for start, options_of in ((ours, 1e-4), (theirs, 1e-4)):  # a process's first updates are slow
        start(names, 0, options_of, (ids[:64], labels[:64]), validation[-1:], 64, 1)

    def run(side: str, seed: int, rate: float | None, kind: str) -> None:
        fixed = recipe(side, options.epochs)
        key = {"kind": kind, "side": side, "seed": seed, "learning_rate": rate} | fixed
        if any(all(row.get(k) == v for k, v in key.items()) for row in runs):
            return
        start = ours if side == "ours" else theirs
        epochs = fixed["epochs"]
        every = N * epochs if kind == "selection" else EVERY  # the last accuracy is enough
        curve = start(names, seed, rate, (ids, labels), validation, every, epochs)
        runs.append(key | {"n_validation": len(truth), "machine": machine, "curve": curve})
        print(json.dumps(key | curve[-1]), flush=True)
        save(runs)

    def save(rows) -> None:
        common.write("time_to_accuracy", "Time to one point below the last validation accuracy",
                     rows, path, data=common.dataset(JOB.data))  # fmt: skip

    for side in TUNED:
        for rate in RATES:
            run(side, 100, rate, "selection")
    seeds = range(options.seeds)
    for seed in seeds:
        for side in SIDES:
            run(side, seed, best_rate(runs, side), "measured")
    measured = [row for row in runs if row["kind"] == "measured"]
    compared = compare(measured, seeds)
    for row in compared:
        print(json.dumps(row), flush=True)
    save([*compared, *runs])


def best_rate(runs: list[dict], side: str) -> float | None:
    """Chosen by the last validation accuracy; the default recipe is not chosen."""
    grid = [row for row in runs if row["kind"] == "selection" and row["side"] == side]
    if not grid:
        return None
    return max(grid, key=lambda row: row["curve"][-1]["accuracy"])["learning_rate"]


if __name__ == "__main__":
    main()
