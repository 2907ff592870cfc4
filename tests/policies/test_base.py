"""What every policy does: fitting, temperatures, operating points, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import BudgetError, UnknownNameError, ValidationError
from offramp.policies.base import ExitPolicy, correctness, temperatures
from offramp.policies.max_prob import MaxProb
from offramp.policies.oracle import Oracle
from offramp.types import Budget, Carry, Costs, ExitOutput, Records


def spent(policy: ExitPolicy, records: Records, costs: Costs) -> float:
    return float(costs.relative()[policy.exits(records)].mean())


def accuracy(policy: ExitPolicy, records: Records) -> float:
    right = correctness(records.logits, records.targets)
    return float(right.gather(1, policy.exits(records)[:, None]).mean())


# ----------------------------------------------------------------------- fit
def test_unfitted_policy_sends_everyone_to_the_last_exit(records: Records) -> None:
    assert MaxProb(4).exits(records).unique().tolist() == [3]


def test_larger_budget_is_spent(records: Records, costs: Costs) -> None:
    budgets = [0.3, 0.5, 0.7, 0.9]
    costs_spent = [spent(MaxProb(4).fit(records, costs, b), records, costs) for b in budgets]
    for budget, cost in zip(budgets, costs_spent, strict=True):
        assert budget - 0.01 < cost <= budget


def test_absolute_budget_is_the_relative_one_in_its_unit(records: Records) -> None:
    costs = Costs(macs=torch.tensor([20.0, 40.0, 60.0, 104.0]), full={"macs": 100.0})
    absolute = MaxProb(4).fit(records, costs, Budget(60.0, "macs"))
    relative = MaxProb(4).fit(records, costs, 0.6)
    assert torch.equal(absolute.thresholds, relative.thresholds)


@pytest.mark.parametrize("given", [{}, {"budget": 0.5, "max_drop": 0.1}])
def test_fit_wants_exactly_one_aim(records: Records, costs: Costs, given) -> None:
    with pytest.raises(BudgetError, match="wanted either budget or max_drop"):
        MaxProb(4).fit(records, costs, **given)


@pytest.mark.parametrize("budget", ["0.5", True, float("nan"), float("inf")])
def test_budget_that_is_no_finite_number_is_named(records: Records, costs: Costs, budget) -> None:
    with pytest.raises(BudgetError, match="wanted a budget as a finite number"):
        MaxProb(4).fit(records, costs, budget)


def test_budget_out_of_reach_changes_nothing(records: Records, costs: Costs) -> None:
    policy = MaxProb(4, temperature=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.2, 1\.04\]"):
        policy.fit(records, costs, 1.2)
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name])


def test_wrong_number_of_exits_is_an_error(records: Records, costs: Costs) -> None:
    with pytest.raises(ValidationError, match="wanted records of 3 exits, got 4"):
        MaxProb(3).fit(records, costs, 0.5)
    with pytest.raises(ValidationError, match="wanted costs of 4 exits, got 2"):
        MaxProb(4).fit(records, Costs.from_relative([0.5, 1.0]), 0.5)
    with pytest.raises(ValidationError, match="wanted at least one exit, got 0"):
        MaxProb(0)


# ----------------------------------------------------------------------- max_drop
@pytest.mark.parametrize("max_drop", [0.0, 0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("first", [0.2, 0.7])  # 0.7 is above its own float32 value
def test_max_drop_keeps_the_accuracy_and_saves_cost(
    records: Records, max_drop: float, first: float
) -> None:
    costs = Costs.from_relative([first, 0.8, 0.9, 1.04])
    policy = MaxProb(4).fit(records, costs, max_drop=max_drop)
    full = accuracy(MaxProb(4), records)
    assert accuracy(policy, records) >= full - max_drop - 1e-9
    cost = spent(policy, records, costs)
    for budget in torch.linspace(first, 1.04, 60, dtype=torch.float64).tolist()[1:-1]:
        other = MaxProb(4).fit(records, costs, budget)
        if accuracy(other, records) >= full - max_drop:
            assert cost <= spent(other, records, costs) + 0.01


def test_max_drop_counts_whole_inputs_exactly(costs: Costs) -> None:
    # 8 of 10 right at the end, 7 of 10 before: a drop of one tenth must allow exit 0, though
    # 0.8 - 0.1 is above 0.7 in floating point
    hits = torch.tensor([[1] * 7 + [0] * 3] * 3 + [[1] * 8 + [0] * 2])
    records = Records.from_arrays(
        torch.stack([1.0 - hits, hits.float()], 2), torch.ones(10, dtype=torch.long)
    )
    assert MaxProb(4).fit(records, costs, max_drop=0.1).exits(records).tolist() == [0] * 10


def test_max_drop_keeps_what_was_learnt_for_the_thresholds_it_chose(costs: Costs) -> None:
    class Learner(MaxProb):
        """Scores all of one sign at even numbers of lessons, of the other at odd ones."""

        lessons: Tensor

        def __init__(self) -> None:
            super().__init__(4)
            self.register_buffer("lessons", torch.zeros(()))

        def learn(self, records: Records, costs: Tensor, budget: float) -> None:
            self.lessons += 1

        def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
            score, carry = super().score(k, out, carry)
            return score * (1 - 2 * (self.lessons % 2)), carry

    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (300,), generator=generator)
    logits = torch.randn(4, 300, 5, generator=generator) + F.one_hot(targets, 5) * 2.0
    records = Records.from_arrays(logits, targets)
    policy = Learner().fit(records, costs, max_drop=0.02)
    assert policy.lessons < 201  # the last candidate was not the cheapest that would do
    assert accuracy(policy, records) >= accuracy(MaxProb(4), records) - 0.02 - 1e-9


def test_max_drop_of_the_oracle_costs_less_than_that_of_any_score(
    records: Records, costs: Costs
) -> None:
    oracle = Oracle(4).fit(records, costs, max_drop=0.01)
    policy = MaxProb(4).fit(records, costs, max_drop=0.01)
    assert accuracy(oracle, records) >= accuracy(MaxProb(4), records) - 0.01 - 1e-9
    assert spent(oracle, records, costs) < spent(policy, records, costs)


@pytest.mark.parametrize("max_drop", [-0.1, 1.5, float("nan")])
def test_max_drop_out_of_range_is_an_error(records: Records, costs: Costs, max_drop) -> None:
    with pytest.raises(BudgetError, match=r"drop of accuracy in \[0, 1\]"):
        MaxProb(4).fit(records, costs, max_drop=max_drop)


# ----------------------------------------------------------------------- temperature
def literal_temperature(logits: Tensor, targets: Tensor) -> float:
    grid = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    losses = [F.cross_entropy(logits.double() / t, targets, ignore_index=-100) for t in grid]
    return float(grid[int(torch.stack(losses).argmin())])


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_temperature_minimises_the_negative_log_likelihood(records: Records, scale: float) -> None:
    scaled = Records.from_arrays([z * scale for z in records.logits], records.targets)
    literal = [literal_temperature(z, scaled.targets) for z in scaled.logits]
    torch.testing.assert_close(temperatures(scaled), torch.tensor(literal), rtol=3e-3, atol=0)


def test_temperature_of_maps_leaves_out_ignored_positions(maps: Records) -> None:
    targets = maps.targets.clone()
    targets[:, 0] = -100
    ignored = Records.from_arrays(maps.logits, targets)
    literal = [literal_temperature(z, targets) for z in ignored.logits]
    torch.testing.assert_close(temperatures(ignored), torch.tensor(literal), rtol=3e-3, atol=0)


def test_temperature_is_not_moved_by_nan_rows_or_ruled_out_classes(records: Records) -> None:
    wanted = temperatures(records)
    row = torch.full((1, 5), float("nan"))
    broken = [torch.cat([z, row]) for z in records.logits]
    with_nan = Records.from_arrays(broken, torch.cat([records.targets, torch.zeros(1).long()]))
    torch.testing.assert_close(temperatures(with_nan), wanted)
    wide = [F.pad(z, (0, 2), value=float("-inf")) for z in records.logits]
    torch.testing.assert_close(temperatures(Records.from_arrays(wide, records.targets)), wanted)


def test_scores_and_answers_are_made_from_tempered_logits(records: Records, costs: Costs) -> None:
    policy = MaxProb(4, temperature=True).fit(records, costs, 0.5)
    assert bool((policy.temperatures != 1).all())
    plain = Records.from_arrays(
        [z / t for z, t in zip(records.logits, policy.temperatures, strict=True)], records.targets
    )
    torch.testing.assert_close(policy.scores(records), MaxProb(4).scores(plain))
    for got, wanted in zip(policy.answers(records.shards[0]), plain.logits, strict=True):
        torch.testing.assert_close(got, wanted)


# ----------------------------------------------------------------------- operating points
def test_points_decide_as_separate_fits_would(records: Records, costs: Costs) -> None:
    budgets = {"fast": 0.3, "exact": 0.9}
    policy = MaxProb(4, temperature=True).fit_points(records, costs, budgets)
    for name in ("fast", "exact", "fast"):
        alone = MaxProb(4, temperature=True).fit(records, costs, budgets[name])
        assert torch.equal(policy.use(name).exits(records), alone.exits(records))


def test_points_of_a_sequence_are_numbered_and_the_first_is_set(
    records: Records, costs: Costs
) -> None:
    policy = MaxProb(4).fit_points(records, costs, [0.3, 0.9])
    assert list(policy.points) == ["0", "1"]
    assert spent(policy, records, costs) <= 0.3


def test_unknown_point_lists_the_valid_ones(records: Records, costs: Costs) -> None:
    policy = MaxProb(4).fit_points(records, costs, {"fast": 0.3, "exact": 0.9})
    with pytest.raises(UnknownNameError, match=r"'slow'; valid: fast, exact"):
        policy.use("slow")
    with pytest.raises(BudgetError, match="at least one budget"):
        policy.fit_points(records, costs, [])


# ----------------------------------------------------------------------- decisions
def test_nan_leaves_early_only_where_everyone_does(costs: Costs) -> None:
    logits = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    logits[:, :5] = float("nan")
    records = Records.from_arrays(logits, torch.zeros(50, dtype=torch.long))
    policy = MaxProb(4).fit(records, costs, 0.6)
    assert policy.exits(records)[:5].tolist() == [3] * 5
    assert policy.fit(records, costs, 0.2).exits(records).unique().tolist() == [0]
    assert bool(policy.scores(records).isfinite().all())


def test_decision_of_one_exit_is_that_of_the_replay(records: Records, costs: Costs) -> None:
    policy = MaxProb(4).fit(records, costs, 0.5)
    leave = torch.stack([d.leave for d in policy.decisions(records.shards[0])], 1)
    assert torch.equal(leave.int().argmax(1), policy.exits(records))
    assert bool(leave[:, -1].all())


@pytest.mark.parametrize("reduce", ["mean", "quantile", "worst_patch"])
def test_maps_are_decided_per_image(maps: Records, costs: Costs, reduce) -> None:
    policy = MaxProb(4, reduce=reduce).fit(maps, costs, 0.5)
    assert policy.exits(maps).shape == (60,)
    assert 0.45 < spent(policy, maps, costs) <= 0.5
