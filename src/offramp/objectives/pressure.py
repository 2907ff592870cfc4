"""How much cost weighs against being right: a number, a schedule, or found while training.

EENets (Demir and Akbas) fix lambda by hand. The cost at which training ends is no steady function
of it: their own sweep goes .76, .85, .86, .74, .26 for lambda .95, 1.05, 1.1, 1.15, 1.3. Once all
exits are right about nearly all training inputs the likelihoods hardly tell exits apart, so a fixed
lambda above that small difference sends everyone to one exit, and one below it to the last.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BudgetError, ValidationError
from ..mixture import hard_costs, suffix_costs
from ..together import total
from ..types import UNITS, Batch, Costs
from .base import Scheduled, at, scheduled

_GAIN = 5.0  # nats by which lambda rises over an error as large as the scale of costs
_TIME = 0.15  # progress after which the integral of an error has added as much as the error itself
_RAMP = 0.3  # progress until which the goal moves to the target
_WINDOW = 256.0  # rows of the running means
_MOST = 10.0  # nats; the bound of lambda, and of its integral


class CostPressure(nn.Module):
    """Lambda: what a unit of expected cost, relative to the original network's, weighs in nats.

    With a ``target`` it is found so that the trained model's mean cost lands there, each input
    leaving at the first gate above the threshold. It has two parts, both from errors as shares of
    a scale, the costs from the first exit's to that of the first exit dearer than the target:

    - a proportional one, of the expected cost of the last few batches. So lambda is the slope of a
      quadratic penalty on that cost: gradient descent sees a valley where a fixed lambda is a
      slope down to one end, and has a minimum at a cost in between even where likelihoods do not
      tell exits apart. The expected cost moves as soon as gates do, long before an input changes
      its exit, so that lambda turns before gates are all far on one side, where they no longer
      learn;
    - an integral one, slow, of the realised cost. It takes away the offset that the first part
      leaves, and the difference between expected and realised cost. It is bounded, so that it does
      not wind up while gates cannot follow.

    The goal moves from the expected cost at the start to the target in the first 30 % of training:
    exits learn before gates close, and lambda starts at 0. As the gates move from undecided to
    decided, realised replaces expected cost in the integral. A target above the cost that training
    would end at by itself is met too: lambda is negative then.

    The state is in buffers, so a training that is resumed goes on exactly. It changes once per
    value of ``Batch.progress`` and only where gradients are enabled: the batches of one optimizer
    step share their lambda, and an evaluation changes nothing. The costs are those of all
    processes together.

    Args:
        weight: lambda, where there is no target: a number, or a schedule, see
            `offramp.objectives.base.scheduled`.
        target: the mean cost to land at, relative to the original network's; the cost is that of
            inputs as they come in training. A loop of one's own must let ``Batch.progress`` rise.
        unit: of the costs.

    Raises:
        ValidationError: if the weight is negative or not finite, the target no positive number,
            both are given, or the unit is unknown.

    Example:
        >>> pressure = CostPressure(target=0.4)
        >>> loss = nll + pressure.factor(gates, costs, batch) * expected_cost
    """

    found: Tensor  # [], lambda times the scale of costs, in nats
    integral: Tensor  # [], its integral part
    means: Tensor  # [2], running means of expected and realised cost, over the scale
    sums: Tensor  # [3], of both costs and of rows, over the step that goes on
    seen: Tensor  # [], rows of the steps before it
    origin: Tensor  # [], expected cost at the start, over the scale
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
        for name in ("found", "integral", "seen", "origin"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("sums", torch.zeros(3))
        self.register_buffer("progress", torch.tensor(-1.0))

    def factor(
        self, gates: Tensor, costs: Costs, batch: Batch, *, threshold: float = 0.0
    ) -> Tensor:
        """Lambda of this step, [], detached.

        Args:
            gates: [N, K-1].
            costs: of K exits.
            batch: the batch that gave the gates.
            threshold: the logit above which a gate lets an input leave when the model is used.

        Raises:
            BudgetError: if the target is out of reach of the costs.
            ValidationError: if a schedule gives a weight that is negative or not finite.
        """
        if self.target is None:
            weight = at(self.weight, gates.shape[1] + 1, batch.progress)
            return gates.new_tensor(_checked_weight(weight))
        relative = costs.relative(self.unit)
        scale = _scale(relative.tolist(), self.target)
        if torch.is_grad_enabled():
            self._steer(batch.progress, self.target / scale)
            self._observe(gates, relative / scale, threshold)
        return (self.found / scale).to(gates)

    @torch.no_grad()
    def _steer(self, progress: float, target: float) -> None:
        """Where a step has ended, take in its costs and set lambda for the one that begins."""
        now = self.progress.new_tensor(progress)
        # where, not if: to look at a tensor would stall a GPU
        ended = (self.sums[2] > 0) & (now != self.progress)
        rows = self.sums[2].clamp_min(1)
        seen = self.seen + rows
        share = (rows / seen.clamp_max(_WINDOW)).clamp_max(1)
        means = self.means.lerp(self.sums[:2] / rows, share)
        # a phase begins where there was none, or where progress falls back
        origin = torch.where((self.seen == 0) | (now < self.progress), means[0], self.origin)
        ramp = min(1.0, progress / _RAMP)
        error = means - origin.lerp(origin.new_tensor(target), ramp)
        passed = (now - self.progress).clamp(0, _TIME / 10)  # trainings of few steps stay calm
        added = _GAIN / _TIME * passed * error[0].lerp(error[1], ramp)
        integral = (self.integral + added).clamp(-_MOST, _MOST)
        found = (_GAIN * error[0] + integral).clamp(-_MOST, _MOST)
        new = {"found": found, "integral": integral, "means": means, "seen": seen, "origin": origin}
        for name, value in new.items():
            buffer = cast(Tensor, getattr(self, name))
            buffer.copy_(torch.where(ended, value, buffer))
        self.sums.masked_fill_(ended, 0)
        self.progress.copy_(now)

    @torch.no_grad()
    def _observe(self, gates: Tensor, shares: Tensor, threshold: float) -> None:
        """Add a batch's costs to those of its step."""
        soft = suffix_costs(gates, shares)[:, 0]
        hard = hard_costs(gates, shares, threshold)
        sums = torch.stack([soft.sum(), hard.sum(), hard.new_tensor(float(len(hard)))])
        self.sums.add_(total(sums.to(self.sums)))


def _scale(costs: list[float], target: float) -> float:
    """The costs from the first exit's to that of the first exit dearer than the target.

    In the range where inputs have to be moved, lambda must count: between two cheap exits a nat of
    the full range's is next to nothing.
    """
    first, last = costs[0], costs[-1]
    if not first <= target <= last:
        raise BudgetError(
            f"a target_cost of {target:.4g} is out of reach: the first exit costs {first:.4g} of "
            f"the original network and the last {last:.4g}, so the reachable range is "
            f"[{first:.4g}, {last:.4g}]"
        )
    above = next((cost for cost in costs if cost > target), last)
    return (above - first) or 1.0  # exits of equal costs leave nothing to weigh


def _checked_weight(weight: Any) -> float:
    if not (_is_number(weight) and 0 <= weight < math.inf):
        raise ValidationError(
            f"wanted weight as a finite number of at least 0 or a schedule, got {weight!r}"
        )
    return float(weight)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
