"""The blocks of a network: where a placement may put exits, and what it costs to get there.

What counts as a block is told in `offramp.placement`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple, cast

import torch
from torch import nn

from ..errors import PlaceError
from ..modes import keep_modes
from ..placement import At, Placement, as_placement
from ..trees import State
from .dry_run import example_rows
from .encoder import is_stack, stack_places
from .macs import countable, macs_upto
from .stack import answer, main_input, named
from .survey import survey

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)  # by whose forward they run


class Block(NamedTuple):
    """A block of a network."""

    name: str  # of the module that it is, or that it ends with
    cost: float  # multiply-accumulates up to its end over those of the network


def resolve(network: nn.Module, at: At, example: State) -> Sequence[str]:
    """Names of the modules after which exits go: a placement's choice, or the names as they came.

    Args:
        network: a network that torch.fx can follow, or a Hugging Face encoder.
        at: names, or a placement.
        example: inputs of the network, batch first.

    Raises:
        PlaceError: if not all exits fit, or torch.fx cannot follow the network's forward.
        ValidationError: if the example does not fit, or a mapping says no placement.
    """
    placement = as_placement(at)
    if placement is None:
        return cast(Sequence[str], at)
    return choose(placement, find_blocks(network, example))


def choose(placement: Placement, blocks: Sequence[Block]) -> list[str]:
    """Names of the blocks that a placement chooses.

    Raises:
        PlaceError: if not all exits fit; the message says how many do.
    """
    try:
        return [blocks[i].name for i in placement.choose([block.cost for block in blocks])]
    except PlaceError as error:
        names = ", ".join(block.name for block in blocks[-8:])
        raise PlaceError(
            f"{error} (the last of them: {names or 'none'}); ask for fewer, or give names, which "
            "offramp.places lists"
        ) from error


def find_blocks(network: nn.Module, example: State) -> list[Block]:
    """The blocks of a network in the order in which they run.

    Raises:
        PlaceError: if torch.fx cannot follow the network's forward.
        ValidationError: if the example does not fit.
    """
    if is_stack(network):
        return _layers(network, example)
    graph, found = survey(network, example)
    macs = macs_upto(network, graph, example)
    order = {node: i for i, node in enumerate(macs)}
    rises = [order[after] for before, after in pairwise(macs) if macs[after] > macs[before]]
    total = max(macs.values())
    free = [place for place in found if place.carried == 0 and macs[place.end] > 0]
    names = _blocks(network, [place.name for place in free])
    if len(names) >= 2:
        ends = [place for place in free if place.name in names]
    else:
        steps = groupby(free, key=lambda place: macs[place.end])
        ends = [list(step)[-1] for _, step in steps]
    return [
        Block(place.name, macs[place.end] / total)
        for place in ends
        if sum(rise > order[place.end] for rise in rises) > 1  # more than the classifier is left
    ]


def _layers(network: nn.Module, example: State) -> list[Block]:
    """The layers of an encoder of Hugging Face, all but the last."""
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes long to import

    names, upto = stack_places(network), []
    inputs = named(example_rows(example, 1), main_input(network))
    with (
        keep_modes(network),
        torch.no_grad(),
        countable(),
        FlopCounterMode(display=False) as counter,
    ):
        handles = [
            network.get_submodule(name).register_forward_hook(
                lambda *_: upto.append(counter.get_total_flops())
            )
            for name in names
        ]
        try:
            answer(network.eval(), inputs)
        finally:
            for handle in handles:
                handle.remove()
    total = counter.get_total_flops()
    return [Block(name, flops / total) for name, flops in zip(names, upto, strict=True)]


def _blocks(network: nn.Module, free: Collection[str]) -> set[str]:
    """Names of the blocks among the modules that end where nothing else is carried along."""
    weighty = [
        name
        for name, module in network.named_modules()
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    ]
    modules = {name: network.get_submodule(name) for name in free}
    large = {
        name: module
        for name, module in modules.items()
        if not _is_container(module) and sum(_within(each, name) for each in weighty) > 1
    }
    # a class that holds several blocks somewhere, as a stage does, is no block anywhere
    stages = {type(module) for name, module in large.items() if _holds_several(name, large)}
    blocks = {name for name, module in large.items() if type(module) not in stages}
    return {n for n in blocks if not any(n != outer and _within(n, outer) for outer in blocks)}


def _holds_several(name: str, large: Collection[str]) -> bool:
    """Whether at least two innermost ones of these modules are inside the one named."""
    inside = [each for each in large if each != name and _within(each, name)]
    innermost = [n for n in inside if not any(n != other and _within(other, n) for other in inside)]
    return len(innermost) > 1


def _is_container(module: nn.Module) -> bool:
    return any(type(module).forward is kind.forward for kind in _CONTAINERS)


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
