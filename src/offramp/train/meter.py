"""What a training step reports, and its sums over an epoch, seldom read from the device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..types import ExitOutput

History = list[dict[str, Any]]  # one entry per epoch, plain numbers and lists

_EVERY = 64  # steps between two readings: a reading waits for the device
_REFRESH = 0.5  # seconds between two readings for the progress bar


class Step(NamedTuple):
    """What one training step did; tensors stay on the device and are detached."""

    epoch: int
    step: int  # counted over all epochs, from 0
    progress: float  # of the phase, before the step
    lr: float
    rows: int
    loss: Tensor  # []
    terms: dict[str, Tensor]  # [] each
    correct: Tensor  # [K], positions that each exit got right
    counted: Tensor  # [K], positions that count


def hits(
    outputs: Sequence[ExitOutput], target: Tensor, ignored: int | None = None
) -> tuple[Tensor, Tensor]:
    """Positions that each exit gets right, and positions that count, [K] and [K].

    Negative targets do not count, nor does the one ``ignored``. A map is compared at the head's own
    resolution, with the nearest target.
    """
    target = target.long()  # unsigned ones have no negative number
    if ignored is not None:
        target = target.masked_fill(target == ignored, -1)
    if all(out.logits.shape[2:] == target.shape[1:] for out in outputs):
        answers = torch.stack([out.logits.detach().argmax(1) for out in outputs])  # [K, N, *S]
        correct = (answers == target).flatten(1).sum(1)
        return correct, (target >= 0).sum().expand(len(outputs))
    pairs = [(out.logits.detach(), _nearest(target, out.logits)) for out in outputs]
    correct = [(logits.argmax(1) == wanted).sum() for logits, wanted in pairs]
    return torch.stack(correct), torch.stack([(wanted >= 0).sum() for _, wanted in pairs])


def _nearest(target: Tensor, logits: Tensor) -> Tensor:
    return F.interpolate(target[:, None].float(), list(logits.shape[2:])).squeeze(1).long()


class Display(Protocol):
    """Where a meter shows what it read."""

    def show(self, text: str) -> None:
        """Show the present figures."""

    def advance(self) -> None:
        """Note that a step is done."""


class Meter:
    """Means over the steps of one epoch."""

    def __init__(self, epoch: int, num_exits: int, display: Display | None = None) -> None:
        self.epoch, self.display = epoch, display
        self.waiting: list[Step] = []
        self.rows, self.lr, self.loss = 0, 0.0, 0.0
        self.terms: dict[str, float] = {}
        self.counts = torch.zeros(2, num_exits, dtype=torch.long)  # [2, K], correct and counted
        self.start = self.seen = time.perf_counter()

    def add(self, step: Step) -> None:
        """Take in a step; now and then, read what has gathered.

        Raises:
            TrainingError: if a term of the steps read is not finite.
        """
        self.waiting.append(step)
        due = self.display is not None and time.perf_counter() - self.seen > _REFRESH
        if due or len(self.waiting) >= _EVERY:
            self.read()
        if self.display is not None:
            self.display.advance()

    def read(self) -> None:
        """Read the steps that wait: the device is waited for once."""
        steps, self.waiting = self.waiting, []
        if not steps:
            return
        values = [torch.stack([s.loss, *s.terms.values()]) for s in steps]
        counts = torch.stack([torch.stack([s.correct, s.counted]) for s in steps]).sum(0)  # [2, K]
        numbers = torch.cat(values).cpu().split([len(value) for value in values])
        for step, figures in zip(steps, numbers, strict=True):
            self._take_in(step, figures.tolist())
        self.counts = self.counts + counts.cpu()
        self.seen = time.perf_counter()
        if self.display is not None:
            self.display.show(self._text())

    def summary(self) -> dict[str, Any]:
        """The epoch so far, as plain numbers."""
        self.read()
        seconds = time.perf_counter() - self.start
        rows = max(1, self.rows)
        return {
            "epoch": self.epoch,
            "loss": self.loss / rows,
            "terms": {name: value / rows for name, value in self.terms.items()},
            "accuracy": self._accuracy(),
            "lr": self.lr,
            "seconds": seconds,
            "images_per_s": self.rows / seconds,
        }

    def _take_in(self, step: Step, figures: list[float]) -> None:
        loss, *values = figures
        named = dict(zip([*step.terms, "the sum of the terms"], [*values, loss], strict=True))
        for name, value in named.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"wanted a finite loss, got {value} for {name} at step {step.step} (epoch "
                    f"{step.epoch}); a smaller lr, a warmup or precision='float32' may help"
                )
        self.rows += step.rows
        self.lr = step.lr
        self.loss += loss * step.rows
        for name, value in zip(step.terms, values, strict=True):
            self.terms[name] = self.terms.get(name, 0.0) + value * step.rows

    def _accuracy(self) -> list[float]:
        return (self.counts[0].double() / self.counts[1].clamp_min(1)).tolist()

    def _text(self) -> str:
        seconds, rows = max(1e-9, self.seen - self.start), max(1, self.rows)
        right = " ".join(f"{100 * share:.1f}" for share in self._accuracy())
        speed = f"{self.rows / seconds:.0f} images/s"
        return f"loss {self.loss / rows:.4f}  accuracy {right} %  lr {self.lr:.2g}  {speed}"


@contextmanager
def progress_bar(total: int, epochs: int) -> Iterator[Display]:
    """A bar on standard error, with the figures of the present epoch."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn()]
    figures = TextColumn("{task.description}")
    with Progress(*columns, figures, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{epochs} epochs", total=total)

        class Bar:
            def show(self, text: str) -> None:
                bar.update(task, description=text)

            def advance(self) -> None:
                bar.advance(task)

        yield Bar()
