"""What the suite ``tabletop`` says of itself."""

from __future__ import annotations

from pvdr_bench.suites.arm_actions import ACTION_MODE, CROP, MODES
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.corpora import CorpusSource
from pvdr_bench.suites.info import Package, SuiteInfo, SuiteTask, Variable

# RLBench's front camera: at (1.35, 0, 1.58), looking along (-0.9063, 0, -0.4226), 40 degrees high.
_DISTANCE = 1.96  # to the table
FRONT = CameraPose((1.35 - 0.9063 * _DISTANCE, 0.0, 1.58 - 0.4226 * _DISTANCE), _DISTANCE, 180.0, -25.0, fovy=40.0)

NOTE = "Tabletop is no RLBench: three of its tasks re-made in MuJoCo with our own objects; not comparable."

VIDEOS = CorpusSource(
    "tabletop", "the tabletop's own arm and objects at random places, without actions: in-domain videos", "generated",
    "pvdr_bench.suites.tabletop.corpus:TabletopGenerator", 480, title="Tabletop",
    origin="scripted experts with time-correlated noise, and random play",
    license="the project's; meshes Apache-2.0 (Franka)", needs=("mujoco", "gymnasium-robotics"))


def _task(env_id: str, title: str, description: str) -> SuiteTask:
    return SuiteTask(f"tabletop-{env_id.replace('_', '-')}", env_id, title, description,
                     "our own; after RLBench's task", set="rlbench")


class Tabletop(SuiteInfo):
    """Three tasks, each an environment."""

    def tasks(self) -> tuple[SuiteTask, ...]:
        """``tabletop/lamp-on`` is the environment ``lamp_on``."""
        return (_task("lamp_on", "Lamp on (tabletop)", "press the button of a lamp"),
                _task("close_box", "Close box (tabletop)", "lift the lid that hangs beside a box, and let it fall"),
                _task("push_button", "Push button (tabletop)", "press a button on the table"))

    def prepare(self) -> None:
        """MuJoCo reads ``MUJOCO_GL`` while it is imported."""
        from pvdr_bench.suites.gl import choose_backend

        choose_backend()


TABLETOP = Tabletop(
    name="tabletop", title="Tabletop",
    description="three tasks of a Panda arm at a table in MuJoCo, in RLBench's manner and without its simulator",
    factory="pvdr_bench.suites.tabletop.env:TabletopEnv", environments=("lamp_on", "close_box", "push_button"),
    revision=1, action_space=MODES[ACTION_MODE.default], cameras={"front": FRONT}, options=(ACTION_MODE, CROP),
    packages=(Package("mujoco", "pip install mujoco (it comes with pvdr-bench)"),
              Package("gymnasium-robotics",
                      "pip install --no-deps 'gymnasium-robotics>=1.4' (it comes with pvdr-bench)")),
    variables=(Variable("MUJOCO_GL", "what MuJoCo draws with: egl (GPU) or osmesa; chosen where it is unset"),),
    truth=("hand_x", "hand_y", "hand_z", "goal_x", "goal_y", "goal_z", "goal_distance"), corpora=(VIDEOS,),
    example="push_button", published=(), protocol="tabletop", tokenizer="tokenizer-tabletop", note=NOTE)
