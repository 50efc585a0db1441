"""The seal of a finished run: what is changed later is told, with file and line, and never counts in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pvdr_bench.errors import DataError
from pvdr_bench.results.collect import collect
from pvdr_bench.results.publish import publish
from pvdr_bench.runs import standing
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.known import KnownRuns
from pvdr_bench.runs.standing import judge
from tests.processes import call
from tests.results_runs import finish, make_run, make_spec, unsealed
from tests.test_results_incremental import rest

SMALL = {"eval_episodes": 2, "eval_final_episodes": 4, "env_steps": 16000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_run(tmp_path, [0.0, 0.5], **SMALL)


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def why(path: Path) -> str:
    found = judge(path)
    assert found.state == "broken" and RunDir(path).status() == "broken"
    problems = collect(path.parents[4]).problems
    assert [(p.run, p.kind, p.detail) for p in problems] == [("ppo/reach/none/cpu/seed-0", "broken", found.why)]
    assert collect(path.parents[4]).points.empty
    return found.why


def test_a_finished_run_is_sealed_and_counts(path: Path) -> None:
    found = judge(path)
    assert (found.state, found.sealed) == ("done", True) and found.done is not None
    seal = found.done["seal"]
    assert seal["files"]["episodes.jsonl"]["rows"] == 2 * 2 + 4 and (seal["final"], seal["wanted"]) == (4, 4)
    assert set(seal["files"]) == set(standing.SEALED) and seal["files"]["artefacts.json"] is None


def test_a_flipped_success_is_told_with_its_line(path: Path) -> None:
    edit(path / "episodes.jsonl", '"success_any": false', '"success_any": true ')
    assert why(path) == ("episodes.jsonl was changed after the run was done: a value was changed; the first difference "
                         "is in line 1")


def test_lost_rows_are_told_with_their_number(path: Path) -> None:
    lines = (path / "episodes.jsonl").read_text().splitlines(keepends=True)
    (path / "episodes.jsonl").write_text("".join(line for line in lines if '"final"' not in line))
    assert "it has 4 rows, and had 8; the first difference is in line 5" in why(path)


@pytest.mark.parametrize("name", ["run.yaml", "provenance.json", "episodes.jsonl"])
def test_a_missing_file_is_told(path: Path, name: str) -> None:
    (path / name).unlink()
    assert f"{name} is missing" in why(path)


def test_a_file_that_came_later_is_told(path: Path) -> None:
    (path / "artefacts.json").write_text("{}")
    assert "artefacts.json was not there" in why(path)


def test_a_changed_number_in_done_json_is_told(path: Path) -> None:
    edit(path / "done.json", '"env_steps": 16000', '"env_steps": 32000')
    assert "done.json was changed" in why(path)


def test_a_done_run_without_its_final_evaluation_is_broken(tmp_path: Path) -> None:
    spec = make_spec(**SMALL)
    run = RunDir(spec.path(tmp_path))
    run.open(spec)
    run.mark_done(env_steps=16000)
    assert "has 0 of the 4 episodes of the final evaluation" in why(run.path)


def test_a_run_from_before_there_were_seals_is_checked_for_what_it_says(path: Path) -> None:
    unsealed(path, success_any=0.5, success_end=0.25, episodes=4)
    found = judge(path)
    assert (found.state, found.sealed) == ("done", False) and collect(path.parents[4]).problems == []
    whole = (path / "episodes.jsonl").read_text()
    edit(path / "episodes.jsonl", '"success_any": true', '"success_any": false', count=9)
    assert "success_any of its 4 final episodes is 0 on average, and done.json says 0.5" in why(path)
    (path / "episodes.jsonl").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert "has 3 of the 4 episodes" in why(path)


@pytest.mark.parametrize(("old", "new", "told"), [
    ('"return": -1.0', '"return": 1e308', "return is 1e+308"),  # the sum of two of them is no number
    ('"decisions": 2000', '"decisions": -1', "decisions is -1"),  # of a grid point
    ('{"seed"', '\ufeff{"seed"', "not a JSON line"),
])
def test_without_a_seal_every_row_is_one_for_every_reader(path: Path, old: str, new: str, told: str) -> None:
    unsealed(path, success_any=0.5, success_end=0.25, episodes=4)
    edit(path / "episodes.jsonl", old, new, count=9)
    assert told in why(path)


@pytest.mark.parametrize(("old", "new", "key"), [
    ("  seed: 0", "  seed: 1", "seed"), ("    name: reach", "    name: push", "task.name"),
    ("    success_rule: any", "    success_rule: end", "protocol.success_rule"),
    ("  variant: ppo", "  variant: random", "variant"),
])
def test_without_a_seal_the_spec_is_held_to_the_recipe(path: Path, old: str, new: str, key: str) -> None:
    unsealed(path, success_any=0.5, success_end=0.25, episodes=4)
    text = (path / "run.yaml").read_text()
    head, spec = text.split("\nspec:\n")
    assert old in spec
    (path / "run.yaml").write_text(f"{head}\nspec:\n{spec.replace(old, new, 1)}")
    assert f"{key} was changed" in why(path)


def test_another_title_is_no_change_and_a_larger_budget_goes_on(path: Path) -> None:
    run = RunDir(path)
    run.open(make_spec(title="Another", **SMALL))
    assert judge(path).state == "done" and judge(path).sealed and run.is_done(16000)
    run.open(make_spec(title="Another", **{**SMALL, "env_steps": 32000}))
    assert judge(path).state == "done" and judge(path).sealed and not run.is_done(32000)
    with run.lock():
        run.write_provenance()  # as a start does before it knows how far the run is, and whether it can go on
        run.write_facts("artefacts.json", {})
        assert judge(path).state == "running"
    assert judge(path).state == "done" and judge(path).sealed
    with run.lock():
        run.reopen()
        run.truncate_logs({"episodes.jsonl": 0})
        finish(run, 32000)
    assert judge(path).state == "done" and judge(path).sealed


def test_what_was_changed_is_not_sealed_anew(path: Path) -> None:
    edit(path / "episodes.jsonl", '"success_any": false', '"success_any": true ')
    RunDir(path).open(make_spec(title="Another", **SMALL))
    assert "episodes.jsonl was changed" in why(path)
    edit(path / "done.json", '"env_steps": 16000', '"env_steps": 8000')
    with pytest.raises(DataError, match="own checksum"):
        RunDir(path).open(make_spec(title="A third", **SMALL))
    with pytest.raises(DataError, match=r"done.json was changed[^>]*\n  -> restore the file, or remove"):
        RunDir(path).is_done(16000)


def open_under_another_title(path: str) -> int:
    RunDir(path).open(make_spec(title="Another", **SMALL))
    return 0


def test_a_death_while_a_seal_is_made_anew_leaves_a_whole_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert call(open_under_another_title, str(make_run(tmp_path / "whole", [0.0, 0.5], **SMALL)),
                PVDR_BENCH_CRASH_TRACE=str(trace)) == 0
    writes, seen = trace.read_text().split(), dict[str, int]()
    assert "replace/done.json" in writes and "replace/run.yaml" in writes
    for name in writes:
        seen[name] = seen.get(name, 0) + 1
        path = make_run(tmp_path / f"{name.replace('/', '-')}-{seen[name]}", [0.0, 0.5], **SMALL)
        assert call(open_under_another_title, str(path), PVDR_BENCH_CRASH_AT=f"{name}:{seen[name]}") == 137
        assert judge(path).state == "done", name
        assert open_under_another_title(str(path)) == 0 and judge(path).state == "done"


def test_a_copy_is_sealed_and_a_changed_run_is_not_copied(path: Path, tmp_path: Path) -> None:
    root = path.parents[4]
    results = collect(root)
    publish(results, tmp_path / "public")
    assert collect(tmp_path / "public").problems == [] and collect(tmp_path / "public").places
    (copy,) = (shutil.copytree(place, tmp_path / "copy") for place in collect(tmp_path / "public").places.values())
    assert judge(copy).state == "done" and judge(copy).sealed and "host" not in (copy / "provenance.json").read_text()
    edit(copy / "provenance.json", "python", "Python")
    assert "provenance.json was changed" in judge(copy).why
    edit(path / "episodes.jsonl", '"success_any": false', '"success_any": true ')  # after it was read
    with pytest.raises(DataError, match="episodes.jsonl was changed"):
        publish(results, tmp_path / "public")
    assert len(collect(tmp_path / "public").runs) == 1


def test_hashing_happens_once_per_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = path.parents[4]
    rest(root)
    known = KnownRuns(root)
    judge(path, known)
    known.store()
    with monkeypatch.context() as patch:
        patch.setattr(standing, "check", lambda folder, done: pytest.fail(f"{folder} is hashed again"))
        assert judge(path, KnownRuns(root)).state == "done"
    edit(path / "episodes.jsonl", '"success_any": false', '"success_any": true ')
    assert judge(path, KnownRuns(root)).state == "broken"


def test_a_folder_that_cannot_be_read_is_a_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    root, scandir = path.parents[4], os.scandir

    def refuse(folder: object = ".") -> object:
        if str(folder).endswith("/ppo/reach"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    assert [(p.run, p.kind, p.detail) for p in collect(root).problems] == [
        ("ppo/reach", "broken", "the folder cannot be read: Permission denied")]
