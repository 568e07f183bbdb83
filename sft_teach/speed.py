"""The tables of README.md and docs/speed.md that show results/benchmark-*.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

NOT_MEASURED = "not measured"
Table = list[list[str]]


def read(results: Path, name: str) -> dict:
    path = results / f"benchmark-{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def machine(machine: dict) -> str:
    """One sentence about what the numbers were measured on."""
    return f"Machine: {place(machine)}."


def place(machine: dict, packages: Iterable[str] = ("torch", "transformers", "accelerate")) -> str:
    """Processor, threads, GPU and versions of a machine, as `experiments.machine` tells them."""
    gpu = "no GPU" if machine["gpu"] == "none" else machine["gpu"]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    versions = [
        f"{name} {machine[name]}" for name in packages if machine.get(name, "none") != "none"
    ]
    units = {None: "", True: " with bfloat16 units", False: " without bfloat16 units"}
    return ", ".join([
        machine["cpu"] + units[machine.get("cpu_bfloat16")], threads, gpu, *versions
    ])  # fmt: skip


def machines(contents: dict, parts: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Where the rows of one benchmark (of these `parts` only) were measured, and what there."""
    whole = contents["machine"]  # rows may have been measured elsewhere, or tell less
    found: dict[str, list[str]] = {}
    for row in contents["rows"] or [{}]:
        if not parts or row.get("part") in parts:
            measured = found.setdefault(place(whole | row.get("machine", {})), [])
            label = next((row[key] for key in ("shape", "part", "job") if key in row), "the rest")
            if label not in measured:
                measured.append(label)
    return found


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def spread(value: dict[str, float]) -> str:
    """Median, with the smallest and the largest."""
    form = ",.0f" if value["max"] >= 1000 else ".3g"
    return f"{value['median']:{form}} ({value['min']:{form}} to {value['max']:{form}})"


# --- README: a line or two for each benchmark ----------------------------------------------------


def summary(results: Path) -> str:
    """What `make benchmark` measured, shortly; what it has not yet is said to be so."""
    rows: Table = []
    measured_on: dict[str, list[str]] = {}
    for name, rows_of in _SUMMARIES.items():
        contents = read(results, name)
        if contents:
            rows += rows_of(contents)
            for where in machines(contents, _PARTS.get(name, ())):
                measured_on.setdefault(where, []).append(name)
        else:
            rows.append([f"{name} (`benchmarks/{name}.py`)", NOT_MEASURED, "", ""])
    notes = [
        "Medians (smallest to largest); grading: one run each.",
        *(f"Machine of {', '.join(names)}: {where}." for where, names in measured_on.items()),
    ]
    table = markdown(["Measured", "Ours", "Compared with", "Ratio"], rows)
    return f"{table}\n\n{' '.join(notes)}"


_COMPARISONS = {
    "best": "same precision, both at their best",
    "loop": "same precision and the same model",
    "defaults": "defaults of both",
}


def _precisions(row: dict) -> str:
    """Of a comparison with Trainer, whose default is float32 everywhere."""
    of = row.get("of", row["comparison"])
    other = "float32" if of == "defaults" else row["precision"]
    return row["precision"] if other == row["precision"] else f"{row['precision']} / {other}"


def _training(contents: dict) -> Table:
    speeds = [
        [
            f"Training, {row['job']}; {_COMPARISONS[row['comparison']]}; {_precisions(row)}",
            f"{row['tokens_per_second']['ours']['median']:,.0f} tokens/s",
            f"`transformers.Trainer` {row['tokens_per_second']['Trainer']['median']:,.0f} tokens/s",
            f"{spread(row['speed_ratio'])} times as fast",
        ]
        for row in contents["rows"]
        if row["comparison"] in _COMPARISONS
    ]
    peaks = []
    for row in contents["rows"]:
        if row["comparison"] == "memory" and not row.get("one_kernel_kept"):
            ours, theirs = (row["peak_memory_mb"][s]["median"] for s in ("ours", "Trainer"))
            peaks.append([
                f"Peak memory, {row['job']}; {_COMPARISONS[row['of']]}; {_precisions(row)}",
                f"{ours:,.0f} MB",
                f"`transformers.Trainer` {theirs:,.0f} MB",
                f"{ours / theirs:.2f} times as much",
            ])  # fmt: skip
    return speeds + peaks


def _time_to_accuracy(contents: dict) -> Table:
    rows = []
    for row in contents["rows"]:
        if "comparison" in row:
            seconds = row["seconds"]
            other = row["comparison"].replace("Trainer", "`transformers.Trainer`")
            rows.append([
                f"Training to one point below the last accuracy, {row['job']}",
                f"{seconds['ours']['median']:.3g} s",
                f"{other} {seconds['Trainer']['median']:.3g} s",
                f"{spread(row['speed_ratio'])} times as fast",
            ])  # fmt: skip
    return rows


def _evaluation(contents: dict) -> Table:
    ours, *others = contents["rows"]
    best = min(others, key=lambda row: row["seconds"]["median"])
    unsorted = [row for row in others if row["side"].startswith("pipeline, batch 16")
                and "sorted" not in row["side"]]  # fmt: skip
    usual = min(unsorted, key=lambda row: row["seconds"]["median"])
    return [
        [
            f"{ours['texts']} reviews to answers",
            f"{ours['seconds']['median']:.3g} s",
            f"`transformers.{row['side'].replace(',', '`,', 1)} {row['seconds']['median']:.3g} s",
            f"{spread(row['times_ours'])} times as fast",
        ]
        for row in ((best,) if usual is best else (best, usual))
    ]


def _startup(contents: dict) -> Table:
    return [[row["what"], f"{row['seconds']['median']:.3g} s", "", ""] for row in contents["rows"]
            if "beyond" not in row["what"]]  # fmt: skip


def _scaling(contents: dict) -> Table:
    words = {"length": "sequence length", "batch": "batch size", "depth": "number of layers"}
    return [
        [f"Twice the {words[axis]}: an update takes", f"{2 ** found['measured']:.2f} times as long",
         f"operations: {2 ** found['theory']:.2f} times", ""]
        for axis, found in contents["slopes"].items()
    ]  # fmt: skip


def _resume(contents: dict) -> Table:
    answer = {True: "equal bit for bit", False: "different"}
    return [
        [f"MiniLM killed {row['kills']} times and resumed, {row['precision']}",
         answer[row["equal_bit_for_bit"]], "the run left alone", ""]
        for row in contents["rows"]
    ]  # fmt: skip


def _grading(contents: dict) -> Table:
    *ours, stock = contents["rows"]
    return [
        [
            f"Grading {row.get('submissions', 50)} submissions, `{row['side']}`",
            f"{row['seconds']} s",
            f"`{stock['side']}` {stock['seconds']} s",
            f"{1 / row['ratio']:.2f} times as fast",
        ]
        for row in ours
    ]


def _gpu(contents: dict) -> Table:
    """Ours at its best against Trainer at its best; IMDB in full."""
    rows, measured = [], [row for row in contents["rows"] if row["part"] == "throughput"]
    for shape in dict.fromkeys(row["shape"] for row in measured):
        sides = [row for row in measured if row["shape"] == shape]
        ours, theirs = (
            max(
                (row for row in sides if row["side"].startswith(name)),
                key=lambda row: row["tokens_per_second"],
                default=None,
            )
            for name in ("ours", "Trainer")
        )
        other = ratio = NOT_MEASURED
        if theirs:
            side = theirs["side"].replace("Trainer", "`transformers.Trainer`")
            other = f"{side} {theirs['tokens_per_second']:,} tokens/s"
            ratio = f"{ours['tokens_per_second'] / theirs['tokens_per_second']:.2f} times as fast"
        said = f"On a GPU, {shape}; {ours['side']}; utilisation {ours['utilisation']:.2f}"
        rows.append([said, f"{ours['tokens_per_second']:,} tokens/s", other, ratio])
    if imdb := [row for row in contents["rows"] if row["part"] == "imdb"]:
        seconds = [row["train_seconds"] for row in imdb]
        scores = ", ".join(f"{100 * row['accuracy']:.1f}" for row in imdb)
        first = imdb[0]
        said = (
            f"On a GPU, IMDB in full: {first['n_train']:,} reviews, {first['max_length']} tokens, "
            f"{first['epochs']} epochs"
        )
        took = f"{statistics.median(seconds):g} s{shared(first)}, accuracy {scores} %"
        rows.append([said, took, "", ""])
    return rows


def shared(row: dict) -> str:
    """That a GPU was not this run's alone."""
    others = row.get("beside")
    return f" (beside {others} other processes)" if others else ""


_SUMMARIES: dict[str, Callable[[dict], Table]] = {
    "training": _training,
    "time_to_accuracy": _time_to_accuracy,
    "evaluation": _evaluation,
    "startup": _startup,
    "scaling": _scaling,
    "resume": _resume,
    "grading": _grading,
    "gpu": _gpu,
}


# What README shows of a benchmark that measures more.
_PARTS = {"training": ("speed", "memory")}


# --- docs/speed.md: everything that a benchmark found --------------------------------------------


def details(results: Path, name: str) -> str:
    """The whole table of one benchmark, with command and machine."""
    contents = read(results, name)
    if not contents:
        return f"Not measured yet: `python benchmarks/{name}.py`."
    header, rows = _DETAILS[name](contents)
    places = machines(contents)
    where = [f"Machine of {'; '.join(measured)}: {at}." for at, measured in places.items()]
    if len(places) == 1:
        where = [f"Machine: {at}." for at in places]
    said = [*_same(contents["rows"]), f"`{contents['command']}`.", *where]
    tables = [markdown(header, rows)]
    if name == "training":
        tables += _beside(contents["rows"])
    if name == "time_to_accuracy":
        tables += _per_seed(contents["rows"])
    return "\n\n".join([*tables, " ".join(said)])


def _same(rows: list[dict]) -> list[str]:
    """Do both sides train the same thing?"""
    return [
        f"In {row['precision']}, with one order of the texts and without dropout, the losses of "
        f"both sides over {row['updates']} updates differ by at most about "
        f"{row['largest_difference']:.2g} "
        f"({row['losses']['ours'][0]:.4f} to {row['losses']['ours'][-1]:.4f})."
        for row in rows
        if row.get("comparison") == "same"
    ]


def _beside(rows: list[dict]) -> list[str]:
    """What training was measured by besides its speed: memory, and does the faster learn less?"""
    tables = []
    memory = [row for row in rows if row["comparison"] == "memory"]
    if not memory:
        tables.append("Peak memory: not measured yet, `python benchmarks/training.py memory`.")
    else:
        header = ["Job", "Compared", "Precision", "Peak MB, ours", "Peak MB, Trainer",
                  "Processes a side"]  # fmt: skip
        tables.append(markdown(header, [
            [row["job"],
             _COMPARISONS[row["of"]] + ", one kernel kept" * row.get("one_kernel_kept", False),
             _precisions(row),
             *(_megabytes(row["peak_memory_mb"][side]) for side in ("ours", "Trainer")),
             str(row["processes"])]
            for row in memory
        ]))  # fmt: skip
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        if row.get("comparison") == "accuracy":
            key = tuple((row | {"precision": _precisions(row)})[name] for name in _SAME_TRAINING)
            found.setdefault(key, []).append(row)
    if found:
        header = ["Job", "Data", "Compared", "Precision", "Training / validation texts",
                  "Validation accuracy % by seed, ours", "Trainer"]  # fmt: skip
        tables.append(markdown(header, [
            [job, data, _COMPARISONS[of], precision, f"{n:,} / {n_validation:,}",
             *(", ".join(f"{100 * row['accuracy']:.1f}" for row in group if row["side"] == side)
               for side in ("ours", "Trainer"))]
            for (job, data, of, precision, n, n_validation), group in found.items()
        ]))  # fmt: skip
    return tables + _attention(rows) + _waiting(rows)


_SAME_TRAINING = ("job", "data", "of", "precision", "n_train", "n_validation")


def _attention(rows: list[dict]) -> list[str]:
    """Which kind of attention is best for Trainer?"""
    header = ["Job", "Precision", "Trainer's seconds, sdpa", "eager", "sdpa / eager", "Taken"]
    found = [
        [row["job"], row["precision"], *(spread(row["seconds"][k]) for k in ("sdpa", "eager")),
         spread(row["sdpa_over_eager"]), row["taken"]]
        for row in rows if row["comparison"] == "attention"
    ]  # fmt: skip
    missing = "Trainer's attention: not measured yet, `python benchmarks/training.py attention`."
    return [markdown(header, found) if found else missing]


def _waiting(rows: list[dict]) -> list[str]:
    """How long should a thread spin before it sleeps?"""
    found = [row for row in rows if row["comparison"] == "waiting"]
    if not found:
        return ["Waiting threads: not measured yet, `python benchmarks/training.py waiting`."]
    beside = {False: "nothing", True: "one busy program"}
    header = ["Side", "Beside it", "Spins before sleeping", "Seconds",
              "Times as long as with the package's"]  # fmt: skip
    return [markdown(header, [
        [row["side"], beside[row["busy_program"]], f"{row['spins']:,}", spread(row["seconds"]),
         spread(row["times_as_long"])]
        for row in found
    ])]  # fmt: skip


def _megabytes(value: dict[str, float]) -> str:
    return f"{value['median']:,.0f} ({value['min']:,.0f} to {value['max']:,.0f})"


def _all_training(contents: dict) -> tuple[list[str], Table]:
    header = ["Job", "Data", "Compared", "Precision", "Tokens/s, ours", "Tokens/s, Trainer",
              "Times as fast", "Padding %, ours / Trainer", "Share of the ceiling, ours / Trainer",
              "Loss of the first and last third, ours / Trainer"]  # fmt: skip
    rows = []
    for row in contents["rows"]:
        if row["comparison"] not in _COMPARISONS:
            continue
        sides = ("ours", "Trainer")
        padding = [f"{100 * row['padding'][side]['median']:.1f}" for side in sides]
        share = [f"{row['share_of_ceiling'][side]['median']:.2f}" for side in sides]
        losses = [", ".join(f"{value:.3f}" for value in row["losses"][side]) for side in sides]
        rows.append([
            row["job"], row["data"], _COMPARISONS[row["comparison"]], _precisions(row),
            spread(row["tokens_per_second"]["ours"]), spread(row["tokens_per_second"]["Trainer"]),
            spread(row["speed_ratio"]), *(" / ".join(pair) for pair in (padding, share, losses)),
        ])  # fmt: skip
    return header, rows


def _all_accuracies(contents: dict) -> tuple[list[str], Table]:
    header = ["Against", "Precision, ours / Trainer", "Learning rates", "Last accuracy %, ours",
              "Trainer", "Times as fast"]  # fmt: skip
    rows = []
    for row in contents["rows"]:
        if "comparison" not in row:
            continue
        last = [
            f"{100 * v['median']:.1f} ({100 * v['min']:.1f} to {100 * v['max']:.1f})"
            for v in row["last_accuracy"].values()
        ]
        rates = " / ".join("default" if rate is None else f"{rate:g}" for rate in row["rates"])
        rows.append([row["comparison"], " / ".join(row["precisions"]), rates, *last,
                     spread(row["speed_ratio"])])  # fmt: skip
    return header, rows


def _per_seed(rows: list[dict]) -> list[str]:
    header = ["Against", "Seed", "Target accuracy %", "Seconds, ours", "Seconds, Trainer",
              "Times as fast"]  # fmt: skip
    return [markdown(header, [
        [row["comparison"], str(one["seed"]), f"{100 * one['target']:.1f}", f"{one['ours']:g}",
         f"{one['Trainer']:g}", f"{one['Trainer'] / one['ours']:.2f}"]
        for row in rows if "comparison" in row for one in row["per_seed"]
    ])]  # fmt: skip


def _all_evaluation(contents: dict) -> tuple[list[str], Table]:
    header = ["Side", "Precision", "Seconds", "Times ours", "Right", "Same answers as ours"]
    rows = [
        [row["side"], row["precision"], spread(row["seconds"]), spread(row["times_ours"]),
         f"{row['right']} of {row['texts']}", f"{row['same_answer_as_ours']} of {row['texts']}"]
        for row in contents["rows"]
    ]  # fmt: skip
    return header, rows


def _all_startup(contents: dict) -> tuple[list[str], Table]:
    header = ["What", "Seconds", "It says"]
    rows = [[row["what"], spread(row["seconds"]), row.get("said", "")] for row in contents["rows"]]
    return header, rows


def _all_scaling(contents: dict) -> tuple[list[str], Table]:
    header = ["Varied", "Layers", "Batch", "Tokens a text", "Seconds an update", "Peak MB",
              "10^9 operations", "Share of the ceiling"]  # fmt: skip
    rows = [
        [row["axis"], str(row["depth"]), str(row["batch"]), str(row["length"]),
         spread(row["seconds"]), f"{row['peak_memory_mb']:,}", f"{row['operations'] / 1e9:,.0f}",
         f"{row['share_of_ceiling']:.2f}"]
        for row in contents["rows"]
    ]  # fmt: skip
    for axis, found in contents["slopes"].items():
        said = f"power {found['measured']:.2f}, theory {found['theory']:.2f}"
        memory = f"power {found['memory']:.2f}" if "memory" in found else ""
        rows.append([f"**{axis}**", "", "", "", said, memory, "", ""])
    return header, rows


def _all_resumes(contents: dict) -> tuple[list[str], Table]:
    header = ["Precision", "Updates", "Kills", "Newest checkpoint at each kill",
              "Equal bit for bit"]  # fmt: skip
    rows = [
        [row["precision"], str(row["updates"]), str(row["kills"]),
         ", ".join(map(str, row["resumed_from"])), "yes" if row["equal_bit_for_bit"] else "no"]
        for row in contents["rows"]
    ]  # fmt: skip
    return header, rows


def _all_choices(contents: dict) -> tuple[list[str], Table]:
    header = ["Job", "Changed", "Seconds", "Times as long", "Mean loss", "Padding %", "Rounds"]
    rows = [
        [row["job"], row["change"], spread(row["seconds"]) + _unchanged(row),
         spread(row["times_as_long"]), f"{row['mean_loss']:.3f}",
         f"{100 * row['padding_waste']:.1f}", str(row["rounds"])]
        for row in contents["rows"]
    ]  # fmt: skip
    return header, rows


def _unchanged(row: dict) -> str:
    """Of a row that was measured apart from the others."""
    if "unchanged_seconds" not in row:
        return ""
    return f" against {spread(row['unchanged_seconds'])}"


def _all_shares(contents: dict) -> tuple[list[str], Table]:
    jobs = contents["rows"]
    names = sorted(
        {name for row in jobs for name in row["shares"]},
        key=lambda name: (-max(row["shares"].get(name, 0) for row in jobs), name),
    )
    header = ["% of the operators' time", *(row["job"] for row in jobs)]
    rows = [[name, *(f"{100 * row['shares'].get(name, 0):.1f}" for row in jobs)] for name in names]
    return header, rows


def _all_gpu(contents: dict) -> tuple[list[str], Table]:
    header = ["Part", "Side or seed", "Seconds", "Tokens a second", "Utilisation, of TFLOP/s",
              "Peak MB", "Accuracy %", "Precision", "First and last loss"]  # fmt: skip
    rows = []
    for row in contents["rows"]:
        fast = row["part"] == "throughput"
        rows.append([
            row["shape"] if fast else row["part"],
            row["side"] if fast else str(row["seed"]),
            spread(row["seconds"]) if fast else f"{row['train_seconds']:g}{shared(row)}",
            f"{row['tokens_per_second']:,}",
            f"{row['utilisation']:.2f} of {row['ceiling_tflops']:g}" if fast else "",
            f"{row['peak_memory_mb']:,}" if row["peak_memory_mb"] else "",
            "" if fast else f"{100 * row['accuracy']:.1f}",
            row["precision"],
            ", ".join(f"{loss:.3f}" for loss in row["losses"]),
        ])  # fmt: skip
    return header, rows


_DETAILS: dict[str, Callable[[dict], tuple[list[str], Table]]] = {
    "training": _all_training,
    "time_to_accuracy": _all_accuracies,
    "evaluation": _all_evaluation,
    "startup": _all_startup,
    "scaling": _all_scaling,
    "resume": _all_resumes,
    "choices": _all_choices,
    "profiling": _all_shares,
    "gpu": _all_gpu,
}
