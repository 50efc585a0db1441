"""What ``list``, ``describe`` and ``doctor`` say of suites; no simulator is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.suites.cameras import Camera
    from pvdr_bench.suites.info import SuiteInfo


def suite_rows() -> list[dict[str, Any]]:
    """A row per suite, also of those whose package cannot be read."""
    from pvdr_bench.suites.registry import broken_suites, suites

    rows = [{"name": info.name, "version": info.version(), "environments": len(info.env_ids()),
             "actions": info.action_space.dim, "cameras": list(info.cameras), "title": info.title}
            for info in suites().values()]
    return rows + [{"name": name, "version": None, "environments": None, "actions": None, "cameras": None,
                    "title": f"cannot be used: {error.message}"} for name, error in broken_suites().items()]


def explain_suite(name: str) -> dict[str, Any]:
    """Facts of a suite, and its options and environment variables as keys."""
    from pvdr_bench.suites.registry import suite

    info = suite(name)
    keys = [{"key": option.name, "value": option.default, "meaning": _option(option.meaning, option.allowed),
             "source": "", "set_in": None} for option in info.options]
    keys += [{"key": variable.name, "value": os.environ.get(variable.name),
              "meaning": f"environment variable; {variable.meaning}", "source": "", "set_in": None}
             for variable in info.variables]
    return {"kind": "suite", "name": name, "facts": _facts(info), "keys": keys}


def _facts(info: SuiteInfo) -> dict[str, Any]:
    space = info.action_space
    needs = [f"{package.name} {package.installed or f'(missing: {package.install})'}" for package in info.packages]
    return {
        "title": info.title, "description": info.description, "note": info.note, "version": info.version(),
        "environments": ", ".join(info.env_ids()), "tasks without a file": ", ".join(t.name for t in info.tasks()),
        "actions": f"{space.dim} in [{space.low:g}, {space.high:g}]: {', '.join(space.names) or 'unnamed'}",
        "cameras": "; ".join(f"{name}: {_camera(camera)}" for name, camera in info.cameras.items()),
        "environments per process": info.envs_per_process or "any number", "scripted expert": _yes(info.has_expert),
        "goal images": _yes(info.has_goal_image), "ground truth": ", ".join(info.truth),
        "corpora": ", ".join(corpus.name for corpus in info.corpora),
        "protocol": info.protocol, "tokenizer": info.tokenizer, "needs": "; ".join(needs),
    }


def _camera(camera: Camera) -> str:
    from pvdr_bench.suites.cameras import SceneCamera

    if isinstance(camera, SceneCamera):
        return f"the scene's own {camera.name}"
    x, y, z = camera.lookat
    return (f"looks at ({x:g}, {y:g}, {z:g}) m from {camera.distance:.3g} m, azimuth {camera.azimuth:g}, "
            f"elevation {camera.elevation:.3g} degrees")


def _option(meaning: str, allowed: tuple[Any, ...]) -> str:
    return meaning + (f"; one of {', '.join(map(str, allowed))}" if allowed else "")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def suite_health() -> tuple[list[str], list[str], str]:
    """(what works, what does not and what mends it, name of the suite that has to work); optional ones apart."""
    from pvdr_bench.suites.registry import DEFAULT_SUITE, broken_suites, suites

    good, bad = [], [f"{name}: {error.message}" for name, error in broken_suites().items()]
    for info in (info for info in suites().values() if not info.optional):
        problems = info.problems()
        bad += [f"{info.name}: {problem.message} ({problem.hint})" for problem in problems]
        if not problems:
            good.append(f"{info.version()} ({counted(len(info.env_ids()), 'environment')})")
    return good, bad, DEFAULT_SUITE


def optional_suites() -> list[str]:
    """Names of the suites that a user sets up by hand."""
    from pvdr_bench.suites.registry import suites

    return [info.name for info in suites().values() if info.optional]


def optional_health(name: str) -> tuple[bool, list[tuple[str, str]]]:
    """Of such a suite: whether somebody has begun to set it up, and what is missing with what mends it."""
    from pvdr_bench.suites.registry import suite

    info = suite(name)
    begun = any(package.installed for package in info.packages) or any(
        os.environ.get(variable.name) for variable in info.variables if variable.required)
    return begun, [(problem.message, problem.hint or "") for problem in info.problems()]
