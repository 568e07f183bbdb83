"""Submissions that attack: each earns nothing by it, costs its own task only, and leaves no trace.

Most attacks stand in the answer to `scaled` (or to several tasks at once); the right answers in the
same notebook must keep their points. An attack reports what it got as an exception's text.
"""

from __future__ import annotations

import json
import os

import practice
import psutil
import pytest
from practice import ALL, POINTS, RIGHT, submission

WITHOUT_SCALED = ALL - POINTS["scaled"]


def attack(body: str, top: str = "") -> dict[str, str]:
    """An answer to `scaled` with this body, in a cell that starts with `top`."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return {"scaled": f"{top}\ndef scaled(x, by):\n{lines}\n"}


def text_of(result) -> str:
    return result.tasks[0].error


def earns_nothing(result) -> None:
    assert result.failed is None
    assert result.tasks[0].points == 0
    assert {t.name for t in result.tasks if t.points < t.max_points} == {"scaled"}, result


# --- what can be seen and touched ---------------------------------------------------------------
LOOK = """
import os, sys
got = []
for path in {paths!r}:
    try:
        got.append((path, os.listdir(path) if os.path.isdir(path) else open(path).read(20)))
    except OSError:
        pass
got += [(k, v) for k, v in os.environ.items() if "SECRET" in k or "SFT" in k or "PATH" == k[-4:]]
raise RuntimeError("got " + repr([g for g in got if g != ("PATH", "/usr/bin")]))
"""


def test_reads_of_anything_of_the_teacher(grade, course, monkeypatch, repository):
    monkeypatch.setenv("SFT_TEACH_SECRET", "the course secret")
    files = [str(path) for path in course.rglob("*")]
    others = ["/etc", "/etc/passwd", "/etc/shadow", "/home", "/var", "/sys", "/run", "/opt", "/mnt"]
    others += ["/proc/1/root/etc/passwd", f"/proc/{os.getpid()}/environ"]
    others += [str(repository / n) for n in ("solutions", "sft_teach", "pyproject.toml", ".git")]
    others += ["/srv/teacher", os.path.expanduser("~/.bashrc"), "/dev/shm", "/dev/pts", "/dev/tty"]
    # The top-level variables of the answer are made new: a grader must start after the environment.
    result = grade(submission(attack(LOOK.format(paths=[*files, *others]))))
    earns_nothing(result)
    assert "got []" in text_of(result)


def test_environment_of_its_own_first_process(grade):
    result = grade(submission(attack("raise RuntimeError(open('/proc/1/environ').read())")))
    assert "SECRET" not in text_of(result) and "HOME" not in text_of(result)


WRITE = """
import os
made = []
for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/sys")):
        folders.clear()
        continue
    if folder.count("/") > 5:
        folders.clear()
    try:
        with open(folder + "/left", "w") as file:
            file.write("x")
        made.append(folder)
    except OSError:
        pass
    for name in files[:5]:
        try:
            open(folder + "/" + name, "r+").close()
            made.append(folder + "/" + name)
        except OSError:
            pass
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/oom_score_adj"):
    try:
        open(path, "w").write("1000")
        made.append(path)
    except OSError:
        pass
raise RuntimeError("made " + repr([m for m in made if not m.startswith(("/tmp", "/dev/"))]))
"""


def test_writes_anywhere(grade):
    result = grade(submission(attack(WRITE)))
    earns_nothing(result)
    assert "made []" in text_of(result) or "made ['/proc/1/oom_score_adj']" in text_of(result)


FILL = """
size = 0
try:
    for number in range(100):
        with open(f"/tmp/{number}", "wb") as file:
            for _ in range(10):
                size += file.write(bytes(1 << 20))
except OSError as error:
    raise RuntimeError(f"{size >> 20} MB and then {error}")
"""


def test_filling_the_disk_stops_at_a_few_megabytes(grade):
    result = grade(submission(attack(FILL)))
    earns_nothing(result)
    assert int(text_of(result).split()[1]) <= 16


NETWORK = """
import socket, urllib.request
got = []
for family in range(60):
    for kind in (1, 2, 3):
        try:
            socket.socket(family, kind)
            got.append(family)
        except OSError:
            pass
try:
    urllib.request.urlopen("http://1.1.1.1", timeout=2)
    got.append("url")
except OSError:
    pass
raise RuntimeError("got " + repr(got))
"""
PROCESSES = """
import ctypes, os, signal, subprocess
got = []
for start in (os.fork, lambda: subprocess.run(["/usr/lib/ld.so"]), lambda: os.kill(2**22, 0),
              lambda: os.posix_spawn("/usr/lib/ld.so", ["x"], {})):
    try:
        got.append(start())
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
for name, number in (("memfd_create", 0), ("unshare", 0x10000000), ("ptrace", 0), ("shmget", 0)):
    call = getattr(libc, name)
    if call(b"x" if name == "memfd_create" else number, 1 << 20, 0o1600) >= 0:
        got.append(name)
raise RuntimeError("got " + repr(got))
"""


def test_network_and_new_processes(grade):
    halve = "def halve(tensors):\n" + "\n".join(f"    {x}" for x in PROCESSES.strip().splitlines())
    result = grade(submission(attack(NETWORK) | {"halve": halve}))
    assert result.points == ALL - POINTS["scaled"] - POINTS["halve"]
    assert "got []" in text_of(result)
    assert "got []" in result.tasks[2].error


def test_only_one_socket_is_open_inside(grade):
    body = "import os\nfds = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
    body += "raise RuntimeError([os.readlink(fd) for fd in fds if os.path.lexists(fd)])"
    found = text_of(grade(submission(attack(body))))
    assert found.count("socket:") == 1 and "pipe:" not in found and "deleted" not in found


def test_no_process_is_left_behind(grade, grader):
    daemon = """
import os, threading, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(20):
    threading.Thread(target=time.sleep, args=(600,)).start()
try:
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
except OSError:
    pass
"""
    assert grade(submission(first=daemon)).points == ALL
    own = {process.process.popen.pid for process in (*grader.spares, grader.tester)}
    children = psutil.Process().children()
    assert {child.pid for child in children if "bwrap" in child.name()} == own


# --- using things up ----------------------------------------------------------------------------
def test_memory(grade):
    body = "block = bytearray(8 << 30)\nreturn x * by"
    halve = "def halve(tensors):\n    return torch.ones(1 << 31).sum().item()"
    noise = "def noise(like, generator):\n    kept = []\n    while True:\n"
    noise += "        kept.append(bytearray(64 << 20))"
    result = grade(submission(attack(body) | {"halve": halve, "noise": noise}))
    lost = {t.name for t in result.tasks if t.points < t.max_points}
    assert lost == {"scaled", "halve", "noise"}
    assert "MemoryError" in text_of(result)


def test_much_printing_is_harmless(grade):
    loud = "import sys\nprint('x' * 50_000_000)\nsys.stderr.write('y' * 50_000_000)\n"
    answers = attack("print('z' * 50_000_000)\nreturn x * by")
    assert grade(submission(answers, first=loud)).points == ALL


ENDLESS = {
    "loop": "while True: pass",
    "printing": "while True: print('x' * 1000)",
    "stubborn": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "silence": "import time\ntime.sleep(600)",
}


@pytest.mark.parametrize("kind", ["stubborn", "printing"])
def test_an_endless_function(grade, kind):
    result = grade(submission(attack(ENDLESS[kind])))
    earns_nothing(result)
    assert result.tasks[0].hint and "no answer in time" in text_of(result)


def test_an_endless_cell(grade):
    result = grade(submission(attack("return x * by", top=ENDLESS["silence"])))
    earns_nothing(result)
    assert "no answer in time" in text_of(result)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.kill(1, 9)"])
def test_ending_the_process_in_a_function(grade, end):
    answers = attack(f"{end}\nreturn x * by" if "1, 9" in end else end, top="import os")
    result = grade(submission(answers))
    if "1, 9" in end:  # nothing happens: the first process of a namespace is out of reach
        assert result.points in (ALL, WITHOUT_SCALED)
    else:
        earns_nothing(result)


def test_ending_the_process_in_cells(grade):
    answers = attack("return x * by", top="import os\nos._exit(1)")
    answers["halve"] = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n" + RIGHT["halve"]
    result = grade(submission(answers))
    assert {t.name for t in result.tasks if t.points < t.max_points} == {"scaled", "halve"}


def test_a_bomb_with_a_fuse_costs_its_own_task_only(grade):
    fuse = "import threading, os, time\n"
    fuse += "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(1))).start()"
    result = grade(submission(attack("raise ValueError", top=fuse)))
    assert result.points == WITHOUT_SCALED


# --- patching -----------------------------------------------------------------------------------
PATCH = """
import ast, builtins, gc, importlib, inspect, json, pickle, sys, torch.testing, unittest
def always(*a, **k): return True
torch.allclose = torch.equal = always
torch.testing.assert_close = torch.testing.assert_allclose = lambda *a, **k: None
torch.Tensor.__eq__ = always
torch.Tensor.allclose = torch.Tensor.equal = always
ast.parse = compile_before = lambda *a, **k: ast.Module([], [])
sys.modules["torch.testing"] = sys.modules["sft_teach.checks.hidden"] = sys
sys.settrace(None)
builtins.all = builtins.any = always
json.dumps = lambda *a, **k: '{"value": true}'
class Everything:
    def __eq__(self, other): return True
    def __getattr__(self, name): return always
for frame in inspect.stack():
    frame.frame.f_globals.setdefault("points", 100)
    for name in ("scaled", "points", "score", "passed"):
        frame.frame.f_globals[name] = 100
"""


def test_patching_everything_costs_only_the_patcher(grade):
    result = grade(submission(attack("return Everything()", top=PATCH)))
    earns_nothing(result)


def test_a_kernel_that_is_patched_is_not_there(grade):
    shell = "get_ipython().run_cell = lambda *a, **k: None\nimport nbgrader, IPython, ipykernel"
    assert grade(submission(attack("return x + by"), first=shell)).points == WITHOUT_SCALED


def test_values_that_claim_to_be_right(grade):
    equal = """
class Equal(float):
    def __eq__(self, other): return True
    __ne__ = lambda self, other: False
    def __hash__(self): return 1
class Mapping(dict):
    def __eq__(self, other): return True
"""
    answers = {
        "scaled": equal + "def scaled(x, by):\n    return Equal(1)",
        "tally": "def tally(words, ids):\n    return Mapping(), Mapping(), Mapping()",
        "halve": "def halve(tensors):\n    return Equal(19.0)",
        "positive": "def positive(values):\n    return Equal(3)",
    }
    result = grade(submission(answers))
    assert result.points == POINTS["noise"] + POINTS["soft_loss"]


def test_answers_imported_from_the_package(grade):
    answers = {
        "scaled": "from sft_teach.evaluation import report as scaled",
        "tally": "import sft_teach.checks.ex03_cross_entropy as right\ntally = right.reference",
        "halve": "from sft_teach.checks.hidden import *\nhalve = draw",
        "noise": "import sft_teach\nnoise = sft_teach.checks.core.examine",
        "positive": "import importlib\npositive = importlib.import_module('sft_teach.grading')",
    }
    result = grade(submission(answers))
    assert result.points == POINTS["soft_loss"]
    assert result.tasks[0].error == "forbidden: uses sft_teach.evaluation.report"


# --- the wire -----------------------------------------------------------------------------------
WIRE = """
import os, socket, stat, struct, pickle
def ends():
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                yield int(name)
        except OSError:
            pass
def say(data):
    for number in ends():
        try:
            os.write(number, data)
        except OSError:
            pass
"""
FORGED = {
    "noise on the wire": "say(os.urandom(1000))",
    "a reply of 2 GB": "say(struct.pack('<QQ', 2 << 30, 2 << 30))\nwhile True: say(bytes(1 << 20))",
    "a pickle": "say(struct.pack('<QQ', 30, 0) + pickle.dumps(os.system).ljust(30))",
    "a closed wire": "[os.close(n) for n in ends()]",
    "a drip": "import time\nsay(struct.pack('<QQ', 100, 0))\n"
    "while True:\n    say(b' ')\n    time.sleep(0.1)",
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_frames_in_a_call(grade, kind):
    result = grade(submission(attack(f"{FORGED[kind]}\nreturn x * by", top=WIRE)))
    earns_nothing(result)


def test_forged_frames_while_cells_run(grade):
    ready = json.dumps({"event": "ready", "errors": []}).encode()
    early = f"say(struct.pack('<QQ', {len(ready)}, 0) + {ready!r})\nsay(b'x' * 100)"
    result = grade(submission(attack("return x + by", top=f"{WIRE}\n{early}")))
    earns_nothing(result)


# --- notebooks ----------------------------------------------------------------------------------
BAD = {
    "empty": b"",
    "garbage": os.urandom(100),
    "truncated": practice.as_bytes(submission())[:-300],
    "huge": b" " * ((20 << 20) + 1),
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep in a cell": b'{"nbformat": 4, "cells": [' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"]}",
    "other encoding": json.dumps({"cells": ["ä"]}, ensure_ascii=False).encode("latin-1"),
    "a list": b"[]",
    "no cells": b'{"nbformat": 4}',
    "an old format": b'{"nbformat": 3, "cells": []}',
    "many cells": json.dumps({"nbformat": 4, "cells": [{}] * 5000}).encode(),
    "a long number": b'{"nbformat": 4, "cells": [], "x": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("kind", BAD)
def test_unreadable_notebooks_fail_and_have_no_grade(grade, kind):
    result = grade(BAD[kind])
    assert result.failed and result.tasks == []


def test_links_and_pipes_are_no_submissions(grader, course, tmp_path):
    (tmp_path / "link.ipynb").symlink_to(course / "submissions/ada/practice/practice.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    for path in (tmp_path / "link.ipynb", tmp_path / "pipe.ipynb", tmp_path, tmp_path / "none"):
        assert grader.grade(path).failed


def test_strange_cells_in_a_readable_notebook(grade):
    tree = submission(attack("return x + by"))
    strange = [
        None, 3, [], {}, {"cell_type": "code"}, {"cell_type": "code", "source": {"a": 1}},
        {"cell_type": 7, "source": "1"}, {"cell_type": "code", "source": [1, "x = 1"]},
        {"cell_type": "code", "source": "\ud800", "metadata": [1]},
        {"cell_type": "code", "source": "y = 1", "metadata": {"nbgrader": "yes"}},
        {"cell_type": "code", "source": "z = 1", "metadata": {"nbgrader": {"grade_id": [1]}}},
        {"cell_type": "code", "source": "(" * 5000}, {"cell_type": "code", "source": "a\0b"},
    ]  # fmt: skip
    tree["cells"] += strange
    earns_nothing(grade(tree))
