"""One grammar: options given again append, a name that one command prints every other takes, and names stay whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvdr_bench.api import load_run
from pvdr_bench.cli import output
from pvdr_bench.cli.show import echo_rows
from pvdr_bench.cli.status import table_of
from pvdr_bench.errors import UsageError
from pvdr_bench.launch.local import Job
from pvdr_bench.launch.progress import LiveTable, StageProgress
from pvdr_bench.launch.watch import RunStatus, named_folders
from pvdr_bench.results.collect import collect
from pvdr_bench.results.compare import find_row
from pvdr_bench.results.series import rows_of
from pvdr_bench.runs.names import find_run, named_runs
from tests.results_runs import make_grid, make_run, make_spec
from tests.test_cli_main import call


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_grid(root, seeds=3)
    return root


# Options that are given again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "runs"), [
    ("--method ppo --method random --task reach", 2),
    ("--method ppo,random --method ppo -m scripted --task reach", 3),
    ("--method ppo --task reach --task push,reach -t drawer-open", 3),
    ("--method ppo --task reach --seed 3 --seed 7", 2),
    ("--method ppo --task reach --seeds 5 ", 5),
    ("--method pvdr --task reach --videos metaworld --videos fetch-push", 2),
    ("--method ppo@gamma=0.9,clip=0.1 --method ppo --task reach", 2),
])
def test_lists_append(capsys: pytest.CaptureFixture[str], tmp_path: Path, options: str, runs: int) -> None:
    code, out, err = call(capsys, "run", *options.split(), "--scale", "smoke", "--dry-run", "--results", str(tmp_path))
    assert code == 0, err
    assert f"\n{runs} run" in out


@pytest.mark.parametrize(("options", "rows"), [
    ("--method ppo --method random", {"ppo", "random"}), ("-m ppo,random", {"ppo", "random"}),
    ("--method ppo --seed 0 --seed 2", {"ppo"}), ("--videos fetch-push --videos metaworld -m pvdr", {"pvdr"}),
])
def test_lists_append_in_what_reads(capsys: pytest.CaptureFixture[str], results: Path, options: str,
                                    rows: set[str]) -> None:
    code, out, _ = call(capsys, "table", *options.split(), "--results", str(results), "--json")
    found = json.loads(out)["rows"]
    assert code == 0 and {row["variant"] for row in found} == rows
    assert {row["n"] for row in found} == ({2} if "--seed" in options else {3})
    code, out, _ = call(capsys, "status", "--results", str(results), "--method", "ppo", "--method", "random",
                        "--state", "failed", "--state", "done", "--json")
    assert len(json.loads(out)["runs"]) == 6


def test_a_wrong_key_of_a_protocol_is_no_longer_passed_over(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    code, _, err = call(capsys, "table", "-o", "protocol.imagesize=3", "--results", str(results))
    assert code == 3 and "did you mean 'protocol.image_size'" in err
    assert call(capsys, "table", "-o", "protocol.image_size=64", "--results", str(results))[0] == 0
    code, _, err = call(capsys, "table", "-o", "protocol.image_size=32", "--results", str(results))
    assert code == 2 and "no run has a protocol with image_size=32" in err


# Names of runs and rows -----------------------------------------------------------------------------------------------


def test_every_name_of_a_run_is_taken(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "pvdr/reach/metaworld/cpu/seed-1"
    run = (results / name).resolve()
    assert name in named_runs(results)
    for given in (name, f"{name}/", f"./{name}", str(run), f"{run}/", "pvdr · reach · metaworld · seed 1", Path(name)):
        assert find_run(given, results).resolve() == run
    assert find_run("ppo · reach · seed 2", results).resolve() == results / "ppo/reach/none/cpu/seed-2"
    monkeypatch.chdir(results / "pvdr")
    assert find_run("reach/metaworld/cpu/seed-1", tmp_path).resolve() == run
    monkeypatch.setenv("PVDR_BENCH_RESULTS", str(results))
    assert load_run(name).dir.path.resolve() == run
    assert named_folders([name, str(run)], results.resolve()) == [run]


def test_a_part_that_only_one_run_lies_below_is_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, [0.5], variant="ppo", task="reach", seed=4)
    assert find_run("ppo/reach", tmp_path) == run == find_run(tmp_path / "ppo", tmp_path)
    make_run(tmp_path, [0.5], variant="ppo", task="push", seed=4)
    with pytest.raises(UsageError, match=r"any of 2 runs\n.*ppo/push/none/cpu/seed-4, ppo/reach"):
        find_run("ppo", tmp_path)


@pytest.mark.parametrize(("name", "close"), [
    ("ppo/reach/none/cpu/seed-7", "ppo/reach/none/cpu/seed-"), ("pvdr/reech/metaworld/cpu/seed-1", "pvdr/reach/meta"),
])
def test_a_miss_tells_the_nearest(results: Path, name: str, close: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{close}"):
        find_run(name, results)


def test_commands_take_what_list_runs_prints(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    where = ["--results", str(results)]
    name = call(capsys, "list", "runs", *where)[1].split()[0]
    (results / name / "worker.log").write_text("said by the run\n")
    assert "said by the run" in call(capsys, "logs", name, *where)[1]
    code, out, _ = call(capsys, "status", name, *where, "--json")
    assert code == 0 and [run["run"] for run in json.loads(out)["runs"]] == [name]
    for command, words in (("evaluate", "does not fit this version of ppo"), ("video", "no checkpoint")):
        code, _, err = call(capsys, command, name, *where)
        assert code in (2, 5) and words in err, err  # found; what stops them is that nobody trained this run
        code, _, err = call(capsys, command, name.replace("seed-", "sed-"), *where)
        assert code == 2 and "did you mean" in err


def test_titles_of_tables_are_names_of_rows(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    found = collect(results)
    for row in rows_of(found):
        for name in (row.label, row.label.lower(), f"{row.variant}:{row.corpus}", f"{row.variant} ({row.corpus})"):
            assert find_row(found, name) == row, name
    assert find_row(found, "scripted expert").variant == "scripted"
    code, out, _ = call(capsys, "compare", "PVDR (metaworld)", "PPO", "--results", str(results))
    assert code == 0 and out.startswith("PVDR (metaworld) (A) against PPO (B)")
    with pytest.raises(UsageError, match=r"did you mean 'PVDR \(metaworld\)'"):
        find_row(found, "PVDR (metawrld)")


# Narrow terminals -----------------------------------------------------------------------------------------------------

STATUS = [RunStatus("pvdr@lambda1=1e-2/reach/fetch-push/cpu/seed-11", "running", "training", 12000, 40000, 55.0, 0.35,
                    500.0, "node17", "123_4", 2, 3.0, "pending: Resources"),
          RunStatus("ppo/reach/none/cpu/seed-0", "failed", note="NaN in a loss")]


def joined(text: str, width: int) -> str:
    """The first column's pieces put together; no line is wider than the terminal."""
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    return "".join(line.split("  ")[0].strip() for line in lines)


@pytest.mark.parametrize("width", [40, 80, 250])
def test_status_keeps_the_names(capsys: pytest.CaptureFixture[str], width: int) -> None:
    output.console(width=width).print(table_of(STATUS, width))
    out = capsys.readouterr().out
    for status in STATUS:
        assert status.run in joined(out, width) and status.state in out
    assert "40,000" in out or width == 40
    assert ("node17" in out and "123_4" in out) == (width == 250)


@pytest.mark.parametrize("width", [40, 80])
def test_the_live_table_keeps_the_names(capsys: pytest.CaptureFixture[str], tmp_path: Path, width: int) -> None:
    spec = make_spec(variant="pvdr@lambda1=1e-2,candidates=4", corpus="metaworld", task="plate-slide-back-side")
    console = output.console(width=width)
    table = LiveTable(console)
    table.update([Job(spec, tmp_path)])
    console.print(table._live.renderable)
    assert Job(spec, tmp_path).label.replace(" ", "") in joined(capsys.readouterr().out, width).replace(" ", "")


@pytest.mark.parametrize("width", [40, 80])
def test_bars_keep_the_names(capsys: pytest.CaptureFixture[str], width: int) -> None:
    console = output.console(width=width, force_terminal=True, color_system=None)
    with StageProgress(console) as progress:
        progress.report("tokenize of gpu on metaworld", 3, 400_000)
    assert "tokenizeofgpuonmetaworld" in "".join(capsys.readouterr().out.split())


def test_lists_keep_the_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": "button-press-topdown", "suite": "metaworld", "env_id": "button-press-topdown-v3", "title": "x y"}]
    echo_rows(rows)
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    echo_rows(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "button-press-topdown" and max(map(len, lines)) <= 40
    assert "".join(lines[1:]).split() == ["metaworld", "button-press-topdown-v3", "x", "y"]
