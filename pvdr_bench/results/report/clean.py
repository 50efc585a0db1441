"""What leaves the machine: texts without hosts, user names and local paths.

:mod:`pvdr_bench.results.publish` leaves files out; a report quotes error messages and tracebacks, so it also looks
inside texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The path of a frame in a traceback, up to the package it belongs to.
_LIBRARY = re.compile(r'(?<=File ")[^"\n]*/(?:site-packages|dist-packages|python3\.\d+)/')
_FRAME = re.compile(r'(?<=File ")[^"\n]*/(?=pvdr_bench/)')
_HOME = re.compile(r"(?<![\w./])/(?:home|Users)/[^\s/'\":,;]+")
# An absolute path of two parts or more; the second slash of "https://" and what follows a letter are none.
_PATH = re.compile(r"(?<![\w.~/<…])/(?!/)(?:[^\s/'\":,;()<>\[\]{}|]+/)+")
_HERE = re.compile(r"~/(?:[^\s/'\":,;()<>\[\]{}|]+/)+")


class Cleaner:
    """Takes out of texts what tells where they were written.

    Args:
        root: the results folder, written as ``RESULTS``.
        folders: other known folders (home, where a run was started): names with spaces are found too.
        hosts: names of machines, written as ``HOST``.
    """

    def __init__(self, root: Path, *, folders: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        known = {str(Path.home()): "~", **{folder: "." for folder in folders if folder.strip("/.")},
                 str(root): "RESULTS", str(root.resolve()): "RESULTS"}
        self._known = sorted(((path, short) for path, short in known.items() if path.count("/") > 0 and len(path) > 2),
                             key=lambda pair: (-len(pair[0]), pair[0]))
        names = sorted({name for name in hosts if name and name != "localhost"}, key=lambda name: (-len(name), name))
        self._hosts = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])") if names else None

    def text(self, text: str) -> str:
        """The text without known folders, other absolute paths (their last part stays) and hosts."""
        text = _FRAME.sub("", _LIBRARY.sub("", text))
        for path, short in self._known:
            text = re.sub(rf"(?<![\w./]){re.escape(path)}(?![\w-])", lambda _, short=short: short, text)  # type: ignore[misc]
        text = _PATH.sub("…/", _HERE.sub("…/", _HOME.sub("~", text)))
        return self._hosts.sub("HOST", text) if self._hosts else text

    def value(self, value: Any) -> Any:
        """The same for every text in a structure of JSON types; keys of mappings stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


def cleaner_of(root: Path, provenances: Iterable[dict[str, Any] | None]) -> Cleaner:
    """A cleaner that knows what the runs' provenance records of machines."""
    folders, hosts = set(), set()
    for provenance in provenances:
        for record in [provenance or {}, *(provenance or {}).get("resumes", [])]:
            folders.add(str(record.get("directory") or ""))
            hosts.add(str(record.get("host") or ""))
    return Cleaner(root, folders=sorted(folders), hosts=hosts)
