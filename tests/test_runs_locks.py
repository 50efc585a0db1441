"""Locks: two never win, a refusal names the holder, a dead holder is replaced."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from pvdr_bench.errors import Interrupted, LockedError, UnreadableError
from pvdr_bench.runs import guard
from pvdr_bench.runs.holders import certainly_gone, identity, process_alive
from pvdr_bench.runs.locks import FileLock

FORK = multiprocessing.get_context("fork")


def write_lock(path, **changes):
    holder = {**identity(), **changes}
    path.write_text(json.dumps(holder))
    return holder


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def test_second_process_is_refused_and_told_who_holds_it(tmp_path):
    path = tmp_path / "lock"
    code = (f"import sys,time; from pathlib import Path; from pvdr_bench.runs.locks import FileLock\n"
            f"FileLock(Path({str(path)!r})).acquire(); print('held', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught:
            FileLock(path, "run X").acquire()
        assert "run X" in str(caught.value) and str(child.pid) in str(caught.value)
        assert os.uname().nodename in str(caught.value) and caught.value.exit_code == 6
        child.send_signal(signal.SIGKILL)
        while process_alive(child.pid):  # killed, but not waited for: a zombie is dead
            time.sleep(0.01)
        lock = FileLock(path)
        with lock:
            assert lock.taken_over is not None and lock.taken_over["pid"] == child.pid
    finally:
        child.kill()
        child.wait()
    assert not path.exists()


def test_the_same_process_cannot_take_it_twice(tmp_path):
    first = FileLock(tmp_path / "lock")
    with first:
        with pytest.raises(LockedError):
            first.acquire()
        with pytest.raises(LockedError):
            FileLock(tmp_path / "lock").acquire()
    with FileLock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


def test_a_wait_ends_with_the_lock_or_with_a_stop(tmp_path, monkeypatch):
    holder, lock, told, polls = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock", "tokens X"), [], []

    def sleep(seconds):
        polls.append(seconds)
        if len(polls) == 3:
            holder.release()

    monkeypatch.setattr("pvdr_bench.runs.locks.time.sleep", sleep)
    with holder:
        with pytest.raises(Interrupted, match="stopped while it waited for tokens X") as caught:
            lock.wait(lambda: len(polls) == 2, 0.5, told.append)
        assert caught.value.exit_code == 75 and not lock.held and polls == [0.5, 0.5]
        lock.wait(lambda: False, 0.5)
        assert lock.held and not holder.held and len(polls) == 3
    lock.release()
    assert len(told) == 1 and f"waiting for tokens X, made by process {os.getpid()} on" in told[0]


@pytest.mark.parametrize("changes", [{"pid": None}, {"start": "1"}], ids=["dead process", "reused process id"])
def test_stale_lock_of_this_host_is_taken_at_once(tmp_path, changes):
    if changes.get("pid", 0) is None:
        changes = {"pid": dead_pid()}
    write_lock(tmp_path / "lock", **changes)
    with FileLock(tmp_path / "lock") as lock:
        assert lock.taken_over is not None and json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"scope": identity()["scope"] + "x"}],
                         ids=["other host", "other container"])
def test_elsewhere_the_heartbeat_decides(tmp_path, changes):
    path = tmp_path / "lock"
    write_lock(path, **changes, pid=dead_pid(), job="77")
    with pytest.raises(LockedError, match="job 77"):
        FileLock(path, stale_minutes=5).acquire()
    old = time.time() - 301
    os.utime(path, (old, old))
    with FileLock(path, stale_minutes=5) as lock:
        assert lock.taken_over is not None


def test_reboot_and_requeue_make_a_holder_certainly_gone():
    me = identity()
    _, space, namespace = me["scope"].partition(" ")
    assert certainly_gone({**me, "scope": f"other{space}{namespace}"}, me) is True
    assert certainly_gone(me, me) is False
    requeued = {**me, "host": "b", "job": "9", "restarts": 1}
    assert certainly_gone({**me, "job": "9", "restarts": 0}, requeued) is True
    assert certainly_gone({**me, "job": "8", "restarts": 0}, requeued) is None


def test_damaged_lock_is_respected_while_its_heartbeat_is_young(tmp_path):
    path = tmp_path / "lock"
    path.write_text("")
    with pytest.raises(LockedError):
        FileLock(path).acquire()
    os.utime(path, (0, 0))
    with FileLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_holder_beats(tmp_path):
    path = tmp_path / "lock"
    with FileLock(path, beat_seconds=0.02):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_a_holder_that_was_replaced_finds_out_and_leaves_the_other_alone(tmp_path):
    path = tmp_path / "lock"
    lock = FileLock(path)
    lock.acquire()
    lock.check()
    write_lock(path, host="thief")
    with pytest.raises(LockedError, match="thief"):
        lock.check()
    assert not lock.held
    lock.release()
    assert json.loads(path.read_text())["host"] == "thief"


def test_a_forked_child_does_not_release(tmp_path):
    path = tmp_path / "lock"
    lock = FileLock(path)
    lock.acquire()
    child = FORK.Process(target=lock.release)
    child.start()
    child.join()
    assert path.exists() and lock.held
    lock.release()
    assert not path.exists()


def _race(path, barrier, finish, results):
    lock = FileLock(path)
    barrier.wait()
    try:
        lock.acquire()
    except LockedError:
        results.put(False)
        return
    results.put(True)
    finish.wait()
    lock.release()


@pytest.mark.parametrize(("count", "flock"), [(6, True), (2, False)])
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_racing_processes_exactly_one_wins(tmp_path, monkeypatch, count, flock, stale):
    if not flock:
        monkeypatch.setattr(guard, "_flock", lambda descriptor: True)
    for attempt in range(8):
        path = tmp_path / f"lock{attempt}"
        if stale:
            write_lock(path, start="1")
        barrier, finish, results = FORK.Barrier(count), FORK.Event(), FORK.Queue()
        children = [FORK.Process(target=_race, args=(path, barrier, finish, results)) for _ in range(count)]
        for child in children:
            child.start()
        won = [results.get(timeout=30) for _ in children]
        finish.set()
        for child in children:
            child.join(30)
        assert sum(won) == 1
        assert not path.exists()


def test_a_lock_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    """A failing disk says nothing of who holds it: nothing is written then, and the next look decides."""
    lock = FileLock(tmp_path / "lock", "the run")
    with lock:
        def failing(*_):
            raise UnreadableError("cannot be read: Input/output error", where=str(lock.path))
        with monkeypatch.context() as broken:
            broken.setattr("pvdr_bench.runs.locks.read", failing)
            lock.beat()
            assert lock.held
            with pytest.raises(UnreadableError, match="Input/output"):
                lock.check()
            lock.check(every_seconds=1e-9)  # of a row or a heartbeat
        lock.check()
        assert lock.held
