"""Flat head: the whole map, flattened, then classify."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ValidationError
from .base import Head
from .linear import Layout


class FlatHead(Head):
    """Every number of the map by itself, and a linear classifier on all of them.

    The exit type ``plain`` of EENets (Demir & Akbas 2024), and the only one of LEENet. It is not
    the default because of what it takes. Its weights grow with the number of positions: after
    ``layer1`` of a ResNet-50, on images of 224 pixels, a map has 256 * 56 * 56 = 802,816 numbers,
    so a classifier of ten classes has 8 million weights and one of a thousand 803 million, where
    the network itself has 26 million; a `LinearHead` there has 257 thousand. And it reads maps of
    one size, so the images must have the size it was made for. ``pool`` bounds both.

    Args:
        shape: of the value it reads, for one input.
        num_classes: number of classes, C.
        pool: adaptive average pooling of the map to ``pool`` x ``pool`` positions first; None takes
            the map as it is. With 1 this is a `LinearHead`.
        layout: of a map that is pooled: ``channels_first`` for [N, C, H, W], ``channels_last`` for
            [N, H, W, C].
        gate, reads: see `Head`.

    Raises:
        ValidationError: if ``pool`` is wrong, or is given where there is no map.

    Example:
        >>> head = FlatHead((64, 8, 8), 10, pool=4)
        >>> head.classifier.in_features
        1024
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        pool: int | None = None,
        layout: Layout = "channels_first",
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        shape = tuple(shape)
        _check(shape, pool)
        channels = shape[-1 if layout == "channels_last" else 0]
        width = math.prod(shape) if pool is None else channels * pool * pool
        super().__init__(width, num_classes, gate=gate, reads=reads)
        self.shape, self.layout = shape, layout
        self.pool = None if pool is None else nn.AdaptiveAvgPool2d(pool)

    def features(self, value: Tensor) -> Tensor:
        """The flattened map, [N, F]; in the order of its own dimensions; pooled, by channel.

        Raises:
            ValidationError: if the map has another size than the head was made for.
        """
        if self.pool is not None:
            first = value if self.layout == "channels_first" else value.movedim(3, 1)
            return self.pool(first).flatten(1)
        if tuple(value.shape[1:]) != self.shape:
            raise ValidationError(
                f"wanted values of shape {self.shape} at a flat head, as it was made for, got "
                f"{tuple(value.shape[1:])}: give it pool, or take a head that averages"
            )
        return value.flatten(1)


def _check(shape: tuple[int, ...], pool: int | None) -> None:
    if pool is None:
        return
    if not isinstance(pool, int) or isinstance(pool, bool) or pool < 1:
        raise ValidationError(
            f"wanted pool of a flat head as a whole number of at least 1, got {pool!r}"
        )
    if len(shape) != 3:
        raise ValidationError(f"wanted a map to pool in a flat head, got values of shape {shape}")
