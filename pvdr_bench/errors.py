"""The errors a user can meet, each with one clear message and a documented exit code.

A message says what is wrong, where (file, key, line or byte offset), and what to do about it.
"""

from __future__ import annotations


class BenchError(Exception):
    """Base of every expected error; the command line prints it without a traceback.

    Args:
        message: what is wrong, in one sentence.
        where: file, key, line or byte offset, if there is one.
        hint: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  -> {self.hint}" if self.hint else ""
        return f"{place}{self.message}{advice}"


class UsageError(BenchError):
    """The command line does not make sense (unknown name, contradictory options)."""

    exit_code = 2


class CatalogError(BenchError):
    """A YAML file or an override does not fit its schema."""

    exit_code = 3


class SetupError(BenchError):
    """The machine lacks something: a package, a GL library, a device, videos."""

    exit_code = 4


class DataError(BenchError):
    """Stored data is broken or cannot be read: a truncated clip store, a checkpoint with a wrong checksum."""

    exit_code = 5


class UnreadableError(DataError):
    """Reading itself failed: no permission, a failing disk, too many open files. What is stored may be whole."""


class LockedError(BenchError):
    """Another live process is writing this run or artefact."""

    exit_code = 6


class ChangedError(BenchError):
    """A run exists with another recipe, protocol or algorithm version; the message is the diff."""

    exit_code = 7


class TrainingError(BenchError):
    """Learning cannot go on: NaN in a loss, a dead environment worker."""

    exit_code = 8


class SimulatorError(TrainingError):
    """A simulator died, hangs or cannot be used any longer; another one may be started."""


class StorageError(BenchError):
    """The disk is full or cannot be written."""

    exit_code = 9


class Interrupted(BenchError):
    """A signal asked the run to stop; the same command continues from its last checkpoint."""

    exit_code = 75


EXIT_CODES: dict[int, str] = {
    0: "everything asked for is done",
    1: "at least one run failed, or an unexpected error (a traceback is shown)",
    **{
        cls.exit_code: (cls.__doc__ or "").splitlines()[0]
        for cls in (
            UsageError, CatalogError, SetupError, DataError, LockedError,
            ChangedError, TrainingError, StorageError, Interrupted,
        )
    },
}
