"""The order of the rooms, as docs/architecture.md tells it: who imports whom, and what is imported without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pvdr_bench"
# Upper rooms import from lower ones. What stands together here may import one another's modules, but in no circle.
BASE = ("plugins", "progress", "strict", "yaml_documents", "plain_text", "streams", "needed", "words", "errors")
ORDER = ("__main__", "cli", "inspection", "playing", "diagnostics", "bench", "launch", "api", "gym", "training",
         "algorithms", "tokenizer", "rl", "nets", "results", "catalog", "videos", "suites", "runs", *BASE)
# Read by lower rooms though they stand in an upper one: plain facts that import nothing but plain facts.
FACTS = {"algorithms.registry", "rl.config", "tokenizer.interface"}
WITHOUT_TORCH = ("runs", "suites", "videos", "catalog", "results", "launch", "cli")


def modules() -> dict[str, Path]:
    """``room.module`` -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST) -> Iterator[str]:
    """Names of ours that are imported anywhere below a node, but not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "pvdr_bench":
            start = (child.module or "").partition(".")[2]
            yield from (f"{start}.{alias.name}".strip(".") for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in child.names if alias.name.startswith("pvdr_bench."))
        yield from imports(child)


@cache
def graph() -> dict[str, set[str]]:
    """Module -> modules that it imports, at once or when a function is called."""
    known = modules()

    def module_of(name: str) -> str:
        return name if name in known else name.rpartition(".")[0]

    return {module: {module_of(name) for name in imports(ast.parse(path.read_text()))} - {"", module}
            for module, path in known.items() if module}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """A circle for each module from which one is reached, if any."""
    state: dict[str, int] = {}
    found: list[list[str]] = []

    def visit(name: str, way: list[str]) -> None:
        state[name] = 1
        for other in sorted(arrows.get(name, ())):
            if state.get(other) == 1:
                found.append([*way[way.index(other):], other] if other in way else [name, other])
            elif other not in state:
                visit(other, [*way, other])
        state[name] = 2

    for name in sorted(arrows):
        if name not in state:
            visit(name, [name])
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_one_another() -> None:
    assert circles(graph()) == []


def test_rooms_import_downwards() -> None:
    wrong = [f"{module} -> {other}" for module, others in graph().items() for other in sorted(others)
             if other not in FACTS and ORDER.index(other.split(".")[0]) < ORDER.index(module.split(".")[0])]
    assert wrong == []


def test_facts_import_facts_alone() -> None:
    wrong = {module: others for module in FACTS if (others := graph()[module] - FACTS - set(BASE))}
    assert wrong == {}


def test_every_room_is_in_the_order_and_in_the_page() -> None:
    rooms = {module.split(".")[0] for module in modules() if module}
    assert rooms == set(ORDER)
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(re.findall(r"^\| `(\w+)/`", page, re.MULTILINE))


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_without_torch_import_none(room: str) -> None:
    names = [f"pvdr_bench.{module}" for module in modules() if module.split(".")[0] == room]
    code = ("import importlib, sys\n" + f"for name in {names!r}: importlib.import_module(name)\n"
            "sys.exit(sorted(set(sys.modules) & {'torch', 'mujoco', 'metaworld'}).__repr__() "
            "if set(sys.modules) & {'torch', 'mujoco', 'metaworld'} else 0)")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
