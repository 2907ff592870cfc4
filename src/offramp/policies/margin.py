"""Margin between the two top probabilities (Park et al. 2015, Big/LITTLE networks, score margin).

Left out: their two separate networks; here the exits of one network are the cascade.
"""

from __future__ import annotations

from torch import Tensor

from ..functional import log_margin
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("margin")
class Margin(ExitPolicy):
    """Leave once the top class is well ahead of the second; the score is -log(1 - (p_1 - p_2)).

    Example:
        >>> policy = Margin(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.thresholds.shape
        torch.Size([4])
    """

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """-log(1 - (p_1 - p_2)) for the two top probabilities, [N, *S]."""
        return log_margin(out.logits), carry
