"""Learning-rate schedules: plain functions of the progress of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import ValidationError

Schedule = Callable[[float], float]  # progress in [0, 1] -> factor of the learning rate

_RISE, _START, _END = 0.3, 1 / 25, 1 / 250_000  # of one_cycle
_POWER = 0.9  # of poly, as DeepLab and nearly all after it have it


def cosine(progress: float) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    """1, whatever the progress."""
    return 1.0


def one_cycle(progress: float) -> float:
    """From 1/25 up to 1 over the first 30 %, then down to 1/250000 (Smith and Topin 2019).

    Both ways are half a cosine, as in `torch.optim.lr_scheduler.OneCycleLR`. Momentum stays as it
    is.
    """
    if progress < _RISE:
        return 1 - (1 - _START) * cosine(progress / _RISE)
    return _END + (1 - _END) * cosine((progress - _RISE) / (1 - _RISE))


def poly(progress: float) -> float:
    """From 1 to 0 as (1 - progress)^0.9, which is usual for segmentation (Chen et al. 2017)."""
    return (1 - progress) ** _POWER


def stepwise(milestones: Sequence[float], gamma: float) -> Schedule:
    """1, multiplied by ``gamma`` at each of these shares of the progress."""

    def step(progress: float) -> float:
        return gamma ** sum(progress >= milestone for milestone in milestones)

    return step


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "poly": poly,
}


def find(
    schedule: str | Schedule, *, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> Schedule:
    """A schedule by name, or the function itself.

    Args:
        schedule: a name, or a function of the progress.
        milestones: of ``step``, which `stepwise` makes.
        gamma: of ``step``.

    Raises:
        ValidationError: if there is no such schedule.
    """
    if callable(schedule):
        return schedule
    if schedule == "step":
        return stepwise(milestones, gamma)
    found = SCHEDULES.get(schedule) if isinstance(schedule, str) else None
    if found is None:
        names = sorted([*SCHEDULES, "step"])
        raise ValidationError(
            f"wanted schedule as one of {names} or a function of progress, got {schedule!r}"
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
