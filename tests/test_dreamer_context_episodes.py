"""ContextWM's context where replayed sequences cross episodes: a frame of each step's own one."""

from __future__ import annotations

import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.nets.context import ContextNoise, Which, choose, choose_within, erase
from tests.test_dreamer_context import noise_of, world_model
from tests.test_dreamer_faithful import feature
from tests.test_dreamer_model import sequences


def episodes(first: list[bool]) -> list[list[int]]:
    """The steps of each episode of one sequence, which begins one."""
    found: list[list[int]] = []
    for t, begins in enumerate(first):
        if begins or not found:
            found.append([])
        found[-1].append(t)
    return found


def crossing() -> Sequences:
    """One sequence of one episode, one of two, one of three, of which the last two are short."""
    data = sequences()
    data.is_first[1, 2] = data.is_first[2, 4] = data.is_first[2, 5] = True
    return data


def test_the_context_of_a_step_is_of_its_own_episode() -> None:
    g = torch.Generator().manual_seed(0)
    is_first, uniform = torch.rand(40, 9, generator=g) < 0.25, torch.rand(40, generator=g)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-24, 1 - 2**-24])
    rules: tuple[Which, ...] = ("random", "first", "last")
    for rule in rules:
        for row, at, number in zip(choose_within(is_first, rule, uniform).tolist(), is_first.tolist(), uniform.tolist(),
                                   strict=True):
            for steps in episodes(at):
                place = {"first": 0, "last": -1, "random": int(number * len(steps))}[rule]
                assert [row[t] for t in steps] == [steps[place]] * len(steps)
    whole = torch.arange(9.0).expand(40, 9)
    for rule in rules:  # of one episode, whether or not its first step is told to be one
        for first in (torch.zeros(40, 9, dtype=torch.bool), torch.arange(9).expand(40, 9) == 0):
            assert torch.equal(choose_within(first, rule, uniform),
                               choose(whole, rule, uniform).long()[:, None].expand(40, 9))


def drawn(model: WorldModel, image: Tensor, noise: ContextNoise, is_first: Tensor | None) -> Tensor:
    features = torch.randn(3, 6, model.rssm.feature_dim, generator=torch.Generator().manual_seed(4))
    return model.draw(features, image, noise, "erasing", is_first).unflatten(0, (3, 6))


def test_of_one_episode_each_it_is_the_same_to_the_last_bit() -> None:
    model, data = world_model(), sequences()
    image, noise, found = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5, noise_of(model), []
    model.train()
    for is_first in (None, data.is_first):
        out = drawn(model, image, noise, is_first)
        weights = [*model.decoder.parameters(), *model.context.parameters()]  # type: ignore[union-attr]
        found.append([out, *torch.autograd.grad(out.square().sum(), weights)])
    assert all(map(torch.equal, *found))


def test_pictures_of_the_loss_by_hand_where_episodes_change() -> None:
    model, data, seen = world_model(), crossing(), list[Tensor]()
    assert model.context is not None
    image, noise, draw = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5, noise_of(model), model.draw
    model.draw = lambda *given: seen.append(draw(*given)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    _, post, _ = model.loss(data, torch.rand(2, 3, 6, 3), noise)
    (found,) = seen
    for b in range(3):
        for steps in episodes(data.is_first[b].tolist()):
            frame = image[b, steps[int(noise.frame[b] * len(steps))]][None]
            maps = dict(model.context.maps(erase(frame, noise.erasing[b][None])))
            for t in steps:
                own = {side: type(one)(one.order[6 * b + t][None]) for side, one in noise.attention.items()}
                shown = model.decoder(feature(post)[b, t][None], {side: maps[side] for side in own}, own)[0]
                torch.testing.assert_close(found[6 * b + t], shown, rtol=1e-4, atol=1e-5)


def test_a_frame_of_another_episode_changes_no_picture() -> None:
    model, data = world_model(), crossing()
    image, noise = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5, noise_of(model)
    before = drawn(model, image, noise, data.is_first)
    for b in (1, 2):
        for steps in episodes(data.is_first[b].tolist()):
            other = image.clone()
            other[b, steps] = -other[b, steps]
            after = drawn(model, other, noise, data.is_first)
            rest = [t for t in range(6) if t not in steps]
            assert torch.equal(after[b, rest], before[b, rest])
            assert all(not torch.equal(after[b, t], before[b, t]) for t in steps)
            assert torch.equal(after[3 - b], before[3 - b]) and torch.equal(after[0], before[0])
