"""The YAML that comes with the package: every file is right, and says what the paper says."""

from __future__ import annotations

import pytest

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog import Catalog, Protocol, load_catalog
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.catalog.keys import leaves
from pvdr_bench.catalog.scales import SCALES
from pvdr_bench.errors import CatalogError
from pvdr_bench.suites.metaworld.names import NAMES

SETS = {
    "set1": {"button-press-topdown", "dial-turn", "drawer-close", "reach", "window-open"},
    "set2": {"button-press", "plate-slide", "plate-slide-back", "window-close"},
    "set3": {"plate-slide-side", "hand-insert", "drawer-open"},
}


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Catalog:
    monkeypatch.delenv("PVDR_BENCH_PATH", raising=False)
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    return Catalog([builtin_root()])


def test_the_methods_of_the_paper_and_the_floor_and_ceiling(catalog: Catalog) -> None:
    assert {"pvdr", "pvdr-scratch", "ppo", "random", "scripted", "tokenizer"} <= set(catalog.methods())
    assert "tokenizer" not in catalog.runnable()


def test_the_twelve_tasks_with_their_sets(catalog: Catalog) -> None:
    for name, tasks in SETS.items():
        for task in tasks:
            assert catalog.task(task).set == name
            assert catalog.task(task).env_id == f"{task}-v3"
            assert task in catalog._files["tasks"]
    assert len(catalog._files["tasks"]) == 12


def test_every_metaworld_task_has_its_name(catalog: Catalog) -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{name}-v3" for name in NAMES} == set(ALL_V3_ENVIRONMENTS)
    assert sorted(name for name in catalog.tasks() if catalog.task(name).suite == "metaworld") == sorted(NAMES)
    assert catalog.task("peg-insert-side").env_id == "peg-insert-side-v3"
    assert catalog.task("reach-v3") == catalog.task("reach")


@pytest.mark.parametrize("scale", SCALES)
def test_every_method_resolves_at_every_scale(catalog: Catalog, scale: str) -> None:
    for method in catalog.methods():
        catalog.config(method, scale)
    for method in catalog.runnable():
        for protocol in catalog.protocols():
            task = {"tabletop": "tabletop/lamp-on", "rlbench": "rlbench/lamp-on"}.get(protocol, "reach")
            spec = catalog.resolve(method, task, 0, scale, protocol)
            assert spec.protocol.env_steps % spec.protocol.sync_every == 0
            assert spec.env_config().image_size == spec.protocol.image_size


def test_the_paper_scale_is_the_published_one(catalog: Catalog) -> None:
    paper = catalog.protocol("pvdr", "paper")
    assert (paper.image_size, paper.action_repeat, paper.episode_steps, paper.success_bonus) == (128, 2, 500, 60)
    assert (paper.goal_metric, paper.normalise_distance, paper.frozen_instance) == ("pixel_l1", False, True)
    for task, clip, entropy in (("reach", 0.6, 1e-2), ("button-press", 0.2, 2e-4), ("hand-insert", 0.5, 5e-3)):
        ppo = catalog.resolve("ppo", task, 0, "paper").config
        assert (ppo["clip"], ppo["entropy_coef"]) == (clip, entropy)
        for method in ("pvdr", "pvdr-scratch"):
            online = catalog.resolve(method, task, 0, "paper").config["online"]
            assert (online["clip"], online["entropy_coef"]) == (clip, entropy)


@pytest.mark.parametrize("method", ["pvdr", "pvdr-taught"])
def test_scratch_is_the_method_but_for_its_pre_training(catalog: Catalog, method: str) -> None:
    for scale in SCALES:
        pvdr, scratch = (catalog.resolve(name, "reach", 0, scale) for name in (method, f"{method}-scratch"))
        assert scratch.config == {**pvdr.config, "pretrained": False}
        assert (pvdr.corpus, scratch.corpus) == ("metaworld", None)
        assert scratch.protocol == pvdr.protocol


def test_stg_is_ppo_but_for_its_reward(catalog: Catalog) -> None:
    for scale in SCALES:
        for task in ("reach", "button-press", "hand-insert"):
            stg, ppo = (catalog.resolve(name, task, 0, scale) for name in ("stg", "ppo"))
            assert stg.config["ppo"] == ppo.config and stg.protocol == ppo.protocol
    stg = catalog.resolve("stg", "reach", 0, "cpu").config
    changes = {"stg-star": {"reward": {**stg["reward"], "nu": 0.1}},
               "stg-minus": {"pretrain": {**stg["pretrain"], "distance_weight": 0.0}},
               "stg-released": {"pretrain": {**stg["pretrain"], "generator_owns": "released"}}}
    for name, change in changes.items():
        assert catalog.resolve(name, "reach", 0, "cpu").config == {**stg, **change}
    assert catalog.resolve("stg-star", "reach", 0, "paper").config["reward"]["nu"] == 0.01


def test_every_key_of_every_schema_has_its_meaning_and_source(catalog: Catalog) -> None:
    names = ("pvdr", "pvdr-context", "ppo", "stg", "efficientzero", "vqgan", "random", "scripted")
    models = [registry.load_object(registry.algorithms()[name].config) for name in names]
    for model in [*models, Protocol]:
        for path, info in leaves(model):
            extra = info.json_schema_extra
            assert info.description, (model, path)
            assert isinstance(extra, dict) and extra["source"], (model, path)


def test_a_key_that_was_added_is_in_a_recipe_only_where_it_is_set(catalog: Catalog) -> None:
    """So that recipes of before have their hashes; those of today say no less, as the default is what they did."""
    plain, set_ = (catalog.resolve("pvdr", "reach", 0, overrides=keys) for keys in (
        (), ("planner.goal_term_metric=code_l1",)))
    assert "goal_term_metric" not in plain.config["planner"] and "blur" in plain.config["planner"]
    assert plain.config_object() == catalog.config("pvdr", "cpu", "set1").value
    assert set_.config == {**plain.config, "planner": {**plain.config["planner"], "goal_term_metric": "code_l1"}}
    assert set_.variant == "pvdr@goal_term_metric=code_l1"


def test_a_goal_in_pixels_with_a_unit_of_its_own_says_what_eq_4_compares(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="needs planner.goal_term_metric"):
        catalog.config("pvdr", "cpu", overrides=["planner.metric=pixel_l1"])
    keys = ["planner.metric=pixel_l1", "planner.goal_term_metric=code_l1_blur"]
    for scale, told in (("cpu", keys), ("paper", keys[:1])):
        assert catalog.config("pvdr", scale, overrides=told).value == catalog.config("pvdr-goal-pixels", scale).value


def test_each_protocol_key_is_meaning_or_means(catalog: Catalog) -> None:
    meaning, means = set(Protocol.keys("meaning")), set(Protocol.keys("means"))
    assert meaning | means == set(Protocol.model_fields)
    assert not meaning & means
    assert means == {"env_steps", "num_envs", "sync_every"}


def test_hashes_tell_protocols_apart_and_ignore_the_means(catalog: Catalog) -> None:
    hashes = {catalog.protocol(name, scale).hash() for name in catalog.protocols() for scale in SCALES}
    assert len(hashes) == len(catalog.protocols()) * len(SCALES)
    protocol = catalog.protocol("pvdr", "cpu")
    assert protocol.model_copy(update={"env_steps": 10**6}).hash() == protocol.hash()
    changes = {"image_size": 32, "camera": "x", "success_bonus": 11.0, "suite_version": "9", "eval_episodes": 21}
    for key, value in changes.items():
        assert protocol.model_copy(update={key: value}).hash() != protocol.hash(), key
    assert len(protocol.hash()) == 12


def test_success_ends_no_training_episode_and_the_old_form_is_another_protocol(catalog: Catalog) -> None:
    for name in catalog.protocols():
        for scale in SCALES:
            assert not catalog.protocol(name, scale).terminate_on_success, (name, scale)
    spec, ends = (catalog.resolve("ppo", "reach", 0, "cpu", overrides=given)
                  for given in ([], ["protocol.terminate_on_success=true"]))
    assert ends.env_config().terminate_on_success and not spec.env_config().terminate_on_success
    assert ends.protocol.hash() != spec.protocol.hash() and ends.variant == spec.variant


def test_user_folders_come_first(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text("suite: metaworld\nenv_id: push-v3\n")
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path))
    assert load_catalog().task("mine").env_id == "push-v3"
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path / "none"))
    with pytest.raises(CatalogError, match="PVDR_BENCH_PATH"):
        load_catalog()


def test_user_corpora_are_found(catalog: Catalog, tmp_path) -> None:
    assert catalog.corpora() == ["bair", "cable-routing", "fetch-push", "jaco-play", "metaworld", "tabletop"]
    store = tmp_path / "videos" / "kitchen" / "64"
    store.mkdir(parents=True)
    (store / "manifest.json").write_text("{}")
    assert "kitchen" in catalog.corpora()
    assert catalog.corpus("kitchen").kind == "user"
    assert catalog.resolve("pvdr", "reach", 0, videos="kitchen").path("R").parts[3] == "kitchen"
