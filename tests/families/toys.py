"""Tiny random models of every kind of task, with a gate on every early exit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.heads import DenseHead, LinearHead, PoolerHead
from offramp.model import MultiExitModel
from offramp.trees import State
from offramp.types import Costs, Records, Shard

EXITS, CLASSES, WIDTH = 4, 5, 12
COSTS = Costs.from_relative([0.25, 0.5, 0.75, 1.0])


class Toy(NamedTuple):
    """A model in eval mode, inputs, targets, and all exits' outputs for them."""

    model: MultiExitModel
    inputs: State
    targets: Tensor  # [N, *S]
    records: Records
    size: tuple[int, int] | None = None  # of the answers, where exits differ in resolution


class Attend(nn.Module):
    """One attention layer on the state {"hidden": [N, L, D], "mask": [N, L], True for a token}."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        query, key, value = self.mix(state["hidden"]).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, state["mask"][:, None])
        return state | {"hidden": self.norm(state["hidden"] + mixed)}


def label() -> tuple[MultiExitModel, State, Tensor]:
    segments = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(EXITS)]
    heads = [LinearHead(WIDTH, CLASSES, gate=k < EXITS - 1) for k in range(EXITS)]
    return MultiExitModel(segments, heads), torch.randn(240, WIDTH), torch.randint(CLASSES, (240,))


def map_() -> tuple[MultiExitModel, State, Tensor]:
    convs = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(EXITS)]
    segments = [nn.Sequential(conv, nn.Tanh()) for conv in convs]
    heads = [DenseHead(WIDTH, CLASSES, gate=k < EXITS - 1) for k in range(EXITS)]
    images, targets = torch.randn(240, WIDTH, 4, 6), torch.randint(CLASSES, (240, 4, 6))
    return MultiExitModel(segments, heads), images, targets


def pyramid() -> tuple[MultiExitModel, State, Tensor]:
    """Maps whose resolution falls in the middle of the network."""
    model, images, targets = map_()
    model.segments[2].append(nn.AvgPool2d(2))  # type: ignore[operator]
    return model, images, targets


def encoder() -> tuple[MultiExitModel, State, Tensor]:
    segments = [Attend() for _ in range(EXITS)]
    heads = [PoolerHead(WIDTH, CLASSES, gate=k < EXITS - 1, reads="hidden") for k in range(EXITS)]
    mask = torch.arange(7)[None] < torch.randint(2, 8, (240, 1))
    inputs = {"hidden": torch.randn(240, 7, WIDTH), "mask": mask}
    return MultiExitModel(segments, heads), inputs, torch.randint(CLASSES, (240,))


TASKS: dict[str, Callable[[], tuple[MultiExitModel, State, Tensor]]] = {
    "label": label,
    "map": map_,
    "pyramid": pyramid,
    "encoder": encoder,
}


@cache
def toy(task: str) -> Toy:
    """The toy of a task, always the same one; its logits are scaled so that scores spread."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model, inputs, targets = TASKS[task]()
        for head in model.heads:
            head.classifier.weight *= 8  # type: ignore[operator,union-attr]
        outputs = model.eval()(inputs)
    size = (4, 6) if task == "pyramid" else None
    return Toy(model, inputs, targets, Records([Shard(outputs, targets)]), size)
