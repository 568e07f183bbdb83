"""The shortened last layer against the whole one: same logits, same gradients, fewer products."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from sft_teach import first_token, models


def bert(**changes) -> BertForSequenceClassification:
    torch.manual_seed(3)
    config = dict(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(BertConfig(**config | changes))


BATCH = {
    "input_ids": torch.tensor([[7, 8, 9, 10, 11], [12, 13, 0, 0, 0], [5, 0, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)], ids=["padded", "no padding"])
def test_logits_and_gradients_are_those_of_the_whole_layer(implementation, rows):
    whole = bert(attn_implementation=implementation).double().train()
    short = copy.deepcopy(whole)
    assert first_token.shorten(short)
    batch = {name: tensor[rows] for name, tensor in BATCH.items()}
    logits = [model(**batch).logits for model in (whole, short)]
    assert torch.allclose(*logits, atol=1e-10) and logits[0].std() > 0.1
    for value in logits:
        F.cross_entropy(value, torch.arange(len(value))).backward()
    for (name, a), b in zip(whole.named_parameters(), short.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-10), name
    assert short.bert(**batch).last_hidden_state.shape == (len(logits[0]), 1, 24)


def test_padding_is_not_looked_at():
    model = bert().eval()
    first_token.shorten(model)
    changed = BATCH["input_ids"].clone()
    changed[1, 2:] = 40
    with torch.no_grad():
        first = model(**BATCH).logits
        assert torch.equal(first, model(**BATCH | {"input_ids": changed}).logits)
        unmasked = model(input_ids=changed).logits
    assert (first[1] - unmasked[1]).abs().max() > 1e-3


def test_attention_dropout_works_in_training_only():
    model = bert(attention_probs_dropout_prob=0.5)
    first_token.shorten(model)
    last = model.bert.encoder.layer[-1]
    states = torch.randn(2, 6, 24)
    assert not torch.equal(last.train()(states), last(states))
    assert torch.equal(last.eval()(states), last(states))


def test_ten_twelfths_of_the_last_layer_are_saved():
    length, hidden, layers = 64, 24, 3
    ids = {"input_ids": torch.full((1, length), 7)}
    flops = []
    for all_tokens in (True, False):
        model = bert(num_hidden_layers=layers, max_position_embeddings=length).eval()
        if not all_tokens:
            first_token.shorten(model)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**ids)
        flops.append(counter.get_total_flops())
    spared = length - 1  # tokens; 10 H^2 products of weights each (the counter skips attention)
    assert flops[0] - flops[1] == 2 * spared * 10 * hidden**2


def test_what_is_saved_is_an_ordinary_classifier(tmp_path):
    model = bert().eval()
    first_token.shorten(model)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again.bert.encoder.layer[-1]) is not first_token.FirstTokenLayer
    with torch.no_grad():
        assert torch.allclose(again(**BATCH).logits, model(**BATCH).logits, atol=1e-6)


def test_other_models_are_left_alone():
    other = DistilBert(DistilBertConfig(vocab_size=50, dim=24, n_layers=1, n_heads=4))
    causal = bert(is_decoder=True)
    for model in (other, causal, models.tiny_bert(50)):
        before = [type(module) for module in model.modules()]
        assert not first_token.shorten(model)
        assert [type(module) for module in model.modules()] == before


def test_the_courses_encoder_is_shortened_unless_all_tokens_are_asked_for():
    batch = {"input_ids": torch.arange(1000, 1012).view(2, 6)}
    short, whole = models.load_encoder(3), models.load_encoder(3, all_tokens=True)
    with torch.no_grad():
        assert short.bert(**batch).last_hidden_state.shape == (2, 1, 384)
        assert whole.bert(**batch).last_hidden_state.shape == (2, 6, 384)
        assert torch.allclose(short(**batch).logits, whole(**batch).logits, atol=1e-6)
