"""The same model for both sides of a comparison, and transformers' Trainer as users set it up."""

from __future__ import annotations

from functools import partial
from unittest import mock

import common
import torch

from sft_teach import environment, models, training


def our_model(names, seed=0):
    return models.load_encoder(label_names=names, seed=seed)


def their_model(names, seed=0, attention_dropout=None):
    """As a user of transformers makes it, with the head that ours begins with."""
    from transformers import AutoModelForSequenceClassification

    options = {}
    if attention_dropout is not None:
        options["attention_probs_dropout_prob"] = attention_dropout
    folder = str(models.model_folder())
    with environment.quiet("transformers"):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(names), local_files_only=True, **options
        )
    model.load_state_dict(our_model(names, seed).state_dict())
    return model


def precision() -> str:
    """Of ours, and of Trainer's at its best; its default is float32."""
    return str(training.choose_precision()).removeprefix("torch.")


def best_attention(job) -> str:
    """Of Trainer, in its best precision. On a CPU torch's fused attention ("sdpa") is slow in
    bfloat16: for short texts "eager" is faster.

    The rule is by hand, from what `training.py attention` measures.
    """
    short = precision() == "bfloat16" and job.max_length <= 256 and not torch.cuda.is_available()
    return "eager" if short else "sdpa"


def without_dropout(model) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def sorted_like_a_large_data_set():
    """Inside, Trainer groups by length within 50 batches, as it does from 200 batches on.

    Of fewer it sorts a quarter at a time, which with a benchmark's few batches is hardly any
    grouping at all.
    """
    from transformers import trainer_pt_utils

    name = "get_length_grouped_indices"
    grouped = partial(getattr(trainer_pt_utils, name), mega_batch_mult=common.WINDOW)
    return mock.patch.object(trainer_pt_utils, name, grouped)


def trainer(model, ids, labels, folder, callbacks=(), tokenizer=None, **arguments):
    """A silent Trainer with dynamic padding and its fused AdamW (both are its defaults).

    `tokenizer` (the encoder's, if None) only says what to pad with.
    """
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return len(ids)

        def __getitem__(self, i):
            return {
                "input_ids": ids[i],
                "attention_mask": [1] * len(ids[i]),
                "labels": labels[i],
                "length": len(ids[i]),
            }

    settings = TrainingArguments(
        folder,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    made = Trainer(
        model,
        settings,
        data_collator=DataCollatorWithPadding(tokenizer or models.load_tokenizer()),
        train_dataset=Texts(),
        callbacks=list(callbacks),
    )
    made.log = lambda logs, *_: made.state.log_history.append(logs)  # not printed
    return made
