"""Small bundles, and what it means that one was loaded right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.types import Costs, Records, Shard

CLASSES = 3


class Made(NamedTuple):
    """A bundle that was saved, and what is in it."""

    path: Path
    model: offramp.MultiExitModel
    policy: offramp.ExitPolicy
    costs: Costs
    inputs: Tensor


def mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()),
        *(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
    )


def scramble(model: nn.Module) -> None:
    """Give every parameter and buffer a value that no fresh model has."""
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            noise = torch.rand_like(value.float()) + 0.5
            changed = noise if value.dim() < 2 else value * noise
            if value.is_floating_point() or not value.dim():  # tables of positions stay
                value.copy_(changed if value.is_floating_point() else value + 1)


def fitted(model: offramp.MultiExitModel, inputs: Tensor, name: str, **options: object):
    """A policy fitted on a model's answers to random targets, at three operating points."""
    with torch.no_grad():
        outputs = model.eval()(inputs)
    records = Records([Shard(outputs, torch.arange(len(inputs)) % outputs[0].logits.shape[1])])
    exits = model.num_exits
    costs = Costs.from_relative([(k + 1) / exits for k in range(exits)])
    policy = offramp.create_policy(name, exits, **options)
    budgets = {"fast": 1.01 / exits, "b. 2": 0.8, "slow": 1.0}
    return policy.fit_points(records, costs, budgets).use("b. 2"), costs


@pytest.fixture
def attached(tmp_path: Path) -> Made:
    """A bundle of an attached network."""
    inputs = torch.randn(60, 4)
    model = offramp.attach(mlp(), ["2", "4"], example=inputs, gate=True)
    return _saved(tmp_path / "attached", model, inputs)


@pytest.fixture
def built(tmp_path: Path) -> Made:
    """A bundle of a built-in model."""
    options = {"num_classes": CLASSES, "num_exits": 2, "base": 1, "step": 1, "channels": 4}
    scales = {"growth_factors": [1, 2], "bottleneck_factors": [1, 2]}
    model = offramp.create_model("msdnet", growth=2, gate=True, **options, **scales)
    return _saved(tmp_path / "built", model, torch.randn(24, 3, 8, 8))


def _saved(path: Path, model: offramp.MultiExitModel, inputs: Tensor) -> Made:
    scramble(model)
    policy, costs = fitted(model, inputs, "max_prob", temperature=True)
    names = [f"class {c}" for c in range(CLASSES)]
    offramp.save(path, model, policy=policy, costs=costs, class_names=names, info={"runs": [1, 2]})
    return Made(path, model, policy, costs, inputs)


@pytest.fixture
def check_same() -> Callable[..., None]:
    """That a loaded model is the saved one: weights, logits and exits, bit by bit."""

    def check(model: offramp.MultiExitModel, other: offramp.MultiExitModel, inputs: object) -> None:
        assert model is not other
        ours, theirs = model.state_dict(), other.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        twin = copy.deepcopy(model).eval()
        assert not other.training
        with torch.no_grad():
            wanted, came = twin(inputs), other(inputs)
        for a, b in zip(wanted, came, strict=True):
            assert bool(a.logits.isfinite().all())
            assert torch.equal(a.logits, b.logits)
            assert a.logits.dtype == b.logits.dtype
            assert (a.gate is None) == (b.gate is None)
            assert a.gate is None or b.gate is None or torch.equal(a.gate, b.gate)
        policy = offramp.create_policy("margin", other.num_exits)
        policy.thresholds[:-1] = 0.05
        one, two = offramp.run(twin, policy, inputs), offramp.run(other, policy, inputs)
        assert torch.equal(one.exits, two.exits)
        assert torch.equal(one.logits, two.logits)

    return check
