"""One run's files, read fast: what the run is, and the means of its evaluation points.

What is read here depends on the bytes of :data:`FILES` alone, so it can be cached. Whether a run is done, failed or
being written is asked anew each time, elsewhere.

Well-formed logs are parsed by pyarrow and YAML by libyaml; whatever these do not take is read by
:class:`~pvdr_bench.runs.directory.RunDir`, which says what is wrong and where.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from pvdr_bench.catalog.protocol import Protocol, digest
from pvdr_bench.errors import DataError
from pvdr_bench.runs.directory import FORMAT, RunDir
from pvdr_bench.runs.files import content_hash, plain

FILES = ("run.yaml", "episodes.jsonl", "timing.jsonl")
MEANS = ("success_any", "success_end", "return", "length")
UNKNOWN = "unknown"  # the device of an evaluation that no line of timing.jsonl tells of
_NEVER_IN_RECIPE = ("seed", "pretrain_seed")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values, ten times faster
_SCHEMA = pa.schema([("env_steps", pa.int64()), ("decisions", pa.int64()), ("point", pa.string()),
                     ("eval_seed", pa.int64()), ("success_any", pa.bool_()), ("success_end", pa.bool_()),
                     ("return", pa.float64()), ("length", pa.float64())])
POINT_TYPES: dict[str, Any] = {
    "env_steps_made": np.int64, "decisions": np.int64, "point": object, "episodes": np.int64,
    **dict.fromkeys(MEANS, np.float64),
    "wall_seconds": np.float64, "evaluation_seconds": np.float64, "device": object,
}
Columns = dict[str, NDArray[Any]]  # by name, each [rows]


@dataclass(frozen=True)
class Content:
    """What a run's files say, its status left out.

    Attributes:
        facts: the run's columns that ``run.yaml`` gives.
        protocol: the keys that change what a number means.
        recipe: what determines results, seeds left out.
        points: [points] each, with the names of :data:`POINT_TYPES`; sorted by env_steps and point.
        reached: the largest env_steps of any episode; 0 without one.
        twice: episodes that a later line repeats; the later ones count.
    """

    facts: dict[str, Any]
    protocol: dict[str, Any]
    recipe: dict[str, Any]
    sync_every: int
    points: Columns
    reached: int
    twice: int


def read_content(path: Path) -> Content | None:
    """Read a run directory; None where it has no ``run.yaml``.

    Raises:
        DataError: a file is broken, or lacks something.
    """
    run_dir = RunDir(path)
    run = _read_run(run_dir)
    if run is None:
        return None
    facts, protocol, recipe, sync_every = _facts(run, str(path / "run.yaml"))
    episodes = _read_episodes(run_dir)
    reached = int(episodes["env_steps"].max(initial=0))
    points, twice = _means(episodes)
    return Content(facts, protocol, recipe, sync_every, {**points, **_timing(run_dir, points)}, reached, twice)


def _read_run(run_dir: RunDir) -> dict[str, Any] | None:
    try:
        value = yaml.load((run_dir.path / "run.yaml").read_bytes(), Loader=_LOADER)
    except (FileNotFoundError, yaml.YAMLError):
        return run_dir.read_run()
    if isinstance(value, dict) and "recipe" in value and value.get("format") == FORMAT:
        return value
    return run_dir.read_run()  # says what is wrong


def _need(mapping: dict[str, Any], key: str, where: str) -> Any:
    try:
        return mapping[key]
    except (KeyError, TypeError) as error:
        raise DataError(f"the key `{key}` is missing", where=where) from error


def _facts(run: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
    """What ``run.yaml`` says: the run's columns, the protocol's meaning, the recipe, and sync_every."""
    spec, recipe = _need(run, "spec", where), dict(_need(run, "recipe", where))
    protocol, task = _need(spec, "protocol", where), _need(spec, "task", where)
    for key in _NEVER_IN_RECIPE:
        recipe.pop(key, None)
    try:
        recipe, meaning = plain(recipe), plain(_meaning(protocol))
        hashes = {"protocol_hash": digest(meaning), "recipe_hash": content_hash(recipe)}
    except (TypeError, ValueError) as error:  # a date, or NaN in the protocol
        raise DataError(f"a value that no recipe has: {error}", where=where) from error
    corpus = spec.get("corpus")
    return {
        "method": _need(spec, "method", where), "variant": _need(spec, "variant", where),
        "title": _title(spec), "algorithm": _need(spec, "algorithm", where),
        "algorithm_version": int(_need(spec, "algorithm_version", where)),
        "task": task["name"] if isinstance(task, dict) else str(task),
        "corpus": corpus["name"] if isinstance(corpus, dict) else str(corpus or "none"),
        "scale": _need(spec, "scale", where), "protocol": _need(protocol, "name", where), **hashes,
        "seed": int(_need(spec, "seed", where)), "pretrain_seed": int(spec.get("pretrain_seed", 0) if corpus else -1),
        "budget": int(_need(protocol, "env_steps", where)),
    }, meaning, recipe, int(_need(protocol, "sync_every", where))


def _title(spec: dict[str, Any]) -> str:
    """The method's title, or the variant's name where ``-o`` changed something that the title does not say."""
    return str(spec.get("title") or spec["variant"]) if spec["variant"] == spec["method"] else str(spec["variant"])


def _meaning(protocol: dict[str, Any]) -> dict[str, Any]:
    """The recorded keys that change what a number means; keys of an older schema count too, so nothing is re-read."""
    means = Protocol.keys("means")
    return {key: value for key, value in protocol.items() if key not in means}


def _read_episodes(run_dir: RunDir) -> Columns:
    """All whole lines of ``episodes.jsonl``, a column each."""
    try:
        data = run_dir.episodes.path.read_bytes()
    except FileNotFoundError:
        data = b""
    data = data[:data.rfind(b"\n") + 1]  # a torn last line is no line
    if not data:
        return {field.name: np.empty(0, _numpy_type(field.type)) for field in _SCHEMA}
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data), read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"))
    except pa.ArrowInvalid:
        return _read_episodes_slowly(run_dir)
    if len(table) != data.count(b"\n") or any(column.null_count for column in table.columns):
        return _read_episodes_slowly(run_dir)
    return {name: table.column(name).to_numpy() for name in _SCHEMA.names}


def _numpy_type(kind: Any) -> Any:
    return object if pa.types.is_string(kind) else kind.to_pandas_dtype()


def _read_episodes_slowly(run_dir: RunDir) -> Columns:
    """The same, line by line, for logs with blank lines, numbers in place of booleans, or NaN.

    Raises:
        DataError: a line is no JSON, lacks something, or has text where a number belongs.
    """
    rows, where = run_dir.read_episodes(), str(run_dir.episodes.path)
    absent = [name for name in _SCHEMA.names if any(name not in row for row in rows)]
    if absent:
        raise DataError(f"rows lack {', '.join(absent)}", where=where)
    return {field.name: _column([row[field.name] for row in rows], field, where) for field in _SCHEMA}


def _column(values: list[Any], field: Any, where: str) -> NDArray[Any]:
    wanted: Any = str if pa.types.is_string(field.type) else int | float  # a bool is an int
    wrong = [value for value in values if not isinstance(value, wanted)]
    if wrong:
        raise DataError(f"{field.name} is {wrong[0]!r}", where=where)
    kind = np.float64 if pa.types.is_boolean(field.type) else _numpy_type(field.type)
    try:
        return np.array(values, dtype=kind)
    except (ValueError, OverflowError) as error:  # NaN where a whole number belongs
        raise DataError(f"{field.name}: {error}", where=where) from error


def _means(episodes: Columns) -> tuple[Columns, int]:
    """Means over the episodes of each (env_steps, point), and how many episodes were there twice.

    The result does not depend on the order of the lines, but for which of two equal ones counts (the later).
    """
    env_steps, eval_seed = episodes["env_steps"], episodes["eval_seed"]
    names, point = np.unique(episodes["point"].astype(str), return_inverse=True)
    order = np.lexsort((eval_seed, point, env_steps))  # stable: lines of one episode stay in their order
    keys = np.stack([env_steps, point, eval_seed])[:, order]
    last = np.append((keys[:, 1:] != keys[:, :-1]).any(axis=0), np.ones(min(1, len(order)), bool))
    order = order[last]
    env_steps, point = env_steps[order], point[order]
    starts = np.flatnonzero(np.append(np.ones(min(1, len(order)), bool),
                                      (np.diff(env_steps) != 0) | (np.diff(point) != 0)))
    count = np.diff(np.append(starts, len(order)))
    return {
        "env_steps_made": env_steps[starts], "decisions": episodes["decisions"][order][starts],
        "point": names.astype(object)[point[starts]], "episodes": count.astype(np.int64),
        **{name: _sums(episodes[name][order].astype(np.float64), starts) / count for name in MEANS},
    }, int((~last).sum())


def _sums(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.add.reduceat(values, starts) if len(starts) else np.empty(0)


def _timing(run_dir: RunDir, points: Columns) -> Columns:
    """The last line of ``timing.jsonl`` for each point; NaN and :data:`UNKNOWN` where there is none."""
    where = str(run_dir.timing.path)
    try:
        told = {(int(row["env_steps"]), str(row["point"])):
                (float(row["wall_seconds"]), float(row["evaluation_seconds"]), str(row["device"]))
                for row in run_dir.read_timing()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a row lacks a value, or has a wrong one: {error}", where=where) from error
    keys = zip(points["env_steps_made"].tolist(), points["point"].tolist(), strict=True)
    rows = [told.get(key, (np.nan, np.nan, UNKNOWN)) for key in keys]
    wall, evaluation, device = zip(*rows, strict=True) if rows else ((), (), ())
    return {"wall_seconds": np.array(wall, np.float64), "evaluation_seconds": np.array(evaluation, np.float64),
            "device": np.array(device, object)}
