"""What is wrong with settings: each problem with its place, what is allowed, the nearest match and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from pvdr_bench.catalog.keys import field_at, keys_of, leaves, literals, meaning_of, model_at
from pvdr_bench.errors import BenchError, CatalogError
from pvdr_bench.words import did_you_mean, nearest
from pvdr_bench.yaml_documents import Path_

OVERRIDE = "-o "  # how the place of a value from the command line begins
_WANTED = {
    "int_type": "must be a whole number", "int_from_float": "must be a whole number",
    "float_type": "must be a number", "finite_number": "must be a finite number", "bool_type": "must be true or false",
    "string_type": "must be text", "tuple_type": "must be a list", "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
}


def unknown(kind: str, name: str, allowed: Iterable[str], where: str | None = None) -> CatalogError:
    """The error for a name that does not exist, with the nearest match and what is allowed."""
    names = list(allowed)
    shown = ", ".join(names[:60]) or "none"
    meant = did_you_mean(nearest(name, names))
    return CatalogError(f"unknown {kind} {name!r}", where=where, hint=f"{meant}known: {shown}")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``where`` is ``file:line`` or ``-o key``."""

    where: str | None
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BenchError) -> Problem:
        """An error that was not raised."""
        return cls(error.where, error.message, error.hint)


class SettingsError(CatalogError):
    """Settings do not fit their schema: the first problem in full, the others in a line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        first, *rest = self.problems
        also = "".join(f"\n  also {one.where + ': ' if one.where else ''}{one.message}" for one in rest)
        super().__init__(first.message + also, where=first.where, hint=first.hint)


def problems_in(error: BenchError) -> tuple[Problem, ...]:
    """The single problems of an error."""
    if isinstance(error, SettingsError):
        return error.problems
    return (Problem.of(error),)


def explain(error: ValidationError, model: type[BaseModel], what: str, origin: Callable[[Path_], str | None],
            overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Pydantic's list as problems.

    Args:
        what: what the settings are of, for people.
        origin: the place of the value at a key path.
        overrides: places of what was set on the command line; the settings were right without it.
    """
    return tuple(_problem(detail, model, what, origin, overrides) for detail in error.errors(include_url=False))


def _problem(detail: Any, model: type[BaseModel], what: str, origin: Callable[[Path_], str | None],
             overrides: Sequence[str]) -> Problem:
    path = tuple(str(part) for part in detail["loc"])
    where, dotted = origin(path), ".".join(path)
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = keys_of(model_at(model, path[:-1]))
        close = nearest(path[-1], allowed) or _elsewhere(path[-1], model)
        return Problem(where, f"unknown key {dotted!r} of {what}",
                       f"{did_you_mean(close)}allowed: {', '.join(allowed)}")
    if kind == "missing":
        return Problem(origin(path[:-1]), f"{what} lacks the key {dotted!r}", meaning_of(model, path))
    if kind == "literal_error":
        allowed = [str(value) for value in literals(field_at(model, path))] or [str(context.get("expected"))]
        close = nearest(str(detail["input"]), allowed)
        return Problem(where, f"{dotted} = {shown(detail['input'])} is not allowed ({what})",
                       f"{did_you_mean(close)}allowed: {', '.join(allowed)}")
    message = str(context["error"]) if kind == "value_error" and "error" in context else detail["msg"]
    if kind == "value_error" and (not path or model_at(model, path) is not None):
        return _together(message, model, path, what, origin, overrides)
    message = _WANTED.get(kind, message)
    place = f"{dotted} = {shown(detail['input'])}: " if dotted else ""
    return Problem(where, f"{place}{message} ({what})", meaning_of(model, path))


def _together(message: str, model: type[BaseModel], section: Path_, what: str, origin: Callable[[Path_], str | None],
              overrides: Sequence[str]) -> Problem:
    """A check of several keys failed: what was set on the command line is to blame, else the first key named."""
    named = _named_keys(message, model, section)
    places = {".".join(path): origin(path) for path in named}
    blamed = [place for place in places.values() if place and place in overrides] or list(overrides)
    if not blamed:
        place = next((place for place in places.values() if place), None)
        return Problem(place or origin(section), f"{message} ({what})", meaning_of(model, named[0]) if named else None)
    others = [f"{key} stands in {place}" for key, place in places.items() if place and place not in overrides]
    return Problem(", ".join(dict.fromkeys(blamed)), f"{message} ({what})", "; ".join(others) or None)


def _named_keys(message: str, model: type[BaseModel], section: Path_) -> list[Path_]:
    """The keys that a check of several keys names in its message, in its order; by their paths from the section."""
    known = {".".join(path[start:]): path for path, _ in leaves(model) if path[:len(section)] == section
             for start in {0, len(section)}}
    words = [word.strip(",:;()") for word in message.split()]
    return list(dict.fromkeys(known[word] for word in words if word in known))


def shown(value: Any) -> str:
    """A value as YAML has it; text in quotes."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _elsewhere(name: str, model: type[BaseModel]) -> str | None:
    """A key of the same or a similar name in another section."""
    by_last: dict[str, str] = {}
    for path, _ in leaves(model):
        by_last.setdefault(path[-1], ".".join(path))
    close = nearest(name, by_last)
    return by_last[close] if close else None


