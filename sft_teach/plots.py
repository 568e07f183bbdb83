"""What does it look like? One function a figure, and `show`, through which every figure goes.

Figures are made with matplotlib's object interface (never pyplot), so that nothing is drawn twice
or kept alive in a notebook, and shown as `<img alt="...">` with one sentence under it: alternative
text in output metadata reaches no reader (JupyterLab and nbconvert ignore it). A `make_*` function
returns the Figure; the function of the same name without `make_` shows it.
"""

from __future__ import annotations

import base64
import html
import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_teach.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design": told apart with every common colour blindness.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
OKABE_ITO = [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK, YELLOW]
# Second cues, in the same order, for readers and printers without colour.
LINESTYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
HATCHES = ["", "//", "..", "xx", "\\\\", "++", "oo", "--"]
GREY = "#5f6368"
DPI = 110


# -- showing --------------------------------------------------------------------------------------


def figure(
    width: float = 7.0,
    height: float = 3.4,
    rows: int = 1,
    columns: int = 1,
    *,
    edges: Mapping[str, float] | None = None,
    **subplots,
):
    """A new figure in the course's style.

    Args:
        width, height: inches; 7 inches fill a notebook's column.
        rows, columns: panels. Further keywords go to `Figure.subplots` (`sharey=True`, ...).
        edges: where the panels are, as fractions (`left`, `right`, `bottom`, `top`, `wspace`); by
            default room is made for the labels, which takes as long again as drawing.

    Returns:
        (figure, axes): axes is one Axes, or an array of them as `plt.subplots` gives it. Lines take
        colour and line style from a cycle, so that colour is never the only cue.
    """
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = "none" if edges else "constrained"
    fig = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    if edges:
        fig.subplots_adjust(**edges)
    else:
        fig.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, **subplots)
    for ax in np.ravel(axes):
        ax.set_prop_cycle(cycler(color=OKABE_ITO) + cycler(linestyle=LINESTYLES))
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(color=GREY, labelsize=9)
        ax.grid(True, color="#e6e6e6", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.title.set_fontsize(10.5)
        ax.xaxis.label.set_fontsize(9.5)
        ax.yaxis.label.set_fontsize(9.5)
    return fig, axes


def png(fig: Figure) -> bytes:
    """The figure as PNG without date or software version: same data and fonts, same bytes."""
    if fig.get_layout_engine() is not None:  # lay out once: a second pass would move things a bit
        fig.get_layout_engine().execute(fig)
        fig.set_layout_engine("none")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def image(fig: Figure, alt: str) -> str:
    """The figure as `<img alt=... src="data:...">`; `alt` says in words what the figure shows."""
    alt = _sentence(alt, "alt", "a text that says what the figure shows")
    data = base64.b64encode(png(fig)).decode("ascii")
    return (
        f'<img alt="{html.escape(alt)}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{data}">'
    )


def figure_html(fig: Figure, alt: str, caption: str) -> str:
    """What `show` displays: image, alternative text and caption, all escaped."""
    caption = _sentence(caption, "caption", "the one sentence that says what to see in the figure")
    return (
        f'<figure class="sft-figure" style="margin:0.5em 0">{image(fig, alt)}'
        f'<figcaption style="font-size:0.92em;max-width:60em">{html.escape(caption)}'
        "</figcaption></figure>"
    )


def show(fig: Figure, alt: str, caption: str) -> None:
    """Display a figure with alternative text and a caption, and close it.

    Args:
        fig: a matplotlib Figure, best made by `figure` or a `make_*` function.
        alt: what the figure shows, for who cannot see it (kind of figure, axes, finding).
        caption: the one sentence under it that says what to see. Both are plain text.

    Raises:
        DataError: alt or caption is empty.
    """
    text = figure_html(fig, alt, caption)
    if "matplotlib.pyplot" in sys.modules:  # a pyplot figure would otherwise appear a second time
        sys.modules["matplotlib.pyplot"].close(fig)
    if in_notebook():
        display_html(text)
    else:
        print(f"[figure: {' '.join(alt.split())}]\n{' '.join(caption.split())}")


def in_notebook() -> bool:
    """False in a plain Python process, such as a notebook that was exported as a script."""
    from IPython import get_ipython

    return get_ipython() is not None


def display_html(text: str, handle: Any = None, new_handle: bool = False):
    """Display HTML in a notebook, or update `handle`; outside of IPython, do nothing."""
    from IPython.display import HTML, display

    if handle is not None:
        handle.update(HTML(text))
    elif in_notebook():
        return display(HTML(text), display_id=new_handle or None)
    return handle


def _sentence(text: str, name: str, meaning: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{name} is empty ({text!r}); expected {meaning}. Pass {name}='...'.")
    return " ".join(text.split())


def table(
    rows: Sequence[Mapping | Sequence],
    columns: Sequence[str] | None = None,
    caption: str = "",
    decimals: int = 3,
) -> None:
    """Display rows as an HTML table with header cells and a caption; every cell is escaped.

    Args:
        rows: dicts (column name -> value) or sequences in the columns' order.
        columns: names, in order; by default the keys of the first dict. Missing values stay blank.
        caption: the sentence above the table.
        decimals: digits after the point for floats; integers get thousands separators.
    """
    if in_notebook():
        display_html(make_table(rows, columns, caption, decimals))
        return
    columns, cells = _rectangle(rows, columns)
    lines = [columns, *([_cell(value, decimals) for value in row] for row in cells)]
    print("\n".join([caption, *(" | ".join(map(str, line)) for line in lines)]).strip())


def _rectangle(rows, columns) -> tuple[list, list[list]]:
    """Column names and the cells of each row, as many as there are columns."""
    rows = list(rows)
    if columns is None:
        if not rows or not isinstance(rows[0], Mapping):
            raise DataError("The table has no column names. Pass columns=[...] or rows as dicts.")
        columns = list(rows[0])
    cells = [[r.get(c) for c in columns] if isinstance(r, Mapping) else list(r) for r in rows]
    wrong = [i for i, row in enumerate(cells) if len(row) != len(columns)]
    if wrong:
        raise DataError(
            f"Row {wrong[0]} of the table has {len(cells[wrong[0]])} values, expected "
            f"{len(columns)}, one for each of {list(columns)}."
        )
    return list(columns), cells


def make_table(rows, columns=None, caption: str = "", decimals: int = 3) -> str:
    """The HTML that `table` displays."""
    columns, cells = _rectangle(rows, columns)
    numeric = [
        all(_is_number(row[j]) or row[j] is None for row in cells) for j in range(len(columns))
    ]
    align = ["right" if n else "left" for n in numeric]
    head = "".join(
        f'<th scope="col" style="text-align:{a}">{html.escape(str(c))}</th>'
        for a, c in zip(align, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{a}">{html.escape(_cell(v, decimals))}</td>'
            for a, v in zip(align, row, strict=True)
        )
        + "</tr>"
        for row in cells
    )
    title = (
        '<caption style="caption-side:top;text-align:left;font-weight:bold">'
        f"{html.escape(caption)}</caption>"
    )
    return (
        f'<table class="sft-table">{title if caption else ""}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any, decimals: int) -> str:
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)):
        return f"{value:,.{decimals}f}"
    if _is_number(value):
        return f"{value:,}"
    if isinstance(value, tuple) and len(value) == 2 and all(_is_number(v) for v in value):
        return f"{_cell(value[0], decimals)} to {_cell(value[1], decimals)}"  # an interval
    return str(value)


# -- scores ---------------------------------------------------------------------------------------


def intervals(
    rows: Iterable[Sequence | Mapping],
    xlabel: str = "accuracy",
    caption: str = "Dots are scores, bars their 95 % intervals: where bars overlap widely, the "
    "data cannot tell the two apart.",
    alt: str | None = None,
    reference: tuple[str, float] | None = None,
) -> None:
    """Show a dot with its interval per row (`make_intervals`); `alt` is written from the rows."""
    rows = [_interval_row(row) for row in rows]
    if alt is None:
        listed = "; ".join(f"{n} {v:.3f} ({lo:.3f} to {hi:.3f})" for n, v, lo, hi in rows)
        alt = f"Dot plot of {xlabel} with intervals: {listed}."
    show(make_intervals(rows, xlabel, reference), alt, caption)


def make_intervals(rows, xlabel: str = "accuracy", reference=None) -> Figure:
    """A dot and its interval per row, first row on top.

    Args:
        rows: (label, value, low, high) or dicts with these keys, `value` in the unit of `xlabel`.
        reference: (label, value) of a vertical line, such as the majority class.
    """
    rows = [_interval_row(row) for row in rows]
    if not rows:
        raise DataError("No rows to draw: expected (label, value, low, high) for each.")
    fig, ax = figure(7, 0.95 + 0.42 * len(rows))
    span = max(r[3] for r in rows) - min(r[2] for r in rows) or 1.0
    for i, (_, value, low, high) in enumerate(rows):
        colour, marker = OKABE_ITO[i % 7], MARKERS[i % 7]
        ax.plot([low, high], [i, i], color=colour, linewidth=3, alpha=0.45, linestyle="-")
        ax.plot(value, i, marker=marker, color=colour, markersize=7, linestyle="none")
        ax.text(high + 0.015 * span, i, f"{value:.3f}", va="center", fontsize=9)
    if reference is not None:
        ax.axvline(reference[1], color=GREY, linestyle=":", linewidth=1.3)
        ax.text(reference[1], -0.62, f" {reference[0]}", color=GREY, fontsize=8.5, va="center")
    ax.set_yticks(range(len(rows)), [r[0] for r in rows])
    ax.set_ylim(len(rows) - 0.5, -0.85 if reference else -0.5)
    ax.margins(x=0.1)
    ax.grid(False, axis="y")
    ax.set_xlabel(xlabel)
    return fig


def _interval_row(row) -> tuple[str, float, float, float]:
    if isinstance(row, Mapping):
        row = [row.get(key) for key in ("label", "value", "low", "high")]
    row = list(row)
    if len(row) == 3 and isinstance(row[2], (tuple, list)):  # (label, value, (low, high))
        row = [row[0], row[1], *row[2]]
    if len(row) != 4 or any(not _is_number(v) for v in row[1:]):
        raise DataError(f"An interval row is (label, value, low, high), not {tuple(row)!r}.")
    return str(row[0]), *map(float, row[1:])


def confusion(
    matrix,
    names: Sequence[str],
    caption: str = "Rows are the true classes, columns the model's answers; the diagonal is right.",
    alt: str | None = None,
) -> None:
    """Show a confusion matrix: counts, coloured by their share of the true class."""
    matrix = np.asarray(matrix)
    if alt is None:
        lines = "; ".join(
            f"true {names[i]}: "
            + ", ".join(f"{int(n)} called {names[j]}" for j, n in enumerate(row) if n)
            for i, row in enumerate(matrix)
        )
        alt = f"Confusion matrix of {int(matrix.sum())} predictions. {lines}."
    show(make_confusion(matrix, names), alt, caption)


def make_confusion(matrix, names: Sequence[str]) -> Figure:
    """Counts (C, C), rows true, columns predicted; colour is the share of the row."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape != (len(names), len(names)):
        raise DataError(
            f"The matrix has shape {matrix.shape}, expected ({len(names)}, {len(names)}) for the "
            f"classes {list(names)}."
        )
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    fig = make_heatmap(
        share, names, names, "predicted class", "true class", "share of the true class",
        numbers=[[f"{int(n)}\n{s:.0%}" for n, s in zip(*pair, strict=True)]
                 for pair in zip(matrix, share, strict=True)],
        limits=(0, 1),
    )  # fmt: skip
    ax = fig.axes[0]
    for i in range(len(names)):  # second cue beside colour: the right answers are framed
        ax.add_patch(_box(i, i))
    return fig


def _box(x: float, y: float):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=BLACK, linewidth=1.4)


def heatmap(matrix, alt: str, caption: str, **options) -> None:
    """Show a matrix as colours with its numbers. Options as in `make_heatmap`."""
    show(make_heatmap(matrix, **options), alt, caption)


def make_heatmap(
    matrix,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    xlabel: str = "column",
    ylabel: str = "row",
    value_label: str = "value",
    *,
    numbers: bool | Sequence[Sequence[str]] = True,
    decimals: int = 2,
    limits: tuple[float, float] | None = None,
    diverging: bool = False,
) -> Figure:
    """A matrix (R, C) as colours, with the numbers written into the cells.

    Args:
        numbers: True writes the values, False nothing, nested lists of str write those. NaN cells
            stay grey and empty.
        limits: (lowest, highest) value of the colour scale.
        diverging: blue to orange around 0, for values with a sign.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2:
        raise DataError(f"A heatmap needs a matrix (R, C); this array has shape {matrix.shape}.")
    n_rows, n_columns = matrix.shape
    low, high = limits or (np.nanmin(matrix), np.nanmax(matrix))
    if diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    long_names = max((len(str(n)) for n in (column_names or [""])), default=0)
    tilt = long_names * n_columns > 48
    width = min(max(2.6 + 0.78 * n_columns, 3.8), 9.0)
    fig, ax = figure(width, min(max(1.3 + 0.52 * n_rows + 0.045 * long_names * tilt, 2.2), 8.0))
    drawn = ax.imshow(matrix, cmap=_colours(diverging), vmin=low, vmax=high, aspect="auto")
    ax.set_facecolor("#dddddd")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(n_columns), column_names if column_names is not None else None)
    ax.set_yticks(range(n_rows), row_names if row_names is not None else None)
    if tilt:
        ax.tick_params(axis="x", rotation=40)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    fig.colorbar(drawn, ax=ax, label=value_label, pad=0.02)
    if numbers is not False:
        _write_numbers(ax, matrix, numbers, decimals, drawn)
    return fig


def _write_numbers(ax: Axes, matrix: np.ndarray, numbers, decimals: int, drawn) -> None:
    size = 9 if matrix.size <= 60 else 7
    for (i, j), value in np.ndenumerate(matrix):
        if np.isnan(value):
            continue
        red, green, blue, _ = drawn.cmap(drawn.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        text = numbers[i][j] if numbers is not True else f"{value:.{decimals}f}"
        ax.text(j, i, text, ha="center", va="center", fontsize=size,
                color="white" if dark else "black")  # fmt: skip


def _colours(diverging: bool):
    from matplotlib.colors import LinearSegmentedColormap

    if diverging:
        return LinearSegmentedColormap.from_list("sft_div", [ORANGE, "#ffffff", BLUE])
    return LinearSegmentedColormap.from_list("sft", ["#ffffff", SKY, BLUE, "#003352"])


def attention(
    matrix,
    tokens: Sequence[str],
    caption: str = "Each row is one token's query; its numbers say where it looks, and sum to 1.",
    alt: str | None = None,
) -> None:
    """Show attention weights (L, L), rows looking at columns; masked weights may be NaN or 0."""
    matrix = np.asarray(matrix, dtype=float)
    if alt is None:
        looks = "; ".join(
            f"{t} most at {tokens[int(np.nanargmax(row))]} ({np.nanmax(row):.2f})"
            for t, row in zip(tokens, matrix, strict=True)
        )
        alt = f"Heatmap of attention weights between {len(tokens)} tokens: {looks}."
    show(make_attention(matrix, tokens), alt, caption)


def make_attention(matrix, tokens: Sequence[str]) -> Figure:
    """Attention weights (L, L): row = the token that looks, column = the token looked at."""
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (len(tokens), len(tokens)):
        raise DataError(
            f"Attention has shape {matrix.shape}, expected ({len(tokens)}, {len(tokens)}): one row "
            "and one column per token, of one head."
        )
    return make_heatmap(
        matrix, tokens, tokens, "looked at (key)", "looking (query)", "attention weight",
        numbers=len(tokens) <= 12, limits=(0, 1),
    )  # fmt: skip


def reliability(
    calibration,
    caption: str = "On the dashed line, 70 % confidence would be right 70 % of the time; below it "
    "the model is too sure of itself.",
    alt: str | None = None,
) -> None:
    """Show a reliability diagram of `evaluation.calibration(...)` (or {name: several})."""
    if alt is None:
        alt = "Reliability diagram, accuracy against confidence. " + " ".join(
            f"{name or 'ECE'}: expected calibration error {c.ece:.3f}."
            for name, c in _named(calibration).items()
        )
    show(make_reliability(calibration), alt, caption)


def make_reliability(calibration) -> Figure:
    """Accuracy against mean confidence per bin; below, how many predictions each bin holds.

    Args:
        calibration: an `evaluation.Calibration`, or a dict {name: Calibration} to compare some.
    """
    named = _named(calibration)
    fig, (top, bottom) = figure(5.6, 4.6, rows=2, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    n_named = len(named)
    for i, (name, c) in enumerate(named.items()):
        rows = [r for r in c.bins if r["count"]]
        x = np.array([r["confidence"] for r in rows])
        label = f"{name + ': ' if name else ''}ECE {c.ece:.3f}"
        top.plot(x, [r["accuracy"] for r in rows], marker=MARKERS[i], color=OKABE_ITO[i],
                 linestyle=LINESTYLES[i], label=label)  # fmt: skip
        width = 0.06 / n_named
        bottom.bar(x + (i - (n_named - 1) / 2) * width, [r["count"] for r in rows], width=width,
                   color=OKABE_ITO[i], hatch=HATCHES[i], edgecolor="white")  # fmt: skip
    top.set(ylabel="accuracy (share right)", ylim=(0, 1.02), xlim=(0, 1.03))
    top.legend(frameon=False, fontsize=9, loc="upper left")
    bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="predictions")
    return fig


def _named(calibration) -> dict[str, Any]:
    return dict(calibration) if isinstance(calibration, Mapping) else {"": calibration}


# -- training -------------------------------------------------------------------------------------


def history(
    history,
    caption: str = "Training loss falls by construction; the validation curve says when learning "
    "stops being worth it.",
    alt: str | None = None,
) -> None:
    """Show the curves of a run: loss (training, validation), validation accuracy, learning rate."""
    show(make_history(history), alt or describe_history(history), caption)


def make_history(history) -> Figure:
    """The curves of a `training.History` (or anything with `.steps` and `.evaluations`)."""
    steps, evaluations = list(history.steps), list(history.evaluations)
    scored = any("accuracy" in e for e in evaluations)
    edges = {"left": 0.075, "right": 0.985, "bottom": 0.18, "top": 0.8, "wspace": 0.36}
    fig, axes = figure(8.8, 2.9, columns=3 if scored else 2, edges=edges)
    _draw_loss(axes[0], steps, evaluations)
    if scored:
        rows = [e for e in evaluations if "accuracy" in e]
        axes[1].plot([e["step"] for e in rows], [e["accuracy"] for e in rows], marker="s",
                     color=ORANGE, linestyle="--")  # fmt: skip
        axes[1].set(xlabel="update", ylabel="validation accuracy")
    axes[-1].plot([s["step"] for s in steps], [s["learning_rate"] for s in steps], color=GREEN)
    axes[-1].set(xlabel="update", ylabel="learning rate")
    axes[-1].set_ylim(bottom=0)
    axes[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    return fig


def _draw_loss(ax: Axes, steps: list[dict], evaluations: list[dict]) -> None:
    x, loss = [s["step"] for s in steps], np.array([s["loss"] for s in steps], dtype=float)
    if len(loss) >= 20:  # the single batch is noisy: its curve pale, its running mean on top
        ax.plot(x, loss, color=BLUE, alpha=0.25, linestyle="-", linewidth=1)
        window = _window(len(loss))
        total = np.cumsum(np.insert(loss, 0, 0.0))
        first = np.maximum(np.arange(1, len(loss) + 1) - window, 0)
        mean = (total[1:] - total[first]) / (np.arange(1, len(loss) + 1) - first)
        ax.plot(x, mean, color=BLUE, linestyle="-", label=f"training (mean of {window})")
    elif len(loss):
        ax.plot(x, loss, color=BLUE, linestyle="-", label="training")
    rows = [e for e in evaluations if "loss" in e]
    if rows:
        ax.plot([e["step"] for e in rows], [e["loss"] for e in rows], marker="s", color=ORANGE,
                linestyle="--", label="validation")  # fmt: skip
    ax.set(xlabel="update", ylabel="loss (nats per label)")
    if ax.get_legend_handles_labels()[0]:
        # Above the axes: inside, its markers would be taken for data.
        ax.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1),
                  borderaxespad=0)  # fmt: skip


def _window(updates: int) -> int:
    """How many single batches' losses, each one noisy, are averaged."""
    return max(5, updates // 15)


def describe_history(history) -> str:
    """One sentence with the run's first and last numbers: the alternative text of its curves."""
    steps, evaluations = list(history.steps), list(history.evaluations)
    if not steps:
        return "Training curves: no update yet."
    window = _window(len(steps)) if len(steps) >= 20 else 1  # as the curve is drawn
    last = sum(step["loss"] for step in steps[-window:]) / window
    text = (
        f"Training curves over {steps[-1]['step']} updates: training loss from "
        f"{steps[0]['loss']:.2f} to {last:.2f}"
    )
    if window > 1:
        text += f" (mean of the last {window})"
    if evaluations and "loss" in evaluations[-1]:
        text += f", validation loss at the end {evaluations[-1]['loss']:.2f}"
    if evaluations and "accuracy" in evaluations[-1]:
        text += f", validation accuracy {evaluations[-1]['accuracy']:.3f}"
    return text + "."


class LivePlot:
    """Curves that grow while a model trains: `fit(..., on_log=LivePlot())`.

    Redraws at most every `every` seconds (a redraw costs about a tenth of a second) and once more
    when the cell ends, so that what stays in the notebook is the whole run, as a static figure.
    """

    def __init__(self, caption: str = "The run's curves, as it trained.", every: float = 1):
        self.caption, self.every = caption, every
        self.steps: list[dict] = []
        self.evaluations: list[dict] = []
        self.handle = None
        self.drawn_at = float("-inf")
        self.stale = False

    def __call__(self, record: dict) -> None:
        """Take one log record (`kind` "step" or "evaluation") of `training.fit`."""
        rows = self.evaluations if record.get("kind") == "evaluation" else self.steps
        rows.append(record)
        self.stale = True
        if time.monotonic() - self.drawn_at >= self.every:
            self.draw()

    def draw(self) -> None:
        """Draw what has been logged so far."""
        text = figure_html(make_history(self), describe_history(self), self.caption)
        # nbval reruns see the first drawing, the file holds the last: this class is masked.
        text = text.replace('class="sft-figure"', 'class="sft-figure sft-live"', 1)
        if self.handle is None:
            self.handle = display_html(text, new_handle=True)
            self._finish_with_cell()
        else:
            display_html(text, self.handle)
        self.drawn_at, self.stale = time.monotonic(), False

    def _finish_with_cell(self) -> None:
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            return

        def finish(*_):
            shell.events.unregister("post_run_cell", finish)
            if self.stale:
                self.draw()

        shell.events.register("post_run_cell", finish)


# -- texts ----------------------------------------------------------------------------------------


def lengths(
    lengths: Sequence[int] | Mapping[str, Sequence[int]],
    alt: str | None = None,
    caption: str = "Most texts are far shorter than the longest: padding all to the longest would "
    "waste most of the work.",
    *,
    xlabel: str = "length (tokens)",
    limit: int | None = None,
) -> None:
    """Show how long texts are; `lengths` is one list or {name: list}. See `make_lengths`."""
    if alt is None:
        alt = f"Histogram of {xlabel}. " + " ".join(
            f"{(name + ': ') if name else ''}median {np.median(v):.0f}, 95 % at most "
            f"{np.percentile(v, 95):.0f}, longest {max(v)}."
            for name, v in _named(lengths).items()
        )
    show(make_lengths(lengths, xlabel=xlabel, limit=limit), alt, caption)


def make_lengths(lengths, *, xlabel: str = "length (tokens)", limit: int | None = None) -> Figure:
    """Histogram of lengths; `limit` draws the line where `max_length` would cut."""
    named = {name: np.asarray(values) for name, values in _named(lengths).items()}
    if not named or any(v.size == 0 for v in named.values()):
        raise DataError("No lengths to draw: expected at least one number per name.")
    fig, ax = figure(7, 3.0)
    together = np.concatenate(list(named.values()))
    # Whole-numbered bins: lengths are integers, and uneven bins would draw gaps that are not there.
    width = max(1, int(np.ceil((together.max() - together.min() + 1) / 40)))
    edges = np.arange(together.min(), together.max() + width + 1, width) - 0.5
    for i, (name, values) in enumerate(named.items()):
        if len(named) == 1:
            ax.hist(values, edges, color=BLUE, edgecolor="white", linewidth=0.4)
        else:
            ax.hist(values, edges, histtype="step", color=OKABE_ITO[i], linewidth=1.8,
                    linestyle=LINESTYLES[i], label=name)  # fmt: skip
    if limit is not None:
        cut = np.mean(together > limit)
        ax.axvline(limit, color=VERMILLION, linestyle="--", linewidth=1.5,
                   label=f"cut at {limit}: {cut:.0%} of texts are longer")  # fmt: skip
    ax.set(xlabel=xlabel, ylabel="texts")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(edgecolor="none", framealpha=0.9, fontsize=9)
    return fig


def token_strip(
    tokens: Sequence[str],
    values: Sequence[float] | None = None,
    caption: str = "",
    label: str = "value",
    scale: float | None = None,
) -> None:
    """Display tokens in a row, coloured by `values`; the number stands under each token."""
    display_html(make_token_strip(tokens, values, caption, label, scale))


def make_token_strip(
    tokens, values=None, caption: str = "", label: str = "value", scale: float | None = None
) -> str:
    """HTML of tokens as boxes: blue for positive values, orange for negative, deeper for larger.

    Every number is written out as text too, and each token carries a title for screen readers.
    Without values, neighbouring boxes alternate in colour so that the borders are seen. `scale` is
    the value with the deepest colour, by default the largest one.
    """
    if values is not None and len(values) != len(tokens):
        raise DataError(f"{len(tokens)} tokens but {len(values)} values: expected one per token.")
    peak = scale or max((abs(float(v)) for v in ([] if values is None else values)), default=0.0)
    boxes = []
    for i, token in enumerate(tokens):
        style, under, title = (SKY + "55" if i % 2 else ORANGE + "44"), "", ""
        if values is not None:
            value = float(values[i])
            share = min(abs(value) / peak, 1.0) if peak else 0.0
            style = (BLUE if value > 0 else ORANGE) + f"{round(150 * share):02x}"
            under = f'<br><span style="font-size:0.75em">{_signed(value)}</span>'
            title = f' title="{html.escape(label)} {_signed(value)}"'
        boxes.append(
            f'<span class="sft-token"{title} style="display:inline-block;text-align:center;'
            "margin:1px;padding:1px 4px;border:1px solid #8886;border-radius:4px;"
            f'background:{style}">{html.escape(str(token))}{under}</span>'
        )
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        '<figure class="sft-tokens" style="margin:0.5em 0;line-height:1.5">'
        f"<div>{''.join(boxes)}</div>{text}</figure>"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"
