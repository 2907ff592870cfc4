"""DenseNets with bottlenecks and compression for 32 x 32 images (Huang et al. 2017, DenseNet-BC).

Module names follow github.com/kuangliu/pytorch-cifar, as LEENet's do, so their weights load by
name. The networks of github.com/weiaicunzai/pytorch-cifar100 are others under other names: they
have no ReLU in a transition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, register
from .cut import cut
from .library import check_sizes

_BLOCKS = (6, 12, 24, 16)  # DenseNet-121


@register("densenet_cifar")
def densenet_cifar(
    *,
    growth: int = 12,
    blocks: Sequence[int] = _BLOCKS,
    num_classes: int = 10,
    in_channels: int = 3,
    at: At = ("trans1", "trans2", "trans3"),
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """A DenseNet for CIFAR, cut where exits go.

    Takes images [N, in_channels, H, W] of at least 8 x 8. The four dense blocks are ``dense1`` to
    ``dense4``, at 1, 1/2, 1/4 and 1/8 of the resolution; their layers are ``dense1.0`` and so on.
    ``trans1`` to ``trans3`` go from one block to the next.

    Args:
        growth: channels that a layer adds: 12 as LEENet, 32 as the public DenseNet-121.
        blocks: layers of each of the four dense blocks; (6, 12, 24, 16) is DenseNet-121.
        num_classes: number of classes, C.
        in_channels: channels of the images: 3, or 1 for shades of grey.
        at: names of modules after which early exits go, or an `offramp.placement`; an empty
            list gives the plain network.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        ValidationError: if there is no such network.
        PlaceError: if an exit cannot go to one of the places.

    Example:
        >>> model = offramp.create_model("densenet_cifar", num_classes=100)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(8, 3, 32, 32))]
        [(8, 100), (8, 100), (8, 100), (8, 100)]
    """
    network = CifarDenseNet(num_classes, growth=growth, blocks=blocks, in_channels=in_channels)
    example = torch.zeros(2, in_channels, 32, 32)
    return cut(network, at, example, num_classes=num_classes, head=head, gate=gate)


class CifarDenseNet(nn.Module):
    """The plain network: images [N, in_channels, H, W] to logits [N, C].

    Args:
        num_classes, growth, blocks, in_channels: see `densenet_cifar`.

    Raises:
        ValidationError: if there is no such network.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        growth: int = 12,
        blocks: Sequence[int] = _BLOCKS,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, growth=growth, in_channels=in_channels)
        layers, width = _check_blocks(blocks), 2 * growth
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.dense1, width = _dense(width, layers[0], growth)
        self.trans1, width = _transition(width)
        self.dense2, width = _dense(width, layers[1], growth)
        self.trans2, width = _transition(width)
        self.dense3, width = _dense(width, layers[2], growth)
        self.trans3, width = _transition(width)
        self.dense4, width = _dense(width, layers[3], growth)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, in_channels, H, W] -> [N, C]."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.trans3(self.dense3(self.trans2(self.dense2(x))))
        x = F.relu(self.bn(self.dense4(x)))
        return self.linear(x.mean((2, 3)))


class Layer(nn.Module):
    """A bottleneck whose few new channels are put before those it was given."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(n_in), nn.Conv2d(n_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """All channels so far, [N, n_in, H, W] -> [N, growth + n_in, H, W]."""
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        return torch.cat([y, x], 1)


class Transition(nn.Module):
    """Half the channels at half the resolution."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(n_in), nn.Conv2d(n_in, n_in // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Fewer and smaller channels, [N, n_in, H, W] -> [N, n_in // 2, H // 2, W // 2]."""
        return self.pool(self.conv(F.relu(self.bn(x))))


# --------------------------------------------------------------------------- helpers
def _check_blocks(blocks: Sequence[int]) -> list[int]:
    listed = isinstance(blocks, Sequence) and not isinstance(blocks, str) and len(blocks) == 4
    if not listed or not all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in blocks
    ):
        raise ValidationError(f"wanted blocks as four whole numbers of at least 1, got {blocks!r}")
    return list(blocks)


def _dense(n_in: int, layers: int, growth: int) -> tuple[nn.Sequential, int]:
    """A dense block, and how many channels it gives."""
    made = [Layer(n_in + i * growth, growth) for i in range(layers)]
    return nn.Sequential(*made), n_in + layers * growth


def _transition(n_in: int) -> tuple[Transition, int]:
    return Transition(n_in), n_in // 2


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 over the fan in; batch norms start as 1 and 0 by themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
