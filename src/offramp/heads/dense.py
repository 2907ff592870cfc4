"""Dense head: a cheap class map at the resolution of the value it reads."""

from __future__ import annotations

from torch import Tensor, nn

from ..trees import State
from ..types import ExitOutput
from .base import Head


class DenseHead(Head):
    """A 1 x 1 classifier on every position; logits [N, C, H, W] at the head's own resolution.

    Args:
        channels: channels of the value it reads, [N, channels, H, W].
        num_classes: number of classes, C.
        width: where given, a 1 x 1 convolution, batch norm and ReLU to so many channels come first.
        gate: one logit per input, from the mean over positions.
        reads: see `Head`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        features = channels if width is None else width
        super().__init__(features, num_classes, gate=gate, reads=reads)
        self.project = nn.Identity() if width is None else _project(channels, width)
        self.classifier = nn.Conv2d(features, num_classes, 1)

    def features(self, value: Tensor) -> Tensor:
        """The map that is classified, [N, F, H, W]."""
        return self.project(value)

    def forward(self, state: State) -> ExitOutput:
        """The exit's map of logits."""
        features = self.features(state if self.reads is None else state[self.reads])
        gate = None if self.gate is None else self.gate(features.mean((2, 3))).squeeze(1)
        return ExitOutput(self.classifier(features), gate)


def _project(channels: int, width: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
