"""The grammar of seeds and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvdr_bench.catalog.seeds import parse_seeds, split_names
from pvdr_bench.errors import UsageError


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
