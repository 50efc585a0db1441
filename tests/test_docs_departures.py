"""Every key that departs from a paper stands in the table of docs/departures.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.catalog import load_catalog
from pvdr_bench.tokenizer.config import VQGANConfig

DOCS = Path(__file__).parents[1] / "docs"
TABLE = (DOCS / "departures.md").read_text()


def departures(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from departures(field.annotation, f"{prefix}{name}.")
        elif isinstance(field.json_schema_extra, dict) and "departure" in str(field.json_schema_extra["source"]):
            yield prefix + name


@pytest.mark.parametrize("model", [PVDRConfig, VQGANConfig, PPOConfig, DreamerConfig, EfficientZeroConfig, STGConfig])
def test_every_departure_is_in_the_table(model: type[BaseModel]) -> None:
    names = list(departures(model))
    assert names
    missing = [name for name in names if f"`{name.removeprefix('online.').removeprefix('ppo.')}`" not in TABLE]
    assert not missing


# Scales -----------------------------------------------------------------------------------------------------------

METHODS = ("pvdr", "pvdr-context", "ppo", "tokenizer", "dreamerv2", "dreamerv3", "apv", "contextwm", "prelar",
           "efficientzero", "ficc", "stg")
DREAMERS = ("dreamerv2", "dreamerv3", "apv", "contextwm", "prelar")
IDENTITY = {"pretrained", "model.dynamics_input", "stacked", "bonus.weight"}  # what makes a method another one
OWN = {  # beside it, what the papers of one algorithm's methods differ in
    "ficc": {"model.video_networks"},
    "contextwm": {"model.backbone", "model.context.frame", "pretrain.steps", "pretrain.kl_weight",
                  "loss.plain_reward_weight", "loss.context_augment"},
    "prelar": {"model.backbone", "model.latent_action.kind", "model.action_width", "action_encoder",
               "pretrain.kl_weight", "pretrain.consistency", "loss.plain_reward_weight", "bonus.of"}}
HARDWARE = {"micro_batch", "dtype"}
TASK_SETS = {"clip", "entropy_coef"}  # Table 2 has them by set of tasks
SIZES = {
    "steps", "batch", "lr", "lr_final", "warmup_steps", "max_grad_norm", "validate_every", "validation_clips",
    "future_frames", "d_model", "ff", "heads", "depth", "token_dim", "encoder_depth", "prior_depth",
    "decoder_depth", "pi_d_model", "pi_ff", "pi_depth", "e1_decisions", "e2_decisions", "epochs", "minibatch",
    "entropy_coef", "size", "dim", "z_channels", "encoder_width", "decoder_width", "encoder_blocks",
    "decoder_blocks", "middle_blocks", "multipliers", "attention", "dropout", "decoder_kernel", "beta1", "beta2",
    "deter", "hidden", "stoch", "classes", "cnn_depth", "head_layers", "head_units", "action_width", "length",
    "channels", "head_channels", "prefix_units", "predictor",
    "prefill", "frozen_updates", "projection", "queue", "rollout_decisions", "input_size", "cnn_channels", "width",
    "layers", "context", "max_timestep", "critic_widths", "units",
}


def changed(method: str, scale: str) -> set[str]:
    """Keys whose value at a scale is not the schema's default, the paper's."""
    value = load_catalog().config(method, scale).value

    def walk(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, x in ours.items():
            if isinstance(x, dict):
                yield from walk(x, theirs[name], f"{prefix}{name}.")
            elif x != theirs[name]:
                yield prefix + name

    return set(walk(value.model_dump(), type(value)().model_dump())) - IDENTITY - OWN.get(method, set())


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_scale_is_the_papers(method: str) -> None:
    assert {key.split(".")[-1] for key in changed(method, "paper")} <= HARDWARE | TASK_SETS


def test_what_a_method_of_no_paper_changes_at_every_scale_is_told_by_name() -> None:
    intro = TABLE.partition("| method |")[0].partition("`pvdr-taught` and")[2]
    told = {key.split(".")[-1] for key in re.findall(r"`([a-z_0-9.]+)`", intro)} - {"paper"}
    own = {key.split(".")[-1] for key in changed("pvdr-taught", "paper") - changed("pvdr", "paper")}
    assert {"pi_form", "e1_play", "lact_decay"} <= own == told
    for scale in ("gpu", "cpu", "quick", "smoke"):
        assert own <= {key.split(".")[-1] for key in changed("pvdr-taught", scale)}


def test_what_else_it_has_at_the_cpu_scale_stands_beside_pvdrs_value() -> None:
    ours, theirs = (load_catalog().config(method, "cpu").value.planner for method in ("pvdr-taught", "pvdr"))
    others = {name for name, value in ours if value != getattr(theirs, name)}
    others -= {key.removeprefix("planner.") for key in changed("pvdr-taught", "paper")}
    assert {"candidates", "replan_every"} <= others
    for name in others - {"metric"}:  # the form of its goal distance, in the row of the protocol's
        row = next(line for line in TABLE.splitlines() if f"| `planner.{name}`" in line)
        assert f"(`pvdr-taught`: {getattr(ours, name)})" in row


@pytest.mark.parametrize("method", [*METHODS, "pvdr-taught"])
def test_what_the_cpu_scale_changes_beside_sizes_is_told(method: str) -> None:
    forms = {key for key in changed(method, "cpu") if key.split(".")[-1] not in SIZES | HARDWARE}
    assert forms, "a small scale has other forms"
    assert not {key for key in forms if not told(key, method)}


def told(key: str, method: str) -> bool:
    """Whether a page has the key in backticks, as the table writes it; prose that has its last word does not count."""
    text = TABLE + ((DOCS / "dreamer.md").read_text() if method in DREAMERS else "")
    quoted = set(re.findall(r"`([a-z_0-9.]+)`", text))
    return bool({key, key.removeprefix("online.").removeprefix("ppo.")} & quoted)


def test_prose_tells_no_key() -> None:
    assert told("adapter.window", "ficc") and told("online.normalise_distance", "pvdr")
    assert "window" in TABLE and not told("planner.window", "pvdr") and not told("loss.shift", "ficc")
