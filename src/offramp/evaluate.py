"""Evaluation on records: each exit by itself, a policy's answers, and curves over budgets."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import OptionError, ValidationError
from .files import write_text
from .policies.base import ExitPolicy
from .records import StoredShards
from .registry import policies
from .types import Budget, Costs, Records


@dataclass(frozen=True)
class ExitResult:
    """One exit by itself: every input answered there."""

    exit: int
    top1: float
    top5: float  # the right class is among the min(5, C) top ones
    nll: float  # nats
    ece: float  # 15 bins
    cost: float  # relative to the original network
    rate: float | None = None  # share of inputs that a policy lets leave here; None without one

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers, fit for JSON; a figure that is not finite is None."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class Result:
    """What a policy makes of records.

    Shares are of units: inputs for labels, positions for maps; exit rates and costs are of inputs.
    """

    policy: str
    unit: str  # of the costs
    num: int  # inputs
    accuracy: float
    stderr: float  # of the accuracy, with inputs as independent draws
    cost: float  # realised mean cost, relative to the original network
    full_accuracy: float  # the last exit's
    nll: float  # nats, of the answers
    ece: float  # of the answers
    overthinking: float  # share right at some earlier exit and wrong at the last one
    exit_counts: list[int]  # [K], inputs
    exits: list[ExitResult]  # [K]
    budget: float | None = None  # asked for, on the scale of `cost`; None where it is not known

    @property
    def exit_rates(self) -> list[float]:
        """Share of inputs that leave by each exit, [K]; sums to 1."""
        return [count / self.num for count in self.exit_counts]

    @property
    def drop(self) -> float:
        """Accuracy lost against the last exit."""
        return self.full_accuracy - self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers and lists, fit for JSON; a figure that is not finite is None."""
        return _plain({**asdict(self), "exit_rates": self.exit_rates, "drop": self.drop})

    def save_json(self, path: str | Path) -> None:
        """Write the result to a file, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def evaluate(
    policy: ExitPolicy,
    records: Records,
    costs: Costs,
    *,
    unit: str = "macs",
    ignore_index: int = -100,
) -> Result:
    """Replay a policy on records: what it answers, and at what cost.

    Args:
        policy: a fitted policy.
        records: the test part; never what the policy was fitted on.
        costs: cost of each exit.
        unit: unit of the realised cost, which is relative to the original network.
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: if policy, records and costs differ in their number of exits, the unit is
            not known, or no target counts.

    Example:
        >>> policy = create_policy("max_prob", num_exits=4).fit(calibration, costs, budget=0.6)
        >>> evaluate(policy, test, costs).accuracy
        0.92
    """
    return _evaluate(policy, records, costs, _table(records, costs, unit, ignore_index))


def evaluate_points(
    policy: ExitPolicy,
    records: Records,
    costs: Costs,
    *,
    unit: str = "macs",
    ignore_index: int = -100,
) -> dict[str, Result]:
    """Replay a policy at each of its operating points, by their names; the exits are read once.

    Args:
        policy: one whose points `ExitPolicy.fit_points` fitted; a copy of it is switched.
        records: the test part, as for `evaluate`.
        costs: cost of each exit.
        unit: unit of the realised cost, which is relative to the original network.
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: as `evaluate` does.
    """
    table, policy = _table(records, costs, unit, ignore_index), copy.deepcopy(policy)
    return {name: _evaluate(policy.use(name), records, costs, table) for name in policy.points}


def evaluate_exits(
    records: Records, costs: Costs, *, unit: str = "macs", ignore_index: int = -100
) -> list[ExitResult]:
    """Evaluate every exit by itself: the anytime view, which needs no policy.

    Args:
        records: the test part.
        costs: cost of each exit.
        unit: unit of the costs, which are relative to the original network.
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: if records and costs differ in their number of exits, the unit is not
            known, or no target counts.
    """
    return _table(records, costs, unit, ignore_index).exits


def curve(
    policy: str | ExitPolicy,
    calibration: Records,
    test: Records,
    costs: Costs,
    budgets: Sequence[float | Budget],
    *,
    unit: str = "macs",
    ignore_index: int = -100,
    **options: Any,
) -> list[Result]:
    """Fit a policy to one budget after another and evaluate each; one result per budget, in order.

    Args:
        policy: a registered name, or a policy that is copied for every budget and left as it is.
        calibration: what thresholds are fitted on.
        test: what the results are of.
        costs: cost of each exit.
        budgets: bounds of the mean cost; a bare number is relative, in ``unit``.
        unit: unit of budgets and costs.
        ignore_index: a target that does not count, beside the negative ones.
        options: what the named policy takes.

    Raises:
        ValidationError: if calibration and test are the same records, there is no budget, or a
            budget has another unit.
        BudgetError: if a budget is out of reach.
        OptionError: if the policy does not take an option.

    Example:
        >>> points = curve("max_prob", calibration, test, costs, [0.5, 0.7, 0.9])
        >>> [point.budget for point in points]
        [0.5, 0.7, 0.9]
    """
    if _same(calibration, test):
        raise ValidationError(
            "wanted calibration and test to be disjoint, got the same records for both: "
            "thresholds fitted on the test part make its figures worthless"
        )
    asked = [_budget(budget, unit) for budget in budgets]
    if not asked:
        raise ValidationError("wanted at least one budget, got none")
    table = _table(test, costs, unit, ignore_index)
    start = _create(policy, test.num_exits, options)
    results = []
    for budget in asked:
        fitted = copy.deepcopy(start).fit(calibration, costs, budget)
        result = _evaluate(fitted, test, costs, table)
        results.append(replace(result, budget=budget.resolve(costs)[1]))
    return results


def area_under_curve(results: Sequence[Result]) -> float:
    """Area under accuracy over realised cost, divided by the range of costs: a mean accuracy.

    Points are joined by straight lines in the order of their costs; dominated ones stay.

    Raises:
        ValidationError: if there are fewer than two distinct costs, or more than one unit.
    """
    units = {result.unit for result in results}
    if len(units) > 1:
        raise ValidationError(f"wanted results in one unit, got {', '.join(sorted(units))}")
    points = sorted((result.cost, result.accuracy) for result in results)
    if not points or points[0][0] == points[-1][0]:
        raise ValidationError(
            f"wanted results of at least two distinct costs, got {[cost for cost, _ in points]}"
        )
    costs, accuracies = torch.tensor(points, dtype=torch.float64).T
    return float(torch.trapezoid(accuracies, costs) / (costs[-1] - costs[0]))


def save_json(results: Sequence[Result], path: str | Path) -> None:
    """Write results to a JSON file, a list of objects; whole or not at all."""
    write_text(path, json.dumps([result.to_dict() for result in results], indent=1) + "\n")


def save_csv(results: Sequence[Result], path: str | Path) -> None:
    """Write results to a CSV file, one row each; whole or not at all.

    Figures of exit k have columns of their own: ``count_k``, ``rate_k``, ``top1_k``, ``top5_k``,
    ``nll_k``, ``ece_k``, ``cost_k``. What is not known is empty.
    """
    rows = [_flat(result) for result in results]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


# ------------------------------------------------------------------------ helpers
@dataclass(frozen=True)
class _Table:
    """What does not depend on the policy."""

    exits: list[ExitResult]
    overthinking: float
    costs: Tensor  # [K], relative
    unit: str
    ignore_index: int


def _table(records: Records, costs: Costs, unit: str, ignore_index: int) -> _Table:
    from .metrics import measure_exits  # torchmetrics is slow to import

    if costs.num_exits != records.num_exits:
        raise ValidationError(
            f"wanted costs of {records.num_exits} exits, as the records; got {costs.num_exits}"
        )
    relative = costs.relative(unit)
    figures, overthinking = measure_exits(records, ignore_index)
    exits = [
        ExitResult(k, f.top1, f.top5, f.nll, f.ece, cost)
        for k, (f, cost) in enumerate(zip(figures, relative.tolist(), strict=True))
    ]
    return _Table(exits, overthinking, relative, unit, ignore_index)


@torch.no_grad()
def _evaluate(policy: ExitPolicy, records: Records, costs: Costs, table: _Table) -> Result:
    from .metrics import measure_answers

    if policy.num_exits != records.num_exits:
        raise ValidationError(
            f"wanted a policy of {records.num_exits} exits, as the records; got {policy.num_exits}"
        )
    if policy.thresholds.device.type != "cpu":  # records are on the CPU
        policy = copy.deepcopy(policy).cpu()
    left = policy.exits(records)
    figures = measure_answers(_answered(policy, records, left), table.ignore_index)
    counts = left.bincount(minlength=records.num_exits).tolist()
    rated = zip(table.exits, counts, strict=True)
    return Result(
        policy=_name(policy),
        unit=table.unit,
        num=len(records),
        accuracy=figures.top1,
        stderr=figures.stderr,
        cost=float(table.costs[left].mean()),
        full_accuracy=table.exits[-1].top1,
        nll=figures.nll,
        ece=figures.ece,
        overthinking=table.overthinking,
        exit_counts=counts,
        exits=[replace(alone, rate=count / len(records)) for alone, count in rated],
    )


def _answered(
    policy: ExitPolicy, records: Records, left: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Answers, with their targets, of the exits that rows leave by, shard by shard."""
    for shard, exits in zip(records, left.split(records.lengths), strict=True):
        for k, logits in enumerate(policy.answers(shard)):
            rows = (exits == k).nonzero().squeeze(1)
            if len(rows):
                yield logits[rows], shard.targets[rows]


def _create(policy: str | ExitPolicy, num_exits: int, options: dict[str, Any]) -> ExitPolicy:
    if isinstance(policy, str):
        return policies.create(policy, num_exits=num_exits, **options)
    if options:
        raise OptionError(f"a policy that is made takes no options, got {', '.join(options)}")
    return policy


def _budget(budget: float | Budget, unit: str) -> Budget:
    made = Budget.of(budget)
    if made is not budget:
        return replace(made, unit=unit)
    if made.unit != unit:
        raise ValidationError(f"wanted budgets in {unit}, got one in {made.unit}")
    return made


def _same(first: Records, second: Records) -> bool:
    parts = (first.shards, second.shards)
    folders = [part.folder.resolve() for part in parts if isinstance(part, StoredShards)]
    return parts[0] is parts[1] or (len(folders) == 2 and folders[0] == folders[1])


def _name(policy: ExitPolicy) -> str:
    """Give the name a policy is registered under, or that of its class."""
    kind = type(policy)
    return next((n for n in policies.names() if policies.get(n) is kind), kind.__name__)


def _flat(result: Result) -> dict[str, Any]:
    plain = result.to_dict()
    exits, counts = plain.pop("exits"), plain.pop("exit_counts")
    del plain["exit_rates"]
    for alone, count in zip(exits, counts, strict=True):
        k = alone.pop("exit")
        plain[f"count_{k}"] = count
        plain |= {f"{name}_{k}": value for name, value in alone.items()}
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
