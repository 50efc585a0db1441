"""Extends, scales, sets, overrides, and what errors say; on an algorithm made for the test."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import model_validator

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.resolve import format_value, join_label, split_variant
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import BenchError, CatalogError
from pvdr_bench.rl.config import AlgorithmConfig, Section, key
from pvdr_bench.yaml_documents import read_scalar


class Net(Section):
    width: int = key(8, "channels", "test", ge=1)
    kind: Literal["mlp", "conv"] = key("mlp", "the kind", "test")


class ToyConfig(AlgorithmConfig):
    lr: float = key(1e-3, "learning rate", "test", gt=0)
    label: str = key("x", "a text", "test")
    sizes: tuple[int, ...] = key((1, 2), "a list", "test")
    pretrained: bool = key(True, "start from videos", "test")
    net: Net = Net()
    other: Net = Net()

    @model_validator(mode="after")
    def _fits(self) -> ToyConfig:
        if self.net.width > 100:
            raise ValueError(f"net.width {self.net.width} is more than 100")
        return self


TOY = registry.AlgorithmInfo("toy", f"{__name__}:ToyConfig", "nowhere:Learner", version=3,
                             offline=(registry.Stage("pretrain", "nowhere:X"),))
OFFLINE = registry.AlgorithmInfo("codes", f"{__name__}:ToyConfig", None, offline=(
    registry.Stage("tokenize", "nowhere:X", makes="tokenizer", own_videos=True),))

FILES = {
    "methods/base.yaml": """\
        algorithm: toy
        tuning: two seeds
        config: {lr: 1e-2, net: {width: 16}}
        scales:
          cpu:
            net: {width: 32}
            sets: {set1: {label: one}}
            protocol: {env_steps: 800}
          paper: {lr: 5e-5}
        """,
    "methods/child.yaml": """\
        extends: base
        config: {lr: 2e-2}
        scales:
          cpu: {net: {kind: conv}}
        """,
    "methods/codes.yaml": "algorithm: codes\n",
    "methods/scratch.yaml": "extends: base\nconfig: {pretrained: false}\n",
    "tasks/one.yaml": "suite: metaworld\nenv_id: reach-v3\nset: set1\n",
    "tasks/two.yaml": "suite: metaworld\nenv_id: push-v3\n",
    "tasks/second.yaml": "extends: two\n",
    "tasks/protocols/wide.yaml": "extends: pvdr\n",
    "tasks/protocols/pvdr.yaml": """\
        base:
          image_size: 32
          renderer: lean
          camera: metaworld
          action_repeat: 2
          episode_steps: 20
          frozen_instance: true
          instance_seed: 0
          goal_settle_steps: 5
          reward: goal_distance
          goal_metric: pixel_l1
          goal_blur: 1
          normalise_distance: false
          success_bonus: 1
          terminate_on_success: true
          success_rule: any
          eval_every: 80
          eval_episodes: 2
          eval_final_episodes: 4
          eval_seed_base: 1000000000
          train_seed_base: 0
          env_steps: 400
          num_envs: 2
          sync_every: 80
        scales:
          cpu: {}
          paper: {image_size: 64}
        """,
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = {**registry.algorithms(), "toy": TOY, "codes": OFFLINE}
    monkeypatch.setattr(registry, "algorithms", lambda: known)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return Catalog([root])


def fails(catalog: Catalog, **changes: object) -> str:
    with pytest.raises(BenchError) as caught:
        catalog.resolve(**{"method": "base", "task": "one", "seed": 0, **changes})  # type: ignore[arg-type]
    return str(caught.value)


def write(root: Path, name: str, text: str) -> Catalog:
    (root / name).write_text(text)
    return Catalog([root])


def test_a_scale_stands_on_another_in_methods_sets_budgets_and_protocols(root: Path) -> None:
    (root / "methods/base.yaml").write_text(textwrap.dedent(FILES["methods/base.yaml"]) +
                                            "  quick: {extends: cpu, lr: 0.5, protocol: {num_envs: 1}}\n")
    (root / "tasks/protocols/pvdr.yaml").write_text(textwrap.dedent(FILES["tasks/protocols/pvdr.yaml"]).replace(
        "cpu: {}", "cpu: {success_bonus: 3}") + "  quick: {extends: cpu, episode_steps: 10}\n")
    catalog = Catalog([root])
    spec, cpu = (catalog.resolve("base", "one", 0, scale) for scale in ("quick", "cpu"))
    assert spec.config["net"]["width"] == 32 and spec.config["label"] == "one" and spec.config["lr"] == 0.5
    assert (spec.protocol.env_steps, spec.protocol.num_envs) == (800, 1) and cpu.protocol.num_envs == 2
    assert (spec.protocol.success_bonus, spec.protocol.episode_steps, spec.protocol.scale) == (3, 10, "quick")
    assert spec.protocol.hash() != cpu.protocol.hash() and spec.scale_label == "quick"
    child = catalog.config("child", "quick")  # the scale's line is its parent's; its own section of cpu counts too
    assert (child.value.net.width, child.value.net.kind, child.value.lr) == (32, "conv", 2e-2)
    assert catalog.protocol("wide", "quick").episode_steps == 10
    origins = catalog.config("base", "quick").layers.origins
    assert origins[("net", "width")].endswith("base.yaml:6") and origins[("lr",)].endswith("base.yaml:10")


def test_layers_in_their_order(catalog: Catalog) -> None:
    assert catalog.config("base", "smoke").value == ToyConfig(lr=1e-2, net=Net(width=16))
    assert catalog.config("base", "paper").value.lr == 5e-5
    cpu = catalog.config("base", "cpu", "set1").value
    assert (cpu.lr, cpu.net.width, cpu.net.kind, cpu.label) == (1e-2, 32, "mlp", "one")
    child = catalog.config("child", "cpu", "set1").value
    assert (child.lr, child.net.width, child.net.kind, child.label) == (2e-2, 32, "conv", "one")
    assert catalog.config("child", "paper").value.lr == 2e-2, "own config beats the parent's scale"
    assert catalog.config("child", "cpu", "set9").value.label == "x"
    over = catalog.config("child", "cpu", "set1", ["lr=0.5", "net.width=7"])
    assert (over.value.lr, over.value.net.width) == (0.5, 7)


def test_where_each_value_came_from(catalog: Catalog, root: Path) -> None:
    layers = catalog.config("child", "cpu", "set1", ["sizes=[4]"]).layers
    assert layers.origin(("lr",)) == f"{root}/methods/child.yaml:2"
    assert layers.origin(("net", "width")) == f"{root}/methods/base.yaml:6"
    assert layers.origin(("label",)) == f"{root}/methods/base.yaml:7"
    assert layers.origin(("sizes",)) == "-o sizes"
    assert layers.origin(("pretrained",)) is None


def test_a_run(catalog: Catalog) -> None:
    spec = catalog.resolve("base", "one", 3)
    assert (spec.algorithm, spec.algorithm_version, spec.corpus, spec.tuning) == ("toy", 3, "metaworld", "two seeds")
    assert spec.protocol.env_steps == 800, "the method's budget"
    assert spec.path("R") == Path("R/base/one/metaworld/cpu/seed-3")
    assert spec.config_object() == catalog.config("base", "cpu", "set1").value
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.env_config().env_id == "reach-v3"
    assert catalog.resolve("scratch", "one", 0).path("R") == Path("R/scratch/one/none/cpu/seed-0")


def test_variants_are_named_by_what_differs(catalog: Catalog) -> None:
    def variant(*overrides: str) -> str:
        return catalog.resolve("base", "one", 0, overrides=overrides).variant

    assert variant("lr=1e-4") == "base@lr=1e-4"
    assert variant("lr=0.0001") == "base@lr=1e-4"
    assert variant("lr=0.01") == "base", "a value that changes nothing makes no variant"
    assert variant("net.width=5", "lr=3") == "base@lr=3,net.width=5"
    assert variant("lr=3", "net.width=5") == "base@lr=3,net.width=5"
    assert variant("label=1") == "base@label=1", "a text stays a text"
    assert catalog.resolve("base@lr=3,sizes=[1,3]", "one", 0).variant == "base@lr=3,sizes=[1,3]"
    assert "/" not in variant("label=../../x y")


def test_a_variants_name_gives_the_variant_back(catalog: Catalog) -> None:
    spec = catalog.resolve("base", "one", 0, overrides=["lr=0.07", "sizes=[3,4]", "other.kind=conv"])
    again = catalog.resolve(spec.variant, "one", 0)
    assert again == spec


def test_protocol_overrides_and_identity(catalog: Catalog) -> None:
    plain = catalog.resolve("base", "one", 0)
    longer = catalog.resolve("base", "one", 0, overrides=["protocol.env_steps=1600"])
    assert longer.protocol.env_steps == 1600
    assert (longer.recipe(), longer.path("R")) == (plain.recipe(), plain.path("R")), "a budget extends a run"
    wider = catalog.resolve("base", "one", 0, overrides=["protocol.num_envs=4"])
    assert wider.protocol.hash() == plain.protocol.hash()
    assert wider.recipe() != plain.recipe()
    other = catalog.resolve("base", "one", 0, overrides=["protocol.goal_blur=3"])
    assert other.protocol.hash() != plain.protocol.hash()
    assert other.path("R") == Path("R/base/one/metaworld/cpu@goal_blur=3/seed-0")


def test_titles_do_not_belong_to_the_recipe(catalog: Catalog, root: Path) -> None:
    before = catalog.resolve("base", "one", 0)
    write(root, "tasks/one.yaml", FILES["tasks/one.yaml"] + "title: Another\n")
    again = write(root, "methods/base.yaml", (root / "methods/base.yaml").read_text() + "title: Another\n")
    after = again.resolve("base", "one", 0)
    assert after.title == "Another"
    assert after.recipe() == before.recipe()


def test_pretrain_seeds_spread_the_runs(root: Path) -> None:
    catalog = write(root, "methods/spread.yaml", "extends: base\npretrain_seeds: 2\n")
    assert [catalog.resolve("spread", "one", seed).pretrain_seed for seed in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(("changes", "words"), [
    ({"method": "bsae"}, ["unknown method 'bsae'", "'base'"]),
    ({"task": "oen"}, ["unknown task", "'one'"]),
    ({"scale": "cpuu"}, ["unknown scale", "'cpu'"]),
    ({"scale": "gpu"}, ["scale of protocol pvdr", "cpu, paper"]),
    ({"videos": "metawrld"}, ["unknown corpus", "'metaworld'"]),
    ({"protocol": "pdvr"}, ["unknown protocol", "'pvdr'"]),
    ({"method": "codes"}, ["tokenize", "methods that run: base"]),
    ({"overrides": ["lrr=1"]}, ["unknown key 'lrr'", "did you mean 'lr'", "-o lrr"]),
    ({"overrides": ["widht=1"]}, ["width'"]),
    ({"overrides": ["width=1"]}, ["several sections", "net.width, other.width"]),
    ({"overrides": ["net=1"]}, ["section", "net.kind"]),
    ({"overrides": ["lr=-1"]}, ["greater than 0", "learning rate", "-o lr"]),
    ({"overrides": ["net.kind=convv"]}, ["did you mean 'conv'", "allowed: mlp, conv"]),
    ({"overrides": ["net.width=101"]}, ["more than 100", "-o net.width"]),
    ({"overrides": ["lr"]}, ["key=value"]),
    ({"overrides": ["=3"]}, ["key=value"]),
    ({"overrides": ["protocol.env_step=1"]}, ["did you mean 'protocol.env_steps'", "-o protocol.env_step"]),
    ({"overrides": ["protocol.scale=x"]}, ["--scale"]),
    ({"overrides": ["protocol.sync_every=81"]}, ["multiple of num_envs * episode_steps = 40"]),
])
def test_errors_of_the_command_line(catalog: Catalog, changes: dict[str, object], words: list[str]) -> None:
    message = fails(catalog, **changes)
    for word in words:
        assert word in message


@pytest.mark.parametrize(("file", "text", "line", "words"), [
    ("methods/base.yaml", "algorithm: toy\nconfig:\n  lrr: 1\n", 3, ["'lrr'", "did you mean 'lr'"]),
    ("methods/base.yaml", "algorithm: toy\nconfig:\n  net:\n    kind: 3\n", 4, ["allowed: mlp, conv"]),
    ("methods/base.yaml", "algorithm: toy\nconfg: {}\n", 2, ["did you mean 'config'"]),
    ("methods/base.yaml", "algorithm: toy\nlr: 1\n", 2, ["key 'lr'", "under config: did you mean config: {lr: ...}?"]),
    ("methods/base.yaml", "extends: codes\nlabl: x\n", 2, ["under config: did you mean config: {label: ...}?"]),
    ("methods/base.yaml", "extends: codes\nnet: {width: 1}\n", 2, ["under config: did you mean config: {net: ...}?"]),
    ("methods/base.yaml", "extends: codes\ntitel: one\n", 2, ["did you mean 'title'"]),
    ("methods/base.yaml", "algorithm: tyo\n", 1, ["unknown algorithm", "'toy'"]),
    ("methods/base.yaml", "algorithm: toy\nname: bse\n", 2, ["not the file's"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  cpuu: {}\n", 3, ["'cpu'"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  cpu:\n    protocol: {goal_blur: 3}\n", 4,
     ["budget key", "env_steps"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  cpu:\n    net: {widht: 3}\n", 4, ["net.widht", "'width'"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  cpu: {extends: cpuu}\n", 3, ["extends = 'cpuu'", "'quick'"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  cpu: {extends: cpu}\n", 3, ["scale in extends of cpu"]),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  gpu: {extends: paper}\n  cpu: {extends: gpu}\n", 4,
     ["one level only: extend paper"]),
    ("tasks/protocols/pvdr.yaml", "scales:\n  cpu: {extends: smok}\n", 2, ["did you mean 'smoke'"]),
    ("tasks/protocols/pvdr.yaml", "scales:\n  gpu: {extends: paper}\n  cpu: {extends: gpu}\n", 3,
     ["one level only: extend paper"]),
    ("methods/base.yaml", "extends: bse\n", 1, ["extends"]),
    ("methods/base.yaml", "extends: child\n", 1, ["extends itself: base -> child -> base"]),
    ("methods/base.yaml", "title: none\n", None, ["neither algorithm nor extends"]),
    ("tasks/one.yaml", "suite: metaworld\n", None, ["env_id"]),
    ("tasks/one.yaml", "suite: metaworld\nenv_id: x\nstep: 3\n", 3, ["'step'"]),
    ("tasks/protocols/pvdr.yaml", "base:\n  imagesize: 3\nscales: {cpu: {}}\n", 2, ["'image_size'"]),
    ("tasks/protocols/pvdr.yaml", "bas: {}\n", 1, ["'base'"]),
    ("tasks/protocols/pvdr.yaml", "scales:\n  cpuu: {}\n", 2, ["'cpu'"]),
    ("tasks/protocols/pvdr.yaml", "scales: {cpu: {}}\n", None, ["lacks the key 'image_size'"]),
    ("tasks/one.yaml", "extends: twoo\n", 1, ["task in extends of one", "did you mean 'two'"]),
    ("tasks/one.yaml", "extends: two\nstep: 3\n", 2, ["'step'"]),
    ("tasks/protocols/pvdr.yaml", "extends: wid\n", 1, ["protocol in extends of pvdr", "did you mean 'wide'"]),
    ("tasks/protocols/pvdr.yaml", "extends: wide\n", 1, ["protocol pvdr extends itself: pvdr -> wide -> pvdr"]),
    ("tasks/protocols/wide.yaml", "extends: pvdr\nbase: {camra: corner}\n", 2, ["'camera'"]),
])
def test_errors_of_files(root: Path, file: str, text: str, line: int | None, words: list[str]) -> None:
    catalog = write(root, file, text)
    message = fails(catalog, **({"protocol": "wide"} if "wide" in file else {}))
    assert file in message
    if line is not None:
        assert f"{file}:{line}:" in message
    for word in words:
        assert word in message


def test_a_method_extends_one_that_extends_another_and_each_layer_is_over_the_one_below(root: Path) -> None:
    catalog = write(root, "methods/middle.yaml", "extends: base\ntuning: some\nconfig: {lr: 0.25}\nscales:\n"
                                                 "  cpu: {net: {width: 5}}\n")
    write(root, "methods/leaf.yaml", "extends: middle\nconfig: {net: {width: 7}}\n")
    config, plain = catalog.config("leaf", "cpu"), catalog.config("base", "cpu")
    assert (config.value.lr, config.value.net.width, catalog.config("middle", "cpu").value.net.width) == (0.25, 7, 5)
    assert config.value.model_copy(update={"lr": plain.value.lr, "net": plain.value.net}) == plain.value
    assert config.method.tuning == "some" and config.method.algorithm == "toy"
    assert "middle.yaml:3" in (config.layers.origin(("lr",)) or "")
    assert "leaf.yaml:2" in (config.layers.origin(("net", "width")) or "")


def test_a_task_extends_another(root: Path) -> None:
    catalog = write(root, "tasks/near.yaml", "extends: one\ntitle: Near\ncamera: corner\n")
    near, one = catalog.task("near"), catalog.task("one")
    assert (near.suite, near.env_id, near.set, near.camera, near.title) == (
        one.suite, one.env_id, one.set, "corner", "Near")
    assert one.camera is None and near.identity() != one.identity()
    assert catalog.task_place("near", "camera").endswith("near.yaml:3")
    assert "tasks/one.yaml:2" in catalog.task_place("near", "env_id")


def test_a_protocol_extends_another(root: Path) -> None:
    text = "extends: pvdr\nbase: {camera: corner, image_size: 48}\nscales:\n  cpu: {success_bonus: 2}\n  gpu: {}\n"
    catalog = write(root, "tasks/protocols/side.yaml", text)
    side, plain = catalog.protocol("side"), catalog.protocol("pvdr")
    assert (side.camera, side.image_size, side.success_bonus) == ("corner", 48, 2)
    assert side.eval_every == plain.eval_every and side.hash() != plain.hash()
    assert plain.camera == "metaworld" and catalog.protocol("side", "paper").image_size == 48  # the file itself wins
    assert catalog.protocol_file("side").scales == ("cpu", "paper", "gpu")
    origins = catalog.protocol_layers("side", "cpu").origins
    assert "side.yaml:2" in origins["camera",] and "pvdr.yaml" in origins["eval_every",]


def test_overrides_need_nothing_of_a_file_that_is_not_asked_for(root: Path) -> None:
    catalog = write(root, "methods/broken.yaml", "algorithm: [\n")
    assert catalog.resolve("base", "one", 0).method == "base"
    with pytest.raises(CatalogError, match="not valid YAML"):
        catalog.method("broken")


def test_the_first_folder_wins(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    mine = tmp_path_factory.mktemp("mine")
    (mine / "methods").mkdir()
    (mine / "methods/base.yaml").write_text("algorithm: toy\nconfig: {lr: 0.25}\n")
    catalog = Catalog([mine, root])
    assert catalog.config("base", "cpu").value.lr == 0.25
    assert "child" in catalog.methods()


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_formatted_float_is_read_back(value: float) -> None:
    assert float(read_scalar(format_value(value))) == value


@given(st.text(max_size=30))
def test_a_formatted_text_is_one_safe_path_part(value: str) -> None:
    text = join_label("base", [("key", format_value(value))])
    assert "/" not in text and "\0" not in text and not any(c.isspace() for c in text)


@given(st.lists(st.tuples(st.text("abc.", min_size=1), st.text("xyz", min_size=1)), max_size=60))
def test_labels_do_not_depend_on_the_order_and_fit_a_file_name(changes: list[tuple[str, str]]) -> None:
    label = join_label("base", changes)
    assert label == join_label("base", changes[::-1])
    assert len(label) <= 160


def test_split_variant() -> None:
    assert split_variant("pvdr") == ("pvdr", ())
    assert split_variant("pvdr@a=1,b=[2,3],c=x") == ("pvdr", ("a=1", "b=[2,3]", "c=x"))


