"""Training speed against `transformers.Trainer`, in one process, the sides taking turns.

    python benchmarks/training.py                    # about 40 minutes on two cores
    python benchmarks/training.py --rounds 1 --jobs 0

Two comparisons, each a row per job. "best": both at their best in the same precision (Trainer with
dynamic padding, batches grouped by length, fused AdamW). "defaults": what a user gets who writes
the fewest lines (Trainer: random batches, the model as `from_pretrained` makes it; ours: `fit` on
`load_encoder`). Both sides see the same texts, start from the same weights and make the same number
of updates with the same peak learning rate, warm-up and clipping. A first round is left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import common
import sides
import torch

from sft_teach import evaluation, training
from sft_teach.batching import LengthGroupedBatches

LEARNING_RATE = 1e-4


def ours(model, ids, labels, job, seed=0):
    """Returns (seconds, losses)."""
    batches = LengthGroupedBatches(ids, labels, job.batch_size, seed=seed)
    config = training.TrainingConfig(
        learning_rate=LEARNING_RATE, max_steps=job.updates, seed=seed, epochs=100
    )
    started = time.perf_counter()
    history = training.fit(model, batches, config, progress=False)
    return time.perf_counter() - started, [step["loss"] for step in history.steps]


def theirs(model, ids, labels, job, seed=0, best=True):
    """Returns (seconds, losses)."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = sides.trainer(
            model, ids, labels, folder,
            max_steps=job.updates,
            per_device_train_batch_size=job.batch_size,
            learning_rate=LEARNING_RATE,
            warmup_steps=round(0.1 * job.updates),
            weight_decay=0.01,
            seed=seed,
            bf16=best and training.choose_precision() == torch.bfloat16,
            train_sampling_strategy="group_by_length" if best else "random",
            logging_steps=1,
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        return seconds, [float(r["loss"]) for r in trainer.state.log_history if "loss" in r]


def compare(job, rounds: int, best: bool) -> dict:
    """Alternate the two sides on one job."""
    ids, labels, names = common.ids_of(job, job.n)
    starts = {
        "ours": sides.our_model(names),
        "Trainer": sides.their_model(names, attention_dropout=0.0 if best else None),
    }
    seconds: dict[str, list[float]] = {"ours": [], "Trainer": []}
    losses: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        for side, run in (("ours", ours), ("Trainer", theirs)):
            model = copy.deepcopy(starts[side]).train()
            options = {} if side == "ours" else {"best": best}
            took, losses[side] = run(model, ids, labels, job, **options)
            if round_number:  # the first one warms up
                seconds[side].append(took)
    tokens = sum(map(len, ids))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["Trainer"], strict=True)]
    return {
        "comparison": "best" if best else "defaults",
        "job": job.name,
        "data": common.dataset(job.data),
        "batch_size": job.batch_size,
        "updates": job.updates,
        "rounds": rounds,
        "tokens": tokens,
        "precision": str(training.choose_precision()).removeprefix("torch."),
        "seconds": {side: common.spread(values, 2) for side, values in seconds.items()},
        "speed_ratio": common.spread(ratios),
        "share_of_ceiling": ceiling(ids, names, seconds),
        "losses": {
            side: [round(sum(part) / len(part), 4) for part in (values[:5], values[-5:])]
            for side, values in losses.items()
        },
    }


def ceiling(ids, names, seconds) -> dict[str, float]:
    """Time of the matrix products of the unpadded tokens alone, over the time taken.

    Operations of one pass are counted by torch on the course's own model (without attention, which
    the counter does not see on a CPU); forward and backward are three passes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = sides.our_model(names)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, 100, dtype=torch.int64))
    operations = 3 * counter.get_total_flops() / 100 * sum(map(len, ids))
    ideal = operations / common.matrix_product_speed()
    return {side: round(ideal / min(values), 3) for side, values in seconds.items()}


def accuracy(job, n: int, seeds: int) -> list[dict]:
    """The same training on more data: do both sides end equally good?"""
    rows = []
    ids, labels, names = common.ids_of(job, n)
    held_out, truth, _ = common.ids_of(job, 1000, "validation")
    whole = common.Job(job.name, job.data, job.max_length, job.batch_size, n // job.batch_size)
    batches = LengthGroupedBatches(held_out, truth, 64, shuffle=False)
    for seed in range(seeds):
        for side, make, run in (
            ("ours", sides.our_model, ours),
            ("Trainer", sides.their_model, theirs),
        ):
            options = {} if side == "ours" else {"attention_dropout": 0.0}
            model = make(names, seed, **options)
            run(model, ids, labels, whole, seed=seed)
            correct = evaluation.predict(model.eval(), batches).correct
            rows.append({"comparison": "accuracy", "job": job.name,
                         "data": common.dataset(job.data), "side": side, "seed": seed,
                         "n_train": n, "n_validation": len(truth),
                         "accuracy": round(float(correct.mean()), 4)})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def memory(side: str, number: int) -> None:
    """One side alone in this process: a peak never falls again."""
    job = common.JOBS[number]
    ids, labels, names = common.ids_of(job, job.n)
    if side == "ours":
        ours(sides.our_model(names), ids, labels, job)
    else:
        theirs(sides.their_model(names, attention_dropout=0.0), ids, labels, job)
    # Not ru_maxrss: a child process begins with its parent's.
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    print(json.dumps({"peak_mb": round(int(line.split()[1]) / 1024)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, nargs="*", default=range(len(common.JOBS)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=3200, help="sentences of the accuracy rows")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(options.memory[0], int(options.memory[1]))
        return
    rows = []
    for number in options.jobs:
        job = common.JOBS[number]
        for best in (True, False):
            row = compare(job, options.rounds, best)
            if best:
                row["peak_memory_mb"] = {
                    side: common.own_process("training.py", "--memory", side, str(number))[
                        "peak_mb"
                    ]
                    for side in ("ours", "Trainer")
                }
            print(json.dumps(row), flush=True)
            rows.append(row)
    if options.seeds:
        rows += accuracy(common.JOBS[0], options.train, options.seeds)
    common.write(
        "training",
        "Seconds of the same training by sft_teach.fit and by transformers.Trainer",
        rows,
        options.output,
    )


if __name__ == "__main__":
    main()
