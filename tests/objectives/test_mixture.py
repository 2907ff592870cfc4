"""The loss of the mixture (EENets v1) equals a slow loop over samples, for labels and maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp import create_objective
from offramp.errors import OptionError, ValidationError
from offramp.objectives.base import Objective
from offramp.types import Batch, Costs, ExitOutput

COSTS = Costs.from_relative([0.2, 0.5, 1.04])
OFTEN = pytest.mark.parametrize("name", ["mixture", "suffix_mixture", "expected_loss"])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def exits(rows: int, *size: int) -> list[ExitOutput]:
    """Three exits, four classes, gates on the early ones."""
    return [
        ExitOutput(drawn(rows, 4, *size, seed=k), drawn(rows, seed=9 + k) if k < 2 else None)
        for k in range(3)
    ]


def batch(target: Tensor, progress: float = 0.0) -> Batch:
    return Batch(torch.zeros(len(target), 1), target, torch.arange(len(target)), progress)


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def literal(outs: list[ExitOutput], target: list[int], costs: list[float]) -> tuple[float, float]:
    """NLL(Pm_1) and mean Cm_1, sample by sample, from the recursion of the paper."""
    losses, spent = [], []
    for n, label in enumerate(target):
        mixed, cost = softmax(outs[-1].logits[n].tolist()), costs[-1]
        for k in reversed(range(len(outs) - 1)):
            leave = 1 / (1 + math.exp(-float(outs[k].gate[n])))
            own = softmax(outs[k].logits[n].tolist())
            mixed = [leave * a + (1 - leave) * b for a, b in zip(own, mixed, strict=True)]
            cost = leave * costs[k] + (1 - leave) * cost
        if label >= 0:
            spent.append(cost)
            losses.append(-math.log(mixed[label]))
    return sum(losses) / max(1, len(losses)), sum(spent) / max(1, len(spent))


def values(objective: Objective, outs: list[ExitOutput], told: Batch) -> dict[str, float]:
    return {term.name: float(term.value.detach()) for term in objective(outs, told, COSTS)}


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.7])
def test_mixture_equals_the_loop_over_samples(weight):
    target = torch.tensor([0, 3, -100, 2, 1])
    found = values(create_objective("mixture", weight=weight), exits(5), batch(target))
    loss, cost = literal(exits(5), target.tolist(), COSTS.relative().tolist())
    assert found == pytest.approx({"nll": loss, "cost": weight * cost}, abs=1e-10)


def test_mixture_of_maps_has_one_gate_for_all_positions_of_an_input():
    outs, target = exits(2, 3, 2), torch.randint(0, 4, (2, 3, 2))
    target[1, 0] = 9
    losses = []
    for i in range(3):
        for j in range(2):
            for n in range(2):
                if target[n, i, j] < 9:
                    here = [
                        ExitOutput(
                            o.logits[n : n + 1, :, i, j],
                            o.gate if o.gate is None else o.gate[n : n + 1],
                        )
                        for o in outs
                    ]
                    losses.append(literal(here, [int(target[n, i, j])], [0.0] * 3)[0])
    objective = create_objective("mixture", ignore_index=9)
    assert values(objective, outs, batch(target))["nll"] == pytest.approx(
        sum(losses) / len(losses), abs=1e-10
    )


def test_mixture_brings_maps_to_the_size_of_the_target():
    outs, target = exits(2, 3, 3), torch.randint(0, 4, (2, 6, 6))
    grown = [
        out._replace(logits=F.interpolate(out.logits, (6, 6), mode="bilinear")) for out in outs
    ]
    objective = create_objective("mixture")
    assert values(objective, outs, batch(target)) == values(objective, grown, batch(target))


def test_mixture_smooths_labels_as_the_mean_over_all_classes():
    target, smooth = torch.tensor([0, 3, -100, 1]), 0.2
    found = values(create_objective("mixture", label_smoothing=smooth), exits(4), batch(target))
    own, _ = literal(exits(4), target.tolist(), [0.0] * 3)
    even = 0.0
    for label in range(4):
        each = [label if n >= 0 else -100 for n in target.tolist()]
        even += literal(exits(4), each, [0.0] * 3)[0] / 4
    assert found["nll"] == pytest.approx((1 - smooth) * own + smooth * even, abs=1e-10)


def test_mixture_weight_follows_its_schedule():
    objective = create_objective("mixture", weight={0: 0.0, 0.5: 2.0})
    target = torch.tensor([0, 1])
    cost = literal(exits(2), [0, 1], COSTS.relative().tolist())[1]
    assert values(objective, exits(2), batch(target, 0.4))["cost"] == 0
    found = values(objective, exits(2), batch(target, 0.5))["cost"]
    assert found == pytest.approx(2 * cost, abs=1e-10)


def test_mixture_is_in_the_unit_asked_for():
    costs = Costs(COSTS.macs, params=torch.tensor([1.0, 2.0, 4.0]), full={"macs": 1, "params": 4})
    objective = create_objective("mixture", unit="params")
    terms = {t.name: t.value for t in objective(exits(2), batch(torch.tensor([0, 1])), costs)}
    wanted = literal(exits(2), [0, 1], [0.25, 0.5, 1.0])[1]
    assert float(terms["cost"]) == pytest.approx(wanted, abs=1e-10)


# ----------------------------------------------------------------------- all of the family
@OFTEN
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_gated_objectives_are_finite_for_sure_gates_and_answers(name, dtype, smooth):
    signs = torch.tensor([[a, b] for a in (-1, 1) for b in (-1, 1)] * 2, dtype=dtype)
    target = torch.tensor([0] * 4 + [1] * 4)
    outs = []
    for k in range(3):
        logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype).repeat_interleave(4, 0)
        logits = (logits if k == 1 else -logits).requires_grad_()
        outs.append(ExitOutput(logits, (1e4 * signs[:, k]).requires_grad_() if k < 2 else None))
    terms = create_objective(name, label_smoothing=smooth)(outs, batch(target), COSTS)
    total = torch.stack([term.value for term in terms]).sum()
    total.backward()
    assert math.isfinite(float(total.detach()))
    assert total.dtype == dtype
    for out in outs:
        assert bool(out.logits.grad.isfinite().all())
        assert out.gate is None or bool(out.gate.grad.isfinite().all())


@OFTEN
def test_gated_objectives_have_the_gradients_of_finite_differences(name):
    target = torch.tensor([0, 3, -100])

    def loss(*given: Tensor) -> Tensor:
        outs = [ExitOutput(given[0], given[3]), ExitOutput(given[1], given[4]), exits(3)[2]]
        outs[2] = ExitOutput(given[2])
        terms = create_objective(name)(outs, batch(target), COSTS)
        return torch.stack([term.value for term in terms]).sum()

    outs = exits(3)
    given = [*(out.logits for out in outs), *(out.gate for out in outs[:2])]
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in given])


@OFTEN
def test_gated_objectives_are_zero_where_every_target_is_ignored(name):
    terms = create_objective(name, weight=0.0)(exits(2), batch(torch.tensor([-1, -100])), COSTS)
    assert [float(term.value) for term in terms] == [0.0] * len(terms)


@OFTEN
@pytest.mark.parametrize("rows", [0, 1])
def test_gated_objectives_take_few_rows(name, rows):
    for target in (torch.zeros(rows).long(), torch.zeros(rows, 2, 2).long()):
        outs = exits(rows, *target.shape[1:])
        for term in create_objective(name, target_cost=0.4)(outs, batch(target), COSTS):
            assert math.isfinite(float(term.value))


@OFTEN
def test_gated_objectives_say_that_gates_are_missing(name):
    bare = [out._replace(gate=None) for out in exits(2)]
    with pytest.raises(ValidationError, match=r"none at exits \[0, 1\]; gate=True"):
        create_objective(name)(bare, batch(torch.tensor([0, 1])), COSTS)


@OFTEN
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight as a finite number of at least 0"),
        ({"weight": "large"}, "weight as a finite number.*got 'large'"),
        ({"weight": {0.5: 1.0}}, r"the first of them 0.*got \[0.5\]"),
        ({"weight": {0: math.nan}}, "weight as a finite number.*got nan"),
        ({"target_cost": 0.0}, "target_cost as a positive number.*got 0.0"),
        ({"target_cost": True}, "target_cost as a positive number.*got True"),
        ({"target_cost": 0.4, "weight": 2.0}, "one of weight and target_cost, got weight=2.0"),
        ({"unit": "flops"}, r"unit as one of \['macs', 'params', 'latency_ms'\], got 'flops'"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\)"),
    ],
)
def test_gated_objectives_refuse_bad_options(name, options, message):
    with pytest.raises(ValidationError, match=message):
        create_objective(name, **options)


@OFTEN
def test_gated_objectives_name_the_options_they_take(name):
    with pytest.raises(OptionError, match=r"lambda_coef.*target_cost"):
        create_objective(name, lambda_coef=1.0)


@OFTEN
def test_gated_objectives_say_that_a_schedule_gives_no_weight(name):
    objective = create_objective(name, weight=lambda num, progress: -progress)
    with pytest.raises(ValidationError, match=r"weight as a finite number of.*got -0\.5"):
        objective(exits(2), batch(torch.tensor([0, 1]), 0.5), COSTS)


@OFTEN
def test_gated_objectives_say_that_a_target_is_no_class(name):
    with pytest.raises(ValidationError, match="wanted targets below C=4, got 7"):
        create_objective(name)(exits(2), batch(torch.tensor([0, 7])), COSTS)
