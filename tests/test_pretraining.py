"""Byte pairs, packed blocks, masking, language-model losses, and the comparison of starting points.

Oracles: the `tokenizers` library for merges, binomial bounds for masking, and sums by hand.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from sft_teach import models, pretraining, training
from sft_teach.errors import DataError

TEXTS = [
    "a warm and funny film about a warm and funny family .",
    "the film is not bad , it is not good , it is long .<br />Too long!",
    "badly told , sadly acted , and madly loved by the film makers .",
    "an ending so silly that the family laughed , and the film won .",
] * 6


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.train_tokenizer(TEXTS, 100)


@pytest.fixture(scope="module")
def blocks(tokenizer):
    return pretraining.pack(TEXTS, tokenizer, 16)


# --- byte-pair encoding -------------------------------------------------------------------------
def test_pairs_overlap_when_counted_and_not_when_merged():
    assert pretraining.pair_counts({("a", "a", "a"): 3}) == {("a", "a"): 6}
    assert pretraining.merged(("a", "a", "a"), ("a", "a")) == ("aa", "a")
    assert pretraining.merged(("b", "a", "n", "a", "n"), ("a", "n")) == ("b", "an", "an")
    assert pretraining.merged(("a",), ("a", "b")) == ("a",)


def test_merges_follow_frequency_then_the_alphabet():
    words = {tuple("bad"): 4, tuple("sad"): 3, tuple("badly"): 2, tuple("sadly"): 2}
    merges = pretraining.learn_merges(words, 10)
    assert ["".join(pair) for pair in merges] == ["ad", "bad", "sad", "ly", "badly", "sadly"]
    assert words == {tuple("bad"): 4, tuple("sad"): 3, tuple("badly"): 2, tuple("sadly"): 2}


def test_words_that_become_equal_add_their_counts():
    # After a+b, (ab, c) occurs 3 + 2 times and beats (x, y) with 4.
    words = {("a", "b", "c"): 3, ("ab", "c"): 2, ("x", "y"): 4, ("a", "b"): 9}
    assert pretraining.learn_merges(words, 2) == [("a", "b"), ("ab", "c")]


def test_merges_agree_with_the_textbook_regular_expression():
    """Sennrich et al. (2016), algorithm 1, works on strings with spaces between symbols."""
    rng = random.Random(0)
    words = Counter(
        tuple(rng.choices("abc", k=rng.randint(1, 7))) for _ in range(300)
    )  # fmt: skip
    vocab = {" ".join(symbols): n for symbols, n in words.items()}
    expected = []
    for _ in range(12):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in vocab.items():
            symbols = word.split()
            for i in range(len(symbols) - 1):
                pairs[symbols[i], symbols[i + 1]] += n
        best = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[0]
        expected.append(best)
        pattern = re.compile(r"(?<!\S)" + re.escape(" ".join(best)) + r"(?!\S)")
        shorter: Counter[str] = Counter()
        for word, n in vocab.items():
            shorter[pattern.sub("".join(best), word)] += n
        vocab = shorter
    assert pretraining.learn_merges(words, 12) == expected


def test_merges_agree_with_the_tokenizers_library():
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from tokenizers.models import BPE

    # Counts that are all different leave no tie to break.
    words = {"hello": 1000, "help": 501, "shell": 260, "elbow": 129, "low": 67}
    library = Tokenizer(BPE())
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=len(set("".join(words))) + 4, show_progress=False)
    library.train_from_iterator([" ".join([word] * n) for word, n in words.items()], trainer)
    theirs = [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    assert theirs == pretraining.learn_merges({tuple(w): n for w, n in words.items()}, 4)


def test_a_trained_tokenizer_frames_texts_and_keeps_every_letter(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(pretraining.SPECIAL)
    assert len(tokenizer) == 100
    ids = tokenizer("The family won.")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == "thefamilywon."
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the family won."
    assert tokenizer.tokenize("é") == tokenizer.tokenize("e")  # accents go, as with BERT
    assert tokenizer.tokenize("☃") == ["[UNK]"]


# --- blocks and batches -------------------------------------------------------------------------
def test_packing_keeps_the_stream_and_pads_nothing(tokenizer, blocks):
    stream = []
    for text in TEXTS:
        stream += tokenizer(pretraining.plain(text))["input_ids"][1:]  # ends with [SEP]
    assert (blocks[:, 0] == tokenizer.cls_token_id).all()
    body = blocks[:, 1:].flatten().tolist()
    assert body == stream[: len(body)] and len(stream) - len(body) < 15
    assert "<br" not in tokenizer.decode(body)


def test_too_little_text_is_an_error(tokenizer):
    with pytest.raises(DataError, match="do not fill one block of 512"):
        pretraining.pack(["short"], tokenizer, 512)


def test_causal_labels_are_the_next_tokens():
    batch = pretraining.causal_batch(torch.tensor([[2, 7, 8, 9], [2, 5, 6, 3]]))
    assert batch["input_ids"].tolist() == [[2, 7, 8], [2, 5, 6]]
    assert batch["labels"].tolist() == [[7, 8, 9], [5, 6, 3]]


def test_masking_has_berts_shares():
    n, v, p = 400_000, 1000, 0.3
    ids = torch.randint(5, v, (n,), generator=torch.Generator().manual_seed(0))
    special = torch.zeros(n, dtype=torch.bool)
    inputs, labels = pretraining.mask_tokens(
        ids, special, 4, v, p, torch.Generator().manual_seed(1)
    )
    chosen = labels != -100
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])

    def close(hits: int, trials: int, share: float) -> bool:
        return abs(hits - trials * share) < 5 * math.sqrt(trials * share * (1 - share))

    k = int(chosen.sum())
    masked, kept = inputs[chosen] == 4, inputs[chosen] == ids[chosen]
    assert close(k, n, p)
    assert close(int(masked.sum()), k, 0.8 + 0.1 / v)
    assert close(int(kept.sum()), k, 0.1 + 0.1 / v)
    random_ids = inputs[chosen][~masked & ~kept]
    assert random_ids.min() == 0 and random_ids.max() == v - 1  # all of the vocabulary
    # Independent positions: the chance to be chosen does not depend on the neighbour's.
    after = chosen[1:][chosen[:-1]]
    assert close(int(after.sum()), len(after), p)


def test_masking_spares_special_positions_and_depends_on_its_generator_only():
    ids = torch.arange(100).view(4, 25)
    special = ids % 5 == 0
    before = torch.get_rng_state()
    first, second = (
        pretraining.mask_tokens(ids, special, 4, 100, 1.0, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1] == -100, special) and torch.equal(first[0][special], ids[special])
    other = pretraining.mask_tokens(ids, special, 4, 100, 1.0, torch.Generator().manual_seed(4))
    assert not torch.equal(first[0], other[0])


def test_batches_hold_every_block_once_and_change_with_the_epoch(blocks):
    batches = pretraining.PackedBatches(blocks, "causal", batch_size=4)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        rows = [batch["input_ids"] for batch in batches]
        assert len(rows) == len(batches)
        orders.append(torch.cat(rows))
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    assert sorted(orders[0].tolist()) == sorted(blocks[:, :-1].tolist())


def test_masks_are_new_in_each_epoch_and_fixed_for_validation(tokenizer, blocks):
    for shuffle in (True, False):
        batches = pretraining.PackedBatches(blocks, "masked", tokenizer, 50, 0.3, shuffle)
        seen = []
        for epoch in (0, 1):
            batches.set_epoch(epoch)
            seen.append(torch.cat([batch["labels"] for batch in batches]))
        assert torch.equal(*seen) is not shuffle
        assert (seen[0][:, 0] == -100).all()  # [CLS] is never asked for


def test_an_unknown_objective_and_a_missing_tokenizer_are_errors(blocks):
    with pytest.raises(DataError, match="'causal' or 'masked'"):
        pretraining.PackedBatches(blocks, "next")
    with pytest.raises(DataError, match="tokenizer="):
        pretraining.PackedBatches(blocks, "masked")


# --- rivals and perplexity ----------------------------------------------------------------------
def test_unigram_loss_is_the_mean_surprise_of_smoothed_frequencies():
    seen, new = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 2]])
    # counts + 1 = 3, 2, 1, 1 of 7
    by_hand = (-math.log(3 / 7) - math.log(1 / 7)) / 2
    assert pretraining.unigram_loss(seen, new, 4) == pytest.approx(by_hand, rel=1e-6)


def test_perplexity_counts_tokens_not_batches():
    losses = [math.log(2), math.log(8)]
    assert pretraining.corpus_perplexity(losses, [30, 10]) == pytest.approx(2**1.5)
    assert pretraining.corpus_perplexity([*losses, math.nan], [30, 10, 0]) == pytest.approx(2**1.5)
    with pytest.raises(DataError, match="No tokens"):
        pretraining.corpus_perplexity([math.nan], [0])
    with pytest.raises(ValueError):
        pretraining.corpus_perplexity([1.0], [1, 2])


# --- sampling -----------------------------------------------------------------------------------
def test_temperature_and_top_k_by_hand():
    logits = torch.tensor([1.0, 2.0, 5.0]).log()

    def near(found, expected):
        return torch.allclose(found, torch.tensor(expected), atol=1e-6)

    p = pretraining.next_token_probabilities
    assert near(p(logits), [1 / 8, 2 / 8, 5 / 8])
    assert near(p(logits, 0.5), [1 / 30, 4 / 30, 25 / 30])
    assert near(p(logits, top_k=2), [0.0, 2 / 7, 5 / 7])
    with pytest.raises(DataError, match="temperature=0"):
        p(logits, 0.0)


class Scripted(torch.nn.Module):
    """A causal "model" that is certain of a fixed list of tokens, whatever it reads."""

    def __init__(self, script, size):
        super().__init__()
        self.script, self.size, self.config = script, size, SimpleNamespace()

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, self.size), -50.0)
        logits[:, -1, self.script[input_ids.shape[1] - 1]] = 50.0
        return SimpleNamespace(logits=logits)


def test_sampling_writes_what_the_model_says_and_stops_at_the_end(tokenizer):
    ids = tokenizer("film is good")["input_ids"][1:]  # with [SEP]
    model = Scripted([*ids, *ids], len(tokenizer)).train()
    assert pretraining.sample(model, tokenizer) == "film is good"
    assert pretraining.sample(model, tokenizer, length=1) == tokenizer.decode(ids[:1])
    assert model.training


def test_samples_depend_on_their_seed_only(tokenizer):
    model = models.tiny_gpt(len(tokenizer), hidden_size=32, layers=1, max_length=24)
    before = torch.get_rng_state()
    first, same, other = (
        pretraining.sample(model, tokenizer, "the film", length=30, seed=seed) for seed in (0, 0, 1)
    )
    assert first == same != other and first.startswith("the film")
    assert torch.equal(torch.get_rng_state(), before)


# --- training -----------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_fit_lowers_a_language_models_loss_below_unigram(objective, tokenizer, blocks):
    build = models.tiny_gpt if objective == "causal" else models.tiny_bert
    model = build(len(tokenizer), hidden_size=64, layers=1, max_length=16)
    batches = pretraining.PackedBatches(blocks, objective, tokenizer, 8)
    check = pretraining.PackedBatches(blocks, objective, tokenizer, 8, shuffle=False)
    config = training.TrainingConfig(learning_rate=5e-3, max_steps=300, precision="float32")
    history = training.fit(model, batches, config, validation=check, progress=False)
    assert history.steps[0]["loss"] == pytest.approx(math.log(len(tokenizer)), abs=0.4)
    assert history.evaluations[-1]["loss"] < pretraining.unigram_loss(blocks, blocks, 100) - 0.5


# --- the comparison -----------------------------------------------------------------------------
@pytest.fixture
def small(monkeypatch):
    """The experiment in miniature, without MiniLM and without the real data."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = {
        "text": [f"{text} {i}" for i, text in enumerate(TEXTS)],
        "label": [0, 1] * (len(TEXTS) // 2),
    }
    part = Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(
        pretraining, "OWN", {"hidden_size": 16, "layers": 1, "heads": 2, "max_length": 16}
    )
    monkeypatch.setattr(pretraining, "VOCAB_SIZE", 100)
    monkeypatch.setattr(pretraining, "HELD_OUT", 3)
    monkeypatch.setattr(pretraining, "LABELS", (12,))
    monkeypatch.setattr(pretraining, "UPDATES", {12: 2})
    monkeypatch.setattr(pretraining, "STARTS", {"random": (1e-3, 1e-2), "own pretraining": (1e-3,)})
    return DatasetDict({"train": part, "validation": part, "test": part})


def test_the_comparison_resumes_by_row_and_pretrains_once(small, tmp_path):
    rows = list(pretraining.pretraining_rows(small, TEXTS, (0, 1), cache=tmp_path))
    keys = [(row["setting"], row["labels"], row["seed"]) for row in rows]
    assert keys == [
        (s, 12, seed) for s in ("TF-IDF", "random", "own pretraining") for seed in (0, 1)
    ]
    for row in rows:
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
        assert row["n_test"] == len(TEXTS) and row["seconds"] >= 0
    assert rows[2]["learning_rate"] in (1e-3, 1e-2)
    assert rows[2]["precision"] in ("float32", "bfloat16", "float16") and rows[2]["device"]
    about = rows[4]["pretraining"]  # one pass; the first token of a block is nobody's label
    assert about["tokens_seen"] == about["tokens"] * 15 // 16 > 0
    assert about["loss_unigram"] < about["loss_uniform"] == round(math.log(100), 4)

    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again = list(
        pretraining.pretraining_rows(small, TEXTS, (0, 1), cache=tmp_path, done=set(keys[:5]))
    )
    assert [(row["setting"], row["seed"]) for row in again] == [("own pretraining", 1)]
    assert again[0]["accuracy"] == rows[5]["accuracy"]
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_masked_model_is_asked_by_kind_of_gap(small, tmp_path):
    row = pretraining.masked_row(TEXTS, tmp_path, updates=3)
    assert row["updates"] == 3 and not row["resumed"] and len(row["losses"]) == 1
    again = pretraining.masked_row(TEXTS, tmp_path, updates=3)
    assert again["resumed"] and again["kinds"] == row["kinds"]
    asked = {kind: found["asked"] for kind, found in row["kinds"].items()}
    assert asked["[MASK]"] > asked["the token itself"]


def test_losses_by_kind_of_gap_by_hand():
    class Copier(torch.nn.Module):
        """Sure of what it sees: the probability of that token is e^5 / (e^5 + 9)."""

        def forward(self, input_ids):
            logits = 5.0 * torch.nn.functional.one_hot(input_ids, 10).float()
            return type("Output", (), {"logits": logits})

    batch = {
        "input_ids": torch.tensor([[2, 4, 7, 8, 9, 3]]),  # [CLS] [MASK] itself, another, unasked
        "labels": torch.tensor([[-100, 6, 7, 5, -100, -100]]),
    }
    frequencies = torch.ones(10).double()
    frequencies[6] = 11.0  # of 20
    found = pretraining.masked_losses(Copier(), batch, frequencies)
    wrong = math.log(math.exp(5) + 9)
    assert found["[MASK]"] == {
        "asked": 1,
        "loss": round(wrong, 4),
        "unigram": round(-math.log(11 / 20), 4),
    }
    assert found["the token itself"]["loss"] == round(wrong - 5, 4)
    assert found["another token"] == {
        "asked": 1,
        "loss": round(wrong, 4),
        "unigram": round(math.log(20), 4),
    }


def test_random_and_own_pretraining_differ_in_weights_only(small, tmp_path):
    starts = pretraining.StartingPoints(TEXTS, tmp_path)
    random_model, first = starts.get("random", seed=0)
    own_model, second = starts.get("own pretraining", seed=0)
    assert first is second
    assert random_model.config.to_dict() == own_model.config.to_dict()
    a, b = random_model.state_dict(), own_model.state_dict()
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    name = "transformer.h.0.mlp.c_proj.weight"
    assert torch.equal(b[name], starts.own.state_dict()[name]) and not torch.equal(a[name], b[name])


def test_the_table_averages_over_seeds():
    row = {"setting": "random", "labels": 50, "n_test": 10, "precision": "float32"}
    rows = [
        row | {"seed": s, "accuracy": a, "seconds": 10.0 * s} for s, a in enumerate((0.5, 0.6, 0.7))
    ]
    [line] = pretraining.payoff_table(rows)
    half = 4.30265 * 0.1 / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert line["accuracy"] == pytest.approx(0.6) and line["seeds"] == 3
    assert line["interval"] == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)
    assert (line["seconds"], line["precision"]) == (10, "float32")
    assert pretraining.payoff_table([]) == []
