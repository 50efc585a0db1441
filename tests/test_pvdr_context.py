"""PVDR with context representation: the context's path by hand, who sees it, and that it tells what x and z do not."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PlannerConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.config_context import PVDRContextConfig
from pvdr_bench.algorithms.pvdr.context import ContextReader, Shown, stages_of
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, dynamics_model
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer, pretraining_loss
from pvdr_bench.algorithms.pvdr.rounds import prior_finetuning_loss, reconstruction_loss
from pvdr_bench.bench.plan import compare
from pvdr_bench.errors import CatalogError
from pvdr_bench.nets.context import erase
from tests.learning import above, below, learns
from tests.test_pvdr_model import CODES, TINY, TableTokenizer, check_same_gradients, clips

GRID, CELL, M, L, COLOURS = 4, 4, 2, 3, 4


class Paint(TableTokenizer):
    """Every code is a colour, and a cell of the grid 4 x 4 pixels of it."""

    grid, image_size = GRID, GRID * CELL

    def __init__(self, seed: int = 0, codes: int = CODES) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.colours = torch.randint(0, 256, (codes, 3), generator=draw, dtype=torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return self.colours[codes].repeat_interleave(CELL, -3).repeat_interleave(CELL, -2)


def settings(pretrain: dict[str, Any] | None = None, model: dict[str, Any] | None = None, online: dict[str, Any] | None
             = None, **context: Any) -> PVDRContextConfig:
    small = {"depth": 4, "blocks": 1, "heads": 2, "mask": 0.5}
    return PVDRContextConfig.model_validate({
        "model": TINY.model_dump() | (model or {}), "context": small | context, "context_online": online or {},
        "pretrain": {"lr": 3e-3, "batch": 10, "lambda1": 1e-4} | (pretrain or {})})


def build(config: PVDRContextConfig | None = None, seed: int = 0) -> DynamicsModel:
    """With a context that shows: positions and heads, which begin at or near zero, are random."""
    torch.manual_seed(seed)
    model = dynamics_model(config or settings(), CODES, GRID, Paint())
    attention = reader(model).attention
    for parameter in (*attention.norm.parameters(), attention.query_positions, attention.key_positions):
        torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.normal_(model.decoder.head.weight, std=0.3)
    return model


def reader(model: DynamicsModel) -> ContextReader:
    assert model.decoder.reader is not None
    return model.decoder.reader


def shown_of(model: DynamicsModel, batch: Tensor, seed: int = 0) -> Shown:
    noise = model.context_noise(len(batch), torch.Generator().manual_seed(seed), learning=False)
    shown = model.shown_of_clips(batch, noise)
    assert shown is not None
    return shown


# The path -------------------------------------------------------------------------------------------------------------


def looked_at_by_hand(net: ContextReader, x: Tensor, picture: Tensor, order: list[float]) -> Tensor:
    """One embedded frame [h, w, d] after it has looked at one picture [3, S, S], position by position."""
    attention = net.attention
    picture_map = list(net.encoder.maps(picture[None]))[-1][1][0]
    assert picture_map.shape[1:] == (GRID, GRID)
    kernel, bias = net.project.weight[:, :, 0, 0], net.project.bias
    assert bias is not None
    seen = sorted(range(GRID * GRID), key=order.__getitem__)[:GRID * GRID // 2]
    keys = [kernel @ picture_map[:, p // GRID, p % GRID] + bias + attention.key_positions[p] for p in seen]
    width, out = x.shape[-1] // 2, torch.zeros_like(x)
    for p in range(GRID * GRID):
        query, mixed = attention.query(x[p // GRID, p % GRID] + attention.query_positions[p]), []
        for part in (slice(0, width), slice(width, 2 * width)):
            scores = torch.stack([query[part] @ attention.key(key)[part] for key in keys]) / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum()
            mixed.append(sum(w * attention.value(key)[part] for w, key in zip(weights, keys, strict=True)))
        out[p // GRID, p % GRID] = attention.out(torch.cat(mixed))  # type: ignore[arg-type]
    gain, shift = attention.norm.parameters()
    normed: Tensor = (out - out.mean()) / (out.var(correction=0) + 1e-5).sqrt()
    return x + gain * normed + shift


@torch.no_grad()
def test_the_context_path_by_hand() -> None:
    model, batch, z = build(), clips(2), torch.randn(2, 4, 4, 2)
    decoder, net = model.decoder, reader(model)
    noise = model.context_noise(2, torch.Generator().manual_seed(7))
    assert noise is not None
    slots = torch.zeros(2, 1 + M + L - 1, GRID, GRID, TINY.d_model)
    slots[:, 0] = decoder.prompt(z)
    for b in range(2):
        frame = batch[b, int(noise.frame[b] * (M + L))]
        picture = Paint().decode(frame).permute(2, 0, 1).float() / 255 - 0.5
        for t in range(M + L - 1):
            order = noise.attention[GRID].order[b * (M + L - 1) + t].tolist()
            slots[b, 1 + t] = looked_at_by_hand(net, decoder.embed(batch[b, t]), picture, order)
    wanted = decoder.head(decoder.body(slots)[:, M:])
    found = decoder(batch[:, :M], batch[:, M:], z, model.shown_of_clips(batch, noise))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rule", "places"), [("random", [0, 0, 1, 2, 3, 4]), ("seen", [0, 0, 0, 1, 1, 1]),
                                              ("now", [1] * 6)])
def test_which_frame_of_a_clip_is_the_context(rule: str, places: list[int]) -> None:
    model, batch = build(settings(frame=rule)), clips(6)
    noise = model.context_noise(6, torch.Generator())
    assert noise is not None
    noise.frame.copy_(torch.tensor([0.0, 0.19, 0.39, 0.59, 0.79, 0.99]))
    shown = model.shown_of_clips(batch, noise)
    assert shown is not None
    for b, place in enumerate(places):
        assert torch.equal(shown.image[b], Paint().decode(batch[b, place]).permute(2, 0, 1).float() / 255 - 0.5)
    online = model.shown_of_clips(batch, noise, online=True)
    assert online is not None and torch.equal(online.image, erase(shown.image, noise.erasing))


@pytest.mark.parametrize(("rule", "place"), [("now", 1), ("first", 0)])
def test_which_frame_is_the_context_of_a_plan(rule: str, place: int) -> None:
    model, batch = build(settings(online={"frame": rule})), clips(3)
    shown = model.shown_to_plan(batch[:, :M], torch.Generator())
    assert shown is not None and shown.noise.weights is None
    assert torch.equal(shown.image, Paint().decode(batch[:, place]).permute(0, 3, 1, 2).float() / 255 - 0.5)


@torch.no_grad()
def test_roll_outs_with_and_without_cache_plans_and_teacher_forcing_see_the_same() -> None:
    model = build(settings(model={"z_every_slot": True, "copy_gate": True, "z_grid": 2}))
    context, n = clips(3)[:, :M], 4
    shown = model.shown_to_plan(context, torch.Generator().manual_seed(1))
    z = torch.randn(3 * n, *model.z_shape)
    several = context.repeat_interleave(n, 0)
    codes, logits = model.decoder.rollout(several, z, shown=shown)
    for other, theirs in (model.decoder.rollout(several, z, cached=False, shown=shown),
                          (model.decoder.plan(several, z, shown), logits)):
        assert compare(codes, logits, other, theirs)["equal"]
    torch.testing.assert_close(model.decoder(several, codes, z, shown), logits, rtol=1e-4, atol=1e-4)
    alone = Shown(shown.image[1:2], shown.noise.map(lambda rows: rows[M + L - 1:2 * (M + L - 1)]))  # type: ignore[union-attr]
    own = model.decoder.rollout(context[1:2], z[n:n + 1], shown=alone)
    torch.testing.assert_close(own[1][0], logits[n], rtol=1e-4, atol=1e-4)


# Who sees it ----------------------------------------------------------------------------------------------------------


def test_it_is_pvdr_but_for_what_the_attention_adds() -> None:
    torch.manual_seed(0)
    plain = DynamicsModel(settings().model, CODES, GRID)
    torch.manual_seed(0)
    model, batch, z = dynamics_model(settings(), CODES, GRID, Paint()), clips(3), torch.randn(3, 4, 4, 2)
    own = dict(model.named_parameters())
    assert all(torch.equal(x, own[name]) for name, x in plain.named_parameters())
    assert {name.split(".")[1] for name in own.keys() - dict(plain.named_parameters()).keys()} == {"reader"}
    for x in reader(model).attention.norm.parameters():
        torch.nn.init.zeros_(x)
    with torch.no_grad():
        wanted = plain.decoder(batch[:, :M], batch[:, M:], z)
        torch.testing.assert_close(model.decoder(batch[:, :M], batch[:, M:], z, shown_of(model, batch)), wanted)
    with pytest.raises(ValueError, match="context"):
        model.decoder(batch[:, :M], batch[:, M:], z)
    with pytest.raises(ValueError, match="context"):
        plain.decoder.plan(batch[:, :M], z, shown_of(model, batch))


def reached(model: DynamicsModel, loss: Tensor) -> set[str]:
    """Modules that a loss has gradients in; those of the decoder's context are ``reader``."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    found = {name for name, x in zip(names, gradients, strict=True) if x is not None and float(x.abs().max()) > 0}
    return {"reader" if name.startswith("decoder.reader.") else name.split(".")[0] for name in found}


def test_each_loss_reaches_its_modules_and_the_context_the_decoder_alone() -> None:
    model, batch, noise = build(), clips(3), torch.randn(3, 4, 4, 2)
    posterior, prior = model.encoder(batch), model.prior(batch[:, :M])
    assert reached(model, posterior.kl_normal().sum()) == {"encoder"}
    assert reached(model, prior.kl(posterior.detach()).sum()) == {"prior"}
    shown = shown_of(model, batch)
    shown.image.requires_grad_(True)
    context = model.shown_to_plan(batch[:, :M], torch.Generator())
    loss = reconstruction_loss(model, batch, noise, "sum", shown)
    assert reached(model, loss) == {"encoder", "decoder", "reader"}
    assert float(torch.autograd.grad(loss, shown.image)[0].abs().max()) > 0
    goal = GoalDistance(PlannerConfig(), Paint(), clips(1)[0, 0])  # type: ignore[arg-type]
    config = settings().pretrain
    _, terms = prior_finetuning_loss(model, goal, Paint().table, batch, noise, 0.0, config, context)
    assert set(terms) == {"finetune_kl_prior"}
    whole, _ = prior_finetuning_loss(model, goal, Paint().table, batch, noise, 1.0, config, context)
    assert {"prior", "decoder", "reader"} == reached(model, whole)  # of which the fine-tuner moves the prior alone


@torch.no_grad()
def test_another_picture_changes_plans_but_no_z_prior_or_posterior() -> None:
    model, batch = build(), clips(3)
    other = copy.deepcopy(model)
    reader(other).painter = Paint(seed=1)
    planner_config = PlannerConfig(candidates=4, selection="first")
    goal = GoalDistance(planner_config, Paint(), clips(1)[0, 0])  # type: ignore[arg-type]
    plain = DynamicsModel(settings().model, CODES, GRID)
    plain.load_state_dict({name: x for name, x in model.state_dict().items() if ".reader." not in name})
    plans = [Planner(one, planner_config, goal).plan(batch[:, :M], torch.Generator().manual_seed(3))
             for one in (model, other, plain)]
    assert all(torch.equal(one.z, plans[0].z) for one in plans)
    assert not torch.equal(plans[0].codes, plans[1].codes)
    for part in ("encoder", "prior"):
        seen = batch if part == "encoder" else batch[:, :M]
        one, two = (getattr(made, part)(seen) for made in (model, other))
        assert torch.equal(one.mean, two.mean) and torch.equal(one.logvar, two.logvar)


def test_a_cell_that_cannot_be_halved_is_refused() -> None:
    assert [stages_of(*sizes) for sizes in ((128, 16), (64, 8), (32, 16))] == [3, 3, 1]
    for sizes in ((48, 4), (16, 16), (50, 16)):
        with pytest.raises(CatalogError, match="power of two"):
            stages_of(*sizes)


# Learning -------------------------------------------------------------------------------------------------------------


def pretrainer(seed: int = 0, config: PVDRContextConfig | None = None) -> PVDRPretrainer:
    return PVDRPretrainer(config or settings(), seed, torch.device("cpu"), CODES, GRID, Paint())


def test_micro_batches_give_the_gradient_of_the_whole() -> None:
    whole, parts = (pretrainer(config=settings(size, dropout=0.3)) for size in ({}, {"micro_batch": 4}))
    check_same_gradients(whole, parts, clips(10))


def test_exact_resume_of_pre_training() -> None:
    one, two, batch = pretrainer(), pretrainer(), clips(10)
    assert one.validate(batch) == one.validate(batch)
    for _ in range(2):
        one.update(batch)
    two.update(batch)
    resumed = pretrainer(seed=3)
    resumed.load_state_dict(two.state_dict())
    resumed.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(one.export().values(), resumed.export().values(), strict=True))
    assert any("reader" in name for name in one.export())


def scenes(batch: int, generator: torch.Generator) -> Tensor:
    """Clips of 1 + 3 frames of a scene of one colour that is covered in x: no x tells it."""
    colour = torch.randint(1, 1 + COLOURS, (batch, 1, 1, 1), generator=generator)
    out = colour.expand(batch, 1 + L, GRID, GRID).clone()
    out[:, 0] = 0
    return out


def cross_entropy(context: bool, seed: int, steps: int = 160) -> float:
    """In nats a token, the median of the last steps; z is too dear to tell anything."""
    config = settings({"lr": 1e-2, "lambda1": 20.0}, {"context_frames": 1, "decoder_depth": 1}, mask=0.0)
    plain = PVDRConfig.model_validate(config.model_dump(exclude={"context", "context_online"}))
    learner = PVDRPretrainer(config if context else plain, seed, torch.device("cpu"), CODES, GRID, Paint())
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        found.append(learner.update(scenes(16, generator))["ce"])
    return statistics.median(found[-60:])


@learns(with_context=below(0.8), without=above(0.9))
def test_the_context_tells_what_is_neither_in_x_nor_in_z(seed: int) -> dict[str, float]:
    """Relative to the entropy of the colour, which the first frame of y has to pay where nothing tells it. Three of
    four contexts are frames of y, so a quarter is left at best."""
    entropy = math.log(COLOURS) / L
    return {"with_context": cross_entropy(True, seed) / entropy, "without": cross_entropy(False, seed) / entropy}


def test_equation_1_has_the_context_in_its_first_term_alone() -> None:
    model, batch, noise = build(), clips(3), torch.randn(3, 4, 4, 2)
    config = settings().pretrain
    a, b = (pretraining_loss(model, config, 0.1, batch, noise, shown_of(model, batch, seed))[1] for seed in (0, 1))
    assert float(a["ce"]) != float(b["ce"])
    assert float(a["kl_normal"]) == float(b["kl_normal"]) and float(a["kl_prior"]) == float(b["kl_prior"])
