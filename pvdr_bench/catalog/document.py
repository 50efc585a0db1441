"""Reading YAML without its traps, and remembering the line of every key.

YAML 1.1 reads ``1e-4`` as text, ``no`` as a boolean, ``010`` as eight and ``1:30`` as ninety, and lets a later
duplicate of a key win in silence. Here numbers are what they look like, only ``true`` and ``false`` are booleans,
and a duplicate, an anchor or a tag is an error with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pvdr_bench.errors import CatalogError

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
    """A parsed YAML file: its mapping and the line (from 1) of each key path."""

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
    """The value of an unquoted scalar: None, bool, int, float or the text itself."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    return text


class _Builder:
    """Turns the node tree into plain data, collecting lines and refusing what is ambiguous."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path_, int] = {}

    def fail(self, message: str, mark: yaml.Mark, hint: str | None = None) -> CatalogError:
        return CatalogError(message, where=f"{self.file}:{mark.line + 1}", hint=hint)

    def build(self, node: yaml.Node, path: Path_) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode):
            self.check_tag(node, "tag:yaml.org,2002:seq")
            return [self.build(child, (*path, str(i))) for i, child in enumerate(node.value)]
        self.check_tag(node, "tag:yaml.org,2002:map")
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

    def scalar(self, node: yaml.ScalarNode) -> Any:
        if node.style in ("'", '"', "|", ">"):
            return node.value
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise self.fail(f"YAML tag {node.tag} is not supported", node.start_mark)
        return read_scalar(node.value)

    def check_tag(self, node: yaml.Node, tag: str) -> None:
        if node.tag != tag:
            raise self.fail(f"YAML tag {node.tag} is not supported", node.start_mark)


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
        CatalogError: invalid YAML, a duplicate key, an alias, a tag, or no mapping at the top.
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


def _parse(text: str, file: str) -> tuple[Any, dict[Path_, int]]:
    builder = _Builder(file)
    try:
        for token in yaml.scan(text) if "*" in text else ():
            if isinstance(token, yaml.AliasToken):
                raise builder.fail("YAML aliases are not supported", token.start_mark,
                                   "use extends, or repeat the value")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = builder.build(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise CatalogError(f"not valid YAML: {error.problem or error.context}",
                           where=f"{file}:{mark.line + 1}" if mark else file) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CatalogError(f"not valid YAML: {error}", where=file) from error
    return data, builder.lines
