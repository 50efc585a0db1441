"""What the others show: Dreamers' roll-outs, FICC's codes, STG's rewards, each against a step-by-step computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvdr_bench.algorithms.dreamer import views as dreamer
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.video_model import VideoModel
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.algorithms.efficientzero import views as ficc
from pvdr_bench.algorithms.efficientzero.pretrain import FICCPretrainer
from pvdr_bench.algorithms.stg.learner import STGLearner
from pvdr_bench.algorithms.stg.networks import STGModel
from pvdr_bench.algorithms.stg.reward import StateToGoReward
from pvdr_bench.algorithms.stg.views import RUN as STG_RUN
from pvdr_bench.algorithms.stg.views import rewards
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.nets.conv import preprocess
from pvdr_bench.nets.rssm import RSSM
from pvdr_bench.rl.views import Amounts, Clips, Curves, NothingToShow, Played, Strips, Trained, psnr
from tests import stg_small
from tests.dreamerv3_small import SIZE, config, stirred
from tests.test_ficc import config as ficc_config
from tests.watched_amounts import amounts_read

CPU = torch.device("cpu")


def images(*shape: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, size, size, 3), dtype=np.uint8)


def played(learner: object, decisions: int = 24, success: int | None = None, size: int = SIZE) -> Played:
    solved = np.arange(decisions) >= (decisions if success is None else success)
    action = np.random.default_rng(1).uniform(-1, 1, (decisions, 2)).astype(np.float32)
    return Played(learner, lambda: None, images(decisions + 1, size=size), action,  # type: ignore[arg-type, return-value]
                  np.linspace(-1, 0, decisions), solved, None, [{}] * decisions, [], 100, Amounts(2, 10, 5))


def trained(cfg: object, weights: dict[str, torch.Tensor], clips: np.ndarray, cases: int) -> Trained:
    return Trained(cfg, weights, CPU, clips.shape[2], {},
                   lambda count, frames, stride: Clips(clips[:count, :frames], None, np.arange(count)),
                   Amounts(cases, 10, 0))


def dreaming() -> DreamerLearner:
    learner = DreamerLearner.__new__(DreamerLearner)
    learner.model, _ = stirred()
    learner.model.eval()
    learner.config, learner.device = config(), CPU
    return learner


def test_a_rollout_filters_what_it_sees_and_imagines_the_rest_under_the_actions() -> None:
    model = dreaming().model
    image, action = torch.from_numpy(images(2, 7)), torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(1))
    drawn = dreamer.rolled_out(model, image, action, 3, torch.Generator().manual_seed(4))
    assert drawn.shape == (2, 7, 3, SIZE, SIZE)
    generator, latents = torch.Generator().manual_seed(4), model.config.model.stoch
    with torch.no_grad():
        embed = model.embed(preprocess(image, SIZE))
        state = model.rssm.initial(2, CPU)
        for t in range(7):
            if t < 3:
                uniform = torch.rand(2, 2, latents, generator=generator)[0]
                first = torch.tensor([t == 0] * 2)
                state = model.rssm.observe(state, action[:, t] * (t > 0), embed[:, t], first, uniform)
            else:
                state = model.rssm.imagine(state, action[:, t], torch.rand(2, latents, generator=generator))
            assert torch.allclose(drawn[:, t], model.decoder(RSSM.feature(state)), atol=1e-5)
    other = dreamer.rolled_out(model, image.clone().index_fill_(1, torch.arange(3, 7), 0), action, 3,
                               torch.Generator().manual_seed(4))
    assert torch.equal(drawn, other)  # what is not seen changes nothing
    moved = dreamer.rolled_out(model, image, -action, 3, torch.Generator().manual_seed(4))
    assert not torch.allclose(drawn[:, 3:], moved[:, 3:])


def test_a_runs_rollouts_stand_beside_the_frames_of_the_episode() -> None:
    seen = played(dreaming())
    (stem, shown), = dreamer.RUN["rollouts"](seen)
    assert amounts_read(dreamer.RUN["rollouts"], seen) == set(dreamer.RUN["rollouts"].reads)
    assert stem == "rollouts" and isinstance(shown, Strips)
    assert [row.label for row in shown.rows] == ["true", "open loop", "difference x 2"] * 2
    assert shown.columns == ("-4", "-2", "now", "+1", "+3", "+5", "+8", "+10", "+15")
    assert len(shown.numbers["psnr_by_step"]) == 15 and shown.numbers["clips"] == 6
    first = shown.rows[0].cells[0]
    assert any(np.array_equal(first, frame) for frame in seen.images)  # type: ignore[arg-type]
    again, = dreamer.run_rollouts(seen)
    assert again[1].numbers == shown.numbers
    with pytest.raises(NothingToShow, match="too short"):
        list(dreamer.run_rollouts(played(dreaming(), 4)))


def test_numbers_of_rollouts_by_hand() -> None:
    true = np.full((2, 4, 2, 2, 3), 100, np.uint8)
    true[:, 3] = 151
    drawn = true.copy()
    drawn[:, 2] = 151
    shown = dreamer.strips_of(true, {"open loop": drawn}, 2, 1, "x")
    assert shown.numbers["psnr_seen"] == 99 and shown.numbers["psnr_by_step"] == [pytest.approx(13.979, abs=1e-3), 99]
    assert shown.numbers["psnr_open_loop"] == pytest.approx(psnr(drawn[:, 2:], true[:, 2:]))
    assert shown.numbers["psnr_copy_last"] == pytest.approx(13.979 + 3.0103, abs=1e-3)  # half of the frames are right
    assert shown.columns == ("now", "+1")  # and the one after is not among those that are shown


def test_a_pretrained_dreamer_shows_futures() -> None:
    cfg = config()
    torch.manual_seed(0)
    model = VideoModel(cfg.model)
    clips = images(32, 20)
    of = trained(cfg, model.state_dict(), clips, 1)
    (_, shown), = dreamer.ARTEFACT["futures"](of)
    assert amounts_read(dreamer.ARTEFACT["futures"], of) == set(dreamer.ARTEFACT["futures"].reads)
    assert isinstance(shown, Strips) and [row.label for row in shown.rows][:2] == ["true", "open loop"]
    assert shown.numbers["seen"] == min(5, min(20, cfg.schedule("pretrain").frames) // 2)


@pytest.mark.parametrize("method", ["apv", "contextwm", "prelar"])
def test_every_form_of_a_dreamer_shows_both(method: str) -> None:
    cfg = load_catalog().resolve(method, "reach", 0, "smoke").config_object()
    assert isinstance(cfg, DreamerConfig)
    torch.manual_seed(0)
    size = cfg.model.input_size
    of = trained(cfg, VideoModel(cfg.model).state_dict(), images(32, 20, size=size), 1)
    (_, shown), = dreamer.ARTEFACT["futures"](of)
    assert isinstance(shown, Strips)
    assert ("without actions" in [row.label for row in shown.rows]) == (method == "prelar")
    assert ("read off the true frames" in shown.about) == (method == "prelar")
    model = WorldModel(cfg, 4, two_hot=False, discount=False).eval()
    drawn = dreamer.rolled_out(model, torch.from_numpy(images(2, 6, size=size)), torch.zeros(2, 6, 4), 3,
                               torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 6, 3, size, size) and bool(torch.isfinite(drawn).all())


def test_ficc_shows_what_its_codes_do() -> None:
    cfg = ficc_config()
    learner, size = FICCPretrainer(cfg, 0, CPU), cfg.model.input_size
    clips = images(64, cfg.model.stack + 5, size=size)
    of = trained(cfg, learner.export(), clips, 2)
    found = dict(ficc.ARTEFACT["futures"](of))
    assert amounts_read(ficc.ARTEFACT["futures"], of) == set(ficc.ARTEFACT["futures"].reads)
    futures, codes = found["futures"], found["codes"]
    assert isinstance(futures, Strips) and isinstance(codes, Strips)
    assert futures.columns == ("now", "+1", "+2", "+3", "+4", "+5") and len(futures.rows) == 4
    assert sum(codes.numbers["shares"]) == pytest.approx(1) and len(codes.columns) == len(codes.rows[0].cells)
    model = learner.model.eval()
    with torch.no_grad():  # the first case's next frame under its own code is the second frame of its roll-out
        observation, newest = learner._pictures(torch.from_numpy(clips))
        unrolled = model(observation, observation[:, 0], newest)
        drawn = torch.sigmoid(model.frame_decoder(unrolled.states[0]))
    assert np.array_equal(futures.rows[1].cells, ficc.as_frames(drawn))
    own = int(unrolled.actions.codes.view(64, 5)[0, 0])
    shown = [column.split(":")[0] for column in codes.columns]
    if str(own) in shown:
        assert np.array_equal(codes.rows[0].cells[shown.index(str(own))], ficc.as_frames(drawn[1]))  # type: ignore[arg-type]


def test_stg_shows_what_ppo_is_paid() -> None:
    cfg = stg_small.config(reward={"beta": 0.5, "nu": 2.0, "task_weight": 3.0, "unit": "none"})
    torch.manual_seed(0)
    model = STGModel(cfg.model)
    learner = STGLearner.__new__(STGLearner)
    learner.reward = StateToGoReward(model, cfg.reward, 1, CPU)
    seen = played(learner, 9, success=4, size=stg_small.SIZE)
    (_, shown), = rewards(seen)
    assert amounts_read(STG_RUN["rewards"], seen) == set(STG_RUN["rewards"].reads)
    assert isinstance(shown, Curves) and shown.marks == ((4.0, "first success"),)
    task, critic, progress = (line.y for line in shown.lines)
    assert task == pytest.approx(3 * seen.rewards)
    with torch.no_grad():
        e = model.encoder(torch.from_numpy(seen.images))
        for t in (0, 3, 5, 6, 8):  # a stretch is of six decisions
            begin = t - t % stg_small.CONTEXT
            step = model.steps(e[None, begin:t + 1], torch.tensor([begin]))[0, -1]
            opinion, ahead = model.reward_terms(e[t], e[t + 1], e[t] + step)
            assert critic[t] == pytest.approx(0.5 * float(opinion), abs=1e-5)
            assert progress[t] == pytest.approx(2 * float(ahead), abs=1e-4)
