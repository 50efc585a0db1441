"""The probes find what is there: on a corpus whose plans are perfect, planning helps and shuffled goals do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import ModelConfig, PlannerConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, Gaussian
from pvdr_bench.algorithms.pvdr.planner import GoalDistance
from pvdr_bench.algorithms.pvdr.probes import (
    ProbeInput,
    Windows,
    bootstrap_interval,
    cut_windows,
    fit_alignment,
    fit_probe,
    inverse_dynamics,
    nearest_frame,
    plan_validity,
    planner_test,
    probe_errors,
)
from pvdr_bench.diagnostics.dynamics import measure, summarise
from pvdr_bench.errors import UsageError
from tests.learning import above, below, learns


def test_windows_hold_the_context_action_and_a_goal_in_reach() -> None:
    frames, rng = 20, np.random.default_rng(0)
    tokens = np.arange(frames)[:, None, None] * np.ones((1, 2, 2), np.uint16)
    hand = np.stack([0.02 * np.arange(frames), np.zeros(frames), np.zeros(frames)], 1).astype(np.float32)
    action = np.arange(frames, dtype=np.float32)[:, None]
    windows = cut_windows(tokens, action, hand, frames=4, context=2, stride=3, rng=rng, reach=(0.05, 0.2))
    assert len(windows.clips) == 11
    mean = cut_windows(tokens, action, hand, frames=4, context=2, stride=3, rng=rng, reach=(0.05, 0.2), ahead=3)
    for i in range(11):
        assert windows.clips[i, :, 0, 0].tolist() == [i, i + 3, i + 6, i + 9]
        assert float(windows.action[i]) == i + 3
        assert float(windows.hand[i, 0]) == pytest.approx(0.02 * (i + 3))
        away = float((windows.goal_hand[i] - windows.hand[i]).norm())
        assert float(mean.action[i]) == i + 4  # of the actions at i + 3, i + 4, i + 5
        assert 0.05 < away < 0.2 and float(windows.goal_hand[i, 0]) == pytest.approx(0.02 * int(windows.goal[i, 0, 0]))


class LineWorld(DynamicsModel):
    """A hand on a line of 16 cells, drawn as the code of a 1 x 1 grid; z is the step that the plan makes."""

    def __init__(self, logvar: float = -10.0) -> None:
        self.logvar = logvar
        config = ModelConfig(context_frames=1, future_frames=1, d_model=8, heads=1, ff=8, token_dim=8, encoder_depth=1,
                             prior_depth=1, decoder_depth=1, window=1, z_grid=1, z_dim=1)
        super().__init__(config, 16, 1)
        self.prior.forward = lambda codes: Gaussian(torch.zeros(len(codes), 1, 1, 1),  # type: ignore[method-assign]
                                                    torch.zeros(len(codes), 1, 1, 1))
        self.encoder.forward = self.infer  # type: ignore[method-assign]
        self.decoder.rollout = self.move  # type: ignore[method-assign,assignment]

    def infer(self, codes: Tensor) -> Gaussian:
        step = (codes[:, -1:] - codes[:, :1]).float().view(-1, 1, 1, 1) / 3
        return Gaussian(step, torch.full_like(step, self.logvar))

    def move(self, context: Tensor, z: Tensor, cached: bool = True, shown: object = None) -> tuple[Tensor, Tensor]:
        step = (3 * z.flatten()).round().long()
        codes = (context[:, -1, 0, 0] + step).clamp(0, 15)[:, None, None, None]
        return codes, torch.zeros(0)


class StepIsAction(torch.nn.Module):
    """A perfect alignment: move by z along x."""

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        z = state["extra"].flatten(1)
        return torch.cat([z, torch.full((len(z), 2), 1e-3)], 1)


class Identity:
    """Code k is the number k."""

    def embed(self, codes: Tensor) -> Tensor:
        return codes[..., None].float()


def test_planning_helps_where_plans_are_true() -> None:
    generator = torch.Generator().manual_seed(0)
    here, there = torch.randint(4, 12, (300,), generator=generator), torch.randint(0, 16, (300,), generator=generator)
    there = torch.where(here == there, there + 2, there)
    grid = lambda x: x.view(-1, 1, 1)  # noqa: E731
    place = lambda x: torch.stack([x.float(), torch.zeros(300), torch.zeros(300)], 1)  # noqa: E731
    clips = grid(here)[:, None].expand(-1, 2, 1, 1)
    windows = Windows(clips, torch.zeros(300, 3), place(here), grid(there), place(there))
    distance = GoalDistance(PlannerConfig(metric="code_l1"), Identity(), grid(there)[0])  # type: ignore[arg-type]
    result = summarise(planner_test(LineWorld(), StepIsAction(), distance, windows, 16), windows, 16)  # type: ignore[arg-type]
    assert result["n"] > 0.9 and abs(result["one"]) < 0.2
    assert abs(result["shuffled"]) < 0.3 and result["oracle_selection"] >= result["n"]
    assert result["n_minus_one_low"] > 0.5 and result["states"] == sum(result["goals_by_octant"]) == 300


def steps_as_actions(seed: int) -> tuple[Windows, Windows]:
    """300 windows to learn from and 100 to test on, in which the action is a third of the step."""
    generator = torch.Generator().manual_seed(seed)
    here, step = torch.randint(4, 12, (400,), generator=generator), torch.randint(-3, 4, (400,), generator=generator)
    clips, nowhere = torch.stack([here, here + step], 1).view(-1, 2, 1, 1), torch.zeros(400, 3)
    windows = Windows(clips, step[:, None].float() / 3, nowhere, clips[:, 0], nowhere)
    return windows.rows(torch.arange(300)), windows.rows(torch.arange(300, 400))


@learns(z=below(0.05), true_future=below(0.5), context=above(0.8), few_z=below(0.5), few_context=above(0.5),
        few_z_minus_true_future_high=below(0))
def test_inverse_dynamics_tells_what_z_and_the_future_know_of_the_action(seed: int) -> dict[str, float]:
    """Errors as parts of that of the mean action."""
    torch.manual_seed(seed)
    train, test = steps_as_actions(seed)
    align = fit_alignment(LineWorld(), train, 16, 200, seed=seed)
    errors = inverse_dynamics(LineWorld(), align, train, test, 16, 200, few=(60,))
    whole = errors["mean_action"]
    assert whole == pytest.approx(float(((test.action - train.action.mean(0)) ** 2).mean()))
    few = errors["labels_60"]  # z is the action here: a few labels tell, where pictures take more of them
    for found in (errors, few):
        low, high = found["z_minus_true_future_low"], found["z_minus_true_future_high"]
        assert low < found["z"] - found["true_future"] < high
    return {name: errors[name] / whole for name in ("z", "true_future", "context")} | {
        "few_z": few["z"] / whole, "few_context": few["context"] / whole, "few_z_minus_true_future_high": high / whole}


@learns(z_mean=below(0.05), z=above(0.1), few_z_mean_minus_true_future_high=below(0))
def test_the_probe_of_the_mean_reads_what_the_spread_hides(seed: int) -> dict[str, float]:
    """Errors as parts of that of the mean action."""
    torch.manual_seed(seed)
    (train, test), noisy = steps_as_actions(seed), LineWorld(logvar=2.0)
    align = fit_alignment(noisy, train, 16, 200, seed=seed)
    errors = inverse_dynamics(noisy, align, train, test, 16, 200, few=(60,))
    few = errors["labels_60"]
    low, high = few["z_mean_minus_true_future_low"], few["z_mean_minus_true_future_high"]
    assert low < few["z_mean"] - few["true_future"] < high
    found = {"z_mean": errors["z_mean"], "z": errors["z"], "few_z_mean_minus_true_future_high": high}
    return {name: value / errors["mean_action"] for name, value in found.items()}


@learns(error=below(0.5))
def test_a_probe_keeps_its_best_weights_on_labels_that_it_did_not_learn_from(seed: int) -> dict[str, float]:
    """The held-out labels follow half the slope of the others: a probe passes by there and is as wrong at the end as
    at the start, which is an error of 1."""
    x, held = torch.randn(40, 1, generator=torch.Generator().manual_seed(seed)), torch.arange(40) % 5 == 4
    action = torch.where(held[:, None], 0.5 * x, x)

    class Probe(torch.nn.Linear):
        def forward(self, state: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(state["x"])

    network = Probe(1, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    fit_probe(network, ProbeInput({"x": x}), action, 3000, seed=seed)
    kept = probe_errors(network, ProbeInput({"x": x[held]}), action[held], seed=seed).mean()
    return {"error": float(kept / (0.5 * x[held]).square().mean())}


def test_a_probe_of_z_draws_it_anew_at_each_look() -> None:
    mean, spread = torch.zeros(2000, 1, 1, 1), torch.full((2000, 1, 1, 1), 0.5)
    inputs, generator = ProbeInput({"extra": mean}, spread), torch.Generator().manual_seed(0)
    first, second = (inputs.rows(torch.arange(2000), generator)["extra"].flatten() for _ in range(2))
    assert float(first.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float((first * second).mean())) < 0.02
    assert torch.equal(inputs.states["extra"], mean)


def test_nearest_frame_by_brute_force_and_validity_of_broken_plans() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, frames = (torch.randint(0, 3, (n, 4, 4), generator=generator) for n in (5, 20))
    want = [min(sum(int(a != b) for a, b in zip(code.flatten(), frame.flatten(), strict=True)) for frame in frames) / 16
            for code in codes]
    assert nearest_frame(codes, frames).tolist() == pytest.approx(want)
    world, here = LineWorld(), torch.randint(4, 12, (50,), generator=generator)
    clips, nowhere = here.view(-1, 1, 1, 1).expand(-1, 2, 1, 1), torch.zeros(50, 3)
    windows = Windows(clips, nowhere, nowhere, clips[:, 0], nowhere)
    real = torch.arange(16).view(-1, 1, 1)
    assert set(plan_validity(world, windows, real).values()) == {0.0}
    world.decoder.rollout = lambda context, z, **how: (context + 100, z)  # type: ignore[method-assign,assignment]
    broken = plan_validity(world, windows, real)
    assert broken["true"] == 0 and broken["prior"] == broken["posterior"] == broken["normal"] == 1


def test_bootstrap_interval_covers_the_mean_and_shrinks() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.3, 1, 50), rng.normal(0.3, 1, 5000)
    low, high = bootstrap_interval(many)
    assert low < many.mean() < high and high - low == pytest.approx(2 * 1.96 / np.sqrt(5000), rel=0.15)
    assert high - low < np.diff(bootstrap_interval(few))[0]


def test_a_method_without_a_dynamics_model_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="works on a PVDRConfig, and the method has a DreamerConfig"):
        measure("smoke", method="apv")
