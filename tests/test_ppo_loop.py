"""PPO, random and scripted policies in the real loop, on the dummy suite: they run, and PPO continues exactly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pvdr_bench.algorithms.registry import algorithms, load_object
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.rl.flop import FlopCounter
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.tokenizer.config import CodebookConfig, NetConfig, VQGANConfig
from pvdr_bench.tokenizer.frozen import SIZE_KEY
from pvdr_bench.tokenizer.networks import VQGAN
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from tests.dummies import ENVS, IMAGE, REPEAT, SYNC, make_envs, make_spec
from tests.phases import LOOP, checked_parts

TOKENIZER = VQGANConfig(
    net=NetConfig(patch=4, multipliers=(1,), block="separable", norm="pixel", attention=False, dropout=0.0,
                  z_channels=8, encoder_width=8, encoder_blocks=1, encoder_kernel=1, decoder_width=8, decoder_blocks=0,
                  middle_blocks=1),
    codebook=CodebookConfig(size=16, dim=4))
SMALL = {"d_model": 16, "ff": 16, "heads": 2, "depth": 1, "token_dim": 8, "window": 2, "rollout_decisions": 10,
         "epochs": 2, "minibatch": 5}


def tokenizer_artefact() -> dict[str, torch.Tensor]:
    """Random weights: what codes mean is of no interest here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VQGAN(TOKENIZER, IMAGE)
    return {**net.state_dict(), SIZE_KEY: torch.tensor(IMAGE)}


def do_run(results: Path, name: str, config: dict[str, Any], env_steps: int,
           artefacts: dict[str, dict[str, torch.Tensor]] | None = None, stop_at: int | None = None,
           **protocol: Any) -> tuple[RunSpec, RunDir]:
    """A run of a built-in algorithm, with ``artefacts`` beside the tokenizer's.

    Args:
        stop_at: it is told to stop when it asks for the so-many-th time, at a decision of training or evaluation; it
            must not be done by then. None: a whole run.
    """
    info = algorithms()[name]
    spec = make_spec(name, env_steps=env_steps, config=config, **protocol)
    assert info.learner is not None
    pieces = Pieces(make_envs=make_envs, make_learner=load_object(info.learner),
                    config=load_object(info.config).model_validate(config), device=torch.device("cpu"),
                    artefacts={"tokenize": tokenizer_artefact(), **(artefacts or {})},
                    artefact_config={"tokenize": TOKENIZER},
                    needs_expert=info.needs_expert, on_policy=info.on_policy)
    asked = itertools.count()
    done = execute(spec, results, lambda: (pieces, {}), lambda: stop_at is not None and next(asked) >= stop_at)
    assert done == (stop_at is None)
    return spec, RunDir(spec.path(results))


def written(folder: RunDir) -> list[bytes]:
    """Logs and the newest state."""
    newest = folder.checkpoints.path(folder.checkpoints.steps()[-1])
    return [path.read_bytes() for path in (folder.train.path, folder.episodes.path, newest / "state.safetensors")]


def test_ppo_in_the_loop_extends_to_the_same_bytes(tmp_path: Path) -> None:
    """The rollout of 5 decisions in time does not divide the 8 between sync points: checkpoints hold partial ones."""
    with FlopCounter() as every:
        _, whole = do_run(tmp_path / "whole", "ppo", SMALL, 2 * SYNC)
    do_run(tmp_path / "parts", "ppo", SMALL, SYNC)
    _, parts = do_run(tmp_path / "parts", "ppo", SMALL, 2 * SYNC)
    assert written(parts) == written(whole)
    rounds = [row["rounds"] for row in whole.read_train() if "rounds" in row]
    assert rounds == [1, 2, 3]
    for run in (whole, parts):
        train, evaluation, cost = checked_parts(run, REPEAT)
        inner = {"observe", "observe.tokenize", "learn", "learn.policy"}
        assert train == LOOP | {"act.tokenize"} | inner and evaluation == LOOP | {"act.tokenize"}
        assert cost.shares["planning"] == 0 and cost.acting and cost.learning and cost.update and cost.flop
        assert cost.flop == pytest.approx(every.flop, rel=0.1)  # of a few calls, and rounds are of unlike length


def test_stg_in_the_loop_extends_to_the_same_bytes(tmp_path: Path) -> None:
    """Checkpoints hold partial roll-outs with STG's memory of them, and the running unit of its reward."""
    from tests.stg_small import config, pretrainer

    own = config(model={"input_size": IMAGE}, reward={"unit": "running", "nu": 0.1}, ppo=SMALL).model_dump(mode="json")
    made = {"pretrain": pretrainer().export()}
    _, whole = do_run(tmp_path / "whole", "stg", own, 2 * SYNC, made)
    do_run(tmp_path / "parts", "stg", own, SYNC, made)
    _, parts = do_run(tmp_path / "parts", "stg", own, 2 * SYNC, made)
    assert written(parts) == written(whole)
    rows = [row for row in whole.read_train() if "rounds" in row]
    assert [row["rounds"] for row in rows] == [1, 2, 3] and all(row["intrinsic_std"] > 0 for row in rows)


@pytest.mark.parametrize(("name", "success"), [("random", 0.0), ("scripted", 1.0)])
def test_policies_without_learning_are_floor_and_ceiling(tmp_path: Path, name: str, success: float) -> None:
    """The expert needs about 16 decisions of 32; a random walk does not get there."""
    steps = 64
    _, folder = do_run(tmp_path, name, {}, ENVS * steps, episode_steps=steps, sync_every=ENVS * steps,
                       eval_every=ENVS * steps)
    final = [row for row in folder.read_episodes() if row["point"] == "final"]
    assert [row["success_any"] for row in final] == [bool(success)] * 5
