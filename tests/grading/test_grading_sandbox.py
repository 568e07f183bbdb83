"""The sandbox: refused where it cannot be had, and an allow-list where it can."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

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


ENDLESS = """
import sys, time
from sft_teach.grading import sandbox, view
code = "import os; os.write(2, b'inside')\\nwhile True: pass"
process = sandbox.Process(view.of_worker(), ["-c", code, sys.argv[1]])
while process.said() != "inside":
    time.sleep(0.05)
print("inside", flush=True)
time.sleep(100)
"""


def _running(token: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(bool(sandbox.available()), reason=str(sandbox.available()))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_endless_loop_ends_with_the_grader_that_is_killed(number):
    token = f"endless-{os.urandom(8).hex()}"
    command = [sys.executable, "-c", ENDLESS, token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as grader:
        assert grader.stdout.readline() == "inside\n" and len(_running(token)) > 1
        grader.send_signal(number)
        grader.wait(10)
    until = time.monotonic() + 5
    while (left := _running(token)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
