"""Amounts that remember which of them were asked for: whether a view reads what it declares."""

from __future__ import annotations

from dataclasses import fields, replace

from pvdr_bench.rl.views import Amounts, Played, Trained, View


class Watched(Amounts):
    """Their fields, and the names of those that were read."""

    def __getattribute__(self, name: str) -> object:
        if name in {field.name for field in fields(Amounts)}:
            self.__dict__.setdefault("asked", set()).add(name)
        return super().__getattribute__(name)


def amounts_read(view: View, of: Trained | Played) -> set[str]:
    """Names of the amounts that a view asks for as it shows all that it has; held-out clips are drawn by the seed."""
    watched = Watched(2, 40, 3)
    for _ in view(replace(of, amounts=watched)):
        pass
    asked: set[str] = watched.__dict__.get("asked", set())
    return asked | ({"seed"} if isinstance(of, Trained) else set())
