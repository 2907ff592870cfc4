"""Joint training: the weighted sum of all exits' losses (Huang et al. 2018, MSDNet).

The linear weights are those of EENet (Ilhan et al. 2024).

Left out: EENet's distillation in the last quarter, which is an objective around this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import ValidationError
from ..types import Batch, Costs, ExitOutput, Term
from .base import Objective, counted, cross_entropy, register

Weights = Literal["uniform", "linear"] | Sequence[float] | Callable[[int, float], Sequence[float]]


@register("joint")
class Joint(Objective):
    """Cross-entropy of every exit, each weighted; every term moves every segment below its exit.

    Args:
        weights: ``uniform`` gives every exit 1 (MSDNet); ``linear`` gives exit k of K, counted from
            1, k / (K (K + 1)), which sums to 1/2 (EENet); K numbers; or a schedule, a function of K
            and the progress of training in [0, 1] that returns K numbers.
        ignore_index: target that does not count, beside the negative ones.
        label_smoothing: share of each target that is spread evenly over all classes, in [0, 1)
            (Szegedy et al. 2016).

    Raises:
        ValidationError: if the weights are unknown, negative or not K, or the smoothing is no such
            share.

    Example:
        >>> objective = Joint("linear")
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['ce/0', 'ce/1', 'ce/2', 'ce/3']
    """

    def __init__(
        self,
        weights: Weights = "uniform",
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(weights, str) and weights not in ("uniform", "linear"):
            raise ValidationError(
                f"wanted weights 'uniform', 'linear', numbers or a function, got {weights!r}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValidationError(f"wanted label_smoothing in [0, 1), got {label_smoothing!r}")
        self.weights: Weights = weights  # type: ignore[assignment]
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """One term per exit, ``ce/0`` to ``ce/K-1``.

        Raises:
            ValidationError: if a target on the CPU is no class; on a GPU looking would stall it.
        """
        target = counted(batch.target, outputs[0].logits.shape[1], self.ignore_index)
        weights = exit_weights(self.weights, len(outputs), batch.progress)
        smooth = self.label_smoothing
        return [
            Term(f"ce/{k}", weight * cross_entropy(out.logits, target, label_smoothing=smooth))
            for k, (out, weight) in enumerate(zip(outputs, weights, strict=True))
        ]


def exit_weights(weights: Weights, num_exits: int, progress: float) -> list[float]:
    """The weight of each exit's loss, K numbers."""
    if weights == "uniform":
        return [1.0] * num_exits
    if weights == "linear":
        return [k / (num_exits * (num_exits + 1)) for k in range(1, num_exits + 1)]
    values = [float(w) for w in (weights(num_exits, progress) if callable(weights) else weights)]
    if len(values) != num_exits or min(values) < 0:
        raise ValidationError(
            f"wanted {num_exits} non-negative weights, one per exit, got {values}"
        )
    return values
