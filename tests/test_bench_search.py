"""``bench search`` finds the same trees in both ways, and says how long each took."""

from __future__ import annotations

from pvdr_bench.bench.search import measure


def test_both_ways_find_the_same_counts() -> None:
    found = measure(simulations=4, roots=6, actions=3, repeats=1, scale="smoke")
    assert found["free"]["equal"] and found["ratio"] > 0 and 0 < found["outside_network"] < 1
    assert found["searches_per_second"] > 0 and found["free"]["ratio"] > 0
