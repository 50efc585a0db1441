"""How long all of it takes: before anything runs, while it goes on, and what is drawn on the way."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pvdr_bench.bench.pace import measure
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.launch.estimate import Rate, TimeLeft, done_share, expected, key_of, wall_time
from pvdr_bench.launch.local import Job, Together, Watcher, run_local
from pvdr_bench.launch.plan import RunPlan, plan_runs
from pvdr_bench.launch.progress import PlainLines, summary
from pvdr_bench.launch.rates import Place, Rates
from pvdr_bench.launch.redraw import Redraw
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.training.online import Pieces, run_online
from tests.dummies import EPISODE, SYNC, OnPolicyDummy, make_pieces, make_spec
from tests.results_runs import finish, make_grid
from tests.results_runs import make_spec as made_spec

COMMAND = (sys.executable, "-m", "tests.dummies", "worker")


def test_runs_share_cores_and_the_last_ones_have_them_alone() -> None:
    assert wall_time([], 2, 2) == 0.0
    assert wall_time([10.0, 10.0, 10.0], 2, 2) == 20.0
    assert wall_time([10.0, 10.0, 10.0], 3, 2) == 15.0
    assert wall_time([10.0] * 5, 3, 2) == 25.0  # three and then two
    assert wall_time([30.0, 10.0, 10.0, 10.0], 2, 2) == 30.0  # the long one beside the others
    assert wall_time([4.0, 2.0], 8, 1) == 6.0


def plans_of(tmp_path: Path, seeds: Sequence[int] = (0, 1), **options: Any) -> list[RunPlan]:
    return plan_runs([make_spec(seed=seed, **options) for seed in seeds], tmp_path)


def test_what_is_expected_is_start_training_and_evaluation(tmp_path: Path) -> None:
    plan = plans_of(tmp_path, [0])[0]
    rate = Rate(train=2.0, evaluate=0.5, start=3.0)
    assert expected(plan, rate) == 3.0 + 2.0 * 2 * SYNC + 0.5 * (3 * 3 + 5) * EPISODE
    whole = expected(plan, rate)
    shares = [done_share(plan, rate, steps, phase) for steps, phase in (
        (0, "evaluate grid"), (0, "train"), (SYNC // 2, "train"), (SYNC, "evaluate grid"), (SYNC, "train"),
        (2 * SYNC, "evaluate grid"), (2 * SYNC, "evaluate final"))]
    assert shares == sorted(shares) and len(set(shares)) == len(shares) and shares[0] == 3.0 / whole
    assert shares[1] == (3.0 + 0.5 * 3 * EPISODE) / whole
    assert shares[-1] == pytest.approx(1 - 0.5 * 5 * EPISODE / whole)  # the final evaluation is all that is left


class Started(Job):
    """A running job whose process has run for as long as the test says."""

    elapsed = 0.0

    @property
    def seconds(self) -> float:
        return self.elapsed


def test_one_time_left_for_all_follows_the_pace_of_what_was_done(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, [0, 1, 2, 3])
    rates = {key_of(plan.spec): Rate(1.0, 1.0) for plan in plans}
    left, unknown = TimeLeft(plans, rates, 2, 2), TimeLeft(plans, {}, 2, 2)
    whole = expected(plans[0], Rate(1.0, 1.0))
    jobs = [Started(plan.spec, plan.path) for plan in plans]
    assert left.at_start() == left.left(jobs) == 2 * whole and left.whole
    assert unknown.at_start() is None and unknown.left(jobs) is None
    assert "0 of 4 runs done, time left for all: -" in summary(jobs, unknown)

    for job in jobs[:2]:  # both at a third, in three times the time that was expected
        job.state, job.elapsed = "running", whole
        run_dir = RunDir(job.path)
        with run_dir.lock():
            run_dir.heartbeat(every_seconds=0, phase="train", env_steps=0, rate=1.0)
        share = done_share(plans[0], Rate(1.0, 1.0), 0, "train")
    for each in (left, unknown):  # no rate is needed once something was done
        assert each.left(jobs) == pytest.approx(whole / share * (1 - share) + whole / share)
    jobs[0].state = jobs[1].state = "done"
    assert left.left(jobs) == pytest.approx(whole)  # two more, side by side, each in the time the first two took
    jobs[2].state = jobs[3].state = "failed"
    assert left.left(jobs) == 0.0


def test_a_pace_without_updates_is_not_believed_and_updates_count_as_work(tmp_path: Path) -> None:
    plan, rate = plans_of(tmp_path, [0])[0], Rate(train=2.0, evaluate=0.5)
    left, job = TimeLeft([plan], {key_of(plan.spec): rate}, 1, 1), Started(plan.spec, plan.path, state="running")
    run_dir, whole, told = RunDir(job.path), expected(plan, rate), list[float | None]()
    with run_dir.lock():
        for elapsed, steps, learned in ((5.0, SYNC // 2, 0.0), (500.0, SYNC // 2, 0.0), (500.0, SYNC // 2, 0.3)):
            job.elapsed = elapsed
            run_dir.heartbeat(phase="train", env_steps=steps, learned=learned)
            told.append(left.left([job]))
            assert TimeLeft([plan], {}, 1, 1).left([job]) is None or learned, "nothing is known of what it will take"
    acted = 0.5 * (3 * EPISODE + SYNC // 2)  # the first evaluation, and what was trained
    assert told[0] == told[1] == pytest.approx(whole - acted), "it does not grow while the first updates are made"
    share = (acted + 0.3 * 1.5 * 2 * SYNC) / whole
    assert told[2] == pytest.approx(500.0 / share * (1 - share))


def test_the_probe_sees_updates_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said: list[str] = []
    specs = [make_spec(), make_spec(seed=1), make_spec("recurrent"), make_spec("never", config={"rollout": 10**9})]
    rates = measure(specs, make_pieces, 0.6, lambda: False, said.append)
    assert set(rates) == {(kind, "smoke", "dummy") for kind in ("onpolicy", "recurrent", "never")} and not said
    assert all(rate.train > 0 and rate.evaluate > 0 and rate.start > 0 for rate in rates.values())
    assert rates["onpolicy", "smoke", "dummy"].whole and rates["recurrent", "smoke", "dummy"].whole
    assert not rates["never", "smoke", "dummy"].whole  # learning was never due: training takes longer than this
    assert not list(tmp_path.glob("pvdr-bench*"))


class Bursting(OnPolicyDummy):
    """300 updates of 10 ms once some decisions were made, and one at every decision from then on."""

    FIRST, PREFILL = 300, 8
    decided = made = 0

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.stopwatch, self.took = context.stopwatch, list[float]()

    def updates_due(self, decisions: int) -> int:
        return self.FIRST + decisions - self.PREFILL if decisions >= self.PREFILL else 0

    def observe(self, transition: Transition) -> None:
        self.decided += len(transition.action)

    def learn(self) -> dict[str, float]:
        while self.made < self.updates_due(self.decided):
            with self.stopwatch("update"):
                began = time.monotonic()
                time.sleep(0.01)
                self.took.append(time.monotonic() - began)
            self.made += 1
        return {}


@pytest.mark.parametrize(("env_steps", "whole", "prefill"), [(2 * SYNC, True, 8), (8, False, 8), (2 * SYNC, True, 0)])
def test_of_hundreds_of_updates_due_at_once_a_few_are_timed(env_steps: int, whole: bool, prefill: int,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bursting, "PREFILL", prefill)  # 0: they are due at the first decision
    spec = make_spec("bursting", env_steps=env_steps)
    made: list[Bursting] = []

    def pieces(spec: RunSpec) -> Pieces:
        return replace(make_pieces(spec), make_learner=lambda context: made.append(Bursting(context)) or made[0])

    rate = measure([spec], pieces, 0.3, lambda: False, pytest.fail)["bursting", "smoke", "dummy"]
    assert 2 <= made[0].made < Bursting.FIRST / 2, "the rest is not waited for"
    assert made[0].decided > 2 and rate.evaluate > 0, "it goes on deciding"
    updates = made[0].updates_due(env_steps // spec.protocol.action_repeat)
    assert rate.whole and (updates > 0) == whole
    learning = (rate.train - rate.evaluate) * env_steps
    assert learning == pytest.approx(updates * sum(made[0].took[1:]) / max(1, len(made[0].took) - 1), rel=0.3)


def test_a_run_tells_which_share_of_its_updates_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def heartbeat(self: RunDir, *, every_seconds: float = 0.0, **progress: Any) -> None:
        told.append(progress)

    monkeypatch.setattr(RunDir, "heartbeat", heartbeat)
    monkeypatch.setattr(Bursting, "FIRST", 30)
    spec, run_dir = make_spec("bursting"), RunDir(tmp_path / "bursting")
    with run_dir.lock():
        assert run_online(spec, run_dir, replace(make_pieces(spec), make_learner=Bursting))
    whole = 30 + spec.protocol.env_steps // spec.protocol.action_repeat - Bursting.PREFILL
    shares = list(dict.fromkeys(beat["learned"] for beat in told))
    assert shares[0] == 0.0 and shares[1] >= 30 / whole and shares == sorted(shares) and shares[-1] == 1.0
    told.clear()
    with RunDir(tmp_path / "rounds").lock():
        assert run_online(make_spec(), RunDir(tmp_path / "rounds"), make_pieces(make_spec()))
    assert told and all(beat["learned"] is None for beat in told), "who learns in rounds has no single updates"


def test_what_cannot_be_measured_is_said_and_left_to_its_run() -> None:
    said: list[str] = []
    rates = measure([make_spec(config={"nan_at": 0}), make_spec("recurrent")], make_pieces, 0.2, lambda: False,
                    said.append)
    assert set(rates) == {("recurrent", "smoke", "dummy")}
    assert len(said) == 1 and "onpolicy" in said[0] and "the loss is nan" in said[0]


class Shown(Watcher):
    """Draws as the real one, from results that another test module writes."""

    def __init__(self, results: Path) -> None:
        self.texts: list[str] = []
        self.redraw = Redraw(results, self.texts.append)


def test_curve_and_table_are_drawn_anew_at_each_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_grid(tmp_path, seeds=2)
    specs = [made_spec(seed=seed) for seed in (0, 1)]
    jobs = [Job(spec, spec.path(tmp_path), state="done") for spec in specs]
    shown = Shown(tmp_path)
    shown.redraw.update(jobs)
    shown.redraw.update(jobs)  # nothing new
    assert len(shown.texts) == 1 and (tmp_path / "figures" / "success.png").stat().st_size > 1000
    header, row, curve = shown.texts[0].splitlines()
    assert "success so far" in header and "reach" in row and "2 seeds" in row and curve.endswith("success.png")
    with (jobs[0].path / "episodes.jsonl").open("a") as file:
        file.write("\n")
    jobs[1].state = "running"
    shown.redraw.update(jobs)  # a new evaluation, but the last drawing was just now
    assert len(shown.texts) == 1
    jobs[1].state = "done"
    shown.redraw.update(jobs)  # all are over: nothing is left undrawn
    assert len(shown.texts) == 2
    picture = tmp_path / "figures" / "success.png"
    picture.unlink()
    with (jobs[0].path / "episodes.jsonl").open("a") as file:
        file.write("\n")
    shown.redraw.update(jobs)  # drawn, and the same table is not shown again
    assert len(shown.texts) == 2 and picture.exists()
    picture.unlink()
    phase = {"phase": "evaluate grid"}
    with monkeypatch.context() as patch:
        patch.setattr("pvdr_bench.launch.redraw.facts", lambda job: phase)
        shown.redraw.update(jobs)  # the next evaluation only begins
        phase["phase"] = "train"
        shown.redraw.update(jobs)
    assert not picture.exists()
    table = shown.redraw.final_table(jobs)
    assert "| method | reach |" in table and "95 %" in table and "random" not in table.lower()  # another command's runs


def test_a_picture_that_cannot_be_drawn_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    output = io.StringIO()
    specs = [make_spec(seed=seed) for seed in (0, 1)]
    lines = PlainLines(Console(file=output, width=250), TimeLeft(plan_runs(specs, tmp_path), {}, 2, 2))
    (tmp_path / "figures").write_text("a file where a folder should be")
    jobs = run_local(specs, tmp_path, 2, "cpu", lambda: False, Together(Redraw(tmp_path, lines.show), lines), COMMAND)
    assert [job.state for job in jobs] == ["done", "done"]
    text = output.getvalue()
    assert "not drawn: " in text and "2 of 2 runs done, time left for all: 0:00" in text


def test_the_rate_of_finished_runs_is_of_their_kind_and_device(tmp_path: Path) -> None:
    def rate(device: str = "cpu", suite: str = "metaworld", **spec: Any) -> float | None:
        variant, label, _ = key_of(made_spec(**spec))
        found = Rates(load_catalog(), tmp_path, Place(device)).here(variant, label, suite)
        return found.per_step if found else None

    assert rate() is None
    for seed, seconds in enumerate((32.0, 96.0)):
        spec = made_spec(seed=seed)
        run_dir = RunDir(spec.path(tmp_path))
        run_dir.open(spec)
        assert rate() == (0.5 if seed else None)
        finish(run_dir, 64, wall_seconds=seconds)
    assert rate() == 1.0
    assert rate(variant="pvdr") is None and rate(suite="tabletop") is None and rate("cuda") is None
    assert rate(scale="smoke") is None
