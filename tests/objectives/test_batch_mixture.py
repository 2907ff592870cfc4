"""The batch's mean gates weigh the exits' losses and costs, in one process or in two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp import create_objective
from offramp.errors import ValidationError
from offramp.objectives.batch_mixture import BatchMixture
from offramp.types import Batch, Costs, ExitOutput, Term

N, C, K = 7, 5, 4
COSTS = Costs.from_relative([0.25, 0.5, 0.75, 1.04])


def exits(*size: int, scale: float = 2.0, rows: int = N) -> list[ExitOutput]:
    """Random logits and gates in float64, leaves that gradients are read from."""
    outputs = []
    for k in range(K):
        logits = (scale * torch.randn(rows, C, *size).double()).requires_grad_()
        gate = (scale * torch.randn(rows).double()).requires_grad_()
        outputs.append(ExitOutput(logits, gate if k < K - 1 else None))
    return outputs


def batch(*size: int, rows: int = N) -> Batch:
    target = torch.randint(C, (rows, *size))
    return Batch(torch.randn(rows, 3), target, torch.arange(rows), 0.5)


def values(terms: Sequence[Term]) -> dict[str, float]:
    return {term.name: float(term.value.detach()) for term in terms}


def total(terms: Sequence[Term]) -> Tensor:
    return torch.stack([term.value for term in terms]).sum()


def literal(outputs: Sequence[ExitOutput], target: Tensor, weight: float) -> dict[str, float]:
    """The loss from the paper's code, one input and one exit at a time; labels alone."""
    rows = [n for n in range(len(target)) if target[n] >= 0]
    means, losses = [], []
    for out in outputs:
        opened, loss = 0.0, 0.0
        for n in rows:
            opened += 1.0 if out.gate is None else 1 / (1 + math.exp(-float(out.gate[n].detach())))
            powers = [math.exp(z) for z in out.logits[n].tolist()]
            loss -= math.log(powers[int(target[n])] / sum(powers))
        means.append(opened / len(rows))
        losses.append(loss / len(rows))
    shares = [mean / sum(means) for mean in means]
    found = {f"nll/{k}": shares[k] * losses[k] for k in range(len(outputs))}
    costs = COSTS.relative().tolist()
    return found | {"cost": weight * sum(a * c for a, c in zip(shares, costs, strict=True))}


@pytest.mark.parametrize("weight", [0.0, 0.7, 3.0])
def test_batch_mixture_equals_a_literal_loop(weight):
    outputs, given = exits(), batch()
    found = values(BatchMixture(weight)(outputs, given, COSTS))
    assert found == pytest.approx(literal(outputs, given.target, weight), rel=1e-10)


def test_batch_mixture_takes_no_part_of_inputs_whose_target_does_not_count():
    outputs, given = exits(), batch()
    target = given.target.clone()
    target[0], target[3] = -100, 4
    target[5] = C + 2  # no class, and the one that is left out
    found = values(
        BatchMixture(0.7, ignore_index=C + 2)(outputs, given._replace(target=target), COSTS)
    )
    target[5] = -1
    assert found == pytest.approx(literal(outputs, target, 0.7), rel=1e-10)


def test_batch_mixture_of_maps_takes_means_over_positions_and_gates_over_inputs():
    outputs, given = exits(2, 3), batch(2, 3)
    target = given.target.clone()
    target[1], target[2, 0] = -100, -100
    found = values(BatchMixture(0.7)(outputs, given._replace(target=target), COSTS))
    kept = [n for n in range(N) if n != 1]
    opened = [
        1.0 if out.gate is None else float(out.gate.detach()[kept].sigmoid().mean())
        for out in outputs
    ]
    for k, out in enumerate(outputs):
        loss = float(F.cross_entropy(out.logits.detach(), target, ignore_index=-100))
        assert found[f"nll/{k}"] == pytest.approx(opened[k] / sum(opened) * loss, rel=1e-10)


def test_batch_mixture_smooths_labels_as_cross_entropy_does():
    outputs, given = exits(), batch()
    plain = values(BatchMixture()(outputs, given, COSTS))
    smooth = values(BatchMixture(label_smoothing=0.2)(outputs, given, COSTS))
    for k, out in enumerate(outputs):
        one = float(F.cross_entropy(out.logits.detach(), given.target))
        other = float(F.cross_entropy(out.logits.detach(), given.target, label_smoothing=0.2))
        assert smooth[f"nll/{k}"] / plain[f"nll/{k}"] == pytest.approx(other / one, rel=1e-10)
    assert smooth["cost"] == plain["cost"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_batch_mixture_of_extreme_gates_and_logits_is_finite(sign):
    outputs, given = exits(scale=0.0), batch()
    with torch.no_grad():
        for out in outputs:
            out.logits.copy_(1e4 * torch.randn(N, C).sign())
            if out.gate is not None:
                out.gate.fill_(sign * 1e4)
    loss = total(BatchMixture()(outputs, given, COSTS))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    for out in outputs:
        for leaf in (out.logits, out.gate):
            assert leaf is None or (leaf.grad is not None and bool(leaf.grad.isfinite().all()))


def test_batch_mixture_of_a_batch_in_which_nothing_counts_is_zero():
    outputs, given = exits(), batch()
    terms = BatchMixture()(outputs, given._replace(target=torch.full((N,), -100)), COSTS)
    total(terms).backward()
    assert set(values(terms).values()) == {0.0}
    assert all(float(out.logits.grad.abs().sum()) == 0 for out in outputs)  # type: ignore[union-attr]


def test_batch_mixture_pulls_a_gate_of_every_input_the_same_way():
    outputs, given = exits(), batch()
    total(BatchMixture()(outputs, given, COSTS)).backward()
    for out in outputs[:-1]:
        grad = out.gate.grad  # type: ignore[union-attr]
        assert grad is not None
        assert len({int(sign) for sign in grad.sign().tolist()}) == 1


def test_batch_mixture_of_a_single_exit_is_its_loss_and_cost():
    outputs, given = exits()[-1:], batch()
    costs = Costs.from_relative([1.0])
    found = values(BatchMixture(0.5)(outputs, given, costs))
    loss = float(F.cross_entropy(outputs[0].logits.detach(), given.target))
    assert found == pytest.approx({"nll/0": loss, "cost": 0.5}, rel=1e-10)


def test_batch_mixture_wants_gates():
    outputs, given = exits(), batch()
    outputs[1] = outputs[1]._replace(gate=None)
    with pytest.raises(ValidationError, match=r"exits \[1\]"):
        create_objective("batch_mixture")(outputs, given, COSTS)
