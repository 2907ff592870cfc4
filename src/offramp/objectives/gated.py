"""What objectives that teach gates share: lambda, and the targets' log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mixture import wide
from ..types import Batch, Costs, ExitOutput
from .base import (
    Objective,
    Scheduled,
    check_smoothing,
    counted,
    counting,
    cross_entropy,
    resized,
)
from .pressure import CostPressure


class GatedObjective(Objective):
    """An objective that weighs the cost of an answer against its being right.

    Args:
        weight: lambda, of the expected cost, which is relative to the original network's; or a
            schedule of it, see `offramp.objectives.base.scheduled`.
        target_cost: in place of ``weight``: the mean cost at which the trained model is to land,
            each input leaving at the first gate above one half; lambda is then found while
            training, see `offramp.objectives.pressure.CostPressure`.
        unit: of the costs.
        ignore_index: target that does not count, beside the negative ones.
        label_smoothing: share of each target that is spread evenly over all classes, in [0, 1).

    Raises:
        ValidationError: if an option is out of range, or ``weight`` and ``target_cost`` are both
            given.
    """

    def __init__(
        self,
        weight: Scheduled[float] = 1.0,
        *,
        target_cost: float | None = None,
        unit: str = "macs",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_smoothing(label_smoothing)
        self.pressure = CostPressure(weight, target_cost, unit)
        # kept here too: a training that is resumed is compared by an objective's own attributes
        self.weight, self.target_cost, self.unit = weight, target_cost, unit
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def check(self, costs: Costs) -> None:
        """Look at the weight all over the training, or at the target.

        Raises:
            BudgetError: if the target is out of reach of the costs.
            ValidationError: if a schedule gives a weight that is negative or not finite.
        """
        self.pressure.check(costs)

    def counted(self, outputs: Sequence[ExitOutput], batch: Batch) -> Tensor:
        """The targets, with -100 wherever they do not count, [N, *S]."""
        return counted(batch.target, outputs[0].logits.shape[1], self.ignore_index)

    def log_probs(self, outputs: Sequence[ExitOutput], target: Tensor) -> Tensor:
        """Log-probabilities of all exits, at the targets' resolution.

        Returns:
            [N, K, *S], of the targets and 0 where these do not count; [N, K, C, *S], of all
            classes, where labels are smoothed.
        """
        if self.label_smoothing:
            logits = [resized(wide(out.logits), target) for out in outputs]
            return torch.stack([each.log_softmax(1) for each in logits], 1)
        return -exit_losses(outputs, target)

    def nll(self, log_p: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood over the targets that count, [].

        Args:
            log_p: of one answer, as `log_probs` gives those of K: [N, *S] or [N, C, *S].
            target: [N, *S], with -100 wherever it does not count.
        """
        if self.label_smoothing:  # log-probabilities are logits of themselves
            return cross_entropy(log_p, target, label_smoothing=self.label_smoothing)
        counts = target >= 0
        return -log_p.masked_fill(~counts, 0).sum() / counts.sum().clamp_min(1)


def exit_losses(
    outputs: Sequence[ExitOutput], target: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of every exit, [N, K, *S]; 0 where a target does not count."""
    losses = [
        F.cross_entropy(
            resized(wide(out.logits), target),
            target,
            ignore_index=-100,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        for out in outputs
    ]
    return torch.stack(losses, 1)


def mean_cost(costs: Tensor, target: Tensor) -> Tensor:
    """Mean over inputs with a target that counts, [N], [N, *S] -> []; 0 of none."""
    used = counting(target)
    return (costs * used).sum() / used.sum().clamp_min(1)
