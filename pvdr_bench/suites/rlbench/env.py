"""RLBench's tasks behind the interface of ``suites/base.py``.

One env_step is one step of RLBench. A frozen instance stands at its modelled place (``static_positions``), has one
variation, and is drawn by ``instance_seed`` where a task draws more than its place; each reset is held against the
instance's first picture. Other instances are drawn by the episode's seed. The reward is RLBench's: 1 in a step in which
the task is solved, else 0; its own end of an episode is not followed, since episodes have the protocol's length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.suites.arm_actions import ACTION_MODE, CROP, action_mode
from pvdr_bench.suites.base import Env, EnvConfig, EnvStep, Image, repeated
from pvdr_bench.suites.cameras import check_crop
from pvdr_bench.suites.resize import area_resize
from pvdr_bench.suites.rlbench.goals import Goal, keep_goal, read_goal
from pvdr_bench.suites.rlbench.info import RENDER, RENDER_SIZE, RLBENCH, VARIATION
from pvdr_bench.suites.rlbench.simulator import Seen, Simulator

RESETS = 3  # attempts to bring a frozen instance back
PLANS = 10  # demonstrations, until one is of the instance: a plan may fail as often as RLBench lets it
SAME = 1.0  # grey levels by which two pictures of the same arrangement may differ, on average in any block
SETTLED = 2.5  # the same where a demonstration drew what a reset draws: it begins a step of simulation later
BLOCK = 8  # pixels, a block's side: over a whole picture a small object's move averages out


class RLBenchEnv(Env):
    """One task in one simulator. ``EnvStep.truth`` has ``hand_x/y/z`` in metres, and ``invalid_actions``: the steps of
    the decision that RLBench refused; such a step counts, moves nothing and is no success.

    Raises:
        UsageError: an unknown action mode or a crop that is no square.
        SetupError: RLBench, PyRep, CoppeliaSim or a display is missing. SimulatorError: CoppeliaSim does not start.
    """

    def __init__(self, config: EnvConfig) -> None:
        options = {option.name: config.options.get(option.name, option.default) for option in RLBENCH.options}
        self.config, self._options, self._crop = config, options, check_crop(options[CROP.name])
        mode, self.action_space = action_mode(options)
        self._simulator = Simulator(config.env_id, mode, int(options[RENDER_SIZE.name]), str(options[RENDER.name]),
                                    int(options[VARIATION.name]), static=config.frozen_instance)
        self._seen: Seen | None = None
        self._first: Image | None = None
        self._goal: Image | None = None
        self._steps = self._seed = 0
        if config.frozen_instance and (kept := read_goal(self._key())) is not None:
            self._first, self._goal = kept.start, kept.image

    def _key(self) -> dict[str, Any]:
        """All that a goal image depends on."""
        return {"task": self.config.env_id, "suite": RLBENCH.version(), "instance_seed": self.config.instance_seed,
                "image_size": self.config.image_size,
                **{name: value for name, value in self._options.items() if name != ACTION_MODE.name}}

    def reset(self, seed: int) -> Image:
        """First image of an episode; a frozen instance ignores ``seed``, else it draws the instance.

        Raises:
            TrainingError: the frozen instance does not come back.
        """
        self._steps, self._seed = 0, seed
        if not self.config.frozen_instance:
            self._goal = None
            return self._show(self._simulator.reset(seed))
        for _ in range(RESETS):
            image = self._show(self._simulator.reset(self._drawn_by(seed)))
            if self._first is None:
                self._first = image
            if (gap := difference(image, self._first)) <= SAME:
                return image
        raise TrainingError(
            f"{self.config.env_id} does not come back as it was: {RESETS} resets differ from its first picture by more "
            f"than {SAME:g} grey levels somewhere (the last one by {gap:.1f})",
            hint="a planner that cannot be seeded places its objects: take another task, or frozen_instance=false")

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Up to ``action_repeat`` steps of RLBench; fewer where the episode ends within them."""
        if self._seen is None:
            raise UsageError("step() before reset()")
        seen, invalid = self._seen, 0
        action64 = np.clip(np.asarray(action, np.float64), -1.0, 1.0)

        def simulate() -> tuple[float, bool]:
            nonlocal seen, invalid
            seen = self._simulator.step(action64, seen)
            invalid += seen.invalid
            return float(seen.success), seen.success

        def shown() -> tuple[Image, dict[str, float]]:
            return self._show(seen), dict(zip(RLBENCH.truth, (*map(float, seen.hand), float(invalid)), strict=True))

        step = repeated(self.config, self._steps, simulate, shown)
        self._steps += step.env_steps
        return step

    def goal_image(self) -> Image:
        """Image [H, W, 3] at the end of a demonstration, kept on disk where the instance is frozen.

        It is planned at the start of an episode alone, since planning resets the task; the episode begins anew.

        Raises:
            TrainingError: RLBench finds no demonstration of this instance. UsageError: an episode is on its way.
            DataError: the file is broken.
        """
        if self._goal is None:
            if self._steps:
                raise UsageError("RLBench makes a goal image at the start of an episode, and this one is on its way")
            seed, frozen = self._seed, self.config.frozen_instance
            start = self.reset(seed)
            made = Goal(start, self._planned(seed, start))
            kept = keep_goal(self._key(), made) if frozen else made
            self._first = kept.start
            self.reset(seed)
            self._goal = kept.image
        return self._goal.copy()

    def _planned(self, seed: int, start: Image) -> Image:
        """The end of a demonstration that begins as ``start`` shows it; others are of another instance."""
        for _ in range(PLANS):
            demo = self._simulator.demonstrate(self._drawn_by(seed))
            gap = difference(self._small(demo.start.image), start)
            if gap <= (SETTLED if demo.at_once else SAME):
                return self._small(demo.end.image)
        raise TrainingError(
            f"RLBench found no demonstration of this instance of {self.config.env_id}: {PLANS} of them begin "
            f"otherwise, by more than {SAME:g} grey levels somewhere, or {SETTLED:g} where the same was drawn (the "
            f"last one by {gap:.1f})",
            hint="choose another instance_seed, or another task")

    def _drawn_by(self, seed: int) -> int:
        return self.config.instance_seed if self.config.frozen_instance else seed

    def close(self) -> None:
        """End the simulator."""
        self._simulator.close()

    def _show(self, seen: Seen) -> Image:
        self._seen = seen
        return self._small(seen.image)

    def _small(self, image: Image) -> Image:
        """The crop of a picture, made smaller by area."""
        side = len(image)
        left, top, right, bottom = (round(edge * side) for edge in self._crop)
        small: Image = area_resize(image[None, top:bottom, left:right], self.config.image_size)[0]
        return small


def difference(one: Image, other: Image) -> float:
    """Grey levels by which two pictures [S, S, 3] differ, on average in the block of 8 x 8 pixels that differs most."""
    apart = np.abs(one.astype(np.int16) - other).mean(-1)
    edges = np.arange(0, len(apart), BLOCK)
    sides = np.minimum(BLOCK, len(apart) - edges)  # the last one may be smaller
    sums = np.add.reduceat(np.add.reduceat(apart, edges, 0), edges, 1)
    return float((sums / np.outer(sides, sides)).max())
