"""Tiny random models of every kind of task, with a gate on every early exit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp import attach, create_model
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


class Skips(nn.Module):
    """An ordinary network with a skip from its first block to its last, and a shape kept for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.a, self.b = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows, size = x.shape[0], x.shape[-2:]
        skip = self.stem(x)
        x = self.b(self.act(self.a(skip)))
        x = F.interpolate(x, size) + skip
        return self.classifier(x.reshape(rows, WIDTH, -1).mean(2))


def attached() -> tuple[MultiExitModel, State, Tensor]:
    images = torch.randn(240, 3, 6, 6)
    model = attach(Skips(), ["stem", "a", "b"], example=images[:2], gate=True)
    return model, images, torch.randint(CLASSES, (240,))


def msdnet() -> tuple[MultiExitModel, State, Tensor]:
    options = {"num_classes": CLASSES, "num_exits": EXITS, "base": 1, "step": 1, "channels": 4}
    model = create_model("msdnet", growth=2, gate=True, **options)
    return model, torch.randn(240, 3, 16, 16), torch.randint(CLASSES, (240,))


def bert() -> tuple[MultiExitModel, State, Tensor]:
    """A Hugging Face encoder, whose compaction trims padding."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=EXITS,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        num_labels=CLASSES,
    )
    network = transformers.BertForSequenceClassification(config)
    mask = (torch.arange(7)[None] < torch.randint(2, 8, (240, 1))).long()
    inputs = {"input_ids": torch.randint(1, 50, (240, 7)) * mask, "attention_mask": mask}
    for parameter in network.bert.parameters():
        parameter.data.mul_(4)  # or the layers hardly tell inputs apart
    places = [f"bert.encoder.layer.{k}" for k in range(EXITS - 1)]
    model = attach(network, places, example=inputs, gate=True)
    return model, inputs, torch.randint(CLASSES, (240,))


TASKS: dict[str, Callable[[], tuple[MultiExitModel, State, Tensor]]] = {
    "label": label,
    "map": map_,
    "pyramid": pyramid,
    "encoder": encoder,
    "attached": attached,
    "msdnet": msdnet,
    "bert": bert,
}


@cache
def toy(task: str) -> Toy:
    """The toy of a task, always the same one; its logits are scaled so that scores spread."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model, inputs, targets = TASKS[task]()
        for part in (*model.heads, model.network):
            if hasattr(part, "classifier"):
                part.classifier.weight *= 8  # type: ignore[operator,union-attr]
        outputs = model.eval()(inputs)
    size = (4, 6) if task == "pyramid" else None
    return Toy(model, inputs, targets, Records([Shard(outputs, targets)]), size)
