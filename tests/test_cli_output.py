"""The output layer: broken streams end every command as documented, and foreign text does nothing where it is shown."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvdr_bench.cli import output
from pvdr_bench.cli.lazy import load_command
from pvdr_bench.cli.main import MainGroup
from pvdr_bench.plain_text import csv_cell, markdown_cell, one_line, visible
from pvdr_bench.results.collect import collect
from pvdr_bench.results.sheets import safe_cells, to_csv
from pvdr_bench.results.tables import FORMATS, build_table
from tests.results_runs import make_grid, make_run
from tests.test_cli_main import call

CODES = {"full": 9, "gone": 0, "closed": 9, "mute": 9}
NASTY = "\x1b[31mred\x1b[0m\x9b2J\u202egnp\r\n=HYPERLINK(\"http://x\")|<b>"

# Calls that do what a command is for, in {results} with runs and {run}; what has none is called for its help only.
CHEAP = {
    "list": ["list", "scales"], "describe": ["describe", "ppo"], "validate": ["validate", "{out}"],
    "status": ["status", "--results", "{results}"], "logs": ["logs", "{run}"], "videos": ["videos", "list"],
}
SLOW = {
    "run": ["run", "--method", "ppo", "--task", "reach", "--dry-run", "--results", "{out}"],
    "submit": ["submit", "--method", "ppo", "--task", "reach", "--profile", "cpu", "--dry-run", "--results", "{out}"],
    "aggregate": ["aggregate", "--results", "{results}", "--out", "{out}/frame"],
    "plot": ["plot", "--results", "{results}", "--out", "{out}/figure"],
    "table": ["table", "--results", "{results}"],
    "compare": ["compare", "ppo", "random", "--results", "{results}"],
    "agreement": ["agreement", "--results", "{results}"],
    "report": ["report", "--results", "{results}", "--out", "{out}/report.html"],
    "export": ["export", "--format", "csv", "--out", "{out}/points.csv", "--results", "{results}"],
    "doctor": ["doctor", "--results", "{results}"],
    "bench": ["bench", "coverage", "-o", "seeds=[3]", "-o", "repetitions=20"],
    "clean": ["clean", "--dry-run", "--results", "{results}"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("out")
    make_grid(root, seeds=2)
    run = next(root.glob("ppo/*/*/*/seed-0"))
    (run / "worker.log").write_text("a line\n")
    return {"results": str(root), "out": str(out), "run": str(run)}


def faults(calls: list[list[str]], kinds: tuple[str, ...]) -> list[str]:
    """Of every call with every kind of broken streams: those that do not end as documented, or with a traceback."""
    asked = [[kind, arguments] for arguments in calls for kind in kinds]
    answer = subprocess.run([sys.executable, "-m", "tests.stream_driver"], input=json.dumps(asked), timeout=900,
                            capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent)
    told = list(zip(asked, json.loads(answer.stdout), strict=True))
    return [f"{kind}: {' '.join(arguments)}: {code}\n{said}" for (kind, arguments), (code, said) in told
            if code != CODES[kind] or "Traceback" in said or "Exception ignored" in said
            or (kind in ("full", "closed") and said.count("error: standard output: ") != 1)
            or (kind == "gone" and said != "")]


def test_every_command_tells_that_its_output_is_lost(places: dict[str, str]) -> None:
    calls = [["--help"], ["--version"]]
    for name, lazy in MainGroup.table.items():
        parts = list(getattr(load_command(name, lazy.target), "commands", {}))
        calls += [[name, "--help"], *([name, part, "--help"] for part in parts)]
    assert len(calls) > 2 + len(MainGroup.table) and faults(calls, ("full", "gone")) == []
    assert faults([[part.format(**places) for part in CHEAP[name]] for name in CHEAP],
                  ("full", "gone", "closed", "mute")) == []


@pytest.mark.long
def test_every_command_that_works_tells_that_its_output_is_lost(places: dict[str, str]) -> None:
    assert faults([[part.format(**places) for part in SLOW[name]] for name in SLOW],
                  ("full", "gone", "closed", "mute")) == []


def test_the_calls_are_of_commands_that_there_are() -> None:
    assert {*CHEAP, *SLOW} <= set(MainGroup.table)


def test_a_real_shell_closes_and_fills(tmp_path: Path) -> None:
    line = f"{sys.executable} -m pvdr_bench --help"
    ends = {">&-": 9, ">/dev/full": 9, ">&- 2>&-": 9, ">/dev/full 2>/dev/full": 9, "2>&-": 0, "2>/dev/full": 0}
    script = "; ".join(f"{line} {end} ; echo $? >> {tmp_path}/codes" for end in ends)
    answer = subprocess.run(["bash", "-c", f"{script}; {line} | true; echo ${{PIPESTATUS[0]}} >> {tmp_path}/codes"],
                            capture_output=True, text=True, timeout=300, check=True)
    assert [int(code) for code in (tmp_path / "codes").read_text().split()] == [*ends.values(), 0]
    assert "Traceback" not in answer.stderr and answer.stderr.count("error: standard output") == 2


def test_an_error_keeps_its_code_where_standard_error_is_lost() -> None:
    for end in ("2>/dev/full", "2>&-", "2>/dev/full >/dev/null"):
        answer = subprocess.run(["bash", "-c", f"{sys.executable} -m pvdr_bench list foo {end}"], timeout=120,
                                capture_output=True, check=False)
        assert answer.returncode == 2 and answer.stderr == b""


def test_letters_that_the_encoding_lacks_are_written_out() -> None:
    def printed(encoding: str) -> bytes:
        code = "from pvdr_bench.cli.output import run; run(lambda: print('a · \\u4e2d \\udc80'))"
        return subprocess.run([sys.executable, "-c", code], env={"PYTHONIOENCODING": encoding}, timeout=60,
                              capture_output=True, check=True).stdout

    assert printed("latin-1") == b"a \xb7 \\u4e2d \\udc80\n"
    assert printed("ascii") == "a · 中 \\udc80\n".encode()


def test_what_another_thread_could_not_write_is_told_at_the_end(tmp_path: Path) -> None:
    code = ("import threading\nfrom pvdr_bench.cli.output import run\n"
            "def work():\n    thread = threading.Thread(target=lambda: print('x', flush=True))\n"
            "    thread.start(); thread.join()\n    return 0\nraise SystemExit(run(work))")
    answer = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" > /dev/full'], capture_output=True, text=True,
                            timeout=60, check=False)
    assert answer.returncode == 9 and answer.stderr.startswith("error: standard output: cannot be written")


def test_what_was_not_written_is_told_with_the_advice_of_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    def command(kind: int) -> None:
        raise OSError(kind, os.strerror(kind), "/mnt/x")

    for kind, advice in ((errno.EROFS, "the file system is read-only: choose another place"),
                         (errno.EDQUOT, "your disk quota is used up: make room")):
        assert output.run(lambda kind=kind: command(kind)) == 9
        assert capsys.readouterr().err.startswith(f"error: /mnt/x: cannot write: {os.strerror(kind)}\n  -> {advice}")


# Text -----------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_nothing_active_is_left(text: str) -> None:
    for letter in visible(text):
        assert letter in "\n\t" or (letter >= " " and not "\x7f" <= letter <= "\x9f" and letter not in "\u202e\u2066")
    for cell in (one_line(text), csv_cell(text), markdown_cell(text)):
        assert "\n" not in cell and "\t" not in cell and "\x1b" not in cell
    assert not csv_cell(text).startswith(("=", "+", "-", "@"))


@given(st.text("abcXYZ 019.,;:!?()[]{}äöü中·@=_~", max_size=40).map(str.strip))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    if not text.startswith(("=", "@")) and "  " not in text:
        assert csv_cell(text) == one_line(text) == text


def test_escapes_are_written_out() -> None:
    assert visible(NASTY).startswith("\\x1b[31mred\\x1b[0m\\x9b2J\\u202egnp\\r\n")
    assert csv_cell("=1+1") == "'=1+1" and csv_cell("-3 \n x") == "'-3 x"
    assert markdown_cell("a|b<c") == "a\\|b&lt;c"


def test_titles_of_yaml_do_nothing_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "evil.yaml").write_text(
        f"title: {json.dumps(NASTY)}\ndescription: {json.dumps(NASTY)}\ndevice: cpu\nscale: cpu\ncpus_per_task: 2\n"
        "time_min: 60\n")
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path))
    plain = len(call(capsys, "list", "profiles", "--json")[1])
    assert plain
    for arguments in (["list", "profiles"], ["describe", "profile:evil"], ["list"]):
        code, out, _ = call(capsys, *arguments)
        assert code == 0 and ("\\x1b[31mred" in out or "\\u001b[31mred" in out)
        assert not {letter for letter in out if letter in "\x1b\x9b\u202e\r"}
        assert not [line for line in out.splitlines() if line.startswith("=HYPERLINK")]


def test_run_names_and_messages_do_nothing_in_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = make_run(tmp_path, [0.5], done=False, failed=NASTY, variant="ppo", task="reach")
    (run / "worker.log").write_text(NASTY)
    for arguments in (["status"], ["clean", "--dry-run"], ["list", "runs"], ["logs", str(run)]):
        _, out, err = call(capsys, *arguments, *(["--results", str(tmp_path)] if arguments[0] != "logs" else []))
        assert not {letter for letter in out + err if letter in "\x1b\x9b\u202e\r"}, arguments


def test_rich_keeps_its_own_styles_and_cleans_what_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        from rich.table import Table

        console = output.console(force_terminal=True, color_system="standard", width=60, _environ={"TERM": "xterm"})
        table = Table("run", box=None)
        table.add_row("\x1b[2Jname", style="red")
        console.print(table)
        console.print("\x9b2J", markup=False)
        return 0

    assert output.run(act) == 0
    out = capsys.readouterr().out
    assert "\x1b[31m" in out and "\\x1b[2Jname" in out and "\x9b" not in out


def test_no_cell_is_a_formula_and_no_title_forges_a_row(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, [0.5], variant="ppo", seed=seed, title=f"=1+1{NASTY}")
    results = collect(tmp_path)
    text = to_csv(results.points).decode()
    assert text.count("\n") == len(results.points) + 1
    assert "\"'=1+1" in text and ",\"=" not in text and "\x1b" not in text
    table = build_table(results, repetitions=50)
    for name, render in FORMATS.items():
        shown = render(table)
        assert not {letter for letter in shown if letter in "\x1b\x9b\u202e\r"}, name
        assert not [line for line in shown.splitlines() if line.startswith("=HYPERLINK")], name
    columns = {line.count("|") - line.count("\\|") for line in FORMATS["md"](table).splitlines() if line[:1] == "|"}
    assert columns == {3}


def test_numbers_and_gaps_of_a_frame_stay() -> None:
    frame = pd.DataFrame({"number": [-1.5, float("nan")], "text": ["a", None], "mixed": ["-x", 3]})
    safe = safe_cells(frame)
    assert safe["number"].equals(frame["number"]) and list(safe["mixed"]) == ["'-x", 3]
    assert safe_cells(frame[["number", "text"]]).equals(frame[["number", "text"]])
