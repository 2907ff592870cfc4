"""Patience: leave once several exits in a row agree (Zhou et al. 2020, PABEE, section 3.3).

Left out: their training loss, which weights exits by cost; their rule for regression; and one
patience for all exits: here each exit has its own threshold, fitted to a budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import log_odds, nearest, squash
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("patience")
class Patience(ExitPolicy):
    """Leave once several exits in a row agree.

    The score is the length of the agreeing run, 1 at the first exit, plus squashed log-odds, which
    break ties. On maps both are counted per position; where maps differ in resolution, the earlier
    labels and runs are resampled by nearest neighbour.

    Example:
        >>> policy = Patience(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.thresholds.shape
        torch.Size([4])
    """

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Length of the run that ends here plus a tie-break in [0, 0.999], [N, *S]."""
        label = out.logits.argmax(1)
        run = torch.ones_like(label)
        if carry:
            size = label.shape[1:]
            run += nearest(carry["run"], size) * (nearest(carry["label"], size) == label)
        return run + squash(log_odds(out.logits)), {"label": label, "run": run}
