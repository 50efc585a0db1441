"""Which artefacts a run stands on, and how they are found, made, shared and made anew. Tiny corpora, no simulator."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import Interrupted, SetupError
from pvdr_bench.runs.artefacts import ArtefactStore
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter

CORPORA = ("metaworld", "fetch-push")  # those that methods/tokenizer.yaml names


def resolve(method: str, seed: int = 0, *overrides: str, videos: str | None = None) -> RunSpec:
    return load_catalog().resolve(method, "reach", seed, "smoke", videos=videos, overrides=overrides)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, and no shipped artefacts."""
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("pvdr_bench.runs.artefacts.shipped_artefacts", lambda: [])
    return tmp_path


def write_corpora(data: Path, spec: RunSpec) -> None:
    """Both corpora with the recipe that a real one would have, and a moving square for pictures."""
    stages = Stages(spec)
    for name in CORPORA:
        rng = np.random.default_rng(len(name))
        writer = ClipWriter(corpus_path(name, 32, data), 32, stages._corpus_recipe(name))
        for _ in range(6):
            frames = np.full((12, 32, 32, 3), 60, np.uint8)
            x, y = rng.integers(0, 16, 2)
            for t in range(12):
                frames[t, y:y + 8, x + t:x + t + 4] = rng.integers(150, 255, 3)
            writer.append(frames, name)
        writer.publish()
        writer.close()


def recipe_of(spec: RunSpec, stage: str, tokenizer: str = "t") -> dict[str, Any]:
    """A stage's recipe on a tokenizer with such a checksum."""
    stages = Stages(spec)
    return stages.recipe(stages.node(stage), {"tokenize": SimpleNamespace(weights_sha256=tokenizer)})  # type: ignore[dict-item]


def test_what_is_missing_is_known_without_videos(data: Path) -> None:
    assert Stages(resolve("pvdr")).missing() == ["tokenize", "pretrain"]
    assert Stages(resolve("ppo")).missing() == ["tokenize"]
    assert Stages(resolve("pvdr-scratch")).missing() == ["tokenize"]
    assert Stages(resolve("random", 0, "protocol.goal_metric=pixel_l1")).missing() == []
    before = recipe_of(resolve("pvdr"), "tokenize")
    write_corpora(data, resolve("pvdr"))
    assert recipe_of(resolve("pvdr"), "tokenize") == before  # a corpus stands in it by recipe


def test_recipes_hold_what_changes_the_artefact_and_nothing_else(data: Path) -> None:
    def recipe(spec: RunSpec, tokenizer: str = "t") -> str:
        return json.dumps(recipe_of(spec, "pretrain", tokenizer), sort_keys=True)

    base = recipe(resolve("pvdr"))
    same = [resolve("pvdr", 7), resolve("pvdr", 0, "planner.candidates=3"),
            resolve("pvdr", 0, "protocol.env_steps=480")]
    assert {recipe(spec) for spec in same} == {base}
    changed = [recipe(resolve("pvdr", 0, "pretrain.lr=1e-5")), recipe(resolve("pvdr", 0, "model.z_dim=3")),
               recipe(resolve("pvdr", videos="fetch-push")), recipe(resolve("pvdr"), "another tokenizer"),
               recipe(resolve("pvdr").model_copy(update={"pretrain_seed": 1}))]
    assert len({base, *changed}) == 6
    with pytest.raises(SetupError, match="corpus mine has no videos of 32 pixels"):
        recipe(resolve("pvdr").model_copy(update={"corpus": "mine"}))


def test_artefacts_are_made_once_shared_and_made_anew(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve("pvdr")
    write_corpora(data, spec)
    seen: Counter[str] = Counter()

    def report(what: str, done: int, total: int) -> None:
        seen[what] += done == total

    first = Stages(spec, report=report).build()
    assert set(first) == {"tokenize", "pretrain"} and seen == {"tokenize": 1, "tokens": 1, "pretrain": 1}
    assert first["pretrain"].name == "pvdr-metaworld-smoke"
    stores = {name: ClipStore(corpus_path(name, 32, data)).hash for name in CORPORA}
    assert first["tokenize"].metrics()["corpora"] == stores
    assert "val_ce_prior" in first["pretrain"].metrics() and "val_psnr" in first["tokenize"].metrics()
    again = Stages(resolve("pvdr", 3), report=report)
    assert again.missing() == [] and again.build() == first and seen["pretrain"] == 1
    pieces, references = again.pieces()
    assert references["pretrain"]["weights_sha256"] == first["pretrain"].weights_sha256
    assert all(each["wall_seconds"] > 0 and each["device"] == "cpu" for each in references.values())
    assert all(each["flop"] > 0 for each in references.values())
    assert pieces.tokenizer is not None and set(pieces.artefacts) == {"tokenize", "pretrain"}
    codes = pieces.tokenizer.encode(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert pieces.tokenizer.embed(codes).shape[:3] == codes.shape
    # --fresh: once for all runs of a command, and on one thread the same weights again
    made: dict[str, object] = {}
    for seed in (0, 1):
        fresh = Stages(resolve("pvdr", seed), fresh=True, made=made, report=report).build()  # type: ignore[arg-type]
    assert seen["tokenize"] == 2 and seen["pretrain"] == 2
    assert fresh["tokenize"].weights_sha256 == first["tokenize"].weights_sha256
    assert fresh["pretrain"].weights_sha256 == first["pretrain"].weights_sha256


def test_a_stopped_build_goes_on_where_it_was(data: Path) -> None:
    spec = resolve("ppo")
    write_corpora(data, spec)
    steps: list[int] = []

    def report(what: str, done: int, total: int) -> None:
        steps.append(done)

    with pytest.raises(Interrupted):
        Stages(spec, report=report, stop=lambda: len(steps) >= 15).build()
    stopped = steps[-1]
    artefact = Stages(spec, report=report).build()["tokenize"]
    resumed = steps[steps.index(stopped) + 1:]
    assert resumed[0] > 1 and resumed[-1] == artefact.metrics()["steps"]
    straight = Stages(spec, fresh=True).build()["tokenize"]
    assert straight.weights_sha256 == artefact.weights_sha256


def test_a_stop_ends_the_wait_for_another_process(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take hours: the wait for a model in the making, and for tokens."""
    spec = resolve("pvdr")
    write_corpora(data, spec)
    said: list[str] = []

    def interrupted(lock: FileLock) -> str:
        """Build while another process holds the lock; where it came to wait."""
        monkeypatch.setattr("pvdr_bench.runs.locks.time.sleep", lambda seconds: lock.release())  # or it never ends
        said.clear()
        with lock, pytest.raises(Interrupted, match="stopped while it waited for") as caught:
            Stages(spec, stop=lambda: bool(said), say=said.append).build()
        assert len(said) == 1 and said[0].startswith("waiting for")
        return str(caught.value)

    stages = Stages(spec)
    store, node = ArtefactStore(), stages.node("tokenize")
    path = store.path("tokenize", node.name, stages.recipe(node, {}))
    lock = store.building_lock(path)
    lock.path.parent.mkdir(parents=True)
    assert f"artefact {path.name}" in interrupted(lock)
    tokenizer = stages.artefact("tokenize")
    clips = ClipStore(corpus_path("metaworld", 32, data))
    tokens = clips.path.with_name(f"{clips.path.name}-tokens") / f"{tokenizer.weights_sha256[:12]}-{clips.hash}.lock"
    tokens.parent.mkdir()
    assert "token store" in interrupted(FileLock(tokens))
