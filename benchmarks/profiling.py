"""Where the time of an update goes, by torch.profiler.

    python benchmarks/profiling.py                   # about a minute on two cores

Shares of the time that torch's operators take in `training.fit`, by kind of operation, after a
warm-up run. Python and the making of batches are not operators and stay out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import common
from torch.profiler import ProfilerActivity, profile

from sft_teach import models, training
from sft_teach.batching import LengthGroupedBatches

# The first pattern that an operator's name holds decides.
KINDS = [
    ("matrix products", ("aten::mm", "aten::addmm", "aten::linear", "onednn", "mkldnn")),
    # Written out or fused; products of batches of matrices are nowhere else.
    ("attention", ("scaled_dot_product", "flash_attention", "aten::bmm", "aten::_softmax")),
    ("optimizer step", ("_fused_adamw", "_foreach_addcdiv", "Optimizer.step")),
    ("gradient clipping", ("_foreach_norm", "_foreach_mul_", "linalg_vector_norm", "aten::stack")),
    ("embeddings and their gradient", ("embedding", "index_select", "aten::zero_", "aten::fill_")),
    ("GELU", ("gelu",)),
    # The products with its mask count as products of elements.
    ("dropout", ("dropout", "bernoulli", "aten::random_", "aten::ge")),
    ("LayerNorm", ("layer_norm",)),
    ("additions and products of elements", ("aten::add", "aten::mul", "aten::sum", "aten::div")),
    ("copies", ("aten::copy_", "aten::cat", "aten::clone")),
]


def kind(operator: str) -> str:
    return next((name for name, parts in KINDS if any(p in operator for p in parts)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for job in common.JOBS:
        job = replace(job, updates=max(job.updates // 3, 4))
        ids, labels, names = common.inputs_of(job)
        batches = LengthGroupedBatches(ids, labels, job.batch_size)
        model = models.load_encoder(label_names=names)
        config = training.TrainingConfig()
        training.fit(model, batches, config, progress=False)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            training.fit(model, batches, config, progress=False)
        spent = Counter()
        for event in found.key_averages():
            spent[kind(event.key)] += event.self_cpu_time_total
        total = sum(spent.values())
        shares = {name: round(time / total, 3) for name, time in spent.most_common()}
        rows.append({"job": job.name, "data": common.dataset(job.data), "shares": shares,
                     "updates": job.updates})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    common.write(
        "profiling", "Shares of an update's time by kind of operation", rows, options.output
    )


if __name__ == "__main__":
    main()
