"""What is refused before anything starts: each with its key and what would do, and nothing that is built in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.cli.main import main
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.rl.config import check_divides
from pvdr_bench.suites.metaworld.names import NAMES
from pvdr_bench.suites.registry import suite
from pvdr_bench.training.checks import check_runs, warnings

GOOD = {"suite": "metaworld", "env_id": "push-v3"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def mine(folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: str) -> Path:
    """A user's task ``mine``; the file."""
    file = folder / "tasks/mine.yaml"
    file.parent.mkdir()
    file.write_text("".join(f"{key}: {value}\n" for key, value in {**GOOD, **keys}.items()))
    monkeypatch.setenv("PVDR_BENCH_PATH", str(folder))
    return file


def refused(catalog: Catalog, method: str, task: str, *overrides: str, scale: str = "smoke") -> CatalogError:
    """The error of resolving and checking a run."""
    with pytest.raises(CatalogError) as caught:
        check_runs([catalog.resolve(method, task, 0, scale, overrides=overrides)], catalog)
    return caught.value


@pytest.mark.parametrize(("method", "override", "key", "message", "hint"), [
    ("pvdr", "model.window=3", "model.window", "3 does not divide the side of the token grid, 4", "use one of 1, 2, 4"),
    ("pvdr", "model.z_grid=3", "model.z_grid", "3 does not divide", "use one of 1, 2, 4"),
    ("pvdr", "model.z_grid=0", "model.z_grid", "0 does not divide", "use one of 1, 2, 4"),
    ("pvdr-scratch", "model.window=8", "model.window", "8 does not divide", "use one of 1, 2, 4"),
    ("ppo", "window=3", "window", "3 does not divide", "use one of 1, 2, 4"),
    ("pvdr", "protocol.image_size=100", "protocol.image_size", "image size 100 is not a multiple of the token's cell",
     "use 96 or 104"),
    ("pvdr", "protocol.image_size=40", "model.window", "2 does not divide the side of the token grid, 5",
     "use one of 1, 5"),
    ("dreamerv2", "protocol.image_size=24", "protocol.image_size", "24 pixels are smaller than model.input_size 32",
     "at least 32"),
    ("random", "protocol.camera=cornr", "protocol.camera", "unknown camera of suite metaworld 'cornr'",
     "did you mean 'corner'? known: "),
    ("random", "protocol.env_steps=500", "protocol.env_steps", "not a multiple of sync_every", "use 480 or 640"),
])
def test_values_that_do_not_fit_are_refused(catalog: Catalog, method: str, override: str, key: str, message: str,
                                            hint: str) -> None:
    error = refused(catalog, method, "reach", override)
    assert error.where == key and message in error.message and hint in (error.hint or "")


def test_the_grid_is_that_of_the_scale(catalog: Catalog) -> None:
    """What does not fit four cells may fit sixteen."""
    spec = catalog.resolve("pvdr", "reach", 0, "paper", overrides=["model.window=8", "model.z_grid=8"])
    check_runs([spec], catalog)
    assert "use one of 1, 2, 4, 8, 16" in str(refused(catalog, "pvdr", "reach", "model.window=3", scale="paper"))


@pytest.mark.parametrize(("key", "value", "line", "message", "hint"), [
    ("suite", "metawrld", 1, "unknown suite 'metawrld'", "did you mean 'metaworld'? known: dummy, metaworld"),
    ("env_id", "pushh-v3", 2, "unknown env_id of suite metaworld 'pushh-v3'", "did you mean 'push-v3'?"),
    ("camera", "metaword", 3, "unknown camera of suite metaworld 'metaword'", "did you mean 'metaworld'?"),
    ("set", "set9", 3, "unknown hyperparameter set of method pvdr 'set9'", "known: rlbench, set1, set2, set3"),
])
def test_a_task_that_names_what_is_not_there_is_refused_with_its_line(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, line: int, message: str,
        hint: str) -> None:
    file = mine(tmp_path, monkeypatch, **{key: value})
    error = refused(load_catalog(), "pvdr", "mine", scale="paper")
    assert error.where == f"{file}:{line}" and error.message == message and hint in (error.hint or "")


def test_a_set_is_asked_for_only_where_a_method_has_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine(tmp_path, monkeypatch, set="set9")
    catalog = load_catalog()
    assert catalog.resolve("random", "mine", 0, "smoke").task.set == "set9"
    for method in ("ppo", "pvdr", "pvdr-planning"):  # the last inherits its sets; the smoke scale has none
        assert "set9" in refused(catalog, method, "mine").message


def test_a_method_whose_tokenizer_is_none_is_refused(catalog: Catalog) -> None:
    spec = catalog.resolve("ppo", "reach", 0, "smoke").model_copy(update={"tokenizer": "random"})
    with pytest.raises(CatalogError, match="method random trains no frame tokenizer"):
        check_runs([spec], catalog)


ENDS = "protocol.terminate_on_success=true"


@pytest.mark.parametrize(("method", "protocol", "overrides", "warned"), [
    ("apv", "pvdr", [ENDS], True),
    ("apv-no-pretrain", "pvdr", [ENDS], True),
    ("apv-no-bonus", "pvdr", [ENDS], False),
    ("dreamerv2", "pvdr", [ENDS], False),
    ("apv", "pvdr", [], False),  # no episode ends at success, in any protocol by default
    ("apv", "apv", [], False),
    ("apv", "pvdr", [ENDS, "protocol.success_bonus=101"], False),  # a bonus of 1 for ever, at 0.99, is worth 100
    ("apv", "pvdr", [ENDS, "protocol.success_bonus=99"], True),
    ("apv", "pvdr", [ENDS, "protocol.success_bonus=99", "bonus.weight=0.9"], False),
    ("ppo", "pvdr", [ENDS], False),
])
def test_a_bonus_that_going_on_pays_is_warned_of(catalog: Catalog, method: str, protocol: str, overrides: list[str],
                                                 warned: bool) -> None:
    specs = [catalog.resolve(method, "reach", seed, "smoke", protocol, overrides=overrides) for seed in range(2)]
    check_runs(specs, catalog)
    found = warnings(specs)
    assert len(found) == warned  # once for both seeds
    assert all(text.startswith(f"{specs[0].variant}: the intrinsic bonus") for text in found)


@pytest.mark.parametrize(("method", "scale", "protocol", "overrides", "words"), [
    ("efficientzero", "cpu", "apv", [], "values reach 23.8, so about 2.4 a decision for ever"),
    ("ficc", "gpu", "apv", [], "values reach 279, so about 3.3 a decision for ever"),
    ("efficientzero", "paper", "apv", [], ""),
    ("efficientzero", "cpu", "apv", ["model.support=16"], ""),  # 27.9 a decision, at a discount of 0.9
    ("ficc", "gpu", "apv", ["search.reward=decoded"], "search.reward decoded is a distance to the goal in the tree"),
    ("ficc", "cpu", "pvdr", [], ""),
    ("ficc", "cpu", "pvdr", ["search.reward=decoded"], ""),
    ("ficc", "cpu", "pvdr", ["protocol.success_bonus=60"], "pays 60 at success, which is taken for that"),
])
def test_rewards_beyond_what_values_can_say_are_warned_of(catalog: Catalog, method: str, scale: str, protocol: str,
                                                          overrides: list[str], words: str) -> None:
    found = warnings([catalog.resolve(method, "reach", 0, scale, protocol, overrides=overrides)])
    assert len(found) == bool(words) and all(words in text for text in found)


def test_commands_warn_before_they_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--methods", "apv,ppo", "--task", "reach", "--scale", "smoke", "--dry-run", "--results", str(tmp_path),
             "-o", ENDS]
    for command in (["run", *words, "--device", "cpu"], ["submit", *words, "--profile", "cpu"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        out, _ = capsys.readouterr()
        assert not ended.value.code and out.count("warning: ") == 1
        assert "ends training episodes at success for a bonus of 10: not to succeed can be worth more" in out


@pytest.mark.parametrize("override", ["model.window=3", "protocol.image_size=100", "protocol.camera=cornr"])
@pytest.mark.parametrize("command", ["run", "submit"])
def test_commands_refuse_before_they_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str,
                                          override: str) -> None:
    where = ["--device", "cpu"] if command == "run" else ["--profile", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([command, "--method", "pvdr", "--task", "reach", "--scale", "smoke", "--dry-run", "--results",
              str(tmp_path), "-o", override, *where])
    out, err = capsys.readouterr()
    assert ended.value.code == 3 and not out and "Traceback" not in err
    assert err.startswith(f"error: {override.partition('=')[0]}: ") and "  -> " in err
    assert not list(tmp_path.iterdir())


def test_pretrain_refuses_before_it_makes_videos(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--method", "pvdr", "--task", "reach", "--scale", "smoke", "--device", "cpu", "-o",
              "protocol.image_size=100"])
    assert ended.value.code == 3 and "use 96 or 104" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


SOME = ("reach", "dial-turn", "plate-slide", "tabletop-close-box", "rlbench-lamp-on")  # of all sets


def filmed(catalog: Catalog, protocol: str, scale: str) -> list[str]:
    """The tasks whose suite has a protocol's camera."""
    camera = catalog.protocol(protocol, scale).camera
    return [name for name in catalog.tasks() if camera in suite(catalog.task(name).suite).cameras]


def test_everything_built_in_passes(catalog: Catalog) -> None:
    """Every method in every task, protocol and scale; refused are PVDR under a protocol without a goal image, networks
    of 96 and 84 pixels under APV's pictures of 64, and the expert of a suite that has none."""
    refusals = set()
    for protocol in catalog.protocols():
        for scale in catalog.protocol_file(protocol).scales:
            every = filmed(catalog, protocol, scale)
            some = [name for name in every if name in SOME]
            for method in catalog.runnable():
                tasks = every if (method, scale) == ("random", "smoke") else some
                specs = [catalog.resolve(method, task, 0, scale, protocol) for task in tasks]
                try:
                    check_runs(specs, catalog)
                except CatalogError as error:
                    refusals.add((specs[0].algorithm, protocol, error.message.split()[-1]))
    assert refusals == {("pvdr", "apv", "own"), ("pvdr-context", "apv", "own"), ("efficientzero", "apv", "96"),
                        ("stg", "apv", "84"), ("scripted", "rlbench", "none"), ("scripted", "tabletop", "none")}


def test_suites_tell_their_environments() -> None:
    assert suite("metaworld").env_ids() == tuple(f"{name}-v3" for name in NAMES)
    assert suite("dummy").env_ids() == ("point",)
    with pytest.raises(UsageError, match="did you mean 'metaworld'"):
        suite("metawrld")


@pytest.mark.parametrize("value", [-4, -1, 0, 3, 32])
def test_only_positive_divisors_divide(value: int) -> None:
    with pytest.raises(CatalogError, match=r"^key: .* use one of 1, 2, 4, 8, 16$".replace(".*", "(.|\n)*")):
        check_divides("key", value, 16)
    check_divides("key", 8, 16)
