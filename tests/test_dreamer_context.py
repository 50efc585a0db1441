"""ContextWM: the context frame, who sees it, both reward heads, and batch normalisation's two modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.dreamer.video_model import Pictures, learning
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.nets.context import ContextNoise, choose, erase
from pvdr_bench.rl.process_group import ALONE
from tests import test_dreamer_learner as grid
from tests.test_dreamer_faithful import feature, kl_by_hand, moved, silence
from tests.test_dreamer_model import SMALL, config, sequences
from tests.test_ppo_learner import assert_equal

CPU = torch.device("cpu")
WINDOW = 3
MODEL = {**SMALL["model"], "backbone": "resnet", "res_stages": 2, "res_blocks": 1,
         "context": {"frame": "random", "heads": 2, "dropout": 0.0, "mask": 0.5}}
BONUS = {"weight": 2.0, "window": WINDOW, "projection": 4, "queue": 64, "neighbours": 2}
LOSS = {"plain_reward_weight": 3.0, "context_augment": "erasing"}


def settings(**changes: Any) -> DreamerConfig:
    return config(**{"model": MODEL, "stacked": True, "bonus": BONUS, "loss": LOSS, **changes})


def world_model(seed: int = 0, **changes: Any) -> WorldModel:
    torch.manual_seed(seed)
    return WorldModel(settings(**changes), 2, False, False).eval()


def noise_of(model: WorldModel, seed: int = 0) -> ContextNoise:
    noise = model.context_noise(3, 6, torch.Generator().manual_seed(seed))
    assert noise is not None
    return noise


# The frame ----------------------------------------------------------------------------------------------------------


def test_which_frame_is_the_context() -> None:
    images = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(6, 4, 3, 2, 2)
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.51, 0.76, 1 - 2**-24])
    assert choose(images, "random", uniform)[:, 0, 0, 0].tolist() == [0, 0, 1, 2, 3, 3]
    assert choose(images, "first", uniform).unique().tolist() == [0]
    assert choose(images, "last", uniform).unique().tolist() == [3]


def test_erasing_by_hand() -> None:
    size, uniform = 20, torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    images, shares = torch.ones(200, 3, size, size), []
    for image, row in zip(erase(images, uniform), uniform.tolist(), strict=True):
        expected = torch.ones(3, size, size)
        if row[0] < 0.5:
            area = (0.02 + 0.31 * row[1]) * size**2
            ratio = 0.3 + 0.7 * (row[2] / 0.5) if row[2] < 0.5 else 1 + 2.3 * (row[2] - 0.5) / 0.5
            height = min(max(round((area * ratio) ** 0.5), 1), size)
            width = min(max(round((area / ratio) ** 0.5), 1), size)
            top, left = int(row[3] * (size - height + 1)), int(row[4] * (size - width + 1))
            expected[:, top:top + height, left:left + width] = 0
        assert torch.equal(image, expected)
        shares.append(float((image == 0).float().mean()))
    touched = [share for share in shares if share]
    assert 0.4 < len(touched) / 200 < 0.6 and min(touched) > 0.01 and max(touched) < 0.36


# The loss -----------------------------------------------------------------------------------------------------------


def pixels_by_hand(model: Pictures, image: Tensor, features: Tensor, frames: Tensor, noise: ContextNoise) -> Tensor:
    """The loss of pictures drawn one by one from features [3, 6, F], beside a frame of each sequence [3, ...]."""
    assert model.context is not None
    maps, drawn = dict(model.context.maps(frames)), []
    for b in range(3):
        for t in range(6):
            own = {side: type(one)(one.order[6 * b + t][None]) for side, one in noise.attention.items()}
            shown = {side: x[b][None] for side, x in maps.items()}
            drawn.append(model.decoder(features[b, t][None], shown, own)[0])  # type: ignore[call-arg]
    return torch.stack([0.5 * ((a - b) ** 2).sum() for a, b in zip(drawn, image.flatten(0, 1), strict=True)]).mean()


def test_loss_by_hand_with_context_bonus_and_both_reward_heads() -> None:
    model, data = world_model(), sequences()
    assert model.context is not None and model.af_rssm is not None
    assert model.bonus is not None and model.plain_reward is not None
    uniform, noise = torch.rand(2, 3, 6, 3), noise_of(model)
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = model.encoder(image.flatten(0, 1)).unflatten(0, (3, 6))
    af, _ = model.af_rssm.scan(embed, torch.zeros(3, 6, 2), data.is_first, uniform[1])
    before = {name: x.clone() for name, x in model.bonus.state_dict().items()}
    extra = model.bonus(feature(af).detach(), data.is_first)[0]
    model.bonus.load_state_dict(before)
    post, prior = model.rssm.scan(feature(af), data.action, data.is_first, uniform[0])
    frames = erase(torch.stack([image[b, int(noise.frame[b] * 6)] for b in range(3)]), noise.erasing)
    pixels = pixels_by_hand(model, image, feature(post), frames, noise)
    paid = data.reward[:, :4] + 2 * extra
    behaviour = (0.5 * (model.reward(feature(post))[:, :4, 0] - paid) ** 2).mean()
    plain = (0.5 * (model.plain_reward(feature(post))[..., 0] - data.reward) ** 2).mean()
    kl = kl_by_hand(post["logits"], prior, 0.8, 0.0)
    loss, _, metrics = model.loss(data, uniform, noise)
    torch.testing.assert_close(loss, pixels + behaviour + 3 * plain + kl, rtol=1e-5, atol=1e-4)
    assert float(metrics["reward_error"]) != float(metrics["plain_reward_error"])


def reached(model: nn.Module, loss: Tensor) -> set[str]:
    """Children, two deep, that a loss has gradients in."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {".".join(name.split(".")[:2]) for name, x in zip(names, gradients, strict=True)
            if x is not None and float(x.abs().max()) > 0}


def heads_of(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


TERMS = {"image": "image_scale", "kl": "kl_weight", "af_kl": "af_kl_weight", "plain": "plain_reward_weight"}


def reached_by(term: str) -> set[str]:
    """What one term of the loss reaches: the others' weights are zero, and the behaviour's reward head is silent."""
    model = world_model(loss={**LOSS, **dict.fromkeys(TERMS.values(), 0.0), TERMS.get(term, "image_scale"):
                              float(term in TERMS)})
    if term != "reward":
        silence(model.reward)
    loss = model.loss(sequences(), torch.rand(2, 3, 6, 3), noise_of(model))[0]
    return {name for name in reached(model, loss) if term == "reward" or not name.startswith("reward.")}


def test_each_loss_reaches_its_modules_and_the_context_only_the_decoder() -> None:
    model, data = world_model(), sequences()
    found = {term: reached_by(term) for term in (*TERMS, "reward")}
    states = {"encoder", "af_rssm", "rssm"}
    assert heads_of(found["image"]) == states | {"decoder", "context"}
    assert heads_of(found["kl"]) == states
    assert heads_of(found["reward"]) == states | {"reward"}
    assert heads_of(found["plain"]) == states | {"plain_reward"}
    assert heads_of(found["af_kl"]) == {"encoder", "af_rssm"}
    assert "af_rssm.img_out" in found["af_kl"] and "af_rssm.img_out" not in found["image"] | found["kl"]
    names = {name for name, p in model.named_parameters() if name.endswith("_positions")}
    assert len(names) == 4, "queries and keys at two sides"
    whole, _, _ = model.loss(data, torch.rand(2, 3, 6, 3), noise_of(model))
    for name in names:
        gradient = torch.autograd.grad(whole, model.get_parameter(name), retain_graph=True)[0]
        assert float(gradient.abs().max()) > 0, name
    assert "af_rssm.img_out" not in reached(model, whole), "the action-free KL is off online"


def test_the_context_frame_never_reaches_a_state_or_a_reward() -> None:
    model, data = world_model(), sequences()
    uniform = torch.rand(2, 3, 6, 3)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    out = []
    for seed in (0, 1):
        model.load_state_dict(before)  # the bonus' queue
        out.append(model.loss(data, uniform, noise_of(model, seed)))
    (_, post, first), (_, other, second) = out
    assert all(torch.equal(post[name], other[name]) for name in post)
    assert first["image_loss"] != second["image_loss"]
    assert {name for name in first if first[name] != second[name]} == {"image_loss", "loss"}


def test_the_pretraining_loss_by_hand_and_what_it_reaches() -> None:
    learner = VideoPretrainer(settings(pretrain={"kl_weight": 30.0, "kl_balance": 0.3}), 0, CPU)
    model, clips = learner.model, sequences().image
    noise = learner._noise(3, 6, torch.Generator().manual_seed(0))
    assert noise.context is not None and noise.action is None and noise.shuffle is None
    image = clips.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = model.encoder(image.flatten(0, 1)).unflatten(0, (3, 6))
    post, prior = model.rssm.scan(embed, torch.zeros(3, 6, 0), sequences().is_first, noise.uniform)
    frames = torch.stack([image[b, int(noise.context.frame[b] * 6)] for b in range(3)])  # nothing is erased
    pixels = pixels_by_hand(model, image, feature(post), frames, noise.context)
    expected = pixels + 30 * kl_by_hand(post["logits"], prior, 0.3, 0.0)
    terms, _ = learner.terms(clips, noise, ALONE)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["image_loss"], pixels, rtol=1e-5, atol=0)
    assert heads_of(reached(model, terms["image_loss"])) == {"encoder", "rssm", "decoder", "context"}
    assert heads_of(reached(model, terms["loss"] - terms["image_loss"])) == {"encoder", "rssm"}


# Batch normalisation ------------------------------------------------------------------------------------------------


def residual(**changes: Any) -> DreamerConfig:
    """Of the grid's pictures of 14 pixels, which are averaged down to 12."""
    model = {**grid.config().model.model_dump(), "input_size": 12, "backbone": "resnet", "res_stages": 1,
             "context": {"frame": "random", "heads": 2}}
    return grid.config(**{"model": model, "stacked": True, "loss": LOSS,
                          "bonus": {"weight": 0.1, "window": 2, "projection": 4, "queue": 30, "neighbours": 3},
                          "train": {"batch": 3, "length": 5, "prefill": 20, "initial_updates": 2, "every": 5},
                          **changes})


def norms(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.named_buffers() if "running" in name or "tracked" in name}


def played(tmp_path: Path, cfg: DreamerConfig, decisions: int = 6) -> grid.Player:
    player = grid.Player(DreamerLearner(grid.context(cfg, tmp_path)))
    for _ in range(decisions):
        player.decide()
    return player


def test_acting_uses_running_statistics_and_only_updates_move_them(tmp_path: Path) -> None:
    learner = played(tmp_path, residual()).learner
    assert learner.updates and not any(module.training for module in learner.model.modules())
    before = norms(learner.model)
    assert any("encoder" in name for name in before) and any("context" in name for name in before)
    images = grid.Grid(3).images()
    images[1] += 100
    first = torch.ones(3, dtype=torch.bool)
    for mode in ("train", "eval"):
        carry = learner.act(images, first, learner.initial(3), mode, torch.Generator().manual_seed(0))[1]
        alone = learner.act(images[:1], first[:1], learner.initial(1), mode, torch.Generator().manual_seed(0))[1]
        logits = [one["states"]["af"]["logits"][0] for one in (carry, alone)]
        torch.testing.assert_close(*logits)  # a neighbour's picture has no say
    assert all(torch.equal(x, before[name]) for name, x in norms(learner.model).items())
    learner.update()
    after = norms(learner.model)
    assert all(not torch.equal(x, before[name]) for name, x in after.items()), "imagination has nothing to normalise"
    assert all(int(x) == int(before[name]) + 1 for name, x in after.items() if "tracked" in name), "once per update"


def test_the_loss_normalises_by_its_batch_and_tells_it_from_acting() -> None:
    model, data = world_model(), sequences()
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    with learning(model):
        embed = model.embed(image)
        assert model.training
    assert not model.training and not torch.allclose(embed, model.embed(image))
    with pytest.raises(RuntimeError), learning(model):
        raise RuntimeError
    assert not model.training


def test_dropout_is_of_losses_alone() -> None:
    model = world_model(model={**MODEL, "context": {**MODEL["context"], "dropout": 0.5}})  # type: ignore[dict-item]
    data, noise = sequences(), noise_of(model)
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    features = torch.randn(3, 6, model.rssm.feature_dim)
    undropped = {side: type(one)(one.order) for side, one in noise.attention.items()}
    other = ContextNoise(noise.frame, noise.erasing, undropped)
    assert torch.equal(model.draw(features, image, noise), model.draw(features, image, other))
    for module in model.decoder.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    assert not torch.equal(model.draw(features, image, noise), model.draw(features, image, other))


# The learner --------------------------------------------------------------------------------------------------------


def test_the_optimiser_has_every_parameter_and_the_context_encoder_waits(tmp_path: Path) -> None:
    cfg = residual(pretrained=True, train={"batch": 3, "length": 4, "prefill": 20, "weight_decay": 0.01,
                                           "frozen_updates": 1})
    ctx = grid.context(cfg, tmp_path)
    ctx.artefacts["pretrain"] = weights = VideoPretrainer(cfg, 3, CPU).export()
    learner = DreamerLearner(ctx)
    for part in ("encoder", "decoder", "context"):
        own = getattr(learner.model, part).state_dict()
        assert own and all(torch.equal(x, weights[f"{part}.{name}"]) for name, x in own.items())
    owned = [id(p) for p in learner.steps["model"].parameters]
    assert sorted(owned) == sorted(id(p) for p in learner.model.parameters())
    player = grid.Player(learner)
    while learner.decisions < 16:
        player.decide()
    for waits in (True, False):
        before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
        learner.update()
        changed = dict(moved(before, learner.model))
        assert any(changed[name] for name in changed if name.startswith(("context.", "encoder."))) is not waits
        assert all(changed[name] for name in changed if name.endswith("_positions"))


def test_resume_is_exact_with_context_dropout_and_running_statistics(tmp_path: Path) -> None:
    through, first = played(tmp_path / "a", residual(), 18), played(tmp_path / "b", residual(), 9)
    grid.resume(first, residual(), tmp_path / "b")
    for _ in range(9):
        first.decide()
    assert through.learner.updates > 5
    assert_equal(through.learner.state_dict(), first.learner.state_dict())


def test_validation_changes_nothing_and_repeats() -> None:
    learner = VideoPretrainer(settings(), 0, CPU)
    clips = sequences().image
    learner.update(clips)
    before = {name: x.clone() for name, x in learner.model.state_dict().items()}
    found = learner.validate(clips)
    assert found == learner.validate(clips) and {"psnr_imagined", "psnr", "kl", "image_loss"} <= set(found)
    assert "action_kl" not in found and "psnr_imagined_still" not in found
    assert all(torch.equal(x, before[name]) for name, x in learner.model.state_dict().items())


def test_what_does_not_fit_is_refused() -> None:
    for changes, words in (({"backbone": "cnn"}, "needs the backbone resnet"),
                           ({"input_size": 20}, "cannot be halved 3"),
                           ({"cnn_depth": 5}, "heads 2 do not divide cnn_depth 5")):
        with pytest.raises(ValueError, match=words):
            settings(model={**MODEL, **changes})
