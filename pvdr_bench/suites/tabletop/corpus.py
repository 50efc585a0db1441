"""Corpus ``tabletop``: the suite's arm at its three objects, at random places, doing many things; 5 frames a second.

In-domain by intent: it shows the robot, the scenes and (for its share of expert frames) skilled motion, without actions
or rewards. The frozen instance that runs are evaluated on is never set.
"""

from __future__ import annotations

import dataclasses

from pvdr_bench.suites.base import Env, EnvConfig
from pvdr_bench.suites.filming import EnvGenerator
from pvdr_bench.suites.play import Box
from pvdr_bench.suites.tabletop.env import TabletopEnv
from pvdr_bench.suites.tabletop.info import FRONT


class TabletopGenerator(EnvGenerator):
    """Episodes of one of the three environments."""

    version = 2
    sources = ("lamp_on", "close_box", "push_button")
    fps = 5.0
    packages = ("mujoco", "gymnasium-robotics", "numpy")
    box = Box((0.1, -0.3, 0.79), (0.45, 0.35, 1.3))

    def build(self, config: EnvConfig) -> Env:
        """The suite's own, seen by its camera."""
        return TabletopEnv(dataclasses.replace(config, suite="tabletop", camera=FRONT))
