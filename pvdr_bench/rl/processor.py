"""How the processes that learn use a processor."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, malloc.h
_LARGE = 1 << 30  # bytes
_NEVER = (1 << 31) - 1  # the largest int


def one_thread() -> None:
    """One torch thread, since results depend on their number; and large tensors' memory is used again."""
    torch.set_num_threads(1)
    keep_large_blocks()


def keep_large_blocks() -> bool:
    """Let the process keep the memory of freed tensors of up to 1 GiB; whether the C library can (glibc).

    Else every tensor above 32 MiB is new memory, which the kernel has to clear page by page while it is filled: on one
    core, an update of ``contextwm`` at ``cpu`` scale takes a fifth longer. The largest size of a process stays the
    same; it is not given back between two of its peaks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*pair) for pair in ((_MMAP_THRESHOLD, _LARGE),
                                                                   (_TRIM_THRESHOLD, _NEVER)))
