"""The planning benchmark's verdict."""

from __future__ import annotations

import torch

from pvdr_bench.bench.plan import LOGIT_TOLERANCE, compare, measure


def test_cached_planning_is_equal_and_faster() -> None:
    result = measure(candidates=8, repeats=2, grid_n=(1, 4), grid_l=(2, 3))
    assert result["equal"] and result["max_logit_difference"] <= LOGIT_TOLERANCE
    assert result["plan_equal"] and result["plan_ms"] > 0
    assert result["ratio"] > 1.5  # the promise (2.5) is measured by `bench plan`, not on a busy test machine
    rows = {(row["candidates"], row["future_frames"]): row for row in result["cost"]}
    assert set(rows) == {(1, 2), (4, 2), (1, 3), (4, 3)} and all(row["ms"] > 0 for row in rows.values())
    prior = rows[1, 2]["gflop"] * 2 - rows[1, 3]["gflop"]  # what does not grow with the length
    assert 3.5 < (rows[4, 3]["gflop"] - rows[4, 2]["gflop"]) / (rows[1, 3]["gflop"] - rows[1, 2]["gflop"]) < 4.5
    assert rows[4, 2]["gflop"] < 4 * rows[1, 2]["gflop"] and prior < rows[1, 2]["gflop"]  # candidates share the prior


def test_compare_finds_a_wrong_code_but_forgives_a_tie() -> None:
    logits = torch.zeros(1, 2, 1, 1, 3)
    logits[..., 0] = 5.0
    codes = logits.argmax(-1)
    assert compare(codes, logits, codes, logits)["equal"]
    wrong = codes.clone()
    wrong[0, 0] = 2
    assert not compare(codes, logits, wrong, logits)["equal"]
    tie = logits.clone()
    tie[0, 0, 0, 0, 2] = 5.0
    verdict = compare(codes, tie, wrong, tie)
    assert verdict["equal"] and verdict["compared_frames"] == 1
    assert not compare(codes, logits, codes, logits + 1)["equal"]
