"""Results of many rows without files: frames as ``collect`` makes them, for tests that only draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pvdr_bench.results.collect import COLUMNS, RUN_COLUMNS, Results
from tests.results_runs import PROTOCOL

LONG = "candidates=16,e1_correlation=0.9,e1_first=1200,lact_e1_epochs=8,lact_target=plan_mean"
ROWS = (  # variant, corpus, title: shipped ones, their variants and corpora, and methods that nobody ships
    ("ppo", "none", "PPO"), ("pvdr", "metaworld", "PVDR"), ("dreamerv2", "none", "DreamerV2"),
    ("apv", "metaworld", "APV"), ("pvdr-scratch", "none", "PVDR without pre-training"), ("pvdr", "fetch-push", "PVDR"),
    ("apv-no-pretrain", "none", "APV without pre-training"), ("lapa", "none", "LAPA"),
    ("pvdr-finetuning", "metaworld", "PVDR, reduced + planning + fine-tuning"), ("apv", "fetch-push", "APV"),
    (f"pvdr@{LONG}", "metaworld", "PVDR"), ("pvdr@lambda1=1e-2", "metaworld", "PVDR"),
    ("pvdr-reduced", "metaworld", "PVDR, reduced loop"), ("sac", "none", "SAC"), ("drq", "none", "DrQ-v2"),
    ("pvdr-planning", "metaworld", "PVDR, reduced + planning"), ("pvdr", "bair", "PVDR"), ("vip", "metaworld", "VIP"),
    ("pvdr", "my-own-videos-of-a-kitchen", "PVDR"), ("a-method-with-a-rather-long-name", "none", "A method"))
FLOORS = (("random", "none", "Random"), ("scripted", "none", "Scripted expert"))
TASKS = ("reach", "button-press-topdown", "window-open")


def make_results(rows: int, tasks: int = 1, *, seeds: int = 3, floors: bool = True, points: int = 5) -> Results:
    """The first ``rows`` of :data:`ROWS` on the first ``tasks`` of :data:`TASKS`; curves rise by chance."""
    records = []
    for place, (variant, corpus, title) in enumerate((*ROWS[:rows], *(FLOORS if floors else ()))):
        for task in TASKS[:tasks]:
            for seed in range(seeds):
                rng = np.random.default_rng([place, len(task), seed])
                rates = np.clip(np.cumsum(rng.uniform(0, 0.3, points)), 0, 1)
                for k in range(points + 1):
                    final = k == points
                    step = 8000 * (points if final else k + 1)
                    records.append({
                        **dict.fromkeys(COLUMNS, ""), "method": variant.partition("@")[0], "variant": variant,
                        "title": title, "algorithm": variant.partition("@")[0], "algorithm_version": 1, "task": task,
                        "corpus": corpus, "scale": "cpu", "protocol": "pvdr", "protocol_hash": "0" * 12,
                        "recipe_hash": "1" * 12, "seed": seed, "pretrain_seed": -1, "env_steps": step,
                        "env_steps_made": step, "decisions": step // 4, "point": "final" if final else "grid",
                        "episodes": 100 if final else 20, "complete": True,
                        **dict.fromkeys(("success", "success_any", "success_end"), float(rates[min(k, points - 1)])),
                        "return": -2000.0 * float(rates[min(k, points - 1)]), "length": 200.0, "wall_seconds": np.nan,
                        "evaluation_seconds": np.nan, "device": "cpu", "status": "done", "budget": 8000 * points,
                        "path": f"{variant}/{task}/{corpus}/cpu/seed-{seed}"})
    frame = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    runs = frame[list(RUN_COLUMNS)].drop_duplicates("path").reset_index(drop=True)
    return Results(Path("nowhere"), frame, runs, [], {"0" * 12: PROTOCOL})
