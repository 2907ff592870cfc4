"""What the clock says is what was measured; nothing here depends on how fast the machine is."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import offramp
from offramp.runtime.clock import (
    Clock,
    answer_size,
    full_network,
    ideal_speed_up,
    interleaved,
    time_policies,
)
from offramp.types import Costs, ExitOutput, Records


def _model() -> offramp.MultiExitModel:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return offramp.attach(network, ["1"], example=torch.zeros(2, 4)).eval()


def _policy(rates: str) -> offramp.ExitPolicy:
    records = Records.from_arrays(torch.randn(2, 40, 3), torch.arange(40) % 3)
    costs = Costs.from_relative([0.5, 1.0])
    budget = {"all early": 0.5, "half": 0.75}[rates]
    return offramp.create_policy("max_prob", num_exits=2).fit(records, costs, budget)


def test_full_network_is_the_last_exit_without_the_others() -> None:
    model, x = _model(), torch.randn(5, 4)
    calls: list[int] = []
    model.heads[0].register_forward_hook(lambda *_: calls.append(0))
    answered = full_network(model, x)
    assert calls == []
    assert torch.equal(answered, model(x)[-1].logits)


def test_interleaved_runs_take_turns_and_warm_up_once() -> None:
    order: list[str] = []
    runs = {name: lambda batch, name=name: order.append(name + batch) for name in "ab"}
    taken = interleaved(runs, ["1", "2"], repeats=2)
    assert order == ["a1", "a2", "b1", "b2"] * 3
    assert set(taken) == {"a", "b"}


def test_interleaved_figures_are_medians_of_what_was_slept() -> None:
    runs = {"long": lambda _: time.sleep(0.02), "short": lambda _: None}
    taken = interleaved(runs, [0], repeats=3)
    assert taken["long"] >= 0.02
    assert taken["short"] < taken["long"]


def test_ideal_speed_up_is_that_of_the_exit_rates() -> None:
    model, x = _model(), torch.randn(6, 4)
    policy = _policy("all early")
    times = torch.tensor([0.25, 1.0], dtype=torch.float64)
    exits = offramp.run(model, policy, x).exits
    wanted = 6 / sum([0.25, 1.0][k] for k in exits.tolist())
    assert ideal_speed_up(model, policy, [x[:4], x[4:]], times) == pytest.approx(wanted)


def test_time_policies_reports_per_input_and_beside_the_full_network() -> None:
    model, x = _model(), torch.randn(7, 4)
    clocks = time_policies(model, {"half": _policy("half")}, [x[:4], x[4:]], repeats=2)
    clock = clocks["half"]
    assert clock.batch_size == 4
    assert clock.speed_up == pytest.approx(clock.full_ms / clock.ms)
    assert clock.efficiency == pytest.approx(clock.speed_up / clock.ideal)


class _Map(nn.Module):
    """A head that answers with a map."""

    def forward(self, state: torch.Tensor) -> ExitOutput:
        return ExitOutput(state)


@pytest.mark.parametrize(("factor", "wanted"), [(2, (2, 3)), (1, None)])
def test_maps_of_different_size_are_timed_at_that_of_the_full_network(
    factor: int, wanted: tuple[int, int] | None
) -> None:
    segments = [nn.Identity(), nn.AvgPool2d(factor)]
    model = offramp.MultiExitModel(segments, [_Map(), _Map()]).eval()
    x = torch.randn(6, 3, 4, 6)
    assert answer_size(model, x) == wanted
    policy = offramp.create_policy("max_prob", num_exits=2)
    policy.thresholds[0] = policy.scores(
        Records.from_arrays(
            [out.logits for out in model(x)], torch.zeros(6, 4, 6, dtype=torch.long)
        )
    )[:, 0].median()
    clock = time_policies(model, {"half": policy}, [x], repeats=1)["half"]
    assert clock.ms > 0 and clock.ideal > 0


def test_labels_have_no_size() -> None:
    assert answer_size(_model(), torch.randn(5, 4)) is None


def test_efficiency_is_measured_over_ideal() -> None:
    assert Clock(1, 2.0, 3.0, speed_up=1.5, ideal=2.0).efficiency == 0.75
