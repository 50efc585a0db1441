"""Doubling convolutions by phases against torch's own layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pvdr_bench.nets.phases import DoublingConvTranspose2d, UpsampledConv2d, upsampling_taps


def with_gradients(out: Tensor, *of: Tensor) -> list[Tensor]:
    """The output, and the gradients of a sum of its squares."""
    return [out, *torch.autograd.grad(out.square().sum(), of)]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_upsampled_convolution_is_that_of_the_doubled_map(kernel: int) -> None:
    torch.manual_seed(0)
    net, x = UpsampledConv2d(3, 4, kernel), torch.randn(2, 3, 5, 6, requires_grad=True)
    assert net.bias is not None
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    plain = F.conv2d(doubled, net.weight, net.bias, padding=kernel // 2)
    for ours, theirs in zip(with_gradients(net(x), x, net.weight, net.bias),
                            with_gradients(plain, x, net.weight, net.bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert set(net.state_dict()) == {"weight", "bias"}


def test_an_upsampled_row_reads_these_pixels() -> None:
    """Row 2 i of the doubled map and its neighbours are pixels i - 1, i - 1, i, i, i + 1; row 2 i + 1: one further."""
    assert upsampling_taps(5).tolist() == [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                                           [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]
    with pytest.raises(ValueError, match="a kernel of 4"):
        upsampling_taps(4)


@pytest.mark.parametrize(("kernel", "padding", "more"), [(3, 1, 1), (4, 1, 0), (5, 0, 0), (6, 0, 0), (6, 2, 1)])
def test_transposed_convolution_is_torchs(kernel: int, padding: int, more: int) -> None:
    torch.manual_seed(0)
    net, x = DoublingConvTranspose2d(3, 4, kernel, padding, more), torch.randn(2, 3, 5, 6, requires_grad=True)
    assert net.bias is not None
    plain = F.conv_transpose2d(x, net.weight, net.bias, 2, padding, more)
    assert net(x).shape == plain.shape
    for ours, theirs in zip(with_gradients(net(x), x, net.weight, net.bias),
                            with_gradients(plain, x, net.weight, net.bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_output_beyond_all_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="output padding of 1"):
        DoublingConvTranspose2d(3, 4, 6, 0, 1)


@pytest.mark.parametrize("kind", [UpsampledConv2d, DoublingConvTranspose2d])
def test_half_precision_is_near_full_precision(kind: type[UpsampledConv2d | DoublingConvTranspose2d]) -> None:
    """Outputs are of that precision, gradients of the weights' own, both within one percent."""
    torch.manual_seed(0)
    net, x = kind(8, 4, 5), torch.randn(2, 8, 5, 6)
    full = with_gradients(net(x), net.weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    half = with_gradients(out, net.weight)
    assert [one.dtype for one in half] == [torch.bfloat16, torch.float32]
    for ours, wanted in zip(half, full, strict=True):
        assert 0 < float((ours.float() - wanted).detach().norm()) < 0.01 * float(wanted.detach().norm())
