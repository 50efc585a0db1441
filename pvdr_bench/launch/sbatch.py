"""SLURM's side of a job: the options of a profile as submitit and sbatch take them, and the handing over."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.profile import Profile
from pvdr_bench.errors import SetupError, StorageError
from pvdr_bench.launch import snapshot as snapshots
from pvdr_bench.launch.jobs import RunJob, StageJob
from pvdr_bench.rl.replay.scratch import SCRATCH


def make_executor(profile: Profile, logs: Path, kind: str, name: str, code: Path, dependency: str | None) -> Any:
    """Submitit's executor for the jobs of one name.

    Args:
        kind: ``runs`` or ``stages``. code: the snapshot that the jobs run. dependency: as sbatch takes it.
    """
    import submitit

    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=profile.max_restarts,
                                      python=python_command(profile))
    executor.update_parameters(**parameters(profile, kind, name, code, dependency))
    return executor


def hand_over(executor: Any, jobs: Sequence[RunJob | StageJob]) -> str:
    """Submit jobs as one array (one alone is none); returns the id of all.

    Raises:
        SetupError: sbatch refused. StorageError: the disk is full.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            handles = [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise SetupError(f"sbatch refused a job: {str(error).strip()}",
                         hint="compare profile and site's rules; `submit --dry-run` shows the script") from error
    except OSError as error:
        raise StorageError(f"a job could not be written: {error}", where=str(executor.folder)) from error
    return str(handles[0].job_id).partition("_")[0]


def python_command(profile: Profile) -> str:
    """What starts python in a job: this interpreter, so its packages must be on a file system that the nodes share."""
    return " ".join(map(shlex.quote, (*profile.wrapper, sys.executable)))


def parameters(profile: Profile, kind: str, name: str, code: Path, dependency: str | None) -> dict[str, Any]:
    """Submitit's parameters of a profile; times are whole minutes, since a text breaks its clock."""
    several = kind == "stages"
    srun = profile.srun_args if profile.srun_args is not None else (
        "--cpus-per-task", str(profile.cpus_per_task),
        *(("--kill-on-bad-exit=1",) if several and profile.processes > 1 else ()))  # a dead process is not waited for
    variables = {**profile.env, **snapshots.environment(code)}
    setup = [*(f"export {key}={shlex.quote(value)}" for key, value in variables.items()), *profile.setup]
    if profile.scratch:
        setup.append(f'export {SCRATCH}="{profile.scratch}"')
    found = {
        "job_name": name, "time": profile.time_min, "partition": profile.partition, "account": profile.account,
        "qos": profile.qos, "constraint": profile.constraint, "exclude": ",".join(profile.exclude) or None,
        "nodes": profile.nodes if several else 1, "ntasks_per_node": profile.tasks_per_node if several else 1,
        "cpus_per_task": profile.cpus_per_task, **profile.gpu.flags(),
        "mem": f"{round(1024 * profile.mem_gb)}M" if profile.mem_gb else None,
        "mem_per_cpu": f"{round(1024 * profile.mem_per_cpu_gb)}M" if profile.mem_per_cpu_gb else None,
        "signal_delay_s": max(5, profile.leave_s // 2), "array_parallelism": profile.array_parallelism,
        "dependency": dependency, "setup": setup, "srun_args": list(srun),
    }
    more = {**profile.extra, **({"requeue": True} if profile.requeue else {"no-requeue": True}),
            **({"kill-on-invalid-dep": "yes"} if dependency else {})}
    # None leaves an option out; submitit's own default for wckey is a key that some sites refuse.
    return {**{key: value for key, value in found.items() if value is not None}, "wckey": profile.wckey,
            "additional_parameters": more}


def script(profile: Profile, logs: Path, name: str, jobs: int, code: Path, dependency: str | None) -> str:
    """The sbatch script of an array of ``jobs`` jobs, as submitit writes it; also where there is no scheduler."""
    from submitit.slurm.slurm import _make_sbatch_string

    text: str = _make_sbatch_string(
        command=f"{python_command(profile)} -u -m submitit.core._submit {shlex.quote(str(logs))}", folder=logs,
        map_count=jobs if jobs > 1 else None, **parameters(profile, "runs", name, code, dependency))
    return text
