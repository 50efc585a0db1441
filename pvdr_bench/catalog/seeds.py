"""The grammar of ``--seeds`` and of lists of names: commas, or the option again, or both; what comes twice is once."""

from __future__ import annotations

from collections.abc import Sequence

from pvdr_bench.errors import UsageError

Texts = str | Sequence[str]  # an option's value, or its values where it was given several times
MOST, LARGEST = 1000, 2**53  # seeds that a count asks for: more are a seed without its comma; what JSON keeps exactly


def parse_seeds(texts: Texts) -> tuple[int, ...]:
    """``5`` -> 0..4, ``5,`` -> seed 5, ``3,7`` -> those two, and so ``--seeds 3 --seeds 7``.

    Raises:
        UsageError: not numbers, negative or too large, none at all, or a count of more than :data:`MOST`.
    """
    given = (texts,) if isinstance(texts, str) else tuple(texts)
    text = given[0] if len(given) == 1 else ",".join(one.strip().removesuffix(",") for one in given)
    hint = "--seeds 5 means 0..4; --seeds 5, means seed 5; --seeds 3,7 those two"
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = [int(part) for part in parts if part]
    except ValueError:
        raise UsageError(f"--seeds {text!r} is not a list of whole numbers", hint=hint) from None
    if not numbers or any(number < 0 for number in numbers) or "" in parts[:-1]:
        raise UsageError(f"--seeds {text!r} names no valid seed", hint=hint)
    if max(numbers) > LARGEST:
        raise UsageError(f"--seeds {text}: a seed is at most {LARGEST:,} (2**53)", hint="choose a smaller one")
    if "," in text:
        return tuple(dict.fromkeys(numbers))
    if numbers[0] > MOST:
        raise UsageError(f"--seeds {text} asks for {numbers[0]:,} seeds, 0 to {numbers[0] - 1:,}",
                         hint=f"--seeds {text}, means that one seed; a count is at most {MOST:,}")
    if numbers[0] == 0:
        raise UsageError("--seeds 0 asks for no seed at all", hint="--seeds 0, means seed 0; " + hint)
    return tuple(range(numbers[0]))


def split_names(texts: Texts | None) -> tuple[str, ...]:
    """``a,b`` -> names, each once; a variant such as ``pvdr@x=1,y=2`` keeps its commas.

    Raises:
        UsageError: an empty name.
    """
    names: dict[str, None] = {}
    for text in (texts,) if isinstance(texts, str) else texts or ():
        names |= dict.fromkeys(_split(text))
    return tuple(names)


def _split(text: str) -> list[str]:
    names: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        if names and "=" in part and "@" not in part and "@" in names[-1]:
            names[-1] += f",{part}"
        elif not part:
            raise UsageError(f"an empty name in {text!r}", hint="names are separated by single commas")
        else:
            names.append(part)
    return names
