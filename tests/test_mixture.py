"""The algebra of gates equals slow loops over samples, and is finite however sure gates are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp.errors import ValidationError
from offramp.mixture import (
    exit_log_probs,
    stack_gates,
    suffix_costs,
    suffix_log_mixtures,
)
from offramp.types import ExitOutput

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def literal_suffixes(gates: list[float], values: list[float]) -> list[float]:
    """The recursion of EENets for one sample: V_i = h_i v_i + (1 - h_i) V_{i+1}."""
    found = [values[-1]]
    for gate, value in zip(gates[::-1], values[-2::-1], strict=True):
        leave = sigmoid(gate)
        found.insert(0, leave * value + (1 - leave) * found[0])
    return found


# ----------------------------------------------------------------------- against loops
def test_exit_probs_are_products_over_the_gates_before():
    gates = drawn(6, 3)
    found = exit_log_probs(gates).exp()
    for row, probs in zip(gates.tolist(), found.tolist(), strict=True):
        reached, wanted = 1.0, []
        for gate in row:
            wanted.append(reached * sigmoid(gate))
            reached *= 1 - sigmoid(gate)
        assert probs == pytest.approx([*wanted, reached], abs=1e-10)


def test_exit_probs_sum_to_one():
    sums = exit_log_probs(100 * drawn(50, 4)).exp().sum(1)
    torch.testing.assert_close(sums, torch.ones(50, dtype=torch.float64), **EXACT)


def test_suffix_mixtures_of_labels_equal_the_recursion():
    gates, log_p = drawn(5, 3), -drawn(5, 4, seed=1).abs()
    found = suffix_log_mixtures(log_p, gates).exp()
    for row, probs, mixed in zip(gates.tolist(), log_p.exp().tolist(), found.tolist(), strict=True):
        assert mixed == pytest.approx(literal_suffixes(row, probs), abs=1e-10)


def test_suffix_mixtures_of_maps_have_one_gate_per_input():
    gates, log_p = drawn(3, 2), -drawn(3, 3, 4, 2, seed=1).abs()  # [N, K, *S]
    found = suffix_log_mixtures(log_p, gates).exp()
    for n in range(3):
        for i in range(4):
            for j in range(2):
                wanted = literal_suffixes(gates[n].tolist(), log_p[n, :, i, j].exp().tolist())
                assert found[n, :, i, j].tolist() == pytest.approx(wanted, abs=1e-10)


def test_suffix_costs_equal_the_recursion():
    gates, costs = drawn(5, 3), torch.tensor([0.2, 0.5, 0.7, 1.1], dtype=torch.float64)
    for row, means in zip(gates.tolist(), suffix_costs(gates, costs).tolist(), strict=True):
        assert means == pytest.approx(literal_suffixes(row, costs.tolist()), abs=1e-10)


def test_the_first_suffix_is_the_expectation_over_exits():
    gates, costs = drawn(7, 3), torch.tensor([0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    leave = exit_log_probs(gates).exp()
    torch.testing.assert_close(suffix_costs(gates, costs)[:, 0], leave @ costs, **EXACT)


def test_a_network_of_one_exit_leaves_there():
    gates = stack_gates([ExitOutput(drawn(4, 3))])
    assert gates.shape == (4, 0)
    assert exit_log_probs(gates).tolist() == [[0.0]] * 4
    assert suffix_costs(gates, torch.tensor([0.7])).flatten().tolist() == pytest.approx([0.7] * 4)
    torch.testing.assert_close(suffix_log_mixtures(drawn(4, 1), gates), drawn(4, 1))


# ----------------------------------------------------------------------- extremes
SURE = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * 1e4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_finite_for_sure_gates_and_answers(dtype):
    gates = SURE.to(dtype).requires_grad_()  # [8, 3]
    log_p = torch.tensor([-2e4, 0.0, -1e4, -2e4], dtype=dtype).repeat(8, 1).requires_grad_()
    costs = torch.tensor([0.2, 0.5, 0.7, 1.0])
    every = [exit_log_probs(gates), suffix_log_mixtures(log_p, gates), suffix_costs(gates, costs)]
    for found in every:
        assert found.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        assert bool(found.isfinite().all())
        grads = torch.autograd.grad(found.sum(), (gates, log_p), allow_unused=True)
        assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)


def test_sure_gates_choose_one_exit():
    costs = torch.tensor([0.2, 0.5, 0.7, 1.0])
    for row, mean in zip(SURE, suffix_costs(SURE, costs)[:, 0].tolist(), strict=True):
        first = next((k for k, gate in enumerate(row) if gate > 0), 3)
        assert mean == pytest.approx(float(costs[first]))


def test_gradients_are_those_of_finite_differences():
    gates = drawn(3, 3).requires_grad_()
    log_p = (-drawn(3, 4, 2, seed=1).abs()).requires_grad_()
    costs = torch.tensor([0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(exit_log_probs, gates)
    assert torch.autograd.gradcheck(suffix_log_mixtures, (log_p, gates))
    assert torch.autograd.gradcheck(lambda g: suffix_costs(g, costs), gates)


# ----------------------------------------------------------------------- the door
def test_gates_are_stacked_without_the_last_exit_and_widened():
    gate = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
    outs = [ExitOutput(torch.zeros(2, 3), gate), ExitOutput(torch.zeros(2, 3), gate)]
    assert stack_gates(outs).tolist() == [[1.0], [-2.0]]
    assert stack_gates(outs).dtype == torch.float32
    outs[0] = ExitOutput(torch.zeros(2, 3), gate.double())
    assert stack_gates(outs).dtype == torch.float64


def test_exits_without_a_gate_are_named():
    bare, gated = ExitOutput(torch.zeros(2, 3)), ExitOutput(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValidationError, match=r"3 early exits, got none at exits \[0, 2\]; gate=T"):
        stack_gates([bare, gated, bare, bare])
