"""The planning benchmark's verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pvdr_bench.bench.plan import LOGIT_TOLERANCE, compare, measure
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.nets.st_transformer import Decoding


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


def test_levers_are_measured_against_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in force while it is measured, and codes are compared with the plain way's."""
    seen: dict[str, set[Any]] = {"inference": set(), "bfloat16": set()}
    calls, newest = [], Decoding.newest

    def spied(self: Decoding, x: torch.Tensor) -> torch.Tensor:
        seen["inference"].add(torch.is_inference_mode_enabled())
        seen["bfloat16"].add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return newest(self, x)

    def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def compiled(*arguments: Any) -> Any:
            calls.append(function)
            return -function(*arguments)  # so that codes differ
        return compiled

    monkeypatch.setattr(Decoding, "newest", spied)
    monkeypatch.setattr(torch, "compile", compile_)
    found = measure(candidates=4, future_frames=3, repeats=2, levers=("inference", "bfloat16", "compiled"))["levers"]
    assert seen == {"inference": {False, True}, "bfloat16": {None, torch.bfloat16}}
    steps = [call for call in calls if call is spied]
    assert len(steps) == 3 * 3, "three steps of the one part, in the first call and two repeats"
    assert Decoding.newest is spied
    for name in ("inference", "bfloat16", "compiled"):
        row = found[name]
        assert row["ms"] > 0 and row["gain"] == pytest.approx(found["plain_ms"] / row["ms"])
        assert row["first_call_seconds"] > 0
    assert found["inference"]["differ"] == 0 <= found["bfloat16"]["differ"] < 0.5 < found["compiled"]["differ"]


def test_a_lever_that_there_is_none_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no lever called faster"):
        measure(candidates=2, future_frames=2, repeats=1, levers=("inference", "faster"))

    with pytest.raises(UsageError, match="a plan of 9 frames has more"):
        measure(candidates=2, future_frames=9, repeats=1, levers=("compiled",))

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(SetupError, match="no C\\+\\+ compiler"):
        measure(candidates=2, future_frames=2, repeats=1, levers=("compiled",))
