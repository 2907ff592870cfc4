"""The loss of the mixture from every exit on, and its cost (Demir and Akbas, EENets).

"Early-exit convolutional neural networks" (arXiv 2409.05336), section 3.2. Counted from 1, with h_i
the probability of leaving at exit i, Pm_i = h_i p_i + (1 - h_i) Pm_{i+1} and likewise Cm_i, the
loss is the sum over all i of NLL(Pm_i) + lambda * mean Cm_i: "v2", the default of the public code
(eksuas/eenets.pytorch). Against the first summand alone (`mixture`), later exits learn from every
input, also where nearly all leave early.

Differs: costs hold all heads on the way; the public code leaves earlier heads out and sets the last
cost to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..mixture import stack_gates, suffix_costs, suffix_log_mixtures
from ..types import Batch, Costs, ExitOutput, Term
from .base import register
from .gated import GatedObjective, mean_cost


@register("suffix_mixture")
class SuffixMixture(GatedObjective):
    """For every exit, negative log-likelihood and cost of the mixture from there on, summed.

    Args:
        weight, target_cost, unit, ignore_index, label_smoothing: see
            `offramp.objectives.gated.GatedObjective`.

    Example:
        >>> objective = SuffixMixture(target_cost=0.4)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['nll/0', 'nll/1', 'nll/2', 'cost', 'anchor']
    """

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """``nll/k`` of the mixture from exit k on, and one ``cost``, lambda included.

        With ``target_cost`` also ``anchor``, which holds the gates where the target is met.

        Raises:
            ValidationError: if an early exit has no gate, or a target on the CPU is no class.
            BudgetError: if ``target_cost`` is out of reach.
        """
        gates, target = stack_gates(outputs), self.counted(outputs, batch)
        log_p, relative = self.log_probs(outputs, target), costs.relative(self.unit)

        def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
            mixed = suffix_log_mixtures(log_p, gates).unbind(1)
            terms = [Term(f"nll/{k}", self.nll(each, target)) for k, each in enumerate(mixed)]
            # the sum over exits, then the mean over inputs
            return terms, mean_cost(suffix_costs(gates, relative).sum(1), target)

        return self.pressure.weigh(parts, gates, costs, batch, target)
