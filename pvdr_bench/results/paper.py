"""Numbers as published, drawn apart from ours and never part of a statistic.

``results/paper/*.csv`` has the columns of :data:`COLUMNS`; success and spread in percent, as printed.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pvdr_bench.errors import DataError

COLUMNS = ("task", "method", "corpus", "horizon", "success", "spread", "seeds", "table", "source", "protocol", "note")
_PACKAGE = Path(__file__).resolve().parent.parent


def paper_folder() -> Path | None:
    """Where the published numbers are: beside an editable install, or inside a wheel."""
    for folder in (_PACKAGE.parent / "results" / "paper", _PACKAGE / "_data" / "results" / "paper"):
        if folder.is_dir():
            return folder
    return None


def published(folder: Path | None = None) -> pd.DataFrame:
    """All published numbers, a row each.

    Raises:
        DataError: the folder is missing, a column is missing, or a number is none.
    """
    folder = folder or paper_folder()
    if folder is None or not folder.is_dir():
        raise DataError("there are no published numbers", where=str(folder or "results/paper"))
    frames = []
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, keep_default_na=False)
        absent = [name for name in COLUMNS if name not in frame]
        if absent:
            raise DataError(f"columns are missing: {', '.join(absent)}", where=str(path))
        try:
            numbers = frame.astype({"success": float, "spread": float, "seeds": int})
        except ValueError as error:
            raise DataError(f"not a number: {error}", where=str(path)) from error
        if not numbers["success"].between(0.0, 100.0).all():
            raise DataError("a success rate is not between 0 and 100 percent", where=f"{path}: success")
        frames.append(numbers[list(COLUMNS)])
    if not frames:
        raise DataError("there is no CSV file", where=str(folder))
    return pd.concat(frames, ignore_index=True)


def reported(tasks: list[str], methods: list[str] | None = None, folder: Path | None = None) -> pd.DataFrame:
    """The published numbers of these tasks (and methods), each once, though several tables repeat it."""
    frame = published(folder)
    frame = frame[frame["task"].isin(tasks)]
    if methods is not None:
        frame = frame[frame["method"].isin(methods)]
    frame = frame.sort_values(["task", "method", "corpus", "horizon", "table"], kind="stable")
    return frame.drop_duplicates(["task", "method", "corpus", "horizon", "success"]).reset_index(drop=True)
