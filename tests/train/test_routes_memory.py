"""What a step holds, and for how long: the graph goes as the backward pass goes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from offramp import create_model, create_objective
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.train.backward import forward_backward
from offramp.types import Batch

from .chain import CLASSES, COSTS, EXITS, SCHEMES, batch_of, chain, every_scheme


class Kept:
    """A tensor that the graph keeps for the backward pass of a segment, a head or the terms."""

    def __init__(self, tensor: Tensor, part: int) -> None:
        self.tensor, self.part = tensor, part


class Watch:
    """What is kept at the moment, by the part that keeps it: k for exit k, K for the terms."""

    def __init__(self, model: MultiExitModel, objective: Objective) -> None:
        self.alive: weakref.WeakSet[Kept] = weakref.WeakSet()
        self.part, self.late = 0, set()
        for k, pair in enumerate(zip(model.segments, model.heads, strict=True)):
            for module in pair:
                self.follow(module, k)
        self.follow(objective, model.num_exits)

    def follow(self, module: nn.Module, part: int) -> None:
        module.register_forward_pre_hook(lambda *_: setattr(self, "part", part))

    def parts(self) -> set[int]:
        return {kept.part for kept in self.alive}

    @contextmanager
    def on(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Kept:
            kept = Kept(tensor.detach(), self.part)  # with its graph it would hold itself
            self.alive.add(kept)
            return kept

        def unpack(kept: Kept) -> Tensor:
            self.late |= {(kept.part, part) for part in self.parts() if part > kept.part}
            return kept.tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


def dense(frozen: bool) -> tuple[MultiExitModel, Batch]:
    """Its state is a list of scales, of which not all reach weights."""
    sizes = {"base": 1, "step": 1, "channels": 4, "growth": 2}
    model = create_model("msdnet", num_classes=CLASSES, num_exits=EXITS, **sizes)
    model.segments[2].requires_grad_(not frozen)
    target = torch.arange(2) % CLASSES
    return model, Batch(torch.randn(2, 3, 32, 32), target, target, 0.0)


@pytest.mark.parametrize(
    ("scheme", "frozen"), [*((scheme, False) for scheme in SCHEMES), ("layer_wise", True)]
)
def test_graph_of_what_is_passed_is_gone(scheme, frozen):
    (model, batch), objective = dense(frozen), create_objective(**SCHEMES[scheme])
    watch = Watch(model, objective)
    with watch.on():
        passed = forward_backward(model, objective, batch, COSTS)
    assert scheme == "joint" or not watch.late  # (at work, still held)
    assert not watch.parts()
    assert len(passed.outputs) == EXITS


@every_scheme
def test_what_a_step_returns_holds_no_graph(scheme):
    batch, objective = batch_of(dtype=torch.float32), create_objective(**SCHEMES[scheme])
    passed = forward_backward(chain(), objective, batch, COSTS)
    values = [*(term.value for term in passed.terms), *(out.logits for out in passed.outputs)]
    assert not any(value.requires_grad for value in [*values, passed.loss])
