"""HRNet for maps: the high-resolution networks of timm (Wightman) with dense heads.

"Deep High-Resolution Representation Learning for Visual Recognition" (Wang et al. 2020, TPAMI). The
network keeps one map at a quarter of the resolution from beginning to end, and adds a coarser one
at every stage; all of them are exchanged again and again. Its answer is HRNetV2's (Sun et al.
2019): all maps, enlarged and stacked, through 1 x 1 convolutions. The classification head of timm's
networks is left out. Exits go after stages, as in Liu et al. 2022 (ICLR), "Anytime Dense Prediction
with Confidence Adaptivity", without their lower resolution at early exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import PlaceError, extra
from ..heads.dense import BranchesHead
from ..placement import At, as_placement
from ..trees import State
from .base import Parts, read_weights, register
from .blocks import Block, choose
from .dry_run import undone
from .from_timm import make_network
from .library import check_name, check_sizes, load_weights

_STAGES = ("layer1", "stage2", "stage3", "stage4")
_TRIED = 64  # pixels a side that cost is counted on; its shares hardly change with the size
_CLASSIFYING = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


@register("hrnet")
def hrnet(
    *,
    network: str = "hrnet_w18_small",
    at: At = _STAGES[:-1],
    num_classes: int = 19,
    head_width: int | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    in_channels: int = 3,
    gate: bool = False,
) -> Parts:
    """An HRNet of timm that answers with maps at a quarter of the resolution, at every exit.

    Takes images [N, in_channels, H, W] of any size; timm's own forward wants multiples of 32, and
    at these the features are the same. The state is a list of maps, finest first: one after
    ``layer1``, two after ``stage2``, three after ``stage3``, four after ``stage4``.

    Args:
        network: name in timm, with or without a tag: ``hrnet_w18_small``, ``hrnet_w48``.
        at: stages after which early exits go, in order: ``layer1``, ``stage2``, ``stage3``. Or an
            `offramp.placement`, by the cost up to each of these.
        num_classes: number of classes, C.
        head_width: where given, early heads first make a map of so many channels, by a 1 x 1
            convolution, batch norm and ReLU; by default they classify the maps at once.
        pretrained: fetch timm's weights for that name, those of its classifier aside.
        weights: a file with a state dict of timm's network, safetensors or torch, in their place.
        in_channels: channels of the images.
        gate: give each early exit a gate.

    Raises:
        UnknownNameError: if timm has no such HRNet; the message has near matches.
        PlaceError: if an exit cannot go to one of the places.
        CheckpointError: if weights cannot be fetched, or do not fit.
        MissingExtraError: if timm is not installed.

    Example:
        >>> model = offramp.create_model("hrnet", num_classes=19)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(1, 3, 180, 240))]
        [(1, 19, 45, 60), (1, 19, 45, 60), (1, 19, 45, 60), (1, 19, 45, 60)]
    """
    with extra("vision"):
        import timm
    name = str(network)
    check_name(name.partition(".")[0], timm.list_models("hrnet_*"), "timm's HRNets")
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    placement = as_placement(at)
    places = _places(at) if placement is None else []
    options = {"head": "", "num_classes": 0, "in_chans": in_channels}
    made: Any = make_network(timm, name, pretrained and weights is None, options)
    if weights is not None:
        given = read_weights(weights)
        own = {n: v for n, v in given.items() if not n.startswith(_CLASSIFYING)}
        load_weights(made, own, num_classes, str(weights))
    stages = [Stem(made), *(Stage(made, stage) for stage in _STAGES[1:])]
    channels = [_channels(made, stage) for stage in _STAGES]
    answer = BranchesHead(channels[-1], num_classes, width=sum(channels[-1]))
    if placement is not None:
        places = choose(placement, _blocks([*stages, answer], in_channels))
    segments, modules = [], []
    heads: list[nn.Module] = []
    for stage, module, widths in zip(_STAGES, stages, channels, strict=True):
        modules.append(module)
        if stage in places:
            segments.append(nn.Sequential(*modules))
            modules = []
            heads.append(BranchesHead(widths, num_classes, width=head_width, gate=gate))
    resolved = {} if placement is None else {"at": places}
    last = nn.Sequential(*modules)
    return Parts([*segments, last], [*heads, answer], network=made, resolved=resolved)


class Stem(nn.Module):
    """From images to the first map, at a quarter of the resolution.

    Args:
        network: a network of timm, whose modules it uses.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        names = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "layer1")
        self.layers = nn.Sequential(*(getattr(network, name) for name in names))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The state with one map, [N, C, H, W] -> [N, 256, H / 4, W / 4], rounded up."""
        return [self.layers(images)]


class Stage(nn.Module):
    """One stage: a coarser map is added, and all maps are exchanged.

    Args:
        network: a network of timm, whose modules it uses.
        name: ``stage2``, ``stage3`` or ``stage4``.
    """

    def __init__(self, network: Any, name: str) -> None:
        super().__init__()
        self.transition: Any = getattr(network, f"transition{_STAGES.index(name)}")
        self.exchanges: Any = getattr(network, name)

    def forward(self, state: State) -> list[Tensor]:
        """The state with one map more, of half the resolution of the coarsest, rounded up."""
        # a map that the stage before had goes on as it is, a new one is made of its coarsest; but
        # the first transition makes both of its maps from the only one
        maps = [make(state[min(i, len(state) - 1)]) for i, make in enumerate(self.transition)]
        for module in self.exchanges:
            maps = _exchange(module, maps)
        return maps


def _exchange(module: Any, maps: list[Tensor]) -> list[Tensor]:
    """What timm's module does, for maps of any size: finer maps are asked for theirs."""
    grown = [branch(value) for branch, value in zip(module.branches, maps, strict=True)]
    fused = []
    for i, layers in enumerate(module.fuse_layers):
        size = list(grown[i].shape[2:])
        total: Tensor | None = None
        for j, (layer, value) in enumerate(zip(layers, grown, strict=True)):
            if j > i:
                part = F.interpolate(layer[1](layer[0](value)), size, mode="nearest")
            else:
                part = layer(value)
            total = part if total is None else total + part
        fused.append(module.fuse_act(total))
    return fused


# --------------------------------------------------------------------------- helpers
def _blocks(parts: Sequence[nn.Module], in_channels: int) -> list[Block]:
    """The stages that may have an early exit and the cost up to each, from stages and answer."""
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes long to import

    state: Any = torch.zeros(1, in_channels, _TRIED, _TRIED)
    upto = []
    with undone(nn.ModuleList(parts), False), FlopCounterMode(display=False) as counter:
        for part in parts:
            state = part(state)
            upto.append(counter.get_total_flops())
    return [Block(n, cost / upto[-1]) for n, cost in zip(_STAGES[:-1], upto, strict=False)]


def _places(at: object) -> list[str]:
    valid = ", ".join(_STAGES[:-1])
    if isinstance(at, str) or not isinstance(at, Sequence):
        raise PlaceError(f"wanted a list of stages among {valid}, got {at!r}")
    wanted = [stage for stage in _STAGES[:-1] if stage in at]
    if list(at) != wanted:
        raise PlaceError(
            f"wanted stages among {valid}, each once and in this order, got {list(at)}"
        )
    return wanted


def _channels(network: Any, stage: str) -> list[int]:
    """Channels of the maps after a stage, finest first."""
    if stage == "layer1":
        return [_out(network.layer1[-1])]
    return [_out(branch[-1]) for branch in getattr(network, stage)[-1].branches]


def _out(block: Any) -> int:
    """Channels that a residual block of timm gives."""
    return (block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels
