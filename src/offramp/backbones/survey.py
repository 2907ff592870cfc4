"""Finding every place of a network where an exit can go."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, fx, nn

from ..trees import State, tensors
from .dry_run import (
    ROWS,
    Facts,
    Observer,
    arguments,
    check_runs,
    example_rows,
    follows,
    shape_of,
    undone,
)
from .trace import bind, trace


class Found(NamedTuple):
    """A module after which an exit can go."""

    name: str
    end: fx.Node  # where it ends in the surveyed graph
    shape: tuple[int, ...]  # of its output for one input
    carried: int  # other tensors that later modules still read: long skips


def survey(network: nn.Module, example: State) -> tuple[fx.Graph, list[Found]]:
    """The places of a network in the order in which they run, and the graph they were found in.

    A place is a module that runs once and returns one batch-first tensor [N, C, ...], before the
    last weights, where all that later code reads follows the batch.

    Raises:
        PlaceError: if torch.fx cannot follow the network's forward.
    """
    check_runs(network, example)
    with undone(network, False):
        traced = trace(network, list(bind(network, example)))
        facts = _facts(network, traced.graph, example)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    weighty = max((i for node, i in order.items() if has_weights(network, node)), default=-1)
    ends: list[tuple[fx.Node, str]] = []
    for name, calls in traced.ends.items():
        end = calls[0]
        if (
            len(calls) == 1 and end is not None and end in order
        ):  # in the graph still, not taken back
            ends.append((end, name))
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in order}
    values = [node for node in order if node.op not in ("get_attr", "output")]
    found = []
    for end, name in sorted(ends, key=lambda pair: order[pair[0]]):
        value = facts[end].small
        carried = [n for n in values if order[n] <= order[end] < last_use[n] and n is not end]
        fits = isinstance(value, Tensor) and value.dim() > 1 and order[end] < weighty
        if fits and not any(follows(facts[n]) for n in [end, *carried]):
            skips = sum(1 for n in carried if tensors(facts[n].small))
            found.append(Found(name, end, tuple(value.shape[1:]), skips))
    return traced.graph, found


def _facts(network: nn.Module, graph: fx.Graph, example: State) -> dict[fx.Node, Facts]:
    runs = []
    for rows in ROWS:
        observer = Observer(network, graph, shape_of)
        observer.run(*arguments(network, graph, example_rows(example, rows)))
        runs.append(observer.seen)
    return {node: Facts(runs[0][node], runs[1][node]) for node in runs[0]}


def has_weights(network: nn.Module, node: fx.Node) -> bool:
    """Whether a node uses parameters or other attributes of the network."""
    if node.op == "get_attr":
        return True
    return node.op == "call_module" and any(
        True for _ in network.get_submodule(str(node.target)).parameters()
    )
