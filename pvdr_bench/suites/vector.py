"""N environments stepped together, in worker processes whose frames come through shared memory.

A worker is a fresh interpreter: a simulator and its OpenGL context are made inside it and never cross a fork. Frames
lie in an anonymous memory file. When the parent dies, its end of the socket closes and the workers leave.

Shapes: N environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import SimulatorError, TrainingError, UsageError
from pvdr_bench.suites.base import EnvConfig, EnvStep, Image, VectorStep
from pvdr_bench.suites.group import EnvGroup, next_seed
from pvdr_bench.suites.processes import Worker, memory_file, spawn
from pvdr_bench.suites.registry import suite
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace

START_TIMEOUT = 300.0  # seconds for a worker to import the simulator and build its environments
_REVIVED = 2**20  # first number of an episode after a restart, where its seed is drawn from; larger than any other's
STEP_TIMEOUT = 300.0  # seconds for a worker's answer to anything else


class VectorEnv:
    """N environments of one config. Close it, or use it as a context manager.

    Args:
        config: what each environment is.
        num_envs: N.
        workers: processes to spread them over; 0 steps them in this process. More are started where the suite allows
            fewer environments in a process than that would make.

    Raises:
        UsageError, SetupError: an environment cannot be built; said by the worker, raised here.
    """

    action_space: BoxSpace

    def __init__(self, config: EnvConfig, num_envs: int, workers: int = 1) -> None:
        if num_envs < 1 or workers < 0:
            raise UsageError(f"num_envs {num_envs} must be at least 1 and workers {workers} at least 0")
        self.config, self.num_envs = config, num_envs
        shape = (2, num_envs, config.image_size, config.image_size, 3)
        self._workers: list[Worker] = []
        self._group: EnvGroup | None = None
        self._descriptor: int | None = None
        self._playing, self._seeds = num_envs, [0] * num_envs  # of the last reset
        self.incidents: list[dict[str, Any]] = []  # simulators that died and were started again
        self._closed = False
        self._info = suite(config.suite)
        workers = max(workers, workers_needed(num_envs, self._info.envs_per_process))
        if workers == 0:
            self._frames: Image = np.zeros(shape, np.uint8)
            self._group = EnvGroup(config, num_envs, self._frames)
            self.action_space = self._group.action_space
            return
        self._descriptor = memory_file(int(np.prod(shape)))
        try:
            self._memory = mmap.mmap(self._descriptor, int(np.prod(shape)))
            self._frames = np.frombuffer(self._memory, np.uint8).reshape(shape)
            self._start(min(workers, num_envs))
        except BaseException:
            self.close()
            raise

    def _start(self, count: int) -> None:
        bounds, extra = np.linspace(0, self.num_envs, count + 1).round().astype(int), self._info.worker_environment()
        assert self._descriptor is not None
        for index in range(count):
            part = slice(int(bounds[index]), int(bounds[index + 1]))
            self._workers.append(spawn(index, part, self._descriptor, extra))
        opened = self._exchange([self._opening(worker) for worker in self._workers], START_TIMEOUT, self._revive)
        self.action_space = opened[0]

    def _opening(self, worker: Worker) -> tuple[Any, ...]:
        """The first message to a worker; its answer is the action space."""
        return "open", self.config, self.num_envs, worker.part

    @property
    def action_dim(self) -> int:
        """Number of action dimensions A."""
        return self.action_space.dim

    @property
    def observation_space(self) -> ImageSpace:
        """What an image [H, W, 3] of one environment is."""
        return ImageSpace(self.config.image_size, self.config.image_size)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def reset(self, seeds: Sequence[int]) -> Image:
        """Start an episode in every environment; first images [N, H, W, 3]. Frozen instances ignore the seeds.

        With n < N seeds the first n environments play, and all else is of these alone; the others rest until a reset
        that has seeds for them.
        """
        self._check_open()
        if not 1 <= len(seeds) <= self.num_envs:
            raise UsageError(f"{len(seeds)} seeds for {self.num_envs} environments")
        self._playing, self._seeds = len(seeds), list(seeds)
        if self._group is not None:
            self._group.reset(seeds)
        else:
            self._ask([("reset", list(seeds[worker.part])) for worker in self._busy], again=True)
        image: Image = self._frames[0, :self._playing].copy()
        return image

    @property
    def _busy(self) -> list[Worker]:
        """The workers with an environment that plays."""
        return [worker for worker in self._workers if worker.part.start < self._playing]

    def step(self, actions: NDArray[np.float32]) -> VectorStep:
        """One decision with actions [N, A] in [-1, 1]; environments whose episode ended start the next one."""
        self._check_open()
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self._playing, self.action_dim):
            raise UsageError(f"actions have shape {actions.shape}, not {(self._playing, self.action_dim)}")
        if not np.isfinite(actions).all():
            raise TrainingError("an action is not finite", hint="lower the learning rates")
        if self._group is not None:
            steps = self._group.step(actions)
            shares = [steps]
        else:
            before = self._frames[0].copy() if self._info.restarts else self._frames[0]
            busy = self._busy
            answers = self._ask([("step", actions[worker.part]) for worker in busy])
            shares = [self._begin_again(worker.part, before) if answer is None else answer
                      for worker, answer in zip(busy, answers, strict=True)]
            steps = [step for share in shares for step in share]
        return VectorStep(
            image=self._frames[0, :self._playing].copy(),
            final_image=self._frames[1, :self._playing].copy(),
            dense_reward=np.array([step.dense_reward for step in steps], np.float32),
            success=np.array([step.success for step in steps], np.bool_),
            terminated=np.array([step.terminated for step in steps], np.bool_),
            truncated=np.array([step.truncated for step in steps], np.bool_),
            env_steps=np.array([step.env_steps for step in steps], np.int64),
            truth={key: np.array([step.truth[key] for step in steps], np.float32) for key in steps[0].truth},
            seconds=busiest(shares),
        )

    def goal_image(self) -> Image:
        """Goal image [H, W, 3] of the frozen instance, or of the first environment's instance."""
        self._check_open()
        if self._group is not None:
            return self._group.goal_image()
        image: Image = self._ask([("goal_image",)], again=True)[0]
        return image

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's actions [N, A] in the current states."""
        self._check_open()
        if self._group is not None:
            return self._group.expert_action()
        return np.concatenate(self._ask([("expert_action",)] * len(self._busy), again=True))

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
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _ask(self, messages: Sequence[tuple[Any, ...]], again: bool = False) -> list[Any]:
        """Answers of the first workers, as many as messages, which work at the same time.

        A worker whose simulator died is started again, as often as its suite allows; it is asked ``again`` then, or its
        answer is None.

        Raises:
            SimulatorError: a simulator died once too often.
        """
        def revive(index: int, error: SimulatorError) -> Any:
            return self._revive(index, error, reset=True, message=messages[index] if again else None)

        return self._exchange(messages, STEP_TIMEOUT, revive)

    def _exchange(self, messages: Sequence[tuple[Any, ...]], timeout: float,
                  revive: Callable[[int, SimulatorError], Any]) -> list[Any]:
        """Answers of the first workers within ``timeout`` seconds; of one that died what ``revive`` makes of it."""
        dead: dict[int, SimulatorError] = {}
        for worker, message in zip(self._workers, messages, strict=False):
            try:
                worker.send(message)
            except SimulatorError as error:
                dead[worker.index] = error
        answers: list[Any] = []
        for index in range(len(messages)):
            try:
                if index in dead:
                    raise dead[index]
                answers.append(self._workers[index].receive(timeout))
            except SimulatorError as error:
                answers.append(revive(index, error))
        return answers

    def _revive(self, index: int, error: SimulatorError, reset: bool = False,
                message: tuple[Any, ...] | None = None) -> Any:
        """Start a dead worker again.

        Args:
            reset: begin episodes in it, drawn by seeds of this restart. message: what it is asked then.

        Returns:
            Its answer to ``message``; without one None after a reset, else its action space.

        Raises:
            SimulatorError: the suite allows no further start, or it dies again and again.
        """
        while True:
            worker = self._workers[index]
            if len(self.incidents) >= self._info.restarts:
                raise error
            self.incidents.append({"worker": index, "pid": worker.process.pid, "error": error.message})
            worker.kill()
            assert self._descriptor is not None
            fresh = self._workers[index] = spawn(
                index, worker.part, self._descriptor, self._info.worker_environment())
            try:
                answer = fresh.ask(self._opening(fresh), START_TIMEOUT)
                if reset:
                    number = _REVIVED + len(self.incidents)
                    fresh.ask(("reset", [next_seed(seed, number) for seed in self._seeds[fresh.part]]), STEP_TIMEOUT)
                    answer = None
                return answer if message is None else fresh.ask(message, STEP_TIMEOUT)
            except SimulatorError as newer:
                error = newer

    def _begin_again(self, part: slice, before: Image) -> list[EnvStep]:
        """What a decision led to in environments whose simulator died in it: their episodes end without a success.

        What was seen last is their last picture; the next episode has begun.
        """
        busy = range(*part.indices(self._playing))
        self._frames[1, busy.start:busy.stop] = before[busy.start:busy.stop]
        return [EnvStep(np.empty(0, np.uint8), 0.0, success=False, terminated=False, truncated=True,
                        env_steps=self.config.action_repeat, truth=dict.fromkeys(self._info.truth, float("nan")))
                for _ in busy]

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this VectorEnv is closed")

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def busiest(shares: Sequence[Sequence[EnvStep]]) -> dict[str, float]:
    """Seconds by kind of the process that worked longest; the others worked beside it, and it is waited for."""
    sums: list[dict[str, float]] = []
    for share in shares:
        told = [step.seconds for step in share]
        sums.append({kind: sum(seconds.get(kind, 0.0) for seconds in told) for kind in told[0]})
    return max(sums, key=lambda seconds: sum(seconds.values()))


def workers_needed(num_envs: int, envs_per_process: int | None) -> int:
    """Fewest worker processes that keep to a suite's limit; 0 where all may live in this process.

    A suite with a limit of its own gets processes of its own even for one environment: what may exist only once in a
    process must not be in the way of the next one (training and evaluation, one run after the other).
    """
    return 0 if envs_per_process is None else math.ceil(num_envs / envs_per_process)
