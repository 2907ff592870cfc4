"""Multi-Scale DenseNet (Huang et al. 2018, ICLR).

"Multi-Scale Dense Networks for Resource Efficient Image Classification". The network keeps feature
maps of several scales, finest first. Every layer adds features to every scale that is still needed;
the coarsest scale is ready for an answer from the first exit on, and finer scales are dropped as
the end comes nearer (section 4).

Left out: lazy evaluation, which skips the finer scales of the layers just before the exit taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ValidationError
from ..heads import ConvHead
from .base import Parts, register
from .msdnet_public import check_size, from_public

StepMode = Literal["even", "lin_grow"]
Prune = Literal["max", "min"]
StemKind = Literal["cifar", "imagenet"]


@register("msdnet")
def msdnet(
    *,
    num_classes: int = 100,
    num_exits: int = 7,
    base: int = 4,
    step: int = 2,
    step_mode: StepMode = "even",
    channels: int = 16,
    growth: int = 6,
    growth_factors: Sequence[int] = (1, 2, 4),
    bottleneck_factors: Sequence[int] = (1, 2, 4),
    bottleneck: bool = True,
    prune: Prune = "max",
    reduction: float = 0.5,
    stem: StemKind = "cifar",
    gate: bool = False,
) -> Parts:
    """MSDNet; by default the CIFAR-100 model of the public code.

    ``checkpoint=`` of `create_model` takes files of the public MSDNet and BDL repositories.

    Takes images [N, 3, H, W]. The state is a list of the live scales, finest first; scale s has
    growth_factors[s] times the channels of a common unit, and half the height and width of scale
    s - 1. Every head reads the coarsest scale, the last of the list.

    Args:
        num_classes: number of classes, C.
        num_exits: number of exits, K; each ends one segment.
        base: layers of the first segment.
        step: layers of every further segment (``even``), or their increase (``lin_grow``).
        step_mode: ``even`` gives segment k ``step`` layers, ``lin_grow`` gives it ``step * k + 1``.
        channels: unit of channels after the stem (32 for ImageNet).
        growth: unit of channels that a layer adds (16 for ImageNet).
        growth_factors: one factor per scale on both units; there are as many scales.
        bottleneck_factors: one factor per scale; a 1 x 1 convolution first narrows what is read
            from scale s to at most bottleneck_factors[s] times the channels to be made.
        bottleneck: use these 1 x 1 convolutions.
        prune: ``max`` drops scales one by one over the whole depth, ``min`` only when the layers
            left are fewer than the scales.
        reduction: share of the channels that a transition keeps; 0 means no transitions. They come
            whenever a scale is dropped (``max``), or after a third and two thirds of the layers
            (``min``).
        stem: ``cifar``, full resolution, heads of 128 channels; ``imagenet``, a quarter of the
            resolution, heads as wide as what they read.
        gate: give every exit but the last a gate.

    Raises:
        ValidationError: if an option is wrong, or the network would run out of channels or scales.

    Example:
        >>> model = offramp.create_model("msdnet", num_classes=10, num_exits=3, base=1, step=1)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(2, 3, 32, 32))]
        [(2, 10), (2, 10), (2, 10)]
    """
    plan = _Plan(
        num_exits=num_exits,
        base=base,
        step=step,
        step_mode=step_mode,
        channels=channels,
        growth=growth,
        growth_factors=_factors("growth_factors", growth_factors),
        bottleneck_factors=_factors("bottleneck_factors", bottleneck_factors),
        bottleneck=bottleneck,
        prune=prune,
        reduction=reduction,
        stem=stem,
    )
    _check(plan, num_classes, gate)
    layers = iter(_layers(plan))
    segments, heads = [], []
    for k, length in enumerate(_lengths(plan)):
        own = [next(layers) for _ in range(length)]
        segments.append(_segment(plan, own, first=k == 0))
        read = own[-1].left * plan.growth_factors[-1]
        heads.append(_head(plan, read, num_classes, gate=gate and k < num_exits - 1))
    for module in (*segments, *heads):
        module.apply(_initialise)

    def rename(public: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = from_public(public)
        check_size(state, num_exits, num_classes)
        return state

    return Parts(segments, heads, rename=rename)


class Stem(nn.Module):
    """From images to all scales: each is a strided convolution of the one before."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        widths = [plan.channels * factor for factor in plan.growth_factors]
        finest = _unit(3, widths[0])
        if plan.stem == "imagenet":
            conv = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
            finest = [conv, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        coarser = [_unit(a, b, stride=2) for a, b in pairwise(widths)]
        self.scales = nn.ModuleList(nn.Sequential(*unit) for unit in [finest, *coarser])

    def forward(self, images: Tensor) -> list[Tensor]:
        """All scales, [N, 3, H, W] -> S maps, finest first."""
        state, value = [], images
        for scale in self.scales:
            value = scale(value)
            state.append(value)
        return state


class Grow(nn.Module):
    """What one layer does at one scale: add features made from it and from the next finer scale.

    Args:
        normal: convolutions on the scale itself.
        down: strided convolutions on the next finer scale; None at a scale that has none.
    """

    def __init__(self, normal: nn.Module, down: nn.Module | None = None) -> None:
        super().__init__()
        self.normal, self.down = normal, down

    def forward(self, value: Tensor, finer: Tensor | None) -> Tensor:
        """The scale with its new features last, [N, C, H, W] -> [N, C + new, H, W]."""
        if self.down is None:
            return torch.cat([value, self.normal(value)], 1)
        return torch.cat([value, self.down(finer), self.normal(value)], 1)


class Dense(nn.Module):
    """One layer over all live scales; finer scales than it has modules for are dropped."""

    def __init__(self, scales: Sequence[Grow]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, state: list[Tensor]) -> list[Tensor]:
        """The scales that stay, each with new features."""
        finer: list[Tensor | None] = [None, *state]
        first = len(state) - len(self.scales)
        return [grow(state[first + i], finer[first + i]) for i, grow in enumerate(self.scales)]


class Transition(nn.Module):
    """A 1 x 1 convolution per live scale, to fewer channels."""

    def __init__(self, scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, state: list[Tensor]) -> list[Tensor]:
        """The same scales with fewer channels."""
        return [scale(value) for scale, value in zip(self.scales, state, strict=True)]


# --------------------------------------------------------------------------- plan
class _Plan(NamedTuple):
    num_exits: int
    base: int
    step: int
    step_mode: str
    channels: int
    growth: int
    growth_factors: tuple[int, ...]
    bottleneck_factors: tuple[int, ...]
    bottleneck: bool
    prune: str
    reduction: float
    stem: str

    @property
    def num_scales(self) -> int:
        return len(self.growth_factors)


class _Layer(NamedTuple):
    unit: int  # channels that it reads, per growth factor
    made: int  # channels that it leaves, per growth factor
    reduced: int | None  # channels after the transition that follows, where one does
    finest: int  # finest scale that it leaves
    drops: bool  # whether it read one finer scale

    @property
    def left(self) -> int:
        """Channels that the next layer reads, per growth factor."""
        return self.made if self.reduced is None else self.reduced


def _lengths(plan: _Plan) -> list[int]:
    """Layers of each segment, K numbers."""
    later = range(1, plan.num_exits)
    return [
        plan.base,
        *(plan.step if plan.step_mode == "even" else plan.step * k + 1 for k in later),
    ]


def _layers(plan: _Plan) -> Iterator[_Layer]:
    """Every layer of the network in turn."""
    depth, unit, finest = sum(_lengths(plan)), plan.channels, 0
    for number in range(1, depth + 1):
        before, finest = finest, _finest(plan, depth, number)
        shrinks = finest > before
        if plan.prune == "min":
            shrinks = number in (depth // 3, 2 * depth // 3)
        made = unit + plan.growth
        reduced = math.floor(plan.reduction * made) if shrinks and plan.reduction else None
        if reduced == 0:
            raise ValidationError(
                f"no channel is left after layer {number} of {depth}: "
                f"wanted a larger share of {made} than reduction={plan.reduction}"
            )
        layer = _Layer(unit, made, reduced, finest, finest > before)
        unit = layer.left
        yield layer


def _finest(plan: _Plan, depth: int, number: int) -> int:
    """The finest scale that layer ``number``, counted from 1, leaves; it never skips one."""
    if plan.prune == "max":
        return (number - 1) // math.ceil(depth / plan.num_scales)
    return max(0, plan.num_scales - (depth - number + 1))


# --------------------------------------------------------------------------- modules
def _segment(plan: _Plan, layers: Sequence[_Layer], first: bool) -> nn.Sequential:
    modules: list[nn.Module] = [Stem(plan)] if first else []
    for layer in layers:
        modules.append(_dense(plan, layer))
        if layer.reduced is not None:
            modules.append(_transition(plan, layer, layer.reduced))
    return nn.Sequential(*modules)


def _head(plan: _Plan, channels: int, num_classes: int, gate: bool) -> ConvHead:
    # pooled over the whole map: at 32 x 32 and 224 x 224 that is the 2 x 2 of the public code, and
    # other image sizes and numbers of scales work too
    width = 128 if plan.stem == "cifar" else None
    return ConvHead(channels, num_classes, width=width, gate=gate, reads=-1)


def _unit(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


def _convs(plan: _Plan, unit: int, scale: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """Convolutions that read ``scale``; the bottleneck's factor is that scale's too."""
    n_in = unit * plan.growth_factors[scale]
    if not plan.bottleneck:
        return nn.Sequential(*_unit(n_in, n_out, stride=stride))
    inner = min(n_in, plan.bottleneck_factors[scale] * n_out)
    return nn.Sequential(*_unit(n_in, inner, kernel=1), *_unit(inner, n_out, stride=stride))


def _dense(plan: _Plan, layer: _Layer) -> Dense:
    scales = []
    for scale in range(layer.finest, plan.num_scales):
        n_out = plan.growth * plan.growth_factors[scale]
        if scale == layer.finest and not layer.drops:
            scales.append(Grow(_convs(plan, layer.unit, scale, n_out)))
            continue
        down = _convs(plan, layer.unit, scale - 1, n_out // 2, stride=2)
        scales.append(Grow(_convs(plan, layer.unit, scale, n_out // 2), down))
    return Dense(scales)


def _transition(plan: _Plan, layer: _Layer, reduced: int) -> Transition:
    factors = plan.growth_factors[layer.finest :]
    units = (_unit(layer.made * factor, reduced * factor, kernel=1) for factor in factors)
    return Transition([nn.Sequential(*each) for each in units])


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 over the fan out; batch norms start as 1 and 0 by themselves."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


# --------------------------------------------------------------------------- checks
def _check(plan: _Plan, num_classes: int, gate: bool) -> None:
    counts = {"num_classes": num_classes, **plan._asdict()}
    for name in ("num_classes", "num_exits", "base", "step", "channels", "growth"):
        if not _is_count(counts[name]):
            raise ValidationError(
                f"wanted {name} as a whole number of at least 1, got {counts[name]!r}"
            )
    choices = {
        "step_mode": ("even", "lin_grow"),
        "prune": ("max", "min"),
        "stem": ("cifar", "imagenet"),
    }
    for name, valid in choices.items():
        if counts[name] not in valid:
            raise ValidationError(f"wanted {name} among {', '.join(valid)}, got {counts[name]!r}")
    for name, value in (("bottleneck", plan.bottleneck), ("gate", gate)):
        if not isinstance(value, bool):
            raise ValidationError(f"wanted {name} as True or False, got {value!r}")
    if not isinstance(plan.reduction, int | float) or not 0 <= plan.reduction <= 1:
        raise ValidationError(f"wanted reduction in [0, 1], got {plan.reduction!r}")
    _check_scales(plan)


def _check_scales(plan: _Plan) -> None:
    factors, narrow = plan.growth_factors, plan.bottleneck_factors
    if not factors or len(factors) != len(narrow):
        raise ValidationError(
            "wanted growth_factors and bottleneck_factors of the same length, one per scale, "
            f"got {factors} and {narrow}"
        )
    for factor in factors[1:]:
        if plan.growth * factor % 2:
            raise ValidationError(
                "wanted an even number of new channels at every scale but the finest, as half are "
                f"made from each of two scales; got growth={plan.growth}, growth_factors={factors}"
            )
    depth = sum(_lengths(plan))
    if plan.prune == "min" and depth + 1 < len(factors):
        raise ValidationError(
            f"wanted at least {len(factors) - 1} layers to drop {len(factors)} scales one by one, "
            f"got {depth}"
        )


def _factors(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or not all(map(_is_count, values)):
        raise ValidationError(f"wanted {name} as whole numbers of at least 1, got {values!r}")
    return tuple(values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
