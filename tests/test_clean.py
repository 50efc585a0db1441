"""``clean``: what nobody stands on goes into the trash, when asked and old; all else stays, whoever looks."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.main import app
from pvdr_bench.errors import DataError, StorageError, TrainingError, UsageError
from pvdr_bench.launch.needs import claim
from pvdr_bench.runs import artefacts as artefacts_module
from pvdr_bench.runs.artefacts import MODEL, Artefact, ArtefactStore
from pvdr_bench.runs.cleaning import discard_artefact, fresh_trash, idle_artefacts, own_artefacts
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.folders import loose_runs
from pvdr_bench.runs.holders import identity
from pvdr_bench.runs.users import User, entries, users_folder
from pvdr_bench.training.stages import Stages
from tests.damage import refusing
from tests.dummies import make_spec
from tests.results_runs import finish, make_run, unsealed

FORK = multiprocessing.get_context("fork")
STAGE, NAME, RECIPE = "tokenize", "t-smoke", {"size": 1}


def make(folder: Path, check: Any = None) -> dict[str, Any]:
    (folder / MODEL).write_bytes(b"weights")
    return {"loss": 1.0}


def clean(*words: str | Path) -> Any:
    done = CliRunner().invoke(app, ["clean", *map(str, words), "--yes", "--json"], catch_exceptions=False)
    return json.loads(done.output)


def reasons(told: Any) -> list[str]:
    return [row["reason"] for row in told["kept"]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtefactStore:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "empty").mkdir()
    return ArtefactStore()


@pytest.fixture
def artefact(store: ArtefactStore) -> Artefact:
    return store.build(STAGE, NAME, RECIPE, make)


def stand_on(artefact: Artefact, results: Path, seed: int = 0) -> RunDir:
    """A run as a worker makes it: registered, opened, its artefacts written down."""
    spec = make_spec(seed=seed)
    ArtefactStore().claim(STAGE, NAME, RECIPE, User.run(results, spec))
    run_dir = RunDir(spec.path(results))
    run_dir.open(spec)
    (run_dir.path / "artefacts.json").write_text(json.dumps({STAGE: artefact.reference}))
    return run_dir


def forget_process(artefact: Artefact, seconds: float = 0.0) -> None:
    """Let the processes that registered be dead, and have registered some time ago."""
    for entry in entries(artefact.path):
        value = json.loads(entry.path.read_text())
        value["process"]["start"], value["time"] = "1", value["time"] - seconds
        entry.path.write_text(json.dumps(value))


def test_artefacts_that_another_results_folder_stands_on_stay(artefact: Artefact, tmp_path: Path) -> None:
    run = stand_on(artefact, tmp_path / "results")
    forget_process(artefact)
    told = clean("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    assert told["artefacts"] == [] and reasons(told) == [f"{run.path} stands on it"] and artefact.path.is_dir()
    (run.path / "artefacts.json").write_text(json.dumps({STAGE: artefact.reference | {"hash": "another"}}))
    told = clean("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    assert told["kept"] == [] and not artefact.path.exists()
    target = Path(told["artefacts"][0]["moved_to"])
    assert target.parent.parent.parent == tmp_path / "data" / "trash" and (target / MODEL).read_bytes() == b"weights"
    assert (target.parent.parent / "users" / STAGE / target.name).is_dir() and not users_folder(artefact.path).exists()
    target.rename(artefact.path)  # moved back, it is as it was
    assert ArtefactStore().find(STAGE, NAME, RECIPE) == artefact


def test_runs_below_the_results_folder_count_though_they_never_registered(artefact: Artefact, tmp_path: Path) -> None:
    run = stand_on(artefact, tmp_path / "results")
    finish(run, 64)
    for entry in entries(artefact.path):
        entry.path.unlink()
    told = clean("--results", tmp_path / "results", "--artefacts", "--older-than", "0")
    assert reasons(told) == [f"{run.path} stands on it"]
    assert len(clean("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")["artefacts"]) == 1


def test_what_a_starting_run_just_made_stays(artefact: Artefact, tmp_path: Path) -> None:
    """It has registered and has no folder yet; when its process dies before that, nobody is left."""
    words = ("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    code = ("import sys\nfrom pathlib import Path\nfrom pvdr_bench.runs.artefacts import ArtefactStore\n"
            "from pvdr_bench.runs.users import User\n"
            f"ArtefactStore().claim({STAGE!r}, {NAME!r}, {RECIPE!r}, User(Path('/nowhere'), ('a/b/c/d/seed-0',)))\n"
            "print('claimed', flush=True)\nsys.stdin.read()")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "claimed\n"
    told = clean(*words)
    assert told["artefacts"] == [] and f"process {child.pid}" in reasons(told)[0] and artefact.path.is_dir()
    child.communicate()
    assert len(clean(*words)["artefacts"]) == 1 and not artefact.path.exists()


def test_a_run_that_has_not_written_what_it_stands_on_counts(artefact: Artefact, tmp_path: Path) -> None:
    run = stand_on(artefact, tmp_path / "results")
    forget_process(artefact)
    (run.path / "artefacts.json").unlink()
    words = ("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    assert "stands on it" in reasons(clean(*words))[0]
    (run.path / "artefacts.json").write_text("{")  # damaged: no proof that it stands on nothing
    assert "stands on it" in reasons(clean(*words))[0]


def test_only_when_asked_and_only_old_ones(artefact: Artefact, tmp_path: Path) -> None:
    results = ("--results", tmp_path / "empty")
    assert clean(*results)["artefacts"] == [] and artefact.path.is_dir()
    assert "0.0 days ago" in reasons(clean(*results, "--artefacts"))[0] and artefact.path.is_dir()
    long_ago = time.time() - 8 * 86400
    os.utime(artefact.path / "manifest.json", (long_ago, long_ago))
    ArtefactStore().claim(STAGE, NAME, RECIPE, User())  # as `pretrain` does
    forget_process(artefact, 3 * 86400)
    assert "3.0 days ago" in reasons(clean(*results, "--artefacts"))[0] and artefact.path.is_dir()
    forget_process(artefact, 5 * 86400)
    assert len(clean(*results, "--artefacts")["artefacts"]) == 1 and not artefact.path.exists()


def test_locks_unreadable_users_and_unseen_hosts_keep_an_artefact(artefact: Artefact, store: ArtefactStore,
                                                                   tmp_path: Path) -> None:
    words = ("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    with store.building_lock(artefact.path):
        assert reasons(clean(*words)) == ["a process makes it anew"]
    users = users_folder(artefact.path)
    users.mkdir(parents=True)
    (users / "x.json").write_text('{"runs": 3}')
    assert "its users cannot be read" in reasons(clean(*words))[0]
    entry = {"results": "/far/away", "runs": ["a"], "time": 0.0, "process": identity() | {"host": "node-7"}}
    (users / "x.json").write_text(json.dumps(entry))
    assert reasons(clean(*words)) == ["/far/away of host node-7 cannot be seen from here"]
    (users / "x.json").write_text(json.dumps(entry | {"results": str(tmp_path)}))
    assert len(clean(*words)["artefacts"]) == 1


def test_links_and_shipped_artefacts_are_never_touched(artefact: Artefact, store: ArtefactStore, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    outside = tmp_path / "outside"
    artefact.path.rename(outside)
    artefact.path.symlink_to(outside)
    assert clean(*words) == {"runs": [], "artefacts": [], "kept": []} and (outside / MODEL).exists()
    artefact.path.unlink()
    outside.rename(artefact.path)
    monkeypatch.setattr(artefacts_module, "shipped_artefacts", lambda: [tmp_path / "data" / "artefacts"])
    assert clean(*words) == {"runs": [], "artefacts": [], "kept": []}
    monkeypatch.setattr(artefacts_module, "shipped_artefacts", list)
    (tmp_path / "data" / "trash").symlink_to(tmp_path / "empty")
    with pytest.raises(DataError, match="link that leads elsewhere"):
        clean(*words)
    with pytest.raises(DataError, match="link that leads elsewhere"):
        clean("--results", tmp_path / "empty", "--empty-trash")
    assert artefact.path.is_dir() and not list((tmp_path / "empty").iterdir())


def test_shipped_artefacts_are_not_written_to(tmp_path: Path) -> None:
    shipped = ArtefactStore(tmp_path / "shipped", shipped=[])
    shipped.build(STAGE, NAME, RECIPE, make)
    store = ArtefactStore(tmp_path / "own", shipped=[shipped.root])
    before = sorted(shipped.root.rglob("*"))
    assert store.claim(STAGE, NAME, RECIPE, User(tmp_path, ("a",))) == ""
    assert sorted(shipped.root.rglob("*")) == before and not store.root.exists()
    store.claim(STAGE, NAME, RECIPE, User(tmp_path, ("a",)), fresh=True)
    assert len(entries(store.path(STAGE, NAME, RECIPE))) == 1


def test_a_data_folder_that_cannot_be_written_is_used_and_says_so(artefact: Artefact, store: ArtefactStore,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, user: User) -> None:
        raise StorageError("cannot write: Read-only file system", where=str(path))

    monkeypatch.setattr(artefacts_module, "register", refuse)
    assert "cannot see this run" in store.claim(STAGE, NAME, RECIPE, User())
    with pytest.raises(StorageError):  # it would have to be made there
        store.claim(STAGE, NAME, {"size": 2}, User())


def test_the_same_runs_have_one_entry(artefact: Artefact, store: ArtefactStore, tmp_path: Path) -> None:
    for runs in (("a",), ("a",), ("a", "b")):
        store.claim(STAGE, NAME, RECIPE, User(tmp_path, runs))
    found = entries(artefact.path)
    assert sorted(entry.runs for entry in found) == [("a",), ("a", "b")]
    assert {entry.process["host"] for entry in found} == {identity()["host"]}


def test_an_artefact_may_have_another_name(artefact: Artefact, store: ArtefactStore, tmp_path: Path) -> None:
    """One recipe is one artefact at all scales: its users and its maker's lock are those of its hash."""
    words = ("--results", tmp_path / "empty", "--artefacts", "--older-than", "0")
    assert store.find(STAGE, "t-quick", RECIPE) == artefact
    store.claim(STAGE, "t-quick", RECIPE, User(tmp_path / "results", ("a",)))
    assert f"process {os.getpid()}" in reasons(clean(*words))[0]
    forget_process(artefact)

    def look(folder: Path, check: Any) -> dict[str, Any]:
        assert reasons(clean(*words)) == ["a process makes it anew"]
        return make(folder)

    store.build(STAGE, "t-quick", RECIPE, look, fresh=True)
    assert len(clean(*words)["artefacts"]) == 1 and not artefact.path.exists()


def _claim_and_use(root: Path, name: str, tries: int, lost: Any) -> None:
    for i in range(tries):
        store = ArtefactStore(root, shipped=[])
        store.claim(STAGE, NAME, RECIPE, User(root, (f"{name}-{i}",)))
        found = store.build(STAGE, NAME, RECIPE, make, poll_seconds=0.01)
        time.sleep(0.005)
        if not found.model.exists():
            lost.put(name)


def test_what_a_process_found_after_it_registered_never_goes(tmp_path: Path) -> None:
    """Many processes make and use an artefact while another cleans as fast as it can."""
    root, lost = tmp_path / "artefacts", FORK.Queue()
    store = ArtefactStore(root, shipped=[])
    (tmp_path / "empty").mkdir()
    taken = 0
    for generation in range(4):
        users = [FORK.Process(target=_claim_and_use, args=(root, f"{generation}-{k}", 5, lost)) for k in range(3)]
        for user in users:
            user.start()
        alive = True
        while alive:  # and once more when all of them have ended, and left no run
            alive = any(user.is_alive() for user in users)
            for found in idle_artefacts(store, tmp_path / "empty", 0.0)[0]:
                trash = fresh_trash(tmp_path / "trash")
                taken += discard_artefact(found, store, tmp_path / "empty", 0.0, trash) is not None
        assert [user.exitcode for user in users] == [0] * 3
        assert list(own_artefacts(store)) == []
    assert lost.empty() and taken >= 4


def test_every_command_registers_before_the_stage_opens(store: ArtefactStore, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    def build(self: ArtefactStore, stage: str, name: str, recipe: Any, *_: Any, **__: Any) -> Artefact:
        seen.extend((str(entry.results), entry.runs) for entry in entries(self.path(stage, name, recipe)))
        raise TrainingError("enough")

    monkeypatch.setattr(ArtefactStore, "build", build)
    chosen = ["--method", "ppo", "--task", "reach", "--scale", "smoke", "--device", "cpu"]
    results = str(tmp_path / "results")
    assert CliRunner().invoke(app, ["run", *chosen, "--results", results]).exit_code == TrainingError("").exit_code
    with pytest.raises(TrainingError):
        CliRunner().invoke(app, ["pretrain", *chosen], catch_exceptions=False)
    mine = (results, ("ppo/reach/none/smoke/seed-0",))
    assert seen[0] == mine and sorted(seen[1:]) == sorted([mine, ("None", ())])
    specs = [load_catalog().resolve("ppo", "reach", seed, "smoke") for seed in (3, 4)]
    user = User(tmp_path / "queue", tuple(str(spec.path("")) for spec in specs))
    claim(specs, user, load_catalog())  # as `submit` does
    stages = Stages(specs[0])
    node = stages.node("tokenize")
    assert user.runs in [entry.runs for entry in entries(store.path("tokenize", node.name, stages.recipe(node, {})))]


# Runs ----------------------------------------------------------------------------------------------------------------


def test_broken_runs_go_to_the_trash_and_nothing_reads_it(store: ArtefactStore, tmp_path: Path) -> None:
    results, runs = tmp_path / "results", dict[str, RunDir]()
    for seed, name in enumerate(("whole", "failed", "empty", "broken", "awaited", "running")):
        runs[name] = RunDir(make_spec(seed=seed).path(results))
        runs[name].open(make_spec(seed=seed))
    finish(runs["whole"], 64)
    runs["failed"].mark_failed(ValueError("no luck"))
    (runs["broken"].path / "run.yaml").write_text("recipe: [")
    (runs["awaited"].path / "job.json").write_text("{}")
    with runs["running"].lock():
        told = clean("--results", results, "--dry-run")
        by_path = {Path(row["path"]): row for row in told["runs"]}
        assert set(by_path) == {runs[name].path for name in ("failed", "empty", "broken")}
        assert "no luck" in by_path[runs["failed"].path]["reason"] and all(path.exists() for path in by_path)
        told = clean("--results", results)
    for row in told["runs"]:
        target = Path(row["moved_to"])
        assert not Path(row["path"]).exists() and target.is_relative_to(results / ".trash")
        assert (target / "run.yaml").exists() and not (target / "lock").exists()
    left = {path for _, path in loose_runs(results)}
    assert left == {runs[name].path for name in ("whole", "awaited", "running")}
    for words in ("status --json", "list runs --json"):
        assert ".trash" not in CliRunner().invoke(app, [*words.split(), "--results", str(results)]).output
    back = next(Path(row["moved_to"]) for row in told["runs"] if "no luck" in row["reason"])
    back.rename(runs["failed"].path)
    assert "no luck" in str(runs["failed"].failed())


def test_what_is_broken_to_the_commands_that_list_it_goes_too(store: ArtefactStore, tmp_path: Path) -> None:
    results = tmp_path / "results"
    short, edited, whole = (make_run(results, [0.5], seed=seed) for seed in range(3))
    log = unsealed(short) / "episodes.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    (edited / "train.jsonl").write_text('{"env_steps": 8000}\n')
    listed = json.loads(CliRunner().invoke(app, ["list", "runs", "--results", str(results), "--json"]).output)
    assert {row["run"].rpartition("/")[2]: row["status"] for row in listed} == {
        "seed-0": "broken", "seed-1": "broken", "seed-2": "done"}
    told = clean("--results", results)["runs"]
    assert {Path(row["path"]): row["reason"].partition(" was not")[0] for row in told} == {
        short: "broken: episodes.jsonl has 99 of the 100 episodes of the final evaluation",
        edited: "broken: train.jsonl"}
    assert all(Path(row["moved_to"]).is_dir() for row in told) and [path for _, path in loose_runs(results)] == [whole]


@pytest.mark.parametrize("name", ["run.yaml", "done.json", "train.jsonl"])
def test_a_run_that_cannot_be_read_now_stays(store: ArtefactStore, tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    path = make_run(results, [0.5])
    (path / "train.jsonl").write_text('{"env_steps": 8000}\n')
    with refusing(path / name):
        assert clean("--results", results)["runs"] == []
    assert [Path(row["path"]) for row in clean("--results", results)["runs"]] == [path]


def test_the_trash_is_emptied_only_when_asked(store: ArtefactStore, artefact: Artefact, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    RunDir(make_spec().path(results)).open(make_spec())
    clean("--results", results, "--artefacts", "--older-than", "0")
    trash = (results / ".trash", tmp_path / "data" / "trash")
    assert all(path.is_dir() for path in trash)
    (trash[0] / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty" / "precious").write_text("x")
    words = ["clean", "--results", str(results)]
    assert "nothing to remove" in CliRunner().invoke(app, words).output
    monkeypatch.setattr("typer.confirm", lambda question: False)
    assert "nothing was moved" in CliRunner().invoke(app, [*words, "--empty-trash"]).output
    assert str(trash[0]) in CliRunner().invoke(app, [*words, "--empty-trash", "--dry-run"]).output
    assert all(path.is_dir() for path in trash)
    told = clean("--results", results, "--empty-trash")
    assert set(told["deleted"]) == set(map(str, trash)) and not any(path.exists() for path in trash)
    assert (tmp_path / "empty" / "precious").exists()
    assert "the trash is empty" in CliRunner().invoke(app, [*words, "--empty-trash"]).output


def test_refusals_and_words(store: ArtefactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["clean", "--results", str(tmp_path / "results")]
    run = RunDir(make_spec().path(tmp_path / "results"))
    run.open(make_spec())
    for more, message in ((["--json"], "cannot ask"), (["--empty-trash", "--artefacts"], "moves no artefacts")):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
    monkeypatch.setattr("typer.confirm", lambda question: "Move 1 folder " not in question)
    assert "nothing was moved" in CliRunner().invoke(app, words).output and run.path.is_dir()
    told = CliRunner().invoke(app, [*words, "--yes"]).output
    assert f"{run.path}  (stopped before its first checkpoint; 0.0 MiB)" in told and f"{run.path} -> " in told
