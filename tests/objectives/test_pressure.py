"""Lambda lands the realised mean cost at its target, where fixed ones collapse to one exit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.errors import BudgetError
from offramp.heads import LinearHead
from offramp.mixture import hard_costs, suffix_costs
from offramp.objectives import pressure as module
from offramp.objectives.pressure import CostPressure
from offramp.types import Batch, Costs

COSTS = Costs.from_relative([0.2, 0.5, 1.0])


def batch(progress: float, rows: int = 1) -> Batch:
    return Batch(torch.zeros(rows), torch.zeros(rows).long(), torch.arange(rows), progress)


def drawn(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


def run(pressure: CostPressure, steps: range, total: int = 40, rows: int = 16) -> list[float]:
    """Lambda of each step, of gates that are drawn anew for each."""
    return [
        float(pressure.factor(drawn(rows, step) + 1, COSTS, batch(step / total))) for step in steps
    ]


# ----------------------------------------------------------------------- what is given
def test_lambda_is_the_weight_or_follows_its_schedule():
    for weight, wanted in ((0.7, 0.7), ({0: 0.7, 0.5: 2}, 2.0), (lambda num, p: num * p, 1.5)):
        found = CostPressure(weight).factor(drawn(3).double(), COSTS, batch(0.5))
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(wanted)


@pytest.mark.parametrize("target", [0.19, 1.01, 30.5])
def test_target_out_of_reach_names_the_reachable_range(target):
    message = rf"target_cost of {target} is out of reach.*reachable range is \[0.2, 1\]"
    with pytest.raises(BudgetError, match=message):
        CostPressure(target=target).factor(drawn(3), COSTS, batch(0.0))


@pytest.mark.parametrize("target", [0.2, 1.0])
def test_targets_at_the_ends_are_within_reach(target):
    assert all(math.isfinite(value) for value in run(CostPressure(target=target), range(40)))


def test_exits_of_equal_costs_leave_nothing_to_weigh():
    pressure = CostPressure(target=0.5)
    for step in range(5):
        found = pressure.factor(drawn(8), Costs.from_relative([0.5] * 3), batch(step / 5))
        assert float(found) == 0


# ----------------------------------------------------------------------- the controller
def literal(target: float, steps: int, total: int, rows: int, threshold: float) -> list[float]:
    """The controller in plain numbers."""
    costs, gain, time, ramp_end, window, most = [0.2, 0.5, 1.0], 5, 0.15, 0.3, 256, 10
    scale = next(cost for cost in costs if cost > target) - costs[0]
    soft = hard = origin = integral = found = 0.0
    seen, every = 0, []
    for step in range(steps):
        if step:
            gates = drawn(rows, step - 1) + 1
            a = float(suffix_costs(gates, COSTS.relative())[:, 0].mean()) / scale
            b = float(hard_costs(gates, COSTS.relative(), threshold).mean()) / scale
            seen += rows
            share = min(1, rows / min(seen, window))
            soft, hard = soft + share * (a - soft), hard + share * (b - hard)
            origin = soft if step == 1 else origin
            ramp = min(1, step / total / ramp_end)
            goal = origin + ramp * (target / scale - origin)
            error = ramp * hard + (1 - ramp) * soft - goal
            integral += gain / time * error * min(1 / total, time / 10)
            integral = max(-most, min(most, integral))
            found = max(-most, min(most, gain * (soft - goal) + integral))
        every.append(found / scale)
    return every


@pytest.mark.parametrize("threshold", [0.0, 1.5])
@pytest.mark.parametrize(("target", "rows"), [(0.3, 16), (0.7, 300)])
def test_lambda_equals_the_controller_in_plain_numbers(target, rows, threshold):
    pressure = CostPressure(target=target)
    found = [
        float(pressure.factor(drawn(rows, step) + 1, COSTS, batch(step / 40), threshold=threshold))
        for step in range(40)
    ]
    wanted = literal(target, 40, 40, rows, threshold)
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert found[0] == 0


def test_lambda_has_the_sign_of_what_is_to_be_saved_and_is_bounded():
    for gate, target, sign in ((-4.0, 0.3, 1), (4.0, 0.9, -1)):
        pressure = CostPressure(target=target)
        for step in range(100):
            found = pressure.factor(torch.full((64, 2), gate), COSTS, batch(step / 100))
        assert sign * float(found) > 5
        assert abs(float(pressure.found)) == pytest.approx(10)
        assert abs(float(pressure.integral)) <= 10


class Inputs(nn.Module):
    """Gates learnt for each input by itself; the later exit is worth a little more to some."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        start = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
        self.gates = nn.Parameter(start)
        worth = torch.linspace(0, 0.1, rows)  # nats, from exit to exit
        self.losses = torch.stack([2 * worth, worth, 0 * worth], 1)  # [N, K]

    def train_with(self, factor, steps: int = 200) -> Tensor:
        """Costs of the inputs, each leaving at the first gate above one half, [N]."""
        optimizer = torch.optim.Adam(self.parameters(), 0.1)
        for step in range(steps):
            leave = offramp.mixture.exit_log_probs(self.gates).exp()
            cost = (leave @ COSTS.relative().float()).mean()
            loss = (leave * self.losses).sum(1).mean() + factor(self.gates, step / steps) * cost
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return hard_costs(self.gates.detach(), COSTS.relative())


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_gates_that_learn_land_at_the_target_cost(target):
    pressure = CostPressure(target=target)
    spent = Inputs(100).train_with(lambda gates, p: pressure.factor(gates, COSTS, batch(p)))
    assert float(spent.mean()) == pytest.approx(target, abs=0.03)
    assert len(spent.unique()) > 1


@pytest.mark.parametrize("weight", [0.5, 1.5])
def test_gates_under_the_same_losses_collapse_with_a_fixed_lambda(weight):
    spent = Inputs(100).train_with(lambda gates, progress: weight)
    assert spent.unique().tolist() == pytest.approx([0.2])


def test_lambda_lets_no_gradient_into_the_gates():
    pressure, gates = CostPressure(target=0.4), drawn(8).requires_grad_()
    for step in range(3):
        assert not pressure.factor(gates, COSTS, batch(step / 3)).requires_grad


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


def test_batches_of_one_step_share_lambda_and_count_as_one():
    whole, parts = CostPressure(target=0.4), CostPressure(target=0.4)
    for step in range(20):
        gates, told = drawn(16, step), batch(step / 20)
        found = {float(parts.factor(part, COSTS, told)) for part in gates.split(4)}
        assert len(found) == 1
        assert found.pop() == pytest.approx(float(whole.factor(gates, COSTS, told)), abs=1e-4)


def test_nothing_changes_where_gradients_are_disabled():
    pressure = CostPressure(target=0.4)
    run(pressure, range(5))
    before = {name: value.clone() for name, value in pressure.state_dict().items()}
    with torch.no_grad():
        found = pressure.factor(drawn(16) - 5, COSTS, batch(0.9))
    assert float(found) == pytest.approx(float(pressure.found) / 0.3)
    for name, value in pressure.state_dict().items():
        assert torch.equal(value, before[name])


def test_lambda_given_before_stays_as_it_was():
    pressure = CostPressure(target=0.4)
    first = pressure.factor(drawn(16) - 5, COSTS, batch(0.1))
    kept = float(first)
    pressure.factor(drawn(16) - 5, COSTS, batch(0.2))
    assert float(first) == kept


def test_costs_are_those_of_all_processes(monkeypatch):
    """One process of two, told the other's sums, has the lambda of a process that has all rows."""
    whole, half = CostPressure(target=0.4), CostPressure(target=0.4)
    wanted = run(whole, range(20), rows=16)
    found = []
    for step in range(20):
        mine, others = (drawn(16, step) + 1).split(8)
        shares = COSTS.relative() / 0.3
        sums = [suffix_costs(others, shares)[:, 0].sum(), hard_costs(others, shares).sum()]
        told = torch.stack([*sums, torch.tensor(8.0)])
        monkeypatch.setattr(module, "total", lambda sent, told=told: sent + told)
        found.append(float(half.factor(mine, COSTS, batch(step / 40))))
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_phase_begins_from_the_cost_that_it_finds():
    pressure = CostPressure(target=0.4)
    run(pressure, range(40))
    pressure.factor(drawn(16) + 1, COSTS, batch(0.0))
    assert float(pressure.origin) == pytest.approx(float(pressure.means[0]))
    assert float(pressure.found) == pytest.approx(float(pressure.integral), abs=1e-5)


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
