"""``bench landscape``: what the distance to the goal image says of places, the goal's and others.

A hand is led to many places, some of them near the goal, and what the reward calls the distance is held against that in
space. A place far from the goal that the metric likes as well as those beside it holds back every learner that follows
the reward, whatever its method.

Shapes: P places, N environments.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.diagnostics.positions import positions
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.rl.ranks import spearman
from pvdr_bench.training.evaluation import VectorEnvLike, train_seeds
from pvdr_bench.training.online import Pieces, task_facts
from pvdr_bench.training.reward import GoalReward

Floats = NDArray[np.float64]
GAIN = 10.0  # an action of 1 for a place 10 cm away
AROUND = 0.3  # metres beyond start and goal, on each axis, from which half of the places are drawn
BESIDE = 0.08  # metres: standard deviation, on each axis, of the other half around the goal
RINGS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, np.inf)  # metres


def measure(task: str = "reach", method: str = "ppo", scale: str = "cpu", protocol: str = "", walks: int = 240,
            near: float = 0.05, far: float = 0.15, keys: tuple[str, ...] = (), seed: int = 0, device: str = "cpu",
            ) -> dict[str, Any]:
    """Lead the hand to places and note the metric at each decision on the way.

    In tasks whose goal is one of a handle or an object, places beside it are no successes: it tells of pictures there.

    Args:
        walks: or a few more, as all environments walk at once.
        method: whose tokenizer a metric in code space is taken with; it learns nothing.
        near, far: metres from the goal within which, and beyond which, places are compared.
        keys: ``key=value`` of the protocol, such as protocol.goal_metric=pixel_l1.

    Returns:
        walks, places: their numbers; see :func:`summary` for the others.

    Raises:
        UsageError: no walk, near beyond far, a reward that is no distance to a goal image, or a task that does not tell
            where hand and goal are.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.training.stages import Stages

    if walks < 1 or not 0 < near <= far:
        raise UsageError("bench landscape needs a walk or more, and 0 < near <= far")
    torch.set_num_threads(1)
    spec = load_catalog().resolve(method, task, seed, scale, protocol or None, overrides=keys)
    if spec.protocol.reward != "goal_distance":
        raise UsageError(f"protocol {spec.protocol.name} rewards no distance to a goal image")
    pieces, _ = Stages(spec, device=device).pieces()
    hands, distance, goal = explore(spec, pieces, walks)
    return {"task": task, "scale": scale, "goal_metric": spec.protocol.goal_metric,
            "walks": rounds_of(spec, walks) * spec.protocol.num_envs, "places": len(hands),
            **summary(hands, distance, goal, near, far)}


def rounds_of(spec: RunSpec, walks: int) -> int:
    """How often all environments walk, for ``walks`` or a few more."""
    return math.ceil(walks / spec.protocol.num_envs)


def explore(spec: RunSpec, pieces: Pieces, walks: int) -> tuple[Floats, Floats, Floats]:
    """Hands [P, 3] in metres, the metric [P] there, and the goal [3]; an episode a walk, ``walks`` of them or more."""
    n, rng = spec.protocol.num_envs, np.random.default_rng(spec.seed)
    envs = pieces.make_envs(dataclasses.replace(spec.env_config(), terminate_on_success=False), n)
    hands: list[Floats] = []
    distances: list[Floats] = []
    try:
        def begin(number: int) -> NDArray[np.uint8]:
            return envs.reset(train_seeds(spec.protocol.train_seed_base, spec.seed, number, n))

        facts = task_facts(spec, envs, begin(0))
        reward = GoalReward(spec.protocol, facts.goal, pieces.tokenizer, pieces.device)
        still = envs.step(np.zeros((n, envs.action_space.dim), np.float32))
        start, goal = positions(still.truth, spec.task.name)
        for number in told(range(rounds_of(spec, walks)), "rounds of walks"):
            begin(number + 1)
            places = _places(rng, start, goal, n)
            for hand, distance in _walk(envs, reward, places, rng, np.repeat(start[None], n, 0), spec):
                hands.append(hand)
                distances.append(distance)
    finally:
        envs.close()
    return np.concatenate(hands), np.concatenate(distances), goal


def _places(rng: np.random.Generator, start: Floats, goal: Floats, n: int) -> Floats:
    """Places [N, 3] to go to: every second one is beside the goal."""
    places = rng.uniform(np.minimum(start, goal) - AROUND, np.maximum(start, goal) + AROUND, (n, 3))
    places[1::2] = rng.normal(goal, BESIDE, (len(places[1::2]), 3))
    return places


def _walk(envs: VectorEnvLike, reward: GoalReward, places: Floats, rng: np.random.Generator, hand: Floats,
          spec: RunSpec) -> list[tuple[Floats, Floats]]:
    """Hands [N, 3] and the metric [N] after each decision of an episode but its last, which shows the next one."""
    n, dim = len(places), envs.action_space.dim
    rest = rng.uniform(-1, 1, (n, dim - 3))  # the gripper's, the same for a whole walk
    seen = []
    for _ in range(spec.protocol.episode_steps // spec.protocol.action_repeat - 1):
        action = np.concatenate([np.clip(GAIN * (places - hand), -1, 1), rest], 1).astype(np.float32)
        step = envs.step(action)
        hand = np.stack([step.truth[f"hand_{axis}"] for axis in "xyz"], -1).astype(np.float64)
        seen.append((hand, reward.distance(step.final_image).astype(np.float64)))
    return seen


def summary(hands: Floats, distance: Floats, goal: Floats, near: float, far: float) -> dict[str, Any]:
    """What the metric [P] says of places [P, 3].

    Returns:
        rank_correlation: Spearman's, of the metric with the metres to the goal; _near and _far within and beyond
        ``far``, None where too few places are. lowest_far: the least metric beyond ``far``, lowest_far_metres and
        lowest_far_place: where. above_lowest_far: share of the places within ``near`` metres that the metric calls
        farther from the goal than that one. rings: by metres, the number of places, and the least and the median
        metric.
    """
    metres = np.linalg.norm(hands - goal, axis=-1)
    beyond, beside = metres > far, metres <= near
    out: dict[str, Any] = {"rank_correlation": spearman(metres, distance),
                           "rank_correlation_near": spearman(metres[~beyond], distance[~beyond]),
                           "rank_correlation_far": spearman(metres[beyond], distance[beyond]),
                           "lowest_far": None, "lowest_far_metres": None, "lowest_far_place": None,
                           "above_lowest_far": None}
    if beyond.any():
        lowest = np.flatnonzero(beyond)[distance[beyond].argmin()]
        out |= {"lowest_far": float(distance[lowest]), "lowest_far_metres": float(metres[lowest]),
                "lowest_far_place": [float(x) for x in hands[lowest]]}
        if beside.any():
            out["above_lowest_far"] = float((distance[beside] > distance[lowest]).mean())
    rings = {}
    for low, high in zip(RINGS[:-1], RINGS[1:], strict=True):
        inside = (metres >= low) & (metres < high)
        if inside.any():
            rings[f"{low:g}-{high:g}"] = {"places": int(inside.sum()), "least": float(distance[inside].min()),
                                          "median": float(np.median(distance[inside]))}
    return {**out, "rings": rings}
