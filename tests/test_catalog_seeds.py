"""The grammar of seeds and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pvdr_bench.catalog.seeds import parse_seeds, split_names
from pvdr_bench.errors import UsageError
from tests.results_runs import make_spec


@pytest.mark.parametrize(("text", "seeds"), [
    ("5", (0, 1, 2, 3, 4)), ("1", (0,)), ("5,", (5,)), ("0,", (0,)), ("3,7", (3, 7)),
    (" 3 , 7 ", (3, 7)), ("7,3,", (7, 3)), ("3,7,3", (3, 7)), (["5"], (0, 1, 2, 3, 4)), (["5,"], (5,)),
    (["3", "7"], (3, 7)), (["3,", "7,", "3"], (3, 7)), (["3,4", "7"], (3, 4, 7)), (["0", "1"], (0, 1)),
])
def test_seeds(text: str | list[str], seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "0", "-1", "-1,", "a", "3,,7", "1.5", ",3", "2-4"])
def test_bad_seeds_are_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match="0..4"):
        parse_seeds(text)


def test_a_seed_without_its_comma_is_not_taken_for_a_count() -> None:
    assert parse_seeds("20260611,") == (20260611,) and len(parse_seeds("1000")) == 1000
    with pytest.raises(UsageError, match="asks for 20,260,611 seeds") as raised:
        parse_seeds("20260611")
    assert "--seeds 20260611, means that one seed" in str(raised.value)


def test_a_seed_is_one_that_records_can_hold() -> None:
    assert parse_seeds(f"{2**53},") == (2**53,)
    for text in (f"{2**53 + 1},", f"3,{2**64}", str(2**64)):
        with pytest.raises(UsageError, match="a seed is at most"):
            parse_seeds(text)
    spec = make_spec(seed=2**53)
    with pytest.raises(ValidationError, match="less than or equal"):
        spec.model_validate(spec.model_dump() | {"seed": 2**53 + 1})


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_lists_of_seeds_keep_their_order(seeds: list[int]) -> None:
    assert parse_seeds(",".join(map(str, seeds))) == tuple(seeds)


def test_names() -> None:
    assert split_names(None) == ()
    assert split_names("pvdr, ppo") == ("pvdr", "ppo")
    assert split_names("pvdr@x=1,y=2,ppo") == ("pvdr@x=1,y=2", "ppo")
    assert split_names(["pvdr@x=1,y=2,ppo", "apv", "ppo"]) == ("pvdr@x=1,y=2", "ppo", "apv")
    assert split_names("a,b,a") == ("a", "b")
    for text in ("", "a,,b", ["a", ""]):
        with pytest.raises(UsageError):
            split_names(text)
