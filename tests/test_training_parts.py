"""Replay, goal reward, rank correlation and the offline loop, each against an independent computation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from pvdr_bench.errors import CatalogError, DataError, Interrupted, TrainingError, UsageError
from pvdr_bench.nets.blur import box_blur
from pvdr_bench.rl.config import Schedule
from pvdr_bench.rl.contract import OfflineLearner, StageContext, Transition
from pvdr_bench.rl.facts import GoalFacts
from pvdr_bench.rl.ranks import spearman
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.runs.artefacts import read_stage_rows
from pvdr_bench.suites.base import VectorStep
from pvdr_bench.training.offline import MixedClips, StageClock, run_offline
from pvdr_bench.training.reward import GoalReward
from pvdr_bench.videos.windows import Drawn
from tests.dummies import make_protocol

CPU = torch.device("cpu")


# Replay -----------------------------------------------------------------------------------------------------------


def transition(t: int, length: int = 3, n: int = 2) -> Transition:
    """Decision ``t`` of episodes of ``length`` decisions; every number tells where it is from."""
    last = t % length == length - 1
    image = (10 * t + torch.arange(n)).to(torch.uint8)[:, None, None, None].expand(n, 4, 4, 3)
    return Transition(
        image=image, is_first=torch.full((n,), t % length == 0), action=torch.full((n, 2), float(t)),
        reward=torch.arange(n) + 100.0 * t, terminated=torch.tensor([last] + [False] * (n - 1)),
        truncated=torch.tensor([False] + [last] * (n - 1)), next_image=image + 5, extras={})


def filled(folder: Path, decisions: int) -> EpisodeReplay:
    replay = EpisodeReplay(folder, 2, 4, 2)
    replay.clear()
    for t in range(decisions):
        replay.add(transition(t))
    return replay


def test_replay_entries(tmp_path: Path) -> None:
    replay = filled(tmp_path, 4)  # one whole episode and the first decision of the next
    assert len(replay) == 2 * 5
    frames, rows = replay.streams[1].read(0, 5)
    assert frames.reshape(5, 4, 4, 3)[:, 0, 0, 0].tolist() == [1, 11, 21, 26, 31]
    #                      action  reward on arrival  first last terminal
    assert rows.tolist() == [[0, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0], [2, 2, 101, 0, 0, 0], [0, 0, 201, 0, 1, 0],
                             [3, 3, 0, 1, 0, 0]]
    assert replay.streams[0].read(3, 1)[1].tolist() == [[0, 0, 200, 0, 1, 1]]  # the other environment terminated


def test_replay_samples_are_runs_of_one_stream(tmp_path: Path) -> None:
    replay = filled(tmp_path, 9)
    generator = torch.Generator().manual_seed(0)
    batch = replay.sample(generator, 200, 4)
    stored = [replay.streams[i].read(0, 12)[0].reshape(12, 4, 4, 3)[:, 0, 0, 0].tolist() for i in range(2)]
    runs = [stream[i:i + 4] for stream in stored for i in range(9)]
    got = batch["image"][:, :, 0, 0, 0].tolist()
    assert all(sequence in runs for sequence in got)
    assert all(sequence in got for sequence in runs)  # 200 draws of 18
    assert batch["action"].shape == (200, 4, 2) and batch["is_first"].dtype == torch.bool
    recent = EpisodeReplay(tmp_path / "recent", 2, 4, 2, capacity=8)
    recent.clear()
    for t in range(9):
        recent.add(transition(t))
    seen = recent.sample(generator, 50, 4)["image"][:, :, 0, 0, 0].tolist()
    assert {tuple(s) for s in seen} == {tuple(stream[8:]) for stream in stored}
    with pytest.raises(UsageError, match="no sequence of 13"):
        replay.sample(generator, 1, 13)


def test_replay_is_cut_back_and_continues_equally(tmp_path: Path) -> None:
    replay = filled(tmp_path / "a", 4)
    state = replay.state_dict()
    for t in range(4, 9):
        replay.add(transition(t))
    replay.close()
    again = EpisodeReplay(tmp_path / "a", 2, 4, 2)
    again.load_state_dict(state)
    for t in range(4, 6):
        again.add(transition(t))
    straight = filled(tmp_path / "b", 6)
    for name in ("env-000.u8", "env-000.f32", "env-001.u8", "env-001.f32"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    batches = [r.sample(torch.Generator().manual_seed(1), 5, 3) for r in (again, straight)]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    with (tmp_path / "a" / "env-001.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match="ends at byte 100"):
        EpisodeReplay(tmp_path / "a", 2, 4, 2).load_state_dict(state)


# Reward -----------------------------------------------------------------------------------------------------------


class FakeTokenizer:
    """Codes are the mean brightness of 4 x 4 cells; their embeddings are a fixed random table."""

    table = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))

    def encode(self, images: Tensor) -> Tensor:
        n, h, w, _ = images.shape
        return images.float().reshape(n, h // 4, 4, w // 4, 4, 3).mean((2, 4, 5)).long()

    def embed(self, codes: Tensor) -> Tensor:
        return self.table[codes]


def pictures(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def naive_blur(grid: np.ndarray[Any, Any], window: int) -> np.ndarray[Any, Any]:
    out, half = np.zeros_like(grid), window // 2
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            out[i, j] = grid[max(0, i - half):i + half + 1, max(0, j - half):j + half + 1].mean((0, 1))
    return out


@pytest.mark.parametrize("metric", ["pixel_l1", "pixel_l1_blur", "code_l1", "code_l1_blur", "code_l1_pyramid"])
@pytest.mark.parametrize("normalise", [False, True])
def test_goal_distance(metric: str, normalise: bool) -> None:
    protocol = make_protocol(goal_metric=metric, normalise_distance=normalise, goal_blur=3)
    images = pictures(5)
    start, goal = images[0], images[1]
    reward = GoalReward(protocol, GoalFacts(goal, start), FakeTokenizer(), CPU)

    def features(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        grid = image / 255.0
        if metric.startswith("code"):
            cells = image.reshape(4, 4, 4, 4, 3).astype(np.float64).mean((1, 3, 4)).astype(int)
            grid = FakeTokenizer.table.numpy()[cells].astype(np.float64)
        if metric.endswith("pyramid"):
            return np.stack([grid, naive_blur(grid, 3)])
        return naive_blur(grid, 3) if metric.endswith("blur") else grid

    expected = np.array([np.abs(features(image) - features(goal)).mean() for image in images])
    if normalise:
        expected = expected / expected[0]
    assert np.allclose(reward.distance(images), expected, atol=1e-5)
    assert reward.distance(images)[1] == 0


def step(images: Any, success: list[bool], ended: list[bool]) -> VectorStep:
    n = len(success)
    return VectorStep(images, images, np.full(n, 0.5, np.float32), np.array(success), np.array(ended),
                      np.zeros(n, np.bool_), np.full(n, 4), {})


def test_bonus_at_the_first_success_of_an_episode_only() -> None:
    images = pictures(4)
    reward = GoalReward(make_protocol(), GoalFacts(images[1], images[0]), None, CPU)
    reward.begin(2)
    plain = -reward.distance(images[2:])
    paid = []
    for success, ended in (([False, True], [False] * 2), ([True, True], [False] * 2), ([True, True], [True, False]),
                           ([True, True], [False] * 2)):
        rewards, distances = reward.reward(step(images[2:], success, ended))
        assert distances is not None
        paid.append(np.round(rewards - plain, 4).tolist())
    assert paid == [[0, 10], [10, 0], [0, 0], [10, 0]]
    other = reward.fork()
    other.begin(1)
    assert other.reward(step(images[2:3], [True], [False]))[0][0] > 5
    assert reward.succeeded.tolist() == [True, True]


def test_dense_reward_and_refusals() -> None:
    images = pictures(2)
    dense = GoalReward(make_protocol(reward="dense"), GoalFacts(images[1], images[0]), None, CPU)
    dense.begin(2)
    rewards, distances = dense.reward(step(images, [True, False], [False, False]))
    assert rewards.tolist() == [0.5, 0.5] and distances is None
    with pytest.raises(CatalogError, match="needs a tokenizer"):
        GoalReward(make_protocol(goal_metric="code_l1"), GoalFacts(images[1], images[0]), None, CPU)
    with pytest.raises(TrainingError, match="no difference"):
        GoalReward(make_protocol(), GoalFacts(images[0], images[0]), None, CPU)
    with pytest.raises(CatalogError, match="odd"):
        box_blur(torch.zeros(1, 4, 4, 1), 2)


def test_spearman_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30), rng.normal(size=30)
        assert spearman(a, a + b) == pytest.approx(spearmanr(a, a + b).statistic)
    assert spearman(np.ones(5), np.arange(5)) is None
    equal = np.full(1001, 0.1, np.float32)  # their standard deviation may be a rounding error above zero
    assert spearman(equal, np.arange(1001)) is None
    assert spearman(np.zeros(0), np.zeros(0)) is None
    assert spearman(np.arange(2), np.arange(2)) is None
    assert spearman(np.array([1.0, np.nan, 2.0]), np.arange(3)) is None


# Offline loop -----------------------------------------------------------------------------------------------------


class Clips:
    """Frames that tell their store and number."""

    def __init__(self, store: int, count: int) -> None:
        self.store, self.count = store, count

    def windows(self, split: str | None, frames: int, stride: int = 1) -> Any:
        return np.arange(self.count if split == "train" else 4)

    def draw(self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1, split: str | None = "train",
             part: slice = slice(None)) -> Drawn:
        starts = rng.integers(len(self.windows(split, frames, stride)), size=(batch, 1, 1, 1, 1))
        clips = np.broadcast_to(starts * 2 + self.store, (batch, frames, 2, 2, 3)).astype(np.uint8)
        return Drawn(clips[part], starts[part, 0, 0, 0, 0])


class OfflineDummy(OfflineLearner):
    """Predicts the mean brightness; with momentum and noise of its own, so that all of its state matters."""

    def __init__(self, nan_at: int | None = None) -> None:
        self.weight, self.step, self.nan_at = nn.Parameter(torch.zeros(3)), 0, nan_at
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1, momentum=0.9)
        self.generator = torch.Generator().manual_seed(3)

    @classmethod
    def for_stage(cls, context: StageContext) -> OfflineDummy:
        return cls()

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        noise = torch.randn(3, generator=self.generator)
        loss = (batch.float().mean() / 255 + 0.1 * noise - self.weight).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return {"loss": float("nan") if self.step == self.nan_at else float(loss.detach())}

    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        return {"error": float((batch.float().mean() / 255 - self.weight.detach()).abs().sum()),
                "frames": float(batch.shape[1])}

    def export(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight.detach(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        self.generator.set_state(state["generator"])


SCHEDULE = Schedule(steps=25, batch=6, frames=1, stride=1, validate_every=10, validation_clips=5)


def test_offline_stage_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.training.offline.LOG_ROWS", 5)  # a row is a mean over five steps
    data = MixedClips([Clips(0, 30), Clips(1, 60)])
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    metrics = run_offline(OfflineDummy(), data, SCHEDULE, tmp_path / "straight", seed=0)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls in (14, 20)

    shown: list[tuple[int, int]] = []
    for done in (13, 18):  # what was done at the signal is kept, between validations too
        with pytest.raises(Interrupted):
            run_offline(OfflineDummy(), data, SCHEDULE, tmp_path / "resumed", 0, stop)
        names = [path.name for path in (tmp_path / "resumed" / "checkpoints").iterdir()]
        assert max(names) == f"step-{done:012d}"
    again = run_offline(OfflineDummy(), data, SCHEDULE, tmp_path / "resumed", 0, stop,
                        lambda step, steps, row: shown.append((step, steps)))
    assert again == metrics and metrics["steps"] == 25 and metrics["val_frames"] == 2
    for name in ("model.safetensors", "train.jsonl"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "straight" / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_error" in row] == [10, 20, 25]
    times = read_stage_rows(tmp_path / "resumed" / "timing.jsonl")
    assert [row["step"] for row in times] == [10, 13, 18, 20, 25] and times[-1]["device"] == "cpu"
    assert 0 < times[0]["wall_seconds"] <= times[2]["wall_seconds"] < times[3]["wall_seconds"]
    assert shown[-1] == (25, 25)


def test_time_of_an_offline_stage_is_that_of_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pvdr_bench.training.offline.time.monotonic", lambda: now[0])
    path = tmp_path / "timing.jsonl"
    clock = StageClock(path, 0, "cpu")
    for step, seconds in ((10, 5.0), (20, 7.0)):
        now[0] += seconds
        clock.tell(step)
    now[0] += 1000  # killed before the checkpoint of step 20 was whole, and not noticed for long
    clock = StageClock(path, 10, "cuda")
    now[0] += 2.0
    clock.tell(20)
    assert [tuple(row.values()) for row in read_stage_rows(path)] == [(10, 5.0, "cpu"), (20, 7.0, "cuda")]
    StageClock(path, 15, "cpu").tell(16)  # a checkpoint without a row: what it took is not known
    assert read_stage_rows(path) == []


def test_flop_of_an_offline_stage_are_those_of_all_processes_and_starts(tmp_path: Path) -> None:
    """An update is a product of [4, 8] and [8, 16]: 1024 FLOP; of 20 a few are counted, and all are told."""
    path, (a, b) = tmp_path / "timing.jsonl", (torch.ones(4, 8), torch.ones(8, 16))

    def made(clock: StageClock, *steps: int) -> list[float | None]:
        for step in steps:
            for _ in range(10):
                with clock.counting():
                    a @ b
            clock.tell(step)
        return [row.get("flop") for row in read_stage_rows(path)]

    assert made(StageClock(path, 0, "cpu", 2), 10, 20) == [20_480.0, 40_960.0]
    assert made(StageClock(path, 10, "cpu", 1), 20) == [20_480.0, 30_720.0]  # goes on from step 10 with one process
    assert made(StageClock(path, 20, "cpu"), 30) == [20_480.0, 30_720.0, None]  # what compiles is not counted
    assert made(StageClock(path, 30, "cpu", 1), 40) == [20_480.0, 30_720.0, None, None]  # so the whole is not known


def test_offline_stage_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 6"):
        run_offline(OfflineDummy(nan_at=7), Clips(0, 30), SCHEDULE, tmp_path, seed=0)
    assert not (tmp_path / "model.safetensors").exists()


def test_mixed_clips_follow_the_sizes() -> None:
    batch = MixedClips([Clips(0, 30), Clips(1, 60)]).draw(np.random.default_rng(0), 3000, 1).frames
    assert np.mean(batch[:, 0, 0, 0, 0] % 2) == pytest.approx(2 / 3, abs=0.03)


def test_schedules_of_both_kinds_of_config() -> None:
    from pvdr_bench.algorithms.pvdr.config import PVDRConfig
    from pvdr_bench.tokenizer.config import VQGANConfig

    pretrain = PVDRConfig().schedule("pretrain")
    assert (pretrain.frames, pretrain.stride, pretrain.steps, pretrain.batch) == (8, 1, 350_000, 128)
    tokenize = VQGANConfig().schedule("tokenize")
    assert dataclasses.asdict(tokenize) == {"steps": 400_000, "batch": 1600, "frames": 1, "stride": 1,
                                            "validate_every": 5000, "validation_clips": 256, "stack": 1,
                                            "length_key": "", "beside": 0}
