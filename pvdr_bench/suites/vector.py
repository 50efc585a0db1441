"""N environments stepped together, in worker processes whose frames come through shared memory.

A worker is a fresh interpreter (``python -m pvdr_bench.suites.worker``): a simulator and its OpenGL context are made
inside it and never cross a fork. It talks over a socket pair, and frames lie in an anonymous memory file, so nothing
has a name that could outlive the processes. When the parent dies, its end of the socket closes and the workers leave.

Shapes: N environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pvdr_bench
from pvdr_bench import errors
from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import Env, EnvConfig, EnvStep, Image, VectorStep

START_TIMEOUT = 300.0  # seconds for a worker to import the simulator and build its environments
STEP_TIMEOUT = 300.0  # seconds for a worker's answer to anything else
# The parent decides when to stop, also where a terminal or a cluster signals the whole process group.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "LP_NUM_THREADS",
)


class EnvGroup:
    """Some environments stepped in turn, with automatic reset: the work of one worker, or of none.

    ``frames`` [2, n, H, W, 3] is where images to act on (first half) and final images (second half) are written.
    """

    def __init__(self, config: EnvConfig, n: int, frames: Image) -> None:
        self.envs: list[Env] = [make_env(config) for _ in range(n)]
        self.image, self.final = frames
        self._seeds, self._episodes = [0] * n, [0] * n

    @property
    def action_dim(self) -> int:
        """Number of action dimensions A."""
        return self.envs[0].action_dim

    def reset(self, seeds: Sequence[int]) -> None:
        """Start an episode in every environment; first images in ``image``."""
        self._seeds, self._episodes = list(seeds), [0] * len(self.envs)
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self.image[i] = env.reset(seed)

    def step(self, actions: NDArray[np.float32]) -> list[EnvStep]:
        """One decision in each; images in ``image`` and ``final``, and none in the returned steps."""
        steps = []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            step = env.step(action)
            self.final[i] = step.image
            if step.terminated or step.truncated:
                self._episodes[i] += 1
                self.image[i] = env.reset(next_seed(self._seeds[i], self._episodes[i]))
            else:
                self.image[i] = step.image
            step.image = np.empty(0, np.uint8)
            steps.append(step)
        return steps

    def goal_image(self) -> Image:
        """Goal image [H, W, 3] of the first environment's instance."""
        return self.envs[0].goal_image()

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's actions [n, A] in the current states."""
        return np.stack([env.expert_action() for env in self.envs]).astype(np.float32)

    def close(self) -> None:
        """Free the simulators."""
        for env in self.envs:
            env.close()


def next_seed(seed: int, episode: int) -> int:
    """Seed of the ``episode``-th automatic reset after a reset with ``seed``; equal to no seed below 2**32."""
    return seed + (episode << 32)


@dataclass
class _Worker:
    index: int
    process: subprocess.Popen[bytes]
    connection: Connection
    part: slice  # which of the N environments

    def send(self, message: tuple[Any, ...]) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionError, OSError) as error:
            raise self.death() from error

    def receive(self, timeout: float) -> Any:
        """The worker's answer.

        Raises:
            TrainingError: it died, did not answer in time, or an unexpected error happened inside.
            BenchError: an expected error happened inside.
        """
        try:
            if not self.connection.poll(timeout):
                raise TrainingError(
                    f"environment worker {self.index} (process {self.process.pid}) gave no answer in {timeout:.0f} s",
                    hint="it hangs in the simulator; the same command continues from the last checkpoint",
                )
            status, answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self.death() from error
        if status == "error":
            raise _rebuild_error(self.index, *answer)
        return answer

    def death(self) -> TrainingError:
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
        return TrainingError(f"environment worker {self.index} (process {self.process.pid}) {how}", hint=hint)


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


class VectorEnv:
    """N environments of one config. Close it, or use it as a context manager.

    Args:
        config: what each environment is.
        num_envs: N.
        workers: processes to spread them over; 0 steps them in this process.

    Raises:
        UsageError, SetupError: an environment cannot be built; said by the worker, raised here.
    """

    action_dim: int

    def __init__(self, config: EnvConfig, num_envs: int, workers: int = 1) -> None:
        if num_envs < 1 or workers < 0:
            raise UsageError(f"num_envs {num_envs} must be at least 1 and workers {workers} at least 0")
        self.config, self.num_envs = config, num_envs
        shape = (2, num_envs, config.image_size, config.image_size, 3)
        self._workers: list[_Worker] = []
        self._group: EnvGroup | None = None
        self._closed = False
        if workers == 0:
            self._frames: Image = np.zeros(shape, np.uint8)
            self._group = EnvGroup(config, num_envs, self._frames)
            self.action_dim = self._group.action_dim
            return
        descriptor = _memory_file(int(np.prod(shape)))
        try:
            self._memory = mmap.mmap(descriptor, int(np.prod(shape)))
            self._frames = np.frombuffer(self._memory, np.uint8).reshape(shape)
            self._start(min(workers, num_envs), descriptor)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def _start(self, count: int, descriptor: int) -> None:
        bounds = np.linspace(0, self.num_envs, count + 1).round().astype(int)
        for index in range(count):
            part = slice(int(bounds[index]), int(bounds[index + 1]))
            self._workers.append(_spawn(index, part, descriptor))
        for worker in self._workers:
            worker.send(("open", self.config, self.num_envs, worker.part))
        self.action_dim = [worker.receive(START_TIMEOUT) for worker in self._workers][0]

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def reset(self, seeds: Sequence[int]) -> Image:
        """Start an episode in every environment; first images [N, H, W, 3]. Frozen instances ignore the seeds."""
        self._check_open()
        if len(seeds) != self.num_envs:
            raise UsageError(f"{len(seeds)} seeds for {self.num_envs} environments")
        if self._group is not None:
            self._group.reset(seeds)
        else:
            self._ask([("reset", list(seeds[worker.part])) for worker in self._workers])
        image: Image = self._frames[0].copy()
        return image

    def step(self, actions: NDArray[np.float32]) -> VectorStep:
        """One decision with actions [N, A] in [-1, 1]; environments whose episode ended start the next one."""
        self._check_open()
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, self.action_dim):
            raise UsageError(f"actions have shape {actions.shape}, not {(self.num_envs, self.action_dim)}")
        if not np.isfinite(actions).all():
            raise TrainingError("an action is not finite", hint="lower the learning rates")
        if self._group is not None:
            steps = self._group.step(actions)
        else:
            answers = self._ask([("step", actions[worker.part]) for worker in self._workers])
            steps = [step for answer in answers for step in answer]
        return VectorStep(
            image=self._frames[0].copy(),
            final_image=self._frames[1].copy(),
            dense_reward=np.array([step.dense_reward for step in steps], np.float32),
            success=np.array([step.success for step in steps], np.bool_),
            terminated=np.array([step.terminated for step in steps], np.bool_),
            truncated=np.array([step.truncated for step in steps], np.bool_),
            env_steps=np.array([step.env_steps for step in steps], np.int64),
            truth={key: np.array([step.truth[key] for step in steps], np.float32) for key in steps[0].truth},
        )

    def goal_image(self) -> Image:
        """Goal image [H, W, 3] of the frozen instance, or of the first environment's instance."""
        self._check_open()
        if self._group is not None:
            return self._group.goal_image()
        self._workers[0].send(("goal_image",))
        image: Image = self._workers[0].receive(STEP_TIMEOUT)
        return image

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's actions [N, A] in the current states."""
        self._check_open()
        if self._group is not None:
            return self._group.expert_action()
        return np.concatenate(self._ask([("expert_action",)] * len(self._workers)))

    def close(self) -> None:
        """Stop the workers; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._group is not None:
            self._group.close()
        for worker in self._workers:
            with contextlib.suppress(OSError):  # one that is dead already cannot be told
                worker.connection.send(("close",))
            worker.connection.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _ask(self, messages: Sequence[tuple[Any, ...]]) -> list[Any]:
        for worker, message in zip(self._workers, messages, strict=True):
            worker.send(message)
        return [worker.receive(STEP_TIMEOUT) for worker in self._workers]

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this VectorEnv is closed")

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _memory_file(size: int) -> int:
    """Descriptor of an unnamed file of ``size`` bytes, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pvdr-bench-frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _spawn(index: int, part: slice, memory: int) -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        os.set_inheritable(memory, True)
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1")}
        root = str(Path(pvdr_bench.__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
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
    return _Worker(index, process, Connection(ours.detach()), part)
