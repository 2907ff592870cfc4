"""Gate: the published rule, exactly, and thresholds for a budget; ties, NaN, missing gates."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import ValidationError
from offramp.evaluate import evaluate
from offramp.functional import log_odds
from offramp.mixture import exit_log_probs
from offramp.policies.gate import Gate, gate_rates
from offramp.runtime import run
from offramp.types import Costs, ExitOutput, Records

from ..families.toys import toy

EXITS = 4


def gates(records: Records) -> Tensor:
    """The early gates, [N, K-1]."""
    return torch.stack([out.gate for out in records.shards[0].outputs[:-1]], 1)


def with_gates(records: Records, made: Tensor) -> Records:
    return Records.from_arrays(records.logits, records.targets, [*made.T, None])


def literal_rule(records: Records, threshold: float) -> list[int]:
    """Leave at the first exit whose sigmoid is above the threshold; the last one takes everyone."""
    exits = []
    for row in gates(records).double().tolist():
        opened = [k for k, g in enumerate(row) if 1 / (1 + math.exp(-g)) > threshold]
        exits.append(opened[0] if opened else len(row))
    return exits


# ----------------------------------------------------------------------- the rule
@pytest.mark.parametrize("threshold", [0.5, 1 / 3, 0.9, 0.01])
def test_unfitted_gate_leaves_at_the_first_open_gate(records: Records, threshold: float) -> None:
    exits = Gate(EXITS, threshold=threshold).exits(records).tolist()
    assert exits == literal_rule(records, threshold)
    assert len(set(exits)) > 1


def test_gate_that_is_just_at_the_threshold_stays(records: Records) -> None:
    edge = torch.tensor([-1e-38, -0.0, 0.0, 1e-38, -1e-6, 1e-6]).repeat(50)
    made = torch.stack([edge, torch.full_like(edge, -1.0), torch.full_like(edge, -1.0)], 1)
    exits = Gate(EXITS).exits(with_gates(records, made))
    assert torch.equal(exits == 0, edge > 0)


def test_rule_of_a_fitted_policy_is_that_of_a_new_one(records: Records, costs: Costs) -> None:
    policy = Gate(EXITS, threshold=0.3, temperature=True, reduce="quantile")
    before = policy.exits(records)
    policy.fit_points(records, costs, [0.3, 0.9])
    assert not torch.equal(policy.exits(records), before)
    thresholds = policy.thresholds.clone()
    rule = policy.rule()
    assert torch.equal(rule.exits(records), before)
    assert rule.options() == policy.options()
    assert rule.points == {} and rule.temperatures.tolist() == [1.0] * EXITS
    assert torch.equal(policy.thresholds, thresholds)


@pytest.mark.parametrize("task", ["label", "map", "encoder"])
def test_unfitted_gate_runs_replays_and_evaluates(task: str) -> None:
    toy_, policy = toy(task), Gate(EXITS)
    came = run(toy_.model, policy, toy_.inputs, size=toy_.size)
    clear = (gates(toy_.records).abs() > 1e-5).all(1)
    assert int(clear.sum()) > 200
    wanted = torch.tensor(literal_rule(toy_.records, 0.5))
    assert torch.equal(came.exits[clear], wanted[clear])
    assert torch.equal(policy.exits(toy_.records), wanted)
    counts = evaluate(policy, toy_.records, Costs.from_relative([0.25, 0.5, 0.75, 1.0])).exit_counts
    assert counts == wanted.bincount(minlength=EXITS).tolist()


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, float("nan"), "0.5", True, None])
def test_threshold_that_is_no_probability_is_named(threshold: object) -> None:
    with pytest.raises(ValidationError, match=r"probability in \(0, 1\), got "):
        Gate(EXITS, threshold=threshold)  # type: ignore[arg-type]


# ----------------------------------------------------------------------- scores
def test_score_is_the_gate_to_one_part_in_four_thousand(records: Records) -> None:
    scores = Gate(EXITS).scores(records)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[:, :-1], gates(records), rtol=2**-12, atol=2**-12 * 1e-3)
    assert scores[:, -1].tolist() == [0.0] * len(records)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_of_half_precision_keep_their_order_and_ties_take_log_odds(
    records: Records, dtype: torch.dtype
) -> None:
    made = (8 * gates(records)).to(dtype).float()
    made[:, 2] = 20.0  # saturated
    made[:150, 1] = 0.0  # as a gate that was never trained
    scores = Gate(EXITS).scores(with_gates(records, made))
    for k in range(EXITS - 1):
        gate, odds, score = made[:, k], log_odds(records.logits[k]), scores[:, k]
        below = score[:, None] < score  # [N, N], every pair
        apart = (gate[:, None] < gate) & (gate.abs() > 1e-3)[:, None]
        tied = (gate[:, None] == gate) & (odds[:, None] + 0.5 < odds)
        assert bool(apart.any()) == (k < 2)
        assert bool(tied.any())
        assert bool(below[apart | tied].all())


def test_tied_gates_still_spend_the_budget(records: Records, costs: Costs) -> None:
    for value in (0.0, 25.0, -25.0, math.inf):
        tied = with_gates(records, torch.full((300, EXITS - 1), value))
        for budget in (0.3, 0.6, 0.9):
            exits = Gate(EXITS).fit(tied, costs, budget).exits(tied)
            spent = float(costs.relative()[exits].mean())
            assert budget - 0.02 < spent <= budget + 1e-9


def test_nan_is_never_ready() -> None:
    policy = Gate(2)
    sure, lost = torch.tensor([9.0, 0.0]), torch.full((2,), math.nan)
    out = ExitOutput(torch.stack([sure, lost, sure]), torch.tensor([5.0, 5.0, math.nan]))
    assert policy(0, out, {}).leave.tolist() == [True, False, False]


def test_gate_of_the_last_exit_is_not_read(records: Records) -> None:
    outputs = records.shards[0].outputs
    plain = Gate(EXITS).scores(records)
    both = Records.from_arrays(
        records.logits, records.targets, [*gates(records).T, torch.randn(300)]
    )
    assert outputs[-1].gate is None
    assert torch.equal(Gate(EXITS).scores(both), plain)


def test_map_is_decided_by_its_one_gate(maps: Records) -> None:
    assert Gate(EXITS).exits(maps).tolist() == literal_rule(maps, 0.5)
    tied = with_gates(maps, torch.zeros(60, EXITS - 1))
    order = Gate(EXITS, reduce="worst_patch").scores(tied)[:, 0].argsort()
    odds = F.avg_pool2d(log_odds(maps.logits[0])[:, None], (4, 6)).flatten()[order]
    assert bool((odds.diff() > -1e-3).all())


# ----------------------------------------------------------------------- budgets
def literal_rates(made: Tensor, shift: float) -> list[float]:
    """Mean probability of leaving at each exit, of gates that are moved, input by input."""
    rates = [0.0] * EXITS
    for row in made.double().tolist():
        going = 1.0
        for k, g in enumerate(row):
            h = 1 / (1 + math.exp(-(g + shift)))
            rates[k] += going * h
            going *= 1 - h
        rates[-1] += going
    return [rate / len(made) for rate in rates]


@pytest.mark.parametrize("budget", [0.3, 0.6, 0.9])
def test_rates_are_those_of_gates_moved_to_the_budget(
    records: Records, costs: Costs, budget: float
) -> None:
    relative, made = costs.relative(), gates(records)
    rates = gate_rates(made, relative, budget)
    assert float((rates * relative).sum()) == pytest.approx(budget, abs=1e-5)
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        cost = sum(r * c for r, c in zip(literal_rates(made, middle), relative, strict=True))
        low, high = (middle, high) if cost > budget else (low, middle)
    assert rates.tolist() == pytest.approx(literal_rates(made, high), abs=1e-4)


@pytest.mark.parametrize("shift", [-30.0, -8.0, 8.0, 30.0])
def test_gates_that_are_all_too_open_or_too_shut_are_fitted_as_if_they_were_not(
    records: Records, costs: Costs, shift: float
) -> None:
    moved = with_gates(records, gates(records) + shift)
    for budget in (0.3, 0.6, 0.9):
        before = Gate(EXITS).fit(records, costs, budget).exits(records)
        after = Gate(EXITS).fit(moved, costs, budget).exits(moved)
        # only gates that are nearly tied may change places
        assert float((before == after).float().mean()) > 0.97


def test_rates_of_many_inputs_are_taken_of_some() -> None:
    made = 3 * torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0))
    costs = torch.tensor([0.25, 0.5, 0.75, 1.0]).double()
    rates = gate_rates(made, costs, 0.6)
    assert float((rates * costs).sum()) == pytest.approx(0.6, abs=1e-5)
    whole = exit_log_probs(made).exp().mean(0)
    assert whole.shape == rates.shape


@pytest.mark.parametrize("value", [1e4, 1e30, math.inf, math.nan])
def test_rates_are_finite_for_any_gates(costs: Costs, value: float) -> None:
    made = torch.tensor([[value, -value, value], [-value, value, -value]])
    rates = gate_rates(made, costs.relative(), 0.6)
    assert bool(rates.isfinite().all())
    assert float(rates.sum()) == pytest.approx(1.0)


# ----------------------------------------------------------------------- what is missing
def test_records_without_gates_are_refused_at_every_door(records: Records, costs: Costs) -> None:
    bare = Records.from_arrays(records.logits, records.targets)
    some = Records.from_arrays(records.logits, records.targets, [gates(records)[:, 0], *[None] * 3])
    policy = Gate(EXITS)
    thresholds = policy.thresholds.clone()
    doors = (
        lambda r: policy.fit(r, costs, 0.5),
        lambda r: policy.fit(r, costs, max_drop=0.1),
        lambda r: policy.fit_points(r, costs, [0.5]),
        lambda r: evaluate(policy, r, costs),
        policy.scores,
        policy.exits,
    )
    for door in doors:
        with pytest.raises(ValidationError, match=r"none at exits \[0, 1, 2\]; gate=True"):
            door(bare)
        with pytest.raises(ValidationError, match=r"none at exits \[1, 2\]; gate=True"):
            door(some)
    assert torch.equal(policy.thresholds, thresholds)


def test_exit_without_a_gate_stops_a_run() -> None:
    with pytest.raises(ValidationError, match="wanted a gate at exit 1, got none; gate=True"):
        Gate(EXITS)(1, ExitOutput(torch.randn(2, 3)), {})
