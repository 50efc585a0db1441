"""What the suite ``metaworld`` says of itself."""

from __future__ import annotations

from pvdr_bench.suites.corpora import CorpusSource
from pvdr_bench.suites.info import Package, SuiteInfo, SuiteTask, Variable
from pvdr_bench.suites.metaworld.cameras import CAMERAS
from pvdr_bench.suites.metaworld.names import NAMES, PAPER
from pvdr_bench.suites.spaces import BoxSpace

_WITH_US = "pip install metaworld==3.1.1 packaging (they come with pvdr-bench)"

VIDEOS = CorpusSource(
    "metaworld", "the tasks' own robot and tables at random task instances, without actions: in-domain videos",
    "generated", "pvdr_bench.suites.metaworld.corpus:MetaWorldGenerator", 1440, title="Meta-World",
    origin="metaworld 3.1.1: scripted experts with time-correlated noise, and random play", license="MIT (Meta-World)",
    needs=("metaworld",), recipe_name="pvdr_bench.videos.metaworld:MetaWorldGenerator")


class MetaWorld(SuiteInfo):
    """Meta-World v3; every one of its 50 environments is a task, by its short name."""

    def tasks(self) -> tuple[SuiteTask, ...]:
        """``reach`` is the environment ``reach-v3``."""
        return tuple(SuiteTask(name=name, env_id=f"{name}-v3", title=name.replace("-", " ").capitalize(),
                               source="Meta-World v3") for name in NAMES)

    def prepare(self) -> None:
        """MuJoCo reads ``MUJOCO_GL`` while it is imported."""
        from pvdr_bench.suites.gl import choose_backend

        choose_backend()


METAWORLD = MetaWorld(
    name="metaworld", title="Meta-World", description="50 table-top tasks of a Sawyer robot arm, drawn by MuJoCo",
    factory="pvdr_bench.suites.metaworld.env:MetaWorldEnv", environments=tuple(f"{name}-v3" for name in NAMES),
    action_space=BoxSpace(4, names=("x", "y", "z", "gripper")), cameras=CAMERAS,
    packages=(Package("metaworld", _WITH_US), Package("mujoco", "pip install mujoco (it comes with metaworld)")),
    variables=(Variable("MUJOCO_GL", "what MuJoCo draws with: egl (GPU) or osmesa; chosen where it is unset"),),
    truth=("hand_x", "hand_y", "hand_z", "goal_x", "goal_y", "goal_z", "goal_distance"),
    corpora=(VIDEOS,), example="reach-v3", published=tuple(f"{name}-v3" for name in PAPER),
    stock="pvdr_bench.suites.metaworld.stock:stock_env")
