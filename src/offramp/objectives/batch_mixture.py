"""The exits' losses and costs, weighted by the gates' means over the batch (Demir and Akbas).

The public code of EENets (eksuas/eenets.pytorch), "v3". Counted from 1, with m_i the mean over the
batch of h_i, the probability of leaving at exit i, and a_i = m_i / (m_1 + ... + m_K), the loss is
the sum over i of a_i (NLL(p_i) + lambda c_i).

Differs: m_K is 1, as everyone leaves at the last exit; the public code has a gate there too, which
decides nothing. Costs hold all heads on the way; the public code leaves earlier heads out and sets
the last cost to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mixture import stack_gates
from ..together import of_all, summed
from ..types import Batch, Costs, ExitOutput, Term
from .base import counting, register
from .gated import GatedObjective


@register("batch_mixture")
class BatchMixture(GatedObjective):
    """Every exit's loss and cost, weighted by how open its gate is for the batch on average.

    The means are those of the inputs of the whole batch that have a target that counts, over all
    processes. An exit's gate feels the same pull from every input, up or down: it learns how good
    the exit is for the batch, and little of which inputs it is good for.

    Gates compete for a sum of 1, so an input is meant to leave at the first gate above 1 /
    num_exits: ``create_policy("gate", num_exits=K, threshold=1 / K)``. (The public code divides by
    the number of early exits.) ``target_cost`` is the mean cost under that rule.

    Where several batches make a step (``accumulate``), each has its own means.

    Args:
        weight, target_cost, unit, ignore_index, label_smoothing: see
            `offramp.objectives.gated.GatedObjective`.

    Example:
        >>> objective = BatchMixture(weight=0.5)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['nll/0', 'nll/1', 'nll/2', 'cost']
    """

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """``nll/k``, each with its share a_k, and ``cost``, lambda included.

        With ``target_cost`` also ``anchor``, which holds the gates where the target is met.

        Raises:
            ValidationError: if an early exit has no gate, or a target on the CPU is no class.
            BudgetError: if ``target_cost`` is out of reach.
        """
        num_exits = len(outputs)
        gates, target = stack_gates(outputs), self.counted(outputs, batch)
        used, here = counting(target), (target >= 0).sum()
        each = self.log_probs(outputs, target).unbind(1)
        losses = torch.stack([self.nll(log_p, target) for log_p in each]) * here  # [K]

        def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
            leave = F.pad(gates.sigmoid(), (0, 1), value=1.0)  # [N, K]
            opened = (leave * used[:, None]).sum(0).to(losses.dtype)  # [K]
            sums = summed(torch.cat([opened, losses, here[None].to(losses.dtype)]))
            opened, lost, num = sums.split([num_exits, num_exits, 1])
            # the last one is the number of inputs, so that the mean cancels; 0 where there is none
            shares = opened / opened.sum().clamp_min(1)  # [K]
            weighed = shares * lost / num.clamp_min(1)
            terms = [Term(f"nll/{k}", of_all(loss, here)) for k, loss in enumerate(weighed)]
            cost = (shares * costs.relative(self.unit).to(shares)).sum()
            return terms, of_all(cost, here)

        threshold = -log(max(1, num_exits - 1))  # the logit of 1 / K
        return self.pressure.weigh(parts, gates, costs, batch, target, threshold=threshold)
