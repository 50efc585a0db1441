"""What a run directory holds, read: no lock is taken and nothing is written; torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pvdr_bench.runs.locks import FileLock
from pvdr_bench.runs.logs import JsonlLog, read_jsonl
from pvdr_bench.runs.run_file import read_run_file
from pvdr_bench.runs.schema import (
    DoneFile,
    FailedFile,
    HeartbeatFile,
    PhaseRow,
    ProvenanceFile,
    ReferenceFile,
    TimingRow,
    TrainRow,
    checked,
    read_if_any,
)
from pvdr_bench.runs.standing import Standing, State, judge

T = TypeVar("T")


class RunContents:
    """One run's folder, to be read; :class:`~pvdr_bench.runs.directory.RunDir` writes it.

    Raises:
        DataError: each method, where its file is broken; says which, and where.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.train = JsonlLog(self.path / "train.jsonl")
        self.episodes = JsonlLog(self.path / "episodes.jsonl")
        self.timing = JsonlLog(self.path / "timing.jsonl")

    def read_run(self) -> dict[str, Any] | None:
        """``run.yaml``: format, recipe_hash, recipe, spec; None where there is none.

        Raises:
            DataError: it is broken or of a later format.
        """
        return cast("dict[str, Any] | None", read_run_file(self.path / "run.yaml"))

    def done(self) -> DoneFile | None:
        """``done.json``, if the run is done."""
        return read_if_any(DoneFile, self.path / "done.json")

    def failed(self) -> FailedFile | None:
        """``failed.json``, if the last start failed."""
        return read_if_any(FailedFile, self.path / "failed.json")

    def read_heartbeat(self) -> HeartbeatFile | None:
        """The last progress report."""
        return read_if_any(HeartbeatFile, self.path / "heartbeat.json")

    def read_provenance(self) -> ProvenanceFile | None:
        """``provenance.json``."""
        return read_if_any(ProvenanceFile, self.path / "provenance.json")

    def read_artefacts(self) -> dict[str, ReferenceFile] | None:
        """``artefacts.json``: what the run stands on, by stage."""
        return read_if_any(dict[str, ReferenceFile], self.path / "artefacts.json")

    def is_done(self, env_steps: int) -> bool:
        """Whether the run has reached a budget of ``env_steps``, and is as it was then.

        Raises:
            DataError: it has been changed since; says how.
        """
        found = self.standing()
        if found.state == "broken":
            raise found.error(self.path)
        done = found.done or self.done()
        return done is not None and done["env_steps"] >= env_steps

    def read_train(self) -> list[dict[str, Any]]:
        """Rows of ``train.jsonl``."""
        return [cast("dict[str, Any]", row) for row in self._rows(TrainRow, self.train)]

    def read_episodes(self) -> list[dict[str, Any]]:
        """Rows of ``episodes.jsonl``."""
        return read_jsonl(self.episodes.path)

    def read_timing(self) -> list[dict[str, Any]]:
        """Rows of ``timing.jsonl`` at evaluations: env_steps, wall_seconds, evaluation_seconds among them, device."""
        return [cast("dict[str, Any]", row) for row in self._timing() if "phase" not in row]

    def read_phases(self) -> list[PhaseRow]:
        """Rows of ``timing.jsonl`` at the end of each phase, with its seconds by part; none in runs from before."""
        return [cast("PhaseRow", row) for row in self._timing() if "phase" in row]

    def _timing(self) -> list[Mapping[str, Any]]:
        """Rows of both kinds."""
        kinds: tuple[type[Any], type[Any]] = (TimingRow, PhaseRow)
        return [checked(kinds["phase" in row], row, where) for where, row in self._numbered(self.timing)]

    def _rows(self, kind: type[T], log: JsonlLog) -> list[T]:
        """A log's rows, each checked."""
        return [checked(kind, row, where) for where, row in self._numbered(log)]

    @staticmethod
    def _numbered(log: JsonlLog) -> list[tuple[str, dict[str, Any]]]:
        return [(f"{log.path}: row {number}", row) for number, row in enumerate(read_jsonl(log.path), start=1)]

    @property
    def videos(self) -> Path:
        """Folder of the run's videos."""
        return self.path / "videos"

    def holder(self) -> dict[str, Any] | None:
        """The process that holds the lock, dead or alive."""
        return FileLock(self.path / "lock").holder()

    def standing(self) -> Standing:
        """What is true of this run now, as far as its files tell."""
        return judge(self.path)

    def status(self) -> State:
        """Its state alone."""
        return self.standing().state
