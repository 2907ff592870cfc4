"""Learned gates: leave at the first exit whose gate opens (Demir and Akbas 2024, EENets).

LEENet (afxwong/EarlyExitNet) decides alike. Published is one fixed rule, h_k > 0.5 at every exit,
or 1/E with E early exits for the batch-dependent loss; it is what an unfitted policy does. Beyond
the papers, thresholds can be fitted to a budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ..errors import ValidationError
from ..functional import Reduce, expected_cost, finite, log_odds, reduce_positions, squash
from ..mixture import exit_log_probs, stack_gates
from ..types import Carry, ExitOutput, Records
from .base import ExitPolicy, register

_TIE = 2**-12  # a tie-break's part of a gate: gates of bf16 and of float16 lie further apart
_SMALL = 1e-3  # gates nearer to 0 than this count as ties of each other
_MOST = 1e30  # gates beyond it are as sure as it
_ROWS = 4096  # inputs that exit rates are taken of
_FAR, _HALVINGS = 1e6, 48  # how far gates are moved, at most, and how finely


@register("gate")
class Gate(ExitPolicy):
    """Leave once the exit's learned gate opens; the score is the gate's logit.

    It needs no fit: it begins with its published rule, the gate's probability above ``threshold``
    at every exit. Fitted to a budget it orders inputs by their gates, exit by exit, so gates that
    are all too open or all too shut do no harm.

    Gates that are equal, or differ by less than one part in 4096, are ordered by the log-odds of
    the top class, on their own side of the rule's threshold. An exit whose logits are NaN is not
    ready, whatever its gate. The gate of a map is one number per input, too.

    Args:
        num_exits: number of exits, K; the early ones have a gate, the last one takes everyone.
        threshold: of the rule, a probability.
        temperature, reduce: as for every policy; both act on logits, so on answers and ties alone.

    Raises:
        ValidationError: if the threshold is not within (0, 1).

    Example:
        >>> policy = Gate(num_exits=4)  # leave at the first gate above 0.5
        >>> policy.fit(records, costs, budget=0.6).rule().thresholds
        tensor([0., 0., 0., -inf])
    """

    def __init__(
        self,
        num_exits: int,
        threshold: float = 0.5,
        *,
        temperature: bool = False,
        reduce: Reduce = "mean",
    ) -> None:
        super().__init__(num_exits, temperature=temperature, reduce=reduce)
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not number or not 0 < threshold < 1:
            raise ValidationError(
                f"wanted a threshold as a probability in (0, 1), got {threshold!r}"
            )
        self.threshold = float(threshold)
        self._cut = math.log(self.threshold) - math.log1p(-self.threshold)
        self.thresholds[:-1] = self._cut

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """The gate's logit, moved by its tie-break, [N]; zero at the last exit.

        Raises:
            ValidationError: if an early exit has no gate.
        """
        if k == self.num_exits - 1:
            return torch.zeros(len(out.logits), device=out.logits.device), carry
        if out.gate is None:
            raise ValidationError(
                f"wanted a gate at exit {k}, got none; gate=True gives the early exits one, as in "
                "attach(..., gate=True)"
            )
        gate = out.gate.float().clamp(-_MOST, _MOST)
        tie = squash(reduce_positions(log_odds(out.logits), self.reduce))
        # at or below the rule's threshold it moves down, else up: the rule stays exact
        side = (gate <= self._cut).float()
        return gate + _TIE * gate.abs().clamp_min(_SMALL) * (tie - side), carry

    def rule(self) -> Self:
        """A copy that leaves at the first gate above ``threshold``, as published; not fitted."""
        made = type(self)(self.num_exits, **self.options())
        return made.to(self.thresholds.device)

    def place(
        self, scores: Tensor, costs: Tensor, budget: float, prior: Tensor | None = None
    ) -> Tensor:
        """Thresholds for the exit rates that the gates themselves have at the budget, [K]."""
        return super().place(scores, costs, budget, gate_rates(scores[:, :-1], costs, budget))

    def check_outputs(self, outputs: Sequence[ExitOutput]) -> None:
        """Raise what says which early exits have no gate, if any.

        Raises:
            ValidationError: if some have none, or the number of exits is another.
        """
        super().check_outputs(outputs)
        stack_gates(outputs)

    def _check(self, records: Records) -> None:
        super()._check(records)
        self.check_outputs(records.shards[0].outputs)


def gate_rates(gates: Tensor, costs: Tensor, budget: float) -> Tensor:
    """Exit rates of gates that are all moved by one number, so that their mean cost is the budget.

    They are means of probabilities, not shares of open gates. Where gates are too open or too shut
    altogether, as after a training whose weight of the cost was off, the rule sends everyone to one
    exit, and its rates say nothing of the others; moved to the budget, gates say all they know.

    Args:
        gates: [N, K-1], logits.
        costs: [K].
        budget: bound of the mean cost, on the scale of ``costs``.

    Returns:
        [K] float64; it sums to 1.
    """
    # rates to three digits are enough to begin with: the cascade keeps the budget, not these
    gates = finite(gates[:: -(-len(gates) // _ROWS)])
    high = min(float(gates.abs().max()), _FAR) + 40.0 if gates.numel() else 0.0
    low = -high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        dear = float(expected_cost(_rates(gates + middle), costs)) > budget
        low, high = (middle, high) if dear else (low, middle)
    return _rates(gates + high)


def _rates(gates: Tensor) -> Tensor:
    return exit_log_probs(gates).exp().mean(0, dtype=torch.float64)
