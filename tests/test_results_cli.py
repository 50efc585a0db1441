"""The commands of results: the grammar, --json, and errors before work."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.cli.selection import select
from pvdr_bench.errors import BenchError, StorageError, UsageError
from tests.results_runs import make_grid, make_run

runner = CliRunner()


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    make_grid(root, seeds=3)
    make_run(root, [0.2], variant="pvdr", corpus="metaworld", algorithm="pvdr", title="PVDR", seed=3, done=False,
             failed="boom")
    return root


def run(*words: str) -> str:
    result = runner.invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_aggregate_writes_and_tells(grid: Path, tmp_path: Path) -> None:
    told = json.loads(run("aggregate", "--results", str(grid), "--out", str(tmp_path), "--json"))
    frame = pd.read_parquet(told["files"]["parquet"])
    assert len(frame) == told["points"] and told["runs"] == 19
    assert {"run": "pvdr/reach/metaworld/cpu/seed-3", "kind": "failed",
            "detail": "boom (evaluated up to 8000 of 40000 env_steps)"} in told["problems"]
    text = run("aggregate", "--results", str(grid), "--out", str(tmp_path), "--method", "ppo,pvdr", "--seeds", "0,2")
    assert "of 6 runs; protocols" in text and "points.parquet" in text


def test_published_runs_hold_the_numbers_and_no_machine(grid: Path, tmp_path: Path) -> None:
    told = json.loads(run("aggregate", "--results", str(grid), "--out", str(tmp_path / "a"), "--method", "ppo",
                          "--publish", str(tmp_path / "p"), "--json"))
    assert len(told["published"]) == 3
    words = ("table", "--method", "ppo", "--json", "--results")
    assert json.loads(run(*words, str(tmp_path / "p")))["rows"] == json.loads(run(*words, str(grid)))["rows"]
    assert told["published"] == [f"ppo/reach/none/cpu/seed-{seed}" for seed in range(3)]
    run("unpack", str(tmp_path / "p"), str(tmp_path / "out"))
    text = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    assert '"directory"' not in text and '"host"' not in text and str(grid) not in text and '"packages"' in text
    assert not list((tmp_path / "out").rglob("checkpoints"))
    frames = ["points.csv", "points.parquet", "problems.csv", "runs.csv", "runs.zip"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir() if path.name != ".aggregate") == frames
    with pytest.raises(UsageError, match="into itself"):
        run("aggregate", "--results", str(grid), "--publish", str(grid))


def test_publishing_more_keeps_what_is_there(grid: Path, tmp_path: Path) -> None:
    words = ("aggregate", "--results", str(grid), "--out", str(tmp_path / "p"), "--publish", str(tmp_path / "p"))
    run(*words, "--method", "ppo")
    run(*words, "--method", "pvdr")
    frame = pd.read_parquet(tmp_path / "p" / "points.parquet")
    assert set(frame["variant"]) == {"ppo", "pvdr"} and set(frame["status"]) == {"done"}
    run("aggregate", "--results", str(tmp_path / "p"), "--out", str(tmp_path / "anew"))
    assert (tmp_path / "anew" / "points.csv").read_bytes() == (tmp_path / "p" / "points.csv").read_bytes()
    before = (tmp_path / "p" / "runs.zip").read_bytes()
    run(*words, "--method", "ppo")  # the same again
    assert (tmp_path / "p" / "runs.zip").read_bytes() == before


def test_singular_and_plural_are_the_same(grid: Path) -> None:
    first = run("table", "--results", str(grid), "--method", "ppo", "--task", "reach", "--seeds", "3")
    assert first == run("table", "--results", str(grid), "--methods", "ppo", "--tasks", "reach", "--seeds", "0,1,2")
    assert "| PPO |" in first and "PVDR" not in first


def test_overrides_choose_variants_and_protocols(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5)
    make_run(tmp_path, [0.5] * 5, variant="ppo@clip=0.3", algorithm="ppo")
    make_run(tmp_path, [0.5] * 5, seed=1, goal_blur=5)
    words = ("table", "--results", str(tmp_path), "--json")
    told = json.loads(run(*words, "-m", "ppo", "-o", "clip=0.3", "-o", "protocol.env_steps=8000"))
    assert [record["variant"] for record in told["rows"]] == ["ppo@clip=0.3"]
    told = json.loads(run(*words, "-m", "ppo", "-o", "protocol.goal_blur=5"))
    assert [record["n"] for record in told["rows"]] == [1]
    assert json.loads(run(*words, "-m", "ppo@clip=0.3"))["rows"][0]["variant"] == "ppo@clip=0.3"
    for wrong, message in ((("-o", "protocol.goal_blur=9"), "no run has a protocol"), (("-o", "clip=1"), "no method"),
                           (("-m", "ppo", "-o", "clop=1"), "clop")):
        with pytest.raises(BenchError, match=message):
            run(*words, *wrong)


def test_plot_writes_its_files_and_refuses_options_of_another_kind(grid: Path, tmp_path: Path) -> None:
    told = json.loads(run("plot", "--results", str(grid), "--out", str(tmp_path / "fig.pdf"), "--json",
                          "--reported", "pvdr", "--individual"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fig.pdf", "fig.png", "fig.svg", "fig.txt"]
    assert told["caption"] + "\n" == (tmp_path / "fig.txt").read_text() and "Thin lines" in told["caption"]
    assert "pvdr/reach/metaworld/cpu/seed-3: failed, boom" in told["caption"]


def test_table_in_all_formats(grid: Path, tmp_path: Path) -> None:
    told = json.loads(run("table", "--results", str(grid), "--json", "--videos", "metaworld"))
    assert {record["corpus"] for record in told["rows"]} == {"metaworld", "none"}
    assert {record["variant"] for record in told["rows"]} == {"pvdr", "pvdr-scratch", "ppo", "random", "scripted"}
    one = json.loads(run("table", "--results", str(grid), "--json", "--methods", "pvdr", "--videos", "metaworld"))
    assert {record["corpus"] for record in one["rows"]} == {"metaworld"}  # no row without a corpus was asked for
    assert r"\toprule" in run("table", "--results", str(grid), "--format", "tex")
    run("table", "--results", str(grid), "--format", "csv", "--out", str(tmp_path / "a" / "t.csv"))
    shown = set(pd.read_csv(tmp_path / "a" / "t.csv")["variant"])
    assert shown == {"ppo", "pvdr", "pvdr-scratch", "random", "scripted"}
    for name, asked, form in (("t.csv", [], "csv"), ("t.TEX", [], "tex"), ("t", [], "md"), ("t.txt", ["tex"], "tex")):
        out, words = tmp_path / name, ["table", "--results", str(grid)]
        run(*words, "--out", str(out), *(["--format", *asked] if asked else []))
        assert out.read_text().strip() == run(*words, "--format", form).strip()


@pytest.mark.parametrize(("words", "message"), [
    (["table", "--format", "html"], "no table format"), (["table", "--metric", "speed"], "no metric"),
    (["plot", "--methods", "nobody"], "there is: "), (["plot", "--seeds", "x"], "not a list"),
    (["plot", "--kind", "bars", "--axis", "time"], "--axis says nothing about --kind bars"),
    (["plot", "--kind", "sweep"], "needs the key"), (["plot", "--key", "lr"], "--key says nothing about --kind curves"),
    (["table", "--out", "t.xlsx"], "no table format has the suffix 'xlsx'"),
    (["table", "--out", "t.tex", "--format", "csv"], "suffix 'tex' is of another format than --format csv"),
    (["report", "--out", "r.pdf"], "a report is HTML and ends in .html, not '.pdf'"),
    (["table", "--reported", "stg"], "no number is published of a method stg"),
    (["table", "--reported", "pvdr,fic"], "no number is published of a method fic(.*\n)*.*did you mean 'ficc'"),
    (["agreement", "--as", "bair=fetch-pusch"], "no run here is of the corpus fetch-pusch"),
    (["table", "--protocol", "pvrd"], r"no run with protocol pvrd\n.*there is: pvdr \([0-9a-f]{12}, scale cpu\)"),
    (["table", "--protocol", "p"], "no run with protocol p\n"),
    (["table", "--protocol", "pvdr", "-o", "protocol.goal_blur=7"], "no run has a protocol with goal_blur=7"),
    (["table", "--statistic", "mode"], "no statistic"),
    (["plot", "--confidence", "95"], "confidence"), (["video", "nowhere"], "holds no run"),
    (["table", "--aggregates", "--threshold", "50"], "threshold 50 is not a rate between 0 and 1"),
    (["table", "--aggregates", "--threshold", "nan"], "threshold nan"),
    (["plot", "--kind", "aggregates", "--threshold", "-0.1"], "threshold -0.1"),
    (["compare", "pvdr:metaworld", "ppo", "--threshold", "50"], "threshold 50"),
    (["compare", "pvdr:metaworld", "ppo", "--metric", "return", "--threshold", "inf"],
     "--threshold says nothing about --metric return"),
])
def test_wrong_words_get_one_clear_error(grid: Path, words: list[str], message: str) -> None:
    more = [] if words[0] == "video" else ["--results", str(grid)]
    with pytest.raises(BenchError, match=message) as raised:
        runner.invoke(app, [*words, *more], catch_exceptions=False)
    assert isinstance(raised.value, UsageError)


@pytest.mark.parametrize(("words", "message"), [
    ("table --threshold 0.5", "table: --threshold says nothing about a table of tasks\n  -> leave it out, or add "),
    ("table --aggregates --statistic iqm --paper", "--statistic, --paper say nothing about --aggregates\n  -> leave "),
    ("table --statistic iqm", r"--statistic says nothing about one task \(reach\)\n  -> leave it out, or choose"),
    ("report --statistic iqm", r"--statistic says nothing about one task \(reach\)"),
    ("table --columns time --metric success", "--metric says nothing about --columns time"),
    ("table --columns cost --aggregates --threshold 1", "--aggregates, --threshold say nothing about --columns cost"),
    ("table --reported pvdr --paper", "--paper shows the numbers of every method"),
    ("report --reported pvdr --paper", "--paper shows the numbers of every method"),
    ("plot --kind profile --paper", "--paper says nothing about --kind profile"),
    ("plot --kind curves --threshold 0.5", "--threshold says nothing about --kind curves"),
    ("compare pvdr ppo --metric return --threshold 0.5", "--threshold says nothing about --metric return"),
    ("export --policy RUN --out x --seeds 2 --metric return --online",
     "--seeds, --metric, --online say nothing about --policy"),
    ("export --format csv --out x.csv --metric return", "--metric says nothing about --format csv"),
    ("export --to tensorboard --allow-mixed", "--allow-mixed says nothing about --to tensorboard"),
    ("list", "list: --results says nothing about list\n  -> leave it out, or list what is in it: list runs"),
    ("list methods", "--results says nothing about list methods"),
])
def test_options_without_effect_are_refused_and_not_ignored(grid: Path, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runner.invoke(app, [*words.split(), "--results", str(grid)], catch_exceptions=False)


def test_a_protocol_is_chosen_by_name_hash_and_meaning_together(tmp_path: Path) -> None:
    for blur in (3, 5):
        make_run(tmp_path, [0.5], seed=blur, goal_blur=blur)
    shown = {blur: select(tmp_path, overrides=[f"protocol.goal_blur={blur}"]).runs["protocol_hash"].item()
             for blur in (3, 5)}
    assert shown[3] != shown[5] and len(select(tmp_path, protocol=["pvdr"]).runs) == 2
    assert list(select(tmp_path, protocol=[shown[5]]).runs["seed"]) == [5]
    assert list(select(tmp_path, protocol=["pvdr"], overrides=["protocol.goal_blur=5"]).runs["seed"]) == [5]
    with pytest.raises(UsageError, match=f"no run of protocol {shown[3]} has the meaning that -o asks for"):
        select(tmp_path, protocol=[shown[3]], overrides=["protocol.goal_blur=5"])


@pytest.mark.parametrize("words", ["table", "plot", "report", "export --format json", "aggregate"])
def test_where_nothing_can_be_written_is_told_with_advice(grid: Path, tmp_path: Path, words: str) -> None:
    (tmp_path / "file").write_text("")
    name = {"table": "x.md", "report": "x.html"}.get(words, "x.json")
    for place, advice in ((tmp_path / "file" / "below" / name, "a file stands where a folder is needed"),
                          (Path("/proc/nowhere") / name, "cannot be made: choose another one")):
        with pytest.raises(StorageError, match="cannot write: ") as raised:
            run(*words.split(), "--results", str(grid), "--out", str(place))
        assert advice in str(raised.value)
