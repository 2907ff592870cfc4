"""A tiny multi-exit network with batch norm and dropout, and data that it can learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from offramp.heads import LinearHead
from offramp.model import MultiExitModel

Tiny = Callable[..., MultiExitModel]


def tiny_model(seed: int = 0, dropout: float = 0.0) -> MultiExitModel:
    """Three segments of one convolution each, and three heads; 3 classes, inputs [N, 2, 6, 6]."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        widths = [2, 4, 6, 8]
        segments = [
            nn.Sequential(
                nn.Conv2d(widths[k], widths[k + 1], 3, padding=1),
                nn.BatchNorm2d(widths[k + 1]),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            for k in range(3)
        ]
        heads = [LinearHead(width, 3) for width in widths[1:]]
        # early heads with batch norm, to see that their statistics move and the others' do not
        heads[0] = nn.Sequential(nn.BatchNorm2d(4), heads[0])
        return MultiExitModel(segments, heads)


@pytest.fixture
def tiny() -> Tiny:
    return tiny_model


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(50) % 3
    inputs = torch.randn(50, 2, 6, 6, generator=generator) + targets[:, None, None, None] - 1.0
    return inputs, targets
