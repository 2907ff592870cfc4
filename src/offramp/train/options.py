"""The options of a phase of training, checked at the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ValidationError
from ..objectives.base import Objective
from ..registry import objectives
from ..trees import State
from .schedules import Schedule

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Augment = Callable[[State, torch.Generator], State]
Part = str | int  # "all", "heads", "gates", "head.K", "gate.K", a module's name; a segment

_OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Options:
    """How one phase trains: what `offramp.fit` takes that a phase may have for itself.

    `offramp.fit` says what each of them means.
    """

    epochs: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adam", "adamw"] | MakeOptimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one_cycle", "poly", "step", "constant"] | Schedule = "cosine"
    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    clip: float | None = None
    ema: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: Literal["float32", "bf16", "auto"] = "float32"
    channels_last: bool = False
    train: Part | Sequence[Part] = "all"


def check_options(options: Options) -> None:
    """Check that every option is in its range.

    Raises:
        ValidationError: if one is not; the message lists the valid choices.
    """
    for name in ("epochs", "batch_size", "accumulate"):
        whole(name, getattr(options, name))
    _within("lr", options.lr, inf, above=True)
    _within("gamma", options.gamma, inf, above=True)
    for name in ("momentum", "warmup", "label_smoothing"):
        _within(name, getattr(options, name), 1)
    for name in ("weight_decay", "mixup", "cutmix"):
        _within(name, getattr(options, name), inf)
    if options.clip is not None:
        _within("clip", options.clip, inf, above=True)
    if options.ema is not None:
        _within("ema", options.ema, 1, above=True)
    one_of("precision", options.precision, ("float32", "bf16", "auto"))
    for name in ("nesterov", "channels_last"):
        one_of(name, getattr(options, name), (True, False))
    _check_milestones(options.milestones)
    _check_pairs(options)


def find_objective(objective: str | Objective, label_smoothing: float = 0.0) -> Objective:
    """An objective by name, or itself.

    Raises:
        UnknownNameError: if there is no objective of that name.
        OptionError: if labels are to be smoothed and that objective does not do it.
        ValidationError: if it is neither, or the smoothing is not for this function to set.
    """
    if isinstance(objective, str):
        more = {"label_smoothing": label_smoothing} if label_smoothing else {}
        return objectives.create(objective, **more)
    if not isinstance(objective, Objective):
        raise ValidationError(
            f"wanted an objective by name or an Objective, got {type(objective).__name__}"
        )
    if label_smoothing:
        raise ValidationError(
            f"wanted label_smoothing 0 beside an objective that is made already, got "
            f"{label_smoothing}: give it to {type(objective).__name__} itself"
        )
    return objective


def find_optimizer(options: Options) -> MakeOptimizer:
    """What makes the optimizer from the parameters.

    Raises:
        ValidationError: if there is no optimizer of that name.
    """
    if callable(options.optimizer):
        return options.optimizer
    one_of(
        "optimizer", options.optimizer, _OPTIMIZERS, "or a function from parameters to an optimizer"
    )
    more: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "adam":
        return lambda parameters: torch.optim.Adam(parameters, **more)
    if options.optimizer == "adamw":
        return lambda parameters: torch.optim.AdamW(parameters, **more)
    more |= {"momentum": options.momentum, "nesterov": options.nesterov}
    return lambda parameters: torch.optim.SGD(parameters, **more)


def whole(name: str, value: object, least: int = 1) -> None:
    """Check that a value is a whole number.

    Raises:
        ValidationError: if it is none, or below ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValidationError(f"wanted {name} as a whole number of at least {least}, got {value!r}")


def one_of(name: str, value: object, valid: Sequence[object], more: str = "") -> None:
    """Check that a value is one of the valid ones.

    Raises:
        ValidationError: if it is not; the message lists them.
    """
    if value not in valid:
        also = f" {more}" if more else ""
        raise ValidationError(f"wanted {name} as one of {list(valid)}{also}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(name: str, value: Any, top: float, *, above: bool = False) -> None:
    if not is_number(value) or not (value > 0 if above else value >= 0) or not value < top:
        wanted = f"in {'(' if above else '['}0, {top})"
        if above and top == inf:
            wanted = "above 0"
        raise ValidationError(f"wanted {name} {wanted}, got {value!r}")


def _check_milestones(milestones: Any) -> None:
    listed = isinstance(milestones, Sequence) and not isinstance(milestones, str)
    values: list[Any] = list(milestones) if listed else []
    shares = all(is_number(value) and 0 < value < 1 for value in values)
    rising = shares and values == sorted(values)
    if not listed or not rising:
        raise ValidationError(
            f"wanted milestones as rising shares of the training in (0, 1), got {milestones!r}"
        )


def _check_pairs(options: Options) -> None:
    if options.nesterov and options.optimizer == "sgd" and not options.momentum > 0:
        raise ValidationError(f"wanted momentum above 0 with nesterov, got {options.momentum}")
    if options.warmup and options.schedule == "one_cycle":
        raise ValidationError(
            f"wanted warmup 0 with the schedule 'one_cycle', which has its own rise; got "
            f"{options.warmup}"
        )
