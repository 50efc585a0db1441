"""What FICC takes into a task: networks that start, an adapter that is counted anew, rewards of decoded frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.learner import EfficientZeroLearner
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.targets import Batch
from pvdr_bench.algorithms.efficientzero.transfer import Transferred
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import GoalFacts, RewardFacts, TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.search.boxes import ActionBoxes
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.reward import GoalReward, reward_facts
from tests.dummies import make_protocol
from tests.test_dreamer_learner import Player
from tests.test_efficientzero_learner import QUICK, ficc, pretrained, run_until
from tests.test_ficc import plain_excess

CPU = torch.device("cpu")


def stirred(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Running averages that are not those of the start."""
    return {name: x + 0.5 if name.endswith("running_mean") else x for name, x in weights.items()}


def made(cfg: EfficientZeroConfig, folder: Path, **facts: Any) -> LearnerContext:
    ctx = pretrained(cfg, folder)
    ctx.artefacts["pretrain"] = stirred(ctx.artefacts["pretrain"])
    return dataclasses.replace(ctx, task=dataclasses.replace(ctx.task, **facts))


def of(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): x for key, x in weights.items() if key.startswith(f"{name}.")}


def same(weights: dict[str, Tensor], module: nn.Module) -> bool:
    state = module.state_dict()
    return weights.keys() == state.keys() and all(torch.equal(x, state[name]) for name, x in weights.items())


# Networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "loaded"), [("code", {"encoder", "likeness", "dynamics"}),
                                              ("action", {"encoder", "likeness"})])
def test_the_learner_starts_from_the_pre_trained_networks(tmp_path: Path, told: str, loaded: set[str]) -> None:
    ctx = made(ficc(train=QUICK, model={"dynamics_input": told}), tmp_path)
    learner, weights = EfficientZeroLearner(ctx), ctx.artefacts["pretrain"]
    for name in ("encoder", "likeness", "dynamics"):
        found = [same(of(weights, name), getattr(net, name)) for net in (learner.net, learner.target)]
        assert found == [name in loaded] * 2, name
    assert same(weights, learner.transferred.model)
    assert torch.equal(learner.inputs.codebook, weights["quantiser.table"])
    moved = {id(p) for p in learner.parameters}
    assert all(id(p) in moved for p in learner.net.parameters())


def test_updates_move_what_started_from_it_and_nothing_of_the_model_itself(tmp_path: Path) -> None:
    """The inverse model, its codes and the encoder that they were made with stay as they are."""
    ctx = made(ficc(train=QUICK), tmp_path)
    player = Player(EfficientZeroLearner(ctx))
    run_until(player, 40)
    learner, weights = player.learner, ctx.artefacts["pretrain"]
    assert learner.updates == 4 and same(weights, learner.transferred.model)
    assert not any(p.requires_grad for p in learner.transferred.model.parameters())
    for name in ("encoder", "likeness", "dynamics"):
        before = of(weights, name)
        assert all(not torch.equal(before[key], p) for key, p in getattr(learner.net, name).named_parameters()), name


# The adapter ------------------------------------------------------------------------------------------------------


def test_the_table_is_counted_anew_every_so_many_decisions_and_used(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """``adapter.every`` is 10; updates come every 5 decisions from 20 on, and four environments decide at once."""
    player = Player(EfficientZeroLearner(made(ficc(train=QUICK), tmp_path)))
    learner, counted = player.learner, []
    tables = [torch.tensor([i, i + 1, i + 2, i + 3]) for i in range(5)]
    told: list[Tensor] = []
    dynamics = learner.net.dynamics.forward

    def recount(*_: Any) -> Tensor:
        counted.append(learner.decisions)
        return tables[len(counted) - 1]

    def watched(state: Tensor, code: Tensor) -> Tensor:
        told.append(code)
        return dynamics(state, code)

    monkeypatch.setattr(learner.transferred, "recount", recount)
    monkeypatch.setattr(learner.net.dynamics, "forward", watched)
    run_until(player, 60)
    assert counted == [28, 40, 52]
    codebook = learner.inputs.codebook
    actions = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    assert torch.equal(learner.inputs(actions), codebook[tables[2]])
    assert learner.reanalysis.inputs is learner.inputs
    numbers = [(codebook[None] == row[:, None]).all(-1).float().argmax(1) for row in told]
    assert set(torch.cat(numbers[:2]).tolist()) <= set(tables[0].tolist())  # the first update's two steps
    assert set(torch.cat(numbers[-2:]).tolist()) <= set(tables[2].tolist())
    assert all(torch.equal(codebook[number], row) for number, row in zip(numbers, told, strict=True))


def add(replay: EpisodeReplay, box: int, before: int, after: int, first: bool, last: bool) -> None:
    """A decision in a box from one flat picture to another."""
    low, high = -0.5, 0.5
    action = torch.tensor([[high if box & 1 else low, high if box & 2 else low]])
    image = [torch.full((1, 12, 12, 3), level, dtype=torch.uint8) for level in (before, after)]
    replay.add(Transition(image[0], torch.tensor([first]), action, torch.zeros(1), torch.tensor([False]),
                          torch.tensor([last]), image[1], {}))


@pytest.mark.parametrize(("window", "counts"), [(100, {0: [7, 3, 7], 2: [5]}), (2, {2: [5]})])
def test_counts_majorities_and_unseen_boxes_of_a_replay_by_hand(tmp_path: Path, window: int,
                                                                counts: dict[int, list[int]]) -> None:
    """Two episodes: three decisions in box 0, one in box 2. A decision's latent action is the level of the picture
    that it led to; none lies between the episodes, whose pictures would say 1."""
    cfg = ficc(model={"stack": 1}).model_copy(update={"adapter": ficc().adapter.model_copy(
        update={"window": window, "encoder": "current"})})
    transferred = Transferred(pretrained(cfg, tmp_path / "a"), EfficientZeroNet(cfg.model, 4, 5))
    transferred.model.codes_between = lambda _, after: (255 * after[:, 0, 0, 0]).round().long()
    replay = EpisodeReplay(tmp_path / "b", 1, 12, 2)
    add(replay, 0, 1, 7, True, False)
    add(replay, 0, 7, 3, False, False)
    add(replay, 0, 3, 7, False, True)
    add(replay, 2, 1, 5, True, True)
    table = transferred.recount(replay, nn.Identity(), ActionBoxes(2, 2), torch.Generator().manual_seed(4))
    drawn = torch.randint(cfg.model.codes, (4,), generator=torch.Generator().manual_seed(4)).tolist()
    most = {box: max(set(codes), key=codes.count) for box, codes in counts.items()}
    assert table.tolist() == [most.get(box, drawn[box]) for box in range(4)]
    made, agreed = sum(map(len, counts.values())), sum(codes.count(most[box]) for box, codes in counts.items())
    assert transferred.metrics["adapter_unseen"] == 4 - len(counts)
    assert transferred.metrics["adapter_agreement"] == pytest.approx(agreed / made)
    assert transferred.metrics["adapter_codes"] == len(set(table.tolist()))


# Decoded frames ---------------------------------------------------------------------------------------------------


def test_the_decoders_loss_is_that_of_a_loop(tmp_path: Path) -> None:
    """The newest frame of each entry inside its episode, per pixel."""
    cfg = ficc(search={"reward": "decoded"})
    transferred = Transferred(made(cfg, tmp_path), EfficientZeroNet(cfg.model, 4, 5))
    generator = torch.Generator().manual_seed(0)
    states = [torch.rand(2, 8, 3, 3, generator=generator) for _ in range(3)]
    observation = torch.rand(2, 3, 2, 12, 12, generator=generator)
    inside = torch.tensor([[True, True, True], [True, True, False]])
    nothing = torch.zeros(0)
    batch = Batch(observation, nothing, nothing, nothing, nothing, inside, inside, nothing)
    total = sum(plain_excess(transferred.model.frame_decoder(states[k][b:b + 1])[0, 0], observation[b, k, -1])
                for b, k in inside.nonzero().tolist())
    loss = transferred.decoder_loss(states, batch)
    assert loss.item() == pytest.approx(total / (5 * 144), rel=1e-4)
    loss.backward()
    moved = {name for name, p in transferred.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved and all(name.startswith("frame_decoder.") for name in moved)


class Flat(nn.Module):
    """A decoder of flat pictures."""

    def forward(self, state: Tensor) -> Tensor:
        return torch.full((len(state), 1, 12, 12), 102 / 255).logit()


@pytest.mark.parametrize(("normalised", "paid"), [(True, -0.5), (False, -0.2)])
def test_decoded_rewards_are_those_of_the_protocol(tmp_path: Path, normalised: bool, paid: float) -> None:
    """A goal of level 51 from a start of 153: a picture of 102 is half as far, 0.2 of the range of a pixel."""
    image, start = (np.full((12, 12, 3), level, np.uint8) for level in (51, 153))
    goal, protocol = GoalFacts(image, start), make_protocol(goal_metric="pixel_l1", normalise_distance=normalised)
    cfg = ficc(search={"reward": "decoded"})
    ctx = made(cfg, tmp_path, goal=goal, reward=reward_facts(protocol))
    transferred = Transferred(ctx, EfficientZeroNet(cfg.model, 4, 5))
    transferred.model.frame_decoder = Flat()
    reward = transferred.reward(ctx.task)
    assert reward is not None and reward(torch.rand(3, 8, 3, 3)).tolist() == pytest.approx([paid] * 3, abs=1e-6)
    seen = GoalReward(protocol, goal, None, CPU).distance(np.full((1, 12, 12, 3), 102, np.uint8))
    assert paid == pytest.approx(-float(seen[0]), abs=1e-6)


def test_what_is_known_of_a_protocols_rewards() -> None:
    bonus = {"success_bonus": 60.0, "terminate_on_success": False}
    assert reward_facts(make_protocol(normalise_distance=False, **bonus)) == RewardFacts(60.0, False, False)
    assert reward_facts(make_protocol(normalise_distance=True, **bonus)) == RewardFacts(60.0, False, True)
    assert reward_facts(make_protocol(reward="dense")) == RewardFacts(0.0, True, False)


def test_without_decoded_rewards_no_goal_is_needed(tmp_path: Path) -> None:
    cfg = ficc()
    task = TaskFacts(ImageSpace(14, 14), BoxSpace(2), 1, 100)
    assert Transferred(pretrained(cfg, tmp_path), EfficientZeroNet(cfg.model, 4, 5)).reward(task) is None
