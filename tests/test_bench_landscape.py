"""``bench landscape``: the summary against a loop, a metric that deceives, the real command, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from pvdr_bench.cli.main import main
from pvdr_bench.diagnostics import landscape
from pvdr_bench.diagnostics.landscape import RINGS, summary
from pvdr_bench.errors import UsageError

RNG = np.random.default_rng(0)
GOAL = np.array([0.1, -0.2, 0.3])
PLACES = GOAL + RNG.uniform(-0.3, 0.3, (400, 3))


def metres() -> np.ndarray:
    return np.array([sum((a - b) ** 2 for a, b in zip(place, GOAL, strict=True)) ** 0.5 for place in PLACES])


def test_the_summary_is_that_of_a_loop() -> None:
    metric = RNG.uniform(0, 1, 400)
    found, apart = summary(PLACES, metric, GOAL, 0.1, 0.2), metres()
    far = [i for i in range(400) if apart[i] > 0.2]
    lowest = min(far, key=lambda i: metric[i])
    assert 10 < len(far) < 390
    assert found["lowest_far"] == metric[lowest] and found["lowest_far_place"] == list(PLACES[lowest])
    assert found["lowest_far_metres"] == pytest.approx(apart[lowest])
    beside = [metric[i] for i in range(400) if apart[i] <= 0.1]
    assert beside and found["above_lowest_far"] == np.mean([value > metric[lowest] for value in beside])
    assert found["rank_correlation"] == pytest.approx(spearmanr(apart, metric).statistic)
    assert found["rank_correlation_far"] == pytest.approx(spearmanr(apart[far], metric[far]).statistic)
    near = [i for i in range(400) if i not in far]
    assert found["rank_correlation_near"] == pytest.approx(spearmanr(apart[near], metric[near]).statistic)
    for ring, low, high in zip(found["rings"].values(), RINGS[2:], RINGS[3:], strict=False):
        inside = [metric[i] for i in range(400) if low <= apart[i] < high]
        if list(found["rings"]).index(f"{low:g}-{high:g}") == 0:
            assert ring == {"places": len(inside), "least": min(inside), "median": np.median(inside)}
    assert sum(ring["places"] for ring in found["rings"].values()) == 400


def test_another_low_place_is_found_and_an_honest_metric_has_none() -> None:
    honest = summary(PLACES, metres(), GOAL, 0.1, 0.2)
    assert honest["rank_correlation"] == pytest.approx(1) and honest["above_lowest_far"] == 0
    trap = int(metres().argmax())
    deceiving = metres()
    deceiving[trap] = 0.0
    found = summary(PLACES, deceiving, GOAL, 0.1, 0.2)
    assert found["lowest_far"] == 0 and found["above_lowest_far"] == 1
    assert found["lowest_far_place"] == list(PLACES[trap])


def test_where_no_place_is_far_there_is_nothing_to_compare() -> None:
    found = summary(PLACES, metres(), GOAL, 0.1, 2.0)
    assert found["lowest_far"] is found["above_lowest_far"] is found["rank_correlation_far"] is None


def test_it_leads_the_hand_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "landscape", "--json", "-o", "scale=smoke", "-o", "walks=7", "-o",
              "keys=['protocol.goal_metric=pixel_l1']"])
    found = json.loads(capsys.readouterr().out)
    assert not ended.value.code and found["goal_metric"] == "pixel_l1"
    assert found["walks"] == 8 and found["places"] == 8 * 9 == sum(ring["places"] for ring in found["rings"].values())
    assert any(float(ring.partition("-")[0]) < 0.1 for ring in found["rings"]), "half of the places are beside the goal"
    assert found["rank_correlation"] > 0.2


def test_what_it_cannot_look_at_is_refused() -> None:
    with pytest.raises(UsageError, match="a walk or more"):
        landscape.measure(walks=0)
    with pytest.raises(UsageError, match="near <= far"):
        landscape.measure(near=0.3, far=0.2)
    with pytest.raises(UsageError, match="rewards no distance"):
        landscape.measure(scale="smoke", protocol="apv")
