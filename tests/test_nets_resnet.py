"""Residual networks and masked cross-attention against plain loops and torch's own layers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.nets.cross_attention import AttentionNoise, MaskedCrossAttention
from pvdr_bench.nets.resnet import ResidualBlock, ResNetDecoder, ResNetEncoder


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


def attention(mask: float = 0.75, dropout: float = 0.5, channels: int = 8, side: int = 4) -> MaskedCrossAttention:
    torch.manual_seed(0)
    made = MaskedCrossAttention(channels, side, 2, mask, dropout, norm)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def by_hand(net: MaskedCrossAttention, x: Tensor, context: Tensor, noise: AttentionNoise) -> Tensor:
    """Attention outputs [N, C, h, w] before the normalisation, position by position, head by head."""
    count, channels, side = x.shape[:3]
    size, heads = side * side, net.heads
    width, out = channels // heads, torch.zeros_like(x)
    for n in range(count):
        shown = context[n // (count // len(context))]
        order = noise.order[n].tolist()
        seen = sorted(range(size), key=order.__getitem__)[:int(size * 0.25)]
        keys = [shown[:, p // side, p % side] + net.key_positions[p] for p in seen]
        for p in range(size):
            query = net.query(x[n, :, p // side, p % side] + net.query_positions[p])
            mixed = torch.zeros(channels)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = torch.stack([query[part] @ net.key(key)[part] for key in keys]) / math.sqrt(width)
                weights = scores.exp() / scores.exp().sum()
                if net.training and noise.weights is not None:
                    weights = weights * ~noise.weights[n, head, p] / (1 - net.dropout)
                for weight, key in zip(weights, keys, strict=True):
                    mixed[part] += weight * net.value(key)[part]
            mixed = net.out(mixed)
            if net.training and noise.output is not None:
                mixed = mixed * ~noise.output[n, p] / (1 - net.dropout)
            out[n, :, p // side, p % side] = mixed
    return out


@pytest.mark.parametrize(("training", "at_once"), [(True, 1 << 20), (False, 1 << 20), (True, 3 * 2 * 16 * 4)])
@torch.no_grad()
def test_masked_cross_attention_by_plain_loops(training: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``at_once``: the last is three maps of the four."""
    monkeypatch.setattr("pvdr_bench.nets.cross_attention.WEIGHTS_AT_ONCE", at_once)
    net = attention().train(training)
    x, context = torch.randn(4, 8, 4, 4), torch.randn(2, 8, 4, 4)  # two images of each context
    noise = net.draw(4, torch.Generator().manual_seed(1))
    raw = by_hand(net, x, context, noise)
    expected = torch.relu(x + net.norm(raw))
    torch.testing.assert_close(net(x, context, noise), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_dropout_it_is_torchs_attention_to_the_kept_positions() -> None:
    net = attention(dropout=0.0)
    own = nn.MultiheadAttention(8, 2, batch_first=True)
    own.in_proj_weight.copy_(torch.cat([net.query.weight, net.key.weight, net.value.weight]))
    own.in_proj_bias.copy_(torch.cat([net.query.bias, net.key.bias, net.value.bias]))
    own.out_proj.load_state_dict(net.out.state_dict())
    x, context = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    noise = net.draw(3, torch.Generator().manual_seed(1))
    assert noise.weights is None and noise.output is None
    flat = context.flatten(2).transpose(1, 2) + net.key_positions
    kept = torch.stack([row[order.argsort()[:4]] for row, order in zip(flat, noise.order, strict=True)])
    out, _ = own(x.flatten(2).transpose(1, 2) + net.query_positions, kept, kept)
    expected = torch.relu(x + net.norm(out.transpose(1, 2).view_as(x)))
    torch.testing.assert_close(net(x, context, noise), expected, rtol=1e-4, atol=1e-5)


def test_what_is_masked_has_no_say_and_every_image_has_a_mask_of_its_own() -> None:
    net = attention(dropout=0.0).eval()
    x, context = torch.randn(2, 8, 4, 4), torch.randn(1, 8, 4, 4, requires_grad=True)
    noise = net.draw(2, torch.Generator().manual_seed(3))
    said = []
    for n in range(2):
        gradient = torch.autograd.grad(net(x, context, noise)[n].square().sum(), context)[0]
        said.append(gradient[0].abs().sum(0).flatten() > 0)
        assert said[n].sum() == 4 == net.kept
        assert torch.equal(said[n].nonzero().flatten().sort().values, noise.order[n].argsort()[:4].sort().values)
    assert not torch.equal(*said)
    nothing = attention(mask=0.95)
    assert nothing.kept == 0 and nothing(x, context, nothing.draw(2, torch.Generator())) is x


def test_positions_are_there_before_a_first_pass() -> None:
    """Made in a first pass they would be in no optimiser that was built before it."""
    names = dict(attention().named_parameters())
    assert names["query_positions"].shape == names["key_positions"].shape == (16, 8)
    fresh = MaskedCrossAttention(8, 4, 2, 0.75, 0.1, norm)
    assert float(fresh.query_positions.detach().abs().max()) == 0  # zero, as released


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
        MaskedCrossAttention(8, 4, 3, 0.5, 0.1, norm)


def test_a_block_adds_what_attention_makes_of_its_input_beside_the_input_itself() -> None:
    torch.manual_seed(0)
    net = attention(dropout=0.0)
    block = ResidualBlock(8, 4, norm, net).eval()
    x, context = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    noise = net.draw(2, torch.Generator())
    one, bn1, _, two, bn2 = block.body
    z = net(x, context, noise)
    body = bn2(F.conv2d(torch.relu(bn1(F.conv2d(z, one.weight, padding=1))), two.weight, padding=1))
    torch.testing.assert_close(block(x, context, noise), torch.relu(block.shortcut(x) + body))
    assert one.bias is None and two.bias is None and isinstance(ResidualBlock(4, 4, norm).shortcut, nn.Identity)
    with pytest.raises(AssertionError):
        block(x)  # never silently without its context


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes_and_the_mirror() -> None:
    made: list[tuple[int, int]] = []

    def attend(channels: int, side: int) -> MaskedCrossAttention | None:
        made.append((channels, side))
        return MaskedCrossAttention(channels, side, 4, 0.75, 0.1, norm) if side <= 16 else None

    encoder, decoder = ResNetEncoder(3, 64, 48, 3, 2, norm), ResNetDecoder(2048, 64, 48, 3, 2, norm, attend)
    assert encoder.embed_dim == 3072 and made == [(192, 8), (96, 16), (48, 32)]
    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) == 13
    assert parameters(encoder) == pytest.approx(1.56e6, rel=0.01)
    extra = sum(parameters(found) for found in decoder.attentions().values())
    positions = 2 * (64 * 192 + 256 * 96)
    assert parameters(decoder) - extra == pytest.approx(7.5e6, rel=0.01)
    assert extra - positions == pytest.approx(0.185e6, rel=0.02)
    image = torch.randn(2, 3, 64, 64)
    maps = dict(encoder.maps(image))
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(48, 32, 32), (96, 16, 16), (192, 8, 8)]
    assert list(maps) == [32, 16, 8]
    assert encoder(image).shape == (2, 3072)
    noise = {side: found.draw(2, torch.Generator()) for side, found in decoder.attentions().items()}
    assert set(noise) == {8, 16} and decoder(torch.randn(2, 2048), maps, noise).shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="20 pixels cannot be halved 3 times"):
        ResNetEncoder(3, 20, 4, 2, 1, norm)
