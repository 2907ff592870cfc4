"""Disjoint parts of a data set, stratified by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError


class Parts(NamedTuple):
    """Row numbers of four disjoint parts, each [n] and rising."""

    train: Tensor
    validation: Tensor
    calibration: Tensor
    test: Tensor


def split(
    targets: Tensor, *, fractions: Sequence[float] = (0.6, 0.1, 0.15, 0.15), seed: int = 0
) -> Parts:
    """Rows of the four parts, drawn by seed; every class keeps its share in every part.

    A row is in one part at most; where the fractions sum to less than 1, some rows are in none.
    Counts are rounded per class, and a class has at least one row in every part whose fraction is
    not 0.

    Args:
        targets: [N], class numbers.
        fractions: shares of train, validation, calibration and test.
        seed: of the draw; the caller's random state is not touched.

    Raises:
        DataError: if the targets are not [N] class numbers, the fractions are not four shares of a
            whole, or a class has fewer rows than there are parts.

    Example:
        >>> parts = split(torch.arange(100) % 10, fractions=(0.5, 0.1, 0.2, 0.2))
        >>> [len(rows) for rows in parts]
        [50, 10, 20, 20]
    """
    targets = _check(targets, fractions)
    generator = torch.Generator().manual_seed(seed)
    per_part: list[list[Tensor]] = [[] for _ in fractions]
    for label in targets.unique().tolist():
        rows = (targets == label).nonzero().squeeze(1)
        counts = _counts(len(rows), fractions, label)
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        chosen = shuffled.split([*counts, len(rows) - sum(counts)])
        for part, drawn in zip(per_part, chosen[: len(counts)], strict=True):
            part.append(drawn)
    return Parts(*[torch.cat(part).sort().values for part in per_part])


def first_per_class(targets: Tensor, num: int, *, seed: int = 0) -> Tensor:
    """The first rows of every class in an order drawn by seed; more of them include fewer.

    Args:
        targets: [N], class numbers.
        num: rows of each class; a class that has fewer keeps what it has.
        seed: of the order; the caller's random state is not touched.

    Returns:
        Row numbers [n], rising.

    Example:
        >>> len(first_per_class(torch.arange(100) % 10, 3))
        30
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)  # [N]
    shuffled = targets[order]
    kept = [order[(shuffled == label).nonzero().squeeze(1)[:num]] for label in targets.unique()]
    return torch.cat(kept).sort().values


def _counts(num: int, fractions: Sequence[float], label: int) -> list[int]:
    """How many of a class's rows each part gets: at least one, else within one row of its share."""
    wanted = [fraction * num for fraction in fractions]
    used = sum(fraction > 0 for fraction in fractions)
    if num < used:
        raise DataError(
            f"wanted at least {used} rows of every class, one per part; class {label} has {num}"
        )
    counts = [max(math.floor(w + 1e-9), int(w > 0)) for w in wanted]
    total = max(round(sum(wanted)), used)
    live = [i for i, w in enumerate(wanted) if w > 0]
    while sum(counts) < total:
        counts[max(live, key=lambda i: wanted[i] - counts[i])] += 1
    while sum(counts) > total:
        counts[max((i for i in live if counts[i] > 1), key=lambda i: counts[i] - wanted[i])] -= 1
    return counts


def _check(targets: Tensor, fractions: Sequence[float]) -> Tensor:
    targets = torch.as_tensor(targets).cpu()
    if (
        targets.dim() != 1
        or targets.dtype.is_floating_point
        or targets.dtype.is_complex
        or not len(targets)
    ):
        raise DataError(
            f"wanted targets [N] of class numbers, got {targets.dtype} {tuple(targets.shape)}"
        )
    if len(fractions) != len(Parts._fields):
        raise DataError(
            f"wanted four fractions ({', '.join(Parts._fields)}), got {list(fractions)}"
        )
    if not all(0 <= f <= 1 for f in fractions) or not 0 < sum(fractions) <= 1 + 1e-9:
        raise DataError(
            f"wanted fractions of at least 0 that sum to at most 1, got {list(fractions)}"
        )
    return targets
