"""How learning processes use a processor."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from pvdr_bench.rl.processor import one_thread
{call}
def fill(): return torch.empty(48 << 20, dtype=torch.uint8).fill_(1).sum()
fill(), fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill(), fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


def faults(call: str) -> tuple[int, int]:
    """Pages that are new to a process which fills 48 MiB twice, and its torch threads."""
    told = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True)
    count, threads = told.stdout.split()
    return int(count), int(threads)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")
def test_large_tensors_are_made_of_used_memory() -> None:
    assert faults("")[0] > 10_000
    count, threads = faults("one_thread()")
    assert count < 1_000
    assert threads == 1
