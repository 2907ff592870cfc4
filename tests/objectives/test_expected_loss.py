"""LEENet's expected cross-entropy and cost equal its double sum, sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp import create_objective
from offramp.errors import ValidationError
from offramp.types import Batch, Costs, ExitOutput

COSTS = Costs.from_relative([0.2, 0.5, 1.04])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def exits(rows: int, *size: int) -> list[ExitOutput]:
    return [
        ExitOutput(drawn(rows, 4, *size, seed=k), drawn(rows, seed=9 + k) if k < 2 else None)
        for k in range(3)
    ]


def batch(target: Tensor, progress: float = 0.0) -> Batch:
    return Batch(torch.zeros(len(target), 1), target, torch.arange(len(target)), progress)


def surprise(logits: Tensor, label: int) -> float:
    row = logits.tolist()
    return math.log(sum(math.exp(x) for x in row)) - row[label]


def literal(gates: list[float], values: list[float]) -> float:
    """The double sum for one sample: R_i g_i v_i over exits, and R times the last value."""
    expected = 0.0
    for i, gate in enumerate(gates):
        reached = 1.0
        for before in gates[:i]:
            reached *= 1 - 1 / (1 + math.exp(-before))
        expected += reached * values[i] / (1 + math.exp(-gate))
    reached = 1.0
    for before in gates:
        reached *= 1 - 1 / (1 + math.exp(-before))
    return expected + reached * values[-1]


def wanted(outs: list[ExitOutput], target: Tensor) -> tuple[float, float]:
    """E_CE over the targets that count, and E_cost over inputs that have one."""
    losses, spent = [], []
    for n in range(len(target)):
        gates = [float(out.gate[n]) for out in outs[:-1]]
        if bool((target[n] >= 0).any()):
            spent.append(literal(gates, COSTS.relative().tolist()))
        flat = [out.logits[n].reshape(4, -1) for out in outs]
        for position, label in enumerate(target[n].reshape(-1).tolist()):
            if label >= 0:
                each = [surprise(logits[:, position], label) for logits in flat]
                losses.append(literal(gates, each))
    return sum(losses) / len(losses), sum(spent) / len(spent)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(), (3, 2)])
def test_expected_loss_equals_the_double_sum(alpha, size):
    target = torch.randint(0, 4, (5, *size))
    target[2] = -100
    terms = create_objective("expected_loss", alpha=alpha)(exits(5, *size), batch(target), COSTS)
    loss, cost = wanted(exits(5, *size), target)
    found = {term.name: float(term.value) for term in terms}
    assert found == pytest.approx({"ce": (1 - alpha) * loss, "cost": alpha * cost}, abs=1e-10)
    assert all(term.since == 0 for term in terms)


def test_expected_loss_by_weight_is_that_by_alpha_but_for_a_factor():
    target = torch.tensor([0, 3, 1])
    by_weight = create_objective("expected_loss", weight=0.25)(exits(3), batch(target), COSTS)
    by_alpha = create_objective("expected_loss", alpha=0.2)(exits(3), batch(target), COSTS)
    for one, other in zip(by_weight, by_alpha, strict=True):
        torch.testing.assert_close(0.8 * one.value, other.value, rtol=1e-10, atol=1e-10)


def test_expected_loss_is_at_least_that_of_the_mixture():
    target = torch.randint(0, 4, (50,))
    expected = create_objective("expected_loss")(exits(50), batch(target), COSTS)
    mixed = create_objective("mixture")(exits(50), batch(target), COSTS)
    assert expected[0].value > mixed[0].value
    torch.testing.assert_close(expected[1].value, mixed[1].value)


def test_expected_loss_smooths_labels_of_every_exit():
    target, smooth = torch.tensor([0, 3, 1]), 0.2
    found = create_objective("expected_loss", label_smoothing=smooth)(
        exits(3), batch(target), COSTS
    )
    even = sum(wanted(exits(3), torch.full((3,), label))[0] for label in range(4)) / 4
    own, _ = wanted(exits(3), target)
    assert float(found[0].value) == pytest.approx((1 - smooth) * own + smooth * even, abs=1e-10)


def test_expected_loss_alpha_follows_its_schedule():
    objective = create_objective("expected_loss", alpha={0: 0.0, 0.5: 1.0})
    target = torch.tensor([0, 1])
    early = objective(exits(2), batch(target, 0.4), COSTS)
    late = objective(exits(2), batch(target, 0.6), COSTS)
    assert float(early[1].value) == 0 == float(late[0].value)
    assert float(early[0].value) > 0 < float(late[1].value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha as a share in \[0, 1\] or a schedule, got 1.5"),
        ({"alpha": "half"}, "got 'half'"),
        ({"alpha": True}, "got True"),
        ({"alpha": {0.5: 0.1}}, "the first of them 0"),
        ({"alpha": 0.5, "weight": 2.0}, "one of weight, alpha and target_cost, got weight=2.0"),
        ({"alpha": 0.5, "target_cost": 0.4}, "one of weight, alpha and target_cost"),
    ],
)
def test_expected_loss_refuses_a_bad_alpha(options, message):
    with pytest.raises(ValidationError, match=message):
        create_objective("expected_loss", **options)


def test_expected_loss_says_that_a_schedule_gives_no_share():
    objective = create_objective("expected_loss", alpha=lambda num, progress: 2.0)
    with pytest.raises(ValidationError, match=r"alpha as a share.*got 2\.0"):
        objective(exits(2), batch(torch.tensor([0, 1])), COSTS)
