"""Evaluation speed against `transformers.pipeline`, from raw texts to answers, taking turns.

    python benchmarks/evaluation.py

Same weights, precision and threads, IMDB reviews cut at 256 tokens. The pipeline is given the texts
as they come, with batch sizes from 1 to 64, and sorted by their number of characters, as a user can
do who thinks of it; in bfloat16 both also with `eager` attention. Ours tokenizes, sorts by length
and predicts. The head is untrained: both sides must answer the same, not well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import common
import torch

from sft_teach import batching, data, evaluation, models, training

MAX_LENGTH = 256
BATCH_SIZES = (1, 4, 8, 16, 32, 64)
SORTED = (8, 16, 32)  # batch sizes for sorted texts
OURS = 16  # small enough for the caches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    part = data.subset(common.load("imdb")["test"], options.texts, 0)
    texts, labels = data.texts_and_labels(part)
    tokenizer = models.load_tokenizer()
    model = models.load_encoder(label_names=data.label_names(part)).eval()
    dtype = training.choose_precision()

    def ours() -> list[int]:
        batches = batching.make_batches((texts, labels), tokenizer, MAX_LENGTH, OURS, shuffle=False)
        return evaluation.predict(model, batches).predicted.tolist()

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        training.save(model, tokenizer, folder + "/model")
        from transformers import pipeline

        pipe = pipeline("text-classification", folder + "/model", device="cpu")
        index = {name: number for number, name in model.config.id2label.items()}
        if dtype != torch.float32:
            stack.enter_context(torch.autocast("cpu", dtype=dtype))

        def theirs(batch_size: int, order: Sequence[int], attention="sdpa") -> list[int]:
            pipe.model.set_attn_implementation(attention)  # some attributes: takes no time
            ordered = [texts[i] for i in order]
            answers = pipe(ordered, batch_size=batch_size, truncation=True, max_length=MAX_LENGTH)
            found = dict(zip(order, (index[answer["label"]] for answer in answers), strict=True))
            return [found[i] for i in range(len(texts))]

        sides = {"ours": ours}
        as_they_come = range(len(texts))
        by_length = sorted(as_they_come, key=lambda i: len(texts[i]))
        kinds = {"": "sdpa"}
        if dtype == torch.bfloat16:
            kinds[", eager attention"] = "eager"
        for said, kind in kinds.items():
            for n in BATCH_SIZES:
                sides[f"pipeline, batch {n}{said}"] = partial(theirs, n, as_they_come, kind)
            for n in SORTED:
                name = f"pipeline, batch {n}, sorted texts{said}"
                sides[name] = partial(theirs, n, by_length, kind)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        answers = {}
        for round_number in range(options.rounds + 1):
            names = list(sides) if round_number % 2 else list(sides)[::-1]
            for name in names:
                run = sides[name]
                started = time.perf_counter()
                answers[name] = run()
                if round_number:  # the first one warms up
                    seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, values in seconds.items():
        ratios = [b / a for a, b in zip(seconds["ours"], values, strict=True)]
        right = sum(a == b for a, b in zip(answers[name], labels, strict=True))
        same = sum(a == b for a, b in zip(answers[name], answers["ours"], strict=True))
        rows.append({"side": name, "seconds": common.spread(values, 2),
                     "times_ours": common.spread(ratios), "texts": len(texts), "right": right,
                     "same_answer_as_ours": same, "rounds": options.rounds,
                     "precision": str(dtype).removeprefix("torch.")})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    common.write(
        "evaluation",
        "Seconds from raw IMDB reviews to answers, cut at 256 tokens",
        rows,
        options.output,
    )


if __name__ == "__main__":
    main()
