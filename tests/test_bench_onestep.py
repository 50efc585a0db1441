"""``bench onestep``: each stage makes one whole step, in micro-batches, and says what it took."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.bench.onestep import measure
from pvdr_bench.errors import UsageError


def test_one_step_of_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[dict[str, Any]] = []
    learn = PVDRLearner.learn
    monkeypatch.setattr(PVDRLearner, "learn", lambda self: rounds.append({
        "before": self.ppo.updates, "metrics": learn(self), "after": self.ppo.updates}) or rounds[-1]["metrics"])
    threads = torch.get_num_threads()
    found = measure("smoke")
    assert torch.get_num_threads() == threads
    online = found["online"]
    for cost in (found["tokenizer"], found["pretrain"], online["decision"], online["finetune"], online["policy"]):
        assert cost["seconds"] > 0 and cost["resident_gib"] > 0.05 and cost["device_gib"] is None
    assert found["tokenizer"]["parameters"] > 1000 and math.isfinite(found["pretrain"]["metrics"]["loss"])
    fine_tuning, policy = rounds  # one step each: as many clips and decisions as a batch holds
    assert fine_tuning["metrics"]["e1_clips"] == found["online"]["finetune_batch"] and fine_tuning["after"] == 0
    assert policy["after"] == 1 and math.isfinite(policy["metrics"]["policy_loss"])


def test_some_stages_alone() -> None:
    found = measure("smoke", stages=("pretrain",), micro_batch=3)
    assert {"tokenizer", "pretrain", "online"} & found.keys() == {"pretrain"} and found["pretrain"]["micro_batch"] == 3
    assert found["pretrain"]["batch"] > 3 and found["pretrain"]["dtype"] == "float32"
    with pytest.raises(UsageError, match="no stage onlin"):
        measure("smoke", stages=("onlin",))


@pytest.mark.parametrize("method", ["pvdr", "pvdr-context"])
def test_another_batch_and_precision(method: str) -> None:
    found = measure("smoke", batch=4, micro_batch=2, dtype="bfloat16", method=method)
    for stage in ("tokenizer", "pretrain"):
        assert (found[stage]["batch"], found[stage]["micro_batch"], found[stage]["dtype"]) == (4, 2, "bfloat16")
    online = found["online"]
    assert (online["finetune_batch"], online["minibatch"], online["dtype"]) == (4, 4, "bfloat16")
    assert online["finetune"]["metrics"]["e1_clips"] == 4
    with pytest.raises(UsageError, match="no dtype float8"):
        measure("smoke", dtype="float8")
