"""``bench seeds``: what the results of one measurement say together over several seeds, and beside another's.

It reads what ``bench NAME --json -o seed=...`` or ``evaluate RUN --json`` printed, a file of each seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.results.differences import stratified_t
from pvdr_bench.results.stats import Interval, t_interval

# what intervals are clipped to; others are not
SHARES = ("success", "success_any", "success_end", "near", "reached_own", "reached_other")
BOUNDS = {"success_gain": (-1.0, 1.0)} | dict.fromkeys(SHARES, (0.0, 1.0))
APART = dict.fromkeys(SHARES, (-1.0, 1.0))  # the same of differences
COUNTS = ("seed", "learned", "held_out", "states")  # what the seeds of one measurement may differ in
ALIKE = ("task", "scale", "env_steps", "episodes")  # what compared measurements share, or both lack
EPISODES = "rows"  # of ``evaluate``
MADE = "bench NAME --json > FILE, or evaluate RUN --json > FILE, of this version"
Found = dict[str, Any]


def measure(files: tuple[str, ...] = (), beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Means over seeds with 95 % Student t intervals.

    Args:
        files: results of one measurement, one of each seed.
        beside: results of another one of the same seeds, such as untrained weights', which theirs are compared with,
            seed by seed.

    Returns:
        What all files say alike (settings), and of every number that they measured its mean, interval and values by
        seed; a number that came with its own interval over episodes is taken without it (``[mean, low, high]``, or
        ``X`` with ``X_low`` and ``X_high``). Gains within a file are
        numbers like others. ``less``: the mean differences to ``beside``, with paired intervals and p.

    Raises:
        UsageError: fewer than two files, not the same seeds or the same measurement in all, or ``beside`` is of another
            task, scale, budget or number of episodes, or has no number that these have.
        DataError: a file is no such result.
    """
    mine = by_seed(files, "-o files")
    told = _alike(list(mine.values()), files)
    out = {"seeds": list(mine)} | told | _over(list(mine.values()))
    if not beside:
        return out
    others = by_seed(beside, "-o beside")
    if set(others) != set(mine):
        raise UsageError(f"seeds {sorted(mine)} cannot be paired with seeds {sorted(others)}", where="-o beside")
    theirs = _alike(list(others.values()), beside)
    for key in ALIKE:
        if told.get(key) != theirs.get(key):
            raise UsageError(f"{key} {theirs.get(key)!r} is not that of -o files: {told.get(key)!r}", where="-o beside")
    paired = [others[seed] for seed in mine]
    less = _less(list(mine.values()), paired)
    if not any(less.values()):
        raise UsageError("no number of theirs is also in -o files", where="-o beside")
    return out | {"beside": theirs | _over(paired), "less": less}


def by_seed(files: Sequence[str], option: str) -> dict[int, Found]:
    """Results by their seeds, in the given order."""
    found: dict[int, Found] = {}
    for name in files:
        try:
            result = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", where=name, hint=MADE) from error
        if isinstance(result, dict) and EPISODES in result:
            result = _without_episodes(result)
        if not isinstance(result, dict) or not isinstance(result.get("seed"), int):
            raise DataError("is no result of a measurement with a seed", where=name, hint=MADE)
        if broken := [key for part in (result, *_within(result).values()) for key, value in part.items()
                      if (x := _measured(value)) is not None and not math.isfinite(x)]:
            raise DataError(f"{broken[0]} is not finite", where=name)
        if result["seed"] in found:
            raise UsageError(f"another file has seed {result['seed']} too", where=name)
        found[result["seed"]] = result
    if len(found) < 2:
        raise UsageError("seeds are told together from two files on, one of each seed", where=option,
                         hint=f"{option}=[seed-0.json,seed-1.json]")
    return found


def _without_episodes(played: Found) -> Found:
    """What ``evaluate`` printed without its path and episodes, each seed's own; the noise in words: it is set."""
    std = played.get("eval_std")
    return {key: value for key, value in played.items() if key not in ("run", EPISODES)} | {
        "eval_std": "the policy's" if std is None else f"{std:g}"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _measured(value: Any) -> float | None:
    """A number, or the mean of ``[mean, low, high]``; None for a setting."""
    if isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)):
        return float(value[0])
    return float(value) if isinstance(value, float) else None


def _alike(results: Sequence[Found], files: Sequence[str]) -> Found:
    """Settings at the top, which all have to share; counts that differ are left out."""
    first, *rest = results
    for other, name in zip(rest, files[1:], strict=True):
        if other.keys() != first.keys():
            raise UsageError(f"not the same measurement as {files[0]}", where=name)
        if wrong := [key for key, value in first.items() if _is_setting(key, value)
                     and _measured(other[key]) is None and other[key] != value]:
            raise UsageError(f"{wrong[0]} {other[wrong[0]]!r} is not that of {files[0]}: {first[wrong[0]]!r}",
                             where=name)
    return {key: value for key, value in first.items() if key != "seed" and not isinstance(value, dict)
            and _measured(value) is None and all(other[key] == value for other in rest)}


def _is_setting(key: str, value: Any) -> bool:
    return key not in COUNTS and not isinstance(value, dict) and _measured(value) is None


def _within(result: Found) -> dict[str, Found]:
    return {key: value for key, value in result.items() if isinstance(value, dict)}


def _parts(results: Sequence[Found]) -> dict[str, Sequence[Found]]:
    """Results' own numbers under an empty name, and those of the parts within them, such as ``n_16``."""
    return {"": results} | {key: [result[key] for result in results] for key in _within(results[0])}


def _columns(results: Sequence[Found]) -> dict[str, list[float]]:
    """Numbers [seeds] of one part, of those that every seed has."""
    bounds = {f"{key}_{side}" for key in results[0] for side in ("low", "high")}  # a number's own interval
    columns = {key: [_measured(result.get(key)) for result in results] for key in results[0] if key not in bounds}
    return {key: [value for value in values if value is not None] for key, values in columns.items()
            if None not in values}


def _over(results: Sequence[Found]) -> Found:
    out: Found = {}
    for part, found in _parts(results).items():
        told = {key: {"mean": _rounded(t_interval(values, bounds=BOUNDS.get(key))), "by_seed": values}
                for key, values in _columns(found).items()}
        out |= {part: told} if part else told
    return out


def _less(mine: Sequence[Found], others: Sequence[Found]) -> Found:
    out: Found = {}
    theirs = _parts(others)
    for part, found in _parts(mine).items():
        if part not in theirs:
            continue
        ours, beside = _columns(found), _columns(theirs[part])
        told = {key: _difference(ours[key], beside[key], APART.get(key)) for key in ours if key in beside}
        out |= {part: told} if part else told
    return out


def _difference(mine: list[float], others: list[float], bounds: tuple[float, float] | None) -> Found:
    interval, verdict = stratified_t([mine], [others], bounds=bounds)
    return {"mean": _rounded(interval), "p": None if math.isnan(verdict.p) else round(verdict.p, 4)}


def _rounded(interval: Interval) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in (interval.value, interval.low, interval.high)]
