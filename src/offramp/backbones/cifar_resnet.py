"""Residual networks for 32 x 32 images (He et al. 2016, CVPR, section 4.2).

Module names and option A follow github.com/akamaster/pytorch_resnet_cifar10, so its weights load
by name. Bottleneck blocks are those of He et al. for ImageNet on the same three stages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, register
from .cut import cut

BlockKind = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B"]

_WIDTHS = (16, 32, 64)  # of the three stages


@register("resnet_cifar")
def resnet_cifar(
    *,
    depth: int = 56,
    block: BlockKind = "basic",
    shortcut: Shortcut = "A",
    num_classes: int = 10,
    in_channels: int = 3,
    at: At = ("layer1", "layer2"),
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """A CIFAR ResNet of any depth, cut where exits go.

    Takes images [N, in_channels, H, W]. ``layer1``, ``layer2`` and ``layer3`` give maps of 16, 32
    and 64 channels (four times as many with bottlenecks) at 1, 1/2 and 1/4 of the resolution; their
    blocks are ``layer1.0`` and so on.

    Args:
        depth: layers with weights: 6n + 2 with basic blocks, 9n + 2 with bottlenecks. The
            ``resnet56_3`` of EENet (Ilhan et al. 2024) has nine bottlenecks per stage: depth 83.
        block: ``basic``, two 3 x 3 convolutions, or ``bottleneck``, 1 x 1, 3 x 3, 1 x 1.
        shortcut: where shapes change, ``A`` takes every second position and pads channels with
            zeros, ``B`` projects by a 1 x 1 convolution and batch norm.
        num_classes: number of classes, C.
        in_channels: channels of the images: 3, or 1 for shades of grey.
        at: names of modules after which early exits go; none gives the plain network. Or an
            `offramp.placement`.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        ValidationError: if there is no such network.
        PlaceError: if an exit cannot go to one of the places.

    Example:
        >>> model = offramp.create_model("resnet_cifar", depth=14, at=["layer1", "layer2"])
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(8, 3, 32, 32))]
        [(8, 10), (8, 10), (8, 10)]
    """
    network = CifarResNet(
        depth, num_classes, block=block, shortcut=shortcut, in_channels=in_channels
    )
    example = torch.zeros(2, in_channels, 32, 32)
    return cut(network, at, example, num_classes=num_classes, head=head, gate=gate)


class CifarResNet(nn.Module):
    """The plain network: images [N, in_channels, H, W] to logits [N, C].

    Args:
        depth, num_classes, block, shortcut, in_channels: see `resnet_cifar`.

    Raises:
        ValidationError: if there is no such network.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        block: BlockKind = "basic",
        shortcut: Shortcut = "A",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth, block)
        if shortcut not in ("A", "B"):
            raise ValidationError(f"wanted a shortcut A or B, got {shortcut!r}")
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if not isinstance(value, int) or value < 1:
                raise ValidationError(
                    f"wanted {name} as a whole number of at least 1, got {value!r}"
                )
        kind = Basic if block == "basic" else Bottleneck
        self.conv1 = _conv(in_channels, _WIDTHS[0], 3)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.layer1, self.layer2, self.layer3 = _stages(kind, blocks, shortcut)
        self.linear = nn.Linear(_WIDTHS[-1] * kind.expansion, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, in_channels, H, W] -> [N, C]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Basic(nn.Module):
    """Two 3 x 3 convolutions around which the input is added."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(n_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(n_in, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map, [N, n_in, H, W] -> [N, width, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, around which the input is added.

    The last convolution gives four times as many channels as the others.
    """

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        wide = width * self.expansion
        self.conv1, self.bn1 = _conv(n_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, wide, 1), nn.BatchNorm2d(wide)
        self.shortcut = _shortcut(n_in, wide, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map, [N, n_in, H, W] -> [N, 4 * width, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))


class Pad(nn.Module):
    """Option A: every ``stride``-th position, and channels of zeros on both sides.

    It has no parameters.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.before = (n_out - n_in) // 2
        self.after = n_out - n_in - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """The shape of the block's map, [N, n_in, H, W] -> [N, n_out, H / stride, W / stride]."""
        strided = x[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, self.before, self.after))


def _at_depth(depth: int) -> Callable[..., Parts]:
    def build(
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        at: At = ("layer1", "layer2"),
        head: HeadSpecs = "auto",
        gate: bool = False,
        shortcut: Shortcut = "A",
    ) -> Parts:
        return resnet_cifar(
            depth=depth,
            shortcut=shortcut,
            num_classes=num_classes,
            in_channels=in_channels,
            at=at,
            head=head,
            gate=gate,
        )

    build.__name__ = f"resnet{depth}_cifar"
    build.__doc__ = (
        f"ResNet-{depth} of He et al. 2016 for 32 x 32 images, basic blocks; see `resnet_cifar`."
    )
    return register(build.__name__)(build)


resnet20_cifar = _at_depth(20)
resnet32_cifar = _at_depth(32)
resnet44_cifar = _at_depth(44)
resnet56_cifar = _at_depth(56)
resnet110_cifar = _at_depth(110)


# --------------------------------------------------------------------------- helpers
def _blocks_per_stage(depth: int, block: BlockKind) -> int:
    unit = {"basic": 6, "bottleneck": 9}.get(block)
    if unit is None:
        raise ValidationError(f"wanted a block basic or bottleneck, got {block!r}")
    if not isinstance(depth, int) or depth < unit + 2 or (depth - 2) % unit:
        examples = ", ".join(str(unit * n + 2) for n in (1, 2, 3))
        raise ValidationError(
            f"wanted a depth of {unit}n + 2 with {block} blocks ({examples}, ...), got {depth!r}"
        )
    return (depth - 2) // unit


def _stages(
    kind: type[Basic] | type[Bottleneck], blocks: int, shortcut: Shortcut
) -> list[nn.Sequential]:
    stages, n_in = [], _WIDTHS[0]
    for width in _WIDTHS:
        stage = []
        for i in range(blocks):
            stride = 2 if i == 0 and width != _WIDTHS[0] else 1
            stage.append(kind(n_in, width, stride, shortcut))
            n_in = width * kind.expansion
        stages.append(nn.Sequential(*stage))
    return stages


def _shortcut(n_in: int, n_out: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if stride == 1 and n_in == n_out:
        return nn.Sequential()
    if shortcut == "A":
        return Pad(n_in, n_out, stride)
    return nn.Sequential(_conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 over the fan in; batch norms start as 1 and 0 by themselves."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
