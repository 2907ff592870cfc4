"""Convolutional head, as MSDNet's (Huang et al. 2018): two strided convolutions, then classify."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Head


def conv_block(channels: int, width: int) -> nn.Sequential:
    """3 x 3 convolution of stride 2, batch norm, ReLU."""
    conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class ConvHead(Head):
    """Two 3 x 3 convolutions of stride 2, then average pooling and a linear classifier.

    Args:
        channels: channels of the value it reads, [N, channels, H, W].
        num_classes: number of classes, C.
        width: channels inside; by default those of the value (MSDNet: 128 on CIFAR).
        pool: side of the average pooling; 0 pools over the whole map, whatever its size.
        gate, reads: see `Head`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        pool: int = 0,
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        width = channels if width is None else width
        super().__init__(width, num_classes, gate=gate, reads=reads)
        self.convs = nn.Sequential(conv_block(channels, width), conv_block(width, width))
        self.pool = nn.AvgPool2d(pool) if pool else nn.AdaptiveAvgPool2d(1)

    def features(self, value: Tensor) -> Tensor:
        """Pooled convolutions, [N, width]."""
        return self.pool(self.convs(value)).flatten(1)
