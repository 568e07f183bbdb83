"""What text without labels can teach: subword vocabularies, causal and masked language models.

Notebook 02 builds these pieces by hand; the full-scale comparison of starting points at the end
(`pretraining_rows`) uses them too. A language model here is trained by the same `training.fit` as
any classifier: a batch is a dict of tensors whose labels happen to come from the text itself.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_teach.errors import DataError
from sft_teach.training import IGNORED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
Words = Mapping[tuple[str, ...], int]  # a word as its symbols -> how often it occurs
Pair = tuple[str, str]


# --- byte-pair encoding -------------------------------------------------------------------------
def plain(text: str) -> str:
    """A review in lower case, without the line breaks that IMDB keeps as HTML."""
    return " ".join(text.replace("<br />", " ").lower().split())


def pair_counts(words: Words) -> Counter[Pair]:
    """How often two symbols stand next to each other, each word counted as often as it occurs."""
    counts: Counter[Pair] = Counter()
    for symbols, frequency in words.items():
        for pair in zip(symbols, symbols[1:], strict=False):
            counts[pair] += frequency
    return counts


def merged(symbols: Sequence[str], pair: Pair) -> tuple[str, ...]:
    """One word with every occurrence of `pair` glued together, left to right, none twice."""
    result, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return tuple(result)


def learn_merges(words: Words, n: int) -> list[Pair]:
    """The first `n` merges of byte-pair encoding (Sennrich et al. 2016), fewer if all is merged.

    The most frequent pair comes first; of equally frequent ones the lexicographically smallest.
    Plain Python for reading: `train_tokenizer` does the same thousands of times faster.
    """
    merges = []
    while len(merges) < n:
        counts = pair_counts(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        shorter: Counter[tuple[str, ...]] = Counter()
        for symbols, frequency in words.items():
            shorter[merged(symbols, best)] += frequency
        words = shorter
    return merges


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-pair encoding on texts with the `tokenizers` library.

    Lower case, cut at white space and punctuation as BERT does, then merges inside words. A piece
    that continues a word starts with "##". A text becomes [CLS] pieces [SEP].

    The library breaks ties between equally frequent pairs by an order that is another one in each
    process, so two runs can differ in a few of the rarer pieces.

    Args:
        texts: what to count pairs in.
        vocab_size: special tokens, characters and merges together.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        continuing_subword_prefix="##",
        limit_alphabet=100,
        show_progress=False,
    )
    tokenizer.train_from_iterator((plain(text) for text in texts), trainer)
    first, last = ((token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[first, last]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


# --- one stream of tokens, cut into blocks ------------------------------------------------------
def pack(texts: Sequence[str], tokenizer, length: int = 128) -> Tensor:
    """All texts one behind the other, cut into blocks of equal length: no padding at all.

    Args:
        texts: unlabelled texts; each ends with [SEP].
        tokenizer: a BERT tokenizer, or one of `train_tokenizer`.
        length: tokens per block, the leading [CLS] included.

    Returns:
        int64 (blocks, length); an incomplete last block is dropped.

    Raises:
        DataError: the texts do not fill one block.
    """
    encoded = tokenizer(
        [plain(text) for text in texts], add_special_tokens=False, verbose=False
    )["input_ids"]  # fmt: skip
    stream = torch.tensor([i for ids in encoded for i in (*ids, tokenizer.sep_token_id)])
    rows = len(stream) // (length - 1)
    if rows == 0:
        raise DataError(f"{len(stream)} tokens do not fill one block of {length}. Add texts.")
    blocks = stream[: rows * (length - 1)].view(rows, length - 1)
    return F.pad(blocks, (1, 0), value=tokenizer.cls_token_id)


def causal_batch(ids: Tensor) -> Batch:
    """From blocks (B, L): inputs (B, L-1), and as labels (B, L-1) the token that comes next."""
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def mask_tokens(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab_size: int,
    p: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """BERT's masking (Devlin et al. 2019, section 3.1): what to show, and what to ask for.

    Args:
        ids: int64 token ids of any shape.
        special: bool, the same shape; True where a position may never be chosen.
        mask_id: id of [MASK].
        vocab_size: random replacements are drawn from range(vocab_size).
        p: probability that any other position is chosen.
        generator: the source of all randomness.

    Returns:
        (inputs, labels): of the chosen positions 80 % show [MASK], 10 % a random token, 10 % the
        token itself; labels hold the original id there and -100 everywhere else.
    """

    def uniform() -> Tensor:
        return torch.rand(ids.shape, generator=generator)

    chosen = (uniform() < p) & ~special
    kind = uniform()
    anything = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), anything, inputs)
    return inputs, torch.where(chosen, ids, IGNORED)


class PackedBatches:
    """Batches of blocks for `training.fit`, in a new order each epoch.

    Args:
        blocks: int64 (N, L) from `pack`.
        objective: "causal", or "masked" (each epoch masks other positions).
        tokenizer: for "masked": its special ids, [MASK] and size.
        batch_size: blocks per batch.
        p: share of positions that "masked" asks for.
        shuffle: False keeps order and masks the same in every pass, for validation.
        seed: together with the epoch it decides order and masks.
    """

    def __init__(
        self,
        blocks: Tensor,
        objective: str,
        tokenizer=None,
        batch_size: int = 16,
        p: float = 0.15,
        shuffle: bool = True,
        seed: int = 0,
    ):
        if objective not in ("causal", "masked"):
            raise DataError(f"objective={objective!r}: expected 'causal' or 'masked'.")
        if objective == "masked" and tokenizer is None:
            raise DataError("A masked objective needs tokenizer=..., to know which id is [MASK].")
        self.blocks, self.objective, self.tokenizer = blocks, objective, tokenizer
        self.batch_size, self.p, self.shuffle, self.seed = batch_size, p, shuffle, seed
        self.epoch = 0

    def settings(self) -> dict:
        """What decides the content and order of all batches; a checkpoint keeps it."""
        return {
            "blocks": list(self.blocks.shape),
            "objective": self.objective,
            "batch_size": self.batch_size,
            "p": self.p,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the order (and the masks) of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.blocks) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch if self.shuffle else 0
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.arange(len(self.blocks))
        if self.shuffle:
            order = torch.randperm(len(self.blocks), generator=generator)
        for rows in order.split(self.batch_size):
            yield self.batch(self.blocks[rows], generator)

    def batch(self, ids: Tensor, generator: torch.Generator) -> Batch:
        """Turn blocks (B, L) into a batch."""
        if self.objective == "causal":
            return causal_batch(ids)
        special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        inputs, labels = mask_tokens(
            ids, special, self.tokenizer.mask_token_id, len(self.tokenizer), self.p, generator
        )
        return {"input_ids": inputs, "labels": labels}


# --- what a language model's loss is compared with ----------------------------------------------
def unigram_loss(train_ids: Tensor, ids: Tensor, vocab_size: int) -> float:
    """Mean surprise (nats per token) of knowing each token's frequency and nothing else.

    Frequencies are counted in `train_ids` with one added to each token, so that a token never seen
    there is rare, not impossible; the mean is over `ids`. A model that does worse ignores the
    context, or has not learned yet.
    """
    counts = torch.bincount(train_ids.flatten(), minlength=vocab_size).double() + 1
    return -(counts / counts.sum()).log()[ids.flatten()].mean().item()


def corpus_perplexity(mean_losses: Sequence[float], token_counts: Sequence[int]) -> float:
    """exp of the mean loss over all tokens of all batches.

    Batches weigh by their tokens; the mean of batch means would weigh them all alike.
    """
    parts = [
        (loss, n) for loss, n in zip(mean_losses, token_counts, strict=True) if n > 0
    ]  # fmt: skip
    if not parts:
        raise DataError("No tokens: a perplexity needs at least one.")
    total = sum(n for _, n in parts)
    return math.exp(sum(loss * n for loss, n in parts) / total)


# --- writing with a causal model ----------------------------------------------------------------
def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """Logits (..., V) to probabilities, sharpened below temperature 1, cut to the top k."""
    if temperature <= 0:
        raise DataError(f"temperature={temperature}: expected above 0; near 0 is always the best.")
    logits = logits.float() / temperature
    if top_k is not None:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits.softmax(dim=-1)


@torch.inference_mode()
def sample(
    model,
    tokenizer,
    prompt: str = "",
    *,
    length: int = 40,
    temperature: float = 1.0,
    top_k: int | None = 50,
    seed: int = 0,
) -> str:
    """Continue a text with a causal language model, one token at a time.

    Args:
        model: a causal model whose output has `logits` (B, T, V).
        tokenizer: the one it was trained with; writing starts after [CLS] and the prompt.
        prompt: the beginning of the text.
        length: at most so many new tokens; [SEP], the end of a review, stops earlier.
        temperature: below 1 tame, above 1 wild.
        top_k: keep only the k most probable tokens; None keeps all.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    start = tokenizer(plain(prompt), add_special_tokens=False)["input_ids"] if prompt else []
    device = next((p.device for p in model.parameters()), None)  # where training left it
    ids = torch.tensor([[tokenizer.cls_token_id, *start]], device=device)
    window = getattr(model.config, "max_position_embeddings", None) or ids.shape[1] + length
    was_training = model.training
    model.eval()
    for _ in range(length):
        logits = model(input_ids=ids[:, -window:]).logits[0, -1].cpu()
        probabilities = next_token_probabilities(logits, temperature, top_k)
        new = torch.multinomial(probabilities, 1, generator=generator)
        if new.item() == tokenizer.sep_token_id:
            break
        ids = torch.cat([ids, new[None].to(ids.device)], dim=1)
    model.train(was_training)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


# --- the full-scale comparison of starting points -----------------------------------------------
# Own model: causal, 4 layers of 192 with 8,000 byte pairs, 3.4 M parameters, in every "random" and
# "own pretraining" row. Causal because each of its tokens teaches; a masked model asks for one in
# seven (`masked_row` measures what one of this size learns from the same text). All starting points
# are fine-tuned with the same batches and updates; the learning rate of each is chosen on the
# validation split with seed 100, which no row uses.
OWN = {"hidden_size": 192, "layers": 4, "heads": 3, "max_length": 128}
VOCAB_SIZE = 8000
PRETRAINING = {"batch_size": 16, "learning_rate": 1e-3, "passes": 1}
LABELS = (50, 200, 1000)
UPDATES = {50: 100, 200: 200, 1000: 400}  # of 16 sentences
STARTS = {
    "random": (1e-4, 3e-4, 1e-3),
    "own pretraining": (1e-4, 3e-4, 1e-3),
    "MiniLM": (5e-5, 1e-4, 2e-4),
}
SELECTION_SEED = 100
HELD_OUT = 200  # blocks on which the pretraining's own loss is watched


def own_model(tokenizer, seed: int = 0):
    """The own model with random weights; it reads a text as [CLS] pieces [SEP]."""
    from sft_teach import models

    return models.tiny_gpt(len(tokenizer), **OWN, pad_id=tokenizer.pad_token_id, seed=seed)


def pretrain(texts: Sequence[str], cache: str | Path, updates: int | None = None):
    """Own tokenizer and causal language model from texts, or what `cache` holds of them.

    Args:
        texts: unlabelled texts.
        cache: folder for the tokenizer, `model.safetensors`, `pretraining.json` and checkpoints;
            a run that was stopped goes on from there.
        updates: stop after so many (for trying out); None is all of `PRETRAINING`.

    Returns:
        (tokenizer, model, about): `about` says tokens, seconds and losses (nats per token).
    """
    from safetensors.torch import load_model, save_model

    cache = Path(cache)
    tokenizer = _own_tokenizer(texts, cache)
    model = own_model(tokenizer)
    if (cache / "pretraining.json").is_file():
        load_model(model, cache / "model.safetensors")
        return tokenizer, model, json.loads((cache / "pretraining.json").read_text())
    held_out, blocks = _blocks(texts, tokenizer)
    history, _ = _language_model_run(model, blocks, held_out, "causal", tokenizer, cache, updates)
    about = {
        "tokens": blocks.numel(),
        "tokens_seen": history.tokens,
        "seconds": round(history.seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_uniform": round(math.log(len(tokenizer)), 4),
        "loss_unigram": round(unigram_loss(blocks[:, 1:], held_out[:, 1:], len(tokenizer)), 4),
        "losses": [round(e["loss"], 4) for e in history.evaluations],
    }
    save_model(model, cache / "model.safetensors")
    (cache / "pretraining.json").write_text(json.dumps(about, indent=1))  # last: all is there
    return tokenizer, model, about


def masked_losses(model, batch: Batch, frequencies: Tensor) -> dict[str, dict]:
    """Mean loss (nats) for each kind of position that a masked batch asks for.

    Args:
        model: a masked language model, on the CPU.
        batch: from `PackedBatches(..., "masked")`; [MASK] is the last of `SPECIAL`.
        frequencies: counts of every token of the vocabulary, each at least one.

    Returns:
        For "[MASK]", "the token itself" and "another token": how many were `asked`, the model's
        `loss` and that of `unigram`, which knows the frequencies and nothing else.
    """
    model.eval()
    seen, labels = batch["input_ids"], batch["labels"]
    with torch.inference_mode():
        losses = torch.cat([  # (B, T); a few rows at a time, for the logits are (B, T, V)
            F.cross_entropy(model(input_ids=rows).logits.transpose(1, 2), wanted, reduction="none")
            for rows, wanted in zip(seen.split(8), labels.split(8), strict=True)
        ])  # fmt: skip
    surprise = -(frequencies / frequencies.sum()).log()
    asked, masked = labels != IGNORED, seen == SPECIAL.index("[MASK]")
    kinds = {
        "[MASK]": asked & masked,
        "the token itself": asked & (seen == labels),
        "another token": asked & ~masked & (seen != labels),
    }
    return {
        kind: {
            "asked": int(where.sum()),
            "loss": round(losses[where].mean().item(), 4),
            "unigram": round(surprise[labels[where]].mean().item(), 4),
        }
        for kind, where in kinds.items()
    }


def masked_row(texts: Sequence[str], cache: str | Path, updates: int | None = None) -> dict:
    """Train a masked model of the own model's size on the own model's text, and ask it for gaps.

    Args:
        texts: unlabelled texts.
        cache: folder for tokenizer and checkpoints; a run that was stopped goes on from there.
        updates: stop after so many (for trying out); None is one pass.

    Returns:
        A row of results: tokens, seconds (as `experiments.stop_watch` counts them, unless the run
        was resumed), the losses on the way and, at the end, `masked_losses` on text kept aside.
    """
    from sft_teach import models
    from sft_teach.experiments import stop_watch

    cache = Path(cache)
    tokenizer = _own_tokenizer(texts, cache)
    held_out, blocks = _blocks(texts, tokenizer)
    size = {key: OWN[key] for key in ("hidden_size", "layers", "heads")}
    model = models.tiny_bert(len(tokenizer), **size, max_length=OWN["max_length"], seed=0)
    clock = stop_watch()
    history, resumed = _language_model_run(
        model, blocks, held_out, "masked", tokenizer, cache, updates
    )
    counts = torch.bincount(blocks[:, 1:].flatten(), minlength=len(tokenizer)).double() + 1
    [batch] = PackedBatches(held_out, "masked", tokenizer, len(held_out), shuffle=False)
    return {
        "setting": "masked language model",
        "seed": 0,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": history.tokens,
        "updates": len(history.steps),
        "seconds": round(history.seconds if resumed else clock()),
        "resumed": resumed,
        "precision": history.precision,
        "device": history.device,
        "losses": [round(e["loss"], 4) for e in history.evaluations],
        "loss_uniform": round(math.log(len(tokenizer)), 4),
        "kinds": masked_losses(model.cpu(), batch, counts),
    }


def _own_tokenizer(texts: Sequence[str], cache: Path):
    """The tokenizer that `cache` holds; made from the texts first if it is not there."""
    from transformers import AutoTokenizer

    if not (cache / "tokenizer.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, VOCAB_SIZE).save_pretrained(cache)
    return AutoTokenizer.from_pretrained(str(cache))


def _language_model_run(model, blocks, held_out, objective: str, tokenizer, cache: Path, updates):
    """Train by `PRETRAINING`, from the checkpoint in `cache` if one is there.

    Returns:
        (history, whether it was resumed).
    """
    from sft_teach import training

    config = training.TrainingConfig(
        learning_rate=PRETRAINING["learning_rate"],
        epochs=PRETRAINING["passes"],
        max_steps=updates,
        eval_every=500,
    )
    batches = PackedBatches(blocks, objective, tokenizer, PRETRAINING["batch_size"])
    checks = PackedBatches(held_out, objective, tokenizer, 20, shuffle=False)
    folder = cache / "checkpoints"
    resumed = any(folder.glob("step-*/state.json"))
    history = training.fit(
        model, batches, config, validation=checks,
        output_dir=folder, resume_from=folder if resumed else None,
    )  # fmt: skip
    return history, resumed


def _blocks(texts: Sequence[str], tokenizer) -> tuple[Tensor, Tensor]:
    """Blocks of the texts in random order: (kept aside, to train on)."""
    blocks = pack(texts, tokenizer, OWN["max_length"])
    blocks = blocks[torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))]
    return blocks[:HELD_OUT], blocks[HELD_OUT:]


class StartingPoints:
    """The models that fine-tuning starts from, each with its tokenizer.

    "random" and "own pretraining" share architecture and tokenizer and differ in weights only.
    """

    def __init__(self, texts: Sequence[str], cache: str | Path, updates: int | None = None):
        from sft_teach import models

        self.own_tokenizer, self.own, self.about = pretrain(texts, cache, updates)
        self.minilm_tokenizer = models.load_tokenizer()

    def get(self, setting: str, seed: int):
        """Return (classifier, tokenizer); the seed decides every weight that is new."""
        from sft_teach import models

        if setting == "MiniLM":
            return models.load_encoder(seed=seed), self.minilm_tokenizer
        body = self.own
        if setting == "random":
            body = own_model(self.own_tokenizer, seed)
        return models.classifier_from(body, seed=seed), self.own_tokenizer


def finetuned(model, tokenizer, train, test, learning_rate: float, updates: int, seed: int):
    """Fine-tune on a part of the data and return the `evaluation.Predictions` on `test`."""
    from sft_teach import batching, evaluation, training

    length = OWN["max_length"]
    batches = batching.make_batches(train, tokenizer, length, 16, seed=seed)
    config = training.TrainingConfig(learning_rate=learning_rate, max_steps=updates, seed=seed)
    training.fit(model, batches, config, progress=False)
    return evaluation.predict(
        model, batching.make_batches(test, tokenizer, length, 64, shuffle=False)
    )


def choose_learning_rate(starts: StartingPoints, setting: str, labels: int, splits) -> dict:
    """Validation accuracy of each candidate with `SELECTION_SEED`; the best one is `chosen`."""
    from sft_teach import data

    train = data.subset(splits["train"], labels, SELECTION_SEED)
    accuracy = {}
    for rate in STARTS[setting]:
        model, tokenizer = starts.get(setting, SELECTION_SEED)
        predictions = finetuned(
            model, tokenizer, train, splits["validation"], rate, UPDATES[labels], SELECTION_SEED
        )
        accuracy[f"{rate:g}"] = round(float(predictions.correct.mean()), 4)
    return {"chosen": float(max(accuracy, key=accuracy.get)), "validation_accuracy": accuracy}


def pretraining_rows(
    splits: Mapping,
    texts: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    done: Collection[tuple[str, int, int]] = (),
    cache: str | Path,
    updates: int | None = None,
) -> Iterator[dict]:
    """Accuracy on a whole test split from three starting points, row by row.

    A seed decides which sentences are labelled, their order, dropout and every new weight. The own
    pretraining is one run on unlabelled texts. TF-IDF with logistic regression learns from the same
    sentences as the models.

    Args:
        splits: labelled data with train, validation and test; sizes of `LABELS` that train does
            not reach are left out.
        texts: what is pretrained on; nothing of validation or test may be in it.
        seeds: one row for each of them, setting and number of labels.
        done: (setting, labels, seed) of rows that are there already.
        cache: folder that keeps the pretraining and the chosen learning rates.
        updates: of the pretraining, for trying out.

    Yields:
        dicts with setting, labels, seed, accuracy, interval (95 %, bootstrap over test sentences),
        n_test, seconds (of fine-tuning and testing, as `experiments.stop_watch` counts them) and
        how they were made.
    """
    cache = Path(cache)
    starts = StartingPoints(texts, cache, updates)
    for labels in LABELS:
        if labels > len(splits["train"]):
            continue
        for setting in ("TF-IDF", *STARTS):
            todo = [seed for seed in seeds if (setting, labels, seed) not in done]
            for seed in todo:
                yield _row(starts, setting, labels, seed, splits, cache)


def _row(starts: StartingPoints, setting: str, labels: int, seed: int, splits, cache: Path) -> dict:
    from sft_teach import data, evaluation, training
    from sft_teach.experiments import stop_watch

    train, test = data.subset(splits["train"], labels, seed), splits["test"]
    row = {"setting": setting, "labels": labels, "seed": seed, "n_train": labels}
    if setting == "TF-IDF":
        seconds = stop_watch()
        model = evaluation.tfidf_baseline(seed).fit(*data.texts_and_labels(train))
        texts, truth = data.texts_and_labels(test)
        predictions = evaluation.Predictions.from_probabilities(model.predict_proba(texts), truth)
    else:
        chosen = _remembered(
            cache / f"rate-{setting.replace(' ', '-')}-{labels}.json",
            lambda: choose_learning_rate(starts, setting, labels, splits),
        )
        seconds = stop_watch()
        model, tokenizer = starts.get(setting, seed)
        rate, updates = chosen["chosen"], UPDATES[labels]
        predictions = finetuned(model, tokenizer, train, test, rate, updates, seed)
        row |= {"learning_rate": rate, "updates": updates, "batch_size": 16, "selection": chosen}
        row |= {
            "precision": str(training.choose_precision()).removeprefix("torch."),
            "device": training.choose_device().type,
        }
    row |= {"seconds": round(seconds(), 1)}
    low, high = evaluation.accuracy_interval(predictions.correct)
    row |= {
        "n_test": len(predictions),
        "accuracy": round(float(predictions.correct.mean()), 5),
        "interval": [round(low, 5), round(high, 5)],
    }
    return row | ({"pretraining": starts.about} if setting == "own pretraining" else {})


def _remembered(path: Path, make) -> dict:
    """The JSON in `path`; made and written first if it is not there."""
    if not path.is_file():
        value = make()
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value))
        os.replace(temporary, path)
    return json.loads(path.read_text())


def payoff_table(rows: Sequence[Mapping]) -> list[dict]:
    """Mean accuracy over seeds and its 95 % t interval, per setting and number of labels.

    Seconds (of fine-tuning and testing) are means over seeds as well.
    """
    from sft_teach import evaluation

    found: dict[tuple[str, int], list[Mapping]] = {}
    for row in rows:
        found.setdefault((row["setting"], row["labels"]), []).append(row)
    table = []
    for (setting, labels), group in found.items():
        mean, low, high = evaluation.seeds_summary([row["accuracy"] for row in group])
        table.append(
            {
                "starting point": setting,
                "labels": labels,
                "seeds": len(group),
                "accuracy": mean,
                "interval": (low, high),
                "test sentences": group[0]["n_test"],
                "seconds": round(sum(row["seconds"] for row in group) / len(group)),
                "precision": group[0].get("precision", ""),
            }
        )
    return table
