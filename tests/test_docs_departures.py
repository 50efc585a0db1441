"""Every key that departs from a paper stands in the table of docs/departures.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.vqgan.config import VQGANConfig

TABLE = (Path(__file__).parents[1] / "docs" / "departures.md").read_text()


def departures(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from departures(field.annotation, f"{prefix}{name}.")
        elif isinstance(field.json_schema_extra, dict) and "departure" in str(field.json_schema_extra["source"]):
            yield prefix + name


@pytest.mark.parametrize("model", [PVDRConfig, VQGANConfig, PPOConfig, DreamerConfig])
def test_every_departure_is_in_the_table(model: type[BaseModel]) -> None:
    names = list(departures(model))
    assert names
    missing = [name for name in names if f"`{name.removeprefix('online.')}`" not in TABLE]
    assert not missing
