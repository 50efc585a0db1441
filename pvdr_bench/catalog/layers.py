"""Merging layers of settings while remembering where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pvdr_bench.catalog.problems import OVERRIDE, Problem, SettingsError, explain
from pvdr_bench.yaml_documents import Document, Path_

M = TypeVar("M", bound=BaseModel)


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

    def check(self, model: type[M], what: str) -> M | tuple[Problem, ...]:
        """The model, or every problem of the settings."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            return explain(error, model, what, self.origin, self.overrides())

    def validate(self, model: type[M], what: str) -> M:
        """Build the model.

        Raises:
            SettingsError: every problem of the settings, each with its place, allowed values and nearest match.
        """
        found = self.check(model, what)
        if isinstance(found, tuple):
            raise SettingsError(found)
        return found

    def overrides(self) -> tuple[str, ...]:
        """Places of what was set on the command line."""
        return tuple(dict.fromkeys(place for place in self.origins.values() if place.startswith(OVERRIDE)))


def validate_document(model: type[M], document: Document, what: str, extra: Mapping[str, Any] | None = None,
                      inherited: Mapping[str, Any] | None = None) -> M:
    """Build a model from a whole YAML file; ``extra`` are keys that do not stand in the file (its name).

    ``inherited`` are values of the file that this one extends.
    """
    try:
        return model.model_validate({**(inherited or {}), **document.data, **(extra or {})})
    except ValidationError as error:
        raise SettingsError(explain(error, model, what, document.where)) from error
