"""The loss of what the gates' mixture of exits answers, and its cost (Demir and Akbas, EENets).

"Early-exit convolutional neural networks" (arXiv 2409.05336), section 3.2. Counted from 1, with h_i
the probability of leaving at exit i, Pm_i = h_i p_i + (1 - h_i) Pm_{i+1} and likewise Cm_i, the
loss is NLL(Pm_1) + lambda * mean Cm_1: "v1" of the public code (eksuas/eenets.pytorch).

Differs: costs hold all heads on the way; the public code leaves earlier heads out and sets the last
cost to 1. Left out: its first stage (v0), which is `joint`: two phases of `offramp.fit` do both.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..mixture import stack_gates, suffix_costs, suffix_log_mixtures
from ..types import Batch, Costs, ExitOutput, Term
from .base import register
from .gated import GatedObjective, mean_cost


@register("mixture")
class Mixture(GatedObjective):
    """Negative log-likelihood of the mixture of all exits, and lambda times its expected cost.

    An exit learns from an input as far as it is likely to answer it; the gates decide who that is.

    Args:
        weight, target_cost, unit, ignore_index, label_smoothing: see
            `offramp.objectives.gated.GatedObjective`.

    Example:
        >>> objective = Mixture(target_cost=0.4)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['nll', 'cost', 'anchor']
    """

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """``nll`` and ``cost``, lambda included; every input's gates count once, also for maps.

        With ``target_cost`` also ``anchor``, which holds the gates where the target is met.

        Raises:
            ValidationError: if an early exit has no gate, or a target on the CPU is no class.
            BudgetError: if ``target_cost`` is out of reach.
        """
        gates, target = stack_gates(outputs), self.counted(outputs, batch)
        log_p, relative = self.log_probs(outputs, target), costs.relative(self.unit)

        def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
            mixed = suffix_log_mixtures(log_p, gates)[:, 0]
            cost = mean_cost(suffix_costs(gates, relative)[:, 0], target)
            return [Term("nll", self.nll(mixed, target))], cost

        return self.pressure.weigh(parts, gates, costs, batch, target)
