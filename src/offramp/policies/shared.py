"""One threshold for all exits, as in Shallow-Deep networks (Kaya, Hong and Dumitras 2019).

Left out: answering with the most confident exit when none is confident; here the last exit
answers. Their threshold is given by hand; here it is the one that spends the most of a budget.
"""

from __future__ import annotations

from torch import Tensor

from ..functional import log_odds, one_threshold
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("shared")
class Shared(ExitPolicy):
    """Leave once the top class is probable enough, by the same threshold at every exit.

    The threshold is searched exactly: no other one spends more of the budget, on the records it
    is fitted on, without exceeding it.

    Example:
        >>> policy = Shared(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.thresholds[:-1].unique().numel()
        1
    """

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Log-odds of the top class, [N, *S]."""
        return log_odds(out.logits), carry

    def place(
        self, scores: Tensor, costs: Tensor, budget: float, prior: Tensor | None = None
    ) -> Tensor:
        """The threshold that spends the most within the budget, K times, [N, K], [K] -> [K]."""
        thresholds = one_threshold(scores, costs, budget).repeat(self.num_exits)
        thresholds[-1] = float("-inf")
        return thresholds
