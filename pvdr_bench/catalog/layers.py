"""Merging layers of settings while remembering where each value came from, and naming what is wrong with them."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pvdr_bench.errors import CatalogError
from pvdr_bench.yaml_documents import Document, Path_

M = TypeVar("M", bound=BaseModel)


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The most similar allowed name, or None if nothing is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, allowed: Iterable[str], where: str | None = None) -> CatalogError:
    """The error for a name that does not exist, with the nearest match and what is allowed."""
    names = list(allowed)
    close = nearest(name, names)
    guess = f"did you mean {close!r}? " if close else ""
    shown = ", ".join(names[:60]) or "none"
    return CatalogError(f"unknown {kind} {name!r}", where=where, hint=f"{guess}known: {shown}")


@dataclass
class Layers:
    """Settings merged from the weakest layer to the strongest; ``origins`` has the place of each leaf.

    ``file`` is where a key that is missing would stand.
    """

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path_, str] = field(default_factory=dict)
    file: str | None = None

    def add(self, values: Mapping[str, Any], document: Document, at: Path_) -> None:
        """Merge the mapping found at key path ``at`` of ``document`` over what is there."""
        self.file = self.file or document.file
        self._merge(self.data, values, (), lambda path: document.where((*at, *path)))

    def set(self, path: Path_, value: Any, origin: str) -> None:
        """Set one value by its key path."""
        nested: dict[str, Any] = {path[-1]: value}
        for key in reversed(path[:-1]):
            nested = {key: nested}
        self._merge(self.data, nested, (), lambda _: origin)

    def _merge(self, target: dict[str, Any], values: Mapping[str, Any], path: Path_, origin: Any) -> None:
        for key, value in values.items():
            here = (*path, key)
            if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
                self.origins.setdefault(here, origin(here))
                target.setdefault(key, {})
                self._merge(target[key], value, here, origin)
            else:
                target[key] = value
                self.origins[here] = origin(here)

    def origin(self, path: Path_) -> str | None:
        """Where the value at ``path``, or its nearest parent, was set; None: the schema's default."""
        if not path:
            return self.file
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path)

    def validate(self, model: type[M], what: str) -> M:
        """Build the model.

        Raises:
            CatalogError: every problem of the settings, each with its place, allowed values and nearest match.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise explain(error, model, what, self.origin) from error


def validate_document(model: type[M], document: Document, what: str, extra: Mapping[str, Any] | None = None,
                      inherited: Mapping[str, Any] | None = None) -> M:
    """Build a model from a whole YAML file; ``extra`` are keys that do not stand in the file (its name).

    ``inherited`` are values of the file that this one extends.
    """
    try:
        return model.model_validate({**(inherited or {}), **document.data, **(extra or {})})
    except ValidationError as error:
        raise explain(error, model, what, document.where) from error


def explain(error: ValidationError, model: type[BaseModel], what: str, origin: Any) -> CatalogError:
    """One message out of pydantic's list: the first problem in full, the others in a line each."""
    problems = [_problem(detail, model, what, origin) for detail in error.errors(include_url=False)]
    (where, message, hint), rest = problems[0], problems[1:]
    if rest:
        message += "".join(f"\n  also {place + ': ' if place else ''}{text}" for place, text, _ in rest)
    return CatalogError(message, where=where, hint=hint)


def _problem(detail: Any, model: type[BaseModel], what: str, origin: Any) -> tuple[str | None, str, str | None]:
    """(where, message, hint) of one of pydantic's error details."""
    path = tuple(str(part) for part in detail["loc"])
    where, dotted = origin(path), ".".join(path)
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = keys_of(model_at(model, path[:-1]))
        close = nearest(path[-1], allowed) or _elsewhere(path[-1], model)
        guess = f"did you mean {close!r}? " if close else ""
        return where, f"unknown key {dotted!r} of {what}", f"{guess}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return origin(path[:-1]), f"{what} lacks the key {dotted!r}", meaning_of(model, path)
    if kind == "literal_error":
        allowed = [str(value) for value in literals(field_at(model, path))] or [str(context.get("expected"))]
        close = nearest(str(detail["input"]), allowed)
        guess = f"did you mean {close!r}? " if close else ""
        return where, f"{dotted} = {detail['input']!r} is not allowed ({what})", f"{guess}allowed: {', '.join(allowed)}"
    message = str(context["error"]) if kind == "value_error" and "error" in context else detail["msg"]
    if not path:
        where = origin(_named_key(message, model)) or where
    place = f"{dotted} = {detail['input']!r}: " if dotted else ""
    return where, f"{place}{message} ({what})", meaning_of(model, path)


def _named_key(message: str, model: type[BaseModel]) -> Path_:
    """The key that a whole-model check names first in its message, () if none."""
    words = [word.strip(",:") for word in message.split()]
    known = {".".join(path): path for path, _ in leaves(model)}
    return next((known[word] for word in words if word in known), ())


def _unwrap(annotation: Any) -> Any:
    """``X`` of ``X | None`` and ``Optional[X]``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
        return arguments[0] if len(arguments) == 1 else annotation
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def field_at(model: type[BaseModel], path: Path_) -> FieldInfo | None:
    """The field of a nested model at a key path, or None."""
    parent = model_at(model, path[:-1])
    return parent.model_fields.get(path[-1]) if parent and path else None


def model_at(model: type[BaseModel], path: Path_) -> type[BaseModel] | None:
    """The nested model at a key path, or None where there is none."""
    for key in path:
        found = model.model_fields.get(key)
        inner = _unwrap(found.annotation) if found else None
        if inner is None or not _is_model(inner):
            return None
        model = inner
    return model


def keys_of(model: type[BaseModel] | None) -> list[str]:
    """The keys a model allows."""
    return list(model.model_fields) if model else []


def literals(found: FieldInfo | None) -> list[Any]:
    """The values a ``Literal`` field allows, [] for any other field."""
    annotation = _unwrap(found.annotation) if found else None
    return list(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else []


def leaves(model: type[BaseModel], path: Path_ = ()) -> list[tuple[Path_, FieldInfo]]:
    """All keys that hold values, with their dotted paths, in the schema's order."""
    found: list[tuple[Path_, FieldInfo]] = []
    for name, info in model.model_fields.items():
        inner = _unwrap(info.annotation)
        found += leaves(inner, (*path, name)) if _is_model(inner) else [((*path, name), info)]
    return found


def _elsewhere(name: str, model: type[BaseModel]) -> str | None:
    """A key of the same or a similar name in another section."""
    by_last: dict[str, str] = {}
    for path, _ in leaves(model):
        by_last.setdefault(path[-1], ".".join(path))
    close = nearest(name, by_last)
    return by_last[close] if close else None


def meaning_of(model: type[BaseModel], path: Path_) -> str | None:
    """``key: its description`` for a hint."""
    found = field_at(model, path)
    return f"{path[-1]}: {found.description}" if found and found.description else None
