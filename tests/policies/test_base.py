"""What every policy does: fitting, temperatures, operating points, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import BudgetError, UnknownNameError, ValidationError
from offramp.evaluate import evaluate
from offramp.functional import correctness, count_hits
from offramp.policies.base import ExitPolicy, temperatures
from offramp.policies.max_prob import MaxProb
from offramp.policies.oracle import Oracle
from offramp.registry import policies
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


def test_latency_budget_needs_no_other_unit_and_is_refused_in_its_own(records: Records) -> None:
    latency = torch.tensor([20.0, 40.0, 60.0, 104.0])
    costs = Costs(macs=torch.ones(4), latency_ms=latency, full={"latency_ms": 100.0})
    policy = MaxProb(4).fit(records, costs, Budget(60.0, "latency_ms"))
    assert 58 < float(latency[policy.exits(records)].mean()) <= 60
    bare = MaxProb(4).fit(records, costs, 0.6, unit="latency_ms")
    assert torch.equal(bare.thresholds, policy.thresholds)
    wanted = (
        r"budget of 3 latency_ms is out of reach: the first exit costs 20 and the last 104, "
        r"so the reachable range is \[20, 104\] latency_ms"
    )
    with pytest.raises(BudgetError, match=wanted):
        policy.fit(records, costs, Budget(3, "latency_ms"))
    with pytest.raises(BudgetError, match=r"budget of 3 is .* range is \[0\.2, 1\.04\]$"):
        policy.fit(records, costs, Budget(3, "latency_ms", relative=True))


def test_fit_leaves_operating_points_as_they_are(records: Records, costs: Costs) -> None:
    policy = MaxProb(4).fit_points(records, costs, [0.3, 0.9])
    fast = policy.thresholds.clone()
    assert not torch.equal(policy.fit(records, costs, max_drop=0.01).thresholds, fast)
    assert torch.equal(policy.use("0").thresholds, fast)


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


@pytest.mark.parametrize("max_drop", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("name", ["max_prob", "patience", "oracle"])
def test_max_drop_is_the_drop_that_evaluate_measures(costs: Costs, name: str, max_drop) -> None:
    # maps of half the targets' resolution; a third of the rows has few positions that count, and
    # a tenth has none
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(3, (60, 4, 6), generator=generator)
    small = F.one_hot(targets[:, ::2, ::2], 3).movedim(-1, 1)
    logits = torch.randn(4, 60, 3, 2, 3, generator=generator)
    logits += torch.tensor([0.5, 1.0, 2.0, 3.0]).view(4, 1, 1, 1, 1) * small
    logits[3, 50:52] = float("nan")
    targets[:20, 1:], targets[:6] = -1, -100
    records = Records.from_arrays(logits, targets)
    policy = policies.create(name, num_exits=4, temperature=True)
    policy.fit(records, costs, max_drop=max_drop)
    result = evaluate(policy, records, costs)
    assert result.drop <= max_drop + 1e-9
    hits, counts = count_hits(policy.answers(records.shards[0]), targets)
    pooled = hits.gather(1, policy.exits(records)[:, None]).sum() / counts.sum()
    assert result.accuracy == pytest.approx(float(pooled), abs=1e-12)
    assert float(hits[:, -1].sum() / counts.sum()) == pytest.approx(result.full_accuracy, abs=1e-12)


def test_max_drop_is_not_diluted_by_rows_without_a_target(records: Records, costs: Costs) -> None:
    alone = MaxProb(4).fit(records, costs, max_drop=0.03)
    empty = records.targets.clone().fill_(-1)
    both = Records.from_arrays(
        [torch.cat([z, z]) for z in records.logits], torch.cat([records.targets, empty])
    )
    padded = MaxProb(4).fit(both, costs, max_drop=0.03)
    assert spent(padded, records, costs) == pytest.approx(spent(alone, records, costs), abs=0.01)
    assert evaluate(padded, both, costs).drop <= 0.03 + 1e-9


def test_max_drop_makes_the_cost_of_the_named_unit_small(records: Records) -> None:
    latency = torch.tensor([40.0, 50.0, 60.0, 100.0])
    only = Costs(macs=torch.ones(4), latency_ms=latency, full={"latency_ms": 100.0})
    policy = MaxProb(4).fit(records, only, max_drop=0.05, unit="latency_ms")
    alike = MaxProb(4).fit(records, Costs.from_relative(latency / 100), max_drop=0.05)
    assert torch.equal(policy.thresholds, alike.thresholds)
    with pytest.raises(ValidationError, match="got 'macs'"):
        policy.fit(records, only, max_drop=0.05)


@pytest.mark.parametrize("max_drop", [-0.1, 1.5, 2, float("nan")])
def test_max_drop_out_of_range_changes_nothing(records: Records, costs: Costs, max_drop) -> None:
    policy = MaxProb(4, temperature=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(BudgetError, match=r"drop of accuracy in \[0, 1\]"):
        policy.fit(records, costs, max_drop=max_drop)
    nothing = Records.from_arrays(records.logits, torch.full_like(records.targets, -1))
    with pytest.raises(ValidationError, match="at least one target that counts"):
        policy.fit(nothing, costs, max_drop=0.1)
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name])


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


def test_temperature_is_one_where_there_is_nothing_to_learn_from(records: Records) -> None:
    ignored = Records.from_arrays(records.logits, torch.full_like(records.targets, -1))
    assert temperatures(ignored).tolist() == [1.0] * 4
    logits = [records.logits[0], *(z * float("nan") for z in records.logits[1:])]
    learnt = temperatures(Records.from_arrays(logits, records.targets))
    assert learnt[0] == temperatures(records)[0] != 1
    assert learnt[1:].tolist() == [1.0] * 3


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


@pytest.mark.parametrize("name", ["max_prob", "patience", "oracle", "fixed"])
@pytest.mark.parametrize("temperature", [False, True])
def test_exits_by_point_are_those_of_each_point(
    maps: Records, costs: Costs, name: str, temperature: bool
) -> None:
    policy = policies.create(name, num_exits=4, temperature=temperature)
    policy.fit_points(maps, costs, {"low": 0.3, "high": 0.9, "middle": 0.6})
    before = policy.thresholds.clone()
    found = policy.exits_by_point(maps)
    assert torch.equal(policy.thresholds, before)
    assert list(found) == ["low", "high", "middle"]
    for point, exits in found.items():
        assert torch.equal(exits, policy.use(point).exits(maps))


def test_points_of_what_learns_nothing_are_scored_once(
    records: Records, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    whole = MaxProb.scores
    monkeypatch.setattr(MaxProb, "scores", lambda self, r: scored.append(1) or whole(self, r))
    policy = MaxProb(4).fit_points(records, costs, [0.3, 0.6, 0.9])
    assert len(scored) == 1
    policy.exits_by_point(records)
    assert len(scored) == 2


def test_points_of_what_learns_are_scored_each(records: Records, costs: Costs) -> None:
    class Learner(MaxProb):
        """Scores depend on the budget that it learned for."""

        sign: Tensor

        def __init__(self) -> None:
            super().__init__(4)
            self.register_buffer("sign", torch.ones(()))

        def learn(self, records: Records, costs: Tensor, budget: float) -> None:
            self.sign.fill_(1.0 if budget > 0.5 else -1.0)

        def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
            score, carry = super().score(k, out, carry)
            return score * self.sign, carry

    policy = Learner().fit_points(records, costs, {"low": 0.4, "high": 0.8})
    found = policy.exits_by_point(records)
    for point, budget in (("low", 0.4), ("high", 0.8)):
        assert torch.equal(found[point], Learner().fit(records, costs, budget).exits(records))
    assert not torch.equal(found["low"], MaxProb(4).fit(records, costs, 0.4).exits(records))


def test_points_of_a_sequence_are_numbered_and_the_first_is_set(
    records: Records, costs: Costs
) -> None:
    policy = MaxProb(4).fit_points(records, costs, [0.3, 0.9])
    assert list(policy.points) == ["0", "1"]
    assert spent(policy, records, costs) <= 0.3


def test_points_survive_a_state_dict_of_plain_tensors(records: Records, costs: Costs) -> None:
    budgets = {"fast": 0.3, "0.9.x": 0.9}
    policy = MaxProb(4, temperature=True).fit_points(records, costs, budgets).use("0.9.x")
    state = policy.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    other = MaxProb(4, temperature=True)
    other.load_state_dict(state)
    assert torch.equal(other.thresholds, policy.thresholds)
    assert list(other.points) == list(budgets)
    nested = torch.nn.ModuleList([MaxProb(4, temperature=True)])
    nested.load_state_dict(torch.nn.ModuleList([policy]).state_dict())
    for name in budgets:
        for again in (other, nested[0]):
            assert torch.equal(again.use(name).exits(records), policy.use(name).exits(records))
    other.load_state_dict(MaxProb(4).state_dict())
    assert other.points == {}


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
