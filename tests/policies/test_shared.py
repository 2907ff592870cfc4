"""Shared: one threshold for all exits, and no better one."""

from __future__ import annotations

import pytest
import torch

from offramp.errors import BudgetError
from offramp.functional import first_exit
from offramp.policies.shared import Shared
from offramp.types import Costs, Records


@pytest.mark.parametrize("budget", [0.2, 0.25, 0.5, 0.8, 1.04])
def test_threshold_is_one_and_spends_the_most(records: Records, costs: Costs, budget) -> None:
    policy = Shared(4).fit(records, costs, budget)
    scores, relative = policy.scores(records), costs.relative()
    assert policy.thresholds[:-1].unique().numel() == 1
    spent = float(relative[policy.exits(records)].mean())
    assert spent <= budget + 1e-9
    for threshold in [float("-inf"), *scores.flatten().tolist(), float("inf")]:
        cost = float(relative[first_exit(scores, torch.full((4,), threshold))].mean())
        assert cost <= spent or cost > budget


@pytest.mark.parametrize("budget", [0.1, 1.2])
def test_budget_out_of_reach_states_the_range(records: Records, costs: Costs, budget) -> None:
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.2, 1\.04\]"):
        Shared(4).fit(records, costs, budget)
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.2, 1\.04\]"):
        Shared(4).place(torch.rand(5, 4), costs.relative(), budget)
