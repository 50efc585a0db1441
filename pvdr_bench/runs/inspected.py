"""``inspect.json``: what ``pvdr-bench inspect`` measured of a run or an artefact, beside its pictures."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

FOLDER = "inspect"  # of a run
INSPECTED = "inspect.json"


class PictureEntry(TypedDict):
    """A picture: the word it was asked for by, its caption, its files beside ``inspect.json``, its numbers, and the
    seed, amounts and episode that it was made with."""

    what: str
    title: str
    about: str
    files: list[str]
    drawn: dict[str, Any]
    numbers: dict[str, Any]


class InspectedFile(TypedDict):
    """All of ``inspect.json``; ``target`` says what was looked at."""

    format: Literal[1]
    target: dict[str, Any]
    pictures: dict[str, PictureEntry]
