"""Control: leave at random, at rates that meet the budget (no paper).

What a policy gains over this one is what its scores know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import Reduce
from ..types import Records
from .base import Control, register


@register("random")
class Random(Control):
    """Leave at random: the scores are uniform numbers, the same on every call.

    Args:
        num_exits: number of exits, K.
        seed: seed of the scores.
        temperature, reduce: as for every policy.

    Example:
        >>> policy = Random(num_exits=4, seed=1).fit(records, costs, budget=0.6)
        >>> policy.exits(records).bincount(minlength=4)
        tensor([36, 28, 20, 16])
    """

    def __init__(
        self, num_exits: int, *, seed: int = 0, temperature: bool = False, reduce: Reduce = "mean"
    ) -> None:
        super().__init__(num_exits, temperature=temperature, reduce=reduce)
        self.seed = seed

    def scores(self, records: Records) -> Tensor:
        """Uniform numbers, [N, K] float32."""
        self._check(records)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(records), self.num_exits, generator=generator)
