"""The loss of all suffixes (EENets v2) equals a slow loop over samples and suffixes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp import create_objective
from offramp.types import Batch, Costs, ExitOutput

COSTS = Costs.from_relative([0.2, 0.5, 0.8, 1.04])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def exits(rows: int) -> list[ExitOutput]:
    """Four exits, five classes; the last one has a gate too, which does not count."""
    return [ExitOutput(drawn(rows, 5, seed=k), drawn(rows, seed=9 + k)) for k in range(4)]


def batch(target: Tensor) -> Batch:
    return Batch(torch.zeros(len(target), 1), target, torch.arange(len(target)), 0.0)


def literal(outs: list[ExitOutput], target: list[int], first: int) -> tuple[float, float]:
    """NLL(Pm_i) and mean Cm_i for the suffix that begins at one exit, sample by sample."""
    loss, spent, counted = 0.0, 0.0, 0
    for n, label in enumerate(target):
        reached, right, cost = 1.0, 0.0, 0.0
        for k in range(first, 4):
            gate = float(outs[k].gate[n])
            leave = 1.0 if k == 3 else 1 / (1 + math.exp(-gate))
            row = outs[k].logits[n].tolist()
            probs = [math.exp(x) / sum(math.exp(y) for y in row) for x in row]
            right += reached * leave * probs[max(label, 0)]
            cost += reached * leave * COSTS.relative().tolist()[k]
            reached *= 1 - leave
        if label >= 0:
            spent += cost
            loss, counted = loss - math.log(right), counted + 1
    return loss / counted, spent / counted


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_suffix_mixture_equals_the_loop_over_samples_and_suffixes(weight):
    target = torch.tensor([0, 3, -100, 2, 1, 4])
    outs = exits(6)
    terms = create_objective("suffix_mixture", weight=weight)(outs, batch(target), COSTS)
    found = {term.name: float(term.value) for term in terms}
    parts = [literal(outs, target.tolist(), first) for first in range(4)]
    wanted = {f"nll/{k}": loss for k, (loss, _) in enumerate(parts)}
    wanted["cost"] = weight * sum(cost for _, cost in parts)
    assert found == pytest.approx(wanted, abs=1e-10)
    assert all(term.since == 0 for term in terms)


def test_suffix_mixture_ends_with_the_last_exit_alone():
    outs, target = exits(3), torch.tensor([0, 3, 2])
    terms = {
        t.name: t.value for t in create_objective("suffix_mixture")(outs, batch(target), COSTS)
    }
    alone = create_objective("joint")(outs, batch(target), COSTS)[-1].value
    torch.testing.assert_close(terms["nll/3"], alone)


def test_suffix_mixture_and_mixture_share_the_first_suffix():
    outs, target = exits(3), torch.tensor([0, 3, 2])
    every = create_objective("suffix_mixture")(outs, batch(target), COSTS)
    one = create_objective("mixture")(outs, batch(target), COSTS)
    torch.testing.assert_close(every[0].value, one[0].value)
