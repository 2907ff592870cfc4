"""EENet-8: a very small network for MNIST with two exits at fixed places (Demir & Akbas 2024).

Residual blocks with batch norm and ReLU before each convolution (He et al. 2016, ECCV), every
convolution with a bias. The layers are those of the public code, parameter for parameter.

Its costs of .08 and .26 are constants in that code, shares of figures for "FLOPs" (546, 1844 and
6982 with two filters) that are some four times the number of parameters: they leave out that a
convolution runs at every position, and there are sixteen times as many at the first exit as at the
last. In multiply-accumulates on images of 28 x 28 the early exits cost .45 and .72 of the network,
with four filters .42 and .71. So there is little to gain here; it is for trying things out.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ValidationError
from ..heads import LinearHead
from .base import Parts, register
from .library import check_sizes


@register("eenet8")
def eenet8(
    *,
    filters: int = 2,
    num_classes: int = 10,
    in_channels: int = 1,
    gate: bool = True,
) -> Parts:
    """EENet-8: three residual blocks with an exit after each.

    Takes images [N, in_channels, H, W]. The state is one map: of ``filters`` channels at full
    resolution, then of twice as many at half and four times as many at a quarter of it.

    Args:
        filters: channels of the first block: 2 or 4 as published.
        num_classes: number of classes, C.
        in_channels: channels of the images.
        gate: give both early exits a gate.

    Raises:
        ValidationError: if an option is wrong.

    Example:
        >>> model = offramp.create_model("eenet8", filters=4)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(8, 1, 28, 28))]
        [(8, 10), (8, 10), (8, 10)]
    """
    check_sizes(filters=filters, num_classes=num_classes, in_channels=in_channels)
    if not isinstance(gate, bool):
        raise ValidationError(f"wanted gate as True or False, got {gate!r}")
    stem = nn.Sequential(_conv(in_channels, filters), nn.BatchNorm2d(filters), nn.ReLU())
    segments = [
        nn.Sequential(stem, Block(filters, filters, ready=True)),
        Block(filters, 2 * filters),
        nn.Sequential(
            Block(2 * filters, 4 * filters), nn.BatchNorm2d(4 * filters), nn.ReLU(inplace=True)
        ),
    ]
    heads = [
        LinearHead(filters * 2**k, num_classes, gate=gate and k < len(segments) - 1)
        for k in range(len(segments))
    ]
    return Parts(segments, heads)


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is added; half the resolution where it widens.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        ready: the input is normed and positive already, as after the stem.
    """

    def __init__(self, n_in: int, n_out: int, *, ready: bool = False) -> None:
        super().__init__()
        stride = 1 if n_in == n_out else 2
        before = [] if ready else [nn.BatchNorm2d(n_in), nn.ReLU()]
        self.layers = nn.Sequential(
            *before,
            _conv(n_in, n_out, stride),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
            _conv(n_out, n_out),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(n_in, n_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map, [N, n_in, H, W] -> [N, n_out, H / stride, W / stride], rounded up."""
        return self.layers(x) + self.shortcut(x)


def _conv(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1)
