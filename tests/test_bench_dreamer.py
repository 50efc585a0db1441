"""``bench replay`` and ``bench dreamer``: figures mean what they say, at sizes that take seconds."""

from __future__ import annotations

import json
import mmap
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pvdr_bench.bench import dreamer, memory, replay
from pvdr_bench.cli.main import app
from pvdr_bench.errors import UsageError
from pvdr_bench.rl.replay.episodes import EpisodeReplay

CPU = torch.device("cpu")


class SlowReplay(EpisodeReplay):
    """Sampling takes 0.2 s longer."""

    def sample(self, rng: torch.Generator, batch: int, length: int) -> dict[str, torch.Tensor]:
        time.sleep(0.2)
        return super().sample(rng, batch, length)


def learner_of(kind: type[EpisodeReplay], folder: Path, method: str = "dreamerv2"):
    config, protocol = dreamer.recipe(method, "smoke")
    stored = kind(folder, protocol.num_envs, protocol.image_size, dreamer.ACTIONS)
    dreamer.fill(stored, 60, 0)
    return dreamer.make_learner(config, protocol, stored, CPU, 0)


def test_replay_by_the_command() -> None:
    result = CliRunner().invoke(app, ["bench", "replay", "--json", "-o", "scale=smoke", "-o", "entries=200",
                                      "-o", "seconds=0.05", "-o", "length=5"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["length"] == 5 and found["batch"] == 2 and found["entries"] == 200
    assert found["batch_bytes"] == 2 * 5 * 32 * 32 * 3
    assert found["bytes_per_second"] == pytest.approx(found["batch_bytes"] / found["sample_seconds"])
    assert 0 < found["share_of_update"] < 1 and found["largest_share"] == 0.05 and isinstance(found["kept"], bool)
    assert found["prioritised_draw_seconds"] > 0 and found["write_back_seconds"] > 0
    assert found["append_seconds"] > 0 and set(found["sample_peak_bytes"]) == {"quarter", "all"}


@pytest.mark.parametrize(("share", "kept"), [(0.0, True), (0.049, True), (0.05, True), (0.051, False), (0.9, False)])
def test_the_verdict_is_of_the_promised_share(monkeypatch: pytest.MonkeyPatch, share: float, kept: bool) -> None:
    monkeypatch.setattr(replay, "share_of_update", lambda *_: {"share_of_update": share, "update_seconds": 1.0})
    monkeypatch.setattr(replay, "_storing", lambda *_: {"cold_sample_seconds": None})
    monkeypatch.setattr(replay, "_prioritised", lambda *_: {})
    found = replay.measure(scale="smoke")
    assert found["share_of_update"] == share and found["kept"] is kept and found["largest_share"] == 0.05


def test_the_share_is_that_of_the_sampling(tmp_path: Path) -> None:
    slow, usual = (learner_of(kind, tmp_path / kind.__name__) for kind in (SlowReplay, EpisodeReplay))
    share, fast = replay.share_of_update(slow, 0.4), replay.share_of_update(usual, 0.4)
    sampling = share["share_of_update"] * share["update_seconds"]
    assert 0.2 <= sampling < share["update_seconds"]
    assert fast["share_of_update"] < share["share_of_update"]
    started = time.perf_counter()
    slow.update()
    assert time.perf_counter() - started > 0.2


@pytest.mark.skipif(memory.resident_bytes() is None, reason="no /proc")
def test_the_peak_is_that_of_the_work_and_starts_anew() -> None:
    size = 64 * 2**20
    for wanted in (size, 0):
        memory.reset_peaks(CPU)
        before = memory.resident_bytes()
        if wanted:  # pages of its own: what malloc gives may be resident already
            with mmap.mmap(-1, wanted) as held:
                for start in range(0, wanted, mmap.PAGESIZE):
                    held[start] = 1
        peak = memory.resident_bytes(peak=True)
        assert before is not None and peak is not None
        assert wanted * 0.9 <= peak - before < wanted + size / 2


@pytest.mark.parametrize("method", ["dreamerv2", "apv", "contextwm", "prelar", "dreamerv3"])
def test_parts_of_an_update_sum_to_it(method: str, tmp_path: Path) -> None:
    learner = learner_of(EpisodeReplay, tmp_path, method)
    found = dreamer.measure_update(learner, 1e-6)  # one update, which is no warm-up then
    backward = {"backward"} if method == "dreamerv3" else {"model_backward", "behaviour_backward"}
    assert set(found["parts"]) == {"sample", "model_forward", "behaviour_forward", "optimisers", "other"} | backward
    assert all(part > 0 for part in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])
    assert found["parameters"]["world_model"] == sum(p.numel() for p in learner.model.parameters())
    assert found["peak_device_bytes"] is None and learner.updates == found["measured_updates"] == 1


def test_time_inside_a_wrapped_call_counts_once() -> None:
    class Nested:
        def inner(self) -> None:
            time.sleep(0.05)

        def outer(self) -> None:
            time.sleep(0.02)
            self.inner()

    nested, watch = Nested(), dreamer.Stopwatch(CPU)
    watch.wrap(nested, "inner", "inner")
    watch.wrap(nested, "outer", "outer")
    started = time.perf_counter()
    nested.outer()
    whole = time.perf_counter() - started
    assert watch.seconds["inner"] >= 0.05 and watch.seconds["outer"] >= 0.02
    assert sum(watch.seconds.values()) <= whole


def test_scan_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("No working C++ compiler found\nsecond line")

    learner = learner_of(EpisodeReplay, tmp_path)
    monkeypatch.setattr(torch, "compile", broken)
    found = dreamer.measure_scan(learner, 0.02, ("step",), 0)
    assert found["compiler"] == "RuntimeError: No working C++ compiler found" and "step" not in found
    assert dreamer.measure_scan(learner, 0.02, (), 0)["compiler"] == "not asked for"


@pytest.mark.parametrize("form", ["step", "scan"])
def test_a_compiled_form_is_compared_and_taken_away_again(form: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that changes nothing: real ones take longer than this test may."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    learner = learner_of(EpisodeReplay, tmp_path, "apv")
    found = dreamer.measure_scan(learner, 0.05, (form,), 0)
    assert found["compiler"] == "works" and found[form]["equal"] and found[form]["max_difference"] == 0
    assert found[form]["compiled_over_plain"] == pytest.approx(found[form]["seconds"] / found["plain_seconds"])
    assert not {"observe", "scan"} & set(vars(learner.model.rssm))


def test_differences_are_seen_and_boundaries_excused(tmp_path: Path) -> None:
    rssm = learner_of(EpisodeReplay, tmp_path).model.rssm
    embed = torch.randn(2, 5, rssm.obs_out[0].in_features - rssm.deter)
    first, uniform = torch.arange(5).expand(2, 5) == 0, torch.rand(2, 5, rssm.stoch)
    with torch.no_grad():
        plain, prior = rssm.scan(embed, torch.zeros(2, 5, 4), first, uniform)
        other = {name: x.clone() for name, x in plain.items()}
        assert dreamer.compare((plain, prior), (other, prior), uniform)["equal"]
        other["logits"][1, 3] += 1
        assert not dreamer.compare((plain, prior), (other, prior), uniform)["equal"]
        other = {name: x.clone() for name, x in plain.items()}
        other["stoch"][0, 2, 0] = other["stoch"][0, 2, 0].roll(1)  # another class,
        other["deter"][0, 3:] += 1  # and with it another way
        clear = uniform.clone()
        cdf = plain["logits"][0, 2, 0].softmax(-1).cumsum(-1)
        clear[0, 2, 0] = cdf[0] / 2
        assert not dreamer.compare((plain, prior), (other, prior), clear)["equal"]
        clear[0, 2, 0] = cdf[0]
        found = dreamer.compare((plain, prior), (other, prior), clear)
    assert found["equal"] and found["differing_samples"] == 1 and found["compared_steps"] == 10 - 2


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="algorithm ppo"):
        dreamer.recipe("ppo", "smoke")
    with pytest.raises(UsageError, match="step and scan"):
        dreamer.measure(scales=("smoke",), compiled=("everything",))


def test_dreamer_by_the_command() -> None:
    result = CliRunner().invoke(app, ["bench", "dreamer", "--json", "-o", "scales=[smoke]", "-o", "seconds=0.05",
                                      "-o", "compiled=[]", "-o", "method=apv"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["method"] == "apv" and found["smoke"]["update"]["batch"] == 2
    assert found["smoke"]["scan"]["plain_seconds"] > 0
