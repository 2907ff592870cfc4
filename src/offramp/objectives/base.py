"""What every objective does: turn the outputs of all exits into named terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..registry import objectives
from ..types import Batch, Costs, ExitOutput, Term

register = objectives.register


class Objective(nn.Module, ABC):
    """What training minimises: terms, each of which says from which segment on it moves weights.

    An objective never sees the model, so it can be tested from bare tensors. One that is resumed
    after a crash goes on from its ``state_dict``: what it gathers belongs into buffers.
    """

    @abstractmethod
    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """Terms whose sum is minimised.

        Args:
            outputs: K exits.
            batch: the batch that gave them; its target is [N, *S].
            costs: cost of each exit.
        """


def counted(target: Tensor, num_classes: int, ignore_index: int = -100) -> Tensor:
    """The target with -100 wherever it does not count, [N, *S] int64.

    Args:
        target: [N, *S]; negative ones do not count.
        num_classes: C.
        ignore_index: another target that does not count.

    Raises:
        ValidationError: if targets are no whole numbers, or one on the CPU is no class; on a GPU
            looking would stall it.
    """
    if target.is_floating_point():
        raise ValidationError(f"wanted targets that are numbers of classes, got {target.dtype}")
    target = target.long()
    target = target.masked_fill((target < 0) | (target == ignore_index), -100)
    if target.device.type == "cpu" and bool((target >= num_classes).any()):
        raise ValidationError(f"wanted targets below C={num_classes}, got {int(target.max())}")
    return target


def cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the targets that count, []; 0 where none does.

    Args:
        logits: [N, C, *T]; maps are brought to the targets' resolution, bilinearly.
        target: [N, *S] int64, with -100 wherever it does not count, as `counted` gives it.
        label_smoothing: share of the target that is spread evenly over all classes.
    """
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(
        logits, target, ignore_index=-100, reduction="sum", label_smoothing=label_smoothing
    )
    # not the mean of cross_entropy, which is NaN for a batch where every target is ignored
    return total / (target >= 0).sum().clamp_min(1)
