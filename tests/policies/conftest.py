"""Records that policies are tested on: random, each exit better than the one before, gated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offramp.types import Costs, Records


def random_records(num: int, exits: int, classes: int, size: tuple[int, ...] = ()) -> Records:
    generator = torch.Generator().manual_seed(num)
    targets = torch.randint(classes, (num, *size), generator=generator)
    truth = torch.nn.functional.one_hot(targets, classes).movedim(-1, 1).float()
    noise = torch.randn(exits, num, classes, *size, generator=generator)
    strength: Tensor = torch.linspace(0.5, 2.5, exits).reshape(-1, *[1] * truth.dim())
    logits = strength * truth + noise
    certain = logits.flatten(3).amax(2).mean(2) if size else logits.amax(2)
    gates = 4 * (certain - certain.mean()) + torch.randn(exits, num, generator=generator)
    return Records.from_arrays(logits, targets, [*gates[:-1], None])


@pytest.fixture
def records() -> Records:
    return random_records(300, 4, 5)


@pytest.fixture
def maps() -> Records:
    return random_records(60, 4, 3, (4, 6))


@pytest.fixture
def costs() -> Costs:
    return Costs.from_relative([0.2, 0.45, 0.7, 1.04])
