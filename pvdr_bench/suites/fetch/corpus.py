"""Corpus ``fetch-push``: the Fetch robot pushing a block over a table, at random. Another robot, another scene.

The scene is FetchPush of gymnasium-robotics (its MJCF files, start pose, mocap control and block placement, Plappert et
al. 2018, arXiv:1802.09464), driven here through MuJoCo directly: importing the package pulls in its multi-agent
environments and their dependencies, of which nothing is needed. The gripper stays closed, as in FetchPush.

Per episode of 40 to 60 frames at 25 frames a second (20 physics steps of 2 ms each, FetchPush's own control rate):

======== ===== ========================================================================================================
mode     share what the hand does
======== ===== ========================================================================================================
push     50 %  goes beside the block, then through it in a random direction, again and again
waypoint 40 %  random way-points over the table, some near the block
noise    10 %  Ornstein-Uhlenbeck noise
======== ===== ========================================================================================================

Every command carries Ornstein-Uhlenbeck noise. Mocap handles and the goal marker are not drawn.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import SetupError
from pvdr_bench.suites.corpora import Clip, Generator
from pvdr_bench.suites.fetch.info import CAMERA
from pvdr_bench.suites.gl import import_mujoco
from pvdr_bench.suites.lean import LeanRenderer
from pvdr_bench.suites.play import Box, OUNoise, Vector, WaypointPlay

PLAYERS = ("push", "waypoint", "noise")
SHARES = (0.5, 0.4, 0.1)
FRAMES = (40, 60)
SUBSTEPS = 20  # FetchPush's n_substeps
STEP_METRES = 0.05  # FetchPush: an action of 1 moves the mocap target by 5 cm
BLOCK_RANGE = 0.15  # FetchPush's obj_range, metres around the hand's start
WORKSPACE = Box((1.08, 0.45, 0.425), (1.52, 1.05, 0.65))
# where a block may be pushed to without falling off the table (1.05..1.55 by 0.40..1.10), at the height of its middle
TABLE = Box((1.14, 0.49, 0.425), (1.46, 1.01, 0.445))
_HAND_ROTATION = (1.0, 0.0, 1.0, 0.0)
_START = {"robot0:slide0": 0.405, "robot0:slide1": 0.48, "robot0:slide2": 0.0}
_BLOCK_START = (1.25, 0.53, 0.4, 1.0, 0.0, 0.0, 0.0)
_GRIPPER_OFFSET = (-0.498, 0.005, -0.431)


def scene_path() -> Path:
    """FetchPush's MJCF file, found without importing gymnasium-robotics.

    Raises:
        SetupError: the package is not installed.
    """
    spec = importlib.util.find_spec("gymnasium_robotics")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError("gymnasium-robotics is not installed", hint="pip install --no-deps 'gymnasium-robotics>=1.4'")
    return Path(spec.submodule_search_locations[0]) / "envs" / "assets" / "fetch" / "push.xml"


class FetchScene:
    """FetchPush's physics: a hand moved by a mocap weld, and a block. Positions in metres."""

    def __init__(self) -> None:
        mujoco = import_mujoco()
        self._mujoco = mujoco
        self.model = mujoco.MjModel.from_xml_path(str(scene_path()))
        self.data = mujoco.MjData(self.model)
        self._grip = self.model.site("robot0:grip").id
        self._link = self.model.body("robot0:gripper_link").id
        self._block = self.model.body("object0").id
        self._block_qpos = int(self.model.joint("object0:joint").qposadr[0])
        self._fingers = [int(self.model.joint(f"robot0:{s}_gripper_finger_joint").qposadr[0]) for s in "lr"]
        self._hide_helpers()
        self._settle()

    def _hide_helpers(self) -> None:
        model = self.model
        model.geom_rgba[model.geom_bodyid == model.body("robot0:mocap").id, 3] = 0.0
        model.site_rgba[:, 3] = 0.0

    def _settle(self) -> None:
        """FetchPush's own start: joint positions, mocap welds without offset, hand moved over the table."""
        model, data = self.model, self.data
        for name, value in _START.items():
            data.qpos[int(model.joint(name).qposadr[0])] = value
        data.qpos[self._block_qpos:self._block_qpos + 7] = _BLOCK_START
        welds = model.eq_type == self._mujoco.mjtEq.mjEQ_WELD
        model.eq_data[welds, :7] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        self._mujoco.mj_forward(model, data)
        data.mocap_pos[0] = self.hand + np.asarray(_GRIPPER_OFFSET)
        data.mocap_quat[0] = _HAND_ROTATION
        for _ in range(10):
            self._mujoco.mj_step(model, data, nstep=SUBSTEPS)
        self._start = (data.time, data.qpos.copy(), data.qvel.copy(), data.mocap_pos.copy(), data.mocap_quat.copy())
        self._hand_start = self.hand

    @property
    def hand(self) -> Vector:
        """Position [3] of the point between the fingers."""
        return np.array(self.data.site_xpos[self._grip])

    @property
    def block(self) -> Vector:
        """Position [3] of the block's centre."""
        return np.array(self.data.xpos[self._block])

    def reset(self, rng: np.random.Generator) -> None:
        """Start pose, with the block at a random place at least 10 cm from the hand."""
        data = self.data
        self._mujoco.mj_resetData(self.model, data)
        data.time, data.qpos[:], data.qvel[:], data.mocap_pos[:], data.mocap_quat[:] = self._start
        place = self._hand_start[:2]
        while np.linalg.norm(place - self._hand_start[:2]) < 0.1:
            place = self._hand_start[:2] + rng.uniform(-BLOCK_RANGE, BLOCK_RANGE, size=2)
        data.qpos[self._block_qpos:self._block_qpos + 2] = place
        self._mujoco.mj_forward(self.model, data)

    def step(self, action: NDArray[np.float32]) -> None:
        """Move the hand by ``action`` [4] in [-1, 1], times 5 cm; the gripper stays closed whatever the last says."""
        data = self.data
        data.mocap_pos[0] = data.xpos[self._link] + STEP_METRES * action[:3]
        # as in gymnasium-robotics: the commanded rotation is added to the present one (MuJoCo normalises the sum)
        data.mocap_quat[0] = data.xquat[self._link] + np.asarray(_HAND_ROTATION)
        self._mujoco.mj_step(self.model, data, nstep=SUBSTEPS)
        data.qpos[self._fingers] = 0.0
        self._mujoco.mj_forward(self.model, data)


class _Pusher:
    """Goes to a point beside the block, then through the block, in a random direction each time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._phase = 2
        self._frames = 0
        self._direction = np.zeros(3)
        self._length = 0.0
        self._target = np.zeros(3)

    def action(self, hand: Vector, block: Vector) -> Vector:
        self._frames += 1
        if self._frames > 25 or np.linalg.norm(self._target - hand) < 0.02 or self._phase == 2:
            self._advance(block)
        delta = self._target - hand
        if self._phase == 0 and np.linalg.norm(delta[:2]) > 0.04:
            delta[2] = 0.50 - hand[2]  # travel above the block, so that it is not pushed on the way
        return np.append(np.clip(delta / STEP_METRES, -1.0, 1.0), 1.0)

    def _advance(self, block: Vector) -> None:
        self._phase = (self._phase + 1) % 3 if self._phase != 1 else 0
        self._frames = 0
        if self._phase == 0:
            angle = self._rng.uniform(0.0, 2.0 * np.pi)
            self._direction = np.array([np.cos(angle), np.sin(angle), 0.0])
            self._length = float(self._rng.uniform(0.05, 0.20))
            self._target = WORKSPACE.clip(block - 0.09 * self._direction)
        else:  # the hand stops about 5 cm before where the block does
            self._target = TABLE.clip(block + self._length * self._direction)


def _stay_inside(hand: Vector, action: Vector) -> NDArray[np.float32]:
    """The action [4] clipped to [-1, 1] and to the workspace: noise must not carry the hand out of view."""
    low, high = (np.asarray(WORKSPACE.low) - hand) / STEP_METRES, (np.asarray(WORKSPACE.high) - hand) / STEP_METRES
    inside = np.append(np.clip(action[:3], np.minimum(low, 1.0), np.maximum(high, -1.0)), action[3])
    return np.asarray(np.clip(inside, -1.0, 1.0), np.float32)


class FetchPushGenerator(Generator):
    """Episodes of the Fetch robot; see the module's text."""

    version = 2
    sources = ("fetch-push",)
    truth_columns: ClassVar[dict[str, int]] = {"action": 4, "hand": 3, "object": 3, "mode": 1}
    fps = 25.0
    packages = ("gymnasium-robotics", "mujoco", "numpy")

    def __init__(self, source: str, image_size: int) -> None:
        self._scene = FetchScene()
        self._renderer = LeanRenderer(self._scene.model, CAMERA, image_size)

    def episode(self, rng: np.random.Generator) -> Clip:
        """One episode; block, mode and noise all come from ``rng``."""
        scene = self._scene
        scene.reset(rng)
        length = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
        mode = int(rng.choice(len(PLAYERS), p=SHARES))
        noisy = PLAYERS[mode] == "noise"
        noise_sd = float(rng.uniform(0.5, 1.0) if noisy else rng.uniform(0.0, 0.25))
        noise = OUNoise(rng, 4, noise_sd, 0.9 if noisy else 0.8)
        play, pusher = WaypointPlay(rng, WORKSPACE), _Pusher(rng)
        if rng.random() < 0.5:
            for _ in range(int(rng.integers(0, 11))):
                scene.step(play.action(scene.hand, [scene.block]).astype(np.float32))
        frames, rows = [], []
        for frame in range(length):
            frames.append(self._renderer.render(scene.model, scene.data))
            hand, block = scene.hand, scene.block
            base = np.zeros(4)
            if PLAYERS[mode] != "noise":
                base = pusher.action(hand, block) if PLAYERS[mode] == "push" else play.action(hand, [block])
            action = _stay_inside(hand, base + noise.step())
            last = frame == length - 1
            rows.append((np.zeros(4, np.float32) if last else action, hand, block, mode))
            if not last:
                scene.step(action)
        return Clip(np.stack(frames), {
            name: np.array([np.ravel(row[i]) for row in rows], np.float32) for i, name in enumerate(self.truth_columns)
        })

    def close(self) -> None:
        """Nothing to free: the GL context belongs to the process."""
