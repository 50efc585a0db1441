"""DreamerV3 as a learner: it solves the grid of pixels, keeps its pace, continues exactly; silent bugs are seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer import behaviour as behaviour_module
from pvdr_bench.algorithms.dreamer import world_model as world_model_module
from pvdr_bench.algorithms.dreamer.config_v3 import DreamerV3Config
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.steps import ALL, set_rates
from pvdr_bench.algorithms.dreamer.world_model import Sequences
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import TrainingError
from pvdr_bench.nets.rssm import RSSM
from tests import dreamerv3_small as small
from tests.dummies import IMAGE, SYNC
from tests.learning import above, below, learns
from tests.test_dreamer_learner import SIZE, Player, context, play_grid, resume
from tests.test_ppo_learner import assert_equal
from tests.test_ppo_loop import do_run, written

GRID_MODEL = {"input_size": SIZE, "deter": 32, "hidden": 32, "stoch": 4, "classes": 6, "cnn_depth": 8,
              "cnn_multipliers": (1,), "blocks": 4, "head_layers": 2, "head_units": 48, "action_width": 2}


def config(**changes: Any) -> DreamerV3Config:
    sections: dict[str, dict[str, Any]] = {
        "model": GRID_MODEL,
        "train": {"batch": 18, "length": 7, "prefill": 720, "prefill_policy": "uniform", "initial_updates": 60,
                  "ratio": 31.5, "model_lr": 2e-3, "warmup": 20, "dtype": "float32"},
        "behaviour": {"horizon": 6, "gamma": 0.8, "entropy_coef": 3e-3}}
    for name, part in changes.items():
        sections[name] = {**sections.get(name, {}), **part}
    return DreamerV3Config.model_validate(sections)


def tiny(folder: Path, **changes: Any) -> DreamerLearner:
    return DreamerLearner(context(small_grid(**changes), folder))


def small_grid(**changes: Any) -> DreamerV3Config:
    """Of the grid's pictures, at sizes that take no time."""
    model = {**GRID_MODEL, "deter": 8, "hidden": 8, "stoch": 2, "classes": 3, "cnn_depth": 4, "head_units": 8}
    train = {"batch": 2, "length": 4, "prefill": 20, "initial_updates": 1, "ratio": 8.0 / 5, "warmup": 3}
    return config(model=model, train={**train, **changes.pop("train", {})}, **changes)


@learns(early=below(0.3), late=above(0.6), reward_error=below(0.25), kl=above(0.05))
def test_it_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    """The grid of DreamerV2's test, with fewer decisions: random actions succeed in one of six."""
    shares, last = play_grid(config(), seed, 110)
    return {**shares, "reward_error": last["reward_error"], "kl": last["kl"]}


# Pace ---------------------------------------------------------------------------------------------------------------


def test_the_train_ratio_counts_replayed_steps_per_decision(tmp_path: Path) -> None:
    """8 / 5 replayed steps per decision in batches of 2 x 4: an update every 5 decisions, of all environments."""
    player, counts = Player(tiny(tmp_path)), []
    for _ in range(10):
        player.decide()  # 4 decisions
        counts.append(player.learner.updates)
    assert counts == [0, 0, 0, 0, 1, 1, 2, 3, 4, 5]
    assert player.learner.updates_due(player.learner.decisions) == 1 + (40 - 20) // 5


def test_at_paper_scale_256_steps_are_replayed_per_decision_whatever_the_action_repeat(tmp_path: Path) -> None:
    train = load_catalog().config("dreamerv3", "paper").value.train
    assert train.ratio / (train.batch * train.length) == 0.25
    learner = tiny(tmp_path)
    learner.config = learner.config.model_copy(update={"train": train})
    learner.decisions = train.prefill + 4000
    assert learner.updates_due(learner.decisions) == 1 + 1000


def test_rates_warm_up_from_zero(tmp_path: Path) -> None:
    learner, seen = tiny(tmp_path), []
    for updates in range(5):
        set_rates(learner.steps, learner.config, updates)
        seen.append([group["lr"] for group in learner.steps[ALL].inner.param_groups])
    rate = learner.config.train.model_lr
    assert [row[0] for row in seen] == pytest.approx([0.0, rate / 3, 2 * rate / 3, rate, rate])
    assert all(len(set(row)) == 1 for row in seen)


@pytest.mark.parametrize("who", ["uniform", "actor"])
def test_who_acts_before_the_first_update(tmp_path: Path, who: str) -> None:
    learner = tiny(tmp_path, train={"prefill_policy": who})
    image, first = torch.zeros(200, SIZE, SIZE, 3, dtype=torch.uint8), torch.ones(200, dtype=torch.bool)
    action, carry, _ = learner.act(image, first, learner.initial(200), "train", torch.Generator().manual_seed(0))
    assert (float(action.abs().max()) > 1) is (who == "actor")  # a normal has no bounds
    assert float(carry["action"].abs().max()) <= 1, "what the RSSM is told is what the simulator executes"


# State --------------------------------------------------------------------------------------------------------------


def test_resume_is_exact_in_the_middle_of_everything(tmp_path: Path) -> None:
    cfg = small_grid()
    through = Player(DreamerLearner(context(cfg, tmp_path / "a")))
    first = Player(DreamerLearner(context(cfg, tmp_path / "b")))
    for _ in range(20):
        through.decide()
    for _ in range(9):
        first.decide()
    resume(first, cfg, tmp_path / "b")
    for _ in range(11):
        first.decide()
    state = through.learner.state_dict()
    assert_equal(state, first.learner.state_dict())
    assert state["behaviour"]["return_scale.bounds"].tolist() != [0.0, 0.0] and state["updates"] > 9


def test_in_the_loop_it_extends_to_the_same_bytes(tmp_path: Path) -> None:
    cfg = small_grid(train={"prefill": 12, "ratio": 8.0})
    model = cfg.model.model_copy(update={"input_size": IMAGE, "action_width": 4})
    cfg = DreamerV3Config.model_validate({**cfg.model_dump(), "model": model.model_dump()})

    own = ("dreamerv3", cfg.model_dump(mode="json"))
    _, whole = do_run(tmp_path / "whole", *own, 2 * SYNC)
    do_run(tmp_path / "parts", *own, SYNC)
    _, parts = do_run(tmp_path / "parts", *own, 2 * SYNC)
    assert written(parts) == written(whole)
    assert any("all_grad" in row and "return_scale" in row for row in whole.read_train())


# Numbers that are none ----------------------------------------------------------------------------------------------


def filled(learner: DreamerLearner) -> DreamerLearner:
    player = Player(learner)
    while learner.decisions < 16:
        player.decide()
    return learner


def test_a_loss_that_is_no_number_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = filled(tiny(tmp_path))
    learner.updates = 5
    forward = learner.behaviour.critic.forward
    monkeypatch.setattr(learner.behaviour.critic, "forward", lambda x: forward(x) * torch.nan)
    before = {name: x.clone() for name, x in (*learner.behaviour.state_dict().items(),
                                              *learner.model.state_dict().items())}
    with pytest.raises(TrainingError, match="imagination"):
        learner.update()
    after = {**learner.behaviour.state_dict(), **learner.model.state_dict()}
    assert all(torch.equal(x, before[name]) for name, x in after.items()), "nor the running scale of returns"


def test_a_gradient_that_is_no_number_moves_nothing(tmp_path: Path) -> None:
    """A finite loss may have one: the root of zero."""
    step = tiny(tmp_path).steps[ALL]
    before = [p.clone() for p in step.parameters]
    with pytest.raises(TrainingError, match="gradient of a finite loss has the norm nan"):
        step.update((step.parameters[0] * 0).square().sum().sqrt())
    assert all(torch.equal(a, b) for a, b in zip(step.parameters, before, strict=True))
    assert not step.inner.state


def test_half_precision_stays_near_full_precision(tmp_path: Path) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        learner = filled(tiny(tmp_path / dtype, train={"dtype": dtype}))
        rows = [learner.update() for _ in range(4)]
        assert all(value.isfinite() for row in rows for value in row.values())
        assert all(p.dtype == torch.float32 for p in learner.model.parameters())
        found[dtype] = float(rows[0]["loss"])
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)


def test_the_losses_take_no_rounded_weights_of_imagining_without_gradients(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What older versions of torch round without gradients they keep, without, until autocast ends."""
    learner, order = filled(tiny(tmp_path, train={"dtype": "bfloat16"})), list[str]()

    def told(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def tell(*args: Any, **options: Any) -> Any:
            order.append(name)
            return call(*args, **options)

        monkeypatch.setattr(owner, name, tell)

    told(learner.behaviour, "imagine")
    told(learner.behaviour, "losses")
    told(torch, "clear_autocast_cache")
    learner.update()
    assert order.index("imagine") < order.index("losses")
    assert "clear_autocast_cache" in order[order.index("imagine"):order.index("losses")]


# Silent bugs --------------------------------------------------------------------------------------------------------
# Each is put back, and must fail the check beside it (methods.md, section 7.3).


def check_acting_filters_as_learning_does(patch: Callable[[Any], None]) -> None:
    model, _ = small.stirred()
    data, uniform = small.sequences(), torch.rand(2, 3, 6, 3, generator=torch.Generator().manual_seed(1))
    _, post, _ = model.loss(data, uniform)
    patch(model)
    states = model.initial(3, torch.device("cpu"))
    for t in range(6):
        states = model.step(states, data.image[:, t], data.action[:, t], data.is_first[:, t], uniform[:, :, t])
        torch.testing.assert_close(states["rssm"]["deter"], post["deter"][:, t].detach())
        torch.testing.assert_close(states["rssm"]["logits"], post["logits"][:, t].detach())


def test_pictures_are_normalised_in_the_policy_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    check_acting_filters_as_learning_does(lambda model: None)

    def raw(model: Any) -> None:
        monkeypatch.setattr(world_model_module, "preprocess", lambda image, size: image.movedim(-1, -3).float())

    with pytest.raises(AssertionError):
        check_acting_filters_as_learning_does(raw)


def test_an_action_belongs_to_the_picture_it_led_to() -> None:
    batch = {"image": torch.zeros(1, 4, 2, 2, 3, dtype=torch.uint8), "reward": torch.tensor([[0.0, 1.0, 2.0, 0.0]]),
             "action": torch.tensor([[[0.1], [0.2], [0.0], [0.4]]]),
             "is_first": torch.tensor([[True, False, False, True]]), "is_last": torch.zeros(1, 4, dtype=torch.bool),
             "is_terminal": torch.zeros(1, 4, dtype=torch.bool)}

    def check(data: Sequences) -> None:
        assert data.action[0, :, 0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.0])
        assert data.reward[0].tolist() == [0.0, 1.0, 2.0, 0.0]

    data = Sequences.from_replay(batch, torch.device("cpu"))
    check(data)
    with pytest.raises(AssertionError):
        check(dataclasses.replace(data, action=batch["action"]))


def check_reset(rssm: RSSM) -> None:
    embed = torch.randn(2, 6, rssm.obs_out[0].in_features - rssm.deter)  # type: ignore[operator]
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 3] = True
    action, uniform = torch.rand(2, 6, 2), torch.rand(2, 6, rssm.stoch)
    whole, _ = rssm.scan(embed, action, first, uniform)
    part, _ = rssm.scan(embed[:, 3:], torch.zeros(2, 3, 2), first[:, 3:], uniform[:, 3:])
    torch.testing.assert_close(whole["deter"][:, 3], part["deter"][:, 0])


def test_nothing_passes_from_one_episode_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    rssm = small.stirred()[0].rssm
    check_reset(rssm)
    observe = rssm.observe

    def leaking(state: dict[str, Tensor], action: Tensor, embed: Tensor, is_first: Tensor, uniform: Tensor) -> Any:
        return observe(state, action, embed, torch.zeros_like(is_first), uniform)

    monkeypatch.setattr(rssm, "observe", leaking)
    with pytest.raises(AssertionError):
        check_reset(rssm)


def check_targets() -> None:
    """A reward of 1 on arriving at state 2, and values and discounts that differ: the targets of states 0 to 3.

    The last is 0.4 * 8; before it 0.8 * (0.25 * 2 + 0.75 * 3.2), 1 + 0.25 * (0.25 * 3 + 0.75 * 2.32), and
    0.5 * (0.25 * 1 + 0.75 * 1.6225).
    """
    _, behaviour = small.stirred(behaviour={"horizon": 4, "gae_lambda": 0.75})
    seen: list[Tensor] = []
    values, discount = torch.tensor([[7.0, 1.0, 3.0, 2.0, 8.0], [9.0, 0.5, 0.25, 0.8, 0.4]])[..., None]
    behaviour.critic.loss = lambda out, targets: seen.append(targets) or targets  # type: ignore[assignment,func-returns-value]
    behaviour.critic.mean = lambda out: values  # type: ignore[method-assign]
    reward = torch.zeros(5, 1)
    reward[2] = 1.0
    behaviour.losses(behaviour_module.Path(torch.randn(5, 1, 28), reward, discount, torch.ones(5, 1),
                                           torch.zeros(4, 1, 2)))
    assert seen[0][:, 0].tolist() == pytest.approx([0.7334375, 1.6225, 2.32, 3.2])


def ahead(x: Tensor, last: Tensor) -> Tensor:
    return torch.cat([x[1:], last[None]])


@pytest.mark.parametrize("late", ["reward", "bootstrap", "discount"])
def test_returns_do_not_look_two_steps_ahead(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    check_targets()
    plain = behaviour_module.lambda_returns

    def early(reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor, lambda_: Any) -> Tensor:
        if late == "reward":
            reward = ahead(reward, torch.zeros_like(reward[0]))
        elif late == "bootstrap":
            value = ahead(value, bootstrap)
        else:
            discount = ahead(discount, discount[-1])
        return plain(reward, value, discount, bootstrap, lambda_)

    monkeypatch.setattr(behaviour_module, "lambda_returns", early)
    with pytest.raises(AssertionError):
        check_targets()


def test_the_ratio_is_not_multiplied_by_the_batch_or_the_action_repeat(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates per decision in place of replayed steps per decision: what most failed reproductions had."""
    def wrong(self: DreamerLearner, decisions: int) -> int:
        train = self.config.train
        return 0 if decisions < train.prefill else 1 + int((decisions - train.prefill) * train.ratio)

    test_the_train_ratio_counts_replayed_steps_per_decision(tmp_path / "right")
    monkeypatch.setattr(DreamerLearner, "updates_due", wrong)
    with pytest.raises(AssertionError):
        test_the_train_ratio_counts_replayed_steps_per_decision(tmp_path / "wrong")


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["paper", "gpu"])
def test_the_published_table_of_size12m(scale: str) -> None:
    values = load_catalog().config("dreamerv3", scale).value.model_dump()
    expected: dict[str, dict[str, Any]] = {
        "model": {"input_size": 64, "deter": 2048, "hidden": 256, "stoch": 32, "classes": 16, "cnn_depth": 16,
                  "cnn_multipliers": (2, 3, 4, 4), "cnn_kernel": 5, "head_layers": 3, "predictor_layers": 1,
                  "head_units": 256, "backbone": "pooled", "cell": "block_gru", "blocks": 8, "prior_layers": 2,
                  "unimix": 0.01, "norm": "rms", "activation": "silu", "init": "truncated"},
        "loss": {"kl": "scaled", "dyn_scale": 1.0, "rep_scale": 0.1, "free_nats": 1.0, "image_scale": 1.0,
                 "reward_head": "two_hot", "bin_limit": 20.0, "predict_discount": "yes", "discount_target": "product",
                 "discount_weight": 1.0},
        "train": {"prefill": 1024, "prefill_policy": "actor", "initial_updates": 1, "ratio": 256.0, "batch": 16,
                  "length": 64, "capacity": 5_000_000, "joint": True, "optimiser": "laprop", "agc": 0.3,
                  "model_lr": 4e-5, "warmup": 1000, "adam_eps": 1e-20, "weight_decay": 0.0, "dtype": "bfloat16"},
        "behaviour": {"horizon": 15, "objective": "reinforce", "actor": "bounded_normal", "actor_scale": 0.01,
                      "min_std": 0.1, "max_std": 1.0, "critic_head": "two_hot", "gamma": 0.996997, "gae_lambda": 0.95,
                      "entropy_coef": 3e-4, "targets": "fast", "slow_every": 1, "slow_rate": 0.02,
                      "slow_regulariser": 1.0, "replay_value": 0.3, "replay_value_grad": True, "return_low": 5.0,
                      "return_high": 95.0, "return_rate": 0.01, "return_floor": 1.0}}
    assert {section: {key: values[section].get(key) for key in keys} for section, keys in expected.items()} == expected
    assert not values["pretrained"] and not values["stacked"] and values["bonus"]["weight"] == 0
