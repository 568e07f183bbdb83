"""How texts become tensors: token ids, truncation, padding, and batches of similar length.

Notebook 01 builds each piece by hand. Nothing here needs the `datasets` library.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sft_teach.errors import DataError

TRUNCATIONS = ("head", "tail", "both")


def truncate(ids: Sequence[int], max_length: int, truncation: str = "head") -> list[int]:
    """Keep at most `max_length` ids: the first ones, the last ones, or some of both.

    "both" keeps a quarter from the start and the rest from the end, the proportion that Sun et al.
    (2019, "How to fine-tune BERT for text classification?", section 5.3.1) used on IMDB:
    128 of 510 from the head.
    """
    if truncation not in TRUNCATIONS:
        raise DataError(f"truncation={truncation!r}: expected one of {', '.join(TRUNCATIONS)}.")
    if len(ids) <= max_length:
        return list(ids)
    head = {"head": max_length, "tail": 0, "both": max_length // 4}[truncation]
    tail = max_length - head
    return list(ids[:head]) + (list(ids[-tail:]) if tail else [])


def tokenize(
    texts: Sequence[str], tokenizer, max_length: int = 256, truncation: str = "head"
) -> list[list[int]]:
    """Token ids of each text with [CLS] in front and [SEP] behind, at most `max_length` in all.

    Unlike the tokenizer's own `truncation=True` this can keep the end of a text ("tail", "both"),
    and it says which row is empty instead of returning a bare [CLS] [SEP].

    Raises:
        DataError: a text that is no string or is empty (the message names its row), or a
            `max_length` that leaves no room for a token.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 1:
        raise DataError(f"max_length={max_length} leaves no room beside the special tokens.")
    for row, text in enumerate(texts, start=1):  # as the loaders count
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"Row {row} holds no text ({text!r}). Remove the row or fill it in: "
                "a model cannot be asked about nothing."
            )
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    first, last = _special_ids(tokenizer)
    return [first + truncate(ids, room, truncation) + last for ids in encoded]


def _special_ids(tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer itself puts before and behind a text."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(probe)] == probe)
    return framed[:start], framed[start + len(probe) :]


def collate(
    input_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None, pad_id: int = 0
) -> dict[str, Tensor]:
    """Right-pad to the longest row of this batch.

    Returns:
        int64 tensors `input_ids` (B, L), `attention_mask` (B, L; 1 on real tokens, 0 on padding)
        and, if labels are given, `labels` (B,).
    """
    rows = [torch.as_tensor(ids, dtype=torch.int64) for ids in input_ids]
    lengths = torch.tensor([len(row) for row in rows])
    batch = {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=pad_id),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
    }
    if labels is not None:
        batch["labels"] = torch.tensor(labels, dtype=torch.int64)
    return batch


class LengthGroupedBatches:
    """Batches of similar length, in an order that is new in each epoch and fixed by the seed.

    Args:
        input_ids: one list of token ids per example.
        labels: one int per example, or None for texts without an answer.
        batch_size: examples per batch; one of an epoch may be smaller.
        pad_id: the id written into the padding.
        shuffle: True for training: batches in random order, but the largest is the first of all, so
            that a run that does not fit into memory fails at the start. False gives every example
            once, longest first, likewise; `order` then says which row is which.
        seed: together with the epoch it fixes the order, which is all that resuming needs.
        window: shuffled examples are sorted by length within windows of this many batches: wide
            enough to save nearly all padding, narrow enough that batches differ between epochs.
    """

    def __init__(
        self,
        input_ids: Sequence[Sequence[int]],
        labels: Sequence[int] | None = None,
        batch_size: int = 32,
        pad_id: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        window: int = 50,
    ):
        if len(input_ids) == 0:
            raise DataError("No examples: a batch needs at least one text.")
        if labels is not None and len(labels) != len(input_ids):
            raise DataError(f"{len(input_ids)} texts but {len(labels)} labels.")
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: expected at least 1.")
        # As tensors: a batch of 32 x 512 from lists takes 1 ms, which a GPU would wait for.
        self.input_ids = [torch.as_tensor(ids, dtype=torch.int64) for ids in input_ids]
        self.labels = None if labels is None else list(labels)
        self.batch_size, self.pad_id = batch_size, pad_id
        self.shuffle, self.seed, self.window = shuffle, seed, window
        self.lengths = [len(ids) for ids in self.input_ids]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.input_ids) // self.batch_size)

    def settings(self) -> dict:
        """What decides the content and order of all batches; a checkpoint keeps it."""
        return {
            "checksum": self._checksum,
            "examples": len(self.input_ids),
            "tokens": sum(self.lengths),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "window": self.window,
            "pad_id": self.pad_id,
        }

    @functools.cached_property
    def _checksum(self) -> int:
        """CRC-32 of all token ids, lengths and labels."""
        checksum = zlib.crc32(repr((self.lengths, self.labels)).encode())
        for ids in self.input_ids:
            checksum = zlib.crc32(ids.numpy(), checksum)
        return checksum

    def batch_indices(self) -> list[list[int]]:
        """The example numbers of each batch of this epoch."""
        n, size = len(self.input_ids), self.batch_size
        if not self.shuffle:
            order = sorted(range(n), key=lambda i: -self.lengths[i])
            return [order[i : i + size] for i in range(0, n, size)]
        # A generator of its own: drawing an order must not move the dropout's random numbers.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        shuffled = torch.randperm(n, generator=generator).tolist()
        batches = []
        for start in range(0, n, size * self.window):
            pool = shuffled[start : start + size * self.window]
            pool.sort(key=self.lengths.__getitem__)
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        if self.epoch == 0:  # memory that suffices for the largest batch suffices for the others
            sizes = [len(batch) * max(self.lengths[i] for i in batch) for batch in batches]
            largest = sizes.index(max(sizes))
            batches[0], batches[largest] = batches[largest], batches[0]
        return batches

    @property
    def order(self) -> list[int]:
        """Example numbers in the order in which this epoch yields them."""
        return [i for batch in self.batch_indices() for i in batch]

    def padding_waste(self) -> float:
        """Share of the positions computed in this epoch that are padding."""
        batches = self.batch_indices()
        computed = sum(len(batch) * max(self.lengths[i] for i in batch) for batch in batches)
        return 1 - sum(self.lengths) / computed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batch_indices():
            labels = None if self.labels is None else [self.labels[i] for i in batch]
            yield collate([self.input_ids[i] for i in batch], labels, self.pad_id)


def make_batches(
    data,
    tokenizer,
    max_length: int = 256,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    truncation: str = "head",
) -> LengthGroupedBatches:
    """Tokenize and batch a data set with columns `text` and `label`, or a pair (texts, labels)."""
    texts, labels = data if isinstance(data, tuple) else (data["text"], data["label"])
    ids = tokenize(list(texts), tokenizer, max_length, truncation)
    labels = None if labels is None else [int(label) for label in labels]
    return LengthGroupedBatches(ids, labels, batch_size, tokenizer.pad_token_id, shuffle, seed)
