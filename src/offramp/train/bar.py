"""The progress bar of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Display(Protocol):
    """Where a meter shows what it read."""

    def show(self, text: str) -> None:
        """Show the present figures."""

    def advance(self, steps: int = 1) -> None:
        """Note that so many steps are done."""


@contextmanager
def progress_bar(total: int, title: str) -> Iterator[Display]:
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
    figures = TextColumn("{task.description}", markup=False)
    with Progress(*columns, figures, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)

        class Bar:
            def show(self, text: str) -> None:
                bar.update(task, description=text)

            def advance(self, steps: int = 1) -> None:
                bar.advance(task, steps)

        yield Bar()
