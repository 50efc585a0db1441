"""``pvdr-bench describe NAME``: every key with its meaning, value and source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, Overrides, choose_scale
from pvdr_bench.plain_text import one_line

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pvdr_bench.catalog.catalog import Catalog
    from pvdr_bench.catalog.layers import Layers

KINDS = ("method", "task", "suite", "protocol", "corpus", "scale", "profile", "experiment")


def describe(
    name: Annotated[str, typer.Argument(help="A method (also a variant, pvdr@lambda1=1e-2), task, suite, protocol, "
                                        "corpus, scale, profile or experiment; method:pvdr and protocol:pvdr "
                                        "where a name is both.")],
    scale: Annotated[str | None, typer.Option("--scale", help="Scale of the values; default: cpu.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Task whose set and suite are applied.")] = None,
    override: Overrides = None, json_: Json = False,
) -> None:
    """Explain every key of anything that has a name: its meaning, value and source, and where it was set."""
    from pvdr_bench.catalog import load_catalog

    catalog = load_catalog()
    chosen = choose_scale(scale).value
    entries = [explain(catalog, kind, plain, chosen, task, override or []) for kind, plain in find(catalog, name)]
    if json_:
        typer.echo(json.dumps(entries if len(entries) > 1 else entries[0], default=str))
        return
    for entry in entries:
        echo_entry(entry)


def find(catalog: Catalog, name: str) -> list[tuple[str, str]]:
    """(kind, name) of everything that has the name; ``kind:name`` picks one.

    Raises:
        CatalogError: nothing has it.
    """
    from pvdr_bench.catalog.problems import unknown
    from pvdr_bench.catalog.resolve import split_variant
    from pvdr_bench.catalog.scales import SCALES
    from pvdr_bench.suites.registry import suites

    names = {"method": catalog.methods(), "task": catalog.tasks(), "suite": list(suites()),
             "protocol": catalog.protocols(), "corpus": catalog.corpora(), "scale": list(SCALES),
             "profile": catalog.profiles(), "experiment": catalog.experiments()}
    kind, colon, rest = name.partition(":")
    wanted, plain = ([kind], rest) if colon and kind in KINDS else (list(KINDS), name)
    stem = {"method": split_variant(plain)[0], "task": catalog.task_name(plain)}
    found = [(each, plain) for each in wanted if stem.get(each, plain) in names[each]]
    if not found:
        raise unknown("name", plain, dict.fromkeys(every for each in wanted for every in names[each]))
    return found


def explain(catalog: Catalog, kind: str, name: str, scale: str, task: str | None,
            overrides: list[str]) -> dict[str, Any]:
    """Facts and keys of one entry, as plain data."""
    if kind == "method":
        return _method(catalog, name, scale, task, overrides)
    if kind == "suite":
        from pvdr_bench.cli.suites import explain_suite

        return explain_suite(name)
    if kind == "protocol":
        from pvdr_bench.suites.registry import DEFAULT_SUITE

        return _protocol(catalog, name, scale, catalog.task(task).suite if task else DEFAULT_SUITE)
    if kind == "scale":
        from pvdr_bench.catalog.scales import SCALES

        return {"kind": kind, "name": name, "facts": {"description": SCALES[name]}, "keys": []}
    find_spec: dict[str, Callable[[str], BaseModel]] = {
        "task": catalog.task, "corpus": catalog.corpus, "profile": catalog.profile, "experiment": catalog.experiment}
    spec = find_spec[kind](name)
    data = spec.model_dump(mode="json")
    keys = [{"key": key, "value": data[key], "meaning": info.description, "source": "", "set_in": None}
            for key, info in type(spec).model_fields.items()]
    keys = [one for row in keys for one in (row, *_inner(type(spec), row["key"], row["value"]))]
    return {"kind": kind, "name": name, "facts": {}, "keys": keys}


def _inner(schema: type[BaseModel], key: str, value: Any) -> list[dict[str, Any]]:
    """The keys of a group of keys, with its values where it is given."""
    from pvdr_bench.catalog.keys import model_at

    inner = model_at(schema, (key,))
    return [] if inner is None else [
        {"key": f"{key}.{name}", "value": (value or {}).get(name), "meaning": info.description, "source": "",
         "set_in": None} for name, info in inner.model_fields.items()]


def _method(catalog: Catalog, name: str, scale: str, task: str | None, overrides: list[str]) -> dict[str, Any]:
    from pvdr_bench.algorithms.registry import algorithms

    task_set = catalog.task(task).set if task else None
    config = catalog.config(name, scale, task_set, overrides)
    info = algorithms()[config.method.algorithm or ""]
    facts = {
        "title": config.method.title, "description": config.method.description, "paper": config.method.paper,
        "tuning": config.method.tuning, "algorithm": f"{info.name} (version {info.version})",
        "stages": ", ".join(info.stages), "extends": config.method.extends, "scale": scale,
    }
    return {"kind": "method", "name": config.variant, "facts": facts, "keys": keys_of(config.value, config.layers)}


def _protocol(catalog: Catalog, name: str, scale: str, suite: str) -> dict[str, Any]:
    found = catalog.protocol_file(name)
    layers = catalog.protocol_layers(name, scale, suite)
    protocol = catalog.protocol(name, scale, suite)
    facts = {"title": found.title, "description": found.description, "source": found.document.data.get("source"),
             "scale": scale, "hash": protocol.hash()}
    return {"kind": "protocol", "name": name, "facts": facts, "keys": keys_of(protocol, layers)}


def keys_of(value: BaseModel, layers: Layers) -> list[dict[str, Any]]:
    """Each key with its value, meaning, source, whether it is a protocol's meaning or means, and where it was set."""
    from pvdr_bench.catalog.keys import leaves
    from pvdr_bench.catalog.resolve import value_at

    data = value.model_dump(mode="json")
    rows = []
    for path, info in leaves(type(value)):
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        row = {"key": ".".join(path), "value": value_at(data, path), "meaning": info.description or "",
               "source": extra.get("source", ""), "set_in": layers.origins.get(path)}
        rows.append(row | ({"kind": extra["kind"]} if "kind" in extra else {}))
    return rows


def echo_entry(entry: dict[str, Any]) -> None:
    """Print one entry for people."""
    typer.echo(f"{entry['kind']} {entry['name']}")
    for key, value in entry["facts"].items():
        if value:
            typer.echo(f"  {key}: {one_line(str(value))}")
    for row in entry["keys"]:
        value = json.dumps(row["value"])
        typer.echo(f"  {row['key']} = {value}")
        notes = [row["meaning"], f"[{row['kind']}]" if "kind" in row else "",
                 f"source: {row['source']}" if row["source"] else "",
                 f"set in {_shorten(row['set_in'])}" if row["set_in"] else ""]
        typer.echo("      " + "; ".join(note for note in notes if note))


def _shorten(place: str) -> str:
    """A place relative to the current folder where it is inside it."""
    here = f"{Path.cwd()}/"
    return place.removeprefix(here)
