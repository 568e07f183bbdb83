"""Figures carry their alternative text and caption, are reproducible, and leak nothing."""

from __future__ import annotations

import base64
import configparser
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sft_teach import plots
from sft_teach.errors import DataError

HISTORY = SimpleNamespace(
    steps=[{"step": i + 1, "loss": 2 / (i + 1), "learning_rate": 1e-4} for i in range(40)],
    evaluations=[{"step": 20, "loss": 0.9, "accuracy": 0.6}, {"step": 40, "loss": 0.7}],
)
CALIBRATION = SimpleNamespace(
    bins=[
        {"confidence": float("nan"), "accuracy": float("nan"), "count": 0},
        {"confidence": 0.7, "accuracy": 0.6, "count": 30},
        {"confidence": 0.9, "accuracy": 0.8, "count": 70},
    ],
    ece=0.1,
)
MAKERS = {
    "history": lambda: plots.make_history(HISTORY),
    "confusion": lambda: plots.make_confusion([[8, 2], [3, 7]], ["negative", "positive"]),
    "reliability": lambda: plots.make_reliability({"a": CALIBRATION, "b": CALIBRATION}),
    "intervals": lambda: plots.make_intervals([("a", 0.7, 0.6, 0.8)], reference=("chance", 0.5)),
    "attention": lambda: plots.make_attention(np.eye(3), ["a", "b", "c"]),
    "lengths": lambda: plots.make_lengths({"train": [3, 5, 9], "test": [4, 4, 12]}, limit=10),
    "heatmap": lambda: plots.make_heatmap([[1, -2], [np.nan, 0]], diverging=True),
}


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text between."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def first(self, tag: str) -> dict:
        return next(attrs for name, attrs in self.tags if name == tag)


@pytest.fixture
def displayed(monkeypatch) -> list[str]:
    """What would have been displayed in a notebook."""
    found: list[str] = []
    monkeypatch.setattr(plots, "display_html", lambda text, *_, **__: found.append(text))
    monkeypatch.setattr(plots, "in_notebook", lambda: True)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_gives_the_same_bytes_and_no_metadata(name):
    first, second = plots.png(MAKERS[name]()), plots.png(MAKERS[name]())
    assert first == second
    figure = MAKERS[name]()
    assert plots.png(figure) == plots.png(figure)
    assert first.startswith(b"\x89PNG") and b"Software" not in first and b"Creation" not in first


@pytest.mark.parametrize("name", MAKERS)
def test_every_axis_is_labelled(name):
    for ax in MAKERS[name]().axes:
        shared = ax.get_shared_x_axes().get_siblings(ax)
        assert ax.get_ylabel() or ax.get_xlabel()
        assert any(other.get_xlabel() for other in shared) or ax.get_label() == "<colorbar>"


def test_outside_of_a_notebook_figures_and_tables_are_words(capsys):
    fig, ax = plots.figure()
    plots.show(fig, alt="Bars: 1 and 2.", caption="Two bars.")
    plots.table([["a", 0.5], ["b", (1, 2)]], ["name", "value"], "A table", decimals=1)
    said = capsys.readouterr().out
    assert (
        said == "[figure: Bars: 1 and 2.]\nTwo bars.\nA table\nname | value\na | 0.5\nb | 1 to 2\n"
    )


def test_show_escapes_alt_and_caption(displayed):
    fig, ax = plots.figure()
    ax.plot([1, 2])
    plots.show(fig, alt='a "quoted" <b>', caption="<script>alert(1)</script> & more")
    page = Elements(displayed[0])
    assert page.first("img")["alt"] == 'a "quoted" <b>'
    assert page.first("figure")["class"] == "sft-figure"
    assert "<script>alert(1)</script> & more" in page.text
    assert not any(tag == "script" for tag, _ in page.tags)


def test_the_image_is_the_figure(displayed):
    from PIL import Image

    fig, _ = plots.figure(5, 2)
    plots.show(fig, "alt", "caption")
    data = Elements(displayed[0]).first("img")["src"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (550, 220)


@pytest.mark.parametrize(("alt", "caption"), [("", "c"), ("a", " \n"), (None, "c"), ("a", None)])
def test_a_figure_without_alt_or_caption_is_refused(alt, caption):
    with pytest.raises(DataError, match="alt is empty|caption is empty"):
        plots.show(plots.figure()[0], alt, caption)


def test_plots_need_neither_pyplot_nor_torch():
    code = (
        "import sys, sft_teach.plots as p; p.png(p.make_intervals([('a', .5, .4, .6)]));"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_palette_is_okabe_and_ito_with_a_second_cue():
    assert plots.OKABE_ITO[:4] == ["#0072B2", "#E69F00", "#009E73", "#D55E00"]
    _, ax = plots.figure()
    lines = [ax.plot([0, i])[0] for i in range(8)]
    assert len({line.get_color() for line in lines}) == 8
    assert len({str(line._dash_pattern) for line in lines}) >= 7


def test_tables_escape_align_and_format():
    page = plots.make_table(
        [
            {"setting": "<b>x</b>", "n": 12345, "accuracy": 0.8126, "interval": (0.7, 0.9)},
            {"setting": "y", "n": 2, "accuracy": np.float32(0.5)},
        ],
        caption="A & B",
    )
    found = Elements(page)
    assert "<b>x</b>" in found.text and "12,345" in found.text and "0.813" in found.text
    assert "0.700 to 0.900" in found.text and "A & B" in found.text
    assert [a["scope"] for t, a in found.tags if t == "th"] == ["col"] * 4
    assert "b" not in {t for t, _ in found.tags}


def test_tables_refuse_rows_of_the_wrong_width():
    with pytest.raises(DataError, match="Row 1 of the table has 1 values, expected 2"):
        plots.make_table([(1, 2), (3,)], columns=["a", "b"])
    with pytest.raises(DataError, match="no column names"):
        plots.make_table([(1, 2)])


def test_the_legend_of_the_history_covers_no_data():
    figure = plots.make_history(HISTORY)
    plots.png(figure)  # lays it out
    ax = figure.axes[0]
    legend = ax.get_legend().get_window_extent()
    assert ax.get_window_extent().y1 <= legend.y0 and legend.y1 <= figure.bbox.y1


def test_the_history_in_words_ends_where_its_curve_does_not_at_one_noisy_batch():
    steps = [{"step": i + 1, "loss": 1.0 if i < 39 else 6.0} for i in range(40)]
    assert "loss from 1.00 to 2.00 (mean of the last 5)" in plots.describe_history(
        SimpleNamespace(steps=steps, evaluations=[])
    )
    few = SimpleNamespace(steps=steps[-3:], evaluations=[])
    assert "loss from 1.00 to 6.00." in plots.describe_history(few)


def test_written_alternatives_hold_the_numbers(displayed):
    plots.intervals([("TF-IDF", 0.734, 0.71, 0.76)])
    plots.confusion([[8, 2], [3, 7]], ["negative", "positive"])
    plots.reliability(CALIBRATION)
    plots.history(HISTORY)
    plots.lengths([3, 5, 9])
    plots.attention([[0.9, 0.1], [0.2, 0.8]], ["good", "film"])
    alts = [Elements(text).first("img")["alt"] for text in displayed]
    for alt, expected in zip(
        alts,
        [
            "TF-IDF 0.734 (0.710 to 0.760)",
            "true negative: 8 called negative, 2 called positive",
            "calibration error 0.100",
            "training loss from 2.00 to 0.05 (mean of the last 5)",
            "median 5",
            "good most at good (0.90); film most at film (0.80)",
        ],
        strict=True,
    ):
        assert expected in alt


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.make_confusion([[1, 2]], ["a", "b"]), r"shape \(1, 2\), expected \(2, 2\)"),
        (lambda: plots.make_attention(np.eye(3), ["a"]), r"expected \(1, 1\)"),
        (lambda: plots.make_intervals([("a", 1)]), "interval row is"),
        (lambda: plots.make_intervals([]), "No rows"),
        (lambda: plots.make_lengths([]), "No lengths"),
        (lambda: plots.make_heatmap([1, 2]), "needs a matrix"),
        (lambda: plots.make_token_strip(["a"], [1, 2]), "1 tokens but 2 values"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_token_strips_escape_and_write_the_numbers_out():
    page = Elements(plots.make_token_strip(["<i>", "b"], [0.5, -0.25], "why", "effect"))
    assert "<i>" in page.text and "+0.50" in page.text and "−0.25" in page.text
    titles = [a["title"] for t, a in page.tags if "title" in a]
    assert titles == ["effect +0.50", "effect −0.25"]
    assert "i" not in {t for t, _ in page.tags}


def test_the_live_plot_redraws_seldom_and_ends_with_the_whole_run(monkeypatch):
    events: dict[str, list] = {"post_run_cell": []}
    shell = SimpleNamespace(
        events=SimpleNamespace(
            register=lambda name, f: events[name].append(f),
            unregister=lambda name, f: events[name].remove(f),
        )
    )
    drawn: list[str] = []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(plots, "display_html", lambda text, *_, **__: drawn.append(text) or "h")
    clock = iter(np.arange(0, 100, 0.1))
    monkeypatch.setattr(plots.time, "monotonic", lambda: next(clock))
    live = plots.LivePlot(every=1)
    for step in HISTORY.steps:
        live({"kind": "step", **step})
    live({"kind": "evaluation", **HISTORY.evaluations[0]})
    assert 2 < len(drawn) < 10
    for finish in list(events["post_run_cell"]):
        finish()
    assert "over 40 updates" in drawn[-1] and "accuracy 0.600" in drawn[-1]
    assert events["post_run_cell"] == []


def test_the_live_plot_works_without_a_notebook(capsys):
    live = plots.LivePlot(every=0)
    for step in HISTORY.steps[:3]:
        live({"kind": "step", **step})
    assert capsys.readouterr().out == ""


def _sanitize(text: str) -> str:
    config = Path(__file__).with_name("nbval_sanitize.cfg").read_text(encoding="utf-8")
    configparser.ConfigParser(interpolation=None, strict=True).read_string(config)
    # The way nbval itself reads the file.
    for regex, replace in re.findall(r"^regex: (.*)$\n^replace: (.*)$", config, re.MULTILINE):
        text = re.sub(regex, replace, text)
    return text


def test_comparing_outputs_masks_images_ids_and_addresses_and_keeps_words_and_numbers():
    fig, _ = plots.figure()
    one = plots.figure_html(fig, "accuracy 0.81", "caption")
    masked = _sanitize(one)
    assert "accuracy 0.81" in masked and "caption" in masked and len(masked) < 400
    assert masked != _sanitize(one.replace("0.81", "0.82"))
    assert _sanitize("<object at 0x7f12ab34cd56>") == _sanitize("<object at 0x7f99ab34cd00>")
    assert _sanitize("model_id 0123456789abcdef0123456789abcdef") == "model_id ID"
    bar = "train:  50%|━━━━━     | 5/10 [00:01<00:01,  4.2batch/s, loss 0.693]"
    assert _sanitize(f"'{bar}'") == "'PROGRESS'"
    assert _sanitize("accuracy 50% of 10, loss 0.693") == "accuracy 50% of 10, loss 0.693"
