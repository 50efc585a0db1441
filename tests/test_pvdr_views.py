"""What PVDR shows: futures, plans before and after, z and its actions, each against a computation by hand."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.futures import futures_of, predicted, steps_of, windows
from pvdr_bench.algorithms.pvdr.latents import alignment, artefact_latents, latents, read_actions
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.views import ARTEFACT, RUN, alignment_reward, plans_before_and_after
from pvdr_bench.errors import DataError
from pvdr_bench.rl.views import Amounts, Clips, Cloud, NothingToShow, Played, Strips, Trained, psnr
from tests.pvdr_story import build, config, weights
from tests.test_ppo_learner import GRID, IdentityTokenizer
from tests.watched_amounts import amounts_read

T = 12


class Dots(IdentityTokenizer):
    def decode(self, codes: Tensor) -> Tensor:
        return codes[..., None].expand(*codes.shape, 3).to(torch.uint8)


def learner(seed: int = 0) -> PVDRLearner:
    made = build(config(), 1)
    made.tokenizer = Dots()  # type: ignore[assignment]
    if seed:  # another one: as it may have been at its start
        with torch.no_grad():
            for p in (*made.model.parameters(), *made.ppo.actor.parameters()):
                p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    return made


def played(samples: int = 40) -> Played:
    images = np.random.default_rng(0).integers(0, 2, (T + 1, GRID, GRID, 1)).repeat(3, -1).astype(np.uint8)
    contexts = [torch.from_numpy(images[[max(0, t - 2), t], ..., 0].astype(np.int16))[None] for t in range(T)]
    actions = np.random.default_rng(1).uniform(-1, 1, (T, 2)).astype(np.float32)
    rows = [{"env_steps": 10 * k, "reward_mean": -1.0 - k, "plan_error": 0.5} for k in range(3)] + [{"env_steps": 5}]
    return Played(learner(), lambda: learner(7), images, actions, np.zeros(T), np.zeros(T, bool), images[-1],
                  [{"tokens": context} for context in contexts], rows, 120, Amounts(2, samples, 3))


def test_windows_are_the_frames_around_a_decision_the_first_one_standing_in_for_those_before() -> None:
    seen = played()
    model = learner().model
    now, clips = windows(seen, model)  # two frames before, two after, two decisions apart
    assert now.tolist() == list(range(9)) and clips.shape == (9, 4, GRID, GRID, 3)
    for t in (0, 1, 5, 8):
        assert np.array_equal(clips[t], seen.images[[max(0, t - 2), t, t + 2, t + 4]])
    assert steps_of(model) == ["-2", "now", "+2", "+4"]


def test_an_episode_shorter_than_a_future_has_nothing_to_show() -> None:
    seen = played()
    short = dataclasses.replace(seen, images=seen.images[:4], actions=seen.actions[:3], extras=seen.extras[:3])
    for view in RUN.values():
        with pytest.raises(NothingToShow, match="an episode of 3 decisions shows no whole future, which has 4"):
            list(view(short))


def test_futures_are_rollouts_of_the_encoders_mean_and_of_samples_of_the_prior() -> None:
    made, clips = learner(), torch.from_numpy(windows(played(), learner().model)[1][..., 0].astype(np.int64))
    found = predicted(made.model, clips, 3)
    noise = torch.randn((2, len(clips), 2, 2, 2), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        prior = made.model.prior(clips[:, :2])
        zs = {"posterior": made.model.encoder(clips).mean, "prior": prior.sample(noise[0]),
              "prior again": prior.sample(noise[1])}
        for name, z in zs.items():
            assert torch.equal(found[name], made.model.decoder.rollout(clips[:, :2], z)[0])
    assert not torch.equal(found["prior"], found["prior again"])


def test_the_picture_of_futures_holds_the_true_frames_and_the_predicted_ones() -> None:
    made = learner()
    _, clips = windows(played(), made.model)
    shown = futures_of(made.model, Dots(), clips, 2, 3, "dots")  # type: ignore[arg-type]
    assert [row.label for row in shown.rows] == 2 * ["true", "z of the true future", "z from the prior",
                                                     "z from the prior, again"]
    codes = predicted(made.model, torch.from_numpy(clips[..., 0].astype(np.int64)), 3)
    for case in range(2):
        first = shown.rows[4 * case]
        assert all(np.array_equal(cell, frame) for cell, frame in zip(first.cells, clips[case], strict=True))
        row = shown.rows[4 * case + 2]
        assert row.cells[:2] == (None, None)
        assert all(np.array_equal(cell[..., 0], frame) for cell, frame in zip(  # type: ignore[index]
            row.cells[2:], codes["prior"][case].numpy(), strict=True))
    assert shown.numbers["psnr_copy_last"] == pytest.approx(psnr(clips[:, [1, 1]], clips[:, 2:]))
    assert shown.numbers["psnr_tokens"] == 99  # these tokens lose nothing
    right = float((codes["prior"].numpy() == clips[:, 2:, ..., 0]).mean())
    assert shown.numbers["tokens_right_prior"] == pytest.approx(right)


@pytest.mark.parametrize("selection", ["best", "first"])
def test_plans_are_those_of_both_learners_in_the_same_moments(selection: str) -> None:
    def choosing(one: PVDRLearner) -> PVDRLearner:
        one.planner.config = one.planner.config.model_copy(update={"selection": selection})
        return one

    seen = dataclasses.replace(played(), learner=choosing(learner()), start=lambda: choosing(learner(7)))
    shown = plans_before_and_after(seen)
    assert [row.label for row in shown.rows] == ["before", "after"] * 2
    assert shown.columns == ("observation", "+2", "+4", "goal")
    contexts = torch.cat([extras["tokens"].long() for extras in seen.extras])
    for name, one in (("before", seen.start()), ("after", seen.learner)):
        assert isinstance(one, PVDRLearner)
        plans = one.planner.plan(contexts, torch.Generator().manual_seed(3))
        assert shown.numbers[f"plan_distance_{name}"] == pytest.approx(float(
            (plans.distance.min(1).values if selection == "best" else plans.distance[:, 0]).mean()))
        row = shown.rows[name == "after"]
        assert all(np.array_equal(cell[..., 0], plan) for cell, plan in zip(  # type: ignore[index]
            row.cells[1:-1], plans.codes[3].numpy(), strict=True))  # of two moments of twelve, the first is the fourth
    assert np.array_equal(shown.rows[0].cells[0], seen.images[3]) and np.array_equal(  # type: ignore[arg-type]
        shown.rows[0].cells[-1], seen.images[-1])  # type: ignore[arg-type]


def test_the_reward_of_alignment_is_that_of_the_log() -> None:
    curves = alignment_reward(played())
    reward, error = curves.lines
    assert reward.x.tolist() == [0, 10, 20] and error.y.tolist() == [0.5] * 3
    assert reward.y == pytest.approx([-1 - k - 0.7 * 0.5 for k in range(3)])  # lambda3 is 0.7
    with pytest.raises(NothingToShow, match="no update yet"):
        alignment_reward(dataclasses.replace(played(), train=[{"env_steps": 5, "reward_mean": 1.0}]))


def test_actions_are_read_of_samples_of_the_prior_one_by_one() -> None:
    made, context = learner(), played().extras[5]["tokens"].long()
    z, actions = read_actions(made, context, 150, 4)
    noise = torch.randn((150, 1, 2, 2, 2), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        prior = made.model.prior(context)
        for k in (0, 1, 149):
            one = prior.mean + torch.exp(prior.logvar / 2) * noise[k]
            assert torch.allclose(z[k], one.flatten(), atol=1e-6)
            mean = made.ppo.actor({"tokens": context, "extra": one}).mean
            assert torch.allclose(actions["mean"][k], mean[0].clamp(-1, 1), atol=1e-5)
    assert actions["sampled"].abs().max() <= 1 and not torch.allclose(actions["sampled"], actions["mean"])
    assert torch.equal(read_actions(made, context, 150, 4)[1]["sampled"], actions["sampled"])


@pytest.mark.parametrize(("source", "star", "words"), [
    ("prior", "drawn", "z from the prior of one observation"),
    ("normal", "drawn", "z from N(0, I), whatever the observation"),
    ("prior", "read_back", "z, means of the encoder for one observation and plans decoded from its prior"),
    ("normal", "read_back", "z, means of the encoder for one observation and plans decoded from N(0, I)")])
def test_the_caption_of_z_says_where_the_z_that_are_shown_come_from(source: str, star: str, words: str) -> None:
    made, seen = learner(), played()
    made.planner.config = made.planner.config.model_copy(update={"z_source": source, "z_star": star})
    (_, cloud), = latents(dataclasses.replace(seen, learner=made))
    assert isinstance(cloud, Cloud)
    assert cloud.about.startswith(f"40 visual dynamics representations {words}, mapped to the plane by t-SNE; ")
    context = seen.extras[3]["tokens"].long()
    z = torch.randn((40, 1, 2, 2, 2), generator=torch.Generator().manual_seed(3))[:, 0]
    with torch.no_grad():
        if source == "prior":
            told = made.model.prior(context)
            z = told.mean + torch.exp(told.logvar / 2) * z
        if star == "read_back":
            plan = made.model.decoder.rollout(context.expand(40, -1, -1, -1), z)[0]
            z = made.model.encoder(torch.cat([context.expand(40, -1, -1, -1), plan], 1)).mean
    assert np.allclose(cloud.panels[0].z, z.flatten(1).numpy(), atol=1e-5)


def test_alignment_is_the_share_of_the_actions_variance_that_the_mean_for_what_came_true_explains() -> None:
    seen, made = played(), learner()
    found = alignment(made, seen)
    guesses, actions = [], []
    with torch.no_grad():
        for t in range(9):
            frames = [max(0, t - 2), t, t + 2, t + 4]
            clip = torch.from_numpy(seen.images[frames, ..., 0].astype(np.int64))[None]
            state = {"tokens": clip[:, :2], "extra": made.model.encoder(clip).mean}
            guesses.append(made.ppo.actor(state).mean[0].clamp(-1, 1).numpy())
            actions.append(seen.actions[t])
    guess, action = np.array(guesses), np.array(actions)
    wanted = 1 - ((guess - action) ** 2).sum() / ((action - action.mean(0)) ** 2).sum()
    assert found["aligned_r2"] == pytest.approx(wanted, abs=1e-4)
    mean = action.mean(0)
    cosines = [float(mean @ a / np.linalg.norm(mean) / np.linalg.norm(a)) for a in action]
    assert found["constant_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_a_run_shows_z_of_two_moments_of_both_learners() -> None:
    seen = played()
    (stem, cloud), = latents(seen)
    assert stem == "latents" and isinstance(cloud, Cloud) and len(cloud.panels) == 4 and cloud.columns == 2
    assert [panel.z.shape for panel in cloud.panels] == [(40, 8)] * 4
    assert list(cloud.panels[0].actions) == ["sampled", "mean"]  # the paper's first
    assert all(np.array_equal(a, b) for a, b in [  # type: ignore[arg-type]
        (cloud.panels[0].frame, seen.images[3]), (cloud.panels[3].frame, seen.images[9])])
    assert not np.array_equal(cloud.panels[0].z, cloud.panels[2].z)
    assert set(RUN) == {"futures", "adaptation", "latents"}


def trained(action: bool = True) -> Trained:
    cfg = config()
    images = np.random.default_rng(0).integers(0, 2, (80, 4, GRID, GRID, 1)).repeat(3, -1).astype(np.uint8)
    actions = np.random.default_rng(1).uniform(-1, 1, (80, 3, 2)) if action else None
    return Trained(cfg, weights(cfg, 2), torch.device("cpu"), GRID, {"tokenize": Dots()},
                   lambda count, frames, stride: Clips(images[:count, :frames], None if actions is None else
                                                        actions[:count], np.arange(count) // 4), Amounts(2, 50, 0))


def test_an_artefact_shows_futures_and_z_of_the_encoder_beside_the_true_actions() -> None:
    of = trained()
    (_, strips), = ARTEFACT["futures"](of)
    assert isinstance(strips, Strips) and len(strips.rows) == 8 and strips.numbers["clips"] == 64
    (_, cloud), = artefact_latents(of)
    assert isinstance(cloud, Cloud)
    made = learner().model
    made.load_state_dict(dict(of.weights))
    clips = of.clips(50, 4, 2)
    assert clips.action is not None
    with torch.no_grad():
        mean = made.encoder(torch.from_numpy(clips.frames[..., 0].astype(np.int64))).mean.flatten(1)
    assert np.allclose(cloud.panels[0].z, mean.numpy(), atol=1e-5)
    assert np.array_equal(cloud.panels[0].actions["true"], clips.action[:, 1])  # from the last context frame on
    assert np.array_equal(cloud.panels[0].group, clips.episode)  # type: ignore[arg-type]
    assert cloud.numbers == {"samples": 50, "episodes": 13}
    with pytest.raises(NothingToShow, match="nobody knows the actions"):
        list(artefact_latents(trained(action=False)))


def test_the_amounts_that_a_view_declares_are_those_that_it_reads() -> None:
    for views, of in ((RUN, played()), (ARTEFACT, trained())):
        for word, view in views.items():
            assert amounts_read(view, of) == set(view.reads), word  # type: ignore[arg-type]


def test_weights_of_other_networks_are_refused() -> None:
    of = trained()
    broken = copy.copy(dict(of.weights))
    broken.pop(next(iter(broken)))
    with pytest.raises(DataError, match="do not fit"):
        list(ARTEFACT["futures"](dataclasses.replace(of, weights=broken)))
