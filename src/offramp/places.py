"""Where exits can go in a network, and what it costs to get there."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx, nn

from .backbones.dry_run import Runner, arguments, example_rows, undone
from .backbones.encoder import cut_stack, is_stack, stack_places
from .backbones.survey import survey
from .backbones.trace import mode
from .costs import count_macs, countable
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
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes long to import

    graph, found = survey(network, example)
    with (
        undone(network, False),
        countable(),
        FlopCounterMode(display=False) as counter,
    ):
        meter = _Meter(network, graph, counter)
        meter.run(*arguments(network, graph, example_rows(example, 1)))
    total = max(counter.get_total_flops(), 1)
    return [
        Place(p.name, meter.flops[p.end] / total, meter.flops[p.end] / 2, p.shape, p.carried)
        for p in found
    ]


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


class _Meter(Runner):
    """Runs a graph on the network and reads the counter after every node."""

    def __init__(self, network: nn.Module, graph: fx.Graph, counter: Any) -> None:
        super().__init__(network, graph=graph)
        self.counter = counter
        self.flops: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and read the counter."""
        value = super().run_node(n)
        self.flops[n] = self.counter.get_total_flops()
        return value
