"""Memory that a process once needed: giving it back, and the most there ever was."""

from __future__ import annotations

import ctypes
import sys

import torch

_MB = 2**20


def release() -> None:
    """Give memory that is free inside of this process back to the system (glibc, so Linux).

    Batches of ever other lengths leave gaps in it, and glibc keeps them.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
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
