"""Linear head: average over positions, then classify."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .base import Head

Layout = Literal["channels_first", "channels_last"]


class LinearHead(Head):
    """Global average pooling and a linear classifier.

    Args:
        channels: channels of the value it reads.
        num_classes: number of classes, C.
        layout: ``channels_first`` for [N, C, *S] and [N, C]; ``channels_last`` for [N, *S, C], as
            tokens [N, L, C] and the maps of Swin are.
        gate, reads: see `Head`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        layout: Layout = "channels_first",
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        super().__init__(channels, num_classes, gate=gate, reads=reads)
        self.layout: Layout = layout

    def features(self, value: Tensor) -> Tensor:
        """Mean over positions, [N, channels]."""
        if value.dim() == 2:
            return value
        if self.layout == "channels_last":
            return value.flatten(1, -2).mean(1)
        return value.flatten(2).mean(2)
