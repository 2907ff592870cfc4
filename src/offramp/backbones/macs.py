"""Counting the multiply-accumulates of a network while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..trees import State
from .dry_run import Runner, arguments, example_rows, undone


@contextmanager
def countable() -> Iterator[None]:
    """Make attention visible to the counter.

    The fused encoder layer of eval mode is one operator without a formula, and so are some
    kernels of scaled dot-product attention; its plain form is matrix products.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def macs_upto(network: nn.Module, graph: fx.Graph, example: State) -> dict[fx.Node, float]:
    """Multiply-accumulates for one input up to every node of a network's graph, in eval mode.

    Args:
        network: the network.
        graph: of its forward, see `survey`.
        example: inputs of the network, batch first.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes long to import

    with undone(network, False), countable(), FlopCounterMode(display=False) as counter:
        meter = _Meter(network, graph, counter)
        meter.run(*arguments(network, graph, example_rows(example, 1)))
    return meter.macs


class _Meter(Runner):
    """Runs a graph on the network and reads the counter after every node."""

    def __init__(self, network: nn.Module, graph: fx.Graph, counter: Any) -> None:
        super().__init__(network, graph=graph)
        self.counter = counter
        self.macs: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and read the counter."""
        value = super().run_node(n)
        self.macs[n] = self.counter.get_total_flops() / 2  # it counts both halves of each
        return value
