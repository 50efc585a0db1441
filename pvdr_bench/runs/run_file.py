"""``run.yaml``: what a run is. Its recipe has a hash, and its specification says nothing else than the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import content_hash
from pvdr_bench.runs.intake import check_depth, read_text
from pvdr_bench.runs.schema import checked
from pvdr_bench.yaml_documents import read_written

FORMAT = 1


class RunFile(TypedDict):
    """``run.yaml``."""

    format: Literal[1]
    recipe_hash: str
    recipe: dict[str, Any]
    spec: dict[str, Any]


def read_run_file(path: Path) -> RunFile | None:
    """``run.yaml``; None where there is none.

    Raises:
        DataError: it is broken, of a later format, or its recipe is not the one that its hash was made of.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        return None
    try:
        value = read_written(text, str(path))
        check_depth(value)
    except (ValueError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"not a YAML file of ours: {error}", where=str(path)) from error
    if not isinstance(value, dict) or "recipe" not in value:
        raise DataError("not a run's description: the key `recipe` is missing", where=str(path))
    if value.get("format") != FORMAT:
        raise DataError(f"format {str(value.get('format'))[:60]} is not known", where=f"{path}: format",
                        hint=f"this version reads format {FORMAT}")
    found = checked(RunFile, value, str(path))
    if content_hash(found["recipe"]) != found["recipe_hash"]:
        raise DataError(f"the recipe was changed: its hash is {content_hash(found['recipe'])}, and recipe_hash says "
                        f"{found['recipe_hash'][:60]}", where=str(path))
    if key := _contradiction(found):
        raise DataError(f"{key} was changed: recipe and spec contradict each other", where=f"{path}: spec.{key}")
    return found


def _contradiction(run: RunFile) -> str | None:
    """The first key of the spec that is not what the recipe, which has a hash, says; None if all fit."""
    recipe, spec = run["recipe"], run["spec"]
    for key, value in recipe.items():
        name = "variant" if key == "method" else key
        if isinstance(value, dict) and isinstance(told := spec.get(name), dict):  # the spec says more of it
            inner = next((each for each in value if each not in told or told[each] != value[each]), None)
            if inner is not None:
                return f"{name}.{inner}"
        elif name in spec and spec[name] != value:
            return name
    return None
