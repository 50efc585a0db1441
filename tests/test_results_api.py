"""The Python API on a whole run of the dummy suite: real loop, real worker process, real checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.api import Policy, load_run, results_frame
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.specs import RunSpec, TaskSpec
from pvdr_bench.errors import DataError, SetupError, UsageError
from pvdr_bench.playing.film import render_video
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Mode, Transition
from pvdr_bench.runs.schema import ReferenceFile
from pvdr_bench.suites.metaworld.cameras import CAMERAS
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from pvdr_bench.training.stages import Stages
from tests.results_runs import PROTOCOL

SMALL: dict[str, Any] = {
    "scale": "smoke", "image_size": 16, "camera": next(iter(CAMERAS)), "episode_steps": 40, "goal_metric": "pixel_l1",
    "num_envs": 2, "sync_every": 80, "eval_every": 80, "env_steps": 80, "eval_episodes": 2, "eval_final_episodes": 4}


def spec_of(algorithm: str, config: dict[str, Any]) -> RunSpec:
    return RunSpec(
        method=algorithm, variant=algorithm, algorithm=algorithm, algorithm_version=1, config=config, tokenizer=None,
        task=TaskSpec(name="point", suite="dummy", env_id="point"), corpus=None, scale="smoke", scale_label="smoke",
        protocol=Protocol(**{**PROTOCOL, **SMALL}), seed=0)


TINY_DREAMER = DreamerConfig.model_validate({
    "model": {"input_size": 16, "deter": 16, "hidden": 16, "stoch": 4, "classes": 4, "cnn_depth": 4,
              "encoder_kernels": (4, 4), "decoder_kernels": (5, 8), "head_layers": 1, "head_units": 16},
    "train": {"batch": 2, "length": 4, "prefill": 10, "initial_updates": 1, "every": 5},
    "behaviour": {"horizon": 3}}).model_dump(mode="json")


@pytest.fixture(scope="module", params=["random", "scripted", "dreamer"])
def run_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp(request.param)
    spec = spec_of(request.param, TINY_DREAMER if request.param == "dreamer" else {})
    assert execute(spec, results, Stages(spec).pieces, lambda: False)
    return spec.path(results)


def test_what_the_loop_writes_is_what_results_read(run_path: Path) -> None:
    run = load_run(run_path)
    assert run.status == "done" and len(run.episodes()) == 2 + 2 + 4 and not run.train().empty
    frame = results_frame(run_path.parents[4])
    assert list(zip(frame["env_steps"], frame["point"], frame["episodes"], strict=True)) == [
        (0, "grid", 2), (80, "final", 4), (80, "grid", 2)]
    final = json.loads((run_path / "done.json").read_text())
    assert frame["success_any"].iloc[1] == final["success_any"] and frame["complete"].all()
    assert frame["return"].iloc[1] == pytest.approx(final["return"])
    assert (frame["length"] == 40).all()


def test_an_evaluation_episode_can_be_played_again(run_path: Path) -> None:
    files = {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()}
    with load_run(run_path).open() as session:
        first, second = session.play(1), session.play(1)
        assert np.array_equal(first.images, second.images) and np.array_equal(first.actions, second.actions)
        assert not np.array_equal(first.actions, session.play(2).actions) or session.needs_expert
    assert first.images.shape == (11, 16, 16, 3) and first.actions.shape == (10, 2) and first.plans is None
    assert first.seed == PROTOCOL["eval_seed_base"] + 1 and (np.abs(first.actions) <= 1).all()
    if run_path.parts[-5] == "scripted":
        assert first.success.any() and first.success[-1]  # played on after the success
    assert {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()} == files  # nothing was written


def test_a_policy_acts_on_images(run_path: Path) -> None:
    run = load_run(run_path)
    if run.spec.algorithm == "scripted":
        with pytest.raises(UsageError, match="not on images"):
            run.policy()
        return
    images = np.zeros((3, 16, 16, 3), np.uint8)
    first, second = run.policy(seed=1), run.policy(seed=1)
    assert np.array_equal(first(images), second(images)) and first(images).shape == (3, 2)
    assert not np.array_equal(run.policy(seed=2)(images), run.policy(seed=1)(images))
    with pytest.raises(UsageError, match="reset"):
        first(images[:2])
    first.reset()
    assert first(images[:2]).shape == (2, 2)
    for bad in (images.astype(np.float32), images[0]):
        with pytest.raises(UsageError, match="uint8"):
            first(bad)
    for height, width in ((32, 32), (16, 8)):  # a transformer over tokens would act on any size
        with pytest.raises(UsageError, match=f"images of 16 x 16 pixels, and these have {height} x {width}"):
            first(np.zeros((2, height, width, 3), np.uint8))


class Planning(Learner):
    """A learner that plans: every plan's frames have the number of the decision as their colour."""

    def __init__(self) -> None:
        self.render_plans = False
        self.firsts: list[list[bool]] = []

    def initial(self, n: int) -> Carry:
        return {"count": torch.zeros(n, dtype=torch.int64)}

    def act(self, image: torch.Tensor, is_first: torch.Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[torch.Tensor, Carry, dict[str, torch.Tensor]]:
        assert mode == "eval" and not torch.is_grad_enabled()
        self.firsts.append(is_first.tolist())
        count = torch.where(is_first, 0, carry["count"])
        extras = {}
        if self.render_plans:
            extras["plan_image"] = count[:, None, None, None, None].expand(len(image), 3, 16, 16, 3).to(torch.uint8)
        return torch.full((len(image), 2), 3.0), {"count": count + 1}, extras

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state

    def observe(self, transition: Transition) -> None:
        raise AssertionError("it is only played")

    def learn(self) -> dict[str, float]:
        raise AssertionError("it is only played")

    def state_dict(self) -> dict[str, Any]:
        raise AssertionError("it is only played")


def test_plans_stand_beside_the_observation_they_were_made_from(run_path: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    real = Stages.pieces
    made: list[Planning] = []

    def make_learner(context: LearnerContext) -> Planning:
        made.append(Planning())
        return made[-1]

    def pieces(self: Stages) -> tuple[Pieces, dict[str, ReferenceFile]]:
        found, references = real(self)
        return dataclasses.replace(found, make_learner=make_learner), references

    monkeypatch.setattr(Stages, "pieces", pieces)
    video = render_video(run_path, tmp_path / "plan.gif")
    assert video.with_plan and video.decisions == 10 and video.path.stat().st_size > 1000
    assert [first[0] for first in made[0].firsts] == [True] + [False] * 9
    with load_run(run_path).open() as session:
        session.learner.render_plans = True  # type: ignore[attr-defined]
        episode = session.play()
    assert episode.plans is not None and list(episode.plans[:, 0, 0, 0, 0]) == list(range(10))
    assert (episode.actions == 1.0).all()  # clipped as the simulator gets them


def test_a_policy_forgets_only_where_episodes_start() -> None:
    learner = Planning()
    policy = Policy(learner)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    policy(images)
    policy(images, np.array([False, True]))
    policy.reset()
    policy(images)
    assert learner.firsts == [[True, True], [False, True], [True, True]]


def test_errors_say_what_is_wrong(run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path)
    copy = tmp_path / "seed-0"
    copy.mkdir()
    text = (run_path / "run.yaml").read_text()
    (copy / "run.yaml").write_text(text)
    with pytest.raises(UsageError, match="no checkpoint yet"), load_run(copy).open():
        pass
    (copy / "run.yaml").write_text(text.replace("scale_label: smoke", "scale_label: [1]"))
    with pytest.raises(DataError, match="does not fit"):
        load_run(copy)
    monkeypatch.setattr(Stages, "missing", lambda self: ["tokenize"])
    with pytest.raises(SetupError, match="was trained from tokenize, not on this machine"), load_run(run_path).open():
        pass
