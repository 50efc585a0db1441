"""The one place where YAML is read, without its traps.

What people write (:func:`read_document`, :func:`parse_value`): YAML 1.1 reads ``1e-4`` as text, ``no`` as a boolean,
``010`` as eight and ``1:30`` as ninety, and lets a later duplicate of a key win in silence. Here numbers are what they
look like, only ``true`` and ``false`` are booleans, and a duplicate, an alias, an anchor or a tag is an error with its
line; every key's line is remembered.

What this program wrote (:func:`read_written`: ``run.yaml``, aggregates): the values are those of PyYAML's dumper,
which is YAML 1.1, and the same things are refused. Aliases are refused since a few lines of them stand for billions of
values.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pvdr_bench.errors import CatalogError, DataError

Path_ = tuple[str, ...]

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: its mapping and the line (from 1) of each key path; items of lists by their number."""

    file: str
    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def where(self, path: Path_ = ()) -> str:
        """``file:line`` of the key, or of its nearest parent with a known line."""
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        return f"{self.file}:{line}" if line else self.file


def read_scalar(text: str) -> Any:
    """The value of an unquoted scalar: None, bool, int, float or the text (also of a number too large for a float)."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if not _FLOAT.match(text) or math.isinf(number := float(text.replace("_", ""))):
        return text
    return int(text.replace("_", "")) if _INT.match(text) else number


def _spot(file: str, mark: Any) -> str:
    return file if mark is None else f"{file}:{mark.line + 1}"


class _Builder:
    """Turns the node tree into plain data, collecting lines and refusing what is ambiguous."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path_, int] = {}

    def fail(self, message: str, mark: yaml.Mark, hint: str | None = None) -> CatalogError:
        return CatalogError(message, where=_spot(self.file, mark), hint=hint)

    def build(self, node: yaml.Node, path: Path_) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style in ("'", '"', "|", ">") else read_scalar(node.value)
        if isinstance(node, yaml.SequenceNode):
            self.lines.update(((*path, str(i)), child.start_mark.line + 1) for i, child in enumerate(node.value))
            return [self.build(child, (*path, str(i))) for i, child in enumerate(node.value)]
        return self.mapping(node, path)

    def mapping(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key == "<<":
                raise self.fail("a key must be plain text", key_node.start_mark)
            if key in result:
                raise self.fail(f"key {key!r} appears twice in the same mapping (first in line "
                                f"{self.lines[(*path, key)]})", key_node.start_mark, "keep one of them")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, (*path, key))
        return result


def parse_value(text: str) -> Any:
    """The value of ``-o key=TEXT``: a YAML scalar, list or mapping.

    Raises:
        CatalogError: the text is not valid YAML.
    """
    if not text.lstrip().startswith(("[", "{", "'", '"')):
        return read_scalar(text)
    return _parse(text, "-o")[0]


def parse_document(text: str, file: str) -> Document:
    """Parse a YAML mapping.

    Raises:
        CatalogError: invalid YAML, a duplicate key, an alias, an anchor, a tag, or no mapping at the top.
    """
    data, lines = _parse(text, file)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise CatalogError("the file must hold a mapping of keys to values", where=f"{file}:1")
    return Document(file, data, lines)


def read_document(path: Path) -> Document:
    """Read a YAML file; see :func:`parse_document`.

    Raises:
        CatalogError: also when the file cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError("not UTF-8 text", where=f"{path}: byte {error.start}") from error
    except OSError as error:
        raise CatalogError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return parse_document(text, str(path))


_LITERALLY = "quote the text if it is meant literally; else use extends, or repeat the value"


class _Loader(yaml.SafeLoader):
    """Composes nodes, and refuses an alias, an anchor or a tag before it stands for anything."""

    file = ""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise self.refuse("aliases (*name)", event)
        if event.anchor is not None:
            raise self.refuse("anchors (&name)", event)
        if event.tag is not None:
            raise self.refuse(f"tags ({event.tag.replace('tag:yaml.org,2002:', '!!')})", event)
        return super().compose_node(parent, index)

    def refuse(self, what: str, event: yaml.Event) -> CatalogError:
        return CatalogError(f"YAML {what} are not supported", hint=_LITERALLY,
                            where=_spot(self.file, event.start_mark))


def _parse(text: str, file: str) -> tuple[Any, dict[Path_, int]]:
    builder = _Builder(file)
    try:
        loader = _Loader(text)
        loader.file = file
        node = loader.get_single_node()
        data = builder.build(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        raise CatalogError(f"not valid YAML: {error.problem or error.context}",
                           where=_spot(file, error.problem_mark or error.context_mark)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CatalogError(f"not valid YAML: {error}", where=file) from error
    return data, builder.lines


_WRITTEN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Written(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's is ten times faster
    """The values of PyYAML's dumper, and nothing that it does not write for JSON types."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """In place of merging ``<<``: a key that is not text, or stands twice, is refused."""
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} appears twice", key.start_mark)
            keys.add(key.value)


_Written.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _WRITTEN_TAGS}


def read_written(text: str, where: str) -> Any:
    """The value of a YAML text that this program wrote, in time that grows with its length only.

    Raises:
        DataError: not such a text; says the line.
    """
    try:
        if "*" in text or "&" in text:
            for event in yaml.parse(text, Loader=_Written):
                if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                    raise DataError("not a YAML file of ours: it has an alias or an anchor",
                                    where=_spot(where, event.start_mark))
        return yaml.load(text, Loader=_Written)
    except yaml.MarkedYAMLError as error:
        raise DataError(f"not a YAML file of ours: {error.problem or error.context}",
                        where=_spot(where, error.problem_mark or error.context_mark)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        raise DataError(f"not a YAML file of ours: {error}", where=where) from error
