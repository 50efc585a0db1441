"""The graph of stages: read from what algorithms declare, the same for whoever finds, makes or submits them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvdr_bench.algorithms import registry
from pvdr_bench.algorithms.registry import AlgorithmInfo, Stage
from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.folders import search_roots
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.launch.needs import need_of, stage_needs
from pvdr_bench.rl.config import AlgorithmConfig, Schedule, key
from pvdr_bench.rl.contract import OfflineLearner, StageContext
from pvdr_bench.runs.artefacts import ArtefactStore
from pvdr_bench.suites.corpora import CorpusSource
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos import sources
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.writer import ClipWriter

SHIPPED = {"tokenize": "857a72de91ef", "pretrain": "4ea91ef1d21b"}  # hashes of recipes, in the folders' names


class ThreeConfig(AlgorithmConfig):
    """An algorithm of three offline stages, as a plug-in would declare it."""

    pretrained: bool = key(True, "start from the stages", "test")
    level: float = key(0.5, "a number that the second stage depends on", "test")

    def schedule(self, stage: str) -> Schedule:
        return Schedule(steps=2, batch=2, frames=2, stride=1, validate_every=2, validation_clips=1)


class Sum(OfflineLearner):
    """Adds up what it sees, its seed and its inputs."""

    def __init__(self, context: StageContext) -> None:
        self.total = torch.tensor([float(context.seed)])
        self.inputs = sum((x["total"] for x in context.inputs.values()), torch.zeros(1))

    @classmethod
    def for_stage(cls, context: StageContext) -> Sum:
        return cls(context)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        self.total = self.total + batch.float().mean()
        return {"total": float(self.total)}

    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        return {"total": float(self.total)}

    def export(self) -> dict[str, Tensor]:
        return {"total": self.total + self.inputs}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


LEARNER = f"{__name__}:Sum"
THREE = AlgorithmInfo("three", f"{__name__}:ThreeConfig", "nowhere:Learner", offline=(
    Stage("look", LEARNER, own_videos=True, makes="eye"), Stage("think", LEARNER, sections=("level",), needs=("look",)),
    Stage("dream", LEARNER, needs=("look", "think"))))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def catalog(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """The built-in catalog and a method of the algorithm `three`, without a tokenizer."""
    folder = tmp_path / "own" / "methods"
    folder.mkdir(parents=True)
    (folder / "three.yaml").write_text("algorithm: three\nvideos: [metaworld, fetch-push]\nscales: {smoke: {}}\n")
    (folder / "blind.yaml").write_text("algorithm: three\nscales: {smoke: {}}\n")
    known = registry.algorithms() | {"three": THREE}
    monkeypatch.setattr(registry, "algorithms", lambda: known)
    monkeypatch.setattr("pvdr_bench.catalog.stage_graph.algorithms", lambda: known)
    yield Catalog([tmp_path / "own", *search_roots()])


def resolve(catalog: Catalog, method: str, *overrides: str, scale: str = "smoke", **more: Any) -> RunSpec:
    pixels = ["protocol.goal_metric=pixel_l1"] if method in ("three", "blind", "apv") else []
    return catalog.resolve(method, "reach", 0, scale, overrides=[*pixels, *overrides], **more)


def test_the_graph_is_what_algorithms_declare(catalog: Catalog) -> None:
    def names(spec: RunSpec) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(node.stage.name, node.name, tuple(need.stage.name for need in node.needs))
                for node in stage_graph(spec, catalog)]

    tokenize = ("tokenize", "tokenizer-smoke", ())
    assert names(resolve(catalog, "ppo")) == [tokenize]
    assert names(resolve(catalog, "pvdr", videos="fetch-push")) == [
        tokenize, ("pretrain", "pvdr-fetch-push-smoke", ("tokenize",))]
    assert names(resolve(catalog, "pvdr-scratch")) == [tokenize]
    assert names(resolve(catalog, "apv")) == [("pretrain", "dreamer-metaworld-smoke", ())]  # it learns from frames
    assert names(resolve(catalog, "three")) == [
        ("look", "three-smoke", ()), ("think", "three-metaworld-smoke", ("look",)),
        ("dream", "three-metaworld-smoke", ("look", "think"))]
    assert names(resolve(catalog, "three", "pretrained=false")) == []
    assert resolve(catalog, "three", "pretrained=false").corpus is None


def test_shipped_artefacts_are_found_without_videos_and_whatever_corpora_are_registered(
        data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, str]:
        stages = Stages(load_catalog().resolve("pvdr", "reach", 0, "cpu"))
        assert stages.missing() == []
        return {stage: artefact.hash for stage, artefact in stages.build().items()}

    assert found() == SHIPPED
    monkeypatch.setattr(sources, "_ADDED", {})
    sources.register(CorpusSource("pushing", "pushing", "generated", "nowhere:Push", 10))
    assert "pushing" in load_catalog().corpora() and found() == SHIPPED


def test_what_a_stage_does_not_depend_on_does_not_change_its_recipe(catalog: Catalog) -> None:
    def recipes(*overrides: str, **more: Any) -> dict[str, dict[str, Any]]:
        graph = stage_graph(resolve(catalog, "three", *overrides, **more), catalog)
        weights = {"look": "l", "think": "t"}
        return {node.stage.name: node.recipe(lambda name: {"name": name}, weights, lambda share: 1) for node in graph}

    base, level, videos = recipes(), recipes("level=0.25"), recipes(videos="fetch-push")
    assert [name for name in base if base[name] != level[name]] == ["look", "think", "dream"]  # look takes all keys
    assert [name for name in base if base[name] != videos[name]] == ["think", "dream"]
    assert base["look"]["corpora"] == {"metaworld": {"name": "metaworld"}, "fetch-push": {"name": "fetch-push"}}
    assert base["think"]["config"] == {"level": 0.5} and base["think"]["eye"] == "l"
    assert base["dream"]["eye"] == "l" and base["dream"]["model"] == "t"


def flickering(light: int) -> np.ndarray:
    """Frames of one mean, in which something moves: uint8 [4, 32, 32, 3]."""
    frames = np.full((4, 32, 32, 3), light, np.uint8)
    frames[::2, 0, :16], frames[::2, 0, 16:] = light - 10, light + 10
    frames[1::2, 0, :16], frames[1::2, 0, 16:] = light + 10, light - 10
    return frames


def test_three_stages_are_made_in_order_shared_and_awaited(catalog: Catalog, data: Path) -> None:
    specs = [resolve(catalog, "three"), resolve(catalog, "three", videos="fetch-push")]
    for name, light in (("metaworld", 10), ("fetch-push", 30)):
        writer = ClipWriter(corpus_path(name, 32, data), 32, Stages(specs[0], catalog=catalog)._corpus_recipe(name))
        for _ in range(6):
            writer.append(flickering(light), name)
        writer.publish()
        writer.close()
    needs = stage_needs(specs, catalog)
    assert [(need.stage, len(need.after)) for need in needs.values()] == [
        ("look", 0), ("think", 1), ("think", 1), ("dream", 2), ("dream", 2)]
    last = [need_of(spec, needs, catalog) for spec in specs]
    assert [needs[name or ""].label for name in last] == ["dream three on metaworld · smoke",
                                                          "dream three on fetch-push · smoke"]
    made = Stages(specs[0], catalog=catalog).build()
    total = {stage: float(load_file(artefact.model)["total"]) for stage, artefact in made.items()}
    assert total["think"] == 20 + total["look"] and total["dream"] == 20 + total["look"] + total["think"]
    assert [need.stage for need in stage_needs(specs, catalog).values()] == ["think", "dream"]
    assert need_of(specs[0], stage_needs(specs, catalog), catalog) is None
    again = Stages(specs[1], catalog=catalog).artefact("look")
    assert again == made["look"] and len(ArtefactStore(data / "artefacts", []).all()) == 3


def test_graphs_that_cannot_be_are_refused_before_anything_starts(catalog: Catalog,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CatalogError, match="method blind names no videos for its stage look"):
        stage_graph(resolve(catalog, "blind"), catalog)
    spec = resolve(catalog, "three")
    with pytest.raises(UsageError, match="stands on no stage tokenize"):
        Stages(spec, catalog=catalog).node("tokenize")
    known = registry.algorithms()
    broken = {
        "unknown stage that dream of method three needs 'lok'": (Stage("dream", LEARNER, needs=("lok",)),),
        "two stages of one run are called look": (Stage("look", LEARNER), Stage("look", LEARNER)),
    }
    for message, offline in broken.items():
        info = AlgorithmInfo("three", THREE.config, THREE.learner, offline=offline)
        monkeypatch.setattr(registry, "algorithms", lambda info=info: known | {"three": info})
        with pytest.raises(CatalogError, match=message):
            stage_graph(spec, catalog)
    lonely = AlgorithmInfo("three", THREE.config, THREE.learner, needs=("tokenize",))
    monkeypatch.setattr(registry, "algorithms", lambda: known | {"three": lonely})
    with pytest.raises(CatalogError, match="needs the stage tokenize, and no method that it names has it"):
        stage_graph(spec, catalog)
