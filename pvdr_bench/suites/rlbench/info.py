"""What the suite ``rlbench`` says of itself. Nothing of RLBench or CoppeliaSim is part of this project."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pvdr_bench.errors import SetupError
from pvdr_bench.suites.arm_actions import ACTION_MODE, CROP, MODES
from pvdr_bench.suites.cameras import SceneCamera
from pvdr_bench.suites.info import Option, Package, SuiteInfo, SuiteTask, Variable
from pvdr_bench.suites.rlbench.names import ASSUMED, INSTALL, NAMES, PAPER, ROOT

_NOTES = {
    **dict.fromkeys(ASSUMED, "Assumed to be one of the paper's three RLBench tasks: its text names lamp on alone."),
    **dict.fromkeys(PAPER, ""),
}
RENDER = Option("render", "opengl3", "CoppeliaSim's renderer: opengl3 draws shadows and wants a GPU, opengl is plainer",
                ("opengl3", "opengl"))
RENDER_SIZE = Option("render_size", 256, "side in pixels of the front camera's picture before it is cropped and made "
                     "smaller by area")
VARIATION = Option("variation", 0, "number of RLBench's variation of the task, such as the button's colour")


def folders(root: str) -> list[str]:
    """Where CoppeliaSim's libraries lie."""
    return [root, os.path.join(root, "platforms")]  # noqa: PTH118 - the text of a variable


class RLBench(SuiteInfo):
    """Every task of RLBench by its name; those of the paper with its hyperparameters."""

    def tasks(self) -> tuple[SuiteTask, ...]:
        """``rlbench/lamp-on`` is the environment ``lamp_on``."""
        return tuple(SuiteTask(
            f"rlbench-{name.replace('_', '-')}", name, name.replace("_", " ").capitalize(), source="RLBench 1.2",
            set="rlbench", note=_NOTES.get(name, "Not one of the paper's tasks.")) for name in NAMES)

    def worker_environment(self) -> Mapping[str, str]:
        """CoppeliaSim's libraries and Qt's plugins are looked up when a process begins; told from its folder."""
        root = os.environ.get(ROOT)
        if not root:
            return {}
        before = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
        path = [*folders(root), *(folder for folder in before if folder not in folders(root))]
        return {"LD_LIBRARY_PATH": os.pathsep.join(path), "QT_QPA_PLATFORM_PLUGIN_PATH": root}

    def problems(self) -> list[SetupError]:
        """See :func:`pvdr_bench.suites.rlbench.health.problems`."""
        from pvdr_bench.suites.rlbench.health import problems

        return problems(self.worker_environment())


RLBENCH = RLBench(
    name="rlbench", title="RLBench",
    description="RLBench's tasks of a Panda arm in CoppeliaSim, which the user installs",
    factory="pvdr_bench.suites.rlbench.env:RLBenchEnv", environments=NAMES, action_space=MODES[ACTION_MODE.default],
    cameras={"front": SceneCamera("front")}, packages=(Package("rlbench", INSTALL),),
    variables=(
        Variable(ROOT, "folder of CoppeliaSim 4.1.0", required=True),
        Variable("DISPLAY", "an X display, which CoppeliaSim needs also without windows; xvfb-run -a makes one"),
        Variable("QT_QPA_PLATFORM", "where Qt draws, if not on such a display"),
        Variable("LD_LIBRARY_PATH", f"told to worker processes from {ROOT}"),
        Variable("QT_QPA_PLATFORM_PLUGIN_PATH", f"told to worker processes from {ROOT}")),
    options=(ACTION_MODE, CROP, RENDER_SIZE, RENDER, VARIATION), envs_per_process=1, restarts=5, has_expert=False,
    truth=("hand_x", "hand_y", "hand_z", "invalid_actions"), example="lamp_on", published=(*PAPER, *ASSUMED),
    protocol="rlbench", optional=True)
