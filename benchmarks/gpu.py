"""On a GPU: throughput against Trainer, IMDB in full, float16; without `datasets` or Jupyter.

    python benchmarks/gpu.py throughput              # random token ids and weights
    SFT_TEACH_SOURCE=DIR python benchmarks/gpu.py imdb
    SFT_TEACH_SOURCE=DIR python benchmarks/gpu.py float16

DIR is laid out by hub id: `stanfordnlp/imdb/train.jsonl.gz` and `test.jsonl.gz` and, unless the
carrier package is installed, the folder `sentence-transformers/all-MiniLM-L6-v2`. Each part adds
its rows to the results file, so that they can be measured in separate calls. `--try` is a small run
on whatever is there.

Throughput: ours with and without `torch.compile`, Trainer likewise (both bfloat16, fused AdamW, the
same model with attention dropout 0), taking turns after a warm-up. Utilisation: operations that
the model's products need, by `scaling.operations`, over those of a large product in bfloat16.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import common
import scaling
import sides
import torch

from sft_teach import batching, environment, evaluation, first_token, models, training
from sft_teach.batching import LengthGroupedBatches

LABELS = ["neg", "pos"]


@dataclass(frozen=True)
class Shape:
    name: str
    depth: int
    width: int
    heads: int
    length: int
    batch_size: int
    updates: int


SHAPES = [
    Shape("MiniLM, 128 tokens", 6, 384, 12, 128, 32, 100),
    Shape("MiniLM, 512 tokens", 6, 384, 12, 512, 32, 100),
    Shape("BERT-base, 512 tokens", 12, 768, 12, 512, 32, 60),
]
SMALL = [Shape("two layers, 32 tokens", 2, 64, 2, 32, 4, 3)]


def encoder(shape: Shape, shortened: bool):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=shape.width, num_hidden_layers=shape.depth, num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    if shortened:
        first_token.shorten(model)
    return model


def ceiling(size: int) -> float:
    """Operations per second of a large product, in bfloat16 on a GPU."""
    if not torch.cuda.is_available():
        return common.matrix_product_speed()
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * size**3 / best


class Ours:
    def __init__(self, shape: Shape, ids, labels, compiled: bool):
        self.model = encoder(shape, shortened=True)
        self.batches = LengthGroupedBatches(ids, labels, shape.batch_size)
        self.config = training.TrainingConfig(max_steps=shape.updates, compile=compiled)

    def run(self) -> list[float]:
        history = training.fit(self.model, self.batches, self.config, progress=False)
        return [step["loss"] for step in history.steps]


class Theirs:
    def __init__(self, shape: Shape, ids, labels, compiled: bool):
        self.model, self.data = encoder(shape, shortened=False), (ids, labels)
        cuda = torch.cuda.is_available()
        self.settings = {
            "max_steps": shape.updates, "per_device_train_batch_size": shape.batch_size,
            "bf16": training.choose_precision() == torch.bfloat16, "torch_compile": compiled,
            "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_steps": shape.updates // 10,
            "dataloader_num_workers": 2 if cuda else 0, "logging_steps": min(10, shape.updates),
        }  # fmt: skip

    def run(self) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            made = sides.trainer(self.model, *self.data, folder, **self.settings)
            made.train()
        return [float(row["loss"]) for row in made.state.log_history if "loss" in row]


def throughput(small: bool, rounds: int) -> list[dict]:
    rows, peak = [], ceiling(512 if small else 8192)
    for shape in SMALL if small else SHAPES:
        n = shape.batch_size * shape.updates
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30000, (n, shape.length), generator=generator).tolist()
        labels = [i % 2 for i in range(n)]
        runs = {
            f"{name}{', torch.compile' * compiled}": side(shape, ids, labels, compiled)
            for name, side in (("ours", Ours), ("Trainer", Theirs))
            for compiled in (False, True)
        }
        seconds = {name: [] for name in runs}
        losses, memory = {}, {}
        for number in range(rounds + 1):
            for name, side in runs.items():
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                started = time.perf_counter()
                losses[name] = side.run()  # ends by fetching the last loss: nothing is pending
                if number:  # the first one warms up and compiles
                    seconds[name].append(time.perf_counter() - started)
                if torch.cuda.is_available():
                    memory[name] = round(torch.cuda.max_memory_allocated() / 2**20)
                side.model.to("cpu")  # or each side would count the others' weights
        tokens = n * shape.length
        needed = shape.updates * scaling.operations(
            shape.depth, shape.batch_size, shape.length, shape.width
        )
        for name, values in seconds.items():
            ratios = [v / o for o, v in zip(seconds["ours"], values, strict=True)]
            rows.append({"part": "throughput", "shape": shape.name, "side": name,
                         "seconds": common.spread(values), "times_ours": common.spread(ratios),
                         "tokens_per_second": round(tokens / min(values)),
                         "utilisation": round(needed / min(values) / peak, 3),
                         "peak_memory_mb": memory.get(name), "updates": shape.updates,
                         "batch_size": shape.batch_size, "ceiling_tflops": round(peak / 1e12, 1),
                         "precision": str(training.choose_precision()).removeprefix("torch."),
                         "losses": [round(losses[name][i], 4) for i in (0, -1)]})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def reviews(split: str, max_length: int, limit: int | None):
    """Token ids and labels of IMDB's official split, read without `datasets`."""
    source = environment.source(None)
    if not isinstance(source, Path):
        raise SystemExit("Set SFT_TEACH_SOURCE to a folder with stanfordnlp/imdb/*.jsonl.gz.")
    path = source / "stanfordnlp" / "imdb" / f"{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if limit:  # the official order is all of one label first
        rows = rows[:: max(len(rows) // limit, 1)][:limit]
    ids = batching.tokenize([row["text"] for row in rows], models.load_tokenizer(), max_length)
    return ids, [int(row["label"]) for row in rows]


def finetuned(
    seed: int, epochs: int, max_length: int, limit: int | None, precision: str = "auto"
) -> dict:
    """Train on the training half, answer the test half once."""
    ids, labels = reviews("train", max_length, limit)
    held_out, truth = reviews("test", max_length, limit)
    model = models.load_encoder(label_names=LABELS, seed=seed)
    config = training.TrainingConfig(
        learning_rate=1e-4, epochs=epochs, seed=seed, precision=precision
    )
    batches = LengthGroupedBatches(ids, labels, 32, seed=seed)
    history = training.fit(model, batches, config, progress=False)
    test = LengthGroupedBatches(held_out, truth, 128, shuffle=False)
    started = time.perf_counter()
    right = evaluation.predict(model, test, precision=precision).correct
    return {"seed": seed, "n_train": len(ids), "n_test": len(truth), "epochs": epochs,
            "max_length": max_length, "precision": history.precision, "device": history.device,
            "accuracy": round(float(right.mean()), 5), "train_seconds": round(history.seconds, 1),
            "test_seconds": round(time.perf_counter() - started, 1),
            "tokens_per_second": round(history.tokens_per_second),
            "peak_memory_mb": round(history.peak_memory_mb),
            "losses": [round(sum(s["loss"] for s in part) / len(part), 4)
                       for part in (history.steps[:10], history.steps[-10:])]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("throughput", "imdb", "float16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--try", dest="small", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.small:
        raise SystemExit("There is no CUDA device here. A small run on the CPU: add --try.")
    small = options.small
    if options.part == "throughput":
        rows = throughput(small, options.rounds)
    elif options.part == "imdb":
        epochs, length, limit = (1, 32, 64) if small else (3, 512, None)
        rows = [
            {"part": "imdb"} | finetuned(seed, epochs, length, limit)
            for seed in range(options.seeds)
        ]
    else:
        length, limit = (32, 64) if small else (256, 6400)
        rows = [{"part": "float16"} | finetuned(0, 1, length, limit, precision="float16")]
    print(json.dumps(rows[-1]), flush=True)
    path = options.output or common.ROOT / "results" / "benchmark-gpu.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = [row for row in before if row["part"] != options.part]
    common.write("gpu", "Throughput, IMDB in full and float16 on a GPU", kept + rows, path)


if __name__ == "__main__":
    main()
