"""Both attentions against brute force over their sets, and caching against no caching."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pvdr_bench.nets.st_transformer import Attention, Decoding, STBlock, STTransformer, window_order


def brute_force(attention: Attention, tokens: Tensor, allowed: Tensor) -> Tensor:
    """Attention of every token over its own explicit set, one query at a time. tokens [L, d], allowed [L, L]."""
    length, d = tokens.shape
    q, k, v = attention.qkv(tokens).view(length, 3, attention.heads, d // attention.heads).unbind(1)
    rows = []
    for i in range(length):
        members = allowed[i].nonzero()[:, 0]
        parts = []
        for head in range(attention.heads):
            scores = torch.stack([(q[i, head] * k[j, head]).sum() for j in members]) / (d // attention.heads) ** 0.5
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(wt * v[j, head] for wt, j in zip(weights, members, strict=True)))
        rows.append(torch.cat(parts))
    return attention.out(torch.stack(rows))


@pytest.mark.parametrize("causal", [True, False])
def test_block_equals_brute_force_over_its_sets(causal: bool) -> None:
    torch.manual_seed(0)
    frames, grid, window, d = 3, 4, 2, 8
    model = STTransformer(d, 2, 16, 1, grid, window, frames, causal).double()
    block = model.blocks[0]
    assert isinstance(block, STBlock)
    x = torch.randn(1, frames, grid, grid, d, dtype=torch.float64)
    t, i, j = torch.meshgrid(torch.arange(frames), torch.arange(grid), torch.arange(grid), indexing="ij")
    t, i, j = t.flatten(), i.flatten(), j.flatten()
    same_slot = t[:, None] == t[None]
    same_window = (i[:, None] // window == i[None] // window) & (j[:, None] // window == j[None] // window)
    temporal = same_window & (t[None] <= t[:, None]) if causal else same_window

    y = (x + model.pos_space + model.pos_time[:, None, None]).flatten(0, 3)
    y = y + brute_force(block.space, block.norm_space(y), same_slot)
    y = y + block.ff_space(y)
    y = y + brute_force(block.time, block.norm_time(y), temporal)
    y = model.norm(y + block.ff_time(y))
    torch.testing.assert_close(model(x).flatten(0, 3), y, rtol=1e-9, atol=1e-9)


def test_extending_a_cache_equals_the_whole_sequence() -> None:
    torch.manual_seed(1)
    model = STTransformer(16, 4, 32, 2, 4, 2, 6, causal=True)
    x = torch.randn(3, 6, 4, 4, 16)
    whole = model(x)
    first, cache = model.extend(x[:, :3], None)
    parts = [first]
    for k in range(3, 6):
        y, cache = model.extend(x[:, k:k + 1], cache)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


def test_causal_slots_do_not_see_the_future() -> None:
    torch.manual_seed(2)
    model = STTransformer(8, 2, 16, 2, 4, 4, 4, causal=True)
    x = torch.randn(1, 4, 4, 4, 8)
    changed = x.clone()
    changed[:, 3] = torch.randn(1, 4, 4, 8)
    torch.testing.assert_close(model(x)[:, :3], model(changed)[:, :3])
    assert not torch.allclose(model(x)[:, 3], model(changed)[:, 3])


def test_limits_are_refused() -> None:
    bidirectional = STTransformer(8, 2, 16, 1, 4, 2, 3, causal=False)
    x = torch.randn(1, 2, 4, 4, 8)
    _, cache = bidirectional.extend(x, None)
    with pytest.raises(ValueError, match="causal"):
        bidirectional.extend(x[:, :1], cache)
    with pytest.raises(ValueError, match="max_frames"):
        bidirectional(torch.randn(1, 4, 4, 4, 8))
    with pytest.raises(ValueError, match="window"):
        STTransformer(8, 2, 16, 1, 4, 3, 3, causal=False)


@pytest.mark.parametrize(("window", "parts"), [(2, (3, 1, 1)), (4, (1, 2, 2)), (1, (5,))])
def test_decoding_gives_the_newest_slot_of_the_whole_sequence_and_leaves_its_input_alone(
        window: int, parts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = STTransformer(8, 2, 16, depth=2, grid=4, window=window, max_frames=5, causal=True)
    x, order = torch.randn(3, 5, 4, 4, 8), window_order(4, window)
    with torch.no_grad():
        whole = net(x)
    decoding, at, before = Decoding(net), 0, x.clone()
    for count in parts:
        found = decoding.newest(x[:, at:at + count].flatten(2, 3)[:, :, order])
        at += count
        torch.testing.assert_close(found, whole[:, at - 1].flatten(1, 2)[:, order], rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before) and not found.requires_grad
    with pytest.raises(ValueError, match="6 slots, but max_frames is 5"):
        decoding.newest(x[:, :1].flatten(2, 3))
    with pytest.raises(ValueError, match="only a causal"):
        Decoding(STTransformer(8, 2, 16, depth=1, grid=4, window=2, max_frames=5, causal=False))


def test_window_order_goes_row_by_row_through_one_window_after_the_other() -> None:
    assert window_order(4, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert window_order(3, 3).tolist() == window_order(3, 1).tolist() == list(range(9))


@pytest.mark.parametrize("causal", [False, True])
def test_slots_that_are_the_same_for_all_are_as_if_they_were_repeated(causal: bool) -> None:
    """Outputs and gradients; they are worked on once in the first spatial half."""
    torch.manual_seed(0)
    net = STTransformer(8, 2, 16, depth=2, grid=4, window=2, max_frames=3, causal=causal)
    x, same, towards = torch.randn(5, 2, 4, 4, 8), torch.randn(1, 1, 4, 4, 8), torch.randn(5, 3, 4, 4, 8)
    x.requires_grad_()
    same.requires_grad_()
    wanted = net(torch.cat([same.expand(5, -1, -1, -1, -1), x], 1))
    found = net(x, same)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    inputs = [x, same, *net.parameters()]
    pairs = zip(torch.autograd.grad((found * towards).sum(), inputs),
                torch.autograd.grad((wanted * towards).sum(), inputs), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    sizes: list[int] = []
    net.blocks[0].space.register_forward_hook(lambda _, inputs, out: sizes.append(len(inputs[0])))
    net(x, same)
    assert sizes == [1, 10]
    with pytest.raises(ValueError, match="4 slots, but max_frames is 3"):
        net(torch.cat([x, x[:, :1]], 1), same)
