"""The sandbox: refused where it cannot be had, and an allow-list where it can."""

from __future__ import annotations

import struct

import pytest

from sft_teach.errors import SFTTeachError
from sft_teach.grading import engine, sandbox, seccomp, view


@pytest.fixture
def fresh():
    sandbox.available.cache_clear()
    yield
    sandbox.available.cache_clear()


def test_without_bubblewrap_nothing_is_graded(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SFTTeachError, match="install bubblewrap"):
        engine.grade_notebook(b"{}", "ex03_cross_entropy")


def test_blocked_namespaces_are_explained(fresh, monkeypatch, tmp_path):
    blocked = tmp_path / "bwrap"
    words = "setting up uid map: Permission denied"
    blocked.write_text(f"#!/bin/sh\necho '{words}'\nexit 1\n")
    blocked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    reason = sandbox.available()
    assert words in reason and "apparmor_restrict_unprivileged_userns" in reason
    with pytest.raises(sandbox.SandboxUnavailable):
        sandbox.require()


def test_the_view_is_an_allow_list():
    for seen in (view.of_worker(), view.of_tester()):
        targets = [target for _, target in seen.binds]
        assert "/" not in targets and not any(t.startswith(("/etc", "/home")) for t in targets)
        assert all(t.startswith("/srv/") or "/lib" in t or "/bin/" in t for t in targets)
    inside = [target for _, target in view.of_worker().binds]
    assert not any("sft_teach" in target for target in inside)
    own = [t for _, t in view.of_tester().binds if "sft_teach" in t]
    assert not any(part in t for t in own for part in ("engine", "solutions", "classroom"))


def test_libraries_come_with_what_they_require():
    names = {target.rpartition("/")[2] for _, target in view.libraries()}
    assert {"torch", "numpy", "scipy", "sklearn", "safetensors", "matplotlib"} <= names
    assert "sft_teach" not in names and not any(name.endswith(".pth") for name in names)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program(machine):
    code = seccomp.program(machine)
    steps = list(struct.iter_unpack("=HBBI", code))
    assert len(steps) < 4096 and steps[0][0] == seccomp.LOAD
    for number, (kind, yes, no, _) in enumerate(steps):
        assert kind == seccomp.RETURN or number + 1 + max(yes, no) < len(steps)
    assert steps[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)
    assert seccomp.program("riscv64") is None
