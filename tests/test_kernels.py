"""Kernels that take the place of torch's: the same results, and `fit` does use them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from sft_teach import kernels, models, training
from sft_teach.training import TrainingConfig, fit


def test_on_a_gpu_attention_is_left_to_other_kernels_than_cudnns():
    """Which torch builds anew for each length of a batch."""
    allowed = torch.backends.cuda.cudnn_sdp_enabled
    assert allowed()
    with training.autocast(torch.device("cuda"), torch.float32):
        assert not allowed() and torch.backends.cuda.flash_sdp_enabled()
    assert allowed()


@pytest.mark.parametrize(
    ("precision", "width", "fused"),
    [("bfloat16", 256, False), ("bfloat16", 257, True), ("float32", 16, True)],
)
def test_short_texts_in_bfloat16_on_a_cpu_take_plain_attention(precision, width, fused):
    """And `fit` says to the context how long its texts are. The last layer, whose only query is
    [CLS], keeps torch's."""
    model = models.random_encoder(2, seed=0)
    ids = torch.randint(5, 50, (2, width), generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(precision=precision, max_steps=1, device="cpu")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fit(model, [{"input_ids": ids, "labels": torch.tensor([0, 1])}], config, progress=False)
    counts = {event.key: event.count for event in profile.key_averages()}
    layers = model.config.num_hidden_layers
    wanted = layers if fused else 1
    assert layers > 1
    assert counts["aten::_scaled_dot_product_flash_attention_for_cpu"] == wanted
    assert ("aten::bmm" in counts) != fused


def test_threads_that_overlap_leave_torchs_functions_behind():
    """The one that came first leaves first."""
    torchs, device = (F.dropout, F.scaled_dot_product_attention), torch.device("cpu")
    first = kernels.fast_kernels(device, torch.float32)
    second = kernels.fast_kernels(device, torch.bfloat16, width=8)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (F.dropout, F.scaled_dot_product_attention) == (kernels.dropout, kernels.attention)
    second.__exit__(None, None, None)
    assert (F.dropout, F.scaled_dot_product_attention) == torchs


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attn_mask": torch.tensor([[True, True, False, True]])},
        {"attn_mask": torch.tensor([[False] * 4, [True] * 4, [True] * 4, [False, True] * 2])},
        {"attn_mask": torch.tensor([[0.0, -2.0, 1.0, -torch.inf]]), "scale": 0.3},
        {"is_causal": True},
        {"enable_gqa": True},
    ],
)
def test_plain_attention_is_torchs(more):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 4, 8, generator=g, requires_grad=True) for _ in range(3))
    if "enable_gqa" in more:  # fewer keys and values than queries
        k, v = (x[:, :3].detach().requires_grad_() for x in (k, v))
    wanted = F.scaled_dot_product_attention(q, k, v, **more)
    found = kernels.attention(q, k, v, **more)
    assert torch.allclose(found, wanted, atol=1e-6)
    weight = torch.randn(wanted.shape, generator=g)
    gradients = [torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_dropout_of_plain_attention_is_unbiased():
    q, k = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1000, 4)
    torch.manual_seed(0)
    kept = kernels.attention(q, k, torch.ones(1, 1, 1000, 1), dropout_p=0.25)
    assert kept.item() != 1 and kept.item() == pytest.approx(1, abs=0.1)


def test_plain_attention_in_bfloat16_gives_what_float32_gives():
    model = models.random_encoder(3, seed=0).eval()
    ids = torch.randint(1000, 30000, (4, 40), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][0, 20:] = 0
    device = torch.device("cpu")
    with torch.no_grad():
        exact = model(**batch).logits
        with training.autocast(device, torch.bfloat16, 40):
            short = model(**batch).logits
        with training.autocast(device, torch.bfloat16):
            fused = model(**batch).logits
    apart = (fused - exact).abs().max()
    assert 0 < apart and (short - exact).abs().max() < 3 * apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_each_element_with_the_same_probability(dtype):
    """Four elements share a draw: none of the four may be dropped more often than the others."""
    torch.manual_seed(0)
    n, p = 400_000, 0.1
    found = kernels.dropout(torch.ones(n, dtype=dtype), p)
    (kept,) = set(found.tolist()) - {0.0}
    assert kept == pytest.approx(1 / (1 - p), rel=max(torch.finfo(dtype).eps / 2, 1e-5))
    for place in range(4):
        dropped = (found[place::4] == 0).sum().item()
        assert stats.binomtest(dropped, n // 4, p).pvalue > 0.001, place
    pairs = (found[0::4] == 0) & (found[1::4] == 0)  # of one draw: independent all the same
    assert stats.binomtest(pairs.sum().item(), n // 4, p * p).pvalue > 0.001


@pytest.mark.parametrize("p", [0.5, 1e-3, 0.999])
def test_dropout_at_other_rates(p):
    torch.manual_seed(1)
    dropped = (kernels.dropout(torch.ones(200_000), p) == 0).sum().item()
    assert stats.binomtest(dropped, 200_000, round(p * 2**16) / 2**16).pvalue > 0.001


def test_dropouts_gradient_is_its_mask():
    x = torch.randn(5, 7, 3).transpose(0, 2).requires_grad_()  # 105 elements, not in order
    torch.manual_seed(2)
    found = kernels.dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.allclose(found, x * gradient)
    assert set(gradient.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}


def test_dropout_follows_torchs_seed():
    def one():
        return kernels.dropout(torch.ones(50), 0.5)

    torch.manual_seed(3)
    first, second = one(), one()
    torch.manual_seed(3)
    assert torch.equal(one(), first) and not torch.equal(first, second)


def test_without_chance_dropout_is_torchs():
    x = torch.arange(6.0)
    assert torch.equal(kernels.dropout(x, 0.5, training=False), x)
    assert torch.equal(kernels.dropout(x, 0.0), x)
    assert torch.equal(kernels.dropout(x, 1.0), torch.zeros(6))
    with pytest.raises(ValueError, match="between 0 and 1"):
        kernels.dropout(x, 1.5)
    y = torch.ones(6)
    assert kernels.dropout(y, 0.5, inplace=True) is y


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_drops_four_elements_a_draw(precision):
    model = models.random_encoder(2, seed=0)
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(precision=precision, max_steps=1, device="cpu")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fit(model, [{"input_ids": ids, "labels": torch.tensor([0, 1])}], config, progress=False)
    names = {event.key for event in profile.key_averages()}
    assert "aten::random_" in names and "aten::bernoulli_" not in names
