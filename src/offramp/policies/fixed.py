"""A fixed exit for every input: the static network of that depth inside the model (no paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ValidationError
from ..functional import Reduce, check_budget
from ..types import Carry, ExitOutput
from .base import ExitPolicy, register


@register("fixed")
class Fixed(ExitPolicy):
    """Everyone leaves by the same exit: the one given, or the deepest that the budget pays for.

    Args:
        num_exits: number of exits, K.
        exit: the exit that answers; by default the last. A later `ExitPolicy.fit` chooses anew.
        temperature, reduce: as for every policy; the answers alone depend on the temperature.

    Raises:
        ValidationError: if there is no such exit.

    Example:
        >>> Fixed(num_exits=3, exit=1).thresholds.tolist()
        [inf, -inf, -inf]
    """

    def __init__(
        self,
        num_exits: int,
        exit: int | None = None,
        *,
        temperature: bool = False,
        reduce: Reduce = "mean",
    ) -> None:
        super().__init__(num_exits, temperature=temperature, reduce=reduce)
        chosen = num_exits - 1 if exit is None else exit
        if not 0 <= chosen < num_exits:
            raise ValidationError(f"wanted an exit in 0..{num_exits - 1}, got {exit}")
        self.exit = chosen
        self.thresholds.copy_(self._leave_at(chosen))

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Zero for every input, [N]: the thresholds alone decide."""
        return out.logits.new_zeros(len(out.logits)), carry

    def place(
        self, scores: Tensor, costs: Tensor, budget: float, prior: Tensor | None = None
    ) -> Tensor:
        """-inf from the deepest exit on whose cost is within the budget, +inf before it, [K]."""
        within = costs.double() <= check_budget(costs, budget)
        return self._leave_at(max(int(within.sum()) - 1, 0))

    def _leave_at(self, exit: int) -> Tensor:
        thresholds = torch.full((self.num_exits,), float("-inf"))
        thresholds[:exit] = float("inf")
        return thresholds
