"""Keep README's numbers equal to the files in results/: `sft-teach results` rewrites them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sft_teach.errors import DataError

BEGIN, END = "<!-- results:begin (sft-teach results) -->", "<!-- results:end -->"
SPEED_BEGIN, SPEED_END = "<!-- speed:begin (sft-teach results) -->", "<!-- speed:end -->"
DATA = {"sst5": "SST-5, official split", "imdb": "IMDB, official split"}
SETTINGS = {"MiniLM": "MiniLM, fine-tuned"}
# Published accuracies on the same test sets, in percent; the models are 3 to 15 times as large.
PUBLISHED = [
    ("sst5", "BERT-base", "53.2", "[Munikar et al. 2019](https://arxiv.org/abs/1910.03474)"),
    ("sst5", "BERT-large", "55.5", "[Munikar et al. 2019](https://arxiv.org/abs/1910.03474)"),
    ("sst5", "RoBERTa-large", "60.2", "[Cheang et al. 2020](https://arxiv.org/abs/2005.13619)"),
    ("imdb", "BERT-base", "93.5", "[Sanh et al. 2019](https://arxiv.org/abs/1910.01108)"),
    ("imdb", "DistilBERT", "92.8", "[Sanh et al. 2019](https://arxiv.org/abs/1910.01108)"),
]


def refresh(folder: Path) -> bool:
    """Rewrite README.md in `folder` from `folder`/results; True if that changed anything."""
    path = folder / "README.md"
    before = path.read_text(encoding="utf-8")
    after = with_results(with_minutes(before, folder / "results"), folder / "results")
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def with_minutes(text: str, results: Path) -> str:
    """The course map with the recorded minutes in the last cell of each notebook's row."""
    for row in _read(results, "notebook_seconds").get("rows", []):
        link = re.escape(f"(notebooks/{row['notebook']}.ipynb)")
        minutes = f"{row['seconds'] / 60:.1f}"
        text = re.sub(rf"^(\|.*{link}.*\|)[^|\n]*\|$", rf"\1 {minutes} |", text, flags=re.MULTILINE)
    return text


def with_results(text: str, results: Path) -> str:
    """The tables between the markers: one row per data set and model, one per benchmark."""
    text = _between(text, BEGIN, END, _table(results))
    return _between(text, SPEED_BEGIN, SPEED_END, _speed(results))


def _between(text: str, begin: str, end: str, table: str) -> str:
    if begin not in text or end not in text:
        raise DataError(f"README.md has lost its markers: expected {begin} and {end}.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def _read(results: Path, name: str) -> dict:
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _table(results: Path) -> str:
    lines = [
        "| Data | Model | Train / test texts | Seeds | Accuracy % [95 %] | Macro-F1 % "
        "| Train s per seed | Precision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    machines = []
    for data, title in DATA.items():
        for name in ("tfidf", data):
            contents = _read(results, name)
            rows = [r for r in contents.get("rows", []) if r["data"] == data and "accuracy" in r]
            if rows:
                lines.append(f"| {title} | {_cells(rows)} |")
                machines += [_machine(row.get("machine", contents["machine"])) for row in rows]
        lines += [
            f"| {title} | {model} | | | {accuracy}, {source} | | | |"
            for where, model, accuracy, source in PUBLISHED
            if where == data
        ]
    notes = "One seed: bootstrap interval over test texts; several: mean and t interval over seeds."
    return "\n".join([*lines, "", " ".join([notes, *dict.fromkeys(machines)])])


def _cells(rows: list[dict]) -> str:
    """The cells after the data set's name, for the seeds of one model."""
    from sft_teach.evaluation import seeds_summary

    first, accuracy = rows[0], [row["accuracy"] for row in rows]
    mean, low, high = seeds_summary(accuracy) if len(rows) > 1 else (*accuracy, *first["interval"])
    seconds = [row["train_seconds"] for row in rows if row.get("train_seconds") is not None]
    cells = [
        SETTINGS.get(first["setting"], first["setting"]),
        f"{first['n_train']:,} / {first['n_test']:,}",
        str(len(rows)),
        f"**{100 * mean:.1f}** [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * sum(row['macro_f1'] for row in rows) / len(rows):.1f}",
        f"{sum(seconds) / len(seconds):,.0f}" if seconds else "",
        first.get("precision", ""),
    ]
    return " | ".join(cells)


def _speed(results: Path) -> str:
    """What `make benchmark` measured; what it has not yet is said to be so."""
    lines = ["| Measured | Ours | Compared with | Ratio |", "|---|---|---|---|"]
    machines = []
    for name, rows_of in _BENCHMARKS.items():
        contents = _read(results, f"benchmark-{name}")
        if contents:
            lines += [f"| {row} |" for row in rows_of(contents["rows"])]
            machines.append(_machine(contents["machine"]))
        else:
            lines.append(f"| {name} (`benchmarks/{name}.py`) | not measured | | |")
    lines.append("| everything on a GPU | not measured | | |")
    notes = ["Medians; grading: one run.", *dict.fromkeys(machines)]
    return "\n".join([*lines, "", " ".join(notes)])


def _training_rows(rows: list[dict]) -> list[str]:
    words = {"best": "same precision, both at their best", "defaults": "defaults of both"}
    return [
        f"Training, {row['job']}; {words[row['comparison']]} "
        f"| {row['seconds']['ours']['median']} s "
        f"| `transformers.Trainer` {row['seconds']['Trainer']['median']} s "
        f"| {_range(row['speed_ratio'])} times as fast"
        for row in rows
        if row["comparison"] in words
    ]


def _evaluation_rows(rows: list[dict]) -> list[str]:
    ours, *others = rows
    best = min(others, key=lambda row: row["seconds"]["median"])
    usual = [row for row in others if row["side"].endswith("batch 16") and row is not best]
    return [
        f"{ours['texts']} reviews to answers | {ours['seconds']['median']} s "
        f"| `transformers.{row['side']}` {row['seconds']['median']} s "
        f"| {_range(row['times_ours'])} times as fast"
        for row in (best, *usual)
    ]


def _grading_rows(rows: list[dict]) -> list[str]:
    *ours, stock = rows
    return [
        f"Grading {row.get('submissions', 50)} submissions, `{row['side']}` | {row['seconds']} s "
        f"| `{stock['side']}` {stock['seconds']} s | {row['ratio']:.2f} of its time"
        for row in ours
    ]


def _startup_rows(rows: list[dict]) -> list[str]:
    return [f"{row['what']} | {row['seconds']['median']} s | | " for row in rows]


def _range(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})"


_BENCHMARKS = {
    "training": _training_rows,
    "evaluation": _evaluation_rows,
    "startup": _startup_rows,
    "grading": _grading_rows,
}


def _machine(machine: dict) -> str:
    gpu = "no GPU" if machine["gpu"] == "none" else machine["gpu"]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    return f"Machine: {machine['cpu']}, {threads}, {gpu}, torch {machine['torch']}."
