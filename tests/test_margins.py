"""Every test of learning holds with room on every processor; and the command that measures it tells what has none."""

from __future__ import annotations

import json
import math
import re

import pytest

from tests import learning, margins
from tests.learning import Learning, above, all_learning, below, learns
from tests.margins import ISAS, SEEDS, Outcome, margin


@pytest.mark.long
@pytest.mark.parametrize("name", all_learning())
def test_a_test_of_learning_holds_with_room_on_every_processor(name: str) -> None:
    """Five trainings on each of three instruction sets."""
    outcomes = list(margins.measure([name], SEEDS, ISAS))
    assert len(outcomes) == SEEDS * len(ISAS)
    found = margins.margins([all_learning()[name]], outcomes)
    errors = {f"{one.isa}, seed {one.seed}": one.error for one in outcomes if one.error}
    assert all(one.verdict == "holds" for one in found) and not errors, f"{errors}\n{margins.table(found)}"


def test_room_is_counted_in_spreads_from_the_bound() -> None:
    values = {"native": [1.0, 3.0, 2.0], "avx2": [4.0, 5.0, 3.0]}  # median 3, standard deviation 1.29
    found = margin("t", "q", above(0.5), values)
    assert found.ranges == {"native": (1.0, 2.0, 3.0), "avx2": (3.0, 4.0, 5.0)}
    assert found.spread == pytest.approx(math.sqrt(10 / 6))
    assert found.median_room == pytest.approx(2.5 / found.spread) and found.worst_room == pytest.approx(
        0.5 / found.spread)
    assert margin("t", "q", below(7.0), values).ranges["avx2"] == (5.0, 4.0, 3.0)


@pytest.mark.parametrize(("values", "verdict"), [
    ([10.0, 11.0, 12.0], "holds"), ([1.0, 1.0, 1.0], "holds"),  # without spread
    ([1.0, 2.0, 3.0], "thin"),  # the median is less than three spreads away
    ([0.5, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0], "thin"),  # the worst less than one
    ([-1.0, 100.0, 100.0], "fails"), ([0.0, 1.0, 1.0], "fails"), ([float("nan"), 10.0, 10.0], "fails"),
    ([0.0, 0.0], "fails")])
def test_verdicts(values: list[float], verdict: str) -> None:
    assert margin("t", "q", above(0.0), {"native": values}).verdict == verdict
    assert margin("t", "q", below(0.0), {"native": [-x for x in values]}).verdict == verdict


def test_a_bound_that_is_missed_fails_the_test_and_says_by_what() -> None:
    def measured(seed: int) -> dict[str, float]:
        return {"after": 1.0 + seed}

    stands_still = learns(after=above(2.0))(measured)
    with pytest.raises(AssertionError, match=r"after is 1, wanted > 2"):
        stands_still()
    one: Learning = stands_still.learning  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="wanted > 2"):
        one.check(seed=1)  # on the bound is not beyond it
    one.check(seed=2)
    with pytest.raises(AssertionError, match="has bounds for"):
        Learning("t", one.function, {"before": above(0)}).measure(0)


def test_what_raises_under_one_seed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(seed: int) -> dict[str, float]:
        assert seed != 1, "no such luck"
        return {"x": 5.0}

    test = Learning("t", measured, {"x": above(1.0)})
    outcomes = list(margins.measure_here([test], range(3), "native"))
    assert [one.error for one in outcomes] == [None, "AssertionError: no such luck", None]
    assert [one.verdict for one in margins.margins([test], outcomes)] == ["fails"]
    monkeypatch.setattr(margins, "all_learning", lambda files=None: {"t": test})
    monkeypatch.setattr(margins, "measure", lambda names, seeds, isas: iter(outcomes))
    assert margins.main([]) == 1


def test_every_marked_test_is_known_and_run_by_pytest() -> None:
    marked = {f"tests/{path.name}::{name}" for path in learning.HERE.glob("test_*.py")
              for name in re.findall(r"^@learns\((?:.|\n)*?^def (\w+)\(", path.read_text(), re.M)}
    assert marked == all_learning().keys() and len(marked) > 10
    assert all("::test_" in name for name in marked)


def test_the_command_measures_in_a_process_of_each_instruction_set(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the quickest test of learning; the process must see the instruction set that its rows are told to be of."""
    monkeypatch.setitem(ISAS, "default", {**ISAS["default"], "OMP_NUM_THREADS": "1"})
    code = margins.main(["--test", "auxiliary_loss", "--seeds", "2", "--isa", "native,default", "--json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    outcomes = [Outcome(**row) for row in told["outcomes"]]
    assert [(one.isa, one.seed) for one in outcomes] == [("native", 0), ("native", 1), ("default", 0), ("default", 1)]
    assert err.count("error_left") == 4 and [one["quantity"] for one in told["margins"]] == ["error_left"]
    assert code == int(told["margins"][0]["verdict"] != "holds")
    assert "| error_left | < 0.5 |" in margins.table([margins.Margin(**row) for row in told["margins"]])


@pytest.mark.parametrize(("arguments", "said"), [
    (["--isa", "native,sse"], "no instruction set sse"), (["--test", "nothing of this name"], "nothing to measure"),
    (["--seeds", "0"], "nothing to measure")])
def test_wrong_arguments_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        margins.main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err
