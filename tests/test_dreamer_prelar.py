"""PreLAR online: real actions through their encoder, the bonus of embeddings, what is transferred; its ablations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.catalog import load_catalog
from pvdr_bench.nets.optimizers import DecayedAdam
from tests import test_dreamer_learner as grid
from tests.test_dreamer_faithful import silence
from tests.test_dreamer_latent_actions import settings
from tests.test_dreamer_model import sequences
from tests.test_ppo_learner import assert_equal

CPU = torch.device("cpu")


def world_model(**changes: Any) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(settings(**changes), 2, False, False).eval()


def test_real_actions_pass_the_encoder_wherever_the_rssm_is_given_one() -> None:
    model, data = world_model(), sequences()
    assert model.action_encoder is not None
    with torch.no_grad():
        for parameter in model.action_encoder.parameters():
            parameter.add_(0.3)  # an action of zero has a code that is not
    uniform = torch.rand(2, 3, 6, 3)
    one, _, two = model.action_encoder.layers
    code = two(nn.functional.elu(one(data.action)))
    embed = model.embed(data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5)
    expected, _ = model.rssm.scan(embed, code, data.is_first, uniform[0])
    _, post, _ = model.loss(data, uniform)
    states = model.initial(3, CPU)
    for t in range(6):
        states = model.step(states, data.image[:, t], data.action[:, t], data.is_first[:, t], uniform[:, :, t])
        for found in (post["deter"][:, t], states["rssm"]["deter"]):
            torch.testing.assert_close(found, expected["deter"][:, t])
    ahead = model.imagine(states["rssm"], data.action[:, 0], uniform[0, :, 0])
    own = model.rssm.imagine(states["rssm"], code[:, 0], uniform[0, :, 0])
    torch.testing.assert_close(ahead["deter"], own["deter"])
    other, _ = model.rssm.scan(embed, code.index_fill(1, torch.tensor([0]), 9.0), data.is_first, uniform[0])
    torch.testing.assert_close(post["deter"], other["deter"])  # at a first there is no action, not even a code of zero


def test_the_world_models_loss_teaches_the_encoder_of_actions() -> None:
    """By its picture, its KL and its rewards each, the others' weights being zero or their head silent."""
    for term in ("image_scale", "kl_weight", "plain_reward_weight"):
        weights = {name: float(name == term) for name in ("image_scale", "kl_weight", "plain_reward_weight")}
        model, data = world_model(loss=weights), sequences()
        silence(model.reward)
        assert model.action_encoder is not None
        loss = model.loss(data, torch.rand(2, 3, 6, 3))[0]
        assert all(float(gradient.abs().max()) > 0
                   for gradient in torch.autograd.grad(loss, list(model.action_encoder.parameters()))), term


def test_the_actor_learns_through_the_encoder_of_actions() -> None:
    model = world_model()
    behaviour = Behaviour(model.config, model.rssm.feature_dim, 2)
    start = model.rssm.initial(5, CPU)
    path = behaviour.imagine(model, start, torch.zeros(5, dtype=torch.bool), torch.rand(4, 5, 2 + 3))
    state, noise = start, torch.rand(4, 5, 2 + 3)
    actor_loss, _, _ = behaviour.losses(path)
    assert model.action_encoder is not None
    parameters = [*behaviour.actor.parameters(), *model.action_encoder.parameters()]
    assert all(g is not None and float(g.abs().max()) > 0 for g in torch.autograd.grad(actor_loss, parameters))
    path = behaviour.imagine(model, start, torch.zeros(5, dtype=torch.bool), noise)
    for t in range(4):
        action = behaviour.actor(path.feature[t]).sample(noise[t, :, :2])
        state = model.rssm.imagine(state, model.action_encoder(action), noise[t, :, 2:])
        torch.testing.assert_close(path.feature[t + 1], torch.cat([state["stoch"].flatten(1), state["deter"]], 1))


def test_the_bonus_is_of_embeddings() -> None:
    bonus = {"weight": 2.0, "window": 3, "projection": 4, "queue": 64, "neighbours": 2, "of": "embeddings"}
    model, data = world_model(bonus=bonus, loss={"plain_reward_weight": 1.0}), sequences()
    assert model.bonus is not None and model.bonus.projection.shape == (model.encoder.embed_dim, 4)
    before = {name: x.clone() for name, x in model.bonus.state_dict().items()}
    metrics = model.loss(data, torch.rand(2, 3, 6, 3))[2]
    model.bonus.load_state_dict(before)
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    extra, known, _ = model.bonus(model.embed(image).detach(), data.is_first)
    torch.testing.assert_close(metrics["bonus"], extra[known].mean())


def residual(**changes: Any) -> DreamerConfig:
    model = {**grid.config().model.model_dump(), "input_size": 12, "backbone": "resnet", "res_stages": 1,
             "action_width": 6, "latent_action": {"kind": "gaussian", "units": 32}}
    return grid.config(**{"model": model, "action_encoder": True, "loss": {"plain_reward_weight": 1.0},
                          "pretrain": {"consistency": "rank"},
                          "bonus": {"weight": 0.1, "window": 2, "projection": 4, "queue": 30, "neighbours": 3,
                                    "of": "embeddings"},
                          "train": {"batch": 3, "length": 5, "prefill": 20, "initial_updates": 2, "every": 5},
                          **changes})


def test_what_is_transferred_and_waits(tmp_path: Path) -> None:
    cfg = residual(pretrained=True)
    ctx = grid.context(cfg, tmp_path)
    ctx.artefacts["pretrain"] = weights = VideoPretrainer(cfg, 3, CPU).export()
    assert any(name.startswith("implicit.") for name in weights)  # it stays behind
    learner = DreamerLearner(ctx)
    for part in ("encoder", "decoder", "rssm"):
        own = getattr(learner.model, part).state_dict()
        assert own and all(torch.equal(x, weights[f"{part}.{name}"]) for name, x in own.items())
    first, rest = (group["params"] for group in learner.steps["model"].inner.param_groups)
    waits = {id(p) for p in first}
    assert waits == {id(p) for m in (learner.model.encoder, learner.model.rssm) for p in m.parameters()}
    assert {id(p) for p in learner.model.action_encoder.parameters()} <= {id(p) for p in rest}  # type: ignore[union-attr]
    step = learner.steps["model"]
    assert isinstance(step, DecayedAdam) and len(step.clipped) == 2


def test_resume_is_exact(tmp_path: Path) -> None:
    def player(folder: str, seed: int = 0) -> grid.Player:
        return grid.Player(DreamerLearner(grid.context(residual(), tmp_path / folder, seed=seed)))

    through, first = player("a"), player("b")
    for count, one in ((18, through), (9, first)):
        for _ in range(count):
            one.decide()
    grid.resume(first, residual(), tmp_path / "b")
    for _ in range(9):
        first.decide()
    assert_equal(through.learner.state_dict(), first.learner.state_dict())


# Methods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kind", "consistency", "encoder"), [
    ("prelar", "gaussian", "rank", True), ("prelar-released", "gaussian", "sign", True),
    ("prelar-l2", "gaussian", "l2", True), ("prelar-no-consistency", "gaussian", "none", True),
    ("prelar-no-implicit", "zero", "none", True), ("prelar-random-action", "random", "none", True),
    ("prelar-no-alignment", "gaussian", "rank", False), ("prelar-deterministic", "deterministic", "none", True)])
def test_ablations_change_what_their_names_say(method: str, kind: str, consistency: str, encoder: bool) -> None:
    catalog = load_catalog()
    for scale in ("paper", "gpu", "cpu", "quick", "smoke"):
        found, whole = (catalog.config(name, scale).value for name in (method, "prelar"))
        assert (found.model.latent_action.kind, found.pretrain.consistency) == (kind, consistency)
        assert found.action_encoder is encoder and not found.stacked and found.model.backbone == "resnet"
        assert found.bonus == whole.bonus and (found.bonus.of, found.bonus.weight) == ("embeddings", 1)
        assert found.loss == whole.loss and found.loss.plain_reward_weight == 1 and found.train == whole.train


def test_what_does_not_fit_is_refused() -> None:
    for changes, words in (({"stacked": True}, "stacked has an RSSM without actions"),
                           ({"pretrain": {"consistency": "rank"}, "kind": "random"}, "rank is of latent actions that"),
                           ({"pretrain": {"consistency": "l2"}, "kind": "zero"}, "gaussian or deterministic"),
                           ({"bonus": {"weight": 1.0, "window": 2}}, "bonus.of embeddings")):
        with pytest.raises(ValueError, match=words):
            settings(**changes)
