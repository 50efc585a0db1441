"""The keys of a schema: listing them, finding one by its path, and what each allows and means."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pvdr_bench.strict import unwrap
from pvdr_bench.yaml_documents import Path_


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
        inner = unwrap(found.annotation) if found else None
        if inner is None or not _is_model(inner):
            return None
        model = inner
    return model


def keys_of(model: type[BaseModel] | None) -> list[str]:
    """The keys a model allows."""
    return list(model.model_fields) if model else []


def literals(found: FieldInfo | None) -> list[Any]:
    """The values a ``Literal`` field allows, [] for any other field."""
    annotation = unwrap(found.annotation) if found else None
    return list(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else []


def leaves(model: type[BaseModel], path: Path_ = ()) -> list[tuple[Path_, FieldInfo]]:
    """All keys that hold values, with their dotted paths, in the schema's order."""
    found: list[tuple[Path_, FieldInfo]] = []
    for name, info in model.model_fields.items():
        inner = unwrap(info.annotation)
        found += leaves(inner, (*path, name)) if _is_model(inner) else [((*path, name), info)]
    return found


def meaning_of(model: type[BaseModel], path: Path_) -> str | None:
    """``key: its description`` for a hint."""
    found = field_at(model, path)
    return f"{path[-1]}: {found.description}" if found and found.description else None
