"""Joint training: the weighted sum of all exits' losses (Huang et al. 2018, MSDNet).

The linear weights are those of EENet (Ilhan et al. 2024).

Left out: EENet's distillation in the last quarter, which is an objective around this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..errors import ValidationError
from ..types import Batch, Costs, ExitOutput, Term
from .base import Objective, register

Weights = Literal["uniform", "linear"] | Sequence[float] | Callable[[int, float], Sequence[float]]


@register("joint")
class Joint(Objective):
    """Cross-entropy of every exit, each weighted; every term moves every segment below its exit.

    Args:
        weights: ``uniform`` gives every exit 1 (MSDNet); ``linear`` gives exit k of K, counted from
            1, k / (K (K + 1)), which sums to 1/2 (EENet); K numbers; or a schedule, a function of K
            and the progress of training in [0, 1] that returns K numbers.
        ignore_index: target that does not count, beside the negative ones.

    Raises:
        ValidationError: if the weights are unknown, negative or not K.

    Example:
        >>> objective = Joint("linear")
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['ce/0', 'ce/1', 'ce/2', 'ce/3']
    """

    def __init__(self, weights: Weights = "uniform", *, ignore_index: int = -100) -> None:
        super().__init__()
        if isinstance(weights, str) and weights not in ("uniform", "linear"):
            raise ValidationError(
                f"wanted weights 'uniform', 'linear', numbers or a function, got {weights!r}"
            )
        self.weights: Weights = weights  # type: ignore[assignment]
        self.ignore_index = ignore_index

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """One term per exit, ``ce/0`` to ``ce/K-1``.

        Raises:
            ValidationError: if a target on the CPU is no class; on a GPU looking would stall it.
        """
        target = self._counted(batch.target, outputs[0].logits.shape[1])
        weights = exit_weights(self.weights, len(outputs), batch.progress)
        return [
            Term(f"ce/{k}", weight * _loss(out.logits, target))
            for k, (out, weight) in enumerate(zip(outputs, weights, strict=True))
        ]

    def _counted(self, target: Tensor, num_classes: int) -> Tensor:
        """The target with -100 wherever it does not count, [N, *S] int64."""
        target = target.long()
        target = target.masked_fill((target < 0) | (target == self.ignore_index), -100)
        if target.device.type == "cpu" and bool((target >= num_classes).any()):
            raise ValidationError(f"wanted targets below C={num_classes}, got {int(target.max())}")
        return target


def exit_weights(weights: Weights, num_exits: int, progress: float) -> list[float]:
    """The weight of each exit's loss, K numbers."""
    if weights == "uniform":
        return [1.0] * num_exits
    if weights == "linear":
        return [k / (num_exits * (num_exits + 1)) for k in range(1, num_exits + 1)]
    values = [float(w) for w in (weights(num_exits, progress) if callable(weights) else weights)]
    if len(values) != num_exits or min(values) < 0:
        raise ValidationError(
            f"wanted {num_exits} non-negative weights, one per exit, got {values}"
        )
    return values


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
    # not the mean of cross_entropy, which is NaN for a batch where every target is ignored
    return total / (target >= 0).sum().clamp_min(1)
