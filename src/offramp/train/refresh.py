"""Before an epoch, an objective may look at every training row: see `Objective.refresh`."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import cast

import torch

from ..data.batches import Source
from ..mixture import wide
from ..modes import keep_modes
from ..types import Batch, Costs, ExitOutput
from .bar import Display
from .seeds import mix, random_states_kept
from .steps import Run

_PATIENCE = 1.0  # seconds after which the progress bar says what goes on, and between two words


def refresh(run: Run, epoch: int, display: Display | None = None, note: str = "") -> None:
    """Show the rows to the objective, where it wants to see them.

    No weight, statistic, mode or random state is touched.

    Args:
        run: the phase, with its costs.
        epoch: the one that is about to begin.
        display: where it is said that this takes a while.
        note: said before.
    """
    source = run.phase.every_row
    if source is None:
        return
    model = run.model
    with (
        random_states_kept(run.place.device),
        keep_modes(model, model.segments),
        torch.no_grad(),
        closing(_answers(run, source, epoch, _Word(source, display, note))) as answers,
    ):
        model.eval()
        run.phase.objective.refresh(answers, cast(Costs, run.costs), cast(int, source.rows))


def _answers(
    run: Run, source: Source, epoch: int, word: _Word
) -> Generator[tuple[Sequence[ExitOutput], Batch], None, None]:
    """What all exits say about this process's rows, in order, a batch at a time."""
    batches = source.batches(
        seeds=lambda batch: mix(run.seed, run.number, "refresh", epoch, batch),
        share=None if run.world.size == 1 else run.world.share,
    )
    with closing(batches):
        for number, rows in enumerate(batches):
            word.say(number)
            if rows.spare:
                continue
            inputs, target, index, _ = run.place.bring(rows)
            with run.place.autocast():
                outputs = run.model(inputs)
            yield (
                [ExitOutput(wide(z), None if g is None else wide(g)) for z, g in outputs],
                Batch(inputs, target, index, epoch / run.phase.epochs),
            )


class _Word:
    """Says how far it is, where it takes long."""

    def __init__(self, source: Source, display: Display | None, note: str) -> None:
        self.source, self.display, self.note = source, display, note
        self.said = time.perf_counter()

    def say(self, number: int) -> None:
        """Say that so many batches are done, if it is time to."""
        now = time.perf_counter()
        if self.display is not None and now - self.said > _PATIENCE:
            steps = self.source.steps
            self.display.show(f"{self.note}  looks at all rows, {number} of {steps} batches")
            self.said = now
