"""Batching: the same numbers as the tokenizer itself, every example once, little padding."""

from __future__ import annotations

import random

import pytest
import torch

from sft_teach import batching
from sft_teach.errors import DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast.from_pretrained(str(folder))


def test_tokenize_equals_the_tokenizers_own_truncation(tokenizer):
    texts = ["a b c", "a b c d e f g h i j", "j"]
    ours = batching.tokenize(texts, tokenizer, max_length=6)
    theirs = tokenizer(texts, truncation=True, max_length=6)["input_ids"]
    assert ours == theirs


def test_tail_and_both_keep_the_end_and_the_frame(tokenizer):
    text = " ".join("abcdefghij")
    spelled = tokenizer.convert_ids_to_tokens
    assert spelled(batching.tokenize([text], tokenizer, 5, "tail")[0]) == [
        "[CLS]", "h", "i", "j", "[SEP]"
    ]  # fmt: skip
    assert spelled(batching.tokenize([text], tokenizer, 10, "both")[0]) == [
        "[CLS]", "a", "b", "e", "f", "g", "h", "i", "j", "[SEP]"
    ]  # fmt: skip
    assert batching.truncate(list(range(600)), 510, "both") == [*range(127), *range(217, 600)]


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["a", "  "], {}, "Row 2 holds no text"),
        (["a", None], {}, "Row 2 holds no text"),
        (["a"], {"max_length": 2}, "no room"),
        (["a"], {"truncation": "middle"}, "head, tail, both"),
    ],
)
def test_bad_texts_are_named(tokenizer, texts, options, words):
    with pytest.raises(DataError, match=words):
        batching.tokenize(texts, tokenizer, **options)


def test_collate_masks_by_length_also_where_a_token_equals_the_padding():
    batch = batching.collate([[5, 0, 7], [4], []], [1, 0, 2], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 0, 7], [4, 0, 0], [0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert batch["labels"].dtype == batch["input_ids"].dtype == torch.int64


def many(n=1003, seed=0):
    draw = random.Random(seed)
    return [[1] * draw.randint(3, 200) for _ in range(n)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_comes_once_and_only_the_last_batch_of_a_pool_is_short(shuffle):
    batches = batching.LengthGroupedBatches(many(), batch_size=16, shuffle=shuffle)
    indices = batches.batch_indices()
    assert sorted(i for batch in indices for i in batch) == list(range(1003))
    assert sorted(len(batch) for batch in indices) == [11] + [16] * 62
    assert len(indices) == len(batches) == len(list(batches))


def test_grouping_saves_nearly_all_padding_and_random_order_would_not():
    ids = many()
    grouped = batching.LengthGroupedBatches(ids, batch_size=16)
    order = random.Random(1).sample(range(1003), 1003)
    cuts = [order[i : i + 16] for i in range(0, 1003, 16)]
    real = sum(map(len, ids))
    by_chance = 1 - real / sum(len(c) * max(len(ids[i]) for i in c) for c in cuts)
    assert grouped.padding_waste() < 0.05 < 0.4 < by_chance
    computed = sum(b["input_ids"].numel() for b in grouped)
    assert grouped.padding_waste() == pytest.approx(1 - real / computed)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        batches = batching.LengthGroupedBatches(many(), batch_size=16, seed=seed)
        batches.set_epoch(epoch)
        torch.rand(3)
        return batches.order

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9
    state = torch.get_rng_state()
    order(0, 0)
    torch.set_rng_state(state)
    first = torch.rand(1)
    torch.set_rng_state(state)
    batching.LengthGroupedBatches(many(), seed=5).batch_indices()
    assert torch.equal(first, torch.rand(1)), "drawing an order moved the global random numbers"


def test_a_run_begins_with_its_largest_batch_and_later_epochs_with_any():
    # The one text of 201 tokens is in the short batch of the rest, which needs less memory.
    ids = [[1] * 200] * 16 + many(800, seed=1) + [[1] * 201]
    begins = {0: [], 1: []}
    for seed in range(5):
        batches = batching.LengthGroupedBatches(ids, batch_size=16, seed=seed, window=10_000)
        for epoch, begin in begins.items():
            batches.set_epoch(epoch)
            sizes = [b["input_ids"].numel() for b in batches]
            begin.append(sizes[0] / max(sizes))
            if epoch == 0:
                widths = [b["input_ids"].shape[1] for b in batches]
                assert widths[0] < max(widths) == 201
    assert begins[0] == [1.0] * 5
    assert min(begins[1]) < 0.6


def test_batches_do_not_come_from_short_to_long():
    widths = [b["input_ids"].shape[1] for b in batching.LengthGroupedBatches(many())]
    ups = sum(b > a for a, b in zip(widths, widths[1:], strict=False))
    assert 0.3 * len(widths) < ups < 0.7 * len(widths)


def test_order_without_shuffling_says_which_row_is_which():
    ids = [[9] * 2, [8] * 7, [7] * 4]
    batches = batching.LengthGroupedBatches(ids, [0, 1, 2], batch_size=2, shuffle=False)
    labels = torch.cat([b["labels"] for b in batches]).tolist()
    assert labels == batches.order == [1, 2, 0]


def test_unequal_texts_and_labels_are_refused():
    with pytest.raises(DataError, match="3 texts but 2 labels"):
        batching.LengthGroupedBatches([[1], [1], [1]], [0, 1])
    with pytest.raises(DataError, match="No examples"):
        batching.LengthGroupedBatches([])
