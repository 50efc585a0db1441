"""One run from its specification to ``done.json`` or ``failed.json``, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import BenchError, ChangedError, LockedError
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.schema import ReferenceFile
from pvdr_bench.runs.users import ARTEFACTS
from pvdr_bench.training.checks import check_protocol
from pvdr_bench.training.online import Pieces, run_online
from pvdr_bench.training.policies import check_extension


def make_deterministic(device: torch.device) -> None:
    """One torch thread, since results depend on their number; deterministic kernels on a GPU, where there are any.

    On one CPU thread every operation is deterministic; asking for it there would only load the compiler (seconds).
    """
    torch.set_num_threads(1)
    if device.type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def check_artefacts(run_dir: RunDir, references: dict[str, ReferenceFile]) -> None:
    """Write down which weights a run stands on, or check that they are still those.

    Raises:
        ChangedError: an artefact was made anew since the run began.
    """
    path = run_dir.path / ARTEFACTS
    if not path.exists() or not run_dir.checkpoints.steps():
        run_dir.write_facts(ARTEFACTS, references)
        return
    before = run_dir.read_artefacts() or {}
    for stage, reference in references.items():
        old = before.get(stage)
        if old is None or old["weights_sha256"] != reference["weights_sha256"]:
            name, digest = (old["name"], old["weights_sha256"]) if old else (None, None)
            raise ChangedError(
                f"the {stage} artefact was made anew since this run began: {name} {str(digest)[:12]} (then) -> "
                f"{reference['weights_sha256'][:12]} (now)",
                where=str(path), hint="choose another --results folder, or remove the run")


def execute(spec: RunSpec, results: Path, make_pieces: Callable[[], tuple[Pieces, dict[str, ReferenceFile]]],
            stop: Callable[[], bool], device: str | torch.device = "cpu") -> bool:
    """Do or continue a run; True when it is done, False when ``stop`` said so first.

    Args:
        make_pieces: makes what the loop needs, and the references of the artefacts in it. Called under the lock.

    Raises:
        LockedError, ChangedError: the run is another's, or another recipe's; nothing is written.
        DataError: the run is done with a smaller budget, and nothing is there to go on from; nothing is written.
        BenchError: it failed; ``failed.json`` has the traceback, unless the run is done and could not be extended: it
            stays done.
    """
    check_protocol(spec)
    run_dir = RunDir(spec.path(results))
    if run_dir.is_done(spec.protocol.env_steps) and not run_dir.failed():
        run_dir.open(spec)
        return True
    check_extension(run_dir)
    with run_dir.lock():
        run_dir.open(spec)
        try:
            make_deterministic(torch.device(device))
            run_dir.write_provenance()
            pieces, references = make_pieces()
            check_artefacts(run_dir, references)
            return run_online(spec, run_dir, pieces, stop)
        except (LockedError, ChangedError):
            raise
        except BenchError as error:
            if error.exit_code == 75:
                return False
            run_dir.mark_failed(error)
            raise
        except Exception as error:
            run_dir.mark_failed(error)
            raise
