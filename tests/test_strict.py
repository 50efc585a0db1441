"""A setting is what it looks like, at every scale, and an override that is wrong is named as the override."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.errors import BenchError, CatalogError
from pvdr_bench.strict import StrictModel
from tests.test_catalog_resolve import catalog, root, write

__all__ = ["catalog", "root"]  # fixtures


class Inner(StrictModel):
    whole: int | None = None


class Toy(StrictModel):
    whole: int = 1
    number: float = 1.0
    maybe: float | None = None
    truth: bool = False
    text: str = ""
    sizes: tuple[int, ...] = ()
    kernel: Literal[1, 3] = 1
    inner: Inner = Inner()


@pytest.mark.parametrize(("key", "given", "value"), [
    ("whole", 1e3, 1000), ("whole", 7, 7), ("number", 3, 3.0), ("maybe", 2, 2.0), ("maybe", None, None),
    ("sizes", [1, 2.0], (1, 2)), ("kernel", 3, 3), ("inner", {"whole": 4.0}, Inner(whole=4)), ("truth", True, True),
])
def test_what_says_the_same_is_taken(key: str, given: object, value: object) -> None:
    found = getattr(Toy.model_validate({key: given}), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("key", "given"), [
    ("whole", True), ("whole", "3"), ("whole", 3.5), ("number", True), ("number", "1e-3"), ("number", float("nan")),
    ("number", float("inf")), ("maybe", False), ("truth", 1), ("truth", 0.0), ("truth", "true"), ("text", 3),
    ("text", True), ("sizes", [True]), ("sizes", "12"), ("kernel", True), ("kernel", "3"), ("inner", {"whole": True}),
    ("inner", 3),
])
def test_nothing_else_is_converted(key: str, given: object) -> None:
    with pytest.raises(ValidationError):
        Toy.model_validate({key: given})


def message_of(override: str, method: str = "ppo") -> str:
    with pytest.raises(BenchError) as caught:
        Catalog([builtin_root()]).resolve(method, "reach", 0, overrides=[override])
    assert caught.value.where is not None
    return f"{caught.value.where} | {caught.value}"


@pytest.mark.parametrize(("override", "words"), [
    ("epochs=true", ["epochs = true: must be a whole number"]),
    ("epochs='3'", ["epochs = '3': must be a whole number"]),
    ("mean_policy_in_eval=1", ["must be true or false"]),
    ("actor_lr=.nan", ["must be a finite number"]),
    ("protocol.goal_blur=4", ["must be odd"]),
    ("heads=3", ["not a multiple of heads 3", "d_model stands in", "methods/ppo.yaml:"]),
    ("protocol.num_envs=7", ["sync_every stands in", "protocols/pvdr.yaml:"]),
    ("protocol.reward=dense", ["must be null"]),
])
def test_an_error_of_an_override_names_the_override(override: str, words: list[str]) -> None:
    message = message_of(override)
    assert message.startswith(f"-o {override.partition('=')[0]} |")
    for word in words:
        assert word in message


def test_a_nested_check_names_the_override_too() -> None:
    assert message_of("encoder_kernels=[9,9,9,9]", "dreamerv2").startswith("-o encoder_kernels |")


def test_a_whole_number_may_be_written_with_an_exponent(catalog: Catalog) -> None:
    spec = catalog.resolve("base", "one", 0, overrides=["protocol.env_steps=1.6e3", "net.width=1e1"])
    assert (spec.protocol.env_steps, spec.variant) == (1600, "base@net.width=10")


@pytest.mark.parametrize(("file", "text", "line", "words"), [
    ("methods/base.yaml", "algorithm: toy\nscales:\n  gpu:\n    lrr: 1\n", 4, "'lrr'"),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  smoke: {lr: true}\n", 3, "lr = true: must be a number"),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  paper:\n    sets:\n      set7: {lr: -1}\n", 5, "greater than 0"),
    ("methods/base.yaml", "algorithm: toy\nscales:\n  paper:\n    protocol:\n      env_steps: 0\n", 5, "env_steps = 0"),
    ("tasks/protocols/pvdr.yaml", None, None, "success_bonus = true"),
])
def test_every_scale_is_checked_whichever_is_used(root: Path, file: str, text: str | None, line: int | None,
                                                  words: str) -> None:
    if text is None:
        text = (root / file).read_text() + "  smoke: {success_bonus: true}\n"
        line = len(text.splitlines())
    found = write(root, file, text)
    with pytest.raises(CatalogError) as caught:
        found.resolve("base", "one", 0, "cpu")
    assert f"{file}:{line}: " in str(caught.value)
    assert words in str(caught.value)
