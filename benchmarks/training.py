"""Training speed against `transformers.Trainer`, in one process, the sides taking turns.

    python benchmarks/training.py speed              # on a quiet machine
    python benchmarks/training.py memory             # on a busy one too
    python benchmarks/training.py accuracy           # likewise
    python benchmarks/training.py waiting            # how the threads of torch wait; quiet
    python benchmarks/training.py attention          # which attention is Trainer's best; quiet
    python benchmarks/training.py speed --rounds 1 --jobs 0

Without a word all of them, and "same": with one order of the texts and without dropout both sides
make the same losses, which shows that they train the same thing.

Three comparisons. "best": both at their best in the same precision (Trainer with dynamic padding,
batches grouped by length, fused AdamW, no attention dropout, "sdpa" or "eager" attention, whichever
the part "attention" found faster). "loop": so too, and Trainer gets `load_encoder`'s model, which
leaves out what the head does not read: what remains is the loop's own (on the shortest texts, where
it weighs most).
"defaults": what a user gets who writes the fewest lines (Trainer: random batches, the model as
`from_pretrained` makes it; ours: `fit` on `load_encoder`).

Both sides train on exactly the same texts, once each, from the same weights, with as many updates,
the same batch size, peak learning rate, warm-up and clipping. The texts are picked so that batches
have the lengths of a whole epoch, and Trainer groups them as it does a large data set. Each round
has another seed and another order of the sides; a first one is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import sides
import torch

import sft_teach
from sft_teach import evaluation, training
from sft_teach.batching import LengthGroupedBatches, collate

LEARNING_RATE = 1e-4
SIDES = ("ours", "Trainer")
COMPARISONS = ("best", "loop", "defaults")
# Job, training texts, comparison: do both sides end equally good?
ACCURACY = [(0, 3200, "best"), (0, 3200, "defaults"), (1, 1600, "best"), (1, 1600, "defaults"),
            (2, 800, "best"), (2, 800, "defaults")]  # fmt: skip


def model_of(side: str, comparison: str, names, seed: int = 0):
    if side == "ours" or comparison == "loop":
        return sides.our_model(names, seed)
    dropout = 0.0 if comparison == "best" else None
    return sides.their_model(names, seed, attention_dropout=dropout)


def ours(model, ids, labels, job, seed=0, comparison="best", passes=1):
    """Returns (seconds, losses)."""
    started = time.perf_counter()
    batches = LengthGroupedBatches(ids, labels, job.batch_size, seed=seed)
    config = training.TrainingConfig(learning_rate=LEARNING_RATE, epochs=passes, seed=seed)
    history = training.fit(model, batches, config, progress=False)
    return time.perf_counter() - started, [step["loss"] for step in history.steps]


def theirs(model, ids, labels, job, seed=0, comparison="best", attention=None, few=True, **more):
    """Returns (seconds, losses). `few`: these texts stand for many, so group them like many."""
    best = comparison != "defaults"
    if best:
        model.set_attn_implementation(attention or sides.best_attention(job))
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "max_steps": job.updates,
            "per_device_train_batch_size": job.batch_size,
            "learning_rate": LEARNING_RATE,
            "warmup_steps": round(0.1 * job.updates),
            "weight_decay": 0.01,
            "seed": seed,
            "bf16": best and training.choose_precision() == torch.bfloat16,
            "train_sampling_strategy": "group_by_length" if best else "random",
            "logging_steps": 1,
        }
        trainer = sides.trainer(model, ids, labels, folder, **settings | more)
        with sides.sorted_like_a_large_data_set() if few else contextlib.nullcontext():
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
        return seconds, [float(r["loss"]) for r in trainer.state.log_history if "loss" in r]


RUN = {"ours": ours, "Trainer": theirs}


def compare(job, rounds: int, comparison: str) -> dict:
    """Alternate the two sides on one job."""
    ids, labels, names = common.inputs_of(job)
    starts = {side: model_of(side, comparison, names) for side in SIDES}
    tokens = sum(map(len, ids))
    found = {side: {"seconds": [], "work": [], "losses": []} for side in SIDES}
    theirs_in = torch.float32 if comparison == "defaults" else training.choose_precision()
    dtypes = {"ours": training.choose_precision(), "Trainer": theirs_in}
    ceilings = dict.fromkeys(dtypes.values(), 0.0)
    for number in range(rounds + 1):
        for side in SIDES if number % 2 else reversed(SIDES):
            model = copy.deepcopy(starts[side]).train()
            work = common.Work(model)
            seconds, losses = RUN[side](model, ids, labels, job, number, comparison)
            if work.tokens != tokens:
                raise SystemExit(f"{side} trained on {work.tokens} tokens, not on each text once.")
            if number:  # the first one warms up
                mine = found[side]
                mine["seconds"].append(seconds)
                mine["work"].append(work)
                mine["losses"].append(losses)
        for dtype, best in ceilings.items():
            ceilings[dtype] = max(best, common.matrix_product_speed(dtype))
    ratios = [b / a for a, b in zip(*(found[side]["seconds"] for side in SIDES), strict=True)]

    def per_side(make) -> dict:
        return {side: make(found[side]) for side in SIDES}

    return {
        "comparison": comparison,
        "job": job.name,
        "data": common.dataset(job.data),
        "batch_size": job.batch_size,
        "updates": job.updates,
        "texts": len(ids),
        "rounds": rounds,
        "precision": sides.precision(),
        "seconds": per_side(lambda mine: common.spread(mine["seconds"], 2)),
        "tokens": tokens,
        "padding": per_side(lambda mine: common.spread([work.padding for work in mine["work"]], 4)),
        "tokens_per_second": per_side(
            lambda mine: common.spread([tokens / s for s in mine["seconds"]], 1)
        ),
        "speed_ratio": common.spread(ratios),
        "matrix_products_per_second": {s: round(ceilings[dtypes[s]]) for s in SIDES},
        "share_of_ceiling": {
            side: share_of_ceiling(found[side], ceilings[dtypes[side]]) for side in SIDES
        },
        "losses": per_side(lambda mine: first_and_last(mine["losses"])),
    }


def share_of_ceiling(mine: dict, ceiling: float) -> dict[str, float]:
    """Time that the operations which the texts need would take alone, over the time taken."""
    pairs = zip(mine["work"], mine["seconds"], strict=True)
    return common.spread([common.needed_by(work) / ceiling / s for work, s in pairs])


def first_and_last(losses: list[list[float]]) -> list[float]:
    """Mean loss of the first and of the last third of the updates, over all rounds."""
    third = max(len(losses[0]) // 3, 1)
    parts = [
        [x for one in losses for x in one[:third]],
        [x for one in losses for x in one[-third:]],
    ]
    return [round(sum(part) / len(part), 4) for part in parts]


def same(number: int, options) -> list[dict]:
    """Both sides on the same batches in the same order, without dropout and warm-up.

    In float32 the losses show whether both compute the same; in bfloat16, how far rounding goes.
    """
    job = replace(common.JOBS[number], updates=10)
    ids, labels, names = common.inputs_of(job)
    start = model_of("Trainer", "best", names)
    sides.without_dropout(start)
    pieces = [slice(i, i + job.batch_size) for i in range(0, len(ids), job.batch_size)]
    batches = [collate(ids[piece], labels[piece]) for piece in pieces]
    order = {"train_sampling_strategy": "sequential", "warmup_steps": 0}
    rows = []
    for kind in dict.fromkeys(["float32", sides.precision()]):
        config = training.TrainingConfig(
            learning_rate=LEARNING_RATE, warmup_fraction=0.0, precision=kind
        )
        history = training.fit(copy.deepcopy(start), batches, config, progress=False)
        losses = {"ours": [step["loss"] for step in history.steps]}
        model, bf16 = copy.deepcopy(start), kind == "bfloat16"
        _, losses["Trainer"] = theirs(model, ids, labels, job, bf16=bf16, **order)
        apart = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
        rows.append({"comparison": "same", "job": job.name, "precision": kind,
                     "updates": job.updates, "losses": losses,
                     "largest_difference": apart})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def speed(number: int, options) -> list[dict]:
    rows = []
    for comparison in COMPARISONS:
        if comparison == "loop" and number:
            continue  # what the loop itself costs shows where the model costs least
        rows.append(compare(common.JOBS[number], options.rounds, comparison))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def accuracy(number: int, options) -> list[dict]:
    """The same training on more data: do both sides end equally good?"""
    rows, ours_again = [], {}  # ours is the same in all comparisons
    job = common.JOBS[number]
    for n, comparison in [(n, of) for index, n, of in ACCURACY if index == number]:
        n = min(n, options.train or n)
        ids, labels, names = common.ids_of(job, n)
        held_out, truth, _ = common.ids_of(job, 1000, "validation")
        whole = replace(job, updates=n // job.batch_size)
        batches = LengthGroupedBatches(held_out, truth, 16, shuffle=False)
        grouping = {"ours": {}, "Trainer": {"few": False}}  # as it groups these by itself
        for seed in range(options.seeds):
            for side in SIDES:
                correct = ours_again.get((n, seed)) if side == "ours" else None
                if correct is None:
                    model = model_of(side, comparison, names, seed)
                    RUN[side](model, ids, labels, whole, seed, comparison, **grouping[side])
                    correct = evaluation.predict(model.eval(), batches).correct
                if side == "ours":
                    ours_again[n, seed] = correct
                rows.append({"comparison": "accuracy", "of": comparison, "job": job.name,
                             "data": common.dataset(job.data), "side": side, "seed": seed,
                             "n_train": n, "n_validation": len(truth),
                             "threads": torch.get_num_threads(), "precision": sides.precision(),
                             "accuracy": round(float(correct.mean()), 4)})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    return rows


# In the first pass both sides have their largest batch before the optimizer has its two numbers a
# weight, and few kernels are made yet: the peak of a whole run comes later.
PASSES = 3


# oneDNN and torch keep up to 1,024 compiled kernels of a kind; here one, to see what they take.
ONE_KERNEL = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1", "LRU_CACHE_CAPACITY": "1"}


def memory(number: int, options) -> list[dict]:
    """Peak memory of processes that train one side alone: a peak never falls again."""
    parts = [("best", {}), ("defaults", {})]
    if number == 0 and sides.precision() == "bfloat16" and not torch.cuda.is_available():
        parts.append(("best", ONE_KERNEL))
    rows = []
    for comparison, variables in parts:
        peaks = {side: [] for side in SIDES}
        for _ in range(options.processes):
            for side in SIDES:
                found = common.own_process(
                    "training.py", "--alone", side, str(number), comparison, **variables
                )
                peaks[side].append(found["peak_mb"])
        rows.append({"comparison": "memory", "of": comparison, "job": common.JOBS[number].name,
                     "peak_memory_mb": {s: common.spread(v, 0) for s, v in peaks.items()},
                     "threads": torch.get_num_threads(), "precision": sides.precision(),
                     "processes": options.processes, "passes": PASSES,
                     "one_kernel_kept": bool(variables)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def alone(side: str, number: int, comparison: str) -> None:
    job = common.JOBS[number]
    ids, labels, names = common.inputs_of(job)
    model = model_of(side, comparison, names)
    if side == "ours":
        ours(model, ids, labels, job, 0, comparison, PASSES)
    else:
        theirs(model, ids, labels, replace(job, updates=PASSES * job.updates), 0, comparison)
    print(json.dumps({"peak_mb": common.peak_memory_mb()}))


def attention(number: int, options) -> list[dict]:
    """Trainer at its best with each kind of attention, taking turns."""
    job = common.JOBS[number]
    ids, labels, names = common.inputs_of(job)
    start = model_of("Trainer", "best", names)
    seconds = {"sdpa": [], "eager": []}
    for round_number in range(options.rounds + 1):
        for kind in seconds if round_number % 2 else reversed(seconds):
            model = copy.deepcopy(start).train()
            took, _ = theirs(model, ids, labels, job, round_number, attention=kind)
            if round_number:  # the first one warms up
                seconds[kind].append(took)
    ratios = [a / b for a, b in zip(seconds["sdpa"], seconds["eager"], strict=True)]
    row = {"comparison": "attention", "job": job.name, "precision": sides.precision(),
           "rounds": options.rounds, "taken": sides.best_attention(job),
           "seconds": {kind: common.spread(found, 2) for kind, found in seconds.items()},
           "sdpa_over_eager": common.spread(ratios)}  # fmt: skip
    print(json.dumps(row), flush=True)
    return [row]


# Iterations that a waiting thread spins before it sleeps: from none to GNU OpenMP's own.
SPINS = ("0", "1000", sft_teach.SPIN_COUNT, "10000", "300000")


def waiting(number: int, options) -> list[dict]:
    """In processes of their own: `fit` alone and with a busy program beside it, and Trainer."""
    kinds = (("ours", False), ("ours", True), ("Trainer", False))
    found = {(side, busy, spin): [] for side, busy in kinds for spin in SPINS}
    for _ in range(options.rounds):
        for side, busy, spin in found:
            with busy_program() if busy else contextlib.nullcontext():
                run = common.own_process(
                    "training.py", "--timed", side, str(number), GOMP_SPINCOUNT=spin
                )
            found[side, busy, spin].append(run["seconds"])
    rows = []
    for (side, busy, spin), seconds in found.items():
        packages = found[side, busy, sft_teach.SPIN_COUNT]
        ratios = [a / b for a, b in zip(seconds, packages, strict=True)]
        rows.append({"comparison": "waiting", "job": common.JOBS[number].name, "updates": TIMED,
                     "side": side, "busy_program": busy, "spins": int(spin),
                     "rounds": options.rounds, "precision": sides.precision(),
                     "seconds": common.spread(seconds, 2),
                     "times_as_long": common.spread(ratios)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


@contextlib.contextmanager
def busy_program():
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


TIMED = 8  # updates


def timed(side: str, number: int) -> None:
    """A run that warms up, and one that is timed."""
    job = replace(common.JOBS[number], updates=TIMED)
    ids, labels, names = common.inputs_of(job)
    for _ in range(2):
        seconds, _ = RUN[side](model_of(side, "best", names), ids, labels, job)
    print(json.dumps({"seconds": seconds}))


PARTS = {"same": same, "speed": speed, "attention": attention, "memory": memory,
         "accuracy": accuracy, "waiting": waiting}  # fmt: skip
FIRST_JOB_ONLY = ("same", "waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, nargs="*", default=range(len(common.JOBS)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--train", type=int, help="at most so many texts for the accuracy")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--timed", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        side, number, comparison = options.alone
        alone(side, int(number), comparison)
        return
    if options.timed is not None:
        side, number = options.timed
        timed(side, int(number))
        return
    for part in PARTS if options.part == "all" else [options.part]:
        for number in [0] if part in FIRST_JOB_ONLY else options.jobs:
            common.add(  # job by job, so that a run that is stopped loses one job only
                "training",
                "The same training by sft_teach.fit and by transformers.Trainer",
                [{"part": part} | row for row in PARTS[part](number, options)],
                options.output,
                part=part,
                job=common.JOBS[number].name,
            )


if __name__ == "__main__":
    main()
