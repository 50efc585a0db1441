"""What has been published stays itself: recipes and protocols of artefacts and published runs keep their hashes.

A hash that changes orphans an artefact, and no row of a published run could be extended or compared any more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.runs.files import content_hash
from pvdr_bench.videos.generate import recipe_of
from pvdr_bench.videos.sources import source

pytest.importorskip("metaworld")
SHIPPED = Path(__file__).resolve().parent.parent / "artefacts"
ARTEFACTS = sorted(file.parent for file in SHIPPED.glob("*/*/recipe.json"))
ENDS = ("protocol.terminate_on_success=true",)  # the old form of protocol pvdr, whose episodes ended at success
# method, task, corpus, protocol, overrides: hash of the protocol, hash of the recipe of seed 0. Runs in
# results/reference were made before pvdr had planner.replan_every, or a guide and its lessons, and dreamers residual
# networks, contexts, latent actions and the forms of DreamerV3, or pvdr-taught a spread; the defaults are what they did
PUBLISHED = {
    ("pvdr", "reach", "metaworld", "pvdr", ENDS): ("9b1efb82f31e", "8db05834696b"),
    ("pvdr", "reach", "fetch-push", "pvdr", ENDS): ("9b1efb82f31e", "7254114b82fe"),
    ("ppo", "reach", None, "pvdr", ENDS): ("9b1efb82f31e", "dfa561427df6"),
    ("dreamerv2", "reach", None, "pvdr", ENDS): ("9b1efb82f31e", "f1d7481494ed"),
    ("apv", "reach", "metaworld", "pvdr", ()): ("333e75be720d", "cb7b05d087aa"),  # of apv-ends-cpu
    ("dreamerv2", "reach", None, "apv", ()): ("d70a51861813", "a7a730584961"),
    ("pvdr", "window-open", "metaworld", "pvdr", ENDS): ("9b1efb82f31e", "1ff6b9881194"),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: "-".join(map(str, run[:4])))
def test_published_runs_keep_their_hashes(catalog: Catalog,
                                          run: tuple[str, str, str | None, str, tuple[str, ...]]) -> None:
    method, task, corpus, protocol, overrides = run
    spec = catalog.resolve(method, task, 0, "cpu", protocol, videos=corpus, overrides=overrides)
    assert spec.protocol.suite_version == "metaworld 3.1.1"
    assert (spec.protocol.hash(), content_hash(spec.recipe())) == PUBLISHED[run]


@pytest.mark.parametrize("folder", ARTEFACTS, ids=lambda folder: folder.name)
def test_shipped_artefacts_stand_on_the_corpora_of_today(folder: Path) -> None:
    """Their recipes hold the corpora's; a corpus whose code has moved is still the same."""
    recipe = json.loads((folder / "recipe.json").read_text())
    assert folder.name.endswith(f"-{content_hash(recipe)}")
    stored = recipe["corpora"] if "corpora" in recipe else {recipe["corpus"]["corpus"]: recipe["corpus"]}
    for name, old in stored.items():
        assert recipe_of(source(name), recipe["image_size"], old["episodes"], old["seed"]) == old
        assert source(name).episodes == old["episodes"], "the default corpus is the one that the artefact was made from"


def test_there_are_artefacts_to_look_at() -> None:
    assert {folder.parent.name for folder in ARTEFACTS} == {"tokenize", "pretrain"}
