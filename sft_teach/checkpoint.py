"""Checkpoints that are whole or not there: safetensors for tensors, JSON for the rest, no pickle.

A checkpoint is a folder `step-00000120` with

    model.safetensors, config.json   the weights (`from_pretrained` opens the folder)
    optimizer.safetensors            AdamW's moments, one entry per parameter
    best.safetensors                 the best weights so far, if the run keeps them
    rng.safetensors                  states of the random number generators, one set per process
    state.json                       step, settings, history, scaler: all that is not a tensor

The order of the batches and the learning rate follow from the step and the settings (the sampler's
seed among them), so that these are the sampler's and the schedule's state.

It is written under another name, forced to disk, and renamed at the end: a rename is the one change
of a file system that happens completely or not at all. The previous one is removed only after that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from sft_teach.errors import CheckpointError

_FOLDER = re.compile(r"step-(\d{8})$")


@contextlib.contextmanager
def atomic_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to write into, which becomes `folder` when all is on disk.

    Replacing takes two renames. Who is killed between them finds the older folder beside its place,
    as `.NAME.old-PROCESS`.

    Raises:
        CheckpointError: the disk is full, the place is not writable, or `folder` exists and
            `replace` is False. What was there before is untouched.
    """
    folder = Path(folder)
    temporary = folder.parent / f".{folder.name}.tmp-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        old = None
        if replace and folder.exists():
            old = folder.parent / f".{folder.name}.old-{os.getpid()}"
            os.rename(folder, old)
        try:
            os.rename(temporary, folder)
            _sync(folder.parent)
        except OSError:
            if old is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(old, folder)
            raise
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"Could not write {folder} ({reason}). Nothing that was there before has been changed. "
            "Free some space or choose a folder that you may write to."
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Wait until the file or folder is on disk, not only in the system's memory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Store:
    """The checkpoints of one run in one folder: the newest whole one is kept."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def prepare(self, resumed: Path | None) -> None:
        """Make the folder, see that it can be written to, and refuse to mix two runs.

        `resumed` is the checkpoint that the run goes on from, if it does.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"Cannot write to {self.folder} ({error.strerror}). Give output_dir= a folder that "
                "you may write to."
            ) from error
        for leftover in self.folder.glob(".step-*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed while saving
        same = resumed is not None and resumed.resolve().parent == self.folder.resolve()
        if not same and (old := _checkpoints(self.folder)):
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another run ({old[-1].name}), which this one "
                "would remove. Continue that one with resume_from=, or give output_dir= another "
                "folder."
            )

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rng_states: list[dict[str, Tensor]],
        best_weights: dict[str, Tensor] | None,
        state: dict,
    ) -> Path:
        """Write one checkpoint, then remove the older ones."""
        target = self.folder / f"step-{step:08d}"
        with atomic_folder(target) as folder:
            save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
            if hasattr(model, "config"):
                (folder / "config.json").write_text(model.config.to_json_string())
            tensors, groups = _flatten(optimizer)
            save_file(tensors, folder / "optimizer.safetensors")
            if best_weights is not None:
                unshared = {k: v.contiguous().clone() for k, v in best_weights.items()}
                save_file(unshared, folder / "best.safetensors")
            rng = {f"{i}.{k}": v for i, one in enumerate(rng_states) for k, v in one.items()}
            save_file(rng, folder / "rng.safetensors")
            whole = state | {"parameter_groups": groups, "shapes": _shapes(model)}
            (folder / "state.json").write_text(json.dumps(whole))
        for old in _folders(self.folder):  # one that was partly removed by a kill as well
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        return target


def _checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    return sorted(path for path in _folders(folder) if (path / "state.json").is_file())


def _folders(folder: Path) -> list[Path]:
    """Whatever has a checkpoint's name."""
    return [path for path in folder.glob("step-*") if _FOLDER.search(path.name)]


def find(path: str | Path) -> Path:
    """`path` itself if it is a checkpoint, else the newest one in it."""
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    found = _checkpoints(path) if path.is_dir() else []
    if not found:
        raise CheckpointError(
            f"No checkpoint in {path}. Expected a folder with a step-... folder in it, as fit(..., "
            "output_dir=...) writes; leave resume_from out to start from the beginning."
        )
    return found[-1]


def read_state(folder: Path) -> dict:
    """The part of a checkpoint that is no tensor."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'state.json'} is damaged: {error}.") from error
    if missing := {"config", "history", "parameter_groups", "shapes", "step"} - set(state):
        raise CheckpointError(f"{folder / 'state.json'} is damaged: no {', '.join(missing)}.")
    return state


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor] | None]:
    """Restore weights and optimizer in place; returns generator states and the best weights."""
    state = read_state(folder)
    there, here = state["shapes"], _shapes(model)
    if there != here:
        wrong = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))
        example = wrong[0]
        raise CheckpointError(
            f"{folder} belongs to another model: {len(wrong)} parameters differ, the first is "
            f"{example} (checkpoint {there.get(example, 'has none')}, model "
            f"{here.get(example, 'has none')}). Build the model as it was built for that run."
        )
    try:
        load_model(model, str(folder / "model.safetensors"), device=str(device))
        tensors = load_file(folder / "optimizer.safetensors")
        optimizer.load_state_dict(_unflatten(tensors, state["parameter_groups"]))
        rng: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(folder / "rng.safetensors").items():
            process, key = name.split(".", 1)
            rng.setdefault(int(process), {})[key] = value
        best = folder / "best.safetensors"
        return [rng[i] for i in sorted(rng)], load_file(best) if best.is_file() else None
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}. Start the run anew.") from error


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """States of the random number generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict]]:
    """An optimizer's state as named tensors (`17.exp_avg`) and the groups without them."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _unflatten(tensors: dict[str, Tensor], groups: list[dict]) -> dict:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}
