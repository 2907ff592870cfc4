"""A checkpoint comes back equal, is there whole or not at all, and damage is told."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import CheckpointError
from offramp.train import checkpoint
from offramp.train.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, order of keys, dtype, shape and every bit."""
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and bits(one) == bits(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and repr(one) == repr(other)


def bits(tensor: Tensor) -> bytes:
    return tensor.resolve_conj().contiguous().flatten().view(torch.uint8).numpy().tobytes()


TENSORS = {
    "float32": torch.randn(3, 4),
    "float64": torch.randn(2, dtype=torch.float64),
    "bfloat16": torch.randn(5).bfloat16(),
    "half": torch.randn(5).half(),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.arange(256).to(torch.uint8),
    "bool": torch.tensor([[True], [False]]),
    "complex": torch.randn(2, dtype=torch.complex64),
    "conjugate": torch.randn(2, dtype=torch.complex64).conj(),
    "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3, dtype=torch.int32),
    "not finite": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "transposed": torch.arange(6).reshape(2, 3).t(),
    "strided": torch.arange(10)[::3],
    "expanded": torch.tensor([1.0]).expand(4),
    "slice": torch.arange(100)[40:50],
    "parameter": nn.Parameter(torch.randn(2, 2)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_comes_back_in_every_bit(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"here": [TENSORS[name]]})
    (back,) = load_checkpoint(tmp_path)["here"]
    assert same(TENSORS[name].detach(), back)
    assert not back.requires_grad


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        {},
        (),
        [True, False, 0, 1, -1, 10**30, "", "ä\n\0\ud800"],
        [0.1, 1e-320, -0.0, 1.0, 3, math.pi, math.inf, -math.inf, math.nan, 2.0**-1074],
        [(1, (2,), [3, ()]), [[]], ({},)],
        {0: "a", 1: {"2": 3}, -5: None},
        {"b": 1, "a": 2, "$tuple": [1], "$tensor": "0", "$": {"$dict": []}, "": 0},
        {"1": "str", 1: "int"},
        torch.arange(3),
    ],
    ids=repr,
)
def test_tree_comes_back_equal(tree: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 0, tree)
    assert same(tree, load_checkpoint(tmp_path))


def random_tree(chance: random.Random, depth: int = 4) -> Any:
    kind = chance.randrange(9 if depth else 6)
    if kind < 6:
        scalars = [None, bool(chance.randrange(2)), chance.randrange(-9, 9), chance.gauss(0, 1)]
        return [*scalars, chance.choice("a$ü"), torch.randn(chance.randrange(4))][kind]
    parts = [random_tree(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 6:
        return parts
    if kind == 7:
        return tuple(parts)
    return {chance.choice([number, f"${number}", str(number)]): p for number, p in enumerate(parts)}


def test_random_trees_come_back_equal(tmp_path: Path) -> None:
    chance = random.Random(0)
    for step in range(60):
        tree = random_tree(chance)
        save_checkpoint(tmp_path, step, tree)
        assert same(tree, load_checkpoint(tmp_path)), tree


@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d])
def test_memory_format_comes_back_so_that_arithmetic_is_the_same(
    layout: torch.memory_format, tmp_path: Path
) -> None:
    shape = (2, 3, 4, 5) if layout == torch.channels_last else (2, 3, 2, 2, 2)
    tensor = torch.randn(shape).contiguous(memory_format=layout)
    save_checkpoint(tmp_path, 1, [tensor, tensor.contiguous()])
    kept, plain = load_checkpoint(tmp_path)
    assert same(tensor, kept)
    assert kept.stride() == tensor.stride()
    assert plain.is_contiguous()


def test_tensor_that_is_there_twice_is_saved_once_and_overlapping_ones_apart(
    tmp_path: Path,
) -> None:
    weight = torch.randn(1000)
    tree = {"tied": [weight, weight.detach()], "part": weight[:10], "rest": weight[5:]}
    place = save_checkpoint(tmp_path, 1, tree)
    back = load_checkpoint(tmp_path)
    assert same(tree, back)
    assert (place / "state.safetensors").stat().st_size < 4 * (1000 + 10 + 995) + 1000
    back["part"].zero_()
    assert same(weight, back["tied"][0])
    assert same(weight[5:], back["rest"])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_model_and_optimizer_go_on_from_a_checkpoint_bit_for_bit(
    optimizer: Any, tmp_path: Path
) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        options: dict[str, Any] = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        return model, optimizer(model.parameters(), lr=0.1, **options)

    def steps(model: nn.Module, worker: torch.optim.Optimizer) -> None:
        for seed in range(3):
            worker.zero_grad()
            x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
            model(x).square().mean().backward()
            worker.step()

    model, worker = made()
    steps(model, worker)
    state = {"model": model.state_dict(), "optimizer": worker.state_dict()}
    save_checkpoint(tmp_path, 3, state)
    resumed, follower = made()
    back = load_checkpoint(tmp_path)
    assert same(json_like(state), json_like(back))
    resumed.load_state_dict(back["model"])
    follower.load_state_dict(back["optimizer"])
    steps(model, worker)
    steps(resumed, follower)
    assert same(dict(model.state_dict()), dict(resumed.state_dict()))


def json_like(tree: Any) -> Any:
    """The same tree with plain dicts."""
    if isinstance(tree, dict):
        return {key: json_like(part) for key, part in tree.items()}
    return [json_like(part) for part in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": [1, {2, 3}]}, r"set at tree\['a'\]\[1\]"),
        ({"a": b"bytes"}, r"bytes at tree\['a'\]"),
        ({"a": {1.5: 0}}, r"keys that are str or int at tree\['a'\], got 1.5"),
        ({True: 0}, "got True"),
        ([torch.zeros(2, device="meta")], "wanted tensors that safetensors knows"),
        ([torch.zeros(2, dtype=torch.complex128)], "complex128"),
        ([torch.eye(2).to_sparse()], "wanted dense tensors"),
        ([nn.ReLU()], "ReLU at tree"),
    ],
)
def test_tree_of_something_else_is_refused_and_leaves_the_old_one(
    tree: Any, said: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, 1, "old")
    with pytest.raises(CheckpointError, match=said):
        save_checkpoint(tmp_path, 2, tree)
    assert load_checkpoint(tmp_path) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


def test_full_disk_leaves_the_old_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, "old")
    real = checkpoint._write_file

    def full(path: Path, data: bytes) -> None:
        real(path, data[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "_write_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path, 2, "new")
    with pytest.raises(OSError, match="no space left"):
        save_tensors(tmp_path / "best.safetensors", {"x": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert load_checkpoint(tmp_path) == "old"


# ----------------------------------------------------------------------- one, whole
def test_only_the_newest_checkpoint_stays_beside_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_text("not ours")
    (tmp_path / "step-notes").mkdir()
    for step in (0, 9, 10, 10, 10, 10**9, 10**10):
        place = save_checkpoint(tmp_path, step, {"step": step})
        assert load_checkpoint(tmp_path) == {"step": step}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.safetensors", place.name, "step-notes"]
    assert place.name == "step-10000000000"
    assert sorted(path.name for path in place.iterdir()) == ["state.json", "state.safetensors"]


def test_another_checkpoint_of_the_same_step_is_the_newer_one(tmp_path: Path) -> None:
    names = [save_checkpoint(tmp_path, 3, number).name for number in range(12)]
    assert names == ["step-000000003", *(f"step-000000003.{again}" for again in range(1, 12))]
    assert load_checkpoint(tmp_path) == 11
    assert save_checkpoint(tmp_path, 4, "next").name == "step-000000004"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004"]


def test_no_folder_and_no_checkpoint_are_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere") is None
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "step-000000003.partial").mkdir()
    (tmp_path / "step-000000003.1.old.partial").mkdir()
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("step", [-1, 6])
def test_lower_step_is_refused(step: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, "seven")
    with pytest.raises(CheckpointError, match="wanted a step of at least 7"):
        save_checkpoint(tmp_path, step, "six")
    assert load_checkpoint(tmp_path) == "seven"


class Killed(BaseException):
    """What stands for a kill: nothing after it is done."""


def stopping_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Die at the so-manieth change of the disk; nothing changes after that, as after a kill."""
    left = [number]

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                if name == "rmtree" and left[0] == -1:  # dies amid the files of a folder
                    for file in list(Path(args[0]).glob("*"))[:1]:
                        file.unlink()
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, step)

    watch(Path, "mkdir")
    watch(Path, "rename")
    watch(checkpoint.shutil, "rmtree")
    watch(checkpoint.os, "fsync")
    watch(checkpoint, "_write_file")
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("step", [1, 2], ids=["same step", "next step"])
def test_death_at_any_change_of_the_disk_leaves_the_old_or_the_new_one(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, number, done = set(), 0, False
    while not done:
        folder = tmp_path / str(number)
        save_checkpoint(folder, 1, ["old", torch.zeros(3)])
        for _ in stopping_at(number, monkeypatch):
            try:
                save_checkpoint(folder, step, ["new", torch.ones(3)])
                done = True
            except Killed:
                pass
        for place in folder.glob("step-*"):
            assert place.suffix == ".partial" or len(list(place.iterdir())) == 2
        word, tensor = load_checkpoint(folder)
        assert same(tensor, torch.ones(3) if word == "new" else torch.zeros(3))
        seen.add(word)
        save_checkpoint(folder, step, "after")  # and what the death left does not disturb
        assert load_checkpoint(folder) == "after"
        assert len(list(folder.iterdir())) == 1
        number += 1
    assert seen == {"old", "new"}
    assert number > 8


WRITER = """
import itertools, sys, torch
from offramp.train.checkpoint import save_checkpoint
first = int(sys.argv[2])
for number in itertools.count(2 * first):
    step = number // 2
    save_checkpoint(sys.argv[1], step, {"step": step, "all": torch.full((20000,), step)})
    if number == 2 * first:
        print("saved", flush=True)
"""


@pytest.mark.slow
def test_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    chance, last = random.Random(0), -1
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "of"), str(last + 1)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "saved\n"
            threading.Event().wait(0.1 * chance.random())
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        back = load_checkpoint(tmp_path / "of")
        assert back["step"] > last
        last = back["step"]
        assert bool((back["all"] == last).all())


def test_reader_beside_a_writer_always_finds_a_whole_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 0, {"step": 0, "all": torch.zeros(500)})
    stop = threading.Event()

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            save_checkpoint(tmp_path, step // 2, {"all": torch.full((500,), step), "step": step})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        last = 0
        while last < 15:
            back = load_checkpoint(tmp_path)
            assert bool((back["all"] == back["step"]).all())
            assert back["step"] >= last
            last = back["step"]
            assert writer.is_alive()
    finally:
        stop.set()
        writer.join()


def test_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, "old")
    real, read = checkpoint._read, []

    def slowly(place: Path) -> Any:
        if not read:
            save_checkpoint(tmp_path, 2, "new")
        read.append(place.name)
        return real(place)

    monkeypatch.setattr(checkpoint, "_read", slowly)
    assert load_checkpoint(tmp_path) == "new"
    assert read == ["step-000000001", "step-000000002"]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("step-999999999", "step-1000000000"),
        ("step-000000009.9", "step-000000009.10"),
        ("step-000000009.9", "step-000000010"),
        ("step-000000009", "step-000000009.1"),
    ],
)
def test_newest_is_that_of_the_largest_number(older: str, newer: str, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()  # as a kill before the removal leaves them
    for name in (newer, older):
        save_checkpoint(tmp_path / "one", 0, name).rename(tmp_path / "both" / name)
    assert load_checkpoint(tmp_path / "both") == newer


# ----------------------------------------------------------------------- damage
@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return save_checkpoint(folder, 5, {"a": torch.arange(9.0), "t": (1, 2.5, {3: None})})


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_flipped_bits_and_cut_files_are_told(name: str, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / whole.name
    place.mkdir()
    for file in whole.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    good, chance = (place / name).read_bytes(), random.Random(0)
    for _ in range(150):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        (place / name).write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"step-000000005.*(damaged|newer)"):
            load_checkpoint(tmp_path)
    for length in range(0, len(good), 13):
        (place / name).write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(tmp_path)
    (place / name).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)
    (place / name).write_bytes(good)
    assert load_checkpoint(tmp_path)["t"] == (1, 2.5, {3: None})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "newer offramp"),
        ({"version": "1"}, "newer offramp"),
        ({"format": "other"}, "is damaged: .*'other'"),
        ({"tree": {"$tensor": "7"}}, "is damaged: KeyError"),
        ({"tree": {"$tensor": "0", "channels_last": True}}, "is damaged: KeyError"),
        ({"tree": {"$float": "much"}}, "is damaged: ValueError"),
        ({"tree": {"$dict": [1]}}, "is damaged: TypeError"),
        ({"tree": {"$dict": [[[], 1]]}}, "is damaged: TypeError"),
    ],
)
def test_state_that_is_signed_but_wrong_is_told(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path, 1, torch.arange(3))
    state = json.loads((place / "state.json").read_text()) | change
    del state["sha256"]
    state["sha256"] = checkpoint._digest(state)
    (place / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path)


def test_damaged_newest_is_not_passed_over_for_an_older_one(tmp_path: Path) -> None:
    old = save_checkpoint(tmp_path / "a", 1, "old")
    new = save_checkpoint(tmp_path / "b", 2, "new")
    new = new.rename(tmp_path / "a" / new.name)
    assert load_checkpoint(tmp_path / "a") == "new"
    (new / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-000000002"):
        load_checkpoint(tmp_path / "a")
    assert old.exists()


# ----------------------------------------------------------------------- one file
def test_tensors_of_a_file_come_back_and_own_their_memory(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "deep" / "best.safetensors"
    save_tensors(path, TENSORS, {"figure": "0.5"})
    back = load_tensors(path)
    assert sorted(back) == sorted(TENSORS)
    assert all(same(TENSORS[name].detach(), back[name]) for name in TENSORS)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"figure": "0.5"}
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]
    os.truncate(path, 10)
    assert same(TENSORS["float32"], back["float32"])
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged"):
        load_tensors(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(tmp_path / "nowhere")


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    save_tensors(tmp_path / "none.safetensors", {})
    assert load_tensors(tmp_path / "none.safetensors") == {}


@pytest.mark.skipif(os.name != "posix", reason="needs permissions of files")
def test_files_are_readable_by_whom_the_user_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(1)})
        place = save_checkpoint(tmp_path, 1, [torch.zeros(1)])
    finally:
        os.umask(before)
    for path in (tmp_path / "x.safetensors", *place.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o644
