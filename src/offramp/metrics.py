"""Figures of an exit in one pass: top-1, top-5, negative log-likelihood and calibration error.

All are sums over units, the positions whose target counts: one per input for a label, one per
pixel for a map. torchmetrics' own calibration error keeps every confidence it has seen, which for
maps is more than memory holds, and its means add up in float32; here 15 bins and float64 sums do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from .errors import ValidationError
from .types import Records

BINS = 15
TOP = 5

_ELEMENTS = 2**22  # logits that are worked on at once, at the resolution of the targets


class Units(NamedTuple):
    """What an exit makes of some rows, at the resolution of their targets."""

    valid: Tensor  # [n, P] bool, whether the position counts
    rank: Tensor  # [n, P], classes placed above the right one
    nll: Tensor  # [n, P], in nats
    confidence: Tensor  # [n, P], top probability

    @property
    def right(self) -> Tensor:
        """Whether the top class is the right one, of those that count; [n, P] bool."""
        return (self.rank == 0) & self.valid


class Figures(NamedTuple):
    """Figures over all units."""

    top1: float
    top5: float  # the right class is among the min(5, C) top ones
    nll: float  # nats
    ece: float  # expected calibration error, 15 bins of equal width, absolute differences
    stderr: float  # standard error of top1, with inputs, not positions, as independent draws
    num_units: int


class ExitMetrics(torchmetrics.Metric):
    """Additive figures of one exit; processes are joined by sums, as torchmetrics does.

    Example:
        >>> metrics = ExitMetrics()
        >>> metrics.update(measure_units(logits, targets))
        >>> metrics.compute().top1
        0.93
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    sums: Tensor  # [4] float64: units, top-1 hits, top-5 hits, negative log-likelihood
    bins: Tensor  # [3, BINS] float64: units, hits, confidence
    inputs: Tensor  # [3] float64, sums over inputs of hits^2, hits * units, units^2

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, shape in (("sums", [4]), ("bins", [3, BINS]), ("inputs", [3])):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, units: Units) -> None:
        """Add what an exit makes of some rows."""
        valid, right = units.valid.double(), units.right.double()
        top5 = ((units.rank < TOP) & units.valid).double()
        nll = units.nll[units.valid].double().sum()
        self.sums += torch.stack([valid.sum(), right.sum(), top5.sum(), nll])
        self.bins += torch.stack(_bin_sums(units))
        hits, counts = right.sum(1), valid.sum(1)
        self.inputs += torch.stack([hits @ hits, hits @ counts, counts @ counts])

    def compute(self) -> Figures:
        """Figures over all rows so far.

        Raises:
            ValidationError: if no position counted.
        """
        num = float(self.sums[0])
        if not num:
            raise ValidationError("wanted at least one target that counts, got none")
        top1, top5, nll = (self.sums[1:] / num).tolist()
        _, right, confidence = self.bins
        ece = float((right - confidence).abs().sum() / num)
        squares, cross, counts = self.inputs.tolist()
        spread = max(0.0, squares - 2 * top1 * cross + top1**2 * counts)
        return Figures(top1, top5, nll, ece, spread**0.5 / num, int(num))


def measure_units(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Units:
    """What an exit makes of some rows, position by position.

    Where a map's resolution is not that of the targets, logits are resampled bilinearly.

    Args:
        logits: [n, C, *S].
        targets: [n, *T], class numbers; negative ones do not count.
        ignore_index: another target that does not count.
    """
    logits = logits.float()
    if logits.shape[2:] != targets.shape[1:]:
        size = list(targets.shape[1:])
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    logits = logits.flatten(2) if logits.dim() > 2 else logits.unsqueeze(2)  # [n, C, P]
    targets = targets.reshape(len(targets), -1)  # [n, P]
    valid = (targets >= 0) & (targets != ignore_index)
    wanted = targets.clamp_min(0).unsqueeze(1)  # [n, 1, P]
    own = logits.gather(1, wanted)
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1)
    # equal logits rank by class number, as argmax does; NaN is above everything, so never right
    above = ~(logits <= own) | ((logits == own) & (classes < wanted))
    total = logits.logsumexp(1)
    nll = total - own.squeeze(1)
    return Units(valid, above.sum(1), nll, (logits.amax(1) - total).exp())


def measure_exits(records: Records, ignore_index: int = -100) -> tuple[list[Figures], float]:
    """Figures of every exit over records, and the overthinking.

    Returns:
        K figures, and the share of units that some earlier exit gets right and the last one wrong.

    Raises:
        ValidationError: if no position counts.
    """
    # each process has all records: nothing is to be joined
    metrics = [ExitMetrics(sync_on_compute=False) for _ in range(records.num_exits)]
    overthought = torch.zeros((), dtype=torch.int64)
    for shard in records:
        for rows in chunks(shard.targets, records.num_classes):
            earlier = torch.zeros((), dtype=torch.bool)
            right = earlier
            for metric, out in zip(metrics, shard.outputs, strict=True):
                units = measure_units(out.logits[rows], shard.targets[rows], ignore_index)
                metric.update(units)
                earlier, right = earlier | right, units.right
            overthought += (earlier & ~right).sum()
    figures = [metric.compute() for metric in metrics]
    return figures, float(overthought) / figures[-1].num_units


def measure_answers(answers: Iterable[tuple[Tensor, Tensor]], ignore_index: int = -100) -> Figures:
    """Figures of one answer per input.

    Args:
        answers: pairs of logits [n, C, *S] and targets [n, *T].
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: if no position counts.
    """
    metrics = ExitMetrics(sync_on_compute=False)
    for logits, targets in answers:
        for rows in chunks(targets, logits.shape[1]):
            metrics.update(measure_units(logits[rows], targets[rows], ignore_index))
    return metrics.compute()


def reliability(records: Records, ignore_index: int = -100) -> list[list[dict[str, Any]]]:
    """How often each exit is right when it is so sure: K lists of 15 bins of equal width.

    Args:
        records: the test part.
        ignore_index: a target that does not count, beside the negative ones.

    Returns:
        For each exit and bin, rising: mean ``confidence`` and ``accuracy`` (None in an empty bin)
        and ``count``, the number of units.
    """
    metrics = [ExitMetrics(sync_on_compute=False) for _ in range(records.num_exits)]
    for shard in records:
        for rows in chunks(shard.targets, records.num_classes):
            for metric, out in zip(metrics, shard.outputs, strict=True):
                metric.update(measure_units(out.logits[rows], shard.targets[rows], ignore_index))
    return [[_bin(*column) for column in metric.bins.T.tolist()] for metric in metrics]


def chunks(targets: Tensor, num_classes: int) -> Iterator[slice]:
    """Split rows so that their logits, at the targets' resolution, take little memory."""
    num = len(targets)
    step = max(1, _ELEMENTS * num // max(1, targets.numel() * num_classes))
    return (slice(start, start + step) for start in range(0, num, step))


def _bin(count: float, right: float, confidence: float) -> dict[str, Any]:
    means = (None, None) if not count else (confidence / count, right / count)
    return {"confidence": means[0], "accuracy": means[1], "count": int(count)}


def _bin_sums(units: Units) -> list[Tensor]:
    """Units, hits and confidence in each bin (lower, upper] of the confidence; three of [BINS]."""
    confidence = units.confidence[units.valid].double()
    right = (units.rank == 0)[units.valid].double()
    # a float32 confidence on an edge, such as that of 3 equal classes, may lie a little above it
    place = (confidence.nan_to_num() * BINS - 1e-5).ceil().long().sub(1).clamp(0, BINS - 1)
    zero = confidence.new_zeros(BINS)
    values = (torch.ones_like(confidence), right, confidence)
    return [zero.index_add(0, place, value) for value in values]
