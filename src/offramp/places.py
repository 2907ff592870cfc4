"""Where exits can go in a network, and what it costs to get there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .backbones.dry_run import example_rows
from .backbones.encoder import cut_stack, is_stack, stack_places
from .backbones.macs import macs_upto
from .backbones.survey import survey
from .backbones.trace import mode
from .costs import count_macs
from .model import MultiExitModel
from .trees import State


class Place(NamedTuple):
    """A module after which an exit can go."""

    name: str
    cost: float  # multiply-accumulates up to here over those of the whole network, without heads
    macs: float  # the same for one input, absolute
    shape: tuple[int, ...]  # of its output for one input
    carried: int  # other tensors that the state must carry there: long skips


def places(network: nn.Module, example: State) -> list[Place]:
    """List where exits can go, in the order in which the modules run, with the cost up to each.

    Args:
        network: a network that torch.fx can follow, or a Hugging Face encoder.
        example: inputs of the network, batch first.

    Raises:
        PlaceError: if torch.fx cannot follow the network's forward.
        ValidationError: if the example does not fit.

    Example:
        >>> for place in places(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224)):
        ...     print(f"{place.name:24s} {place.cost:.2f} {place.shape}")
    """
    if is_stack(network):
        return _layers(network, example)
    graph, found = survey(network, example)
    macs = macs_upto(network, graph, example)
    total = max(*macs.values(), 1.0)
    return [Place(p.name, macs[p.end] / total, macs[p.end], p.shape, p.carried) for p in found]


def _layers(network: nn.Module, example: State) -> list[Place]:
    """The places of a stack of layers, which torch.fx cannot follow."""
    names = stack_places(network)
    parts = cut_stack(network, names, example, head="linear")
    model = MultiExitModel(parts.segments, parts.heads, network=parts.network)
    inputs = example_rows(example, 1)
    with mode(network, False), torch.no_grad():
        macs = count_macs(model, inputs).segments  # [K]
        hidden = parts.segments[0](inputs)["hidden"]
    upto = macs.cumsum(0)
    total = float(upto[-1])
    shape = tuple(hidden.shape[1:])
    return [
        Place(name, float(m) / total, float(m), shape, 0)
        for name, m in zip(names, upto[:-1], strict=True)
    ]
