"""One training step's forward and backward pass; where terms are routed, segment by segment.

Who learns from whom is one integer per term, ``since``: the first segment whose weights it may
move. Block-dependent losses (Han et al. 2023) re-run a block for every set of exits that trains it;
here there is one forward pass. At every boundary between segments the state is handed on as views,
at which the graph can be taken apart, and the backward pass walks from the last segment to the
first. What it carries across a boundary is one gradient of the state per distinct ``since``. The
weights of a segment get one backward pass, from the sum of all gradients that may move them. Where
that sum goes on as a whole its input gradient comes free, so where g gradients arrive there are
g - 1 further passes, also where one of them ends; none of these computes gradients of weights.

Counting a segment's forward pass, input gradient and weight gradient as 1 each, seven equal
segments take 21 for joint training, no more for grouped or layer-wise training, 29 for an overlap
of three, and 30 where the last exit reaches all segments.

Memory: the graph of every segment and head is held from its forward pass until the walk has passed
it, as in joint training, and that of the terms until the walk begins. Beside these there are the
gradients of the states before and after one segment, at most one per exit of each, and a sum. What
a step returns holds no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError, ValidationError
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..trees import State, map_tensors, tensors
from ..types import Batch, Costs, ExitOutput, Gains, Term
from .mixing import Partner, ask


class Passed(NamedTuple):
    """What one forward and backward pass leaves behind, beside the gradients; without its graph."""

    outputs: list[ExitOutput]  # K, logits in float32 or wider
    terms: list[Term]
    loss: Tensor  # [], sum of the terms


def backward_step(
    model: MultiExitModel, objective: Objective, batch: Batch, costs: Costs
) -> list[Term]:
    """One forward pass, and the backward passes that give every term's gradient to its segments.

    A term with ``since`` moves the weights of segments ``since`` and up, and of every head that it
    reads. Gradients are added to those that are there, as ``Tensor.backward`` does. Where all terms
    have ``since`` 0 and the objective has no gains, this is the backward pass of their sum.

    Raises:
        ValidationError: if the objective has no terms, two of one name, one that is not a single
            number or whose ``since`` is no segment, or gains that do not fit the exits.
        UnsupportedError: if a segment or a head changes the state that it is given in place, and
            terms are routed or a segment shares weights with what follows.

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
    apart = _shares_weights(model)
    with _told_in_place() if apart else nullcontext():
        outputs, stages = _forward(model, batch.inputs, _leaf if apart else _view)
    terms = ask(objective, outputs, batch, costs, partner)
    _check(terms, model.num_exits)
    gains = objective.gains(model.num_exits, batch.progress)
    loss = torch.stack([term.value for term in terms]).sum()
    passed = map_tensors(Tensor.detach, Passed(outputs, terms, loss))
    # backward repeats the types of the forward pass; an autocast around it could change them
    with torch.autocast(loss.device.type, enabled=False):
        if gains is None and not apart and not any(term.since for term in terms):
            (loss if weight is None else loss * weight).backward()
        else:
            _check_untouched(stages)
            gains = _checked_gains(gains, model.num_exits)
            answers = [_learning(out) for out in outputs]
            asked = _asked(terms, answers, [*objective.parameters()], weight)
            del outputs, terms, loss  # or they would hold the graph that the walk lets go
            _walk(model, answers, stages, asked, gains)
    return passed


# --------------------------------------------------------------------- the forward pass
class _Stage(NamedTuple):
    """A segment's place in the graph: the tensors of the states around it that have gradients."""

    enters: list[Tensor]  # of the state that the segment read; views of the last one's `leaves`
    leaves: list[Tensor]  # of the state that it made
    seen: list[Tensor]  # what the head read; views of `leaves`
    versions: list[int]  # of `leaves`, before anyone else had them


def _forward(
    model: MultiExitModel, inputs: State, name: Callable[[Tensor], Tensor]
) -> tuple[list[ExitOutput], list[_Stage]]:
    state, enters = inputs, []
    outputs, stages = [], []
    for segment, head in zip(model.segments, model.heads, strict=True):
        made = segment(state)
        versions = [tensor._version for tensor in _learning(made)]
        state, seen = map_tensors(name, made), map_tensors(name, made)
        outputs.append(_widen(head(seen)))
        stages.append(_Stage(enters, _learning(made), _learning(seen), versions))
        enters = _learning(state)
    return outputs, stages


def _view(tensor: Tensor) -> Tensor:
    """The same values under another name, at which the graph can be taken apart."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor


def _leaf(tensor: Tensor) -> Tensor:
    """The same values, at which the graph ends."""
    return tensor.detach().requires_grad_() if tensor.requires_grad else tensor


def _shares_weights(model: MultiExitModel) -> bool:
    """Whether a segment's weight is also another segment's or a head's.

    A gradient asked for such a weight further up would be followed on down to the segment: there
    the graph has to be in parts from the start, and nothing may change a state in place.
    """
    seen: set[int] = set()
    for segment in model.segments:
        own = {id(weight) for weight in _weights(segment)}
        if own & seen:
            return True
        seen |= own
    return any(id(weight) in seen for head in model.heads for weight in _weights(head))


@contextmanager
def _told_in_place() -> Iterator[None]:
    """Where the graph is in parts, torch itself refuses to change a state in place."""
    try:
        yield
    except RuntimeError as error:
        if "a leaf Variable that requires grad" not in str(error):
            raise
        raise UnsupportedError(
            "a state is changed in place by a head or a segment that reads it, which segments that "
            "share weights do not allow: wanted inplace=False there"
        ) from error


def _learning(state: State) -> list[Tensor]:
    return [tensor for tensor in tensors(state) if tensor.requires_grad]


def _widen(out: ExitOutput) -> ExitOutput:
    """Losses are computed in float32: log-probabilities in bf16 have two or three digits."""
    return ExitOutput(_wide(out.logits), None if out.gate is None else _wide(out.gate))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


# --------------------------------------------------------------------- the routed backward pass
_Gradients = list[Tensor | None]  # of some tensors, in their order; None is zero


def _asked(
    terms: Sequence[Term],
    answers: Sequence[Sequence[Tensor]],
    own: Sequence[nn.Parameter],
    weight: Tensor | None,
) -> list[dict[int, _Gradients]]:
    """Per exit and ``since``, the gradient of its answers; the objective's own are added up."""
    every = [tensor for part in answers for tensor in part]
    learning = [parameter for parameter in own if parameter.requires_grad]
    asked: list[dict[int, _Gradients]] = [{} for _ in answers]
    groups: dict[int, Tensor] = {}
    for term in terms:
        if term.value.requires_grad:
            value = term.value if weight is None else term.value * weight
            groups[term.since] = groups[term.since] + value if term.since in groups else value
    for since, value in groups.items():
        if learning:
            torch.autograd.backward(value, inputs=learning, retain_graph=True)
        # two groups may share a part of the graph, such as a softmax
        grads = iter(torch.autograd.grad(value, every, retain_graph=True, allow_unused=True))
        for part, by_since in zip(answers, asked, strict=True):
            mine: _Gradients = [next(grads) for _ in part]
            if any(grad is not None for grad in mine):
                by_since[since] = mine
    return asked


def _walk(
    model: MultiExitModel,
    answers: list[list[Tensor]],
    stages: list[_Stage],
    asked: list[dict[int, _Gradients]],
    gains: Gains,
) -> None:
    """From the last segment to the first; what has been passed is taken off the lists.

    A backward pass frees what it passes through itself; what no gradient of weights needs is only
    freed with the last tensor that holds it.
    """
    carried: dict[int, _Gradients] = {}  # since -> gradient of the state that a segment made
    for k in reversed(range(model.num_exits)):
        stage = stages.pop()
        passed = _through_head(model.heads[k], answers.pop(), stage, asked.pop())
        for since, grads in passed.items():
            if since <= k:
                grads = _scaled(grads, gains.heads[k])
                carried[since] = _added(carried[since], grads) if since in carried else grads
        carried = _through_segment(k, model.segments[k], stage, carried)
        if k and gains.boundaries[k - 1] != 1:
            gain = gains.boundaries[k - 1]
            carried = {since: _scaled(grads, gain) for since, grads in carried.items()}


def _through_head(
    head: nn.Module, answer: list[Tensor], stage: _Stage, asked: dict[int, _Gradients]
) -> dict[int, _Gradients]:
    """The gradient of the state for each ``since``; the head's weights learn from all of them."""
    weights, found = _weights(head), {}
    for number, (since, grads) in enumerate(asked.items(), 1):
        more = number < len(asked)
        found[since] = _pull(answer, grads, weights, stage.seen, more=more)
    return found


def _through_segment(
    k: int, segment: nn.Module, stage: _Stage, carried: dict[int, _Gradients]
) -> dict[int, _Gradients]:
    """The same gradients one boundary further down; the segment's weights learn from their sum."""
    going = [since for since in carried if since < k] if stage.enters else []
    free = len(going) == len(carried)  # nobody stops here: the sum's gradient serves one of them
    below = {
        since: _pull(stage.leaves, carried[since], [], stage.enters, more=True)
        for since in (going[1:] if free else going)
    }
    total: _Gradients = []
    for grads in carried.values():
        total = _added(total, grads) if total else grads
    rest = _pull(stage.leaves, total, _weights(segment), stage.enters if free else [], more=False)
    if free and going:
        for grads in below.values():
            rest = _added(rest, _scaled(grads, -1))
        below[going[0]] = rest
    return below


def _pull(
    roots: Sequence[Tensor],
    grads: _Gradients,
    weights: Sequence[nn.Parameter],
    into: Sequence[Tensor],
    *,
    more: bool,
) -> _Gradients:
    """Pass gradients back from the roots: added up for the weights, returned for the others."""
    pairs = [(root, grad) for root, grad in zip(roots, grads, strict=False) if grad is not None]
    if not pairs or not (weights or into):
        return [None] * len(into)
    heads, given = zip(*pairs, strict=True)
    if not weights:
        return [*torch.autograd.grad(heads, into, given, retain_graph=more, allow_unused=True)]
    torch.autograd.backward(heads, given, retain_graph=more, inputs=[*weights, *into])
    found = [tensor.grad for tensor in into]
    for tensor in into:
        tensor.grad = None
    return found


def _added(some: _Gradients, others: _Gradients) -> _Gradients:
    return [
        b if a is None else a if b is None else a + b for a, b in zip(some, others, strict=True)
    ]


def _scaled(grads: _Gradients, factor: float) -> _Gradients:
    return grads if factor == 1 else [None if g is None else g * factor for g in grads]


def _weights(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


# --------------------------------------------------------------------- checks
def _check(terms: list[Term], num_exits: int) -> None:
    if not terms:
        raise ValidationError("wanted an objective with at least one term, got none")
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValidationError(f"wanted terms of different names, got {names}")
    for term in terms:
        if term.value.dim():
            raise ValidationError(
                f"wanted one number per term, got {tuple(term.value.shape)} for {term.name!r}"
            )
        whole = isinstance(term.since, int) and not isinstance(term.since, bool)
        if not (whole and 0 <= term.since < num_exits):
            raise ValidationError(
                f"wanted since as a segment from 0 to {num_exits - 1}, got {term.since!r} for the "
                f"term {term.name!r}"
            )


def _checked_gains(gains: Gains | None, num_exits: int) -> Gains:
    if gains is None:
        return Gains([1.0] * num_exits, [1.0] * (num_exits - 1))
    if (len(gains.heads), len(gains.boundaries)) != (num_exits, num_exits - 1):
        raise ValidationError(
            f"wanted gains of {num_exits} heads and {num_exits - 1} boundaries, got "
            f"{len(gains.heads)} and {len(gains.boundaries)}"
        )
    return gains


def _check_untouched(stages: Iterable[_Stage]) -> None:
    """A state that was changed in place has lost the place where the graph is taken apart."""
    for k, stage in enumerate(stages):
        if [tensor._version for tensor in stage.leaves] != stage.versions:
            raise UnsupportedError(
                f"the state that segment {k} makes is changed in place by head {k} or by what "
                "follows, which routed terms (since above 0, or gains) do not allow: wanted "
                "inplace=False in what reads it"
            )
