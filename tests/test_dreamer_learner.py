"""Dreamer as a learner: it solves a grid of pixels, keeps to its schedule, and continues exactly in the real loop."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.config import (
    BehaviourConfig,
    BonusConfig,
    DreamerConfig,
    LossConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
)
from pvdr_bench.algorithms.dreamer.config_v3 import V3BehaviourConfig, V3LossConfig, V3ModelConfig, V3TrainConfig
from pvdr_bench.algorithms.dreamer.learner import LOG_EVERY, DreamerLearner
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.dreamer.video_config import ContextConfig, LatentActionConfig
from pvdr_bench.errors import CatalogError, SetupError, TrainingError
from pvdr_bench.rl.config import Section
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import RewardFacts, TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from tests.dummies import IMAGE, REPEAT, SYNC
from tests.learning import above, below, learns
from tests.phases import LOOP, checked_parts
from tests.test_ppo_learner import assert_equal
from tests.test_ppo_loop import do_run, written

SIZE = 14  # pixels
CELL = {3: 4, 5: 2}  # pixels of a cell, by the cells of a side; a margin is left around them
LIMIT = {3: 6, 5: 16}  # steps of an episode: random actions succeed in one of six, and in one of thirteen


class Grid:
    """A square walks on 3 x 3 or 5 x 5 cells by the signs of its two actions; it earns 1 at the far corner and starts
    again."""

    def __init__(self, n: int, cells: int = 3) -> None:
        self.n, self.position, self.age = n, np.zeros((n, 2), int), np.zeros(n, int)
        self.cells, self.cell, self.limit = cells, CELL[cells], LIMIT[cells]
        self.margin = (SIZE - cells * self.cell) // 2

    def images(self) -> Tensor:
        out = torch.zeros(self.n, SIZE, SIZE, 3, dtype=torch.uint8)
        for i, (row, column) in enumerate(self.position):
            y, x = self.margin + self.cell * row, self.margin + self.cell * column
            out[i, y:y + self.cell, x:x + self.cell] = 255
        return out

    def step(self, action: np.ndarray) -> tuple[Tensor, ...]:
        """(reward, success, truncated, final images)."""
        move = np.where(action > 0.33, 1, np.where(action < -0.33, -1, 0))
        self.position = np.clip(self.position + move, 0, self.cells - 1)
        self.age += 1
        success = (self.position == self.cells - 1).all(1)
        truncated = (self.age >= self.limit) & ~success
        final = self.images()
        self.position[success | truncated], self.age[success | truncated] = 0, 0
        return tuple(map(torch.from_numpy, (success.astype(np.float32), success, truncated))) + (final,)


def config(**changes: Any) -> DreamerConfig:
    small = {
        "model": {"input_size": SIZE, "deter": 32, "hidden": 32, "stoch": 4, "classes": 6, "cnn_depth": 8,
                  "encoder_kernels": (4, 4), "decoder_kernels": (5, 6), "head_layers": 2, "head_units": 48,
                  "action_width": 2},
        "train": {"batch": 12, "length": 12, "prefill": 720, "initial_updates": 80, "every": 4, "model_lr": 2e-3},
        "behaviour": {"actor_lr": 5e-4, "critic_lr": 1e-3, "horizon": 8, "slow_every": 20, "gamma": 0.8,
                      "entropy_coef": 5e-4}}
    return DreamerConfig.model_validate({**small, **changes})


def context(cfg: DreamerConfig, folder: Path, n: int = 4, seed: int = 0) -> LearnerContext:
    replay = EpisodeReplay(folder, n, cfg.model.input_size, 2)
    task = TaskFacts(ImageSpace(SIZE, SIZE), BoxSpace(2), n, budget_decisions=1000,
                     reward=RewardFacts(ends_on_success=True))
    return LearnerContext(cfg, task, seed, torch.device("cpu"), replay=replay)


class Player:
    """A minimal loop with the replay filled as the real one does."""

    def __init__(self, learner: DreamerLearner, n: int = 4, seed: int = 0, cells: int = 3) -> None:
        self.learner, self.env = learner, Grid(n, cells)
        self.carry, self.first = learner.initial(n), torch.ones(n, dtype=torch.bool)
        self.generator = torch.Generator().manual_seed(seed)
        self.successes: list[bool] = []
        self.metrics: list[dict[str, float]] = []

    def decide(self) -> None:
        image = self.env.images()
        action, self.carry, extras = self.learner.act(image, self.first, self.carry, "train", self.generator)
        reward, success, truncated, final = self.env.step(action.numpy())
        transition = Transition(image, self.first, action, reward, success, truncated, final, extras)
        self.learner.replay.add(transition)
        self.learner.observe(transition)
        if metrics := self.learner.learn():
            self.metrics.append(metrics)
        self.first = success | truncated
        self.successes += success[self.first].tolist()


def play_grid(cfg: DreamerConfig, seed: int, decisions: int,
              cells: int = 3) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of successes, ``early`` of the prefill and ``late`` of the last forty episodes, and the last metrics."""
    with tempfile.TemporaryDirectory() as folder:
        player = Player(DreamerLearner(context(cfg, Path(folder), seed=seed)), seed=seed, cells=cells)
        while player.learner.decisions < cfg.train.prefill:
            player.decide()
        early = np.mean(player.successes)
        for _ in range(decisions):
            player.decide()
    return {"early": float(early), "late": float(np.mean(player.successes[-40:]))}, player.metrics[-1]


def resume(player: Player, cfg: DreamerConfig, folder: Path) -> None:
    """Go on with a new learner of another seed: everything has to come from the state."""
    ctx = context(cfg, folder, seed=9)
    ctx.replay.load_state_dict(player.learner.replay.state_dict())  # type: ignore[union-attr]
    restored = DreamerLearner(ctx)
    restored.load_state_dict(player.learner.state_dict())
    player.learner = restored


@learns(early=below(0.3), late=above(0.7), reward_error=below(0.2), kl=above(0.1))
def test_it_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    """Random actions succeed in one episode of six. The actor must be slower than the model: one that follows a model
    which cannot see the square yet saturates, and stays with one right action and one that is drawn evenly."""
    shares, last = play_grid(config(), seed, 140)
    return {**shares, "reward_error": last["reward_error"], "kl": last["kl"]}


def test_prefill_initial_updates_and_pace(tmp_path: Path) -> None:
    learner = DreamerLearner(context(config(train={"batch": 2, "length": 4, "prefill": 20, "initial_updates": 3,
                                                   "every": 5}), tmp_path))
    player, counts = Player(learner), []
    for _ in range(10):
        player.decide()
        counts.append(learner.updates)
    assert counts == [0, 0, 0, 0, 3, 3, 4, 5, 6, 7]  # 4 decisions each; every 5 from decision 20 on
    assert learner.updates_due(learner.decisions) == 3 + (40 - 20) // 5


def test_a_row_of_metrics_is_the_mean_over_all_updates_since_the_last_row(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = DreamerLearner(context(config(train={"batch": 2, "length": 4, "prefill": 20, "initial_updates": 25,
                                                   "every": 4}), tmp_path))
    numbers = iter(range(1000))

    def update() -> dict[str, torch.Tensor]:
        learner.updates += 1
        return {"number": torch.tensor(float(next(numbers)))}

    monkeypatch.setattr(learner, "update", update)
    player = Player(learner)
    for _ in range(5 + LOG_EVERY):
        player.decide()
    assert [row["number"] for row in player.metrics] == [12.0, 25 + (LOG_EVERY - 1) / 2]  # 0-24, then 25-44


@pytest.mark.parametrize("where", ["model", "imagination"])
def test_a_loss_that_is_not_finite_stops_before_it_enters_the_weights(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    learner = DreamerLearner(context(config(train={"batch": 2, "length": 4, "prefill": 20}), tmp_path))
    player = Player(learner)
    while learner.decisions < 16:
        player.decide()
    if where == "model":
        learner.replay.sample = lambda *a: {  # type: ignore[method-assign]
            **EpisodeReplay.sample(learner.replay, *a), "reward": torch.full((2, 4), torch.nan)}
    else:
        monkeypatch.setattr(learner.behaviour.critic, "forward", lambda x: torch.full((*x.shape[:-1], 1), torch.nan))
    before = {name: x.clone() for name, x in learner.behaviour.state_dict().items()}
    with pytest.raises(TrainingError, match=where):
        learner.update()
    assert all(torch.equal(x, before[name]) for name, x in learner.behaviour.state_dict().items())
    assert all(p.isfinite().all() for p in learner.model.parameters())


@pytest.mark.parametrize("stacked", [True, False])
def test_the_stack_clips_what_was_pretrained_apart_from_the_rest(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stacked: bool) -> None:
    adam = DreamerLearner(context(config(stacked=stacked), tmp_path)).steps["model"]
    large, small = (group["params"][0] for group in adam.inner.param_groups)
    seen: list[float] = []
    monkeypatch.setattr(adam.inner, "step", lambda: seen.extend([float(large.grad.norm()), float(small.grad.norm())]))
    norm = adam.update((1e4 * torch.ones_like(large) * large).sum() + (0.1 * torch.ones_like(small) * small).sum())
    alone = 0.1 * small.numel() ** 0.5
    assert norm == pytest.approx((1e8 * large.numel() + alone**2) ** 0.5, rel=1e-4)
    assert alone < 100, "its own clip would leave it alone"
    assert seen == pytest.approx([100, alone if stacked else alone * 100 / norm], rel=1e-3)


def test_the_slow_critic_is_copied_every_so_many_updates(tmp_path: Path) -> None:
    cfg = config(behaviour={"slow_every": 3}, train={"batch": 2, "length": 4, "prefill": 20})
    learner = DreamerLearner(context(cfg, tmp_path))
    player = Player(learner)
    while learner.decisions < 16:
        player.decide()
    equal = []
    for _ in range(7):
        learner.update()
        behaviour = learner.behaviour
        equal.append(all(map(torch.equal, behaviour.critic.parameters(), behaviour.slow_critic.parameters())))
    assert equal == [False, False, True, False, False, True, False]


def test_pretrained_modules_stand_still_at_first(tmp_path: Path) -> None:
    cfg = config(pretrained=True, stacked=True, train={"batch": 2, "length": 4, "prefill": 20, "frozen_updates": 2,
                                                       "weight_decay": 0.0})
    weights = VideoPretrainer(cfg, 3, torch.device("cpu")).export()
    ctx = context(cfg, tmp_path)
    with pytest.raises(SetupError, match="pretrain"):
        DreamerLearner(ctx)
    ctx.artefacts["pretrain"] = weights
    learner = DreamerLearner(ctx)
    player = Player(learner)
    while learner.decisions < 16:
        player.decide()
    for expected in (True, True, False):
        learner.update()
        assert torch.equal(learner.model.encoder.state_dict()["layers.0.weight"],
                           weights["encoder.layers.0.weight"]) is expected
    assert not torch.equal(learner.model.decoder.dense.weight, weights["decoder.dense.weight"])


def test_resume_is_exact_in_the_middle_of_everything(tmp_path: Path) -> None:
    cfg = config(stacked=True, train={"batch": 2, "length": 5, "prefill": 20, "initial_updates": 3, "every": 5},
                 bonus={"weight": 1.0, "window": 2, "projection": 4, "queue": 30, "neighbours": 3})
    through = Player(DreamerLearner(context(cfg, tmp_path / "a")))
    first = Player(DreamerLearner(context(cfg, tmp_path / "b")))
    for _ in range(30):
        through.decide()
    for _ in range(14):
        first.decide()
    resume(first, cfg, tmp_path / "b")
    for _ in range(16):
        first.decide()
    state = through.learner.state_dict()
    assert_equal(state, first.learner.state_dict())
    assert 0 < state["summed"] < LOG_EVERY and int(state["model"]["bonus.filled"]) == 30


def test_evaluation_draws_only_from_its_generator(tmp_path: Path) -> None:
    learner = DreamerLearner(context(config(), tmp_path))
    image, first = Grid(6).images(), torch.ones(6, dtype=torch.bool)
    before = learner.generator.get_state()
    a, b = (learner.act(image, first, learner.initial(6), "eval", torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and a[0].shape == (6, 2) and a[2] == {}
    assert torch.equal(before, learner.generator.get_state())
    assert not torch.equal(a[0][0], a[0][1])  # sampled, not the mean
    random, _, _ = learner.act(image, first, learner.initial(6), "train", torch.Generator().manual_seed(1))
    assert not torch.equal(random, a[0])  # uniform until the replay is filled
    mean = DreamerLearner(context(config(behaviour={"mean_policy_in_eval": True}), tmp_path / "mean"))
    out = mean.act(image, first, mean.initial(6), "eval", torch.Generator().manual_seed(1))[0]
    assert out.abs().max() < 1


def test_without_a_replay_it_acts_and_does_not_learn(tmp_path: Path) -> None:
    alone = DreamerLearner(dataclasses.replace(context(config(), tmp_path), replay=None))
    images, first = Grid(3).images(), torch.ones(3, dtype=torch.bool)
    assert alone.act(images, first, alone.initial(3), "eval", torch.Generator())[0].shape == (3, 2)
    with pytest.raises(SetupError, match="was given none"):
        alone.update()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_heads_follow_the_protocol(tmp_path: Path, sparse: bool, ends: bool) -> None:
    made = context(config(), tmp_path)
    ctx = dataclasses.replace(made, task=dataclasses.replace(
        made.task, reward=RewardFacts(success_bonus=60.0 if sparse else 0.0, ends_on_success=ends)))
    model = DreamerLearner(ctx).model
    assert model.two_hot is sparse and (model.discount is not None) is ends
    fixed = config(loss={"reward_head": "mse", "predict_discount": "no"})
    model = DreamerLearner(dataclasses.replace(ctx, config=fixed)).model
    assert not model.two_hot and model.discount is None


@pytest.mark.parametrize("changes", [{}, {"stacked": True, "bonus": {"weight": 1.0, "window": 2, "projection": 4,
                                                                     "queue": 32, "neighbours": 3}}])
def test_in_the_loop_it_extends_to_the_same_bytes(tmp_path: Path, changes: dict[str, Any]) -> None:
    cfg = config(model={"input_size": IMAGE, "deter": 8, "hidden": 8, "stoch": 2, "classes": 3, "cnn_depth": 4,
                        "encoder_kernels": (4, 4), "decoder_kernels": (6, 6), "head_layers": 1, "head_units": 8,
                        "action_width": 4},
                 train={"batch": 2, "length": 4, "prefill": 12, "initial_updates": 2, "every": 1}, **changes)

    own = ("dreamer", cfg.model_dump(mode="json"))
    _, whole = do_run(tmp_path / "whole", *own, 2 * SYNC)
    do_run(tmp_path / "parts", *own, SYNC)
    _, parts = do_run(tmp_path / "parts", *own, 2 * SYNC)
    assert written(parts) == written(whole)
    assert any("model_grad" in row for row in whole.read_train())
    for run in (whole, parts):
        train, evaluation, cost = checked_parts(run, REPEAT)
        assert train == LOOP | {"observe", "learn", "learn.update"} and evaluation == LOOP
        assert cost.acting and cost.learning and cost.update and cost.flop


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="draw 14 pixels, not 64"):
        ModelConfig(decoder_kernels=(5, 6))
    with pytest.raises(ValueError, match="leave nothing"):
        ModelConfig(input_size=16, decoder_kernels=(6, 6))
    with pytest.raises(ValueError, match="needs stacked"):
        DreamerConfig(bonus=BonusConfig(weight=1.0))
    narrow = config(model={**config().model.model_dump(), "action_width": 1})
    with pytest.raises(CatalogError, match="2 action dimensions"):
        DreamerLearner(context(narrow, tmp_path))
    with pytest.raises(CatalogError, match=r"train.prefill 300 in 4 environments.*train.length 80"):
        DreamerLearner(context(config(train={**config().train.model_dump(), "prefill": 300, "length": 80}), tmp_path))


@pytest.mark.parametrize("schema", [ModelConfig, ContextConfig, LatentActionConfig, PretrainConfig, LossConfig,
                                    TrainConfig, BehaviourConfig, BonusConfig, V3ModelConfig, V3LossConfig,
                                    V3TrainConfig, V3BehaviourConfig])
def test_every_key_has_description_and_source(schema: Any) -> None:
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            continue  # its keys have
        assert field.description and field.json_schema_extra["source"], name
