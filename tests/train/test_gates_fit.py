"""Gates minimise LEENet's expected loss, and are linear in the features as they came."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp import Batch, Costs, create_objective
from offramp.errors import ValidationError
from offramp.gates import Fitting, GateData, Gates, fit_gates
from offramp.heads import LinearHead
from offramp.mixture import exit_log_probs
from offramp.model import MultiExitModel
from offramp.train import gate_lens
from offramp.train.gate_fit import Losses, expected, solve
from offramp.train.gate_lens import Lens
from offramp.types import ExitOutput

COSTS = Costs.from_relative([0.2, 0.5, 1.0])


def made_up(num: int = 400, width: int = 6, seed: int = 0) -> GateData:
    """Three exits; the first feature of a gate says, with noise, how hard an input is."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hard = noise(num)
    margins = torch.stack([1.0 + k - 2 * hard + 0.5 * noise(num) for k in range(3)], 1)
    features = [noise(num, width) + 5 for _ in range(2)]
    for part in features:
        part[:, 0] = 100 * hard + 30 * noise(num)
    losses = torch.nn.functional.softplus(-margins)
    return GateData(features, losses, (margins > 0).float(), torch.ones(num))


def loss_of(gates: Gates, data: GateData, alpha: float) -> float:
    """The loss of leaving by the rule."""
    exits = gates.exits(data)
    losses = data.losses.double().gather(1, exits[:, None]).mean()
    return float((1 - alpha) * losses + alpha * COSTS.relative()[exits].mean())


# ----------------------------------------------------------------------- the algebra
def test_expected_loss_equals_a_loop_over_exits() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(5, 2, generator=generator).double() * 3 for _ in range(3)]
    losses = [torch.randn(5, 2, generator=generator).double() for _ in range(4)]
    found, soft = expected(logits, losses), expected(logits, losses, softness=0.7)
    for n in range(5):
        for a in range(2):
            reach, total, entropy = 1.0, 0.0, 0.0
            for k in range(4):
                g = 1 / (1 + math.exp(-float(logits[k][n, a]))) if k < 3 else 1.0
                p = reach * g
                total += p * float(losses[k][n, a])
                entropy -= p * math.log(p)
                reach *= 1 - g
            assert float(found[n, a]) == pytest.approx(total, abs=1e-10)
            assert float(soft[n, a]) == pytest.approx(total - 0.7 * entropy, abs=1e-10)


def test_expected_loss_is_that_of_the_objective_and_of_the_shared_algebra() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 8, 4, generator=generator).double()
    gates = torch.randn(8, 2, generator=generator).double() * 2
    target = torch.arange(8) % 4
    outs = [ExitOutput(z, gates[:, k] if k < 2 else None) for k, z in enumerate(logits)]
    ce = [torch.nn.functional.cross_entropy(z, target, reduction="none") for z in logits]
    alpha, costs = 0.3, COSTS.relative()
    losses = [
        ((1 - alpha) * loss + alpha * cost)[:, None] for loss, cost in zip(ce, costs, strict=True)
    ]
    found = float(expected(gates.T.unsqueeze(2).unbind(0), losses).mean())
    shares = exit_log_probs(gates).exp()
    assert found == pytest.approx(float((shares * torch.cat(losses, 1)).sum(1).mean()), abs=1e-10)
    batch = Batch(torch.zeros(8), target, torch.arange(8), 0.0)
    terms = create_objective("expected_loss", alpha=alpha)(outs, batch, COSTS)
    assert found == pytest.approx(float(sum(term.value for term in terms)), abs=1e-10)


@pytest.mark.parametrize("softness", [0.0, 0.2])
def test_expected_loss_and_gradient_are_finite_for_any_gate(softness: float) -> None:
    logits = [torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_() for _ in range(3)]
    value = expected(logits, [torch.full((1, 3), float(k)) for k in range(4)], softness=softness)
    value.sum().backward()
    assert bool(value.isfinite().all())
    assert all(bool(z.grad.isfinite().all()) for z in logits if z.grad is not None)
    torch.testing.assert_close(value[0, :2].detach(), torch.tensor([0.0, 3.0]))


def test_losses_have_a_spread_of_one_and_the_order_of_the_paper() -> None:
    data, alphas = made_up(50), torch.tensor([0.0, 0.3, 1.0])
    costs = COSTS.relative()
    found = torch.stack(
        Losses(data.losses, costs, alphas, nats=2.0).of(slice(None)), 1
    )  # [N, K, A]
    torch.testing.assert_close(found[:, :-1].square().mean((0, 1)), torch.ones(3))
    assert float(found[:, -1].abs().max()) < 1e-6
    for a, alpha in enumerate(alphas.double()):
        paper = (1 - alpha) * data.losses.double() + alpha * 2.0 * costs  # [N, K]
        paper = paper - paper[:, -1:]
        ratio = float(paper[:, :-1].square().mean().sqrt())
        torch.testing.assert_close(found[:, :, a].double() * ratio, paper, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------- standardised features
@pytest.mark.parametrize("width", [7, 300])
def test_folded_gates_give_the_same_logits_on_the_features_as_they_came(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_lens, "WIDEST", 100)
    monkeypatch.setattr(gate_lens, "LEADING", 20)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, width, generator=generator) * torch.logspace(-2, 2, width) + 3
    features[:, 1] = 4.2  # says nothing
    lens = Lens(features)
    assert lens.inputs.shape == (64, width if width < 100 else 20)
    kept = lens.inputs[:, [0, 2, 3]]
    torch.testing.assert_close(kept.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(kept.std(0, correction=0), torch.ones(3), rtol=1e-3, atol=0)
    weights, biases = torch.randn(lens.inputs.shape[1], 3, generator=generator), torch.ones(3)
    folded, shifted = lens.fold(weights, biases)
    assert folded.shape == (3, width)
    there = features.double() @ folded.double().T + shifted.double()
    here = lens.inputs.double() @ weights.double() + biases
    torch.testing.assert_close(there, here, rtol=1e-3, atol=2e-3)


def test_wide_features_are_reduced_to_where_they_vary_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_lens, "WIDEST", 50)
    monkeypatch.setattr(gate_lens, "LEADING", 4)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(200, 4, generator=generator)
    mixed = hidden @ torch.randn(4, 120, generator=generator)
    features = (mixed + 0.01 * torch.randn(200, 120, generator=generator)).half()
    lens = Lens(features)
    design = torch.cat([lens.inputs, torch.ones(200, 1)], 1)
    left = hidden - design @ torch.linalg.lstsq(design, hidden).solution
    assert float(left.std() / hidden.std()) < 0.02  # what was hidden can be read off


@pytest.mark.parametrize("num", [40, 64, 300])
def test_wide_features_of_other_rows_stay_as_large_as_those_fitted_on(
    monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    """Of N rows at most N - 1 directions vary; the rest, over its spread, would explode."""
    monkeypatch.setattr(gate_lens, "WIDEST", 50)
    monkeypatch.setattr(gate_lens, "LEADING", 64)
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(num + 500, 400, generator=generator)
    lens = Lens(features[:num])
    width = lens.inputs.shape[1]
    assert width == min(num - 1, 64)
    weights, bias = lens.fold(torch.eye(width), torch.zeros(width))
    others = features[num:] @ weights.T + bias
    assert float(others.std(0).max()) < 5


def test_wide_features_that_do_not_vary_leave_nothing_to_learn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate_lens, "WIDEST", 5)
    lens = Lens(torch.ones(20, 8))
    assert lens.inputs.shape == (20, 0)
    weights, bias = lens.fold(torch.zeros(0, 2), torch.tensor([1.0, 2.0]))
    assert not weights.any() and bias.tolist() == [1, 2]


# ----------------------------------------------------------------------- the fit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows as a whole number above 0, got 0"),
        ({"steps": -1}, "steps as a whole number above 0, got -1"),
        ({"steps": 1.5}, "steps as a whole number above 0, got 1.5"),
        ({"lr": math.nan}, "lr as a finite number above 0, got nan"),
        ({"decay": -1.0}, "decay as a finite number of at least 0, got -1.0"),
        ({"softness": True}, "softness as a finite number of at least 0, got True"),
    ],
)
def test_bad_fitting_is_told(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        fit_gates(made_up(50), COSTS, 0.3, how=Fitting(**options))  # type: ignore[arg-type]


def test_rows_that_do_not_count_teach_no_gate() -> None:
    data, how = made_up(200), Fitting(steps=30)
    other = made_up(100, seed=1)
    more = GateData(
        [torch.cat(pair) for pair in zip(data.features, other.features, strict=True)],
        torch.cat([data.losses, torch.zeros(100, 3)]),
        torch.cat([data.right, other.right]),
        torch.cat([data.units, torch.zeros(100)]),
    )
    wanted, found = fit_gates(data, COSTS, 0.3, how=how), fit_gates(more, COSTS, 0.3, how=how)
    assert all(torch.equal(a, b) for a, b in zip(wanted.weights, found.weights, strict=True))


def test_put_gates_give_the_logits_of_the_replay_and_change_nothing_else() -> None:
    torch.manual_seed(0)
    heads = [LinearHead(6, 4, gate=k < 2) for k in range(3)]
    model = MultiExitModel([torch.nn.Linear(6, 6) for _ in range(3)], heads).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, states = torch.randn(64, 6), []
    with torch.no_grad():
        state = images
        for segment in model.segments[:2]:
            state = segment(state)
            states.append(state)
    data = GateData(states, torch.rand(64, 3), torch.ones(64, 3), torch.ones(64))
    gates = fit_gates(data, COSTS, 0.2, how=Fitting(steps=20))
    gates.put(model)
    with torch.no_grad():
        outputs = model(images)
    assert torch.equal(torch.stack([out.gate for out in outputs[:2]], 1), gates.logits(data))
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {f"heads.{k}.gate.{part}" for k in (0, 1) for part in ("weight", "bias")}


def test_gates_are_the_same_whatever_is_fitted_beside_them() -> None:
    data, how = made_up(), Fitting(steps=60)
    beside = solve(data, COSTS.relative(), [0.1, 0.35, 0.9], 1.0, how)[1]
    alone = fit_gates(data, COSTS, 0.35, how=how)
    torch.testing.assert_close(beside.logits(data), alone.logits(data), rtol=1e-2, atol=1e-2)
    again = fit_gates(data, COSTS, 0.35, how=how)
    assert all(torch.equal(a, b) for a, b in zip(again.weights, alone.weights, strict=True))


def test_alpha_zero_is_accuracy_alone_and_alpha_one_is_cost_alone() -> None:
    data = made_up()
    data.losses[:, 1:] -= data.losses[:, :1].min() + 9  # a later exit is better for every input
    data.losses[:, 2] -= 9
    assert fit_gates(data, COSTS, 0.0).exits(data).tolist() == [2] * data.num_rows
    assert fit_gates(data, COSTS, 1.0).exits(data).tolist() == [0] * data.num_rows


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.6])
def test_gates_lose_less_than_any_one_exit_and_hold_on_new_data(alpha: float) -> None:
    train, test = made_up(1500), made_up(1500, seed=1)
    gates = fit_gates(train, COSTS, alpha)
    costs = COSTS.relative()
    alone = [
        (1 - alpha) * float(test.losses[:, k].mean()) + alpha * float(costs[k]) for k in range(3)
    ]
    assert loss_of(gates, test, alpha) < min(alone) - 0.01


@pytest.mark.parametrize(("alpha", "nats"), [(0.4, 1.0), (0.5, 1.0), (0.5, 2.0), (0.6, 0.7)])
def test_one_gate_leaves_where_what_staying_saves_is_less_than_it_costs(
    alpha: float, nats: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    saves = torch.rand(1500, generator=generator) * 2  # nats, and all that the gate sees
    losses = torch.stack([saves, torch.zeros(1500)], 1)
    data = GateData([saves[:, None]], losses, losses, torch.ones(1500))
    gates = fit_gates(data, Costs.from_relative([0.4, 1.0]), alpha, nats=nats)
    gain = (1 - alpha) * saves - alpha * nats * 0.6  # of staying
    best = gain.clamp_max(0).mean()
    found = gain[gates.exits(data) == 0].sum() / 1500
    assert float(found - best) < 0.02 * float(gain.abs().mean())


@pytest.mark.parametrize(("alpha", "wanted"), [(0.45, 1), (0.55, 0)])
def test_balanced_nats_put_the_indifference_of_first_and_last_exit_at_one_half(
    alpha: float, wanted: int
) -> None:
    losses = made_up(100).losses[:, [0, 2]] * 3
    blind = GateData([torch.ones(100, 2)], losses, losses, torch.ones(100))
    gates = fit_gates(blind, Costs.from_relative([0.2, 1.0]), alpha, nats="balanced")
    assert gates.exits(blind).tolist() == [wanted] * 100


def test_more_rows_than_a_step_takes_are_fitted_in_parts() -> None:
    train, test = made_up(1500), made_up(1500, seed=1)
    whole = fit_gates(train, COSTS, 0.4)
    parts = fit_gates(train, COSTS, 0.4, how=Fitting(rows=400))
    assert loss_of(parts, test, 0.4) == pytest.approx(loss_of(whole, test, 0.4), abs=0.01)


def test_gates_and_data_of_other_widths_are_refused() -> None:
    gates = fit_gates(made_up(), COSTS, 0.4, how=Fitting(steps=2))
    with pytest.raises(ValidationError, match=r"gates on \[6, 6\] features, got \[3, 3\]"):
        gates.logits(made_up(width=3))
    heads = [LinearHead(w, 3, gate=True) for w in (6, 7, 8)]
    model = MultiExitModel([torch.nn.Identity()] * 3, heads)
    with pytest.raises(ValidationError, match=r"gates on \[6, 6\] features, got \[6, 7\]"):
        gates.put(model)
