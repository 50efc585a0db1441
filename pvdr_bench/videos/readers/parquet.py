"""Rows of Parquet files, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError
from pvdr_bench.needed import need

_ROWS = 64


def batches(path: Path, columns: Sequence[str], rows: int = _ROWS) -> Iterator[dict[str, Any]]:
    """The rows of a file, as plain values of ``columns``.

    Raises:
        DataError: no Parquet file, damaged, or without one of the columns.
    """
    parquet: Any = need("pyarrow.parquet", "reading Parquet files", "pip install pyarrow")
    arrow: Any = need("pyarrow", "reading Parquet files")
    try:
        with parquet.ParquetFile(path, memory_map=False, page_checksum_verification=True) as file:
            names = set(file.schema_arrow.names)
            if lacking := [name for name in columns if name not in names]:
                raise DataError(f"has no column {lacking[0]}", where=str(path))
            for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a small table.

    Raises:
        DataError: see :func:`batches`; a cell is empty.
    """
    for number, row in enumerate(batches(path, columns, 1024)):
        if any(row[name] is None for name in columns):
            raise DataError("an empty cell", where=f"{path}, row {number}")
        yield row
