"""Several processes that train one offline stage together: who they are, how they agree, how they end.

A global batch is cut into equal contiguous parts, one per rank. Every rank draws the random numbers of the whole batch
and takes its rows, weighs its losses by its share, and sums gradients and statistics over the world: many processes do
what one does, up to the order of sums. Rank 0 alone writes. A world of one process touches nothing of this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pvdr_bench.errors import BenchError, DataError, Interrupted, SetupError, TrainingError, UsageError
from pvdr_bench.runs.state import pack, unpack

START = timedelta(minutes=30)  # until all processes of a job are there
STEP = timedelta(minutes=30)  # for a collective of a training step; rank 0 may validate or save meanwhile
WAIT = timedelta(hours=48)  # while rank 0 waits for a lock, makes a corpus or encodes tokens
POLL_SECONDS = 0.5  # between two looks for a failed rank
GRACE_SECONDS = 20.0  # for a process to unwind by itself once another rank has failed
SEEN_SECONDS = 5.0  # that a failed rank waits for the others to read why
FILE_SECONDS = 120.0  # until a network file system shows what rank 0 made
_FAILED, _SEEN = "pvdr_bench/failed", "pvdr_bench/seen"

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among ``size`` that train together; the methods do nothing in a world of one."""

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
        """Add up tensors over the world, in place; the same shapes in the same order on every rank.

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
        """Add up numbers over the world; means, where each rank gave its share of them."""
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


class _Lost(TrainingError):
    """A collective broke: another process is gone."""


@contextmanager
def _talking() -> Iterator[None]:
    """Tell a broken connection from an error of our own."""
    try:
        yield
    except RuntimeError as error:
        raise _Lost(f"another process is gone: {str(error).splitlines()[0].partition('. ')[0]}",
                    hint="its own output says why; the same command continues from the last checkpoint") from error


ALONE = World()
_current = ALONE


def world() -> World:
    """The world of the :func:`process_group` around the caller, or a world of one."""
    return _current


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


# Who we are ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What the launcher says of this process, and where rank 0 listens."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: str = ""
    port: int = 0


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Read torchrun's variables, else those of a SLURM step; one process where there are none, or one task.

    A batch script without ``srun`` also knows of its job's tasks, but runs once: only a *step* makes a world.

    Raises:
        SetupError: variables are missing or make no sense.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        place = Place(_number(env, "RANK"), _number(env, "WORLD_SIZE"), _number(env, "LOCAL_RANK", "0"))
    elif "SLURM_PROCID" in env and ("SLURM_STEP_ID" in env or "SLURM_STEP_NUM_TASKS" in env):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        place = Place(_number(env, "SLURM_PROCID"), _number(env, tasks, "1"), _number(env, "SLURM_LOCALID", "0"))
    else:
        return Place()
    if place.size <= 1:
        return Place()
    if place.rank >= place.size:
        raise SetupError(f"rank {place.rank} of {place.size} processes", where="environment",
                         hint="RANK and WORLD_SIZE (or SLURM's) do not belong together")
    return Place(place.rank, place.size, place.local_rank, _host(env), _port(env))


def _number(env: Mapping[str, str], name: str, default: str = "") -> int:
    text = env.get(name, default)
    if not text.isdigit():
        raise SetupError(f"{name} is {text!r}, not a number", where="environment", hint="torchrun and srun set it")
    return int(text)


def _host(env: Mapping[str, str]) -> str:
    """Where rank 0 runs."""
    if env.get("MASTER_ADDR"):
        return env["MASTER_ADDR"]
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if nodes and (scontrol := shutil.which("scontrol", path=env.get("PATH"))):
        answer = subprocess.run([scontrol, "show", "hostnames", nodes], capture_output=True, text=True, check=False,
                                env=dict(env))
        if answer.returncode == 0 and answer.stdout.split():
            return answer.stdout.split()[0]
    if nodes and re.fullmatch(r"[\w.-]+", nodes):  # one node, by name
        return nodes
    if env.get("SLURM_LAUNCH_NODE_IPADDR"):
        return env["SLURM_LAUNCH_NODE_IPADDR"]
    raise SetupError("it is not known where rank 0 runs", where="MASTER_ADDR",
                     hint="start with torchrun or srun, or set MASTER_ADDR")


def _port(env: Mapping[str, str]) -> int:
    """Where rank 0 listens: given, or made of job and step, below the ports that the system gives away."""
    if env.get("MASTER_PORT"):
        return _number(env, "MASTER_PORT")
    if not env.get("SLURM_JOB_ID"):
        raise SetupError("it is not known which port rank 0 listens on", where="MASTER_PORT",
                         hint="start with torchrun or srun, or set MASTER_PORT")
    step = env.get("SLURM_STEP_ID", "0")
    return 10_000 + (_number(env, "SLURM_JOB_ID") * 31 + (int(step) if step.isdigit() else 0)) % 20_000


def device_of(device: str, place: Place) -> torch.device:
    """The device of a process: ``cuda`` becomes ``cuda:LOCAL_RANK``, or the only one that this process sees.

    Raises:
        UsageError: one GPU was asked for by number, for several processes.
        SetupError: this process has no GPU of its own.
    """
    if place.size == 1 or device == "cpu":
        return torch.device(device)
    if device != "cuda":
        raise UsageError(f"{place.size} processes cannot share {device}", where="--device", hint="give cuda, or cpu")
    count = torch.cuda.device_count()
    index = 0 if count == 1 else place.local_rank  # srun may show each task its own GPU only
    if index >= count:
        raise SetupError(f"process {place.local_rank} of this node has no GPU of its own: {count} can be used",
                         where="--device", hint="start as many processes per node as there are GPUs")
    return torch.device("cuda", index)


# The process group --------------------------------------------------------------------------------------------------


@contextmanager
def process_group(device: str = "cpu", environment: Mapping[str, str] | None = None) -> Iterator[World]:
    """Join the other processes of this job for the length of the block; :func:`world` is theirs within it.

    A world of one starts nothing. When the block fails on one rank, the others are told why and end too.

    Args:
        device: ``cpu``, or ``cuda``, which becomes ``cuda:LOCAL_RANK``.

    Raises:
        SetupError: the other processes did not come.
        TrainingError: another rank failed (:class:`Interrupted`: was stopped).
    """
    global _current
    place = find_place(environment)
    if place.size == 1:
        yield World(device=device_of(device, place))
        return
    mine = device_of(device, place)
    store = _rendezvous(place)
    joined = World(place.rank, place.size, place.local_rank, mine, *_start(place, mine, store))
    watch = Watch(store, place)
    _current = joined
    try:
        yield joined
        joined.barrier()  # rank 0 holds the store: nobody needs it after this
    except BaseException as error:
        first = watch.announce(error)
        if first is not None and isinstance(error, _Lost):
            raise first from error
        raise
    finally:
        _current = ALONE
        watch.end()
    dist.destroy_process_group()


def _rendezvous(place: Place) -> Any:
    """The store that all ranks share; torchrun's own, where it has started us."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place.host, place.port, None if agent else place.size, is_master=place.rank == 0 and not agent,
            timeout=START)
    except (RuntimeError, OSError) as error:
        raise SetupError(f"rank {place.rank} did not meet the other {place.size - 1} processes: {error}",
                         where=f"{place.host}:{place.port}",
                         hint="set MASTER_ADDR to the first node's address, or MASTER_PORT to a free port") from error
    # A restart by torchrun meets the same store again.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]


def _start(place: Place, device: torch.device, store: Any) -> tuple[Any, Any]:
    """Start the default group, for gradients; returns those for agreements and for waits.

    Each has its own timeout: a step is short, a wait is not.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=place.rank, world_size=place.size,
                                timeout=STEP)
        return (dist.new_group(backend="gloo", timeout=STEP) if cuda else dist.group.WORLD,
                dist.new_group(backend="gloo", timeout=WAIT))
    except RuntimeError as error:
        raise SetupError(f"rank {place.rank} cannot reach the other processes: {error}", where=socket.gethostname(),
                         hint="set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the network that joins the nodes"
                         ) from error


class Watch:
    """A thread that looks whether another rank has failed, and ends this process if it cannot end by itself.

    A rank blocked in a collective would wait for a dead one until the collective's timeout.
    """

    def __init__(self, store: Any, place: Place) -> None:
        self.store, self.place = store, place
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="other-ranks", daemon=True)
        self._thread.start()

    def announce(self, error: BaseException) -> BenchError | None:
        """Tell the others that this rank fails, unless another one was first; returns that one's failure."""
        text = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, BenchError) else 1
        entry = json.dumps({"rank": self.place.rank, "host": socket.gethostname(), "message": text, "code": code})
        try:
            with self._lock:
                first = json.loads(self.store.compare_set(_FAILED, "", entry))
        except (RuntimeError, ValueError):
            return None  # rank 0 is gone, and the store with it
        if first["rank"] != self.place.rank:
            with suppress(RuntimeError):
                self.store.add(_SEEN, 1)
            return _failure(first)
        deadline = time.monotonic() + SEEN_SECONDS
        with suppress(RuntimeError):  # rank 0's store dies with it: let the others read first
            while time.monotonic() < deadline and self._count() < self.place.size - 1:
                time.sleep(0.05)
        return None

    def _count(self) -> int:
        with self._lock:
            return int(self.store.add(_SEEN, 0))

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            failure = self._look()
            if failure is not None:
                if not self._ended.wait(GRACE_SECONDS):
                    print(f"error: {failure}", file=sys.stderr, flush=True)
                    os._exit(failure.exit_code)
                return

    def _look(self) -> BenchError | None:
        try:
            with self._lock:
                if not self.store.check([_FAILED]):
                    return None
                first = json.loads(self.store.get(_FAILED))
                if first["rank"] == self.place.rank:  # our own: we are on our way out
                    return None
                self.store.add(_SEEN, 1)
        except RuntimeError as error:
            return TrainingError(f"rank {self.place.rank} lost rank 0: {str(error).splitlines()[0]}")
        return _failure(first)


def _failure(first: Mapping[str, Any]) -> BenchError:
    """Another rank's failure as this rank's error, with its exit code."""
    where = f"rank {first['rank']} on {first['host']}"
    if first["code"] == Interrupted.exit_code:
        return Interrupted(f"{where} was stopped: {first['message']}")
    error = TrainingError(f"{where} failed: {first['message']}")
    error.exit_code = int(first["code"]) or 1
    return error
