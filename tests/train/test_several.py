"""Two processes train as one does on the joint batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.objectives.block_dependent import BlockDependent
from offramp.objectives.distill import Distill
from offramp.objectives.gradient_equilibrium import GradientEquilibrium
from offramp.train import fit
from offramp.train.checkpoint import load_tensors, save_tensors
from offramp.types import Costs

RUNS = {  # 50 rows: the last batch of 16 has 2; of 7, an odd number and then 1, which is left out
    "even": {"batch_size": 16},
    "odd": {"batch_size": 7},
    "accumulate": {"batch_size": 9, "accumulate": 3, "clip": 0.5},
    "ignored": {"batch_size": 9, "ignore": True},
    "loader": {"accumulate": 3, "loader": True},  # which keeps its last batch, of one row
    "adamw": {"batch_size": 9, "optimizer": "adamw", "lr": 0.003, "ema": 0.9},
    "routed": {"batch_size": 9, "objective": Distill(GradientEquilibrium(BlockDependent(1)))},
}


# each process has its own batch statistics; the last batch of 2 is for one process
NORM = {"norm": {"batch_size": 16, "ema": 0.5}}


def plain_model(norm: bool = False) -> MultiExitModel:
    """Three segments, without batch norm, whose statistics would be each process's own."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        widths = [2, 4, 6, 8]
        segments = [
            nn.Sequential(nn.Conv2d(widths[k], widths[k + 1], 3, padding=1), nn.ReLU())
            for k in range(3)
        ]
        if norm:
            segments[1].append(nn.BatchNorm2d(6))
        heads: list[nn.Module] = [LinearHead(width, 3) for width in widths[1:]]
        if norm:  # over rows alone, where a single one is an error
            heads[0] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), heads[0])
        return MultiExitModel(segments, heads)


class Death(Exception):
    """The end of a process, as far as one process can play it."""


class Dying:
    """An augmentation that dies at its n-th batch."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        self.last -= 1
        if self.last == 0:
            raise Death
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def train_and_die(data: tuple[Tensor, Tensor], out: Path) -> None:
    """Train with and without dying in the middle of the second epoch and later on."""
    rank = int(os.environ.get("RANK", 0))
    for name, deaths in {"undisturbed": (), "resumed": (13, 9)}.items():
        for last in (*deaths, 0):
            model = plain_model(norm=True)
            with suppress(Death):
                fit(
                    model,
                    data,
                    phases=[{"epochs": 3, "ema": 0.8}, {"epochs": 1, "train": "heads"}],
                    batch_size=6,
                    mixup=0.3,
                    augment=Dying(last),
                    costs=Costs.from_relative([0.3, 0.6, 1.0]),
                    validation=data,
                    monitor="nll/mean",
                    out=out / name,
                    resume=True,
                    save_every=0.0,
                    progress=False,
                )
        save_tensors(out / f"{name}-{rank}.safetensors", model.state_dict())


def work(out: Path) -> None:
    """Train in each of the ways and write down what came of it; all processes do the same."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(50) % 3
    inputs = torch.randn(50, 2, 6, 6, generator=generator) + targets[:, None, None, None] - 1.0
    rank = int(os.environ.get("RANK", 0))
    for name, options in (RUNS | NORM).items():
        options = {"lr": 0.05, "progress": False, "seed": 1} | options
        options["epochs"] = 2 if name in ("accumulate", "adamw") else 1
        used = targets.masked_fill(torch.arange(50) % 4 == 0, -100)
        data = (inputs, used if options.pop("ignore", False) else targets)
        train: Any = data
        if options.pop("loader", False):
            train = DataLoader(TensorDataset(*data), batch_size=7, shuffle=True)
        model = plain_model(norm=name in NORM)
        costs = Costs.from_relative([0.3, 0.6, 1.0])
        history = fit(
            model,
            train,
            **options,
            costs=costs,
            validation=data,
            monitor=None if name in NORM else "nll/last",
            out=out / name,
            save_every=0.0 if name == "odd" else 60.0,
        )
        save_tensors(out / f"{name}-{rank}.safetensors", model.state_dict())
        (out / f"{name}-{rank}.json").write_text(json.dumps(history))
    train_and_die((inputs, targets), out)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of one process's results, and of two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    work(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = [str(Path(__file__).resolve().parent), *sys.path]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    common |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    code = f"from pathlib import Path; import test_several; test_several.work(Path({str(two)!r}))"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        _, error = child.communicate(timeout=300)
        assert child.returncode == 0, error
    return one, two


@pytest.mark.parametrize("name", RUNS)
def test_fit_of_two_processes_ends_with_the_weights_of_one(both, name):
    one, two = both
    wanted = load_tensors(one / f"{name}-0.safetensors")
    for rank in range(2):
        came = load_tensors(two / f"{name}-{rank}.safetensors")
        torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-6)
    start = plain_model().state_dict()
    assert not torch.allclose(wanted["segments.0.0.weight"], start["segments.0.0.weight"])


@pytest.mark.parametrize("name", RUNS | NORM)
def test_fit_of_two_processes_ends_with_the_same_tensors_in_both(both, name):
    first, second = (load_tensors(both[1] / f"{name}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if name in NORM:
        start = plain_model(norm=True).state_dict()
        assert not torch.equal(
            first["segments.1.2.running_mean"], start["segments.1.2.running_mean"]
        )


@pytest.mark.parametrize("number", [0, 1])
def test_fit_of_any_number_of_processes_is_resumed_bit_for_bit(both, number):
    for rank in range(number + 1):
        wanted, came = (
            load_tensors(both[number] / f"{name}-{rank}.safetensors")
            for name in ("undisturbed", "resumed")
        )
        assert all(torch.equal(wanted[key], came[key]) for key in wanted)
    one, other = (both[number] / name / "metrics.jsonl" for name in ("undisturbed", "resumed"))
    assert [figures(line) for line in one.read_text().splitlines()] == [
        figures(line) for line in other.read_text().splitlines()
    ]


def figures(line: str) -> dict[str, Any]:
    entry = json.loads(line)
    return {key: entry[key] for key in entry if key not in ("seconds", "images_per_s")}


@pytest.mark.parametrize("name", RUNS)
def test_fit_of_two_processes_has_the_figures_of_one_everywhere(both, name):
    one, two = both
    wanted = json.loads((one / f"{name}-0.json").read_text())
    for rank in range(2):
        came = json.loads((two / f"{name}-{rank}.json").read_text())
        for a, b in zip(came, wanted, strict=True):
            assert a["accuracy"] == b["accuracy"]
            assert a["validation_accuracy"] == b["validation_accuracy"]
            if name != "ignored":  # the loss is a mean over rows, of means over what counts
                assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
            assert a["validation_nll"] == pytest.approx(b["validation_nll"], rel=1e-5)
            assert a["best"] == b["best"]


@pytest.mark.parametrize("name", RUNS)
def test_fit_of_two_processes_writes_one_log(both, name):
    _, two = both
    lines = (two / name / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"epoch"}
    assert len(lines) == (2 if name in ("accumulate", "adamw") else 1)
