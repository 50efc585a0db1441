"""A row looks the same wherever it stands, and no two rows of one figure look alike."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from pvdr_bench.results.looks import DASHES, MARKS, Look, assign, looks_of, reference_dash
from pvdr_bench.results.series import Row, rows_of
from tests.figure_frames import ROWS, make_results

NAMES = [(variant, corpus) for variant, corpus, _ in ROWS]


def row(variant: str, corpus: str, protocol: str = "0" * 12) -> Row:
    return Row(variant, corpus, "cpu", protocol, f"{variant} ({corpus})", reference=False)


def test_twenty_rows_differ_in_style_as_bars_and_without_colour() -> None:
    looks = list(assign(NAMES).values())
    assert len(looks) == 20 == len({look.style for look in looks}) == len({look.surface for look in looks})
    assert all(look.dash in DASHES and look.mark in MARKS for look in looks)


def test_a_selection_and_an_order_change_no_look() -> None:
    results = make_results(20)
    whole = {(row.variant, row.corpus): look for row, look in looks_of(rows_of(results), results.names).items()}
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert assign(shuffled) == assign(NAMES)
    for size in (1, 3, 11):
        chosen = results.select(variant=sorted({variant for variant, _ in shuffled[:size]}))
        again = chosen.select(seed=[0, 1])  # a selection of a selection still knows the folder
        found = looks_of(rows_of(again), again.names)
        assert len(found) >= size
        assert all(look == whole[row.variant, row.corpus] for row, look in found.items())


def test_shipped_methods_have_their_look_in_any_folder() -> None:
    alone, among = assign([("pvdr", "metaworld")]), assign([*NAMES, ("pvdr@x=1", "bair"), ("zzz", "none")])
    assert alone["pvdr", "metaworld"] == among["pvdr", "metaworld"] == Look("#0072b2", "solid", "circle")
    assert assign([("pvdr", "fetch-push")])["pvdr", "fetch-push"] == among["pvdr", "fetch-push"]


@pytest.mark.parametrize("corpus", ["fetch-push", "bair"])
def test_the_rows_of_the_papers_main_figure_differ_in_colour_where_their_dashes_do_not(corpus: str) -> None:
    trained = ["pvdr", "apv", "ficc", "stg"]
    looks = assign([*((name, corpus) for name in trained), ("ppo", "none"), ("pvdr-scratch", "none")])
    for one, other in itertools.combinations(looks.values(), 2):
        apart = math.dist(*([int(look.color[k:k + 2], 16) for k in (1, 3, 5)] for look in (one, other)))
        assert one.dash != other.dash or apart > 60


def test_variants_and_corpora_keep_the_hue() -> None:
    looks = assign([("ppo", "none"), *((f"ppo@clip=0.{k}", "none") for k in range(9)), ("ppo", "bair")])
    parts = {name: [int(look.color[k:k + 2], 16) for k in (1, 3, 5)] for name, look in looks.items()}
    assert all(red > green > blue for red, green, blue in parts.values()) and len(set(looks.values())) == 11
    assert assign([("mine", "none"), ("mine@a=1", "none"), ("yours", "none")])["mine", "none"].color != assign(
        [("mine", "none"), ("yours", "none")])["yours", "none"].color


@pytest.mark.parametrize("family", ["pvdr@k={}", "method-{}"])
def test_hundreds_of_rows_still_differ(family: str) -> None:
    looks = assign([(family.format(k), "none") for k in range(200)])
    assert max(Counter(looks.values()).values()) == 1


def test_one_method_under_two_protocols_and_with_and_without_a_corpus() -> None:
    rows = [row("apv", "metaworld", "a"), row("apv", "metaworld", "b"), row("apv", "none", "a")]
    looks = looks_of(rows)
    assert len(set(looks.values())) == 3 and list(looks) == rows
    assert looks[rows[1]] == looks_of(rows[1:])[rows[1]] or looks[rows[0]] == looks_of(rows[1:])[rows[1]]
    assert looks_of([rows[1]])[rows[1]] == looks[rows[0]]  # alone, as in a chapter of its own: the method's look


def test_floor_and_ceiling_have_dashes_of_their_own() -> None:
    assert {reference_dash("random"), reference_dash("scripted"), reference_dash("another")} == {"dotted", "dash-dot"}
