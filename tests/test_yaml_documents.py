"""YAML without its traps, and the line of every key; what this program wrote is read in linear time."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.errors import CatalogError, DataError
from pvdr_bench.yaml_documents import parse_document, parse_value, read_document, read_scalar, read_written


@pytest.mark.parametrize(("text", "value"), [
    ("1e-4", 1e-4), ("1.0e-4", 1e-4), ("-2E3", -2000.0), (".5", 0.5), ("5", 5), ("1_000", 1000), ("-3", -3), ("0", 0),
    ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("False", False), ("null", None),
    ("~", None), ("", None),
    ("010", 10.0), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10"), ("reach-v3", "reach-v3"),
    (".inf", math.inf), ("9" * 5000, "9" * 5000), ("1e999", "1e999"), ("1.2.3", "1.2.3"), ("e5", "e5"),
])
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = read_scalar(text)
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_printed_float_is_read_back(number: float) -> None:
    found = read_scalar(repr(number))
    assert isinstance(found, float)
    assert found == number


@given(st.integers())
def test_every_printed_integer_is_read_back(number: int) -> None:
    assert read_scalar(str(number)) == number


KEYS = st.text("abcdefgh_", min_size=1, max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10**9, 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(max_codepoint=0xD7FF), max_size=8),  # JSON writes higher ones as pairs, YAML does not
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_json_is_yaml_and_every_key_has_its_line(data: dict[str, object]) -> None:
    document = parse_document(json.dumps(data, indent=1), "f.yaml")
    assert document.data == data
    lines = json.dumps(data, indent=1).split("\n")
    for path, line in document.lines.items():
        if not path[-1].isdigit():
            assert json.dumps(path[-1]) + ":" in lines[line - 1]


def test_agrees_with_pyyaml_on_plain_files() -> None:
    text = "a: 1\nb: {c: [1, 2.5, x], d: 'yes'}\ne: |\n  two\n  lines\nf: >-\n  folded\n  text\n"
    assert parse_document(text, "f").data == yaml.safe_load(text)


@pytest.mark.parametrize(("text", "line", "words"), [
    ("a: 1\nb: 2\na: 3\n", 3, "'a' appears twice"),
    ("x:\n  k: 1\n  k: 2\n", 3, "first in line 2"),
    ("a: &x 1\nb: {c: 1}\nd: *x\n", 1, "anchors"),
    ("a: 1\nd: *x\n", 2, "aliases"),
    ("a: 1\nb:\n- !!str 5\n", 3, "!!str"),
    ("a: !custom 'quoted'\n", 1, "!custom"),
    ("a: 1\nb: !!python/object:os.system {}\n", 2, "tag"),
    ("a: !custom 3\n", 1, "tag"),
    ("a: 1\n b: 2\n", 2, "not valid YAML"),
    ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
    ("- 1\n- 2\n", 1, "mapping"),
    ("<<: {a: 1}\n", 1, "plain text"),
    ("? [1]\n: 2\n", 1, "plain text"),
])
def test_what_is_ambiguous_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_document(text, "f.yaml")
    assert f"f.yaml:{line}" in str(caught.value)
    assert words in str(caught.value)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(CatalogError, match="not valid YAML"):
        parse_document("a: " + "[" * 5000 + "]" * 5000, "f")


def test_values_of_overrides() -> None:
    assert parse_value("1e-2") == 0.01
    assert parse_value("[1, 2]") == [1, 2]
    assert parse_value("'1'") == "1"
    assert parse_value("a: b") == "a: b"
    with pytest.raises(CatalogError, match="-o"):
        parse_value("[1, 2")


def test_unreadable_files(tmp_path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(CatalogError, match="byte 3"):
        read_document(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_document(tmp_path / "empty.yaml").data == {}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefghi"))


@pytest.mark.parametrize(("text", "line", "words"), [
    (f"format: 1\n{BOMB}", 2, "alias"),
    ("a: 1\nb: *a\n", 2, "alias"),
    ("a: 1\n<<: {b: 1}\n", 2, "plain text"),
    ("a: 1\nb: 2\na: 3\n", 3, "'a' appears twice"),
    ("a: 2024-01-01\n", 1, "tag"),
    ("a: !!python/object:os.system {}\n", 1, "tag"),
    ("? [1]\n: 2\n", 1, "plain text"),
    ("a: " + "[" * 100_000, 1, "nesting depth"),
    ("a: [1\n", 2, "did not find"),
    ("a: 1\n---\nb: 1\n", 2, "another document"),
])
def test_what_no_program_of_ours_wrote_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_written(text, "run.yaml")
    assert f"run.yaml:{line}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["a: " + "9" * 5000, "a: \0"])
def test_what_python_cannot_hold_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match=r"run\.yaml"):
        read_written(text, "run.yaml")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_was_written_is_read_back(data: dict[str, object]) -> None:
    assert read_written(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), "f") == data


def test_text_with_the_marks_of_aliases_is_read() -> None:
    data = {"title": "z* & friends", "override": "*a", "other": "&b"}
    assert read_written(yaml.safe_dump(data), "f") == data
    assert parse_document("a: z* & friends\nb: '*a'\n", "f").data == {"a": "z* & friends", "b": "*a"}
