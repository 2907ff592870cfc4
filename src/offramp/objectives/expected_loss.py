"""The loss that an input expects, exit by exit, and the cost that it expects (LEENet).

github.com/afxwong/EarlyExitNet (2023), the loss of its gates. Counted from 1, with g_i the
probability of leaving at exit i and R_i = prod over j < i of (1 - g_j), that of having come there,

- E_CE = sum over i of R_i g_i CE(z_i, y), and everyone who comes to the last exit leaves there;
- E_cost = the same sum of costs;
- the loss is the mean over the batch of (1 - alpha) E_CE + alpha E_cost.

Against the loss of the mixture (`mixture`), which is never larger, an exit is not forgiven what
another one gets right.

Differs: costs are those of having the exit's answer, all heads on the way included, over the
original network's; the public code counts parameters of the modules that were wrapped, stretched so
that the first exit costs 0 and the last 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ValidationError
from ..mixture import exit_log_probs, stack_gates, suffix_costs
from ..types import Batch, Costs, ExitOutput, Term
from .base import Scheduled, at, register, scheduled
from .gated import GatedObjective, exit_losses, mean_cost


@register("expected_loss")
class ExpectedLoss(GatedObjective):
    """Expected cross-entropy and expected cost of an input, over the exits where it may leave.

    LEENet trains gates alone with it: ``offramp.fit(model, data, objective, train="gates")``.

    Args:
        weight, target_cost, unit, ignore_index, label_smoothing: see
            `offramp.objectives.gated.GatedObjective`.
        alpha: in place of ``weight``: the share of the cost, in [0, 1], the rest being that of the
            cross-entropy, as published; or a schedule of it. A weight of alpha / (1 - alpha) has
            the same minimum.

    Raises:
        ValidationError: if ``alpha`` is no share, or given beside ``weight`` or ``target_cost``.

    Example:
        >>> objective = ExpectedLoss(alpha=0.3)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['ce', 'cost']
    """

    def __init__(
        self,
        weight: Scheduled[float] = 1.0,
        *,
        alpha: Scheduled[float] | None = None,
        target_cost: float | None = None,
        unit: str = "macs",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            weight,
            target_cost=target_cost,
            unit=unit,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
        if alpha is not None:
            for given in scheduled("alpha", alpha):
                _share(given)
            if target_cost is not None or weight != 1.0:
                raise ValidationError(
                    f"wanted one of weight, alpha and target_cost, got weight={weight!r}, "
                    f"alpha={alpha!r}, target_cost={target_cost!r}"
                )
        self.alpha = alpha

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """``ce`` and ``cost``, each with its weight.

        With ``target_cost`` also ``anchor``, which holds the gates where the target is met.

        Raises:
            ValidationError: if an early exit has no gate, or a target on the CPU is no class.
            BudgetError: if ``target_cost`` is out of reach.
        """
        gates, target = stack_gates(outputs), self.counted(outputs, batch)
        losses = exit_losses(outputs, target, self.label_smoothing)  # [N, K, *S]
        relative = costs.relative(self.unit)
        count = (target >= 0).sum()

        def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
            leave = exit_log_probs(gates).exp()
            leave = leave.reshape(*leave.shape, *[1] * (losses.dim() - 2))  # [N, K, 1...]
            loss = (leave * losses).sum() / count.clamp_min(1)
            return [Term("ce", loss)], mean_cost(suffix_costs(gates, relative)[:, 0], target)

        if self.alpha is None:
            return self.pressure.weigh(parts, gates, costs, batch, target)
        (term,), cost = parts(gates)
        alpha = _share(at(self.alpha, len(outputs), batch.progress))
        return [Term("ce", (1 - alpha) * term.value), Term("cost", alpha * cost)]


def _share(alpha: Any) -> float:
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not (number and 0 <= alpha <= 1):
        raise ValidationError(f"wanted alpha as a share in [0, 1] or a schedule, got {alpha!r}")
    return float(alpha)
