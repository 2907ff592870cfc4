"""What every objective does: turn the outputs of all exits into named terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from ..registry import objectives
from ..types import Batch, Costs, ExitOutput, Term

register = objectives.register


class Objective(nn.Module, ABC):
    """What training minimises: terms, each of which says from which segment on it moves weights.

    An objective never sees the model, so it can be tested from bare tensors.
    """

    @abstractmethod
    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """Terms whose sum is minimised.

        Args:
            outputs: K exits.
            batch: the batch that gave them; its target is [N, *S].
            costs: cost of each exit.
        """
