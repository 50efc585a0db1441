"""A run's process that does as its config says, and imports no torch: ``python -m tests.slurm_worker``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import TrainingError
from pvdr_bench.launch import worker
from pvdr_bench.launch.worker import StopFlag
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import finish


def perform(order: dict[str, Any], stop: StopFlag) -> bool:
    """``act``: done, fail, wait (to be stopped), or save (a checkpoint, then wait); a second start is always done."""
    spec = RunSpec.model_validate(order["spec"])
    run_dir, act = RunDir(spec.path(order["results"])), spec.config["act"]
    with run_dir.lock():
        begun = run_dir.path / "starts"
        starts = int(begun.read_text()) + 1 if begun.exists() else 1
        begun.write_text(str(starts))
        run_dir.heartbeat(phase="online", env_steps=32 if act == "save" else 0)
        if act == "fail":
            error = TrainingError("the loss is nan", where="update 3")
            run_dir.mark_failed(error)
            raise error
        if act == "save":
            (run_dir.path / "checkpoints" / f"step-{32 * starts:012d}").mkdir(parents=True, exist_ok=True)
        if act != "done" and starts == 1:
            (Path(order["results"]) / f"ready-{spec.seed}").touch()
            while not stop():
                time.sleep(0.02)
            return False
        finish(run_dir, spec.protocol.env_steps)
    return True


if __name__ == "__main__":
    sys.exit(worker.main(perform))
