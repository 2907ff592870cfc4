"""Joint training: the weighted sum of all exits' losses (Huang et al. 2018, MSDNet).

The linear weights are those of EENet (Ilhan et al. 2024).

Left out: EENet's distillation in the last quarter, which is an objective around this one.
"""

from __future__ import annotations

from .base import ExitLosses, register


@register("joint")
class Joint(ExitLosses):
    """Cross-entropy of every exit, each weighted; every term moves every segment below its exit.

    Args:
        weights, ignore_index, label_smoothing: see `offramp.objectives.base.ExitLosses`.

    Example:
        >>> objective = Joint("linear")
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['ce/0', 'ce/1', 'ce/2', 'ce/3']
    """

    def since(self, num_exits: int, progress: float) -> list[int]:
        """No exit stops anywhere."""
        return [0] * num_exits
