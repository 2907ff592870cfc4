"""Losses of the batch's own means, and tags of rows, in two processes as in one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from offramp import together
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.objectives.batch_mixture import BatchMixture
from offramp.objectives.joint import Joint
from offramp.objectives.pseudo_exit import PseudoExit
from offramp.objectives.suffix_mixture import SuffixMixture
from offramp.train import fit
from offramp.train.checkpoint import load_tensors, save_tensors
from offramp.train.world import World
from offramp.types import Batch, Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
ROWS = 11


class Names(Joint):
    """Notes which rows it is shown, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def refresh(self, answers: Iterable[Any], costs: Costs, rows: int) -> None:
        self.seen.append([row for _, batch in answers for row in batch.index.tolist()])


RUNS: dict[str, dict[str, Any]] = {  # of 50 rows; a last batch of 3 or 1 falls to one process
    "shares": {"objective": lambda: BatchMixture(0.5), "batch_size": 47},
    "loader": {"objective": lambda: BatchMixture(0.5), "loader": True},
    "several": {"objective": lambda: BatchMixture(0.5), "batch_size": 7, "accumulate": 3},
    "tags": {"objective": lambda: PseudoExit(0.3), "batch_size": 47, "epochs": 3},
    "target": {"objective": lambda: PseudoExit(target_cost=0.5), "batch_size": 10},
    "suffixes": {"objective": lambda: SuffixMixture(target_cost=0.5), "batch_size": 47},
    "ignored": {"objective": lambda: PseudoExit(0.3), "batch_size": 9, "ignore": True},
    "mixed": {"objective": lambda: PseudoExit(0.3), "batch_size": 49, "mixup": 0.4},
    "mixed suffixes": {
        "objective": lambda: SuffixMixture(target_cost=0.5),
        "batch_size": 49,
        "mixup": 0.4,
    },
}


def model() -> MultiExitModel:
    """Three segments and a gate at the early exits; no statistics, which would be each one's."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        widths = [2, 4, 6, 8]
        segments = [
            nn.Sequential(nn.Conv2d(widths[k], widths[k + 1], 3, padding=1), nn.Tanh())
            for k in range(3)
        ]
        heads = [LinearHead(width, 3, gate=k < 2) for k, width in enumerate(widths[1:])]
        return MultiExitModel(segments, heads)


def rows(num: int = 50) -> tuple[Tensor, Tensor]:
    targets = torch.arange(num) % 3
    inputs = torch.randn(num, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return inputs + targets[:, None, None, None] - 1.0, targets


def gradients(objective: Objective, target: Tensor, world: World) -> dict[str, Tensor]:
    """Of one step in float64, as training takes it: the rows shared out, the mean by targets."""
    network, (inputs, _) = model().double(), rows(ROWS)
    own = world.share(torch.arange(ROWS))
    batch = Batch(inputs[own].double(), target[own], own, 0.5)
    terms = objective(network(batch.inputs), batch, COSTS)
    loss = torch.stack([term.value for term in terms]).sum()
    weight = (batch.target >= 0).sum()
    (loss * weight).backward()
    world.reduce_gradients(network.parameters(), weight)
    named = network.named_parameters()
    found = {name: p.grad for name, p in named if p.grad is not None}
    return found | {f"term/{term.name}": term.value.detach() for term in terms}


def targets() -> dict[str, Tensor]:
    """Everything counts, some does, and nothing does in the second process."""
    every = rows(ROWS)[1]
    some = every.masked_fill(torch.arange(ROWS) % 3 == 1, -100)
    return {"all": every, "some": some, "one": every.masked_fill(torch.arange(ROWS) > 5, -100)}


def work(out: Path) -> None:
    """Run in each process; what came of it is written down."""
    torch.set_num_threads(1)
    world = World.current()
    kept: dict[str, Tensor] = {}
    for name, target in targets().items():
        tags = PseudoExit(0.3)
        tags.tags = (torch.arange(ROWS) % 3).int()
        for kind, objective in (("mixture", BatchMixture(0.5)), ("tags", tags)):
            found = gradients(objective, target, world)
            kept |= {f"{name}/{kind}/{key}": value for key, value in found.items()}
    figure = torch.full((2,), 1.0 + world.rank, requires_grad=True)
    together.summed(figure).square().sum().backward()
    kept["summed"] = torch.stack([together.summed(figure).detach(), figure.grad])  # type: ignore[list-item]
    histories = {}
    for name, given in RUNS.items():
        options = {"lr": 0.05, "epochs": 2, "seed": 1} | given
        objective = options.pop("objective")()
        inputs, labels = rows()
        if options.pop("ignore", False):
            labels = labels.masked_fill(torch.arange(50) % 4 == 0, -100)
        data: Any = (inputs, labels)
        if options.pop("loader", False):
            data = DataLoader(TensorDataset(*data), batch_size=7, shuffle=True)
        network = model()
        history = fit(network, data, objective, costs=COSTS, progress=False, **options)
        histories[name] = [[entry["loss"], *entry["terms"].values()] for entry in history]
        kept |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        if isinstance(objective, PseudoExit):
            kept[f"{name}/tags"] = objective.tags
    names = Names()
    fit(model(), rows(), names, epochs=3, batch_size=7, costs=COSTS, progress=False)
    histories["names"] = names.seen
    save_tensors(out / f"{world.rank}.safetensors", kept)
    (out / f"{world.rank}.json").write_text(json.dumps(histories))


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """What one process has at its end, then what each of two has."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    work(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    common |= {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    code = f"import pathlib, test_several_gates as t; t.work(pathlib.Path({str(two)!r}))"
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-c", code],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [child.communicate(timeout=300)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    return [
        (load_tensors(out / f"{rank}.safetensors"), json.loads((out / f"{rank}.json").read_text()))
        for out, rank in ((one, 0), (two, 0), (two, 1))
    ]


@pytest.mark.parametrize("name", ["all", "some", "one"])
@pytest.mark.parametrize("kind", ["mixture", "tags"])
def test_value_and_gradient_of_two_processes_are_those_of_one(ends, name, kind):
    wanted = {key: v for key, v in ends[0][0].items() if key.startswith(f"{name}/{kind}/")}
    assert f"{name}/{kind}/heads.0.gate.weight" in wanted
    for came, _ in ends[1:]:
        for key, value in wanted.items():
            torch.testing.assert_close(came[key], value, rtol=1e-10, atol=1e-12)


def test_summed_has_the_sum_and_the_gradient_of_its_own_summand(ends):
    for came, _ in ends[1:]:
        assert came["summed"].tolist() == [[3.0, 3.0], [6.0, 6.0]]


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("mixed")])
def test_fit_of_two_processes_ends_with_the_weights_tags_and_losses_of_one(ends, name):
    wanted = {key: v for key, v in ends[0][0].items() if key.startswith(f"{name}/")}
    for came, histories in ends[1:]:
        for key, value in wanted.items():
            torch.testing.assert_close(came[key], value, rtol=1e-5, atol=1e-6)
        if name != "ignored":  # reported figures are means over rows
            for mine, theirs in zip(histories[name], ends[0][1][name], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)
    start = model().state_dict()
    assert not torch.allclose(wanted[f"{name}/heads.0.gate.weight"], start["heads.0.gate.weight"])
    if name in ("tags", "target", "ignored"):
        assert len(wanted[f"{name}/tags"].unique()) > 1


@pytest.mark.parametrize("name", RUNS)
def test_fit_of_two_processes_ends_with_the_same_tensors_in_both(ends, name):
    first, second = ends[1][0], ends[2][0]
    assert all(torch.equal(first[k], second[k]) for k in first if k.startswith(f"{name}/"))


def test_rows_are_shown_to_one_process_each(ends):
    whole = ends[0][1]["names"]
    assert whole == [list(range(50))] * 2
    first, second = ends[1][1]["names"], ends[2][1]["names"]
    for one, two in zip(first, second, strict=True):
        assert sorted(one + two) == list(range(50))
        assert one == sorted(one) and two == sorted(two)
