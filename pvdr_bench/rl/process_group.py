"""The processes that train one offline stage together, as those who train see them.

A global batch is cut into equal contiguous parts, one per rank. Every rank draws the random numbers of the whole batch
and takes its rows, weighs its losses by its share, and sums gradients and statistics over the group: many processes do
what one does, up to the order of sums. Rank 0 alone writes. A group of one process touches nothing of this.
:mod:`pvdr_bench.rl.distributed` brings a group about.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pvdr_bench.errors import DataError, TrainingError, UsageError
from pvdr_bench.runs.state import pack, unpack

FILE_SECONDS = 120.0  # until a network file system shows what rank 0 made

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """One process among ``size`` that train together; the methods do nothing in a group of one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: Any = None  # the gloo group of what every step agrees on
    waiting: Any = None  # the gloo group of long waits

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    # A batch and its parts ------------------------------------------------------------------------------------------

    def part(self, total: int) -> slice:
        """This rank's rows of a global batch of ``total``.

        Raises:
            UsageError: the batch does not divide by the number of processes.
        """
        if total % self.size:
            fits = [n for n in range(1, min(total, 4 * self.size) + 1) if total % n == 0]
            raise UsageError(f"a batch of {total} does not divide by {self.size} processes",
                             hint=f"start another number of processes: {', '.join(map(str, fits))} would do")
        count = total // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def mine(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor [B, ...] that all ranks drew alike."""
        return whole if self.size == 1 else whole[self.part(len(whole))]

    def pick(self, rows: Tensor, index: Tensor) -> Tensor:
        """Rows ``index`` int64 [K] of all ranks' ``rows`` [M, ...] one after another: [K, ...], the same everywhere.

        ``rows`` have the same length on every rank.
        """
        if self.size == 1:
            return rows[index]
        local = index - self.rank * len(rows)
        own = (local >= 0) & (local < len(rows))
        out = rows.new_zeros((len(index), *rows.shape[1:]))
        out[own] = rows[local[own]]
        self.sum_tensors([out])
        return out

    # Sums -----------------------------------------------------------------------------------------------------------

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over the group, in place; the same shapes in the same order on every rank.

        Gradients of losses that are weighed by the rank's share become those of the whole batch.
        """
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])  # one message in place of hundreds
            with _talking():
                dist.all_reduce(flat)
            for tensor, total in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
                tensor.detach().copy_(total.view(tensor.shape))

    def sum_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add up numbers over the group; means, where each rank gave its share of them."""
        if self.size == 1:
            return dict(metrics)
        values = torch.tensor(list(metrics.values()), dtype=torch.float64)
        with _talking():
            dist.all_reduce(values, group=self.quick)
        return dict(zip(metrics, values.tolist(), strict=True))

    # Agreement ------------------------------------------------------------------------------------------------------

    def agreed(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        with _talking():
            dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.quick)
        return bool(votes.item())

    def barrier(self) -> None:
        """Wait for all ranks, for hours if need be."""
        if self.size > 1:
            with _talking():
                dist.barrier(group=self.waiting)

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's ``value`` on every rank: whatever a checkpoint can hold (see :mod:`pvdr_bench.runs.state`)."""
        if self.size == 1:
            return value
        tree, tensors = pack(value) if self.leads else (None, b"")
        text = json.dumps(tree).encode()
        sizes = self._send(torch.tensor([len(text), len(tensors)]))
        length, total = int(sizes[0]), int(sizes.sum())
        data = torch.frombuffer(bytearray(text + tensors), dtype=torch.uint8) if self.leads else None
        raw = self._send(torch.empty(total, dtype=torch.uint8) if data is None else data).numpy().tobytes()
        return value if self.leads else unpack(json.loads(raw[:length]), raw[length:])

    def _send(self, tensor: Tensor) -> Tensor:
        with _talking():
            dist.broadcast(tensor, 0, group=self.waiting)
        return tensor

    def led(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, on every rank; the others do not call it."""
        result: T = self.broadcast(make() if self.leads else None)
        return result

    def shared(self, make: Callable[[], T], open_: Callable[[Path], T]) -> T:
        """What rank 0 finds or makes on disk (it has a ``path``), opened by the others when it is there."""
        if not self.leads:
            return open_(wait_for(Path(self.broadcast())))
        made = make()
        self.broadcast(str(made.path))  # type: ignore[attr-defined]
        return made


class Lost(TrainingError):
    """A collective broke: another process is gone."""


@contextmanager
def _talking() -> Iterator[None]:
    """Tell a broken connection from an error of our own."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(f"another process is gone: {str(error).splitlines()[0].partition('. ')[0]}",
                    hint="its own output says why; the same command continues from the last checkpoint") from error


ALONE = ProcessGroup()
_current = ALONE


def current_group() -> ProcessGroup:
    """The group that the caller is within, or a group of one."""
    return _current


@contextmanager
def within(joined: ProcessGroup) -> Iterator[ProcessGroup]:
    """Let :func:`current_group` be this one for the length of the block."""
    global _current
    _current = joined
    try:
        yield joined
    finally:
        _current = ALONE


def wait_for(path: Path, seconds: float = FILE_SECONDS) -> Path:
    """A path that rank 0 has published, once this machine sees it.

    Raises:
        DataError: it does not appear.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise DataError(f"rank 0 made it, and {socket.gethostname()} does not see it", where=str(path),
                            hint="point PVDR_BENCH_DATA at a folder that all nodes share")
        with suppress(OSError):
            os.listdir(path.parent)  # noqa: PTH208 - a network file system looks again
        time.sleep(0.2)
    return path
