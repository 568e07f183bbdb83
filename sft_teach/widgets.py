"""What if I change it? Explorers with sliders for notebooks, each with its static twin.

An explorer `x_explorer(...)` returns a box of controls above a drawing; the drawing is the text of
`x_html(...)` for the controls' values, so that a page without a kernel shows the same picture by
`plots.display_html(x_html(...))`. Drawings go into the value of a `widgets.HTML`, never through
`interact` or `Output`, whose streams differ from run to run. A redraw takes well below 0.2 s; the
front end waits for one before it sends the slider's next position, so a drag never queues up.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import numpy as np

from sft_teach import plots
from sft_teach.errors import DataError, SFTTeachError
from sft_teach.plots import BLUE, GREEN, GREY, HATCHES, ORANGE, VERMILLION

FALLBACK = (
    "Interactive: run this cell in JupyterLab and move the controls. "
    "The figure beside it shows one of its positions."
)


class Explorer(ipywidgets.VBox):
    """Controls above a drawing that follows them.

    Attributes:
        controls: the input widgets by name; setting `controls["x"].value` redraws.
        drawing: the `widgets.HTML` that holds the drawing.
    """

    def __init__(
        self,
        title: str,
        draw: Callable[..., str],
        controls: dict[str, ipywidgets.Widget],
        buttons: Sequence[ipywidgets.Button] = (),
        when: str | None = None,
    ):
        """`draw(**values)` gives the HTML for the controls' values.

        It is called at each change or, where `when` names a button, at each click on it.
        """
        self.title, self.draw, self.controls = title, draw, controls
        self.drawing = ipywidgets.HTML(layout={"width": "100%"})
        for control in controls.values():
            control.style.description_width = "11em"
            control.layout.width = control.layout.width or "min(100%, 38em)"
            if when is None:
                control.observe(self.redraw, "value")
        for button in buttons:
            button.layout.width = "auto"
            if button.description == when:
                button.on_click(self.redraw)
        row = ipywidgets.HBox(list(buttons), layout={"flex_flow": "row wrap"})
        head = ipywidgets.HTML(f"<b>{html.escape(title)}</b>")
        super().__init__([head, *controls.values(), *([row] if buttons else []), self.drawing])
        self.redraw()

    def redraw(self, _: Any = None) -> None:
        """Draw for the controls' present values; an error becomes a sentence in the drawing."""
        try:
            text = self.draw(**{name: c.value for name, c in self.controls.items()})
        except SFTTeachError as error:  # our messages already say what to do
            text = _problem(str(error))
        except Exception as error:
            text = _problem(f"This cannot be shown ({type(error).__name__}: {error}).")
        self.drawing.value = f'<div style="line-height:1.5">{text}</div>'

    def __repr__(self) -> str:
        return f"Explorer: {self.title}"

    def _repr_mimebundle_(self, **options):
        # The default text lists all children; this one is stable and reads well without a kernel.
        bundle = super()._repr_mimebundle_(**options)
        data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
        data["text/plain"] = repr(self)
        data["text/html"] = f"<p><b>{html.escape(self.title)}.</b> {FALLBACK}</p>"
        return (data, *rest) if rest else data


def _problem(message: str) -> str:
    return f'<p role="alert" class="sft-problem">⚠ {html.escape(message)}</p>'


def _status(text: str) -> str:
    """The line of numbers under a drawing; screen readers announce it when it changes."""
    return f'<p role="status" class="sft-numbers">{html.escape(text)}</p>'


def _numbers(values: Sequence[float], decimals: int = 3) -> str:
    return "(" + ", ".join(_number(v, decimals) for v in values) + ")"


def _number(value: float, decimals: int = 3) -> str:
    value = round(float(value), decimals) + 0.0  # no "-0.000"
    return f"{value:.{decimals}f}".replace("-", "−")


def _slider(description: str, value: float, low: float, high: float, step: float):
    return ipywidgets.FloatSlider(
        description=description, value=value, min=low, max=high, step=step, readout_format=".2f"
    )


# -- cross-entropy ---------------------------------------------------------------------------------


def cross_entropy_explorer(
    logits: Sequence[float] = (2.0, 0.5, -1.0),
    names: Sequence[str] | None = None,
    label: int = 0,
) -> Explorer:
    """One slider per logit, the true class and label smoothing; see `cross_entropy_html`.

    Args:
        logits: starting values of the sliders (-5 to 5), 2 to 5 of them.
        names: class names; by default "class 0", ...
        label: index of the true class at the start.
    """
    names = _class_names(names, len(logits))
    if not 2 <= len(logits) <= 5:
        raise DataError(f"{len(logits)} logits: the explorer has room for 2 to 5 sliders.")
    controls = {
        f"logit_{i}": _slider(f"logit of {name}", logit, -5, 5, 0.1)
        for i, (name, logit) in enumerate(zip(names, logits, strict=True))
    }
    controls["label"] = ipywidgets.Dropdown(
        description="true class", options=[(n, i) for i, n in enumerate(names)], value=label
    )
    controls["smoothing"] = _slider("label smoothing", 0.0, 0, 0.5, 0.05)

    def draw(label, smoothing, **logits):
        return cross_entropy_html(list(logits.values()), label, smoothing, names)

    return Explorer("Softmax, cross-entropy and its gradient", draw, controls)


def cross_entropy(
    logits: Sequence[float], label: int, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Softmax probabilities p (C,), target q (C,) and cross-entropy of q and p in nats.

    q is 1 at `label`, smoothed: (1 - smoothing) of it stays, the rest is spread over all classes.
    """
    z = np.asarray(logits, dtype=float)
    if z.ndim != 1 or not np.isfinite(z).all():
        raise DataError(f"Expected a list of finite logits, one per class, not {logits!r}.")
    if not 0 <= label < len(z):
        raise DataError(f"The true class is {label}, expected 0 to {len(z) - 1}.")
    log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
    q = np.full(len(z), smoothing / len(z))
    q[label] += 1 - smoothing
    return np.exp(log_p), q, float(-(q * log_p).sum())


def make_cross_entropy(logits, label: int, smoothing: float = 0.0, names=None):
    """Three panels: probabilities beside targets, the loss on the curve -log p, the gradient."""
    p, q, loss = cross_entropy(logits, label, smoothing)
    names = _class_names(names, len(p))
    bottom = 0.32 if _long(names) else 0.18
    edges = {"left": 0.065, "right": 0.99, "bottom": bottom, "top": 0.96, "wspace": 0.3}
    fig, (left, middle, right) = plots.figure(9, 2.9, columns=3, edges=edges)
    x = np.arange(len(p))
    left.bar(x, p, width=0.6, color=BLUE, label="probability p")
    left.bar(x, q, width=0.8, fill=False, edgecolor=ORANGE, linestyle="--", linewidth=2,
             label="target q")  # fmt: skip
    for i, value in enumerate(p):
        left.text(i, value + 0.02, _number(value, 2), ha="center", fontsize=9)
    left.set(ylabel="probability", ylim=(0, 1.38), yticks=np.linspace(0, 1, 6))
    left.legend(frameon=False, fontsize=8.5, loc="upper center", ncols=2)

    grid = np.linspace(0.0005, 1, 400)
    middle.plot(grid, -np.log(grid), color=GREY, linestyle="-")
    own = -np.log(p[label])
    middle.plot(p[label], own, "o", color=BLUE, markersize=9, clip_on=False)
    middle.vlines(p[label], 0, own, color=BLUE, linestyle=":")
    middle.set(xlabel=f"probability of the true class ({names[label]})", ylabel="−log p (nats)",
               xlim=(0, 1), ylim=(0, max(6.0, own * 1.08)))  # fmt: skip
    text = f"loss {_number(loss)}" + ("\n(mean over q)" if smoothing else "")
    middle.text(0.95, 0.95, text, transform=middle.transAxes, ha="right", va="top")

    for i, value in enumerate(p - q):
        colour, hatch = (BLUE, "") if value > 0 else (ORANGE, HATCHES[1])
        right.bar(i, value, width=0.6, color=colour, hatch=hatch, edgecolor="white")
        right.text(i, value + (0.04 if value >= 0 else -0.04), _number(value, 2), fontsize=9,
                   ha="center", va="bottom" if value >= 0 else "top")  # fmt: skip
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set(ylabel="gradient p − q", ylim=(-1.25, 1.25))
    for ax in (left, right):
        ax.set_xticks(x, names)
        ax.set_xlabel("class")
        ax.grid(False, axis="x")
        _shrink_long_names(ax, names)
    return fig


def cross_entropy_html(
    logits: Sequence[float],
    label: int,
    smoothing: float = 0.0,
    names: Sequence[str] | None = None,
) -> str:
    """Probabilities, loss and gradient for C logits, as a figure and a line of numbers.

    Args:
        logits: C scores. label: index of the true class. smoothing: 0 to 1, spread over all C.
        names: C class names.
    """
    p, q, loss = cross_entropy(logits, label, smoothing)
    names = _class_names(names, len(p))
    numbers = (
        f"p = softmax(logits) = {_numbers(p)}; loss = {_number(loss)} nats; "
        f"gradient p − q = {_numbers(p - q)}, sum {_number((p - q).sum())}."
    )
    figure = plots.figure_html(
        make_cross_entropy(logits, label, smoothing, names),
        f"Three panels for logits {_numbers(logits, 1)} and true class “{names[label]}”: bars of "
        f"the probabilities, the loss on the curve of minus log p, bars of the gradient. {numbers}",
        "A gradient step lowers logits with a bar above zero and raises those with one below: "
        "towards the target, and the harder the further away p is.",
    )
    return figure + _status(numbers)


def _class_names(names: Sequence[str] | None, count: int) -> list[str]:
    names = [f"class {i}" for i in range(count)] if names is None else [str(n) for n in names]
    if len(names) != count:
        raise DataError(f"{len(names)} class names for {count} classes: {names}.")
    return names


def _long(names: Sequence[str]) -> bool:
    return max(map(len, names)) * len(names) > 32


def _shrink_long_names(ax, names: Sequence[str]) -> None:
    if _long(names):
        ax.tick_params(axis="x", rotation=30, labelsize=8)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")


# -- learning-rate schedule ------------------------------------------------------------------------

SCHEDULES = ("linear", "cosine", "constant")


def schedule_explorer(
    peak: float = 1e-4, warmup_fraction: float = 0.1, total: int = 200, schedule: str = "linear"
) -> Explorer:
    """Sliders for warm-up, length and peak of a learning-rate schedule; see `schedule_html`."""
    controls = {
        "peak": ipywidgets.FloatLogSlider(
            description="peak learning rate", value=peak, min=-6, max=-2, step=0.1,
            readout_format=".1e",
        ),
        "warmup_fraction": _slider("warm-up fraction", warmup_fraction, 0, 0.9, 0.05),
        "total": ipywidgets.IntSlider(
            description="updates in all", value=total, min=10, max=2000, step=10
        ),
        "schedule": ipywidgets.Dropdown(
            description="shape after warm-up", options=SCHEDULES, value=schedule
        ),
    }  # fmt: skip
    return Explorer("Learning rate over a run", schedule_html, controls)


def learning_rates(
    peak: float, warmup_fraction: float, total: int, schedule: str = "linear"
) -> np.ndarray:
    """The learning rate of each of `total` updates (total,), as `training.fit` computes it."""
    from sft_teach.training import warmup_factor

    if schedule not in SCHEDULES:
        raise DataError(f"schedule={schedule!r}: expected one of {', '.join(SCHEDULES)}.")
    warmup = round(warmup_fraction * total)
    return peak * np.array([warmup_factor(s, warmup, total, schedule) for s in range(total)])


def make_schedule(peak: float, warmup_fraction: float, total: int, schedule: str = "linear"):
    """Learning rate against update, the warm-up shaded."""
    rates = learning_rates(peak, warmup_fraction, total, schedule)
    warmup = round(warmup_fraction * total)
    edges = {"left": 0.085, "right": 0.97, "bottom": 0.18, "top": 0.91}
    fig, ax = plots.figure(7, 2.9, edges=edges)
    ax.plot(np.arange(total), rates, color=BLUE, linestyle="-", linewidth=2)
    if warmup:
        ax.axvspan(0, warmup, color=ORANGE, alpha=0.18, linewidth=0, hatch="//",
                   label=f"warm-up: {warmup} updates")  # fmt: skip
    ax.axhline(rates.mean(), color=GREY, linestyle=":", label="mean over the run")
    ax.set(xlabel="update", ylabel="learning rate", xlim=(0, total), ylim=(0, peak * 1.3))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    ax.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    return fig


def schedule_html(peak: float, warmup_fraction: float, total: int, schedule: str = "linear") -> str:
    """The learning-rate curve of a run, and its numbers.

    Args:
        peak: the highest learning rate. warmup_fraction: share of updates with a rising rate.
        total: number of updates. schedule: "linear", "cosine" or "constant".
    """
    rates = learning_rates(peak, warmup_fraction, total, schedule)
    numbers = (
        f"First update: {rates[0]:.1e}. Half way: {rates[total // 2]:.1e}. "
        f"Last: {rates[-1]:.1e}. Mean over the run: {rates.mean() / peak:.0%} of the peak."
    )
    figure = plots.figure_html(
        make_schedule(peak, warmup_fraction, total, schedule),
        f"Curve of the learning rate over {total} updates: {schedule} shape, peak {peak:.1e}, "
        f"warm-up over {round(warmup_fraction * total)} updates. {numbers}",
        "The rate rises while AdamW's averages are still guesses, then follows its shape.",
    )
    return figure + _status(numbers)


# -- tokenizer -------------------------------------------------------------------------------------

EXAMPLES = {
    "a plain sentence": "A film that knows what it wants.",
    "rare and long words": "Antidisestablishmentarianism and cinematographic kitsch.",
    "emoji and symbols": "Loved it 😀👍 10/10 ★★★★★ 電影",
    "spelling, capitals": "Sooooo GOOOD!!! Definately reccomended :-)",
    "longer than the limit": "The first half drags, the second half sings, and the last minute "
    "takes everything back that the trailer had promised us so loudly.",
}


def tokenizer_explorer(tokenizer, text: str | None = None, max_length: int = 16) -> Explorer:
    """Typed text as tokens, ids and mask, and what truncation drops; see `tokenizer_html`."""
    controls = {
        "text": ipywidgets.Textarea(
            description="your text", value=EXAMPLES["a plain sentence"] if text is None else text
        ),
        "max_length": ipywidgets.IntSlider(
            description="max_length (tokens)", value=max_length, min=3, max=48
        ),
        "truncation": ipywidgets.Dropdown(
            description="keep when too long", value="head",
            options=[("the start (head)", "head"), ("the end (tail)", "tail"),
                     ("some of both", "both")],
        ),
    }  # fmt: skip

    def draw(text, max_length, truncation):
        return tokenizer_html(tokenizer, text, max_length, truncation)

    buttons = [_example_button(name, value, controls["text"]) for name, value in EXAMPLES.items()]
    return Explorer("From text to tokens", draw, controls, buttons)


def _example_button(name: str, text: str, box: ipywidgets.Textarea) -> ipywidgets.Button:
    button = ipywidgets.Button(description=name, tooltip=f"Write into the box: {text}")
    button.on_click(lambda _: setattr(box, "value", text))
    return button


def tokenizer_html(tokenizer, text: str, max_length: int = 16, truncation: str = "head") -> str:
    """A text's tokens as a model gets them: token, id and attention mask, padded to `max_length`.

    Args:
        tokenizer: a transformers tokenizer. text: what to cut into tokens.
        max_length: tokens in all, special ones included. truncation: "head", "tail" or "both".
    """
    from sft_teach.batching import tokenize, truncate

    kept = tokenize([text], tokenizer, max_length, truncation)[0]
    body = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    room = max_length - tokenizer.num_special_tokens_to_add()
    inside = set(truncate(range(len(body)), room, truncation))
    dropped = [body[i] for i in range(len(body)) if i not in inside]
    pads = max(max_length - len(kept), 0)
    rows = [(*pair, 1) for pair in _tokens(tokenizer, kept)]
    rows += [(*pair, 0) for pair in _tokens(tokenizer, [tokenizer.pad_token_id] * pads)]
    unknown = sum(i == tokenizer.unk_token_id for i in body)
    pieces = sum(t.startswith("##") for t, _ in _tokens(tokenizer, body))
    parts = [
        f"{len(body)} tokens from {len(text.split())} words: {pieces} continue a word (##), "
        f"{unknown} unknown ([UNK]); {len(kept) - len(body) + len(dropped)} special tokens, "
        f"{pads} padding, {len(dropped)} dropped."
    ]
    text_alternative = f"attention mask {', '.join(str(mask) for *_, mask in rows)}."
    lost = f"<p>Dropped: {_token_boxes(_tokens(tokenizer, dropped), lost=True)}</p>"
    return (
        f'<div role="img" aria-label="{html.escape(_spoken(rows) + text_alternative)}">'
        f"{_token_boxes(rows)}</div>"
        '<p style="font-size:0.92em">In each box: token, id, attention mask. Grey boxes are '
        "padding, which the mask (0) hides.</p>"
        f"{lost if dropped else ''}{_status(' '.join(parts))}"
    )


def _tokens(tokenizer, ids: Sequence[int]) -> list[tuple[str, int]]:
    return list(zip(tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True))


def _spoken(rows: Sequence[tuple]) -> str:
    return "Tokens and ids: " + ", ".join(f"{token} {number}" for token, number, _ in rows) + "; "


def _token_boxes(rows: Sequence[tuple], lost: bool = False) -> str:
    """Boxes with token, id and mask; word pieces carry the colour of the word they continue."""
    boxes, word = [], 0
    for token, number, *mask in rows:
        word += not token.startswith("##")
        colour = (f"{ORANGE}44", f"{plots.SKY}55")[word % 2]
        if mask == [0] or lost:
            colour = "#88888833"
        border = "2px solid " + VERMILLION if token == "[UNK]" else "1px solid #8886"
        decoration = "text-decoration:line-through;" if lost else ""
        below = "".join(f'<br><span style="font-size:0.75em">{v}</span>' for v in (number, *mask))
        boxes.append(
            f'<span class="sft-token" style="display:inline-block;text-align:center;margin:1px;'
            f"padding:1px 4px;border:{border};border-radius:4px;line-height:1.25;{decoration}"
            f'background:{colour}">{html.escape(token)}{below}</span>'
        )
    return "".join(boxes)


# -- a review of your own --------------------------------------------------------------------------

MOST_WORDS = 60


def review_explorer(
    classify: Callable[[list[str]], np.ndarray],
    label_names: Sequence[str],
    example: str = "A warm, funny film that never once feels long.",
) -> Explorer:
    """A text box and a button: probabilities, and the words that moved them; see `review_html`.

    Args:
        classify: gives probabilities (N, C) for N texts; `classifier` makes one from a model.
        label_names: C class names. example: the text at the start.
    """
    box = ipywidgets.Textarea(
        description="your review",
        value=example,
        layout={"height": "6em", "width": "min(100%, 52em)"},
    )
    button = ipywidgets.Button(
        description="Classify", button_style="primary", tooltip="Ask the model about this text"
    )

    def draw(text):
        return review_html(classify, label_names, text)

    return Explorer("Classify your own review", draw, {"text": box}, [button], when="Classify")


def classifier(
    model, tokenizer, max_length: int = 128, batch_size: int = 32
) -> Callable[[list[str]], np.ndarray]:
    """`classify(texts) -> probabilities (N, C)` of a model, as `review_explorer` wants it."""

    def classify(texts: list[str]) -> np.ndarray:
        from sft_teach.batching import LengthGroupedBatches, tokenize
        from sft_teach.evaluation import predict

        ids = tokenize(texts, tokenizer, max_length)
        batches = LengthGroupedBatches(
            ids, batch_size=batch_size, pad_id=tokenizer.pad_token_id, shuffle=False
        )
        return predict(model, batches).probabilities

    return classify


def word_effects(
    classify: Callable[[list[str]], np.ndarray], text: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What each word does to the answer: the text is classified again without it.

    Args:
        classify: probabilities (N, C) for N texts; called once, with the text and its variants.
        text: words beyond the first 60 count for the answer but are not left out.

    Returns:
        words: the words that were left out in turn.
        probabilities: (C,) for the whole text.
        effects: (words,) probability of the predicted class minus that without the word: positive
            where the word speaks for the answer.
    """
    words = text.split()
    if not words:
        raise DataError("There is no text yet. Write a sentence or two and press the button.")
    tried = words[:MOST_WORDS] if len(words) > 1 else []  # a lone word leaves nothing to ask about
    variants = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(tried))]
    probabilities = np.asarray(classify([text, *variants]), dtype=float)
    if probabilities.shape[0] != 1 + len(tried) or probabilities.ndim != 2:
        raise DataError(
            f"classify gave an array of shape {probabilities.shape} for {1 + len(tried)} texts: "
            "expected one row of class probabilities per text."
        )
    best = int(probabilities[0].argmax())
    return tried, probabilities[0], probabilities[0, best] - probabilities[1:, best]


def review_html(
    classify: Callable[[list[str]], np.ndarray], label_names: Sequence[str], text: str
) -> str:
    """Class probabilities of a text as bars, and its words coloured by what they do to them."""
    words, probabilities, effects = word_effects(classify, text)
    names = _class_names(label_names, len(probabilities))
    best = int(probabilities.argmax())
    listed = ", ".join(f"{n} {_number(p, 2)}" for n, p in zip(names, probabilities, strict=True))
    figure = plots.figure_html(
        make_probabilities(probabilities, names),
        f"Bar chart of class probabilities: {listed}.",
        f"The answer is “{names[best]}” with probability {_number(probabilities[best], 2)}.",
    )
    if not words:
        return figure
    more = len(text.split()) - len(words)
    return figure + plots.make_token_strip(
        words,
        effects,
        f"Blue words speak for “{names[best]}”, orange ones against: the number is how far the "
        "probability falls when the word is left out."
        + (f" Tried for the first {len(words)} words; {more} more follow." if more else ""),
        "effect",
        scale=max(0.1, float(np.abs(effects).max())),  # tiny effects stay pale
    )


def make_probabilities(probabilities: Sequence[float], names: Sequence[str]):
    """One horizontal bar per class, the likeliest hatched."""
    fig, ax = plots.figure(6.5, 0.8 + 0.34 * len(names))
    best = int(np.argmax(probabilities))
    for i, value in enumerate(probabilities):
        ax.barh(i, value, color=BLUE if i == best else plots.SKY, edgecolor="white",
                hatch="//" if i == best else "")  # fmt: skip
        ax.text(value + 0.01, i, _number(value, 2), va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="probability", xlim=(0, 1.08), ylim=(len(names) - 0.5, -0.5))
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.grid(False, axis="y")
    return fig


# -- calibration -----------------------------------------------------------------------------------


def calibration_explorer(logits, labels) -> Explorer:
    """A temperature slider for the reliability of predictions; see `calibration_html`.

    Args:
        logits: (N, C). labels: (N,) true classes; best those of validation data.
    """
    curve = temperature_curve(logits, labels)
    temperature = ipywidgets.FloatLogSlider(
        description="temperature T", value=1.0, base=2, min=-2, max=3, step=0.05,
        readout_format=".2f",
    )  # fmt: skip

    def draw(temperature):
        return calibration_html(logits, labels, temperature, curve)

    return Explorer("Calibration and temperature", draw, {"temperature": temperature})


def temperature_curve(logits, labels) -> dict[str, np.ndarray | float]:
    """Negative log-likelihood and calibration error over a grid of temperatures, and the best T."""
    from sft_teach.evaluation import fit_temperature

    grid = np.geomspace(0.25, 8, 61)
    scores = np.array([_calibration_at(logits, labels, t)[1:] for t in grid])
    return {
        "temperature": grid,
        "nll": scores[:, 0],
        "ece": scores[:, 1],
        "best": fit_temperature(logits, labels),
    }


def _calibration_at(logits, labels, temperature: float):
    """(Calibration, mean negative log-likelihood, ECE) of softmax(logits / temperature)."""
    from scipy.special import log_softmax

    from sft_teach.evaluation import calibration

    log_p = log_softmax(np.asarray(logits, dtype=float) / temperature, axis=1)
    labels = np.asarray(labels)
    found = calibration(np.exp(log_p), labels)
    return found, float(-log_p[np.arange(len(labels)), labels].mean()), found.ece


def make_calibration(logits, labels, temperature: float = 1.0, curve: dict | None = None):
    """Left: reliability diagram at this temperature. Right: NLL and ECE over all temperatures."""
    curve = curve or temperature_curve(logits, labels)
    found, nll, ece = _calibration_at(logits, labels, temperature)
    edges = {"left": 0.065, "right": 0.985, "bottom": 0.15, "top": 0.97, "wspace": 0.2}
    fig, (left, right) = plots.figure(9, 3.4, columns=2, edges=edges)
    rows = [b for b in found.bins if b["count"]]
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    largest = max(b["count"] for b in rows)
    x, y = [b["confidence"] for b in rows], [b["accuracy"] for b in rows]
    sizes = [25 + 200 * b["count"] / largest for b in rows]
    left.scatter(x, y, s=sizes, color=BLUE, alpha=0.75, zorder=3)
    left.plot(x, y, color=BLUE, linestyle="-", label="this T (larger dot: more predictions)")
    left.set(xlabel="confidence (probability of the predicted class)",
             ylabel="accuracy (share right)", xlim=(0, 1.03), ylim=(0, 1.03))  # fmt: skip
    left.legend(frameon=False, fontsize=8.5, loc="lower right")
    for name, now, marker, colour, line in (
        ("nll", nll, "o", BLUE, "-"),
        ("ece", ece, "s", VERMILLION, "--"),
    ):
        label = {"nll": "NLL (nats per example)", "ece": "ECE (0 to 1)"}[name]
        right.plot(curve["temperature"], curve[name], color=colour, linestyle=line, label=label)
        right.plot(temperature, now, marker, color=colour, markersize=8)
    right.axvline(curve["best"], ymax=0.78, color=GREEN, linestyle=":", linewidth=2,
                  label=f"lowest NLL: T = {curve['best']:.2f}")  # below the legend  # fmt: skip
    right.set_xscale("log", base=2)
    right.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"])
    right.set(xlabel="temperature T (log scale)", ylabel="NLL and ECE")
    right.set_ylim(0, 1.3 * float(np.max(curve["nll"])))
    right.legend(frameon=False, fontsize=8.5, loc="upper center", ncols=2)
    return fig


def calibration_html(logits, labels, temperature: float = 1.0, curve: dict | None = None) -> str:
    """Reliability of softmax(logits / temperature) as a figure and a line of numbers.

    Args:
        logits: (N, C). labels: (N,). temperature: above 1 softens, below 1 sharpens.
        curve: `temperature_curve(logits, labels)`, where it is drawn often.
    """
    curve = curve or temperature_curve(logits, labels)
    _, nll, ece = _calibration_at(logits, labels, temperature)
    accuracy = float((np.argmax(logits, axis=1) == np.asarray(labels)).mean())
    numbers = (
        f"T = {temperature:.2f}: NLL {_number(nll)} nats, ECE {_number(ece)}, accuracy "
        f"{_number(accuracy)} at every T (n = {len(labels):,}). Lowest NLL at T = "
        f"{curve['best']:.2f}."
    )
    figure = plots.figure_html(
        make_calibration(logits, labels, temperature, curve),
        "Left, a reliability diagram: accuracy against confidence. Right, negative log-likelihood "
        f"and calibration error against temperature. {numbers}",
        "Dots below the dashed line: too sure; above it: too timid. A higher temperature moves the "
        "dots to the left and changes no answer.",
    )
    return figure + _status(numbers)


# -- confusion -------------------------------------------------------------------------------------


def confusion_explorer(
    predictions, texts: Sequence[str], label_names: Sequence[str], most: int = 8
) -> Explorer:
    """Choose a cell of the confusion matrix and read its sentences; see `confusion_html`.

    Args:
        predictions: `evaluation.Predictions` with labels, in the order of `texts`.
        texts: N sentences. label_names: C class names. most: sentences to list.
    """
    matrix = _confusion_matrix(predictions, texts)
    names = _class_names(label_names, len(matrix))
    wrong = matrix - np.diag(np.diag(matrix))
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)  # the commonest mistake
    options = [(n, i) for i, n in enumerate(names)]
    controls = {
        "true": ipywidgets.Dropdown(description="true class", options=options, value=int(true)),
        "predicted": ipywidgets.Dropdown(
            description="predicted class", options=options, value=int(predicted)
        ),
    }

    def draw(true, predicted):
        return confusion_html(predictions, texts, names, true, predicted, most)

    return Explorer("The sentences behind a confusion matrix", draw, controls)


def _confusion_matrix(predictions, texts: Sequence[str]) -> np.ndarray:
    """Counts (C, C), rows true."""
    from sklearn.metrics import confusion_matrix

    labels = predictions.require_labels()
    if len(labels) != len(texts):
        raise DataError(f"{len(labels)} predictions but {len(texts)} texts: expected one each.")
    return confusion_matrix(labels, predictions.predicted, labels=range(predictions.num_classes))


def cell_rows(predictions, true: int, predicted: int) -> np.ndarray:
    """Row numbers of the examples in a cell, the most confident first."""
    inside = (predictions.require_labels() == true) & (predictions.predicted == predicted)
    rows = np.flatnonzero(inside)
    return rows[np.argsort(-predictions.confidence[rows], kind="stable")]


def make_confusion_cell(matrix, names: Sequence[str], true: int, predicted: int):
    """The confusion matrix with one cell framed."""
    from matplotlib.patches import Rectangle

    fig = plots.make_confusion(matrix, names)
    fig.axes[0].add_patch(
        Rectangle((predicted - 0.46, true - 0.44), 0.92, 0.88, fill=False, edgecolor=VERMILLION,
                  linewidth=3, linestyle="--")
    )  # fmt: skip
    return fig


def confusion_html(
    predictions,
    texts: Sequence[str],
    label_names: Sequence[str],
    true: int,
    predicted: int,
    most: int = 8,
) -> str:
    """The confusion matrix with a cell framed, and that cell's texts, the most confident first.

    Args:
        predictions: `evaluation.Predictions` with labels. texts: N. label_names: C.
        true, predicted: the cell (row, column). most: texts to list, each cut at 300 characters.
    """
    matrix = _confusion_matrix(predictions, texts)
    names = _class_names(label_names, len(matrix))
    rows = cell_rows(predictions, true, predicted)
    confidence = predictions.confidence
    cell = f"true “{names[true]}”, predicted “{names[predicted]}”"
    items = "".join(
        f"<li><b>{confidence[i]:.2f}</b> {html.escape(_shorten(texts[i], 300))}</li>"
        for i in rows[:most]
    )
    count = f"{len(rows)} of {len(texts):,} texts in the cell {cell}" + (
        f"; the {most} most confident:" if len(rows) > most else ":" if len(rows) else "."
    )
    figure = plots.figure_html(
        make_confusion_cell(matrix, names, true, predicted),
        f"Confusion matrix of {len(texts)} predictions with the cell {cell} framed: "
        f"{len(rows)} texts.",
        "The dashed frame is the chosen cell; its sentences follow with the model's confidence.",
    )
    return f'{figure}{_status(count)}<ol class="sft-sentences">{items}</ol>'


def _shorten(text: str, most: int) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"
