"""Grouped training: no gradient crosses from one group of segments to the next (Han et al. 2023).

The public code of that paper calls it ``no_overlap``: within a group it is joint training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..errors import ValidationError
from .base import ExitLosses, Scheduled, Weights, at, register, scheduled

Groups = int | Sequence[int]


@register("grouped")
class Grouped(ExitLosses):
    """Cross-entropy of every exit, each weighted; each moves its group's segments up to its own.

    Args:
        groups: how many groups, whose sizes differ by one at most, the later ones larger; the size
            of each, such as ``[3, 4]``; or a schedule of these, see
            `offramp.objectives.base.scheduled`.
        weights, ignore_index, label_smoothing: see `offramp.objectives.base.ExitLosses`.

    Raises:
        ValidationError: if the groups are none of these or do not make up all segments.

    Example:
        >>> [term.since for term in Grouped(2)(outputs, batch, costs)]
        [0, 0, 2, 2]
    """

    def __init__(
        self,
        groups: Scheduled[Groups] = 2,
        *,
        weights: Weights = "uniform",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weights, ignore_index=ignore_index, label_smoothing=label_smoothing)
        for given in scheduled("groups", groups):
            _checked(given)
        self.groups = groups

    def since(self, num_exits: int, progress: float) -> list[int]:
        """Each exit stops at the first segment of its group."""
        given = _checked(at(self.groups, num_exits, progress))
        sizes = _sizes(given, num_exits) if isinstance(given, int) else given
        if sum(sizes) != num_exits or min(sizes) < 1:
            raise ValidationError(
                f"wanted groups of {num_exits} segments in all, at least 1 in each, got {given!r}"
            )
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        return [start for start, size in zip(starts, sizes, strict=True) for _ in range(size)]


def _sizes(num: int, num_exits: int) -> list[int]:
    edges = [number * num_exits // num for number in range(num + 1)]
    return [end - start for start, end in pairwise(edges)]


def _checked(groups: Any) -> Groups:
    several = isinstance(groups, Sequence) and not isinstance(groups, str)
    sizes = list(groups) if several else [groups]
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
        raise ValidationError(
            "wanted groups as a number of groups, as their sizes, both whole numbers from 1, or as "
            f"a schedule; got {groups!r}"
        )
    return sizes if several else sizes[0]
