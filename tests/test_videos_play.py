"""Motion of the corpora: noise statistics, and play that reaches the whole workspace in every direction."""

from __future__ import annotations

import numpy as np

from pvdr_bench.suites.play import Box, OUNoise, WaypointPlay

BOX = Box((-0.3, 0.4, 0.05), (0.3, 0.9, 0.35))


def test_ou_noise_has_the_spread_and_memory_it_says() -> None:
    noise = OUNoise(np.random.default_rng(0), 3, sd=0.5, decay=0.8)
    values = np.array([noise.step() for _ in range(20_000)])
    assert np.allclose(values.std(0), 0.5, atol=0.03)
    correlation = (values[1:] * values[:-1]).mean(0) / values.var(0)
    assert np.allclose(correlation, 0.8, atol=0.03)


def roll(seed: int, frames: int, objects: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A point mass that moves as commanded, 4 cm a frame at full speed."""
    play = WaypointPlay(np.random.default_rng(seed), BOX)
    hand, path, actions = np.array([0.0, 0.6, 0.2]), [], []
    for _ in range(frames):
        action = play.action(hand, objects)
        assert np.abs(action).max() <= 1.0
        hand = hand + 0.04 * action[:3]
        path.append(hand)
        actions.append(action)
    return np.array(path), np.array(actions)


def test_play_moves_in_every_octant_and_fills_the_workspace() -> None:
    path, actions = roll(0, 6000, [])
    octants = (np.sign(actions[:, :3]) > 0) @ (1, 2, 4)
    share = np.bincount(octants[np.abs(actions[:, :3]).max(1) > 0.3], minlength=8) / len(octants)
    assert share.min() > 0.05
    assert (path.min(0) < np.array(BOX.low) + 0.05).all() and (path.max(0) > np.array(BOX.high) - 0.05).all()
    assert np.abs(actions[:, :3].mean(0)).max() < 0.05  # no drift
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).mean() > 0.02


def test_play_opens_and_closes_the_gripper() -> None:
    _, actions = roll(1, 2000, [])
    assert set(actions[:, 3]) == {-1.0, 1.0}
    changes = int((np.diff(actions[:, 3]) != 0).sum())
    assert changes > 50
    assert 0.3 < (actions[:, 3] > 0).mean() < 0.7


def test_play_visits_objects() -> None:
    thing = np.array([0.2, 0.8, 0.1])
    near = [np.linalg.norm(roll(2, 3000, things)[0] - thing, axis=1) < 0.05 for things in ([thing], [])]
    assert near[0].mean() > 3 * near[1].mean()


def test_a_blocked_hand_gives_up() -> None:
    play = WaypointPlay(np.random.default_rng(0), BOX, patience=10)
    hand = np.array([0.0, 0.6, 0.2])
    directions = {tuple(np.sign(play.action(hand, [])[:3])) for _ in range(400)}
    assert len(directions) > 6
