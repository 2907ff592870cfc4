"""Pooler head, as BERT's: the first token through a linear layer and tanh, then classify."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Head


class PoolerHead(Head):
    """First token, linear, tanh, dropout, linear classifier.

    Args:
        channels: width of the tokens it reads, [N, L, channels].
        num_classes: number of classes, C.
        dropout: probability of dropping a feature before the classifier.
        gate, reads: see `Head`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.1,
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        super().__init__(channels, num_classes, gate=gate, reads=reads)
        self.pooler = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def features(self, value: Tensor) -> Tensor:
        """Pooled first token, [N, channels]."""
        return self.dropout(self.pooler(value[:, 0]).tanh())
