"""Bundles that somebody damaged or made up: each loads right or is one clear error, in bounds."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import offramp
from offramp.bundle.document import checksum
from offramp.bundle.tensors import entry_of
from offramp.errors import OfframpError

from .conftest import Made, mlp

MUTATIONS, SECONDS, MEGABYTES = 200, 20.0, 500
FILES = ("bundle.json", "model.safetensors", "policy.safetensors")
Source = random.Random


# --------------------------------------------------------------------------- damage, unsealed
def flip_a_bit(folder: Path, source: Source) -> None:
    file = folder / source.choice(FILES)
    raw = bytearray(file.read_bytes())
    raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
    file.write_bytes(raw)


def truncate(folder: Path, source: Source) -> None:
    file = folder / source.choice(FILES)
    os.truncate(file, source.randrange(file.stat().st_size))


def remove_or_empty(folder: Path, source: Source) -> None:
    file = folder / source.choice(FILES)
    file.unlink()
    if source.random() < 0.4:
        file.touch()
    elif source.random() < 0.4:
        file.mkdir()


def add_a_file(folder: Path, source: Source) -> None:
    name = source.choice(["notes.txt", "model.pt", "code.py", "setup.cfg"])
    (folder / name).write_bytes(pickle.dumps({"a": 1}))


def links(folder: Path, source: Source) -> None:
    file = folder / source.choice(FILES)
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    kind = source.choice(["out", "absolute", "loop", "pipe", "inside"])
    if kind == "pipe":
        file.unlink()
        os.mkfifo(file)
        return
    target = {
        "out": Path("..") / outside.name / file.name,
        "absolute": (outside / file.name).absolute(),
        "loop": Path(file.name),
        "inside": Path("other"),
    }[kind]
    shutil.move(file, folder / "other" if kind == "inside" else outside / file.name)
    file.symlink_to(target)


def odd_text(folder: Path, source: Source) -> None:
    file = folder / "bundle.json"
    text = file.read_text(encoding="utf-8")
    odd: list[Callable[[], bytes]] = [
        lambda: text.replace('"num_exits": ', '"num_exits": NaN, "x": ').encode(),
        lambda: text.replace('"num_exits": ', '"num_exits": 1e999, "x": ').encode(),
        lambda: text.replace('"num_exits": ', '"num_exits": ' + "9" * 5000).encode(),
        lambda: text.replace('"num_exits": ', '"num_exits": 7, "num_exits": ').encode(),
        lambda: b"[" * 200_000,
        lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        lambda: b"\xef\xbb\xbf" + text.encode(),
        lambda: text.encode("utf-16"),
        lambda: b"\x00" * 4096,
        lambda: b" " * (5 * 2**20),
        lambda: b"[]",
        lambda: b"null",
        lambda: b'"' + b"a" * 2**20 + b'"',
        lambda: b'{"format": "something-else", "version": 1}',
        lambda: pickle.dumps(text),
    ]
    file.write_bytes(source.choice(odd)())


# --------------------------------------------------------------------------- forgeries, resealed
def odd_leaf(folder: Path, source: Source) -> None:
    """Another value somewhere in the document, under a fresh checksum."""
    document = _read(folder)
    places = [p for p in _places(document) if p[0] not in ("sha256", "format")]
    *path, last = source.choice(places)
    inner = document
    for name in path:
        inner = inner[name]
    deep: Any = 1
    for _ in range(source.choice([5, 60, 900])):
        deep = [deep]
    odd = [
        *(10**9, 10**15, 2**63, -1, 0, 1, -(10**6), 1e308, 1e-308, 0.5, True),
        *(None, "", "x", "../../etc/passwd", "/etc/passwd", "os.system", "y" * 60_000),
        *([], {}, [[]], [0] * 50_000, {"a": 1}, ["x"] * 3, deep),
    ]
    inner[last] = source.choice(odd)
    _seal(folder, document)


def odd_entry(folder: Path, source: Source) -> None:
    """An entry more or less somewhere in the document."""
    document = _read(folder)
    places = [p for p in _places(document) if p[0] != "sha256"]
    *path, last = source.choice(places)
    inner = document
    for name in path:
        inner = inner[name]
    if isinstance(inner, list) or source.random() < 0.5:
        del inner[last]
    else:
        names = ["code", "__class__", "exec", "../x", "num_exits", "temperature", "weights"]
        inner[source.choice([*names, "pretrained", "network"])] = source.choice([1, "x", None, []])
    _seal(folder, document)


def odd_recipe(folder: Path, source: Source) -> None:
    """Another model than the file's, often one that is far too large."""
    document = _read(folder)
    huge = [2**16, 2**20, 10**9]
    wide = {name: source.choice(huge) for name in ("channels", "growth")}
    long = {name: source.choice(huge) for name in ("num_exits", "base", "step")}
    scales = {"growth_factors": [1] * 4000, "bottleneck_factors": [1] * 4000}
    names = ["msdnet", "resnet_cifar", "resnet20_cifar", "attach", "timm", "torchvision"]
    timm = {"at": ["layer1"], "network": "resnet18"}
    made: list[tuple[str, dict[str, Any]]] = [
        ("msdnet", wide),
        ("msdnet", long),
        ("msdnet", {**long, "step_mode": "lin_grow"}),
        ("msdnet", scales),
        ("msdnet", {"num_classes": 2**20}),
        ("msdnet", {"num_classes": float(2**20), "reduction": 1e300}),
        ("resnet_cifar", {"depth": 6 * 10**5 + 2, "at": []}),
        ("resnet_cifar", {"depth": 62, "at": [f"layer1.{i}" for i in range(4000)]}),
        ("resnet_cifar", {"in_channels": 2**19}),
        ("resnet_cifar", {"at": "layer1"}),
        ("timm", {**timm, "network": "hf-hub:someone/something"}),
        ("timm", {**timm, "network": "local-dir:/etc"}),
        ("timm", {**timm, "pretrained": True}),
        ("timm", {**timm, "weights": "/etc/passwd"}),
        ("timm", {**timm, "network_options": {"checkpoint_path": "/etc/passwd"}}),
        ("timm", {**timm, "image_size": 2**16}),
        ("timm", {**timm, "network": "vit_giant_patch14_224", "at": ["blocks.1"]}),
        ("torchvision", {**timm, "network": "regnet_y_128gf"}),
        ("torchvision", {**timm, "network_options": {"weights": "DEFAULT"}}),
        ("torchvision", {**timm, "network_options": {"width_per_group": 2**16}}),
        (source.choice(["os.system", "../x", "", "offramp", "builtins.exec"]), {}),
        (source.choice(names), {}),
        (source.choice(names), {"head": {"function": "os.system"}}),
    ]
    name, options = source.choice(made)
    document["recipe"] = {"name": name, "options": options}
    _seal(folder, document)


def odd_example(folder: Path, source: Source) -> None:
    """Another example than the attached network's, often a far too large one."""
    document = _read(folder)
    deep: Any = {"shape": [4], "dtype": "float32"}
    for _ in range(8):
        deep = {"tuple": [deep]}
    made: list[Any] = [
        *({"shape": [10**5, 10**5], "dtype": "float32"}, {"shape": [0], "dtype": "float32"}),
        *({"shape": [4], "dtype": "load"}, {"shape": [4], "dtype": "int64"}),
        *({"shape": [1] * 40, "dtype": "float32"}, {"shape": [-4], "dtype": "float32"}),
        *({"dict": {"x": {"value": 1}}}, {"type": "Module"}, deep, {"value": None}, []),
        {"dict": {f"{i}": {"shape": [4], "dtype": "float32"} for i in range(3000)}},
    ]
    document["recipe"]["options"]["example"] = source.choice(made)
    _seal(folder, document)


def odd_policy(folder: Path, source: Source) -> None:
    document = _read(folder)
    policy = document["policy"]
    name = source.choice([*offramp.list_policies(), "os.system", "", "../max_prob"])
    options = [{}, {"exit": 10**9}, {"exit": 1}, {"seed": 1}, {"reduce": "x"}, {"num_exits": 10**9}]
    points = [["fast"], ["fast", "b. 2", "slow", "more"], [], ["fast"] * 9, [1], policy["points"]]
    policy["name"], policy["options"] = name, source.choice([*options, policy["options"]])
    policy["points"] = source.choice(points)
    _seal(folder, document)


def swapped_tensors(folder: Path, source: Source) -> None:
    """Tensors that changed places, or their type; sealed again or not."""
    file = folder / source.choice(FILES[1:])
    tensors = load_file(file)
    one, two = source.sample(sorted(tensors), 2)
    change = source.choice(["swap", "drop", "rename", "dtype", "shape", "values"])
    if change == "swap":
        tensors[one], tensors[two] = tensors[two].clone(), tensors[one].clone()
    elif change == "drop":
        del tensors[one]
    elif change == "rename":
        tensors[source.choice(["../x", "a" * 5000, "network." + one])] = tensors.pop(one)
    elif change == "dtype":
        kind = source.choice([torch.int64, torch.float64, torch.bool, torch.bfloat16])
        tensors[one] = tensors[one].to(kind)
    elif change == "shape":
        tensors[one] = tensors[one].reshape(1, -1)
    else:
        values = [float("nan"), float("inf"), 1e30]
        tensors[one] = torch.full_like(tensors[one].float(), source.choice(values))
    save_file(tensors, file)
    document = _read(folder)
    if source.random() < 0.8:
        document["files"][file.name] = entry_of(file)
    _seal(folder, document)


def odd_header(folder: Path, source: Source) -> None:
    """A file of tensors whose header lies, under a fresh checksum."""
    file = folder / source.choice(FILES[1:])
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    entry = header[source.choice([name for name in header if name != "__metadata__"])]
    lie = source.choice(["length", "shape", "offsets", "dtype", "text"])
    if lie == "shape":
        entry["shape"] = source.choice([[10**9, 10**9], [2**62, 4], [-1], [], "x", [10**30]])
    elif lie == "offsets":
        entry["data_offsets"] = source.choice([[0, 10**12], [8, 0], [-4, 4], [0, 1]])
    elif lie == "dtype":
        entry["dtype"] = source.choice(["F64", "I8", "X", None, "F4"])
    text = json.dumps(header).encode() if lie != "text" else b"\xff" * length
    size = len(text) if lie != "length" else source.choice([2**63, 10**8, 0, len(raw)])
    file.write_bytes(size.to_bytes(8, "little") + text + raw[8 + length :])
    document = _read(folder)
    document["files"][file.name] = entry_of(file)
    _seal(folder, document)


def file_tricks(folder: Path, source: Source) -> None:
    """Names of files that lead elsewhere."""
    document = _read(folder)
    old = source.choice(FILES[1:])
    new = source.choice(["../model.safetensors", "/etc/passwd", "x/../model.safetensors", "a\0b"])
    entry = document["files"][old]
    if source.random() < 0.5:
        del document["files"][old]
    document["files"][new] = entry
    _seal(folder, document)


MUTATE = (
    *(flip_a_bit, truncate, remove_or_empty, add_a_file, links, odd_text, odd_leaf, odd_leaf),
    *(odd_entry, odd_recipe, odd_recipe, odd_example, odd_policy, swapped_tensors, odd_header),
    file_tricks,
)


# --------------------------------------------------------------------------- the promise
def outcome(folder: Path, built_in: bool, inputs: torch.Tensor) -> str:
    """How loading ends; anything but a right bundle and an error of ours fails."""
    try:
        bundle = offramp.load(folder, network=None if built_in else mlp())
    except OfframpError as error:
        text = str(error)
        assert "\n" not in text and 15 < len(text) < 1000, text
        return type(error).__name__
    stored = load_file(folder / "model.safetensors")
    state = bundle.model.state_dict()
    names = {n.removeprefix("network."): value for n, value in state.items()}
    assert set(stored) == set(names)
    for name, value in stored.items():
        assert torch.equal(value.nan_to_num(), names[name].nan_to_num())
        assert value.dtype == names[name].dtype
    if bundle.policy is not None:
        thresholds = load_file(folder / "policy.safetensors")
        assert all(
            torch.equal(value.nan_to_num(), bundle.policy.state_dict()[name].nan_to_num())
            for name, value in thresholds.items()
        )
        dtype = next(iter(bundle.model.parameters())).dtype
        assert len(offramp.run(bundle.model, bundle.policy, inputs.to(dtype)).exits) == len(inputs)
    return "loaded"


def test_mutated_bundles_load_right_or_fail_clearly(
    built: Made, attached: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(*args: object, **named: object) -> Any:
        pytest.fail("a bundle was unpickled")

    source, counts = random.Random(7), Counter[tuple[str, str]]()
    outcome(built.path, True, built.inputs), outcome(attached.path, False, attached.inputs)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes
    slowest = 0.0
    for number in range(MUTATIONS):
        mutate = MUTATE[number % len(MUTATE)]
        made = attached if mutate is odd_example or source.random() < 0.4 else built
        made = built if mutate is odd_recipe else made
        folder = tmp_path / f"mutant-{number}"
        shutil.copytree(made.path, folder)
        mutate(folder, source)
        start = time.monotonic()
        ended = outcome(folder, made is built, made.inputs)
        slowest = max(slowest, time.monotonic() - start)
        assert slowest < SECONDS, (number, mutate.__name__, slowest)
        counts[mutate.__name__, ended] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, grown
    ends = Counter({end: sum(n for (_, e), n in counts.items() if e == end) for _, end in counts})
    with capsys.disabled():
        print(f"\nmutated bundles: {dict(ends)}, slowest {slowest:.2f} s, {grown:.0f} MiB more")
    assert ends.total() == MUTATIONS
    assert ends["loaded"] >= 5  # files beside it, values that are plausible
    assert ends["BundleError"] >= 150
    for harmless in ("flip_a_bit", "truncate", "file_tricks", "odd_header"):
        assert counts[harmless, "loaded"] == 0
    assert counts["add_a_file", "loaded"] == sum(n for (m, _), n in counts.items() if "add" in m)


@pytest.mark.parametrize("name", sorted({m.__name__ for m in MUTATE}))
@pytest.mark.slow
def test_many_mutated_bundles_of_each_kind(
    name: str, built: Made, attached: Made, tmp_path: Path
) -> None:
    source, mutate = random.Random(11), next(m for m in MUTATE if m.__name__ == name)
    for number in range(60):
        made = attached if mutate is odd_example or number % 3 == 0 else built
        folder = tmp_path / f"mutant-{number}"
        shutil.copytree(made.path, folder)
        mutate(folder, source)
        outcome(folder, made is built, made.inputs)


# --------------------------------------------------------------------------- one by one
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1, got version 2.*install a newer offramp"),
        ({"version": True}, "version 1"),
        ({"format": "x"}, "wanted the format 'offramp-bundle'"),
        ({"num_exits": 3}, "macs of 3 exits, got .0.5, 1.0."),
        ({"num_exits": 3, "costs": None}, "recipe for 3 exits, got one for 2"),
        ({"recipe": {"name": "msdnett", "options": {}}}, "did you mean 'msdnet'"),
        ({"recipe": {"name": "msdnet", "options": {"exits": 2}}}, "'exits'.*it takes"),
        ({"recipe": {"name": "msdnet", "options": {"num_exits": 10**9}}}, "numbers of at most"),
        ({"recipe": {"name": "msdnet", "options": {"base": 2**15}}}, "far larger model"),
        ({"recipe": {"name": "timm", "options": {"pretrained": True}}}, "no 'pretrained'"),
        ({"recipe": {"name": "attach", "options": {}}}, "the network that exits were attached to"),
        ({"costs": {"macs": [1.0]}}, "wanted costs with"),
        ({"class_names": [1]}, "class_names as a list of words"),
        ({"class_names": ["a"] * 2}, "class_names of 3 classes, got 2"),
        ({"code": "import os"}, "'code' of unknown meaning"),
        ({"preprocess": {"a": [1e4]}, "files": {}}, "wanted the files"),
    ],
)
def test_forged_document_says_what_is_wrong(
    change: dict[str, Any], message: str, built: Made
) -> None:
    _seal(built.path, {**_read(built.path), **change})
    with pytest.raises(OfframpError, match=message):
        offramp.load(built.path)


def test_wide_model_costs_no_memory(built: Made) -> None:
    """Parameters of 4e10 numbers are refused before anything is written into them."""
    document = _read(built.path)
    document["recipe"]["options"] |= {"channels": 2**16, "growth": 2**16}
    _seal(built.path, document)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OfframpError, match=r"far larger model|at most \d+ numbers each|memory"):
        offramp.load(built.path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


# --------------------------------------------------------------------------- helpers
def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bundle.json").read_text(encoding="utf-8"))


def _seal(folder: Path, document: dict[str, Any]) -> None:
    body = {name: value for name, value in document.items() if name != "sha256"}
    text = json.dumps({**body, "sha256": checksum(body)})
    (folder / "bundle.json").write_text(text, encoding="utf-8")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every entry of a document, inner ones included."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found: list[tuple[Any, ...]] = []
    for key in keys:
        found.append((*path, key))
        if isinstance(value[key], dict | list):
            found += _places(value[key], (*path, key))
    return found
