"""EfficientZero as a learner: it solves a grid of pixels, keeps to its schedule, and continues exactly."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.algorithms.efficientzero import learner as module
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.learner import EfficientZeroLearner
from pvdr_bench.algorithms.efficientzero.losses import unroll
from pvdr_bench.algorithms.efficientzero.pretrain import FICCPretrainer
from pvdr_bench.errors import CatalogError, SetupError, TrainingError
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import GoalFacts, RewardFacts, TaskFacts
from pvdr_bench.rl.replay.drawing import Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from tests.dummies import IMAGE, REPEAT, SYNC
from tests.learning import above, below, learns
from tests.phases import LOOP, checked_parts
from tests.test_dreamer_learner import SIZE, Grid, Player
from tests.test_ppo_learner import assert_equal
from tests.test_ppo_loop import do_run, written

BUDGET = 1280


def config(**changes: Any) -> EfficientZeroConfig:
    small: dict[str, Any] = {
        "model": {"input_size": SIZE, "stack": 1, "downsamplings": 2, "channels": 8, "head_channels": 4,
                  "head_units": 16, "prefix_units": 8, "projection": 16, "predictor": 8, "support": 4.0,
                  "bin_width": 0.25},
        "search": {"simulations": 8, "discount": 0.8},
        "train": {"prefill": 240, "every": 4.0, "batch": 24, "unroll": 2, "td_steps": 3, "reanalyse": 0.25,
                  "target_every": 40, "optimiser": "adam", "lr": 3e-3, "shift": 0, "intensity": 0.0}}
    return EfficientZeroConfig.model_validate(
        {**small, **changes, **{name: {**small[name], **changes.get(name, {})} for name in small}})


def context(cfg: EfficientZeroConfig, folder: Path, n: int = 4, seed: int = 0, budget: int = BUDGET) -> LearnerContext:
    replay = EpisodeReplay(folder, n, SIZE, 2)
    image = Grid(1).images()[0].numpy()
    task = TaskFacts(ImageSpace(SIZE, SIZE), BoxSpace(2), n, budget_decisions=budget,
                     goal=GoalFacts(image[::-1, ::-1].copy(), image), reward=RewardFacts(ends_on_success=True))
    return LearnerContext(cfg, task, seed, torch.device("cpu"), replay=replay)


@learns(early=below(0.35), late=above(0.7), value_error=below(0.5))
def test_it_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    """Evenly drawn boxes succeed in one episode of six; an action of the right box moves two times in three."""
    with tempfile.TemporaryDirectory() as folder:
        player = Player(EfficientZeroLearner(context(config(), Path(folder), n=8, seed=seed)), n=8, seed=seed)
        while player.learner.decisions < 240:
            player.decide()
        early, begun = np.mean(player.successes), 0
        while player.learner.decisions < BUDGET:
            begun = len(player.successes) if player.learner.decisions <= BUDGET - 200 else begun
            player.decide()
    return {"early": float(early), "late": float(np.mean(player.successes[begun:])),
            "value_error": player.metrics[-1]["value_error"]}


def run_until(player: Player, decisions: int) -> None:
    while player.learner.decisions < decisions:
        player.decide()


QUICK = {"prefill": 20, "every": 5.0, "batch": 4, "unroll": 2, "td_steps": 2, "target_every": 3, "shift": 1,
         "intensity": 0.1}


def test_updates_come_every_so_many_decisions_after_the_prefill(tmp_path: Path) -> None:
    player, counts = Player(EfficientZeroLearner(context(config(train=QUICK), tmp_path))), []
    for _ in range(10):
        player.decide()
        counts.append(player.learner.updates)
    assert counts == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]  # 4 decisions each; every 5 from decision 20 on


def test_until_the_prefill_boxes_are_drawn_evenly_then_by_the_search(tmp_path: Path) -> None:
    learner = EfficientZeroLearner(context(config(train=QUICK), tmp_path))
    image, first = Grid(4).images(), torch.ones(4, dtype=torch.bool)
    action, _, extras = learner.act(image, first, learner.initial(4), "train", torch.Generator().manual_seed(0))
    assert (extras["policy"] == 0).all() and action.shape == (4, 2) and action.abs().max() <= 1
    learner.decisions = 20
    _, carry, extras = learner.act(image, first, learner.initial(4), "train", torch.Generator().manual_seed(0))
    assert torch.allclose(extras["policy"].sum(1), torch.ones(4)) and ((extras["policy"] * 8) % 1 == 0).all()
    assert carry["frames"].shape == (4, 1, 1, SIZE, SIZE)


def test_what_was_never_searched_teaches_no_policy(tmp_path: Path) -> None:
    """Without reanalysis a replay of evenly drawn boxes alone has no policy's gradient, and no entropy."""
    player = Player(EfficientZeroLearner(context(config(train={**QUICK, "reanalyse": 0.0}), tmp_path)))
    run_until(player, 16)
    found = player.learner.update()
    assert found["policy_loss"] == 0 and found["target_entropy"] == 0 and found["value_loss"] > 0
    assert all((p.grad == 0).all() for p in player.learner.net.policy.parameters())


def test_before_the_first_search_boxes_are_drawn_evenly_and_no_policy_is_learned(tmp_path: Path) -> None:
    train = {**QUICK, "reanalyse": 1.0, "search_after": 3}
    player = Player(EfficientZeroLearner(context(config(train=train), tmp_path)))
    learner, found = player.learner, []
    run_until(player, 16)
    while learner.updates < 5:
        found.append(learner.update())
        kept = [stream.values("policy", np.arange(stream.length)) for stream in learner.replay.streams]
        assert np.concatenate(kept).any() == (learner.updates > 3)
    assert [row["policy_loss"] > 0 for row in found] == [False, False, False, True, True]
    image, first = Grid(4).images(), torch.ones(4, dtype=torch.bool)
    learner.decisions = 20
    for updates, mode, searches in ((2, "train", False), (2, "eval", True), (3, "train", True)):
        learner.updates = updates
        extras = learner.act(image, first, learner.initial(4), mode, torch.Generator().manual_seed(0))[2]
        assert bool((extras["policy"].sum(1) > 0).all()) == searches


def test_noise_is_of_training_alone_and_evaluation_draws_only_from_its_generator(tmp_path: Path) -> None:
    noisy = config(search={"simulations": 8, "noise_fraction": 1.0, "noise_alpha": 0.05})
    learner = EfficientZeroLearner(context(noisy, tmp_path))
    learner.decisions = 240
    image, first = Grid(6).images(), torch.ones(6, dtype=torch.bool)
    before = learner.cpu_generator.get_state()

    def visits(mode: Any) -> torch.Tensor:
        return learner.act(image, first, learner.initial(6), mode, torch.Generator().manual_seed(1))[2]["policy"]

    assert torch.equal(visits("eval"), visits("eval")) and torch.equal(before, learner.cpu_generator.get_state())
    assert visits("eval").amax(1).max() < 0.6, "equal priors: none is preferred"
    assert visits("train").amax(1).max() > 0.7, "the noise alone prefers one"


def test_an_update_writes_policies_and_priorities_back(tmp_path: Path) -> None:
    ctx = context(config(train={**QUICK, "reanalyse": 1.0}), tmp_path)
    player = Player(EfficientZeroLearner(ctx))
    run_until(player, 16)
    replay = ctx.replay
    before = [stream.values("policy", np.arange(stream.length)).copy() for stream in replay.streams]
    priorities = [weights.copy() for weights in replay.weights.all]
    positions = [Positions(torch.full((stream.length,), i), torch.arange(stream.length))
                 for i, stream in enumerate(replay.streams)]
    player.learner.update()
    after = [stream.values("policy", np.arange(stream.length)) for stream in replay.streams]
    changed = np.concatenate([(a != b).any(1) for a, b in zip(before, after, strict=True)])
    last = np.concatenate([replay.read(every, 1, columns=())["is_last"][:, 0] for every in positions])
    assert changed.any() and not changed[last].any(), "nothing is decided at an episode's last entry"
    assert any((a != b).any() for a, b in zip(priorities, replay.weights.all, strict=True))


def test_the_target_network_follows_every_so_many_updates(tmp_path: Path) -> None:
    player = Player(EfficientZeroLearner(context(config(train=QUICK), tmp_path)))
    run_until(player, 16)
    equal = []
    for _ in range(6):
        player.learner.update()
        equal.append(all(map(torch.equal, player.learner.net.parameters(), player.learner.target.parameters())))
    assert equal == [False, False, True, False, False, True]


def test_values_may_start_at_what_the_mean_reward_is_worth_for_ever(tmp_path: Path) -> None:
    train = {**QUICK, "value_start": "mean_reward"}
    player = Player(EfficientZeroLearner(context(config(train=train, search={"discount": 0.5}), tmp_path)))
    learner, paid = player.learner, []
    observe = learner.observe

    def watched(transition: Transition) -> None:
        paid.append(-torch.arange(4.0) - len(paid))
        observe(dataclasses.replace(transition, reward=paid[-1]))

    learner.observe = watched
    run_until(player, 20)
    rewards = torch.stack(paid)
    assert learner.updates == 0 and learner.net.value[1][-1].bias.abs().max() == 0
    learner.update()  # the target network is not copied yet
    state = torch.rand(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    values = learner.target.scalars.mean(learner.target.predict(state)[1])
    assert rewards.shape == (5, 4) and values.std() < 1e-5
    assert float(values[0]) == pytest.approx(float(rewards.mean()) / (1 - 0.5), rel=1e-2)
    torch.testing.assert_close(learner.reanalysis.target.net.value[1][-1].bias, learner.target.value[1][-1].bias)


def test_temperatures_fall_at_half_and_three_quarters_of_the_budget(tmp_path: Path) -> None:
    learner, found = EfficientZeroLearner(context(config(), tmp_path)), []
    for decisions in (0, 639, 640, 959, 960, 1280):
        learner.decisions = decisions
        found.append(learner._temperature())
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_the_learning_rate_rises_and_falls_to_a_tenth(tmp_path: Path) -> None:
    """1280 decisions are (1280 - 20) / 5 = 252 updates; it rises in a tenth of them."""
    train = {**QUICK, "lr": 0.2, "warmup": 0.1, "lr_decay_at": 100}
    learner, found = EfficientZeroLearner(context(config(train=train), tmp_path)), []
    for updates in (0, 11, 24, 25, 99, 100, 251):
        learner.updates = updates
        found.append(learner._rate())
    assert found == pytest.approx([0.2 / 25.2, 0.2 * 12 / 25.2, 0.2 * 25 / 25.2, 0.2, 0.2, 0.02, 0.02])
    never = {**train, "warmup": 0.0}
    assert EfficientZeroLearner(context(config(train=never), tmp_path / "b"))._rate() == pytest.approx(0.2)


@pytest.mark.parametrize(("support", "beyond"), [(0.25, True), (4.0, False)])
def test_targets_beyond_the_support_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, support: float,
                                             beyond: bool) -> None:
    """A support of 0.25 reaches 0.56: sqrt(1.56) - 1 + 0.00056; every decision is paid 2. The batch's shares."""
    cfg = config(train=QUICK, model={"support": support})
    player, seen = Player(EfficientZeroLearner(context(cfg, tmp_path))), []
    learner, add = player.learner, player.learner.replay.add
    monkeypatch.setattr(learner.replay, "add", lambda it: add(dataclasses.replace(it, reward=torch.full((4,), 2.0))))
    run_until(player, 16)
    make = learner.reanalysis.batch

    def watched(*how: Any) -> Any:
        seen.append(make(*how))
        return seen[-1]

    monkeypatch.setattr(learner.reanalysis, "batch", watched)
    metrics, (batch, _) = learner.update(), seen[0]
    for name, values, inside in (("value_beyond", batch.value, batch.inside),
                                 ("prefix_beyond", batch.prefix, batch.inside[:, 1:])):
        far = [abs(x) > cfg.model.reach for row, real in zip(values.tolist(), inside.tolist(), strict=True)
               for x, here in zip(row, real, strict=True) if here]
        assert metrics[name] == pytest.approx(np.mean(far)) and (metrics[name] > 0) is beyond


def test_states_that_are_all_alike_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their consistency is perfect, so no loss tells."""
    player, seen = Player(EfficientZeroLearner(context(config(train=QUICK), tmp_path))), []
    run_until(player, 16)
    monkeypatch.setattr(module, "unroll", lambda *what: seen.append(unroll(*what)) or seen[-1])
    told = player.learner.update()["state_std"]
    spread = seen[0].states[0].detach().var(0, correction=0).sqrt().mean()
    assert told == pytest.approx(float(spread), rel=1e-4) and told > 0
    side = player.learner.config.model.grid
    monkeypatch.setattr(player.learner.net.encoder, "forward", lambda x: torch.ones(len(x), 8, side, side))
    assert player.learner.update()["state_std"] == 0


def pretrained(cfg: EfficientZeroConfig, folder: Path, **facts: Any) -> LearnerContext:
    ctx = context(cfg, folder, **facts)
    ctx.artefacts["pretrain"] = FICCPretrainer(cfg, 3, torch.device("cpu")).export()
    return ctx


def ficc(**changes: Any) -> EfficientZeroConfig:
    changes["model"] = {"dynamics_input": "code", "input_size": 12, "stack": 2, **changes.get("model", {})}
    return config(pretrained=True, adapter={"every": 10, "window": 40}, **changes)


@pytest.mark.parametrize("kind", ["efficientzero", "ficc", "decoded"])
def test_resume_is_exact_in_the_middle_of_everything(tmp_path: Path, kind: str) -> None:
    search = {"simulations": 4, "reward": "decoded" if kind == "decoded" else "head"}
    train = {**QUICK, "value_start": "mean_reward"}
    cfg = config(train=train, search=search) if kind == "efficientzero" else ficc(train=QUICK, search=search)
    make = context if kind == "efficientzero" else pretrained
    through = Player(EfficientZeroLearner(make(cfg, tmp_path / "a")))
    first = Player(EfficientZeroLearner(make(cfg, tmp_path / "b")))
    run_until(through, 80)
    run_until(first, 40)
    ctx = make(cfg, tmp_path / "b", seed=9)  # another seed: everything has to come from the state
    state, kept = first.learner.state_dict(), first.learner.replay.state_dict()
    restored = EfficientZeroLearner(ctx)
    ctx.replay.load_state_dict(kept)
    restored.load_state_dict(state)
    first.learner = restored
    run_until(first, 80)
    assert_equal(through.learner.state_dict(), first.learner.state_dict())
    assert through.learner.updates == 12 and through.learner.summed > 0


def test_a_policy_alone_plays_as_the_learner_does(tmp_path: Path) -> None:
    cfg = ficc(train=QUICK)
    player = Player(EfficientZeroLearner(pretrained(cfg, tmp_path / "a")))
    run_until(player, 60)
    copied = EfficientZeroLearner(dataclasses.replace(pretrained(cfg, tmp_path / "b", seed=5), replay=None))
    copied.load_policy_state(player.learner.policy_state())
    image, first = Grid(3).images(), torch.ones(3, dtype=torch.bool)
    ours, theirs = (learner.act(image, first, learner.initial(3), "eval", torch.Generator().manual_seed(0))
                    for learner in (player.learner, copied))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[2]["policy"], theirs[2]["policy"])
    with pytest.raises(SetupError, match="was given none"):
        copied.update()


@pytest.mark.parametrize("kind", ["efficientzero", "ficc"])
def test_in_the_loop_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    changes: dict[str, Any] = {"train": {**QUICK, "prefill": 12, "every": 3.0}, "search": {"simulations": 4}}
    cfg = (config if kind == "efficientzero" else ficc)(**changes, model={"input_size": IMAGE})
    artefacts = {} if kind == "efficientzero" else {"pretrain": FICCPretrainer(cfg, 3, torch.device("cpu")).export()}
    own = ("efficientzero", cfg.model_dump(mode="json"), 6 * SYNC, artefacts)
    _, whole = do_run(tmp_path / "whole", *own)
    assert any("loss" in row for row in whole.read_train())
    do_run(tmp_path / "parts", *own, stop_at=60)  # evaluations ask as well
    _, parts = do_run(tmp_path / "parts", *own)
    assert written(parts) == written(whole)
    for run in (whole, parts):
        train, evaluation, cost = checked_parts(run, REPEAT)
        inner = {"learn", "learn.recount", "learn.update", "learn.update.reanalyse"}
        assert train == LOOP | {"act.plan", "observe"} | inner and evaluation == LOOP | {"act.plan"}
        assert cost.shares["planning"] and cost.acting and cost.learning and cost.update


def test_a_loss_that_is_not_finite_stops_before_it_enters_the_weights(tmp_path: Path) -> None:
    player = Player(EfficientZeroLearner(context(config(train=QUICK), tmp_path)))
    run_until(player, 16)
    learner = player.learner
    torch.nn.init.constant_(learner.net.policy[1][-1].bias, torch.nan)
    before = {name: x.clone() for name, x in learner.net.encoder.named_parameters()}
    with pytest.raises(TrainingError, match="update 0"):
        learner.update()
    assert all(torch.equal(x, before[name]) for name, x in learner.net.encoder.named_parameters())


def test_a_gradient_that_is_not_finite_stops_before_it_enters_the_weights(tmp_path: Path) -> None:
    """The loss is finite: weights of NaN would go into a checkpoint, and a search over NaN still picks some box."""
    player = Player(EfficientZeroLearner(context(config(train=QUICK), tmp_path)))
    run_until(player, 16)
    learner = player.learner
    next(learner.net.encoder.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    before = {name: x.clone() for name, x in learner.net.named_parameters()}
    with pytest.raises(TrainingError, match="grad_norm=(nan|inf)"):
        learner.update()
    assert learner.updates == 0 and all(torch.equal(x, before[name]) for name, x in learner.net.named_parameters())


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs pretrained"):
        config(model={"dynamics_input": "code"})
    with pytest.raises(ValueError, match="needs pretrained"):
        config(search={"reward": "decoded"})
    with pytest.raises(ValueError, match="needs a search.discount below 1"):
        config(train={"value_start": "mean_reward"}, search={"discount": 1.0})
    with pytest.raises(ValueError, match="no multiple"):
        config(model={"bin_width": 0.3})
    with pytest.raises(ValueError, match="is not a multiple of 2"):
        ficc(model={"input_size": SIZE})
    with pytest.raises(CatalogError, match="smaller than"):
        EfficientZeroLearner(context(config(model={"input_size": 64}), tmp_path))
    with pytest.raises(SetupError, match="pretrain"):
        EfficientZeroLearner(context(ficc(), tmp_path / "a"))
    ctx = pretrained(ficc(search={"reward": "decoded"}), tmp_path / "b")
    with pytest.raises(CatalogError, match="the protocol has none"):
        EfficientZeroLearner(dataclasses.replace(ctx, task=dataclasses.replace(ctx.task, goal=None)))
