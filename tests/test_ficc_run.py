"""FICC from videos to an evaluation at smoke scale: the stages, the loop and the simulator are the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.training.again import evaluate_again
from pvdr_bench.training.execute import execute
from pvdr_bench.training.stages import Stages
from tests.test_training_stages import write_corpora

# 40 decisions, of which 20 come before the first update and 20 have one each; pixels, so that no tokenizer is trained
SHORT = ["protocol.goal_metric=pixel_l1", "protocol.env_steps=160", "protocol.eval_every=160",
         "protocol.eval_episodes=1", "protocol.eval_final_episodes=2", "train.prefill=20", "train.every=1"]


def test_a_run_from_videos_to_its_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("pvdr_bench.runs.artefacts.shipped_artefacts", lambda: [])
    spec = load_catalog().resolve("ficc", "reach", 0, "smoke", overrides=SHORT)
    write_corpora(tmp_path / "data", spec)
    stages = Stages(spec, env_workers=0)
    assert stages.missing() == ["pretrain"]
    assert execute(spec, tmp_path / "results", stages.pieces, lambda: False)
    run = RunDir(spec.path(tmp_path / "results"))
    assert set(run.read_artefacts() or {}) == {"pretrain"} and stages.missing() == []
    row, = (row for row in run.read_train() if "loss" in row)
    assert row["updates"] == 20 and {"consistency_loss", "value_beyond", "prefix_beyond", "adapter_bits",
                                     "adapter_unseen"} <= row.keys()
    final = [row["return"] for row in run.read_episodes() if row["point"] == "final"]
    _, again = evaluate_again(run, spec, Stages(spec, env_workers=0).pieces, None, lambda: False)
    assert [result.row(seed=0, env_steps=160, decisions=40, point="final")["return"] for result in again] == final
    assert len(final) == 2
