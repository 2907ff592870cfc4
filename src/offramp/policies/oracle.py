"""Control: the highest accuracy that any choice of exits can have within the budget (no paper).

It knows the targets. Everyone leaves at the first exit, but for those whom a later exit serves
better: they are upgraded in the order of gain per cost, the best first, as long as the budget
holds. For labels that is cheapest first, and no choice of exits is better; on maps, where an image
gains by fractions, another choice may be better by less than what one image gains, divided by N.
Images whose gains per cost lie within a thousandth of each other may change places (see `_SPREAD`).

Written as scores: what an upgrade from exit k is worth is the largest gain of accuracy per cost,
``(accuracy_j - accuracy_k) / (cost_j - cost_k)``, over later exits j. The score is minus that, and
the thresholds are one price for all exits: an input stays where an upgrade is worth its price.
"""

from __future__ import annotations

from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..functional import Reduce, correctness, one_threshold
from ..types import Records
from .base import Control, register

_SPREAD = 1e-3  # gains are spread by so much, or all inputs of equal gain would be upgraded or none


@register("oracle")
class Oracle(Control):
    """Choose exits with the targets known, for the highest accuracy within the budget.

    On maps an input's accuracy is the share of its positions that are right.

    Example:
        >>> policy = Oracle(num_exits=4).fit(records, costs, budget=0.6)
        >>> policy.exits(records)[:5]
        tensor([0, 2, 0, 0, 1])
    """

    costs: Tensor  # [K] float64, relative; those it was fitted for

    def __init__(
        self, num_exits: int, *, temperature: bool = False, reduce: Reduce = "mean"
    ) -> None:
        super().__init__(num_exits, temperature=temperature, reduce=reduce)
        self.register_buffer("costs", torch.arange(1, num_exits + 1, dtype=torch.float64))
        self.seen = _Seen()

    def learn(self, records: Records, costs: Tensor, budget: float) -> None:
        """Keep the costs, [K]: the scores are gains per cost."""
        self.costs.copy_(costs)

    def scores(self, records: Records) -> Tensor:
        """Minus the gain per cost of the best upgrade to come, 1 where there is none, [N, K]."""
        self._check(records)
        right = self.seen.right(records)
        costs = self.costs.cpu()
        gains = torch.zeros_like(right)
        for k in range(self.num_exits - 1):
            dearer = (costs[k + 1 :] - costs[k]).clamp_min(1e-9)
            gains[:, k] = ((right[:, k + 1 :] - right[:, k, None]) / dearer).amax(1)
        gains = gains * (1 - _SPREAD * torch.arange(len(right))[:, None] / len(right))
        return torch.where(gains > 0, -gains, 1.0).float()

    def place(
        self, scores: Tensor, costs: Tensor, budget: float, prior: Tensor | None = None
    ) -> Tensor:
        """Minus the price of an upgrade at which the budget is spent, [N, K], [K] -> [K]."""
        # no price is below 0: nothing is paid for an upgrade that gains nothing
        price = one_threshold(scores, costs, budget).clamp_max(0)
        thresholds = price.repeat(self.num_exits)
        thresholds[-1] = float("-inf")
        return thresholds


class _Seen:
    """What was found in records, as long as they are there; copies of a policy share it.

    Maps take long to compare with their targets, and a curve asks for each of its budgets.
    """

    def __init__(self) -> None:
        self.found: WeakKeyDictionary[Records, Tensor] = WeakKeyDictionary()

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def right(self, records: Records) -> Tensor:
        """Share of each input's positions that each exit gets right, [N, K]."""
        if records not in self.found:
            # a temperature changes no answer
            parts = [
                correctness([out.logits for out in shard.outputs], shard.targets)
                for shard in records
            ]
            self.found[records] = torch.cat(parts)
        return self.found[records]
