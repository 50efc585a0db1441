"""Evaluating a run's newest checkpoint once more. It reads the run and writes nothing."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import Interrupted, SetupError, UsageError
from pvdr_bench.rl.config import EVAL_STD, MEAN_POLICY, AlgorithmConfig, Section
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.episodes import MEASURED, EpisodeResult
from pvdr_bench.runs.paths import data_root
from pvdr_bench.runs.schema import ReferenceFile
from pvdr_bench.runs.users import ARTEFACTS
from pvdr_bench.training.evaluation import Evaluator
from pvdr_bench.training.execute import check_artefacts, make_deterministic
from pvdr_bench.training.online import Pieces, learner_context, task_facts
from pvdr_bench.training.policies import load_for_play
from pvdr_bench.training.reward import GoalReward
from pvdr_bench.training.stages import Stages

PiecesAndReferences = tuple[Pieces, dict[str, ReferenceFile]]


def evaluated_std(spec: RunSpec) -> float | None:
    """Standard deviation of actions in evaluation, where it is not the policy's own; 0: evaluation takes their mean."""
    config = spec.config_object()
    if any(getattr(part, MEAN_POLICY) for part in _sections(config, MEAN_POLICY).values()):
        return 0.0
    return next((getattr(part, EVAL_STD) for part in _sections(config, EVAL_STD).values()), None)


def with_mean_policy(spec: RunSpec) -> RunSpec:
    """The same run, evaluated with its policy's mean action. Its weights do not depend on the choice.

    Raises:
        UsageError: the method has no mean policy.
    """
    changed = (_with_keys(spec, MEAN_POLICY, {MEAN_POLICY: True, EVAL_STD: None})
               or _with_keys(spec, EVAL_STD, {EVAL_STD: 0.0}))
    if changed is None:
        raise UsageError(f"{spec.variant} has no mean policy", where="--mean-policy",
                         hint=f"methods that have one have the key {MEAN_POLICY} or {EVAL_STD}, see: "
                              "pvdr-bench describe METHOD")
    return changed


def with_eval_std(spec: RunSpec, std: float) -> RunSpec:
    """The same run, evaluated with Gaussian actions of that standard deviation around its policy's mean.

    Raises:
        UsageError: it is not finite, or below 0; or the method has no key for it.
    """
    if not 0 <= std < math.inf:
        raise UsageError(f"a standard deviation is 0 or more and finite, not {std}", where="--action-std")
    changed = _with_keys(spec, EVAL_STD, {EVAL_STD: std, MEAN_POLICY: False})
    if changed is None:
        raise UsageError(f"the spread of {spec.variant}'s actions in evaluation cannot be set", where="--action-std",
                         hint=f"methods in which it can have the key {EVAL_STD}, see: pvdr-bench describe METHOD")
    return changed


def _sections(config: AlgorithmConfig, key: str) -> dict[str, Section]:
    """Of a config itself (``""``) and its sections, by name, those that have the key."""
    return {name: part for name, part in [("", config), *config]
            if isinstance(part, Section) and key in type(part).model_fields}


def _with_keys(spec: RunSpec, needed: str, values: Mapping[str, Any]) -> RunSpec | None:
    """The same run with these values where its config has such keys; None where it has not the one needed."""
    config = spec.config_object()
    if not _sections(config, needed):
        return None
    changed = config.model_dump()
    for key, value in values.items():
        for name in _sections(config, key):
            (changed[name] if name else changed)[key] = value
    return spec.model_copy(update={"config": type(config).model_validate(changed).recipe()})


def pieces_here(run_dir: RunDir, stages: Stages) -> PiecesAndReferences:
    """What a run's policy is played with; no artefact is made for it, which may take hours.

    Raises:
        SetupError: the run stands on an artefact that is not on this machine.
    """
    missing = stages.missing()
    if not missing:
        return stages.pieces()
    before, spec = run_dir.read_artefacts() or {}, stages.spec
    names = [f"{stage}/{before[stage]['name']}-{before[stage]['hash']}" if stage in before else stage
             for stage in missing]
    words = ["pvdr-bench", "pretrain", "--method", spec.variant, "--task", spec.task.name, "--scale", spec.scale,
             "--protocol", spec.protocol.name, *(["--videos", spec.corpus] if spec.corpus else [])]
    raise SetupError(
        f"this run was trained from {', '.join(names)}, not on this machine", where=str(run_dir.path),
        hint=f"copy it into {data_root() / 'artefacts'} from the data folder that the run was made with, or set "
             f"PVDR_BENCH_DATA to that one; what `{shlex.join(words)}` makes serves if its weights come out the same")


def evaluate_again(run_dir: RunDir, spec: RunSpec, make_pieces: Callable[[], PiecesAndReferences],
                   episodes: int | None = None, stop: Callable[[], bool] = lambda: False,
                   ) -> tuple[int, list[EpisodeResult]]:
    """The checkpoint's env_steps, and results of ``episodes`` (default: the protocol's final number).

    Seeds and action noise are those of the final evaluation: a done run gives the numbers of its ``episodes.jsonl``
    again, and more episodes continue them.

    Raises:
        UsageError: there is no checkpoint.
        ChangedError: an artefact that the run stands on was made anew.
        Interrupted: ``stop`` said so; nothing is kept.
    """
    found = run_dir.newest()
    protocol = spec.protocol
    pieces, references = make_pieces()
    make_deterministic(pieces.device)
    if (run_dir.path / ARTEFACTS).exists():
        check_artefacts(run_dir, references)
    envs = pieces.make_envs(dataclasses.replace(spec.env_config(), terminate_on_success=False), protocol.num_envs)
    try:
        first = envs.reset([protocol.train_seed_base] * protocol.num_envs)
        task = task_facts(spec, envs, first)
        learner = pieces.make_learner(learner_context(spec, pieces, task))
        load_for_play(learner, found)
        reward = GoalReward(protocol, task.goal, pieces.tokenizer, pieces.device)
        evaluator = Evaluator(lambda: envs, protocol.num_envs, reward, protocol.eval_seed_base, spec.seed,
                              pieces.needs_expert, stop)
        whole = protocol.eval_final_episodes
        return found.step, list(evaluator.run(learner, episodes or whole, found.step, "final", whole))
    except Interrupted as error:
        raise Interrupted(error.message, hint="nothing of it is kept: the same command begins anew") from None
    finally:
        envs.close()


def told_of(run: str, spec: RunSpec, env_steps: int, played: Sequence[EpisodeResult]) -> dict[str, Any]:
    """What ``evaluate`` tells: whose episodes they are, how they were acted, their means, and a row of each."""
    decisions, std = env_steps // spec.protocol.action_repeat, evaluated_std(spec)
    rows: list[Any] = [result.row(seed=spec.seed, env_steps=env_steps, decisions=decisions, point="final")
                       for result in played]
    return {"run": run, "method": spec.variant, "task": spec.task.name, "corpus": spec.corpus,
            "scale": spec.scale_label, "seed": spec.seed, "env_steps": env_steps, "episodes": len(rows),
            "mean_policy": std == 0, "eval_std": std,
            **{name: sum(row[name] for row in rows) / len(rows) for name in MEASURED[:3]}, "rows": rows}
