"""A protocol's YAML before a scale is chosen, and those that it extends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvdr_bench.catalog.layers import Layers
from pvdr_bench.catalog.problems import unknown
from pvdr_bench.catalog.scales import EXTENDS, SCALES, line_of
from pvdr_bench.errors import CatalogError
from pvdr_bench.yaml_documents import Document

_KEYS = ("extends", "title", "description", "source", "base", "scales")


@dataclass(frozen=True)
class ProtocolFile:
    """A protocol's YAML, and those that it extends, before a scale is chosen."""

    name: str
    family: tuple[Document, ...]  # the one at the bottom first

    @property
    def document(self) -> Document:
        """Its own file."""
        return self.family[-1]

    @property
    def title(self) -> str:
        """Name in figures and tables."""
        return str(self.document.data.get("title", self.name))

    @property
    def description(self) -> str:
        """What it measures."""
        return next((str(one.data["description"]) for one in self.family[::-1] if "description" in one.data), "")

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales it has."""
        return tuple(dict.fromkeys(scale for one in self.family for scale in one.data.get("scales") or {}))

    def layers(self, scale: str) -> Layers:
        """The settings at a scale, with their places, before they are checked and the suite's version is added.

        Raises:
            CatalogError: it has no such scale, or one that stands on another wrongly.
        """
        if scale not in self.scales:
            raise unknown(f"scale of protocol {self.name}", scale, self.scales, self.document.file)
        layers = Layers(file=self.document.file)
        line = line_of(scale, [({name: (section or {}).get(EXTENDS) for name, section in _sections(one).items()},
                                one.where(("scales", scale, EXTENDS))) for one in self.family])
        for document in self.family:
            layers.add(document.data.get("base") or {}, document, ("base",))
            for each in line:
                section = _sections(document).get(each) or {}
                layers.add({key: value for key, value in section.items() if key != EXTENDS}, document, ("scales", each))
        layers.set(("name",), self.name, self.document.file)
        layers.set(("scale",), scale, self.document.file)
        return layers


def _sections(document: Document) -> dict[str, Any]:
    return document.data.get("scales") or {}


def check_protocol_keys(document: Document) -> None:
    """Refuse keys and shapes that a protocol's file cannot have; its settings are checked once a scale is chosen.

    Raises:
        CatalogError: says which.
    """
    for key, value in document.data.items():
        if key not in (*_KEYS, "name"):
            raise unknown("key of a protocol", key, _KEYS, document.where((key,)))
        if key in ("base", "scales") and not isinstance(value, dict):
            raise CatalogError(f"{key} must be a mapping", where=document.where((key,)))
    for scale, section in _sections(document).items():
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES, document.where(("scales", scale)))
        if not isinstance(section or {}, dict):
            raise CatalogError(f"scales.{scale} must be a mapping", where=document.where(("scales", scale)))
