"""The full-scale runs behind the tables of README and notebooks 02, 05 and 06.

    sft-teach experiment sst5

writes `results/sst5.json`: one row per setting and seed, each written as soon as it is there, so
that a run that was stopped goes on where it was. SST-5 and IMDB are the official splits: they need
`SFT_TEACH_SOURCE=hub` or a directory that holds them.

Protocol: settings are chosen on validation data; the test set is looked at once per row, after the
last update (no checkpoint is picked). A seed decides the new head, the order of the data, dropout
and, where only a part of the data is used, which part.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sft_teach import environment, speed
from sft_teach.errors import DataError

SEEDS = (0, 1, 2)
WORD_COUNTS = "TF-IDF + logistic regression"
LEARNING_RATES = (5e-5, 1e-4, 2e-4)
Row = dict


def run(
    name: str, output: str | Path | None = None, source: str | Path | None = None, limit: int = 0
) -> Path:
    """Run one experiment, or what is left of it, and return the path of its results.

    Args:
        name: a key of `EXPERIMENTS`.
        output: folder for NAME.json; None is the project's `results/`.
        source: where the data come from, as in `sft_teach.data.load`.
        limit: at most so many training and test examples (for trying out; the rows say n).

    Raises:
        DataError: an unknown name, or a folder that cannot be written to.
    """
    if name not in EXPERIMENTS:
        raise DataError(f"There is no experiment {name!r}. There are: {', '.join(EXPERIMENTS)}.")
    make_rows, description = EXPERIMENTS[name]
    path = Path(output or environment.results_dir()) / f"{name}.json"
    require_writable(path.parent, "give run(..., output=) another folder")
    results = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    results |= {
        "experiment": name,
        "description": description,
        "command": f"sft-teach experiment {name}",
        "machine": machine(),
    }
    work = Folder(path, results["rows"], limit, environment.source(source))
    for row in make_rows(work):
        # A table can be finished on another machine than it was begun on: each row names its own.
        results["rows"].append({"machine": results["machine"]} | row)
        _write(path, results)
        print(f"{name}: {_line(row)}", flush=True)
    return path


class Folder:
    """What an experiment needs to know: which rows are done, where the data are."""

    def __init__(self, path: Path, rows: list[Row], limit: int, source: str | Path):
        self.rows, self.limit, self.source = rows, limit, source
        self.checkpoints = path.parent.parent / "build" / "experiments" / path.stem

    def done(self, **key) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def load(self, name: str):
        from sft_teach import data

        splits = data.load(name, self.source, show=False)
        if self.limit:
            for split in splits:
                splits[split] = data.subset(splits[split], min(self.limit, len(splits[split])))
        return splits


def _write(path: Path, results: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, path)


def require_writable(folder: Path, otherwise: str) -> None:
    """Find out before an hour of work that its result could not be saved.

    Raises:
        DataError: with what else the user could do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"Cannot write results to {folder} ({error.strerror}). Make it writable, or "
            f"{otherwise}."
        ) from error


def _line(row: Row) -> str:
    skip = ("predictions", "curve")
    shown = {k: v for k, v in row.items() if k not in skip and not isinstance(v, (list, dict))}
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in shown.items())


def machine() -> dict[str, str | int | bool]:
    """What the seconds in a table were measured on.

    `cpu_bfloat16`: whether the processor has units for it, which its name does not tell.
    """
    import torch
    import transformers

    from sft_teach.training import choose_precision

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": cpu,
        "cpu_bfloat16": choose_precision(device="cpu") == torch.bfloat16,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def measured_on(rows: list[Row]) -> str:
    """One line per kind of machine: what a table's seconds are, and where they were measured."""
    lines = {}
    for row in rows:
        wall = row["machine"]["gpu"] != "none" or row.get("resumed")
        kind = "wall time" if wall else "processor time per thread"
        where = f"seconds are {kind} on {speed.place(row['machine'], ['torch'])}"
        what = f"{row.get('setting', row.get('data', ''))}, seed {row['seed']}"
        lines.setdefault(where, []).append(what)
    if len(lines) == 1:
        return "".join(lines)
    return "\n".join(f"{where} ({'; '.join(what)})" for where, what in lines.items())


def scores(predictions) -> Row:
    """The numbers of one row: accuracy with its interval, and the rest of the report."""
    from sft_teach import evaluation

    report = evaluation.report(predictions)
    return {
        "n_test": report.n,
        "accuracy": round(report.accuracy, 5),
        "interval": [round(v, 5) for v in report.accuracy_interval],
        "macro_f1": round(report.macro_f1, 5),
        "mae": round(report.mae, 5),
        "kappa": round(report.kappa, 5),
        "ece": round(report.ece, 5),
        "confusion": report.confusion.tolist(),
        # One digit per test example in the split's order: enough for McNemar and for slices.
        "predictions": "".join(str(int(p)) for p in predictions.predicted),
    }


def finetune(
    work: Folder,
    splits,
    test,
    *,
    seed: int,
    max_length: int,
    epochs: int,
    learning_rate: float,
    truncation: str = "head",
    batch_size: int = 32,
    checkpoint: str | None = None,
    **config,
) -> Row:
    """Fine-tune MiniLM on splits["train"] and score it once on `test` (None: not at all).

    The seconds are processor time divided by the threads: what the run takes when it has the
    machine for itself, also if the machine did other things meanwhile. On a GPU they are wall time.
    """
    from sft_teach import batching, data, evaluation, models, training

    names = data.label_names(splits["train"])
    tokenizer = models.load_tokenizer()
    model = models.load_encoder(len(names), label_names=names, seed=seed)
    train = batching.make_batches(
        splits["train"], tokenizer, max_length, batch_size, seed=seed, truncation=truncation
    )
    validation = None
    if "validation" in splits:
        validation = batching.make_batches(
            splits["validation"], tokenizer, max_length, 64, shuffle=False, truncation=truncation
        )
    settings = training.TrainingConfig(
        epochs=epochs, learning_rate=learning_rate, seed=seed, checkpoint_every=100, **config
    )
    folder = None if checkpoint is None else work.checkpoints / checkpoint
    started = folder is not None and any(folder.glob("step-*/state.json"))
    clock = stop_watch()
    history = training.fit(
        model, train, settings, validation=validation,
        output_dir=folder, resume_from=folder if started else None,
    )  # fmt: skip
    row = {
        "seed": seed,
        "n_train": len(splits["train"]),
        "epochs": epochs,
        "max_length": max_length,
        "learning_rate": learning_rate,
        "precision": history.precision,
        "device": history.device,
        "source": environment.kind(work.source),
        # A clock in this process knows nothing of what came before the run was resumed.
        "train_seconds": round(history.seconds if started else clock()),
        "resumed": started,
        "train_tokens": history.tokens,
        "validation": [round(e["accuracy"], 5) for e in history.evaluations],
    }
    if test is not None:
        batches = batching.make_batches(
            test, tokenizer, max_length, 16, shuffle=False, truncation=truncation
        )
        clock = stop_watch()
        predictions = evaluation.predict(model, batches, progress=True)
        row |= {"test_seconds": round(clock())} | scores(predictions)
    return row


def stop_watch() -> Callable[[], float]:
    """Seconds since this call: wall time on a GPU, else processor time per thread."""
    import torch

    if torch.cuda.is_available():
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    start = time.process_time()
    return lambda: (time.process_time() - start) / torch.get_num_threads()


# --- the experiments -----------------------------------------------------------------------------


def tfidf_rows(work: Folder) -> Iterator[Row]:
    """TF-IDF with logistic regression on both data sets in full, C chosen by cross-validation."""
    for name in ("sst5", "imdb"):
        if not work.done(data=name):
            splits = work.load(name)
            yield {"data": name} | word_counts(splits["train"], splits["test"], seed=0)


def word_counts(train, test, seed: int) -> Row:
    """The row of TF-IDF with logistic regression, learned from `train`, scored on `test`."""
    from sft_teach import data, evaluation

    texts, labels = data.texts_and_labels(train)
    clock = stop_watch()
    model = evaluation.tfidf_baseline(seed=seed).fit(texts, labels)
    row = {"setting": WORD_COUNTS, "seed": seed, "n_train": len(train),
           "train_seconds": round(clock(), 1)}  # fmt: skip
    texts, labels = data.texts_and_labels(test)
    predictions = evaluation.Predictions.from_probabilities(model.predict_proba(texts), labels)
    return row | scores(predictions)


def sst5_rows(work: Folder) -> Iterator[Row]:
    """MiniLM on the official SST-5: learning rate chosen on validation data, then all seeds."""
    splits = work.load("sst5")
    recipe = dict(max_length=128, epochs=3)
    for rate in LEARNING_RATES:  # validation only; the test set is not looked at here
        if not work.done(setting="selection", learning_rate=rate):
            row = finetune(work, splits, None, seed=100, learning_rate=rate, **recipe)
            yield {"data": "sst5", "setting": "selection"} | row
    rate = chosen_rate(work.rows)
    for seed in SEEDS:
        if not work.done(setting="MiniLM", seed=seed):
            row = finetune(work, splits, splits["test"], seed=seed, learning_rate=rate, **recipe)
            yield {"data": "sst5", "setting": "MiniLM"} | row


def chosen_rate(rows: list[Row]) -> float:
    """The learning rate whose last epoch did best on validation data."""
    grid = [row for row in rows if row["setting"] == "selection"]
    return max(grid, key=lambda row: row["validation"][-1])["learning_rate"]


def imdb_rows(work: Folder) -> Iterator[Row]:
    """MiniLM on all of IMDB's official split at 256 tokens, one epoch.

    The learning rate is SST-5's usual 1e-4, not tuned here: no validation data are held out, so
    that all 25,000 reviews can be trained on. An update sees 32 reviews, as two batches of 16:
    fewer activations at a time leave a CPU's cache.
    """
    splits = work.load("imdb")
    for seed in (0,):
        if not work.done(setting="MiniLM", seed=seed):
            row = finetune(
                work, {"train": splits["train"]}, splits["test"], seed=seed, max_length=256,
                epochs=1, learning_rate=1e-4, batch_size=16, accumulation_steps=2,
                checkpoint=f"seed-{seed}",
            )  # fmt: skip
            yield {"data": "imdb", "setting": "MiniLM"} | row


def truncation_rows(work: Folder) -> Iterator[Row]:
    """Which 128 tokens of a long review to keep: the first, the last, or some of both."""
    from sft_teach import data

    splits = work.load("imdb")
    size = min(5000, len(splits["train"]), len(splits["test"]))
    test = data.subset(splits["test"], size, seed=0)
    for seed in SEEDS:
        part = {"train": data.subset(splits["train"], size, seed=seed)}
        for truncation in ("head", "tail", "both"):
            if work.done(setting=truncation, seed=seed):
                continue
            row = finetune(
                work, part, test, seed=seed, max_length=128, epochs=1, learning_rate=1e-4,
                truncation=truncation,
            )  # fmt: skip
            yield {"data": "imdb", "setting": truncation} | row


def sizes_rows(work: Folder) -> Iterator[Row]:
    """From few labels: word counts and MiniLM on the same reviews, and on sentences.

    Reviews are cut to 128 tokens of both ends and tested on the reviews of `truncation_rows`, whose
    rows go on where these end. The rate is 1e-4, fixed beforehand.
    """
    from sft_teach import data

    for name, sizes in (("imdb", (1000, 2000, 5000)), ("rotten_tomatoes", (2000,))):
        splits = work.load(name)
        test = data.subset(splits["test"], min(5000, len(splits["test"])), seed=0)
        for n, seed in itertools.product(sizes, SEEDS):
            part = {"train": data.subset(splits["train"], min(n, len(splits["train"])), seed=seed)}
            key = {"data": name, "n_train": len(part["train"]), "seed": seed}
            if not work.done(setting=WORD_COUNTS, **key):
                yield {"data": name} | word_counts(part["train"], test, seed)
            if n < 5000 and not work.done(setting="MiniLM", **key):
                row = finetune(
                    work, part, test, seed=seed, max_length=128, epochs=2, learning_rate=1e-4,
                    truncation="both", batch_size=16,
                )  # fmt: skip
                yield {"data": name, "setting": "MiniLM"} | row


def weights_rows(work: Folder) -> Iterator[Row]:
    """Class weights and label smoothing on all of SST-5, beside the plain loss.

    The learning rate is the one that `sst5_rows` chose for the plain loss, where it has been run.
    """
    import numpy as np

    splits = work.load("sst5")
    counts = np.bincount(splits["train"]["label"])
    balanced = (counts.sum() / (len(counts) * counts)).tolist()  # scikit-learn's "balanced"
    reference = _sst5_rows(work)
    rate = chosen_rate(reference) if reference else 1e-4
    settings = {
        "plain": {},
        "class weights": {"class_weights": balanced},
        "label smoothing 0.1": {"label_smoothing": 0.1},
    }
    for seed in SEEDS:
        for name, config in settings.items():
            if not work.done(setting=name, seed=seed):
                # The plain loss at that seed and rate is the reference run itself.
                same = [r for r in reference if (r["setting"], r["seed"]) == ("MiniLM", seed)]
                row = same[0] if same and name == "plain" else finetune(
                    work, splits, splits["test"], seed=seed, max_length=128, epochs=3,
                    learning_rate=rate, **config,
                )  # fmt: skip
                yield {"data": "sst5"} | row | {"setting": name}


def _sst5_rows(work: Folder) -> list[Row]:
    """The rows of `results/sst5.json`, whose learning rate was chosen on validation data."""
    path = environment.results_dir() / "sst5.json"
    return json.loads(path.read_text())["rows"] if path.is_file() and not work.limit else []


def pretraining_rows(work: Folder) -> Iterator[Row]:
    """What pretraining pays: random weights, own pretraining and MiniLM at 50 to 1,000 labels.

    Rotten Tomatoes; pretrained on the training texts of IMDB and Rotten Tomatoes.
    """
    from sft_teach import pretraining

    splits, texts = work.load("rotten_tomatoes"), unlabelled(work)
    done = {(row["setting"], row["labels"], row["seed"]) for row in work.rows}
    about = {"data": "rotten_tomatoes", "source": environment.kind(work.source)}
    for row in pretraining.pretraining_rows(
        splits, texts, SEEDS, done=done, cache=work.checkpoints
    ):
        yield about | row


def masked_rows(work: Folder) -> Iterator[Row]:
    """What a masked model learns from the text that the own causal model was pretrained on."""
    from sft_teach import pretraining

    if not work.done(setting="masked language model"):
        row = pretraining.masked_row(unlabelled(work), work.checkpoints)
        yield {"source": environment.kind(work.source)} | row


def unlabelled(work: Folder) -> list[str]:
    """The training texts of IMDB and Rotten Tomatoes."""
    parts = (work.load(name)["train"]["text"] for name in ("imdb", "rotten_tomatoes"))
    return [text for part in parts for text in part]


EXPERIMENTS: dict[str, tuple[Callable[[Folder], Iterator[Row]], str]] = {
    "tfidf": (tfidf_rows, "TF-IDF + logistic regression on the official SST-5 and IMDB, all data"),
    "sst5": (sst5_rows, "MiniLM fine-tuned on the official SST-5, all data, 3 epochs"),
    "imdb": (imdb_rows, "MiniLM fine-tuned on all 25,000 IMDB reviews, 256 tokens, one epoch"),
    "truncation": (truncation_rows, "IMDB: which 128 tokens to keep, 5,000 reviews, one epoch"),
    "sizes": (sizes_rows, "From 1,000 to 5,000 labels: TF-IDF and MiniLM, reviews and sentences"),
    "weights": (weights_rows, "SST-5: class weights and label smoothing, all data, 3 epochs"),
    "pretraining": (pretraining_rows, "Fine-tuning from random, own and published pretraining"),
    "masked": (masked_rows, "A masked language model of our own on the same text, by kind of gap"),
}
