"""The table, as RLBench has it, and the three objects on it, as MJCF.

World frame, table height and robot are RLBench's: z up, x away from the robot, the table's top at 0.752 m. The objects
are our own, of boxes and cylinders, with the joints and thresholds of RLBench's tasks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pvdr_bench.suites.gl import import_mujoco
from pvdr_bench.suites.tabletop import panda

TABLE = 0.752  # height of its top, metres
TIMESTEP = 0.005  # seconds of one physics step
BOX_HEIGHT, BOX_SIDE, LID = 0.1, 0.1, 0.2  # metres: the box's height and half side, and the lid's length
LID_OPEN = 2.618  # radians from closed, as RLBench's lid: it has to move by 2.6
BUTTON_TRAVEL = 0.006  # metres that a button can be pressed; 3 mm are enough
LAMP_OFF, LAMP_ON = (0.55, 0.53, 0.5, 1.0), (1.0, 1.0, 1.0, 1.0)  # the bulb

_SURROUNDINGS = """
<light pos=".6 -.6 3" dir="-.2 .2 -1" diffuse=".55 .55 .55" specular=".1 .1 .1"/>
<light pos=".6 .9 2.6" dir="-.2 -.4 -1" diffuse=".35 .35 .35" specular="0 0 0"/>
<geom type="plane" size="4 4 .1" rgba=".62 .6 .57 1"/>
<geom type="plane" size="3 4 .1" pos="-1.6 0 2" xyaxes="0 1 0 0 0 1" rgba=".85 .86 .86 1"/>
<geom type="box" size=".55 .85 .02" pos=".2 0 .732" rgba=".66 .5 .36 1" conaffinity="1" friction="1 .005 .0001"/>
<geom type="box" size=".5 .8 .35" pos=".15 0 .36" rgba=".5 .36 .25 1"/>"""

_BUTTON_JOINT = (f'<joint name="object" type="slide" axis="0 0 -1" range="0 {BUTTON_TRAVEL}" stiffness="300" '
                 'damping="3" armature=".01"/>')


def _lamp() -> str:
    return f"""
<body name="task" pos=".21 .04 {TABLE}">
  <geom type="cylinder" size=".075 .012" pos="0 0 .012" rgba=".25 .27 .3 1" conaffinity="1"/>
  <geom type="capsule" fromto="-.05 .06 .02 -.05 .06 .1" size=".012" rgba=".3 .32 .35 1" conaffinity="1"/>
  <geom name="bulb" type="sphere" size=".035" pos="-.05 .06 .13" rgba="{_words(LAMP_OFF)}" conaffinity="1"/>
  <geom type="box" size=".04 .04 .012" pos=".06 -.1 .012" rgba=".25 .27 .3 1" conaffinity="1"/>
  <body name="button" pos=".06 -.1 .024" gravcomp="1">{_BUTTON_JOINT}
    <geom type="cylinder" size=".02 .008" pos="0 0 .008" mass=".02" rgba=".85 .2 .15 1" conaffinity="1"/>
    <site name="target" pos="0 0 .016" rgba="0 0 0 0"/>
  </body>
</body>"""


def _button() -> str:
    return f"""
<body name="task" pos=".25 0 {TABLE}">
  <geom type="box" size=".05 .05 .018" pos="0 0 .018" rgba=".78 .78 .76 1" conaffinity="1"/>
  <body name="button" pos="0 0 .036" gravcomp="1">{_BUTTON_JOINT}
    <geom type="cylinder" size=".026 .009" pos="0 0 .009" mass=".03" rgba=".75 .08 .1 1" conaffinity="1"/>
    <site name="target" pos="0 0 .018" rgba="0 0 0 0"/>
  </body>
</body>"""


def _box() -> str:
    """The hinge lies on the box's +y side; the lid falls outwards."""
    height, side, wall = BOX_HEIGHT / 2, BOX_SIDE, 0.005
    colour = "rgba=\".72 .58 .4 1\" conaffinity=\"1\""
    walls = "".join(f'<geom type="box" size="{size}" pos="{pos}" {colour}/>' for size, pos in (
        (f"{side} {side} {wall}", f"0 0 {wall}"),
        (f"{wall} {side} {height}", f"{side} 0 {height}"), (f"{wall} {side} {height}", f"-{side} 0 {height}"),
        (f"{side} {wall} {height}", f"0 {side} {height}"), (f"{side} {wall} {height}", f"0 -{side} {height}")))
    return f"""
<body name="task" pos=".25 -.06 {TABLE}">{walls}
  <body name="lid" pos="0 {side} {BOX_HEIGHT}" quat="1 0 0 0">
    <joint name="object" axis="-1 0 0" range="0 {LID_OPEN}" damping=".02" armature=".0005"/>
    <geom type="box" size="{side} {LID / 2} .004" pos="0 -{LID / 2} .004" mass=".08" rgba=".8 .66 .46 1"
          conaffinity="1"/>
    <site name="target" pos="0 -{LID} .004" rgba="0 0 0 0"/>
  </body>
</body>"""


OBJECTS = {"lamp_on": _lamp, "close_box": _box, "push_button": _button}


def _words(numbers: tuple[float, ...]) -> str:
    return " ".join(map(str, numbers))


def scene_xml(env_id: str) -> str:
    """The whole scene of an environment."""
    return f"""
<mujoco model="{env_id}">
  <compiler meshdir="{panda.mesh_folder()}" autolimits="true" angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="pyramidal" iterations="20"/>
  <visual><map znear=".01" zfar="10"/><headlight ambient=".45 .45 .45" diffuse=".25 .25 .25" specular="0 0 0"/></visual>
  <default><geom contype="0" conaffinity="0"/>{panda.DEFAULTS}</default>
  <asset>{panda.assets()}</asset>
  <worldbody>{_SURROUNDINGS}{OBJECTS[env_id]()}{panda.body()}</worldbody>
  <actuator>{panda.actuators()}</actuator>
</mujoco>"""


@cache
def compiled(env_id: str) -> Any:
    """The scene's ``MjModel``, compiled once in a process; whoever moves its objects takes a copy."""
    return import_mujoco().MjModel.from_xml_string(scene_xml(env_id))
