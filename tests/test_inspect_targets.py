"""``inspect`` on real folders: a run of the dummy suite, the shipped artefacts; what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.algorithms.registry import algorithms
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.errors import BenchError, DataError, SetupError, StorageError, UsageError
from pvdr_bench.inspection import show
from pvdr_bench.inspection.artefact import ArtefactTarget, Settings, held_out
from pvdr_bench.inspection.run import RunTarget
from pvdr_bench.rl.views import Amounts, Cloud, Exhibit, Exhibits, NothingToShow, Panel, View
from pvdr_bench.runs.artefacts import Artefact
from pvdr_bench.runs.inspected import InspectedFile
from pvdr_bench.runs.schema import read
from pvdr_bench.training.execute import execute
from pvdr_bench.training.stages import Stages
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter
from tests.test_cli_main import call
from tests.test_results_api import spec_of
from tests.watched_amounts import amounts_read

ROOT = Path(__file__).parents[1] / "artefacts"
PRETRAINED = ROOT / "pretrain" / "pvdr-metaworld-cpu-4ea91ef1d21b"
TOKENIZER = ROOT / "tokenize" / "tokenizer-cpu-857a72de91ef"


def corpus(path: Path, seed: int = 0, episodes: int = 8, size: int = 64, length: int = 22) -> ClipStore:
    """Squares that move; the action of every frame is its number."""
    writer = ClipWriter(path, size, {"corpus": path.parent.name, "seed": seed}, truth_columns={"action": 4})
    for episode in range(episodes):
        frames = np.full((length, size, size, 3), 40 * seed + 80, np.uint8)
        for t in range(length):
            frames[t, 10 + t:18 + t, 2 * episode:2 * episode + 8] = 200
        action = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None] / 100, (length, 4))
        writer.append(frames, "x", {"action": np.ascontiguousarray(action)})
    return writer.publish()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    corpus(root / "videos" / "metaworld" / "64")
    return root


@pytest.fixture
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(data))
    return data


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results, spec = tmp_path_factory.mktemp("results"), spec_of("random", {})
    assert execute(spec, results, Stages(spec).pieces, lambda: False)
    return spec.path(results)


def test_every_run_shows_an_episode_as_strip_and_film_and_stays_whole(run_path: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()}
    code, out, err = call(capsys, "inspect", str(run_path), "--episode", "1", "--json")
    assert code == 0, err
    told, folder = json.loads(out), run_path / "inspect"
    assert sorted(path.name for path in folder.iterdir()) == ["episode-1.mp4", "episode-1.png", "inspect.json"]
    entry = read(InspectedFile, folder / "inspect.json")["pictures"]["episode-1"]
    assert told["pictures"] == {"episode-1": entry} and entry["files"] == ["episode-1.png", "episode-1.mp4"]
    assert entry["about"].startswith("The observation") and "As a film" in entry["about"]
    assert entry["numbers"]["decisions"] == 10 and entry["numbers"]["env_steps"] == 80
    assert entry["drawn"] == {"seed": 0, "cases": 3, "samples": 2000, "episode": 1}
    assert all(path.read_bytes() == content for path, content in before.items())
    assert call(capsys, "verify", str(run_path.parents[4]))[0] == 0  # the seal does not mind
    kept = (folder / "inspect.json").read_bytes()
    assert call(capsys, "inspect", str(run_path), "--episode", "1", "--json")[1] == out
    assert (folder / "inspect.json").read_bytes() == kept  # the same bytes
    call(capsys, "inspect", str(run_path), "--episode", "0")
    assert set(read(InspectedFile, folder / "inspect.json")["pictures"]) == {"episode-0", "episode-1"}


def test_the_tokenizer_shows_its_reconstructions(here: Path, tmp_path: Path) -> None:
    target = show.find_target("tokenizer-cpu-857a72de91ef")
    assert isinstance(target, ArtefactTarget) and show.choices(target) == ("reconstructions",)
    made = show.inspect(target, [], tmp_path / "a", Settings(Amounts(cases=2)))
    numbers = made.pictures["reconstructions"]["numbers"]
    assert numbers["frames"] == 256 and len(numbers["psnr_shown"]) == 4
    assert numbers["psnr_lowest"] <= min(numbers["psnr_shown"]) and 5 < numbers["psnr"] < 50
    assert made.target["corpora"] == {"metaworld": ClipStore(here / "videos/metaworld/64").hash}
    again = show.inspect(target, ["reconstructions"], tmp_path / "b", Settings(Amounts(cases=2)))
    view = target.views["reconstructions"]
    assert amounts_read(view, target.opened(Settings())) == set(view.reads)
    for name in ("reconstructions.png", "inspect.json"):
        assert (made.folder / name).read_bytes() == (again.folder / name).read_bytes()


def test_a_pretrained_model_shows_futures_and_z(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    target = show.find_target(PRETRAINED)
    assert show.choices(target) == ("futures", "latents")
    made = show.inspect(target, [], tmp_path, Settings(Amounts(1, 60, 2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["futures.png", "inspect.json", "latents.png"]
    panel, = made.pictures["latents"]["numbers"]["panels"].values()
    assert set(panel["true"]) == {"rank_correlation", "probe_r2", "probe_r2_permuted", "probe_r2_permuted_highest",
                                  "action_spread"}
    assert panel["true"]["probe_r2"] is None  # clips of so few episodes judge no probe


def test_held_out_clips_are_of_all_corpora_in_turn_with_the_actions_between_their_frames(tmp_path: Path) -> None:
    stores = [corpus(tmp_path / name / "16", seed, size=16, length=9) for seed, name in enumerate("ab")]
    clips = held_out(stores, 7, 3, 2, 0)
    assert clips.frames.shape == (7, 3, 16, 16, 3) and clips.action is not None
    assert [int(clip[0, 0, 0, 0]) for clip in clips.frames[:4]] in ([80, 120] * 2, [120, 80] * 2)
    assert clips.action.shape == (7, 2, 4)
    assert len(set(clips.episode[::2]) & set(clips.episode[1::2])) == 0  # those of two corpora are not the same
    step = clips.action[:, 1, 0] - clips.action[:, 0, 0]
    assert step == pytest.approx(0.02)  # two decisions apart
    # The square of episode e is in column 2 e; it has moved t rows, and is out of sight at last.
    first = np.round(clips.action[:, 0, 0] * 100 - 0.5).astype(int)  # mean of t and t + 1
    for clip, t, episode in zip(clips.frames, first, clips.episode, strict=True):
        assert np.flatnonzero((clip[0] == 200).any((0, 2)))[:1].tolist() == [2 * (episode % 8)] * int(t < 6)
        assert np.flatnonzero((clip[0] == 200).any((1, 2)))[:1].tolist() == [10 + t] * int(t < 6)


def refused(error: type[BenchError], words: str, name: str | Path, *what: str, results: Path | None = None) -> None:
    with pytest.raises(error, match=words):
        target = show.find_target(name, results)
        show.inspect(target, what, Path("/nonexistent"), Settings())


def test_what_cannot_be_shown_is_refused_in_one_line(here: Path, run_path: Path, tmp_path: Path) -> None:
    refused(UsageError, "neither a run nor an artefact", tmp_path)
    refused(UsageError, "neither a run nor an artefact", "no-such-thing", results=tmp_path)
    refused(UsageError, r"did you mean 'pvdr-metaworld-cpu-4ea91ef1d21b'(.|\n)*an artefact is NAME-HASH",
            PRETRAINED.name[:-1])
    refused(UsageError, r"random · point · seed 0 cannot show 'latents'(.|\n)*it can: episode", run_path, "latents")
    refused(UsageError, r"cannot show 'future'(.|\n)*did you mean 'futures'", PRETRAINED, "future")
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    shutil.rmtree(copy / "checkpoints")
    refused(UsageError, "no checkpoint: it was published without", copy)


def test_a_folder_that_cannot_be_one_is_refused_before_anything_is_drawn(run_path: Path, tmp_path: Path,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        code, told, err = call(capsys, "inspect", str(run_path), "--out", str(out))
        assert (code, told) == (StorageError.exit_code, "") and "made" not in err
        assert f"{out}: cannot write: Not a directory" in err and "a file stands where a folder is needed" in err
    code, _, err = call(capsys, "inspect", str(run_path), "latents", "--out", str(tmp_path / "new" / "folder"))
    assert code == 2 and [path.name for path in tmp_path.iterdir()] == ["file"]  # what is refused makes no folder


def test_what_is_damaged_is_refused_with_its_place(here: Path, run_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    for state in copy.glob("checkpoints/*/state.json"):
        state.write_text(state.read_text()[:-5])
    refused(DataError, "checkpoints are broken", copy)
    artefact = tmp_path / "pretrain" / PRETRAINED.name
    shutil.copytree(PRETRAINED, artefact)
    (artefact / "model.safetensors").write_bytes((artefact / "model.safetensors").read_bytes()[:-1])
    refused(DataError, "checksum is wrong", artefact)


def test_every_recipe_of_the_catalog_tells_the_config_that_its_model_is_put_together_from() -> None:
    """What the stage does not depend on, such as whether a method is pre-trained at all, is not in the recipe."""
    catalog, told = load_catalog(), set()
    for method in catalog.runnable():
        for node in stage_graph(catalog.resolve(method, "reach", 0, "cpu"), catalog):
            recipe = json.loads(json.dumps(node.recipe(lambda name: {"corpus": name}, defaultdict(str), lambda _: 1)))
            config = ArtefactTarget(Artefact(Path(), node.stage.name, node.name, "", recipe, "")).config
            sections = node.stage.sections or tuple(type(config).model_fields)
            assert [getattr(config, name) for name in sections] == [getattr(node.config, name) for name in sections]
            told.add((node.info.name, node.stage.name))
    assert told == {(name, stage.name) for name, info in algorithms().items() for stage in info.offline
                    } - {("dreamerv3", "pretrain")}  # no method of the catalog pre-trains it


@pytest.mark.parametrize("change", [{"model": {"codes": 1}}, {"model": {"no_such": 1}}, {"no_such": {}}])
def test_a_recipe_of_keys_that_are_not_known_is_refused(change: dict[str, object]) -> None:
    recipe = {"algorithm": "efficientzero", "config": change}
    with pytest.raises(DataError, match="keys that this version"):
        _ = ArtefactTarget(Artefact(Path(), "pretrain", "x", "", recipe, "")).config


def test_videos_that_are_not_here_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    refused(SetupError, r"metaworld is not here in 64 pixels(.|\n)*videos generate metaworld", PRETRAINED, "futures")
    monkeypatch.setattr("pvdr_bench.runs.artefacts.shipped_artefacts", list)
    corpus(tmp_path / "videos" / "metaworld" / "64", episodes=4)
    artefact = tmp_path / "elsewhere" / "pretrain" / PRETRAINED.name
    shutil.copytree(PRETRAINED, artefact)
    refused(DataError, "tokenize artefact that it was made with is not here", artefact, "futures")


def test_a_run_also_takes_the_words_of_its_artefacts(here: Path) -> None:
    target = show.find_target(ROOT / "policies/pvdr/reach/metaworld/cpu/seed-3")
    assert isinstance(target, RunTarget)
    assert target.own == ("episode", "futures", "adaptation", "latents")
    assert show.choices(target) == (*target.own, "reconstructions", "pretrain.futures", "pretrain.latents")
    assert show.chosen(target, []) == list(target.own) and show.chosen(target, ["latents", "latents"]) == ["latents"]
    assert [(artefact.artefact.path, word) for artefact, word in target.artefacts.values()] == [
        (TOKENIZER, "reconstructions"), (PRETRAINED, "futures"), (PRETRAINED, "latents")]
    model, _ = target.artefacts["pretrain.futures"]
    assert target.reads("pretrain.futures") == ("videos", *model.views["futures"].reads)


def test_a_run_shows_what_its_model_foretold_before_it_was_trained_on(here: Path, tmp_path: Path) -> None:
    """Its own word is the run's, whose files stay; held-out clips are the model's."""
    target = show.find_target(ROOT / "policies/pvdr/reach/metaworld/cpu/seed-3")
    made = show.inspect(target, ["pretrain.futures"], tmp_path, Settings(Amounts(cases=2)))
    assert {entry["what"] for entry in made.pictures.values()} == {"pretrain.futures"}
    assert made.pictures and all(stem.startswith("pretrain-futures") for stem in made.pictures)
    alone = show.inspect(show.find_target(PRETRAINED), ["futures"], tmp_path / "alone", Settings(Amounts(cases=2)))
    mine, theirs = (next(iter(one.pictures.values())) for one in (made, alone))
    assert mine["numbers"] == theirs["numbers"] and mine["about"] == theirs["about"]


def test_a_word_with_nothing_to_show_is_told_of_and_refused_where_it_was_asked_for(here: Path, tmp_path: Path,
                                                                                   monkeypatch: pytest.MonkeyPatch,
                                                                                   capsys: pytest.CaptureFixture[str],
                                                                                   ) -> None:
    def empty(of: object) -> Exhibits:
        raise NothingToShow("there are no actions", hint="other videos")
        yield

    target = show.find_target(TOKENIZER)
    assert isinstance(target, ArtefactTarget)
    views = {"reconstructions": target.views["reconstructions"], "empty": View(empty, ())}
    monkeypatch.setattr(ArtefactTarget, "views", property(lambda self: views))
    made = show.inspect(target, [], tmp_path, Settings(Amounts(cases=1)))
    assert set(made.pictures) == {"reconstructions"} and made.nothing == {"empty": "there are no actions"}
    with pytest.raises(NothingToShow, match=r"no actions\n.*other videos"):
        show.inspect(target, ["empty"], tmp_path, Settings(Amounts(cases=1)))
    assert call(capsys, "inspect", str(TOKENIZER), "--out", str(tmp_path))[1].endswith("empty: there are no actions\n")
    assert call(capsys, "inspect", str(TOKENIZER), "empty", "--out", str(tmp_path))[0] == 2


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    panel = Panel("x", np.zeros((10, 3)), {"sampled": np.zeros((10, 4))})
    exhibit: Exhibit = Cloud("t", "a", {}, (panel,))
    with pytest.raises(UsageError, match="10 samples are too few"):
        show._write(exhibit, tmp_path / "x", 0)


def test_the_command_lists_what_there_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "inspect", str(PRETRAINED), "--list")
    assert code == 0 and out == f"pretrain artefact {PRETRAINED.name} can show: futures, latents\n"
    assert json.loads(call(capsys, "inspect", str(PRETRAINED), "--list", "--json")[1])["what"] == ["futures", "latents"]


@pytest.mark.parametrize(("run", "options", "message"), [
    (False, "futures --list --out x --samples 9", "WHAT, --out, --samples say nothing about --list"),
    (False, "--episode 0", "--episode says nothing about an artefact\n  -> leave it out, or give a run"),
    (False, "futures --samples 9", "--samples says nothing about what is shown here (futures)\n"
                                   "  -> leave it out, or ask for latents"),
    (False, "latents --cases 3", "--cases says nothing about what is shown here (latents)\n"
                                 "  -> leave it out, or ask for futures"),
    (True, "episode --videos metaworld", "--videos says nothing about what is shown here (episode)\n  -> leave it out"),
    (True, "--samples 2000", "--samples says nothing about what is shown here (episode)"),
    (True, "--draw-seed 1", "--draw-seed says nothing about what is shown here (episode)"),
])
def test_options_without_effect_are_refused(here: Path, run_path: Path, capsys: pytest.CaptureFixture[str], run: bool,
                                            options: str, message: str) -> None:
    code, _, err = call(capsys, "inspect", str(run_path if run else PRETRAINED), *options.split())
    assert code == 2 and message in err


def test_options_are_taken_where_one_of_the_pictures_depends_on_them(here: Path) -> None:
    policy = show.find_target(ROOT / "policies/pvdr/reach/metaworld/cpu/seed-3")
    pretrained = show.find_target(PRETRAINED)
    assert pretrained.reads("futures") == ("videos", "cases", "seed")
    assert [policy.reads(word) for word in ("episode", "latents", "reconstructions")] == [
        ("episode",), ("episode", "samples", "seed"), ("videos", "cases", "seed")]
