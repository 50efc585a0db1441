"""One run's files, read fast: what the run is, and the means of its evaluation points.

What is read here depends on the bytes of :data:`FILES` alone, so it can be cached. Whether a run is done, failed or
being written is asked anew each time, elsewhere.

Well-formed logs are parsed by pyarrow; whatever it does not take is read line by line, which says what is wrong and
where. One rule holds for both: success is true or false (or 1 or 0), return and length are finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from pvdr_bench.catalog.protocol import Protocol, digest
from pvdr_bench.errors import DataError
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.episodes import LARGEST, MEASURED, EpisodeRow, plain_type
from pvdr_bench.runs.files import content_hash, plain
from pvdr_bench.runs.intake import LARGEST_LOG, read_bytes
from pvdr_bench.runs.logs import read_jsonl
from pvdr_bench.runs.run_file import RunFile, read_run_file
from pvdr_bench.runs.schema import POINTS, SpecFacts, checked

FILES = ("run.yaml", "episodes.jsonl", "timing.jsonl")
UNKNOWN = "unknown"  # the device of an evaluation that no line of timing.jsonl tells of
_NEVER_IN_RECIPE = ("seed", "pretrain_seed")
_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_SCHEMA = pa.schema([(name, _ARROW[plain_type(hint)]) for name, hint in get_type_hints(EpisodeRow).items()
                     if name in EpisodeRow.__required_keys__])
POINT_TYPES: dict[str, Any] = {
    "env_steps_made": np.int64, "decisions": np.int64, "point": object, "episodes": np.int64,
    **dict.fromkeys(MEASURED, np.float64),
    "wall_seconds": np.float64, "evaluation_seconds": np.float64, "device": object,
}
Columns = dict[str, NDArray[Any]]  # by name, each [rows]


@dataclass(frozen=True)
class Content:
    """What a run's files say, its status left out.

    Attributes:
        facts: the run's columns that ``run.yaml`` gives, and the note of its task.
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
    run = read_run_file(path / "run.yaml")
    if run is None:
        return None
    facts, protocol, recipe, sync_every = _facts(run, str(path / "run.yaml"))
    run_dir = RunDir(path)
    episodes = _read_episodes(run_dir)
    reached = int(episodes["env_steps"].max(initial=0))
    points, twice = _means(episodes)
    return Content(facts, protocol, recipe, sync_every, {**points, **_timing(run_dir, points)}, reached, twice)


def _facts(run: RunFile, where: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
    """What ``run.yaml`` says: the run's columns, the protocol's meaning, the recipe, and sync_every.

    Raises:
        DataError: something is missing, or is not what belongs there.
    """
    spec = checked(SpecFacts, run["spec"], f"{where}: spec")
    protocol, task, corpus = spec["protocol"], spec["task"], spec.get("corpus")
    recipe = {key: value for key, value in run["recipe"].items() if key not in _NEVER_IN_RECIPE}
    try:
        recipe, meaning = plain(recipe), plain(_meaning(cast("dict[str, Any]", protocol)))
        hashes = {"protocol_hash": digest(meaning), "recipe_hash": content_hash(recipe)}
    except (TypeError, ValueError) as error:  # NaN in the protocol
        raise DataError(f"a value that no recipe has: {error}", where=where) from error
    return {
        "method": spec["method"], "variant": spec["variant"], "title": _title(spec), "algorithm": spec["algorithm"],
        "algorithm_version": spec["algorithm_version"], "task": task if isinstance(task, str) else task["name"],
        "corpus": corpus["name"] if isinstance(corpus, dict) else corpus or "none",
        "scale": spec["scale"], "protocol": protocol["name"], **hashes,
        "seed": spec["seed"], "pretrain_seed": spec.get("pretrain_seed", 0) if corpus else -1,
        "budget": protocol["env_steps"], "note": "" if isinstance(task, str) else task.get("note", ""),
    }, meaning, recipe, protocol["sync_every"]


def _title(spec: SpecFacts) -> str:
    """The method's title, or the variant's name where ``-o`` changed something that the title does not say."""
    return str(spec.get("title") or spec["variant"]) if spec["variant"] == spec["method"] else str(spec["variant"])


def _meaning(protocol: dict[str, Any]) -> dict[str, Any]:
    """The recorded keys that change what a number means; keys of an older schema count too, so nothing is re-read."""
    means = Protocol.keys("means")
    return {key: value for key, value in protocol.items() if key not in means}


def _read_episodes(run_dir: RunDir) -> Columns:
    """All whole lines of ``episodes.jsonl``, a column each."""
    try:
        data = read_bytes(run_dir.episodes.path, LARGEST_LOG)
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
    if not data.isascii() or len(table) != data.count(b"\n") or any(column.null_count for column in table.columns):
        return _read_episodes_slowly(run_dir)
    found = {name: table.column(name).to_numpy() for name in _SCHEMA.names}
    return found if _plausible(found) else _read_episodes_slowly(run_dir)


def _plausible(episodes: Columns) -> bool:
    """Whether all values lie where they can."""
    whole = all(int(episodes[name].min()) >= 0 for name in ("env_steps", "decisions", "eval_seed"))
    small = all(bool((np.abs(episodes[name]) <= LARGEST).all()) for name in ("return", "length"))  # and no NaN
    return whole and small and float(episodes["length"].min()) >= 0.0 and set(episodes["point"].tolist()) <= set(POINTS)


def _numpy_type(kind: Any) -> Any:
    return object if pa.types.is_string(kind) else kind.to_pandas_dtype()


def _read_episodes_slowly(run_dir: RunDir) -> Columns:
    """The same, line by line, for logs with blank lines or numbers in place of booleans.

    Raises:
        DataError: a line is no JSON, lacks something, or has a value that cannot be; says which line.
    """
    path = run_dir.episodes.path
    rows = [checked(EpisodeRow, row, f"{path}: row {number}") for number, row in enumerate(read_jsonl(path), start=1)]
    return {field.name: np.array([cast("dict[str, Any]", row)[field.name] for row in rows],
                                 np.float64 if pa.types.is_boolean(field.type) else _numpy_type(field.type))
            for field in _SCHEMA}


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
        **{name: _sums(episodes[name][order].astype(np.float64), starts) / count for name in MEASURED},
    }, int((~last).sum())


def _sums(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.add.reduceat(values, starts) if len(starts) else np.empty(0)


def _timing(run_dir: RunDir, points: Columns) -> Columns:
    """The last line of ``timing.jsonl`` for each point; NaN and :data:`UNKNOWN` where there is none."""
    told = {(row["env_steps"], row["point"]): (row["wall_seconds"], row["evaluation_seconds"], row["device"])
            for row in run_dir.read_timing()}
    keys = zip(points["env_steps_made"].tolist(), points["point"].tolist(), strict=True)
    rows = [told.get(key, (np.nan, np.nan, UNKNOWN)) for key in keys]
    wall, evaluation, device = zip(*rows, strict=True) if rows else ((), (), ())
    return {"wall_seconds": np.array(wall, np.float64), "evaluation_seconds": np.array(evaluation, np.float64),
            "device": np.array(device, object)}
