"""A slow literal reference of routed training: every window is run again, every loss alone.

Exit k with ``since`` s trains segments s to k. So the network is run anew, the segments below s
without gradients, one loss is sent backward by itself, and the gradients of all losses are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.trees import State, map_tensors
from offramp.types import Batch, Costs, ExitOutput, Gains, Term

Gradients = dict[str, Tensor]  # by the parameter's name; those that are zero are left out


class Scale(torch.autograd.Function):
    """The same values; gradients are multiplied on their way back."""

    @staticmethod
    def forward(ctx, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def window(
    model: MultiExitModel,
    inputs: State,
    since: int,
    *,
    until: int | None = None,
    gains: Gains | None = None,
) -> list[ExitOutput]:
    """Run the exits up to ``until`` so that no gradient reaches the segments below ``since``."""
    state, outputs = inputs, []
    last = model.num_exits - 1 if until is None else until
    pairs = zip(model.segments, model.heads, strict=True)
    for k, (segment, head) in enumerate([*pairs][: last + 1]):
        if gains is not None and k:
            state = scaled(state, gains.boundaries[k - 1])
        with torch.set_grad_enabled(k >= since):
            state = segment(state)
        outputs.append(head(state if gains is None else scaled(state, gains.heads[k])))
    return outputs


def scaled(state: State, factor: float) -> State:
    """The same state; gradients are multiplied on their way back."""
    return map_tensors(lambda t: Scale.apply(t, factor) if t.requires_grad else t, state)


def taken(model: torch.nn.Module) -> Gradients:
    """The gradients that are there, which are then forgotten."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {name: grad for name, grad in found.items() if bool((grad != 0).any())}


def summed(several: Sequence[Mapping[str, Tensor]]) -> Gradients:
    total: Gradients = {}
    for one in several:
        for name, grad in one.items():
            total[name] = total[name] + grad if name in total else grad
    return total


class Windows:
    """The gradients of one exit's losses for one window, each run once and then kept."""

    def __init__(self, model: MultiExitModel, batch: Batch) -> None:
        self.model, self.batch = model, batch
        with torch.no_grad():
            self.answers = [out.logits for out in model(batch.inputs)]
        self.kept: dict[tuple[int, int], dict[str, Gradients]] = {}

    def gradients(self, k: int, since: int) -> dict[str, Gradients]:
        """Of exit k's cross-entropy ("ce") and of its divergence from the last exit ("kl")."""
        if (k, since) not in self.kept:
            logits = window(self.model, self.batch.inputs, since, until=k)[k].logits
            F.cross_entropy(logits, self.batch.target).backward(retain_graph=True)
            self.kept[k, since] = {"ce": taken(self.model)}
            divergence(self.answers[-1], logits).backward()
            self.kept[k, since]["kl"] = taken(self.model)
        return self.kept[k, since]

    def total(self, since: Sequence[int], distilled: bool = False) -> Gradients:
        """Of all exits, ``since`` one number for each."""
        parts = [self.gradients(k, s)["ce"] for k, s in enumerate(since)]
        if distilled:
            parts += [self.gradients(k, s)["kl"] for k, s in enumerate(since[:-1])]
        return summed(parts)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """0.3 T^2 KL(t || s) at T = 1.5, mean over rows."""
    wanted, log_s = (teacher / 1.5).softmax(1), (student / 1.5).log_softmax(1)
    return 0.3 * 1.5**2 * (wanted * (wanted.log() - log_s)).sum(1).mean()


def by_terms(
    model: MultiExitModel,
    objective: Objective,
    batch: Batch,
    costs: Costs,
    *,
    gains: Gains | None = None,
    bf16: bool = False,
    change: Callable[[list[Term], Sequence[ExitOutput]], list[Term]] | None = None,
) -> Gradients:
    """The same for any objective, each of its terms alone; its own parameters begin with "own.".

    Args:
        model, objective, batch, costs: as `backward_step` takes them.
        gains: factors of the gradients.
        bf16: run the model under autocast; losses are of float32 logits.
        change: makes the terms that count from the objective's and the outputs.
    """
    change = change or (lambda terms, outputs: terms)
    with torch.no_grad():
        since = [term.since for term in objective(model(batch.inputs), batch, costs)]
    parts = []
    for number, first in enumerate(since):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = window(model, batch.inputs, first, gains=gains)
        if bf16:
            outputs = [ExitOutput(out.logits.float()) for out in outputs]
        value = change(objective(outputs, batch, costs), outputs)[number].value
        if value.requires_grad:
            value.backward()
        own = {f"own.{name}": grad for name, grad in taken(objective).items()}
        parts.append(taken(model) | own)
    return summed(parts)


def assert_equal(came: Mapping[str, Tensor], wanted: Mapping[str, Tensor], within: float) -> None:
    """Every tensor equals the wanted one, but for a share of its norm.

    What is zero but for rounding, such as the bias before a batch norm, need not agree in that.
    """
    rounding = 1e-13 * max(float(grad.norm()) for grad in wanted.values())
    for name in wanted.keys() | came.keys():
        zero = torch.zeros_like(wanted[name] if name in wanted else came[name])
        apart = float((came.get(name, zero) - wanted.get(name, zero)).norm())
        norm = float(wanted.get(name, zero).norm())
        assert apart <= within * norm + rounding, f"{name}: {apart:.2e} apart of {norm:.2e}"
