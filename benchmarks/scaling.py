"""Time and memory of an update on the CPU against sequence length, batch size and depth.

    python benchmarks/scaling.py                     # about 10 minutes on two cores

The theory beside each slope: `common.operations`, that is 6 operations per token and weight that
takes part in a matrix product, and 12 d T per token and layer for attention (width d, T tokens a
text), where the last layer is computed for the first token only, as `load_encoder` does. Each
setting has a process of its own. Random ids, random weights of MiniLM's shape: speed does not
depend on what the numbers are.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import common
import torch
from torch.nn.functional import cross_entropy

from sft_teach import first_token, training

WIDTH = 384
LENGTHS, BATCHES, DEPTHS = (32, 64, 128, 256, 512), (2, 4, 8, 16, 32), (1, 2, 4, 6, 12)


def model_of(depth: int):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30522, hidden_size=WIDTH, num_hidden_layers=depth, num_attention_heads=12,
        intermediate_size=4 * WIDTH, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).train()
    first_token.shorten(model)
    return model


def operations(depth: int, batch: int, length: int, width: int = WIDTH) -> float:
    """Of one update on `batch` texts of `length` tokens, forward and backward."""
    return common.operations(depth, width, batch * length, batch * length**2)


def update_seconds(depth: int, batch: int, length: int, rounds: int) -> list[float]:
    model = model_of(depth)
    optimizer = torch.optim.AdamW(training.parameter_groups(model, 0.01), lr=1e-5, fused=True)
    ids = torch.randint(1000, 30000, (batch, length))
    labels = torch.zeros(batch, dtype=torch.int64)
    dtype, seconds = training.choose_precision(device="cpu"), []
    for number in range(rounds + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        with training.autocast(torch.device("cpu"), dtype, length):
            logits = model(input_ids=ids).logits
        cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if number:
            seconds.append(time.perf_counter() - started)
    return seconds


def alone(depth: int, batch: int, length: int, rounds: int) -> None:
    seconds = update_seconds(depth, batch, length, rounds)
    print(json.dumps({"seconds": seconds, "peak_mb": common.peak_memory_mb()}))


def slope(rows: list[dict], axis: str, value) -> float:
    """Exponent over the three largest settings, by least squares: time ~ setting ** slope.

    At the smaller ones the work that every update has (the optimizer's step) hides the law.
    """
    x = [math.log(row[axis]) for row in rows[-3:]]
    y = [math.log(value(row)) for row in rows[-3:]]
    return statistics.linear_regression(x, y).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--alone", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(*options.alone, options.rounds)
        return
    dtype = training.choose_precision(device="cpu")
    speed, rows, slopes = common.matrix_product_speed(dtype), [], {}
    axes = {
        "length": [(6, 8, n) for n in LENGTHS],
        "batch": [(6, n, 128) for n in BATCHES],
        "depth": [(n, 8, 128) for n in DEPTHS],
    }
    for axis, settings in axes.items():
        mine = []
        for depth, batch, length in settings:
            found = common.own_process(
                "scaling.py", "--alone", *map(str, (depth, batch, length)),
                "--rounds", str(options.rounds),
            )  # fmt: skip
            needed = operations(depth, batch, length)
            share = needed / speed / min(found["seconds"])
            mine.append({"axis": axis, "depth": depth, "batch": batch, "length": length,
                         "seconds": common.spread(found["seconds"], 4),
                         "peak_memory_mb": found["peak_mb"], "operations": needed,
                         "share_of_ceiling": round(share, 3)})  # fmt: skip
            print(json.dumps(mine[-1]), flush=True)
        slopes[axis] = {
            "measured": round(slope(mine, axis, lambda row: row["seconds"]["median"]), 3),
            "theory": round(slope(mine, axis, lambda row: row["operations"]), 3),
            "memory": round(slope(mine, axis, lambda row: row["peak_memory_mb"]), 3),
        }
        print(axis, slopes[axis], flush=True)
        rows += mine
    common.write(
        "scaling", "Seconds and memory of one update", rows, options.output, slopes=slopes,
        matrix_products_per_second=round(speed), precision=str(dtype).removeprefix("torch."),
    )  # fmt: skip


if __name__ == "__main__":
    main()
