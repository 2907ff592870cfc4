"""Linear head: average over positions, then classify."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..errors import ValidationError
from .base import Head

Layout = Literal["channels_first", "channels_last"]


class LinearHead(Head):
    """Global average pooling and a linear classifier.

    Args:
        channels: channels of the value it reads.
        num_classes: number of classes, C.
        norm: batch norm of every channel before the pooling, the exit type ``bnpool`` of EENets
            (Demir & Akbas 2024). It trains, moves and is saved with the head; in the public code it
            stands in a plain list, so it does none of that and never leaves training mode.
        layout: ``channels_first`` for [N, C, *S] and [N, C]; ``channels_last`` for [N, *S, C], as
            tokens [N, L, C] and the maps of Swin are.
        gate, reads: see `Head`.

    Raises:
        ValidationError: if ``norm`` is no bool.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        norm: bool = False,
        layout: Layout = "channels_first",
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        if not isinstance(norm, bool):
            raise ValidationError(f"wanted norm of a linear head as True or False, got {norm!r}")
        super().__init__(channels, num_classes, gate=gate, reads=reads)
        self.layout: Layout = layout
        self.norm = nn.BatchNorm1d(channels) if norm else None

    def features(self, value: Tensor) -> Tensor:
        """Mean over positions, [N, channels]."""
        if value.dim() == 2:
            return value if self.norm is None else self.norm(value)
        if self.layout == "channels_last":
            if self.norm is None:
                return value.flatten(1, -2).mean(1)
            return self.norm(value.flatten(1, -2).transpose(1, 2)).mean(2)
        flat = value.flatten(2)  # [N, channels, positions]
        return (flat if self.norm is None else self.norm(flat)).mean(2)
