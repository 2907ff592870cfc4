"""Fixed: one exit for everyone."""

from __future__ import annotations

import pytest

from offramp.errors import BudgetError, ValidationError
from offramp.policies.fixed import Fixed
from offramp.types import Costs, Records


@pytest.mark.parametrize("exit", [0, 1, 2, 3])
def test_given_exit_answers_for_everyone_without_a_fit(records: Records, exit: int) -> None:
    assert Fixed(4, exit).exits(records).unique().tolist() == [exit]


def test_default_is_the_last_exit(records: Records) -> None:
    assert Fixed(4).exits(records).unique().tolist() == [3]


@pytest.mark.parametrize(
    ("budget", "exit"), [(0.2, 0), (0.44, 0), (0.45, 1), (0.69, 1), (1.0, 2), (1.04, 3)]
)
def test_fit_takes_the_deepest_exit_within_the_budget(
    records: Records, costs: Costs, budget: float, exit: int
) -> None:
    assert Fixed(4, 3).fit(records, costs, budget).exits(records).unique().tolist() == [exit]


def test_exits_of_equal_cost_give_the_deepest(records: Records) -> None:
    costs = Costs.from_relative([0.2, 0.5, 0.5, 1.0])
    assert Fixed(4).fit(records, costs, 0.5).exits(records).unique().tolist() == [2]


@pytest.mark.parametrize("exit", [-1, 4])
def test_exit_out_of_range_names_the_range(exit: int) -> None:
    with pytest.raises(ValidationError, match=rf"exit in 0\.\.3, got {exit}"):
        Fixed(4, exit)


@pytest.mark.parametrize("budget", [0.1, 1.2])
def test_budget_out_of_reach_states_the_range(records: Records, costs: Costs, budget) -> None:
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.2, 1\.04\]"):
        Fixed(4).fit(records, costs, budget)
