"""Gradient equilibrium: no segment gets larger gradients for the exits above it (Li et al. 2019).

Counted from 1, exit i of K sends 1 / (K-i+1) of its gradient into the network, and the segment that
follows sends (K-i) / (K-i+1) of its own ("Improved Techniques for Training Adaptive Deep Networks",
section 3.1). So around joint training the K-i+1 exits that learn below exit i have equal shares
there, which sum to 1.

Differs: the whole state is scaled; the public code scales the coarsest of MSDNet's maps alone. Left
out: that paper's inline subnetwork collaboration and one-for-all distillation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..types import Batch, Costs, ExitOutput, Gains, Term
from .base import Objective, register, wrapped


@register("gradient_equilibrium")
class GradientEquilibrium(Objective):
    """Another objective's terms, whose gradients are scaled at the boundaries of segments.

    Heads learn their own terms at full size.

    Args:
        objective: what is wrapped: a name, ``{"name": ..., **options}``, or an objective.
        ignore_index, label_smoothing: handed to an objective given by name.

    Raises:
        ValidationError: if the objective is none of these, or ``ignore_index`` or
            ``label_smoothing`` come with one that is made already.
        UnknownNameError: if there is no objective of that name.
        OptionError: if that objective does not take an option.

    Example:
        >>> GradientEquilibrium("joint").gains(3, 0.0).boundaries
        [0.6666666666666666, 0.5]
    """

    def __init__(
        self,
        objective: str | Mapping[str, Any] | Objective = "joint",
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.objective = wrapped(objective, ignore_index, label_smoothing)
        self.ignore_index: int = getattr(self.objective, "ignore_index", ignore_index)

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """The wrapped objective's terms."""
        return self.objective(outputs, batch, costs)

    def gains(self, num_exits: int, progress: float) -> Gains:
        """Times those of the wrapped objective, where it has any."""
        left = range(num_exits, 0, -1)  # exits from each one on
        heads = [1 / num for num in left]
        boundaries = [(num - 1) / num for num in left][:-1]
        inner = self.objective.gains(num_exits, progress)
        if inner is not None:
            heads = [a * b for a, b in zip(heads, inner.heads, strict=True)]
            boundaries = [a * b for a, b in zip(boundaries, inner.boundaries, strict=True)]
        return Gains(heads, boundaries)

    def refresh(
        self, answers: Iterable[tuple[Sequence[ExitOutput], Batch]], costs: Costs, rows: int
    ) -> None:
        """What the wrapped objective does with them."""
        self.objective.refresh(answers, costs, rows)

    @property
    def refreshes(self) -> bool:
        """Whether the wrapped objective does."""
        return self.objective.refreshes
