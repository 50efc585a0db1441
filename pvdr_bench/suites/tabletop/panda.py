"""The Franka Panda as MJCF: published kinematics and dynamics, meshes of gymnasium-robotics.

Frames and joint limits are those of Franka's own description (``franka_description``); masses and inertias those of Gaz
et al. 2019 as in MuJoCo Menagerie, whose servo gains are used too. The meshes (Apache-2.0) come with the package
gymnasium-robotics and are only drawn; what touches is a box or capsule. Gravity is compensated, as the real robot's
controller does. A joint's zero is Franka's, which is RLBench's.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.errors import SetupError

START = (0.0, 0.175, 0.0, -0.873, 0.0, 1.222, 0.785)  # radians: where RLBench's arm begins
FINGER_OPEN = 0.04  # metres from the middle, each finger
BASE = (-0.268, -0.005, 0.752)  # RLBench's, in its world frame
LIMITS = ((-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973),
          (-0.0175, 3.7525), (-2.8973, 2.8973))
_GAINS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_FORCES = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)


@dataclass(frozen=True)
class _Link:
    """Place in its parent, and inertial properties (metres, kilograms, kg m^2)."""

    pos: str
    quat: str
    mass: float
    centre: str
    inertia: str
    shapes: str = ""  # what touches


_LINKS = (
    _Link("0 0 .333", "1 0 0 0", 4.970684, "0.003875 0.002081 -0.04762", "0.70337 0.70661 0.0091170"),
    _Link("0 0 0", "1 -1 0 0", 0.646926, "-0.003141 -0.02872 0.003495", "0.0079620 0.02811 0.025995"),
    _Link("0 -.316 0", "1 1 0 0", 3.228604, "0.027518 0.039252 -0.066502", "0.037242 0.036155 0.01083"),
    _Link(".0825 0 0", "1 1 0 0", 3.587895, "-0.05317 0.104419 0.027454", "0.025853 0.019552 0.028323"),
    _Link("-.0825 .384 0", "1 -1 0 0", 1.225946, "-0.011953 0.041065 -0.038437", "0.035549 0.029474 0.0086270",
          '<geom class="touch" type="capsule" fromto="0 0 -.22 0 .06 -.05" size=".06"/>'),
    _Link("0 0 0", "1 1 0 0", 1.666555, "0.060149 -0.014117 -0.010517", "0.001964 0.004354 0.005433",
          '<geom class="touch" type="capsule" fromto="0 0 -.03 .06 0 0" size=".06"/>'),
    _Link(".088 0 0", "1 1 0 0", 0.735522, "0.010517 -0.004252 0.061597", "0.012516 0.010027 0.004815",
          '<geom class="touch" type="capsule" fromto="0 0 0 0 0 .06" size=".045"/>'),
)
_FINGER = (
    '<inertial pos="0 0 .025" mass=".015" diaginertia="2.375e-6 2.375e-6 7.5e-7"/>'
    '<joint name="finger{side}" class="finger"/>'
    '<geom class="drawn" mesh="finger"/><geom class="touch" type="box" size=".0105 .007 .0265" pos="0 .008 .0265"/>')
_HAND = f"""
<body name="hand" pos="0 0 .107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">
  <inertial pos="-.01 0 .03" mass=".73" diaginertia=".001 .0025 .0017"/>
  <geom class="drawn" mesh="hand"/>
  <geom class="touch" type="box" size=".03 .1 .033" pos="0 0 .033"/>
  <site name="tip" pos="0 0 .1034" rgba="0 0 0 0"/>
  <body name="left_finger" pos="0 0 .0584" gravcomp="1">{_FINGER.format(side=0)}</body>
  <body name="right_finger" pos="0 0 .0584" quat="0 0 0 1" gravcomp="1">{_FINGER.format(side=1)}</body>
</body>"""

DEFAULTS = """
<default class="panda">
  <joint armature=".1" damping="1"/>
  <default class="drawn"><geom type="mesh" contype="0" conaffinity="0" group="2" rgba=".92 .92 .91 1"/></default>
  <default class="touch"><geom contype="1" conaffinity="0" group="3"/></default>
  <default class="finger"><joint type="slide" axis="0 1 0" range="0 .04" armature=".01" damping="10"/></default>
</default>"""


def mesh_folder() -> Path:
    """Where gymnasium-robotics keeps the arm's meshes; the package is not imported.

    Raises:
        SetupError: it is not installed, or has none.
    """
    spec = importlib.util.find_spec("gymnasium_robotics")
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(places[0]) / "envs/assets/kitchen_franka/franka_assets/meshes/visual" if places else None
    if folder is None or not (folder / "link0.stl").is_file():
        raise SetupError("the Panda's meshes, which come with gymnasium-robotics, are not here",
                         hint="pip install --no-deps 'gymnasium-robotics>=1.4'")
    return folder


def assets() -> str:
    """The meshes, by the names of the links."""
    names = (*(f"link{i}" for i in range(8)), "hand", "finger")
    return "".join(f'<mesh name="{name}" file="{name}.stl"/>' for name in names)


def body() -> str:
    """The arm, standing on the table."""
    inner = _HAND
    for number, link in reversed(tuple(enumerate(_LINKS, 1))):
        low, high = LIMITS[number - 1]
        inner = (
            f'<body name="link{number}" pos="{link.pos}" quat="{link.quat}" gravcomp="1">'
            f'<inertial pos="{link.centre}" mass="{link.mass}" diaginertia="{link.inertia}"/>'
            f'<joint name="joint{number}" axis="0 0 1" range="{low} {high}"/>'
            f'<geom class="drawn" mesh="link{number}"/>{link.shapes}{inner}</body>')
    pos = " ".join(map(str, BASE))
    return f'<body name="link0" pos="{pos}" childclass="panda"><geom class="drawn" mesh="link0"/>{inner}</body>'


def actuators() -> str:
    """A position servo for each joint, and one for each finger."""
    arm = (f'<position joint="joint{i}" kp="{kp:g}" kv="{kp / 25:g}" forcerange="-{force:g} {force:g}"/>'
           for i, (kp, force) in enumerate(zip(_GAINS, _FORCES, strict=True), 1))
    fingers = (f'<position joint="finger{side}" kp="500" kv="20" forcerange="-20 20"/>' for side in (0, 1))
    return "".join((*arm, *fingers))
