"""What every policy does: score an exit, compare with a threshold, have the thresholds fitted."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ..errors import BudgetError, UnsupportedError, ValidationError
from ..functional import (
    Reduce,
    cascade,
    check_budget,
    count_hits,
    finite,
    first_exit,
    rates_for_budget,
    reduce_positions,
    temperatures,
)
from ..registry import policies
from ..types import Budget, Carry, Costs, ExitOutput, Records, Shard
from .points import OperatingPoints

register = policies.register

_CANDIDATES = 201  # budgets tried for max_drop


class Decision(NamedTuple):
    """What a policy makes of one exit's output."""

    score: Tensor  # [N], float32, finite: NaN is the lowest there is
    leave: Tensor  # [N], bool
    logits: Tensor  # [N, C, *S], the answer of those who leave
    carry: Carry


class ExitPolicy(OperatingPoints, ABC):
    """When to leave: a score per exit, larger leaves sooner, and a fitted threshold per exit.

    A policy never sees the model: it is fitted on `Records` and decides from an `ExitOutput`.
    Until it is fitted, everyone stays to the last exit. Its state dict holds plain tensors, those
    of the operating points included.

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

    def rule(self) -> Self | None:
        """A copy that decides by the thresholds its method was published with, or None.

        It is not fitted; None where a method has no such thresholds, as most have not.
        """
        return None

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

    def exits_by_point(self, records: Records) -> dict[str, Tensor]:
        """The exit each row leaves by at every operating point, [N] each, by the points' names."""
        settings = self.settings()
        scores = score_each(settings.values(), records)
        return {
            point: first_exit(found, policy.thresholds.cpu())
            for (point, policy), found in zip(settings.items(), scores, strict=True)
        }

    def learned(self) -> dict[str, Tensor]:
        """What its scores and answers depend on: its state, less thresholds and points."""
        return {key: value for key, value in self._snapshot().items() if key != "thresholds"}

    @property
    def answers_as_exits(self) -> bool:
        """Whether its answers are the exits' own logits, whatever it has learned."""
        return type(self).answer is ExitPolicy.answer and not self.fit_temperature

    # ----------------------------------------------------------------------- fit
    def fit(
        self,
        records: Records,
        costs: Costs,
        budget: float | Budget | None = None,
        *,
        max_drop: float | None = None,
        unit: str = "macs",
    ) -> Self:
        """Set the thresholds on records, to a budget or to a drop of accuracy.

        Operating points, if there are any, stay as they are.

        Args:
            records: the calibration part; never the test part.
            costs: cost of each exit.
            budget: bound of the mean cost; a bare number is relative to the original network.
            max_drop: instead of a budget, the accuracy that may be lost against the last exit, on
                these records (0.01 is one point), measured as `evaluate` does. Of the thresholds
                for 201 budgets, evenly spaced from the first exit's cost to the last's, the
                cheapest that keep it are taken.
            unit: unit of the cost that ``max_drop`` makes small, and of a budget that is a bare
                number; a `Budget` has its own.

        Raises:
            BudgetError: if not exactly one of ``budget`` and ``max_drop`` is given, the drop is not
                in [0, 1], or the budget is out of reach; the message states the reachable range.
            ValidationError: if records or costs have another number of exits, the unit is not
                known, or there is a drop to keep and no target counts.
        """
        if (budget is None) == (max_drop is None):
            raise BudgetError(
                f"wanted either budget or max_drop, got budget={budget!r}, max_drop={max_drop!r}"
            )
        # all that can be wrong is found before anything is learned or changed
        relative, bound = self._asked(records, costs, budget, unit)
        if max_drop is not None:
            _check_drop(records, max_drop)
        if self.fit_temperature:
            self.temperatures.copy_(temperatures(records))
        if max_drop is not None:
            self._fit_drop(records, relative, max_drop)
        else:
            self._fit_budget(records, relative, bound)
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

        The state dict holds the points too.

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
        asked = {n: self._asked(records, costs, Budget.of(b), "macs") for n, b in named.items()}
        fresh, points, scores = copy.deepcopy(self), {}, None
        if self.fit_temperature:
            fresh.temperatures.copy_(temperatures(records))
        for name, (relative, bound) in asked.items():
            policy = copy.deepcopy(fresh)
            scores = policy._fit_budget(records, relative, bound, scores)
            points[name] = policy._snapshot()
        self.points = points
        return self.use(next(iter(points)))

    def options(self) -> dict[str, Any]:
        """The constructor's options by name, but for ``num_exits``: enough to make it again.

        A policy with options of its own keeps each of them as an attribute of the same name.

        Raises:
            UnsupportedError: if it does not keep one.
        """
        names = [n for n in inspect.signature(type(self)).parameters if n != "num_exits"]
        lost = [n for n in names if n != "temperature" and not hasattr(self, n)]
        if lost:
            raise UnsupportedError(
                f"wanted the options {lost} of {type(self).__name__} as attributes of it, got none"
            )
        return {n: self.fit_temperature if n == "temperature" else getattr(self, n) for n in names}

    # ------------------------------------------------------------------- helpers
    def _asked(
        self, records: Records, costs: Costs, budget: float | Budget | None, unit: str
    ) -> tuple[Tensor, float]:
        """Relative costs [K] and a bound within reach, of what fits the policy."""
        self._check(records)
        if costs.num_exits != self.num_exits:
            raise ValidationError(f"wanted costs of {self.num_exits} exits, got {costs.num_exits}")
        return _resolve(budget, costs, unit)

    def _fit_budget(
        self, records: Records, costs: Tensor, bound: float, scores: Tensor | None = None
    ) -> Tensor:
        """Set the thresholds; returns the scores, which a policy that learns nothing can reuse."""
        prior = self.learn(records, costs, bound)
        if scores is None or self._learns:
            scores = self.scores(records)
        self.thresholds.copy_(self.place(scores, costs, bound, prior))
        return scores

    @property
    def _learns(self) -> bool:
        """Whether scores may differ from budget to budget."""
        return type(self).learn is not ExitPolicy.learn

    def _fit_drop(self, records: Records, costs: Tensor, max_drop: float) -> None:
        parts = [count_hits(self.answers(shard), shard.targets) for shard in records]
        hits, counts = (torch.cat(column) for column in zip(*parts, strict=True))
        hits = hits / counts.sum()  # [N, K], so that a sum over rows is an accuracy
        wanted = float(hits[:, -1].sum()) - max_drop - 1e-9
        scores, best, cheapest = self.scores(records), self._snapshot(), float("inf")
        ends = float(costs[0]), float(costs[-1])
        for budget in torch.linspace(*ends, _CANDIDATES, dtype=torch.float64).tolist():
            scores = self._fit_budget(records, costs, budget, scores)
            exits = first_exit(scores, self.thresholds.cpu())
            accuracy, cost = hits.gather(1, exits[:, None]).sum(), float(costs[exits].mean())
            if float(accuracy) >= wanted and cost < cheapest:
                best, cheapest = self._snapshot(), cost
        self._restore(best)

    def _tempered(self, k: int, out: ExitOutput) -> ExitOutput:
        if not self.fit_temperature:
            return out
        return out._replace(logits=out.logits.float() / _beside(out.logits, self.temperatures[k]))

    def check_outputs(self, outputs: Sequence[ExitOutput]) -> None:
        """Raise what says why it cannot decide from exits such as these K, if it cannot.

        Raises:
            ValidationError: if they are not as many as its exits, or do not say what it reads.
        """
        self._check_exits(len(outputs))

    def _check(self, records: Records) -> None:
        self._check_exits(records.num_exits)

    def _check_exits(self, came: int) -> None:
        if came != self.num_exits:
            raise ValidationError(f"wanted records of {self.num_exits} exits, got {came}")


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


def score_each(policies: Iterable[ExitPolicy], records: Records) -> Iterator[Tensor]:
    """Scores over records, [N, K] each, of settings of one policy.

    Neighbours that differ in thresholds alone have the same scores, which are made once.
    """
    scores, known = torch.empty(0), {}
    for policy in policies:
        state = policy.learned()
        if not known or any(not torch.equal(known[key], state[key]) for key in state):
            scores, known = policy.scores(records), state
        yield scores


def _beside(tensor: Tensor, value: Tensor) -> Tensor:
    """A number [] that can meet a tensor on any device: records stay on the CPU, policies move."""
    return value if value.device.type == "cpu" else value.to(tensor.device)


def _resolve(budget: float | Budget | None, costs: Costs, unit: str) -> tuple[Tensor, float]:
    """Relative costs [K] and a bound within reach on their scale; 0 where there is no budget."""
    if budget is None:
        return costs.relative(unit), 0.0
    made = Budget.of(budget)
    made = made if made is budget else replace(made, unit=unit)
    relative, bound = made.resolve(costs)
    full, named = (1.0, "") if made.relative else (costs.full[made.unit], made.unit)
    check_budget(relative, bound, full, named)
    return relative, bound


def _check_drop(records: Records, max_drop: float) -> None:
    if not 0 <= max_drop <= 1:
        raise BudgetError(f"wanted a drop of accuracy in [0, 1], got {max_drop}")
    if not any(bool((shard.targets >= 0).any()) for shard in records):
        raise ValidationError("wanted at least one target that counts, got none")
