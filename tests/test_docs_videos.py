"""The five commands of docs/videos.md, as a new user gives them, at smoke scale; the commands that look at videos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.videos import app
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.statistics import contact_sheet, statistics
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter
from tests import video_files as made

PAGE = (Path(__file__).parents[1] / "docs" / "videos.md").read_text()


def films(folder: Path) -> None:
    """What a phone wrote: upright and wide ones, at thirty frames a second."""
    for number in range(3):
        made.write_video(folder / f"VID_2024010{number}_1200.mp4", made.moving(number, 90, 72, 128), fps=30)


def generated(data: Path) -> None:
    """The tokenizer's own corpora, as they would be made."""
    stages = Stages(load_catalog().resolve("pvdr", "reach", 0, "smoke"))
    for number, name in enumerate(("metaworld", "fetch-push")):
        writer = ClipWriter(corpus_path(name, 32, data), 32, stages._corpus_recipe(name))
        for episode in range(6):
            writer.append(made.moving(10 * number + episode, 12, 32), name)
        writer.publish()


def test_the_five_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path / "kitchen")
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    generated(tmp_path / "data")
    block = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()
    assert len(block) == 5 and block[4].startswith("pvdr-bench run --method pvdr --task reach --videos kitchen")
    env = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
           "PYTHONPATH": str(Path(__file__).parents[1]), "PVDR_BENCH_DATA": str(tmp_path / "data")}
    said = []
    for line in block[:4]:  # the fifth needs a simulator
        small = line.replace("--image-size 64", "--image-size 32").replace("--scale cpu", "--scale smoke")
        command = small.replace("pvdr-bench", f"{sys.executable} -m pvdr_bench")
        answer = subprocess.run(command, shell=True, cwd=tmp_path, env=env, text=True, capture_output=True, check=False)
        assert answer.returncode == 0, f"{small}\n{answer.stdout}\n{answer.stderr}"
        said.append(answer.stdout)
    assert "kitchen: 90 frames in 3 episodes" in said[0] and "next: pvdr-bench videos check kitchen" in said[0]
    assert "pvdr: can learn from it at scale smoke" in said[1] and "compared: image size, frames of a clip" in said[1]
    assert (tmp_path / "kitchen.png").read_bytes().startswith(b"\x89PNG")
    artefacts = tmp_path / "data" / "artefacts"
    assert len(list(artefacts.glob("pretrain/pvdr-kitchen-smoke-*/model.safetensors"))) == 1
    tokenizer, = artefacts.glob("tokenize/tokenizer-kitchen-smoke-*")
    learned = json.loads((tokenizer / "metrics.json").read_text())["corpora"]
    assert set(learned) == {"metaworld", "fetch-push", "kitchen"}


def store_of(path: Path, episodes: list[np.ndarray]) -> ClipStore:
    writer = ClipWriter(path, episodes[0].shape[1], {}, fps=10.0, both_splits=True)
    for frames in episodes:
        writer.append(frames, "x")
    return writer.publish()


def test_statistics_are_those_of_the_frames(tmp_path: Path) -> None:
    episodes = [made.moving(n, 5 + n, 16) for n in range(4)]
    found = statistics(store_of(tmp_path / "s", episodes))
    differences = [np.abs(frames[1:].astype(int) - frames[:-1]) for frames in episodes]
    wanted = np.mean(np.concatenate([each.mean(axis=(1, 2, 3)) for each in differences]))
    assert found["mean_motion"] == pytest.approx(wanted) and found["still_share"] == 0.0
    assert (found["episodes"], found["frames"], found["length"]["longest"], found["seconds"]) == (4, 26, 8, 2.6)
    still = statistics(store_of(tmp_path / "t", [np.zeros((3, 16, 16, 3), np.uint8), *episodes[:1]]))
    assert still["still_share"] == pytest.approx(2 / 6)


def test_a_contact_sheet_has_the_corpus_frames(tmp_path: Path) -> None:
    episodes = [made.moving(n, 9, 16) for n in range(5)]
    sheet = contact_sheet(store_of(tmp_path / "s", episodes), episodes=3, frames=2)
    assert sheet.shape == (3 * 18 - 2, 2 * 18 - 2, 3)
    assert np.array_equal(sheet[18:34, :16], episodes[2][0]) and np.array_equal(sheet[36:, 18:], episodes[4][8])
    assert (sheet[16:18] == 255).all()


def test_commands_that_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    made.write_bair(tmp_path / "source", {"train/traj_0_to_1": (0, 1), "test/traj_0_to_0": (2,)}, 6)
    command = ["import", "bair", str(tmp_path / "source"), "--image-size", "32", "--json"]
    imported = json.loads(CliRunner().invoke(app, command).output)
    assert imported["episodes"] == 3 and imported["license"].startswith("none stated")
    found = CliRunner().invoke(app, ["check", "bair", "--image-size", "32", "--json", "-m", "pvdr", "--scale", "smoke"])
    facts = json.loads(found.output)
    assert found.exit_code == 0 and facts["whole"] and facts["train_frames"] == 12 and facts["fits"] == {"pvdr": None}
    assert facts["compared"][0] == "image size"
    refused = CliRunner().invoke(
        app, ["check", "bair", "--image-size", "32", "-m", "pvdr", "-m", "ppo", "--scale", "cpu"])
    assert refused.exit_code == 2 and "ppo: learns from no videos" in refused.output
    assert "bair is of 32 pixels here, and pretrain pvdr on bair · cpu, under the protocol pvdr, needs 64" in \
        refused.output.replace("tokenize tokenizer", "pretrain pvdr")
    assert CliRunner().invoke(app, [*command[:3], "--image-size", "64"]).exit_code == 0
    refused = CliRunner().invoke(app, ["check", "bair", "--image-size", "64", "-m", "pvdr", "--scale", "cpu"])
    assert refused.exit_code == 2 and "bair is too short" in refused.output
    made_ = CliRunner().invoke(app, ["preview", "bair", "--image-size", "32", "--out", str(tmp_path / "x.png")])
    assert made_.exit_code == 0 and (tmp_path / "x.png").is_file()
    frames = tmp_path / "videos" / "bair" / "32" / "frames.u8"
    frames.write_bytes(frames.read_bytes()[:-1] + b"!")
    broken = CliRunner().invoke(app, ["check", "bair", "--image-size", "32"])
    assert "checksum of episode 2" in str(broken.exception)
    row = next(row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).output) if row["name"] == "bair")
    assert row["citation"].startswith("Ebert") and row["made"][0]["episodes"] == 3


def test_names_that_an_import_cannot_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    for name, words in (("metaworld", "choose a name of your own"), ("a/b", "cannot be a corpus' name"),
                        ("bair", "videos fetch bair"), ("mine", "videos import mine FOLDER")):
        assert words in str(CliRunner().invoke(app, ["import", name]).exception)


def test_bench_videos_measures(tmp_path: Path) -> None:
    from pvdr_bench.bench.videos import measure

    found = measure(trajectories=2, grown=2, image_size=64, jobs=1, seconds=0.1, folder=str(tmp_path))
    assert found["mb_per_s"] > 0 and found["clips_per_s"] > 0
    assert found["source_mb"]["large"] == pytest.approx(2 * found["source_mb"]["small"])
    assert found["peak_mib"]["small"]["import"] > 10 and not list(tmp_path.iterdir())


def test_the_report_has_terms_numbers_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace
    from typing import Any

    import pandas as pd

    from pvdr_bench.results.report.corpora import videos_part

    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    store_of(corpus_path("bair", 32, tmp_path), [made.moving(n, 9, 32) for n in range(4)])

    def part(*corpora: str) -> str:
        runs = pd.DataFrame({"corpus": list(corpora)})
        results: Any = SimpleNamespace(runs=runs, protocols={"h": {"image_size": 32}})
        return videos_part(results)

    found = part("bair+jaco-play=0.5", "none", "<script>")
    assert "arXiv 1710.05268" in found and "CC BY 4.0" in found and found.count("data:image/png;base64,") == 1
    assert 'data-key="36"' in found  # frames
    assert "<script>" not in found and part("none") == "" and str(tmp_path) not in found
    assert "&lt;script&gt;" in found and found.count('class="note"') == 1
    frames = corpus_path("bair", 32, tmp_path) / "frames.u8"
    frames.write_bytes(frames.read_bytes()[:-1])
    broken = part("bair", "bair+bair")
    assert "bair at 32 pixels is broken" in broken and "truncated" in broken and "check bair --image-size 32" in broken
    assert "runs on bair+bair are not shown: bair comes twice" in broken and str(tmp_path) not in broken
