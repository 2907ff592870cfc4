"""max_prob, entropy and margin: the scores order inputs as the quantities they are named after."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offramp.policies.entropy import Entropy
from offramp.policies.margin import Margin
from offramp.policies.max_prob import MaxProb
from offramp.types import ExitOutput, Records


def probability(p: Tensor) -> Tensor:
    return p.amax(1)


def minus_entropy(p: Tensor) -> Tensor:
    return (p * p.log()).sum(1)


def margin(p: Tensor) -> Tensor:
    two = p.topk(2, 1).values
    return two[:, 0] - two[:, 1]


@pytest.mark.parametrize(
    ("policy", "literal"),
    [(MaxProb(4), probability), (Entropy(4), minus_entropy), (Margin(4), margin)],
    ids=["max_prob", "entropy", "margin"],
)
def test_score_orders_inputs_as_the_literal_quantity(policy, literal, records: Records) -> None:
    scores = policy.scores(records)
    for k, logits in enumerate(records.logits):
        wanted = literal(logits.double().softmax(1))
        order = wanted.argsort()
        gaps = wanted[order].diff() > 1e-6
        assert int(gaps.sum()) > 250
        assert bool((scores[order, k].diff()[gaps] > 0).all())


def test_binary_tasks_are_ordered_alike_by_all_three() -> None:
    out = ExitOutput(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)))
    orders = [policy(2).score(0, out, {})[0].argsort() for policy in (MaxProb, Entropy, Margin)]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
