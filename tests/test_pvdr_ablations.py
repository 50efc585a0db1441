"""What each ablation of PVDR takes away, shown on the learner's own way through E1 and E2: a tensor or a gradient.

A method that extends pvdr, and a variant in an experiment, has to have its check here; one without fails.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import pretraining_loss
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.catalog.resolve import split_variant
from pvdr_bench.catalog.scales import SCALES
from pvdr_bench.catalog.stage_graph import stage_graph
from tests import pvdr_ablations
from tests.pvdr_ablations import Greys, alike, filled, kl_step, learner_of, led, own, prior_step, size, small
from tests.pvdr_story import E1, ENVS, LAMBDA3, SCALE, story, weights
from tests.test_ppo_learner import GRID, IdentityTokenizer, context

ELSEWHERE = ("pvdr-context",)  # methods of these names and longer ones have tests of their own
CATALOG = Catalog([builtin_root()])


def close(have: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(have, want, strict=True))


def without_the_goal_term(name: str, parent: str) -> None:
    """The prior's step is that of the KL alone; the parent's is not."""
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert close(prior_step(less), kl_step(less)) and size(kl_step(less)) > 0.01
    assert torch.equal(less.clips, whole.clips) and not close(prior_step(whole), kl_step(whole))  # type: ignore[arg-type]
    assert "finetune_goal" in whole.metrics[0] and "finetune_goal" not in less.metrics[0]


def without_l_act(name: str, parent: str) -> None:
    """The action module's step is PPO's alone; the parent's is the sum of both."""
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert less.auxiliary is None and close(less.step(), less.surrogate)
    assert whole.auxiliary is not None and size(whole.auxiliary) > 0.01
    assert close(whole.step(), [a + b for a, b in zip(whole.surrogate, whole.auxiliary, strict=True)])


def without_ppo(name: str, parent: str) -> None:
    """The action module's step is L_act's alone, and the critic takes none; the reward then changes nothing at all."""
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert less.auxiliary is not None and close(less.step(), less.auxiliary) and size(less.auxiliary) > 0.01
    assert size(less.surrogate) > 0.01 and not less.moved("critic") and whole.moved("critic")
    assert torch.equal(less.learner.ppo.actor.log_std, less.middle["actor"].log_std)
    assert not torch.equal(whole.learner.ppo.actor.log_std, whole.middle["actor"].log_std)


def with_a_random_z(name: str, parent: str) -> None:
    """z* is the first of the draws, all from a standard normal, and its plan is followed; the parent chooses among
    draws from the prior, and not always the first."""
    cfg = small(name)
    random, whole = led(learner_of(cfg)), led(learner_of(small(parent)))
    shape = (cfg.planner.candidates, ENVS, *random.learner.model.z_shape)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    extras = random.extras[0]
    assert torch.equal(extras["z"], drawn[0])
    with torch.no_grad():  # E1 has not changed the decoder
        plan = random.learner.model.decoder.plan(extras["tokens"].long(), drawn[0])
    assert torch.equal(extras["plan"].long(), plan)
    prior, numbers = whole.began["prior"], []
    draw = torch.Generator().manual_seed(1)
    for extras in whole.extras[:E1]:
        noise = torch.randn(shape, generator=draw)
        torch.randn((ENVS, 2), generator=draw)  # the actions' noise
        with torch.no_grad():
            told = prior(extras["tokens"].long())
        candidates = torch.stack([told.mean + torch.exp(told.logvar / 2) * one for one in noise])
        off = (candidates - extras["z"]).flatten(2).abs().amax(2)
        assert float(off.min(0).values.max()) < 1e-5
        numbers += off.argmin(0).tolist()
    assert {0} < set(numbers)
    gains = [torch.cat([one["plan_gain"] for one in way.extras]) for way in (random, whole)]
    assert float(gains[0].min()) < -1e-3 and float(gains[1].min()) > -1e-6  # some are worse than most are


def with_a_horizon(context: int, future: int) -> Callable[[str, str], None]:
    """As many frames are read, planned, compared and pre-trained on, and the pre-trained model is another one."""
    def check(name: str, parent: str) -> None:
        way, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
        assert way.extras[0]["tokens"].shape == (ENVS, context, GRID, GRID)
        assert way.extras[0]["plan"].shape == (ENVS, future, GRID, GRID) and whole.extras[0]["plan"].shape[1] == 3
        assert way.clips is not None and way.clips.shape[1] == context + future
        assert way.learner.model.z_shape == whole.learner.model.z_shape
        with pytest.raises(ValueError, match=f"{context + future + 1} slots"):  # no frame more than the model's
            way.learner.model.encoder(torch.zeros((1, context + future + 1, GRID, GRID), dtype=torch.long))
        for scale in ("paper", "gpu", "cpu"):
            schedules = [CATALOG.config(each, scale).value.schedule("pretrain") for each in (name, parent)]
            assert schedules[0].frames == context + future < schedules[1].frames

    return check


def with_goal_frames_last(name: str, parent: str) -> None:
    """A plan that only ends at the goal is chosen over one that is there until its last frame; by the mean over frames
    it is the other way round. Eq. 4's gradient reaches the last frame alone."""
    less, whole = learner_of(small(name)), learner_of(small(parent))
    goal = whole.goal_pixels[..., 0].long()
    there_then_off, off_then_there = torch.stack([goal, goal, 1 - goal]), torch.stack([1 - goal, 1 - goal, goal])
    both = torch.stack([there_then_off, off_then_there])
    assert less.distance.plan(both).argmin() == 1 and whole.distance.plan(both).argmin() == 0
    for learner, reached in ((less, [False, False, True]), (whole, [True, True, True])):
        soft = torch.full((1, 3, GRID, GRID, 2), 0.4, requires_grad=True)
        torch.autograd.backward(learner.distance.soft_plan(soft))
        assert soft.grad is not None and [bool(x.abs().sum() > 0) for x in soft.grad[0]] == reached


def at_scale(name: str, scale: str) -> PVDRConfig:
    """A small PVDR with a method's planner and its unit of distances as they are at a scale."""
    config = CATALOG.config(name, scale).value
    assert isinstance(config, PVDRConfig)
    return small("pvdr", {"planner": config.planner.model_dump(),
                          "online": {"normalise_distance": config.online.normalise_distance}})


def with_a_goal_in_pixels(name: str, parent: str) -> None:
    """Eq. 2 compares pixels, and Eq. 4 does what it does in the parent, at every scale: with its blur and unit too."""
    forms = set()
    for scale in SCALES:
        pixels, codes = (learner_of(at_scale(each, scale), Greys()) for each in (name, parent))
        forms.add((codes.config.planner.metric, codes.config.online.normalise_distance))
        eq_2_alone_compares_pixels(pixels, codes)
    assert forms == {("code_l1", False), ("code_l1_blur", True)}
    ways = [led(learner_of(at_scale(each, "cpu"), Greys())) for each in (name, parent)]
    assert torch.equal(ways[0].clips, ways[1].clips)  # type: ignore[arg-type]
    assert close(*map(prior_step, ways)) and not close(prior_step(ways[0]), kl_step(ways[0]))


def eq_2_alone_compares_pixels(pixels: PVDRLearner, codes: PVDRLearner) -> None:
    """Two cells of nearly the goal's colour are nearer than one that is white; as codes they are two wrong ones to one.
    Eq. 6 measures so too, in its own unit, and Eq. 4 compares codes in both, in the same unit."""
    goal = codes.goal_pixels[..., 0].long()
    one, two = goal.clone(), goal.clone()
    one[0, 0], two[0, :2] = 2, goal[0, :2] + 1
    assert int((two != goal).sum()) == 2 and int((two - goal).abs().max()) == 1 and int(goal[0, 0]) == 0
    both = torch.stack([one, two])[:, None].expand(2, 3, GRID, GRID)
    assert pixels.distance.plan(both).argmin() == 1 and codes.distance.plan(both).argmin() == 0
    soft = torch.rand((1, 3, GRID, GRID, 3))
    soft_pixels, soft_codes = (each.distance.soft_plan(each.distance.soft_features(soft)) for each in (pixels, codes))
    assert torch.equal(soft_pixels, soft_codes) and pixels.finetuner.scale == codes.finetuner.scale
    start = pixels.encode(torch.as_tensor(context(pixels.config, ENVS).task.goal.start)[None])  # type: ignore[union-attr]
    for each in (pixels, codes):
        apart = float(each.distance.plan(start)) if each.config.online.normalise_distance else 1.0
        assert each.scale == pytest.approx(SCALE / apart)


def without_pre_training(name: str, parent: str) -> None:
    """The model begins with weights that are not the artefact's."""
    cfg = small(parent)
    given = weights(cfg, IdentityTokenizer.codebook_size)
    scratch, whole = (learner_of(small(each)).model.state_dict() for each in (name, parent))
    assert all(torch.equal(whole[key], x) for key, x in given.items())
    assert not any(torch.equal(scratch[key], x) for key, x in given.items() if x.is_floating_point() and x.numel() > 8)


def without_the_plan_error(name: str, parent: str) -> None:
    """PPO is given the reward of the task as it is; the parent's is lower by lambda3 times a distance."""
    reward = story().reward[E1:]
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert less.labelled is not None and torch.equal(less.labelled, reward)
    assert whole.labelled is not None and (whole.labelled <= reward).all() and (whole.labelled < reward - 0.01).any()


def without_fine_tuning(name: str, parent: str) -> None:
    """There is no E1, and the prior stays as it was pre-trained; nor is there the plan error."""
    without_the_plan_error(name, parent)
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert less.clips is None and not less.moved("prior", "began") and whole.moved("prior", "began")
    assert (len(less.metrics), len(whole.metrics)) == (1, 2)


def without_choosing(name: str, parent: str) -> None:
    """One plan is decoded in each state, in place of four."""
    without_fine_tuning(name, parent)
    less, whole = led(learner_of(small(name))), led(learner_of(small(parent)))
    assert set(less.rows) <= {1, 2, 3} and less.rows[0] == ENVS and whole.rows[0] == 4 * ENVS


def with_l_act_alone(name: str, parent: str) -> None:
    """A guide learns in E1 and in E2, the action module that corrects it never; another reward changes neither, and
    makes another action module of the parent's."""
    ways = {}
    for each in (name, parent):
        for reward in (1.0, -2.0):
            tale = dataclasses.replace(told := story(), reward=reward * told.reward)
            with patch.object(pvdr_ablations, "story", lambda tale=tale: tale):
                ways[each, reward] = led(learner_of(small(each)))
    way, other = ways[name, 1.0], ways[name, -2.0]
    assert way.moved("guide", "began") and way.moved("guide") and not way.moved("actor", "began")
    assert {"e1_l_act", "e2_l_act"} <= {key for metrics in way.metrics for key in metrics}
    assert way.labelled is not None and other.labelled is not None and not torch.equal(way.labelled, other.labelled)
    assert way.learner.guide is not None and other.learner.guide is not None
    assert alike(way.learner.guide.network, other.learner.guide.network)
    assert alike(way.learner.ppo.actor, other.learner.ppo.actor)
    assert not alike(*(ways[parent, reward].learner.ppo.actor for reward in (1.0, -2.0)))


CHECKS: dict[str, tuple[Callable[[str, str], None], str]] = {  # and what the method is compared with
    "pvdr-scratch": (without_pre_training, "pvdr"),
    "pvdr-reduced": (without_choosing, "pvdr"),
    "pvdr-planning": (without_fine_tuning, "pvdr"),
    "pvdr-finetuning": (without_the_plan_error, "pvdr"),
    "pvdr-no-goal": (without_the_goal_term, "pvdr"),
    "pvdr-no-lact": (without_l_act, "pvdr"),
    "pvdr-no-ppo": (without_ppo, "pvdr"),
    "pvdr-random-z": (with_a_random_z, "pvdr"),
    "pvdr-h1-1": (with_a_horizon(1, 1), "pvdr"),
    "pvdr-h2-2": (with_a_horizon(2, 2), "pvdr"),
    "pvdr-goal-last": (with_goal_frames_last, "pvdr"),
    "pvdr-goal-pixels": (with_a_goal_in_pixels, "pvdr"),
    "pvdr-guided": (with_l_act_alone, "pvdr"),
    "pvdr-guided-scratch": (without_pre_training, "pvdr-guided"),
}


def lineage(name: str) -> list[str]:
    """A method and those that it extends."""
    return [name, *(lineage(parent) if (parent := own(name).get("extends")) else [])]


def ablations() -> list[str]:
    """Methods that stand on pvdr; pvdr-taught, a form of it, and its own are in test_pvdr_ablations_taught."""
    return [name for name in CATALOG.methods() if (line := lineage(name))[-1] == "pvdr" and name != "pvdr"
            and "pvdr-taught" not in line and not name.startswith(ELSEWHERE)]


@pytest.mark.parametrize("name", ablations())
def test_an_ablation_takes_away_what_its_name_says(name: str) -> None:
    assert name in CHECKS, f"methods/{name}.yaml extends pvdr, and no check here shows what it takes away"
    check, parent = CHECKS[name]
    check(name, parent)


@pytest.mark.parametrize("scale", ["paper", "gpu", "cpu"])
def test_no_two_methods_are_the_same_recipe(scale: str) -> None:
    names = [name for name in CATALOG.methods() if lineage(name)[-1] == "pvdr"]
    configs = {name: CATALOG.config(name, scale).value for name in names}
    assert [pair for pair in itertools.combinations(names, 2) if configs[pair[0]] == configs[pair[1]]] == []


def lambda1_pulls_the_posterior(a: float, b: float) -> None:
    """In pre-training, the encoder's gradient is linear in it."""
    cfg = small("pvdr")
    model = learner_of(cfg).model.double()
    clips = story().codes[:5].transpose(0, 1)
    noise = torch.randn((ENVS, *model.z_shape), generator=torch.Generator().manual_seed(0)).double()
    none, one, two = (filled(pretraining_loss(model, cfg.pretrain, value, clips, noise)[0],
                             list(model.encoder.parameters())) for value in (0.0, a, b))
    ones, twos = ([x - y for x, y in zip(way, none, strict=True)] for way in (one, two))
    assert size(ones) > 10 * a
    assert size([x * b / a - y for x, y in zip(ones, twos, strict=True)]) < 1e-4 * size(twos)


def lambda2_pulls_the_prior(a: float, b: float) -> None:
    """The prior's step less that of the KL is linear in it."""
    ways = [led(learner_of(small("pvdr", {"online": {"lambda2": value}}))) for value in (a, b)]
    ones, twos = ([x - y for x, y in zip(prior_step(way), kl_step(way), strict=True)] for way in ways)
    assert size(twos) > 1e-3
    assert size([x * b / a - y for x, y in zip(ones, twos, strict=True)]) < 0.02 * size(twos) + 1e-4 * b / a


def lambda3_lowers_the_reward(a: float, b: float) -> None:
    """By so many times the plan's error."""
    ways = [led(learner_of(small("pvdr", {"online": {"lambda3": value}}))) for value in (a, b, LAMBDA3)]
    taken = [story().reward[E1:] - way.labelled for way in ways if way.labelled is not None]
    for value, each in zip((a, b), taken, strict=False):
        torch.testing.assert_close(each, value / LAMBDA3 * taken[2], rtol=1e-3, atol=1e-4)


def candidates_are_decoded(a: float, b: float) -> None:
    """As many plans in each state."""
    for value in (a, b):
        assert led(learner_of(small("pvdr", {"planner": {"candidates": int(value)}}))).rows[0] == value * ENVS


KEYS = {"lambda1": lambda1_pulls_the_posterior, "lambda2": lambda2_pulls_the_prior,
        "lambda3": lambda3_lowers_the_reward, "candidates": candidates_are_decoded}


def variants() -> list[tuple[str, str, float]]:
    """Method, key and value of each one-key variant of a PVDR in an experiment."""
    named = {name for experiment in CATALOG.experiments() for part in CATALOG.experiment(experiment).grid
             for name in part.methods if name.startswith("pvdr") and "@" in name}
    found = []
    for name in sorted(named):
        method, changes = split_variant(name)
        assert len(changes) == 1, name
        key, _, value = changes[0].partition("=")
        found.append((method, key, float(value)))
    return found


@pytest.mark.parametrize("key", sorted({key for _, key, _ in variants()}))
def test_a_key_that_an_experiment_varies_changes_what_it_is_the_weight_of(key: str) -> None:
    values = sorted({value for _, each, value in variants() if each == key})
    assert key in KEYS, f"an experiment varies {key}, and no check here shows what that changes"
    KEYS[key](values[0], values[1])


@pytest.mark.parametrize("name", ["pvdr@lambda1=1e-2", "pvdr-h1-1", "pvdr-h2-2"])
def test_what_changes_pre_training_is_pre_trained_anew_and_nothing_else_is(name: str) -> None:
    def stages(method: str) -> list[str]:
        return [node.key for node in stage_graph(CATALOG.resolve(method, "reach", 0, "paper"), CATALOG)]

    usual = stages("pvdr")
    assert len(usual) == 2 and stages(name)[0] == usual[0] and stages(name)[1] != usual[1]
    assert all(stages(other) == usual for other in (
        "pvdr-no-goal", "pvdr-no-lact", "pvdr-no-ppo", "pvdr-random-z", "pvdr@lambda2=8", "pvdr@candidates=4"))
