"""Memory of this process: what glibc gives back, and the most there was."""

import math
import subprocess
import sys
import textwrap

import pytest
import torch

from sft_teach import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")


def run(script: str) -> list[float]:
    """The numbers that `script` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


def test_memory_between_used_pieces_is_given_back():
    full, torn, released = run(
        """
        import torch
        from sft_teach import memory
        def held():
            return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024
        pieces = [torch.zeros(25_000) for _ in range(5000)]  # 100 kB each, all in one heap
        kept = pieces[::50]  # a piece in use now and then
        full = held()
        del pieces
        torn = held()
        memory.release()
        print(full, torn, held())
        """
    )
    assert torn > full - 100, "the gaps stay with the process: that is what is to be mended"
    assert released < full - 350  # of 500 MB


def test_the_highest_memory_is_in_megabytes():
    with open("/proc/self/status") as status:
        now = int(status.read().split("VmRSS:")[1].split()[0]) / 1024
    assert 0.9 * now < memory.peak_mb(torch.device("cpu")) < math.inf
