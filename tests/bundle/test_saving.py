"""A bundle is there whole or not at all, says what cannot be saved, and touches nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import offramp
from offramp.bundle import folder as folders
from offramp.bundle import loading, saving
from offramp.errors import BundleError
from offramp.types import Costs

from .conftest import Made, mlp, scramble


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def another() -> offramp.MultiExitModel:
    model = offramp.attach(mlp(), ["2", "4"], example=torch.randn(3, 4))
    scramble(model)
    return model


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("step", ["write_tensors", "entry_of", "write", "first name", "last name"])
def test_interrupted_save_leaves_the_old_bundle_whole(
    step: str, error: BaseException, attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, beside = contents(attached.path), sorted(attached.path.parent.iterdir())

    def fail(*args: object) -> Any:
        raise error

    rename, calls = os.rename, iter(["first name", "last name", "back"])
    with monkeypatch.context() as patch:
        if step.endswith("name"):
            patch.setattr(
                os, "rename", lambda a, b: (fail if next(calls) == step else rename)(a, b)
            )
        else:
            patch.setattr(saving, step, fail)
        with pytest.raises((BundleError, KeyboardInterrupt, MemoryError)):
            offramp.save(attached.path, another())
    assert contents(attached.path) == before
    assert sorted(attached.path.parent.iterdir()) == beside
    new = another()
    offramp.save(attached.path, new)
    loaded = offramp.load(attached.path, network=mlp()).model
    assert all(torch.equal(v, loaded.state_dict()[n]) for n, v in new.state_dict().items())
    assert sorted(attached.path.parent.iterdir()) == beside


def test_save_killed_between_two_names_leaves_the_old_bundle_to_be_loaded(attached: Made) -> None:
    os.rename(attached.path, folders.aside(attached.path))
    bundle = offramp.load(attached.path, network=mlp())
    assert bundle.policy is not None
    offramp.save(attached.path, another())
    assert offramp.load(attached.path, network=mlp()).policy is None
    assert not folders.aside(attached.path).exists()


def test_folder_that_only_has_the_name_of_an_older_bundle_is_left_alone(attached: Made) -> None:
    other = folders.aside(attached.path)
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="cannot be written"):
        offramp.save(attached.path, another())
    assert (other / "thesis.txt").read_text() == "mine"
    assert offramp.load(attached.path, network=mlp()).policy is not None


def test_bundle_is_the_same_bytes_each_time(attached: Made) -> None:
    before = contents(attached.path)
    costs, names = attached.costs, [f"class {c}" for c in range(3)]
    parts = {"policy": attached.policy, "costs": costs, "class_names": names}
    offramp.save(attached.path, attached.model, info={"runs": (1, 2)}, **parts)
    assert contents(attached.path) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: (f / "notes.txt").write_text("mine"), "has notes.txt"),
        (lambda f: (f / "bundle.json").write_text("{}"), "empty folder or a bundle to replace"),
        (lambda f: (f / "README.md").write_text("mine"), "got no such file"),
    ],
)
def test_folder_of_something_else_is_refused_and_left(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    make(folder)
    before = contents(folder)
    with pytest.raises(BundleError, match=message):
        offramp.save(folder, another())
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_file_and_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(BundleError, match="the file or link"):
            offramp.save(tmp_path / name, another())


@pytest.mark.parametrize("path", [".", "..", "x/..", "a\0b", "a\ud800", b"a", "a" * 300])
def test_path_that_is_no_name_is_one_clear_error(
    path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"wanted the (name|path) of a folder|cannot be written"):
        offramp.save(path, another())
    with pytest.raises(BundleError):
        offramp.load(path, network=mlp())
    with pytest.raises(BundleError):
        offramp.from_pretrained(path, network=mlp())
    assert list(tmp_path.iterdir()) == []


def test_folder_that_may_not_be_read_is_one_clear_error(
    attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, **named: object) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        with pytest.raises(BundleError, match=r"cannot be written: .* Permission denied"):
            offramp.save(attached.path, another())
        for load in (offramp.load, offramp.from_pretrained):
            with pytest.raises(BundleError, match="cannot be read: Permission denied"):
                load(attached.path, network=mlp())
    assert offramp.load(attached.path, network=mlp()).policy is not None


@pytest.mark.parametrize("name", ["model.safetensors", "policy.safetensors", "bundle.json"])
def test_file_that_may_not_be_read_is_one_clear_error(
    name: str, attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **named: object) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **named)  # type: ignore[arg-type]

    opened = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=f"{name} cannot be read: Permission denied"):
        offramp.load(attached.path, network=mlp())


def test_bundle_is_on_the_disk_before_it_takes_its_place(
    attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    inodes, synced, fsync, rename = set[int](), set[int](), os.fsync, os.rename

    def note(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def move(old: Path, new: Path) -> None:
        if old.name.endswith(".partial"):
            inodes.update(path.stat().st_ino for path in [old, *old.iterdir()])
            assert inodes <= synced
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", move)
    offramp.save(attached.path, attached.model, policy=attached.policy)
    assert len(inodes) == 4
    assert attached.path.parent.stat().st_ino in synced


@pytest.mark.parametrize("step", ["check_file", "read_tensors"])
def test_bundle_replaced_while_it_is_read_is_loaded_whole(
    step: str, attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, function, calls = another(), getattr(loading, step), iter([True])

    def replace(*args: Any) -> Any:
        came = function(*args)
        if next(calls, False):
            offramp.save(attached.path, new, policy=attached.policy, info={"new": True})
        return came

    monkeypatch.setattr(loading, step, replace)
    bundle = offramp.load(attached.path, network=mlp())
    assert bundle.info == {"new": True}
    state = bundle.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in new.state_dict().items())


def test_bundle_that_is_replaced_all_the_time_is_one_clear_error(
    attached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(*args: Any) -> Any:
        came = function(*args)
        offramp.save(attached.path, attached.model, policy=attached.policy)
        return came

    function = loading.check_file
    monkeypatch.setattr(loading, "check_file", replace)
    with pytest.raises(BundleError, match="was replaced while it was read, 5 times"):
        offramp.load(attached.path, network=mlp())


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "", None.__class__])
def test_device_that_is_not_there_leaves_the_network(device: Any, attached: Made) -> None:
    network = mlp()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(BundleError, match="wanted a device that is there, got") as caught:
        offramp.load(attached.path, network=network, device=device)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, network.state_dict()[n]) for n, value in before.items())


def by_hand() -> offramp.MultiExitModel:
    from offramp.heads import LinearHead

    return offramp.MultiExitModel([nn.Linear(4, 4)], [LinearHead(4, 2)])


class Strange(offramp.ExitPolicy):
    def score(self, k: int, out: Any, carry: Any) -> Any:
        return out.logits.sum(1), carry


def sparse() -> offramp.MultiExitModel:
    model = another()
    assert model.network is not None
    model.network.register_buffer("adjacent", torch.eye(3).to_sparse())
    return model


def odd_option() -> offramp.MultiExitModel:
    model = another()
    assert model.recipe is not None
    model.recipe.options["gate"] = object()
    return model


def odd_example() -> offramp.MultiExitModel:
    model = another()
    assert model.recipe is not None
    model.recipe.options["example"] = {"type": "Image"}
    return model


@pytest.mark.parametrize(
    ("make", "parts", "message"),
    [
        (mlp, {}, "wanted a MultiExitModel to save, got Sequential"),
        (by_hand, {}, "made by offramp.attach or offramp.create_model, got one put together"),
        (odd_option, {}, "option 'gate', got object"),
        (odd_example, {}, "cannot be saved: wanted an example of tensors"),
        (lambda: another().to("meta"), {}, "on the meta device"),
        (another, {"policy": offramp.create_policy("margin", 2)}, "policy of 3 exits, got 2"),
        (another, {"policy": Strange(3)}, "a registered policy to save, got Strange"),
        (another, {"policy": 0.5}, "policy of 3 exits, got float"),
        (another, {"costs": Costs.from_relative([1.0])}, "costs of 3 exits, got 1"),
        (another, {"class_names": [1, 2, 3]}, "class_names as a list of words"),
        (another, {"class_names": "abc"}, "class_names as a list of words, got 'abc'"),
        (another, {"class_names": 3}, "class_names as a list of words"),
        (another, {"class_names": ["a", "b"]}, "class_names of 3 classes, got 2"),
        (another, {"info": "abc"}, "wanted 'info' as dict in the document, got str"),
        (sparse, {}, r"got torch.float32, torch.sparse_coo as 'network.adjacent'"),
        (another, {"preprocess": str}, "a method to_dict, got type"),
        (another, {"info": {"model": nn.ReLU()}}, "info, got ReLU"),
        (another, {"info": {"loss": float("nan")}}, "finite numbers in info, got nan"),
        (another, {"info": {1: 2}}, "words as names in info, got 1"),
        (another, {"info": {"a": "x" * 2**17}}, "letters in a word"),
        (another, {"info": {"all": ["x" * 60_000] * 90}}, "letters in the document"),
    ],
)
def test_what_cannot_be_saved_is_said_and_leaves_nothing(
    make: Callable[[], Any], parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        offramp.save(tmp_path / "bundle", make(), **parts)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_policy_that_does_not_keep_an_option_is_refused(tmp_path: Path) -> None:
    from offramp.policies.base import register
    from offramp.registry import policies

    @register("forgetful")
    class Forgetful(Strange):
        def __init__(self, num_exits: int, *, alpha: float = 1.0) -> None:
            super().__init__(num_exits)

    try:
        with pytest.raises(BundleError, match=r"the options \['alpha'\] of Forgetful"):
            offramp.save(tmp_path / "bundle", another(), policy=Forgetful(3, alpha=2.0))
    finally:
        policies.remove("forgetful")


# --------------------------------------------------------------------------- networks that differ
def wider() -> nn.Module:
    network = mlp()
    network[3] = nn.Linear(8, 9)
    return network


def longer() -> nn.Module:
    return mlp().append(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            wider,
            r"Sequential given does not fit.*wanted 3.bias as F32 \(8,\), got F32 \(9,\)",
        ),
        (longer, "2 tensors are unknown, as 6.bias, 6.weight|6.weight, 6.bias"),
        (lambda: mlp()[:5], "2 tensors are missing, as 5.bias, 5.weight|5.weight, 5.bias"),
        (lambda: mlp().double(), r"wanted 0.\w+ as F32 .* got F64"),
        (
            lambda: None,
            r"network=...\) with a torch.nn.modules.container.Sequential "
            r"\(fingerprint [0-9a-f]{9}\.\.\.\); got none",
        ),
        (lambda: "resnet18", r"network=...\) with a .*; got str"),
    ],
)
def test_network_that_is_not_the_one_saved_is_refused_and_left(
    make: Callable[[], Any], message: str, attached: Made
) -> None:
    network = make()
    state = network.state_dict() if isinstance(network, nn.Module) else {}
    before = {n: v.clone() for n, v in state.items()}
    with pytest.raises(BundleError, match=message):
        offramp.load(attached.path, network=network)
    assert all(torch.equal(v, network.state_dict()[n]) for n, v in before.items())


def test_network_of_the_same_tensors_and_other_code_is_refused_where_exits_do_not_go(
    attached: Made,
) -> None:
    class Unlike(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[5](self[3](self[1](self[0](x))))

    with pytest.raises(BundleError, match="exits cannot be attached again: no exit can go after"):
        offramp.load(attached.path, network=Unlike(*mlp()))


def test_built_in_model_wants_no_network(built: Made) -> None:
    with pytest.raises(BundleError, match=r"wanted no network.*'msdnet'; got Sequential"):
        offramp.load(built.path, network=mlp())
    with pytest.raises(BundleError, match="wanted no head"):
        offramp.load(built.path, head="linear")


def test_document_names_what_a_reader_wants_to_know(attached: Made) -> None:
    document = json.loads((attached.path / "bundle.json").read_text(encoding="utf-8"))
    assert document["format"] == "offramp-bundle" and document["version"] == 1
    assert document["offramp"] == offramp.__version__
    assert document["recipe"]["options"]["at"] == ["2", "4"]
    assert document["recipe"]["options"]["example"] == {"shape": [4], "dtype": "float32"}
    assert document["fingerprint"]["class"] == "torch.nn.modules.container.Sequential"
    assert document["policy"]["name"] == "max_prob"
    assert document["policy"]["points"] == ["fast", "b. 2", "slow"]
    assert document["policy"]["options"] == {"temperature": True, "reduce": "mean"}
    assert sorted(document["files"]) == ["model.safetensors", "policy.safetensors"]
