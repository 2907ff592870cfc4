"""The mean cost of every policy on the records it is fitted on never exceeds the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.registry import policies
from offramp.trees import take
from offramp.types import Costs, Records, Shard

KINDS = ("random", "tied", "huge", "one_hot", "one_hot_bf16", "constant", "some_nan", "all_nan")


def make_logits(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """[K, N, C, *S] of one troublesome kind."""
    logits = torch.randn(shape, generator=generator)
    one_hot = 50.0 * (logits == logits.amax(2, keepdim=True))
    made = {
        "random": lambda: logits,
        "tied": lambda: logits.round(),
        "huge": lambda: 1e4 * logits.sign(),
        "one_hot": lambda: one_hot,
        "one_hot_bf16": lambda: (one_hot + logits).bfloat16(),
        "constant": lambda: torch.full(shape, 3.0),
        "some_nan": lambda: logits.where(torch.rand(shape, generator=generator) > 0.1, torch.nan),
        "all_nan": lambda: torch.full(shape, torch.nan),
    }
    return made[kind]()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Records, Costs, float]:
    """Records, costs, equal ones included, and a budget within reach."""
    steps = draw(st.lists(st.sampled_from([0.0, 0.03, 0.2, 0.6]), min_size=1, max_size=6))
    costs = torch.tensor(steps, dtype=torch.float64).cumsum(0) + 0.1
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    num, classes = draw(st.integers(1, 200)), draw(st.integers(2, 5))
    size = draw(st.sampled_from([(), (), (2, 3)]))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=len(steps), max_size=len(steps)))
    logits = [make_logits(kind, (1, num, classes, *size), generator)[0] for kind in kinds]
    targets = torch.randint(classes, (num, *size), generator=generator)
    gates = [z.flatten(1)[:, 0] for z in logits[:-1]]  # as troublesome as the logits
    share = draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)))
    low, high = float(costs[0]), float(costs[-1])
    budget = low + share * (high - low)
    return Records.from_arrays(logits, targets, [*gates, None]), Costs.from_relative(costs), budget


OPTIONS: list[dict[str, Any]] = [{}, {"temperature": True, "reduce": "worst_patch"}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "temperature"])
@pytest.mark.parametrize("name", policies.names())
@given(problem=problems())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_mean_cost_never_exceeds_the_budget(
    name: str, options: dict[str, Any], problem: tuple[Records, Costs, float]
) -> None:
    records, costs, budget = problem
    policy = policies.create(name, num_exits=records.num_exits, **options)
    exits = policy.fit(records, costs, budget).exits(records)
    assert float(costs.relative()[exits].mean()) <= budget + 1e-8
    assert bool(((exits >= 0) & (exits < records.num_exits)).all())


@pytest.mark.parametrize("name", policies.names())
def test_budget_at_either_end_is_the_first_or_the_last_exit(
    name: str, records: Records, costs: Costs
) -> None:
    policy = policies.create(name, num_exits=4)
    assert policy.fit(records, costs, 0.2).exits(records).unique().tolist() == [0]
    if name != "oracle":  # it spends nothing where nothing is gained
        assert policy.fit(records, costs, 1.04).exits(records).unique().tolist() == [3]


@pytest.mark.parametrize("name", policies.names())
def test_scores_do_not_depend_on_how_records_are_sharded(name: str, records: Records) -> None:
    shard = records.shards[0]
    parts = [slice(0, 7), slice(7, 200), slice(200, 300)]
    cut = Records(
        [
            Shard([take(out, torch.arange(300)[p]) for out in shard.outputs], shard.targets[p])
            for p in parts
        ]
    )
    policy = policies.create(name, num_exits=4)
    torch.testing.assert_close(policy.scores(cut), policy.scores(records))
