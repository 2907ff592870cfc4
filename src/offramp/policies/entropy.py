"""Entropy of the answer, as in BranchyNet (Teerapittayanon, McDanel and Kung 2016, section III).

Left out: their joint training loss, which is an objective, and thresholds screened by hand: here
they are fitted to a budget.
"""

from __future__ import annotations

from torch import Tensor

from ..functional import log_certainty
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("entropy")
class Entropy(ExitPolicy):
    """Leave once the entropy of the classes is low; the score is minus its logarithm.

    Example:
        >>> policy = Entropy(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.thresholds.shape
        torch.Size([4])
    """

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Minus the log of the entropy in nats, [N, *S]."""
        return log_certainty(out.logits), carry
