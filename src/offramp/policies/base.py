"""What every policy does: score an exit, compare with a threshold, have the thresholds fitted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from ..errors import BudgetError, UnknownNameError, UnsupportedError, ValidationError
from ..functional import (
    Reduce,
    cascade,
    check_budget,
    finite,
    first_exit,
    rates_for_budget,
    reduce_positions,
)
from ..registry import policies
from ..types import Budget, Carry, Costs, ExitOutput, Records, Shard

register = policies.register

_CANDIDATES = 201  # budgets tried for max_drop


class Decision(NamedTuple):
    """What a policy makes of one exit's output."""

    score: Tensor  # [N], float32, finite: NaN is the lowest there is
    leave: Tensor  # [N], bool
    logits: Tensor  # [N, C, *S], the answer of those who leave
    carry: Carry


class ExitPolicy(nn.Module, ABC):
    """When to leave: a score per exit, larger leaves sooner, and a fitted threshold per exit.

    A policy never sees the model: it is fitted on `Records` and decides from an `ExitOutput`.
    Until it is fitted, everyone stays to the last exit.

    Args:
        num_exits: number of exits, K.
        temperature: fit one temperature per exit (Guo et al. 2017) before the thresholds; scores
            and answers are then made from ``logits / temperature``.
        reduce: how scores per position become one per input, for maps; see `reduce_positions`.

    Raises:
        ValidationError: if ``num_exits`` is below 1 or ``reduce`` is unknown.
    """

    thresholds: Tensor  # [K] float32; everyone leaves at the last exit, unconditionally
    temperatures: Tensor  # [K] float32

    def __init__(
        self, num_exits: int, *, temperature: bool = False, reduce: Reduce = "mean"
    ) -> None:
        super().__init__()
        if num_exits < 1:
            raise ValidationError(f"wanted at least one exit, got {num_exits}")
        reduce_positions(torch.zeros(1, 1, 1), reduce)  # an unknown name fails here
        self.num_exits, self.fit_temperature = num_exits, temperature
        self.reduce: Reduce = reduce
        self.points: dict[str, dict[str, Tensor]] = {}
        thresholds = torch.full((num_exits,), float("inf"))
        thresholds[-1] = float("-inf")
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("temperatures", torch.ones(num_exits))

    @abstractmethod
    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Readiness to leave at exit ``k``, and what to hand on to exit ``k + 1``.

        Returns [N], or [N, *S] for one score per position, which is then reduced. ``carry`` is
        empty at exit 0; its tensors are batch-first and lose the rows that leave.
        """

    def answer(self, k: int, out: ExitOutput, carry: Carry) -> Tensor:
        """Logits of those who leave at ``k``, [N, C, *S]; ``carry`` is what `score` returned."""
        return out.logits

    def forward(self, k: int, out: ExitOutput, carry: Carry) -> Decision:
        """Score an exit's output, decide who leaves, and answer for them."""
        out = self._tempered(k, out)
        raw, carry = self.score(k, out, carry)
        # as `cascade` sees them: where the budget makes everyone leave, so does a score of NaN
        score = finite(reduce_positions(raw, self.reduce))
        last = k == self.num_exits - 1
        threshold = _beside(score, self.thresholds[k])
        leave = torch.ones_like(score, dtype=torch.bool) if last else score >= threshold
        return Decision(score, leave, self.answer(k, out, carry), carry)

    def finish(self, out: ExitOutput, carry: Carry) -> Tensor:
        """Answer at the last exit, [N, C, *S]; it is scored, which decides nothing, only if needed.

        It is needed where `answer` is a policy's own, since that may read what `score` hands on.
        """
        last = self.num_exits - 1
        if type(self).answer is ExitPolicy.answer:
            return self._tempered(last, out).logits
        return self(last, out, carry).logits

    # ------------------------------------------------------------------- records
    @torch.no_grad()
    def decisions(self, shard: Shard) -> list[Decision]:
        """What it makes of every exit of some records, nobody having left; K decisions."""
        carry: Carry = {}
        made: list[Decision] = []
        for k, out in enumerate(shard.outputs):
            made.append(self(k, out, carry))
            carry = made[-1].carry
        return made

    def scores(self, records: Records) -> Tensor:
        """Scores of every exit over records, [N, K] float32."""
        self._check(records)
        return torch.cat([torch.stack([d.score for d in self.decisions(s)], 1) for s in records])

    def answers(self, shard: Shard) -> list[Tensor]:
        """Answers of every exit for some records, K tensors [n, C, *S]."""
        return [decision.logits for decision in self.decisions(shard)]

    def exits(self, records: Records) -> Tensor:
        """The exit each row leaves by, [N], as a run over the same inputs would have it."""
        return first_exit(self.scores(records), self.thresholds.cpu())

    # ----------------------------------------------------------------------- fit
    def fit(
        self,
        records: Records,
        costs: Costs,
        budget: float | Budget | None = None,
        *,
        max_drop: float | None = None,
    ) -> Self:
        """Set the thresholds on records, to a budget or to a drop of accuracy.

        Args:
            records: the calibration part; never the test part.
            costs: cost of each exit.
            budget: bound of the mean cost; a bare number is relative to the original network.
            max_drop: instead of a budget, the accuracy that may be lost against the last exit, on
                these records (0.01 is one point); the cheapest thresholds that keep it are taken.

        Raises:
            BudgetError: if not exactly one of ``budget`` and ``max_drop`` is given, or the budget
                is out of reach; the message states the reachable range.
            ValidationError: if records or costs have another number of exits.
        """
        if (budget is None) == (max_drop is None):
            raise BudgetError(
                f"wanted either budget or max_drop, got budget={budget!r}, max_drop={max_drop!r}"
            )
        self._check(records)
        if costs.num_exits != self.num_exits:
            raise ValidationError(f"wanted costs of {self.num_exits} exits, got {costs.num_exits}")
        relative, bound = costs.relative(), 0.0
        if budget is not None:
            relative, bound = Budget.of(budget).resolve(costs)
            check_budget(relative, bound)  # before anything is learned or changed
        if self.fit_temperature:
            self.temperatures.copy_(temperatures(records))
        if budget is not None:
            prior = self.learn(records, relative, bound)
            self.thresholds.copy_(self.place(self.scores(records), relative, bound, prior))
        elif max_drop is not None:
            self._fit_drop(records, relative, max_drop)
        return self

    def learn(self, records: Records, costs: Tensor, budget: float) -> Tensor | None:
        """Learn what scores need, for relative ``costs`` [K]; exit rates [K] to tilt, or None."""
        return None

    def place(
        self, scores: Tensor, costs: Tensor, budget: float, prior: Tensor | None = None
    ) -> Tensor:
        """Thresholds that keep the mean cost of scores within a budget, [N, K], [K] -> [K]."""
        return cascade(scores, rates_for_budget(costs, budget, prior))

    def fit_points(
        self,
        records: Records,
        costs: Costs,
        budgets: Sequence[float | Budget] | Mapping[str, float | Budget],
    ) -> Self:
        """Fit several operating points at once; `use` switches between them, the first is set.

        Args:
            records: the calibration part, as for `fit`.
            costs: cost of each exit.
            budgets: named budgets, or a sequence, whose points are named "0", "1", ... in turn.
        """
        named = (
            budgets if isinstance(budgets, Mapping) else {str(i): b for i, b in enumerate(budgets)}
        )
        if not named:
            raise BudgetError("wanted at least one budget, got none")
        fresh = copy.deepcopy(self)
        self.points = {
            name: copy.deepcopy(fresh).fit(records, costs, budget)._snapshot()
            for name, budget in named.items()
        }
        return self.use(next(iter(self.points)))

    def use(self, point: str) -> Self:
        """Switch to an operating point that `fit_points` fitted.

        Raises:
            UnknownNameError: if there is no such point.
        """
        if point not in self.points:
            raise UnknownNameError(
                f"no operating point is named {point!r}; valid: {', '.join(self.points) or 'none'}"
            )
        self.load_state_dict(self.points[point])
        return self

    # ------------------------------------------------------------------- helpers
    def _fit_drop(self, records: Records, costs: Tensor, max_drop: float) -> None:
        if not 0 <= max_drop <= 1:
            raise BudgetError(f"wanted a drop of accuracy in [0, 1], got {max_drop}")
        right = torch.cat([correctness(self.answers(shard), shard.targets) for shard in records])
        wanted = float(right[:, -1].mean()) - max_drop - 1e-9
        # what learns nothing has the same scores at every budget
        learns = type(self).learn is not ExitPolicy.learn
        scores, best, cheapest = self.scores(records), self._snapshot(), float("inf")
        ends = float(costs[0]), float(costs[-1])
        for budget in torch.linspace(*ends, _CANDIDATES, dtype=torch.float64).tolist():
            prior = self.learn(records, costs, budget)
            scores = self.scores(records) if learns else scores
            self.thresholds.copy_(self.place(scores, costs, budget, prior))
            exits = first_exit(scores, self.thresholds.cpu())
            accuracy, cost = right.gather(1, exits[:, None]).mean(), float(costs[exits].mean())
            if float(accuracy) >= wanted and cost < cheapest:
                best, cheapest = self._snapshot(), cost
        self.load_state_dict(best)

    def _snapshot(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.state_dict().items()}

    def _tempered(self, k: int, out: ExitOutput) -> ExitOutput:
        if not self.fit_temperature:
            return out
        return out._replace(logits=out.logits.float() / _beside(out.logits, self.temperatures[k]))

    def _check(self, records: Records) -> None:
        if records.num_exits != self.num_exits:
            raise ValidationError(
                f"wanted records of {self.num_exits} exits, got {records.num_exits}"
            )


class Control(ExitPolicy):
    """A policy that scores records and is never deployed: a yardstick for the others."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        """Never: a control has no score for a single exit."""
        raise UnsupportedError(
            f"{type(self).__name__} is an offline control: it scores records and cannot run"
        )

    def answers(self, shard: Shard) -> list[Tensor]:
        """Answers of every exit for some records, K tensors [n, C, *S]."""
        return [self._tempered(k, out).logits for k, out in enumerate(shard.outputs)]

    @abstractmethod
    def scores(self, records: Records) -> Tensor:
        """Scores of every exit over records, [N, K] float32."""


def _beside(tensor: Tensor, value: Tensor) -> Tensor:
    """A number [] that can meet a tensor on any device: records stay on the CPU, policies move."""
    return value if value.device.type == "cpu" else value.to(tensor.device)


def temperatures(records: Records, steps: int = 40) -> Tensor:
    """The temperature of each exit that minimises its negative log-likelihood, [K] float32.

    The likelihood is convex in the inverse temperature, so its slope is bisected. Rows whose logits
    are NaN do not count.
    """
    exits = records.num_exits
    low, high = torch.full((exits,), -6.0).double(), torch.full((exits,), 6.0).double()
    for _ in range(steps):
        middle = (low + high) / 2
        slope = torch.zeros(exits, dtype=torch.float64)
        for shard in records:
            for k, out in enumerate(shard.outputs):
                slope[k] += _slope(out.logits, shard.targets, float(middle[k].exp()))
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (-(low + high) / 2).exp().float()


def _slope(logits: Tensor, targets: Tensor, inverse: float) -> Tensor:
    """Derivative of the summed negative log-likelihood by the inverse temperature, []."""
    logits = logits.double().clamp(-1e30, 1e30)  # 0 * -inf is not 0, and -inf rules out a class
    targets = _at_head(targets, logits)
    valid = targets >= 0
    mean = ((inverse * logits).softmax(1) * logits).sum(1)
    own = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    return ((mean - own) * valid).nansum()


def correctness(answers: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Share of an input's positions that each exit gets right, [n, K]; targets < 0 do not count."""
    columns = []
    for logits in answers:
        wanted = _at_head(targets, logits).reshape(len(targets), -1)
        valid = (wanted >= 0).double()
        hit = (logits.argmax(1).reshape(len(targets), -1) == wanted) * valid
        columns.append(hit.sum(1) / valid.sum(1).clamp_min(1))
    return torch.stack(columns, 1)


def _at_head(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets at the resolution of the logits, by nearest neighbour; labels stay as they are."""
    if targets.shape[1:] == logits.shape[2:]:
        return targets
    size = list(logits.shape[2:])
    return nn.functional.interpolate(targets.unsqueeze(1).float(), size).squeeze(1).long()
