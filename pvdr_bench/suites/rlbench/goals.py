"""Goal images of frozen instances, kept in ``DATA/goals/rlbench``: one demonstration is planned, by who needs it first.

A planner's demonstrations differ from call to call, so without this two runs would strive for two pictures. The file
also holds the first picture of the instance, by which a later reset is checked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import content_hash, create_once
from pvdr_bench.runs.paths import data_root
from pvdr_bench.suites.base import Image

_REMOVE = "remove the file, and it is made anew"


@dataclass(frozen=True)
class Goal:
    """The pictures [S, S, 3] of one instance, as large as runs see them."""

    start: Image
    image: Image

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of both pictures' content."""
        return content_hash([picture.tobytes().hex() for picture in (self.start, self.image)])[:12]


def goal_file(key: Mapping[str, Any]) -> Path:
    """Where the goal of an instance is kept; ``key`` is everything that it depends on."""
    return data_root() / "goals" / "rlbench" / f"{key['task']}-{content_hash(dict(key))[:12]}.npz"


def read_goal(key: Mapping[str, Any]) -> Goal | None:
    """The goal that was kept; None where there is none yet.

    Raises:
        DataError: the file is damaged, or is another instance's.
    """
    path = goal_file(key)
    try:
        with np.load(path, allow_pickle=False) as file:
            goal = Goal(file["start"], file["image"])
            told = json.loads(str(file["about"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"a goal image cannot be read: {error}", where=str(path), hint=_REMOVE) from error
    if told != {"key": json.loads(json.dumps(dict(key))), "hash": goal.hash}:
        raise DataError("a goal image does not fit its hash or its task", where=str(path), hint=_REMOVE)
    return goal


def keep_goal(key: Mapping[str, Any], goal: Goal) -> Goal:
    """Keep a goal, unless somebody was faster; returns the one that is kept.

    Raises:
        DataError: the one that is kept is damaged. StorageError: it cannot be written.
    """
    path, sink = goal_file(key), io.BytesIO()
    np.savez_compressed(sink, start=goal.start, image=goal.image,
                        about=np.array(json.dumps({"key": dict(key), "hash": goal.hash})))
    if create_once(path, sink.getvalue()):
        return goal
    if (found := read_goal(key)) is None:
        raise DataError("a goal image was removed while it was read", where=str(path),
                        hint="give the same command again")
    return found
