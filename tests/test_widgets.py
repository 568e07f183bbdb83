"""Explorers draw what their controls say, with numbers equal to other people's libraries."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, log_loss

from sft_teach import widgets
from sft_teach.errors import DataError
from sft_teach.evaluation import Predictions, fit_temperature

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "good", "bad", "play", "##ing", "<", ">"]
NAMES = ["negative", "neutral", "positive"]


def numbers(text: str) -> list[float]:
    """The numbers in the line under a drawing."""
    line = re.search(r'class="sft-numbers">(.*?)</p>', text)[1]
    return [float(n) for n in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", line.replace("−", "-"))]


def alt(text: str) -> str:
    found = re.findall(r'<img alt="([^"]+)"', text)
    assert found and len(found) == text.count("<img")
    return found[0]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    backend = BertWordPieceTokenizer(vocab={w: i for i, w in enumerate(WORDS)})
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return BertTokenizerFast(tokenizer_object=backend._tokenizer, unk_token="[UNK]", **special)


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    logits = 3 * rng.normal(size=(200, 3))
    logits[np.arange(200), labels] += 3
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("logits", [[2.0, 0.5, -1.0], [-3.0, 4.5, 0.0, 1.0, 1.0], [800.0, 0.0]])
def test_cross_entropy_equals_torch(logits, smoothing):
    z = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(z, torch.tensor([1]), label_smoothing=smoothing)
    loss.backward()
    p, q, own = widgets.cross_entropy(logits, 1, smoothing)
    np.testing.assert_allclose(p, F.softmax(z, dim=1)[0].detach(), atol=1e-12)
    np.testing.assert_allclose(p - q, z.grad[0], atol=1e-12)
    assert own == pytest.approx(loss.item(), abs=1e-9)


def test_moving_a_logit_redraws_probabilities_loss_and_gradient():
    explorer = widgets.cross_entropy_explorer(names=NAMES)
    before = explorer.drawing.value
    explorer.controls["logit_2"].value = 4.0
    explorer.controls["label"].value = 2
    explorer.controls["smoothing"].value = 0.1
    after = explorer.drawing.value
    assert before != after and alt(before) != alt(after)
    z = torch.tensor([[2.0, 0.5, 4.0]], requires_grad=True)
    loss = F.cross_entropy(z, torch.tensor([2]), label_smoothing=0.1)
    loss.backward()
    expected = [*F.softmax(z, 1)[0].tolist(), loss.item(), *z.grad[0].tolist(), 0.0]
    assert numbers(after) == pytest.approx(expected, abs=6e-4)


def test_the_explorer_draws_what_its_static_twin_draws():
    explorer = widgets.cross_entropy_explorer([1.0, 0.0], names=["no", "yes"])
    assert widgets.cross_entropy_html([1.0, 0.0], 0, 0.0, ["no", "yes"]) in explorer.drawing.value


def test_the_schedule_equals_that_of_transformers():
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for schedule, get in (
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        theirs = get(optimizer, 10, 100).lr_lambdas[0]
        ours = widgets.learning_rates(1.0, 0.1, 100, schedule)
        # theirs starts the warm-up at 0, ours does not waste the first update
        np.testing.assert_allclose(ours[10:], [theirs(s) for s in range(10, 100)], atol=1e-12)
        np.testing.assert_allclose(ours[:10], [theirs(s + 1) for s in range(10)], atol=1e-12)


def test_changing_the_schedule_redraws_the_curve():
    explorer = widgets.schedule_explorer(peak=1e-3, warmup_fraction=0.0, total=100)
    assert numbers(explorer.drawing.value)[:2] == pytest.approx([1e-3, 5e-4])
    before = explorer.drawing.value
    explorer.controls["warmup_fraction"].value = 0.5
    explorer.controls["schedule"].value = "constant"
    assert alt(before) != alt(explorer.drawing.value)
    assert numbers(explorer.drawing.value)[:3] == pytest.approx([2e-5, 1e-3, 1e-3])
    explorer.controls["total"].value = 10
    assert "over 10 updates" in alt(explorer.drawing.value)


def test_typed_text_becomes_tokens_ids_and_mask(tokenizer):
    explorer = widgets.tokenizer_explorer(tokenizer, "a good film", max_length=8)
    spoken = re.search(r'aria-label="([^"]*)"', explorer.drawing.value)[1]
    assert "[CLS] 2, a 4, good 6, film 5, [SEP] 3, [PAD] 0" in spoken
    assert spoken.endswith("attention mask 1, 1, 1, 1, 1, 0, 0, 0.")
    explorer.controls["text"].value = "playing zzz <script>"
    text = explorer.drawing.value
    assert "##ing" in text and "[UNK]" in text and "<script" not in text
    assert "1 continue a word (##), 2 unknown" in text


@pytest.mark.parametrize(
    ("truncation", "dropped"), [("head", "bad"), ("tail", "a"), ("both", "good")]
)
def test_truncation_shows_what_is_dropped(tokenizer, truncation, dropped):
    text = widgets.tokenizer_html(tokenizer, "a good film film play bad", 7, truncation)
    lost = text.split("Dropped:")[1].split("</p>")[0]
    assert re.findall(r'">([^<]+)<br>', lost) == [dropped]
    assert "0 padding, 1 dropped" in text


def test_example_buttons_write_into_the_box(tokenizer):
    explorer = widgets.tokenizer_explorer(tokenizer)
    row = explorer.children[-2]
    assert [b.description for b in row.children] == list(widgets.EXAMPLES)
    for button in row.children:
        before = explorer.drawing.value
        button.click()
        assert explorer.controls["text"].value == widgets.EXAMPLES[button.description]
        assert 'class="sft-problem"' not in explorer.drawing.value
    assert explorer.drawing.value != before


def test_an_empty_text_is_explained_in_words(tokenizer):
    explorer = widgets.tokenizer_explorer(tokenizer)
    explorer.controls["text"].value = "  "
    assert 'role="alert"' in explorer.drawing.value
    assert "holds no text" in explorer.drawing.value and "Traceback" not in explorer.drawing.value


def by_words(texts: list[str]) -> np.ndarray:
    """A classifier whose logit is the number of "good" minus that of "bad"."""
    score = np.array([t.split().count("good") - t.split().count("bad") for t in texts])
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], axis=1)


def test_left_out_words_move_the_answer_by_what_they_are_worth():
    words, probabilities, effects = widgets.word_effects(by_words, "a good good bad film")
    assert words == ["a", "good", "good", "bad", "film"]
    p = [1 / (1 + math.exp(-s)) for s in range(3)]
    np.testing.assert_allclose(probabilities, [1 - p[1], p[1]])
    np.testing.assert_allclose(effects, [0, p[1] - p[0], p[1] - p[0], p[1] - p[2], 0], atol=1e-12)


def test_a_long_review_is_one_call_with_at_most_60_variants():
    calls = []

    def classify(texts):
        calls.append(len(texts))
        return by_words(texts)

    text = widgets.review_html(classify, ["negative", "positive"], "good " * 200)
    assert calls == [61] and "first 60 words; 140 more follow" in text


def test_the_review_is_classified_at_the_button_and_escaped():
    explorer = widgets.review_explorer(by_words, ["negative", "positive"], "good")
    assert "positive" in alt(explorer.drawing.value)
    before = explorer.drawing.value
    explorer.controls["text"].value = "bad <script>alert(1)</script> film"
    assert explorer.drawing.value == before
    explorer.children[-2].children[0].click()
    assert "negative 0.73" in alt(explorer.drawing.value)
    assert "<script" not in explorer.drawing.value
    assert "&lt;script&gt;" in explorer.drawing.value


@pytest.mark.parametrize(
    ("classify", "message"),
    [
        (lambda texts: [0.5, 0.5], "expected one row of class probabilities per text"),
        (lambda texts: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_classifier_is_explained_in_words(classify, message):
    explorer = widgets.review_explorer(classify, ["negative", "positive"])
    assert message in explorer.drawing.value and "Traceback" not in explorer.drawing.value


def test_the_classifier_of_a_model_gives_its_softmax(tokenizer):
    torch.manual_seed(0)
    embedding, head = torch.nn.Embedding(len(WORDS), 8), torch.nn.Linear(8, 2)

    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = embedding, head

        def forward(self, input_ids, attention_mask):
            mask = attention_mask[..., None].float()
            return self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))

    texts = ["a good film", "bad", "a bad bad playing film"]
    expected = []
    for text in texts:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        expected.append(F.softmax(head(embedding(ids).mean(0)), dim=0).detach().numpy())
    found = widgets.classifier(Bag(), tokenizer)(texts)
    np.testing.assert_allclose(found, expected, atol=2e-2)  # bfloat16 where the machine has it


def test_temperature_moves_the_calibration_and_nothing_else(scored):
    logits, labels = scored
    explorer = widgets.calibration_explorer(logits, labels)
    for temperature in (1.0, 2.0, 0.5):
        explorer.controls["temperature"].value = temperature
        t, nll, ece, accuracy, best = numbers(explorer.drawing.value)
        p = F.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, dim=1).numpy()
        assert t == temperature and accuracy == pytest.approx((p.argmax(1) == labels).mean())
        assert nll == pytest.approx(log_loss(labels, p), abs=6e-4)
        assert ece == pytest.approx(ece_by_sorting(p, labels), abs=6e-4)
        assert best == pytest.approx(fit_temperature(logits, labels), abs=6e-3)
        assert f"T = {temperature:.2f}" in alt(explorer.drawing.value)


def ece_by_sorting(p: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 10 bins, with other means than the package's."""
    confidence, right = p.max(1), p.argmax(1) == labels
    bins = np.ceil(confidence * 10).astype(int)
    return sum(abs((right - confidence)[bins == b].sum()) for b in set(bins)) / len(labels)


def test_the_marked_temperature_has_the_lowest_loss(scored):
    curve = widgets.temperature_curve(*scored)
    lowest = curve["temperature"][curve["nll"].argmin()]
    assert curve["best"] == pytest.approx(lowest, rel=0.07)


def test_a_cell_lists_its_sentences_by_confidence_and_escaped(scored):
    logits, labels = scored
    predictions = Predictions(logits, labels)
    texts = [f"text-{i} <script>" for i in range(len(labels))]
    explorer = widgets.confusion_explorer(predictions, texts, NAMES, most=5)
    matrix = confusion_matrix(labels, logits.argmax(1))
    off = matrix - np.diag(np.diag(matrix))
    start = explorer.controls["true"].value, explorer.controls["predicted"].value
    assert off[start] == off.max()
    explorer.controls["true"].value, explorer.controls["predicted"].value = 2, 0
    text = explorer.drawing.value
    probabilities = F.softmax(torch.tensor(logits), dim=1)[:, 0].numpy()
    cell = [i for i in range(len(labels)) if labels[i] == 2 and logits[i].argmax() == 0]
    expected = sorted(cell, key=lambda i: -probabilities[i])[:5]
    assert [int(i) for i in re.findall(r"text-(\d+)", text)] == expected
    assert f"{matrix[2, 0]} of 200 texts" in text and "<script" not in text
    assert "true “positive”, predicted “negative”" in alt(text)


def test_an_empty_cell_says_so():
    predictions = Predictions([[2.0, 0.0], [0.0, 2.0]], [0, 1])
    text = widgets.confusion_html(predictions, ["a", "b"], ["no", "yes"], 0, 1)
    assert "0 of 2 texts in the cell" in text and "<li>" not in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: widgets.cross_entropy_explorer([1.0]), "2 to 5 sliders"),
        (lambda: widgets.cross_entropy_explorer([1, 2], names=["a"]), "1 class names for 2"),
        (lambda: widgets.cross_entropy([1.0, math.nan], 0), "finite logits"),
        (lambda: widgets.cross_entropy([1.0, 2.0], 2), "expected 0 to 1"),
        (lambda: widgets.learning_rates(1, 0, 10, "quadratic"), "linear, cosine, constant"),
        (
            lambda: widgets.confusion_explorer(Predictions([[1.0, 0.0]], [0]), [], ["a", "b"]),
            "1 predictions but 0 texts",
        ),
        (
            lambda: widgets.confusion_explorer(Predictions([[1.0, 0.0]]), ["x"], ["a", "b"]),
            "no labels",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_explorers_are_labelled_and_read_well_without_a_kernel(tokenizer, scored):
    explorers = [
        widgets.cross_entropy_explorer(),
        widgets.schedule_explorer(),
        widgets.tokenizer_explorer(tokenizer, "a film"),
        widgets.review_explorer(by_words, ["negative", "positive"]),
        widgets.calibration_explorer(*scored),
    ]
    for explorer in explorers:
        assert all(control.description for control in explorer.controls.values())
        data = explorer._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "JupyterLab" in data["text/html"] and "0x" not in data["text/plain"]
        assert 'class="sft-problem"' not in explorer.drawing.value
        assert not {"Output", "Image"} & {type(w).__name__ for w in explorer.children}
