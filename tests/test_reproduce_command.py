"""`reproduce` as a command: the plan against counts by hand, where rates are from, what is in the way, and a whole one
that is interrupted and goes on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.launch.rates import Place, Rates, reference_folders, size_of
from pvdr_bench.launch.worker import StopFlag
from pvdr_bench.results.paper import paper_folder
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import finish
from tests.slurm_fakes import FakeSlurm, slurm
from tests.test_cli_run import cli

__all__ = ["slurm"]

ONE = """title: One
source: a paper, Fig. 1
scale: smoke
seeds: 2
figure: {kind: curves}
grid:
  - methods: [pvdr, ppo, random]
    tasks: [reach, window-open]
    videos: [metaworld]
  - methods: [pvdr]
    tasks: [reach]
    videos: [fetch-push]
    seeds: 1
"""
TWO = """title: Two
scale: smoke
seeds: 3
grid:
  - methods: [ppo]
    tasks: [reach]
    overrides: [protocol.env_steps=640]
  - methods: [stg]
    tasks: [dial-turn]
    videos: [metaworld]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with two experiments and the two together; data and results elsewhere."""
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    for name, text in (("one", ONE), ("two", TWO), ("both", "title: Both\nexperiments: [one, two]\n")):
        (tmp_path / "mine" / "experiments" / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path / "mine"))
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def plan(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    here = () if "--profile" in words else ("--device", "cpu")
    code, out, err = cli(capsys, "reproduce", *words, "--results", str(folder / "results"), "--dry-run", "--json",
                         *here)
    assert code == 0, err
    facts: dict[str, Any] = json.loads(out)
    return facts


def done(folder: Path, method: str, task: str, seed: int, seconds: float, env_steps: int = 320,
         checkpoint: bool = False) -> RunDir:
    spec = load_catalog().resolve(method, task, seed, "smoke", overrides=[f"protocol.env_steps={env_steps}"])
    run_dir = RunDir(spec.path(folder / "results"))
    with run_dir.lock():
        run_dir.open(spec)
        if checkpoint:
            run_dir.checkpoints.save(env_steps, {})
        finish(run_dir, env_steps, wall_seconds=seconds)
    return run_dir


def test_a_plan_counts_as_one_counts_by_hand(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    done(folder, "random", "reach", 0, 32.0)
    done(folder, "ppo", "reach", 1, 64.0, checkpoint=True)  # of 320 env_steps, where TWO asks for 640: it goes on
    facts = plan(capsys, folder, "both")
    # one: (pvdr, ppo, random) x 2 tasks x 2 seeds, and pvdr on fetch-push; two: ppo x 3 seeds and stg x 3 seeds
    assert facts["asked"] == (3 * 2 * 2 + 1) + (3 + 3)
    assert facts["shared"] == 2 and facts["runs"] == 17  # ppo on reach, seeds 0 and 1, are of both
    assert facts["states"] == {"new": 15, "continue": 0, "extend": 1, "done": 1}
    assert {kind["variant"]: kind["runs"] for kind in facts["kinds"]} == {"pvdr": 5, "ppo": 5, "random": 3, "stg": 3}
    users = {one["label"]: one["runs"] for one in facts["artefacts"]}
    catalog, wanted = load_catalog(), Counter[str]()
    runs = [("pvdr", task, seed, "metaworld") for task in ("reach", "window-open") for seed in (0, 1)]
    runs += [("pvdr", "reach", 0, "fetch-push"), *(("stg", "dial-turn", seed, "metaworld") for seed in range(3))]
    runs += [("ppo", "reach", seed, "metaworld") for seed in range(3)]
    runs += [("ppo", "window-open", seed, "metaworld") for seed in range(2)]
    runs += [("random", *where, "metaworld") for where in (("reach", 1), ("window-open", 0), ("window-open", 1))]
    for method, task, seed, corpus in runs:
        spec = catalog.resolve(method, task, seed, "smoke", videos=corpus)
        wanted.update(node.label for node in stage_graph(spec, catalog))
    assert users == dict(wanted)
    assert {one["label"]: one["variants"] for one in facts["artefacts"]}["tokenize tokenizer · smoke"] == [
        "pvdr", "ppo", "random", "stg"]
    assert not any(one["there"] for one in facts["artefacts"])
    # a rate of 0.1 s an env_step for random, 0.2 for ppo, whose runs are 4 x 320 or 640 env_steps, but for 320 made
    hours = {kind["variant"]: kind["hours"] for kind in facts["kinds"]}
    assert hours["random"] == pytest.approx(3 * 320 * 0.1 / 3600)
    assert hours["ppo"] == pytest.approx((2 * 640 + 320 + 2 * 320) * 0.2 / 3600)
    assert facts["hours_unknown"] == {"pvdr": 5, "stg": 3}
    assert facts["hours"] == pytest.approx(hours["random"] + hours["ppo"])
    part = plan(capsys, folder, "both", "--tasks", "reach", "--methods", "ppo,pvdr", "--seeds", "1,")
    assert [one["runs"] for one in part["experiments"]] == [3, 1] and part["runs"] == 3  # pvdr on both corpora
    other = plan(capsys, folder, "both", "--methods", "pvdr,ppo", "--videos", "fetch-push")
    # pvdr x 2 tasks x 2 seeds, of which one was there on that corpus; ppo, which has none, x 5, as before
    assert {kind["variant"]: kind["runs"] for kind in other["kinds"]} == {"pvdr": 4, "ppo": 5}
    labels = [one["label"] for one in other["artefacts"]]
    assert labels == ["tokenize tokenizer · smoke", "pretrain pvdr on fetch-push · smoke"]
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["ppo", "random"]  # nothing was written


def test_what_cannot_be_trained_on_is_refused_before_anything_runs_and_drawn_all_the_same(
        capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "mine" / "experiments" / "budgets.yaml").write_text(
        "title: Budgets\nscale: smoke\nseeds: 1\nfigure: {kind: curves}\ngrid:\n"
        "  - {methods: [ppo, efficientzero], tasks: [reach], overrides: [protocol.env_steps=640]}\n")
    run_dir, command = done(folder, "ppo", "reach", 0, 64.0), ("reproduce", "budgets", "--device", "cpu", "--results",
                                                               str(folder / "results"))
    for words in (("--dry-run",), ()):
        code, out, err = cli(capsys, *command, *words)
        assert code == 5 and not out and "to train on would erase it" in err and str(run_dir.path) in err
    run_dir.checkpoints.save(320, {})
    done(folder, "efficientzero", "reach", 0, 64.0)
    for words in (("--dry-run",), ()):
        code, _, err = cli(capsys, *command, *words)
        assert code == 7 and "the schedules of efficientzero follow the budget" in err
    shutil.rmtree(run_dir.checkpoints.path(320))
    code, out, err = cli(capsys, *command, "--draw-only")
    assert code == 0, err
    for name in ("ppo", "efficientzero"):
        assert f"{name}: reach: seed 0 at 320 of 640 env_steps" in out
    assert (folder / "results/reproduce/budgets.png").exists()


def test_a_part_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = cli(capsys, "reproduce", "one", "--tasks", "reach,dial-turn", "--dry-run")
    assert code == 2 and "one has no dial-turn" in err and "there is: reach, window-open" in err
    code, _, err = cli(capsys, "reproduce", "ones", "--dry-run")
    assert code == 3 and "did you mean 'one'" in err
    code, out, _ = cli(capsys, "reproduce", "two", "--methods", "ppo", "--results", str(folder / "no"), "--draw-only")
    assert code == 0 and "two: there is no run yet" in out


@pytest.mark.parametrize(("words", "option"), [
    (("--pretrain-profile", "cpu"), "--pretrain-profile: there is no cluster"),
    (("--profile", "cpu", "--fresh"), "--fresh: the runs go to cpu"),
    (("--profile", "cpu", "--jobs", "2"), "--jobs: the runs go to cpu"),
    (("--profile", "cpu", "--device", "cuda"), "--device: the runs go to cpu")])
def test_an_option_that_would_do_nothing_is_refused(capsys: pytest.CaptureFixture[str], folder: Path,
                                                    words: tuple[str, ...], option: str) -> None:
    code, _, err = cli(capsys, "reproduce", "one", "--dry-run", *words)
    assert code == 2 and option in err and "->" in err


@pytest.mark.parametrize(("drawn", "line", "words"), [
    ("figure: {kind: sweep, key: gama}", 1, "unknown key 'gama' of method ppo"),
    ("table: {published: Table 9}", 1, "unknown published table 'Table 9'"),
    ("experiments: [wrong]", 1, "experiment wrong is made of itself: wrong -> wrong")])
def test_what_cannot_be_drawn_is_refused_before_anything_is_run(
        capsys: pytest.CaptureFixture[str], folder: Path, drawn: str, line: int, words: str) -> None:
    grid = "" if "experiments" in drawn else "\ngrid:\n  - {methods: [ppo], tasks: [reach]}"
    (folder / "mine" / "experiments" / "wrong.yaml").write_text(f"{drawn}{grid}\n")
    code, _, err = cli(capsys, "reproduce", "wrong", "--scale", "smoke", "--results", str(folder / "results"))
    assert code == 3 and f"wrong.yaml:{line}: {words}" in err and "->" in err
    assert not (folder / "results").exists()


def test_budgets_that_differ_are_told_before_anything_is_run(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = cli(capsys, "reproduce", "two", "--results", str(folder / "results"), "--dry-run", "--device", "cpu")
    assert code == 0 and "320 (stg); 640 (ppo) env_steps. -o protocol.env_steps=640 gives all the same" in out


def test_where_a_rate_is_from(folder: Path) -> None:
    catalog, results = load_catalog(), folder / "results"
    done(folder, "ppo", "reach", 0, 640.0)
    cpu = Rates(catalog, results, Place("cpu"), reference_folders(), paper_folder())
    known = cpu.of(catalog.resolve("ppo", "window-open", 3, "smoke"))
    assert known is not None and known.per_step == 2.0 and known.source == "1 finished run in the results folder"
    variant = cpu.of(catalog.resolve("ppo@gamma=0.9", "reach", 0, "smoke"))
    assert variant is not None and (variant.of, variant.per_step) == ("ppo", 2.0)
    (folder / "mine" / "tasks").mkdir()
    (folder / "mine" / "tasks" / "dot.yaml").write_text("suite: dummy\nenv_id: point\n")
    done(folder, "random", "dot", 0, 1.0)
    catalog = load_catalog()
    rates = Rates(catalog, results, Place("cpu"))
    assert rates.of(catalog.resolve("random", "reach", 0, "smoke")) is None  # another suite's run tells nothing
    assert rates.of(catalog.resolve("random", "dot", 1, "smoke")) is not None
    own = cpu.of(catalog.resolve("pvdr-taught", "reach", 0, "cpu"))  # of its own, but with fewer episodes
    assert own is not None and own.of == "pvdr-taught" and own.source.endswith(", under other keys of the protocol")
    packed = cpu.of(catalog.resolve("pvdr-goal-last", "reach", 0, "cpu"))  # extends pvdr, whose runs are packed
    assert packed is not None and packed.of == "pvdr" and "reach-cpu" in packed.source
    assert packed.per_step == pytest.approx(0.03, abs=0.02)
    assert cpu.of(catalog.resolve("pvdr", "reach", 0, "paper")) is None
    for gpu, hours in (("a100", 12.0), ("h100", None), ("", None)):
        cuda = Rates(catalog, results, Place("cuda", gpu), reference_folders(), paper_folder())
        told = cuda.of(catalog.resolve("pvdr-scratch", "reach", 0, "paper"))
        assert (None if told is None else told.seconds(10, 20) / 3600) == (None if hours is None else hours / 2)
        assert cuda.of(catalog.resolve("ppo", "reach", 0, "smoke")) is None  # its run was on a processor
        assert cuda.of(catalog.resolve("apv", "reach", 0, "paper")) is None


def test_disk_is_measured_or_counted_or_unknown(folder: Path) -> None:
    catalog, results = load_catalog(), folder / "results"
    done(folder, "ppo", "reach", 0, 1.0)
    measured = size_of(catalog.resolve("ppo", "reach", 1, "smoke"), catalog, results)
    assert measured is not None and not measured.least and measured.bytes > 1000
    counted = size_of(catalog.resolve("pvdr-scratch", "reach", 0, "paper"), catalog, results)
    assert counted is not None and counted.least and counted.bytes == 71133065 * 4 * 3 * 3
    apv = catalog.resolve("apv", "reach", 0, "cpu")
    frames = size_of(apv, catalog, results)
    assert frames is not None and frames.bytes == apv.protocol.env_steps // apv.protocol.action_repeat * 3 * 64 * 64
    assert size_of(catalog.resolve("stg", "reach", 0, "paper"), catalog, results) is None


def test_what_is_not_here_is_told_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "mine" / "experiments" / "all.yaml").write_text("title: All\nexperiments: [table5-real, fig7, one]\n")
    facts = plan(capsys, folder, "all", "--scale", "paper", "--seeds", "1", "--methods", "pvdr,ppo")
    real, fig7, one = facts["experiments"]
    assert "no videos of bair, jaco-play, cable-routing are here" in real["obstacle"] and "fetch bair" in real["hint"]
    assert "the suite rlbench is not ready" in fig7["obstacle"] and "doctor" in fig7["hint"]
    assert one["obstacle"] is None and facts["runs"] == one["runs"] == 2 * 2 + 1
    real, fig7, one = plan(capsys, folder, "all", "--scale", "paper", "--seeds", "1", "--methods", "pvdr,ppo",
                           "--profile", "a100")["experiments"]
    assert fig7["obstacle"] is None and real["obstacle"] is not None, "a cluster's nodes have simulators of their own"
    for name, missing in (("table5-real", "bair"), ("fig7", "rlbench")):
        ended, _, err = cli(capsys, "reproduce", name, "--results", str(folder / "results"), "--device", "cpu")
        assert ended == 4 and missing in err


def test_with_a_profile_what_is_missing_is_submitted_and_what_there_is_drawn(
        capsys: pytest.CaptureFixture[str], slurm: FakeSlurm, folder: Path) -> None:
    (folder / "mine" / "experiments" / "floor.yaml").write_text(
        "protocol: apv\nscale: smoke\nseeds: 3\nfigure: {kind: curves}\ngrid:\n"
        "  - {methods: [random], tasks: [reach]}\n")
    spec = load_catalog().resolve("random", "reach", 1, "smoke", "apv")
    run_dir = RunDir(spec.path(folder / "results"))
    with run_dir.lock():
        run_dir.open(spec)
        finish(run_dir, spec.protocol.env_steps, wall_seconds=64.0)
    command = ("reproduce", "floor", "--profile", "cpu", "--results", str(folder / "results"))
    code, out, err = cli(capsys, *command)
    assert code == 0, err
    assert "3 runs: 2 new, 1 done" in out and "2 runs submitted with profile cpu" in out
    assert "missing: random: reach: seeds 0, 2 not begun" in out and len(slurm.rows()) == 2
    assert (folder / "results" / "reproduce" / "floor.png").exists()
    code, out, _ = cli(capsys, *command)
    assert code == 0 and "skipped: 2 queued" in out and len(slurm.rows()) == 2


def test_interrupted_and_continued_at_smoke_scale(capsys: pytest.CaptureFixture[str], folder: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine" / "experiments" / "floor.yaml").write_text(
        "title: Floor and ceiling\nprotocol: apv\nscale: smoke\nseeds: 1\nfigure: {kind: curves}\ngrid:\n"
        "  - {methods: [random, scripted], tasks: [dot]}\n")
    (folder / "mine" / "tasks").mkdir()
    (folder / "mine" / "tasks" / "dot.yaml").write_text("suite: dummy\nenv_id: point\n")  # nothing to import
    results = folder / "results"
    command = ("reproduce", "floor", "--results", str(results), "--device", "cpu", "--jobs", "1")
    monkeypatch.setattr("pvdr_bench.bench.pace.measure", lambda *arguments: {})  # half of the time of this test
    with monkeypatch.context() as interrupted:
        interrupted.setattr(StopFlag, "__call__", lambda self: any(results.rglob("done.json")))
        code, out, _ = cli(capsys, *command)
    assert code == 75 and "missing: scripted: dot: seed 0 not begun" in out
    first = next(results.rglob("done.json"))
    before, picture = first.read_bytes(), results / "reproduce" / "floor.png"
    assert first.parts[-6] == "random" and picture.exists()
    assert "Missing: scripted" in picture.with_suffix(".txt").read_text()
    code, out, _ = cli(capsys, *command, "--json")
    told = json.loads(out)
    assert code == 0 and told["states"]["done"] == 1 and first.read_bytes() == before
    assert told["drawn"][0]["missing"] == [] and "Missing" not in picture.with_suffix(".txt").read_text()
    code, out, _ = cli(capsys, *command)
    assert code == 0 and "2 runs: 2 done" in out and "made once" not in out
    published = folder / "published"  # as a folder of reference results: packed, and drawn as it is
    assert cli(capsys, "aggregate", "--results", str(results), "--publish", str(published))[0] == 0
    code, out, _ = cli(capsys, *command[:2], "--results", str(published), "--draw-only")
    assert code == 0 and "  missing: " not in out and not list(published.rglob("done.json"))
    assert "Missing" not in (published / "reproduce" / "floor.txt").read_text()
    code, out, _ = cli(capsys, *command[:2], "--results", str(published), "--dry-run")
    assert code == 0 and "2 runs: 2 done" in out
    code, _, err = cli(capsys, *command[:2], "--results", str(published), "--dry-run", "-o", "protocol.env_steps=64000")
    assert code == 5 and "it was published without its checkpoints" in err
    more = ("--methods", "random", "--seeds", "2", "--device", "cpu", "--jobs", "1")
    code, out, err = cli(capsys, *command[:2], "--results", str(published), *more)
    assert code == 0 and " skipped  random · dot" in out and "2 runs: 1 new, 1 done" in out, err
    (made,) = published.rglob("done.json")  # what is packed is not made again beside one that is missing
    assert made.parent.name == "seed-1"
    (folder / "mine" / "tasks" / "dot.yaml").write_text("suite: dummy\nenv_id: ball\n")
    for words in (("--draw-only",), ("--dry-run",)):  # packed or not, runs of another recipe are not this experiment's
        code, _, err = cli(capsys, *command[:2], "--results", str(published), *words)
        assert code == 7 and "env_id: 'point' (there) -> 'ball'" in err and "runs.zip: random/dot/none/" in err
