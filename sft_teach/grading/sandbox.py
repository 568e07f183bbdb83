"""A process in bubblewrap: it sees an allow-list of files, no network, nobody else, and has limits.

An ordinary user starts one bubblewrap in a user namespace. root starts two: the outer one arranges
the files, setpriv drops to a user that exists nowhere else, and the inner one closes the
namespaces; inside a single one root would still be root towards the kernel, and RLIMIT_NPROC would
not hold.

What ends a sandbox is the end of the first process in its process namespace. root's outer
bubblewrap needs a namespace of its own for that: killed with its grader, it may not signal the
inner one, which belongs to another user, and submissions would run on for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

from sft_teach.errors import SFTTeachError
from sft_teach.grading import seccomp, view

TMP_BYTES = 16 << 20
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp",
}
INSTALL = (
    "Grading runs submissions in bubblewrap and never without: "
    "install it (`sudo apt-get install bubblewrap`, `sudo dnf install bubblewrap`)."
)
BLOCKED = (
    "bubblewrap is installed but cannot make its namespaces here, and grading never runs without: "
    "{}\nOn Ubuntu 24.04 and later allow them with an AppArmor profile for bwrap, or with "
    "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`; elsewhere check "
    "`sysctl user.max_user_namespaces`. In a container, start it with `--security-opt "
    "seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`."
)


class SandboxUnavailable(SFTTeachError):
    """There is no bubblewrap, it may not make namespaces here, or its process does not start."""


@lru_cache
def available() -> str | None:
    """Why nothing can be graded on this machine, or None if it can; tried once per process."""
    if not sys.platform.startswith("linux"):
        return "Grading needs Linux and bubblewrap (on Windows: WSL 2)."
    if shutil.which("bwrap") is None:
        return INSTALL
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "Grading as root needs setpriv to drop its rights: install the package util-linux."
    if not hasattr(os, "pidfd_open"):
        return "Grading needs Linux 5.3 or later."
    process = Process(view.of_worker(), ["-c", "import os; os.write(2, b'inside')"])
    try:
        process.popen.wait(20)
        said = process.said()
    except subprocess.TimeoutExpired:
        said = "it did not start within 20 s"
    finally:
        process.kill()
    return None if said == "inside" else BLOCKED.format(said or "(it says nothing)")


def require() -> None:
    """Raise SandboxUnavailable, with what to do, where nothing can be graded."""
    if reason := available():
        raise SandboxUnavailable(reason)


class Process:
    """Python in a sandbox.

    bubblewrap ends it when the thread that started it ends, so that nothing outlives a grader that
    is killed: start and use it in one thread.

    Args:
        seen: the files it sees.
        arguments: for Python, which runs isolated and without site.
        sockets: file descriptors that it inherits, under the same numbers.
    """

    def __init__(self, seen: view.View, arguments: list[str], sockets: tuple[int, ...] = ()):
        self._errors, errors = os.pipe()
        self._info, info = os.pipe()
        os.set_blocking(self._errors, False)
        self._pidfd: int | None = None
        program = seccomp.program()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, errors)
            stack.callback(os.close, info)
            inherited, options = [*sockets, info], []
            if program is not None:
                number, write = os.pipe()
                stack.callback(os.close, number)
                os.write(write, program)  # a few hundred instructions: a pipe holds them
                os.close(write)
                inherited.append(number)
                options += ["--seccomp", str(number)]
            command = [view.python(), "-I", "-S", "-B", *arguments]
            self.popen = subprocess.Popen(
                _command(seen, info, options, command),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=inherited,
                env={},  # /proc/1/environ would show it inside, whatever --clearenv says
                cwd="/",
            )

    def said(self) -> str:
        """What it wrote until it closed its standard error; at most what a pipe holds."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._errors, 1 << 16).decode(errors="replace").strip()
        return ""

    def _child(self, seconds: float = 10.0) -> int | None:
        """A handle on the first process inside, or None if there is none (any more)."""
        data, until = b"", time.monotonic() + seconds
        while not data.endswith(b"}\n") and not data.rstrip().endswith(b"}"):
            ready, _, _ = select.select([self._info], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._info, 4096) if ready else b""
            if not part:
                return None
            data += part
        with contextlib.suppress(ProcessLookupError):
            return os.pidfd_open(json.loads(data)["child-pid"])
        return None

    def kill(self) -> None:
        """End everything inside, and return when it has ended.

        The first process inside takes its whole process namespace along. Killing bubblewrap instead
        would return before that is done.
        """
        if self._info < 0:
            return
        child = self._child()
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            select.select([child], [], [], 10.0)
            os.close(child)
        else:
            self.popen.kill()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        os.close(self._errors)
        os.close(self._info)
        self._info = -1


def _command(seen: view.View, info: int, options: list[str], command: list[str]) -> list[str]:
    """The whole command line, as an ordinary user or as root.

    Args:
        info: where the outermost bubblewrap writes the number of its first process.
    """
    told = ["--info-fd", str(info)]
    bwrap = os.path.realpath(shutil.which("bwrap"))
    inner = [
        *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"),
        *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"),
        *(part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)),
        *("--proc", "/proc", "--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),
    ]
    end = [*options, "--remount-ro", "/", "--chdir", "/tmp", "--"]
    if os.geteuid() != 0:
        return [bwrap, *inner, *seen.arguments(), *told, *end, *command]
    tools = {"/srv/tools/bwrap": bwrap, "/srv/tools/setpriv": shutil.which("setpriv")}
    binds = (*seen.binds, *((path, inside) for inside, path in tools.items()))
    outer = view.View(binds, seen.links, seen.hidden)
    user = str(_unused_user())
    return [
        *(bwrap, "--die-with-parent", "--unshare-pid", *told, "--clearenv", "--cap-drop", "ALL"),
        *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"),
        *outer.arguments(),
        # The inner bubblewrap may mount a /proc of its own only where it can see a whole one.
        *(
            "--bind",
            "/proc",
            "/proc",
            "--perms",
            "0755",
            "--dir",
            "/tmp",
            "--remount-ro",
            "/",
            "--",
        ),
        *("/srv/tools/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
        *("/srv/tools/bwrap", *inner, *seen.again().arguments(), *end, *command),
    ]


def _unused_user() -> int:
    """A user number that nobody has, a new one at each call, inside what this container maps."""
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    end = max(int(first) + int(count) for first, _, count in rows)
    low, high = (1 << 30, 1 << 31) if end >= 1 << 31 else (max(1, end - 4000), end - 600)
    return random.SystemRandom().randrange(low, max(low + 1, high))
