"""Oracle: no choice of exits within the budget is more often right."""

from __future__ import annotations

import gc
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import offramp.policies.oracle as oracle_module
from offramp.functional import correctness
from offramp.policies.oracle import Oracle
from offramp.registry import policies
from offramp.types import Costs, Records


def right(records: Records) -> Tensor:
    return correctness(records.logits, records.targets)


def accuracy(policy, records: Records) -> float:
    return float(right(records).gather(1, policy.exits(records)[:, None]).mean())


def from_right(table: list[list[int]]) -> Records:
    """Records whose exit k is right for row n where ``table[n][k]`` is 1."""
    hits = torch.tensor(table).T  # [K, N]
    return Records.from_arrays(
        torch.stack([1.0 - hits, hits.float()], 2), torch.ones(len(table), dtype=torch.long)
    )


tables = st.integers(1, 4).flatmap(
    lambda exits: st.lists(
        st.lists(st.integers(0, 1), min_size=exits, max_size=exits), min_size=1, max_size=5
    )
)


@given(tables, st.floats(0, 1))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_labels_reach_the_best_of_all_choices(table: list[list[int]], share: float) -> None:
    exits, prices = len(table[0]), [0.2, 0.45, 0.7, 1.04]
    costs = Costs.from_relative(prices[:exits])
    budget = prices[0] + share * (prices[exits - 1] - prices[0])
    best = max(
        sum(row[k] for row, k in zip(table, choice, strict=True)) / len(table)
        for choice in product(range(exits), repeat=len(table))
        if sum(prices[k] for k in choice) / len(table) <= budget + 1e-9
    )
    records = from_right(table)
    policy = Oracle(exits).fit(records, costs, budget)
    assert accuracy(policy, records) == pytest.approx(best)
    assert float(costs.relative()[policy.exits(records)].mean()) <= budget + 1e-9


def test_upgrades_go_to_the_first_right_exit_cheapest_first(costs: Costs) -> None:
    records = from_right([[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    spent = [0.2, 0.2 + 0.25 / 5, 0.2 + 0.75 / 5, 0.2 + 1.59 / 5, 1.04]
    exits = [Oracle(4).fit(records, costs, budget).exits(records).tolist() for budget in spent]
    assert exits == [
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 2],
        [0, 3, 1, 0, 2],
        [0, 3, 1, 0, 2],  # money is left, and nothing to gain from it
    ]


def test_equal_gains_are_upgraded_one_by_one(costs: Costs) -> None:
    records = from_right([[0, 1, 1, 1]] * 1000)
    exits = Oracle(4).fit(records, costs, 0.2 + 0.25 * 0.37).exits(records)
    assert exits.bincount().tolist() == [630, 370]


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("values", [[0.2, 0.45, 0.7, 1.04], [0.2, 0.23, 0.95, 1.04]])
def test_maps_reach_the_best_mean_accuracy_within_one_image(
    maps: Records, values: list[float], budget: float
) -> None:
    costs = Costs.from_relative(values)
    table, prices = right(maps), costs.relative()
    bounds = []  # Lagrange: no choice within the budget beats this, whatever the price of cost
    for price in torch.linspace(0, 5, 2001, dtype=torch.float64):
        bounds.append(float((table - price * (prices - budget)).amax(1).mean()))
    policy = Oracle(4).fit(maps, costs, budget)
    assert min(bounds) - 1 / len(maps) <= accuracy(policy, maps) <= min(bounds) + 1e-9


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 0.9, 1.04])
@pytest.mark.parametrize("name", policies.names())
def test_no_policy_is_more_accurate(records: Records, costs: Costs, name: str, budget) -> None:
    other = policies.create(name, num_exits=4).fit(records, costs, budget)
    oracle = Oracle(4).fit(records, costs, budget)
    assert accuracy(oracle, records) >= accuracy(other, records)


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 0.9, 1.04])
@pytest.mark.parametrize("name", policies.names())
def test_no_policy_is_more_accurate_on_maps(maps: Records, costs: Costs, name: str, budget) -> None:
    other = policies.create(name, num_exits=4).fit(maps, costs, budget)
    oracle = Oracle(4).fit(maps, costs, budget)
    assert accuracy(oracle, maps) >= accuracy(other, maps) - 1 / len(maps)


def test_thresholds_carry_over_to_other_records(records: Records, costs: Costs) -> None:
    fitted, scored = records.take(range(0, 150)), records.take(range(150, 300))
    policy = Oracle(4).fit(fitted, costs, 0.5)
    spent = [float(costs.relative()[policy.exits(part)].mean()) for part in (fitted, scored)]
    assert spent[1] == pytest.approx(spent[0], abs=0.06)


def test_oracle_compares_records_with_their_targets_once(
    maps: Records, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    whole = oracle_module.correctness
    monkeypatch.setattr(oracle_module, "correctness", lambda *a: compared.append(1) or whole(*a))
    policy = Oracle(4).fit_points(maps, costs, [0.3, 0.6, 0.9])
    policy.exits_by_point(maps)
    assert len(compared) == 1
    other = maps.take(range(30))
    assert torch.equal(policy.scores(other), Oracle(4).fit(maps, costs, 0.3).scores(other))
    assert len(compared) == 4  # other records, twice, and these by a policy that is no copy
    del other
    gc.collect()
    assert len(policy.seen.found) == 1  # nothing is kept of records that are gone
