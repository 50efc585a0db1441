"""``guide_pairs`` all: any two frames of a label, by hand; and what a guide knows of short ways then."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.alignment import Alignment, Labels
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.diagnostics import closed_loop
from pvdr_bench.rl.rollout import Rollout, State
from pvdr_bench.suites.spaces import BoxSpace
from tests.learning import above, below, learns
from tests.test_bench_closed_loop import Room
from tests.test_ppo_learner import IdentityTokenizer, Player, context
from tests.test_pvdr_online import GUIDED, build, config, pretrained

PAIRS = GUIDED | {"guide_pairs": "all", "lact_target": "plan_mean"}


def labels(count: int, length: int) -> Labels:
    """Frame k of label i is a grid of 10 i + k, and its way there [i + k^2, 1]."""
    number = torch.arange(count)[:, None] * 10 + torch.arange(length + 1)
    frames = number[:, :, None, None].expand(-1, -1, 2, 2).to(torch.int16)
    way = torch.stack([torch.arange(count)[:, None] + torch.arange(1, length + 1) ** 2,
                       torch.ones(count, length)], -1).float()
    z = torch.zeros(count, 1, 1, 1)
    return Labels(frames[:, :1], frames[:, 1:], z, z, way[:, -1], way)


def difference(state: State) -> Tensor:
    """An action [B, 2] that tells both frames."""
    start, end = state["tokens"][:, -1, 0, 0], state["plan"][:, -1, 0, 0]
    return torch.stack([end - start, start], -1).float()


def test_the_error_of_a_pair_by_hand() -> None:
    alignment = Alignment(difference, labels(3, 3), False, "mse", torch.Generator(), 0, True)
    found = alignment.pair_errors(torch.tensor([0, 2, 2]), torch.tensor([0, 1, 0]), torch.tensor([2, 3, 1]))
    # ways: 0 to 2 of label 0: [4, 1]; 1 to 3 of label 2: [11 - 3, 0]; 0 to 1 of label 2: [3, 1]
    wants = [((2, 0), (4, 1)), ((2, 21), (8, 0)), ((1, 20), (3, 1))]
    assert found.tolist() == pytest.approx([((a - c) ** 2 + (b - d) ** 2) / 2 for (a, b), (c, d) in wants])


def test_all_pairs_are_drawn_and_parts_sum_up_to_the_mean() -> None:
    drawn: Counter[tuple[int, int]] = Counter()

    def seen(state: State) -> Tensor:
        drawn.update(zip((state["tokens"][:, -1, 0, 0] % 10).tolist(), (state["plan"][:, -1, 0, 0] % 10).tolist(),
                         strict=True))
        return difference(state)

    index, sums = torch.arange(50).repeat(40), []
    for size in (0, 64):
        alignment = Alignment(seen, labels(50, 3), False, "mse", torch.Generator().manual_seed(1), size, True)
        sums.append(float(torch.stack(list(alignment.parts(index))).sum()))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert set(drawn) == {(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)}
    # an end is as often any, and a start any of those before it
    shares = {pair: count / 4000 for pair, count in drawn.items()}
    assert shares == {pair: pytest.approx(1 / 3 / pair[1], abs=0.03) for pair in shares}


def played(learner: PVDRLearner) -> tuple[Labels, Rollout]:
    found, _, rollout = closed_loop.collect(learner, Room(16), list(range(16)))  # type: ignore[arg-type]
    return found, rollout


def test_the_way_to_each_frame_by_hand() -> None:
    learner = build(config(PAIRS | {"e1_first": 16 * 30, "e1_decisions": 16 * 30}), 16)
    found, rollout = played(learner)
    stride, length = learner.config.model.frame_stride, learner.config.model.future_frames
    action, wants = rollout.action.clamp(-1, 1), []
    _, valid = learner.futures(rollout)
    early = valid & (torch.arange(30)[:, None] + stride * length <= 24)
    for t, n in early.nonzero().tolist():
        wants.append(torch.stack([action[t:t + stride * k, n].sum(0) / (stride * length)
                                  for k in range(1, length + 1)]))
    assert found.way is not None and len(found) == len(wants) > 100
    torch.testing.assert_close(found.way, torch.stack(wants))
    torch.testing.assert_close(found.way[:, -1], found.action)
    kept = found.rows(slice(0, 2)).followed_by(found.rows(slice(2, 7)), 4)
    assert kept.way is not None and torch.equal(kept.way, found.way[3:7])


@learns(standing=below(0.75), explained=above(0.1))
def test_a_guide_of_all_pairs_knows_where_to_stop(seed: int) -> dict[str, float]:
    """At the end it moves less than a guide of plans' ends; and it explains whole ways as well."""
    moved, told = {}, {}
    for pairs in ("ends", "all"):
        made = context(config(PAIRS | {"guide_pairs": pairs, "e1_first": 1600, "lact_e1_epochs": 30,
                                       "e1_play": "noise"}, planner={"candidates": 1}), 16, seed)
        made = dataclasses.replace(made, task=dataclasses.replace(made.task, action=BoxSpace(3)),
                                   artefacts={"pretrain": pretrained(seed)})
        learner = PVDRLearner(made, IdentityTokenizer())  # type: ignore[arg-type]
        assert learner.guide is not None
        play, held, _ = closed_loop.collect(learner, Room(16), list(range(16)))  # type: ignore[arg-type]
        learner.aligner.learn(play)
        with torch.no_grad():
            stands = learner.guide.network({"tokens": held.tokens, "plan": held.tokens[:, -1:]})
        moved[pairs] = float(stands[:, :2].square().mean().sqrt())
        told = learner.aligner.on(held).metrics()
    return {"standing": moved["all"] / moved["ends"], "explained": 1 - told["l_act"] / told["l_act_constant"]}


@pytest.mark.parametrize(("wrong", "said"), [
    ({"pi_form": "joint"}, "guide_pairs all needs a guide"), ({"guide_reads": "z"}, "guide_pairs all needs a guide"),
    ({"lact_target": "action"}, "guide_pairs all needs a guide"),
    ({"lact_e1_epochs": 0}, "guide_pairs all needs online.lact_e1_epochs"),
    ({"e1_decisions": 0}, "guide_pairs all needs online.lact_e1_epochs"),
    ({"e1_decisions": 0, "lact_e2_epochs": 1, "e1_log_std": -1.0}, "e1_log_std needs an E1"),
    ({"pi_form": "taught", "lact_e2_epochs": 1, "teach_epochs": 1, "e1_decisions": 0, "e1_first": 100},
     "lact_e2_epochs with online.pi_form taught")])
def test_what_nothing_would_learn_from_is_refused(wrong: dict[str, Any], said: str) -> None:
    whole = {"pi_form": "guided", "guide_reads": "plan", "lact_target": "plan_mean", "guide_pairs": "all",
             "lact_e1_epochs": 1}
    assert PVDRConfig.model_validate({"online": whole}).online.guide_pairs == "all"
    with pytest.raises(ValueError, match=said):
        PVDRConfig.model_validate({"online": whole | wrong})


def test_labels_of_e2_are_kept_where_no_e1_follows() -> None:
    """The first E1's and those of every E2."""
    learner, sizes = build(config(PAIRS | {"e1_first": 160, "e1_decisions": 0, "e2_decisions": 160,
                                           "lact_e2_epochs": 1, "lact_replay": 10_000}), 16), []
    player = Player(learner, 16)  # type: ignore[arg-type]
    while len(sizes) < 3:
        count = len(player.metrics)
        player.decide()
        if len(player.metrics) > count:
            assert learner.aligner.kept is not None
            sizes.append(len(learner.aligner.kept))
    assert 0 < sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("metric", [{"metric": "code_l1_pyramid"}, {"goal_term_metric": "code_l1_pyramid"}])
def test_a_pyramid_of_one_window_is_refused(metric: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is code_l1"):
        PVDRConfig.model_validate({"planner": metric | {"blur": 1}})
    assert PVDRConfig.model_validate({"planner": metric | {"blur": 3}}).planner.blur == 3
