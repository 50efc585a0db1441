"""The report: its numbers are those of table and plot, nothing of the machine leaves, everything is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pvdr_bench.cli.report import report
from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import collect
from pvdr_bench.results.looks import DASHES, looks_of
from pvdr_bench.results.report import Options, Report, build_report
from pvdr_bench.results.report.clean import Cleaner
from pvdr_bench.results.report.downsample import min_max
from pvdr_bench.results.report.media import embed
from pvdr_bench.results.report.overview import summary
from pvdr_bench.results.report.parts import lead
from pvdr_bench.results.report.runs import metrics_of
from pvdr_bench.results.series import rows_of
from pvdr_bench.results.tables import build_table, to_frame, to_markdown
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_grid, make_run, resealed

FAST = Options(repetitions=300)
EVIL = "</script><script>alert('x')</script>&\"'<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Scripts by id, tables by id (rows of cell texts), every link and source, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self._script: str | None = None
        self._cell = False
        self._table: list[list[str]] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [str(named[key]) for key in ("src", "href", "action", "srcset") if key in named]
        if tag == "script":
            self._script = named.get("id") or "program"
            self.scripts[self._script] = ""
        if tag == "table":
            self._table = self.tables.setdefault(str(named["id"]), [])
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None
        if tag == "table":
            self._table = None
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        elif self._cell and self._table:
            self._table[-1][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])


def make(root: Path, **options: Any) -> tuple[Report, Page]:
    made = build_report(collect(root), Options(**{**FAST.__dict__, **options}))
    return made, Page(made.html)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    make_grid(root, seeds=3, tasks=("reach", "drawer-open"))
    return root


@pytest.fixture(scope="module")
def built(grid: Path) -> tuple[Report, Page]:
    return make(grid)


def test_the_tables_are_those_of_table(grid: Path, built: tuple[Report, Page]) -> None:
    page = built[1]
    table = build_table(collect(grid), repetitions=FAST.repetitions)
    body = page.tables["final"]
    assert body[0] == ["method", *table.columns]
    markdown = [line.strip("| ").split(" | ") for line in to_markdown(table).splitlines() if line.startswith("| ")][2:]
    shown = [[cell.replace("n = ", "(n = ") + ")" * ("n = " in cell) for cell in row] for row in body[1:]]
    assert shown == [[cell.replace("**", "") for cell in row] for row in markdown]
    values = {(r["variant"], r["corpus"], r["task"]): r["value"] for r in to_frame(table).to_dict("records")}
    seeds = [row for row in page.tables["by-seed"][1:] if row[0] == "PVDR (fetch-push)" and row[1] == "reach"]
    assert len(seeds) == 3
    assert np.mean([float(row[3]) for row in seeds]) == pytest.approx(100 * values["pvdr", "fetch-push", "reach"])


def test_curves_equal_an_independent_computation(grid: Path, built: tuple[Report, Page]) -> None:
    results = collect(grid)
    data = built[1].data
    panels = {panel["task"]: panel for panel in data["chapters"][0]["panels"]}
    assert list(panels) == ["drawer-open", "reach", "all tasks"]
    index = next(i for i, row in enumerate(data["rows"]) if row["label"] == "PPO")
    line = next(line for line in panels["reach"]["lines"] if line["row"] == index)
    mine = results.points[results.points["variant"].eq("ppo") & results.points["task"].eq("reach")]
    for k, steps in enumerate(line["x"]["env_steps"]):
        at = mine[mine["env_steps"].eq(steps)].sort_values("point").drop_duplicates("seed")  # "final" before "grid"
        values = at["success"].to_numpy(dtype=float)
        assert line["y"][k] == pytest.approx(values.mean()) and line["n"][k] == 3
        if np.ptp(values):
            low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
            assert (line["low"][k], line["high"][k]) == pytest.approx((max(low, 0), min(high, 1)))
        assert [one["y"][k] for one in line["seeds"]] == list(at.sort_values("seed")["success"])
    every = [next(line for line in panels[task]["lines"] if line["row"] == index) for task in panels]
    assert every[2]["y"] == pytest.approx(np.mean([every[0]["y"], every[1]["y"]], axis=0))
    assert not every[2]["seeds"]
    random = next(i for i, row in enumerate(data["rows"]) if row["label"] == "Random")
    flat = next(flat for flat in panels["reach"]["flats"] if flat["row"] == random)
    final = results.points[results.points["variant"].eq("random") & results.points["task"].eq("reach")
                           & results.points["point"].eq("final")]
    assert flat["y"] == pytest.approx(final["success"].mean()) and flat["n"] == 3


def test_looks_are_those_of_the_figures(grid: Path, built: tuple[Report, Page]) -> None:
    results = collect(grid)
    looks = looks_of(rows_of(results), results.names)
    shown = {row["label"]: row for row in built[1].data["rows"]}
    for row, look in looks.items():
        found = shown[row.label]
        assert (found["color"], found["mark"], found["filled"]) == (look.color, look.mark, look.filled)
        assert tuple(found["dash"]) == DASHES[look.dash]
    assert shown["Random"]["dash"] != shown["Scripted expert"]["dash"] and "color" not in shown["Random"]


def test_the_same_results_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    for task in ("reach", "push"):
        for seed in range(2):
            make_run(tmp_path / "here", [0.1, 0.5 + 0.1 * seed], task=task, seed=seed, env_steps=16000)
    make_run(tmp_path / "here", [0.1], seed=2, done=False, failed="boom")
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere with a space")
    first, again = (build_report(collect(tmp_path / name), FAST).html for name in ("here", "elsewhere with a space"))
    assert again == first
    assert build_report(collect(tmp_path / "here"), Options(repetitions=300, confidence=0.9)).html != first


def test_texts_from_files_are_escaped(tmp_path: Path) -> None:
    plain, evil = tmp_path / "plain", tmp_path / "evil"
    for root, title in ((plain, "PPO"), (evil, EVIL)):
        path = make_run(root, [0.2, 0.5], title=title, done=False, failed=title, config={"note": title})
        RunDir(path).train.append({"env_steps": 8, title: 1.0})
        make_run(root, [0.2, 0.5], title=title, seed=1, env_steps=16000, config={"note": title})
    clean, dirty = make(plain)[1], make(evil)[1]
    assert dirty.tags == clean.tags and set(dirty.attributes) == set(clean.attributes)
    assert set(dirty.scripts) == set(clean.scripts) and dirty.scripts["program"] == clean.scripts["program"]
    assert dirty.data["rows"][0]["label"] == EVIL and dirty.data["runs"][0]["failure"]["message"] == EVIL
    assert dirty.data["runs"][0]["metrics"][0]["name"] == EVIL
    assert [recipe["config"]["note"] for recipe in dirty.data["recipes"].values()] == [EVIL]
    assert dirty.tables["final"][1][0] == EVIL


def test_the_page_asks_no_network_and_allows_only_its_own_script(built: tuple[Report, Page]) -> None:
    made, page = built
    assert all(link.startswith(("#", "data:")) for link in page.links) and page.links
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', made.html)
    style = re.search(r"<style>(.*?)</style>", made.html, re.S)
    assert policy and style and "default-src 'none'" in policy[1]
    for content in (page.scripts["program"], style[1]):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert "style" not in page.attributes and not any(name.startswith("on") for name in page.attributes)
    assert "url(" not in style[1] and "@import" not in style[1]


def test_nothing_of_the_machine_leaves(tmp_path: Path) -> None:
    root = tmp_path / "results of mine"
    message = f"cannot read {tmp_path}/videos/secret/x.npz on {socket.gethostname()}"
    path = make_run(root, [0.2], done=False, failed=message)
    failed = json.loads((path / "failed.json").read_text())
    failed["traceback"] = (f'  File "/home/jane doe/.venv/lib/python3.12/site-packages/torch/nn.py", line 3\n'
                           f'  File "{Path.cwd()}/pvdr_bench/nets/a.py", line 9\n  File "{path}/x.py", line 1')
    (path / "failed.json").write_text(json.dumps(failed))
    (path / "train.jsonl").write_text('{"env_steps": 1}\nnot json\n')
    make_run(root, [0.5] * 5, seed=1)
    broken = make_run(root, [0.5], seed=2)
    (broken / "run.yaml").write_text("[")
    html = build_report(collect(root), FAST).html
    for private in (str(tmp_path), str(Path.cwd()), str(Path.home()), "jane", sys.executable):
        assert private not in html
    host = socket.gethostname()
    assert host == "localhost" or not re.search(rf"(?<![\w-]){re.escape(host)}(?![\w-])", html)
    runs = {run["path"]: run for run in Page(html).data["runs"]}
    assert len(runs) == 3
    trace = runs["ppo/reach/none/cpu/seed-0"]["failure"]["traceback"]
    assert 'File "torch/nn.py"' in trace and 'File "pvdr_bench/nets/a.py"' in trace and "RESULTS/ppo" in trace
    assert any("train.jsonl cannot be read" in note for note in runs["ppo/reach/none/cpu/seed-0"]["notes"])
    assert runs["ppo/reach/none/cpu/seed-2"]["status"] == "broken"


@pytest.mark.parametrize(("dirty", "clean"), [
    ("/data/jane/results/x/y.json: broken", "RESULTS/x/y.json: broken"),
    ("see /scratch/u12/a/b.txt.", "see …/b.txt."), ("in '/etc/very/deep'", "in '…/deep'"),
    ("/home/jane is full", "~ is full"), ("~/code/secret/file.py", "…/file.py"),
    ("on node-7.cluster: dead", "on HOST: dead"), ("node-77 is another", "node-77 is another"),
    ("https://arxiv.org/abs/2411.03169", "https://arxiv.org/abs/2411.03169"), ("1/2 of 3/4 a/s", "1/2 of 3/4 a/s"),
    ("pvdr/reach/none/cpu/seed-0", "pvdr/reach/none/cpu/seed-0"), ("--out=/mnt/a/b.html", "--out=…/b.html"),
    ("PATH=/usr/lib/x:/opt/y/z", "PATH=…/x:…/z"), ("/my work/here/a.py", "./a.py"),
])
def test_cleaning(dirty: str, clean: str) -> None:
    cleaner = Cleaner(Path("/data/jane/results"), folders=["/my work/here"], hosts=["node-7", "node-7.cluster", ""])
    assert cleaner.text(dirty) == clean
    assert cleaner.text(clean) == clean
    assert cleaner.value({"k": [dirty, 3, None]}) == {"k": [clean, 3, None]}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(2, 50))
def test_down_sampling_keeps_real_points_and_every_peak(values: list[float], limit: int) -> None:
    y = np.array(values)
    kept = min_max(y, limit)
    assert len(kept) <= max(limit, 2) and list(kept) == sorted(set(kept))
    assert y[kept].min() == y.min() and y[kept].max() == y.max()
    if len(y) <= limit:
        assert list(kept) == list(range(len(y)))
    else:
        for stretch in np.array_split(np.arange(len(y)), limit // 2):
            mine = y[[k for k in kept if k in stretch]]
            assert mine.min() == y[stretch].min() and mine.max() == y[stretch].max()


def test_metrics_are_thinned_grouped_and_counted() -> None:
    rows = [{"env_steps": k, "decisions": k, "policy_loss": float(k % 7), "entropy": 1.0, "word": "x", "flag": True}
            for k in range(1000)]
    rows[500]["policy_loss"], rows[501]["policy_loss"] = 99.0, float("nan")
    found = {plot["name"]: plot for plot in metrics_of(rows, 100)}
    assert list(found) == ["policy_loss", "entropy"]
    loss = found["policy_loss"]
    assert (loss["group"], loss["count"], loss["bad"], loss["high"], loss["low"]) == ("Losses", 999, 1, 99, 0)
    assert len(loss["x"]) <= 100 and loss["y"][loss["x"].index(500)] == 99
    assert found["entropy"]["group"] == "Optimisation" and (loss["first"], loss["last"]) == (0, 999 % 7)
    assert metrics_of([{"env_steps": 1, "z": float("inf")}], 9)[0] | {"group": ""} == {
        "name": "z", "group": "", "x": [], "y": [], "count": 0, "bad": 1}


def test_media_are_shared_out_by_turns_and_left_out_with_a_reason(tmp_path: Path) -> None:
    sizes = {"a": {"1.mp4": 40, "2.mp4": 40}, "b": {"1.mp4": 40, "big.gif": 90, "empty.png": 0, "notes.txt": 5}}
    for run, files in sizes.items():
        (tmp_path / run / "videos").mkdir(parents=True)
        for name, size in files.items():
            (tmp_path / run / "videos" / name).write_bytes(bytes(range(size)))
    (tmp_path / "b" / "videos" / "link.mp4").symlink_to(tmp_path / "a" / "videos" / "1.mp4")
    found = {(m.run, m.name): m for m in embed({run: tmp_path / run for run in "abc"}, total=100, each=80)}
    assert list(found) == [("a", "1.mp4"), ("a", "2.mp4"), ("b", "1.mp4"), ("b", "big.gif"), ("b", "empty.png")]
    assert [m.data is not None for m in found.values()] == [True, False, True, False, False]
    assert base64.b64decode(found["b", "1.mp4"].data or "") == bytes(range(40))
    assert "all files together" in found["a", "2.mp4"].why and "one file may have" in found["b", "big.gif"].why
    assert found["b", "empty.png"].why == "the file is empty"


def add_times(path: Path, seconds: list[float], device: str = "cpu") -> None:
    """timing.jsonl: the second number of each pair of seconds is evaluation."""
    log = RunDir(path).timing
    for k, wall in enumerate(seconds, start=1):
        log.append({"env_steps": k * 8000, "point": "grid", "wall_seconds": wall + 600 * k,
                    "evaluation_seconds": 600 * k, "device": device})
    resealed(path)


def axes_of(root: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    data = make(root)[1].data
    line = data["chapters"][0]["panels"][0]["lines"][0]
    return {axis["key"]: axis for axis in data["chapters"][0]["axes"]}, line, " ".join(data["chapters"][0]["absent"])


def test_axes_are_offered_only_where_every_run_has_the_numbers(tmp_path: Path) -> None:
    for seed, hours in ((0, 5.0), (1, 10.0)):
        path = make_run(tmp_path / "exact", [0.2, 0.5], seed=seed, env_steps=16000)
        add_times(path, [hours * 1800, hours * 3600], "cuda")
    axes, line, absent = axes_of(tmp_path / "exact")
    assert list(axes) == ["env_steps", "wall", "gpu"] and axes["wall"]["label"] == "wall time (hours)" and not absent
    assert line["x"]["wall"] == [3.75, 7.5] == line["x"]["gpu"]  # means over seeds, without evaluation
    assert line["seeds"][0]["x"]["wall"] == [2.5, 5] and line["x"]["env_steps"] == [8000, 16000]

    for seed in (0, 1):
        path = make_run(tmp_path / "share", [0.2, 0.5], seed=seed, env_steps=16000)
        resealed(path, wall_seconds=1200.0 * (seed + 1))
    add_times(path, [100, 200], "cuda")  # one run alone does not make the axis exact
    axes, line, absent = axes_of(tmp_path / "share")
    assert list(axes) == ["env_steps", "wall"] and axes["wall"]["label"] == "wall time (minutes)"
    assert "share" in axes["wall"]["note"] and line["x"]["wall"] == [15, 30] and "GPU-hours" in absent

    make_run(tmp_path / "none", [0.2, 0.5], env_steps=16000)
    axes, _, absent = axes_of(tmp_path / "none")
    assert list(axes) == ["env_steps"] and "ppo/reach/none/cpu/seed-0" in absent


def titles(root: Path) -> set[str]:
    return {warned.title for warned in build_report(collect(root), FAST).warnings}


def test_warnings_come_first_and_only_when_true(tmp_path: Path) -> None:
    for seed in range(5):
        make_run(tmp_path / "good", [0.4 + 0.1 * seed], seed=seed, env_steps=8000)
        make_run(tmp_path / "bad", [0.5], seed=seed, env_steps=8000)
    made, page = make(tmp_path / "good")
    assert made.warnings == () and "No warnings" in made.html
    make_run(tmp_path / "bad", [0.5, 0.6], variant="pvdr", corpus="metaworld", seed=0, env_steps=16000)
    make_run(tmp_path / "bad", [0.5], variant="pvdr", corpus="metaworld", seed=1, done=False, failed="boom")
    made = build_report(collect(tmp_path / "bad"), FAST)
    assert titles(tmp_path / "bad") == {"Few seeds", "Not, or not wholly, included", "Budgets differ",
                                        "One pre-trained model", "Zero width"}
    assert "1 failed run" in made.html and "1 row with missing seeds" in made.html
    assert made.html.index("Before you read") < made.html.index('id="final"')


def test_the_words_follow_the_intervals(tmp_path: Path) -> None:
    for seed in range(3):
        for name, rate in (("clear", 0.3), ("close", 0.8)):
            make_run(tmp_path / name, [0.88 + 0.02 * seed], seed=seed, env_steps=8000, title="PPO")
            make_run(tmp_path / name, [rate + 0.05 * seed], variant="pvdr", corpus="metaworld", seed=seed,
                     env_steps=8000, title="PVDR")
    clear, close = make(tmp_path / "clear")[0].html, make(tmp_path / "close")[0].html
    better, undecided = "The interval of PVDR lies wholly", "does not say which is better: the best intervals overlap."
    assert better.replace("PVDR", "PPO") in clear and undecided not in clear
    assert undecided in close and better not in close and better.replace("PVDR", "PPO") not in close


def test_many_tasks_are_told_on_demand_and_the_whole_first(grid: Path) -> None:
    sentences = summary(build_table(collect(grid), repetitions=300))
    assert [sentence.partition(",")[0] for sentence in sentences] == ["Over all tasks", "On drawer-open", "On reach"]
    assert lead(sentences).count("lead") == 3 and "details" not in lead(sentences)
    assert lead(sentences * 2).count("lead") == 1 and lead(sentences * 2).count("<p>") == 5


def test_hundreds_of_runs_stay_small(tmp_path: Path) -> None:
    path = make_run(tmp_path, [0.5] * 5)
    rng, log = np.random.default_rng(0), RunDir(path).train
    for k in range(1500):
        log.append({"env_steps": k, **{f"loss_{i}": float(v) for i, v in enumerate(rng.normal(size=30))}})
    one = len(build_report(collect(resealed(path).parents[4]), FAST).html)
    for seed in range(1, 24):
        other = make_run(tmp_path, [0.5] * 5, seed=seed)
        shutil.copyfile(path / "train.jsonl", other / "train.jsonl")
        resealed(other)
    many, page = make(tmp_path)
    assert many.runs == 24 and len(page.data["recipes"]) == 1 and len(page.data["packages"]) == 1
    plots = [plot for run in page.data["runs"] for plot in run["metrics"]]
    assert len(plots) == 24 * 30 and max(len(plot["x"]) for plot in plots) <= 240
    assert len(many.html) < 24 * one < 24 * (path / "train.jsonl").stat().st_size


def test_no_torch_and_nothing_else_that_takes_long() -> None:
    program = "import sys, pvdr_bench.results.report; print({'torch', 'matplotlib', 'seaborn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


app = typer.Typer()
app.command()(report)


def test_the_command(grid: Path, tmp_path: Path) -> None:
    (grid / "ppo/reach/none/cpu/seed-0/videos").mkdir()
    (grid / "ppo/reach/none/cpu/seed-0/videos/a.mp4").write_bytes(b"film")
    words = ["--results", str(grid), "--out", str(tmp_path / "new" / "r.html"), "--tasks", "reach", "--json",
             "--reported", "pvdr"]
    inspected = grid / "ppo/reach/none/cpu/seed-0/inspect"
    try:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        told = json.loads(done.stdout)
        html = Path(told["out"]).read_text(encoding="utf-8")
        assert told["bytes"] == len(html.encode()) and told["runs"] == 18 and told["left_out"] == []
        page = Page(html)
        assert base64.b64decode(page.scripts["medium-0"]) == b"film" and "reported" in page.tables
        assert page.tables["final"][0] == ["method", "reach"]
        small = json.loads(CliRunner().invoke(app, [*words, "--video-mb", "0"], catch_exceptions=False).stdout)
        assert [left["name"] for left in small["left_out"]] == ["a.mp4"] and "a.mp4 (" in Path(small["out"]).read_text()
        inspected.mkdir()
        (inspected / "futures.png").write_bytes(b"picture")
        plain = [word for word in words if word != "--json"] + ["--video-mb", "0"]
        told_of = re.findall("left out: (.*?): ", CliRunner().invoke(app, plain, catch_exceptions=False).stdout)
        assert len(told_of) == 2 and all((grid / name).is_file() for name in told_of)
        assert all(f"{name} (" in Path(small["out"]).read_text() for name in told_of)
    finally:
        shutil.rmtree(grid / "ppo/reach/none/cpu/seed-0/videos")
        shutil.rmtree(inspected, ignore_errors=True)
    with pytest.raises(UsageError, match="no metric"):
        CliRunner().invoke(app, ["--results", str(grid), "--metric", "speed"], catch_exceptions=False)


def test_all_measures_and_the_iqm(grid: Path) -> None:
    made, page = make(grid, metric="return", statistic="iqm")
    assert {"final", "final-success_any", "final-success_end"} <= set(page.tables) and "interquartile" in made.html
    expected = to_frame(build_table(collect(grid), "return", statistic="iqm", repetitions=300))
    first = expected[expected["variant"].eq("ppo") & expected["task"].eq("all tasks")].iloc[0]
    assert page.tables["final"][1][3].startswith(f"{first['value']:.2f} [{first['low']:.2f}, {first['high']:.2f}]")


def test_an_empty_curve_is_no_error(tmp_path: Path) -> None:
    make_run(tmp_path, [], done=False)
    made, page = make(tmp_path)
    assert page.data["chapters"][0]["panels"] == [] and "no learned method has a final evaluation yet" in made.html


def two_protocols(root: Path) -> Path:
    """PPO under both, PVDR under the first alone; one failed run under the second."""
    for seed in range(3):
        for scale, rate in (("cpu", 0.3), ("gpu", 0.9)):
            make_run(root, [0.1, rate + 0.01 * seed], seed=seed, scale=scale, env_steps=16000, title="PPO")
        make_run(root, [0.2, 0.6 + 0.1 * seed], variant="pvdr", corpus="metaworld", seed=seed, env_steps=16000,
                 title="PVDR")
    make_run(root, [0.1], seed=3, scale="gpu", done=False, failed="the card is gone", env_steps=16000, title="PPO")
    return root


def test_several_protocols_get_a_chapter_each(tmp_path: Path) -> None:
    results = collect(two_protocols(tmp_path))
    made, page = make(tmp_path)
    assert len(made.chapters) == 2 == len(page.data["chapters"]) and made.runs == 10
    for chapter, suffix in zip(made.chapters, ("-1", "-2"), strict=True):
        (key,) = chapter.results.protocols
        alone = to_frame(build_table(results.select(protocol_hash=[key]), repetitions=FAST.repetitions))
        shown = page.tables[f"final{suffix}"]
        assert len(shown) == 1 + len(alone)
        assert [row[1].split(" ")[0] for row in shown[1:]] == [f"{100 * value:.1f}" for value in alone["value"]]
        section = made.html.partition(f'id="table{suffix}"')[2].partition("</section>")[0]
        other = next(one for one in results.protocols if one != key)
        assert f"hash {key}" in section and other not in section
    failed = "ppo/reach/none/gpu/seed-3"
    assert [any(problem.run == failed for problem in chapter.results.problems) for chapter in made.chapters] == [
        chapter.results.protocols[next(iter(chapter.results.protocols))]["scale"] == "gpu" for chapter in made.chapters]
    ids = re.findall(r' id="([^"]+)"', made.html)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.links if link.startswith("#") and not link.startswith("#run=")} <= set(ids)
    ppo = [{key: row[key] for key in ("color", "dash", "mark")} for row in page.data["rows"] if row["label"] == "PPO"]
    assert len(ppo) == 2 and ppo[0] == ppo[1]  # one method, one look, in both chapters
    mixed, _ = make(tmp_path, allow_mixed=True)
    assert len(mixed.chapters) == 1 and any(warned.title == "Several protocols" for warned in mixed.warnings)


def test_the_command_names_the_chapters(tmp_path: Path) -> None:
    words = ["--results", str(two_protocols(tmp_path)), "--reported", "pvdr"]
    told = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert re.search(r"chapter: PPO and PVDR \(metaworld\) on reach, protocol pvdr, scale cpu, hash \w+: 6 runs", told)
    assert re.search(r"chapter: PPO on reach, protocol pvdr, scale gpu, hash \w+: 4 runs", told)
    assert "Results under 2 protocols: 10 runs" in told
    data = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert [(chapter["title"], chapter["runs"]) for chapter in data["chapters"]] == [
        ("PPO and PVDR (metaworld) on reach", 6), ("PPO on reach", 4)]
    with pytest.raises(UsageError, match="no number is published of a method nobody"):
        CliRunner().invoke(app, [*words[:-1], "nobody"], catch_exceptions=False)
