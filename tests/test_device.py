"""What has to hold on every device: the CPU, a pretended second one (tests/pretend_device.py), and a GPU where there is
one. ``pvdr-bench bench gpu-check`` runs this file on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.efficientzero.pretrain import FICCPretrainer
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.algorithms.registry import algorithms, load_object
from pvdr_bench.algorithms.stg.pretrain import STGPretrainer
from pvdr_bench.bench import dreamer, onestep, plan
from pvdr_bench.bench.step import count_flops
from pvdr_bench.catalog import load_catalog
from pvdr_bench.nets.st_transformer import STTransformer
from pvdr_bench.rl.contract import StageContext
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from tests.dummies import SYNC, make_envs, make_spec
from tests.pretend_device import pretend_device

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
IMAGE = 32
EVAL = 2 * SYNC
VIDEO_MODELS = ("apv", "contextwm", "prelar")  # which draw latents on their device, as STG draws dropout and FICC noise
ON_REAL_DEVICES = ("contextwm", "ficc")  # they ask a generator for its device, and new_tensor for one


@pytest.fixture(params=["cpu", "pretended", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device that there is."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    if request.param != "pretended":
        yield torch.device(request.param)
        return
    with pretend_device() as pretended:
        yield pretended


def close(found: dict[str, float], expected: dict[str, float], device: torch.device) -> bool:
    """Whether metrics agree: the pretended device computes as the CPU does, a GPU sums in another order."""
    exact = device.type == "cpu"
    return found.keys() == expected.keys() and all(
        math.isclose(value, expected[name], rel_tol=0.0 if exact else 1e-2, abs_tol=0.0 if exact else 1e-3)
        for name, value in found.items())


def frames(clips: int, length: int = 1) -> torch.Tensor:
    """Random pictures, uint8 [clips, length, H, W, 3]."""
    return torch.randint(256, (clips, length, IMAGE, IMAGE, 3), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(1))


def config_of(method: str) -> Any:
    """At scale smoke; starts from nothing, and DreamerV2 and APV learn sooner."""
    value = load_catalog().config(method, "smoke").value
    changes = {"pretrained": False} if hasattr(value, "pretrained") else {}
    if isinstance(value, DreamerConfig):
        changes["train"] = value.train.model_copy(update={"prefill": 16, "every": 4})
    return value.model_copy(update=changes)


# The pretended device ---------------------------------------------------------------------------------------------


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    def masked(values: torch.Tensor, mask: torch.Tensor, new: torch.Tensor) -> None:
        values[mask] = new

    mask = torch.tensor([True, True])
    with pretend_device() as there:
        a, b = torch.ones(2, device=there), torch.arange(2.0).to(there)
        assert (a + b).tolist() == [1.0, 2.0] and (a + torch.tensor(1.0)).device == there and a.cpu().device == CPU
        assert a[mask].tolist() == a[mask.to(there)].tolist() == [1.0, 1.0]
        for wrong in (lambda: a + torch.ones(2), lambda: torch.cat([a, torch.ones(2)]),
                      lambda: torch.where(mask, a, b), lambda: masked(a, mask, torch.ones(2)),
                      lambda: masked(torch.ones(2), mask, b), lambda: torch.ones(2)[mask.to(there)],
                      lambda: nn.Linear(2, 2).to(there)(torch.ones(2)),
                      lambda: torch.rand(2, generator=torch.Generator(), device=there)):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(RuntimeError, match="numpy"):
            a.numpy()


# What learns from videos ------------------------------------------------------------------------------------------


def steps_of(stage: str, device: torch.device) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Metrics of two steps and of a validation, after a state has gone to another learner; and the weights."""
    vqgan = config_of("tokenizer")
    tokenizer = VQGANLearner(vqgan, 0, CPU, IMAGE)
    inputs = {"tokenize": load_tokenizer(tokenizer.export(), vqgan, device)}
    codes = inputs["tokenize"].encode(frames(4, 4).to(device)).cpu()
    kind, config, batch = {
        "tokenizer": (VQGANLearner, vqgan, frames(8)),
        "pvdr": (PVDRPretrainer, config_of("pvdr"), codes),
        "pvdr-context": (PVDRPretrainer, config_of("pvdr-context"), codes),
        "stg": (STGPretrainer, config_of("stg"), frames(2, 7)),
        "ficc": (FICCPretrainer, config_of("ficc"), frames(2, 7)),
        **{name: (VideoPretrainer, config_of(name), frames(2, 6)) for name in VIDEO_MODELS}}[stage]
    found = []
    for seed in (0, 1):
        learner = kind.for_stage(StageContext(config, seed, device, IMAGE, inputs))
        if found:
            learner.load_state_dict(state)  # noqa: F821
        found.append(learner.update(batch))
        state = learner.state_dict()  # noqa: F841
    return [*found, learner.validate(batch)], learner.export()


@pytest.mark.parametrize("stage", ["tokenizer", "pvdr", "pvdr-context", *VIDEO_MODELS, "ficc", "stg"])
def test_a_stage_learns_as_on_the_cpu(stage: str, device: torch.device) -> None:
    if stage in ON_REAL_DEVICES and device.type == "cpu" and device.index:
        pytest.skip(f"{stage} asks torch for what the pretended device does not pretend")
    found, weights = steps_of(stage, device)
    assert all(type(value) is torch.Tensor and value.device == CPU for value in weights.values())
    if stage in (*VIDEO_MODELS, "ficc", "stg") and device.type == "cuda":  # a GPU draws numbers of its own
        assert all(math.isfinite(value) for row in found for value in row.values())
        return
    expected, _ = steps_of(stage, CPU)
    assert all(close(a, b, device) for a, b in zip(found[:2], expected[:2], strict=True)), (found, expected)
    assert found[2].keys() == expected[2].keys() and all(math.isfinite(value) for value in found[2].values())


def test_codes_are_those_of_the_cpu(device: torch.device) -> None:
    vqgan, pictures = config_of("tokenizer"), frames(16)[:, 0]
    weights = VQGANLearner(vqgan, 0, CPU, IMAGE).export()
    here, there = (load_tokenizer(weights, vqgan, place) for place in (CPU, device))
    codes, expected = there.encode(pictures.to(device)), here.encode(pictures)
    assert codes.device.type == device.type and codes.device.index in (device.index, 0)
    assert float((codes.cpu() == expected).float().mean()) >= (1.0 if device.type == "cpu" else 0.99)
    drawn = there.decode(expected.to(device)).cpu().int() - here.decode(expected).int()
    assert int(drawn.abs().max()) <= (0 if device.type == "cpu" else 2)


# What acts --------------------------------------------------------------------------------------------------------


def do_run(method: str, device: torch.device, results: Path, env_steps: int) -> RunDir:
    """A run of a method at scale smoke in the dummy suite, with a tokenizer of random weights."""
    catalog = load_catalog()
    algorithm = catalog.config(method, "smoke").method.algorithm
    config, vqgan = config_of(method), config_of("tokenizer")
    info = algorithms()[algorithm]
    spec = make_spec(algorithm, env_steps=env_steps, config=config.model_dump(mode="json"), image_size=IMAGE,
                     goal_metric="code_l1_blur", eval_every=EVAL, eval_episodes=1, eval_final_episodes=1)
    weights = VQGANLearner(vqgan, 0, CPU, IMAGE).export()
    made = {"pretrain": STGPretrainer(config, 0, CPU).export()} if algorithm == "stg" else {}
    assert info.learner is not None
    pieces = Pieces(make_envs=make_envs, make_learner=load_object(info.learner), config=config, device=device,
                    tokenizer=load_tokenizer(weights, vqgan, device), artefacts={"tokenize": weights, **made},
                    artefact_config={"tokenize": vqgan}, on_policy=info.on_policy)
    assert execute(spec, results, lambda: (pieces, {}), lambda: False, device)
    return RunDir(spec.path(results))


@pytest.fixture(scope="module")
def runs_here(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDir]:
    """Runs on the CPU, each in one go."""
    return cache(lambda method: do_run(method, CPU, tmp_path_factory.mktemp(method), 2 * SYNC))


@pytest.mark.parametrize("method", ["ppo", "stg", "pvdr", "pvdr-context", "dreamerv2", "apv", "dreamerv3"])
def test_a_run_learns_and_goes_on_from_its_checkpoint(
        method: str, device: torch.device, runs_here: Callable[[str], RunDir], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.algorithms.dreamer.learner.LOG_EVERY", 2)
    do_run(method, device, tmp_path, SYNC)
    found = do_run(method, device, tmp_path, 2 * SYNC)
    rows, played = found.read_train(), found.read_episodes()
    assert any("loss" in name for row in rows for name in row) and played[-1]["env_steps"] == 2 * SYNC
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    expected = runs_here(method)
    assert [row.keys() for row in rows] == [row.keys() for row in expected.read_train()]
    if device.type == "cpu":  # so a checkpoint left nothing out
        assert rows == expected.read_train()
        assert played[-1] == expected.read_episodes()[-1]


def test_plans_are_equal_with_and_without_caches(device: torch.device) -> None:
    assert plan.measure(candidates=2, future_frames=3, repeats=1, device=str(device))["equal"]


def test_the_scan_over_time_is_that_of_the_cpu(device: torch.device, tmp_path: Path) -> None:
    config, protocol = dreamer.recipe("dreamerv2", "smoke")
    replay = EpisodeReplay(tmp_path, protocol.num_envs, protocol.image_size, dreamer.ACTIONS)
    rssm = dreamer.make_learner(config, protocol, replay, CPU, 0).model.rssm
    generator = torch.Generator().manual_seed(0)
    embed = torch.randn(2, 5, rssm.obs_out[0].in_features - rssm.deter, generator=generator)
    action, uniform = (torch.rand(2, 5, size, generator=generator) for size in (4, rssm.stoch))
    given, results = (embed, action, torch.arange(5).expand(2, 5) == 0, uniform), []
    for place in (CPU, device):
        rssm.to(place)
        post, prior = rssm.scan(*(x.to(place) for x in given))
        results.append(({name: x.detach().cpu() for name, x in post.items()}, prior.detach().cpu()))
    assert dreamer.compare(*results, uniform)["equal"]


# What is measured -------------------------------------------------------------------------------------------------


def test_operations_are_counted_alike(device: torch.device) -> None:
    net = STTransformer(16, 2, 32, 1, 4, 2, 3, causal=False).to(device)
    x = torch.zeros(2, 3, 4, 4, 16, device=device)
    here = STTransformer(16, 2, 32, 1, 4, 2, 3, causal=False)
    assert count_flops(lambda: net(x).sum().backward()) == count_flops(
        lambda: here(torch.zeros(2, 3, 4, 4, 16)).sum().backward()) > 0


@pytest.mark.parametrize("stage", onestep.STAGES)
def test_a_step_of_every_stage(stage: str, device: torch.device) -> None:
    found = onestep.measure("smoke", str(device), stages=(stage,))[stage]
    costs = [found[name] for name in ("decision", "finetune", "policy")] if stage == "online" else [found]
    assert all(cost["seconds"] > 0 for cost in costs)
    assert all((cost["device_gib"] is None) == (device.type != "cuda") for cost in costs)


@pytest.mark.parametrize("method", ["dreamerv2", "apv", "dreamerv3"])
def test_an_update_of_a_world_model(method: str, device: torch.device) -> None:
    found = dreamer.measure(method, ("smoke",), 0.01, (), str(device))["smoke"]
    assert found["update"]["seconds"] > 0 and found["scan"]["plain_seconds"] > 0
