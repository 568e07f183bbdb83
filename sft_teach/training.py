"""The fine-tuning loop: what notebook 04 builds step by step, in one file.

`fit` is the textbook skeleton (zero_grad, forward, loss, backward, step) plus what a run needs.
It trains anything whose batches are dicts of tensors with `labels` in them and whose output has
`logits` of shape (..., C): a classifier's (B, C), or a language model's (B, T, C) with labels
(B, T). Labels of -100 are ignored. The same call works under `torchrun`, one process a device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sft_teach import checkpoint, memory
from sft_teach.environment import quiet
from sft_teach.errors import CheckpointError, DataError, OutOfMemory, TrainingDiverged
from sft_teach.kernels import fast_kernels
from sft_teach.progress import bar

_RELEASE_EVERY = 100  # updates
IGNORED = -100  # the label that the loss skips, PyTorch's own convention
Batch = dict[str, Tensor]


@dataclass
class TrainingConfig:
    """Everything that a run is decided by, besides the model and the data.

    Units: `learning_rate` is the peak; `warmup_fraction` is a share of all updates; `eval_every`,
    `checkpoint_every`, `log_every` and `max_steps` count optimizer updates, `patience` counts
    evaluations without improvement.
    """

    learning_rate: float = 1e-4
    epochs: int = 1
    max_steps: int | None = None
    warmup_fraction: float = 0.1
    schedule: str = "linear"  # or "constant", "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    accumulation_steps: int = 1
    precision: str = "auto"  # or "float32", "bfloat16", "float16"
    device: str = "auto"  # or "cpu", "cuda", "cuda:1", "mps"
    label_smoothing: float = 0.0
    class_weights: list[float] | None = None
    eval_every: int | None = None  # None: at the end of each epoch
    keep_best: str | None = None  # an evaluated metric; "-mae": lower is better ("loss" needs no -)
    patience: int | None = None
    log_every: int = 10
    checkpoint_every: int | None = None  # None: whenever the model is evaluated
    compile: bool = False
    seed: int = 0

    def __post_init__(self):
        def require(ok: bool, expected: str) -> None:
            if not ok:
                raise DataError(f"TrainingConfig: expected {expected}.")

        require(self.learning_rate > 0, f"learning_rate > 0, got {self.learning_rate}")
        require(self.epochs >= 1, f"epochs >= 1, got {self.epochs}")
        require(self.accumulation_steps >= 1, "accumulation_steps >= 1")
        require(0 <= self.warmup_fraction < 1, "0 <= warmup_fraction < 1")
        require(0 <= self.label_smoothing < 1, "0 <= label_smoothing < 1")
        require(self.schedule in _SCHEDULES, f"schedule in {sorted(_SCHEDULES)}")
        require(self.precision in _PRECISIONS, f"precision in {sorted(_PRECISIONS)}")
        self.betas = tuple(self.betas)


@dataclass
class History:
    """What happened: one record per update, one per evaluation, and the totals."""

    steps: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0  # training time without evaluations, over all resumed parts
    tokens: int = 0  # unpadded input tokens seen
    best: dict | None = None
    stopped_early: bool = False
    peak_memory_mb: float = 0.0
    device: str = ""
    precision: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> History:
        return cls(**json.loads(Path(path).read_text()))

    def __repr__(self) -> str:
        loss = f", last loss {self.steps[-1]['loss']:.4f}" if self.steps else ""
        last = self.best or (self.evaluations[-1] if self.evaluations else {})
        shown = "".join(f", {k} {v:.4f}" for k, v in last.items() if isinstance(v, float))
        return (
            f"History({len(self.steps)} updates{loss}{shown}, {self.seconds:.1f} s, "
            f"{self.tokens_per_second:,.0f} tokens/s, {self.precision} on {self.device})"
        )


# --- choices that depend on the machine ---------------------------------------------------------

_PRECISIONS = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(device: str = "auto") -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU; a name overrides."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(precision: str = "auto", device: str | torch.device = "auto") -> torch.dtype:
    """The number format of the matrix products: the fastest one that the hardware really has.

    bfloat16 where it runs natively (an emulated one is slower than float32), else float16 on a GPU
    that has only that, else float32.
    """
    if precision != "auto":
        return _PRECISIONS[precision]
    device = choose_device(device) if isinstance(device, str) else device
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ):
        return torch.bfloat16
    return torch.float32


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype, width: int | None = None) -> Iterator[None]:
    """`low_precision`, and the kernels that suit a batch of `width` tokens a text."""
    with fast_kernels(device, dtype, width), low_precision(device, dtype):
        yield


def low_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Run matrix products in `dtype`; weights and the sensitive operations stay in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on every device."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# --- the pieces of one update -------------------------------------------------------------------

_SCHEDULES = {
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    "constant": lambda share: 1.0,
}


def warmup_factor(step: int, warmup: int, total: int, schedule: str = "linear") -> float:
    """What the peak learning rate is multiplied with at update `step`, counted from 0.

    Rises as (step + 1) / warmup, then falls by `schedule` from 1 at step = warmup to 0 at step =
    total ("constant" does not fall).
    """
    if step >= total:
        return 0.0
    if step < warmup:
        return (step + 1) / warmup
    return _SCHEDULES[schedule]((step - warmup) / (total - warmup))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and embeddings, none for biases and LayerNorm scales.

    Decay pulls weights towards 0. That is a prior for a matrix; a LayerNorm scale belongs near 1.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Summed cross-entropy of (..., C) logits and (...) labels, in float32; -100 is skipped.

    A sum, not a mean: a mean per micro-batch cannot be put together again afterwards. Divide the
    sums of all micro-batches by the sum of their `label_weight`.
    """
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        weight=class_weights,
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def label_weight(labels: Tensor, class_weights: Tensor | None = None) -> float:
    """How much the labels count: their number without -100, or the sum of their class weights."""
    counted = labels[labels != IGNORED]
    if class_weights is None:
        return float(counted.numel())
    require_classes(counted, len(class_weights), "the class_weights'")
    return float(class_weights.to(counted.device)[counted].double().sum())


def require_classes(labels: Tensor, classes: int, whose: str = "the model's") -> None:
    """Raise DataError where a label is neither -100 nor one of 0..classes-1.

    Looks at labels in the CPU's memory only: asking a GPU would make every update wait.
    """
    if labels.device.type != "cpu":
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if wrong.numel():
        raise DataError(
            f"Label {wrong[0].item()} is outside {whose} {classes} classes. Labels count from 0; "
            "num_labels must be the largest label plus 1, and class_weights as many."
        )


def shard(batch: Batch, rank: int, world: int) -> Batch:
    """Every `world`-th row of a global batch; a process left without one gets one to ignore.

    (All processes must take part in each update, or the others wait for ever.)
    """
    if world == 1:
        return batch
    rows = slice(rank, None, world)
    if rank < len(batch["labels"]):
        return {name: tensor[rows] for name, tensor in batch.items()}
    spare = {name: tensor[:1] for name, tensor in batch.items()}
    return spare | {"labels": torch.full_like(spare["labels"], IGNORED)}


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (..., C) of a batch; everything in it but the labels goes into the model."""
    output = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    return output.logits if hasattr(output, "logits") else output


def width_of(batch: Batch) -> int | None:
    """Tokens a text of this batch, padding included; None if it holds no token ids."""
    return batch["input_ids"].shape[1] if "input_ids" in batch else None


def to_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cuda":  # only from pinned memory does a copy not make the CPU wait
        batch = {k: v.pin_memory() if v.device.type == "cpu" else v for k, v in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
    metrics: Callable[[Tensor, Tensor], dict] | None = None,
) -> dict[str, float]:
    """Mean loss and accuracy over all unignored labels, and `metrics(logits, labels)` if given.

    Dropout is off, and the loss is the plain cross-entropy whatever the training loss adds to it.
    Logits are kept only if `metrics` asks for them: a language model's would fill the memory.
    """
    was_training = model.training
    model.eval()
    loss, right, count, kept = 0.0, 0, 0, []
    for batch in batches:
        on_cpu, batch = batch["labels"], to_device(batch, device)
        with autocast(device, dtype, width_of(batch)):
            logits = forward(model, batch)
        require_classes(on_cpu, logits.shape[-1])
        labels = batch["labels"]
        loss += cross_entropy_sum(logits, labels).item()
        right += ((logits.argmax(-1) == labels) & (labels != IGNORED)).sum().item()
        count += (labels != IGNORED).sum().item()
        if metrics is not None:
            kept.append((logits.float().cpu(), labels.cpu()))
    model.train(was_training)
    if count == 0:
        raise DataError("The validation batches hold no label that counts.")
    values = {"loss": loss / count, "accuracy": right / count}
    if metrics is not None:
        values |= metrics(torch.cat([k[0] for k in kept]), torch.cat([k[1] for k in kept]))
    return {name: float(value) for name, value in values.items()}


# --- the loop -----------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainingConfig | None = None,
    *,
    validation: Iterable[Batch] | None = None,
    metrics: Callable[[Tensor, Tensor], dict] | None = None,
    on_log: Callable[[dict], None] | None = None,
    output_dir: str | Path | None = None,
    resume_from: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place and return what happened. The model is left in eval mode.

    Args:
        model: an nn.Module called as `model(**batch without labels)`; its output has `logits`, or
            is the logits, of shape (..., C).
        batches: a sized iterable of dicts of tensors with `labels` (...). A DataLoader that
            shuffles gets its order from the seed and the epoch (unless it has a `generator` of its
            own, which only its owner can put back). If it has `set_epoch`, that is called before
            each pass; what its `settings()` returns, if it has that, stands
            in checkpoints, and resuming with others is refused. Under `torchrun` every process gets
            the same batches and takes its own rows of each.
        config: see `TrainingConfig`.
        validation: batches to evaluate on (see `evaluate`), or None.
        metrics: `metrics(logits, labels) -> dict` of further numbers for the evaluations.
        on_log: called with a record every `log_every` updates (`kind` "step") and after every
            evaluation (`kind` "evaluation").
        output_dir: where checkpoints go (see `sft_teach.checkpoint`); None keeps none.
        resume_from: a checkpoint folder, or an `output_dir` whose newest one is taken. The run then
            ends as it would have without the interruption, bit for bit on a CPU with a fixed number
            of threads.
        progress: a bar with loss and tokens per second.

    Raises:
        TrainingDiverged: the loss or the gradient is no longer finite.
        OutOfMemory: with the settings to lower.
        CheckpointError: a checkpoint cannot be written, is damaged, or belongs to another run.
        DataError: labels that the model has no class for.
    """
    run = _Run(model, batches, config or TrainingConfig(), validation, metrics, on_log)
    devices = [run.device.index or 0] if run.device.type == "cuda" else []
    # The seed governs this run and leaves the caller's random numbers where they were.
    with torch.random.fork_rng(devices), _explained_errors(run):
        torch.manual_seed(run.config.seed + run.rank)
        run.open(output_dir, resume_from)
        run.train(progress)
    return run.history


class _Run:
    """The state of one call of `fit`."""

    def __init__(self, model, batches, config, validation, metrics, on_log):
        self.rank, self.world = _join_process_group()
        self.config, self.batches = config, batches
        self.validation, self.metrics, self.on_log = validation, metrics, on_log
        self.device = choose_device(config.device)
        self.dtype = choose_precision(config.precision, self.device)
        self.model = model.to(self.device)
        self.wrapped = torch.compile(model, dynamic=True) if config.compile else model
        if self.world > 1:
            self.wrapped = nn.parallel.DistributedDataParallel(self.wrapped)
        weights = config.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights).to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.updates_per_epoch = math.ceil(len(batches) / config.accumulation_steps)
        self.total = config.max_steps or config.epochs * self.updates_per_epoch
        self.warmup = round(config.warmup_fraction * self.total)
        self.step, self.bad_evaluations, self.best_weights = 0, 0, None
        self.store: checkpoint.Store | None = None
        self.pending: list[tuple[dict, Tensor, Tensor]] = []
        name = str(self.dtype).removeprefix("torch.")
        self.history = History(device=self.device.type, precision=name)

    # -- the order of things -----------------------------------------------------------------------

    def train(self, progress: bool) -> None:
        self.model.train()
        self.wrapped.train()
        self.clock = time.perf_counter()
        self.bar = bar(
            self.total, "training", show=progress and self.rank == 0, initial=self.step, unit="step"
        )
        with self.bar:
            while self.step < self.total and not self.history.stopped_early:
                self.train_epoch(epoch=self.step // self.updates_per_epoch)
        self.flush()
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()
        self.history.peak_memory_mb = memory.peak_mb(self.device)

    def train_epoch(self, epoch: int) -> None:
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)
        for group in self.groups(epoch):
            self.update(group, epoch)
            self.step += 1
            if self.step % self.config.log_every == 0 or self.device.type == "cpu":
                self.flush()
            end = self.step == self.total or self.step % self.updates_per_epoch == 0
            every = self.config.eval_every
            evaluated = bool(self.step % every == 0 if every else end) or self.step == self.total
            if evaluated and self.validation is not None:
                self.evaluate(epoch)
            every = self.config.checkpoint_every
            if self.store and (self.step % every == 0 if every else evaluated):
                self.save_checkpoint()
            if self.step % _RELEASE_EVERY == 0:
                memory.release()
            if self.step == self.total or self.history.stopped_early:
                return

    def groups(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches of each update; after resuming in the middle of an epoch, those left.

        A shuffling DataLoader draws the epoch's order from torch's random numbers when it is asked
        for the first batch. At that moment they follow from the seed and the epoch alone: all
        processes get the same order, and the same again after resuming.
        """
        done = self.step % self.updates_per_epoch  # more than 0 only after resuming
        groups = _groups_of(self.batches, self.config.accumulation_steps)
        dropouts = torch.get_rng_state()
        torch.default_generator.manual_seed((self.config.seed + 1) * 1_000_003 + epoch)
        first = list(itertools.islice(groups, 1))
        for _ in itertools.islice(groups, max(done - 1, 0)):
            pass
        torch.set_rng_state(dropouts)
        return groups if done else itertools.chain(first, groups)

    def update(self, group: list[Batch], epoch: int) -> None:
        """One optimizer step on the micro-batches of `group`: the textbook's five lines."""
        config = self.config
        learning_rate = config.learning_rate * warmup_factor(
            self.step, self.warmup, self.total, config.schedule
        )
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        # Every process sees the whole global batch, so the divisor needs no communication.
        weight = sum(label_weight(batch["labels"], self.class_weights) for batch in group)
        loss = self.accumulate(group, max(weight, 1e-12))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.history.tokens += sum(_count_tokens(batch) for batch in group)
        record = {
            "step": self.step + 1,
            "epoch": epoch + (self.step % self.updates_per_epoch + 1) / self.updates_per_epoch,
            "learning_rate": learning_rate,
            "tokens": self.history.tokens,
        }
        self.pending.append((record, loss, norm))

    def accumulate(self, group: list[Batch], weight: float) -> Tensor:
        """Backward through each micro-batch; returns the mean loss over all unignored labels.

        Each sum is divided by the labels of the whole update, so that a micro-batch (or a process)
        with few labels counts little. DistributedDataParallel averages gradients over processes:
        multiplying by their number makes that a sum. They are exchanged once, with the last one.
        """
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(group):
            part = to_device(shard(batch, self.rank, self.world), self.device)
            last = i == len(group) - 1
            alone = self.world == 1 or last
            # The kernels around backward as well: checkpointed layers run forward again in there.
            kernels = fast_kernels(self.device, self.dtype, width_of(part))
            with contextlib.nullcontext() if alone else self.wrapped.no_sync(), kernels:
                with low_precision(self.device, self.dtype):
                    logits = forward(self.wrapped, part)
                self.check_classes(batch["labels"], logits.shape[-1])
                loss = cross_entropy_sum(
                    logits, part["labels"], self.class_weights, self.config.label_smoothing
                )
                self.scaler.scale(loss * (self.world / weight)).backward()
            total += loss.detach() / weight
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def check_classes(self, labels: Tensor, classes: int) -> None:
        weights = self.class_weights
        if weights is not None and len(weights) != classes:
            raise DataError(
                f"class_weights has {len(weights)} entries, the model {classes} classes: give one "
                "weight for each class, in label order."
            )
        require_classes(labels, classes)

    def flush(self) -> None:
        """Fetch the pending losses from the device, note them, and stop if one is not finite.

        So too if the gradient's norm is not: its step has made the weights NaN. Only a GradScaler
        leaves such a step out, and lowers its scale instead.

        Asking a GPU for a number makes the CPU wait until it is there. So losses stay on the device
        until there are `log_every` of them.
        """
        for record, loss, norm in self.pending:  # waits for a GPU: only then stop the clock
            record |= {"loss": loss.item(), "grad_norm": norm.item()}
        now = time.perf_counter()
        self.history.seconds += now - self.clock
        self.clock = now
        for record, _, _ in self.pending:
            record["seconds"] = self.history.seconds
            broken = not (math.isfinite(record["grad_norm"]) or self.scaler.is_enabled())
            if broken or not math.isfinite(record["loss"]):
                raise TrainingDiverged(_diverged(record, self.dtype))
            self.history.steps.append(record)
            if self.on_log and (
                record["step"] % self.config.log_every == 0 or record["step"] == self.total
            ):
                self.on_log({"kind": "step", **record})
        if self.pending:
            self.bar.set_postfix_str(
                f"loss {record['loss']:.3f}, {self.history.tokens_per_second:,.0f} tokens/s",
                refresh=False,
            )
            self.bar.update(len(self.pending))
        self.pending.clear()

    def evaluate(self, epoch: int) -> None:
        self.flush()
        values = evaluate(self.wrapped, self.validation, self.device, self.dtype, self.metrics)
        record = {"step": self.step, "epoch": self.history.steps[-1]["epoch"], **values}
        self.history.evaluations.append(record)
        watched = (self.config.keep_best or "loss").removeprefix("-")
        if watched not in values:
            raise DataError(
                f"keep_best={watched!r}: the evaluation has only {', '.join(values)}. "
                "Choose one of these, or return it from metrics(logits, labels)."
            )
        lower = watched in _LOWER_IS_BETTER or self.config.keep_best == f"-{watched}"
        sign = 1 if lower else -1
        best = self.history.best
        if best is None or _lower(sign * values[watched], sign * best[watched]):
            self.history.best, self.bad_evaluations = record, 0
            if self.config.keep_best:
                state = self.model.state_dict()
                self.best_weights = {k: v.detach().cpu().clone() for k, v in state.items()}
        else:
            self.bad_evaluations += 1
        patience = self.config.patience
        self.history.stopped_early = patience is not None and self.bad_evaluations >= patience
        if self.on_log:
            self.on_log({"kind": "evaluation", **record})
        self.clock = time.perf_counter()  # evaluations are not training time

    # -- checkpoints -------------------------------------------------------------------------------

    def open(self, output_dir: str | Path | None, resume_from: str | Path | None) -> None:
        """Prepare the folder for checkpoints, and go on from one if asked to."""
        found = None if resume_from is None else checkpoint.find(resume_from)
        if output_dir is not None:
            self.store = checkpoint.Store(output_dir)
            if self.rank == 0:
                self.store.prepare(resumed=found)
        if found is not None:
            self.load_checkpoint(found)

    def save_checkpoint(self) -> None:
        self.flush()
        rng = checkpoint.rng_state(self.device)
        states = [rng]
        if self.world > 1:
            states = [None] * self.world
            dist.all_gather_object(states, rng)
        if self.rank == 0:
            state = {
                "step": self.step,
                "total": self.total,
                "updates_per_epoch": self.updates_per_epoch,
                "world": self.world,
                "batches": _settings(self.batches),
                "config": dataclasses.asdict(self.config),
                "history": self.history.to_dict(),
                "bad_evaluations": self.bad_evaluations,
                "scaler": self.scaler.state_dict(),
                **_rounding(),
            }
            self.store.save(self.step, self.model, self.optimizer, states, self.best_weights, state)
        if self.world > 1:
            dist.barrier()
        self.clock = time.perf_counter()

    def load_checkpoint(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        _same_run(folder, state, self)
        rng, self.best_weights = checkpoint.load(folder, self.model, self.optimizer, self.device)
        self.scaler.load_state_dict(state["scaler"])
        self.history = History(**state["history"])
        self.step, self.bad_evaluations = state["step"], state["bad_evaluations"]
        checkpoint.set_rng_state(rng[self.rank], self.device)


# Metrics that need no "-" in keep_best.
_LOWER_IS_BETTER = {"loss", "mae", "mse", "rmse", "ece", "brier", "perplexity"}

# --- helpers of the loop ------------------------------------------------------------------------


def _groups_of(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _lower(value: float, than: float) -> bool:
    """Any number counts as lower than NaN."""
    return value < than or (math.isnan(than) and not math.isnan(value))


def _settings(batches: Iterable[Batch]) -> dict:
    """What decides which batches come in which order, as far as they say it themselves."""
    return batches.settings() if hasattr(batches, "settings") else {}


def _count_tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    if mask is not None:
        return int(mask.sum())
    return next(iter(batch.values())).numel()


def _join_process_group() -> tuple[int, int]:
    """(rank, number of processes); joins the group that `torchrun` prepared, if it did."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend)
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _diverged(record: dict, dtype: torch.dtype) -> str:
    remedy = "Lower learning_rate (try a third), lengthen warmup_fraction, check max_grad_norm"
    if dtype == torch.float16:
        remedy += ', or use precision="bfloat16" or "float32": float16 overflows beyond 65,504'
    return (
        f"The loss is {record['loss']}, the gradient's norm {record['grad_norm']} at update "
        f"{record['step']} (learning rate {record['learning_rate']:.2e}). {remedy}. Labels and "
        'inputs that hold NaN do this too. See "What would break" in notebook 04.'
    )


@contextlib.contextmanager
def _explained_errors(run: _Run):
    """Say what to lower when the memory is full: PyTorch's own message names its allocator."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text, kinds = str(error), (torch.OutOfMemoryError, MemoryError)
        if isinstance(error, kinds) or _OUT_OF_MEMORY.search(text):
            raise OutOfMemory(
                f"Out of memory at update {run.step + 1} on {run.device}. Lower batch_size and "
                "raise accumulation_steps by the same factor (the same updates with less memory), "
                f"or lower max_length. Reported: {text.splitlines()[0] if text else 'MemoryError'}"
            ) from error
        raise


# What allocators say; "an illegal memory access" is another matter.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|bad_alloc|(can.?t|cannot|unable to|could not) .*alloc",
    re.IGNORECASE,
)


# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_FREE_TO_CHANGE = {"log_every", "checkpoint_every", "device", "compile", "precision"}


def _changes(then: dict, now: dict) -> list[str]:
    """What is not as it was; `now` as JSON gives it back, a tuple as a list."""
    now = json.loads(json.dumps(now))
    return [
        f"{name} {then.get(name)} -> {value}"
        for name, value in now.items()
        if value != then.get(name) and name not in _FREE_TO_CHANGE
    ]


def _same_run(folder: Path, state: dict, run: _Run) -> None:
    """Raise CheckpointError where continuing would silently be another run; warn of rounding."""
    changed = _changes(state["config"], dataclasses.asdict(run.config))
    if (then := state.get("batches")) and (now := _settings(run.batches)):
        changed += [f"batches' {change}" for change in _changes(then, now)]
    if changed:
        raise CheckpointError(
            f"{folder} was written with other settings ({', '.join(changed)}). Resuming "
            "continues the same run: use the same ones, or start a new run from the saved weights."
        )
    then, now = state["history"]["precision"], run.history.precision
    if then != now:  # "auto" on another machine, say
        raise CheckpointError(
            f"{folder} was written in {then} and would go on in {now} here. Pass "
            f'precision="{then}", or start a new run from the saved weights.'
        )
    for name in ("total", "updates_per_epoch", "world"):
        mine = getattr(run, name)
        if state[name] != mine:
            raise CheckpointError(
                f"{folder} belongs to a run with {name} = {state[name]}, this one has {mine}: "
                "use the same data, batch size and number of processes."
            )

    for name, now in _rounding().items():
        if (then := state.get(name, now)) != now:
            warnings.warn(
                f"{folder} was written with {name} = {then}, this process has {now}. The run goes "
                "on, but rounds otherwise: it will not end as it would have, bit for bit.",
                stacklevel=5,  # whoever called fit
            )


def _rounding() -> dict:
    """What results depend on in the last bits."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def save(model: nn.Module, tokenizer, folder: str | Path) -> Path:
    """Write a fine-tuned model so that `transformers.pipeline("text-classification")` opens it.

    The folder appears complete or not at all; an older model in it is replaced only at the end.
    """
    folder = Path(folder)
    with checkpoint.atomic_folder(folder, replace=True) as temporary, quiet("transformers"):
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder
