"""The grammar of ``--seeds`` and of comma-separated names."""

from __future__ import annotations

from pvdr_bench.errors import UsageError


def parse_seeds(text: str) -> tuple[int, ...]:
    """``5`` -> 0..4, ``5,`` -> seed 5, ``3,7`` -> those two.

    Raises:
        UsageError: not numbers, negative, repeated, or none at all.
    """
    hint = "--seeds 5 means 0..4; --seeds 5, means seed 5; --seeds 3,7 those two"
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = [int(part) for part in parts if part]
    except ValueError:
        raise UsageError(f"--seeds {text!r} is not a list of whole numbers", hint=hint) from None
    if not numbers or any(number < 0 for number in numbers) or "" in parts[:-1]:
        raise UsageError(f"--seeds {text!r} names no valid seed", hint=hint)
    if "," not in text:
        if numbers[0] == 0:
            raise UsageError("--seeds 0 asks for no seed at all", hint="--seeds 0, means seed 0; " + hint)
        return tuple(range(numbers[0]))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--seeds {text!r} names a seed twice", hint=hint)
    return tuple(numbers)


def split_names(text: str | None) -> tuple[str, ...]:
    """``a,b`` -> names; a variant such as ``pvdr@x=1,y=2`` keeps its commas.

    Raises:
        UsageError: an empty or repeated name.
    """
    if text is None:
        return ()
    names: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        if names and "=" in part and "@" not in part and "@" in names[-1]:
            names[-1] += f",{part}"
        elif not part:
            raise UsageError(f"an empty name in {text!r}", hint="names are separated by single commas")
        elif part in names:
            raise UsageError(f"{part!r} is named twice in {text!r}")
        else:
            names.append(part)
    return tuple(names)
