"""Adaptive execution, the reference: exit by exit, rows that are done leave the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedError, ValidationError
from ..model import MultiExitModel
from ..policies.base import Control, ExitPolicy
from ..trees import State, num_rows, take, tensors
from ..types import Carry, ExitOutput, Prediction

Size = tuple[int, int]


@torch.inference_mode()
def run(
    model: MultiExitModel, policy: ExitPolicy, inputs: State, *, size: Size | None = None
) -> Prediction:
    """Answer every input at the first exit where the policy lets it leave.

    A segment runs for the rows that are still in the batch and for no others; where nobody leaves,
    nothing is copied. The host waits for the device once per exit, to learn how many stay.

    Args:
        model: in eval mode.
        policy: fitted, with as many exits as the model.
        inputs: a batch of at least one row, any state the model takes.
        size: height and width that maps of logits are brought to, bilinearly; needed where exits
            answer with maps of different size.

    Returns:
        Logits [N, C, *S] and exits [N], in the order of the inputs.

    Raises:
        ValidationError: if the model is in training mode, the policy has another number of exits,
            the batch is empty, or answers do not have one size.
        UnsupportedError: if the policy is an offline control.

    Example:
        >>> prediction = run(model, policy, torch.randn(8, 3, 32, 32))
        >>> prediction.logits.shape, prediction.exits
        (torch.Size([8, 10]), tensor([0, 3, 0, 0, 1, 0, 3, 2]))
    """
    rows, state, carry = _begin(model, policy, inputs), inputs, Carry()
    left: list[_Left] = []
    answered: torch.Size | None = None
    for k in range(model.num_exits - 1):
        state, out = model.step(k, state)
        decision = policy(k, out, carry)
        answered = _same_size(decision.logits, answered, size)
        stay = len(rows) - int(decision.leave.sum())
        carry = decision.carry
        if not stay:
            return _in_order([*left, _leave(k, decision.logits, rows, size)])
        if stay == len(rows):
            continue
        order = decision.leave.int().argsort(stable=True)  # those who stay come first
        gone, keep = order[stay:], order[:stay]
        left.append(_leave(k, decision.logits[gone], rows[gone], size))
        rows, state, carry = rows[keep], model.compact(state, keep), take(carry, keep)
    state, out = model.step(model.num_exits - 1, state)
    logits = policy.finish(out, carry)
    _same_size(logits, answered, size)
    return _in_order([*left, _leave(model.num_exits - 1, logits, rows, size)])


def anytime(model: MultiExitModel, inputs: State) -> Iterator[ExitOutput]:
    """Yield one answer after another for the whole batch, each better informed than the one before.

    A segment runs only when its answer is asked for; stop asking when time is up.

    Args:
        model: in eval mode.
        inputs: a batch of at least one row, any state the model takes.

    Raises:
        ValidationError: at once, if the model is in training mode or the batch is empty.

    Example:
        >>> for out in anytime(model, images):
        ...     if time.monotonic() > deadline:
        ...         break
    """
    _ready(model, inputs)
    return _exits(model, inputs)


class _Left(NamedTuple):
    """Rows that left together."""

    rows: Tensor  # [n], in the inputs
    logits: Tensor  # [n, C, *S]
    exits: Tensor  # [n]


@torch.inference_mode()
def _exits(model: MultiExitModel, state: State) -> Iterator[ExitOutput]:
    for k in range(model.num_exits):
        state, out = model.step(k, state)
        yield out


def _ready(model: MultiExitModel, inputs: State) -> int:
    """The number of rows, where the model can be run on them."""
    # a segment or the shared network may have been switched by itself
    parts = [model, *model.segments, *model.heads]
    if any(part.training for part in parts) or (model.network and model.network.training):
        raise ValidationError(
            "wanted a model in eval mode, got one in training mode, or parts of it, where batch "
            "norm makes an answer depend on its neighbours: call model.eval()"
        )
    num = num_rows(inputs)
    if not num:
        raise ValidationError("wanted a batch of at least one row, got an empty one")
    return num


def _begin(model: MultiExitModel, policy: ExitPolicy, inputs: State) -> Tensor:
    """Numbers of the inputs' rows, [N]."""
    if isinstance(policy, Control):
        raise UnsupportedError(
            f"{type(policy).__name__} is an offline control: it scores records and cannot run"
        )
    if policy.num_exits != model.num_exits:
        raise ValidationError(f"wanted a policy of {model.num_exits} exits, got {policy.num_exits}")
    return torch.arange(_ready(model, inputs), device=tensors(inputs)[0].device)


def _same_size(logits: Tensor, before: torch.Size | None, size: Size | None) -> torch.Size:
    """The size of an exit's answers, [*S], where all have one or can be brought to ``size``."""
    answered = logits.shape[2:]
    if size is not None and len(answered) != 2:
        raise ValidationError(
            f"size is for maps of logits [N, C, H, W], got logits {tuple(logits.shape)}"
        )
    if size is None and before is not None and before != answered:
        raise ValidationError(
            f"exits answer with maps of different size, {tuple(before)} and {tuple(answered)}: "
            "wanted size=(height, width) to bring them to, got None"
        )
    return answered


def _leave(k: int, logits: Tensor, rows: Tensor, size: Size | None) -> _Left:
    """Rows that leave at exit ``k`` with their answers, [n, C, *S]."""
    if size is not None and logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return _Left(rows, logits, torch.full_like(rows, k))


def _in_order(left: list[_Left]) -> Prediction:
    if len(left) == 1:  # all left together, so nothing was reordered
        return Prediction(left[0].logits, left[0].exits)
    rows = torch.cat([part.rows for part in left])
    logits = torch.cat([part.logits for part in left])
    exits = torch.cat([part.exits for part in left])
    return Prediction(
        torch.empty_like(logits).index_copy_(0, rows, logits),
        torch.empty_like(exits).index_copy_(0, rows, exits),
    )
