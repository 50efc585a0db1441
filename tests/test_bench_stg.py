"""``bench stg``: the whole measurement on a corpus of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.main import main
from pvdr_bench.diagnostics import stg
from pvdr_bench.errors import UsageError
from pvdr_bench.runs.files import content_hash
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos.writer import ClipWriter

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32  # of pictures at smoke scale


def test_the_committed_measurement_is_of_the_recipe_and_keeps_its_promise(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))  # the corpus as this version would generate it
    told = json.loads((ROOT / "results" / "reference" / "bench-stg-cpu.json").read_text())
    assert (told["method"], told["corpus"], told["scale"]) == ("stg", "metaworld", "cpu")
    stages = Stages(load_catalog().resolve(told["method"], "reach", 0, told["scale"], videos=told["corpus"]))
    assert told["artefact"] == content_hash(stages.recipe(stages.node("pretrain"), {}))
    assert told["auc"] >= 0.9 and told["time_forward"] > 0.6 > told["untrained"]["auc"]
    assert told["auc_same_clip"] > 0.6 and told["embedding_rank"] > 4
    text = (ROOT / "results" / "reference" / "benchmarks.md").read_text()
    assert f"{100 * told['auc']:.1f} % of pairs (untrained: {100 * told['untrained']['auc']:.1f} %)" in text


def corpus(data: Path, frames: int) -> None:
    """Six episodes of a bright square that slides over a picture, one and two of which are held out."""
    writer = ClipWriter(data / "videos" / "slides" / str(SIZE), SIZE, {"seed": 0, "frames": frames})
    for number in range(6):
        film = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
        for t in range(frames):
            film[t, 4 * number:4 * number + 6, t:t + 6] = 255
        writer.append(film, "slide", None)
    writer.publish({"numpy": "x"})


def test_it_judges_the_artefact_beside_an_untrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    corpus(tmp_path, 20)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "stg", "-o", "scale=smoke", "-o", "corpus=slides", "-o", "clips=8", "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["corpus"] == "slides" and told["clips"] == 8 and len(told["artefact"]) == 12
    names = {"auc", "auc_same_clip", "auc_reversed", "time_forward", "prediction_gain", "embedding_rank", "opinion_std"}
    for part in (told, told["untrained"]):
        assert names <= set(part) and 0 <= part["auc"] <= 1 and 0 <= part["time_forward"] <= 1
    assert told["auc"] != told["untrained"]["auc"]
    again = stg.measure(scale="smoke", corpus="slides", clips=8, untrained=False)
    assert again == {name: value for name, value in told.items() if name != "untrained"}


def test_videos_shorter_than_the_context_are_refused_before_anything_is_trained(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    corpus(tmp_path, 6)
    with pytest.raises(UsageError, match="clips of 7 frames, and the longest training episode has 6"):
        stg.measure(scale="smoke", corpus="slides")
