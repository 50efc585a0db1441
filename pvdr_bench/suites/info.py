"""What a suite says of itself, before any simulator is loaded.

A suite is one :class:`SuiteInfo` (or a subclass that answers more cleverly) and one environment class. Nothing outside
``suites/`` knows a suite by name: version, environments, cameras, actions and needs are read from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pvdr_bench.errors import SetupError
from pvdr_bench.needed import checkout_version, need
from pvdr_bench.suites.cameras import Camera
from pvdr_bench.suites.corpora import CorpusSource
from pvdr_bench.suites.spaces import BoxSpace

if TYPE_CHECKING:
    from pvdr_bench.suites.base import Env, EnvConfig


@dataclass(frozen=True)
class Package:
    """A package that a suite needs, and the command that installs it. It is imported by its name."""

    name: str
    install: str

    @property
    def installed(self) -> str | None:
        """Its version here, installed or a checkout on the path; None where it is missing."""
        return _version_here(self.name, tuple(sys.path))


@lru_cache(maxsize=64)
def _version_here(name: str, path: tuple[str, ...]) -> str | None:
    """A package's version on ``sys.path``, read once: each run that is resolved asks three times, a plan thousands."""
    try:
        return version(name)
    except PackageNotFoundError:
        return checkout_version(name)


@dataclass(frozen=True)
class Variable:
    """An environment variable that a suite reads."""

    name: str
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class Option:
    """A setting of a suite's own, such as an action mode; a task gives it under ``options``."""

    name: str
    default: Any
    meaning: str
    allowed: tuple[Any, ...] = ()  # empty: any value of the default's type


@dataclass(frozen=True)
class SuiteTask:
    """A task that has no file: what ``tasks/NAME.yaml`` would say."""

    name: str
    env_id: str
    title: str
    description: str = ""
    source: str = ""
    camera: str | None = None
    set: str | None = None
    note: str = ""


@dataclass(frozen=True)
class SuiteInfo:
    """Everything that is known of a suite without loading it.

    Attributes:
        name: what a task's ``suite`` says.
        factory: ``module:Class`` of its :class:`~pvdr_bench.suites.base.Env`, built from an ``EnvConfig``.
        environments: ids of its environments.
        action_space: what ``step`` takes, unless ``options`` change it: what runs ask is the environment's own.
        cameras: by the name that a protocol or task gives. Empty: it draws one picture, whatever name is given.
        packages: what has to be installed. Unless ``revision`` is given, the first one's version is the suite's.
        revision: the suite's own version, raised when its numbers change their meaning; None: that of a package.
        variables: environment variables that it reads.
        options: settings that a task may give.
        envs_per_process: how many environments one process may hold; None: any number. A simulator that can exist
            only once in a process says 1. Worker processes are always spawned, never forked.
        restarts: how often a worker's simulator that died is started again before the run fails.
        has_expert: ``expert_action`` works. has_goal_image: ``goal_image`` works.
        truth: names in ``EnvStep.truth``.
        corpora: videos that it can make.
        example: an environment that is quick to build, for probes and benches; empty: the first one.
        published: environments that publications report, for benches that go through all of them.
        protocol: of its tasks where a command names none; empty: the default one.
        tokenizer: method that trains the frame tokenizer of its tasks; empty: the default one.
        note: a sentence that stands in every caption of its results; empty: none.
        optional: the user installs what it needs by hand, so that most machines lack it.
        stock: ``module:function`` of an environment as the suite's package makes it, for benches, from an
            ``EnvConfig`` and the name of a camera.
    """

    name: str
    title: str
    factory: str
    environments: tuple[str, ...]
    action_space: BoxSpace
    description: str = ""
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    revision: int | None = None
    variables: tuple[Variable, ...] = ()
    options: tuple[Option, ...] = ()
    envs_per_process: int | None = None
    restarts: int = 0
    has_expert: bool = True
    has_goal_image: bool = True
    truth: tuple[str, ...] = ()
    corpora: tuple[CorpusSource, ...] = ()
    example: str = ""
    published: tuple[str, ...] = ()
    protocol: str = ""
    tokenizer: str = ""
    note: str = ""
    optional: bool = False
    stock: str = ""

    def __post_init__(self) -> None:
        if self.revision is None and not self.packages:
            raise ValueError(f"suite {self.name}: neither a package nor a revision tells its version")
        if self.envs_per_process is not None and self.envs_per_process < 1:
            raise ValueError(f"suite {self.name}: {self.envs_per_process} environments in a process")

    # What stands in results -------------------------------------------------------------------------------------

    def version(self) -> str:
        """What ``protocol.suite_version`` says, such as ``metaworld 3.1.1``: part of what a number means."""
        if self.revision is not None:
            return f"{self.name} {self.revision}"
        first = self.packages[0]
        return f"{first.name} {first.installed or '(not installed)'}"

    def version_of(self, options: Mapping[str, Any]) -> str:
        """The version with the options that a task changes: another action mode or crop gives other numbers."""
        default = {option.name: option.default for option in self.options}
        changed = [f"{name} {value}" for name, value in sorted(options.items()) if value != default.get(name)]
        return f"{self.version()} ({', '.join(changed)})" if changed else self.version()

    def env_ids(self) -> tuple[str, ...]:
        """Ids of all environments."""
        return self.environments

    # Tasks without a file ---------------------------------------------------------------------------------------

    def tasks(self) -> tuple[SuiteTask, ...]:
        """Tasks that need no YAML file; none by default.

        Names are those of the catalog: where another suite may have the same, begin them with ``SUITE-``. A user may
        leave that away, or write ``SUITE/`` in its place.
        """
        return ()

    def task_name(self, name: str) -> str | None:
        """The task that is meant by a name, one without ``SUITE-`` before it, or an environment's id; None: none is."""
        found = (task.name for task in self.tasks()
                 if name in (task.name, task.name.removeprefix(f"{self.name}-"), task.env_id))
        return next(found, None)

    # Building environments --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """What a process has to do before the suite's packages are imported; nothing by default.

        Raises:
            SetupError: it cannot work here.
        """

    def worker_environment(self) -> Mapping[str, str]:
        """Variables that a worker process has to be started with, in addition to ours; none by default.

        For what is read when a process begins, such as a library path; the rest can be done in :meth:`prepare`.
        """
        return {}

    def load(self) -> Callable[[EnvConfig], Env]:
        """The environment's class, imported now.

        Raises:
            SetupError: something that it needs is not there.
        """
        self.prepare()
        module, _, name = self.factory.partition(":")
        try:
            found: Callable[[EnvConfig], Env] = getattr(need(module, f"the suite {self.name}", self._mend()), name)
        except AttributeError as error:
            raise SetupError(f"suite {self.name!r}: cannot load {self.factory!r}: {error}") from error
        return found

    def problems(self) -> list[SetupError]:
        """What keeps the suite from working here, each with what mends it; for ``doctor``."""
        found = [SetupError(f"{package.name} is not installed", hint=package.install)
                 for package in self.packages if package.installed is None]
        found += [SetupError(f"{variable.name} is not set: {variable.meaning}", hint=f"export {variable.name}=...")
                  for variable in self.variables if variable.required and not os.environ.get(variable.name)]
        return found

    def _mend(self) -> str | None:
        missing = [package.install for package in self.packages if package.installed is None]
        return "; ".join(missing) or None

    @property
    def probe(self) -> str:
        """The environment that probes and benches use."""
        return self.example or self.env_ids()[0]

    @property
    def first_camera(self) -> Camera | None:
        """The camera that probes and benches use; None in a suite that has none to choose from."""
        return next(iter(self.cameras.values()), None)
