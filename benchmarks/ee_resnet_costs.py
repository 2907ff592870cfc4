"""What the exits of EE-ResNets cost, as published and as offramp counts it.

The published tables (Demir & Akbas, EENets) are relative to the network without exits. Their
counter counts, for one input, the multiply-accumulates of convolutions, with one more per output
for a bias, and of linear layers, without; two per number that goes into a batch norm; one per
number that comes out of a ReLU or goes into a pooling. The cost of an exit is that of the network
up to it and of its own head; heads on the way are not counted. Places are chosen by that counter,
and the networks built with exits there, so the first two columns are the same definition.

The third column is what offramp reports on the same network: convolutions and linear layers alone,
and every head on the way. The last one says where offramp, which also places by its own count, puts
an exit elsewhere.

    python benchmarks/ee_resnet_costs.py
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offramp import create_model, measure
from offramp.backbones.blocks import find_blocks
from offramp.model import MultiExitModel
from offramp.placement import RULES

PUBLISHED: dict[tuple[int, str], tuple[float, ...]] = {
    (20, "fine"): (0.128, 0.245),
    (20, "pareto"): (0.245, 0.361),
    (20, "gold_ratio"): (0.451, 0.681),
    (20, "linear"): (0.361, 0.681),
    (110, "fine"): (0.058, 0.115, 0.152, 0.190, 0.227, 0.265, 0.303, 0.340),
    (110, "pareto"): (0.209, 0.373, 0.504, 0.597, 0.685, 0.741, 0.796, 0.833),
    (110, "gold_ratio"): (0.040, 0.058, 0.077, 0.096, 0.152, 0.246, 0.392, 0.634),
    (110, "linear"): (0.115, 0.227, 0.340, 0.448, 0.559, 0.671, 0.778, 0.889),
    (18, "fine"): (0.194, 0.322),
}
TOTALS = {20: (41.4e6, 0.272e6), 110: (256.3e6, 1.731e6)}  # of the network without exits: F, params


class Counter(TorchDispatchMode):
    """Counts as the public code of EENets does; hooks on blocks may read it on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            weight, bias = args[1], args[2]
            self.total += out.numel() * weight[0].numel() + (0 if bias is None else out.numel())
        elif name == "addmm":
            self.total += args[1].numel() * args[2].shape[1]
        elif name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            self.total += 2 * args[0].numel()
        elif name in ("relu", "relu_"):
            self.total += out.numel()
        elif name in ("mean", "_adaptive_avg_pool2d", "max_pool2d_with_indices"):
            self.total += args[0].numel()
        return out


class Block(NamedTuple):
    """A residual block, and the public count up to its end over that of the network."""

    name: str
    cost: float


class Row(NamedTuple):
    """An exit of a network."""

    depth: int
    rule: str
    place: str
    published: float
    counted: float  # the public counter on the network built here
    ours: float  # offramp's cost: its own count, heads on the way included
    own_place: str  # where offramp's own count puts this exit


def count(network: nn.Module, image: Tensor, names: Sequence[str] = ()) -> tuple[list[int], int]:
    """Public counts up to the ends of these modules, and of the whole network."""
    upto: list[int] = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda *_: upto.append(counter.total))
        for name in names
    ]
    with torch.no_grad(), Counter() as counter:
        network.eval()(image)
    for handle in handles:
        handle.remove()
    return upto, counter.total


def exit_costs(model: MultiExitModel, image: Tensor) -> list[float]:
    """The published cost of every early exit: the network up to it and its own head."""
    counts, heads, state = [], [], image
    model.eval()
    with torch.no_grad():
        for segment, head in zip(model.segments, model.heads, strict=True):
            with Counter() as counter:
                state = segment(state)
            counts.append(counter.total)
            with Counter() as counter:
                head(state)
            heads.append(counter.total)
    upto = torch.tensor(counts).cumsum(0).tolist()
    return [(upto[k] + heads[k]) / (upto[-1] + heads[-1]) for k in range(len(counts) - 1)]


def plain(depth: int) -> tuple[nn.Module, Tensor]:
    """The network without exits, and an image of CIFAR."""
    model = create_model("ee_resnet", depth=depth, placement=["layer1.0"], image_size=32)
    network: Any = model.network
    return network, torch.zeros(1, 3, 32, 32)


def places(depth: int, rule: str, exits: int) -> list[str]:
    """Names of the blocks that a rule chooses by the public counter."""
    network, image = plain(depth)
    names = [block.name for block in find_blocks(network, image)]
    upto, total = count(network, image, names)
    return [names[i] for i in RULES[rule](exits).choose([one / total for one in upto])]


def rows(depth: int, rule: str, published: Sequence[float]) -> list[Row]:
    """One row per early exit of a published network."""
    exits, image = len(published), torch.zeros(1, 3, 32, 32)
    options: dict[str, Any] = {"depth": depth, "image_size": 32}
    chosen = places(depth, rule, exits)
    model = create_model("ee_resnet", **options, placement=chosen)
    own = create_model("ee_resnet", **options, exits=exits, placement=rule).recipe
    counted = exit_costs(model, image)
    ours = measure(model, image, latency=False).relative().tolist()
    elsewhere = own.options["placement"] if own else chosen
    each = zip(chosen, published, counted, ours, elsewhere, strict=False)
    return [Row(depth, rule, *values) for values in each]


def is_rounding(published: float, counted: float) -> bool:
    """Whether a figure of three digits says no more: rounded, or the rest cut off."""
    thousands = round(1000 * published)
    return thousands in (math.floor(1000 * counted), round(1000 * counted))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What the exits of EE-ResNets cost.")
    parser.add_argument("--json", action="store_true", help="Print what the tables say as JSON.")
    found = [row for key, given in PUBLISHED.items() for row in rows(*key, given)]
    if parser.parse_args().json:
        Console().print_json(json.dumps([row._asdict() for row in found]))
        return
    console = Console()
    for depth, (macs, params) in TOTALS.items():
        network, image = plain(depth)
        total = count(network, image)[1]
        own = sum(parameter.numel() for parameter in network.parameters())
        console.print(
            f"ResNet-{depth}: published {macs / 1e6:.1f} MMac and {params / 1e6:.3f} M parameters, "
            f"here {total / 1e6:.2f} and {own / 1e6:.4f}"
        )
    table = Table("depth", "rule", "exit after", "published", "counted so", "off by", "ours", "own")
    for row in found:
        off = row.counted / row.published - 1
        note = " (rounding)" if is_rounding(row.published, row.counted) else ""
        own = "" if row.own_place == row.place else row.own_place
        numbers = (f"{row.published:.3f}", f"{row.counted:.4f}", f"{100 * off:+.2f} %{note}")
        table.add_row(str(row.depth), row.rule, row.place, *numbers, f"{row.ours:.4f}", own)
    console.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
