"""How much cost weighs against being right: a number, a schedule, or found while training.

EENets (Demir and Akbas) fix lambda by hand. The cost at which training ends is no steady function
of it: their own sweep goes .76, .85, .86, .74, .26 for lambda .95, 1.05, 1.1, 1.15, 1.3. Once all
exits are right about nearly all training inputs the likelihoods hardly tell exits apart, so a fixed
lambda above that small difference sends everyone to one exit, and one below it to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BudgetError, ValidationError
from ..together import gathered, total
from ..types import UNITS, Batch, Costs, Term
from .base import CHECKED, Scheduled, at, counting, scheduled

Parts = Callable[[Tensor], tuple[list[Term], Tensor]]  # of gates: terms of the loss, mean cost []

_ANCHOR = 0.3  # nats per squared logit that gates are held by
_SLACK = 0.002  # of the range of costs, within which a target is met
_WINDOW = 1024.0  # rows of the running means
_MOST = 10.0  # nats that lambda times the range of costs may weigh, and logits of a pull
_FAR = 1e4  # logits that no gate is beyond


class CostPressure(nn.Module):
    """Lambda: what a unit of expected cost, relative to the original network's, weighs in nats.

    With a ``target`` it is found, so that the trained model's mean cost lands there, each input
    leaving at the first gate above the threshold. Three things make that steady:

    - The loss looks at gates from where the target is met. Of every batch the *offset* is taken at
      which its cost would be the target, were all thresholds moved by it, and it is subtracted
      from the gates. So every exit learns from the share of inputs that it is to answer in the
      end, from the first step on and wherever the gates are as yet; no lambda can send all inputs
      to one exit.
    - Lambda is the multiplier of that constraint: what the loss would gain from a unit of cost
      more, were the offset moved, from running means of both derivatives. With it, loss and cost
      together do not pull the gates up or down on the whole; what is left of their gradients tells
      inputs apart, which is what gates are to learn. Where an earlier exit is the better one at
      the margin, it is negative.
    - A term ``anchor``, a spring, pulls all gates alike until the offset is 0, so that the target
      is met at the threshold itself. The offset is measured in logits: it says how far gates are
      off also where all of them are on one side, where a cost says nothing but that they are.

    The state is in buffers, so a training that is resumed goes on exactly. Lambda changes once per
    value of ``Batch.progress`` and only where gradients are enabled: the batches of one optimizer
    step share it, and an evaluation changes nothing and looks at gates as they are. Costs and
    derivatives are those of all processes together.

    Args:
        weight: lambda, where there is no target: a number, or a schedule, see
            `offramp.objectives.base.scheduled`.
        target: the mean cost to land at, relative to the original network's; the cost is that of
            inputs as they come in training, of which a step needs 16 or more to say much. A loop
            of one's own must let ``Batch.progress`` rise.
        unit: of the costs.

    Raises:
        ValidationError: if the weight is negative or not finite, the target no positive number,
            both are given, or the unit is unknown.

    Example:
        >>> pressure = CostPressure(target=0.4)
        >>> terms = pressure.weigh(parts, gates, costs, batch, target)
    """

    found: Tensor  # [], lambda
    means: Tensor  # [2], running means of the derivatives of loss and cost by the offset
    sums: Tensor  # [3], of both derivatives and of what counts, over the step that goes on
    seen: Tensor  # [], what counted in the steps before it
    progress: Tensor  # [], of the step that goes on

    def __init__(
        self, weight: Scheduled[float] = 1.0, target: float | None = None, unit: str = "macs"
    ) -> None:
        super().__init__()
        for given in scheduled("weight", weight):
            _checked_weight(given)
        if target is not None and not (_is_number(target) and 0 < target < math.inf):
            raise ValidationError(
                f"wanted target_cost as a positive number, relative to the original network's "
                f"cost, got {target!r}"
            )
        if target is not None and weight != 1.0:
            raise ValidationError(
                f"wanted one of weight and target_cost, got weight={weight!r} and "
                f"target_cost={target!r}"
            )
        if unit not in UNITS:
            raise ValidationError(f"wanted unit as one of {list(UNITS)}, got {unit!r}")
        self.weight, self.target, self.unit = weight, target, unit
        for name in ("found", "seen"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("sums", torch.zeros(3))
        self.register_buffer("progress", torch.tensor(-1.0))

    def weigh(
        self,
        parts: Parts,
        gates: Tensor,
        costs: Costs,
        batch: Batch,
        target: Tensor,
        *,
        threshold: float = 0.0,
    ) -> list[Term]:
        """Terms of the loss, and the expected cost times lambda; with a target also ``anchor``.

        Args:
            parts: from gates, [N, K-1], to the terms of the loss and the mean cost, [].
            gates: [N, K-1].
            costs: of K exits.
            batch: the batch that gave the gates.
            target: [N, *S], negative where it does not count. Offsets are of inputs with a target
                that counts; a process's means weigh as many as there are.
            threshold: the logit above which a gate lets an input leave when the model is used.

        Raises:
            BudgetError: if the target is out of reach of the costs.
            ValidationError: if a schedule gives a weight that is negative or not finite.
        """
        if self.target is None:
            terms, cost = parts(gates)
            weight = self.given(gates.shape[1] + 1, batch.progress)
            return [*terms, Term("cost", weight * cost)]
        _check_reach(costs.relative(self.unit).tolist(), self.target)
        relative = costs.relative(self.unit).to(gates)
        valid, used = target >= 0, counting(target)
        told = gathered(torch.cat([gates - threshold, used[:, None].to(gates)], 1))
        offset = cost_offset(told[:, :-1], relative, self.target, told[:, -1])
        shift = offset * torch.is_grad_enabled()
        learns = torch.is_grad_enabled() and gates.requires_grad
        terms, cost = parts(gates - shift.requires_grad_(learns))
        if learns:
            self._steer(batch.progress, relative)
            loss = torch.stack([term.value for term in terms]).sum()
            self._observe(loss, cost, shift, valid.sum() * batch.share)
        factor = self.found.to(cost, copy=True)  # the next batch may change it before backward
        return [*terms, Term("cost", factor * cost), _anchor(gates, offset, used)]

    def check(self, costs: Costs) -> None:
        """What `Objective.check` of an objective with this asks of it.

        Raises:
            BudgetError: if the target is out of reach of the costs.
            ValidationError: if a schedule gives a weight that is negative or not finite.
        """
        if self.target is not None:
            _check_reach(costs.relative(self.unit).tolist(), self.target)
            return
        for progress in CHECKED:
            self.given(costs.num_exits, progress)

    def given(self, num_exits: int, progress: float) -> float:
        """Lambda where there is no target.

        Raises:
            ValidationError: if a schedule gives a weight that is negative or not finite.
        """
        return _checked_weight(at(self.weight, num_exits, progress))

    @torch.no_grad()
    def _steer(self, progress: float, costs: Tensor) -> None:
        """Where a step has ended, take in its derivatives and set lambda for the next one."""
        now = self.progress.new_tensor(progress)
        # where, not if: to look at a tensor would stall a GPU
        ended = (self.sums[2] > 0) & (now != self.progress)
        num = self.sums[2].clamp_min(1)
        seen = self.seen + num
        means = self.means.lerp(self.sums[:2] / num, (num / seen.clamp_max(_WINDOW)).clamp_max(1))
        most = _MOST / (costs[-1] - costs[0]).clamp_min(1e-6).to(means)
        # a later exit costs more, so to raise the offset does too: the second one is above 0
        found = (-means[0] / means[1].clamp_min(1e-6)).clamp(-most, most)
        for buffer, value in ((self.found, found), (self.means, means), (self.seen, seen)):
            buffer.copy_(torch.where(ended, value, buffer))
        self.sums.masked_fill_(ended, 0)
        self.progress.copy_(now)

    def _observe(self, loss: Tensor, cost: Tensor, shift: Tensor, count: Tensor) -> None:
        """Add a batch's derivatives to those of its step."""
        slopes = [torch.autograd.grad(value, shift, retain_graph=True)[0] for value in (loss, cost)]
        sums = torch.stack([*slopes, torch.ones_like(shift)]) * count
        self.sums.add_(total(sums.to(self.sums)))


@torch.no_grad()
def cost_offset(
    gates: Tensor, costs: Tensor, target: float, weights: Tensor | None = None
) -> Tensor:
    """How far thresholds must rise for the mean cost to be a target, [N, K-1], [K] -> [].

    An input leaves at the first gate above the threshold, so at or before exit k if the largest of
    its first k gates is; each step that it leaves earlier saves the difference of two costs. The
    offset is where the savings above it add up. Of few inputs none may give the target; then it is
    one that comes nearest. Where a range of offsets gives it, as near as makes no difference, it is
    the one closest to 0; and 0 where nothing counts.

    Args:
        gates: [N, K-1], less the threshold; a NaN stays on.
        costs: [K], non-decreasing.
        target: within these.
        weights: [N], how often each input counts; by default once.
    """
    if not gates.numel():
        return gates.new_zeros(())
    weights = gates.new_ones(len(gates)) if weights is None else weights
    saved = ((weights / weights.sum().clamp_min(1e-6))[:, None] * costs.diff()).flatten()
    highest = gates.nan_to_num(-_FAR).clamp(-_FAR, _FAR).cummax(1).values.flatten()  # [N (K-1)]
    highest = torch.where(saved > 0, highest, -_FAR)  # what does not count leaves last
    order = highest.argsort(descending=True)
    levels = highest[order]
    levels = torch.cat([levels[:1] + 1, levels, levels[-1:] - 1])  # [N (K-1) + 2]
    saved = F.pad(saved[order].cumsum(0), (1, 0))  # by the first 0, 1, ... of them
    off = (saved - (costs[-1] - target)).abs()
    # so many leave that as much is saved as wanted, and the threshold is midway to the next
    meets = (off <= torch.maximum(off.min(), _SLACK * (costs[-1] - costs[0]))).int()
    first, last = meets.argmax(), len(meets) - 1 - meets.flip(0).argmax()
    high, low = ((levels[place] + levels[place + 1]) / 2 for place in (first, last))
    offset = gates.new_zeros(()).clamp(min=low, max=high)
    return torch.where(saved[-1] > 0, offset, 0.0)  # else nothing counts, or there is no choice


def _anchor(gates: Tensor, offset: Tensor, used: Tensor) -> Term:
    """A spring: half the squared offset, and the pull of the offset on gates that are used, [N]."""
    offset = offset.clamp(-_MOST, _MOST)
    pull = offset * ((gates - gates.detach()).sum(1) * used).sum() / used.sum().clamp_min(1)
    return Term("anchor", _ANCHOR * (offset.square() / 2 + pull))


def _check_reach(costs: list[float], target: float) -> None:
    """Check that exits of these costs can spend the target on average.

    Raises:
        BudgetError: if they cannot.
    """
    first, last = costs[0], costs[-1]
    if not first <= target <= last:
        raise BudgetError(
            f"a target_cost of {target:.4g} is out of reach: the first exit costs {first:.4g} of "
            f"the original network and the last {last:.4g}, so the reachable range is "
            f"[{first:.4g}, {last:.4g}]"
        )


def _checked_weight(weight: Any) -> float:
    if not (_is_number(weight) and 0 <= weight < math.inf):
        raise ValidationError(
            f"wanted weight as a finite number of at least 0 or a schedule, got {weight!r}"
        )
    return float(weight)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
