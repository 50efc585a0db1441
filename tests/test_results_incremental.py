"""Collecting again: only what changed is read, and the results are those of reading everything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.errors import DataError
from pvdr_bench.results import cache, reading
from pvdr_bench.results.collect import Results, collect, write_frame
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_run, make_spec, resealed, write_episodes

SMALL = {"eval_episodes": 2, "eval_final_episodes": 3, "env_steps": 16000}


def rest(root: Path, seconds: int = 1_000_000_000) -> None:
    """Date all files as if they had been written long ago."""
    for path in root.rglob("*"):
        if path.is_file() and cache.FOLDER not in path.parts:
            os.utime(path, (seconds, seconds))


def assert_same(one: Results, other: Results) -> None:
    pd.testing.assert_frame_equal(one.points, other.points, check_exact=True)
    pd.testing.assert_frame_equal(one.runs, other.runs, check_exact=True)
    assert one.problems == other.problems and one.protocols == other.protocols and one.root == other.root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        make_run(tmp_path, [0.0, 0.5], seed=seed, **SMALL)
    rest(tmp_path)
    return tmp_path


def test_only_what_changed_is_read_again(folder: Path) -> None:
    assert collect(folder).read == 3 and collect(folder).read == 0
    make_run(folder, [0.5, 1.0], seed=7, **SMALL)
    rest(folder / "ppo/reach/none/cpu/seed-7")
    again = collect(folder)
    assert again.read == 1 and sorted(again.runs["seed"]) == [0, 1, 2, 7]
    assert_same(again, collect(folder, cached=False))
    shutil.rmtree(folder / "ppo/reach/none/cpu/seed-1")
    assert collect(folder).read == 0 and sorted(collect(folder).runs["seed"]) == [0, 2, 7]


def test_logs_are_not_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collect(folder)
    monkeypatch.setattr("pvdr_bench.results.collect.read_content", lambda path: pytest.fail(f"{path} is read"))
    assert_same(collect(folder), first)


def test_a_change_of_equal_size_in_run_yaml_is_seen(folder: Path) -> None:
    collect(folder)
    path = folder / "ppo/reach/none/cpu/seed-1/run.yaml"
    path.write_text(path.read_text().replace("goal_blur: 3", "goal_blur: 5"))
    os.utime(path, (1_000_000_001, 1_000_000_001))
    results = collect(folder)
    assert [(p.run[-6:], p.kind) for p in results.problems] == [("seed-1", "broken")]
    assert "recipe" in results.problems[0].detail or "run.yaml was changed" in results.problems[0].detail


def test_status_is_asked_anew_for_runs_whose_logs_are_known(folder: Path) -> None:
    collect(folder)
    path = folder / "ppo/reach/none/cpu/seed-1"
    (path / "done.json").unlink()
    with RunDir(path).lock():
        assert [p.kind for p in collect(folder).problems] == ["running"]
    assert [p.kind for p in collect(folder).problems] == ["stopped"]
    (path / "failed.json").write_text('{"message": "boom"}')
    results = collect(folder)
    assert results.read == 0 and [(p.kind, p.detail[:4]) for p in results.problems] == [("failed", "boom")]


def test_a_run_that_is_being_written_is_read_until_it_rests(tmp_path: Path) -> None:
    spec = make_spec(**SMALL)
    run_dir = RunDir(spec.path(tmp_path))
    with run_dir.lock():
        run_dir.open(spec)
        for steps in (0, 8000, 16000):
            write_episodes(run_dir, spec, steps, "grid", 0.5)
            with (run_dir.path / "episodes.jsonl").open("a") as file:
                file.write('{"seed": 0, "env_st')  # torn
            results = collect(tmp_path)
            assert results.read == 1 and results.points["env_steps"].max() == steps
            run_dir.episodes.close()  # the next append cuts the torn line off
        assert [p.kind for p in results.problems] == ["running"]
        write_episodes(run_dir, spec, 16000, "final", 0.5)
        run_dir.mark_done(env_steps=16000)
    results = collect(tmp_path)
    assert results.read == 1 and results.problems == [] and set(results.points["point"]) == {"grid", "final"}
    assert collect(tmp_path).read == 1  # written a moment ago: a second change might not show
    rest(tmp_path)
    assert [collect(tmp_path).read for _ in range(2)] == [1, 0]


def test_a_change_while_reading_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "ppo/reach/none/cpu/seed-1"

    def slow(run: Path) -> reading.Content | None:
        content = reading.read_content(run)
        if run == path:
            log = run / "episodes.jsonl"
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
            os.utime(log, (1_000_000_001, 1_000_000_001))
        return content

    with monkeypatch.context() as patch:
        patch.setattr("pvdr_bench.results.collect.read_content", slow)
        assert collect(folder).problems == []
    results = collect(folder)
    assert results.read == 1 and [p.kind for p in results.problems] == ["broken"]


def test_a_damaged_cache_is_made_anew(folder: Path) -> None:
    wanted = collect(folder)
    path = folder / cache.FOLDER / "contents.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(whole), 10).tolist(), len(whole) - 1]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1:])
        assert_same(collect(folder), wanted)
        path.write_bytes(whole[:position])
        assert_same(collect(folder), wanted)


def test_a_cache_of_another_version_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(folder)
    monkeypatch.setattr(cache, "SCHEMA", cache.SCHEMA + 1)
    assert collect(folder).read == 3 and collect(folder).read == 0
    monkeypatch.setattr(reading.Protocol, "keys", classmethod(lambda cls, kind: ("env_steps", "num_envs")))
    results = collect(folder)  # sync_every counts now
    assert results.read == 3 and set(results.runs["protocol_hash"]).isdisjoint({make_spec(**SMALL).protocol.hash()})


def test_a_folder_that_cannot_be_written_is_read_all_the_same(folder: Path) -> None:
    (folder / cache.FOLDER).write_text("a file stands here")
    for _ in range(2):
        results = collect(folder)
        assert results.read == 3 and len(results.runs) == 3


def test_folders_in_place_of_the_caches_cost_time_only(folder: Path) -> None:
    for name in ("contents.parquet", "intact.json"):
        (folder / cache.FOLDER / name).mkdir(parents=True)
    assert [collect(folder).read for _ in range(2)] == [3, 3]


def test_git_sees_no_cache(folder: Path) -> None:
    subprocess.run(["git", "init", "-q", folder], check=True)
    collect(folder)
    done = subprocess.run(["git", "-C", folder, "status", "--porcelain", "-uall"], check=True, capture_output=True)
    assert b"seed-0" in done.stdout and cache.FOLDER.encode() not in done.stdout


def test_a_moved_folder_needs_no_reading_and_names_its_own_paths(folder: Path, tmp_path_factory: Any) -> None:
    (folder / "ppo/reach/none/cpu/seed-1/episodes.jsonl").write_text("not json\n")
    collect(folder)
    other = tmp_path_factory.mktemp("other") / "moved"
    folder.rename(other)
    results = collect(other)
    assert_same(results, collect(other, cached=False))
    assert results.read == 1 and results.problems[0].run.endswith("seed-1")  # the broken one


def test_two_processes_share_a_folder(folder: Path) -> None:
    code = ("import sys; from pvdr_bench.results.collect import collect\n"
            "for _ in range(15): assert len(collect(sys.argv[1]).points) == 9")
    children = [subprocess.Popen([sys.executable, "-c", code, folder]) for _ in range(2)]
    while any(child.poll() is None for child in children):
        (folder / cache.FOLDER / "contents.parquet").unlink(missing_ok=True)  # so that both write
    assert [child.returncode for child in children] == [0, 0]
    collect(folder)
    assert collect(folder).read == 0 and [p.name for p in (folder / cache.FOLDER).glob(".*.tmp")] == []


# Any history ----------------------------------------------------------------------------------------------------------

@dataclass
class History:
    """A results folder to which things happen; ``clock`` dates every change, so that all files are at rest."""

    root: Path
    template: Path
    clock: int = 1_000_000_000
    touched: list[Path] = field(default_factory=list)

    def run(self, index: int) -> Path:
        return self.root / f"ppo/reach/none/cpu/seed-{index}"

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def add(self, index: int, _: int) -> None:
        self.run(index).mkdir(parents=True, exist_ok=True)
        for source in (self.template / f"seed-{index}").glob("*.*"):
            self.write(self.run(index) / source.name, source.read_bytes())

    def delete(self, index: int, _: int) -> None:
        shutil.rmtree(self.run(index), ignore_errors=True)

    def cut(self, index: int, amount: int) -> None:
        self._change(index, "episodes.jsonl", lambda data: data[:len(data) * amount // 10])

    def extend(self, index: int, amount: int) -> None:
        line = (b'{"seed": 0, "env_steps": %d, "decisions": 1, "point": "grid", "eval_seed": %d, "success_any": true,'
                b' "success_end": false, "return": -%d.25, "length": 200}\n' % (8000 * (amount % 4), amount, amount))
        self._change(index, "episodes.jsonl", lambda data: data + line)

    def tear(self, index: int, _: int) -> None:
        self._change(index, "episodes.jsonl", lambda data: data + b'{"torn')

    def spoil(self, index: int, amount: int) -> None:
        self._change(index, ("run.yaml", "episodes.jsonl", "done.json")[amount % 3], lambda data: b"[\n" + data)

    def reprotocol(self, index: int, amount: int) -> None:
        self._change(index, "run.yaml", lambda data: data.replace(b"goal_blur: 3", b"goal_blur: %d" % (amount | 1)))

    def remove(self, index: int, amount: int) -> None:
        (self.run(index) / ("run.yaml", "episodes.jsonl", "done.json")[amount % 3]).unlink(missing_ok=True)

    def fail(self, index: int, amount: int) -> None:
        if self.run(index).exists():
            self.write(self.run(index) / "failed.json", b'{"message": "number %d"}' % amount)

    def _change(self, index: int, name: str, change: Any) -> None:
        path = self.run(index) / name
        if path.exists():
            self.write(path, change(path.read_bytes()))


EVENTS = ("add", "delete", "cut", "extend", "tear", "spoil", "reprotocol", "remove", "fail", "collect")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    return [make_run(root, [0.0, 0.5], seed=seed, **SMALL) for seed in range(3)][0].parent


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2), st.integers(0, 9)), min_size=3, max_size=14))
def test_the_cache_never_changes_a_result(tmp_path_factory: Any, template: Path, events: list[Any]) -> None:
    history = History(tmp_path_factory.mktemp("history"), template)
    for index in range(3):
        history.add(index, 0)
    for event, index, amount in (*events, ("collect", 0, 0)):
        if event == "collect":
            assert_same(collect(history.root), collect(history.root, cached=False))
        else:
            getattr(history, event)(index, amount)


# Reading --------------------------------------------------------------------------------------------------------------

ROW = {"seed": 0, "env_steps": 0, "decisions": 0, "point": "grid", "eval_seed": 0, "success_any": True,
       "success_end": False, "return": -1.5, "length": 200}


def write_log(tmp_path: Path, rows: list[dict[str, Any]], last: str = "") -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.episodes.path.unlink(missing_ok=True)
    for row in rows:
        run_dir.episodes.append(row)
    run_dir.episodes.close()
    with run_dir.episodes.path.open("a") as file:
        file.write(last)
    return run_dir


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([0, 8000, 8017]), st.sampled_from(["grid", "final"]), st.integers(0, 3),
                          st.booleans(), st.floats(-1e6, 1e6, allow_nan=False)), max_size=30), st.booleans())
def test_both_readers_and_pandas_agree(tmp_path: Path, rows: list[Any], torn: bool) -> None:
    logged = [{**ROW, "env_steps": steps, "point": point, "eval_seed": seed, "success_any": hit, "return": value}
              for steps, point, seed, hit, value in rows]
    run_dir = write_log(tmp_path, logged, '{"seed": 0' if torn else "")
    fast, slow = reading._read_episodes(run_dir), reading._read_episodes_slowly(run_dir)
    for name, values in fast.items():
        assert values.tolist() == slow[name].tolist()
    points, twice = reading._means(fast)
    frame = pd.DataFrame(logged, columns=list(ROW)).drop_duplicates(["env_steps", "point", "eval_seed"], keep="last")
    assert twice == len(logged) - len(frame)
    groups = [(key, group) for key, group in frame.groupby(["env_steps", "point"], sort=True)]
    assert [key for key, _ in groups] == list(zip(points["env_steps_made"], points["point"], strict=True))
    for i, (_, group) in enumerate(groups):
        assert points["episodes"][i] == len(group) and points["length"][i] == 200.0
        assert points["success_any"][i] == pytest.approx(group["success_any"].mean())
        assert points["return"][i] == pytest.approx(np.mean(group["return"].to_numpy()), abs=1e-6)


def test_what_the_fast_reader_does_not_take_is_read_line_by_line(tmp_path: Path) -> None:
    run_dir = write_log(tmp_path, [{**ROW, "success_any": 1}, {**ROW, "eval_seed": 1}], "\n")
    found = reading._read_episodes(run_dir)
    assert found["success_any"].tolist() == [1.0, 1.0] and found["return"].tolist() == [-1.5, -1.5]


@pytest.mark.parametrize(("change", "message"), [
    ({"success_any": None}, "row 2: success_any.* is None"), ({"success_end": "yes"}, "success_end.* is 'yes'"),
    ({"success_any": 2}, "success_any.* is 2"), ({"env_steps": float("nan")}, "env_steps is nan"),
    ({"point": 3}, "point is 3"), ({"point": "finaX"}, "point is 'finaX'"), ({"return": "1.5"}, "return is '1.5'"),
    ({"return": float("nan")}, "return is nan"), ({"return": float("-inf")}, "return is -inf"),
    ({"env_steps": -8000}, "env_steps is -8000"), ({"length": -1}, "length is -1"), ({"eval_seed": 2**63}, "eval_seed"),
    ({"return": 10**400}, "not a JSON line"),
])
def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run_dir = write_log(tmp_path, [ROW, {**ROW, **change}])
    with pytest.raises(DataError, match=message):
        reading._read_episodes(run_dir)


def test_two_objects_on_one_line_are_broken(tmp_path: Path) -> None:
    run_dir = write_log(tmp_path, [], json.dumps(ROW) + json.dumps(ROW) + "\n")
    with pytest.raises(DataError, match="not a JSON line"):
        reading._read_episodes(run_dir)


def test_wall_time_and_device_of_an_evaluation(folder: Path) -> None:
    path = folder / "ppo/reach/none/cpu/seed-1"
    timing = RunDir(path).timing
    for seconds in (10.0, 12.5):  # evaluated again after a resume: the last line counts
        timing.append({"env_steps": 16000, "point": "final", "wall_seconds": seconds, "evaluation_seconds": 2.0,
                       "device": "cuda"})
    timing.close()
    resealed(path)
    collect(folder)
    points = collect(folder).points
    told = points[points["device"].ne(reading.UNKNOWN)]
    assert told[["seed", "env_steps", "point", "wall_seconds", "evaluation_seconds", "device"]].values.tolist() == [
        [1, 16000, "final", 12.5, 2.0, "cuda"]]
    assert points["wall_seconds"].isna().sum() == len(points) - 1
    timing.append({"env_steps": 16000})
    timing.close()
    resealed(path)
    assert [(p.run[-6:], p.kind) for p in collect(folder).problems] == [("seed-1", "broken")]


# What is written ------------------------------------------------------------------------------------------------------

def test_problems_stand_beside_the_frame(folder: Path, tmp_path: Path) -> None:
    (folder / "ppo/reach/none/cpu/seed-2/done.json").unlink()
    result = CliRunner().invoke(app, ["aggregate", "--results", str(folder), "--json"])
    told = json.loads(result.output)
    assert told["read"] == 3 and [problem["kind"] for problem in told["problems"]] == ["stopped"]
    written = pd.read_csv(told["files"]["problems"], keep_default_na=False)
    assert written.to_dict("records") == told["problems"]


def test_csv_holds_every_bit_and_any_text(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", [1 / 3, 0.7], title='A "title", with all of it', rng=np.random.default_rng(0), **SMALL)
    results = collect(tmp_path / "runs")
    files = write_frame(results, tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_csv(files["csv"]), results.points, check_dtype=False, check_exact=True)
    assert files["problems"].read_text() == '"run","kind","detail"\n'
