"""What a training step reports, and its sums over an epoch, seldom read from the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TrainingError
from ..functional import class_counts, class_iou, nearest
from ..types import ExitOutput
from .bar import Display
from .world import World

History = list[dict[str, Any]]  # one entry per epoch, plain numbers and lists

EVERY = 64  # steps between two readings: a reading waits for the device
_REFRESH = 0.5  # seconds between two readings for the progress bar


class Step(NamedTuple):
    """What one training step did; tensors stay on the device and are detached."""

    epoch: int
    step: int  # counted over the phase, from 0
    progress: float  # of the phase, before the step
    lr: float
    rows: int
    loss: Tensor  # []
    terms: dict[str, Tensor]  # [] each
    correct: Tensor  # [K], positions that each exit got right
    counted: Tensor  # [K], positions that count
    classes: Tensor | None = None  # [K, 3, C] of maps, see `class_counts`; None for labels


def join(parts: Sequence[Step]) -> Step:
    """One step from those of several batches: means over rows, and sums of counts."""
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)

    def mean(values: list[tuple[int, Tensor]]) -> Tensor:
        return torch.stack([num * value for num, value in values]).sum() / max(1, rows)

    named: dict[str, list[tuple[int, Tensor]]] = {}
    for part in parts:
        for name, value in part.terms.items():
            named.setdefault(name, []).append((part.rows, value))
    return parts[0]._replace(
        rows=rows,
        loss=mean([(part.rows, part.loss) for part in parts]),
        terms={name: mean(values) for name, values in named.items()},
        correct=torch.stack([part.correct for part in parts]).sum(0),
        counted=torch.stack([part.counted for part in parts]).sum(0),
        classes=_classes(parts),
    )


def counts(target: Tensor, ignored: int | None = None) -> Tensor:
    """Where a target counts, a mask of its shape: it is a class, and not the one ``ignored``."""
    valid = target >= 0
    return valid if ignored is None else valid & (target != ignored)


def hits(
    outputs: Sequence[ExitOutput], target: Tensor, ignored: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Positions that each exit gets right, [K], that count, [K], and counts of classes of maps.

    Negative targets do not count, nor does the one ``ignored``. A map is compared at the head's own
    resolution, with the nearest target; its classes are counted as `class_counts` does, [K, 3, C].
    """
    target = target.long()  # unsigned ones have no negative number
    if ignored is not None:
        target = target.masked_fill(target == ignored, -1)
    if target.dim() == 1:
        answers = torch.stack([out.logits.detach().argmax(1) for out in outputs])  # [K, N]
        return (answers == target).sum(1), (target >= 0).sum().expand(len(outputs)), None
    counted = []
    for out in outputs:
        answer = out.logits.detach().argmax(1).reshape(1, -1)
        wanted = nearest(target, out.logits.shape[2:]).reshape(1, -1)
        counted.append(class_counts(answer, wanted, out.logits.shape[1]))
    classes = torch.cat(counted)
    right, _, wanted = classes.sum(2).unbind(1)
    return right, wanted, classes


def _classes(steps: Sequence[Step]) -> Tensor | None:
    """Counts of classes of all steps together; one without rows counts nothing."""
    found = [step.classes * bool(step.rows) for step in steps if step.classes is not None]
    return torch.stack(found).sum(0) if found else None


class Sums:
    """Sums over steps, added one by one: how often they were read changes no bit of them."""

    def __init__(self, num_exits: int) -> None:
        self.steps, self.rows, self.lr, self.loss = 0, 0, 0.0, 0.0
        self.terms: dict[str, float] = {}
        self.counts = torch.zeros(2, num_exits, dtype=torch.long)  # [2, K], correct and counted
        self.classes: Tensor | None = None  # [K, 3, C], of maps
        self.start = time.perf_counter()

    def add(self, step: Step, rows: int, loss: float, terms: dict[str, float]) -> None:
        """Take in one step's figures, each multiplied by its rows."""
        self.steps += 1
        self.rows += rows
        self.lr = step.lr
        self.loss += loss
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value

    def count(self, counts: Tensor, classes: Tensor | None) -> None:
        """Take in the counts of some steps."""
        self.counts = self.counts + counts
        if classes is not None:
            self.classes = classes if self.classes is None else self.classes + classes

    def figures(self) -> dict[str, Any]:
        """Means, as plain numbers; of maps ``miou``, too."""
        seconds, rows = max(1e-9, time.perf_counter() - self.start), max(1, self.rows)
        return {
            "loss": self.loss / rows,
            "terms": {name: value / rows for name, value in self.terms.items()},
            "accuracy": (self.counts[0].double() / self.counts[1].clamp_min(1)).tolist(),
            **({} if self.classes is None else {"miou": mean_iou(self.classes)}),
            "lr": self.lr,
            "seconds": seconds,
            "images_per_s": self.rows / seconds,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        kept = {name: value for name, value in vars(self).items() if name != "start"}
        return {**kept, "terms": dict(self.terms), "seconds": time.perf_counter() - self.start}

    def load(self, plain: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        vars(self).update({name: value for name, value in plain.items() if name != "seconds"})
        self.start = time.perf_counter() - plain["seconds"]


class Meter:
    """Means over the steps of one epoch, and over every 64 of them.

    Args:
        epoch: number of the epoch.
        num_exits: K.
        display: where figures are shown, if anywhere.
        report: told the means of every 64 steps.
        world: the processes that train together.
        note: shown before the figures.
    """

    def __init__(
        self,
        epoch: int,
        num_exits: int,
        *,
        display: Display | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
        world: World | None = None,
        note: str = "",
    ) -> None:
        self.epoch, self.num_exits, self.note = epoch, num_exits, note
        self.display, self.report, self.world = display, report, world or World()
        self.waiting: list[Step] = []
        self.whole, self.window = Sums(num_exits), Sums(num_exits)
        self.seen = time.perf_counter()

    def add(self, step: Step) -> None:
        """Take in a step; now and then, read what has gathered.

        Raises:
            TrainingError: if a term of the steps read is not finite.
        """
        self.waiting.append(step)
        full = self.window.steps + len(self.waiting) >= EVERY
        # reading asks all processes: none may do it because its own clock says so
        alone = self.display is not None and self.world.size == 1
        if full or (alone and time.perf_counter() - self.seen > _REFRESH):
            self.read()
        if full:
            if self.report is not None:
                self.report({"epoch": self.epoch, "step": step.step, **self.window.figures()})
            self.window = Sums(self.num_exits)
        if self.display is not None:
            self.display.advance()

    def read(self) -> None:
        """Read the steps that wait: the device is waited for once."""
        steps, self.waiting = self.waiting, []
        if not steps:
            return
        for step, (rows, loss, *values) in zip(steps, self._numbers(steps), strict=True):
            terms = dict(zip(step.terms, values, strict=True))
            _check_finite(step, {**terms, "the sum of the terms": loss}, rows)
            for sums in (self.whole, self.window):
                sums.add(step, int(rows), loss, terms)
        counted = torch.stack([torch.stack([s.correct, s.counted]) for s in steps]).sum(0)  # [2, K]
        counted = self.world.total(counted).cpu()
        classes = _classes(steps)
        classes = None if classes is None else self.world.total(classes).cpu()
        for sums in (self.whole, self.window):
            sums.count(counted, classes)
        self.seen = time.perf_counter()
        if self.display is not None:
            self.display.show(self._text())

    def summary(self) -> dict[str, Any]:
        """The epoch so far, as plain numbers."""
        self.read()
        return {"epoch": self.epoch, **self.whole.figures()}

    def to_dict(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        self.read()
        return {"whole": self.whole.to_dict(), "window": self.window.to_dict()}

    def load(self, plain: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.whole.load(plain["whole"])
        self.window.load(plain["window"])

    def _numbers(self, steps: Sequence[Step]) -> list[list[float]]:
        """Rows, and loss and terms times rows, of each step over all processes."""
        values = [torch.stack([s.loss, *s.terms.values()]) for s in steps]
        device = values[0].device
        figures = torch.cat(values).cpu().double().split([len(value) for value in values])
        parts = [
            torch.cat([torch.tensor([float(step.rows)]).double(), value * step.rows])
            for step, value in zip(steps, figures, strict=True)
        ]
        if self.world.size > 1:
            total = self.world.total(torch.cat(parts).to(device)).cpu()
            return [part.tolist() for part in total.split([len(part) for part in parts])]
        return [part.tolist() for part in parts]

    def _text(self) -> str:
        figures = self.whole.figures()
        right = headline(figures)
        shown = f"loss {figures['loss']:.4f}  {right}  lr {figures['lr']:.2g}"
        return f"{self.note}  {shown}  {figures['images_per_s']:.0f} images/s".strip()


def mean_iou(classes: Tensor) -> list[float]:
    """Mean intersection over union of each exit, [K, 3, C] -> K numbers.

    Classes that are neither wanted nor answered are left out; 0 where no position counts.
    """
    return class_iou(classes).nanmean(1).nan_to_num().tolist()


def headline(figures: dict[str, Any], part: str = "") -> str:
    """The figure of each exit that says the most: of maps the mean IoU, else the accuracy."""
    name, title = ("miou", "mIoU") if f"{part}miou" in figures else ("accuracy", "accuracy")
    shares = " ".join(f"{100 * share:.1f}" for share in figures[f"{part}{name}"])
    return f"{title} {shares} %"


def _check_finite(step: Step, figures: dict[str, float], rows: float) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"wanted a finite loss, got {value / max(1, rows)} for {name} at step {step.step} "
                f"(epoch {step.epoch}); a smaller lr, a warmup or precision='float32' may help"
            )
