"""Bringing a process group about: who the launcher says they are, how they meet, how they end together."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pvdr_bench.errors import BenchError, Interrupted, SetupError, TrainingError, UsageError
from pvdr_bench.rl.process_group import Lost, ProcessGroup, within

START = timedelta(minutes=30)  # until all processes of a job are there
STEP = timedelta(minutes=30)  # for a collective of a training step; rank 0 may validate or save meanwhile
WAIT = timedelta(hours=48)  # while rank 0 waits for a lock, makes a corpus or encodes tokens
POLL_SECONDS = 0.5  # between two looks for a failed rank
GRACE_SECONDS = 20.0  # for a process to unwind by itself once another rank has failed
SEEN_SECONDS = 5.0  # that a failed rank waits for the others to read why
_FAILED, _SEEN = "pvdr_bench/failed", "pvdr_bench/seen"

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

    A batch script without ``srun`` also knows of its job's tasks, but runs once: only a *step* makes a group.

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
def process_group(device: str = "cpu", environment: Mapping[str, str] | None = None) -> Iterator[ProcessGroup]:
    """Join the other processes of this job for the length of the block; ``current_group()`` is theirs within it.

    A group of one starts nothing. When the block fails on one rank, the others are told why and end too.

    Args:
        device: ``cpu``, or ``cuda``, which becomes ``cuda:LOCAL_RANK``.

    Raises:
        SetupError: the other processes did not come.
        TrainingError: another rank failed (:class:`Interrupted`: was stopped).
    """
    place = find_place(environment)
    if place.size == 1:
        yield ProcessGroup(device=device_of(device, place))
        return
    mine = device_of(device, place)
    store = _rendezvous(place)
    joined = ProcessGroup(place.rank, place.size, place.local_rank, mine, *_start(place, mine, store))
    watch = Watch(store, place)
    try:
        with within(joined):
            yield joined
            joined.barrier()  # rank 0 holds the store: nobody needs it after this
    except BaseException as error:
        first = watch.announce(error)
        if first is not None and isinstance(error, Lost):
            raise first from error
        raise
    finally:
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
