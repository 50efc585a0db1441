"""States survive exactly; checkpoints are whole, or found broken."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.errors import DataError, StorageError, UnreadableError
from pvdr_bench.runs import faults
from pvdr_bench.runs.checkpoints import CheckpointStore
from pvdr_bench.runs.state import pack, unpack
from tests.damage import refusing


def round_trip(state):
    tree, data = pack(state)
    return unpack(json.loads(json.dumps(tree, allow_nan=False)), data)


def bytes_of(tensor):
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())


def assert_same(a, b):
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert bytes_of(a) == bytes_of(b)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b) and [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert repr(a) == repr(b)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16,
          torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_tensors_of_every_dtype_and_shape(dtype, shape):
    value = (torch.arange(6, dtype=torch.float32)[: math.prod(shape)].reshape(shape) - 1).to(dtype)
    assert_same({"x": value}, round_trip({"x": value}))


def test_numpy_arrays_and_scalars():
    state = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3).T, "b": np.array(True), "c": np.float32(0.1),
             "d": np.zeros((0, 2)), "e": np.complex128(1 + 2j), "rng": np.random.default_rng(3).bit_generator.state}
    back = round_trip(state)
    assert_same(state, back)
    back["a"][0, 0] = 9  # writable
    assert_same({**state, "t": torch.ones(1)}, round_trip({**state, "t": torch.ones(1)}))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.tuples(st.integers(), st.text())
states = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
                      | st.dictionaries(keys, inner, max_size=3), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(states)
def test_any_nested_state(state):
    assert_same(state, round_trip(state))


def test_keys_that_look_alike_or_special():
    state = {1: torch.zeros(1), "1": torch.ones(1), "$": {"$": "tensor"}, "a/b": torch.ones(2),
             "a": {"b": torch.zeros(2)}, (1, "x"): None}
    assert_same(state, round_trip(state))


def test_views_and_shared_memory_keep_their_values_and_become_independent():
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base.clone())
    state = {"whole": base, "row": base[1], "column": base[:, 2], "again": base, "p": parameter}
    back = round_trip(state)
    for name in ("whole", "row", "column", "again"):
        assert torch.equal(back[name], state[name])
    assert type(back["p"]) is torch.Tensor and not back["p"].requires_grad
    back["row"].zero_()
    assert torch.equal(back["whole"], base)


def test_an_optimiser_continues_exactly():
    def make():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        return net, torch.optim.AdamW(net.parameters(), lr=torch.tensor(1e-2), amsgrad=True)

    def step(net, optimiser, generator):
        loss = net(torch.randn(5, 3, generator=generator)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    net, optimiser = make()
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        step(net, optimiser, generator)
    stored = round_trip({"net": net.state_dict(), "opt": optimiser.state_dict(), "rng": generator.get_state()})
    assert list(stored["opt"]["state"]) == [0, 1, 2, 3]
    assert stored["opt"]["param_groups"][0]["betas"] == (0.9, 0.999)
    for _ in range(3):
        step(net, optimiser, generator)
    net2, optimiser2 = make()
    net2.load_state_dict(stored["net"])
    optimiser2.load_state_dict(stored["opt"])
    generator2 = torch.Generator()
    generator2.set_state(stored["rng"])
    for _ in range(3):
        step(net2, optimiser2, generator2)
    for a, b in zip(net.parameters(), net2.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["x"]), np.array([object()]), torch.ones(2).to_sparse(),
                                   {frozenset(): 1}], ids=lambda v: type(v).__name__)
def test_what_cannot_be_stored_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match="state/a/1"):
        pack({"a": [0, value]})


def test_equal_states_give_equal_bytes():
    def state():
        return {"b": torch.arange(3), "a": {"x": torch.ones(2, dtype=torch.bfloat16), 3: 0.1}}
    assert pack(state()) == pack(state())


# The store ------------------------------------------------------------------------------------------------------------

def filled(folder, steps=(10, 20, 30), keep=2):
    store = CheckpointStore(folder, keep)
    for step in steps:
        store.save(step, {"w": torch.full((4,), float(step)), "n": step}, {"at": step})
    return store


def test_latest_gives_the_newest_and_old_ones_go(tmp_path):
    store = filled(tmp_path / "c", steps=(10, 20, 30, 40, 50))
    assert store.steps() == [30, 40, 50]  # two, and the last
    step, state, extra = store.latest()
    assert (step, state["n"], extra) == (50, 50, {"at": 50}) and torch.equal(state["w"], torch.full((4,), 50.0))
    assert CheckpointStore(tmp_path / "none").latest() is None
    assert sorted(path.name[0] for path in (tmp_path / "c").iterdir()) == ["s"] * 3


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte in tensors": lambda folder: flip(folder / "state.safetensors"),
    "flipped byte in state": lambda folder: flip(folder / "state.json"),
    "flipped byte in manifest": lambda folder: (folder / "manifest.json").write_bytes(b"{\x00"),
    "truncated": lambda folder: (folder / "state.safetensors").write_bytes(
        (folder / "state.safetensors").read_bytes()[:-3]),
    "empty": lambda folder: (folder / "state.json").write_bytes(b""),
    "missing tensors": lambda folder: (folder / "state.safetensors").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
    "folder in a file's place": lambda folder: [(folder / "state.json").unlink(), (folder / "state.json").mkdir()],
    "link to itself": lambda folder: [(folder / "state.json").unlink(),
                                      (folder / "state.json").symlink_to("state.json")],
    "manifest of a later format": lambda folder: (folder / "manifest.json").write_text('{"format": 99}'),
    "manifest that lists nothing": lambda folder: (folder / "manifest.json").write_text('{"format": 1, "files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_broken_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, damage):
    store = filled(tmp_path)
    damage(store.path(30))
    step, state, _ = store.latest()
    assert (step, state["n"]) == (20, 20)
    assert [item["checkpoint"] for item in store.broken] == ["step-000000000030"] and store.broken[0]["reason"]
    with pytest.raises(DataError, match="step-000000000030"):
        store.load(30)
    store.save(30, {"n": 31})  # the way on replaces it
    assert store.latest().state == {"n": 31} and store.broken == []


def test_when_all_are_broken_it_says_so_instead_of_starting_over(tmp_path):
    store = filled(tmp_path)
    for step in store.steps():
        flip(store.path(step) / "state.safetensors")
    with pytest.raises(DataError, match="all 3 checkpoints are broken"):
        store.latest()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE], ids=os.strerror)
@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_broken(tmp_path, name, code):
    store = filled(tmp_path)
    with refusing(store.path(30) / name, code), pytest.raises(UnreadableError) as caught:
        store.latest()
    assert caught.value.where == str(store.path(30) / name) and caught.value.exit_code == DataError.exit_code
    assert f"cannot be read: {os.strerror(code)}; it may be whole" in caught.value.message
    assert caught.value.hint.startswith("keep it") and store.broken == []
    assert store.latest().step == 30


def test_a_folder_of_checkpoints_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    store = filled(tmp_path / "c")

    def refuse(folder):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        patch.setattr(Path, "is_dir", lambda folder: False)  # as it says of every error in some versions
        for ask in (store.steps, store.latest):
            with pytest.raises(UnreadableError, match="cannot be read: Stale"):
                ask()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert [CheckpointStore(tmp_path / name).steps() for name in ("none", "file", "loop")] == [[], [], []]


def test_checkpoint_copied_to_another_step_is_broken(tmp_path):
    store = filled(tmp_path)
    shutil.copytree(store.path(10), store.path(99))
    assert store.latest().step == 30


def test_an_abandoned_future_is_removed(tmp_path):
    store = filled(tmp_path)
    flip(store.path(30) / "state.json")
    assert store.latest().step == 20
    store.save(25, {"n": 25})
    assert store.steps() == [10, 20, 25]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_full_disk_leaves_the_checkpoints_of_before(tmp_path, monkeypatch, name):
    store = filled(tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    monkeypatch.setattr(faults, "_passed", faults.Counter())
    monkeypatch.setenv(faults.FULL_AT, f"write/{name}/torn")
    with pytest.raises(StorageError, match="step-000000000040"):
        store.save(40, {"n": 40})
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert store.latest().step == 30


def test_killed_while_a_step_is_replaced_the_old_one_is_still_found(tmp_path):
    store = filled(tmp_path)
    store.path(30).rename(store.folder / ".step-000000000030.old.tmp")
    assert CheckpointStore(store.folder).latest().step == 30
    store.tidy()
    assert store.path(30).is_dir() and store.latest().state["n"] == 30
