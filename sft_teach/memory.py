"""What a process keeps of the memory that it once needed (glibc, so Linux; elsewhere nothing)."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# Names and values of glibc's malloc.h, mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MB = 2**20


def _glibc():
    """The C library if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Inside, memory that tensors leave is kept for the next ones.

    Left alone, glibc hands a free block of more than 32 MB back at once and asks for it anew, and
    the system fills it with zeros page by page. The gradient of an embedding table is such a block,
    and so is what all activations leave behind, if nothing lies above them: so it takes more time
    in one process than in another. `benchmarks/choices.py` has a row for it. Afterwards what is
    free goes back, and glibc has its usual limits again, at the values to which it raises them by
    itself in a process that has had large blocks.
    """
    if (libc := _glibc()) is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * _MB)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * _MB)
        release()


def release() -> None:
    """Give memory that is free inside of this process back to the system.

    Batches of ever other lengths leave gaps in it, and glibc keeps them.
    """
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def peak_mb(device: torch.device) -> float:
    """The GPU's highest allocation, or the highest this process ever had on the CPU, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MB
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB
