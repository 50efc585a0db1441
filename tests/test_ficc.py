"""FICC on a toy world of four motions: its codes say which one it was, and the adapter which action makes it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero import pictures
from pvdr_bench.algorithms.efficientzero.actions import ActionInput
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet, Likeness
from pvdr_bench.algorithms.efficientzero.pretrain import FICCPretrainer, stage_rate
from pvdr_bench.algorithms.efficientzero.transfer import Transferred, information, majority
from pvdr_bench.algorithms.efficientzero.video_model import Unrolled, VideoModel, excess, ficc_loss
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import TrainingError
from pvdr_bench.nets.quantizer import perplexity
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.search.boxes import ActionBoxes
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from tests.learning import above, below, learns
from tests.test_ppo_learner import assert_equal

SIDE, STEP = 16, 4
MOTIONS = np.array([[-STEP, 0], [0, -STEP], [0, STEP], [STEP, 0]])


def config(**pretrain: object) -> EfficientZeroConfig:
    return EfficientZeroConfig.model_validate({
        "pretrained": True, "adapter": {"every": 1, "window": 600},
        "model": {"dynamics_input": "code", "input_size": SIDE, "stack": 1, "downsamplings": 2, "channels": 8,
                  "head_channels": 4, "head_units": 8, "prefix_units": 4, "projection": 16, "predictor": 8,
                  "support": 4.0, "bin_width": 1.0},
        "pretrain": {"steps": 240, "batch": 32, "length": 2, "optimiser": "adam", "lr": 6e-3, "lr_start": 6e-3,
                     "lr_final": 5e-4, "ema_decay": 0.95, "stage_steps": 40, "warmup_stages": 1,
                     "fresh_optimiser": False,
                     "weight_decay": 0.0, "l1": 0.0, "shift": 0, "codebook": "ema", "restart_every": 20, **pretrain}})


def world(rng: np.random.Generator, clips: int, frames: int) -> tuple[Tensor, np.ndarray]:
    """A bright square, first off the edges, that moves in one of the directions in which it stays inside.

    From off the edges all four are possible. (At an edge a code is free to stand for another motion there.)

    Returns:
        uint8 [B, T, 16, 16, 3], motions [B, T - 1].
    """
    place = STEP * rng.integers(1, SIDE // STEP - 1, (clips, 2))
    out, motions = np.full((clips, frames, SIDE, SIDE, 3), 30, np.uint8), np.zeros((clips, frames - 1), np.int64)
    for b in range(clips):
        for t in range(frames):
            if t:
                after = place[b] + MOTIONS
                motion = rng.choice(np.flatnonzero(((after >= 0) & (after <= SIDE - STEP)).all(1)))
                motions[b, t - 1], place[b] = motion, after[motion]
            y, x = place[b]
            out[b, t, y:y + STEP, x:x + STEP] = 230
    return torch.from_numpy(out), motions


@cache
def trained(seed: int) -> FICCPretrainer:
    learner = FICCPretrainer(config(), seed, torch.device("cpu"))
    rng = np.random.default_rng(seed)
    for _ in range(learner.config.pretrain.steps):
        learner.update(world(rng, 32, 2)[0])
    return learner


def codes_of(learner: FICCPretrainer, before: Tensor, after: Tensor) -> Tensor:
    model = learner.model.eval()
    states = [model.encoder(pictures.frames(x, SIDE, True)) for x in (before, after)]
    return model.codes_between(*states)


def bits(motion: Tensor, code: Tensor) -> float:
    counts = torch.zeros(4, 20).index_put((motion, code), torch.ones(len(code)), accumulate=True)
    return information(counts)


@learns(bits=above(1.5), shuffled=below(0.2), perplexity=above(2.0), motion_predicted=above(0.8))
def test_codes_tell_which_motion_it_was_and_not_those_of_shuffled_pairs(seed: int) -> dict[str, float]:
    learner = trained(seed)
    clips, motions = world(np.random.default_rng(1000 + seed), 600, 2)
    code = codes_of(learner, clips[:, 0], clips[:, 1])
    mixed = codes_of(learner, clips[:, 0], clips[torch.randperm(600, generator=torch.Generator().manual_seed(0)), 1])
    motion = torch.from_numpy(motions[:, 0])
    validation = learner.validate(world(np.random.default_rng(2000 + seed), 64, 2)[0])
    return {"bits": bits(motion, code), "shuffled": bits(motion, mixed),
            "perplexity": float(perplexity(torch.bincount(code, minlength=20).float())),
            "motion_predicted": validation["motion_predicted"]}


def test_a_loss_that_is_not_finite_in_one_process_stops_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has it and those that only hear of it: none may wait for the others' gradients."""
    learner, clips = FICCPretrainer(config(), 0, torch.device("cpu")), world(np.random.default_rng(0), 4, 2)[0]
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    monkeypatch.setattr(type(learner.group), "sum_metrics", lambda _, own: {**own, "loss": own["loss"] + float("nan")})
    with pytest.raises(TrainingError, match="a loss is not finite: loss=nan, frame_loss=[0-9]"):
        learner.update(clips)
    assert all(torch.equal(p, before[name]) for name, p in learner.model.named_parameters())


def played(replay: EpisodeReplay, rng: np.random.Generator, shuffled: bool) -> None:
    """Fill replay with 300 episodes of one decision, in which a box of actions is a motion."""
    boxes, (clips, motions) = ActionBoxes(2, 2), world(rng, 300, 2)
    made = rng.permutation(motions[:, 0]) if shuffled else motions[:, 0]
    drawn = boxes.draw(300, torch.Generator().manual_seed(int(rng.integers(2**31))))
    no, yes = torch.tensor([False]), torch.tensor([True])
    for i, box in enumerate(made):
        replay.add(Transition(clips[i:i + 1, 0], yes, drawn[i, box][None], torch.zeros(1), no, yes,
                              clips[i:i + 1, 1], {}))


@learns(right=above(0.9), bits=above(1.5), shuffled=below(0.6))
def test_the_adapter_finds_which_latent_action_each_box_is(seed: int) -> dict[str, float]:
    """A box's latent action, wherever it is seen, is that box's motion. The control has the same decisions with their
    actions in another order."""
    learner, found = trained(seed), {}
    for name, shuffled in (("true", False), ("shuffled", True)):
        with tempfile.TemporaryDirectory() as folder:
            replay = EpisodeReplay(Path(folder), 1, SIDE, 2)
            played(replay, np.random.default_rng(seed), shuffled)
            context = LearnerContext(learner.config, TaskFacts(ImageSpace(SIDE, SIDE), BoxSpace(2), 1, 100), seed,
                                     torch.device("cpu"), {"pretrain": learner.export()})
            transferred = Transferred(context, EfficientZeroNet(learner.config.model, 4, 5))
            table = transferred.recount(replay, learner.model.encoder, ActionBoxes(2, 2), torch.Generator())
            found[name] = (table, transferred.metrics["adapter_bits"])
    clips, motions = world(np.random.default_rng(3000 + seed), 400, 2)
    code = codes_of(learner, clips[:, 0], clips[:, 1])
    motion = torch.from_numpy(motions[:, 0])
    right = np.mean([float((motion[code == found["true"][0][box]] == box).float().mean()) for box in range(4)])
    return {"right": float(right), "bits": found["true"][1], "shuffled": found["shuffled"][1]}


def test_majorities_ties_and_unseen_boxes() -> None:
    counts = torch.tensor([[1.0, 3, 0], [2, 2, 0], [0, 0, 0]])
    assert majority(counts, torch.tensor([2, 2, 2])).tolist() == [1, 0, 2]
    assert information(torch.eye(4)) == pytest.approx(2.0) and information(torch.ones(4, 4)) == pytest.approx(0.0)


def test_the_dynamics_are_told_the_code_of_the_box() -> None:
    boxes = ActionBoxes(2, 2)
    inputs = ActionInput(config().model, boxes, torch.device("cpu"))
    inputs.codebook, inputs.table = torch.arange(100.0).view(20, 5), torch.tensor([7, 0, 19, 3])
    assert inputs(torch.tensor([[-0.5, -0.1], [0.2, -3.0]]))[:, 0].tolist() == [35.0, 0.0]


def test_losses_are_of_the_printed_form() -> None:
    """Each part anew, with loops over clips and steps."""
    cfg = config(codebook="gradient", l1=0.01, pixels=100.0)
    torch.manual_seed(0)
    model = VideoModel(cfg.model, cfg.pretrain).eval()
    clips, _ = world(np.random.default_rng(0), 2, 4)
    frames = pictures.frames(clips, SIDE, True)
    found = model(frames, frames[:, 0], frames)
    total, terms = ficc_loss(found, cfg.pretrain)
    frame = change = alike = codes = size0 = size = 0.0
    for b in range(2):
        state = model.encoder(frames[b:b + 1, 0])
        size0 += state.abs().mean().item() / 2
        for t in range(4):
            if t:
                real = [model.encoder(frames[b:b + 1, i]) for i in (t - 1, t)]
                z = model.latent_actions(*real)
                e = model.quantiser.table[(z - model.quantiser.table).square().sum(1).argmin()][None]
                codes += (z - e).square().mean().item() / 2
                step = frames[b, t, 0] - frames[b, t - 1, 0]
                for i, logits in enumerate(model.change_decoder(model.change_dynamics(state, e))):
                    pool = torch.nn.MaxPool2d(2 ** (1 - i)) if i == 0 else torch.nn.Identity()
                    for plane, sign in ((0, 1), (1, -1)):
                        change += plain_excess(logits[0, plane], pool((sign * step).clamp_min(0)[None])[0]) / 2
                state = model.dynamics(state, e)
                size += state.abs().mean().item() / 6
                aim = model.likeness.projector(real[1].flatten(1))
                mine = model.likeness.predictor(model.likeness.projector(state.flatten(1)))
                alike += (1 - torch.cosine_similarity(mine, aim)).item() / 2
            frame += plain_excess(model.frame_decoder(state)[0, 0], frames[b, t, 0]) / 2
    scale = 100 / SIDE**2
    wanted = {"frame_loss": scale * frame / 4, "change_loss": scale * change / 4, "consistency_loss": alike / 4,
              "codebook_loss": codes, "commitment_loss": codes, "state_size": 0.5 * (size0 + size)}
    assert {name: terms[name].item() for name in wanted} == pytest.approx(wanted, rel=1e-3)
    parts = wanted["frame_loss"] + wanted["change_loss"] + wanted["consistency_loss"] + 2 * codes
    assert total.item() == pytest.approx(parts + 0.01 * wanted["state_size"], rel=1e-3)


def unrolled() -> tuple[VideoModel, Tensor, Unrolled]:
    """A clip of three frames, its observations, and what it gave."""
    cfg = config(codebook="gradient")
    torch.manual_seed(0)
    model = VideoModel(cfg.model, cfg.pretrain).eval()
    frames = pictures.frames(world(np.random.default_rng(0), 2, 3)[0], SIDE, True)
    observation = frames.clone().requires_grad_()
    return model, observation, model(observation, frames[:, 0], frames)


def test_gradients_of_the_inverse_model_reach_the_encoder_and_those_of_the_codebook_do_not() -> None:
    """Frames that are drawn tell the encoder of later observations through the codes between them alone."""
    for part, reaches in (("frame", True), ("commitment", True), ("codebook", False)):
        model, observation, found = unrolled()
        loss = {"frame": found.frame.sum(), "commitment": found.actions.commitment,
                "codebook": found.actions.codebook}[part]
        weights = [*model.latent_actions.parameters(), *model.encoder.parameters()]
        pulls = torch.autograd.grad(loss, [observation, *weights], allow_unused=True)
        assert (pulls[0] is not None and bool(pulls[0][:, 1:].abs().amax((2, 3, 4)).min() > 0)) is reaches, part
        assert all((pull is not None and bool(pull.abs().max() > 0)) is reaches for pull in pulls[1:]), part


def test_the_projections_that_are_meant_have_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    loss = Likeness.loss

    def watched(self: Likeness, state: Tensor, target: Tensor) -> Tensor:
        assert state.requires_grad
        seen.append(target)
        return loss(self, state, target)

    monkeypatch.setattr(Likeness, "loss", watched)
    unrolled()
    assert len(seen) == 1 and seen[0].shape == (2 * 2, 16) and not seen[0].requires_grad


def plain_excess(logits: Tensor, target: Tensor) -> float:
    p, q = logits.sigmoid().double(), target.double().clamp(1e-12, 1 - 1e-12)
    bce = -(q * p.log() + (1 - q) * (1 - p).log())
    return float((bce + q * q.log() + (1 - q) * (1 - q).log()).sum().detach())


def test_a_perfect_picture_costs_nothing() -> None:
    target = torch.rand(2, 1, 4, 4)
    assert torch.allclose(excess(target.logit(), target), torch.zeros(2), atol=1e-5)


def test_the_learning_rate_rises_and_falls_by_stages() -> None:
    own = EfficientZeroConfig().pretrain
    assert stage_rate(own, 0) == pytest.approx(1e-5) and stage_rate(own, 999) == pytest.approx(1e-5)
    assert stage_rate(own, 2000) == pytest.approx((1e-5 * 0.02) ** 0.5)
    assert stage_rate(own, 4000) == pytest.approx(0.02) and stage_rate(own, 50_999) == pytest.approx(2e-4)


def test_momentum_is_forgotten_at_each_stage_and_each_module_clipped_alone() -> None:
    learner = FICCPretrainer(config(optimiser="sgd", fresh_optimiser=True, stage_steps=3, max_grad_norm=1e-3), 0,
                             torch.device("cpu"))
    clips = world(np.random.default_rng(0), 4, 4)[0]
    for _ in range(4):
        learner.update(clips)
    weight = learner.model.encoder.layers[0].weight
    assert torch.equal(learner.optimiser.state[weight]["momentum_buffer"], weight.grad), "the first of its stage"
    norms = [torch.stack([p.grad.norm() for p in own if p.grad is not None]).norm() for own in learner.model.clipped()]
    assert len(norms) == 7 and torch.stack(norms).tolist() == pytest.approx([1e-3] * 7, rel=1e-2)


def released() -> EfficientZeroConfig:
    """The released form, as ficc has it at paper scale, of small size."""
    cfg = config(codebook="gradient", max_grad_norm=1e-3)
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"video_networks": "released"})})


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_at_paper_scale_inverse_model_and_decoders_are_those_of_the_released_code() -> None:
    """Its layers, weight by weight; biases before a normalisation, and layers that it never calls, left out."""
    cfg = load_catalog().config("ficc", "paper").value
    model = VideoModel(cfg.model, cfg.pretrain)
    square, norm, c = 64 * 64 * 9, 2 * 64, 64
    assert count(model.latent_actions) == 2 * square + (2 * square + 2 * norm) + c * 5 * 9 + (5 * 36 * 5 + 5)
    assert [type(layer).__name__ for layer in model.latent_actions.body] == [
        "ResBlock", "Conv2d", "Flatten", "Linear", "SharedBatchNorm"]
    assert count(model.frame_decoder.ups, model.frame_decoder.last) == 4 * (square + norm) + c * 9 + 1
    assert count(model.change_decoder) == (3 + 4) * (square + norm) + 4 * (c * 2 * 9 + 2)
    sides = [logits.shape[1:] for logits in model.change_decoder(torch.rand(2, c, 6, 6))]
    assert sides == [(2, side, side) for side in (12, 24, 48, 96)]
    assert model.frame_decoder(torch.rand(2, c, 6, 6)).shape == (2, 1, 96, 96)
    assert {part.mix[1].momentum for part in (model.dynamics, model.change_dynamics)} == {0.01}
    assert model.dynamics.blocks[0].body[1].momentum == 0.1


def test_the_released_form_clips_codes_with_the_inverse_model_and_projections_apart() -> None:
    learner = FICCPretrainer(released(), 0, torch.device("cpu"))
    assert np.isfinite(learner.update(world(np.random.default_rng(0), 4, 4)[0])["loss"])
    model = learner.model

    def norm(*modules: torch.nn.Module) -> float:
        return float(torch.stack([p.grad.norm() for module in modules for p in module.parameters()]).norm())

    alone = [norm(model.frame_decoder.refine), norm(model.likeness.projector), norm(model.likeness.predictor)]
    assert [norm(model.latent_actions, model.quantiser), *alone] == pytest.approx([1e-3] * 4, rel=1e-2)
    assert norm(model.quantiser) < 0.9e-3
    assert len(model.clipped()) == 9
    assert {id(p) for group in model.clipped() for p in group} == {id(p) for p in model.parameters()}


def test_what_was_published_keeps_its_form_and_its_recipe() -> None:
    config_of = load_catalog().config
    for scale in ("gpu", "cpu", "quick", "smoke"):
        assert "video_networks" not in config_of("ficc", scale).value.recipe()["model"]
    assert config_of("ficc", "paper").value.recipe()["model"]["video_networks"] == "released"


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_resume_is_exact(codebook: str) -> None:
    made = [FICCPretrainer(config(codebook=codebook, stage_steps=3, restart_every=2, shift=1, intensity=0.1), seed,
                           torch.device("cpu")) for seed in (0, 0, 5)]
    batches = [world(np.random.default_rng(i), 4, 4)[0] for i in range(6)]
    for batch in batches:
        made[0].update(batch)
    for batch in batches[:3]:
        made[1].update(batch)
    made[2].load_state_dict(made[1].state_dict())
    for batch in batches[3:]:
        made[2].update(batch)
    assert_equal(made[0].state_dict(), made[2].state_dict())


def test_dead_codes_are_restarted_with_moving_averages_and_not_as_released() -> None:
    def moved(codebook: str) -> int:
        learner = FICCPretrainer(config(codebook=codebook, restart_every=1), 0, torch.device("cpu"))
        learner.model.quantiser.table.data += 50  # all are far from every vector but one
        learner.model.quantiser.table.data[0] -= 50
        before = learner.model.quantiser.table.detach().clone()
        for i in range(6):
            learner.update(world(np.random.default_rng(i), 4, 4)[0])
        return int(((learner.model.quantiser.table.detach() - before).abs().amax(1) > 10).sum())

    assert moved("ema") > 10
    assert moved("gradient") == 0
