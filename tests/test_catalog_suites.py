"""What suites add to the catalog: tasks without a file, names that are theirs, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.specs import TaskSpec
from pvdr_bench.catalog.suites import check_environment, task_name
from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.suites import registry
from pvdr_bench.suites.cameras import SceneCamera
from pvdr_bench.suites.dummy.info import DUMMY
from pvdr_bench.suites.info import Option, Package, SuiteInfo, SuiteTask, Variable
from pvdr_bench.suites.metaworld.info import METAWORLD
from pvdr_bench.suites.spaces import BoxSpace
from pvdr_bench.training.checks import check_runs


class Lamps(SuiteInfo):
    """A suite whose tasks another suite has too, with a limit and needs of its own, as a simulator with a licence."""

    def tasks(self) -> tuple[SuiteTask, ...]:
        return tuple(SuiteTask(f"{self.name}-{name}", f"{name}_env", name, camera="front")
                     for name in ("lamp-on", "box"))


def lamps(name: str = "lamps", **changes: object) -> Lamps:
    keys: dict[str, object] = {
        "name": name, "title": name, "factory": "nowhere:Env", "environments": ("lamp-on_env", "box_env"),
        "revision": 1, "action_space": BoxSpace(7), "cameras": {"front": SceneCamera("front")}, "envs_per_process": 1,
        "options": (Option("mode", "joints", "what an action moves", ("joints", "hand")), Option("gain", 0.5, "of it"))}
    return Lamps(**(keys | changes))  # type: ignore[arg-type]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both suites beside the built-in ones."""
    found = {info.name: info for info in (METAWORLD, DUMMY, lamps("lamps"), lamps("toys"))}
    monkeypatch.setattr(registry, "_found", lambda path: (found, {}))


@pytest.mark.parametrize(("asked", "name", "suite"), [
    ("lamps-lamp-on", "lamps-lamp-on", "lamps"), ("toys/lamp-on", "toys-lamp-on", "toys"),
    ("toys/lamp-on_env", "toys-lamp-on", "toys"), ("reach", "reach", "metaworld"), ("reach-v3", "reach", "metaworld"),
    ("metaworld/reach", "reach", "metaworld"), ("metaworld/door-open-v3", "door-open", "metaworld"),
])
def test_a_task_is_found_by_its_names(installed: None, asked: str, name: str, suite: str) -> None:
    task = load_catalog().task(asked)
    assert (task.name, task.suite) == (name, suite)


def test_a_name_of_two_suites_asks_which(installed: None) -> None:
    with pytest.raises(CatalogError, match="is in the suites lamps and toys(.|\n)*say which: lamps/box or toys/box"):
        load_catalog().task("box")
    assert task_name("nothing/of-the-kind") == "nothing/of-the-kind"
    with pytest.raises(CatalogError, match="unknown task 'toys/lamp-of'(.|\n)*did you mean 'toys-lamp-on'"):
        load_catalog().task("toys/lamp-of")


def test_each_task_has_the_version_of_its_own_suite(installed: None) -> None:
    catalog = load_catalog()
    runs = {name: catalog.resolve("random", name, 0, "smoke") for name in ("reach", "toys/box")}
    assert runs["toys/box"].protocol.suite_version == "toys 1"
    assert runs["reach"].protocol.suite_version == METAWORLD.version()
    assert runs["reach"].protocol.hash() != runs["toys/box"].protocol.hash()
    assert runs["toys/box"].env_config().camera == SceneCamera("front")
    check_runs(runs.values(), catalog)


@pytest.mark.parametrize(("changes", "protocol", "method", "words"), [
    ({"has_goal_image": False}, "pvdr", "random", "suite toys has no goal images"),
    ({"has_goal_image": False}, "apv", "random", None),
    ({"has_expert": False}, "apv", "scripted", "toys has none"),
    ({"has_expert": False}, "apv", "random", None),
])
def test_what_a_suite_lacks_is_refused_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object],
                                                          protocol: str, method: str, words: str | None) -> None:
    found = {info.name: info for info in (METAWORLD, lamps("toys", **changes))}
    monkeypatch.setattr(registry, "_found", lambda path: (found, {}))
    catalog = load_catalog()
    spec = catalog.resolve(method, "toys/box", 0, "smoke", protocol)
    if words is None:
        check_runs([spec], catalog)
    else:
        with pytest.raises(CatalogError, match=words):
            check_runs([spec], catalog)


@pytest.mark.parametrize(("options", "words"), [
    ({"mod": "hand"}, "unknown option of suite toys 'mod'(.|\n)*did you mean 'mode'"),
    ({"mode": "hands"}, "unknown mode of suite toys 'hands'(.|\n)*did you mean 'hand'"),
    ({"gain": "0.5"}, "gain of suite toys is a float, not '0.5'"),
    ({"gain": True}, "gain of suite toys is a float, not True"),
    ({"gain": 1, "mode": "hand"}, None),
])
def test_options_are_checked(installed: None, options: dict[str, object], words: str | None) -> None:
    task = TaskSpec(name="t", suite="toys", env_id="box_env", camera="front", options=options)
    assert task.identity()["options"] == options
    assert "options" not in task.model_copy(update={"options": {}}).identity(), "old recipes keep their hash"
    if words is None:
        check_environment(task, lambda key: f"task.{key}")
    else:
        with pytest.raises(CatalogError, match=words) as caught:
            check_environment(task, lambda key: f"task.{key}")
        assert caught.value.where == "task.options"


def test_a_package_does_not_take_the_name_of_a_suite() -> None:
    assert "there is a suite metaworld already" in refusal(lamps("metaworld"))
    assert refusal(lamps("mine")) == ""


def test_a_package_does_not_take_the_name_of_a_task() -> None:
    class Reach(SuiteInfo):
        def tasks(self) -> tuple[SuiteTask, ...]:
            return (SuiteTask("reach", "a", "Reach"),)

    told = refusal(with_class(Reach))
    assert "task reach of suite lamps is one of suite metaworld already" in told and "lamps/reach" in told


def test_a_suite_that_fails_when_asked_is_only_its_own_problem() -> None:
    class Ill(SuiteInfo):
        def env_ids(self) -> tuple[str, ...]:
            raise RuntimeError("no licence")

        def tasks(self) -> tuple[SuiteTask, ...]:
            return (SuiteTask("ill", self.env_ids()[0], "Ill"),)

    assert "the suite lamps cannot tell what it is: RuntimeError: no licence" in refusal(with_class(Ill))


def with_class(kind: type[SuiteInfo]) -> SuiteInfo:
    plain = lamps()
    return kind(**{key.name: getattr(plain, key.name) for key in dataclasses.fields(plain)})


def refusal(info: SuiteInfo) -> str:
    """What is said of a package's suite beside Meta-World; empty if it is taken."""
    try:
        registry._check(info, {"metaworld": METAWORLD})
    except SetupError as error:
        return str(error)
    return ""


def test_what_is_missing_is_told_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMPS_ROOT", raising=False)
    info = lamps(packages=(Package("no-such-package", "pip install it"), Package("numpy", "pip install numpy")),
                 variables=(Variable("LAMPS_ROOT", "folder of the simulator", required=True),))
    assert [(error.message, error.hint) for error in info.problems()] == [
        ("no-such-package is not installed", "pip install it"),
        ("LAMPS_ROOT is not set: folder of the simulator", "export LAMPS_ROOT=...")]
    monkeypatch.setenv("LAMPS_ROOT", "/opt")
    assert len(info.problems()) == 1
    assert lamps(packages=(Package("no-such-package", "x"),), revision=None).version() == (
        "no-such-package (not installed)")
    with pytest.raises(ValueError, match="neither a package nor a revision"):
        lamps(revision=None)


def test_nothing_outside_suites_knows_metaworld() -> None:
    """Citations of what papers say about it may stay, an example in the API's text, and the shipped policy's folder."""
    package = Path(registry.__file__).resolve().parents[1]
    found = {}
    for file in sorted(package.rglob("*.py")):
        if (package / "suites") in file.parents:
            continue
        lines = [line.strip() for line in file.read_text().splitlines() if "metaworld" in line.lower()
                 or "meta-world" in line.lower()]
        cited = ("paper Table 2", "PVDR A.3", "{CONTEXT}: ", "APV code", "APV's released", ">>> ",
                 "artefacts/policies/")
        if left := [line for line in lines if not any(words in line for words in cited)]:
            found[str(file.relative_to(package))] = left
    assert not found
