"""One training step's forward and backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UnsupportedError, ValidationError
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..types import Batch, Costs, ExitOutput, Term
from .mixing import Partner, blend


class Passed(NamedTuple):
    """What one forward and backward pass leaves behind, beside the gradients."""

    outputs: list[ExitOutput]  # K, logits in float32 or wider
    terms: list[Term]
    loss: Tensor  # [], sum of the terms


def backward_step(
    model: MultiExitModel, objective: Objective, batch: Batch, costs: Costs
) -> list[Term]:
    """One forward pass, and one backward pass of the sum of the objective's terms.

    Gradients are added to those that are there, as ``Tensor.backward`` does.

    Raises:
        UnsupportedError: if a term has ``since`` above 0: there is no routed backward pass yet.
        ValidationError: if the objective has no terms, two of one name, or one that is not a single
            number.

    Example:
        >>> terms = backward_step(model, objective, batch, costs)
        >>> optimizer.step()
    """
    return forward_backward(model, objective, batch, costs).terms


def forward_backward(
    model: MultiExitModel,
    objective: Objective,
    batch: Batch,
    costs: Costs,
    *,
    partner: Partner | None = None,
    weight: Tensor | None = None,
) -> Passed:
    """`backward_step`, with the outputs and the loss too.

    Args:
        model: the model.
        objective: what is minimised.
        batch: the batch.
        costs: handed to the objective.
        partner: what the batch was mixed with; the objective is asked about that too.
        weight: [], a factor of the gradients, and of nothing else.
    """
    outputs = [_widen(out) for out in model(batch.inputs)]
    terms = objective(outputs, batch, costs)
    _check(terms)
    if partner is not None:
        terms = blend(terms, objective(outputs, partner.batch, costs), partner.share)
    loss = torch.stack([term.value for term in terms]).sum()
    # backward repeats the types of the forward pass; an autocast around it could change them
    with torch.autocast(loss.device.type, enabled=False):
        (loss if weight is None else loss * weight).backward()
    return Passed(outputs, terms, loss)


def _widen(out: ExitOutput) -> ExitOutput:
    """Losses are computed in float32: log-probabilities in bf16 have two or three digits."""
    return ExitOutput(_wide(out.logits), None if out.gate is None else _wide(out.gate))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _check(terms: list[Term]) -> None:
    if not terms:
        raise ValidationError("wanted an objective with at least one term, got none")
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValidationError(f"wanted terms of different names, got {names}")
    shaped = next((term for term in terms if term.value.dim()), None)
    if shaped is not None:
        raise ValidationError(
            f"wanted one number per term, got {tuple(shaped.value.shape)} for {shaped.name!r}"
        )
    routed = next((term for term in terms if term.since > 0), None)
    if routed is not None:
        raise UnsupportedError(
            f"the term {routed.name!r} has since={routed.since}: it may move segments from "
            f"{routed.since} on only, which needs the routed backward pass; that is not there yet, "
            "wanted terms with since=0"
        )
