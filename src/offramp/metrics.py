"""Figures of an exit in one pass: accuracy, log-likelihood, calibration error and, of maps, IoU.

All are sums over units, the positions whose target counts: one per input for a label, one per
pixel for a map. Answers are compared at the resolution of the targets: logits of another one are
resampled bilinearly, as the losses do it, and then the top class is taken.

torchmetrics' own calibration error keeps every confidence it has seen, which for maps is more than
memory holds, and its means add up in float32; here 15 bins and float64 sums do. Its Jaccard index
needs C x C counts where 3 x C do, and takes an answer of NaN for one of class 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torchmetrics
from torch import Tensor

from .errors import ValidationError
from .functional import class_counts, class_iou, upsample
from .types import Records, Shard

BINS = 15
TOP = 5

_NOTHING = "wanted at least one target that counts, got none"
_ELEMENTS = 2**22  # logits that are worked on at once, at the resolution of the targets


class Units(NamedTuple):
    """What an exit makes of some rows, at the resolution of their targets."""

    valid: Tensor  # [n, P] bool, whether the position counts
    rank: Tensor  # [n, P], classes placed above the right one
    nll: Tensor  # [n, P], in nats
    confidence: Tensor  # [n, P], top probability
    answer: Tensor  # [n, P], top class; -1 where it is NaN
    target: Tensor  # [n, P], class; -1 where it does not count

    @property
    def right(self) -> Tensor:
        """Whether the top class is the right one, of those that count; [n, P] bool."""
        return (self.rank == 0) & self.valid


class Sums(NamedTuple):
    """What adds up over the units of an input, for each of some inputs; float64."""

    units: Tensor  # [n, 4]: units, top-1 hits, top-5 hits, negative log-likelihood
    bins: Tensor  # [n, 3, BINS]: units, hits, confidence
    classes: Tensor  # [n, 3, C]: right, answered, wanted; C is 0 where classes are not counted


class Figures(NamedTuple):
    """Figures over all units."""

    top1: float
    top5: float  # the right class is among the min(5, C) top ones
    nll: float  # nats
    ece: float  # expected calibration error, 15 bins of equal width, absolute differences
    stderr: float  # standard error of top1, with inputs, not positions, as independent draws
    num_units: int
    iou: list[float] | None = None  # of maps: intersection over union of each class; NaN: absent

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that are wanted or answered somewhere; None for labels."""
        return None if self.iou is None else float(torch.tensor(self.iou).double().nanmean())


class Hits(NamedTuple):
    """Which labels each exit gets right."""

    right: Tensor  # [N, K] bool
    valid: Tensor  # [N] bool, whether the target counts


class Measured(NamedTuple):
    """Every exit by itself, over records."""

    figures: list[Figures]  # [K]
    overthinking: float  # share of units that some earlier exit gets right and the last one wrong
    bins: list[Tensor]  # K, each [3, BINS]
    inputs: list[Sums] | None  # K, of maps: each input's own share, so that it is measured once
    hits: Hits | None  # of labels


class ExitMetrics(torchmetrics.Metric):
    """Additive figures of one exit; processes are joined by sums, as torchmetrics does.

    Args:
        num_classes: C, where classes are to be counted, for the intersection over union; else 0.
        options: of torchmetrics' Metric.

    Example:
        >>> metrics = ExitMetrics()
        >>> metrics.update(measure_units(logits, targets))
        >>> metrics.compute().top1
        0.93
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    units: Tensor  # [4] float64, as in `Sums`
    bins: Tensor  # [3, BINS] float64
    classes: Tensor  # [3, C] float64
    inputs: Tensor  # [3] float64, sums over inputs of hits^2, hits * units, units^2

    def __init__(self, num_classes: int = 0, **options: Any) -> None:
        super().__init__(**options)
        shapes = {"units": [4], "bins": [3, BINS], "classes": [3, num_classes], "inputs": [3]}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, made: Units | Sums) -> None:
        """Add what an exit makes of some rows, or the sums of some inputs."""
        sums = made if isinstance(made, Sums) else sum_units(made, self.classes.shape[1])
        self.units += sums.units.sum(0)
        self.bins += sums.bins.sum(0)
        self.classes += sums.classes.sum(0)
        counts, hits = sums.units[:, 0], sums.units[:, 1]
        self.inputs += torch.stack([hits @ hits, hits @ counts, counts @ counts])

    def compute(self) -> Figures:
        """Figures over all rows so far.

        Raises:
            ValidationError: if no position counted.
        """
        num = float(self.units[0])
        if not num:
            raise ValidationError(_NOTHING)
        top1, top5, nll = (self.units[1:] / num).tolist()
        _, right, confidence = self.bins
        ece = float((right - confidence).abs().sum() / num)
        squares, cross, counts = self.inputs.tolist()
        spread = max(0.0, squares - 2 * top1 * cross + top1**2 * counts)
        iou = class_iou(self.classes).tolist() if self.classes.shape[1] else None
        return Figures(top1, top5, nll, ece, spread**0.5 / num, int(num), iou)


def measure_units(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Units:
    """What an exit makes of some rows, position by position.

    Args:
        logits: [n, C, *S].
        targets: [n, *T], class numbers; negative ones do not count.
        ignore_index: another target that does not count.
    """
    logits = upsample(logits.float(), targets.shape[1:])
    logits = logits.flatten(2) if logits.dim() > 2 else logits.unsqueeze(2)  # [n, C, P]
    targets = targets.reshape(len(targets), -1)  # [n, P]
    valid = (targets >= 0) & (targets != ignore_index)
    wanted = targets.clamp_min(0).unsqueeze(1)  # [n, 1, P]
    own = logits.gather(1, wanted)
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1)
    # equal logits rank by class number, as argmax does; NaN is above everything, so never right
    above = ~(logits <= own) | ((logits == own) & (classes < wanted))
    total = logits.logsumexp(1)
    top, answer = logits.max(1)
    return Units(
        valid,
        rank=above.sum(1),
        nll=total - own.squeeze(1),
        confidence=(top - total).exp(),
        answer=answer.masked_fill(top.isnan(), -1),
        target=targets.masked_fill(~valid, -1),
    )


def sum_units(units: Units, num_classes: int = 0) -> Sums:
    """Add up the units of each input; ``num_classes`` of 0 counts no classes."""
    valid, right = units.valid.double(), units.right.double()
    top5 = ((units.rank < TOP) & units.valid).double()
    nll = units.nll.double().masked_fill(~units.valid, 0)
    counted = torch.stack([part.sum(1) for part in (valid, right, top5, nll)], 1)
    if num_classes:
        classes = class_counts(units.answer, units.target, num_classes).double()
    else:
        classes = valid.new_zeros(len(valid), 3, 0)
    return Sums(counted, _bin_sums(units), classes)


def measure_exits(records: Records, ignore_index: int = -100) -> Measured:
    """Figures of every exit over records.

    Raises:
        ValidationError: if no position counts.
    """
    maps, num_classes = has_maps(records), records.num_classes
    # each process has all records: nothing is to be joined
    metrics = [
        ExitMetrics(num_classes if maps else 0, sync_on_compute=False)
        for _ in range(records.num_exits)
    ]
    kept: list[list[Sums]] = [[] for _ in metrics]
    hits: list[Hits] = []
    overthought = torch.zeros((), dtype=torch.int64)
    for shard in records:
        for rows in chunks(shard.targets, num_classes):
            right, valid = [], torch.empty(0)
            for metric, sums, out in zip(metrics, kept, shard.outputs, strict=True):
                units = measure_units(out.logits[rows], shard.targets[rows], ignore_index)
                added = sum_units(units, num_classes if maps else 0)
                metric.update(added)
                if maps:
                    sums.append(added)
                right.append(units.right)
                valid = units.valid
            every = torch.stack(right, -1)  # [n, P, K]
            overthought += (every[..., :-1].any(-1) & ~every[..., -1]).sum()
            if not maps:
                hits.append(Hits(every[:, 0], valid[:, 0]))
    figures = [metric.compute() for metric in metrics]
    inputs = [Sums(*map(torch.cat, zip(*sums, strict=True))) for sums in kept] if maps else None
    share = float(overthought) / figures[-1].num_units
    known = Hits(*map(torch.cat, zip(*hits, strict=True))) if hits else None
    return Measured(figures, share, [metric.bins for metric in metrics], inputs, known)


def examine(hits: Hits, scores: Tensor, thresholds: Tensor) -> Tensor:
    """How the readiness to leave goes with being right, [N, K], [K] -> [K, 2, 2, 2] int64.

    The number of inputs by exit, by whether the score reaches the threshold (no, yes), by whether
    this exit is right (no, yes) and by whether the last one is. All inputs whose target counts are
    in every exit's numbers, whether or not they would come to it.
    """
    reached = scores >= thresholds
    reached[:, -1] = True  # everyone leaves there
    right = hits.right
    cell = 4 * reached.long() + 2 * right.long() + right[:, -1:].long()  # [N, K], 0..7
    cell += 8 * torch.arange(cell.shape[1])
    counted = cell[hits.valid].flatten()
    return counted.bincount(minlength=8 * cell.shape[1]).view(-1, 2, 2, 2)


def measure_answers(answers: Iterable[tuple[Tensor, Tensor]], ignore_index: int = -100) -> Figures:
    """Figures of one answer per input.

    Args:
        answers: pairs of logits [n, C, *S] and targets [n, *T].
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: if no position counts.
    """
    metrics: ExitMetrics | None = None
    for logits, targets in answers:
        num_classes = logits.shape[1] if targets.dim() > 1 else 0
        if metrics is None:
            metrics = ExitMetrics(num_classes, sync_on_compute=False)
        for rows in chunks(targets, logits.shape[1]):
            metrics.update(measure_units(logits[rows], targets[rows], ignore_index))
    if metrics is None:
        raise ValidationError(_NOTHING)
    return metrics.compute()


def measure_inputs(answers: Iterable[tuple[Sequence[Tensor], Tensor]], ignore: int) -> list[Sums]:
    """What each input would add at each exit, K; of maps, for `measure_chosen`.

    Args:
        answers: K logits [n, C, *S_k], and targets [n, *T], of some inputs at a time.
        ignore: a target that does not count, beside the negative ones.
    """
    parts: list[list[Sums]] = []
    for logits, targets in answers:
        num_classes = logits[0].shape[1]
        for rows in chunks(targets, num_classes):
            units = [measure_units(each[rows], targets[rows], ignore) for each in logits]
            parts.append([sum_units(each, num_classes) for each in units])
    return [Sums(*map(torch.cat, zip(*column, strict=True))) for column in zip(*parts, strict=True)]


def measure_chosen(inputs: Sequence[Sums], exits: Tensor) -> Figures:
    """Figures of the answers that inputs get where they leave.

    Args:
        inputs: K, each input's own sums, as `measure_exits` gives them.
        exits: [N], the exit of each input.

    Raises:
        ValidationError: if no position counts.
    """
    metrics = ExitMetrics(inputs[0].classes.shape[2], sync_on_compute=False)
    for k, sums in enumerate(inputs):
        metrics.update(Sums(*(part[exits == k] for part in sums)))
    return metrics.compute()


def reliability(bins: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
    """How often each exit is right when it is so sure: K lists of 15 bins of equal width.

    Args:
        bins: K, each [3, BINS], as `measure_exits` gives them.

    Returns:
        For each exit and bin, rising: mean ``confidence`` and ``accuracy`` (None in an empty bin)
        and ``count``, the number of units.
    """
    return [[_bin(*column) for column in each.T.tolist()] for each in bins]


def has_maps(records: Records | Shard) -> bool:
    """Whether targets have positions: an answer is then a map, and classes are counted."""
    shard = records if isinstance(records, Shard) else records.shards[0]
    return shard.targets.dim() > 1


def chunks(targets: Tensor, num_classes: int) -> Iterator[slice]:
    """Split rows so that their logits, at the targets' resolution, take little memory."""
    num = len(targets)
    step = max(1, _ELEMENTS * num // max(1, targets.numel() * num_classes))
    return (slice(start, start + step) for start in range(0, num, step))


def _bin(count: float, right: float, confidence: float) -> dict[str, Any]:
    means = (None, None) if not count else (confidence / count, right / count)
    return {"confidence": means[0], "accuracy": means[1], "count": int(count)}


def _bin_sums(units: Units) -> Tensor:
    """Units, hits and confidence in each bin (lower, upper] of the confidence; [n, 3, BINS]."""
    confidence = units.confidence.double()
    # a float32 confidence on an edge, such as that of 3 equal classes, may lie a little above it
    place = (confidence.nan_to_num() * BINS - 1e-5).ceil().long().sub(1).clamp(0, BINS - 1)
    place += BINS * torch.arange(len(place), device=place.device).unsqueeze(1)
    zero = confidence.new_zeros(len(place) * BINS)
    values = (units.valid.double(), units.right.double(), confidence.masked_fill(~units.valid, 0))
    parts = [zero.index_add(0, place.flatten(), value.flatten()) for value in values]
    return torch.stack([part.view(-1, BINS) for part in parts], 1)
