"""The loop against PyTorch's own pieces, and against what goes wrong in real runs."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sft_teach import checkpoint, training
from sft_teach.batching import LengthGroupedBatches
from sft_teach.errors import CheckpointError, DataError, TrainingDiverged
from sft_teach.training import IGNORED, TrainingConfig, fit


def examples(n=75, classes=3, seed=0):
    """Token ids whose first id decides the label, of lengths 3 to 14."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 15, (n,), generator=draw).tolist()
    ids = [torch.randint(5, 60, (length,), generator=draw).tolist() for length in lengths]
    return ids, [row[0] % classes for row in ids]


def batches(n=75, size=8, **options):
    return LengthGroupedBatches(*examples(n), batch_size=size, **options)


def tiny(dropout=0.1, seed=0, classes=3, width=16):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=60, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, num_labels=classes,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def quick(**changes) -> TrainingConfig:
    return TrainingConfig(
        **{"precision": "float32", "learning_rate": 3e-3, "device": "cpu"} | changes
    )


def run(model, data, config, **options):
    return fit(model, data, config, progress=False, **options)


def same_weights(a, b, tolerance=0.0):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all((x - y).abs().max() <= tolerance for x, y in pairs)


# --- one update ----------------------------------------------------------------------------------


def test_fit_equals_the_textbook_loop_written_with_pytorch():
    ours, theirs = tiny(dropout=0.0), tiny(dropout=0.0)
    config = quick(epochs=2, weight_decay=0.3, max_grad_norm=0.5, warmup_fraction=0.25)
    history = run(ours, batches(), config)

    decay = [p for n, p in theirs.named_parameters() if p.ndim > 1]
    rest = [p for n, p in theirs.named_parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}], lr=3e-3
    )
    warmup = 5  # a quarter of 20 updates
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warmup if s < warmup else (20 - s) / (20 - warmup)
    )
    theirs.train()
    losses = []
    for epoch in range(2):
        data = batches()
        data.set_epoch(epoch)
        for batch in data:
            optimizer.zero_grad()
            loss = theirs(**batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    assert [s["loss"] for s in history.steps] == pytest.approx(losses, rel=1e-5)
    assert same_weights(ours, theirs, 1e-5)
    assert not ours.training


WEIGHTED, SMOOTHED = {"class_weights": [0.2, 1.0, 5.0]}, {"label_smoothing": 0.3}


@pytest.mark.parametrize("loss", [{}, WEIGHTED, SMOOTHED, WEIGHTED | SMOOTHED])
def test_accumulated_micro_batches_equal_one_large_batch(loss):
    """Sizes 8 and 3 with ignored labels: a mean of the two means would be far off."""
    ids, labels = examples(11)
    labels[1:7] = [IGNORED] * 6
    order = {"shuffle": False}
    small = LengthGroupedBatches(ids, labels, batch_size=8, **order)
    large = LengthGroupedBatches(ids, labels, batch_size=11, **order)
    one, two = tiny(dropout=0.0), tiny(dropout=0.0)
    [batch] = list(large)
    with torch.no_grad():
        logits = training.forward(tiny(dropout=0.0), batch)
    weights = torch.tensor(loss["class_weights"]) if "class_weights" in loss else None
    smoothing = loss.get("label_smoothing", 0.0)
    first = F.cross_entropy(logits, batch["labels"], weights, label_smoothing=smoothing)
    a = run(one, small, quick(accumulation_steps=2, epochs=3, **loss))
    b = run(two, large, quick(epochs=3, **loss))
    assert a.steps[0]["loss"] == pytest.approx(first.item(), rel=1e-5)
    assert [s["loss"] for s in a.steps] == pytest.approx([s["loss"] for s in b.steps], rel=1e-5)
    # Adam's first steps have the size of the learning rate whatever the gradient's size, so
    # rounding noise in a gradient near 0 shows; a wrong normaliser changes weights by far more.
    assert same_weights(one, two, 2e-4)


def test_the_loss_is_torchs_with_class_weights_smoothing_and_ignored_labels():
    logits = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1)) * 3
    labels = torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(2))
    labels[0, :4] = IGNORED
    weights = torch.tensor([0.2, 1.0, 5.0])
    total = training.cross_entropy_sum(logits, labels, weights, 0.2)
    expected = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), weight=weights, label_smoothing=0.2
    )
    torch.testing.assert_close(total / training.label_weight(labels, weights), expected)
    assert training.label_weight(labels) == 16


def test_language_model_logits_and_labels_train_with_the_same_call():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=12, n_positions=8, n_embd=16, n_layer=1, n_head=2,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]])
    data = [{"input_ids": ids[:, :-1], "labels": ids[:, 1:]}] * 4
    history = run(model, data, quick(epochs=40, learning_rate=1e-2))
    assert history.steps[0]["loss"] == pytest.approx(2.485, abs=0.2)  # ln 12
    assert history.steps[-1]["loss"] < 0.3


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warmup_factor_meets_its_corner_points(schedule):
    factor = [training.warmup_factor(s, 4, 20, schedule) for s in range(22)]
    assert factor[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor[12] == pytest.approx(0.5 if schedule != "constant" else 1.0)
    assert factor[20:] == [0.0, 0.0]
    assert training.warmup_factor(0, 0, 5, schedule) == 1.0


def test_groups_share_no_parameter_and_leave_out_frozen_ones():
    model = tiny()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    decay, rest = training.parameter_groups(model, 0.1)
    assert all(p.ndim >= 2 for p in decay["params"]) and all(p.ndim < 2 for p in rest["params"])
    ids = [id(p) for group in (decay, rest) for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(model.parameters())) - 1
    assert rest["weight_decay"] == 0.0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_learn_too(precision):
    model = tiny()
    history = run(
        model, batches(200), quick(epochs=8, precision=precision), validation=batches(200)
    )
    assert history.precision == precision
    assert history.steps[0]["loss"] == pytest.approx(1.0986, abs=0.1)  # ln 3
    assert history.evaluations[-1]["accuracy"] > 0.95  # the most frequent class has 0.36
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_compiled_model_trains_like_the_plain_one():
    import shutil

    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, there is none here")
    one, two = tiny(dropout=0.0), tiny(dropout=0.0)
    a = run(one, batches(24), quick(max_steps=3, compile=True))
    b = run(two, batches(24), quick(max_steps=3))
    assert [s["loss"] for s in a.steps] == pytest.approx([s["loss"] for s in b.steps], rel=1e-4)


# --- evaluation, best weights, early stopping ----------------------------------------------------


def test_evaluations_report_the_mean_over_all_labels_not_over_batches():
    model, data = tiny(), batches(20, size=16, shuffle=False)
    values = training.evaluate(
        model, data, torch.device("cpu"), torch.float32, lambda z, y: {"n": len(y)}
    )
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(b["input_ids"], b["attention_mask"]).logits for b in data])
    labels = torch.cat([b["labels"] for b in data])
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert values["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert values["n"] == 20


def test_best_weights_are_kept_and_training_stops_without_improvement():
    model = tiny()
    held_out = LengthGroupedBatches(*examples(60, seed=9), batch_size=32, shuffle=False)
    config = quick(epochs=60, keep_best="loss", patience=3, learning_rate=1e-2)
    history = run(model, batches(30), config, validation=held_out)
    assert history.stopped_early and len(history.steps) < 60 * 4
    losses = [e["loss"] for e in history.evaluations]
    best = losses.index(min(losses))
    assert len(losses) == best + 4  # the best one and three without improvement
    cpu = torch.device("cpu")
    assert training.evaluate(model, held_out, cpu, torch.float32)["loss"] == pytest.approx(
        min(losses), rel=1e-6
    )


def test_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="loss, accuracy"):
        run(tiny(), batches(8), quick(keep_best="f1"), validation=batches(8))


@pytest.mark.parametrize("watched, lowest", [("mae", True), ("-cost", True), ("cost", False)])
def test_best_is_lowest_for_errors_and_highest_for_scores(watched, lowest):
    given = iter([0.7, 0.4, 0.2, 0.5])
    name = watched.removeprefix("-")
    history = run(
        tiny(), batches(8), quick(epochs=4, keep_best=watched), validation=batches(8),
        metrics=lambda logits, labels: {name: next(given)},
    )  # fmt: skip
    assert history.best[name] == (0.2 if lowest else 0.7)


def test_an_evaluation_without_a_number_is_the_worst_of_all():
    """The first one, say, because a class was never predicted yet."""
    found = iter([math.nan, 0.3, math.nan, 0.4, 0.2])
    config = quick(epochs=5, keep_best="f1", patience=2)
    history = run(
        tiny(), batches(8), config, validation=batches(8), metrics=lambda *_: {"f1": next(found)}
    )
    assert history.best["f1"] == 0.4 and len(history.evaluations) == 5


def test_fit_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(tiny(), batches(16), quick())
    assert torch.equal(torch.rand(2), expected)


def test_records_reach_the_callback_and_survive_a_file(tmp_path):
    seen = []
    config = quick(epochs=2, log_every=5)
    history = run(tiny(), batches(), config, validation=batches(), on_log=seen.append)
    steps = [r["step"] for r in seen if r["kind"] == "step"]
    assert steps == [5, 10, 15, 20]
    assert [r["step"] for r in seen if r["kind"] == "evaluation"] == [10, 20]
    history.save(tmp_path / "history.json")
    assert training.History.load(tmp_path / "history.json") == history
    real = sum(len(i) for i in examples()[0]) * 2
    assert history.tokens == real


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_remedy():
    model = tiny()

    def poison(record):
        if record["kind"] == "step" and record["step"] == 3:
            with torch.no_grad():
                model.classifier.bias.fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match=r"update 4 .*learning rate.*Lower learning_rate"):
        run(model, batches(), quick(log_every=1), on_log=poison)


def test_a_label_outside_the_classes_is_explained():
    ids, labels = examples(16)
    labels[5] = 7
    with pytest.raises(DataError, match="num_labels must be the largest label plus 1"):
        run(tiny(), LengthGroupedBatches(ids, labels), quick())


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_class_weights_or_the_validation_is_explained_too(label):
    ids, labels = examples(16)
    labels[5] = label
    wrong = LengthGroupedBatches(ids, labels)
    with pytest.raises(DataError, match=f"Label {label} is outside the class_weights' 3 classes"):
        run(tiny(), wrong, quick(class_weights=[1.0, 2.0, 3.0]))
    with pytest.raises(DataError, match=f"Label {label} is outside the model's 3 classes"):
        run(tiny(), batches(16), quick(), validation=wrong)


def test_class_weights_must_be_as_many_as_classes():
    with pytest.raises(DataError, match="class_weights has 4 entries, the model 3 classes"):
        run(tiny(), batches(16), quick(class_weights=[1.0] * 4))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_infinite_gradient_stops_unless_a_scaler_leaves_its_step_out(precision):
    model, steps = tiny(), []

    def spoil_the_last(record):  # its loss is finite, and nothing comes after it
        steps.append(record["step"])
        if record["step"] == 9:
            model.classifier.bias.register_hook(lambda gradient: gradient * float("inf"))

    config = quick(log_every=1, precision=precision)
    if precision == "float16":
        run(model, batches(), config, on_log=spoil_the_last)
        assert steps == list(range(1, 11))
        assert all(p.isfinite().all() for p in model.parameters())
    else:
        with pytest.raises(TrainingDiverged, match="gradient's norm (inf|nan) at update 10"):
            run(model, batches(), config, on_log=spoil_the_last)


def test_other_trouble_with_memory_is_not_called_out_of_memory():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, **batch):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(Broken(), batches(8), quick())


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS limits memory on Linux only")
def test_out_of_memory_names_the_settings_to_lower():
    script = """
        import resource, torch
        from torch import nn
        from sft_teach.training import TrainingConfig, fit
        from sft_teach.errors import OutOfMemory
        class Big(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4096, 4096)
            def forward(self, x):
                return self.layer(x.float())
        x = torch.zeros(40000, 4096, dtype=torch.int64)  # 1.3 GB, and as float32 more
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
        try:
            fit(Big(), [{"x": x, "labels": torch.zeros(40000, dtype=torch.int64)}],
                TrainingConfig(device="cpu", precision="float32"), progress=False)
        except OutOfMemory as error:
            print("MESSAGE", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert "MESSAGE Out of memory at update 1" in done.stdout, done.stderr
    assert "Lower batch_size" in done.stdout and "max_length" in done.stdout


@pytest.mark.parametrize(
    "change", [{"learning_rate": -1}, {"schedule": "zigzag"}, {"precision": "int3"}, {"epochs": 0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(DataError, match="TrainingConfig: expected"):
        TrainingConfig(**change)


# --- checkpoints ----------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt_at(step):
    def on_log(record):
        if record["kind"] == "step" and record["step"] == step:
            raise Interrupted

    return on_log


def without_clock(history):
    return [{k: v for k, v in s.items() if k != "seconds"} for s in history.steps]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, precision):
    config = quick(
        epochs=3, precision=precision, checkpoint_every=4, log_every=1, accumulation_steps=2,
        keep_best="accuracy", eval_every=3,
    )  # fmt: skip
    whole, parts = tiny(), tiny()
    held_out = batches(30, shuffle=False)
    expected = run(whole, batches(), config, validation=held_out)
    with pytest.raises(Interrupted):
        run(parts, batches(), config, validation=held_out, output_dir=tmp_path,
            on_log=interrupt_at(11))  # fmt: skip
    fresh = tiny(seed=5)  # everything must come from the checkpoint
    history = run(
        fresh, batches(), config, validation=held_out, output_dir=tmp_path, resume_from=tmp_path
    )
    assert same_weights(whole, fresh)
    assert without_clock(history) == without_clock(expected)
    assert history.evaluations == expected.evaluations and history.best == expected.best


def saved(tmp_path, **changes):
    model = tiny()
    run(model, batches(), quick(**changes), output_dir=tmp_path / "run")
    return model, tmp_path / "run"


def test_a_checkpoint_opens_with_from_pretrained_and_holds_no_pickle(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model, folder = saved(tmp_path)
    (step,) = folder.iterdir()
    assert {p.suffix for p in step.iterdir()} == {".safetensors", ".json"}
    assert same_weights(AutoModelForSequenceClassification.from_pretrained(step), model)


def test_another_models_checkpoint_is_refused(tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(CheckpointError, match="another model.*the first is"):
        run(tiny(width=32), batches(), quick(), resume_from=folder)


def test_other_settings_or_data_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"learning_rate 0.003 -> 0.001"):
        run(tiny(), batches(), quick(learning_rate=1e-3), resume_from=folder)
    with pytest.raises(CheckpointError, match=r"batches' examples 75 -> 40, .*tokens"):
        run(tiny(), batches(40), quick(), resume_from=folder)
    with pytest.raises(CheckpointError, match=r"batches' seed 0 -> 1"):
        run(tiny(), batches(seed=1), quick(), resume_from=folder)
    plain = list(batches(40))  # says nothing of itself, but has another length
    with pytest.raises(CheckpointError, match="same data, batch size"):
        run(tiny(), plain, quick(), resume_from=folder)


def test_a_used_folder_is_not_overwritten_without_asking(tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        run(tiny(), batches(), quick(), output_dir=folder)


def test_missing_and_damaged_checkpoints_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        run(tiny(), batches(), quick(), resume_from=tmp_path)
    _, folder = saved(tmp_path)
    (step,) = folder.iterdir()
    whole = (step / "model.safetensors").read_bytes()
    (step / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        run(tiny(), batches(), quick(), resume_from=folder)
    (step / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        run(tiny(), batches(), quick(), resume_from=folder)


def test_a_results_folder_that_cannot_be_written_stops_before_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="Cannot write to"):
        run(tiny(), batches(), quick(), output_dir=blocked / "run")


def test_a_read_only_folder_stops_before_training(tmp_path, monkeypatch):
    def read_only(self, *args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.write_text", read_only)
    with pytest.raises(CheckpointError, match="Read-only file system.*that you may write to"):
        run(tiny(), batches(), quick(), output_dir=tmp_path / "run")


@pytest.mark.parametrize(("function", "failing"), [("rename", 2), ("fsync", 3)])
def test_a_model_that_cannot_be_replaced_keeps_its_name(tmp_path, monkeypatch, function, failing):
    """The old one is out of the way, and the new one does not get there, or its name not to disk
    (synced before: the file and the folder)."""
    folder, real, calls = tmp_path / "model", getattr(os, function), []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        real(*arguments)

    folder.mkdir()
    (folder / "old").write_text("still here")
    monkeypatch.setattr(os, function, fails)
    with pytest.raises(CheckpointError, match="Nothing that was there before has been changed"):
        with checkpoint.atomic_folder(folder, replace=True) as temporary:
            (temporary / "new").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "old").read_text() == "still here"


def test_a_failing_save_leaves_the_previous_checkpoint_usable(tmp_path, monkeypatch):
    config = quick(checkpoint_every=4, log_every=1)
    calls = {"n": 0}
    real = checkpoint.save_file

    def full_disk(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] > 3:  # two files in the first checkpoint, then the second one's second
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left.*Nothing that was there"):
        run(tiny(), batches(), config, output_dir=tmp_path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]
    whole, parts = tiny(), tiny(seed=8)
    run(whole, batches(), config)
    run(parts, batches(), config, output_dir=tmp_path, resume_from=tmp_path)
    assert same_weights(whole, parts)


def test_saved_model_opens_in_a_pipeline_and_saving_again_replaces_it(tmp_path):
    from transformers import BertTokenizerFast, pipeline

    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    )
    tokenizer = BertTokenizerFast.from_pretrained(str(tmp_path))
    model = tiny()
    model.config.id2label = {0: "bad", 1: "so-so", 2: "good"}
    model.eval()
    for _ in range(2):
        folder = training.save(model, tokenizer, tmp_path / "model")
    answer = pipeline("text-classification", str(folder), device="cpu")("a a")[0]
    with torch.no_grad():
        logits = model(**tokenizer("a a", return_tensors="pt")).logits[0]
    assert answer["label"] == model.config.id2label[logits.argmax().item()]
    assert answer["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "vocab.txt"]


def test_another_runs_checkpoints_are_not_removed(tmp_path):
    """Saving keeps the newest checkpoint of its folder only."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    run(tiny(), batches(24), quick(), output_dir=ours)
    run(tiny(seed=1), batches(32), quick(), output_dir=theirs)
    kept = [path.name for path in theirs.iterdir()]
    with pytest.raises(CheckpointError, match=r"of another run \(step-00000004\)"):
        run(tiny(), batches(24), quick(), output_dir=theirs, resume_from=ours)
    assert [path.name for path in theirs.iterdir()] == kept
    with pytest.raises(CheckpointError, match="of another run"):
        run(tiny(), batches(24), quick(), output_dir=theirs)


def interrupted(model, data, config, folder, after: int, **options):
    """Run until update `after` was noted, then stop; its checkpoint is in `folder`."""

    def stop(record):
        if record["kind"] == "step" and record["step"] > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, data, config, output_dir=folder, on_log=stop, **options)


def loader(n: int) -> torch.utils.data.DataLoader:
    ids = [torch.tensor([5 + i, 6]) for i in range(n)]
    rows = [{"input_ids": one, "labels": one[0] % 3} for one in ids]
    return torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)


def test_a_shuffling_dataloader_goes_on_with_the_texts_not_seen_yet(tmp_path):
    """It draws each epoch's order from torch's random numbers, as dropout does."""
    config = quick(epochs=2, checkpoint_every=1, log_every=1)
    whole, parts = tiny(), tiny(seed=4)
    before = run(whole, loader(40), config)
    interrupted(tiny(), loader(40), config, tmp_path, after=13)  # the middle of the second epoch
    after = run(parts, loader(40), config, resume_from=tmp_path)
    assert [s["loss"] for s in after.steps] == [s["loss"] for s in before.steps]
    assert same_weights(whole, parts)


def test_a_shuffling_dataloaders_order_is_new_in_each_epoch_and_follows_from_the_seed():
    def orders(seed, dropout):
        data, model, seen = loader(40), tiny(dropout), []
        model.register_forward_pre_hook(
            lambda _, args, batch: seen.extend(batch["input_ids"][:, 0].tolist()), with_kwargs=True
        )
        run(model, data, quick(epochs=2, seed=seed))
        return seen[:40], seen[40:]

    first, second = orders(0, dropout=0.1)
    assert sorted(first) == sorted(second) == list(range(5, 45))
    assert first != second and first != sorted(first)
    assert orders(0, dropout=0.0) == (first, second)  # whatever else draws random numbers
    assert orders(1, dropout=0.1)[0] not in (first, second)


def test_resuming_in_another_precision_is_refused(tmp_path):
    """Which "auto" chooses on another machine."""
    run(tiny(), batches(16), quick(precision="bfloat16"), output_dir=tmp_path)
    with pytest.raises(CheckpointError, match='in bfloat16 and would go on in float32.*"bfloat16"'):
        run(tiny(), batches(16), quick(precision="float32"), resume_from=tmp_path)


def test_resuming_with_another_number_of_threads_warns(tmp_path):
    """Sums in another order round otherwise."""
    threads = torch.get_num_threads()
    run(tiny(), batches(16), quick(), output_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tiny(), batches(16), quick(), resume_from=tmp_path)
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"threads = {threads}, this.*{threads + 1}") as caught:
            run(tiny(), batches(16), quick(), resume_from=tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert caught[0].filename == __file__


def test_resuming_with_other_labels_is_refused(tmp_path):
    ids, labels = examples(16)
    swapped = [labels[1], labels[0], *labels[2:]]
    assert swapped != labels
    run(tiny(), LengthGroupedBatches(ids, labels, 8), quick(), output_dir=tmp_path)
    with pytest.raises(CheckpointError, match="batches' checksum"):
        run(tiny(), LengthGroupedBatches(ids, swapped, 8), quick(), resume_from=tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_checkpointed_layers_train_like_plain_ones(precision):
    """In backward they run forward again, and must drop the same elements."""
    found = []
    for checkpointed in (False, True):
        model = tiny(dropout=0.3)
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        run(model, batches(24), quick(precision=precision))
        found.append(model)
    assert same_weights(*found, tolerance=1e-6 if precision == "float32" else 1e-4)


# --- several processes ----------------------------------------------------------------------------

DISTRIBUTED = """
    import sys, torch
    sys.path.insert(0, {tests!r})
    from test_training import batches, loader, quick, run, tiny
    torch.set_num_threads(1)
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn import parallel
    exchanges = []

    class Counted(parallel.DistributedDataParallel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.register_comm_hook(None, self.count)

        @staticmethod
        def count(state, bucket):
            exchanges.append(bucket.is_last())
            return allreduce_hook(state, bucket)

    parallel.DistributedDataParallel = Counted
    model = tiny(dropout=0.0)
    history = run(model, {data}, quick(epochs=2, accumulation_steps={accumulation}))
    import torch.distributed as dist
    if not dist.is_initialized() or dist.get_rank() == 0:
        losses = [s["loss"] for s in history.steps]
        torch.save([losses, model.state_dict(), sum(exchanges)], {out!r})
"""


@pytest.mark.parametrize(
    ("data", "accumulation"), [("batches(n=41)", 1), ("batches(n=41)", 2), ("loader(21)", 1)]
)
def test_two_processes_train_like_one(tmp_path, data, accumulation):
    """41 examples in batches of 8: the last batch has one row, so one process has none. Of a
    shuffling DataLoader both processes must get the same order."""
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        script = tmp_path / f"{processes}.py"
        tests = os.path.dirname(os.path.abspath(__file__))
        script.write_text(
            textwrap.dedent(
                DISTRIBUTED.format(tests=tests, out=str(out), data=data, accumulation=accumulation)
            )
        )
        command = [sys.executable, str(script)]
        if processes == 2:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                       "--nproc-per-node=2", str(script)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(torch.load(out, weights_only=True))
    (one_loss, one, _), (two_loss, two, exchanges) = results
    assert len(one_loss) == 12 // accumulation
    assert exchanges == len(two_loss)  # once per update, however many micro-batches it has
    assert two_loss == pytest.approx(one_loss, abs=1e-5)
    assert all((one[k] - two[k]).abs().max() < 1e-5 for k in one)


RESUMED = """
    import sys, torch
    sys.path.insert(0, {tests!r})
    from test_training import batches, interrupted, quick, run, same_weights, tiny
    torch.set_num_threads(1)
    config = quick(epochs=2, checkpoint_every=2, log_every=1, eval_every=3)
    options = {{"validation": batches(n=20, shuffle=False)}}
    whole, parts = tiny(), tiny(seed=4)
    before = run(whole, batches(n=41), config, **options)
    interrupted(tiny(), batches(n=41), config, {folder!r}, after=7, **options)
    after = run(parts, batches(n=41), config, resume_from={folder!r}, **options)
    assert same_weights(whole, parts)
    losses = [[s["loss"] for s in history.steps] for history in (before, after)]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    assert [e["loss"] for e in before.evaluations] == [e["loss"] for e in after.evaluations]
    own = torch.distributed.get_rank() * torch.ones(1)
    torch.distributed.all_reduce(own)
    sys.stdout.write(f"equal: ranks sum to {{own.item():.0f}}\\n")  # in one piece
"""


def test_two_processes_resume_bit_for_bit(tmp_path):
    """With dropout, for which each process has random numbers of its own, and evaluations."""
    script = tmp_path / "script.py"
    tests = os.path.dirname(os.path.abspath(__file__))
    folder = str(tmp_path / "run")
    script.write_text(textwrap.dedent(RESUMED.format(tests=tests, folder=folder)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node=2", str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal: ranks sum to 1") == 2


def test_a_shard_without_rows_is_ignored_not_missing():
    batch = {"input_ids": torch.tensor([[4, 5]]), "labels": torch.tensor([2])}
    spare = training.shard(batch, rank=1, world=2)
    assert spare["labels"].tolist() == [IGNORED] and spare["input_ids"].shape == (1, 2)
    rows = {"labels": torch.arange(5)}
    parts = [training.shard(rows, r, 2)["labels"].tolist() for r in range(2)]
    assert parts == [[0, 2, 4], [1, 3]]


def test_the_bar_shows_loss_and_tokens_per_second(capsys):
    history = fit(tiny(), batches(16), quick())
    bar = capsys.readouterr().err
    assert "training: 100%" in bar and "2/2" in bar
    assert f"loss {history.steps[-1]['loss']:.3f}, " in bar
    shown = float(re.search(r"([\d,]+) tokens/s", bar)[1].replace(",", ""))
    assert shown >= round(history.tokens_per_second) > 0, "the clock goes on behind the last bar"


def test_history_is_plain_json():
    history = run(tiny(), batches(16), quick())
    assert json.loads(json.dumps(history.to_dict())) == history.to_dict()
    assert copy.deepcopy(history) == history
