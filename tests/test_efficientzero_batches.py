"""Every number of a batch for an update, against the episodes it was drawn from.

Each entry of replay tells which one it is: by its picture, its reward, its action and its stored policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero.actions import ActionInput
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.reanalysis import POLICY, Reanalysis, declare
from pvdr_bench.rl.replay.drawing import Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.priorities import PRIORITY
from pvdr_bench.rl.search.boxes import ActionBoxes
from pvdr_bench.rl.search.mcts import Found
from pvdr_bench.rl.transition import Transition

CPU, SIDE, K, GAMMA = torch.device("cpu"), 8, 4, 0.9
STACK, UNROLL, TD, BATCH, BUDGET = 2, 3, 3, 48, 60
ENDS = ({4: "terminal", 9: "cut"}, {2: "cut", 7: "terminal"})  # decisions after which episodes of a stream end
DECISIONS = 14
CONFIG = EfficientZeroConfig.model_validate({
    "model": {"input_size": SIDE, "stack": STACK, "downsamplings": 2, "channels": 4, "gray": False, "head_channels": 1,
              "head_units": 2, "prefix_units": 2, "projection": 2, "predictor": 2, "support": 4.0},
    "search": {"discount": GAMMA, "halved": 2},
    "train": {"batch": BATCH, "unroll": UNROLL, "td_steps": TD, "reanalyse": 1.0, "stale_share": 0.3}})


@dataclass
class Entry:
    """What stands in replay at one place, by a list of our own."""

    code: int
    reward: float
    action: Tensor  # [2]
    policy: Tensor  # [K]
    first: int  # entry of its episode
    last: int
    kind: str  # how the episode ended; open: not yet


def shares(code: Tensor, far: float) -> Tensor:
    """Policies [..., K] that tell the entry."""
    one = code.float() / 256
    return torch.stack([one, far - one, torch.full_like(one, 0.5 - far / 2), torch.full_like(one, 0.5 - far / 2)], -1)


def entries(stream: int) -> list[Entry]:
    """A stream's entries: an observation for each decision, and one at the end of each episode."""
    out: list[Entry] = []
    first = 0
    for t in range(DECISIONS):
        kind = ENDS[stream].get(t, "")
        for _ in range(2 if kind else 1):
            e = len(out)
            code = 1 + 100 * stream + 3 * e
            # the first observation of an episode was reached by no decision
            out.append(Entry(code, 0.0 if e == first else code / 10, torch.tensor([code / 256, -code / 256]),
                             shares(torch.tensor(code), 0.9), first, -1, ""))
        if kind or t == DECISIONS - 1:
            for entry in out[first:]:
                entry.last, entry.kind = len(out) - 1, kind or "open"
            first = len(out)
    return out


def image(code: int) -> Tensor:
    return torch.full((SIDE, SIDE, 3), code, dtype=torch.uint8)


def filled(folder: Path, truth: list[list[Entry]]) -> EpisodeReplay:
    replay = EpisodeReplay(folder, len(truth), SIDE, 2)
    declare(replay, CONFIG, K)
    place = [0] * len(truth)
    for t in range(DECISIONS):
        rows = [truth[i][place[i]] for i in range(len(truth))]
        kinds = [ENDS[i].get(t, "") for i in range(len(truth))]
        after = [truth[i][place[i] + 1] if place[i] + 1 < len(truth[i]) else rows[i] for i in range(len(truth))]
        replay.add(Transition(
            torch.stack([image(row.code) for row in rows]),
            torch.tensor([row.first == at for row, at in zip(rows, place, strict=True)]),
            torch.stack([row.action for row in rows]), torch.tensor([row.reward for row in after]),
            torch.tensor([kind == "terminal" for kind in kinds]), torch.tensor([kind == "cut" for kind in kinds]),
            torch.stack([image(row.code) for row in after]), {POLICY: torch.stack([row.policy for row in rows])}))
        place = [at + 1 + bool(kind) for at, kind in zip(place, kinds, strict=True)]
    assert place == [len(one) for one in truth] == [stream.length for stream in replay.streams]
    return replay


def newest(observation: Tensor) -> Tensor:
    """Codes [M] of the newest frames of observations [M, S * 3, h, w]."""
    return (observation[:, -1, 0, 0] * 255).round()


def worth(code: float) -> float:
    """What the stubbed target network thinks of an observation."""
    return 7 - code / 20


def stubbed(replay: EpisodeReplay) -> Reanalysis:
    boxes = ActionBoxes(2, 2)
    inputs = ActionInput(CONFIG.model, boxes, CPU)
    made = Reanalysis(CONFIG, replay, EfficientZeroNet(CONFIG.model, K, inputs.dim).eval(), inputs, BUDGET, CPU, None)
    made.target.net = SimpleNamespace(encoder=newest, predict=lambda codes: (None, worth(codes)),  # type: ignore
                                      scalars=SimpleNamespace(mean=lambda values: values))

    def run(net: Any, observation: Tensor, inputs: Tensor, simulations: int, *rest: Any) -> Found:
        assert observation.shape[1:] == (STACK * 3, SIDE, SIDE) and inputs.shape == (len(observation), K, 2)
        found = shares(newest(observation), 0.8).double().numpy()
        return Found(found, np.zeros(len(found)), np.zeros((len(found), K)))

    made.search.run = run  # type: ignore[method-assign, assignment]
    return made


def value_by_hand(rows: list[Entry], at: int, steps: int) -> float:
    """``steps`` rewards, or those to the episode's end, and what is worth where they end."""
    total, weight, last = 0.0, 1.0, rows[at].last
    j = at
    while j < min(last, at + steps):
        j += 1
        total, weight = total + weight * rows[j].reward, weight * GAMMA
    ended = rows[at].kind == "terminal" and j == last
    return total + (0.0 if ended else weight * worth(rows[j].code))


def test_every_field_of_a_batch_is_that_of_its_entries_and_goes_back_to_them(tmp_path: Path) -> None:
    truth = [entries(i) for i in range(2)]
    replay = filled(tmp_path, truth)
    every = [np.arange(len(rows)) for rows in truth]
    weights = [1.0 + 0.5 * numbers for numbers in every]
    for stream, numbers in enumerate(every):
        replay.write(positions_of(stream, numbers), PRIORITY, torch.from_numpy(weights[stream]))
    batch, draw = stubbed(replay).batch(torch.Generator().manual_seed(0), CONFIG.train.reanalyse)
    drawn = list(zip(draw.positions.stream.tolist(), draw.positions.index.tolist(), strict=True))
    kinds = {truth[i][e].kind for i, e in drawn}
    assert len(set(drawn)) > 15 and kinds == {"terminal", "cut", "open"}
    searched: set[tuple[int, int]] = set()
    for b, (stream, at) in enumerate(drawn):
        rows = truth[stream]
        age = (len(rows) - at) * 2
        steps = min(max(TD - int(age / (0.3 * BUDGET)), 1), TD)
        last, first = rows[at].last, rows[at].first
        for k in range(UNROLL + 1):
            e = at + k
            assert bool(batch.inside[b, k]) is (e <= last)
            assert bool(batch.decided[b, k]) is (e < last or (e == last and rows[at].kind == "open"))
            if k < UNROLL and batch.decided[b, k]:
                assert torch.allclose(batch.action[b, k], rows[e].action)
            if k:
                assert batch.prefix[b, k - 1].item() == pytest.approx(
                    sum(row.reward for row in rows[at + 1:min(e, last) + 1]), rel=1e-5)
            assert batch.value[b, k].item() == pytest.approx(
                value_by_hand(rows, e, steps) if e <= last else 0.0, rel=1e-4, abs=1e-4)
            if e > last:
                continue
            seen = (batch.observation[b, k, :, 0, 0] * 255).round().view(STACK, 3)
            assert seen.tolist() == [[rows[max(first, e - 1)].code] * 3, [rows[e].code] * 3]
            if batch.decided[b, k]:
                searched.add((stream, e))
                assert torch.allclose(batch.policy[b, k], shares(torch.tensor(rows[e].code), 0.8), atol=1e-6)
    power = CONFIG.train.priority_exponent * (0.4 + 0.6 * min(1, sum(map(len, truth)) / BUDGET))
    expected = torch.tensor([weights[i][e] ** -power for i, e in drawn])
    assert torch.allclose(batch.weight, (expected / expected.max()).float(), rtol=1e-5)
    assert {round(x, 3) for x in batch.weight.tolist()} != {1.0}
    kept = [replay.streams[i].values(POLICY, numbers) for i, numbers in enumerate(every)]
    for i, rows in enumerate(truth):
        for e, row in enumerate(rows):
            stored = row.policy if e < row.last or row.kind == "open" else torch.zeros(K)
            wanted = shares(torch.tensor(row.code), 0.8) if (i, e) in searched else stored
            assert np.allclose(kept[i][e], wanted, atol=1e-6), (i, e)


def test_priorities_go_back_to_the_entries_that_were_drawn(tmp_path: Path) -> None:
    truth = [entries(i) for i in range(2)]
    replay = filled(tmp_path, truth)
    reanalysis = stubbed(replay)
    _, draw = reanalysis.batch(torch.Generator().manual_seed(1), CONFIG.train.reanalyse)
    errors = (draw.positions.stream * 100 + draw.positions.index).float() / 10
    before = [stored.copy() for stored in replay.weights.all]
    reanalysis.write_priorities(draw, errors)
    drawn = set(zip(draw.positions.stream.tolist(), draw.positions.index.tolist(), strict=True))
    for i, stored in enumerate(replay.weights.all):
        wanted = [((100 * i + e) / 10 + 1e-6) ** 0.6 if (i, e) in drawn else before[i][e] for e in range(len(stored))]
        assert np.allclose(stored, wanted, rtol=1e-5)


def positions_of(stream: int, numbers: np.ndarray) -> Positions:
    return Positions(torch.full((len(numbers),), stream), torch.from_numpy(numbers))
