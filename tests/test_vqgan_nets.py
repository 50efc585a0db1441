"""The networks of the tokenizer: quantiser, receptive fields, discriminator, perceptual loss, frozen tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pvdr_bench.errors import DataError, SetupError
from pvdr_bench.nets.quantizer import VectorQuantizer, nearest, perplexity
from pvdr_bench.tokenizer.config import NetConfig, VQGANConfig
from pvdr_bench.tokenizer.frozen import SIZE_KEY, load_tokenizer
from pvdr_bench.tokenizer.layers import DepthToSpace, SpaceToDepth, to_float, to_uint8
from pvdr_bench.tokenizer.networks import VQGAN
from pvdr_bench.tokenizer.patchgan import (
    VGG_STAGES,
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    hinge_loss,
)

PATCHED: dict[str, Any] = {
    "net": {"patch": 8, "multipliers": [1], "block": "separable", "norm": "pixel", "attention": False,
            "encoder_width": 16, "decoder_width": 16, "z_channels": 8, "encoder_kernel": 1, "middle_blocks": 1},
    "codebook": {"size": 12, "dim": 6, "update": "ema"}}
TAMING: dict[str, Any] = {
    "net": {"encoder_width": 12, "decoder_width": 8, "multipliers": [1, 2, 2, 4], "encoder_blocks": 1,
            "decoder_blocks": 1, "z_channels": 8},
    "codebook": {"size": 12, "dim": 6}}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 20), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_nearest_code_is_the_brute_force_one(seed: int, m: int, k: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    z, codes = rng.normal(size=(m, q)), rng.normal(size=(k, q))
    expected = [min(range(k), key=lambda j: float(((v - codes[j]) ** 2).sum())) for v in z]
    assert nearest(torch.from_numpy(z), torch.from_numpy(codes)).tolist() == expected


@pytest.mark.parametrize("ema", [False, True])
def test_gradient_passes_straight_through(ema: bool) -> None:
    quantizer = VectorQuantizer(7, 3, ema)
    z = torch.randn(2, 4, 4, 3, requires_grad=True)
    out, direction = quantizer(z), torch.randn(2, 4, 4, 3)
    torch.testing.assert_close(out.z, quantizer.table[out.codes])
    (out.z * direction).sum().backward()
    torch.testing.assert_close(z.grad, direction)
    assert ema or quantizer.table.grad is None


def test_commitment_reaches_the_encoder_only_and_the_codebook_term_the_codes_only() -> None:
    quantizer = VectorQuantizer(5, 3, ema=False)
    z = torch.randn(4, 3, requires_grad=True)
    out = quantizer(z)
    expected = 2 * (z.detach() - quantizer.table.detach()[out.codes]) / z.numel()
    (to_z, to_codes) = torch.autograd.grad(out.commitment, [z, quantizer.table], retain_graph=True, allow_unused=True)
    torch.testing.assert_close(to_z, expected)
    assert to_codes is None
    swapped = torch.autograd.grad(out.codebook, [z, quantizer.table], allow_unused=True)
    assert swapped[0] is None
    by_hand = torch.zeros(5, 3).index_add(0, out.codes, -expected)
    torch.testing.assert_close(swapped[1], by_hand)


def test_moving_averages_by_hand() -> None:
    quantizer = VectorQuantizer(2, 1, ema=True)
    quantizer.set_codes(torch.arange(2), torch.tensor([[0.0], [10.0]]))
    z = torch.tensor([[1.0], [2.0], [9.0]])
    count, total = quantizer.statistics(z, quantizer(z).codes)
    assert count.tolist() == [2, 1] and total.flatten().tolist() == [3, 9]
    quantizer.ema_update(count, total, decay=0.75)
    # counts 0.75 * 1 + 0.25 * (2, 1); sums 0.75 * (0, 10) + 0.25 * (3, 9)
    torch.testing.assert_close(quantizer.ema_count, torch.tensor([1.25, 1.0]))
    torch.testing.assert_close(quantizer.table, torch.tensor([[0.75 / 1.25], [9.75 / 1.0]]))


def test_dead_codes_are_found_and_replaced_with_average_usage() -> None:
    quantizer = VectorQuantizer(4, 2, ema=True)
    quantizer.ema_count.copy_(torch.tensor([4.0, 0.01, 3.99, 0.0]))
    dead = quantizer.dead(below=0.05)
    assert dead.tolist() == [1, 3]
    quantizer.set_codes(dead, torch.full((2, 2), 7.0))
    assert quantizer.table[dead].eq(7).all() and quantizer.dead(0.05).tolist() == []
    quantizer.ema_update(torch.zeros(4), torch.zeros(4, 2), 0.5)  # an unused code decays but does not move
    torch.testing.assert_close(quantizer.table[dead], torch.full((2, 2), 7.0))


def test_perplexity_counts_used_codes() -> None:
    assert perplexity(torch.tensor([5.0, 5.0, 5.0, 0.0])).item() == pytest.approx(3)
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert perplexity(torch.tensor([9, 1])).item() == pytest.approx(math.exp(entropy))


def test_space_to_depth_keeps_pixels_of_a_patch_together_and_inverts() -> None:
    x = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    y = SpaceToDepth(4)(x)
    assert y.shape == (2, 48, 2, 2)
    assert sorted(y[0, :, 1, 0].tolist()) == sorted(x[0, :, 4:8, 0:4].flatten().tolist())
    assert torch.equal(DepthToSpace(4)(y), x)


@pytest.mark.parametrize("kernel,reach", [(1, 0), (3, 2)])
def test_receptive_field_of_a_token(kernel: int, reach: int) -> None:
    """With kernel 1 a token sees its own patch; each block of kernel 3 adds one patch on each side."""
    config = VQGANConfig.model_validate({**PATCHED, "net": {**PATCHED["net"], "encoder_kernel": kernel,
                                                           "encoder_blocks": 1}})
    images = torch.randn(1, 3, 56, 56, requires_grad=True)
    VQGAN(config, 56).features(images)[0, 3, 3].sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1)).view(7, 8, 7, 8).sum((1, 3)) > 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[3 - reach : 4 + reach, 3 - reach : 4 + reach] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("config", [PATCHED, TAMING])
def test_tokenizer_round_trip_of_shapes_types_and_batches(config: dict[str, Any]) -> None:
    typed = VQGANConfig.model_validate(config)
    net = VQGAN(typed, 32)
    tokenizer = load_tokenizer({**net.state_dict(), SIZE_KEY: torch.tensor(32)}, typed.model_dump())
    tokenizer.batch = 4
    images = torch.randint(0, 256, (3, 2, 32, 32, 3), dtype=torch.uint8)
    codes = tokenizer.encode(images)
    assert (codes.shape, codes.dtype, tokenizer.grid) == ((3, 2, 4, 4), torch.int64, 4)
    assert (tokenizer.codebook_size, tokenizer.code_dim, tokenizer.image_size) == (12, 6, 32)
    torch.testing.assert_close(tokenizer.embed(codes)[1, 1, 2, 3], net.quantizer.table[codes[1, 1, 2, 3]].detach())
    decoded = tokenizer.decode(codes.to(torch.uint8))
    assert (decoded.shape, decoded.dtype) == (images.shape, torch.uint8)
    one = tokenizer.decode(codes[2, 1])
    assert (one.int() - decoded[2, 1].int()).abs().max() <= 1
    assert not any(p.requires_grad for p in tokenizer.net.parameters()) and not tokenizer.net.training


def test_tokenizer_refuses_wrong_images_and_wrong_weights() -> None:
    config = VQGANConfig.model_validate(PATCHED)
    weights = {**VQGAN(config, 32).state_dict(), SIZE_KEY: torch.tensor(32)}
    tokenizer = load_tokenizer(weights, config)
    with pytest.raises(DataError, match="image size"):
        tokenizer.encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(DataError, match="uint8"):
        tokenizer.encode(torch.zeros(1, 32, 32, 3))
    with pytest.raises(DataError, match=SIZE_KEY):
        load_tokenizer({k: v for k, v in weights.items() if k != SIZE_KEY}, config)
    with pytest.raises(DataError, match="do not fit"):
        load_tokenizer(weights, VQGANConfig.model_validate(TAMING))


def test_loading_a_tokenizer_leaves_the_global_generator_alone() -> None:
    config = VQGANConfig.model_validate(PATCHED)
    weights = {**VQGAN(config, 32).state_dict(), SIZE_KEY: torch.tensor(32)}
    before = torch.get_rng_state()
    load_tokenizer(weights, config)
    assert torch.equal(before, torch.get_rng_state())


def test_uint8_survives_the_float_form() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)
    assert torch.equal(to_uint8(to_float(images)), images)


def test_paper_defaults_give_table_1() -> None:
    config = VQGANConfig()
    with torch.device("meta"):
        net = VQGAN(config, 128)
        assert net.grid == 16 and net.quantizer.table.shape == (256, 1024)
        assert net.features(torch.empty(1, 3, 128, 128)).shape == (1, 16, 16, 1024)
        assert net.decoder.last.weight.shape[:2] == (3, 64)


def test_every_key_is_documented() -> None:
    for section in VQGANConfig.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert field.description and isinstance(field.json_schema_extra, dict), name
            assert field.json_schema_extra["source"], name


@pytest.mark.parametrize("bad", [{"net": {"encoder_kernel": 1}}, {"loss": {"perceptual": 1.0}}, {"nets": {}},
                                 {"codebook": {"restart_below": 0.1}}])
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        VQGANConfig.model_validate(bad)
    with pytest.raises(ValueError, match="multiple of the token's cell"):
        VQGANConfig(net=NetConfig(patch=8, multipliers=(1,))).grid(60)


def test_adaptive_weight_by_hand() -> None:
    a, b = torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0], [2.0]])
    assert adaptive_weight(a, b).item() == pytest.approx(5 / 2.0001)
    assert adaptive_weight(a, torch.zeros(2, 1)).item() == pytest.approx(1e4)


def test_hinge_loss_by_hand() -> None:
    assert hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])).item() == pytest.approx(0.5 * (0.5 + 0.75))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_discriminator_has_a_logit_per_patch(norm: str) -> None:
    disc = PatchDiscriminator(8, 3, norm)
    assert disc(torch.randn(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert not list(disc.buffers())


def test_perceptual_loss_from_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights: dict[str, torch.Tensor] = {}
    for stage in VGG_STAGES:
        for index, inputs, outputs in stage:
            layer = nn.Conv2d(inputs, outputs, 3)
            weights |= {f"features.{index}.{name}": value for name, value in layer.state_dict().items()}
    weights |= {f"lin{i}.model.1.weight": torch.rand(1, stage[-1][2], 1, 1) for i, stage in enumerate(VGG_STAGES)}
    save_file(weights, tmp_path / "vgg.safetensors")
    loss = PerceptualLoss(tmp_path / "vgg.safetensors")
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    assert loss(a, a).item() == 0
    loss(a, b).backward()
    assert loss(a, b).item() > 0 and b.grad is not None and b.grad.abs().sum() > 0
    del weights["features.12.bias"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match="features.12.bias"):
        PerceptualLoss(tmp_path / "cut.safetensors")
    with pytest.raises(SetupError, match="perceptual"):
        PerceptualLoss(tmp_path / "absent.safetensors")
