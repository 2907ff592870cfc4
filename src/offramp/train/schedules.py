"""Learning-rate schedules: plain functions of the progress of training."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import ValidationError

Schedule = Callable[[float], float]  # progress in [0, 1] -> factor of the learning rate


def cosine(progress: float) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    """1, whatever the progress."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant}


def find(schedule: str | Schedule) -> Schedule:
    """A schedule by name, or the function itself.

    Raises:
        ValidationError: if there is no such schedule.
    """
    found = schedule if callable(schedule) else SCHEDULES.get(schedule)
    if found is None:
        raise ValidationError(
            f"wanted schedule {sorted(SCHEDULES)} or a function of progress, got {schedule!r}"
        )
    return found


def factor(schedule: Schedule, step: int, total: int, warmup: float = 0.0) -> float:
    """The factor of the learning rate at a step of ``total``.

    Over the first ``warmup`` share of the steps it rises in a line and reaches 1 at the last of
    them; the schedule then runs over the steps that are left.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return schedule((step - rising) / max(1, total - rising))
