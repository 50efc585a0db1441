"""The files of a run, typed: what each kind holds, and one reader for all of them.

A reader gives the file's own mapping (keys that it does not know included) once it is checked: what is named here has
its type, and a number is finite. All else is a :class:`DataError` that names file and key.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import read_json

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of what is counted beyond 2**53
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^[\w.@=,+\[\]\-]+$")]  # part of a path
Point = Literal["grid", "final"]
Phase = Literal["train", "grid", "final"]
POINTS: tuple[str, ...] = ("grid", "final")
Success = bool | Literal[0, 1]
T = TypeVar("T")


class SealedFile(TypedDict):
    """A file as it was when its run was done; see :mod:`pvdr_bench.runs.seal`."""

    bytes: Count
    sha256: str
    rows: NotRequired[Count]
    marks: NotRequired[str]


class SealFile(TypedDict):
    """The seal in ``done.json``."""

    format: Literal[1]
    files: dict[str, SealedFile | None]
    final: Count  # episodes of the final evaluation
    wanted: Count | None  # and how many the protocol asks for
    sha256: str  # of all else in done.json


DoneFile = TypedDict("DoneFile", {  # the key `return` is no name
    "time": NotRequired[Finite], "env_steps": Count, "decisions": NotRequired[Count],
    "wall_seconds": NotRequired[Seconds], "success_any": NotRequired[Rate], "success_end": NotRequired[Rate],
    "return": NotRequired[Finite], "episodes": NotRequired[Count], "seal": NotRequired[SealFile],
})


class FailedFile(TypedDict):
    """``failed.json``."""

    time: NotRequired[Finite]
    error: NotRequired[str]
    message: NotRequired[str]
    exit_code: NotRequired[Count]
    traceback: NotRequired[str]


class HeartbeatFile(TypedDict):
    """``heartbeat.json`` of a run: where it is, and how far."""

    time: NotRequired[Finite]
    pid: NotRequired[int]
    node: NotRequired[str]
    job: NotRequired[str | None]
    restarts: NotRequired[Count]
    phase: NotRequired[str]
    env_steps: NotRequired[Count]
    budget: NotRequired[Count]
    rate: NotRequired[Finite | None]
    learned: NotRequired[Rate | None]
    success: NotRequired[Rate | None]
    train_success: NotRequired[Rate | None]
    wall_seconds: NotRequired[Seconds]
    dropped_seconds: NotRequired[Seconds]


class Start(TypedDict):
    """What a run was started with: what its readers rely on."""

    command: NotRequired[list[str]]
    git: NotRequired[dict[str, Any]]
    packages: NotRequired[dict[str, Any]]
    host: NotRequired[str]
    directory: NotRequired[str]
    executable: NotRequired[str]


class ProvenanceFile(Start):
    """``provenance.json``: the first start, and what differed in later ones."""

    resumes: NotRequired[list[Start]]


class ReferenceFile(TypedDict):
    """An artefact that a run stands on, in ``artefacts.json``."""

    stage: Word
    name: Word
    hash: Word
    weights_sha256: Word
    wall_seconds: NotRequired[Seconds]  # that its training took, on this kind of device
    device: NotRequired[str]
    flop: NotRequired[Amount]  # of its updates


class StageRow(TypedDict):
    """A row of an artefact's ``timing.jsonl``, at a checkpoint: seconds of training up to it, validations included.

    Of all its starts; what one did after its last checkpoint is not in them.
    """

    step: Count
    wall_seconds: Seconds
    device: str
    flop: NotRequired[Amount]  # of its updates, of all processes together; missing where it was not counted


class ManifestFile(TypedDict):
    """``manifest.json`` of an artefact: sha256 of its files by name."""

    stage: Name
    name: Name
    hash: Name
    files: dict[str, str]
    fresh: NotRequired[bool]


class CheckedFile(TypedDict):
    """A file in a checkpoint's manifest."""

    bytes: Count
    sha256: str


class CheckpointManifestFile(TypedDict):
    """``manifest.json`` of a checkpoint."""

    format: int
    step: Count
    files: dict[str, CheckedFile]


class LockFile(TypedDict):
    """A lock's holder."""

    pid: int
    host: NotRequired[str]
    token: NotRequired[str]
    start: NotRequired[str | None]
    scope: NotRequired[str]
    job: NotRequired[str | None]
    restarts: NotRequired[Count]
    command: NotRequired[str]
    since: NotRequired[str]


class Named(TypedDict):
    """A mapping with a name: a task, a corpus."""

    name: Name


class ProtocolFacts(TypedDict):
    """Of a run's protocol, what its readers rely on."""

    name: Name
    env_steps: Positive
    sync_every: Positive
    eval_episodes: NotRequired[Positive]
    eval_final_episodes: NotRequired[Positive]


class TaskFacts(Named):
    """The task of a run: its name, and what a caption has to say of it."""

    note: NotRequired[str]


class SpecFacts(TypedDict):
    """Of a run's specification, what its readers rely on."""

    method: Name
    variant: Name
    title: NotRequired[str | None]
    algorithm: Name
    algorithm_version: Count
    task: Name | TaskFacts
    corpus: NotRequired[Name | Named | None]
    pretrain_seed: NotRequired[Count]
    scale: Name
    protocol: ProtocolFacts
    seed: Count


class TimingRow(TypedDict):
    """A row of ``timing.jsonl`` at the beginning of an evaluation: seconds up to it."""

    env_steps: Count
    point: Point
    wall_seconds: Seconds
    evaluation_seconds: Seconds
    device: str


class PhaseRow(TypedDict):
    """A row of ``timing.jsonl`` at the end of a phase: training up to a sync point, or an evaluation.

    ``seconds``, ``calls`` and ``flop`` are those since the last such row, by part; ``outer.inner`` is within ``outer``:
    its seconds are in those of ``outer`` too, its FLOP are not. ``dropped_seconds`` are those, of all starts so far, in
    which a process worked after its last checkpoint before it died or was stopped; they are in no other number.
    """

    env_steps: Count
    phase: Phase
    wall_seconds: Seconds
    evaluation_seconds: Seconds
    device: str
    seconds: dict[str, Seconds]
    calls: NotRequired[dict[str, Count]]  # runs from before have neither these nor what follows
    flop: NotRequired[dict[str, Amount]]
    dropped_seconds: NotRequired[Seconds]


class TrainRow(TypedDict):
    """A row of ``train.jsonl``: metrics by name, and where they were taken."""

    env_steps: NotRequired[Count]
    decisions: NotRequired[Count]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(kind: type[T], value: Any, where: str) -> T:
    """``value`` as it is, once it is known to be of ``kind``.

    Raises:
        DataError: it is not; says the key and what belongs there.
    """
    try:
        _adapter(cast(Any, kind)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part not in ("constrained-str", "Named"))
        if first["type"] == "missing":
            raise DataError(f"the key `{key}` is missing", where=where) from error
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise DataError(f"{key} is {shown}: {first['msg'].replace('Input should', 'it should')}",
                        where=where) from error
    return cast(T, value)


def read(kind: type[T], path: Path) -> T:
    """A JSON file of ``kind``.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is broken, or not of that kind.
    """
    return checked(kind, read_json(path), str(path))


def read_if_any(kind: type[T], path: Path) -> T | None:
    """The same; None where there is no file.

    Raises:
        DataError: it is broken, or not of that kind.
    """
    try:
        return read(kind, path)
    except FileNotFoundError:
        return None
