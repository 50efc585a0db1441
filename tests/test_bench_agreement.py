"""``bench agreement`` without any checkout: names of weights, replayed draws, borrowed modules, the report, errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.bench.agreement import contextwm, dreamerv3, measure, prelar, wmlib
from pvdr_bench.bench.agreement.checkout import Layout, Settings, borrowed
from pvdr_bench.bench.agreement.draws import Draws, double_precision, replayed
from pvdr_bench.bench.agreement.report import compare_tensors, compare_values, judge
from pvdr_bench.bench.agreement.weights import give, gradients, state, stir, translate
from pvdr_bench.cli.main import app
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.cross_attention import MaskedCrossAttention
from pvdr_bench.nets.layers import BlockLinear
from pvdr_bench.nets.resnet import ResidualBlock

CONFIGS = {"contextwm": (contextwm, wmlib.small("contextwm")), "prelar": (prelar, prelar._small(1.0))}


class OtherBlock(nn.Module):
    """A residual block under the names of the codes that are compared with, typed anew."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5))
        self.res_block = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
                                       nn.Conv2d(5, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.identity(x) + self.res_block(x)).relu()


# Weights ----------------------------------------------------------------------------------------------------------


def test_a_block_with_our_weights_does_and_learns_the_same():
    ours, theirs, g = ResidualBlock(3, 5, nn.BatchNorm2d), OtherBlock(), torch.Generator().manual_seed(0)
    stir(ours, g)
    rules = [*wmlib.block_rules("ours", "theirs")]
    named = translate({f"ours.{name}": value for name, value in state(ours).items()}, rules)
    give(theirs, {name.removeprefix("theirs."): value for name, value in named.items()}, wmlib.LEAVE)
    x = torch.randn(4, 3, 6, 6, generator=g)
    outs = [net(x) for net in (ours, theirs)]
    torch.testing.assert_close(*outs)
    for out in outs:
        out.square().sum().backward()
    found = translate({f"block.{name}": value for name, value in gradients(ours).items()},
                      wmlib.block_rules("block", "block"))
    wanted = {f"block.{name}": value for name, value in gradients(theirs).items()}
    assert max(compare_tensors(found, wanted).values()) < 1e-5


def test_tensors_are_renamed_joined_and_split():
    rules = [(r"a\.(\d)", r"b.\1"), ("first", "both#0"), ("second", "both#1"), ("pair", ("left", "right"))]
    found = translate({"a.3": torch.ones(2), "second": torch.full((1,), 2.0), "first": torch.ones(1),
                       "pair": torch.arange(4.0)}, rules)
    assert {name: value.tolist() for name, value in found.items()} == {
        "b.3": [1, 1], "both": [1, 2], "left": [0, 1], "right": [2, 3]}
    with pytest.raises(SetupError, match="no rule for what unknown is called"):
        translate({"unknown": torch.ones(1)}, rules)
    with pytest.raises(SetupError, match=r"two of our weights are called b\.3"):
        translate({"a.3": torch.ones(1), "c": torch.ones(1)}, [*rules, ("c", "b.3")])


def test_weights_that_do_not_pair_are_named():
    net = nn.Linear(2, 3)
    with pytest.raises(SetupError, match="do not pair: bias, other"):
        give(net, {"weight": torch.zeros(3, 2), "other": torch.zeros(1)})
    with pytest.raises(SetupError, match=r"weight has the shape \(3, 2\) there and \(2, 3\) here"):
        give(net, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})
    give(net, {"weight": torch.ones(3, 2)}, leave=("bias",))
    assert net.weight.eq(1).all()


@pytest.mark.parametrize("method", CONFIGS)
def test_every_weight_of_ours_has_a_name_of_its_own_there(method):
    module, config = CONFIGS[method]
    model = WorldModel(config, wmlib.ACTIONS, two_hot=False, discount=False)
    nets = (model, VideoPretrainer(config, 0, torch.device("cpu")).model,
            Behaviour(config, model.rssm.feature_dim, wmlib.ACTIONS))
    for net in nets:
        ours = {name: value for name, value in state(net).items() if name != "bonus.filled"}
        found = translate(ours, module.rules(config))  # two of one name would be an error
        assert sum(x.numel() for x in found.values()) == sum(x.numel() for x in ours.values())


def test_every_weight_of_dreamerv3_has_a_name_of_its_own_there():
    config = dreamerv3.small()
    model = WorldModel(config, dreamerv3.ACTIONS, two_hot=True, discount=True)
    behaviour = Behaviour(config, model.rssm.feature_dim, dreamerv3.ACTIONS)
    ours = {**state(model), **state(behaviour)}
    found = translate(dreamerv3.laid_out(ours, config), dreamerv3.rules(config))
    assert sum(x.numel() for x in found.values()) == sum(x.numel() for x in ours.values())


def test_a_block_diagonal_layer_does_the_same_in_the_layout_there():
    layer, x = BlockLinear(6, 4, 2), torch.arange(6.0)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    weight = dreamerv3.laid_out({"gates.weight": layer.weight}, dreamerv3.small())["gates.weight"]
    torch.testing.assert_close(torch.einsum("gi,oig->go", x.view(2, 3), weight).flatten(), layer(x))


# Draws ------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_what_was_given():
    logits = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]]))
    dist = torch.distributions.OneHotCategorical(logits=logits)
    draws = Draws(latent=[torch.tensor([[0.1]]), None, torch.tensor([[0.9]])], order=[torch.tensor([[3.0, 1.0]])],
                  frame=[torch.tensor([4, 2])], dropout=[torch.tensor([True, False])], action=[torch.tensor([0.25])],
                  normal=[torch.tensor([2.0])], shuffle=[torch.tensor([1, 0])])
    with replayed(draws):
        assert [int(dist.sample().argmax()) for _ in range(3)] == [0, 1, 2]
        assert torch.rand(1, 2).tolist() == [[3, 1]]
        assert np.random.choice(5, 2).tolist() == [4, 2]
        assert nn.functional.dropout(torch.ones(2), 0.5).tolist() == [2, 0]
        assert nn.functional.dropout(torch.ones(2), 0.5, training=False).tolist() == [1, 1]
        assert torch.empty(1).uniform_(0.0, 1.0).item() == 0.25
        assert torch.distributions.Normal(torch.ones(1), torch.full((1,), 3.0)).rsample().item() == 7
        assert torch.randperm(2).tolist() == [1, 0]
        assert torch.distributions.Uniform(0, 1).sample().shape == ()  # an ensemble's index is left alone
    assert torch.rand(1).shape == (1,)  # and after it torch draws as ever


def test_the_context_drops_there_what_it_drops_here():
    side, length, heads = 2, 3, 2
    attention = MaskedCrossAttention(4, side, heads, 0.0, 0.25, nn.BatchNorm2d).train()
    generator = torch.Generator().manual_seed(0)
    noise = ContextNoise.draw({side: attention}, 2, length, generator)
    drawn = noise.attention[side]
    ones = torch.ones(2 * length, heads, side * side, attention.kept), torch.ones(2 * length, side * side, 4)
    with replayed(Draws(dropout=wmlib.context_draws(noise, length)["dropout"])):
        there = [nn.functional.dropout(one, 0.25) for one in ones]
    here = [attention._scaled(attention._without(one, taken), taken)
            for one, taken in zip(ones, (drawn.weights, drawn.output), strict=True)]
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours, theirs) and 0 < float((ours == 0).float().mean()) < 0.5


def test_the_comparison_makes_attention_in_more_than_one_part():
    model = WorldModel(CONFIGS["contextwm"][1], wmlib.ACTIONS, two_hot=False, discount=False)
    maps = wmlib.BATCH * wmlib.LENGTH
    parts = [len(one._parts(torch.empty(maps, one.heads, one.side**2, 1))) for one in
             model.decoder.attentions().values()]
    assert max(parts) > 1


def test_other_draws_than_were_given_are_an_error():
    with pytest.raises(SetupError, match="draws more numbers of the kind shuffle"), replayed(Draws()):
        torch.randperm(3)
    with pytest.raises(SetupError, match=r"draws \(2, 2\) of the kind order where \(1, 2\) was expected"), \
            replayed(Draws(order=[torch.ones(1, 2)])):
        torch.rand(2, 2)
    with pytest.raises(SetupError, match=r"did not draw all that it was given: \{'normal': 1\}"), \
            replayed(Draws(normal=[torch.ones(1)])):
        pass


def test_double_precision_is_also_what_asks_for_float32():
    with double_precision():
        assert nn.Linear(1, 1).weight.dtype is torch.ones(1, dtype=torch.uint8).float().dtype is torch.float64
    assert torch.ones(1, dtype=torch.uint8).float().dtype is torch.get_default_dtype() is torch.float32


# Checkouts --------------------------------------------------------------------------------------------------------

LAYOUT = Layout("somebody/something", "0" * 40, ("borrowedlib.parts.small", "borrowedlib.model"), {"HALF": False},
                ("notinstalled_agreement", "notinstalled_agreement.deep"))


def checkout(root: Path) -> Path:
    parts = root / "borrowedlib" / "parts"
    parts.mkdir(parents=True)
    (root / "borrowedlib" / "__init__.py").write_text("raise RuntimeError('what an environment needs')\n")
    (parts / "small.py").write_text("from notinstalled_agreement.deep import Kind\n\ndef one(x: Kind['a', 'b']):\n"
                                    "    return x + 1\n")
    (root / "borrowedlib" / "model.py").write_text("from . import HALF, parts\n\ndef two(x):\n"
                                                   "    return parts.one(parts.one(x)), HALF\n")
    return root


def test_modules_are_borrowed_without_what_they_do_not_need(tmp_path):
    with borrowed(checkout(tmp_path), LAYOUT) as modules:
        assert modules["borrowedlib.model"].two(1) == (3, False)
    assert not [name for name in sys.modules if name.startswith(("borrowedlib", "notinstalled"))]
    assert str(tmp_path) not in sys.path


def test_a_checkout_without_a_file_is_told_in_one_sentence(tmp_path):
    (checkout(tmp_path) / "borrowedlib" / "model.py").unlink()
    with pytest.raises(SetupError, match=r"no checkout of somebody/something: there is no borrowedlib/model\.py"
                       ) as told, borrowed(tmp_path, LAYOUT):
        pass
    assert " more" not in told.value.message and told.value.where == str(tmp_path)
    assert "git clone https://github.com/somebody/something" in told.value.hint


def test_a_module_that_cannot_be_imported_is_told(tmp_path):
    (checkout(tmp_path) / "borrowedlib" / "model.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(SetupError, match=r"borrowedlib\.model of somebody/something cannot be imported"), \
            borrowed(tmp_path, LAYOUT):
        pass


def test_settings_are_read_and_set_by_key_and_by_attribute():
    found = Settings({"a": {"b": 1}})
    found.a.d = 2
    assert found.a.b == 1 and {**found.a} == {"b": 1, "d": 2} and not hasattr(found, "c")


def test_a_name_that_is_taken_is_given_back(tmp_path, monkeypatch):
    (tmp_path / "tools.py").write_text("here = False\n")
    monkeypatch.setitem(sys.modules, "tools", taken := ModuleType("tools"))
    with borrowed(tmp_path, Layout("somebody/flat", "0" * 40, ("tools",))) as modules:
        assert modules["tools"].here is False
    assert sys.modules["tools"] is taken


# Report -----------------------------------------------------------------------------------------------------------


def test_differences_are_relative_to_what_is_there():
    row = compare_values({"loss": torch.tensor(2.0)}, {"loss": 4.0})["loss"]
    assert row == {"ours": 2.0, "theirs": 4.0, "absolute": 2.0, "relative": 0.5}
    with pytest.raises(KeyError, match="image"):
        compare_values({"loss": 1.0}, {"loss": 1.0, "image": 1.0})


def test_a_tensor_that_is_almost_zero_is_measured_by_its_module():
    theirs = {"net.a.weight": torch.tensor([3.0, 4.0]), "net.a.bias": torch.zeros(1), "net.b.bias": torch.ones(1)}
    ours = {**theirs, "net.a.bias": torch.full((1,), 1e-8)}
    found = compare_tensors(ours, theirs)
    assert found["net.b"] == 0 and found["net.a"] == pytest.approx(1e-8 / 5e-3, rel=1e-5)


def test_what_is_beyond_the_tolerance_is_named_also_nan():
    same = compare_values({"loss": 1.0}, {"loss": 1.0})
    nan = compare_values({"loss": float("nan")}, {"loss": 1.0})
    assert judge({"a": {"values": same, "gradients": {"net": 1e-12}}}) == []
    assert judge({"a": {"values": nan}, "b": {"values": same, "gradients": {"net": 1e-3}, "buffers": {"bn": 0.0}}}
                 ) == ["a: loss", "b: gradients of net"]


# Command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_lacks(tmp_path):
    with pytest.raises(UsageError, match="nothing to compare dreamerv9 with"):
        measure("dreamerv9", str(tmp_path))
    with pytest.raises(UsageError, match="no checkout of thuml/ContextWM is named"):
        measure("contextwm")
    with pytest.raises(SetupError, match=r"no checkout of thuml/ContextWM: there is no wmlib/core/dists\.py and 14 "):
        measure("contextwm", str(tmp_path))


def test_what_differs_is_the_commands_exit_code(monkeypatch):
    found = {"comparisons": {}, "failed": ["online: kl"]}
    monkeypatch.setattr("pvdr_bench.bench.agreement.measure", lambda method="contextwm", checkout="", seed=0: found)
    ran = CliRunner().invoke(app, ["bench", "agreement", "--json", "-o", "checkout=somewhere"])
    assert ran.exit_code == 1 and json.loads(ran.stdout) == found
    found["failed"] = []
    assert CliRunner().invoke(app, ["bench", "agreement", "--json"]).exit_code == 0
