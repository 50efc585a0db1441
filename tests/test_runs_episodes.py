"""An evaluation episode has one definition: what is written is what is read, fast or line by line."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pyarrow as pa

from pvdr_bench.results.reading import _SCHEMA
from pvdr_bench.runs.episodes import MEASURED, EpisodeResult, EpisodeRow, plain_type
from pvdr_bench.runs.schema import checked


def test_what_is_written_is_what_readers_ask_for() -> None:
    result = EpisodeResult(3, 1_000_000_003, True, False, -41.5, 200)
    row = result.row(seed=2, env_steps=800, decisions=200, point="grid")
    assert list(row) == list(EpisodeRow.__annotations__)
    assert checked(EpisodeRow, json.loads(json.dumps(row)), "row") == row
    assert set(EpisodeRow.__required_keys__) == set(_SCHEMA.names) == set(row) - {"seed", "episode"}
    assert set(MEASURED) <= set(_SCHEMA.names)


def test_columns_have_the_types_of_the_rows() -> None:
    kinds = {field.name: field.type for field in _SCHEMA}
    assert kinds == {"env_steps": pa.int64(), "decisions": pa.int64(), "point": pa.string(), "eval_seed": pa.int64(),
                     "success_any": pa.bool_(), "success_end": pa.bool_(), "return": pa.float64(),
                     "length": pa.float64()}
    assert plain_type(Annotated[int, "x"]) is int and plain_type(bool | Literal[0, 1]) is bool
    assert plain_type(Literal["a", "b"]) is str and plain_type(float) is float
