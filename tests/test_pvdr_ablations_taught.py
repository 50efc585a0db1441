"""What each ablation of pvdr-taught takes away: the form in which PVDR's parts can be judged at cpu scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pvdr_bench.algorithms.pvdr.guide import trend
from tests.pvdr_ablations import Led, alike, kl_step, learner_of, led, prior_step, size, small
from tests.pvdr_story import ENVS
from tests.test_pvdr_ablations import (
    CATALOG,
    lineage,
    with_a_horizon,
    without_pre_training,
    without_the_goal_term,
)


def asked(way: Led) -> tuple[torch.Tensor, torch.Tensor]:
    """What the guide was said to want at the last decision [N, A], and its network's word on the chosen plan [N, A]."""
    extras = way.extras[-1]
    assert way.learner.guide is not None
    with torch.no_grad():
        word = way.learner.guide.network({"tokens": extras["tokens"].long(), "plan": extras["plan"].long()})
    return extras["guide"], word


def without_ppo(name: str, parent: str) -> None:
    """E2 leaves the action module as its lessons left it, and the critic as it began; PPO moves both in the parent."""
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert "lesson_after" in less.metrics[0] and less.moved("actor", "began")
    assert not less.moved("actor") and not less.moved("critic") and whole.moved("actor") and whole.moved("critic")


def without_l_act(name: str, parent: str) -> None:
    """The guide stays as it began and gives no lesson; PPO then goes on from an action module that is new."""
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert not less.moved("guide", "began") and whole.moved("guide", "began")
    learned = {"lesson_after", "e1_l_act"}
    assert learned <= set(whole.metrics[0]) and not learned & set(less.metrics[0])
    actors = [[p.detach() for p in way.began["actor"].parameters()] for way in (less, whole)]
    for way, began, taught in ((less, actors[0], False), (whole, actors[1], True)):
        pairs = zip(began, way.middle["actor"].parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs) == taught
    assert less.moved("actor") and len(less.clips) == len(whole.clips)  # type: ignore[arg-type]


def with_a_random_z(name: str, parent: str) -> None:
    """z* is a draw from a standard normal, and the guide is asked about its plan alone; the parent's regresses on the
    distances of all candidates."""
    cfg = small(name)
    random, whole = led(learner_of(cfg)), led(learner_of(small(parent)))
    shape = (cfg.planner.candidates, ENVS, *random.learner.model.z_shape)
    assert torch.equal(random.extras[0]["z"], torch.randn(shape, generator=torch.Generator().manual_seed(1))[0])
    said, word = asked(random)
    torch.testing.assert_close(said, word)
    said, word = asked(whole)
    assert not torch.allclose(said, word, atol=1e-3)
    extras, guide = whole.extras[-1], whole.learner.guide
    assert guide is not None and "ends" not in random.extras[-1]
    with torch.no_grad():
        tokens, ends = extras["tokens"].long(), extras["ends"].long()
        each = torch.stack([guide.network({"tokens": tokens, "plan": end[:, None]}) for end in ends.unbind(1)], 1)
    torch.testing.assert_close(said, guide.config.guide_gain * trend(each, extras["distances"]), rtol=1e-3, atol=1e-4)


def with_a_goal_term_that_is_felt(name: str, parent: str) -> None:
    """The goal term's part of the prior's step is a hundred times the parent's, and so is the rate."""
    rates, parts = [CATALOG.config(each, "cpu").value.online.finetune_lr for each in (name, parent)], []
    assert rates[0] == pytest.approx(100 * rates[1])
    for each in (name, parent):
        way = led(learner_of(small(each)))
        parts.append(size([step - kl for step, kl in zip(prior_step(way), kl_step(way), strict=True)]))
    assert parts[0] == pytest.approx(100 * parts[1], rel=0.05) and parts[1] > 1e-3


def without_a_goal_term_that_is_felt(name: str, parent: str) -> None:
    """The prior's step is that of the KL alone, and by way of the tuned model's plans the lessons are others; of the
    plans that E1 was played with they would be the same to the bit."""
    without_the_goal_term(name, parent)
    for plans, apart in (("tuned", True), ("played", False)):
        less, whole = (led(learner_of(small(each, {"online": {"teach_plans": plans}}))) for each in (name, parent))
        assert alike(less.began["actor"], whole.began["actor"])
        assert alike(less.middle["actor"], whole.middle["actor"]) != apart
        assert less.moved("actor", "began") and "lesson_after" in less.metrics[0]


CHECKS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "pvdr-taught-scratch": (without_pre_training, "pvdr-taught"),
    "pvdr-taught-no-ppo": (without_ppo, "pvdr-taught"),
    "pvdr-taught-no-lact": (without_l_act, "pvdr-taught"),
    "pvdr-taught-adapted": (with_a_goal_term_that_is_felt, "pvdr-taught"),
    "pvdr-taught-no-goal": (without_a_goal_term_that_is_felt, "pvdr-taught-adapted"),
    "pvdr-taught-random-z": (with_a_random_z, "pvdr-taught"),
    "pvdr-taught-h1-1": (with_a_horizon(1, 1), "pvdr-taught"),
    "pvdr-taught-h2-2": (with_a_horizon(2, 2), "pvdr-taught"),
}


@pytest.mark.parametrize("name", [name for name in CATALOG.methods() if "pvdr-taught" in lineage(name)[1:]])
def test_an_ablation_takes_away_what_its_name_says(name: str) -> None:
    assert name in CHECKS, f"methods/{name}.yaml extends pvdr-taught, and no check here shows what it takes away"
    check, parent = CHECKS[name]
    check(name, parent)
