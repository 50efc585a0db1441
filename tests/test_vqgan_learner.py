"""The training of the tokenizer: exactness, gradients, metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pvdr_bench.errors import TrainingError
from pvdr_bench.tokenizer.config import TrainConfig, VQGANConfig
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner, lr_at
from pvdr_bench.tokenizer.measures import cell_changes
from tests.learning import above, below, learns

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "net": {"patch": 4, "multipliers": [1, 2], "block": "separable", "norm": "pixel", "attention": False,
            "encoder_width": 16, "decoder_width": 16, "z_channels": 8, "encoder_kernel": 1, "encoder_blocks": 0,
            "decoder_blocks": 0, "middle_blocks": 1, "dropout": 0.1, "decoder_positions": True},
    "codebook": {"size": 16, "dim": 4, "update": "ema", "data_init": True, "restart_below": 0.1, "restart_every": 3},
    "loss": {"l2": 2.0, "foreground": 1.0, "disc_weight": 0.8, "disc_start": 2, "disc_layers": 2, "disc_width": 8,
             "disc_norm": "group"},
    "train": {"steps": 20, "batch": 8, "lr": 1e-3, "lr_final": 0.1, "warmup_steps": 2, "max_grad_norm": 1.0}}


def config(**changes: dict[str, Any]) -> VQGANConfig:
    return VQGANConfig.model_validate({name: {**TINY[name], **changes.get(name, {})} for name in TINY})


def frames(seed: int, clips: int = 8, length: int = 1, size: int = 16) -> Tensor:
    """Smooth random images, uint8 [clips, length, size, size, 3]."""
    coarse = torch.rand((clips * length, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).reshape(clips, length, size, size, 3)


def train(learner: VQGANLearner, first: int, last: int) -> list[dict[str, float]]:
    return [learner.update(frames(step)) for step in range(first, last)]


def same(a: Any, b: Any) -> bool:
    """Nested states are equal, bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def test_same_seed_same_bytes_and_another_seed_other_bytes() -> None:
    one, two, other = (VQGANLearner(config(), seed, CPU, 16) for seed in (3, 3, 4))
    torch.manual_seed(99)  # the global generator plays no part
    first = train(one, 0, 5)
    torch.manual_seed(7)
    assert train(two, 0, 5) == first and same(one.state_dict(), two.state_dict())
    train(other, 0, 5)
    assert not same(one.export(), other.export())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_resume_is_exact(update: str) -> None:
    book = {"update": update, "restart_below": 0.1 if update == "ema" else 0.0}
    whole, cut = (VQGANLearner(config(codebook=book), 1, CPU, 16) for _ in range(2))
    expected = train(whole, 0, 8)
    train(cut, 0, 4)
    resumed = VQGANLearner(config(codebook=book), 1, CPU, 16)
    resumed.load_state_dict(cut.state_dict())
    assert train(resumed, 4, 8) == expected[4:] and same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_micro_batches_do_what_the_whole_batch_does(update: str) -> None:
    """Also with the discriminator on and codes replaced: only the order of sums differs."""
    book = {"update": update, "restart_below": 0.1 if update == "ema" else 0.0}
    learners = [VQGANLearner(config(codebook=book, net={"dropout": 0.0}, train={"micro_batch": size}), 1, CPU, 16)
                for size in (0, 3)]
    metrics = [train(learner, 0, 4) for learner in learners]
    assert metrics[0][3]["adaptive_weight"] > 0
    for whole, parts in zip(*metrics, strict=True):
        assert whole == pytest.approx(parts, rel=2e-3, abs=1e-5)
    for name, value in learners[0].export().items():
        torch.testing.assert_close(learners[1].export()[name], value, rtol=1e-3, atol=2e-4)


def test_adversarial_gradient_is_the_weighted_sum() -> None:
    """The generator's gradient equals that of loss + weight * adversarial, with the weight found independently."""
    settings = config(net={"dropout": 0.0}, loss={"disc_start": 0, "foreground": 0.0}, train={"max_grad_norm": 0.0})
    learner, batch = VQGANLearner(settings, 1, CPU, 16), frames(0)
    learner.step = 1  # codes stay where they are
    images = learner._images(batch[:, 0])
    recon, _, quantised = learner.net(images)
    error = recon - images
    main = error.abs().mean() + 2 * error.square().mean() + 1.25 * quantised.commitment
    main = main - quantised.commitment + quantised.codebook.detach()  # ema: the codebook term has no gradient
    adversarial = -learner.disc(recon).mean()  # type: ignore[misc]
    last = learner.net.decoder.last.weight
    norms = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (main, adversarial)]
    weight = 0.8 * norms[0] / (norms[1] + 1e-4)
    expected = torch.autograd.grad(main + weight * adversarial, learner.parameters, allow_unused=True)
    seen: list[Tensor] = []
    learner.optimiser.register_step_pre_hook(lambda opt, *_: seen.extend(
        p.grad.clone() for p in opt.param_groups[0]["params"]))
    metrics = learner.update(batch)
    assert metrics["adaptive_weight"] == pytest.approx(float(weight), rel=1e-3)
    for got, want in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-3, atol=1e-6)


def test_discriminator_starts_on_its_own_step() -> None:
    learner = VQGANLearner(config(), 1, CPU, 16)
    before = {name: value.clone() for name, value in learner.disc.state_dict().items()}  # type: ignore[union-attr]
    rows = train(learner, 0, 3)
    assert ["disc_loss" in row for row in rows] == [False, False, True]
    assert not same(before, learner.disc.state_dict())  # type: ignore[union-attr]
    assert rows[2]["grad_discriminator"] > 0 and rows[2]["generator_loss"] != 0


def ten_images(update: str, seed: int) -> dict[str, float]:
    """What 300 steps make of ten images; the frozen tokenizer does what validation says."""
    book = {"update": update, "restart_below": 0.1 if update == "ema" else 0.0, "size": 64, "dim": 8}
    learner = VQGANLearner(config(codebook=book, net={"dropout": 0.0}, loss={"disc_weight": 0.0, "foreground": 0.0},
                                  train={"steps": 300, "lr": 4e-3, "lr_final": 0.0}), seed, CPU, 16)
    images = frames(seed + 5, clips=10)
    start = learner.validate(images)["psnr"]
    for _ in range(learner.config.train.steps):
        last = learner.update(images)
    end = learner.validate(images)
    for name in ("grad_encoder", "grad_decoder", "commitment", "codebook"):
        assert last[name] > 0
    assert ("grad_quantizer" in last) == (update == "gradient")
    tokenizer = load_tokenizer(learner.export(), learner.config)
    decoded = tokenizer.decode(tokenizer.encode(images)).float() / 255
    mse = float((decoded - images.float() / 255).square().mean())
    assert 10 * math.log10(1 / mse) == pytest.approx(end["psnr"], abs=0.05)
    return {"psnr": end["psnr"], "psnr_gained": end["psnr"] - start, "perplexity": end["perplexity"]}


@learns(psnr=above(24), psnr_gained=above(13), perplexity=above(16))
def test_ten_images_can_be_learned_with_averaged_codes(seed: int) -> dict[str, float]:
    return ten_images("ema", seed)


@learns(psnr=above(24), psnr_gained=above(13), perplexity=above(4))
def test_ten_images_can_be_learned_with_codes_by_gradient(seed: int) -> dict[str, float]:
    return ten_images("gradient", seed)


def test_foreground_weight_favours_pixels_that_differ_from_the_mean_frame() -> None:
    still = torch.full((4, 1, 16, 16, 3), 60, dtype=torch.uint8)
    for i in range(4):
        still[i, 0, 4 * i : 4 * i + 4, :4] = 250
    losses = []
    for strength in (0.0, 3.0):
        learner = VQGANLearner(config(loss={"foreground": strength, "disc_weight": 0.0, "l2": 0.0},
                                      net={"dropout": 0.0}), 0, CPU, 16)
        sums = learner._accumulate(learner._pieces(still[:, 0]), 4)
        recon = learner.net(learner._images(still[:, 0]))[0]
        difference = (learner._images(still[:, 0]) - learner._images(still[:, 0]).mean(0)).abs().mean(1, keepdim=True)
        weights = 1 + strength * (difference / difference.mean()).clamp_max(10)
        expected = ((recon - learner._images(still[:, 0])).abs() * weights).mean()
        quantiser = 1.25 * sums.terms["commitment"]
        assert float(sums.terms["loss"] - quantiser) == pytest.approx(expected.item(), rel=1e-4)
        losses.append(expected.item())
    assert losses[1] > 2 * losses[0]


def test_flicker_and_response_of_tokens() -> None:
    """A still clip has no change at all; a local encoder changes tokens only where pixels change."""
    learner = VQGANLearner(config(), 0, CPU, 16)
    train(learner, 0, 6)
    clip = frames(3, clips=2).repeat(1, 3, 1, 1, 1)
    still = learner.validate(clip)
    assert still["token_change"] == still["token_flicker"] == still["token_response"] == 0
    clip[:, 2, :8, :8] = 255 - clip[:, 2, :8, :8]
    moved = learner.validate(clip)
    assert moved["token_flicker"] == 0 and moved["token_response"] > 0 and moved["l1_moving"] > 0
    assert moved["token_change"] == pytest.approx(moved["token_response"] / 8)  # 1 of 4 cells in 1 of 2 steps


def test_cell_changes_by_hand() -> None:
    clip = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8)
    clip[0, 1, 3, 0, 1] = 9
    assert cell_changes(clip, 2).tolist() == [[[[0, 0], [9, 0]]]]


def test_validation_changes_nothing() -> None:
    learner = VQGANLearner(config(), 0, CPU, 16)
    train(learner, 0, 2)
    before = {name: value.clone() for name, value in learner.export().items()}
    first, second = (learner.validate(frames(9, length=2)) for _ in range(2))
    assert first == second and same(before, learner.export()) and learner.net.training


def test_nan_stops_training_and_names_the_step() -> None:
    learner = VQGANLearner(config(), 0, CPU, 16)
    train(learner, 0, 1)
    with torch.no_grad():
        learner.net.decoder.last.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match="step 1"):
        learner.update(frames(1))


def test_learning_rate_schedule() -> None:
    schedule = TrainConfig(steps=100, lr=1.0, lr_final=0.2, warmup_steps=10)
    assert lr_at(schedule, 0) == pytest.approx(0.1, rel=1e-3)
    assert lr_at(schedule, 50) == pytest.approx(0.6) and lr_at(schedule, 100) == pytest.approx(0.2)


def test_bfloat16_trains_to_nearly_the_same_loss() -> None:
    full, half = (VQGANLearner(config(train={"dtype": dtype}, net={"dropout": 0.0}), 0, CPU, 16)
                  for dtype in ("float32", "bfloat16"))
    assert train(half, 0, 4)[-1]["l1"] == pytest.approx(train(full, 0, 4)[-1]["l1"], rel=0.05)


@pytest.mark.parametrize("scale,size,grid", [("paper", 128, 16), ("gpu", 64, 8), ("cpu", 64, 8), ("smoke", 32, 4)])
def test_the_methods_file_fits_the_schema(scale: str, size: int, grid: int) -> None:
    method = yaml.safe_load((Path(__file__).parents[1] / "methods" / "tokenizer.yaml").read_text())
    resolved = VQGANConfig.model_validate(method["scales"][scale])
    assert resolved.grid(size) == grid


@learns(l1_left=below(0.85))
def test_the_smoke_scale_of_the_methods_file_learns(seed: int) -> dict[str, float]:
    method = yaml.safe_load((Path(__file__).parents[1] / "methods" / "tokenizer.yaml").read_text())
    learner = VQGANLearner(VQGANConfig.model_validate(method["scales"]["smoke"]), seed, CPU, 32)
    rows = [learner.update(frames(seed, clips=16, size=32)) for _ in range(30)]
    return {"l1_left": rows[-1]["l1"] / rows[0]["l1"]}
