"""Operations that torch computes slowly on some devices, done otherwise.

They compute the same, with other random numbers (dropout) and another rounding (attention).
`fit` and `predict` enter `fast_kernels` around each batch. Nothing in the model changes: for that
time two functions of `torch.nn.functional` are others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_SHORT = 256  # tokens; written out, the memory for attention grows with the square of the length
_torchs_dropout, _torchs_attention = F.dropout, F.scaled_dot_product_attention
_CUDA_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def fast_kernels(
    device: torch.device, dtype: torch.dtype, width: int | None = None
) -> contextlib.AbstractContextManager:
    """Inside, attention and dropout are computed as suits the device.

    On CUDA attention is left to all kernels but cuDNN's, which torch prefers on new GPUs and which
    is built anew for each length that a batch has not had before (pytorch/pytorch#155958).

    On a CPU dropout draws its random numbers four at a time (see `dropout`), and in bfloat16 the
    attention of short texts is two matrix products and a softmax: there the fused kernel is slow.
    `benchmarks/choices.py` measures what both save. Backward belongs inside as well if the model
    checkpoints its layers.

    Args:
        device: where the model is.
        dtype: of the matrix products.
        width: tokens a text of this batch, padding included; None if it is no text.
    """
    if device.type == "cuda":
        return sdpa_kernel(_CUDA_ATTENTION)
    if device.type != "cpu":
        return contextlib.nullcontext()
    if dtype == torch.bfloat16 and width and width <= _SHORT:
        return _in_place_of_torchs(dropout=dropout, scaled_dot_product_attention=attention)
    return _in_place_of_torchs(dropout=dropout)


_changing = threading.Lock()
_inside, _before = 0, {}  # how many are inside, and what the functions were before the first


@contextlib.contextmanager
def _in_place_of_torchs(**functions) -> Iterator[None]:
    """Inside, whoever calls these functions of `torch.nn.functional` gets ours.

    A `TorchFunctionMode` would not do: torch leaves it in backward, where checkpointed layers run
    forward again and have to drop the same elements as before. Other threads get ours too; the last
    one to leave puts torch's back.
    """
    global _inside
    with _changing:
        for name, function in functions.items():
            _before.setdefault(name, getattr(F, name))
            setattr(F, name, function)
        _inside += 1
    try:
        yield
    finally:
        with _changing:
            _inside -= 1
            while not _inside and _before:
                setattr(F, *_before.popitem())


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`F.dropout`, except that `p` is rounded to a multiple of 1 / 65,536.

    Where it cannot call Intel's library, torch on a CPU draws one number after the other, on one
    core. One draw of 64 bits serves four elements here.
    """
    dropped = round(p * 2**16)  # of 65,536 values that 16 bits can have
    compiling = torch.compiler.is_compiling()  # torch's compiler makes a kernel of its own
    if not training or inplace or compiling or not 0 < dropped < 2**16:
        return _torchs_dropout(input, p, training, inplace)
    count = input.numel()
    # From -2**63: without it the highest of the 64 bits would always be 0.
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[:count].view(input.shape)
    kept = torch.empty(input.shape, dtype=input.dtype)  # 1 or 0, without a detour over booleans
    torch.ge(bits, dropped - 2**15, out=kept)
    return input * kept.mul_(2**16 / (2**16 - dropped))


def attention(
    q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False
) -> Tensor:
    """`F.scaled_dot_product_attention`, (..., L, d), written out as softmax(q k^T scale) v.

    Left to torch: what no encoder needs; and a single query (the last layer's, if the head reads
    one token), where written out is no faster and keeps kernels of its own for every width.
    """
    floats = attn_mask is not None and attn_mask.dtype != torch.bool
    single = q.shape[-2] == 1 and not dropout_p
    if is_causal or enable_gqa or floats or single:
        return _torchs_attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-1, -2)  # (..., L, L)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    with torch.autocast(q.device.type, enabled=False):  # its softmax would go to float32
        shares = scores.softmax(-1)
    mixed = dropout(shares, dropout_p) @ v if dropout_p else shares @ v
    if attn_mask is not None:  # a row that may see nothing gives 0
        mixed = mixed.masked_fill(~attn_mask.any(-1, keepdim=True), 0)
    return mixed
