"""From runs to jobs: who waits for whom, arrays of a site's size, and no run twice.

A plan is made without touching anything; :func:`submit` then takes the results folder's lock, looks at the queue once
more, and submits. Each job has a name of its own, written down before it is submitted.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import DataError, SetupError, UnreadableError
from pvdr_bench.launch import sbatch
from pvdr_bench.launch import snapshot as snapshots
from pvdr_bench.launch.cluster import Queue, clean_environment, queue
from pvdr_bench.launch.jobs import RunJob, StageJob
from pvdr_bench.launch.needs import StageNeed, claim, need_of, stage_needs
from pvdr_bench.launch.records import JOB, STAGE, RunRecord, Submission, home, job_name, stage_path, submissions
from pvdr_bench.runs.archive import archived_runs
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import make_folder, write_json
from pvdr_bench.runs.folders import place_of
from pvdr_bench.runs.locks import SILENT_SECONDS, FileLock
from pvdr_bench.runs.provenance import redacted, typed_command


@dataclass(frozen=True)
class StagePlan:
    """A stage job that will be submitted, or one of an earlier submission that is still in the queue."""

    need: StageNeed
    name: str
    after: tuple[str, ...]  # names of the stage jobs it waits for
    job_id: str | None = None  # of one that is in the queue already


@dataclass(frozen=True)
class ArrayPlan:
    """An array of jobs, each of which does some runs."""

    name: str
    elements: tuple[tuple[RunSpec, ...], ...]
    after: str | None


@dataclass
class Plan:
    """What a submission would do."""

    results: Path
    submission: Submission
    profiles: dict[str, Profile]  # runs and stages
    stages: list[StagePlan] = field(default_factory=list)
    arrays: list[ArrayPlan] = field(default_factory=list)
    skipped: dict[str, list[RunSpec]] = field(default_factory=dict)  # by state: done, running, queued
    dead: dict[Path, dict[str, Any]] = field(default_factory=dict)  # runs with a lock whose holder's job has ended
    broken: list[Path] = field(default_factory=list)  # runs that get a new job.json, since theirs is broken

    @property
    def runs(self) -> list[RunSpec]:
        """All runs that will be submitted."""
        return [spec for array in self.arrays for element in array.elements for spec in element]


def make_plan(specs: Sequence[RunSpec], results: Path, runs: Profile, stages: Profile, known: Queue) -> Plan:
    """Which jobs are to be submitted for these runs, as files and queue are now."""
    plan = Plan(results, Submission.new(results), {"runs": runs, "stages": stages})
    todo, archived = [], archived_runs(results)
    for spec in specs:
        path = place_of(spec.path("").as_posix(), results, archived)
        record = _last_record(path)
        if holder := dead_holder(path, record, known):
            plan.dead[path] = holder
        state = taken(RunDir(path), spec, record, known, dead=holder is not None)
        if state is None:
            todo.append(spec)
            if record is None and (path / JOB).exists():
                plan.broken.append(path)
        else:
            plan.skipped.setdefault(state, []).append(spec)
    catalog = load_catalog()
    needs = stage_needs(todo, catalog)
    waiting = _waiting_stages(results, known)
    for i, need in enumerate(needs.values()):
        after = tuple(stage.name for stage in plan.stages if stage.need.key in need.after)
        name, job_id = waiting.get(need.key, (job_name(plan.submission, "s", i), None))
        plan.stages.append(StagePlan(need, name, after, job_id))
    plan.arrays = _arrays(plan, todo, needs, catalog)
    return plan


def _last_record(run: Path) -> RunRecord | None:
    """The job a run was last submitted with; a broken one is none, since submitting writes it anew.

    Raises:
        UnreadableError: reading failed; the job may be in the queue, and must not be submitted twice.
    """
    try:
        return RunRecord.read(run)
    except UnreadableError:
        raise
    except DataError:
        return None


def taken(run_dir: RunDir, spec: RunSpec, record: RunRecord | None, known: Queue, *, dead: bool = False) -> str | None:
    """``done``, ``running`` or ``queued`` where a run needs no job; None where it does.

    Args:
        record: the job it was last submitted with.
        dead: whether the holder of its lock is known to be dead.
    """
    if run_dir.is_done(spec.protocol.env_steps) and run_dir.failed() is None:
        return "done"
    if record is not None and (record.name, record.index) in known:
        return "queued" if known[record.name, record.index].waits else "running"
    return "running" if not dead and run_dir.status() == "running" else None


def dead_holder(run: Path, record: RunRecord | None, known: Queue) -> dict[str, Any] | None:
    """The holder of a run's lock, if it is silent, and was the run's own job, which has left the queue.

    Without this question nothing tells that a process on another node is dead until its lock opens ten minutes later.

    Args:
        record: the job the run was last submitted with.
    """
    lock = FileLock(run / "lock")
    holder = lock.holder()
    if holder is None or lock.silence() <= SILENT_SECONDS or record is None or (record.name, record.index) in known:
        return None
    number = Submission.of(record).jobs().get(record.name)
    return holder if number and holder.get("job") in (number, f"{number}_{record.index}") else None


def _waiting_stages(results: Path, known: Queue) -> dict[str, tuple[str, str]]:
    """Name and job of the stage jobs that earlier submissions still have in the queue, by the stage's key."""
    return {key: (name, known[name, 0].job_id) for submission in submissions(results)
            for name, key in submission.read()["stages"].items() if (name, 0) in known}


def _arrays(plan: Plan, todo: Sequence[RunSpec], needs: Mapping[str, StageNeed], catalog: Catalog) -> list[ArrayPlan]:
    """Runs that wait for the same stage, in jobs of ``runs_per_job`` and arrays of ``max_array``."""
    profile, names = plan.profiles["runs"], {stage.need.key: stage.name for stage in plan.stages}
    groups: dict[str | None, list[RunSpec]] = defaultdict(list)
    for spec in todo:
        key = need_of(spec, needs, catalog)
        groups[names[key] if key else None].append(spec)
    arrays: list[ArrayPlan] = []
    for after, group in groups.items():
        elements = [tuple(chunk) for chunk in _chunks(group, profile.runs_per_job)]
        for chunk in _chunks(elements, profile.max_array):
            arrays.append(ArrayPlan(job_name(plan.submission, "r", len(arrays)), tuple(chunk), after))
    return arrays


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i:i + size] for i in range(0, len(items), size)]


# Submitting -----------------------------------------------------------------------------------------------------------


def submit(specs: Sequence[RunSpec], results: Path, runs: Profile, stages: Profile,
           say: Callable[[str], None] = lambda text: None) -> Plan:
    """Plan and submit; returns what was submitted.

    Raises:
        LockedError: another submitter is at work in this results folder.
        SetupError: there is no scheduler here, or it refuses a job; what was submitted before that stays.
        ChangedError: a run was made with another recipe; nothing has been submitted.
    """
    if missing := [name for name in ("squeue", "sbatch", "srun") if shutil.which(name) is None]:
        raise SetupError(f"there is no {' and no '.join(missing)} here, so this is no machine to submit from",
                         hint="log in to the cluster's login node, or bring up slurm/sandbox; `run` needs no scheduler")
    folder = home(results)
    make_folder(folder)
    with FileLock(folder / "lock", f"the queue of {results}"):
        plan = make_plan(specs, results, runs, stages, queue())
        if plan.runs:
            code = snapshots.take_snapshot(folder / "snapshots")
            say(f"code: {code}")
            _write(plan, code)
            _Submitter(plan, code).submit()
    return plan


def _write(plan: Plan, code: Path) -> None:
    """All files that jobs will read, before there is a job; what is pointed to before what points to it."""
    submission = plan.submission
    make_folder(submission.logs)
    for stage in (stage for stage in plan.stages if stage.job_id is None):
        write_json(stage_path(plan.results, stage.name) / STAGE, {
            "stage": stage.need.stage, "label": stage.need.label, "name": stage.name,
            "spec": stage.need.spec.model_dump(mode="json")})
    submission.write({
        "command": redacted(typed_command()), "snapshot": str(code),
        "profiles": {kind: profile.model_dump(mode="json") for kind, profile in plan.profiles.items()},
        "stages": {stage.name: stage.need.key for stage in plan.stages if stage.job_id is None},
        "arrays": {array.name: [[str(spec.path("")) for spec in element] for element in array.elements]
                   for array in plan.arrays},
        "jobs": {}})
    for path, holder in plan.dead.items():
        FileLock(path / "lock").remove_dead(holder)
    for array in plan.arrays:
        for index, element in enumerate(array.elements):
            for spec in element:
                run_dir = RunDir(spec.path(plan.results))
                run_dir.open(spec)
                RunRecord(submission.name, array.name, index, spec.protocol.env_steps, str(plan.results),
                          array.after).write(run_dir.path)
    claim(plan.runs, submission.user, load_catalog())


class _Submitter:
    """Hands a plan's jobs to sbatch, by submitit."""

    def __init__(self, plan: Plan, code: Path) -> None:
        self.plan, self.code = plan, code
        self.jobs = {stage.name: stage.job_id for stage in plan.stages if stage.job_id is not None}

    def submit(self) -> None:
        """All of them; each one's id is written down at once."""
        with clean_environment():
            for stage in (stage for stage in self.plan.stages if stage.job_id is None):
                job = StageJob(str(stage_path(self.plan.results, stage.name)))
                self._hand_over("stages", stage.name, [job], stage.after)
            for array in self.plan.arrays:
                jobs = [RunJob(tuple(str(spec.path(self.plan.results)) for spec in element))
                        for element in array.elements]
                self._hand_over("runs", array.name, jobs, (array.after,) if array.after else ())

    def _hand_over(self, kind: str, name: str, jobs: Sequence[RunJob | StageJob], after: Sequence[str]) -> None:
        """Submit jobs that wait for those named in ``after``, and write their id down."""
        dependency = ":".join(["afterok", *(str(self.jobs[other]) for other in after)]) if after else None
        executor = sbatch.make_executor(self.plan.profiles[kind], self.plan.submission.logs, kind, name, self.code,
                                        dependency)
        self.jobs[name] = sbatch.hand_over(executor, jobs)
        self.plan.submission.write({**self.plan.submission.read(), "jobs": self.jobs})


def script(plan: Plan, array: ArrayPlan, code: Path) -> str:
    """The sbatch script of an array; also where there is no scheduler."""
    dependency = f"afterok:JOB-OF-{array.after}" if array.after else None
    return sbatch.script(plan.profiles["runs"], plan.submission.logs, array.name, len(array.elements), code, dependency)
