"""An interrupted run of PVDR goes on to the bytes of one that was not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.registry import algorithms, load_object
from pvdr_bench.rl.contract import Learner, LearnerContext, Transition
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from tests import dummies
from tests.dummies import EPISODE, SYNC, make_envs, make_spec
from tests.phases import LOOP as PARTS
from tests.phases import checked_parts
from tests.pvdr_story import MODEL, PI, weights
from tests.test_ppo_loop import TOKENIZER, tokenizer_artefact

LOOP = {"model": MODEL | {"future_frames": 1},
        "online": PI | {"e1_decisions": dummies.ENVS * 4, "e2_decisions": dummies.ENVS * 5, "minibatch": 5, "epochs": 2,
                        "lact_e1_epochs": 1, "e1_correlation": 0.5, "finetune_batch": 2, "finetune_lr": 1e-3}}
CONTEXT = {"heads": 2, "depth": 4, "blocks": 1, "dropout": 0.2}


class Interruption:
    """Counts a learner's decisions in time, and says stop after ``after`` of them; 0: never."""

    def __init__(self, after: int = 0) -> None:
        self.after, self.count, self.phases = after, 0, ""

    def learner(self, make: Any, given: LearnerContext) -> Learner:
        out: PVDRLearner = make(given)
        observe = out.observe

        def counted(transition: Transition) -> None:
            self.count, self.phases = self.count + 1, self.phases + out.phase[1]
            observe(transition)

        out.observe = counted  # type: ignore[method-assign]
        return out

    def __call__(self) -> bool:
        return 0 < self.after <= self.count


def run(results: Path, stop: Interruption, replan: int, algorithm: str) -> tuple[bool, RunDir]:
    """PVDR in the loop, on the dummy suite, on a tokenizer and a dynamics model of random weights."""
    info = algorithms()[algorithm]
    assert info.learner is not None
    settings = LOOP | {"planner": {"candidates": 2, "replan_every": replan}}
    settings |= {"context": CONTEXT} if algorithm == "pvdr-context" else {}
    spec = make_spec(algorithm, env_steps=3 * SYNC, config=settings, episode_steps=2 * EPISODE,
                     terminate_on_success=False, eval_episodes=2, eval_final_episodes=2)
    cfg = load_object(info.config).model_validate(settings)
    tokenizer = tokenizer_artefact()
    painter = load_tokenizer(tokenizer, TOKENIZER)
    pieces = Pieces(make_envs=make_envs, make_learner=partial(stop.learner, load_object(info.learner)), config=cfg,
                    device=torch.device("cpu"), artefact_config={"tokenize": TOKENIZER}, on_policy=info.on_policy,
                    artefacts={"tokenize": tokenizer, "pretrain": weights(cfg, TOKENIZER.codebook.size, painter)})
    done = execute(spec, results, lambda: (pieces, {}), stop)
    return done, RunDir(spec.path(results))


@pytest.mark.parametrize(("algorithm", "replan"), [("pvdr", 1), ("pvdr", 3), ("pvdr-context", 3)])
def test_an_interrupted_run_goes_on_from_its_checkpoint_to_the_bytes_of_one_that_was_not(
        tmp_path: Path, algorithm: str, replan: int) -> None:
    """Sync points are 8 decisions in time apart. The checkpoint of the second one follows two rounds of fine-tuning and
    one of PPO, and holds 3 of E2's 5. The run is stopped within the next E1, which is lost and done again with the end
    of that E2; then fine-tuning follows, too."""
    through, first, second = Interruption(), Interruption(21), Interruption()
    done, whole = run(tmp_path / "whole", through, replan, algorithm)
    assert done and through.phases == "111122222" * 2 + "111122"
    done, parts = run(tmp_path / "parts", first, replan, algorithm)
    assert not done and parts.checkpoints.steps()[-1] == 2 * SYNC and first.phases == through.phases[:21]
    done, parts = run(tmp_path / "parts", second, replan, algorithm)
    assert done and second.phases == through.phases[16:]
    for name in ("train", "episodes"):
        text = getattr(parts, name).path.read_bytes()
        assert text and text == getattr(whole, name).path.read_bytes(), name
    states = [folder.checkpoints.path(3 * SYNC) / "state.safetensors" for folder in (whole, parts)]
    assert states[0].read_bytes() == states[1].read_bytes()
    learned = [row for row in whole.read_train() if "plan_distance" in row]
    assert [row.get("e1_clips", 0) > 0 for row in learned] == [True, False, True, False, True]
    for row in learned:
        told = {"finetune_rec", "finetune_goal", "e1_l_act"} if "e1_clips" in row else {"policy_loss", "l_act"}
        assert told <= row.keys()
    for folder in (whole, parts):
        train, evaluation, cost = checked_parts(folder, dummies.REPEAT)
        acts, learns = PARTS | {"act.tokenize", "act.plan"}, ("finetune", "align", "teach", "policy")
        assert evaluation == acts and acts | {f"learn.{part}" for part in learns} < train
        assert cost.shares["planning"] and cost.shares["tokenizing"] and cost.acting and cost.learning and cost.update
