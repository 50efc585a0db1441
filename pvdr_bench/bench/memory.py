"""Peaks of memory that start anew at each measurement."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peaks(device: torch.device) -> None:
    """Both peaks become what is in use now."""
    gc.collect()
    if _RESET.exists():
        _RESET.write_text("5")  # proc(5): resets VmHWM
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def resident_bytes(peak: bool = False) -> int | None:
    """Resident set of this process now, or its peak since :func:`reset_peaks`; None where there is no /proc."""
    if not _RESET.exists():
        return None
    found = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def device_peak_bytes(device: torch.device) -> int | None:
    """Most that torch had allocated on a GPU since :func:`reset_peaks`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
