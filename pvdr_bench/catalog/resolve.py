"""Resolving settings: schema defaults, parent, scale, set, own keys and ``-o``, in that order."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from pvdr_bench.catalog.keys import field_at, keys_of, leaves, model_at
from pvdr_bench.catalog.layers import Layers
from pvdr_bench.catalog.problems import Problem, unknown
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.scales import EXTENDS, Scale, line_of
from pvdr_bench.catalog.specs import MethodSpec
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.strict import unwrap
from pvdr_bench.words import did_you_mean, nearest
from pvdr_bench.yaml_documents import Document, Path_, parse_value

PROTOCOL_PREFIX = "protocol."


def split_override(text: str) -> tuple[str, str]:
    """``key=value`` -> (key, value).

    Raises:
        UsageError: no ``=``, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"-o {text!r} is not of the form key=value", hint="for example -o planner.candidates=4")
    return key.strip(), value.strip()


def split_variant(name: str) -> tuple[str, tuple[str, ...]]:
    """``pvdr@lambda1=1e-2,x=3`` -> (``pvdr``, its overrides)."""
    base, at, changes = name.partition("@")
    if not at:
        return name, ()
    inside: list[str] = []
    for part in changes.split(","):
        if "=" in part or not inside:
            inside.append(part)
        else:
            inside[-1] += f",{part}"
    return base, tuple(inside)


def find_key(key: str, model: type[BaseModel], what: str, prefix: str = "") -> Path_:
    """The full path of a dotted key; its last part alone is enough where only one section has it.

    Args:
        what: that has the keys, in messages. prefix: that ``-o`` wants before them, and messages give.

    Raises:
        CatalogError: no such key, or several sections have it.
    """
    path = tuple(key.split("."))
    if field_at(model, path) is not None:
        if model_at(model, path) is not None:
            inside = ", ".join(f"{prefix}{key}.{name}" for name in keys_of(model_at(model, path)))
            raise CatalogError(f"{key!r} of {what} is a section, not a value", where=f"-o {prefix}{key}",
                               hint=f"set one of {inside}")
        return path
    every = [full for full, _ in leaves(model)]
    ends = [full for full in every if full[-len(path):] == path]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise CatalogError(f"{key!r} stands in several sections of {what}", where=f"-o {prefix}{key}",
                           hint="say which: " + ", ".join(prefix + ".".join(full) for full in ends))
    dotted = [".".join(full) for full in every]
    close = nearest(key, dotted) or _nearest_end(key, every)
    meant = f"{prefix}{close}" if close else None
    if key in Protocol.model_fields and not prefix:
        meant = f"{PROTOCOL_PREFIX}{key}"
    raise CatalogError(f"unknown key {key!r} of {what}", where=f"-o {prefix}{key}",
                       hint=f"{did_you_mean(meant)}allowed: {', '.join(prefix + name for name in dotted)}")


def _nearest_end(key: str, every: list[Path_]) -> str | None:
    """The key whose last part resembles the last part of ``key``."""
    close = nearest(key.rsplit(".", 1)[-1], [full[-1] for full in every])
    return next((".".join(full) for full in every if full[-1] == close), None)


def place_in_config(key: str, model: type[BaseModel]) -> str | None:
    """``config: {section: {key: ...}}``: where a method's file has a hyperparameter of this or a similar name."""
    every = [full for full, _ in leaves(model)]
    found = key if key in keys_of(model) else _nearest_end(key, every)
    if found is None:
        return None
    *sections, last = found.split(".")
    opened = "".join(f"{{{section}: " for section in sections)
    return f"config: {opened}{{{last}: ...}}" + "}" * len(sections)


def typed_value(text: str, model: type[BaseModel], path: Path_) -> Any:
    """The value of an override: raw text where the schema wants text (``null`` where it may be absent), else YAML."""
    found = field_at(model, path)
    if found is None or unwrap(found.annotation) is not str:
        return parse_value(text)
    return None if found.annotation is not str and text in ("null", "~") else text


def value_at(data: Any, path: Path_) -> Any:
    """The value at a key path of nested mappings."""
    for key in path:
        data = data[key]
    return data


def short_name(path: Path_, model: type[BaseModel]) -> str:
    """The shortest name of a key that is still clear: its last part where no other section has it."""
    same = [full for full, _ in leaves(model) if full[-1] == path[-1]]
    return path[-1] if len(same) == 1 else ".".join(path)


def format_value(value: Any) -> str:
    """A value in a variant's name: the same for equal values, and safe in a file name."""
    text = _plain(value)
    safe = re.sub(r"[^A-Za-z0-9._+=,\[\]-]", "-", text)
    return safe if safe == text else f"{safe}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        text = f"{value:.15g}" if float(f"{value:.15g}") == value else repr(value)
        if value and (abs(value) < 0.1 or abs(value) >= 1e6):
            digits = repr(value) if "e" in repr(value) else f"{value:.16e}"
            mantissa, exponent = _scientific(value, digits)
            return f"{mantissa}e{exponent}"
        return text
    if isinstance(value, list | tuple):
        return "[" + ",".join(_plain(item) for item in value) + "]"
    return str(value)


def _scientific(value: float, digits: str) -> tuple[str, int]:
    """Mantissa (shortest that still gives the value) and exponent."""
    for precision in range(17):
        text = f"{value:.{precision}e}"
        if float(text) == value:
            digits = text
            break
    mantissa, _, exponent = digits.partition("e")
    return mantissa, int(exponent)


def join_label(base: str, changes: Sequence[tuple[str, str]]) -> str:
    """``base@key=value,...`` with the keys sorted; a very long one is cut and ends in its hash."""
    if not changes:
        return base
    label = f"{base}@" + ",".join(f"{key}={value}" for key, value in sorted(changes))
    if len(label) <= 160:
        return label
    return f"{label[:150]}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def scales_of(chain: Sequence[tuple[MethodSpec, Document]], scale: str) -> tuple[Scale, ...]:
    """The scales whose sections make a scale of a method and those it extends (those first), the weakest first."""
    return line_of(scale, [({name: section.extends for name, section in spec.scales.items()},
                            document.where(("scales", scale, EXTENDS))) for spec, document in chain])


def method_layers(chain: Sequence[tuple[MethodSpec, Document]], scale: str, task_set: str | None) -> Layers:
    """Config of a method and those it extends (those first) at a scale, for tasks of a hyperparameter set."""
    layers = Layers(file=chain[-1][1].file)
    for spec, document in chain:
        layers.add(spec.config, document, ("config",))
        for each in scales_of(chain, scale):
            section = spec.scales.get(each)
            if section is None:
                continue
            layers.add(section.config, document, ("scales", each))
            if task_set is not None and task_set in section.sets:
                layers.add(section.sets[task_set], document, ("scales", each, "sets", task_set))
    return layers


def budget_problems(chain: Sequence[tuple[MethodSpec, Document]], scale: str) -> list[Problem]:
    """A method may set budget keys of the protocol only, never what a number means, and each by its own rules.

    How they fit each other and a protocol's other keys is seen when a protocol is chosen.
    """
    allowed, found = Protocol.keys("means"), []
    for spec, document in chain:
        section = spec.scales.get(scale)  # type: ignore[call-overload]
        for key, value in (section.protocol if section is not None else {}).items():
            where = document.where(("scales", scale, "protocol", key))
            if key not in allowed:
                found.append(Problem.of(unknown(f"budget key in method {spec.name}", key, allowed, where)))
                continue
            layers = Layers({key: value}, {(key,): where}, document.file)
            checked = layers.check(Protocol, f"method {spec.name} at scale {scale}")
            found += [problem for problem in checked if problem.where == where] if isinstance(checked, tuple) else []
    return found
