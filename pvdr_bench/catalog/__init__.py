"""Methods, tasks, protocols and corpora: YAML that becomes typed, frozen specs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvdr_bench.catalog.catalog import Catalog as Catalog
    from pvdr_bench.catalog.catalog import load_catalog as load_catalog
    from pvdr_bench.catalog.protocol import Protocol as Protocol
    from pvdr_bench.catalog.seeds import parse_seeds as parse_seeds
    from pvdr_bench.catalog.seeds import split_names as split_names
    from pvdr_bench.catalog.specs import CorpusSpec as CorpusSpec
    from pvdr_bench.catalog.specs import MethodSpec as MethodSpec
    from pvdr_bench.catalog.specs import RunSpec as RunSpec
    from pvdr_bench.catalog.specs import TaskSpec as TaskSpec

_WHERE = {
    "Catalog": "catalog", "load_catalog": "catalog", "Protocol": "protocol", "parse_seeds": "seeds",
    "split_names": "seeds",
    "CorpusSpec": "specs", "MethodSpec": "specs", "RunSpec": "specs", "TaskSpec": "specs",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pydantic is slow to import, and a help text needs none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
