"""Evaluation on records: each exit by itself, a policy's answers, and curves over budgets.

Of maps, an accuracy is a share of pixels, and the mean intersection over union comes beside it: of
each class over all inputs together, then the mean over the classes that are wanted or answered
somewhere, as the evaluation of Cityscapes has it. Both are taken at the targets' resolution.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .errors import OptionError, ValidationError
from .functional import first_exit
from .policies.base import ExitPolicy, score_each
from .records import StoredShards
from .registry import policies
from .results import ExitResult as ExitResult
from .results import Result as Result
from .results import area_under_curve as area_under_curve
from .results import save_csv as save_csv
from .results import save_json as save_json
from .types import Budget, Costs, Records

if TYPE_CHECKING:
    from .metrics import Measured, Sums


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
    return Evaluator(records, costs, unit=unit, ignore_index=ignore_index).result(policy)


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
    return Evaluator(records, costs, unit=unit, ignore_index=ignore_index).points(policy)


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
    return Evaluator(records, costs, unit=unit, ignore_index=ignore_index).exits


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
    made = Evaluator(test, costs, unit=unit, ignore_index=ignore_index)
    return made.curve(policy, calibration, budgets, **options)


class Replay(NamedTuple):
    """What a policy, set to one point, makes of records."""

    result: Result
    exits: Tensor  # [N], the exit of each input
    examined: list[Any] | None  # [K][2][2][2], see `offramp.metrics.examine`; None of maps


class Evaluator:
    """Results on records that are measured once, however many policies and points there are.

    Of maps, what each input adds to the figures of each exit is kept: a point of a policy that
    answers with the exits' own logits is then a sum. Points with answers of their own, such as
    tempered ones, read the records once each, or once for all where that is less.

    Args:
        records: the test part.
        costs: cost of each exit.
        unit: unit of the costs, which are relative to the original network.
        ignore_index: a target that does not count, beside the negative ones.

    Raises:
        ValidationError: if records and costs differ in their number of exits or the unit is not
            known; on reading, if no target counts.
    """

    def __init__(
        self, records: Records, costs: Costs, *, unit: str = "macs", ignore_index: int = -100
    ) -> None:
        if costs.num_exits != records.num_exits:
            raise ValidationError(
                f"wanted costs of {records.num_exits} exits, as the records; got {costs.num_exits}"
            )
        self.records, self.costs, self.unit = records, costs, unit
        self.ignore_index = ignore_index
        self.relative = costs.relative(unit)  # [K]

    @cached_property
    def measured(self) -> Measured:
        """Figures of every exit; the records are read when it is first asked for."""
        from .metrics import measure_exits  # torchmetrics is slow to import

        return measure_exits(self.records, self.ignore_index)

    @property
    def exits(self) -> list[ExitResult]:
        """Every exit by itself."""
        known = enumerate(zip(self.measured.figures, self.relative.tolist(), strict=True))
        return [
            ExitResult(k, f.top1, f.top5, f.nll, f.ece, cost, miou=f.miou, iou=f.iou)
            for k, (f, cost) in known
        ]

    def result(self, policy: ExitPolicy) -> Result:
        """What a policy makes of the records, as `evaluate` gives it."""
        return self.replays({"": policy})[""].result

    def points(self, policy: ExitPolicy) -> dict[str, Result]:
        """What a policy makes of them at each operating point, as `evaluate_points` gives it."""
        replays = self.replays(self._checked(policy).settings())
        return {point: replay.result for point, replay in replays.items()}

    def replays(self, settings: Mapping[str, ExitPolicy]) -> dict[str, Replay]:
        """What the settings of one policy make of the records, such as `ExitPolicy.settings`.

        Settings that follow each other and differ in thresholds alone are scored once.
        """
        from .metrics import examine

        settings = {point: self._checked(policy) for point, policy in settings.items()}
        found: dict[str, Replay] = {}
        inputs, before = None, torch.empty(0)
        for (point, policy), scores in zip(
            settings.items(), score_each(settings.values(), self.records), strict=True
        ):
            exits = first_exit(scores, policy.thresholds)
            # with many points, what differs in thresholds alone is measured at every exit, once
            if self.measured.inputs is not None and len(settings) > self.records.num_exits:
                inputs = inputs if scores is before else self._inputs(policy)
            before, hits = scores, self.measured.hits
            examined = None if hits is None else examine(hits, scores, policy.thresholds).tolist()
            found[point] = Replay(self._result(policy, exits, inputs), exits, examined)
        return found

    def curve(
        self,
        policy: str | ExitPolicy,
        calibration: Records,
        budgets: Sequence[float | Budget],
        **options: Any,
    ) -> list[Result]:
        """One result per budget, as `offramp.curve` gives them."""
        if _same(calibration, self.records):
            raise ValidationError(
                "wanted calibration and test to be disjoint, got the same records for both: "
                "thresholds fitted on the test part make its figures worthless"
            )
        asked = {str(at): _budget(budget, self.unit) for at, budget in enumerate(budgets)}
        if not asked:
            raise ValidationError("wanted at least one budget, got none")
        made = copy.deepcopy(_create(policy, self.records.num_exits, options))
        found = self.points(made.fit_points(calibration, self.costs, asked))
        return [
            replace(found[point], budget=budget.resolve(self.costs)[1])
            for point, budget in asked.items()
        ]

    # ------------------------------------------------------------------- helpers
    def _checked(self, policy: ExitPolicy) -> ExitPolicy:
        """The policy on the CPU, where records are."""
        if policy.num_exits != self.records.num_exits:
            raise ValidationError(
                f"wanted a policy of {self.records.num_exits} exits, as the records; got "
                f"{policy.num_exits}"
            )
        if policy.thresholds.device.type == "cpu":
            return policy
        return copy.deepcopy(policy).cpu()

    @torch.no_grad()
    def _inputs(self, policy: ExitPolicy) -> list[Sums] | None:
        """What each input adds to the figures at each exit, as the policy answers there."""
        from .metrics import measure_inputs

        if policy.answers_as_exits:
            return self.measured.inputs
        answers = ((policy.answers(shard), shard.targets) for shard in self.records)
        return measure_inputs(answers, self.ignore_index)

    @torch.no_grad()
    def _result(self, policy: ExitPolicy, left: Tensor, inputs: list[Sums] | None = None) -> Result:
        """The result of a policy whose inputs leave by these exits, [N]."""
        from .metrics import measure_answers, measure_chosen

        num = len(self.records)
        inputs = self.measured.inputs if policy.answers_as_exits else inputs
        if inputs is not None:
            figures = measure_chosen(inputs, left)
        else:
            figures = measure_answers(_answered(policy, self.records, left), self.ignore_index)
        counts = left.bincount(minlength=self.records.num_exits).tolist()
        exits, spent = self.exits, self.relative[left]
        rated = zip(exits, counts, strict=True)
        return Result(
            policy=_name(policy),
            unit=self.unit,
            num=num,
            accuracy=figures.top1,
            stderr=figures.stderr,
            cost=float(spent.mean()),
            cost_stderr=float(spent.std(correction=0)) / num**0.5,
            full_accuracy=exits[-1].top1,
            nll=figures.nll,
            ece=figures.ece,
            overthinking=self.measured.overthinking,
            exit_counts=counts,
            exits=[replace(alone, rate=count / num) for alone, count in rated],
            miou=figures.miou,
        )


# ------------------------------------------------------------------------ helpers
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
