"""Gymnasium ids of all tasks: nothing heavy is loaded for them, no YAML is read."""

from __future__ import annotations

from pvdr_bench.catalog.folders import search_roots, yaml_files
from pvdr_bench.suites.registry import suites

NAMESPACE = "pvdr_bench"
VERSION = 0  # raise it when spaces, rewards or ends of episodes change


def task_names() -> list[str]:
    """Every task by its name: those with a file, and those that suites have without one."""
    with_file = yaml_files(search_roots(), "tasks")
    return sorted({*with_file, *(task.name for info in suites().values() for task in info.tasks())})


def register() -> None:
    """Make ``pvdr_bench/TASK-v0`` known to gymnasium for each task; those that are known already are left alone.

    ``make`` and ``make_vec`` take the keywords of :class:`pvdr_bench.gym.envs.TaskEnv`.
    """
    from gymnasium.envs.registration import register as make_known
    from gymnasium.envs.registration import registry

    for name in task_names():
        if (id_ := f"{NAMESPACE}/{name}-v{VERSION}") not in registry:
            make_known(id_, "pvdr_bench.gym.envs:TaskEnv", vector_entry_point="pvdr_bench.gym.envs:TaskVectorEnv",
                       kwargs={"task": name})
