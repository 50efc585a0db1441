"""Where data, results and shipped artefacts live."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "PVDR_BENCH_DATA"
RESULTS_VARIABLE = "PVDR_BENCH_RESULTS"
_PACKAGE = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """Home of videos and artefacts: ``PVDR_BENCH_DATA``, else ``pvdr-bench`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get(DATA_VARIABLE):
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pvdr-bench"


def results_root(option: str | Path | None = None) -> Path:
    """Folder of run directories: ``--results``, else ``PVDR_BENCH_RESULTS``, else ``./results``."""
    return Path(option or os.environ.get(RESULTS_VARIABLE) or "results").expanduser().resolve()


def shipped_artefacts() -> list[Path]:
    """Read-only artefact folders that come with the code: beside an editable install, or inside a wheel."""
    return [folder for folder in (_PACKAGE.parent / "artefacts", _PACKAGE / "_data" / "artefacts") if folder.is_dir()]
