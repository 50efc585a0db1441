"""``bench closed-loop``: does an aligned action module take the hand where plans go, without reinforcement learning?

The robot plays with noise that is correlated in time; L_act (Eq. 5) alone learns from it, with the method's own parts
and keys; then the mean action that follows from the best of N plans is taken, episode by episode, and the simulator
tells where the hand went. Only what the learner itself may see is learned from.

Shapes: N environments, T decisions of an episode, E episodes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvdr_bench.algorithms.pvdr.alignment import Labels
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.planner import Planner, Plans
from pvdr_bench.algorithms.pvdr.probes import bootstrap_interval
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.diagnostics.positions import AXES
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.rollout import Rollout
from pvdr_bench.rl.truth import Diagnostics
from pvdr_bench.suites.registry import DEFAULT_CORPUS
from pvdr_bench.training.evaluation import VectorEnvLike, images_to_tensor, train_seeds
from pvdr_bench.training.online import Pieces, learner_context, task_facts

HELD_OUT = 0.2  # last share of the play, by time, that L_act never sees
NEAR = 0.15  # metres to the goal within which the direction is judged by itself
FIRST = 5  # decisions of "at the beginning", those that the simulator told a position before


@dataclass
class Track:
    """What the simulator told of E episodes."""

    cosine: NDArray[np.float64]  # [T - 1, E], action against direction to the goal, from the second decision on
    before: NDArray[np.float64]  # [T - 1, E], distance to the goal in metres at these decisions
    distance: NDArray[np.float64]  # [T, E], after each decision
    success: NDArray[np.bool_]  # [E], at any step


def measure(method: str = "pvdr", task: str = "reach", scale: str = "cpu", corpus: str = DEFAULT_CORPUS,
            labels: int = 4000, rounds: int = 1, passes: int = 15, correlation: float = 0.9, episodes: int = 100,
            candidates: tuple[int, ...] = (1, 16), at_goal: bool = False, keys: tuple[str, ...] = (), seed: int = 0,
            device: str = "cpu") -> dict[str, Any]:
    """Learn L_act on correlated play and follow plans with it.

    Args:
        method: whose model, planner and action module; artefacts that are not there are made first.
        labels: decisions of play for L_act, and a quarter more that is held out. Those at whose episode's end a plan's
        frames were not seen yet give no label; ``learned`` and ``held_out`` count those that do.
        rounds: buffers E1 in which they are played; with online.e1_play=policy those after the first follow what was
        learned. passes: over them.
        correlation: in time, of the play's noise.
        candidates: numbers of candidates that plans are chosen from. With online.pi_form=taught the action module has
            learned from plans of ``planner.candidates``, and is followed itself.
        at_goal: follow, as a control, plans whose last frame is the goal image itself too, of the first N: what is lost
            with it, no better plan can mend. For a guide that reads frames (online.guide_reads=plan).
        keys: further ``key=value`` of the method, such as planner.goal_frames=last; with online.eval_std plans are
            followed with that noise, and else with none.

    Returns:
        learned, held_out: labels of the last buffer. explained: 1 - L_act / L_act of the mean action, on those held
        out; explained_other_z: the same with another decision's z. By N: cosine of the followed action (x, y, z) to
        the direction from hand to goal, at the first decisions, over whole episodes and within 15 cm of the goal; cm
        to the goal at the nearest and at the end; success at any step. With 95 % bootstrap intervals over episodes
        (``cosine_near``: over the share ``near`` of them that come that near), and the differences to the first N.

    Raises:
        UsageError: a method without plans, a task that does not tell where hand and goal are, too little play, or
            ``at_goal`` of an action module that reads no frames of a plan.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.training.again import with_eval_std
    from pvdr_bench.training.stages import Stages

    if min(labels, rounds, episodes, *(candidates or (0,))) < 1:
        raise UsageError("bench closed-loop needs at least one label, round, episode and candidate")
    play = math.ceil(labels / rounds / (1 - HELD_OUT))
    own = (f"online.e1_first={play}", f"online.e1_decisions={play}", f"online.e1_correlation={correlation}",
           f"online.lact_e1_epochs={passes}", f"online.lact_replay={labels}")
    torch.set_num_threads(1)  # as runs have
    spec = load_catalog().resolve(method, task, seed, scale, videos=corpus, overrides=(*keys, *own))
    online = config_as(PVDRConfig, spec.config_object()).online  # what has no plans is refused before all else
    if at_goal and (online.pi_form, online.guide_reads) != ("guided", "plan"):
        raise UsageError("at_goal changes a plan's last frame, and this action module does not read it",
                         where="bench closed-loop", hint="-o 'keys=[online.pi_form=guided,online.guide_reads=plan]'")
    if online.eval_std is None:
        spec = with_eval_std(spec, 0.0)
    pieces, _ = Stages(spec, device=device).pieces()
    return {"method": spec.variant, "task": task, "corpus": spec.corpus, "scale": scale, "labels": labels, "seed": seed,
            "rounds": rounds, **closed_loop(spec, pieces, rounds, episodes, candidates, at_goal)}


def closed_loop(spec: RunSpec, pieces: Pieces, rounds: int, episodes: int, candidates: tuple[int, ...],
                at_goal: bool = False) -> dict[str, Any]:
    """The measurement with a run's pieces, whose learner acts as it does in evaluation; see :func:`measure`."""
    n = spec.protocol.num_envs
    envs = pieces.make_envs(dataclasses.replace(spec.env_config(), terminate_on_success=False), n)
    try:
        seeds = train_seeds(spec.protocol.train_seed_base, spec.seed, 0, n)
        task = task_facts(spec, envs, envs.reset(seeds))
        learner = pieces.make_learner(learner_context(spec, pieces, task))
        assert isinstance(learner, PVDRLearner)
        for number in range(rounds):
            play, held, rollout = collect(learner, envs,
                                          train_seeds(spec.protocol.train_seed_base, spec.seed, number, n))
            learner.aligner.learn(play)
            learner.taught(rollout)
        found = learner.aligner.on(held).metrics()
        out: dict[str, Any] = {"learned": len(play), "held_out": len(held),
                               "explained": 1 - found["l_act"] / found["l_act_constant"],
                               "explained_other_z": 1 - found["l_act_other_z"] / found["l_act_constant"]}
        tracks = {}
        for name, planner in planners(learner, candidates, at_goal).items():
            learner.planner = planner
            tracks[name] = follow(learner, envs, episodes, spec.protocol.eval_seed_base, spec.seed)
    finally:
        envs.close()
    first, *_ = tracks.values()
    return out | {name: summary(track, None if track is first else first) for name, track in tracks.items()}


class GoalPlanner(Planner):
    """Plans whose last frame is the goal itself."""

    def plan(self, context: torch.Tensor, generator: torch.Generator) -> Plans:
        """As :meth:`Planner.plan`, and then the chosen plan's last frame and all candidates' are the goal's codes."""
        plans = super().plan(context, generator)
        codes, ends = plans.codes.clone(), self.distance.goal_codes.to(plans.ends.dtype).expand_as(plans.ends)
        codes[:, -1] = self.distance.goal_codes
        return dataclasses.replace(plans, codes=codes, ends=ends)


def planners(learner: PVDRLearner, candidates: tuple[int, ...], at_goal: bool) -> dict[str, Planner]:
    """What is followed, by its name in the result."""
    def of(kind: type[Planner], count: int) -> Planner:
        return kind(learner.model, learner.config.planner.model_copy(update={"candidates": count}), learner.distance)

    found = {f"n_{count}": of(Planner, count) for count in candidates}
    return found | ({"at_goal": of(GoalPlanner, candidates[0])} if at_goal else {})


def collect(learner: PVDRLearner, envs: VectorEnvLike, seeds: list[int]) -> tuple[Labels, Labels, Rollout]:
    """Fill a buffer E1 with play; labels to learn from, those held out, and the buffer.

    Raises:
        UsageError: too few decisions for a label in each.
    """
    generator = torch.Generator().manual_seed(seeds[0])
    n, length = learner.num_envs, learner.phase_length()
    image, first, carry = images_to_tensor(envs.reset(seeds)), torch.ones(n, dtype=torch.bool), learner.initial(n)
    for _ in told(range(length), "decisions of play"):
        action, carry, extras = learner.act(image, first, carry, "train", generator)
        step = envs.step(action.cpu().clamp(-1, 1).numpy())
        ended = torch.from_numpy(step.terminated | step.truncated)
        learner.observe(Transition(
            image=image, is_first=first, action=action, reward=torch.zeros(n), extras=extras,
            terminated=torch.from_numpy(step.terminated.copy()), truncated=torch.from_numpy(step.truncated.copy()),
            next_image=images_to_tensor(step.final_image), diagnostics=Diagnostics(step.truth)))
        image, first = images_to_tensor(step.image), ended
    rollout = learner.buffer.rollout()
    learner.buffer.clear()
    future, valid = learner.futures(rollout)
    time, cut = torch.arange(length, device=valid.device)[:, None], round(length * (1 - HELD_OUT))
    ahead = learner.config.model.frame_stride * learner.config.model.future_frames
    learned, held = (learner.aligner.labels(rollout, future, valid & part)
                     for part in (time + ahead <= cut, time >= cut))
    if not (len(learned) and len(held)):
        raise UsageError(f"{length} decisions in each of {n} environments are too few: of the last "
                         f"{HELD_OUT:.0%}, or of those before, none sees all {ahead} decisions of a plan before its "
                         "episode ends",
                         where="bench closed-loop", hint="-o labels=4000, or fewer rounds")
    return learned, held, rollout


@torch.no_grad()
def follow(learner: PVDRLearner, envs: VectorEnvLike, episodes: int, seed_base: int, seed: int) -> Track:
    """Follow plans as in evaluation for whole episodes, in waves of all environments; no fewer than ``episodes``."""
    n, generator = learner.num_envs, torch.Generator().manual_seed(seed)
    waves = [wave(learner, envs, [seed_base + first + i for i in range(n)], generator)
             for first in told(range(0, episodes, n), "waves of episodes")]
    return Track(**{name: np.concatenate([getattr(one, name) for one in waves], -1)[..., :episodes]
                    for name in ("cosine", "before", "distance", "success")})


def wave(learner: PVDRLearner, envs: VectorEnvLike, seeds: list[int], generator: torch.Generator) -> Track:
    """One episode in every environment."""
    n = len(seeds)
    image, first, carry = images_to_tensor(envs.reset(seeds)), torch.ones(n, dtype=torch.bool), learner.initial(n)
    cosine, distance, success, over = [], [], np.zeros(n, np.bool_), False
    offset: NDArray[np.float64] | None = None  # [N, 3] from hand to goal; the simulator tells it after a decision
    while not over:
        action, carry, _ = learner.act(image, first, carry, "eval", generator)
        acted = action.cpu().clamp(-1, 1)
        if offset is not None:
            cosine.append(cosines(acted[:, :len(AXES)].double().numpy(), offset))
        step = envs.step(acted.numpy())
        offset = offsets(step.truth)
        distance.append(np.linalg.norm(offset, axis=1))
        success |= step.success
        over = bool((step.terminated | step.truncated).all())
        image, first = images_to_tensor(step.image), torch.from_numpy(step.terminated | step.truncated)
    far = np.stack(distance)
    return Track(np.stack(cosine), far[:-1], far, success)


def offsets(truth: dict[str, Any]) -> NDArray[np.float64]:
    """From hand to goal [N, 3] in metres.

    Raises:
        UsageError: the simulator does not tell.
    """
    if missing := [f"{what}_{axis}" for what in ("hand", "goal") for axis in AXES if f"{what}_{axis}" not in truth]:
        raise UsageError(f"this task does not tell {', '.join(missing)}, which this measurement needs")
    return np.stack([np.asarray(truth[f"goal_{axis}"], float) - truth[f"hand_{axis}"] for axis in AXES], 1)


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between rows [N, 3]; 0 where one is zero."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    out: NDArray[np.float64] = (a * b).sum(1) / np.where(norms > 0, norms, 1.0)
    return out


def summary(track: Track, first: Track | None) -> dict[str, Any]:
    """Means over episodes with their intervals, and differences to the first number of candidates."""
    mine, others = per_episode(track), per_episode(first) if first is not None else {}
    out: dict[str, Any] = {}
    for name, values in mine.items():
        out[name] = meant(values)
        if name in others:
            out[f"{name}_gain"] = meant(values - others[name])
    near = track.before < NEAR
    came = near.any(0)
    by_episode = np.where(near, track.cosine, 0.0).sum(0)[came] / near.sum(0)[came]
    return out | {"cosine_near": meant(by_episode) if came.any() else None, "near": round(float(came.mean()), 3)}


def meant(values: NDArray[np.float64]) -> list[float]:
    """Mean of episodes [E] with its 95 % bootstrap interval."""
    low, high = bootstrap_interval(values)
    return [round(float(x), 3) for x in (values.mean(), low, high)]


def per_episode(track: Track) -> dict[str, NDArray[np.float64]]:
    """Each [E]."""
    return {"cosine_first": track.cosine[:FIRST].mean(0), "cosine_episode": track.cosine.mean(0),
            "nearest_cm": 100 * track.distance.min(0), "last_cm": 100 * track.distance[-1],
            "success": track.success.astype(float)}
