"""One evaluation episode: the one definition by which the loop writes ``episodes.jsonl`` and every reader reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, cast, get_args, get_origin

from pydantic import Field
from typing_extensions import TypedDict

from pvdr_bench.runs.schema import Count, Point, Success

LARGEST = 1e300  # of a return or a length: the sum of a log's is still a number

EpisodeRow = TypedDict("EpisodeRow", {  # a row of `episodes.jsonl`; what need not be there is for people
    "seed": NotRequired[Count], "env_steps": Count, "decisions": Count, "point": Point, "episode": NotRequired[Count],
    "eval_seed": Annotated[int, Field(ge=0, lt=2**63)], "success_any": Success, "success_end": Success,
    "return": Annotated[float, Field(ge=-LARGEST, le=LARGEST)], "length": Annotated[float, Field(ge=0, le=LARGEST)],
})
MEASURED = ("success_any", "success_end", "return", "length")  # what an episode came to; all else says which it was


def plain_type(hint: Any) -> type:
    """The type that a column of a row has: ``bool`` for what may also be written as 0 or 1, ``str`` for words."""
    inner = get_args(hint)
    if not inner:
        return cast(type, hint)
    return type(inner[0]) if get_origin(hint) is Literal else plain_type(inner[0])


@dataclass(frozen=True)
class EpisodeResult:
    """An episode as it was played.

    Attributes:
        episode: number in its evaluation. eval_seed: of its environment.
        success_any: at any step. success_end: at the last one.
        length: in env_steps.
    """

    episode: int
    eval_seed: int
    success_any: bool
    success_end: bool
    episode_return: float
    length: int

    def row(self, *, seed: int, env_steps: int, decisions: int, point: Point) -> EpisodeRow:
        """As ``episodes.jsonl`` has it: the run's seed and how far it was when the episode was played."""
        return {"seed": seed, "env_steps": env_steps, "decisions": decisions, "point": point, "episode": self.episode,
                "eval_seed": self.eval_seed, "success_any": self.success_any, "success_end": self.success_end,
                "return": self.episode_return, "length": self.length}
