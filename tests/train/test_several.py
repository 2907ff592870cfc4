"""Two processes train as one does on the joint batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from offramp.heads import LinearHead
from offramp.model import MultiExitModel
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
}


NORM = {"norm": {"batch_size": 16, "ema": 0.5}}  # each process has its own batch statistics


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
        return MultiExitModel(segments, [LinearHead(width, 3) for width in widths[1:]])


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
