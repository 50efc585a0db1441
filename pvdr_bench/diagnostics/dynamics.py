"""``bench dynamics``: is the pre-trained model good before the loop is judged?

On held-out episodes of the model's corpus: the validation metrics of pre-training, an inverse dynamics probe of z
beside one of the true future frames, and the planner test. The corpus' side file of actions and hand positions is
read here only; no learner sees it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.model import dynamics_model
from pvdr_bench.algorithms.pvdr.planner import GoalDistance
from pvdr_bench.algorithms.pvdr.pretrain import validation_metrics
from pvdr_bench.algorithms.pvdr.probes import (
    Windows,
    bootstrap_interval,
    cut_windows,
    fit_alignment,
    inverse_dynamics,
    join,
    plan_validity,
    planner_test,
)
from pvdr_bench.progress import tell
from pvdr_bench.rl.config import config_as
from pvdr_bench.suites.registry import DEFAULT_CORPUS

WINDOWS_PER_EPISODE = 6
PARTS = 6  # of the measurement, for those who wait for it
REAL_FRAMES = 8000  # of training episodes, that last plan frames are compared with


def collect_windows(tokens: Any, truth: dict[str, Any], episodes: list[Any], split: str, frames: int,
                    context: int, stride: int, rng: np.random.Generator, ahead: int = 1) -> Windows:
    """Some windows of every episode of a split, each with a goal of its own; see :func:`cut_windows`."""
    parts = []
    for episode in episodes:
        if episode.split != split:
            continue
        start, stop = episode.start, episode.start + episode.length
        found = cut_windows(tokens.frames(start, stop), truth["action"][start:stop], truth["hand"][start:stop], frames,
                            context, stride, rng, ahead=ahead)
        if len(found.clips):
            parts.append(found.rows(torch.from_numpy(rng.permutation(len(found.clips))[:WINDOWS_PER_EPISODE])))
    return join(parts)


def measure(scale: str = "cpu", corpus: str = DEFAULT_CORPUS, method: str = "pvdr", candidates: int = 16,
            states: int = 600, probe_steps: int = 1000, few_labels: tuple[int, ...] = (400, 2000), metric: str = "",
            goal_frames: str = "", seed: int = 0) -> dict[str, Any]:
    """Probe the artefact that ``method`` uses; it is made first if it is not there.

    Args:
        metric, goal_frames: of the planner, in place of the method's own.

    Returns:
        validation: see :func:`validation_metrics`. plan_validity: see :func:`plan_validity`. inverse_dynamics: test
        errors of probes of the action that L_act predicts, see :func:`inverse_dynamics`. planner: mean cosines
        between the aligned action and the direction to the goal, the paired difference of N candidates to one with
        its 95 % bootstrap interval over states, and how goals are spread over the eight octants of directions.

    Raises:
        DataError: the corpus has no side file of truth.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.errors import DataError
    from pvdr_bench.training.stages import Stages
    from pvdr_bench.videos.tokens import TokenStore

    torch.set_num_threads(1)
    stages = Stages(load_catalog().resolve(method, "reach", 0, scale, videos=corpus))
    config = config_as(PVDRConfig, stages.config)
    artefacts = stages.build()
    tokenizer, clips = stages.load(stages.node("tokenize"), artefacts["tokenize"]), stages.clips(corpus)
    truth = clips.truth
    if truth is None:
        raise DataError(f"the corpus {corpus} has no actions and hand positions to probe with", where=str(clips.path))
    tell("parts", 0, PARTS)
    tokens = TokenStore.build(clips, tokenizer, artefacts["tokenize"].weights_sha256[:12])
    model = dynamics_model(config, tokenizer.codebook_size, tokenizer.grid, tokenizer).eval()
    model.load_state_dict(artefacts["pretrain"].weights())
    m, frames = config.model.context_frames, config.model.context_frames + config.model.future_frames
    rng = np.random.default_rng(seed)
    stride = config.model.frame_stride
    ahead = config.lact_decisions
    train, test = (collect_windows(tokens, truth, clips.episodes, split, frames, m, stride, rng, ahead)
                   for split in ("train", "heldout"))
    tell("parts", 1, PARTS)
    chosen = test.rows(torch.from_numpy(rng.permutation(len(test.clips))[:states]))
    size = tokenizer.codebook_size
    with torch.no_grad():
        validation = validation_metrics(model, chosen.clips[:512], torch.Generator().manual_seed(seed))
    real = train.clips.flatten(0, 1)[torch.from_numpy(rng.permutation(train.clips[..., 0, 0].numel())[:REAL_FRAMES])]
    tell("parts", 2, PARTS)
    validity = plan_validity(model, chosen.rows(torch.arange(min(256, len(chosen.clips)))), real, seed)
    tell("parts", 3, PARTS)
    alignment = fit_alignment(model, train, size, probe_steps, seed)
    tell("parts", 4, PARTS)
    changes = {key: value for key, value in (("metric", metric), ("goal_frames", goal_frames)) if value}
    planning = type(config.planner)(**{**config.planner.model_dump(), **changes})
    distance = GoalDistance(planning, tokenizer, chosen.goal[0])
    planner = summarise(planner_test(model, alignment, distance, chosen, candidates, seed), chosen, candidates)
    tell("parts", 5, PARTS)
    inverse = inverse_dynamics(model, alignment, train, test, size, probe_steps, seed, few_labels)
    tell("parts", PARTS, PARTS)
    return {"corpus": corpus, "scale": scale, "artefact": artefacts["pretrain"].hash, "validation": validation,
            "plan_validity": validity, "inverse_dynamics": inverse, "planner": planner}


def summarise(cosines: dict[str, torch.Tensor], windows: Windows, candidates: int) -> dict[str, Any]:
    """Means of the planner test, the paired difference and the spread of the goals' directions."""
    difference = (cosines["n"] - cosines["one"]).double().numpy()
    low, high = bootstrap_interval(difference)
    octant = ((windows.goal_hand - windows.hand > 0).long() * torch.tensor([1, 2, 4])).sum(1)
    means = {name: float(values.mean()) for name, values in cosines.items()}
    return {"candidates": candidates, "states": len(difference), **means,
            "n_minus_one": float(difference.mean()), "n_minus_one_low": low, "n_minus_one_high": high,
            "goals_by_octant": torch.bincount(octant, minlength=8).tolist()}
