"""Cluster profiles and experiments: the built-in ones are right, and what is wrong in one is named by line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog import Catalog
from pvdr_bench.catalog.experiment import Experiment, GridPart
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.catalog.profile import RESERVED, GpuRequest, Profile
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.launch.plan import asked_runs, experiment_runs, members
from pvdr_bench.launch.validate import catalog_of, validate
from tests.test_cli_run import cli

GOOD = """title: a cluster
device: cuda
scale: gpu
cpus_per_task: 4
time_min: 60
gpu: {style: gres, type: a100, count: 1}
"""


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalog:
    monkeypatch.delenv("PVDR_BENCH_PATH", raising=False)
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return Catalog([tmp_path, builtin_root()])


def write(root: Path, kind: str, name: str, text: str) -> None:
    (root / kind).mkdir(exist_ok=True)
    (root / kind / f"{name}.yaml").write_text(text)


# Profiles -------------------------------------------------------------------------------------------------------------


def test_every_built_in_profile_is_right(catalog: Catalog) -> None:
    assert {"a100", "a100-8x", "cpu", "local-sandbox"} <= set(catalog.profiles())
    for name in catalog.profiles():
        profile = catalog.profile(name)
        assert profile.title and profile.description and profile.name == name
        assert isinstance(profile.time_min, int) and 0 < profile.leave_s < 60 * profile.time_min
        assert (profile.gpus > 0) == (profile.device == "cuda")
    assert catalog.profile("a100-8x").processes == 8 and catalog.profile("a100-8x").gpus == 8
    assert catalog.profile("a100").gpus == 1 and catalog.profile("cpu").gpus == 0


@pytest.mark.parametrize("model", [Profile, GpuRequest, Experiment, GridPart])
def test_every_key_is_explained(model: Any) -> None:
    assert all(info.description and len(info.description) > 3 for info in model.model_fields.values())


@pytest.mark.parametrize(("line", "place", "words"), [
    ("gpu: {style: gress, type: a100}", 6, "gpu.style = 'gress' is not allowed; did you mean 'gres'"),
    ("gpu: {style: gres, type: 'a100:2'}", 6, "gpu.type; without a count"),
    ("gpu: {style: none}", 2, "device cuda needs a gpu request"),
    ("leave_s: 3600", 7, "leave_s must be shorter than time_min"),
    ("time_min: 1-00:00:00", 5, "time_min; must be a whole number"),
    ("time_min: 1", 5, "time_min; greater than or equal to 2"),
    ("mem_gb: 4\nmem_per_cpu_gb: 2", 7, "mem_gb and mem_per_cpu_gb exclude each other"),
    ("extra: {time: '08:00:00'}", 7, "time cannot be set here"),
    ("extra: {cpus_per_task: 3, comment: x}", 7, "cpus-per-task cannot be set here"),
    ("partiton: gpu", 7, "unknown key 'partiton' of profile site; did you mean 'partition'"),
    ("gpu: {style: gres, typ: a100}", 6, "unknown key 'gpu.typ'; did you mean 'type'"),
    ("runs_per_job: 0", 7, "runs_per_job; greater than or equal to 1"),
])
def test_a_wrong_profile_is_named_by_file_line_and_key(catalog: Catalog, tmp_path: Path, line: str, place: int,
                                                       words: str) -> None:
    key = line.partition(":")[0]
    kept = [old for old in GOOD.splitlines() if not old.startswith(f"{key}:")]
    lines = GOOD.splitlines()
    if len(kept) < len(lines):  # in the place of the old line
        lines = [line if old.startswith(f"{key}:") else old for old in lines]
    else:
        lines += line.splitlines()
    write(tmp_path, "slurm", "site", "\n".join(lines))
    with pytest.raises(CatalogError) as caught:
        catalog.profile("site")
    text = str(caught.value)
    assert f"{tmp_path}/slurm/site.yaml:{place}" in text
    for word in words.split("; "):
        assert word in text


def test_a_profile_lacks_a_key_or_does_not_exist(catalog: Catalog, tmp_path: Path) -> None:
    write(tmp_path, "slurm", "site", "device: cpu\nscale: cpu\ntime_min: 60\n")
    with pytest.raises(CatalogError, match=r"site\.yaml.*lacks the key 'cpus_per_task'"):
        catalog.profile("site")
    with pytest.raises(CatalogError, match="did you mean 'a100'"):
        catalog.profile("a10")
    write(tmp_path, "slurm", "a100", GOOD)  # the user's own comes before the built-in one
    assert Catalog([tmp_path, builtin_root()]).profile("a100").title == "a cluster"


@pytest.mark.parametrize(("style", "flags"), [
    ({"style": "gres", "type": "a100", "count": 2}, {"gres": "gpu:a100:2"}),
    ({"style": "gres", "count": 2}, {"gres": "gpu:2"}),
    ({"style": "gpus_per_node", "type": "a100"}, {"gpus_per_node": "a100:1"}),
    ({"style": "gpus_per_node"}, {"gpus_per_node": "1"}),
    ({"style": "count", "count": 4, "type": "a100"}, {"gpus_per_node": 4}),
    ({"style": "none"}, {}),
])
def test_gpu_flags_of_each_style(style: dict[str, Any], flags: dict[str, Any]) -> None:
    assert GpuRequest.model_validate(style).flags() == flags


def test_what_a_profile_writes_itself_is_reserved() -> None:
    from pvdr_bench.launch.sbatch import parameters

    profile = Profile.model_validate({
        "name": "all", "device": "cuda", "gpu": {"style": "gres"}, "scale": "gpu", "cpus_per_task": 2, "time_min": 60,
        "partition": "p", "account": "a", "qos": "q", "constraint": "c", "exclude": ["n"], "wckey": "w", "mem_gb": 1})
    written = {key.replace("_", "-") for key in parameters(profile, "runs", "x", Path("/code"), "afterok:1")}
    inner = {"setup", "srun-args", "signal-delay-s", "array-parallelism", "additional-parameters"}
    assert written - inner <= set(RESERVED)


# Experiments ----------------------------------------------------------------------------------------------------------


def runs(catalog: Catalog, name: str | None, **changes: Any) -> list[Any]:
    asked = {"experiment": name, "methods": None, "tasks": None, "seeds": None, "scale": None, "default_scale": "smoke",
             "protocol": None, "videos": None, "overrides": []}
    return asked_runs(catalog, **{**asked, **changes})


def test_every_built_in_experiment_resolves_to_unique_runs(catalog: Catalog) -> None:
    assert {"fig4", "table5", "reach-cpu"} <= set(catalog.experiments())
    for name in catalog.experiments():
        assert catalog.experiment(name).title and catalog.experiment(name).description
        specs = runs(catalog, name, seeds="1")
        assert len({str(spec.path("")) for spec in specs}) == len(specs) > 0
    fig4 = runs(catalog, "fig4", seeds="1")
    assert len(fig4) == 6 * 12 and {spec.corpus for spec in fig4 if spec.method == "pvdr"} == {"fetch-push"}
    assert len({spec.task.name for spec in fig4}) == 12


def test_a_grid_and_what_a_command_changes_in_it(catalog: Catalog, tmp_path: Path) -> None:
    write(tmp_path, "experiments", "mine", """title: mine
scale: smoke
seeds: 3
grid:
  - methods: [random, ppo]
    tasks: [reach]
  - methods: [ppo]
    tasks: [reach, window-open]
    seeds: 1
    overrides: [protocol.env_steps=640]
  - methods: [random]
    tasks: [reach]
    seeds: "1,2"
""")
    specs = runs(catalog, "mine", default_scale="gpu")
    names = [(spec.method, spec.task.name, spec.seed) for spec in specs]
    assert names == [*((method, "reach", seed) for method in ("random", "ppo") for seed in range(3)),
                     ("ppo", "window-open", 0)]
    assert [spec.protocol.env_steps for spec in specs] == [320, 320, 320, 640, 320, 320, 640]  # the last part's
    assert {spec.scale for spec in specs} == {"smoke"}
    assert {spec.seed for spec in runs(catalog, "mine", seeds="7,")} == {7}
    assert {spec.scale for spec in runs(catalog, "mine", scale="cpu", seeds="1")} == {"cpu"}
    changed = runs(catalog, "mine", overrides=["protocol.env_steps=960"])
    assert {spec.protocol.env_steps for spec in changed} == {960}  # the command's comes after the file's


@pytest.mark.parametrize("more", [{"methods": "ppo"}, {"tasks": "reach"}, {"videos": "metaworld"}])
def test_an_experiment_goes_with_nothing_that_it_names_itself(catalog: Catalog, more: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="names its methods, tasks and videos itself"):
        runs(catalog, "fig4", **more)


def test_without_an_experiment_methods_and_tasks_are_needed(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="--methods and --tasks must be given"):
        runs(catalog, None)
    with pytest.raises(UsageError, match="^--tasks must be given"):
        runs(catalog, None, methods="ppo")
    with pytest.raises(CatalogError, match="did you mean 'fig4'"):
        runs(catalog, "fig44")


@pytest.mark.parametrize(("text", "line", "words"), [
    ("seeds: 5\ngrid: []\n", 2, "grid"),
    ("seeds: five\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "not a list of whole numbers"),
    ("grid:\n  - methods: [ppo]\n    tasks: [reach]\n    seeds: 1,,1\n", 4, "names no valid seed"),
    ("grid:\n  - methods: [ppo]\n    task: [reach]\n", 3, "unknown key"),
    ("scale: huge\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "paper, gpu, cpu, quick, smoke"),
])
def test_a_wrong_experiment_is_named_by_file_and_line(catalog: Catalog, tmp_path: Path, text: str, line: int,
                                                      words: str) -> None:
    write(tmp_path, "experiments", "mine", text)
    with pytest.raises(CatalogError) as caught:
        catalog.experiment("mine")
    assert f"mine.yaml:{line}" in str(caught.value) and words in str(caught.value)


def test_seeds_may_be_a_number(catalog: Catalog, tmp_path: Path) -> None:
    write(tmp_path, "experiments", "mine", "seeds: 5\ngrid:\n  - {methods: [ppo], tasks: [reach], seeds: 2}\n")
    experiment = catalog.experiment("mine")
    assert experiment.seeds == "5" and experiment.grid[0].seeds == "2"


def test_an_experiment_made_of_others_shares_their_runs_and_takes_the_largest_budget(catalog: Catalog,
                                                                                     tmp_path: Path) -> None:
    part = "seeds: 2\ngrid:\n  - {{methods: [{}], tasks: [reach], overrides: [protocol.env_steps={}]}}\n"
    write(tmp_path, "experiments", "one", part.format("random, ppo", 640))
    write(tmp_path, "experiments", "two", part.format("ppo, scripted", 320))
    write(tmp_path, "experiments", "both", "experiments: [two, one]\n")
    write(tmp_path, "experiments", "all", "experiments: [both, one]\n")
    write(tmp_path, "experiments", "ring", "experiments: [round]\n")
    write(tmp_path, "experiments", "round", "experiments: [ring]\n")
    assert [one.name for one in members(catalog, "all")] == ["two", "one"]
    found = {(spec.method, spec.seed): spec.protocol.env_steps for spec in runs(catalog, "all")}
    assert found == {(method, seed): steps for method, steps in (("ppo", 640), ("scripted", 320), ("random", 640))
                     for seed in range(2)}
    with pytest.raises(CatalogError, match="ring is made of itself"):
        runs(catalog, "ring")


def test_a_part_of_an_experiment(catalog: Catalog) -> None:
    specs = experiment_runs(catalog, catalog.experiment("fig4"), methods=("ppo", "apv"), tasks=("reach", "dial-turn"),
                            seeds="3,", default_scale="smoke")
    assert {(spec.method, spec.task.name, spec.seed) for spec in specs} == {
        (method, task, 3) for method in ("ppo", "apv") for task in ("reach", "dial-turn")}
    assert experiment_runs(catalog, catalog.experiment("fig4"), tasks=("lamp-on",), default_scale="smoke") == []


@pytest.mark.parametrize(("text", "line", "words"), [
    ("figure: {kind: sweep}\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "needs the key that is varied"),
    ("figure: {kind: sweep, key: gama}\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "did you mean 'gamma'"),
    ("figure: {kind: curve}\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "curves, sweep"),
    ("table: {published: Table 7}\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "unknown published table"),
    ("grid:\n  - {methods: [ppo], tasks: [reach], videos: [metaworld]}\ntable:\n  published: Table 5\n  stand_ins:\n"
     "    bair: fetch-push\n", 6, "unknown corpus of the grid"),
    ("highest: apv\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", None, "apv is not among the grid's methods"),
    ("experiments: [fig4]\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", None, "either grid or experiments"),
    ("experiments: [fig44]\n", 1, "did you mean 'fig4'"),
])
def test_what_is_drawn_is_checked_with_its_place(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    write(tmp_path, "experiments", "mine", text)
    found = validate(*catalog_of(tmp_path))
    assert any(words in f"{problem.message} {problem.hint}" for problem in found), found
    assert line is None or any((problem.where or "").endswith(f"mine.yaml:{line}") for problem in found), found


# The command line -----------------------------------------------------------------------------------------------------


def test_list_and_describe_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = cli(capsys, "list", "profiles", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["a100-8x"]["gpus"] == 8 and rows["cpu"]["device"] == "cpu"
    _, out, _ = cli(capsys, "list", "experiments", "--json")
    assert "fig4" in {row["name"] for row in json.loads(out)}
    code, out, _ = cli(capsys, "describe", "a100", "--json")
    keys = {row["key"]: row for row in json.loads(out)["keys"]}
    assert code == 0 and keys["time_min"]["value"] == 1440 and "minutes" in keys["time_min"]["meaning"]
    assert {key.partition(".")[0] for key in keys} == set(Profile.model_fields)
    assert keys["gpu.type"]["value"] == "a100"
    code, out, _ = cli(capsys, "describe", "fig4")
    assert code == 0 and "seeds" in out and "pvdr" in out
    assert 'figure.kind = "curves"' in out and "table.published = null" in out and "as results/paper/" in out
