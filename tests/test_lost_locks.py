"""A process that slept while another one took its lock over writes no more; the other one's files stay whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.errors import LockedError
from pvdr_bench.rl.contract import Learner, LearnerContext
from pvdr_bench.runs.artefacts import ArtefactStore
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.runs.logs import JsonlLog, read_jsonl
from pvdr_bench.training.evaluation import Evaluator
from pvdr_bench.training.execute import execute
from pvdr_bench.training.offline import run_offline
from pvdr_bench.videos.tokens import TOKENS, TokenStore
from tests.dummies import make_pieces, make_spec
from tests.test_runs_artefacts import RECIPE, maker
from tests.test_training_parts import SCHEDULE, Clips, OfflineDummy
from tests.test_videos_tokens import MeanTokenizer, make_corpus


def take_over(lock: Path) -> None:
    """Let a lock be a process's on another machine, as after a requeue."""
    held = json.loads(lock.read_text())
    lock.write_text(json.dumps({**held, "token": "other", "host": "thief"}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock, to be moved by hand."""
    now = [1e9]
    monkeypatch.setattr("pvdr_bench.runs.locks.time.time", lambda: now[0])
    return now


# The lock and the logs ------------------------------------------------------------------------------------------------


def test_what_was_seen_is_believed_for_a_moment_and_not_after_a_sleep(tmp_path: Path, clock: list[float]) -> None:
    with FileLock(tmp_path / "lock") as lock:
        lock.check(1.0)
        take_over(tmp_path / "lock")
        lock.check(1.0)  # it was looked at just now
        clock[0] += 600
        with pytest.raises(LockedError, match="thief"):
            lock.check(1.0)
        with pytest.raises(LockedError, match="thief"):
            lock.check(1e9)  # once lost, always looked at
    with FileLock(tmp_path / "other") as lock:
        lock.check(1.0)
        take_over(tmp_path / "other")
        clock[0] -= 3600  # set back: nothing is known of how long it slept
        with pytest.raises(LockedError, match="thief"):
            lock.check(1.0)


def test_a_lock_that_was_given_back_is_not_believed(tmp_path: Path, clock: list[float]) -> None:
    lock = FileLock(tmp_path / "lock")
    with lock:
        lock.check(1.0)
    with pytest.raises(LockedError, match="nobody"):
        lock.check(1.0)


@pytest.mark.parametrize("write", [lambda log: log.append({"a": 3}), lambda log: log.sync()], ids=["append", "sync"])
def test_a_log_that_another_process_wrote_to_is_left_alone(tmp_path: Path, write: Callable[[JsonlLog], Any]) -> None:
    log, other = JsonlLog(tmp_path / "train.jsonl"), JsonlLog(tmp_path / "train.jsonl")
    log.append({"a": 1})
    other.append({"a": 2})
    before = log.path.read_bytes()
    with pytest.raises(LockedError, match=r"it has 18 bytes, and this process left it with 9"):
        write(log)
    assert log.path.read_bytes() == before
    log.close()
    other.close()


def test_a_run_goes_on_though_its_process_of_before_wrote_once_more(tmp_path: Path) -> None:
    """Between a look and a write there is a moment; what was written in it must not get into a checkpoint's offsets."""
    run = RunDir(tmp_path / "run")
    with run.lock():
        run.train.append({"step": 1})
        run.save(1, {})
        run.train.append({"step": 2})
        JsonlLog(run.train.path).append({"step": "of the old process"})
        with pytest.raises(LockedError, match="another process has changed this log"):
            run.save(2, {})
    again = RunDir(run.path)
    with again.lock():
        found = again.restore()
        assert found is not None and found[0] == 1 and again.read_train() == [{"step": 1}]
        again.train.append({"step": 2})
        again.save(2, {})
    assert [row["step"] for row in again.read_train()] == [1, 2]


def test_rows_and_heartbeats_of_a_run_that_was_taken_over(tmp_path: Path, clock: list[float]) -> None:
    run = RunDir(tmp_path / "run")
    with run.lock():
        run.append(run.train, {"step": 1})
        run.heartbeat(env_steps=1)
        take_over(run.path / "lock")
        clock[0] += 600
        before = {path.name: path.read_bytes() for path in run.path.glob("*.json*")}
        with pytest.raises(LockedError, match="thief"):
            run.append(run.train, {"step": 2})
        with pytest.raises(LockedError, match="thief"):
            run.heartbeat(env_steps=2)
        assert {path.name: path.read_bytes() for path in run.path.glob("*.json*")} == before and len(before) == 2


# The loops ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look before every row, as after a sleep."""
    monkeypatch.setattr("pvdr_bench.runs.directory.LOOK_SECONDS", 0.0)


def lose(spec: Any, results: Path, make_learner: Any = None) -> RunDir:
    """Do a run that loses its lock on the way; its folder."""
    pieces = make_pieces(spec)
    pieces = dataclasses.replace(pieces, make_learner=make_learner or pieces.make_learner)
    with pytest.raises(LockedError, match="thief"):
        execute(spec, results, lambda: (pieces, {}), lambda: False)
    run = RunDir(spec.path(results))
    assert run.failed() is None and run.done() is None and (run.path / "lock").exists()
    return run


def test_an_evaluation_ends_with_the_lock(tmp_path: Path, always_looking: None, monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    spec, whole = make_spec(), Evaluator.run

    def play(self: Evaluator, *args: Any) -> Any:
        for number, result in enumerate(whole(self, *args)):
            if number == 1:
                take_over(spec.path(tmp_path) / "lock")
            yield result

    monkeypatch.setattr(Evaluator, "run", play)
    run = lose(spec, tmp_path)
    assert len(run.read_episodes()) == 1 and len(read_jsonl(run.timing.path)) == 1


def test_training_rows_end_with_the_lock(tmp_path: Path, always_looking: None) -> None:
    spec = make_spec()
    inner = make_pieces(spec).make_learner

    def make_learner(context: LearnerContext) -> Learner:
        learner = inner(context)
        learn = learner.learn

        def learn_and_lose() -> dict[str, float]:
            metrics = learn()
            if metrics:
                take_over(spec.path(tmp_path) / "lock")
            return metrics

        learner.learn = learn_and_lose  # type: ignore[method-assign]
        return learner

    run = lose(spec, tmp_path, make_learner)
    assert run.read_train() == [] and not run.checkpoints.steps()


def test_a_stage_that_was_taken_over_clears_nothing_away(tmp_path: Path) -> None:
    """The new maker's half-written checkpoint looks like what a killed one left."""
    half = tmp_path / "checkpoints" / ".step-000000000020.77.tmp"
    lost: list[int] = []

    def check() -> None:
        if lost:
            raise LockedError("lost")

    def progress(step: int, steps: int, row: dict[str, float]) -> None:
        if step == 10:
            half.mkdir()
            lost.append(step)

    with pytest.raises(LockedError, match="lost"):
        run_offline(OfflineDummy(), Clips(0, 30), SCHEDULE, tmp_path, 0, progress=progress, check=check)
    assert half.is_dir() and lost == [10]
    assert [row["step"] for row in read_jsonl(tmp_path / "train.jsonl")] == list(range(1, 11))
    assert not (tmp_path / "model.safetensors").exists()


def test_a_stopped_stage_saves_nothing_where_it_was_taken_over(tmp_path: Path) -> None:
    """On a signal a checkpoint is made between the rows."""
    lost = False

    def check() -> None:
        if lost:
            raise LockedError("lost")

    def stop() -> bool:
        nonlocal lost
        lost = (tmp_path / "train.jsonl").exists()
        return lost

    with pytest.raises(LockedError, match="lost"):
        run_offline(OfflineDummy(), Clips(0, 30), SCHEDULE, tmp_path, 0, stop, check=check)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "timing.jsonl").exists()


def test_who_makes_an_artefact_can_ask_for_its_lock(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path, [])

    def make(work: Path, check: Callable[[], None]) -> Any:
        check()
        (lock,) = tmp_path.rglob("*.lock")
        take_over(lock)
        check()
        return maker()(work)

    with pytest.raises(LockedError, match="thief"):
        store.build("tokenize", "tok", RECIPE, make)
    assert store.find("tokenize", "tok", RECIPE) is None and not list(tmp_path.rglob("model.safetensors"))


def test_tokens_are_not_written_where_another_process_took_over(tmp_path: Path) -> None:
    clips = make_corpus(tmp_path / "c")

    def lock() -> Path:
        return next((tmp_path / "c-tokens").glob("*.lock"))

    class Sleeps(MeanTokenizer):
        def encode(self, images: Any) -> Any:
            if self.images == 40:  # its second batch
                take_over(lock())
            return super().encode(images)

    with pytest.raises(LockedError, match="thief"):
        TokenStore.build(clips, Sleeps(), "abc", batch=40)
    (tokens,) = tmp_path.rglob(TOKENS)
    assert tokens.stat().st_size == 40 * 4 * 2 and ".partial" in tokens.parent.name
    lock().unlink()
    TokenStore.build(clips, MeanTokenizer(), "abc", batch=40).verify()
