"""`reproduce` and `run` where something cannot be made: the others go on, what there is is drawn, and a code tells."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.stage_graph import StageNode
from pvdr_bench.errors import Interrupted, TrainingError
from pvdr_bench.training.stages import Stages
from tests.test_cli_run import cli
from tests.test_reproduce import fabricate
from tests.test_reproduce_command import folder

__all__ = ["folder"]
EXPERIMENT = """title: Of two kinds
protocol: apv
scale: smoke
seeds: 2
figure: {kind: curves}
grid:
  - {methods: [apv, random], tasks: [dot], videos: [metaworld]}
"""


@pytest.fixture
def two_kinds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment ``kinds``: APV stands on an artefact, random on none; in a suite that imports nothing."""
    (folder / "mine" / "experiments" / "kinds.yaml").write_text(EXPERIMENT)
    (folder / "mine" / "tasks").mkdir()
    (folder / "mine" / "tasks" / "dot.yaml").write_text("suite: dummy\nenv_id: point\n")
    monkeypatch.setattr("pvdr_bench.bench.pace.measure", lambda *arguments: {})
    return folder


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Every stage fails with ``error``; returns the names of those that were tried."""
    tried: list[str] = []

    def make(self: Stages, node: StageNode, *_: object) -> dict[str, Any]:
        tried.append(node.name)
        raise error

    monkeypatch.setattr(Stages, "_make", make)
    return tried


def make_one(folder: Path) -> None:
    """A run of the experiment that is done before."""
    fabricate(load_catalog().resolve("random", "dot", 0, "smoke", "apv"), folder / "results", 0.5)


def command(folder: Path, *words: str) -> tuple[str, ...]:
    return (*words, "--results", str(folder / "results"))


@pytest.mark.parametrize(("error", "code", "words"), [
    (TrainingError("the loss is not finite", hint="a lower rate"), 8, "the loss is not finite"),
    (ZeroDivisionError("by 0"), 1, "ZeroDivisionError: by 0")])
def test_an_artefact_that_cannot_be_made_is_told_once_and_the_others_go_on(
        capsys: pytest.CaptureFixture[str], two_kinds: Path, monkeypatch: pytest.MonkeyPatch, error: Exception,
        code: int, words: str) -> None:
    tried = failing(monkeypatch, error)
    ended, out, err = cli(capsys, *command(two_kinds, "reproduce", "kinds", "--device", "cpu"))
    assert ended == code and tried == ["dreamer-metaworld-smoke"], "two runs stand on it, and it is tried once"
    assert out.count("not made: ") == out.count(words) == 1 and "not made: pretrain dreamer on metaworld · smoke" in out
    assert len(re.findall(r"failed  apv · dot · metaworld · seed [01]: not begun", out)) == 2
    assert sorted(path.parts[-6:-1] for path in two_kinds.rglob("done.json")) == [
        ("random", "dot", "none", "apv-smoke", f"seed-{seed}") for seed in (0, 1)]
    assert "missing: apv (metaworld): dot: seeds 0, 1 not begun" in out
    assert (two_kinds / "results" / "reproduce" / "kinds.png").exists()
    assert ("Traceback" in err) == (code == 1)


def test_siblings_go_on_in_run_too(capsys: pytest.CaptureFixture[str], two_kinds: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, TrainingError("the loss is not finite"))
    code, out, _ = cli(capsys, *command(two_kinds, "run", "--methods", "apv,random", "--task", "dot", "--protocol",
                                        "apv", "--scale", "smoke", "--videos", "metaworld", "--device", "cpu"))
    assert code == 8 and out.count("not made: ") == 1 and "failed  apv · dot" in out
    assert [path.parts[-6] for path in two_kinds.rglob("done.json")] == ["random"]


def test_interrupted_while_an_artefact_is_made_it_begins_nothing_and_draws(
        capsys: pytest.CaptureFixture[str], two_kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_one(two_kinds)
    failing(monkeypatch, Interrupted("stopped while making an artefact", hint="the same command continues"))
    code, out, err = cli(capsys, *command(two_kinds, "reproduce", "kinds", "--device", "cpu"))
    assert code == 75 and "stopped while making an artefact" in err and "not made" not in out
    assert len(list(two_kinds.rglob("done.json"))) == 1 and "missing: apv" in out
    assert (two_kinds / "results" / "reproduce" / "kinds.png").exists()


def test_without_a_scheduler_what_there_is_is_drawn(capsys: pytest.CaptureFixture[str], two_kinds: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    make_one(two_kinds)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, out, err = cli(capsys, *command(two_kinds, "reproduce", "kinds", "--profile", "cpu"))
    assert code == 4 and "no machine to submit from" in err and "missing: apv" in out
    assert (two_kinds / "results" / "reproduce" / "kinds.png").exists()
