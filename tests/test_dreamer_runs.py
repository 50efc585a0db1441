"""ContextWM and PreLAR with batch normalisation, context and consistency: in the real loop, and in half precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.catalog import load_catalog
from tests import test_dreamer_context, test_dreamer_latent_actions, test_dreamer_prelar
from tests import test_dreamer_learner as grid
from tests.dummies import IMAGE, SYNC
from tests.test_dreamer_model import sequences
from tests.test_ppo_loop import do_run

CPU = torch.device("cpu")
PROTOCOLS: dict[str, dict[str, Any]] = {
    "pvdr": {"terminate_on_success": False},
    "apv": {"reward": "dense", "frozen_instance": False, "terminate_on_success": False}}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", ["contextwm", "prelar"])
def test_it_learns_in_the_loop_under_both_protocols(method: str, protocol: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """From a pre-trained model, at scale smoke, stopped once; what a run writes of it is finite."""
    monkeypatch.setattr("pvdr_bench.algorithms.dreamer.learner.LOG_EVERY", 2)
    whole = load_catalog().config(method, "smoke").value.model_dump(mode="json")
    whole["model"]["input_size"] = IMAGE
    whole["train"] |= {"length": 4, "prefill": 12, "every": 4}
    weights = {"pretrain": VideoPretrainer(DreamerConfig.model_validate(whole), 0, CPU).export()}
    for steps in (SYNC, 2 * SYNC):
        _, run = do_run(tmp_path, "dreamer", whole, steps, weights, **PROTOCOLS[protocol])
    rows = [row for row in run.read_train() if "plain_reward_error" in row]
    assert len(rows) >= 2 and {"model_grad", "bonus", "image_loss", "kl", "actor_loss", "critic_loss"} <= set(rows[-1])
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert run.read_episodes()[-1]["env_steps"] == 2 * SYNC


# Half precision -----------------------------------------------------------------------------------------------------


def all_float32(module: nn.Module) -> bool:
    tensors = (*module.parameters(), *module.buffers())
    return all(x.dtype == torch.float32 for x in tensors if x.is_floating_point())


@pytest.mark.parametrize("residual", [test_dreamer_context.residual, test_dreamer_prelar.residual])
def test_an_update_in_half_precision_is_near_that_in_full(residual: Callable[..., DreamerConfig],
                                                          tmp_path: Path) -> None:
    """The first loss is within 5 %."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        cfg = residual(train={"batch": 3, "length": 5, "prefill": 24, "dtype": dtype})
        player = grid.Player(DreamerLearner(grid.context(cfg, tmp_path / dtype)))
        while player.learner.decisions < 20:
            player.decide()
        rows: list[dict[str, Tensor]] = [player.learner.update() for _ in range(2)]
        assert all(value.isfinite() for row in rows for value in row.values())
        assert all_float32(player.learner.model) and all_float32(player.learner.behaviour)
        losses[dtype] = float(rows[0]["loss"])
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


@pytest.mark.parametrize("settings", [test_dreamer_context.settings, test_dreamer_latent_actions.settings])
def test_pretraining_in_half_precision_is_near_that_in_full(settings: Callable[..., DreamerConfig]) -> None:
    """The first loss, and the consistency in it, which orders pairs, are within 5 %."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        consistency = "rank" if settings is test_dreamer_latent_actions.settings else "none"
        learner = VideoPretrainer(settings(pretrain={"dtype": dtype, "consistency": consistency}), 0, CPU)
        rows = [learner.update(sequences(batch=4).image) for _ in range(2)]
        assert all(math.isfinite(value) for row in rows for value in row.values())
        assert all_float32(learner.model) and all_float32(learner.consistency)
        found[dtype] = rows[0]
    assert found["bfloat16"]["loss"] != found["float32"]["loss"]
    for name in {"loss", "image_loss", "consistency"} & set(found["float32"]):
        assert found["bfloat16"][name] == pytest.approx(found["float32"][name], rel=0.05), name
