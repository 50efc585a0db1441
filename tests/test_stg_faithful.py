"""STG's networks, losses and optimisers against computations of their own, and the pitfalls of its released code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.measures import auc, collapse, direction_of_time
from pvdr_bench.algorithms.stg.networks import STGModel, TemporalDistance, symexp, symlog
from pvdr_bench.algorithms.stg.pretrain import STGPretrainer, distance_loss, generator_loss
from pvdr_bench.catalog import load_catalog
from pvdr_bench.catalog.scales import SCALES
from pvdr_bench.errors import CatalogError, TrainingError
from tests.stg_small import CPU, SIZE, config, pretrainer, random_clips


def tokens(model: STGModel, embeddings: Tensor, start: Tensor) -> Tensor:
    """The transformer, head by head and place by place."""
    d, heads = model.config.width, model.config.heads
    when = [model.global_positions[min(int(s), model.config.max_timestep - 1)] for s in start]
    out = []
    for clip, place in zip(embeddings, when, strict=True):
        x = torch.stack([e + model.local_positions[t] + place for t, e in enumerate(clip)])
        for block in model.blocks:
            y = block.norm1(x)
            q, k, v = block.qkv(y).split(d, -1)
            rows = []
            for t in range(len(x)):
                parts = []
                for h in range(heads):
                    own = slice(h * d // heads, (h + 1) * d // heads)
                    scores = (k[: t + 1, own] @ q[t, own]) / math.sqrt(d / heads)
                    parts.append(torch.softmax(scores, 0) @ v[: t + 1, own])
                rows.append(torch.cat(parts))
            x = x + block.project(torch.stack(rows))
            x = x + block.contract(nn.functional.gelu(block.expand(block.norm2(x))))
        out.append(model.step(model.norm(x)))
    return torch.stack(out)


def varied(model: STGModel) -> STGModel:
    """Positions that are not zero, so that they count."""
    with torch.no_grad():
        model.local_positions.normal_()
        model.global_positions.normal_()
    return model.eval()


def test_the_transformer_is_that_of_a_loop() -> None:
    model = varied(pretrainer().model)
    e, start = torch.rand(3, 5, 16), torch.tensor([0, 4, 1000])
    assert torch.allclose(model.steps(e, start), tokens(model, e, start), atol=1e-5)


def test_predictions_look_back_and_know_their_time() -> None:
    model = varied(pretrainer().model)
    e, start = torch.rand(1, 5, 16), torch.tensor([3])
    plain, later = model.steps(e, start), e.clone()
    later[:, 3] += torch.rand(16)
    changed = (model.steps(later, start) - plain).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, False, True, True]
    assert torch.allclose(model.steps(e[:, :2], start), plain[:, :2], atol=1e-6)  # padding behind does not matter
    assert not torch.allclose(model.steps(e, start + 1), plain)
    last = model.config.max_timestep - 1
    assert torch.equal(model.steps(e, torch.tensor([last])), model.steps(e, torch.tensor([last + 500])))


def test_symlog_and_back() -> None:
    x = torch.tensor([-127.0, -1.0, 0.0, 0.5, 128.0])
    assert torch.allclose(symlog(x), torch.tensor([math.copysign(math.log(1 + abs(v)), v) for v in x.tolist()]))
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-5)


# Losses -----------------------------------------------------------------------------------------------------------


def test_the_generators_loss_is_the_formula() -> None:
    learner = pretrainer()
    model, own = learner.model.eval(), learner.config
    before, after, step = torch.rand(2, 4, 16), torch.rand(2, 4, 16), torch.rand(2, 4, 16)
    order = torch.tensor([2, 0, 3, 1])
    loss, terms = generator_loss(model, own, before, step, after, order)
    error = sum(float((step[b, t, i] - (after[b, t, i] - before[b, t, i])) ** 2) for b in range(2) for t in range(4)
                for i in range(16)) / (2 * 4 * 16)
    with torch.no_grad():
        opinion = sum(float(model.critic(before[b, t], before[b, t] + step[b, t]))
                      for b in range(2) for t in range(4)) / 8
        distance = sum(float(model.distance(after[b, t], after[b, int(order[t])])
                             - math.copysign(math.log(1 + abs(int(order[t]) - t)), int(order[t]) - t)) ** 2
                       for b in range(2) for t in range(4)) / 8
    assert float(terms["prediction"]) == pytest.approx(error, rel=1e-4)
    assert float(terms["adversarial"]) == pytest.approx(-opinion, rel=1e-4)
    assert float(terms["distance"]) == pytest.approx(distance, rel=1e-4)
    assert float(loss) == pytest.approx(0.5 * error - 0.3 * opinion + 0.1 * distance, rel=1e-4)


def test_the_critic_learns_to_tell_truth_from_predictions_by_embeddings_that_stand_still() -> None:
    learner = pretrainer(critic_clip=0.0, lr=1e-2)
    before, after = torch.rand(4, 4, 16), torch.rand(4, 4, 16)
    guess = before.clone().requires_grad_()
    others = {name: p.detach().clone() for name, p in learner.model.named_parameters() if "critic" not in name}
    for _ in range(60):
        found = learner._step_critic(before, guess.detach(), after, [])
    critic = learner.model.critic.eval()
    assert float((critic(before, after) - critic(before, guess)).mean().detach()) > 0.01
    assert float(found["critic"]) < 0 and guess.grad is None
    assert others and all(torch.equal(p, others[name]) for name, p in learner.model.named_parameters()
                          if name in others)
    assert set(map(id, learner.critic_parameters)) <= set(map(id, critic.parameters()))


def test_a_share_of_the_critics_negatives_may_be_true_frames_of_other_moments() -> None:
    learner = pretrainer(critic_clip=0.0, shuffled_weight=0.25)
    before, guess, after = torch.rand(2, 3, 16), torch.rand(2, 3, 16), torch.rand(2, 3, 16)
    inside, anywhere = learner._others(after, torch.Generator().manual_seed(0))
    rows = [frame.tolist() for clip in after for frame in clip]
    assert sorted(anywhere.flatten(0, 1).tolist()) == sorted(rows)
    assert all(sorted(a.tolist()) == sorted(b.tolist()) for a, b in zip(inside, after, strict=True))
    critic = learner.model.critic.eval()
    with torch.no_grad():
        wrong = (critic(before, inside).mean() + critic(before, anywhere).mean()) / 2
        expected = 0.75 * critic(before, guess).mean() + 0.25 * wrong - critic(before, after).mean()
    found = learner._step_critic(before, guess, after, [inside, anywhere])["critic"]
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_the_target_of_the_prediction_is_not_detached_so_collapse_would_be_a_minimum() -> None:
    """Encoder and transformer learn together; the squared error alone pulls the embeddings of neighbours together."""
    learner = pretrainer()
    before, after = torch.rand(1, 2, 16, requires_grad=True), torch.rand(1, 2, 16, requires_grad=True)
    own = learner.config.model_copy(update={"adversarial_weight": 0.0, "distance_weight": 0.0})
    loss, _ = generator_loss(learner.model, own, before, torch.zeros(1, 2, 16), after, torch.arange(2))
    pulls = torch.autograd.grad(loss, [before, after])
    assert torch.allclose(pulls[1], -pulls[0]) and torch.allclose(pulls[1], 0.5 * 2 * (after - before) / 32)
    flat = torch.zeros(1, 2, 16)
    assert float(generator_loss(learner.model, own, flat, flat, flat, torch.arange(2))[0]) == 0


def test_the_critics_opinion_moves_the_embeddings_themselves_unless_it_is_told_to_move_the_step() -> None:
    for moves, pulled in (("encoder", True), ("step", False)):
        learner = pretrainer(adversarial_moves=moves, prediction_weight=0.0, distance_weight=0.0)
        before, step = torch.rand(2, 3, 16, requires_grad=True), torch.rand(2, 3, 16, requires_grad=True)
        loss, _ = generator_loss(learner.model, learner.config, before, step, torch.rand(2, 3, 16), torch.arange(3))
        pulls = torch.autograd.grad(loss, [before, step], allow_unused=True)
        assert (pulls[0] is not None and bool(pulls[0].abs().max() > 0)) is pulled and float(pulls[1].abs().max()) > 0


def test_without_its_weight_the_regressor_is_not_trained() -> None:
    """STG-."""
    learner, clips = pretrainer(distance_weight=0.0), random_clips(3)
    weights = [p.clone() for p in learner.model.distance.parameters()]
    metrics = learner.update(clips)
    assert "distance" not in metrics
    assert all(torch.equal(a, b) for a, b in zip(weights, learner.model.distance.parameters(), strict=True))


# Pitfalls of the released code ------------------------------------------------------------------------------------


def critic_moves(owner: str, norm_first: bool) -> set[str]:
    """Which parameters of the critic a step of the generator's optimiser moves."""
    learner = STGPretrainer(config({"critic_norm_first": norm_first}, generator_owns=owner), 0, CPU)
    before, step, after = torch.rand(2, 4, 16), torch.rand(2, 4, 16, requires_grad=True), torch.rand(2, 4, 16)
    old = {name: p.detach().clone() for name, p in learner.model.critic.named_parameters()}
    learner._step_generator(before, step * 1, after, torch.arange(4))
    return {name for name, p in learner.model.critic.named_parameters() if not torch.equal(old[name], p)}


@pytest.mark.parametrize(("norm_first", "first"), [(False, {"layers.0.weight"}), (True, set())])
def test_the_generators_optimiser_owns_no_part_of_the_critic_unless_released(norm_first: bool, first: set[str]) -> None:
    """It misses weights under a spectral norm, which have another name."""
    assert not critic_moves("generator", norm_first)
    assert critic_moves("released", norm_first) == {"layers.0.bias", "layers.1.bias", "layers.2.bias"} | first


def test_the_recipe_says_at_which_scales_all_of_the_critics_weights_are_normed() -> None:
    """What stg-released owns depends on it."""
    catalog = load_catalog()
    values = {scale: catalog.config("stg-released", scale).value for scale in SCALES}
    normed = {scale for scale, value in values.items() if value.model.critic_norm_first}
    assert normed == {"gpu", "cpu", "quick"}
    assert "at gpu, cpu and quick all weights" in catalog.method("stg-released").description


def test_the_released_optimiser_turns_the_critic_towards_predictions() -> None:
    """Nothing but the generator's steps: the critic's opinion of predictions rises where they own a part of it."""
    risen = {}
    for owner in ("generator", "released"):
        learner = pretrainer(generator_owns=owner, lr=1e-2)
        before, step, after = torch.rand(8, 4, 16), torch.zeros(8, 4, 16, requires_grad=True), torch.rand(8, 4, 16)
        critic = learner.model.critic.eval()
        first = float(critic(before, before).mean())
        for _ in range(20):
            learner._step_generator(before, step * 1, after, torch.arange(4))
        risen[owner] = float(critic(before, before).mean()) - first
    assert risen["generator"] == 0 and risen["released"] > 0.01


def test_weight_decay_is_on_dense_and_convolution_weights_alone() -> None:
    learner = pretrainer()
    groups = {group["weight_decay"]: {id(p) for p in group["params"]} for group in learner.optimiser.param_groups}
    names = {name: id(p) for name, p in learner.model.named_parameters() if not name.startswith("critic.")}
    decayed = {name for name, i in names.items() if i in groups[0.1]}
    assert {i for ids in groups.values() for i in ids} == set(names.values())
    assert {"encoder.convolutions.0.weight", "encoder.dense.weight", "blocks.0.qkv.weight", "step.weight",
            "distance.layers.3.weight"} <= decayed
    assert not decayed & {"local_positions", "global_positions", "norm.weight", "blocks.0.norm1.weight", "step.bias"}
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)


class ReleasedRegressor(nn.Module):
    """The attention in front of the regressor: one place, a gate that is zero and in no optimiser."""

    def __init__(self, net: TemporalDistance, width: int) -> None:
        super().__init__()
        self.net, self.value, self.gamma = net, nn.Conv1d(width, width, 1), nn.Parameter(torch.zeros(1))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        difference = (after - before)[..., None]
        attended = self.gamma * self.value(difference) + difference  # softmax over one place is one
        return self.net(torch.zeros_like(after), attended[..., 0])


def test_the_regressors_attention_would_do_nothing() -> None:
    net, before, after = TemporalDistance(16), torch.rand(6, 16), torch.rand(6, 16)
    assert torch.allclose(net(before, after), ReleasedRegressor(net, 16)(before, after), atol=1e-6)
    assert torch.allclose(net(before, after), net(before + 3, after + 3), atol=1e-5)  # it reads the difference


def test_a_cut_of_weights_under_a_spectral_norm_fixes_their_direction_alone() -> None:
    """The bound acts on the first layer; right after the cut the critic's values differ by thousandths."""
    learner = pretrainer()
    before, guess, after = torch.rand(8, 4, 16), torch.rand(8, 4, 16), torch.rand(8, 4, 16)
    learner._step_critic(before, guess, after, [])
    critic = learner.model.critic
    assert all(float(p.abs().max()) <= 0.01 for p in critic.parameters())
    values = settled(critic, before, after)
    assert 0 < float(values.std()) < 0.02
    for layer in critic.layers[1:]:
        assert float(torch.linalg.matrix_norm(layer.weight, 2)) == pytest.approx(1, abs=1e-3)
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(7)
    assert torch.allclose(settled(critic, before, after), values, atol=1e-5)
    with torch.no_grad():
        critic.layers[0].weight.mul_(7)
    assert not torch.allclose(settled(critic, before, after), values, atol=1e-3)


def settled(critic: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    """Values once the power iterations of the spectral norms have found their directions."""
    critic.train()
    with torch.no_grad():
        for _ in range(100):
            critic(before, after)
        return critic.eval()(before, after)


def test_the_context_is_a_key_and_longer_clips_than_the_corpus_has_are_refused() -> None:
    assert config().schedule("pretrain").frames == 6 + 1
    assert STGConfig().schedule("pretrain").frames == 129
    clips = random_clips(2)
    assert clips.shape[1] == 7
    pretrainer().update(clips, torch.tensor([0, 20]))
    with pytest.raises(RuntimeError):
        pretrainer().update(torch.cat([clips, clips], 1))


def test_what_cannot_be_built_is_refused() -> None:
    for wrong, word in (({"width": 18, "heads": 4}, "multiple of heads"), ({"cnn_strides": (2,)}, "one entry"),
                        ({"input_size": 8}, "leave nothing")):
        with pytest.raises(ValidationError, match=word):
            config(model=wrong)
    with pytest.raises(CatalogError, match="smaller than model.input_size"):
        config().check_image(SIZE - 1)
    config().check_image(SIZE)


# Measures ---------------------------------------------------------------------------------------------------------


def test_the_area_is_that_of_a_loop() -> None:
    positive, negative = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([0.0, 2.0, 7.0])
    wins = [(p > q) + 0.5 * (p == q) for p in positive.tolist() for q in negative.tolist()]
    assert auc(positive, negative) == pytest.approx(sum(wins) / 12)
    many = torch.arange(100_000.0)  # no exact p-value is worked out: it would take minutes here
    assert auc(many, torch.tensor([-1.0, 1e6])) == 0.5


def test_collapse_is_seen() -> None:
    torch.manual_seed(0)
    free, line = torch.randn(50, 6, 8), torch.randn(50, 6, 1) * torch.ones(8)
    assert collapse(free)["embedding_rank"] > 7 and collapse(free)["embedding_motion"] == pytest.approx(2, abs=0.2)
    assert collapse(line)["embedding_rank"] == pytest.approx(1, abs=0.01)
    gone = collapse(torch.ones(50, 6, 8))
    assert gone["embedding_dead"] == 1 and gone["embedding_std"] == 0


def test_time_has_no_direction_under_a_constant() -> None:
    model = pretrainer().model.eval()
    frames = torch.arange(5.0)[None, :, None] * torch.ones(2, 5, 16)
    with torch.no_grad():
        for layer in model.distance.layers:
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    assert direction_of_time(model, frames)["time_forward"] == 0

    class Clock(nn.Module):
        def forward(self, before: Tensor, after: Tensor) -> Tensor:
            return symlog((after - before).mean(-1))

    model.distance = Clock()  # type: ignore[assignment]
    found: dict[str, Any] = direction_of_time(model, frames)
    assert found["time_forward"] == 1 and found["time_correlation"] == pytest.approx(1) and found["time_error"] < 1e-9


def test_the_distance_loss_of_the_true_order_is_zero_for_a_clock() -> None:
    class Clock(nn.Module):
        def forward(self, before: Tensor, after: Tensor) -> Tensor:
            return symlog((after - before).mean(-1))

    frames = torch.arange(5.0)[None, :, None] * torch.ones(2, 5, 16)
    assert float(distance_loss(Clock(), frames, torch.tensor([4, 0, 2, 1, 3]))) < 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["encoder.dense.bias", "critic.layers.0.bias"])
def test_a_gradient_that_is_not_finite_stops_before_it_enters_the_weights(part: str) -> None:
    """The loss is finite, and the step's metrics are: a run stopped then would have a checkpoint of NaN."""
    learner = pretrainer()
    learner.model.get_parameter(part).register_hook(lambda gradient: gradient * torch.inf)
    before = learner.model.get_parameter(part).detach().clone()
    with pytest.raises(TrainingError, match="grad_norm=(nan|inf)"):
        learner.update(random_clips(2))
    assert learner.step == 0 and torch.equal(learner.model.get_parameter(part), before)
