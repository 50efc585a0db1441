"""The plan of `reproduce`: its totals against sums by hand, what artefacts cost, and the whole paper's in one go."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import StageNode, stage_graph
from pvdr_bench.cli.reproduce_plan import facts_of, show
from pvdr_bench.launch.artefact_costs import made_of_kind, size_of_artefact, time_of
from pvdr_bench.launch.kinds import Kind, titled
from pvdr_bench.launch.plan import RunPlan
from pvdr_bench.launch.rates import Known, Place, Size
from pvdr_bench.launch.reproduction import Group, Reproduction, SharedArtefact
from pvdr_bench.runs.files import write_json
from tests.test_cli_run import cli
from tests.test_reproduce_command import done, folder, plan

__all__ = ["folder"]
GIB = 2**30


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


# Totals -----------------------------------------------------------------------------------------------------------


def counted_by_hand(spec: RunSpec) -> Reproduction:
    """Six runs of three kinds, two of them PVDR's, and three artefacts, one of which is there."""
    known = Known("pvdr", "somewhere", per_step=1.0)
    kinds = titled([Kind("pvdr", "paper", "metaworld", 2, known, 24.0, Size(2.0 * GIB, "measured")),
                    Kind("pvdr", "paper", "rlbench", 3, None, None, None),
                    Kind("ppo", "paper", "metaworld", 1, known, 6.0, Size(1.0 * GIB, "counted", least=True))])
    artefacts = (SharedArtefact("tokenize a", ("pvdr", "ppo"), 6, True, 5.0, 4, "before", 7.0 * GIB),
                 SharedArtefact("pretrain b", ("pvdr",), 2, False, 10.0, 8, "a paper", 0.5 * GIB),
                 SharedArtefact("pretrain c", ("pvdr",), 3, False))
    experiment = Experiment.model_validate({"name": "one", "grid": [{"methods": ["pvdr"], "tasks": ["reach"]}]})
    plans = tuple(RunPlan(spec, Path("none"), "new", 0) for _ in range(6))
    return Reproduction((Group(experiment, (spec,)),), plans, 7, artefacts, kinds)


def site(device: str, **keys: Any) -> Profile:
    gpu = {"style": "gres", "type": "a100"} if device == "cuda" else {"style": "none"}
    return Profile.model_validate({"name": "site", "device": device, "gpu": gpu, "scale": "paper", "cpus_per_task": 2,
                                   "time_min": 60, **keys})


def test_totals_are_the_sums_by_hand(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    plan = counted_by_hand(catalog.resolve("pvdr", "reach", 0, "smoke"))
    profile = site("cuda", array_parallelism=3, runs_per_job=2)
    facts = facts_of(plan, Place("cuda", "a100"), profile, 1) | {"experiment": "one"}
    assert (facts["runs"], facts["asked"], facts["shared"]) == (6, 7, 1)
    assert facts["hours"] == 24.0 + 6.0 and facts["at_a_time"] == 3 * 2
    assert facts["gpu_hours"] == 30.0 / 2, "two runs share a GPU"
    assert facts["hours_unknown"] == facts["disk_unknown"] == {"pvdr (rlbench)": 3}
    assert facts["disk_bytes"] == (2 * 2 + 1) * GIB and facts["disk_least"]
    assert (facts["artefact_hours"], facts["artefact_gpu_hours"], facts["artefact_hours_unknown"]) == (10.0, 80.0, 1)
    assert (facts["artefact_disk_bytes"], facts["artefact_disk_unknown"]) == (0.5 * GIB, 1)
    assert [(kind["variant"], kind["suite"], kind["hours"]) for kind in facts["kinds"]] == [
        ("pvdr", "metaworld", 24.0), ("pvdr", "rlbench", None), ("ppo", "metaworld", 6.0)]
    show(plan, facts, Path("results"), profile)
    out = capsys.readouterr().out
    for line in ("together: 30.0 h, 15 GPU-hours for 3 of 6 runs, at most 6 at a time: 10.0 h at best",
                 "pvdr (rlbench): 3 runs, unknown", "pvdr (metaworld), ppo: 3 runs, 30.0 h, as pvdr: somewhere",
                 "together 10 h, 80 GPU-hours for 1 of 2 to be made",
                 "disk: at least 5.0 GiB, and 512.0 MiB of artefacts, nothing is known of pvdr (rlbench)"):
        assert line in out
    for place, where, jobs, together, gpu_hours in (
            (Place("cpu"), None, 1, 1, 0.0), (Place("cuda"), None, 4, 1, 30.0),
            (Place("cpu"), site("cpu", array_parallelism=5), 9, 5, 0.0)):
        facts = facts_of(plan, place, where, jobs)
        assert (facts["at_a_time"], facts["gpu_hours"], facts["hours"]) == (together, gpu_hours, 30.0)


def test_a_method_in_two_suites_is_two_kinds(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "mine" / "tasks").mkdir()
    (folder / "mine" / "tasks" / "dot.yaml").write_text("suite: dummy\nenv_id: point\n")
    (folder / "mine" / "experiments" / "suites.yaml").write_text(
        "scale: smoke\nseeds: 3\nfigure: {kind: curves}\n"
        "grid:\n  - {methods: [random], tasks: [dot, reach, dial-turn]}\n")
    facts = plan(capsys, folder, "suites")
    assert facts["hours_unknown"] == {"random (dummy)": 3, "random (metaworld)": 6}
    done(folder, "random", "reach", 0, 32.0)
    facts = plan(capsys, folder, "suites")
    assert facts["hours_unknown"] == {"random (dummy)": 3}
    assert facts["hours"] == pytest.approx(5 * 320 * 0.1 / 3600)
    _, out, _ = cli(capsys, "reproduce", "suites", "--results", str(folder / "results"), "--dry-run", "--device", "cpu")
    assert "for 5 of 8 runs" in out and "without random (dummy):" in out


# Artefacts --------------------------------------------------------------------------------------------------------


def make(root: Path, node: StageNode, name: str, *, rows: list[tuple[int, float, str]], gpu: str = "",
         processes: int = 1, **changes: Any) -> Path:
    """An artefact's folder as a stage leaves it, without its weights."""
    path = root / node.stage.name / name
    path.mkdir(parents=True)
    write_json(path / "manifest.json", {"stage": node.stage.name, "name": name.rpartition("-")[0], "hash": "0" * 12,
                                        "files": {}})
    write_json(path / "recipe.json", {"stage": node.stage.name, "algorithm": node.info.name,
                                      "image_size": node.image_size, "config": node.own_config(), **changes})
    write_json(path / "provenance.json", {"torch": {"devices": [gpu] if gpu else []}})
    write_json(path / "metrics.json", {"processes": processes} if processes > 1 else {})
    (path / "timing.jsonl").write_text("".join(
        json.dumps({"step": step, "wall_seconds": seconds, "device": device}) + "\n" for step, seconds, device in rows))
    return path


def test_an_artefact_takes_as_long_as_the_nearest_of_its_kind(catalog: Catalog, tmp_path: Path) -> None:
    node = stage_graph(catalog.resolve("pvdr", "reach", 0, "smoke", videos="metaworld"), catalog)[1]
    steps = node.config.schedule(node.stage.name).steps
    cpu, cuda, a100 = Place("cpu"), Place("cuda"), Place("cuda", "a100")
    assert made_of_kind(node, tmp_path) == [] and size_of_artefact([]) is None
    own, other = node.own_config(), node.own_config()
    other["pretrain"] = {**own["pretrain"], "lambda1": 0.7, "steps": 9}
    make(tmp_path, node, "pvdr-far-smoke-aaaaaaaaaaaa", rows=[(9, 900.0, "cpu")], config=other)
    assert made_of_kind(node, tmp_path)[0].apart == 2
    far = time_of(node, made_of_kind(node, tmp_path), cpu)
    assert far is not None and (far.hours, far.gpus) == (pytest.approx(steps * 100 / 3600), 0)
    assert far.source == "as pvdr-far-smoke took here"
    make(tmp_path, node, "pvdr-near-smoke-bbbbbbbbbbbb", rows=[(4, 2.0, "cpu"), (10, 30.0, "cpu")])
    make(tmp_path, node, "pvdr-paper-dddddddddddd", rows=[(10, 1.0, "cpu")])  # of another scale
    make(tmp_path, node, "pvdr-wide-smoke-eeeeeeeeeeee", rows=[(10, 1.0, "cpu")], image_size=48)
    make(tmp_path, node, "apv-smoke-ffffffffffff", rows=[(10, 1.0, "cpu")], algorithm="another")
    make(tmp_path, node, "pvdr-older-smoke-000000000000", rows=[])
    (make(tmp_path, node, "pvdr-torn-smoke-111111111111", rows=[(10, 1.0, "cpu")]) / "recipe.json").write_text("{")
    found = made_of_kind(node, tmp_path)
    assert [one.name for one in found] == ["pvdr-near-smoke", "pvdr-older-smoke", "pvdr-far-smoke"]
    near = time_of(node, found, cpu)
    assert near is not None and near.hours == pytest.approx(steps * 3 / 3600), "the last row tells the whole"
    size = size_of_artefact(found)
    assert size is not None and 100 < size < 1e5
    assert time_of(node, found, cuda) is None
    make(tmp_path, node, "pvdr-gpu-smoke-222222222222", rows=[(10, 5.0, "cuda")], gpu="NVIDIA H200", processes=4)
    found = made_of_kind(node, tmp_path)
    here = time_of(node, found, cuda)
    assert here is not None and (here.hours, here.gpus) == (pytest.approx(steps * 0.5 / 3600), 4)
    assert time_of(node, found, a100) is None and time_of(node, found, Place("cuda", "h200")) == here


def test_the_plan_tells_what_artefacts_cost(capsys: pytest.CaptureFixture[str], folder: Path, catalog: Catalog) -> None:
    node = stage_graph(catalog.resolve("pvdr", "reach", 0, "smoke", videos="metaworld"), catalog)[1]
    path = make(folder / "data" / "artefacts", node, "pvdr-old-smoke-333333333333", rows=[(10, 36.0, "cpu")])
    facts = plan(capsys, folder, "one", "--methods", "pvdr", "--tasks", "reach")
    costs = {one["label"]: (one["hours"], one["bytes"]) for one in facts["artefacts"]}
    size, hours = sum(file.stat().st_size for file in path.iterdir()), node.config.schedule("pretrain").steps / 1000
    assert costs.pop("tokenize tokenizer · smoke") == (None, None)
    assert len(costs) == 2 and all(cost == (pytest.approx(hours), size) for cost in costs.values())
    assert facts["artefact_hours"] == pytest.approx(2 * hours) and facts["artefact_gpu_hours"] == 0.0
    assert facts["artefact_disk_bytes"] == 2 * size and facts["artefact_hours_unknown"] == 1
    _, out, _ = cli(capsys, "reproduce", "one", "--methods", "pvdr", "--tasks", "reach", "--dry-run", "--device", "cpu",
                    "--results", str(folder / "results"))
    assert f"to be made, {hours:.3g} h (as pvdr-old-smoke took here)" in out and "tokenizer · smoke" in out


# The paper --------------------------------------------------------------------------------------------------------


def test_the_whole_papers_plan_takes_seconds(capsys: pytest.CaptureFixture[str], tmp_path: Path, catalog: Catalog,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    began = time.process_time()
    code, out, err = cli(capsys, "reproduce", "paper", "--dry-run", "--scale", "paper", "--profile", "a100",
                         "--results", str(tmp_path / "results"), "--json")
    spent, facts = time.process_time() - began, json.loads(out)
    assert code == 0, err
    assert spent < 30.0
    assert [one["name"] for one in facts["experiments"]] == list(catalog.experiment("paper").experiments)
    possible = [one for one in facts["experiments"] if not one["obstacle"]]
    assert facts["runs"] + facts["shared"] == sum(one["runs"] for one in possible)
    known = sum(kind["runs"] for kind in facts["kinds"] if kind["hours"] is not None)
    assert known + sum(facts["hours_unknown"].values()) == facts["runs"] == sum(kind["runs"] for kind in facts["kinds"])
    assert "rlbench" in " ".join(facts["hours_unknown"])


@pytest.mark.parametrize(("profile", "hours", "told"), [
    ("a100-8x", 10.0, "80 GPU-hours, 10 h on 8 GPUs (arXiv 2411.03169, Appendix A.1: 8 A100s and 64 cores)"),
    ("", 80.0, "80 GPU-hours, 80 h on 1 GPU (arXiv 2411.03169, Appendix A.1: 8 A100s and 64 cores; there 10 h on"),
    ("cpu", None, "to be made, time not known")])
def test_artefacts_are_made_where_the_pretrain_profile_says(capsys: pytest.CaptureFixture[str], folder: Path,
                                                            profile: str, hours: float | None, told: str) -> None:
    words = ("reproduce", "one", "--methods", "pvdr", "--tasks", "reach", "--scale", "paper", "--profile", "a100",
             "--dry-run", "--results", str(folder / "results"), *(("--pretrain-profile", profile) if profile else ()))
    facts = json.loads(cli(capsys, *words, "--json")[1])
    found = [one for one in facts["artefacts"] if one["label"].startswith("pretrain pvdr")]
    assert len(found) == 2 and {one["hours"] for one in found} == {hours}
    assert facts["artefact_gpu_hours"] == (0.0 if hours is None else 2 * 80.0), "on each of two corpora"
    assert {kind["hours"] for kind in facts["kinds"]} == {12.0 * sum(kind["runs"] for kind in facts["kinds"])}, "runs"
    _, out, _ = cli(capsys, *words)
    assert [told in line for line in out.splitlines() if "pretrain pvdr" in line] == [True, True]
    assert (f"made once, by jobs of profile {profile}:" in out) == bool(profile)
