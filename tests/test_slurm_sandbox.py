"""What the launcher relies on, seen on a real SLURM: GPUs, preemption, requeue, dead nodes, signals, arrays."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import submitit

from tests.slurm_cluster import CANNOT, Cluster, eventually

pytestmark = pytest.mark.slurm
COUNT = "echo ${SLURM_RESTART_COUNT:-0} $(hostname)"  # which start this is, and where

# Logs SIGUSR2 and SIGTERM. Its child is in a session of its own, as a worker or a subprocess may be.
WITNESS = """
import os, signal, subprocess, sys, time
role = sys.argv[1]
def log(number, frame):
    os.write(1, f"{role} {signal.Signals(number).name}\\n".encode())
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, log)
if role == "parent":
    subprocess.Popen([sys.executable, "-S", "-E", sys.argv[0], "child"], start_new_session=True)
os.write(1, f"{role} starts\\n".encode())
for _ in range(1000):
    time.sleep(0.2)
"""


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def processes(folder: Path) -> list[str]:
    """Machines of the cluster in ``folder``, by the mark in their environment."""
    mark = f"PVDR_BENCH_SLURM_MACHINE={folder}:".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if any(entry.startswith(mark) for entry in file.read_bytes().split(b"\0")):
                found.append((file.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile
            continue
    return found


def test_a_node_is_a_machine_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("hostname; getent hosts node2 controller | wc -l; srun hostname", output=tmp_path / "out")
    node = cluster.wait(job, "COMPLETED")["NodeList"]
    assert lines(tmp_path / "out") == [node, "2", node]
    assert socket.gethostname() != node


@pytest.mark.parametrize("how", ["--gres=gpu:a100:1", "--gpus-per-node=a100:1", "--gpus-per-node=1"])
def test_gpus_are_counted(cluster: Cluster, tmp_path: Path, how: str) -> None:
    script = "srun sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 2'"
    jobs = [cluster.submit(script, how, "--nodelist=node1", output=tmp_path / str(i)) for i in range(2)]
    for job in jobs:
        cluster.wait(job, "COMPLETED")
    assert sorted(lines(tmp_path / "0") + lines(tmp_path / "1")) == ["0", "1"]


def test_gpus_that_no_node_has_are_refused(cluster: Cluster) -> None:
    for how in ("--gres=gpu:a100:3", "--gres=gpu:h100:1"):
        with pytest.raises(AssertionError, match="Requested node configuration is not available"):
            cluster.submit("true", how)


def test_a_preempted_job_is_requeued_and_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"{COUNT}; srun sh -c 'trap \"\" TERM; sleep 60'"
    low = cluster.submit(script, "--nodelist=node1", "--cpus-per-task=4", output=out)
    eventually(lambda: lines(out), what="the first start")
    high = cluster.submit("sleep 1", "--partition=high", "--nodelist=node1", "--cpus-per-task=4")
    cluster.wait(high, "COMPLETED", seconds=90)
    assert cluster.wait(low, "RUNNING", seconds=30)["Restarts"] == "1"
    eventually(lambda: "1 node1" in lines(out), what="the second start")
    assert lines(out)[0] == "0 node1"
    cluster.run("scancel", low)
    cluster.wait(low, "CANCELLED")


def test_a_job_requeues_itself(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'{COUNT}; [ -n "$SLURM_RESTART_COUNT" ] || {{ scontrol requeue $SLURM_JOB_ID; sleep 60; }}'
    job = cluster.submit(script, output=out)
    assert cluster.wait(job, "COMPLETED")["Restarts"] == "1"
    assert [line.split()[0] for line in lines(out) if line[0] in "01"] == ["0", "1"]


def test_a_job_of_a_dead_node_starts_on_the_other(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = cluster.submit(f'{COUNT}; [ -n "$SLURM_RESTART_COUNT" ] || srun sleep 100', output=out)
    eventually(lambda: lines(out), what="the first start")
    first = cluster.job(job)["NodeList"]
    try:
        assert cluster.control("kill-node", first).returncode == 0
        assert cluster.control("status").returncode == 3
        end = cluster.wait(job, "COMPLETED", seconds=120)
    finally:
        assert cluster.control("up").returncode == 0  # switches it on again
    assert end["Restarts"] == "1"
    assert lines(out)[0] == f"0 {first}"
    assert lines(out)[-1] in {"1 node1", "1 node2"} - {f"1 {first}"}


def test_the_warning_before_the_time_limit_reaches_a_step_and_its_children(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "witness.py").write_text(WITNESS)
    script = f"srun python3 -S -E {tmp_path}/witness.py parent"
    job = cluster.submit(script, "--time=2", "--signal=USR2@60", output=out)
    # SLURM looks at limits every half minute: the warning comes up to a minute early.
    eventually(lambda: {"parent SIGUSR2", "child SIGUSR2"} <= set(lines(out)), 100, "SIGUSR2")
    assert set(lines(out)) == {"parent starts", "child starts", "parent SIGUSR2", "child SIGUSR2"}
    cluster.run("scancel", job)
    assert cluster.wait(job, "CANCELLED")
    eventually(lambda: {"parent SIGTERM", "child SIGTERM"} <= set(lines(out)), what="SIGTERM at scancel")


def test_an_array_keeps_its_limit(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = cluster.submit("echo start; sleep 1; echo end $SLURM_ARRAY_TASK_ID", "--array=0-4%2", output=out)
    eventually(lambda: not cluster.run("squeue", "--noheader", f"--jobs={job}"), what="the end of the array")
    running = most = 0
    for line in lines(out):
        running += 1 if line == "start" else -1
        most = max(most, running)
    assert most == 2
    assert sorted(line for line in lines(out) if line != "start") == [f"end {index}" for index in range(5)]


def test_what_waits_for_a_failed_job_goes_away(cluster: Cluster) -> None:
    first = cluster.submit("sleep 1; exit 3")
    second = cluster.submit("true", f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes")
    assert cluster.job(second)["Reason"] == "Dependency"
    assert cluster.wait(first, "FAILED")["ExitCode"] == "3:0"
    assert cluster.wait(second, "CANCELLED")["Reason"] == "DependencyNeverSatisfied"


def double(number: int) -> tuple[int, str, str]:
    return 2 * number, os.environ["SLURM_ARRAY_TASK_ID"], socket.gethostname()


def test_submitit_maps_a_function(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(time=5, gpus_per_node=1, array_parallelism=2, wckey="", use_srun=True)
    jobs = executor.map_array(double, range(3))
    # Without accounting submitit never learns that a job ended: its result file is what tells.
    eventually(lambda: all(job.paths.result_pickle.exists() for job in jobs), 120, "the results")
    results = [job.result() for job in jobs]
    assert [result[:2] for result in results] == [(0, "0"), (2, "1"), (4, "2")]
    assert {result[2] for result in results} <= {"node1", "node2"}


def test_clusters_live_apart_and_leave_nothing(cluster: Cluster) -> None:
    other = Cluster(Path(tempfile.mkdtemp(prefix="pvdr-slurm-", dir="/tmp")))
    try:
        port = cluster.run("scontrol", "show", "config").split("SlurmctldPort")[1].split()[1]
        taken = other.control("up", "--port", port)
        assert taken.returncode == 1
        assert f"port {port} is taken" in taken.stderr

        up = other.control("up", "--nodes", "1", "--gpus", "0", "--max-array", "10")
        assert up.returncode == 0, up.stderr
        assert up.stdout == f"export SLURM_CONF={other.folder}/slurm.conf\n" == other.control("env").stdout
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            other.submit("true", "--array=0-10")
        number = other.submit("setsid sleep 1000 & sleep 1000")
        other.wait(number, "RUNNING")
        assert other.control("up").returncode == 0  # once more: nothing to do
        assert other.job(number)["JobState"] == "RUNNING"

        # Crash: the controller's machine goes, its node stays. Then `up` and `down` must still work.
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"PVDR_BENCH_SLURM_MACHINE={other.folder}:controller" in (process / "environ").read_text():
                    os.kill(int(process.name), 9)
            except (OSError, UnicodeDecodeError):
                continue
        assert other.control("status").returncode == 3
        assert other.control("up").returncode == 0
        other.wait(other.submit("true"), "COMPLETED")
        assert processes(other.folder)
        assert other.control("down").returncode == 0
        assert processes(other.folder) == []
        assert other.control("down").returncode == 0
        assert cluster.control("status").returncode == 0
    finally:
        other.control("down")
        shutil.rmtree(other.folder, ignore_errors=True)


@pytest.mark.skipif(not shutil.which("slurmdbd"), reason="not installed: slurmdbd (cluster.sh install --accounting)")
def test_accounting_keeps_what_the_controller_forgets(cluster: Cluster) -> None:
    other = Cluster(Path(tempfile.mkdtemp(prefix="pvdr-slurm-", dir="/tmp")))
    try:
        up = other.control("up", "--nodes", "1", "--accounting")
        if up.returncode == CANNOT:
            pytest.skip(up.stderr.splitlines()[0])
        assert up.returncode == 0, up.stderr
        first = other.submit("exit 3", "--gres=gpu:a100:1")
        other.wait(first, "FAILED")
        fields = ["--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode,AllocTRES"]
        eventually(lambda: "FAILED" in other.run("sacct", *fields), 60, "the job's record")  # sent in its own time
        assert other.control("down").returncode == 0
        assert other.control("up", "--nodes", "1", "--accounting").returncode == 0
        number, state, code, resources = other.run("sacct", *fields).split("|")
        assert (number, state, code) == (first, "FAILED", "3:0")
        assert "gres/gpu=1" in resources
        assert int(other.submit("true")) > int(first)  # numbers go on
    finally:
        other.control("down")
        shutil.rmtree(other.folder, ignore_errors=True)


def test_bad_input_is_told(tmp_path: Path) -> None:
    here = Cluster(tmp_path)
    for arguments, message in [
        (("frob",), "no command frob"),
        (("up", "--nodes", "many"), "--nodes many: not a number"),
        (("up", "--nodes", "99"), "1 to 14"),
        (("up", "--frob", "1"), "no option --frob"),
        (("env",), "no cluster in"),
    ]:
        result = here.control(*arguments)
        assert result.returncode in (1, 2)
        assert message in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_others_than_root_are_told(tmp_path: Path) -> None:
    script = shutil.copy(Path(__file__).parents[1] / "slurm/sandbox/cluster.sh", "/tmp/pvdr-cluster-test.sh")
    try:
        line = ["setpriv", "--reuid=65534", "--clear-groups", "bash", script, "up"]
        result = subprocess.run(line, capture_output=True, text=True, timeout=30, cwd="/tmp")
    finally:
        Path(script).unlink()
    assert result.returncode == 4
    assert "up needs root" in result.stderr
