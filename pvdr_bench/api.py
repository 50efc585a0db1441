"""The Python API: load a run, act with its policy, read all results as a frame.

    >>> from pvdr_bench.api import load_run, results_frame
    >>> run = load_run("results/pvdr/reach/metaworld/cpu/seed-0")
    >>> policy = run.policy()
    >>> actions = policy(images)             # uint8 [N, H, W, 3] -> float32 [N, A] in [-1, 1]
    >>> frame = results_frame("results")     # a row per run and evaluation point

Shapes: N environments, T decisions, H = W image size, A action dimensions, l frames of a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.names import find_run
from pvdr_bench.runs.standing import State

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from pvdr_bench.catalog.specs import RunSpec
    from pvdr_bench.rl.contract import Learner
    from pvdr_bench.suites.base import VectorStep
    from pvdr_bench.training.evaluation import VectorEnvLike
    from pvdr_bench.training.reward import GoalReward

Images = NDArray[np.uint8]


def results_frame(root: Path | str = "results") -> pd.DataFrame:
    """All results below ``root``: a row per run and evaluation point, columns as in ``results.collect.COLUMNS``.

    Raises:
        UsageError: there is no such folder.
    """
    from pvdr_bench.results.collect import collect

    return collect(root).points


def load_run(path: Path | str, results: Path | str | None = None) -> Run:
    """Open a run directory for reading; nothing heavy is imported and nothing is written.

    Args:
        path: the folder, or any name that :func:`pvdr_bench.runs.names.find_run` takes.
        results: the folder that names are below; else ``PVDR_BENCH_RESULTS``, else ``./results``.

    Raises:
        UsageError: there is no such run.
        DataError: its ``run.yaml`` is broken, or of a schema that this version cannot read.
    """
    from pvdr_bench.catalog.specs import written_spec

    run_dir = RunDir(find_run(path, results))
    found = run_dir.read_run()
    assert found is not None
    return Run(run_dir, written_spec(found["spec"], str(run_dir.path / "run.yaml")))


@dataclass(frozen=True)
class Episode:
    """One evaluation episode, as seen by the policy.

    Attributes:
        images: [T + 1, H, W, 3], the first observation and the one after each decision.
        plans: [T, l, H, W, 3] the plan that each decision followed, or None for methods without plans.
        actions: [T, A], as given to the simulator.
        rewards: [T] under the protocol.
        success: [T] whether the simulator reported success in this decision.
        goal_image: [H, W, 3], or None in a protocol without one.
        extras: what the learner told with each decision, each [1, ...], where it was asked for.
    """

    seed: int
    images: Images
    plans: Images | None
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    success: NDArray[np.bool_]
    goal_image: Images | None
    extras: tuple[dict[str, torch.Tensor], ...] = ()


class Policy:
    """A run's policy acting on images. It remembers what it saw; call :meth:`reset` where episodes start anew.

    Actions are sampled, from a generator of its own.
    """

    def __init__(self, learner: Learner, seed: int = 0, image_size: int | None = None) -> None:
        """``image_size``: height and width that the learner was trained on, in pixels; None: not checked."""
        import torch

        self.learner, self.image_size = learner, image_size
        self.extras: dict[str, torch.Tensor] = {}  # what the last decision came with, e.g. the plan
        self._generator = torch.Generator().manual_seed(seed)
        self._carry: dict[str, Any] | None = None
        self._n = 0

    def reset(self) -> None:
        """Forget what was seen: the next images start episodes."""
        self._carry, self._n = None, 0

    def __call__(self, images: Images, is_first: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Actions float32 [N, A] in [-1, 1] for images uint8 [N, H, W, 3].

        Args:
            is_first: bool [N], which images start an episode; by default all of them after :meth:`reset`, none later.

        Raises:
            UsageError: the images have another shape or type, or their number changed without a reset.
        """
        import torch

        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UsageError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
        if self.image_size is not None and images.shape[1:3] != (self.image_size, self.image_size):
            raise UsageError(f"the run was trained on images of {self.image_size} x {self.image_size} pixels, and "
                             f"these have {images.shape[1]} x {images.shape[2]}", hint="resize them first")
        carry, fresh = self._carry, self._carry is None
        if not fresh and len(images) != self._n:
            raise UsageError(f"{len(images)} images after {self._n} in the decision before", hint="call reset() first")
        if carry is None:
            self._n, carry = len(images), self.learner.initial(len(images))
        first = np.full(self._n, fresh) if is_first is None else np.asarray(is_first, dtype=np.bool_)
        with torch.no_grad():
            seen = torch.from_numpy(np.array(images)), torch.from_numpy(first.copy())
            action, self._carry, self.extras = self.learner.act(*seen, carry, "eval", self._generator)
        return action.detach().cpu().float().clamp(-1.0, 1.0).numpy()


class Decision(NamedTuple):
    """One decision of an episode."""

    image: Images  # uint8 [H, W, 3], that was acted on
    action: NDArray[np.float32]  # [A] in [-1, 1]
    extras: dict[str, torch.Tensor]  # what the learner tells with it, e.g. the plan, each [1, ...]
    step: VectorStep  # what came of it; its images are overwritten by the next decision


@dataclass(frozen=True)
class Session:
    """A run's learner with one environment of its task; made by :meth:`Run.open`."""

    spec: RunSpec
    learner: Learner
    envs: VectorEnvLike
    reward: GoalReward
    goal_image: Images | None
    needs_expert: bool
    env_steps: int  # of the checkpoint
    start: Callable[[], Learner] | None = None  # makes the learner as it was before the run's first decision

    def play(self, episode: int = 0, *, keep_extras: bool = False) -> Episode:
        """Play evaluation episode number ``episode`` to its full length, acting as its evaluation does.

        The environment's seed is that of the evaluation; the action noise is this call's own, fixed by ``episode``.
        """
        import torch

        from pvdr_bench.training.evaluation import stable_seed

        seed = self.spec.protocol.eval_seed_base + episode
        generator = torch.Generator().manual_seed(stable_seed("play", seed, self.spec.seed, self.env_steps))
        self.reward.begin(1)
        images, plans, actions, rewards, success, told = [], [], [], [], [], []
        for image, action, extras, step in self.decisions(episode, generator):
            images.append(image)
            if "plan_image" in extras:
                plans.append(extras["plan_image"][0].detach().cpu().numpy().astype(np.uint8))
            actions.append(action)
            told += [extras] if keep_extras else []
            rewards.append(float(self.reward.reward(step)[0][0]))
            success.append(bool(step.success[0]))
            last = np.array(step.final_image[0])
        return Episode(seed, np.stack([*images, last]), np.stack(plans) if plans else None, np.stack(actions),
                       np.array(rewards, dtype=np.float32), np.array(success), self.goal_image, tuple(told))

    def decisions(self, episode: int, generator: torch.Generator) -> Iterator[Decision]:
        """The decisions of an evaluation episode, one by one as they are made.

        Raises:
            TrainingError: an action is not finite.
        """
        import torch

        from pvdr_bench.training.evaluation import choose, images_to_tensor

        image = images_to_tensor(self.envs.reset([self.spec.protocol.eval_seed_base + episode]))
        is_first, carry, ended = torch.ones(1, dtype=torch.bool), self.learner.initial(1), False
        while not ended:
            with torch.no_grad():
                action, carry, extras = choose(self.learner, image, is_first, carry, "eval", generator, self.envs,
                                               self.needs_expert)
            acted = action.clamp(-1.0, 1.0).numpy()
            step = self.envs.step(acted)
            yield Decision(image[0].numpy(), acted[0].copy(), extras, step)
            ended = bool(step.terminated[0] or step.truncated[0])
            image, is_first = images_to_tensor(step.image), torch.zeros(1, dtype=torch.bool)


class Run:
    """A run directory and what can be done with it."""

    def __init__(self, run_dir: RunDir, spec: RunSpec) -> None:
        self.dir, self.spec = run_dir, spec

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.dir.path

    @property
    def status(self) -> State:
        """new, running, stopped, failed, done or broken (not what was finished)."""
        return self.dir.status()

    def train(self) -> pd.DataFrame:
        """Metrics of training, a row per log line."""
        import pandas as pd

        return pd.DataFrame(self.dir.read_train())

    def episodes(self) -> pd.DataFrame:
        """Evaluation episodes, a row each."""
        import pandas as pd

        return pd.DataFrame(self.dir.read_episodes())

    @contextmanager
    def open(self, device: str = "cpu") -> Iterator[Session]:
        """The learner of the newest whole checkpoint with one environment that plays to the full length.

        Raises:
            UsageError: there is no checkpoint.
            DataError: all checkpoints are broken.
            SetupError: an artefact the run stands on is not on this machine.
            ChangedError: an artefact the run stands on was made anew since.
        """
        from pvdr_bench.runs.users import ARTEFACTS
        from pvdr_bench.training.again import pieces_here
        from pvdr_bench.training.execute import check_artefacts
        from pvdr_bench.training.online import learner_context, task_facts
        from pvdr_bench.training.policies import load_for_play
        from pvdr_bench.training.reward import GoalReward
        from pvdr_bench.training.stages import Stages

        found = self.dir.newest()
        pieces, references = pieces_here(self.dir, Stages(self.spec, device=device))
        if (self.path / ARTEFACTS).exists():
            check_artefacts(self.dir, references)
        envs = pieces.make_envs(dataclasses.replace(self.spec.env_config(), terminate_on_success=False), 1)
        try:
            first = envs.reset([self.spec.protocol.eval_seed_base])
            task = task_facts(self.spec, envs, first)
            def start() -> Learner:
                return pieces.make_learner(learner_context(self.spec, pieces, task))

            learner = start()
            load_for_play(learner, found)
            reward = GoalReward(self.spec.protocol, task.goal, pieces.tokenizer, pieces.device)
            goal = None if task.goal is None else task.goal.image
            yield Session(self.spec, learner, envs, reward, goal, pieces.needs_expert, found.step, start)
        finally:
            envs.close()

    def policy(self, device: str = "cpu", seed: int = 0) -> Policy:
        """The policy of the newest checkpoint. An environment is opened for a moment, for the goal image.

        Args:
            seed: of the actions' sampling.

        Raises:
            UsageError: there is no checkpoint, or the policy does not act on images (the scripted expert).
        """
        with self.open(device) as session:
            if session.needs_expert:
                raise UsageError(f"{self.spec.algorithm} acts on the simulator's state, not on images",
                                 where=str(self.path))
            return Policy(session.learner, seed, self.spec.protocol.image_size)
