"""Worker processes of environments: how they are started, talked to, and how one that died is told of.

A worker is a fresh interpreter (``python -m pvdr_bench.suites.worker``), never a fork of ours. It talks over a socket
pair, and nothing of it has a name that could outlive the processes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pvdr_bench
from pvdr_bench import errors
from pvdr_bench.errors import SimulatorError, TrainingError

# The parent decides when to stop, also where a terminal or a cluster signals the whole process group.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "LP_NUM_THREADS",
)


@dataclass
class Worker:
    """One process with some of the environments."""

    index: int
    process: subprocess.Popen[bytes]
    connection: Connection
    part: slice  # which of the N environments

    def send(self, message: tuple[Any, ...]) -> None:
        """Ask it for something.

        Raises:
            SimulatorError: it is dead.
        """
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionError, OSError) as error:
            raise self.death() from error

    def ask(self, message: tuple[Any, ...], timeout: float) -> Any:
        """Send, and :meth:`receive`."""
        self.send(message)
        return self.receive(timeout)

    def receive(self, timeout: float) -> Any:
        """The worker's answer.

        Raises:
            SimulatorError: it died, or did not answer in time.
            TrainingError: an unexpected error happened inside.
            BenchError: an expected error happened inside.
        """
        try:
            if not self.connection.poll(timeout):
                raise SimulatorError(
                    f"environment worker {self.index} (process {self.process.pid}) gave no answer in {timeout:.0f} s",
                    hint="it hangs in the simulator; the same command continues from the last checkpoint",
                )
            status, answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self.death() from error
        if status == "error":
            raise _rebuild_error(self.index, *answer)
        return answer

    def death(self) -> SimulatorError:
        """The error that says how the worker ended."""
        try:
            code: int | None = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        how = "closed its connection" if code is None else f"died with exit code {code}"
        if code is not None and code < 0:
            how += f" ({_signal_name(-code)})"
        hint = "the same command continues from the last checkpoint"
        if code == -signal.SIGKILL:
            hint = f"often the machine ran out of memory: use fewer environments or jobs; {hint}"
        return SimulatorError(f"environment worker {self.index} (process {self.process.pid}) {how}", hint=hint)

    def kill(self) -> None:
        """End it now, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _rebuild_error(index: int, kind: str, message: str, where: str | None, hint: str | None) -> errors.BenchError:
    cls = getattr(errors, kind, None)
    if isinstance(cls, type) and issubclass(cls, errors.BenchError):
        return cls(message, where=where, hint=hint)
    return TrainingError(f"environment worker {index}: {kind}: {message}", hint=hint)


def spawn(index: int, part: slice, memory: int, extra: Mapping[str, str]) -> Worker:
    """Start a worker.

    Args:
        part: which of the N environments are its. memory: descriptor of the file that frames lie in.
        extra: variables that its suite wants it to be started with.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        os.set_inheritable(memory, True)
        environment = {**os.environ, **extra, **dict.fromkeys(_THREAD_VARIABLES, "1")}
        root = str(Path(pvdr_bench.__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        # The kernel ends a worker with the *thread* that started it, so only the main thread may ask for that.
        tied = threading.current_thread() is threading.main_thread()
        command = [sys.executable, "-m", "pvdr_bench.suites.worker", str(theirs.fileno()), str(memory), str(int(tied))]
        # A cluster signals the whole tree. What comes before the worker ignores it would kill it while python starts:
        # blocked signals stay blocked across exec.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(), memory), env=environment,
                                       stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Worker(index, process, Connection(ours.detach()), part)


def memory_file(size: int) -> int:
    """Descriptor of an unnamed file of ``size`` bytes, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pvdr-bench-frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
