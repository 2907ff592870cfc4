"""Top probability, as in budgeted batch classification (Huang et al. 2018, MSDNet, section 5)."""

from __future__ import annotations

from torch import Tensor

from ..functional import log_odds
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("max_prob")
class MaxProb(ExitPolicy):
    """Leave once the top class is probable enough; the score is its log-odds.

    Example:
        >>> policy = MaxProb(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.thresholds.shape
        torch.Size([4])
    """

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Log-odds of the top class, [N, *S]."""
        return log_odds(out.logits), carry
