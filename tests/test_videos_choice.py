"""Which videos a run learns from: mixtures, sizes, what methods need of them, and the tokenizer's share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.mixture import mixture_name, parse_mixture, split_videos
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.cli.main import app as main
from pvdr_bench.cli.pretrain import Prepared
from pvdr_bench.errors import BenchError, CatalogError, SetupError, UsageError
from pvdr_bench.rl.config import Schedule
from pvdr_bench.training.checks import check_corpora
from pvdr_bench.training.offline import MixedClips
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos.fetching import downloads_path
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.importing import ImportOptions, import_videos
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.videos.requirements import check_videos, moving_share
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.windows import train_frames
from pvdr_bench.videos.writer import ClipWriter
from tests import video_files as made

OWN = ("metaworld", "fetch-push")  # that methods/tokenizer.yaml names


@pytest.mark.parametrize(("texts", "runs"), [
    ("metaworld", ("metaworld",)),
    ("metaworld,bair", ("metaworld", "bair")),
    ("bair,jaco-play:0.5", ("bair+jaco-play=0.5",)),
    ("jaco-play:1,bair:2", ("bair+jaco-play=0.5",)),
    ("bair:2,jaco-play:2", ("bair+jaco-play",)),
    ("bair+jaco-play=0.5", ("bair+jaco-play=0.5",)),
    ("metaworld,jaco-play+bair:0.25", ("metaworld", "bair=0.25+jaco-play")),
    (["metaworld", "bair,jaco-play:0.5"], ("metaworld", "bair+jaco-play=0.5")),
    ("metaworld@bair,bair", ("metaworld@bair", "bair")),
    ("metaworld@500:2,bair", ("bair=0.5+metaworld@500",)),
    ("bair:1e-6,jaco-play", ("bair=1e-06+jaco-play",)),
    (None, ()),
])
def test_what_videos_says(texts: Any, runs: tuple[str, ...]) -> None:
    assert split_videos(texts) == runs
    assert all(mixture_name(parse_mixture(run)) == run for run in runs)
    assert split_videos(runs) == runs


@pytest.mark.parametrize("text", ["bair:2", "bair,", "bair+bair", "a+b:0", "a+b:-1", "a+b:nan", "a+b:x", "a@", "",
                                  "a++b", "a+b:1e9", "a+b:1e-7", "a:1e-6+b:1e6"])
def test_what_videos_cannot_say(text: str) -> None:
    with pytest.raises(UsageError, match="--videos"):
        split_videos(text)


def resolve(method: str, videos: str | None = None, **how: Any) -> RunSpec:
    return load_catalog().resolve(method, "reach", 0, "smoke", videos=videos, **how)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own with files in the true formats imported into it, and no shipped artefacts."""
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("pvdr_bench.runs.artefacts.shipped_artefacts", lambda: [])
    return tmp_path / "data"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for all that only read it or make artefacts in it: bair, jaco-play and cable-routing as fetched, by
    the importer; the generated ones as they would be."""
    here = tmp_path_factory.mktemp("fetched")
    data = here / "data"
    downloads = downloads_path("bair", data)
    downloads.mkdir(parents=True)
    made.write_bair(downloads, {"train/traj_0_to_2": (0, 1, 2), "test/traj_0_to_0": (3,)}, tar=True)
    import_videos("bair", downloads, 32, data, ImportOptions(camera="aux1"))
    episodes = [made.moving(n, 12, 48) for n in range(4)]
    for name in ("jaco_play", "berkeley_cable_routing"):
        source = made.write_rlds(here / name, name, {"train": episodes[:3], "test": episodes[3:]})
        corpus = "jaco-play" if name == "jaco_play" else "cable-routing"
        import_videos(corpus, source, 32, data, ImportOptions(camera="image"))
    for number, name in enumerate(OWN):
        write(data, name, [made.moving(10 * number + n, 12, 32) for n in range(6)],
              dict(Stages(resolve("pvdr"))._corpus_recipe(name)))
    return data


@pytest.fixture
def filled(data: Path, fetched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, without shipped artefacts."""
    monkeypatch.setenv("PVDR_BENCH_DATA", str(fetched))
    return fetched


def write(data: Path, name: str, episodes: list[np.ndarray], recipe: dict[str, Any] | None = None) -> ClipStore:
    size = episodes[0].shape[1]
    writer = ClipWriter(corpus_path(name, size, data), size, recipe or {}, both_splits=True)
    for frames in episodes:
        writer.append(frames, name)
    return writer.publish()


def recipe_of(spec: RunSpec, stage: str) -> dict[str, Any]:
    stages = Stages(spec)
    return stages.recipe(stages.node(stage), {"tokenize": SimpleNamespace(weights_sha256="t")})  # type: ignore[dict-item]


def test_identities(filled: Path) -> None:
    """What a run and its artefacts are called, and what their recipes hold."""
    plain, bair = resolve("pvdr"), resolve("pvdr", "bair")
    mixed, sized = resolve("pvdr", "bair,jaco-play:0.5"), resolve("pvdr", "metaworld@24")
    assert mixed.corpus == "bair+jaco-play=0.5"
    assert mixed.path("x") == Path("x/pvdr/reach/bair+jaco-play=0.5/smoke/seed-0")
    assert len({json.dumps(spec.recipe(), sort_keys=True) for spec in (plain, bair, mixed, sized)}) == 4
    # the tokenizer learns from the chosen corpus too, and the run's identity holds it
    assert plain.tokenizer_corpora == () and "tokenizer_corpora" not in plain.recipe()
    assert bair.recipe()["tokenizer_corpora"] == ["bair"] and mixed.tokenizer_corpora == ("bair", "jaco-play")
    assert list(recipe_of(plain, "tokenize")["corpora"]) == list(OWN) and "weights" not in recipe_of(plain, "tokenize")
    own = recipe_of(bair, "tokenize")
    assert list(own["corpora"]) == [*OWN, "bair"] and set(own["weights"].values()) == {1.0}
    assert own["corpora"]["bair"] == {"corpus": "bair", "hash": ClipStore(corpus_path("bair", 32, filled)).hash}
    assert Stages(bair).node("tokenize").name == "tokenizer-bair-smoke"
    assert recipe_of(mixed, "pretrain")["weights"] == {"bair": 1.0, "jaco-play": 0.5}
    assert recipe_of(sized, "pretrain")["train_frames"] == {"metaworld": 24}
    assert recipe_of(resolve("pvdr", "metaworld@bair"), "pretrain")["train_frames"] == {"metaworld": 1_297_920}
    # who reads no tokens leaves the reward's tokenizer as it is
    apv = resolve("apv", "bair")
    assert apv.tokenizer_corpora == () and Stages(apv).node("tokenize").added == ()
    assert resolve("ppo", "bair").corpus is None


def test_names_that_are_none() -> None:
    with pytest.raises(CatalogError, match="unknown corpus 'bear'"):
        resolve("pvdr", "bear")
    with pytest.raises(CatalogError, match="unknown corpus 'mars'"):
        resolve("pvdr", "bair@mars")
    with pytest.raises(UsageError, match="leaves no frame"):
        resolve("pvdr", "bair@0")


def test_a_mixture_is_drawn_by_its_weights(tmp_path: Path) -> None:
    dark = write(tmp_path, "dark", [np.full((40, 8, 8, 3), 10, np.uint8)] * 6)
    light = write(tmp_path, "light", [np.full((5, 8, 8, 3), 200, np.uint8)] * 6)
    batch = MixedClips([dark, light], [1.0, 3.0]).draw(np.random.default_rng(0), 4000, 2)
    assert batch.frames.shape == (4000, 2, 8, 8, 3)
    assert abs(float((batch.frames[:, 0, 0, 0, 0] == 200).mean()) - 0.75) < 0.03
    by_clips = MixedClips([dark, light]).draw(np.random.default_rng(0), 4000, 2)
    assert float((by_clips.frames[:, 0, 0, 0, 0] == 200).mean()) < 0.15
    parts = [MixedClips([dark, light], [1.0, 3.0]).draw(np.random.default_rng(0), 64, 2, part=slice(a, a + 16)).frames
             for a in range(0, 64, 16)]
    assert np.array_equal(np.concatenate(parts), MixedClips([dark, light], [1.0, 3.0]).draw(
        np.random.default_rng(0), 64, 2).frames)


def test_a_size_leaves_whole_episodes_out_and_a_larger_one_holds_a_smaller(tmp_path: Path) -> None:
    store = write(tmp_path, "x", [made.moving(n, 10 + n % 3, 8) for n in range(40)])
    before: set[int] = set()
    held_out = [n for n, episode in enumerate(store.episodes) if episode.split == HELDOUT]
    for frames in (1, 50, 120, 300, 10_000):
        limited = store.of_size(frames)
        kept = {number for number, episode in enumerate(limited.episodes) if episode.split == TRAIN}
        assert before <= kept
        before = kept
        have = train_frames(limited.episodes)
        assert have == train_frames(store.episodes) if frames == 10_000 else frames <= have < frames + 12
        assert [n for n, e in enumerate(limited.episodes) if e.split == HELDOUT] == held_out
        starts = set(limited.windows(TRAIN, 3).tolist())
        assert len(starts) == sum(limited.episodes[n].length - 2 for n in kept)
        assert starts <= set(store.windows(TRAIN, 3).tolist())


def needs(frames: int, stride: int = 1, stack: int = 1) -> Schedule:
    return Schedule(steps=1, batch=1, frames=frames, stride=stride, validate_every=1, validation_clips=1, stack=stack)


def test_a_corpus_that_does_not_do_is_refused_before_training(tmp_path: Path) -> None:
    moving = write(tmp_path, "moving", [made.moving(n, 12, 32) for n in range(6)])
    check_videos(moving, needs(4, 3), "moving", "pretrain pvdr")
    with pytest.raises(UsageError, match="moving is too short: pretrain pvdr needs clips of 5 frames, in stacks of 2, "
                                         "3 apart: 13 frames of video, and the longest training episode has 12"):
        check_videos(moving, needs(5, 3, 2), "moving", "pretrain pvdr")
    kinds = {"metaworld": 41, "bair": 30}
    for name, length in kinds.items():  # the first episode is longer: half of them are not
        store = write(tmp_path, name, [made.moving(n, length + 9 * (n % 5 == 0), 32) for n in range(6)])
        schedule = load_catalog().config("stg", "paper").value.schedule("pretrain")
        with pytest.raises(UsageError, match=f"{name} is too short: pretrain stg needs clips of 129 frames") as error:
            check_videos(store, schedule, name, "pretrain stg")
        assert f"-o model.context={length - 1} fits into half of the episodes" in str(error.value.hint)
        fits = load_catalog().config("stg", "paper", overrides=[f"model.context={length - 1}"]).value
        check_videos(store, fits.schedule("pretrain"), name, "pretrain stg")
    still = write(tmp_path, "still", [np.repeat(made.moving(n, 1, 32), 12, 0) for n in range(6)])
    assert moving_share(moving, needs(4, 3)) == 1.0 and moving_share(still, needs(4, 3)) == 0.0
    with pytest.raises(UsageError, match="still is too still for x: something moves in 0 % of its clips"):
        check_videos(still, needs(4, 3), "still", "x")
    check_videos(still, needs(1), "still", "the tokenizer, which sees single frames")
    pictures = write(tmp_path, "pictures", [made.moving(n, 1, 32) for n in range(6)])
    with pytest.raises(UsageError, match="pictures holds pictures and no videos"):
        check_videos(pictures, needs(2), "pictures", "x")
    with pytest.raises(UsageError, match="one has no held-out episode"):
        check_videos(write(tmp_path, "one", [made.moving(0, 50, 32)]), needs(2), "one", "x")


def test_commands_refuse_before_they_start(data: Path) -> None:
    catalog = load_catalog()
    with pytest.raises(SetupError, match="corpus bair has no videos of 32 pixels") as error:
        check_corpora([resolve("pvdr", "bair")], catalog)
    assert "videos fetch bair, then pvdr-bench videos import bair --image-size 32" in str(error.value)
    write(data, "mine", [made.moving(n, 3, 32) for n in range(6)])
    with pytest.raises(UsageError, match="mine is too short: pretrain pvdr on mine · smoke needs clips of 4 frames"):
        check_corpora([resolve("pvdr", "mine")], catalog)
    with pytest.raises(UsageError, match="mine is too short: pretrain dreamer on mine · smoke needs clips of 6 frames"):
        check_corpora([resolve("apv", "mine")], catalog)
    assert "it has them of 32 pixels" in str(pytest.raises(SetupError, lambda: check_corpora(
        [load_catalog().resolve("pvdr", "reach", 0, "cpu", videos="mine")], catalog)).value)


@pytest.mark.parametrize(("words", "advice"), [
    ("run --method pvdr --task reach --videos bair --scale smoke --device cpu --dry-run", "videos fetch bair, then "),
    ("videos check nope", "videos import nope SOURCE --image-size 64"),
    ("videos preview metaworld --image-size 48", "videos generate metaworld --image-size 48"),
    ("videos import mine nowhere", "name the file or folder that has the videos"),
])
def test_videos_that_are_not_here_are_missing_and_not_broken(data: Path, tmp_path: Path, words: str, advice: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVDR_BENCH_RESULTS", str(tmp_path / "results"))
    said = CliRunner().invoke(main, words.split())
    assert isinstance(said.exception, SetupError) and advice in str(said.exception), said.output
    assert SetupError.exit_code == 4 and not list(tmp_path.glob("results"))


def test_a_corpus_is_looked_at_in_the_size_that_is_trained_on(data: Path) -> None:
    """Whole it holds long and moving clips; of those that a size leaves, none does."""
    catalog = load_catalog()
    episodes = [made.moving(n, 20, 32) for n in range(6)]
    store = write(data, "mine", episodes)
    kept = next(n for n, e in enumerate(store.of_size(1).episodes) if e.split == TRAIN)
    for text, episode in (("is too still", np.repeat(episodes[kept][:1], 20, 0)), ("is too short", episodes[kept][:3])):
        shutil.rmtree(data / "videos")
        write(data, "mine", [episode if n == kept else each for n, each in enumerate(episodes)])
        check_corpora([resolve("pvdr", "mine")], catalog)
        with pytest.raises(UsageError, match=f"mine@1 {text}"):
            check_corpora([resolve("pvdr", "mine@1")], catalog)
        stages = Stages(resolve("pvdr", "mine@1"))
        node = stages.node("pretrain")
        with pytest.raises(UsageError, match=f"mine@1 {text}"):
            stages._share(node.shares[0], node)


def test_pretrain_takes_a_method_and_videos_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunSpec] = []

    def prepare(console: Console, specs: list[RunSpec], *_: object) -> Prepared:
        asked.extend(specs)
        return Prepared([], {})

    monkeypatch.setattr("pvdr_bench.cli.pretrain.prepare", prepare)
    said = CliRunner().invoke(main, ["pretrain", "--method", "pvdr,stg", "--videos", "bair", "--scale", "smoke"])
    assert said.exit_code == 0, said.exception
    first = load_catalog().tasks()[0]
    assert [(spec.method, spec.task.name, spec.corpus) for spec in asked] == [("pvdr", first, "bair"),
                                                                             ("stg", first, "bair")]
    assert f"no --task: what runs on {first} start from" in said.output
    by_name = load_catalog().resolve("pvdr", first, 0, "smoke", videos="bair")
    assert Stages(asked[0]).node("pretrain").key == Stages(by_name).node("pretrain").key


def pretraining() -> list[str]:
    """Methods with videos of their run's own, one for each artefact."""
    catalog = load_catalog()
    found = {}
    for name in catalog.runnable():
        spec = catalog.resolve(name, "reach", 0, "smoke", videos="bair")
        if spec.corpus:
            found.setdefault(Stages(spec).node("pretrain").key, name)
    return sorted(found.values())


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("method", pretraining())
@pytest.mark.parametrize("videos", ["bair", "bair,jaco-play:0.5", "cable-routing@12"])
def test_every_method_that_pretrains_does_so_from_files_as_fetched(method: str, videos: str) -> None:
    """In one folder, as a user's, where methods on the same videos share a tokenizer and nothing else."""
    if videos != "bair" and method != "pvdr":
        pytest.skip("one method is enough for mixtures and sizes, which no method knows of")
    name, = split_videos(videos)
    spec, said = resolve(method, name), []
    assert "pretrain" in Stages(spec).missing()
    try:
        made_ = Stages(spec, say=said.append).build()
    except BenchError as error:
        pytest.fail(str(error))
    metrics = made_["pretrain"].metrics()
    assert set(metrics["corpora"]) == {share.corpus for share in parse_mixture(name)}
    if "@" in name:
        assert metrics["sizes"] == {"cable-routing": {"train_frames": 12, "wanted": 12}}
        assert "cable-routing@12: 12 of 36 training frames, to match 12" in said
    if spec.tokenizer_corpora:
        assert set(made_["tokenize"].metrics()["corpora"]) == {*OWN, *(share.corpus for share in parse_mixture(name))}
    assert Stages(spec).missing() == []
