"""A suite of another package, as an installed one would bring it: its entry point is found, and everything works.

The package lies in a folder with the metadata that ``pip install`` would write; nothing of pvdr_bench is edited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvdr_bench.errors import SetupError
from pvdr_bench.plugins import import_file

INFO = '''
"""What the suite says of itself."""
from pvdr_bench.suites.cameras import SceneCamera
from pvdr_bench.suites.info import Option, SuiteInfo, SuiteTask
from pvdr_bench.suites.spaces import BoxSpace
from pvdr_bench.suites.corpora import CorpusSource

VIDEOS = CorpusSource("slider-play", "the slider, moved at random", "generated", "slider.env:Play", 8, title="Slider")


class Slider(SuiteInfo):
    def tasks(self):
        return (SuiteTask("slide", "slide-v1", "Slide", camera="top"),)


SLIDER = Slider(
    name="slider", title="Slider", factory="slider.env:SliderEnv", environments=("slide-v1",), revision=3,
    action_space=BoxSpace(1, names=("right",)), cameras={"top": SceneCamera("top"), "side": SceneCamera("side")},
    options=(Option("speed", 0.05, "of the slider, in its length at a step"),), envs_per_process=1,
    corpora=(VIDEOS,))
'''
ENV = '''
"""A bar that is moved to the right edge."""
import os

import numpy as np

from pvdr_bench.suites.base import Env, EnvStep
from pvdr_bench.suites.corpora import Clip, Generator
from slider.info import SLIDER

ALIVE = []


def picture(x, size):
    image = np.full((size, size, 3), 30, np.uint8)
    at = int(x * (size - 5))
    image[:, :size // 2] += np.arange(size // 2, dtype=np.uint8)[None, :, None]
    image[:, at:at + 5] = (250, 120, 20)
    return image


class SliderEnv(Env):
    action_space = SLIDER.action_space

    def __init__(self, config):
        assert not ALIVE, "this simulator can exist only once in a process"
        assert config.camera.name == "top"
        ALIVE.append(os.getpid())
        self.config, self.x, self.steps = config, 0.0, 0

    def reset(self, seed):
        self.x, self.steps = 0.0, 0
        return picture(self.x, self.config.image_size)

    def step(self, action):
        made, success = 0, False
        speed = self.config.options.get("speed", 0.05)
        for _ in range(self.config.action_repeat):
            self.x = float(np.clip(self.x + speed * float(np.clip(action[0], -1, 1)), 0, 1))
            made += 1
            success = success or self.x > 0.9
        self.steps += made
        over = success and self.config.terminate_on_success
        return EnvStep(picture(self.x, self.config.image_size), -(1 - self.x), success, over,
                       not over and self.steps >= self.config.episode_steps, made)

    def goal_image(self):
        return picture(1.0, self.config.image_size)

    def expert_action(self):
        return np.ones(1, np.float32)

    def close(self):
        ALIVE.clear()


class Play(Generator):
    version, sources, truth_columns, fps, packages = 1, ("slide",), {"action": 1}, 10.0, ("numpy",)

    def __init__(self, source, image_size):
        self.size = image_size

    def episode(self, rng):
        walk = np.clip(np.cumsum(rng.normal(0, 0.1, 24)), 0, 1)
        return Clip(np.stack([picture(x, self.size) for x in walk]), {"action": np.zeros((24, 1))})

    def close(self):
        pass
'''
SMOKE = ["--scale", "smoke", "--device", "cpu", "--seeds", "1"]


def install(site: Path, entry_points: str) -> None:
    """What ``pip install`` leaves behind."""
    package, metadata = site / "slider", site / "slider-0.3.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text("")
    (package / "info.py").write_text(INFO)
    (package / "env.py").write_text(ENV)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: slider\nVersion: 0.3\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def command(site: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``pvdr-bench`` where the package is installed."""
    return _python(site, ["-m", "pvdr_bench", *words], variables)


def python(site: Path, code: str) -> str:
    """What a program prints there."""
    done = _python(site, ["-c", code], {})
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(site: Path, words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PVDR_BENCH_DATA": str(site.parent / "data"), **variables}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine") / "site"
    install(folder, "[pvdr_bench.suites]\nslider = slider.info:SLIDER\n")
    return folder


def test_a_suite_of_another_package_runs_from_its_entry_point_alone(site: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = command(site, "run", "--methods", "scripted,random", "--task", "slide", *SMOKE, "-o",
                   "protocol.goal_metric=pixel_l1", "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    run = results / "scripted/slide/none/smoke@goal_metric=pixel_l1/seed-0"
    rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert rows and all(row["success_any"] for row in rows), "its expert solves it"
    spec = (run / "run.yaml").read_text()
    assert "suite_version: slider 3" in spec and "metaworld 3" not in spec, "the task's suite says its version"


def test_it_is_listed_described_and_checked(site: Path) -> None:
    listed = json.loads(command(site, "list", "suites", "--json").stdout)
    assert {row["name"]: row["version"] for row in listed}["slider"] == "slider 3"
    told = command(site, "describe", "suite:slider").stdout
    for words in ("environments: slide-v1", "actions: 1 in [-1, 1]: right", "top: the scene's own top",
                  "environments per process: 1", "corpora: slider-play", "speed = 0.05"):
        assert words in told
    assert "slider-play" in command(site, "list", "corpora").stdout
    assert "slider-play" in command(site, "videos", "list").stdout
    health = python(site, "from pvdr_bench.cli.doctor import check_suites; print(check_suites().detail)")
    assert "slider 3 (1 environment)" in health


def test_its_videos_are_made_and_change_no_other_recipe(site: Path) -> None:
    made = command(site, "videos", "generate", "slider-play", "--image-size", "32", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["episodes"] == 8
    ours = ("from pvdr_bench.videos.generate import recipe_of; from pvdr_bench.videos.sources import source; "
            "print(recipe_of(source('metaworld'), 64, 1440, 0))")
    assert python(site, ours) == python(site.parent / "nothing", ours)


@pytest.mark.parametrize(("task", "words"), [
    ("camera: tpo", ["unknown camera of suite slider 'tpo'", "did you mean 'top'?"]),
    ("set: null", ["unknown camera of suite slider 'metaworld'", "known: top, side"]),
    ("camera: top\noptions: {sped: 0.1}", ["unknown option of suite slider 'sped'", "did you mean 'speed'?"]),
    ("camera: top\noptions: {speed: fast}", ["speed of suite slider is a float, not 'fast'"]),
])
def test_what_it_does_not_have_is_refused_before_anything_starts(
        site: Path, tmp_path: Path, task: str, words: list[str]) -> None:
    folder = tmp_path / "mine/tasks"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"suite: slider\nenv_id: slide-v1\n{task}\n")
    refused = command(site, "run", "--method", "random", "--task", "mine", *SMOKE, "--results", str(tmp_path / "r"),
                      PVDR_BENCH_PATH=str(tmp_path / "mine"))
    assert refused.returncode == 3 and all(text in refused.stderr for text in words), refused.stderr
    assert "Traceback" not in refused.stderr and not list((tmp_path / "r").glob("*"))


@pytest.mark.parametrize(("value", "words"), [
    ("slider.env:SliderEnv", ["names the class SliderEnv, where a SuiteInfo is needed", "docs/extending.md"]),
    ("slider.gone:SLIDER", ["ModuleNotFoundError", "slider.gone"]),
])
def test_a_broken_package_stops_only_what_asks_for_it(tmp_path: Path, value: str, words: list[str]) -> None:
    site = tmp_path / "site"
    install(site, f"[pvdr_bench.suites]\nslider = {value}\n")
    ours = command(site, "run", "--method", "random", "--task", "reach", *SMOKE, "--dry-run", "--results",
                   str(tmp_path / "r"))
    assert ours.returncode == 0, ours.stderr
    assert "cannot be used" in command(site, "list", "suites").stdout
    (tmp_path / "mine/tasks").mkdir(parents=True)
    (tmp_path / "mine/tasks/mine.yaml").write_text("suite: slider\nenv_id: slide-v1\n")
    asked = command(site, "run", "--method", "random", "--task", "mine", *SMOKE, "--results", str(tmp_path / "r"),
                    PVDR_BENCH_PATH=str(tmp_path / "mine"))
    assert asked.returncode == 4 and all(text in asked.stderr for text in words), asked.stderr


@pytest.mark.long
def test_a_method_pre_trains_on_its_videos_and_learns_in_its_task(site: Path, tmp_path: Path) -> None:
    assert command(site, "videos", "generate", "slider-play", "--image-size", "32").returncode == 0
    done = command(site, "run", "--method", "apv", "--task", "slide", "--videos", "slider-play", *SMOKE, "-o",
                   "protocol.goal_metric=pixel_l1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "apv/slide/slider-play/smoke@goal_metric=pixel_l1/seed-0/done.json").is_file()


def test_a_corpus_comes_by_an_entry_point_of_its_own_and_a_broken_one_is_told(tmp_path: Path) -> None:
    """Videos without a suite; one of files is listed with the command that imports it."""
    site = tmp_path / "site"
    install(site, "[pvdr_bench.corpora]\nslider-play = slider.info:VIDEOS\nphone = slider.files:PHONE\n"
                  "gone = slider.gone:GONE\n")
    (site / "slider/files.py").write_text(
        "from pvdr_bench.suites.corpora import CorpusSource\n"
        "PHONE = CorpusSource('phone', 'my own', 'files', 'slider.files:Reader', 0, license='mine')\n")
    listed = command(site, "videos", "list").stdout
    assert "not made yet: pvdr-bench videos generate slider-play" in listed
    assert "not imported yet: pvdr-bench videos import phone FOLDER" in listed
    refused = command(site, "videos", "generate", "phone")
    assert refused.returncode == 2 and "corpus 'phone' is read from files" in refused.stderr
    broken = command(site, "videos", "generate", "gone")
    assert broken.returncode == 4 and "slider.gone" in broken.stderr and "Traceback" not in broken.stderr
    told = python(site, "from pvdr_bench.cli.doctor import check_corpora; c = check_corpora(); print(c.status, c.hint)")
    assert told.startswith("warn") and "slider.gone" in told


@pytest.mark.parametrize("text", ["raise SystemExit(3)\n", "def (:\n", "import not_there_at_all\n"])
def test_a_file_that_cannot_be_imported_is_told_and_ends_no_command(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(SetupError, match="this file cannot be loaded"):
        import_file(tmp_path / "bad.py", "pvdr_bench_path.corpora.bad")
