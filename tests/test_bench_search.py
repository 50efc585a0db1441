"""``bench search`` finds the same trees in both ways, and says how long each took."""

from __future__ import annotations

import numpy as np

from pvdr_bench.bench.search import agreement, measure


def test_both_ways_find_the_same_counts() -> None:
    found = measure(simulations=4, roots=6, actions=3, repeats=1, scale="smoke")
    assert found["free"]["equal"] and found["ratio"] > 0 and 0 < found["outside_network"] < 1
    assert found["agreement"] > 0.9, "with the networks too, up to rounding"
    assert found["searches_per_second"] > 0 and found["free"]["ratio"] > 0


def test_agreement_is_the_share_of_visits_at_the_same_actions() -> None:
    assert agreement(np.array([[3.0, 1.0], [4.0, 0.0]]), np.array([[2.0, 2.0], [4.0, 0.0]])) == 7 / 8
    assert agreement(np.array([[4.0, 0.0]]), np.array([[0.0, 4.0]])) == 0
