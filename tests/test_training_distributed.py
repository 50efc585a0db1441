"""Several processes that train one offline stage do what one process does. Real processes, gloo, tiny sizes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.efficientzero.pretrain import FICCPretrainer
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.config_context import PVDRContextConfig
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.pretrain import STGPretrainer
from pvdr_bench.errors import BenchError, DataError, Interrupted, SetupError, TrainingError, UsageError
from pvdr_bench.launch.worker import StopFlag
from pvdr_bench.rl import distributed
from pvdr_bench.rl.config import Schedule
from pvdr_bench.rl.contract import OfflineLearner
from pvdr_bench.rl.distributed import Place, device_of, find_place, process_group
from pvdr_bench.rl.process_group import ALONE, ProcessGroup, current_group, wait_for
from pvdr_bench.tokenizer.learner import VQGANLearner
from pvdr_bench.training.offline import MixedClips, run_offline
from pvdr_bench.videos.windows import Drawn
from tests import processes
from tests.test_ficc import config as ficc_config
from tests.test_pvdr_context import Paint
from tests.test_training_stages import resolve, write_corpora
from tests.test_vqgan_learner import config as vqgan_config

CPU = torch.device("cpu")
STEPS, BATCH, CUT = 10, 8, 6
# What two processes may differ by from one: the order of sums in float32, and what Adam makes of it in 10 steps.
# Weights without gradient (keys' biases) move by rounding alone, and change no number.
METRIC, WEIGHT = 1e-5, 1e-3

# Who we are ---------------------------------------------------------------------------------------------------------

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
STEP = {"SLURM_JOB_ID": "1000", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_NODELIST": "gpu[03-04]"}
ONE_TASK = {**STEP, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}


@pytest.mark.parametrize(("environment", "place"), [
    ({}, Place()),
    (TORCHRUN, Place(3, 4, 1, "10.0.0.1", 29500)),
    ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, Place()),
    ({**STEP, **TORCHRUN}, Place(3, 4, 1, "10.0.0.1", 29500)),  # torchrun inside a job
    (STEP, Place(5, 8, 1, "10.0.0.7", 10_000 + (31_000 + 2) % 20_000)),
    ({**STEP, "MASTER_ADDR": "there", "MASTER_PORT": "7"}, Place(5, 8, 1, "there", 7)),
    ({**STEP, "SLURM_STEP_NODELIST": "gpu03"}, Place(5, 8, 1, "gpu03", 10_000 + (31_000 + 2) % 20_000)),
    ({k: v for k, v in STEP.items() if k != "SLURM_STEP_NUM_TASKS"},
     Place(5, 8, 1, "10.0.0.7", 10_000 + (31_000 + 2) % 20_000)),
    ({**ONE_TASK, "SLURM_ARRAY_JOB_ID": "999", "SLURM_ARRAY_TASK_ID": "4"}, Place()),
    # a batch script of eight tasks, without srun: it runs once
    ({k: v for k, v in STEP.items() if "STEP" not in k}, Place()),
])
def test_the_world_is_found_in_the_environment(environment: dict[str, str], place: Place) -> None:
    assert find_place({"PATH": "/nowhere", **environment}) == place


def test_slurm_names_the_first_host(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[03-04]" ] && echo gpu03 && echo gpu04\n')
    scontrol.chmod(0o755)
    assert find_place({**STEP, "PATH": f"{tmp_path}:{os.environ['PATH']}"}).host == "gpu03"


def test_refusals() -> None:
    for broken in ({"RANK": "x"}, {"RANK": "4"}, {"MASTER_ADDR": ""}, {"MASTER_PORT": ""}):
        with pytest.raises(SetupError):
            find_place({**TORCHRUN, **broken})
    with pytest.raises(UsageError, match="cannot share cuda:1"):
        device_of("cuda:1", Place(0, 2, 0, "h", 1))
    assert device_of("cuda:1", Place()) == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"batch of 8 does not divide by 3 processes.*\n.*1, 2, 4, 8 would do"):
        ProcessGroup(0, 3).part(8)
    with pytest.raises(DataError, match="all nodes share"):
        wait_for(Path("/nowhere/at/all"), seconds=0)


def test_parts_make_up_the_batch() -> None:
    data, rng = MixedClips([Frames(0), Frames(1)]), np.random.default_rng
    whole = data.draw(rng(3), 12, 2)
    for size in (2, 3, 4):
        parts = [data.draw(rng(3), 12, 2, part=ProcessGroup(rank, size).part(12)) for rank in range(size)]
        assert np.array_equal(np.concatenate([part.frames for part in parts]), whole.frames)
        assert np.array_equal(np.concatenate([part.start for part in parts]), whole.start)
    with process_group() as group:  # one process: nothing is started
        assert group.size == 1 and not torch.distributed.is_initialized() and current_group().size == 1


# What is trained ----------------------------------------------------------------------------------------------------


class Frames:
    """Smooth moving pictures, or codes; every clip is made from its number."""

    def __init__(self, number: int, codes: bool = False) -> None:
        self.number, self.codes = number, codes

    def windows(self, split: str | None, frames: int, stride: int = 1) -> np.ndarray:
        return np.arange(40 + 20 * self.number)

    def draw(self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1, split: str | None = "train",
             part: slice = slice(None)) -> Drawn:
        drawn = rng.integers(len(self.windows(split, frames)), size=batch)[part]
        clips = np.stack([self._clip(int(i), frames) for i in drawn]) if len(drawn) else self._clip(0, frames)[None][:0]
        return Drawn(clips, drawn)

    def _clip(self, index: int, frames: int) -> np.ndarray:
        rng = np.random.default_rng([self.number, index])
        if self.codes:
            grid = rng.integers(0, 16, (4, 4))
            return np.stack([np.roll(grid, t, 1) for t in range(frames)]).astype(np.uint16)
        still = torch.nn.functional.interpolate(torch.from_numpy(rng.random((1, 3, 4, 4))), 16, mode="bilinear")
        picture = (still[0] * 255).permute(1, 2, 0).numpy().astype(np.uint8)
        return np.stack([np.roll(picture, t, 1) for t in range(frames)])


def tokenizer(**changes: dict[str, Any]) -> Callable[[], OfflineLearner]:
    return lambda: VQGANLearner(vqgan_config(**changes), 1, CPU, 16)


PVDR = {"model": {"context_frames": 2, "future_frames": 2, "d_model": 16, "ff": 16, "heads": 2, "token_dim": 8,
                  "encoder_depth": 1, "prior_depth": 1, "decoder_depth": 1, "window": 2, "z_grid": 2, "z_dim": 4},
        "pretrain": {"steps": STEPS, "micro_batch": 3, "lr": 1e-3, "max_grad_norm": 1.0}}


def pvdr() -> OfflineLearner:
    return PVDRPretrainer(PVDRConfig.model_validate(PVDR), 1, CPU, 16, 4)


def pvdr_context() -> OfflineLearner:
    """The context's frames, masks and dropout."""
    own = {"context": {"depth": 4, "blocks": 1, "heads": 2, "dropout": 0.2}}
    return PVDRPretrainer(PVDRContextConfig.model_validate(PVDR | own), 1, CPU, 16, 4, Paint(codes=16))


def dreamer() -> OfflineLearner:
    model = {"input_size": 16, "deter": 16, "hidden": 16, "stoch": 4, "classes": 4, "cnn_depth": 4,
             "encoder_kernels": (4, 4), "decoder_kernels": (6, 6)}
    return VideoPretrainer(DreamerConfig.model_validate({"model": model, "pretrain": {"lr": 1e-3}}), 1, CPU)


def dreamer_with(model: dict[str, Any], **stage: Any) -> Callable[[], OfflineLearner]:
    """Residual networks, whose batch normalisation sees the whole batch."""
    sizes = {"input_size": 16, "deter": 16, "hidden": 16, "stoch": 4, "classes": 4, "cnn_depth": 4, "action_width": 4,
             "backbone": "resnet", "res_stages": 2, "res_blocks": 1}
    config = {"model": {**sizes, **model}, "pretrain": {"lr": 1e-3, **stage}}
    return lambda: VideoPretrainer(DreamerConfig.model_validate(config), 1, CPU)


def stg() -> OfflineLearner:
    """Dropout, batch norm, shuffled negatives of all clips, both optimisers."""
    model = {"input_size": 16, "cnn_channels": (4, 8), "cnn_kernels": (4, 4), "cnn_strides": (2, 2), "width": 16,
             "layers": 1, "heads": 2, "context": 4, "max_timestep": 12, "critic_widths": (12, 8), "init_std": 0.2,
             "cnn_form": "minecraft"}
    stage = {"lr": 1e-3, "shuffled_weight": 0.5, "critic_clip": 0.0}
    return STGPretrainer(STGConfig.model_validate({"model": model, "pretrain": stage}), 1, CPU)


def ficc() -> OfflineLearner:
    """Batch norm of pictures and rows, noise, moving averages and restarts of codes. SGD: the dense layers' biases
    before batch norm have no gradient but rounding, of which Adam makes whole steps."""
    return FICCPretrainer(ficc_config(length=3, optimiser="sgd", lr=1e-3, lr_start=1e-3, lr_final=1e-4, steps=STEPS,
                                      stage_steps=4, l1=0.01, shift=1, intensity=0.1, restart_every=2,
                                      restart_below=0.5, restart_until=0.8), 1, CPU)


CASES: dict[str, Callable[[], OfflineLearner]] = {
    # moving averages, first codes from data, restarts, foreground, discriminator, dropout
    "tokenizer": tokenizer(net={"dropout": 0.2}),
    # Groups of two channels: a bias before groups of one has no gradient but rounding, of which Adam makes whole steps.
    "tokenizer-batch-norm": tokenizer(net={"norm": "group", "block": "residual", "attention": True,
                                           "encoder_width": 64, "decoder_width": 64},
                                      codebook={"update": "gradient", "restart_below": 0.0},
                                      loss={"disc_norm": "batch"}),
    # micro-batches of 3, 3, 2 and parts of 4 and 4
    "tokenizer-pieces": tokenizer(net={"dropout": 0.2}, train={"micro_batch": 3}),
    "pvdr": pvdr,
    "pvdr-context": pvdr_context,
    "dreamer": dreamer,
    "contextwm": dreamer_with({"context": {"frame": "random", "heads": 2}}),
    # latent actions are lent from clips of the other process
    "prelar": dreamer_with({"latent_action": {"kind": "gaussian", "units": 16}}, consistency="rank"),
    "stg": stg,
    "ficc": ficc,
}
LENGTHS = {"pvdr": 4, "pvdr-context": 4, "dreamer": 5, "contextwm": 5, "prelar": 5, "stg": 5, "ficc": 3}
RESUMED = ("tokenizer", "pvdr", "dreamer", "contextwm", "prelar", "stg", "ficc")


def train(name: str, folder: Path, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """One case in this process; ranks other than 0 get a folder of their own, to see that they leave it alone."""
    group = current_group()
    schedule = Schedule(STEPS, BATCH, LENGTHS.get(name, 1), 1, 5, 4)
    own = folder if group.leads else folder.with_name(f"{folder.name}-rank-{group.rank}")
    own.mkdir(parents=True, exist_ok=True)
    return run_offline(CASES[name](), MixedClips([Frames(k, name.startswith("pvdr")) for k in range(2)]), schedule,
                       own, 3, stop)


def signalled(rank: int, at: int) -> Callable[[], bool]:
    """A flag that a real SIGTERM sets, on one rank, at one call."""
    flag, calls = StopFlag().install(), 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        if current_group().rank == rank and calls == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return flag()

    return stop


def cut(name: str, folder: Path) -> str:
    """A training that a signal to the last rank stops; what it said."""
    try:
        train(name, folder, signalled(current_group().size - 1, CUT + 1))
    except Interrupted as error:
        return error.message
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
    return "not stopped"


def session(root: Path, straight: str, stopped: str, continued: str) -> int:
    """All cases, then those to be stopped, then those to be continued, in one process of a group of any size."""
    torch.set_num_threads(1)
    said = {}
    with process_group() as group:
        for name in CASES if straight else ():
            train(name, root / straight / name)
        for name in RESUMED:
            if stopped:
                said[name] = cut(name, root / stopped / name)
            if continued:
                train(name, root / continued / name)
    if stopped:
        (root / stopped / f"said-{group.rank}.json").write_text(json.dumps(said))
    return 0


# A group whose ranks keep to themselves, in one respect each --------------------------------------------------------


def break_noise() -> None:
    """Every rank takes the first rows of the noise."""
    ProcessGroup.mine = lambda self, whole: whole[:len(whole) // self.size]  # type: ignore[method-assign]


def break_statistics() -> None:
    """Usage of codes, and with it perplexity and moving averages, is each rank's own."""
    def add(self: VQGANLearner, sums: Any) -> None:
        self.group.sum_tensors([*sums.main, *(sums.gan or []), *(sums.disc or []), *sums.terms.values()])

    VQGANLearner._add_ranks = add  # type: ignore[method-assign]


def break_dropout() -> None:
    """Masks are drawn for a rank's own rows."""
    VQGANLearner._place_rows = lambda self, piece: None  # type: ignore[method-assign]


def break_batch_norm() -> None:
    """The discriminator sees a rank's own rows."""
    from pvdr_bench.tokenizer.shared import SharedBatchNorm

    SharedBatchNorm.group = property(  # type: ignore[assignment]
        lambda self: ALONE, lambda self, value: None)


BROKEN = {"noise": (break_noise, "pvdr"), "noise-dreamer": (break_noise, "dreamer"),
          "noise-contextwm": (break_noise, "contextwm"), "noise-pvdr-context": (break_noise, "pvdr-context"),
          "batch-norm-prelar": (break_batch_norm, "prelar"),
          "statistics": (break_statistics, "tokenizer"), "dropout": (break_dropout, "tokenizer-pieces"),
          "batch-norm": (break_batch_norm, "tokenizer-batch-norm")}


def broken_session(root: Path) -> int:
    """Each case of BROKEN in a group of two."""
    torch.set_num_threads(1)
    kept = (ProcessGroup.mine, VQGANLearner._add_ranks, VQGANLearner._place_rows)
    with process_group():
        for name, (break_it, case) in BROKEN.items():
            break_it()
            train(case, root / "broken" / name)
            ProcessGroup.mine, VQGANLearner._add_ranks, VQGANLearner._place_rows = kept  # type: ignore[method-assign]
    return 0


# Running them -------------------------------------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_world(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [processes.start(function, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common)
            for rank in range(size)]


def run_world(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 600) -> list[int | None]:
    """Exit codes by rank; None: it hangs (and is killed)."""
    started = start_world(size, function, *arguments)
    deadline = time.monotonic() + seconds
    for process in started:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and ``two`` straight, ``two-one`` and ``one-two`` with a change of processes on the way."""
    root = tmp_path_factory.mktemp("worlds")
    assert run_world(2, session, root, "two", "two-one", "") == [0, 0]
    assert run_world(1, session, root, "one", "one-two", "two-one") == [0]
    assert run_world(2, session, root, "", "", "one-two") == [0, 0]
    return root


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def distance(a: Path, b: Path) -> tuple[float, float]:
    """Largest difference of a logged number, relative to its size (at least 1), and of a weight."""
    ours, theirs = rows(a), rows(b)
    assert [sorted(row) for row in ours] == [sorted(row) for row in theirs] and len(ours) >= STEPS
    metric = max(abs(row[name] - other[name]) / max(1.0, abs(other[name]))
                 for row, other in zip(ours, theirs, strict=True) for name in row)
    weights, others = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert weights.keys() == others.keys()
    return metric, max(float((weights[name].double() - others[name].double()).abs().max()) for name in weights)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(trained: Path, name: str) -> None:
    metric, weight = distance(trained / "two" / name, trained / "one" / name)
    print(f"{name}: numbers {metric:.1e}, weights {weight:.1e}")
    assert metric < METRIC and weight < WEIGHT, (metric, weight)


@pytest.mark.parametrize("way", ["two-one", "one-two"])
@pytest.mark.parametrize("name", RESUMED)
def test_another_number_of_processes_goes_on(trained: Path, name: str, way: str) -> None:
    metric, weight = distance(trained / way / name, trained / "one" / name)
    print(f"{name}, {way}: numbers {metric:.1e}, weights {weight:.1e}")
    assert metric < METRIC and weight < WEIGHT, (metric, weight)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(trained: Path) -> None:
    for way, size in (("two-one", 2), ("one-two", 1)):
        for rank in range(size):
            said = json.loads((trained / way / f"said-{rank}.json").read_text())
            assert said == dict.fromkeys(RESUMED, f"stopped at step {CUT} of {STEPS}")


def test_only_rank_0_writes(trained: Path) -> None:
    others = [path for path in trained.rglob("*-rank-1") if path.is_dir()]
    assert len(others) >= len(CASES) and not any(list(path.iterdir()) for path in others)


def test_ranks_that_keep_to_themselves_are_noticed(trained: Path) -> None:
    assert run_world(2, broken_session, trained) == [0, 0]
    for name, (_, case) in BROKEN.items():
        metric, weight = distance(trained / "broken" / name, trained / "one" / case)
        assert metric > 100 * METRIC and weight > WEIGHT, (name, metric, weight)


# Failing ------------------------------------------------------------------------------------------------------------


def failing(root: Path, how: str) -> int:
    """Rank 1 fails in a training; what each rank says goes to a file, its exit code is the error's."""
    distributed.GRACE_SECONDS = 1.0  # in this process, which was spawned for it
    try:
        with process_group() as group:
            if how == "asleep" and group.leads:
                time.sleep(600)
            if how == "asleep":
                raise TrainingError("the loss is nan")

            def stop() -> bool:
                if group.rank == 1 and how != "killed":
                    raise TrainingError("the loss is nan")
                if group.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return False

            train("dreamer", root / how, stop)
    except BenchError as error:
        (root / f"{how}-{group.rank}").write_text(str(error))
        return error.exit_code
    return 0


@pytest.mark.parametrize(("how", "codes"), [("raises", [8, 8]), ("asleep", [8, 8]), ("killed", [8, -9])])
def test_a_failing_rank_brings_the_others_down(tmp_path: Path, how: str, codes: list[int]) -> None:
    assert run_world(2, failing, tmp_path, how, seconds=90) == codes
    if how == "raises":
        assert "rank 1 on" in (tmp_path / "raises-0").read_text()
        assert "failed: the loss is nan" in (tmp_path / "raises-0").read_text()
    if how == "killed":
        assert "another process is gone" in (tmp_path / "killed-0").read_text()


# The command --------------------------------------------------------------------------------------------------------


def test_torchrun_makes_the_artefacts_of_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 finds, locks, makes tokens and publishes; both train. The weights are close to those of one process."""
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("pvdr_bench.runs.artefacts.shipped_artefacts", lambda: [])
    write_corpora(tmp_path, resolve("pvdr"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(),
               "-m", "pvdr_bench", "pretrain", "--method", "pvdr", "--task", "reach", "--scale", "smoke",
               "--device", "cpu", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300,
                            env={**os.environ, "PVDR_BENCH_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr
    assert "2 processes" in answer.stderr and answer.stderr.count("making: pretrain") >= 1
    made = {entry["stage"]: Path(entry["path"]) for entry in json.loads(answer.stdout)}
    assert set(made) == {"tokenize", "pretrain"}
    assert json.loads((made["pretrain"] / "metrics.json").read_text())["processes"] == 2
    from pvdr_bench.training.stages import Stages

    alone = Stages(resolve("pvdr"), fresh=True).artefact("tokenize")
    ours, theirs = load_file(made["tokenize"] / "model.safetensors"), alone.weights()
    assert close(ours, theirs) and "processes" not in alone.metrics()


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name].double(), b[name].double(), atol=1e-4) for name in b)
