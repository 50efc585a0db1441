"""Numbers as published, drawn apart from ours and never part of a statistic.

``results/paper/*.csv`` has the columns of :data:`COLUMNS`; success and its spread are in percent, as printed. A row has
either a success rate or a return. What a source does not say is empty. ``figures.json`` says of figures, whose numbers
nobody printed, how they were measured, and what the text says of one (``calls``) and of its highest row (``has``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pvdr_bench.errors import DataError, UsageError

COLUMNS: dict[str, str] = {
    "paper": "pvdr, apv or prelar: whose publication prints the number",
    "task": "task's name here, or all of the publication's tasks",
    "method": "method's name here",
    "variant": "the row of ours that means the same: method, or method with -o",
    "corpus": "videos of pre-training, or none",
    "horizon": "context + future frames, where several are compared",
    "env_steps": "simulator steps trained for",
    "success": "success rate in percent",
    "return": "episode return, where there is no success rate",
    "statistic": "mean or iqm over seeds",
    "spread": "the number behind +-",
    "spread_kind": "what that is, as far as the publication is clear",
    "seeds": "training seeds",
    "table": "table or figure",
    "source": "publication",
    "protocol": "how it was measured",
    "beside": "our protocol that is modelled on it, beside whose rows the number may be shown; empty: none",
    "standing": "primary: the authors' own number; secondary, disputed: not to be checked against",
    "note": "what a reader must know",
}
PRIMARY = "primary"
FIGURES = "figures.json"
_NUMBERS = {"env_steps": "Int64", "success": float, "return": float, "spread": float, "seeds": "Int64"}
_PACKAGE = Path(__file__).resolve().parent.parent


def paper_folder() -> Path | None:
    """Where the published numbers are: beside an editable install, or inside a wheel."""
    for folder in (_PACKAGE.parent / "results" / "paper", _PACKAGE / "_data" / "results" / "paper"):
        if folder.is_dir():
            return folder
    return None


def published(folder: Path | None = None, *, paper: str | None = "pvdr") -> pd.DataFrame:
    """Published numbers, a row each.

    Args:
        paper: whose publication: ``pvdr``, ``apv`` or ``prelar``; None: all, which must not be mixed in a figure.

    Raises:
        DataError: the folder is missing, a column is missing, or a number is none.
        UsageError: no such paper.
    """
    folder = folder or paper_folder()
    if folder is None or not folder.is_dir():
        raise DataError("there are no published numbers", where=str(folder or "results/paper"))
    frames = [_read(path) for path in sorted(folder.glob("*.csv"))]
    if not frames:
        raise DataError("there is no CSV file", where=str(folder))
    whole = pd.concat(frames, ignore_index=True)
    if paper is None:
        return whole
    if paper not in set(whole["paper"]):
        raise UsageError(f"there is no publication {paper!r}", where=str(folder),
                         hint=f"there is: {', '.join(sorted(whole['paper'].unique()))}")
    return whole[whole["paper"] == paper].reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    """One CSV file, checked."""
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise DataError(f"columns are missing: {', '.join(absent)}", where=str(path))
    frame = frame[list(COLUMNS)].copy()
    try:
        for name, kind in _NUMBERS.items():
            frame[name] = frame[name].replace("", np.nan).astype(float).astype(kind)
    except (TypeError, ValueError) as error:
        raise DataError(f"not a number: {error}", where=f"{path}: {name}") from error
    if not frame["success"].dropna().between(0.0, 100.0).all():
        raise DataError("a success rate is not between 0 and 100 percent", where=f"{path}: success")
    if not (frame["success"].notna() ^ frame["return"].notna()).all():
        raise DataError("a row needs either a success rate or a return", where=str(path))
    return frame


def measured_otherwise(what: str, source: str, protocol: str, detail: str = "") -> str:
    """Half a sentence for a caption: that what is published was measured in another way.

    Args:
        what: table or figure. detail: its statistic, if its numbers are shown.
    """
    return (f"{what} as published ({source}){detail and ', '}{detail}, under another protocol ({protocol}): not "
            "comparable, in no statistic.")


def figure_otherwise(source: str, folder: Path | None = None) -> str:
    """The same of the figure that an experiment follows, as a sentence; empty where nothing is known of it.

    Args:
        source: the experiment's, such as ``after arXiv 2411.03169, Fig. 4``.

    Raises:
        DataError: the folder is missing.
    """
    figure, row = _figure(source, folder)
    return f"Not shown: {measured_otherwise(figure, row['source'], row['protocol'])}" if row else ""


def figure_called(source: str, folder: Path | None = None) -> str:
    """What the publication's text says of the figure that an experiment follows, as a sentence; empty where nothing is
    known of it. Arguments and errors as for :func:`figure_otherwise`."""
    figure, row = _figure(source, folder)
    words = row.get("calls", {}).get(figure)
    return f"The publication calls {words}." if words else ""


def figure_has(source: str, folder: Path | None = None) -> str:
    """What the publication says of the highest row of that figure, as the object of a sentence; empty where it is not
    known. Arguments and errors as for :func:`figure_otherwise`."""
    figure, row = _figure(source, folder)
    return str(row.get("has", {}).get(figure, ""))


def _figure(source: str, folder: Path | None) -> tuple[str, dict[str, Any]]:
    """The figure that a source names, and what is known of it; nothing where it is not known."""
    folder = folder or paper_folder()
    if folder is None or not (folder / FIGURES).is_file():
        raise DataError("there is nothing on published figures", where=str(folder or "results/paper"))
    paper, _, figure = source.removeprefix("after ").rpartition(", ")
    for row in json.loads((folder / FIGURES).read_text(encoding="utf-8")):
        if row["paper"] == paper and figure in row["figures"]:
            return figure, dict(row)
    return figure, {}


def beside(protocol: str, folder: Path | None = None) -> pd.DataFrame:
    """The published success rates that may be shown beside rows of our protocol; empty where there is none."""
    frame = published(folder, paper=None)
    return frame[frame["beside"].eq(protocol) & frame["success"].notna()].reset_index(drop=True)


def reported(tasks: list[str], methods: list[str] | None = None, folder: Path | None = None, *,
             protocol: str = "pvdr", curves: bool = False) -> pd.DataFrame:
    """Published numbers of these tasks (and methods), each once, though several tables of a paper repeat it.

    Args:
        protocol: ours; only numbers that may stand beside its rows.
        curves: all points of published curves, by env_steps, in place of their last ones.
    """
    frame = beside(protocol, folder)
    frame = frame[frame["task"].isin(tasks)]
    if methods is not None:
        frame = frame[frame["method"].isin(methods)]
    row = ["task", "method", "corpus", "horizon"]
    if not curves:
        last = frame.groupby(row)["env_steps"].transform("max")
        frame = frame[frame["env_steps"].isna() | frame["env_steps"].eq(last)]
    frame = frame.sort_values([*row, "env_steps", "table"], kind="stable")
    return frame.drop_duplicates([*row, "env_steps", "success"]).reset_index(drop=True)
