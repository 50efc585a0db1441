"""The one loop of the stages before the online one: fixed steps, a validation grid, checkpoints, an artefact.

Batches are drawn by a generator made of (seed, step), so a killed build goes on with the batches it would have had.
Several processes share a batch (see :mod:`pvdr_bench.rl.process_group`); rank 0 alone writes and validates.
Work folder: ``train.jsonl``, ``timing.jsonl``, ``checkpoints/`` and at the end ``model.safetensors``.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.errors import Interrupted, TrainingError
from pvdr_bench.rl.config import Schedule
from pvdr_bench.rl.contract import OfflineLearner
from pvdr_bench.rl.flop import FlopTally
from pvdr_bench.rl.process_group import ProcessGroup, current_group
from pvdr_bench.runs.artefacts import MODEL, TIMING, read_stage_rows
from pvdr_bench.runs.checkpoints import Checkpoint, CheckpointStore
from pvdr_bench.runs.files import atomic_write, to_json
from pvdr_bench.runs.logs import JsonlLog
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.videos.windows import Drawn

LOG_ROWS = 200  # rows of train.jsonl over a whole stage, besides those of validations
OfflineProgress = Callable[[int, int, dict[str, float]], None]  # step, steps, newest row


class ClipSource(Protocol):
    """What clips are drawn from: a ClipStore, a TokenStore or :class:`MixedClips`."""

    def windows(self, split: str | None, frames: int, stride: int = 1) -> NDArray[np.int64]:
        """First frames of all clips."""

    def draw(self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1,
             split: str | None = TRAIN, part: slice = slice(None)) -> Drawn:
        """A batch [batch, frames, ...]; with ``part`` the same batch is drawn and those clips of it are read."""


class MixedClips:
    """Several clip stores as one.

    Args:
        weights: each clip's store is drawn in proportion to them; None: to the stores' windows.
    """

    def __init__(self, stores: Sequence[ClipSource], weights: Sequence[float] | None = None) -> None:
        self.stores, self.weights = list(stores), weights

    def windows(self, split: str | None, frames: int, stride: int = 1) -> NDArray[np.int64]:
        """Windows of all stores (each store's own frame numbers)."""
        return np.concatenate([store.windows(split, frames, stride) for store in self.stores])

    def draw(self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1,
             split: str | None = TRAIN, part: slice = slice(None)) -> Drawn:
        """A batch [batch, frames, ...], grouped by store."""
        windows = [len(store.windows(split, frames, stride)) for store in self.stores]
        sizes = np.array(windows if self.weights is None else self.weights, np.float64)
        counts = rng.multinomial(batch, sizes / sizes.sum())
        first, last, _ = part.indices(batch)
        ends = np.cumsum(counts)
        parts = [slice(max(0, first - end + count), max(0, min(count, last - end + count)))
                 for end, count in zip(ends, counts, strict=True)]
        drawn = [store.draw(rng, int(count), frames, stride, split, own)
                 for store, count, own in zip(self.stores, counts, parts, strict=True) if count]
        return Drawn(np.concatenate([each.frames for each in drawn]), np.concatenate([each.start for each in drawn]))


def as_tensor(batch: NDArray[Any]) -> Tensor:
    """Frames stay uint8; tokens become int64, as learners expect."""
    return torch.from_numpy(np.ascontiguousarray(batch if batch.dtype == np.uint8 else batch.astype(np.int64)))


def run_offline(learner: OfflineLearner, data: ClipSource, schedule: Schedule, folder: Path, seed: int,
                stop: Callable[[], bool] = lambda: False, progress: OfflineProgress | None = None,
                group: ProcessGroup | None = None, device: str = "cpu", count_flop: bool = True,
                check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Train, validate and leave ``model.safetensors`` in ``folder``; returns the last validation's metrics.

    Args:
        group: the processes that train together, each of which makes this call; default: those of the process group
            around it. Rank 0 writes, validates and tells of progress. A stop on one rank stops all at the same step,
            and another number of processes may go on.
        device: ``cpu`` or ``cuda``, written down beside the time that it took.
        count_flop: write down the FLOP of its updates, too (:class:`~pvdr_bench.rl.flop.FlopTally`); off for a learner
            that compiles, which would compile again for every step that is counted.
        check: called before anything is written; raises LockedError where the folder is another process's by now.

    Raises:
        Interrupted: ``stop`` said so; the same call goes on from the last checkpoint.
        LockedError: ``check`` said so.
        TrainingError: a metric is not finite.
        UsageError: the batch does not divide by the number of processes.
    """
    from safetensors.torch import save

    group = current_group() if group is None else group
    part, learner.group = group.part(schedule.batch), group
    checkpoints = CheckpointStore(folder / "checkpoints", keep=1)
    found = group.led(lambda: _state_of(checkpoints.latest()))
    step = found["step"] if found else 0
    if found:
        learner.load_state_dict(found["state"])
    record = None
    if group.leads:
        clock = StageClock(folder / TIMING, step, device, group.size if count_flop else 0)
        record = _Record(learner, data, schedule, seed, folder, checkpoints, found or {}, clock, check)
    try:
        while step < schedule.steps:
            if group.agreed(stop()):
                if record:
                    record.save(step)
                group.barrier()  # nobody leaves before the checkpoint is there
                raise Interrupted(f"stopped at step {step} of {schedule.steps}", hint="the same command continues")
            rng = np.random.default_rng([seed, step])
            batch = data.draw(rng, schedule.batch, schedule.frames, schedule.stride, part=part)
            with record.clock.counting() if record else nullcontext():
                metrics = finite(learner.update(as_tensor(batch.frames), torch.from_numpy(batch.start)), step)
            step += 1
            row = record.take(step, metrics) if record else None
            if row and progress is not None:
                progress(step, schedule.steps, row)
    finally:
        if record:
            record.log.close()
    if record:
        check()
        atomic_write(folder / MODEL, save({name: value.contiguous() for name, value in learner.export().items()}))
    return {"steps": schedule.steps, **(record.validation if record else {})}


class _Record:
    """What rank 0 alone does: rows, validations, checkpoints, time.

    Attributes:
        validation: the last one's metrics. clock: of the time that steps take, and of their FLOP.
    """

    def __init__(self, learner: OfflineLearner, data: ClipSource, schedule: Schedule, seed: int, folder: Path,
                 checkpoints: CheckpointStore, found: Mapping[str, Any], clock: StageClock, check: Callable[[], None]
                 ) -> None:
        self._learner, self._schedule, self._checkpoints, self._check = learner, schedule, checkpoints, check
        self._saved, extra, self.clock = found.get("step", 0), found.get("extra", {}), clock
        self.log = JsonlLog(folder / "train.jsonl")
        self.log.truncate(extra.get("offset", 0))
        self.validation: dict[str, float] = dict(extra.get("validation", {}))
        self._interval = Averages(extra.get("interval"))
        # Learners of single frames are validated on pairs of neighbours, which show what flickers.
        self._held_out = data.draw(np.random.default_rng([seed, 2**32 - 1]), schedule.validation_clips,
                                   max(2, schedule.frames), schedule.stride, HELDOUT)

    def take(self, step: int, metrics: dict[str, float]) -> dict[str, float] | None:
        """Metrics of the step that led to ``step``; validates and saves where that is due. A row, if one is."""
        self._interval.add(metrics)
        due = step % self._schedule.validate_every == 0 or step == self._schedule.steps
        if not due and step % max(1, self._schedule.steps // LOG_ROWS):
            return None
        if due:
            found = self._learner.validate(as_tensor(self._held_out.frames), torch.from_numpy(self._held_out.start))
            self.validation = {f"val_{name}": value for name, value in finite(found, step).items()}
        row = {"step": step, **self._interval.take(), **(self.validation if due else {})}
        self._check()
        self.log.append(row)
        if due:
            self.save(step)
        return row

    def save(self, step: int) -> None:
        """A checkpoint, if this step has none yet."""
        if step > self._saved:
            self._check()  # before another process's half-written checkpoint is cleared away, too
            self.clock.tell(step)  # before the checkpoint: a step that can be gone on from has its time
            self._checkpoints.save(step, self._learner.state_dict(), {
                "offset": self.log.sync(), "validation": self.validation, "interval": self._interval.state()})
            self._saved = step


class StageClock:
    """Seconds of training over all starts and FLOP of its updates, a row of ``timing.jsonl`` at each checkpoint.

    Args:
        step: where this start begins; rows of what was done in vain after it are dropped. Where that checkpoint has no
            row, as those of earlier versions, the whole is not known, and nothing is written.
        processes: that have an equal part of each update, whose FLOP are counted in one; 0: they are not counted.
    """

    def __init__(self, path: Path, step: int, device: str, processes: int = 0) -> None:
        rows = [row for row in read_stage_rows(path) if row["step"] <= step]
        self._path, self._device, self._started = path, device, time.monotonic()
        self._known = step == (rows[-1]["step"] if rows else 0)
        self._before = rows[-1]["wall_seconds"] if rows else 0.0
        self._tally, self._processes = FlopTally(), processes
        self._flop = rows[-1].get("flop") if rows else 0.0  # None: that of an earlier start is not known
        if path.exists():
            atomic_write(path, "".join(to_json(row) + "\n" for row in rows if self._known).encode())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """An update is made within."""
        if not self._processes:
            yield
            return
        self._tally.enter("update", 1)
        try:
            yield
        finally:
            self._tally.leave()

    def tell(self, step: int) -> None:
        """Write down the time of a checkpoint that is about to be made, and what its updates took."""
        if not self._known:
            return
        row = {"step": step, "wall_seconds": round(self._before + time.monotonic() - self._started, 3),
               "device": self._device}
        if self._flop is not None:
            self._flop += self._processes * sum(self._tally.take().values())
        counted = {"flop": self._flop} if self._processes and self._flop is not None else {}
        log = JsonlLog(self._path)
        log.append({**row, **counted})
        log.close()


def _state_of(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """A checkpoint as plain data, which rank 0 can send to the others."""
    if checkpoint is None:
        return None
    return {"step": checkpoint.step, "state": checkpoint.state, "extra": checkpoint.extra}


class Averages:
    """Means of metrics since the last row."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self._sums: dict[str, float] = defaultdict(float, state["sums"] if state else {})
        self._counts: dict[str, int] = defaultdict(int, state["counts"] if state else {})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the row after a resume is the one of a run never stopped."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take one step's metrics."""
        for name, value in metrics.items():
            self._sums[name] += value
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means; starts anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means


def finite(metrics: dict[str, float], step: int) -> dict[str, float]:
    """The metrics, if all are finite.

    Raises:
        TrainingError: one is not.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(f"the metric {name} is {value}", where=f"step {step}", hint="lower the learning rate")
    return metrics
