"""The options of training, checked at the door."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import nn

from ..errors import ValidationError
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..registry import objectives
from ..types import Costs

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def find_objective(objective: str | Objective) -> Objective:
    """An objective by name, or itself."""
    made = objectives.create(objective) if isinstance(objective, str) else objective
    if not isinstance(made, Objective):
        raise ValidationError(
            f"wanted an objective by name or an Objective, got {type(made).__name__}"
        )
    return made


def find_optimizer(
    optimizer: str | MakeOptimizer,
    lr: float,
    weight_decay: float,
    *,
    momentum: float,
    nesterov: bool,
) -> MakeOptimizer:
    """What makes the optimizer from the parameters."""
    if callable(optimizer):
        return optimizer
    more = "or a function from parameters to an optimizer"
    one_of("optimizer", optimizer, ("sgd", "adamw"), more)
    _within("weight_decay", weight_decay, inf)
    if optimizer == "adamw":
        return lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    if nesterov and not momentum > 0:
        raise ValidationError(f"wanted momentum above 0 with nesterov, got {momentum}")
    return lambda parameters: torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )


def check_model(model: object, train: str, costs: Costs | None) -> None:
    """Check that there is something to train, and that the costs are this model's."""
    if not isinstance(model, MultiExitModel):
        raise ValidationError(
            f"wanted a MultiExitModel, as attach or create_model make; got {type(model).__name__}"
        )
    one_of("train", train, ("all", "heads"))
    if train == "heads" and model.num_exits < 2:
        raise ValidationError("wanted early heads for train='heads', got a model of a single exit")
    if costs is not None and costs.num_exits != model.num_exits:
        raise ValidationError(f"wanted costs of {model.num_exits} exits, got {costs.num_exits}")


def check_numbers(
    *, epochs: int, batch_size: int, lr: float, momentum: float, warmup: float
) -> None:
    """Check that the numbers are in their ranges."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValidationError(f"wanted {name} as a whole number of at least 1, got {value!r}")
    if not 0 < lr < inf:
        raise ValidationError(f"wanted lr above 0, got {lr}")
    _within("momentum", momentum, 1)
    _within("warmup", warmup, 1)


def one_of(name: str, value: object, valid: tuple[str, ...], more: str = "") -> None:
    """Check that a value is one of the valid names."""
    if value not in valid:
        also = f" {more}" if more else ""
        raise ValidationError(f"wanted {name} as one of {list(valid)}{also}, got {value!r}")


def _within(name: str, value: float, top: float) -> None:
    if not 0 <= value < top:
        raise ValidationError(f"wanted {name} in [0, {top}), got {value}")
