"""EE-ResNets: residual networks with early exits that have gates (Demir & Akbas 2024, EENets).

An exit stands after a residual block and is a linear classifier and, beside it, a linear gate, the
paper's confidence branch, on the same features: every channel's mean (``pool``), the mean after
batch norm (``bnpool``) or the whole map (``plain``). Where exits go is a rule over cost, see
`offramp.placement`.

Apart from the public code (github.com/eksuas/eenets.pytorch):

- The last exit has no gate. The public code gives it one that its losses v1 and v2 do not use.
- A bottleneck has a ReLU after its first convolution too, as in He et al. 2016.
- With bottlenecks a CIFAR network of depth 9n + 2 has n of them per stage; the public code counts
  them as basic blocks, and then builds more layers than the depth says.
- An exit's place is chosen by multiply-accumulates of convolutions and linear layers, as offramp
  counts cost everywhere. The public code also counts batch norm, ReLU and pooling. Of its published
  tables this moves, by one block each, one exit of depth 20 (``pareto``: ``layer2.0`` in place of
  ``layer1.2``) and some of depth 110 (``fine`` and ``linear``). For the published network, give
  names: ``placement=["layer1.1", "layer1.2"]``; ``benchmarks/ee_resnet_costs.py`` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch

from ..errors import ValidationError
from ..heads.build import HeadSpec, HeadSpecs
from ..placement import RULES, At, Placement, as_placement
from .base import Parts, register
from .cifar_resnet import BlockKind, CifarResNet
from .cut import cut
from .from_torchvision import from_torchvision
from .library import check_image_size, check_sizes

ExitKind = Literal["pool", "bnpool", "plain"]
RuleName = Literal["fine", "pareto", "linear", "gold_ratio"]
StemKind = Literal["auto", "cifar", "imagenet"]

_HEADS: dict[str, HeadSpec] = {
    "pool": "linear",
    "bnpool": {"kind": "linear", "norm": True},
    "plain": "flat",
}
# of the networks with an ImageNet stem
_BLOCKS: dict[int, BlockKind] = {
    18: "basic",
    34: "basic",
    50: "bottleneck",
    101: "bottleneck",
    152: "bottleneck",
}


@register("ee_resnet")
def ee_resnet(
    *,
    depth: int = 20,
    exits: int | None = None,
    placement: RuleName | At = "pareto",
    head: ExitKind | Sequence[ExitKind] | HeadSpecs = "pool",
    block: BlockKind | Literal["auto"] = "auto",
    stem: StemKind = "auto",
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int | Sequence[int] | None = None,
    gate: bool = True,
) -> Parts:
    """An EE-ResNet: a residual network with early exits that have gates.

    Takes images [N, in_channels, *image_size]; other sizes too, where no head is ``plain``.

    Args:
        depth: layers with weights: 6n + 2 (20, 32, 44, 56, 110) for CIFAR, with bottlenecks 9n + 2;
            18, 34, 50, 101 or 152 with the stem of ImageNet, torchvision's own networks.
        exits: number of early exits, so there is one exit more; by default 2, or as many as
            ``placement`` says.
        placement: ``fine``, ``pareto``, ``linear`` or ``gold_ratio``, for that number of exits; an
            `offramp.placement`; or names of blocks.
        head: ``pool``, ``bnpool`` or ``plain``, the published exit types, or any head that
            `offramp.attach` takes; or one per early exit.
        block: ``basic`` or ``bottleneck``; by default ``basic`` for CIFAR and what the depth has
            for ImageNet.
        stem: ``cifar``, a 3 x 3 convolution and three stages of 16, 32 and 64 channels;
            ``imagenet``, a 7 x 7 convolution of stride 2, pooling and four stages; by default that
            of ImageNet for the depths named above. 50 and 152 are depths of both.
        num_classes: number of classes, C.
        in_channels: channels of the images.
        image_size: side of the images, or their height and width, that placement and ``plain``
            heads go by; by default 32 for CIFAR and 224 for ImageNet.
        gate: give each early exit a gate; the last exit never has one.

    Raises:
        ValidationError: if there is no such network, or an option is wrong.
        PlaceError: if not all exits fit; the message says how many do.
        MissingExtraError: if torchvision is needed and not installed.

    Example:
        >>> model = offramp.create_model("ee_resnet", depth=20, exits=2)
        >>> [out.gate is None for out in model(torch.zeros(8, 3, 32, 32))]
        [False, False, True]
    """
    plan = _plan(depth, block, stem)
    places = _places(exits, placement)
    sides = check_image_size(plan.image_size if image_size is None else image_size)
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    heads = _head_specs(head)
    if plan.stem == "imagenet":
        parts = from_torchvision(
            network=f"resnet{depth}",
            at=places,
            num_classes=num_classes,
            image_size=sides,
            in_channels=in_channels,
            head=heads,
            gate=gate,
        )
    else:
        network = CifarResNet(
            depth, num_classes, block=plan.block, shortcut="B", in_channels=in_channels
        )
        example = torch.zeros(2, in_channels, *sides)
        parts = cut(network, places, example, num_classes=num_classes, head=heads, gate=gate)
    return parts._replace(resolved={"placement": list(parts.resolved.get("at", places))})


class _Plan(NamedTuple):
    """What a network looks like."""

    stem: Literal["cifar", "imagenet"]
    block: BlockKind
    image_size: int  # where none is given


def _plan(depth: int, block: str, stem: str) -> _Plan:
    for name, given, valid in (
        ("block", block, ("auto", "basic", "bottleneck")),
        ("stem", stem, ("auto", "cifar", "imagenet")),
    ):
        if given not in valid:
            raise ValidationError(f"wanted {name} as one of {', '.join(valid)}, got {given!r}")
    known = _BLOCKS.get(depth) if isinstance(depth, int) else None
    if stem == "cifar" or (stem == "auto" and known is None):
        return _Plan("cifar", "bottleneck" if block == "bottleneck" else "basic", 32)
    if known is None:
        depths = ", ".join(map(str, _BLOCKS))
        raise ValidationError(f"wanted a depth among {depths} with stem='imagenet', got {depth!r}")
    if block not in ("auto", known):
        raise ValidationError(
            f"wanted block={known!r}, which ResNet-{depth} has, got {block!r}; with stem='cifar' "
            "either is possible"
        )
    return _Plan("imagenet", known, 224)


def _places(exits: int | None, placement: object) -> At:
    """Where exits go, checked against their number."""
    if exits is not None:
        check_sizes(exits=exits)
    if isinstance(placement, str):
        if placement not in RULES:
            raise ValidationError(
                f"wanted a placement among {', '.join(RULES)}, one of offramp.placement or names "
                f"of blocks, got {placement!r}"
            )
        return RULES[placement](2 if exits is None else exits)
    places = as_placement(placement) or placement
    if isinstance(places, Placement):
        num = len(places.shares)
    elif isinstance(places, Sequence):
        num = len(places)
    else:
        raise ValidationError(f"wanted a placement, got {type(placement).__name__}")
    if exits is not None and exits != num:
        raise ValidationError(f"wanted exits={num}, as the placement says, got {exits}")
    return cast(At, places)


def _head_specs(head: object) -> HeadSpecs:
    """The published exit types by our names; other heads as they are."""
    if isinstance(head, str):
        return _HEADS.get(head, cast(HeadSpec, head))
    if isinstance(head, Sequence):
        return [cast(HeadSpec, _head_specs(each)) for each in head]
    return cast(HeadSpecs, head)
