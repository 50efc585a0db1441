"""Where a run's seconds and FLOP went: the stopwatch, the counting, and the rows of ``timing.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pvdr_bench.rl.flop import FlopCounter, counted
from pvdr_bench.rl.stopwatch import Spent, Stopwatch


def test_a_stopwatch_counts_parts_and_parts_of_parts() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch("learn"):
            with watch("policy"):
                time.sleep(0.01)
            time.sleep(0.005)
    with pytest.raises(ValueError, match="broken"), watch("act"):
        raise ValueError("broken")
    watch.add("start", 2.0)
    spent = watch.take()
    found = spent.seconds
    assert list(found) == ["act", "learn", "learn.policy", "start"] and found["start"] == 2.0
    assert 0.03 <= found["learn.policy"] < found["learn"] - 0.014
    assert spent.calls == {"act": 1, "learn": 3, "learn.policy": 3} and spent.flop is None
    with watch("env"):
        watch.within({"physics": 1.0})
    assert list(watch.take().seconds) == ["env", "env.physics"] and watch.take() == Spent()


def _product(rows: int, inner: int) -> None:
    torch.ones(rows, inner) @ torch.ones(inner, 5)


def test_flop_of_parts_are_counted_in_some_calls_and_known_of_all() -> None:
    watch = Stopwatch(count_flop=True)
    for rows in range(1, 12):  # a call of 2 x 3 x 5 FLOP a row; calls 1 and 4 are counted
        with watch("act", rows):
            _product(rows, 3)
            with watch("plan"):
                _product(1, 7)
    with watch("learn"):
        pass
    assert [call for call in range(1, 300) if counted(call)] == [1, 4, 16, 64, 256]
    assert watch.take().flop == {"act": 30.0 * sum(range(1, 12)), "act.plan": 11 * 70.0}
    watch.set_kind("evaluation")  # in which acting is another thing
    with watch("act"):
        _product(1, 4)
    assert watch.take().flop == {"act": 40.0}
    watch.count_no_flop()
    with watch("act"):
        _product(1, 4)
    assert watch.take().flop is None


class Parts(torch.nn.Module):
    """The layers that learners are made of, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.image = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.BatchNorm2d(8),
            torch.nn.Upsample(scale_factor=2), torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), torch.nn.ELU(),
            torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.LayerNorm(32),
            torch.nn.GELU())
        self.attention = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
        self.memory, self.norm = torch.nn.GRUCell(32, 32), torch.nn.RMSNorm(32)
        self.heads = torch.nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.attention(self.image(picture)[None])[0]
        x = torch.nn.functional.mish(self.norm(self.memory(x, x)))
        x = torch.einsum("bki,kio->bko", x.view(-1, 4, 8), self.heads)
        return torch.nn.functional.softplus(x).log_softmax(-1) - torch.nn.functional.huber_loss(x, x.detach() + 1)


@pytest.mark.parametrize("without", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_counting_changes_no_bit(without: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    net, picture = Parts(), torch.randn(16, 3, 8, 8)

    def went() -> list[torch.Tensor]:
        with without():
            out = net(picture)
        if out.requires_grad:
            net.zero_grad()
            out.square().sum().backward()
        return [out.clone(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    plain = went()
    with FlopCounter() as counter:
        seen = went()
    learned = len(list(net.parameters())) if plain[0].requires_grad else 0
    assert counter.flop > 0 and len(plain) == len(seen) == 1 + learned
    assert all(map(torch.equal, plain, seen))


def test_flop_of_layers_are_those_of_the_formulas() -> None:
    rows, length, width, hidden = 3, 7, 16, 40
    linear = torch.nn.Linear(width, hidden)
    x = torch.randn(rows, width, requires_grad=True)
    with FlopCounter() as counter:
        linear(x).sum().backward()
    forward = 2 * rows * width * hidden
    assert counter.flop == 3 * forward  # and backwards as much for the input, and for the weights
    layer = torch.nn.TransformerEncoderLayer(width, 4, hidden, dropout=0.0, batch_first=True)
    tokens = torch.randn(rows, length, width)
    with FlopCounter() as counter:
        counted_out = layer(tokens)
    projections, attention = 4 * width * width + 2 * width * hidden, 2 * length * length * width
    assert counter.flop == 2 * rows * (length * projections + attention)
    torch.testing.assert_close(counted_out, layer(tokens), rtol=0, atol=0)
    with FlopCounterMode(display=False) as theirs, sdpa_kernel(SDPBackend.MATH):
        layer(tokens)
        torch.nn.functional.conv2d(torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3))
    assert not hasattr(FlopCounter.__torch_dispatch__, "__wrapped__")  # by what would import the compiler
    assert theirs.get_total_flops() == counter.flop + 2 * 2 * 36 * 4 * 27
