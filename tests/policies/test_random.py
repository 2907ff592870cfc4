"""Random: a control that knows nothing."""

from __future__ import annotations

import pytest
import torch

from offramp.errors import UnsupportedError
from offramp.functional import rates_for_budget
from offramp.policies.random import Random
from offramp.types import Costs, ExitOutput, Records


def test_scores_are_the_same_on_every_call_and_differ_by_seed(records: Records) -> None:
    policy = Random(4, seed=3)
    assert torch.equal(policy.scores(records), policy.scores(records))
    assert not torch.equal(policy.scores(records), Random(4, seed=4).scores(records))


def test_scores_leave_the_global_random_state_alone(records: Records) -> None:
    before = torch.random.get_rng_state()
    Random(4).scores(records)
    assert torch.equal(before, torch.random.get_rng_state())


def test_exit_rates_are_those_of_the_budget_whatever_the_logits(
    records: Records, costs: Costs
) -> None:
    exits = Random(4).fit(records, costs, 0.6).exits(records)
    wanted = rates_for_budget(costs.relative(), 0.6)
    rates = exits.bincount(minlength=4) / len(exits)
    torch.testing.assert_close(rates, wanted.float(), atol=1.01 / len(exits), rtol=0)
    certain = torch.stack(records.logits).softmax(2).amax(2)[0]
    late, early = certain[exits == 3].mean(), certain[exits == 0].mean()
    assert abs(float(late - early)) < 0.05  # the certain ones do not leave sooner


def test_control_does_not_run() -> None:
    with pytest.raises(UnsupportedError, match="Random is an offline control"):
        Random(2)(0, ExitOutput(torch.zeros(1, 2)), {})
