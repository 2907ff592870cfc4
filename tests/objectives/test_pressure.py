"""Lambda lands the realised mean cost at its target, where fixed ones collapse to one exit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.errors import BudgetError
from offramp.heads import LinearHead
from offramp.mixture import exit_log_probs, suffix_costs
from offramp.objectives import pressure as module
from offramp.objectives.pressure import CostPressure, Parts, cost_offset
from offramp.train.mixing import Partner, ask
from offramp.types import Batch, Costs, ExitOutput, Term

COSTS = Costs.from_relative([0.2, 0.5, 1.0])
RELATIVE = COSTS.relative()
NAMES = ("mixture", "suffix_mixture", "batch_mixture", "pseudo_exit", "expected_loss")


def batch(progress: float, rows: int = 1) -> Batch:
    return Batch(torch.zeros(rows), torch.zeros(rows).long(), torch.arange(rows), progress)


def hard_costs(gates: Tensor, costs: Tensor, threshold: float = 0.0) -> Tensor:
    """Cost of each input that leaves at the first gate above a threshold, [N, K-1] -> [N]."""
    leave = nn.functional.pad((gates > threshold).int(), (0, 1), value=1)
    return costs[leave.argmax(1)]


def drawn(rows: int, seed: int = 0) -> Tensor:
    gates = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (gates + 1).requires_grad_()


def losses(rows: int) -> Tensor:
    """Of three exits, the later the better, and more so for later rows, [N, K]."""
    worth = torch.linspace(0.1, 1, rows, dtype=torch.float64)
    return torch.stack([2 * worth, worth, 0 * worth], 1)


def parts_of(rows: int, lost: Tensor | None = None) -> Parts:
    """Expected loss and cost of gates, means over rows."""
    lost = losses(rows) if lost is None else lost

    def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
        leave = exit_log_probs(gates).exp()
        cost = suffix_costs(gates, RELATIVE)[:, 0].sum() / max(1, rows)
        return [Term("loss", (leave * lost).sum() / max(1, rows))], cost

    return parts


def weigh(pressure: CostPressure, gates: Tensor, progress: float, **named: float):
    rows = len(gates)
    terms = pressure.weigh(
        parts_of(rows), gates, COSTS, batch(progress, rows), torch.zeros(rows).long(), **named
    )
    return {term.name: term.value for term in terms}


def run(pressure: CostPressure, steps: range, total: int = 40, rows: int = 16) -> list[float]:
    """Lambda after each step, of gates that are drawn anew for each."""
    found = []
    for step in steps:
        weigh(pressure, drawn(rows, step), step / total)
        found.append(float(pressure.found))
    return found


# ----------------------------------------------------------------------- what is given
def test_lambda_is_the_weight_or_follows_its_schedule():
    gates = drawn(3)
    cost = float(suffix_costs(gates.detach(), RELATIVE)[:, 0].mean())
    for weight, wanted in ((0.7, 0.7), ({0: 0.7, 0.5: 2}, 2.0), (lambda num, p: num * p, 1.5)):
        terms = weigh(CostPressure(weight), gates, 0.5)
        assert list(terms) == ["loss", "cost"]
        assert float(terms["cost"].detach()) == pytest.approx(wanted * cost)


@pytest.mark.parametrize("target", [0.19, 1.01, 30.5])
def test_target_out_of_reach_names_the_reachable_range(target):
    message = rf"target_cost of {target} is out of reach.*reachable range is \[0.2, 1\]"
    with pytest.raises(BudgetError, match=message):
        weigh(CostPressure(target=target), drawn(3), 0.0)


@pytest.mark.parametrize("target", [0.2, 1.0])
def test_targets_at_the_ends_are_within_reach(target):
    pressure = CostPressure(target=target)
    assert all(math.isfinite(value) for value in run(pressure, range(40)))
    assert abs(float(pressure.found)) <= 10 / 0.8 + 1e-6


def test_exits_of_equal_costs_leave_nothing_to_weigh():
    pressure, gates = CostPressure(target=0.5), drawn(8)
    same = Costs.from_relative([0.5] * 3)
    for step in range(5):
        terms = pressure.weigh(
            parts_of(8), gates, same, batch(step / 5), torch.zeros(8, dtype=torch.long)
        )
        assert all(math.isfinite(float(term.value.detach())) for term in terms)


# ----------------------------------------------------------------------- the offset
@pytest.mark.parametrize("target", [0.2, 0.21, 0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize(("scale", "move"), [(1, 0), (5, 3), (1e-3, -2), (0.0, 1)])
def test_cost_at_the_offset_is_the_target(target, scale, move):
    gates = drawn(500).detach() * scale + move
    offset = float(cost_offset(gates, RELATIVE, target))
    spent = float(hard_costs(gates, RELATIVE, offset).mean())
    if scale:
        assert spent == pytest.approx(target, abs=0.002 * 0.8 + 1 / 500)
    # no offset nearer to zero does: a threshold by a thousandth nearer, where there is one
    nearer = offset * 0.999 - math.copysign(1e-5, offset) if abs(offset) > 1e-5 else offset
    spent = float(hard_costs(gates, RELATIVE, nearer).mean())
    if nearer != offset and 0 < abs(offset) < 9 and scale >= 1:
        assert abs(spent - target) >= 0.002 * 0.8 - 2 / 500


def test_offset_is_zero_where_gates_meet_the_target_as_they_are():
    gates = torch.tensor([[-3.0, 4.0], [2.0, -1.0], [-5.0, -6.0], [-2.0, -2.5]])
    spent = float(hard_costs(gates, RELATIVE).mean())
    assert float(cost_offset(gates, RELATIVE, spent)) == 0


def test_offset_counts_inputs_by_their_weights_and_no_nan():
    gates = drawn(60).detach()
    wanted = float(cost_offset(gates[:40], RELATIVE, 0.4))
    weights = (torch.arange(60) < 40).double()
    assert float(cost_offset(gates, RELATIVE, 0.4, weights)) == pytest.approx(wanted, abs=1e-9)
    broken = torch.cat([gates[:40], torch.full((40, 2), math.nan)])
    spent = hard_costs(broken, RELATIVE, float(cost_offset(broken, RELATIVE, 0.7))).mean()
    assert float(spent) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_offset_of_few_inputs_is_as_often_above_as_below_the_target(target):
    spent = []
    for seed in range(400):
        gates = drawn(8, seed).detach()
        spent.append(hard_costs(gates, RELATIVE, float(cost_offset(gates, RELATIVE, target))))
    assert float(torch.cat(spent).mean()) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_which_nothing_counts_pulls_no_gate(name):
    gates = drawn(4).detach().float().split(1, 1)
    gates = [gate.squeeze(1).requires_grad_() for gate in gates]
    outs = [ExitOutput(torch.randn(4, 3), gate) for gate in (*gates, None)]
    ignored = torch.full((4,), -100)
    objective = offramp.create_objective(name, target_cost=0.4)
    told = Batch(torch.zeros(4), ignored, torch.arange(4), 0.1)
    terms = objective(outs, told, COSTS)
    torch.stack([term.value for term in terms]).sum().backward()
    assert [float(term.value.detach()) for term in terms] == [0] * len(terms)
    assert all(not gate.grad.any() for gate in gates)


def test_gates_are_looked_at_from_where_the_target_is_met():
    seen: list[Tensor] = []

    def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
        seen.append(gates.detach())
        return parts_of(200)(gates)

    target, threshold = torch.zeros(200).long(), 0.7
    pressure = CostPressure(target=0.4)
    for move in (-4.0, 6.0):
        gates = (drawn(200) + move).detach().requires_grad_()
        pressure.weigh(parts, gates, COSTS, batch(0.1), target, threshold=threshold)
        spent = hard_costs(seen[-1], RELATIVE, threshold).mean()
        assert float(spent) == pytest.approx(0.4, abs=0.01)
        with torch.no_grad():
            pressure.weigh(parts, gates, COSTS, batch(0.1), target, threshold=threshold)
        assert torch.equal(seen[-1], gates.detach())


def test_anchor_pulls_all_gates_alike_to_where_the_offset_is_zero():
    for move in (-2.0, 2.0):
        gates = (drawn(50) + move).detach().requires_grad_()
        offset = float(cost_offset(gates.detach(), RELATIVE, 0.4))
        anchor = weigh(CostPressure(target=0.4), gates, 0.1)["anchor"]
        assert float(anchor.detach()) == pytest.approx(module._ANCHOR * offset**2 / 2)
        (pull,) = torch.autograd.grad(anchor, gates)
        assert pull.unique().tolist() == pytest.approx([module._ANCHOR * offset / 50])
        assert math.copysign(1, offset) == math.copysign(1, move)


# ----------------------------------------------------------------------- lambda
def literal(target: float, steps: int, rows: int, window: int = 1024) -> list[float]:
    """Lambda in plain numbers, the derivatives by finite differences."""
    loss = cost = found = 0.0
    seen, every, step = 0, [], 1e-5
    for number in range(steps):
        every.append(found)
        gates = drawn(rows, number).detach()
        gates = gates - float(cost_offset(gates, RELATIVE, target))
        at = [parts_of(rows)(gates + way * step) for way in (1, -1)]
        # to raise the offset is to lower the gates
        slopes = [
            -float(up - down) / (2 * step)
            for up, down in ((at[0][0][0].value, at[1][0][0].value), (at[0][1], at[1][1]))
        ]
        seen += rows
        share = min(1, rows / min(seen, window))
        loss, cost = loss + share * (slopes[0] - loss), cost + share * (slopes[1] - cost)
        found = max(-10 / 0.8, min(10 / 0.8, -loss / cost))
    return every


@pytest.mark.parametrize(("target", "rows"), [(0.3, 16), (0.7, 300)])
def test_lambda_is_what_the_loss_gains_from_a_unit_of_cost(target, rows):
    found = run(CostPressure(target=target), range(40), rows=rows)
    assert found == pytest.approx(literal(target, 40, rows), rel=1e-4)
    assert found[0] == 0 < found[1]


def test_loss_and_cost_together_pull_gates_neither_up_nor_down():
    pressure, gates = CostPressure(target=0.4), drawn(64)
    for progress in (0.0, 0.1):
        terms = weigh(pressure, gates, progress)
    (pull,) = torch.autograd.grad(terms["loss"] + terms["cost"], gates)
    assert float(pull.sum()) == pytest.approx(0, abs=1e-7)
    assert float(pull.abs().max()) > 1e-4


def test_lambda_is_negative_where_the_earlier_exit_is_the_better_one():
    pressure, gates = CostPressure(target=0.6), drawn(32)
    for progress in (0.0, 0.1):
        pressure.weigh(
            parts_of(32, -losses(32)), gates, COSTS, batch(progress), torch.zeros(32).long()
        )
    assert float(pressure.found) < 0


class Inputs(nn.Module):
    """Gates learnt for each input by itself; the later exit is worth a little more to some."""

    def __init__(self, rows: int, move: float) -> None:
        super().__init__()
        start = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
        self.gates = nn.Parameter(start + move)
        self.parts = parts_of(rows, 0.1 * losses(rows))

    def train_with(self, terms: Callable[..., list[Term]], steps: int = 200) -> Tensor:
        """Costs of the inputs, each leaving at the first gate above one half, [N]."""
        optimizer = torch.optim.Adam(self.parameters(), 0.1)
        rows = len(self.gates)
        for step in range(steps):
            told = batch(step / steps, rows)
            found = terms(self.parts, self.gates, COSTS, told, torch.zeros(rows).long())
            optimizer.zero_grad()
            torch.stack([term.value for term in found]).sum().backward()
            optimizer.step()
        return hard_costs(self.gates.detach(), RELATIVE)


@pytest.mark.parametrize("move", [-8.0, 0.0, 8.0])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_gates_that_learn_land_at_the_target_cost(target, move):
    spent = Inputs(100, move).train_with(CostPressure(target=target).weigh)
    assert float(spent.mean()) == pytest.approx(target, abs=0.05)  # the rate does not fall
    assert len(spent.unique()) > 1


@pytest.mark.parametrize("weight", [0.5, 1.5])
def test_gates_under_the_same_losses_collapse_with_a_fixed_lambda(weight):
    spent = Inputs(100, 0.0).train_with(CostPressure(weight).weigh)
    assert spent.unique().tolist() == pytest.approx([0.2])


@pytest.mark.parametrize(
    "name",
    [n if n == "suffix_mixture" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_network_on_digits_lands_near_its_target_at_no_single_exit(name):
    """A residual network whose exits all know the training images before long."""
    digits = offramp.create_dataset("digits")
    torch.manual_seed(0)
    model = offramp.create_model("resnet_cifar", depth=8, in_channels=1, head="conv", gate=True)
    objective = offramp.create_objective(name, target_cost=0.7)
    options = {"epochs": 6, "batch_size": 32, "optimizer": "adam", "lr": 0.003}
    offramp.fit(model, digits.train, objective, progress=False, **options)
    costs = offramp.measure(model.eval(), digits.example(1), latency=False)
    records = offramp.record(model, digits.validation, progress=False)
    threshold = 1 / 3 if name == "batch_mixture" else 0.5
    rule = offramp.create_policy("gate", num_exits=3, threshold=threshold)
    result = offramp.evaluate(rule, records, costs)
    assert result.cost == pytest.approx(0.7, abs=0.12)
    assert max(each.rate for each in result.exits) < 0.9


# ----------------------------------------------------------------------- its state
def test_resumed_pressure_goes_on_exactly():
    whole = CostPressure(target=0.4)
    wanted = run(whole, range(40))
    first = CostPressure(target=0.4)
    run(first, range(23))
    second = CostPressure(target=0.4)
    second.load_state_dict(first.state_dict())
    assert run(second, range(23, 40)) == wanted[23:]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)


def test_batches_of_one_step_share_lambda():
    pressure = CostPressure(target=0.4)
    run(pressure, range(20))
    found = set()
    for seed in range(4):
        weigh(pressure, drawn(16, seed), 0.5)
        found.add(float(pressure.found))
    assert len(found) == 1
    weigh(pressure, drawn(16), 0.6)
    assert float(pressure.found) not in found
    assert float(pressure.seen) == 20 * 16 + 4 * 16


def test_nothing_changes_where_no_gate_learns():
    pressure = CostPressure(target=0.4)
    run(pressure, range(5))
    before = {name: value.clone() for name, value in pressure.state_dict().items()}
    cost = suffix_costs(drawn(16).detach(), RELATIVE)[:, 0].mean()
    with torch.no_grad():
        terms = weigh(pressure, drawn(16), 0.9)
    assert float(terms["cost"]) == pytest.approx(float(pressure.found * cost))
    weigh(pressure, drawn(16).detach(), 0.9)
    for name, value in pressure.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", NAMES)
def test_inputs_whose_targets_do_not_count_move_nothing(name):
    whole, more = (offramp.create_objective(name, target_cost=0.4) for _ in range(2))
    for step in range(5):
        gates = drawn(48, step).detach()
        logits = torch.randn(48, 3, 3, generator=torch.Generator().manual_seed(step)).double()
        target = (torch.arange(48) % 3).masked_fill(torch.arange(48) >= 16, -100)
        for objective, rows in ((whole, 16), (more, 48)):
            asked = gates[:rows].clone().requires_grad_()
            outs = [ExitOutput(logits[:rows, k], asked[:, k] if k < 2 else None) for k in range(3)]
            told = Batch(torch.zeros(rows), target[:rows], torch.arange(rows), step / 5)
            torch.stack([term.value for term in objective(outs, told, COSTS)]).sum().backward()
            assert not asked.grad[16:].any()
    assert float(whole.pressure.found) != 0
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(more.state_dict()[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_inputs_count_by_their_shares(name):
    """A partner of share 0 is none, and training goes through the objective twice a step."""
    objective, other = (offramp.create_objective(name, target_cost=0.4) for _ in range(2))
    gates = drawn(16).detach().requires_grad_()
    outs = [
        ExitOutput(torch.randn(16, 3).double(), gates[:, k] if k < 2 else None) for k in range(3)
    ]
    target = torch.arange(16) % 3
    for progress in (0.1, 0.2):
        told = Batch(torch.zeros(16), target, torch.arange(16), progress)
        ask(objective, outs, told, COSTS)
        ask(other, outs, told, COSTS, Partner(told._replace(target=target.flip(0)), 1.0))
    assert float(other.pressure.found) == pytest.approx(float(objective.pressure.found))
    assert float(other.pressure.seen) == float(objective.pressure.seen) == 16


@pytest.mark.parametrize("name", NAMES)
def test_fit_takes_mixed_inputs(name):
    torch.manual_seed(0)
    segments = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]
    model = offramp.MultiExitModel(segments, [LinearHead(4, 3, gate=k < 2) for k in range(3)])
    objective = offramp.create_objective(name, target_cost=0.5)
    data = torch.randn(40, 4), torch.randint(3, (40,))
    options = {"epochs": 2, "batch_size": 10, "costs": COSTS, "mixup": 0.2}
    history = offramp.fit(model, data, objective, progress=False, **options)
    assert all(math.isfinite(value) for value in history[-1]["terms"].values())


def test_costs_are_those_of_all_processes(monkeypatch):
    """One process of two, told the other's rows and sums, has the lambda of one with all rows."""
    whole, half, other = (CostPressure(target=0.4) for _ in range(3))
    wanted = run(whole, range(20), rows=16)
    found = []
    for step in range(20):
        mine, others = (each.detach().requires_grad_() for each in drawn(16, step).split(8))
        lost = losses(16).split(8)
        target, told = torch.zeros(8).long(), batch(step / 40)
        mine_told, others_told = (
            nn.functional.pad(e.detach(), (0, 1), value=1) for e in (mine, others)
        )
        sent: list[Tensor] = []
        monkeypatch.setattr(module, "gathered", lambda rows, o=mine_told: torch.cat([o, rows]))
        monkeypatch.setattr(module, "total", lambda value, s=sent: s.append(value) or value)
        other.weigh(parts_of(8, lost[1]), others, COSTS, told, target)
        monkeypatch.setattr(module, "gathered", lambda rows, o=others_told: torch.cat([rows, o]))
        monkeypatch.setattr(module, "total", lambda value, s=sent: value + s[0])
        half.weigh(parts_of(8, lost[0]), mine, COSTS, told, target)
        found.append(float(half.found))
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_fit_counts_every_row_once_and_validation_none(accumulate):
    torch.manual_seed(0)
    segments = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]
    heads = [LinearHead(4, 3, gate=k < 2) for k in range(3)]
    model = offramp.MultiExitModel(segments, heads)
    objective = offramp.create_objective("mixture", target_cost=0.5)
    data = torch.randn(40, 4), torch.randint(3, (40,))
    options = {"epochs": 2, "batch_size": 10, "accumulate": accumulate, "costs": COSTS}
    offramp.fit(model, data, objective, validation=data, progress=False, **options)
    last = 10  # rows of the last step, which are counted when the next one begins
    assert objective.pressure.sums[2] == last
    assert objective.pressure.seen == 80 - last
