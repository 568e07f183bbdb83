"""On a GPU: throughput against Trainer, IMDB in full, float16; without `datasets` or Jupyter.

    python benchmarks/gpu.py throughput              # random token ids and weights
    SFT_TEACH_SOURCE=DIR python benchmarks/gpu.py imdb --weights FOLDER
    SFT_TEACH_SOURCE=DIR python benchmarks/gpu.py float16 --weights FOLDER

DIR is laid out by hub id: `stanfordnlp/imdb/train.jsonl.gz` and `test.jsonl.gz`. FOLDER is the
encoder's model folder, its weights float32 or float16 (they are computed with in float32); without
`--weights` it is looked for in the carrier package or in DIR, and its checksum is verified. Each
shape and seed adds its row to the results file at once, so that a run can be cut short. `--try` is
a small run on whatever is there.

Throughput: ours with and without `torch.compile`, Trainer likewise (both bfloat16, fused AdamW,
attention dropout 0; ours computes the last layer for the first token only), in turns after a round
that warms up, from an update's end to the last one's, so that neither side's set-up counts. Losses:
means over ten updates, the first and the last.
Utilisation: operations that the side's own model needs (`common.operations`), over those of a large
product in the same precision. Where `accelerate` is missing there is no Trainer: its rows are left
out.
"""

from __future__ import annotations

import argparse
import functools
import gc
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import common
import sides
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

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
    Shape("MiniLM, 512 tokens", 6, 384, 12, 512, 32, 50),
    Shape("BERT-base, 512 tokens", 12, 768, 12, 512, 128, 12),
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


def padder():
    """A tokenizer without a file: all that is asked of it is the padding."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def ceiling(size: int) -> float:
    """Operations per second of a large product, in bfloat16 on a GPU."""
    if not torch.cuda.is_available():
        return common.matrix_product_speed(training.choose_precision())
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


class Clock:
    """Seconds from the end of update `skip` to the end of update `last`, whoever trains."""

    def __init__(self, skip: int, last: int):
        self.skip, self.last, self.updates = skip, last, 0
        self.start = self.end = float("nan")

    def tick(self, *_) -> None:
        self.updates += 1
        if self.updates == self.skip:
            self.start = now()
        if self.updates == self.last:
            self.end = now()

    def __enter__(self):
        self.hook = register_optimizer_step_post_hook(self.tick)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    @property
    def seconds(self) -> float:
        return self.end - self.start


def now() -> float:
    """The time when all that the GPU was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def logged(updates: int) -> int:
    """So many updates have one mean loss: Trainer tells no others."""
    return min(10, updates)


class Ours:
    shortened = True

    def __init__(self, shape: Shape, ids, labels, compiled: bool):
        self.model = encoder(shape, self.shortened)
        self.batches = LengthGroupedBatches(ids, labels, shape.batch_size)
        self.config = training.TrainingConfig(max_steps=shape.updates, compile=compiled)

    def run(self) -> list[float]:
        history = training.fit(self.model, self.batches, self.config, progress=False)
        losses, size = [step["loss"] for step in history.steps], logged(self.config.max_steps)
        return [statistics.mean(losses[i - size : i]) for i in range(size, len(losses) + 1, size)]


class Theirs:
    shortened = False

    def __init__(self, shape: Shape, ids, labels, compiled: bool):
        self.model, self.data = encoder(shape, self.shortened), (ids, labels)
        cuda = torch.cuda.is_available()
        self.settings = {
            "max_steps": shape.updates, "per_device_train_batch_size": shape.batch_size,
            "bf16": training.choose_precision() == torch.bfloat16, "torch_compile": compiled,
            "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_steps": shape.updates // 10,
            "dataloader_num_workers": 2 if cuda else 0, "logging_steps": logged(shape.updates),
        }  # fmt: skip

    def run(self) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            made = sides.trainer(
                self.model, *self.data, folder, tokenizer=padder(), **self.settings
            )
            made.train()
        return [float(row["loss"]) for row in made.state.log_history if "loss" in row]


def throughput(options) -> Iterator[dict]:
    kinds = {"ours": Ours}
    if common.version("accelerate") == "none":
        print("accelerate is not installed: Trainer is not measured.", flush=True)
    else:
        kinds["Trainer"] = Theirs
    shapes = SMALL if options.small else SHAPES
    for shape in [s for s in shapes if options.shape in (None, s.name)]:
        torch.compiler.reset()  # or the shapes together reach its limit of compiled versions
        n, skip = shape.batch_size * shape.updates, max(shape.updates // 5, 1)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30000, (n, shape.length), generator=generator).tolist()
        labels = [i % 2 for i in range(n)]
        runs = {
            f"{name}{', torch.compile' * compiled}": side(shape, ids, labels, compiled)
            for name, side in kinds.items()
            for compiled in (False, True)
        }
        start = encoder(shape, shortened=False).state_dict()  # shortened or not, the same weights
        seconds = {name: [] for name in runs}
        losses, memory = {}, {}
        for number in range(options.rounds + 1):
            for name in list(runs) if number % 2 else list(runs)[::-1]:
                forget()
                runs[name].model.load_state_dict(start)
                with Clock(skip, shape.updates) as clock:
                    losses[name] = runs[name].run()
                if number:  # the first one warms up and compiles
                    seconds[name].append(clock.seconds)
                if torch.cuda.is_available():
                    memory[name] = round(torch.cuda.max_memory_allocated() / 2**20)
                runs[name].model.to("cpu")  # or each side would count the others' weights
        peak = ceiling(512 if options.small else 8192)
        texts = shape.batch_size * (shape.updates - skip)
        for name, values in seconds.items():
            needed = common.operations(
                shape.depth, shape.width, texts * shape.length, texts * shape.length**2,
                runs[name].shortened,
            )  # fmt: skip
            ratios = [v / o for o, v in zip(seconds["ours"], values, strict=True)]
            median = statistics.median(values)
            yield {"shape": shape.name, "side": name,
                   "seconds": common.spread(values), "times_ours": common.spread(ratios),
                   "tokens_per_second": round(texts * shape.length / median),
                   "utilisation": round(needed / median / peak, 5),
                   "peak_memory_mb": memory.get(name), "updates": shape.updates - skip,
                   "batch_size": shape.batch_size, "ceiling_tflops": round(peak / 1e12, 1),
                   "precision": sides.precision(),
                   "rounds": options.rounds,
                   "losses": [round(x, 4) for x in (losses[name][0], losses[name][-1])],
                   }  # fmt: skip


def forget() -> None:
    """What earlier runs left: a Trainer's optimizer lives on in a circle of references."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@functools.cache
def reviews(split: str, max_length: int, limit: int | None, weights: str | None):
    """Token ids and labels of IMDB's official split, read without `datasets`."""
    source = environment.source(None)
    if not isinstance(source, Path):
        raise SystemExit("Set SFT_TEACH_SOURCE to a folder with stanfordnlp/imdb/*.jsonl.gz.")
    path = source / "stanfordnlp" / "imdb" / f"{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if limit:  # the official order is all of one label first
        rows = rows[:: max(len(rows) // limit, 1)][:limit]
    tokenizer = models.load_tokenizer(name=weights)
    ids = batching.tokenize([row["text"] for row in rows], tokenizer, max_length)
    return ids, [int(row["label"]) for row in rows]


def finetuned(
    options, seed: int, epochs: int, max_length: int, limit: int | None, precision: str = "auto"
) -> dict:
    """Train on the training half, answer the test half once. The rate was fixed beforehand."""
    ids, labels = reviews("train", max_length, limit, options.weights)
    held_out, truth = reviews("test", max_length, limit, options.weights)
    forget()
    model = models.load_encoder(label_names=LABELS, seed=seed, name=options.weights)
    config = training.TrainingConfig(
        learning_rate=1e-4, epochs=epochs, seed=seed, precision=precision
    )
    batches = LengthGroupedBatches(ids, labels, batch_size=32, seed=seed)
    history = training.fit(model, batches, config, progress=False)
    test = LengthGroupedBatches(held_out, truth, 128, shuffle=False)
    started = time.perf_counter()
    right = evaluation.predict(model, test, precision=precision).correct
    return {"seed": seed, "beside": options.beside, "n_train": len(ids), "n_test": len(truth),
            "epochs": epochs, "max_length": max_length, "batch_size": batches.batch_size,
            "setting": "MiniLM", "learning_rate": config.learning_rate,
            "precision": history.precision, "device": history.device,
            "accuracy": round(float(right.mean()), 5), "train_seconds": round(history.seconds, 1),
            "test_seconds": round(time.perf_counter() - started, 1),
            "tokens_per_second": round(history.tokens_per_second),
            "peak_memory_mb": round(history.peak_memory_mb),
            "losses": [round(sum(s["loss"] for s in part) / len(part), 4)
                       for part in (history.steps[:10], history.steps[-10:])]}  # fmt: skip


def imdb(options) -> Iterator[dict]:
    epochs, length, limit = (1, 32, 64) if options.small else (3, 512, None)
    for seed in options.seeds:
        yield finetuned(options, seed, epochs, length, limit)


def float16(options) -> Iterator[dict]:
    length, limit = (32, 64) if options.small else (256, 6400)
    yield finetuned(options, 0, 1, length, limit, precision="float16")


PARTS = {"throughput": throughput, "imdb": imdb, "float16": float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shape", help="of throughput, this one only")
    parser.add_argument(
        "--beside", type=int, default=0, help="so many other processes share the GPU: for the table"
    )
    parser.add_argument("--weights", help="the encoder's model folder")
    parser.add_argument("--try", dest="small", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.small:
        raise SystemExit("There is no CUDA device here. A small run on the CPU: add --try.")
    for row in PARTS[options.part](options):
        row = {"part": options.part} | row
        print(json.dumps(row), flush=True)
        key = {k: row[k] for k in ("part", "shape", "side", "seed") if k in row}
        common.add(
            "gpu", "Throughput, IMDB in full and float16 on a GPU", [row], options.output, **key
        )


if __name__ == "__main__":
    main()
