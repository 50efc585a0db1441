"""What runs cost: shares that add up, nothing guessed for runs that do not tell, and the tables of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pvdr_bench.cli.main import main
from pvdr_bench.cli.run import show_outcome
from pvdr_bench.launch.local import Job
from pvdr_bench.results.collect import collect
from pvdr_bench.results.cost_tables import build_cost_table, build_time_table
from pvdr_bench.results.report import build_report
from pvdr_bench.results.tables import to_frame, to_latex, to_markdown
from pvdr_bench.runs.cost import KINDS, cost_of, cost_words, read_cost
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.schema import PhaseRow
from pvdr_bench.words import significant
from tests.results_runs import make_run, make_spec, resealed

GRID: dict[str, Any] = {"env_steps": 0, "phase": "grid", "wall_seconds": 20.0, "device": "cpu",
                        "seconds": {"start": 10.0, "act": 6.0, "act.plan": 4.0, "act.tokenize": 1.0, "env": 3.0,
                                    "env.physics": 2.0, "env.render": 0.5, "reset": 1.0},
                        "calls": {"act": 5}, "flop": {"act": 5e9, "act.plan": 15e9}}
TRAIN: dict[str, Any] = {"env_steps": 8000, "phase": "train", "wall_seconds": 120.0, "device": "cpu",
                         "seconds": {"act": 30.0, "act.plan": 20.0, "act.tokenize": 5.0, "env": 20.0,
                                     "env.physics": 8.0, "env.render": 10.0, "observe": 6.0, "observe.plan": 2.0,
                                     "learn": 30.0, "learn.policy": 29.0, "reset": 4.0},
                         "calls": {"act": 250, "learn": 250, "learn.policy": 2},
                         "flop": {"act": 2e12, "act.plan": 8e12, "learn.policy": 20e12}}
FINAL: dict[str, Any] = {"env_steps": 8000, "phase": "final", "wall_seconds": 160.0, "device": "cpu",
                         "seconds": {"checkpoint": 5.0, "act": 20.0, "env": 10.0},
                         "calls": {"act": 100}, "flop": {"act": 2e12}, "dropped_seconds": 20.0}


def rows(*phases: dict[str, Any], **changes: Any) -> list[PhaseRow]:
    return [{**phase, "evaluation_seconds": 0.0, **changes} for phase in phases]  # type: ignore[typeddict-item]


def test_shares_are_of_the_whole_run_and_add_up() -> None:
    cost = cost_of(rows(GRID, TRAIN, FINAL), action_repeat=4)
    seconds = {"physics": 8, "rendering": 10, "tokenizing": 5, "planning": 22, "acting": 5, "learning": 30 + 4,
               "evaluating": 10 + 35, "other": 10 + 5 + 2 + 4 + 10}
    assert sum(seconds.values()) == 160 and set(seconds) == set(KINDS)
    for kind, value in seconds.items():
        assert cost.shares[kind] == pytest.approx(value / 160), kind
    assert cost.evaluation["planning"] == pytest.approx(4 / 45) and cost.evaluation["physics"] == pytest.approx(2 / 45)
    assert cost.hours == pytest.approx(180 / 3600) and cost.device == "cpu"
    assert cost.decisions_per_second == pytest.approx(2000 / 100)
    assert cost.acting == pytest.approx(5e9) and cost.learning == pytest.approx(1e10)
    assert cost.update == pytest.approx(1e13) and cost.flop == pytest.approx(32.02e12)
    assert cost_words(cost) == ("0.05 CPU-hours, 20 decisions/s: evaluating 28 %, learning 21 %, planning 14 %, "
                                "rendering 6 %, physics 5 %, tokenizing 3 %, acting 3 %, other 19 %")


def test_what_a_run_does_not_tell_is_not_guessed() -> None:
    old = rows(TRAIN, FINAL)
    for row in old:
        del row["calls"], row["flop"]
        row["seconds"] = {part: seconds for part, seconds in row["seconds"].items()
                          if part.split(".")[-1] not in ("tokenize", "physics", "render")}
    cost = cost_of(old, action_repeat=4)
    unknown = {kind for kind, share in cost.shares.items() if share is None}
    assert unknown == {"physics", "rendering", "tokenizing", "acting"}
    assert cost.shares["planning"] == pytest.approx(22 / 160) and cost.flop is cost.acting is cost.update is None
    assert sum(share or 0 for share in cost.shares.values()) == pytest.approx(1)
    silent = rows(TRAIN)
    silent[0]["seconds"] = {"act": 10.0, "env": 5.0, "learn": 50.0}  # a simulator and a learner that name no parts
    cost = cost_of(silent, action_repeat=4)
    assert cost.shares["physics"] is cost.shares["rendering"] is cost.flop is None and cost.shares["tokenizing"] == 0
    assert cost_words(read_cost(RunDir(Path("nowhere")), 4)) == ""


def test_three_digits_that_matter() -> None:
    assert [significant(x) for x in (0.0, 0.012345, 1.0, 45.678, 12345.6, 0.9996)] == [
        "0", "0.0123", "1.00", "45.7", "12,300", "1.00"]


def told(root: Path, seed: int, phases: list[PhaseRow], artefacts: dict[str, float | None] | None = None,
         **arguments: Any) -> None:
    path = make_run(root, [0.5], seed=seed, env_steps=8000, **arguments)
    log = RunDir(path).timing
    for row in phases:
        log.append(dict(row))
    log.close()
    if artefacts is not None:
        (path / "artefacts.json").write_text(json.dumps({
            stage: {"stage": stage, "name": "n", "hash": "h", "weights_sha256": "w", **(
                {"wall_seconds": seconds, "device": "cpu", "flop": 1e9 * seconds} if seconds is not None else {})}
            for stage, seconds in artefacts.items()}))
    resealed(path, wall_seconds=160.0, success_any=0.5, success_end=0.25, episodes=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cost")
    for seed in range(2):
        told(root, seed, rows(GRID, TRAIN, FINAL), {"tokenize": 1800.0, "pretrain": 5400.0}, variant="pvdr",
             corpus="metaworld", algorithm="pvdr", title="PVDR")
        told(root, seed, rows(GRID, TRAIN, FINAL, device="cuda"), {"pretrain": None}, variant="stg", algorithm="stg",
             title="STG")
        told(root, seed, [], variant="ppo", title="PPO")  # as runs were before there were phases
    return root


def test_tables_stand_beside_success_and_dashes_for_old_runs(folder: Path) -> None:
    results = collect(folder)
    cost, time = build_cost_table(results), build_time_table(results)
    lines = {line.split(" | ")[0].strip("| "): line for line in to_markdown(cost).splitlines() if line.startswith("|")}
    assert lines["method"].count("hours") == 4 and "GPU-hours" in lines["method"] and "CPU-hours" in lines["method"]
    assert ("| 50.0 [50.0, 50.0] (n = 2) | 0.0500 [0.0500, 0.0500] (n = 2) | — | — | 2.00 [2.00, 2.00] (n = 2) | 5.00"
            in lines["PVDR (metaworld)"])
    assert lines["PPO"].count("—") == 8 and lines["STG"].count("—") == 4 and "0.0444" in lines["PPO"]
    assert lines["method"].rstrip(" |").endswith("artefact TFLOP")
    assert lines["PVDR (metaworld)"].endswith("| 7.20 [7.20, 7.20] (n = 2) |")  # of 1800 and 5400 s at 1e9 FLOP/s
    frame = to_frame(time)
    shares = frame[frame["variant"].eq("pvdr") & frame["statistic"].isin(list(KINDS))]
    assert shares["value"].sum() == pytest.approx(1) and set(shares["metric"]) == {"time"}
    assert "CPU-hours" in to_latex(cost) and "not the same compute" in cost.caption and "add up to 100" in time.caption


def test_hours_have_no_interval_below_zero_and_captions_tell_budgets_and_protocol(tmp_path: Path) -> None:
    for seed, seconds in enumerate((100.0, 3000.0)):
        told(tmp_path, seed, [], variant="ppo")
        resealed(make_spec(seed=seed).path(tmp_path), wall_seconds=seconds, success_any=0.5, success_end=0.25,
                 episodes=100)
    cost, time = build_cost_table(collect(tmp_path)), build_time_table(collect(tmp_path))
    frame = to_frame(cost)
    hours = frame[frame["statistic"].str.endswith("hours")].dropna(subset=["low"])
    assert len(hours) == 1 and hours["low"].item() == 0.0 < hours["value"].item() < hours["high"].item()
    make_run(tmp_path, [0.5, 0.5], variant="pvdr")
    other = build_cost_table(collect(tmp_path))
    for table, budgets in ((cost, "8000"), (time, "8000"), (other, "8000 to 16000")):
        assert f"Evaluated after {budgets} env_steps" in table.caption and "Protocol pvdr, scale cpu" in table.caption
    assert "methods were given the same env_steps" in cost.caption
    assert "methods were not given the same env_steps" in other.caption and "budgets differ" in other.caption


def test_the_report_has_them_beside_each_other(folder: Path) -> None:
    page = build_report(collect(folder)).html
    section = page[page.index('<section id="cost"'):]
    cost = section[section.index('id="cost-table"'):section.index('id="time-table"')]
    assert all(word in cost for word in ("success rate", "CPU-hours", "GPU-hours", "0.0500", ">—<"))
    assert "planning" in section[section.index('id="time-table"'):] and "by env_steps, not by compute" in section


def test_a_finished_runs_line_tells_its_outcome_and_its_cost(folder: Path) -> None:
    specs = {name: make_spec(variant=name, corpus=corpus, algorithm=name) for name, corpus in (
        ("pvdr", "metaworld"), ("ppo", None), ("stg", None))}
    jobs = [Job(spec, spec.path(folder), "done" if name == "pvdr" else "skipped") for name, spec in specs.items()]
    gone = make_spec(variant="ppo", seed=7)
    jobs.append(Job(gone, gone.path(folder), "failed", message="out of memory"))
    out = io.StringIO()
    show_outcome(Console(file=out, width=20), jobs)  # nothing is wrapped
    words = "success 50 % at any step, 25 % at the end, of 100 episodes"
    assert out.getvalue().splitlines() == [
        f"    done  pvdr · reach · metaworld · seed 0: {words}",
        "          0.05 CPU-hours, 20 decisions/s: evaluating 28 %, learning 21 %, planning 14 %, rendering 6 %, "
        "physics 5 %, tokenizing 3 %, acting 3 %, other 19 %",
        f" skipped  ppo · reach · seed 0: {words}",
        "          0.04 hours",
        f" skipped  stg · reach · seed 0: {words}",
        "          0.05 GPU-hours, 20 decisions/s: evaluating 28 %, learning 21 %, planning 14 %, rendering 6 %, "
        "physics 5 %, tokenizing 3 %, acting 3 %, other 19 %",
        "  failed  ppo · reach · seed 7: out of memory"]


def test_the_command_prints_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["table", "--results", str(folder), "--columns", "time", "--json"])
    assert end.value.code == 0
    told_ = json.loads(capsys.readouterr().out)
    assert {row["statistic"] for row in told_["rows"]} >= {"decisions per second", "CPU-hours", "planning", "other"}
    with pytest.raises(SystemExit) as end:
        main(["table", "--results", str(folder), "--columns", "cost", "--aggregates"])
    assert end.value.code == 2 and "--columns cost" in capsys.readouterr().err
