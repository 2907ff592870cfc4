"""Sweeps and searches of alpha: what they promise on the data they calibrate on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import offramp
from offramp import Budget, Costs
from offramp.errors import BudgetError, OfframpError, ValidationError
from offramp.gates import Fitting, GateData, GatePoint, sweep_gates, tune_gates

from .test_gates_fit import COSTS, made_up

FAST = Fitting(steps=80)
TIMED = Costs(
    macs=torch.tensor([2.0, 5.0, 10.0]),
    latency_ms=torch.tensor([3.0, 5.0, 9.0]),
    full={"macs": 10.0, "latency_ms": 8.0},
)


def steps() -> GateData:
    """Inputs of two kinds that gates tell apart; within a kind they are all alike."""
    kind = (torch.arange(300) % 3 == 0).float()
    losses = torch.stack([1 + kind, 0.5 + kind / 2, 0 * kind], 1)
    features = [torch.stack([kind, 1 - kind], 1)] * 2
    return GateData(features, losses, (losses < 1.2).float(), torch.ones(300))


# ----------------------------------------------------------------------- points
def test_a_point_has_the_figures_of_a_loop_over_inputs() -> None:
    train, data = made_up(200), made_up(100, seed=1)
    data.units[:30] = 3.0
    point = sweep_gates(train, data, COSTS, [0.4], how=FAST)[0]
    exits = point.gates.exits(data).tolist()
    costs = [[0.2, 0.5, 1.0][k] for k in exits]
    mean = sum(costs) / 100
    hits = sum(float(data.right[n, k] * data.units[n]) for n, k in enumerate(exits))
    assert len(set(exits)) > 1
    assert point.accuracy == pytest.approx(hits / float(data.units.sum()))
    assert point.cost == pytest.approx(mean)
    assert point.mean_exit == pytest.approx(sum(exits) / 100)
    assert point.rates == pytest.approx([exits.count(k) / 100 for k in range(3)])
    variance = sum((cost - mean) ** 2 for cost in costs) / 100
    assert point.cost_stderr == pytest.approx(math.sqrt(variance / 100))


def test_a_point_on_other_data_has_the_figures_of_those() -> None:
    train, calibration, test = (made_up(301, seed=seed) for seed in range(3))
    point = sweep_gates(train, calibration, COSTS, [0.4], how=FAST)[0]
    direct = sweep_gates(train, test, COSTS, [0.4], how=FAST)[0]
    moved = point.on(test, COSTS)
    assert (moved.cost, moved.accuracy, moved.rates) == (direct.cost, direct.accuracy, direct.rates)
    assert moved.gates is point.gates and moved.accuracy != point.accuracy


def test_the_rule_is_that_of_the_gate_policy() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    model = offramp.attach(network, ["1"], example=torch.zeros(2, 4), gate=True).eval()
    pair = torch.randn(300, 4), torch.arange(300) % 3
    costs = Costs.from_relative([0.6, 1.0])
    data = offramp.gates.cache_gates(model, pair, progress=False)
    point = tune_gates(data, data, costs, budget=0.8, how=FAST)
    point.gates.put(model)
    records = offramp.record(model, pair, progress=False)
    policy = offramp.create_policy("gate", num_exits=2)
    result = offramp.evaluate(policy, records, costs)
    assert 0 < point.rates[0] < 1
    assert torch.equal(policy.exits(records), point.gates.exits(data))
    assert (result.cost, result.accuracy) == pytest.approx((point.cost, point.accuracy))


# ----------------------------------------------------------------------- sweeps
def test_sweep_gives_alphas_from_accuracy_to_cost_and_a_wide_transition() -> None:
    points = sweep_gates(made_up(800), made_up(800, seed=1), COSTS)
    assert [p.alpha for p in points] == pytest.approx([a / 20 for a in range(21)])
    costs = [p.cost for p in points]
    assert costs[-1] == pytest.approx(0.2) and costs[0] > 0.9
    assert all(later <= cost + 0.01 for cost, later in pairwise(costs))
    between = [p.alpha for p in points if 0.28 < p.cost < 0.92]  # 10 and 90 % of the way
    assert between[-1] - between[0] >= 0.3  # published: 0.02
    assert max(p.accuracy for p in points) > max(points[-1].accuracy + 0.2, 0.8)


def test_sweep_takes_alphas_or_their_number_and_a_unit() -> None:
    data = made_up(100)
    assert [p.alpha for p in sweep_gates(data, data, TIMED, 3, how=FAST)] == [0.0, 0.5, 1.0]
    points = sweep_gates(data, data, TIMED, [0.2, 1.0], unit="latency_ms", how=FAST)
    assert points[-1].cost == pytest.approx(3 / 8) and points[-1].unit == "latency_ms"


# ----------------------------------------------------------------------- searches
@pytest.mark.parametrize("budget", [0.2, 0.3, 0.55, 0.8, 1.0])
def test_tune_meets_a_budget_from_below_and_closely(budget: float) -> None:
    train, calibration = made_up(300), made_up(200, seed=1)
    point = tune_gates(train, calibration, COSTS, budget=budget, how=FAST)
    free = sweep_gates(train, calibration, COSTS, [0.0], how=FAST)[0].cost  # asks for no more
    assert point.cost <= budget + 1e-9
    assert point.cost > min(budget, free) - 3 * 0.8 / 200  # three inputs, first exit to last


def test_tune_meets_a_budget_that_lies_where_no_alpha_leads() -> None:
    data = steps()
    reached = {round(p.cost, 6) for p in sweep_gates(data, data, COSTS, 41, how=FAST)}
    assert len(reached) <= 5  # each kind moves as one
    for budget in (0.3, 0.6, 0.9):
        point = tune_gates(data, data, COSTS, budget=budget, how=FAST)
        nearest = max(cost for cost in reached if cost <= budget)
        assert nearest - 1e-6 <= point.cost <= budget + 1e-9


def test_tune_takes_absolute_budgets_units_and_speedups() -> None:
    train, calibration = made_up(300), made_up(300, seed=1)

    def tuned(**named: object) -> GatePoint:
        return tune_gates(train, calibration, TIMED, how=FAST, **named)  # type: ignore[arg-type]

    faster = tuned(speedup=1.6)
    assert faster.unit == "latency_ms" and 0.6 < faster.cost <= 1 / 1.6
    same = [tuned(budget=Budget(5.0, "latency_ms")), tuned(budget=0.625, unit="latency_ms")]
    assert [point.cost for point in same] == [faster.cost] * 2
    assert tuned(budget=Budget(6.0)).cost == pytest.approx(0.6, abs=0.01)


def test_tune_takes_a_last_exit_that_is_measured_faster_than_the_network() -> None:
    """As may be where its measured time is all but the network's: any gates are fast enough."""
    data = made_up(300)
    times = replace(TIMED, latency_ms=torch.tensor([3.0, 5.0, 7.9]))
    assert tune_gates(data, data, times, speedup=1.0, how=FAST).cost <= 7.9 / 8


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1, 1.0])
def test_tune_keeps_the_accuracy_asked_for_at_least_cost(drop: float) -> None:
    train, calibration = made_up(300), made_up(300, seed=1)
    point = tune_gates(train, calibration, COSTS, max_drop=drop, how=FAST)
    full = float(calibration.right[:, -1].mean())
    assert point.accuracy >= full - drop - 1e-6
    points = sweep_gates(train, calibration, COSTS, how=FAST)
    kept = [p.cost for p in points if p.accuracy >= full - drop - 1e-9]
    assert point.cost <= min(kept, default=1.0) + 1e-9


def test_bad_input_is_found_before_anything_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    data, broken = made_up(50), made_up(50)
    broken.features[1][3, 0] = math.nan
    uncounted = made_up(50)
    uncounted.units.zero_()

    def fail(*_: object) -> None:
        raise AssertionError("it was fitted")

    monkeypatch.setattr("offramp.train.gates.solve", fail)
    cases: list[tuple[GateData, dict[str, object], type[OfframpError], str]] = [
        (data, {}, BudgetError, "one of budget, speedup and max_drop, got .*None"),
        (
            data,
            {"budget": 0.5, "max_drop": 0.1},
            BudgetError,
            "one of budget, speedup and max_drop",
        ),
        (data, {"budget": 0.1}, BudgetError, r"0\.1 is out of reach.*\[0\.2, 1\]"),
        (data, {"speedup": 1.5}, ValidationError, "measured times.*offramp.measure"),
        (data, {"speedup": 0}, BudgetError, "positive number, got 0"),
        (data, {"max_drop": 2}, BudgetError, r"in \[0, 1\], got 2"),
        (data, {"budget": 0.5, "unit": "joules"}, ValidationError, "got 'joules'"),
        (
            data,
            {"budget": 0.5, "nats": -1},
            ValidationError,
            "positive number or 'balanced', got -1",
        ),
        (broken, {"budget": 0.5}, ValidationError, "wanted finite features of gate 1"),
        (uncounted, {"budget": 0.5}, ValidationError, "at least one target that counts"),
    ]
    for train, named, error, message in cases:
        with pytest.raises(error, match=message):
            tune_gates(train, data, COSTS, **named)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match=r"4 is out of reach.*\[0\.375, 1\.125\]"):
        tune_gates(data, data, TIMED, speedup=0.25)
