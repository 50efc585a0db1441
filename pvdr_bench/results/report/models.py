"""Pictures and numbers of the models that runs start from, as ``pvdr-bench inspect ARTEFACT`` left them beside runs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError
from pvdr_bench.results.report.media import TYPES, refusal
from pvdr_bench.results.report.parts import facts, text
from pvdr_bench.runs.inspected import FOLDER, INSPECTED, InspectedFile
from pvdr_bench.runs.schema import read_if_any


@dataclass
class _Room:
    """Bytes that are ``left`` of ``total`` for all pictures and films, and what was left out for want of them."""

    left: int
    total: int
    each: int
    said: list[str] = field(default_factory=list)

    def embedded(self, path: Path, caption: str) -> str:
        """A picture or film with its caption; nothing, and a note, where it cannot be shown."""
        kind = TYPES.get(path.suffix.lower())
        if kind is None or path.parent.is_symlink() or path.is_symlink() or not path.is_file():
            return self._left_out(path, "it is no picture or film that is there")
        size = path.stat().st_size
        if why := refusal(size, self.left, self.total, self.each):
            return self._left_out(path, why)
        self.left -= size
        source, told = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}", text(caption)
        shown = (f'<video controls src="{source}" aria-label="{told}"></video>' if kind.startswith("video/") else
                 f'<img alt="{told}" src="{source}">')
        return f'<figure class="medium">{shown}<figcaption>{told}</figcaption></figure>'

    def _left_out(self, path: Path, why: str) -> str:
        self.said.append(f"{FOLDER}/{path.parent.name}/{path.name} was left out: {why}.")
        return ""


def models_part(root: Path, *, left: int, total: int, each: int) -> str:
    """A heading for every inspected artefact below ``root/inspect``, with its pictures; empty where there is none.

    Args:
        left: bytes that pictures and films may still have, of ``total`` of the whole report. each: bytes of one.
    """
    room = _Room(left, total, each)
    parts = "".join(_artefact(folder, room) for folder in sorted((root / FOLDER).glob("*/")))
    notes = "".join(f'<p class="note">{text(line)}</p>\n' for line in room.said)
    return f"<h3>Models that runs start from</h3>\n{parts}{notes}" if parts or notes else ""


def _artefact(folder: Path, room: _Room) -> str:
    try:
        found = read_if_any(InspectedFile, folder / INSPECTED)
    except DataError as error:
        room.said.append(f"{FOLDER}/{folder.name}/{INSPECTED} cannot be read: {error.message}.")
        return ""
    if found is None or found["target"].get("kind") != "artefact":
        return ""
    corpora = ", ".join(found["target"].get("corpora") or ())
    head = f"{found['target'].get('stage', 'model')} {folder.name}" + (f", clips of {corpora}" if corpora else "")
    pieces = [f"<h4>{text(head)}</h4>\n"]
    for entry in found["pictures"].values():
        caption = f"{entry['title']}. {entry['about']}"
        pictures = "".join(room.embedded(folder / Path(name).name, caption) for name in entry["files"])
        numbers = facts((name, text(value)) for name, value in flat(entry["numbers"]))
        pieces.append(f'<div class="media">{pictures}</div>\n{numbers}\n')
    return "".join(pieces)


def flat(numbers: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Numbers within numbers as ``decision 3, probe_r2``, with four digits."""
    for key, value in numbers.items():
        name = f"{above}, {key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            values = value if isinstance(value, list) else [value]
            yield name, ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in values)
