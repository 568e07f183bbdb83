"""Evaluation: rows in their own order, metrics by hand, intervals equal to resampling for real."""

from __future__ import annotations

import json
import math
import time
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from sft_teach import evaluation
from sft_teach.batching import LengthGroupedBatches
from sft_teach.errors import DataError
from sft_teach.evaluation import Predictions


def answers(predicted, num_classes: int, labels=None) -> Predictions:
    """Predictions with these predicted classes."""
    return Predictions(4.0 * np.eye(num_classes)[np.asarray(predicted)], labels)


@pytest.fixture
def graded() -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers in five ordered classes, unbalanced, with class 3 never the true one."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 2, 4], size=160, p=[0.05, 0.15, 0.5, 0.3])
    noise = rng.choice([-1, 0, 0, 0, 1, 2], size=160)
    return labels, np.clip(labels + noise, 0, 4)


# --- predict and features ------------------------------------------------------------------------


class Sums(torch.nn.Module):
    """Logits that tell which row they belong to, and whether dropout was on."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, input_ids, attention_mask):
        total = (input_ids * attention_mask).sum(1).float()
        return torch.stack([self.dropout(total), -total, total * 0], dim=1)


IDS = [[5, 1], [7, 7, 7, 7], [2], [9, 9, 1], [3, 3, 3, 3, 3], [8], [1, 2, 3]]
LABELS = [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("shuffle", [False, True])
def test_predict_returns_rows_in_the_data_sets_order(shuffle):
    batches = LengthGroupedBatches(IDS, LABELS, batch_size=2, pad_id=6, shuffle=shuffle, seed=3)
    batches.set_epoch(2)
    assert batches.order != list(range(len(IDS)))
    result = evaluation.predict(Sums(), batches, precision="float32")
    assert result.logits[:, 0].tolist() == [sum(ids) for ids in IDS]
    assert result.labels.tolist() == LABELS
    assert result.logits.dtype == np.float32 and result.logits.shape == (7, 3)


def test_predict_evaluates_and_leaves_the_models_mode_as_it_was():
    batches = LengthGroupedBatches(IDS, None, batch_size=3, shuffle=False)
    for training in (True, False):
        model = Sums().train(training)
        result = evaluation.predict(model, batches, precision="float32")
        assert result.logits[:, 0].tolist() == [sum(ids) for ids in IDS]  # 0.9 dropout is off
        assert model.training is training and model.dropout.training is training
    assert result.labels is None


def test_predict_takes_plain_batches_as_they_come():
    batches = [
        {"input_ids": torch.tensor([[4], [1]]), "attention_mask": torch.ones(2, 1, dtype=int)},
        {"input_ids": torch.tensor([[3, 5]]), "attention_mask": torch.ones(1, 2, dtype=int)},
    ]
    result = evaluation.predict(Sums(), (batch for batch in batches), precision="float32")
    assert result.logits[:, 0].tolist() == [4, 1, 8]


def test_predict_refuses_an_order_that_is_not_every_example_once():
    batches = LengthGroupedBatches(IDS, LABELS, batch_size=2, shuffle=False)

    class Cut:
        order = batches.order

        def __iter__(self):
            yield next(iter(batches))

    with pytest.raises(DataError, match="2 rows but their order lists 7"):
        evaluation.predict(Sums(), Cut())
    with pytest.raises(DataError, match="no batches"):
        evaluation.predict(Sums(), [])


@pytest.fixture(scope="module")
def body_and_tokenizer(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(words))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=32, initializer_range=0.7,
        )  # fmt: skip
        return BertModel(config).eval(), BertTokenizerFast.from_pretrained(str(folder))


def test_features_are_means_over_real_tokens_in_the_order_of_the_texts(body_and_tokenizer):
    body, tokenizer = body_and_tokenizer
    texts = ["a b", "c d e f g h i", "j", "a c e g", "b", "h g f e d c b a i j a b"]
    found = evaluation.features(
        body, tokenizer, texts, max_length=12, batch_size=4, precision="float32"
    )
    for text, row in zip(texts, found, strict=True):  # one at a time: no padding, no order
        one = tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            mean = body(**one).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, mean.numpy(), atol=1e-5)
    assert found.shape == (6, 8) and found.dtype == np.float32
    assert np.abs(found[0] - found[2]).max() > 0.1  # rows that differ, or the order proves nothing


# --- Predictions ---------------------------------------------------------------------------------


def test_predictions_are_softmax_argmax_and_right_or_wrong():
    logits = torch.tensor([[1.0, 3.0, 0.5], [2.0, -1.0, 0.0], [0.0, 0.0, 90.0]])
    result = Predictions(logits, torch.tensor([1, 2, 2]))
    np.testing.assert_allclose(result.probabilities, logits.double().softmax(1).numpy())
    assert result.predicted.tolist() == [1, 0, 2]
    assert result.correct.tolist() == [True, False, True] and result.correct.dtype == bool
    np.testing.assert_allclose(result.confidence, logits.softmax(1).max(1).values, atol=1e-6)
    assert len(result) == 3 and "accuracy 0.667" in repr(result)


def test_predictions_from_probabilities_give_them_back_also_zeros():
    probabilities = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    result = Predictions.from_probabilities(probabilities, [2, 1])
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-6)
    assert np.isfinite(result.logits).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Predictions([[0.0, math.nan], [1, 2], [math.inf, 0]]), "2 of 3 .* row 0.*float32"),
        (lambda: Predictions([0.1, 0.9]), r"shape \(2,\)"),
        (lambda: Predictions(np.zeros((3, 2)), [0, 1]), "3 logits but 2 labels"),
        (lambda: Predictions(np.zeros((3, 2)), [0, 1, 2]), "row 2 holds class 2: expected 0 to 1"),
        (lambda: Predictions(np.zeros((2, 2)), [0.5, 1]), "0.5.*whole"),
        (lambda: Predictions(np.zeros((0, 2))), "empty"),
        (lambda: Predictions(np.zeros((3, 2))).correct, "no labels"),
        (lambda: Predictions.from_probabilities([[2.0, -1.0]]), "sum to 1.*softmax"),
        (lambda: evaluation.calibration([[3.0, 1.0]], [0]), "sum to 1.*softmax"),
        (lambda: evaluation.calibration([[0.5, 0.5]], [0, 1]), "1 probabilities but 2 labels"),
        (lambda: evaluation.quadratic_kappa([0, 1, 2], [0, 1]), "3 labels but 2 predictions"),
        (lambda: evaluation.compare([True, False], [True]), "2 examples but b 1"),
        (lambda: evaluation.accuracy_interval([]), "empty"),
        (lambda: evaluation.accuracy_interval([0.3, 0.9]), "True or False"),
        (lambda: evaluation.accuracy_interval([True], level=95), "between 0 and 1"),
        (lambda: evaluation.accuracy_interval([True], resamples=0), "at least 1"),
        (lambda: evaluation.bootstrap(np.mean, [1, 2], [1]), "2 values .* but 1 values"),
        (lambda: evaluation.majority_accuracy([], [0]), "train_labels is empty"),
        (
            lambda: evaluation.slices(answers([0, 1], 2, [0, 1]), {"odd": [True]}),
            "'odd' has 1 .* 2",
        ),
        (lambda: evaluation.report(answers([0, 1], 2, [0, 1]), ["one"]), "1 label names but 2"),
    ],
)
def test_errors_say_what_was_wrong(make, words):
    with pytest.raises(DataError, match=words):
        make()


# --- the report ----------------------------------------------------------------------------------


def test_report_by_hand():
    labels, predicted = [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2, 0, 0]
    found = evaluation.report(answers(predicted, 4, labels), list("abcd"))
    assert found.confusion.tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert found.accuracy == 4 / 8
    # F1 = 2 TP / (true + predicted): 6/9, 2/4, 0 and, for a class that nobody named, 0.
    assert found.macro_f1 == pytest.approx((6 / 9 + 2 / 4 + 0 + 0) / 4)
    assert found.mae == (1 + 1 + 2 + 2) / 8
    # observed squares 10/8; expected from the margins (4, 2, 2) x (5, 2, 1) / 64.
    expected = (4 * (2 * 1 + 1 * 4) + 2 * (5 * 1 + 1 * 1) + 2 * (5 * 4 + 2 * 1)) / 64
    assert found.kappa == pytest.approx(1 - (10 / 8) / expected)
    first = found.per_class[0]
    assert (first["name"], first["n"], first["predicted"]) == ("a", 4, 5)
    assert first["precision"] == 3 / 5 and first["recall"] == 3 / 4


def test_report_equals_scikit_learn(graded):
    labels, predicted = graded
    found = evaluation.report(answers(predicted, 5, labels))
    scores = metrics.f1_score(labels, predicted, labels=range(5), average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(scores)
    assert found.accuracy == pytest.approx(np.mean(labels == predicted))
    assert found.mae == pytest.approx(np.abs(labels - predicted).mean())
    assert found.confusion.sum(1).tolist() == np.bincount(labels, minlength=5).tolist()


def test_intervals_equal_those_of_resampled_examples(graded):
    """Multinomial tables against 4,000 samples of examples drawn one by one."""
    labels, predicted = graded
    found = evaluation.report(answers(predicted, 5, labels), resamples=20_000)
    rng = np.random.default_rng(1)
    drawn = {"accuracy": [], "macro_f1": [], "mae": [], "kappa": []}
    weights = (np.arange(5)[:, None] - np.arange(5)) ** 2
    for _ in range(4000):
        rows = rng.integers(0, len(labels), len(labels))
        truth, answer = labels[rows], predicted[rows]
        table = np.zeros((5, 5))
        np.add.at(table, (truth, answer), 1)
        share = table / len(rows)
        f1 = [
            2 * table[k, k] / (table[k].sum() + table[:, k].sum()) if table[k, k] else 0.0
            for k in range(5)
        ]
        drawn["accuracy"].append(np.trace(share))
        drawn["macro_f1"].append(np.mean(f1))
        drawn["mae"].append(np.abs(truth - answer).mean())
        chance = np.outer(share.sum(1), share.sum(0))
        drawn["kappa"].append(1 - (share * weights).sum() / (chance * weights).sum())
    for name, values in drawn.items():
        expected = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose(getattr(found, f"{name}_interval"), expected, atol=0.012)


def test_report_is_fast_enough_for_25000_reviews():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 25_000)
    predictions = answers(np.where(rng.random(25_000) < 0.5, labels, 2), 5, labels)
    start = time.process_time()
    evaluation.report(predictions, resamples=2000)
    assert time.process_time() - start < 5


def test_report_is_the_same_twice_and_ready_for_json(graded):
    labels, predicted = graded
    names = ["very bad", "bad", "neutral", "good", "very good"]
    first, second = (evaluation.report(answers(predicted, 5, labels), names) for _ in range(2))
    state = np.random.get_state()[1].copy()
    other = evaluation.report(answers(predicted, 5, labels), names, seed=1)
    assert np.array_equal(state, np.random.get_state()[1])
    assert json.loads(json.dumps(first.to_dict())) == second.to_dict()
    assert first.macro_f1_interval != other.macro_f1_interval
    assert first.macro_f1 == other.macro_f1


def test_report_shows_ordered_metrics_above_two_classes_only(graded):
    labels, predicted = graded
    five = str(evaluation.report(answers(predicted, 5, labels)))
    assert "n = 160" in five and "quadratic kappa" in five and "95% interval" in five
    two = evaluation.report(answers([0, 1, 1], 2, [0, 1, 0]), level=0.9)
    assert "kappa" not in str(two) and "66.7%" in str(two) and "90% interval" in str(two)
    assert two._repr_html_().count("<tr>") == 1 + len(two.rows())
    assert len({len(line) for line in five.splitlines() if "to" in line}) == 1  # aligned


def test_one_example_and_one_class_need_no_special_care():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = evaluation.report(answers([2], 3, [2]))
        same = evaluation.report(answers([1, 1, 1], 3, [1, 1, 1]))
        wrong = evaluation.report(answers([0, 0], 2, [1, 1]))
    assert single.accuracy == same.accuracy == 1 and single.accuracy_interval == (1, 1)
    assert same.macro_f1 == pytest.approx(1 / 3)  # two classes that nobody named count as 0
    assert same.kappa == 1 and same.kappa_interval == (1, 1)
    assert wrong.accuracy == 0 and wrong.kappa == 0


def test_kappa_counts_distance_between_grades_not_between_those_seen():
    # Classes 1 and 2 are absent: numbering only those seen would make 0 and 3 neighbours.
    labels, predicted = [0, 0, 3, 3, 4, 4], [0, 3, 3, 4, 4, 4]
    share = np.zeros((5, 5))
    np.add.at(share, (labels, predicted), 1 / 6)
    weights = (np.arange(5)[:, None] - np.arange(5)) ** 2
    chance = np.outer(share.sum(1), share.sum(0))
    by_hand = 1 - (share * weights).sum() / (chance * weights).sum()
    assert evaluation.quadratic_kappa(labels, predicted) == pytest.approx(by_hand)
    assert evaluation.quadratic_kappa(labels, predicted, 9) == pytest.approx(by_hand)
    assert abs(metrics.cohen_kappa_score(labels, predicted, weights="quadratic") - by_hand) > 0.05
    assert evaluation.quadratic_kappa([2, 2], [2, 2]) == 1.0


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "right"), [(40, 37), (500, 405), (9, 3)])
def test_accuracy_interval_equals_exact_binomial_quantiles(n, right):
    correct = np.arange(n) < right
    for level in (0.8, 0.95):
        found = evaluation.accuracy_interval(correct, level, resamples=40_000)
        exact = stats.binom.ppf([(1 - level) / 2, (1 + level) / 2], n, right / n) / n
        np.testing.assert_allclose(found, exact, atol=1 / n + 1e-9)  # one step of the count
    assert evaluation.accuracy_interval(correct) == evaluation.accuracy_interval(list(correct))


def test_bootstrap_resamples_arrays_together():
    rng = np.random.default_rng(0)
    easy = rng.normal(size=80)
    a, b = 3 + easy, 2.9 + easy + rng.normal(scale=0.05, size=80)
    low, high = evaluation.bootstrap(lambda x, y: np.mean(x - y), a, b, resamples=3000)
    half = 1.96 * np.std(a - b) / math.sqrt(80)
    np.testing.assert_allclose([low, high], np.mean(a - b) + [-half, half], atol=0.004)
    assert high - low < 0.03  # unpaired it would be 0.6
    assert evaluation.bootstrap(np.mean, [4.0]) == (4.0, 4.0)


def test_seeds_summary_is_students_t():
    mean, low, high = evaluation.seeds_summary([1, 2, 3])
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    mean, low, high = evaluation.seeds_summary([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert evaluation.seeds_summary([0.7, 0.7]) == pytest.approx((0.7, 0.7, 0.7))


def test_slices_score_each_part_with_its_own_n():
    predictions = answers([0, 0, 1, 1, 1, 0], 2, [0, 1, 1, 1, 0, 0])  # right: 1 0 1 1 0 1
    masks = {
        "front": [1, 1, 0, 0, 0, 0],
        "mid": np.array([0, 0, 1, 1, 0, 1], bool),
        "none": [0] * 6,
    }
    front, mid, none = evaluation.slices(predictions, masks)
    assert (front["slice"], front["n"], front["accuracy"]) == ("front", 2, 0.5)
    assert front["interval"] == (0, 1)
    assert (mid["n"], mid["accuracy"], mid["interval"]) == (3, 1.0, (1, 1))
    assert none["n"] == 0 and math.isnan(none["accuracy"])


# --- two models ----------------------------------------------------------------------------------


def test_compare_is_mcnemars_exact_test_and_names_the_winner():
    a = [True] * 9 + [False] * 2 + [True] * 30 + [False] * 4
    b = [False] * 9 + [True] * 2 + [True] * 30 + [False] * 4
    found = evaluation.compare(a, b, names=("tuned", "TF-IDF"), data="toy reviews")
    assert (found.n, found.n10, found.n01) == (45, 9, 2)
    assert found.p_value == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert found.difference == pytest.approx(39 / 45 - 32 / 45)
    shown = str(found)
    assert "tuned against TF-IDF on toy reviews (n = 45)" in shown and "p = 0.0654" in shown
    assert "only tuned right on 9" in shown and "+15.6 points" in shown
    swapped = evaluation.compare(b, a)
    assert swapped.p_value == found.p_value and swapped.difference == -found.difference
    assert json.loads(json.dumps(found.to_dict()))["n01"] == 2


def test_compare_resamples_pairs():
    rng = np.random.default_rng(2)
    a = rng.random(400) < 0.7
    b = a ^ (rng.random(400) < 0.05)  # the same answers but for one in twenty
    found = evaluation.compare(a, b, resamples=20_000)
    expected = stats.bootstrap(
        (a.astype(float), b.astype(float)), lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True, vectorized=True, method="percentile", n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found.difference_interval, expected, atol=0.0026)
    low, high = found.difference_interval
    assert high - low < 0.06  # two independent samples would give 0.13


def test_compare_without_a_difference_and_with_other_labels():
    same = evaluation.compare([True, False], [True, False])
    assert same.p_value == 1.0 and same.difference == 0 and same.difference_interval == (0, 0)
    a, b = answers([0, 1, 1], 2, [0, 1, 0]), answers([0, 1, 1], 2, [0, 0, 0])
    with pytest.raises(DataError, match="differ on 1 of 3 rows .*row 1"):
        evaluation.compare(a, b)
    assert evaluation.compare(a, a.correct).p_value == 1.0


# --- calibration ---------------------------------------------------------------------------------


def test_calibration_by_hand():
    top = np.array([0.5, 0.75, 0.625, 1.0, 0.875])
    probabilities = np.stack([top, 1 - top], axis=1)
    found = evaluation.calibration(probabilities, [0, 1, 0, 0, 1], bins=4)
    # (0.25, 0.5] holds 0.5; (0.5, 0.75] holds 0.75 and 0.625; (0.75, 1] holds 1.0 and 0.875.
    assert [b["count"] for b in found.bins] == [0, 1, 2, 2]
    assert [b["accuracy"] for b in found.bins][1:] == [1, 0.5, 0.5]
    assert [b["confidence"] for b in found.bins][1:] == [0.5, 0.6875, 0.9375]
    assert math.isnan(found.bins[0]["accuracy"])
    assert found.ece == pytest.approx((1 * 0.5 + 2 * 0.1875 + 2 * 0.4375) / 5)
    assert "0.50 to 0.75" in str(found) and "0.00 to 0.25" not in str(found)


def test_calibration_of_a_certain_model_is_its_error_rate():
    probabilities = np.eye(3)[[0, 1, 2, 0]]
    assert evaluation.calibration(probabilities, [0, 1, 2, 1]).ece == 0.25


def test_fit_temperature_finds_the_one_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(20_000, 4))
    gumbel = rng.gumbel(size=logits.shape)  # argmax(logits + Gumbel noise) ~ softmax(logits)
    labels = (logits + gumbel).argmax(1)
    found = evaluation.fit_temperature(3 * logits, labels)
    assert found == pytest.approx(3, rel=0.03)

    beta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    scaled, truth = torch.tensor(3 * logits.astype(np.float32)).double(), torch.tensor(labels)
    optimizer = torch.optim.LBFGS([beta], line_search_fn="strong_wolfe", max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scaled * beta, truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(1 / beta.item(), rel=1e-3)
    assert (Predictions(3 * logits / found).predicted == Predictions(3 * logits).predicted).all()


def test_fit_temperature_stays_within_its_bounds():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert evaluation.fit_temperature(logits, [0, 1]) == pytest.approx(0.05, rel=1e-3)
    assert evaluation.fit_temperature(logits, [1, 0]) == pytest.approx(20, rel=1e-3)


# --- baselines -----------------------------------------------------------------------------------


def test_majority_is_trains_class_and_ties_go_to_the_smallest():
    assert evaluation.majority_accuracy([2, 2, 0], [0, 0, 0, 2]) == 0.25
    assert evaluation.majority_accuracy([1, 0, 2, 2, 1], [1, 1, 2]) == pytest.approx(2 / 3)


GOOD, BAD = ["good", "warm", "funny", "bright"], ["dull", "cold", "flat", "grey"]


def sentences(n: int, seed: int) -> tuple[list[str], list[int]]:
    """A word of praise or of blame among others; "isn't" before it turns the label round."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        label, turned = (int(v) for v in rng.integers(0, 2, 2))
        word = rng.choice(GOOD if label != turned else BAD)
        filler = " ".join(rng.choice(["a", "film", "story", "scene", "plot"], 4))
        texts.append(f"{filler} {'isn' + chr(39) + 't' if turned else 'is'} {word}")
        labels.append(label)
    return texts, labels


def test_tfidf_baseline_reads_word_pairs_and_contractions_without_a_warning():
    train, test = sentences(400, 0), sentences(200, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (evaluation.tfidf_baseline(seed=3).fit(*train) for _ in range(2))
    terms = set(first[0].get_feature_names_out())
    assert {"isn't dull", "is good", "a"} <= terms
    assert first.score(*test) > 0.95  # single words alone cannot pass 0.5 here
    np.testing.assert_array_equal(first.predict_proba(test[0]), second.predict_proba(test[0]))
    report = evaluation.report(
        Predictions.from_probabilities(first.predict_proba(test[0]), test[1])
    )
    assert report.accuracy == pytest.approx(first.score(*test))


def test_tfidf_baseline_takes_classes_with_few_members():
    texts, labels = sentences(60, 0)
    labels[:3] = [2, 3, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = evaluation.tfidf_baseline().fit(texts, labels)
    assert fitted.predict_proba(texts).shape == (60, 4)


def test_folds_hold_out_every_example_once_and_train_on_every_class():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 2 + [3])
    np.random.default_rng(0).shuffle(labels)
    held_out = []
    for train, test in evaluation._Folds(5, seed=0).split(None, labels):
        assert set(labels[train]) == {0, 1, 2, 3} and not set(train) & set(test)
        assert np.isclose((labels[test] == 0).sum(), 4)  # stratified
        held_out += test.tolist()
    assert sorted(held_out) == np.flatnonzero(labels != 3).tolist()
