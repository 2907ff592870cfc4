"""Routes: which exit trains which segment, as an objective's terms say."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..objectives.base import Objective
from ..types import Batch, Costs, ExitOutput, Gains, Term


class Routes(NamedTuple):
    """What an objective asks of the backward pass at one moment of training."""

    table: Tensor  # bool [K, K], row: exit, column: segment that it moves
    terms: list[Term]
    exits: list[list[int]]  # exits that each term reads
    gains: Gains | None


def route_table(
    objective: Objective, num_exits: int, *, num_classes: int = 2, progress: float = 0.0
) -> Tensor:
    """Which exit trains which segment, bool [K, K]: row k is exit k, column j is segment j.

    Args:
        objective: the objective; it is asked about answers made up for the purpose, and inputs that
            stand for nothing. A teacher cannot answer these: ask what `Distill` goes around, whose
            routes its own terms take.
        num_exits: K.
        num_classes: classes of these answers.
        progress: of training, in [0, 1].

    Example:
        >>> route_table(create_objective("layer_wise"), 3).int().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    return routes(objective, num_exits, num_classes=num_classes, progress=progress).table


def routes(
    objective: Objective, num_exits: int, *, num_classes: int = 2, progress: float = 0.0
) -> Routes:
    """`route_table`, with the terms that it comes from and the gains.

    A term reads an exit where it has a gradient for that exit's logits or gate. One that is zero
    whatever the answers, such as distillation that has not begun, reads none.
    """
    outputs = _made_up(num_exits, num_classes)
    batch = Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.arange(2), progress)
    costs = Costs.from_relative([(k + 1) / num_exits for k in range(num_exits)])
    with torch.enable_grad():
        terms = objective(outputs, batch, costs)
        exits = [_read(term, outputs) for term in terms]
    table = torch.zeros(num_exits, num_exits, dtype=torch.bool)
    for term, read in zip(terms, exits, strict=True):
        for k in read:
            table[k, term.since : k + 1] = True
    return Routes(table, list(terms), exits, objective.gains(num_exits, progress))


def _made_up(num_exits: int, num_classes: int) -> list[ExitOutput]:
    """Answers that differ from exit to exit and from row to row."""
    generator = torch.Generator().manual_seed(0)
    return [
        ExitOutput(
            torch.randn(2, num_classes, generator=generator).requires_grad_(),
            torch.randn(2, generator=generator).requires_grad_(),
        )
        for _ in range(num_exits)
    ]


def _read(term: Term, outputs: list[ExitOutput]) -> list[int]:
    if not term.value.requires_grad:
        return []
    leaves = [tensor for out in outputs for tensor in out if tensor is not None]
    grads = torch.autograd.grad(term.value, leaves, retain_graph=True, allow_unused=True)
    owner = [k for k, out in enumerate(outputs) for tensor in out if tensor is not None]
    return sorted({k for k, grad in zip(owner, grads, strict=True) if grad is not None})
