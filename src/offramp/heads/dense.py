"""Dense heads: cheap class maps at the resolution of what they read.

No head here enlarges its answer to the resolution of the image: losses and metrics do that, where
it is needed. So a head's cost is that of its own, small map, and so is the size of its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..trees import State
from ..types import ExitOutput
from .base import Head


class DenseHead(Head):
    """A 1 x 1 classifier on every position; logits [N, C, H, W] at the head's own resolution.

    For one input it takes, in multiply-accumulates, ``H * W * width * C``; with a width given,
    ``H * W * channels * width`` more; with context, ``9 * H * W * width`` more; pooled,
    ``width * C`` more. Without a width, read ``channels`` for it.

    Args:
        channels: channels of the value it reads, [N, channels, H, W].
        num_classes: number of classes, C.
        width: where given, a 1 x 1 convolution, batch norm and ReLU to so many channels come first.
        context: dilation of a 3 x 3 convolution of each channel by itself, batch norm and ReLU
            before the classifier: every position sees so far to all sides. 0 has none.
        pooled: the classifier also sees the mean over all positions (Liu et al. 2015, ParseNet,
            without their normalisation), so that an early head knows what the image is of.
        gate: one logit per input, from the mean over positions.
        reads: see `Head`.

    Raises:
        ValidationError: if a number is wrong.

    Example:
        >>> head = DenseHead(64, 19, width=32, context=4)
        >>> head(torch.zeros(2, 64, 23, 30)).logits.shape
        torch.Size([2, 19, 23, 30])
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        context: int = 0,
        pooled: bool = False,
        gate: bool = False,
        reads: int | str | None = None,
    ) -> None:
        _check(width, context)
        features = channels if width is None else width
        super().__init__(features, num_classes, gate=gate, reads=reads)
        layers: list[nn.Module] = []
        if width is not None:
            layers += _unit(nn.Conv2d(channels, width, 1, bias=False))
        if context:
            layers += _unit(_each_by_itself(features, context))
        self.project = nn.Sequential(*layers) if layers else nn.Identity()
        self.classifier = nn.Conv2d(features, num_classes, 1)
        self.scene = nn.Linear(features, num_classes, bias=False) if pooled else None

    def features(self, value: Tensor) -> Tensor:
        """The map that is classified, [N, F, H, W]."""
        return self.project(value)

    def forward(self, state: State) -> ExitOutput:
        """The exit's map of logits."""
        features = self.features(state if self.reads is None else state[self.reads])
        logits = self.classifier(features)
        if self.scene is None and self.gate is None:
            return ExitOutput(logits)
        mean = features.mean((2, 3))  # [N, F]
        if self.scene is not None:
            logits = logits + self.scene(mean)[:, :, None, None]
        return ExitOutput(logits, None if self.gate is None else self.gate(mean).squeeze(1))


class BranchesHead(nn.Module):
    """A dense head on maps of several resolutions; logits at that of the first, the finest.

    It answers as HRNetV2 does (Sun et al. 2019): all maps, enlarged to the finest and stacked, go
    through 1 x 1 convolutions. A 1 x 1 convolution may as well come before the enlarging, which is
    linear; done so, map b costs ``H_b * W_b * channels[b] * width`` multiply-accumulates instead of
    ``H_0 * W_0 * channels[b] * width``.

    Args:
        channels: channels of each map of the state, a list of maps, finest first.
        num_classes: number of classes, C.
        width: where given, the maps first become one of so many channels, by a 1 x 1 convolution,
            batch norm and ReLU (HRNetV2: the sum of ``channels``).
        gate: one logit per input, from the mean over positions.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        gate: bool = False,
    ) -> None:
        super().__init__()
        _check(width, 0)
        total = sum(channels)
        self.spans = list(pairwise(accumulate(channels, initial=0)))
        self.project = nn.Conv2d(total, width, 1, bias=False) if width else None
        self.norm = nn.BatchNorm2d(width) if width else None
        self.classifier = nn.Conv2d(width or total, num_classes, 1)
        self.gate = nn.Linear(width or total, 1) if gate else None

    def forward(self, state: State) -> ExitOutput:
        """The exit's map of logits, [N, C, H, W] of the finest map."""
        if self.project is None or self.norm is None:
            logits = self._over_all(self.classifier, state)
            mean = torch.cat([value.mean((2, 3)) for value in state], 1) if self.gate else None
        else:
            features = F.relu(self.norm(self._over_all(self.project, state)))
            logits = self.classifier(features)
            mean = features.mean((2, 3)) if self.gate else None
        return ExitOutput(logits, None if self.gate is None else self.gate(mean).squeeze(1))

    def _over_all(self, conv: nn.Conv2d, maps: Sequence[Tensor]) -> Tensor:
        """A 1 x 1 convolution of all maps, enlarged and stacked, [N, out, H_0, W_0]."""
        (first, last), *coarser = self.spans
        out = F.conv2d(maps[0], conv.weight[:, first:last], conv.bias)
        for value, (first, last) in zip(maps[1:], coarser, strict=True):
            part = F.conv2d(value, conv.weight[:, first:last])
            size = list(out.shape[2:])
            out = out + F.interpolate(part, size, mode="bilinear", align_corners=False)
        return out


def _each_by_itself(channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False
    )


def _unit(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]


def _check(width: object, context: object) -> None:
    least = {"width": (width, 1), "context": (context, 0)}
    for name, (value, low) in least.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
        if not whole and not (name == "width" and value is None):
            raise ValidationError(
                f"wanted {name} of a dense head as a whole number of at least {low}, got {value!r}"
            )
