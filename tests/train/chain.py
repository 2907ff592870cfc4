"""A small model of five exits, a batch, and a scheme of every kind, to compare gradients on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.train.backward import forward_backward
from offramp.types import Batch, Costs

from .windows import Gradients, taken

EXITS, WIDTH, CLASSES = 5, 6, 3
COSTS = Costs.from_relative([0.2, 0.4, 0.6, 0.8, 1.0])
SCHEMES: dict[str, dict[str, Any]] = {
    "joint": {"name": "joint"},
    "layer_wise": {"name": "layer_wise"},
    "grouped": {"name": "grouped"},
    "overlap": {"name": "block_dependent", "overlap": 2, "final": False},
    "final": {"name": "block_dependent", "overlap": 3},
    "distilled": {"name": "distill", "objective": {"name": "block_dependent", "overlap": 2}},
    "equilibrium": {"name": "gradient_equilibrium", "objective": {"name": "grouped"}},
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def chain(norm: bool = True, gate: bool = False) -> MultiExitModel:
    """One convolution per segment; inputs [N, 2, 5, 5]."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        segments = [
            nn.Sequential(
                nn.Conv2d(2 if k == 0 else WIDTH, WIDTH, 3, padding=1),
                nn.BatchNorm2d(WIDTH) if norm else nn.Identity(),
                nn.Tanh(),
            )
            for k in range(EXITS)
        ]
        heads = [LinearHead(WIDTH, CLASSES, gate=gate and k < EXITS - 1) for k in range(EXITS)]
        return MultiExitModel(segments, heads)


def batch_of(rows: int = 8, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    target = torch.arange(rows) % CLASSES
    inputs = torch.randn(rows, 2, 5, 5, generator=generator, dtype=dtype)
    return Batch(inputs + target[:, None, None, None], target, torch.arange(rows), 0.0)


def stepped(model: MultiExitModel, objective: Objective, batch: Batch, **options: Any) -> Gradients:
    """The gradients of a step, those of the objective's own parameters as "own."."""
    forward_backward(model, objective, batch, COSTS, **options)
    own = {f"own.{name}": grad for name, grad in taken(objective).items()}
    return taken(model) | own
