"""Block-dependent losses: a block is trained by the next few exits only (Han et al. 2023, BDL).

Counted from 1, the loss of exit l moves blocks max(1, l-m+1) to l, where m is the overlap; so block
b is trained by the exits b to b+m-1. With ``final`` the last exit's loss moves all blocks. All
losses weigh 1 in the paper.

Left out: the two-stage variant, dead code in the public repository; phases of `offramp.fit` do it.
"""

from __future__ import annotations

from ..errors import ValidationError
from .base import ExitLosses, Scheduled, Weights, at, register, scheduled


@register("block_dependent")
class BlockDependent(ExitLosses):
    """Cross-entropy of every exit, each weighted; each moves the last few segments below it.

    Args:
        overlap: m, how many segments an exit moves, its own included; 1 is layer-wise training, the
            number of exits or more is joint training. Or a schedule of m, see
            `offramp.objectives.base.scheduled`. The paper takes 3 for seven exits, 2 for five.
        final: the last exit moves all segments.
        weights, ignore_index, label_smoothing: see `offramp.objectives.base.ExitLosses`.

    Raises:
        ValidationError: if the overlap is no whole number of at least 1.

    Example:
        >>> [term.since for term in BlockDependent(2)(outputs, batch, costs)]
        [0, 0, 1, 0]
        >>> [term.since for term in BlockDependent(2, final=False)(outputs, batch, costs)]
        [0, 0, 1, 2]
    """

    def __init__(
        self,
        overlap: Scheduled[int] = 3,
        *,
        final: bool = True,
        weights: Weights = "uniform",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weights, ignore_index=ignore_index, label_smoothing=label_smoothing)
        if not isinstance(final, bool):
            raise ValidationError(f"wanted final as True or False, got {final!r}")
        for given in scheduled("overlap", overlap):
            _checked(given)
        self.overlap = overlap
        self.final = final

    def since(self, num_exits: int, progress: float) -> list[int]:
        """Each exit stops ``overlap - 1`` segments below its own."""
        overlap = _checked(at(self.overlap, num_exits, progress))
        first = [max(0, k - overlap + 1) for k in range(num_exits)]
        return [*first[:-1], 0] if self.final else first


def _checked(overlap: object) -> int:
    if not isinstance(overlap, int) or isinstance(overlap, bool) or overlap < 1:
        raise ValidationError(
            f"wanted overlap as a whole number of at least 1 or a schedule, got {overlap!r}"
        )
    return overlap
