"""A results folder that is not there is the same error in every command that reads; an empty one says so itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.errors import UsageError

READING = [
    "status", "list runs", "table", "plot", "aggregate", "compare a b", "agreement", "report",
    "export --format json --out x.json", "clean --dry-run", "cancel --yes", "retry",
]
OF_A_RUN = ["evaluate {}", "video {}", "logs {}", "bench following -o run={}", "bench goals -o run={}"]


def error_of(words: str) -> UsageError:
    with pytest.raises(UsageError) as raised:
        CliRunner().invoke(app, words.split(), catch_exceptions=False)
    return raised.value


@pytest.mark.parametrize("words", READING)
def test_no_results_folder(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(f"{words} --results {tmp_path / 'absent'}")
    assert error.message == "there is no results folder here" and error.where == str(tmp_path / "absent")
    assert "--results" in str(error.hint)
    monkeypatch.setenv("PVDR_BENCH_RESULTS", str(tmp_path / "elsewhere"))
    assert error_of(words).where == str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("")
    assert "this is a file" in error_of(words).message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]  # and nothing was made


@pytest.mark.parametrize("words", OF_A_RUN)
def test_no_run(words: str, tmp_path: Path) -> None:
    run = tmp_path / "absent/ppo/reach/none/cpu/seed-0"
    error = error_of(words.format(run))
    assert error.message == "there is no such folder, so it holds no run" and error.where == str(run)
    assert "this folder holds no run" in error_of(words.format(tmp_path)).message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["table", "plot", "report", "compare a b", "export --format json --out x.json"])
def test_an_empty_folder_has_no_run_to_show(words: str, tmp_path: Path) -> None:
    assert "no run" in error_of(f"{words} --results {tmp_path}").message


def test_an_empty_folder_is_fine_where_nothing_can_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    for words, told in (("status", "0 runs: none"), ("list runs", "no runs here"), ("clean", "nothing to remove"),
                        ("aggregate", "0 evaluation points of 0 runs")):
        done = CliRunner().invoke(app, [*words.split(), "--results", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0 and told in done.output
