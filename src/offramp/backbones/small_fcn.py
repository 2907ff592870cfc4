"""A small fully convolutional network for maps, with exits, that trains on two processor cores.

Fully convolutional as Long et al. 2015 (CVPR); residual blocks of He et al. 2016; past an eighth of
the resolution nothing is strided any more and convolutions are dilated instead, as in the context
module of Yu & Koltun 2016 (ICLR) and the dilated residual networks of Yu, Koltun & Funkhouser 2017
(CVPR). Left out: their last layers, which take the grid out of what dilation 4 leaves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..heads import DenseHead
from .base import Parts, register
from .library import check_sizes

_DILATIONS = (2, 4)  # in turn, of all segments from the third on


@register("small_fcn")
def small_fcn(
    *,
    num_classes: int = 11,
    num_exits: int = 4,
    width: int = 32,
    blocks: int = 2,
    in_channels: int = 3,
    context: int = 4,
    pooled: bool = True,
    gate: bool = False,
) -> Parts:
    """A small network for maps of classes: K segments of residual blocks, a dense head after each.

    Takes images [N, in_channels, H, W] of any size. The state is one map:

    ======= ============== ============= ========== ================================
    segment resolution     channels      dilation   sees around a position, pixels
    ======= ============== ============= ========== ================================
    0       1/4            width         1          31 (with its head's context 63)
    1       1/8            2 * width     1          87 (151)
    2       1/8            4 * width     2          215 (279)
    3       1/8            4 * width     4          471 (535)
    ======= ============== ============= ========== ================================

    Further segments are as the last two in turn. On images of 180 x 240 the four exits of the
    default take 0.12, 0.21, 0.59 and 1.01 billion multiply-accumulates; no head takes more than a
    twentieth of its segment.

    Args:
        num_classes: number of classes, C.
        num_exits: number of exits, K; each ends one segment.
        width: channels after the stem; cost grows with its square.
        blocks: residual blocks of each segment, of two 3 x 3 convolutions each.
        in_channels: channels of the images.
        context: dilation of the 3 x 3 convolution of each channel in the heads; 0 has none.
        pooled: heads also see the mean over all positions, see `offramp.heads.DenseHead`.
        gate: give every exit but the last a gate.

    Raises:
        ValidationError: if an option is wrong.

    Example:
        >>> model = offramp.create_model("small_fcn", num_classes=11)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(1, 3, 180, 240))]
        [(1, 11, 45, 60), (1, 11, 23, 30), (1, 11, 23, 30), (1, 11, 23, 30)]
    """
    check_sizes(
        num_classes=num_classes,
        num_exits=num_exits,
        width=width,
        blocks=blocks,
        in_channels=in_channels,
    )
    for name, value in (("pooled", pooled), ("gate", gate)):
        if not isinstance(value, bool):
            raise ValidationError(f"wanted {name} as True or False, got {value!r}")
    segments: list[nn.Module] = []
    heads: list[nn.Module] = []
    before = width
    for k in range(num_exits):
        shape = _shape(k, width)
        layers: list[nn.Module] = [] if k else [_stem(in_channels, width)]
        for i in range(blocks):
            stride = 1 if i else shape.stride
            layers.append(Block(before, shape.channels, stride=stride, dilation=shape.dilation))
            before = shape.channels
        segments.append(nn.Sequential(*layers))
        options = {"width": before, "context": context, "pooled": pooled}
        heads.append(DenseHead(before, num_classes, gate=gate and k < num_exits - 1, **options))
    for module in (*segments, *heads):
        module.apply(_initialise)
    return Parts(segments, heads)


class Shape(NamedTuple):
    """What the blocks of a segment look like."""

    channels: int
    stride: int  # of the first block
    dilation: int


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is added.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        stride: of the first convolution, and of the 1 x 1 convolution that the input goes through
            where the shape changes.
        dilation: of both 3 x 3 convolutions.
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, n_out, 3, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = _conv(n_out, n_out, 3, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(n_out)
        same = stride == 1 and n_in == n_out
        projection = [] if same else [_conv(n_in, n_out, 1, stride=stride), nn.BatchNorm2d(n_out)]
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map, [N, n_in, H, W] -> [N, n_out, H / stride, W / stride], rounded up."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


def _shape(k: int, width: int) -> Shape:
    if k == 0:
        return Shape(width, 2, 1)
    if k == 1:
        return Shape(2 * width, 2, 1)
    return Shape(4 * width, 1, _DILATIONS[k % 2])


def _stem(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(n_in, n_out, 3, stride=2), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
    )


def _conv(n_in: int, n_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        n_in, n_out, kernel, stride=stride, padding=padding, dilation=dilation, bias=False
    )


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 over the fan out; batch norms start as 1 and 0 by themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
