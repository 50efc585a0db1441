"""Published runs in one archive: ``aggregate --publish``, ``pack`` and ``unpack``, and all that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pvdr_bench.api import load_run
from pvdr_bench.cli.main import app
from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.names import find_run
from pvdr_bench.training.again import evaluate_again
from tests.results_runs import make_grid, make_run


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    make_grid(root, seeds=3)
    make_run(root, [0.2], variant="pvdr", corpus="metaworld", algorithm="pvdr", title="PVDR", seed=3, done=False,
             failed="boom")
    return root


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))


def test_packed_runs_are_read_as_those_in_folders(grid: Path, tmp_path: Path) -> None:
    """Everything that is shown of published runs is the same in bytes, packed or not."""
    run("aggregate", "--results", str(grid), "--publish", str(tmp_path / "p"))
    run("unpack", str(tmp_path / "p" / "runs.zip"), str(tmp_path / "loose"))
    for words in ("table", "list runs --json", "status --json", "status --method ppo",
                      "export --format json --out {}/x.json", "aggregate --out {}/frame",
                  "report --out {}/report.html", "plot --out {}/curves"):
        told = [run(*words.format(tmp_path / name).split(), "--results", str(tmp_path / folder))
                .replace(str(tmp_path / name), "").replace(str(tmp_path / folder), "")
                for name, folder in (("one", "p"), ("two", "loose"))]
        assert told[0] == told[1], words
    one, two = ({path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
                 for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("one", "two"))
    assert set(one) >= {"x.json", "frame/points.csv", "report.html", "curves.svg"} and one == two
    assert run("table", "--results", str(tmp_path / "p" / "runs.zip")) == run("table", "--results", str(tmp_path / "p"))


def test_broken_runs_are_named_and_stay_where_they_are(grid: Path, tmp_path: Path) -> None:
    run("aggregate", "--results", str(grid), "--method", "ppo", "--publish", str(tmp_path / "p"))
    folder = tmp_path / "loose"
    run("unpack", str(tmp_path / "p"), str(folder))
    log = folder / "ppo/reach/none/cpu/seed-0/episodes.jsonl"
    data = log.read_bytes()[:-1]
    log.write_bytes(data)
    told = json.loads(run("pack", str(folder), "--json"))
    assert told["moved"] == told["runs"] == [f"ppo/reach/none/cpu/seed-{seed}" for seed in (1, 2)]
    assert list(told["left"]) == ["ppo/reach/none/cpu/seed-0"] and log.read_bytes() == data
    assert "episodes.jsonl was changed" in told["left"]["ppo/reach/none/cpu/seed-0"]
    with pytest.raises(DataError, match="every run here is broken, so none was packed: ppo/reach/none/cpu/seed-0: "):
        run("pack", str(folder))
    run("aggregate", "--results", str(grid), "--method", "random", "--publish", str(folder))
    assert log.read_bytes() == data  # nor does it go in beside others
    run("aggregate", "--results", str(grid), "--method", "ppo", "--publish", str(folder))
    assert not log.exists()  # replaced by the run that it was a copy of
    assert {row["status"] for row in json.loads(run("list", "runs", "--results", str(folder), "--json"))} == {"done"}


def test_a_published_run_is_not_told_to_wait_for_its_first_checkpoint(grid: Path, tmp_path: Path) -> None:
    run("aggregate", "--results", str(grid), "--method", "ppo", "--publish", str(tmp_path / "p"))
    run("unpack", str(tmp_path / "p"), str(tmp_path / "loose"))
    path = tmp_path / "loose/ppo/reach/none/cpu/seed-0"
    words = "this run is done and has no checkpoint: it was published without its checkpoints"
    for read in (load_run(path).policy, lambda: evaluate_again(RunDir(path), load_run(path).spec, pytest.fail)):
        with pytest.raises(UsageError, match=words) as raised:
            read()
        assert "make it anew in another one" in str(raised.value) and str(raised.value.where) == str(path)
    (path / "done.json").unlink()
    with pytest.raises(UsageError, match="no checkpoint yet"):
        RunDir(path).newest()


def test_pack_and_unpack(grid: Path, tmp_path: Path) -> None:
    run("aggregate", "--results", str(grid), "--method", "ppo,random", "--publish", str(tmp_path / "p"))
    archive, folder = (tmp_path / "p" / "runs.zip").read_bytes(), tmp_path / "loose"
    run("unpack", str(tmp_path / "p"), str(folder))
    (folder / "points.csv").write_text("mine")
    told = json.loads(run("pack", str(folder), "--json"))
    assert len(told["moved"]) == len(told["runs"]) == 6 and (folder / "runs.zip").read_bytes() == archive
    assert sorted(path.name for path in folder.iterdir()) == ["points.csv", "runs.zip"]
    with pytest.raises(UsageError, match="no run to pack"):
        run("pack", str(folder))
    mine = folder / "ppo/reach/none/cpu/seed-0"  # a run that lies there goes before that of the archive
    mine.mkdir(parents=True)
    (mine / "failed.json").write_text("{}")
    assert {row["run"]: row["status"] for row in json.loads(run("list", "runs", "--results", str(folder), "--json"))
            }["ppo/reach/none/cpu/seed-0"] == "failed"
    (mine / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="more than what is published: checkpoints"):
        run("pack", str(folder))
    assert (folder / "runs.zip").read_bytes() == archive and mine.is_dir()
    with pytest.raises(UsageError, match="no archive"):
        run("unpack", str(tmp_path / "out"), str(tmp_path / "out"))


def test_a_packed_run_is_not_sent_for_an_unpacking_that_does_not_help(grid: Path, tmp_path: Path) -> None:
    published = tmp_path / "p"
    run("aggregate", "--results", str(grid), "--method", "ppo", "--publish", str(published))
    for name, root in (("ppo/reach/none/cpu/seed-0", published), ("ppo/reach", published),
                       ("ppo · reach · seed 0", published), (published / "ppo/reach/none/cpu/seed-0", grid)):
        with pytest.raises(UsageError, match=r"published in .*runs\.zip, without checkpoints") as raised:
            find_run(name, root)
        assert "make it anew in another folder" in str(raised.value)
    with pytest.raises(UsageError, match="did you mean 'ppo/reach/none/cpu/seed-0'") as raised:
        find_run("ppo/raech/none/cpu/seed-0", published)
    assert "unpack" not in str(raised.value)
    assert find_run("ppo/reach/none/cpu/seed-0", published, packed=True).name == "seed-0"
