"""Keep the tables of README.md and docs/speed.md equal to results/: `sft-teach results`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sft_teach import speed
from sft_teach.errors import DataError

BEGIN, END = "<!-- results:begin (sft-teach results) -->", "<!-- results:end -->"
SPEED_BEGIN, SPEED_END = "<!-- speed:begin (sft-teach results) -->", "<!-- speed:end -->"
DATA = {"sst5": "SST-5, official split", "imdb": "IMDB, official split"}
SETTINGS = {"MiniLM": "MiniLM, fine-tuned"}
# Published accuracies on the same test sets, in percent, with what papers and code say about
# how they came about; the models are 3 to 15 times as large.
_MUNIKAR = "[Munikar et al. 2019](https://arxiv.org/abs/1910.03474)"
_CHEANG = "[Cheang et al. 2020](https://arxiv.org/abs/2005.13619)"
_SANH = "[Sanh et al. 2019](https://arxiv.org/abs/1910.01108), table 2"
_NO_PROTOCOL = "one number; tokens, epochs and seeds not stated"
_CODE = "up to 29 epochs by its code; one number"
PUBLISHED = [
    ("sst5", "BERT-base", "53.2", _MUNIKAR, f"sentences or phrases, {_CODE}"),
    ("sst5", "BERT-large", "55.5", _MUNIKAR, f"sentences or phrases, {_CODE}"),
    ("sst5", "RoBERTa-large", "60.2", _CHEANG, f"sentences, {_CODE}"),
    ("imdb", "BERT-base", "93.5", _SANH, _NO_PROTOCOL),
    ("imdb", "DistilBERT", "92.8", _SANH, _NO_PROTOCOL),
]


def refresh(folder: Path) -> list[str]:
    """Rewrite README.md and docs/speed.md in `folder` from `folder`/results; what that changed.

    Raises:
        DataError: a page has lost its markers, or cannot be written.
    """
    changed = []
    for name, tables in (("README.md", _readme), ("docs/speed.md", with_benchmarks)):
        path = folder / name
        if not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        after = tables(before, folder / "results")
        if after != before:
            try:
                path.write_text(after, encoding="utf-8")
            except OSError as error:
                raise DataError(
                    f"Cannot write {path} ({error.strerror}). Make it writable: the tables in it "
                    "are to follow results/."
                ) from error
            changed.append(name)
    return changed


def _readme(text: str, results: Path) -> str:
    return with_results(with_minutes(text, results), results)


def with_benchmarks(text: str, results: Path) -> str:
    """docs/speed.md with the table of each benchmark that it has a place for."""
    for name in re.findall(r"<!-- (\w+):begin \(sft-teach results\) -->", text):
        begin, end = f"<!-- {name}:begin (sft-teach results) -->", f"<!-- {name}:end -->"
        text = _between(text, begin, end, speed.details(results, name))
    return text


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
    return _between(text, SPEED_BEGIN, SPEED_END, speed.summary(results))


def _between(text: str, begin: str, end: str, table: str) -> str:
    if begin not in text or end not in text:
        raise DataError(f"The page has lost its markers: expected {begin} and {end}.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def _read(results: Path, name: str) -> dict:
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _table(results: Path) -> str:
    lines = [
        "| Data | Model | Train / test texts | Protocol | Seeds | Accuracy % [95 %] | Macro-F1 % "
        "| Train s per seed | Precision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    machines = []
    for data, title in DATA.items():
        for name in ("tfidf", data, "benchmark-gpu"):
            contents = _read(results, name)
            rows = [r for r in contents.get("rows", []) if _belongs(r, data)]
            if rows:
                lines.append(f"| {title} | {_cells(rows)} |")
                machines += [speed.machine(row.get("machine", contents["machine"])) for row in rows]
        lines += [
            f"| {title} | {model} | | {protocol} | | {accuracy}, {source} | | | |"
            for where, model, accuracy, source, protocol in PUBLISHED
            if where == data
        ]
    notes = (
        "One seed: bootstrap interval over test texts; several: mean and t interval over seeds. "
        "Seconds are processor time per thread, what the run takes on a machine of its own; on a "
        "GPU wall time."
    )
    return "\n".join([*lines, "", " ".join([notes, *dict.fromkeys(machines)])])


def _belongs(row: dict, data: str) -> bool:
    """Is it a score on this data set? The GPU benchmark has one on all of IMDB."""
    return "accuracy" in row and data in (row.get("data"), row.get("part"))


def _cells(rows: list[dict]) -> str:
    """The cells after the data set's name, for the seeds of one model."""
    from sft_teach.evaluation import seeds_summary

    first, accuracy = rows[0], [row["accuracy"] for row in rows]
    mean, low, high = seeds_summary(accuracy) if len(rows) > 1 else (*accuracy, *first["interval"])
    macro_f1 = [row["macro_f1"] for row in rows if "macro_f1" in row]
    # Of a resumed run only the wall time is known, and that is no row of this column.
    seconds = [row["train_seconds"] for row in rows if not row.get("resumed")]
    cells = [
        SETTINGS.get(first["setting"], first["setting"]),
        f"{first['n_train']:,} / {first['n_test']:,}",
        _protocol(first),
        str(len(rows)),
        f"**{100 * mean:.1f}** [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * sum(macro_f1) / len(macro_f1):.1f}" if macro_f1 else "",
        f"{sum(seconds) / len(seconds):,.0f}{speed.shared(first)}" if seconds else "",
        first.get("precision", ""),
    ]
    return " | ".join(cells)


def _protocol(row: dict) -> str:
    """How a row came about; nothing was ever picked by the test set."""
    if "epochs" not in row:
        return "C by cross-validation on the training texts"
    chosen = "chosen on validation data" if row.get("validation") else "fixed beforehand"
    epochs = f"{row['epochs']} epoch" + "s" * (row["epochs"] != 1)
    where = " (on the GPU)" if row.get("device") == "cuda" else ""
    tokens = f"first {row['max_length']} tokens"
    return f"{epochs}, {tokens}, rate {row['learning_rate']:g} {chosen}{where}"
