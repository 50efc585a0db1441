"""A cluster as ``slurm/NAME.yaml`` describes it: what a job asks for, and how this site wants to be asked."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pvdr_bench.catalog.scales import Scale
from pvdr_bench.catalog.specs import NamedSpec, PlainSpec

# What submitit, or a key of the profile, writes itself: setting them a second time made jobs that slurm and submitit
# understood differently (a time in `extra` is slurm's, and submitit goes on believing five minutes).
RESERVED = ("time", "job-name", "array", "dependency", "output", "error", "signal", "requeue", "kill-on-invalid-dep",
            "partition", "account", "qos", "constraint", "exclude", "nodes", "ntasks-per-node", "cpus-per-task", "gres",
            "gpus-per-node", "mem", "mem-per-cpu", "wckey", "open-mode")
_TYPE = re.compile(r"[A-Za-z0-9_.-]+$")


class GpuRequest(PlainSpec):
    """The GPUs of one job; sites differ in the words they accept."""

    style: Literal["gres", "gpus_per_node", "count", "none"] = Field(
        "gres", description="gres: --gres=gpu:TYPE:N; gpus_per_node: --gpus-per-node=TYPE:N; count: --gpus-per-node=N; "
                            "none: no GPU")
    type: str | None = Field(None, description="the site's name of the GPU, see `sinfo -o '%P %G'`; null: any")
    count: int = Field(1, description="GPUs per node", ge=1)

    @field_validator("type")
    @classmethod
    def _word(cls, value: str | None) -> str | None:
        if value is not None and not _TYPE.match(value):
            raise ValueError("a name of letters, digits, '.', '_' and '-', without a count")
        return value

    def flags(self) -> dict[str, Any]:
        """sbatch's option for this request."""
        kind = f"{self.type}:" if self.type else ""
        words: dict[str, dict[str, Any]] = {
            "gres": {"gres": f"gpu:{kind}{self.count}"}, "gpus_per_node": {"gpus_per_node": f"{kind}{self.count}"},
            "count": {"gpus_per_node": self.count}, "none": {}}
        return words[self.style]


class Profile(NamedSpec):
    """One way of asking one cluster for a job."""

    title: str = Field("", description="what the cluster or queue is, for people")
    description: str = Field("", description="when to use it")
    partition: str | None = Field(None, description="--partition; null: the cluster's default")
    account: str | None = Field(None, description="--account; many sites demand one")
    qos: str | None = Field(None, description="--qos; often caps time and jobs")
    constraint: str | None = Field(None, description="--constraint; names are the site's: `sinfo -o '%P %f'`")
    exclude: tuple[str, ...] = Field((), description="nodes to keep away from")
    gpu: GpuRequest = Field(default_factory=lambda: GpuRequest.model_validate({"style": "none"}),
                            description="the GPUs of one job")
    device: Literal["cpu", "cuda"] = Field(description="where jobs compute; must fit gpu")
    scale: Scale = Field(description="the scale where --scale is not given")
    nodes: int = Field(1, description="nodes of one job; more than one for artefact stages only", ge=1)
    tasks_per_node: int = Field(1, description="processes on a node; more than one for artefact stages only", ge=1)
    cpus_per_task: int = Field(description="cores of a process: environment workers and two more", ge=1)
    mem_gb: float | None = Field(None, description="memory of the job on a node; excludes mem_per_cpu_gb", gt=0)
    mem_per_cpu_gb: float | None = Field(None, description="memory per core; excludes mem_gb",
                                         gt=0)
    time_min: int = Field(description="time limit of one start in minutes; a run goes on in the next", ge=2)
    leave_s: int = Field(300, description="seconds before the limit at which a job saves, leaves and is requeued; "
                                          "slurm's warning signal comes at half of it", ge=10)
    max_restarts: int = Field(100, description="starts of one job after its first before it counts as failed", ge=0)
    requeue: bool = Field(True, description="--requeue: may be started again after preemption or a node's failure")
    array_parallelism: int = Field(16, description="jobs of one array at the same time", ge=1)
    max_array: int = Field(1000, description="jobs in one array at most: the site's MaxArraySize minus one", ge=1)
    runs_per_job: int = Field(1, description="runs that one job does at the same time, on one GPU or its cores", ge=1)
    setup: tuple[str, ...] = Field((), description="shell lines before the command: modules, GL variables")
    wrapper: tuple[str, ...] = Field((), description="words before python, such as xvfb-run -a")
    env: dict[str, str] = Field({}, description="environment variables of the job")
    scratch: str | None = Field(None, description="node-local folder for replay, such as $SLURM_TMPDIR; what is new in "
                                                  "it is copied to the run at checkpoints; null: replay in the run")
    wckey: str | None = Field(None, description="--wckey; null: none, since some sites refuse one")
    srun_args: tuple[str, ...] | None = Field(
        None, description="options of srun; null: --cpus-per-task, which srun 22.05 to 23.02 does not inherit")
    extra: dict[str, Any] = Field({}, description="further options of sbatch, by their long names")

    @field_validator("extra")
    @classmethod
    def _free(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted({key.replace("_", "-") for key in value} & set(RESERVED))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set here: a key of the profile, or submitit, writes it")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.mem_gb is not None and self.mem_per_cpu_gb is not None:
            raise ValueError("mem_gb and mem_per_cpu_gb exclude each other")
        if (self.device == "cuda") == (self.gpu.style == "none"):
            raise ValueError("device cuda needs a gpu request, and device cpu none")
        if self.leave_s >= 60 * self.time_min:
            raise ValueError("leave_s must be shorter than time_min")
        return self

    @property
    def processes(self) -> int:
        """Processes of one job."""
        return self.nodes * self.tasks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of one job, on all its nodes."""
        return 0 if self.gpu.style == "none" else self.nodes * self.gpu.count
