"""``bench step``: operations are counted right, and its figures fit together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pvdr_bench.bench.step import count_flops, matmul_peak, measure


def test_operations_of_a_linear_layer_and_its_gradient():
    layer, x = nn.Linear(8, 16, bias=False), torch.randn(4, 8)
    product = 2 * 4 * 8 * 16
    assert count_flops(lambda: layer(x)) == product
    assert count_flops(lambda: layer(x).sum().backward()) == 2 * product  # x needs no gradient


def test_attention_on_the_cpu_is_counted():
    q = torch.randn(2, 3, 10, 16)
    attend = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(q, q, q)) == 2 * (2 * 2 * 3 * 10 * 10 * 16)


def test_figures_fit_together():
    threads = torch.get_num_threads()
    found = measure("smoke", seconds=0.05)
    assert torch.get_num_threads() == threads and found["threads"] == 1
    for stage in ("tokenizer", "pretrain", "online"):
        figures = found[stage]
        assert figures["flops_per_second"] == pytest.approx(figures["flops_per_step"] * figures["steps_per_second"])
        peak = found["matmul_peak"][figures["dtype"]]
        assert 0 < figures["share_of_peak"] < 1.5 and figures["share_of_peak"] == figures["flops_per_second"] / peak
    assert found["pretrain"]["batch"] == found["pretrain"]["measured_batch"] == 4
    assert found["online"]["decisions_per_second"] == pytest.approx(20 * found["online"]["steps_per_second"])


def test_peak_is_that_of_a_real_machine():
    assert 1e8 < matmul_peak(torch.device("cpu"), size=256) < 1e14
