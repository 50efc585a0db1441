"""``bench following``: the look at one state against a loop over candidates, the states it visits, what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.api import Session
from pvdr_bench.diagnostics import following
from pvdr_bench.errors import UsageError
from tests.test_pvdr_online import build, config, play


class OfZ(torch.nn.Module):
    """An action module whose motion is the first three numbers of z."""

    def forward(self, state: dict[str, Tensor]) -> torch.distributions.Normal:
        return torch.distributions.Normal(state["extra"].flatten(1)[:, :3], 1.0)


class Deaf(torch.nn.Module):
    """One that does the same for every z."""

    def forward(self, state: dict[str, Tensor]) -> torch.distributions.Normal:
        return torch.distributions.Normal(torch.tensor([[0.3, -0.1, 0.2]]).expand(len(state["extra"]), 3), 1.0)


def signs(context: Tensor, z: Tensor, shown: object = None) -> tuple[Tensor, None]:
    """Plans [B, 3, 4, 4] that differ: the upper half of every frame shows which numbers of z are above zero."""
    cells = torch.cat([(z.flatten(1) > 0).long(), torch.zeros(len(z), 8, dtype=torch.long)], 1)
    return cells.view(len(z), 1, 4, 4).expand(-1, 3, 4, 4), None


def test_a_look_takes_the_best_of_the_first_n_candidates_and_the_action_that_follows_from_it() -> None:
    learner = build(config(planner={"metric": "code_l1_blur", "z_source": "normal"}), 1)
    learner.ppo.actor, learner.model.decoder.rollout = OfZ(), signs  # type: ignore[method-assign]
    context = torch.from_numpy(play(2, 1, 3))
    direction = torch.tensor([0.2, -0.5, 0.1])
    counts = (1, 2, 7)
    cosine, variance = following.look(learner, context, direction, counts, torch.Generator().manual_seed(8))

    noise = torch.randn((7, 1, *learner.model.z_shape), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        z = [noise[k, 0] for k in range(7)]
        plans = [signs(context, one[None])[0][0] for one in z]
    far = [float((learner.distance.features(plan) - learner.distance.goal).abs().mean()) for plan in plans]
    motions = [one.flatten()[:3].numpy() for one in z]
    for place, count in enumerate(counts):
        motion = motions[min(range(count), key=lambda k: far[k])]
        wanted = motion @ direction.numpy() / np.linalg.norm(motion) / np.linalg.norm(direction.numpy())
        assert float(cosine[place]) == pytest.approx(wanted, abs=1e-5)
    assert len(set(cosine.tolist())) == 3  # else the choice would not have been tested
    assert float(variance) == pytest.approx(np.stack(motions).var(0).mean(), rel=1e-4)


def test_the_action_module_reads_the_z_that_the_planner_would_hand_over() -> None:
    """With planner.z_star read_back that is the encoder's mean of context and plan, and not what was drawn."""
    learner = build(config(planner={"z_star": "read_back", "z_source": "normal"}), 1)
    learner.ppo.actor, learner.model.decoder.rollout = OfZ(), signs  # type: ignore[method-assign]
    context, direction = torch.from_numpy(play(2, 1, 3)), torch.tensor([0.2, -0.5, 0.1])
    cosine, _ = following.look(learner, context, direction, (1, 2), torch.Generator().manual_seed(8))
    drawn = torch.randn((2, 1, *learner.model.z_shape), generator=torch.Generator().manual_seed(8))[0]
    with torch.no_grad():
        read = learner.model.encoder(torch.cat([context, signs(context, drawn)[0]], 1)).mean
    motion = read.flatten()[:3]
    assert float(cosine[0]) == pytest.approx(float(torch.cosine_similarity(motion, direction, 0)), abs=1e-5)


def test_a_module_that_ignores_z_does_the_same_with_any_number_of_candidates() -> None:
    learner = build(config(), 1)
    learner.ppo.actor = Deaf()
    cosine, variance = following.look(learner, torch.from_numpy(play(2, 1, 3)), torch.tensor([0.2, -0.5, 0.1]),
                                      (1, 16), torch.Generator().manual_seed(5))
    assert torch.equal(cosine[0], cosine[1]) and float(variance) == pytest.approx(0, abs=1e-12)


class Room:
    """One environment with episodes of five decisions; the picture and the goal's x say which decision it is."""

    def reset(self, seeds: list[int]) -> np.ndarray:
        self.seeds, self.t = [*getattr(self, "seeds", []), *seeds], 0
        return np.zeros((1, 2, 2, 3), np.uint8)

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        truth = {f"{what}_{axis}": np.array([0.0]) for what in ("goal", "hand") for axis in "xyz"}
        truth["goal_x"] = np.array([float(self.t)])
        over = np.array([self.t == 5])
        return SimpleNamespace(truth=truth, image=np.full((1, 2, 2, 3), self.t, np.uint8), terminated=over & False,
                               truncated=over)


def test_states_are_met_with_the_direction_that_holds_in_them() -> None:
    def act(image: Tensor, is_first: Tensor, carry: Any, mode: str, generator: Any) -> Any:
        assert bool(is_first[0]) == (int(image.max()) == 0) and mode == "eval"
        return torch.zeros(1, 3), carry, {"tokens": image[:, :1, :1, :1]}

    envs = Room()
    spec = SimpleNamespace(protocol=SimpleNamespace(eval_seed_base=70), task=SimpleNamespace(name="reach"))
    learner: Any = SimpleNamespace(initial=lambda n: None, act=act)
    session = Session(spec, learner, envs, None, None, False, 0)  # type: ignore[arg-type]
    for every, wanted in ((1, [1, 2, 3, 4]), (2, [1, 3]), (3, [1, 4])):
        envs.seeds = []
        met = list(following.visited(session, 2, every, torch.Generator()))
        assert [int(tokens.max()) for tokens, _ in met] == wanted * 2 and envs.seeds == [70, 71]
        assert [direction.tolist() for _, direction in met] == [[t, 0, 0] for t in wanted] * 2


def test_differences_are_paired_and_to_the_first_number() -> None:
    cosine = np.array([[0.0, 0.5], [0.2, 0.7], [-0.4, 0.1]])
    found = dict(following.summary(cosine, (1, 16)))
    assert found["cosine_1"] == pytest.approx(-0.2 / 3) and found["cosine_16"] == pytest.approx(1.3 / 3)
    assert [found[f"cosine_16_minus_1{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.5, 0.5, 0.5])


def test_what_it_cannot_look_at_is_refused() -> None:
    with pytest.raises(UsageError, match="run of PVDR"):
        following.measure()
    with pytest.raises(UsageError, match="two or more"):
        following.measure("somewhere", candidates=(4,))
    with pytest.raises(UsageError, match="reach does not tell goal_x"):
        following.to_goal({"hand_x": np.zeros(1), "hand_y": np.zeros(1), "hand_z": np.zeros(1)}, "reach")
