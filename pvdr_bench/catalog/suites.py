"""What suites add to the catalog: tasks that need no file, and what a task or protocol may ask of its suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pvdr_bench.catalog.problems import unknown
from pvdr_bench.catalog.protocol import DEFAULT_PROTOCOL
from pvdr_bench.errors import CatalogError
from pvdr_bench.suites.registry import DEFAULT_CORPUS, broken_suites, suites

if TYPE_CHECKING:
    from pvdr_bench.catalog.specs import RunSpec, TaskSpec
    from pvdr_bench.suites.cameras import Camera
    from pvdr_bench.suites.info import SuiteInfo, SuiteTask


def suite_of(name: str, where: str | None = None) -> SuiteInfo:
    """A suite by its name; ``where`` is the place of the name.

    Raises:
        CatalogError: no such suite.
        SetupError: the package that brings it cannot be read.
    """
    if name in broken_suites():
        raise broken_suites()[name]
    if name not in suites():
        raise unknown("suite", name, sorted(suites()), where)
    return suites()[name]


def tasks_without_file() -> dict[str, tuple[SuiteInfo, SuiteTask]]:
    """The suites' own tasks by name; the registry sees to it that no two suites have the same."""
    return {task.name: (info, task) for info in suites().values() for task in info.tasks()}


DEFAULT_TOKENIZER = "tokenizer"  # the method of that name


class Defaults(NamedTuple):
    """What is meant where a command names no protocol and no videos, and a method no tokenizer."""

    protocol: str
    corpus: str
    tokenizer: str


def defaults_of(info: SuiteInfo) -> Defaults:
    """A suite's own, else those of the benchmark."""
    return Defaults(info.protocol or DEFAULT_PROTOCOL,
                    next((corpus.name for corpus in info.corpora), DEFAULT_CORPUS), info.tokenizer or DEFAULT_TOKENIZER)


def with_note(task: TaskSpec) -> TaskSpec:
    """The task with its suite's note before its own."""
    info = suites().get(task.suite)
    return task.model_copy(update={"note": f"{info.note} {task.note}".strip()}) if info and info.note else task


def task_name(name: str) -> str:
    """The name of the task that is meant by a name, an environment's id, or ``SUITE/`` and one of both.

    Raises:
        CatalogError: several suites have it.
    """
    prefix, slash, rest = name.partition("/")
    asked = [suites()[prefix]] if slash and prefix in suites() else list(suites().values())
    plain = rest if slash and prefix in suites() else name
    found = {info.name: short for info in asked if (short := info.task_name(plain)) is not None}
    if len(found) > 1:
        raise CatalogError(f"task {name!r} is in the suites {' and '.join(found)}",
                           hint=f"say which: {' or '.join(f'{suite}/{name}' for suite in found)}")
    return next(iter(found.values()), name)


def camera_of(info: SuiteInfo, name: str, where: str | None = None) -> Camera | None:
    """The camera of a suite by its name; None in a suite that has none to choose from.

    Raises:
        CatalogError: the suite has no such camera.
    """
    if not info.cameras:
        return None
    if name not in info.cameras:
        raise unknown(f"camera of suite {info.name}", name, info.cameras, where)
    return info.cameras[name]


def check_camera(name: str, where: str | None) -> None:
    """Refuse a protocol's camera that no suite has; whether a task's own suite has it is seen once there is a task.

    Raises:
        CatalogError: no suite has such a camera.
    """
    every = [camera for info in suites().values() for camera in info.cameras]
    if name not in every:
        raise unknown("camera", name, every, where)


def check_environment(task: TaskSpec, place: Callable[[str], str]) -> SuiteInfo:
    """Refuse a task whose environment cannot be built; nothing is started or imported. Returns its suite.

    Args:
        place: the place of one of the task's keys.

    Raises:
        CatalogError: no such suite, environment, camera or option.
    """
    info = suite_of(task.suite, place("suite"))
    if task.env_id not in info.env_ids():
        raise unknown(f"env_id of suite {info.name}", task.env_id, info.env_ids(), place("env_id"))
    if task.camera:
        camera_of(info, task.camera, place("camera"))
    _check_options(info, task.options, place("options"))
    return info


def check_suite(spec: RunSpec, place: Callable[[str], str]) -> None:
    """Refuse a run whose suite cannot build its environment, or lacks what the run needs.

    Raises:
        CatalogError: see :func:`check_environment`; or no camera, expert or goal image where one is needed.
    """
    info, task, protocol = check_environment(spec.task, place), spec.task, spec.protocol
    if not task.camera:
        camera_of(info, protocol.camera, "protocol.camera")
    if protocol.has_goal_image and not info.has_goal_image:
        raise CatalogError(f"the suite {info.name} has no goal images, and protocol {protocol.name} needs one",
                           where="protocol.frozen_instance", hint="--protocol apv needs none")
    if spec.info.needs_expert and not info.has_expert:
        raise CatalogError(f"{spec.variant} acts as the suite's scripted expert, and {info.name} has none",
                           where=place("suite"))


def _check_options(info: SuiteInfo, given: Mapping[str, Any], where: str) -> None:
    known = {option.name: option for option in info.options}
    for name, value in given.items():
        if name not in known:
            raise unknown(f"option of suite {info.name}", name, known, where)
        option = known[name]
        if option.allowed and value not in option.allowed:
            raise unknown(f"{name} of suite {info.name}", str(value), map(str, option.allowed), where)
        wanted = (float, int) if type(option.default) is float else (type(option.default),)
        if type(value) not in wanted:
            raise CatalogError(f"{name} of suite {info.name} is a {type(option.default).__name__}, not {value!r}",
                               where=where)
