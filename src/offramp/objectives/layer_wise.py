"""Layer-wise training by local errors: each exit trains its own segment (Han et al. 2023, BDL).

The public code of that paper calls it ``local_error``; no gradient crosses a boundary (Mostafa et
al. 2018; Belilovsky et al. 2019, who train the segments one after the other).
"""

from __future__ import annotations

from .base import ExitLosses, register


@register("layer_wise")
class LayerWise(ExitLosses):
    """Cross-entropy of every exit, each weighted; each moves its head and its own segment only.

    Args:
        weights, ignore_index, label_smoothing: see `offramp.objectives.base.ExitLosses`.

    Example:
        >>> [term.since for term in LayerWise()(outputs, batch, costs)]
        [0, 1, 2, 3]
    """

    def since(self, num_exits: int, progress: float) -> list[int]:
        """Each exit stops at its own segment."""
        return list(range(num_exits))
