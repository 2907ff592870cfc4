"""Tags belong to rows, are the best exits of those rows, and teach the gates."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp import create_objective
from offramp.errors import ValidationError
from offramp.objectives.distill import Distill
from offramp.objectives.gradient_equilibrium import GradientEquilibrium
from offramp.objectives.joint import Joint
from offramp.objectives.pressure import cost_offset
from offramp.objectives.pseudo_exit import PseudoExit
from offramp.types import Batch, Costs, ExitOutput, Term

N, C, K = 9, 5, 4
COSTS = Costs.from_relative([0.25, 0.5, 0.75, 1.04])


def exits(*size: int, scale: float = 2.0, rows: int = N) -> list[ExitOutput]:
    outputs = []
    for k in range(K):
        logits = (scale * torch.randn(rows, C, *size).double()).requires_grad_()
        gate = (scale * torch.randn(rows).double()).requires_grad_()
        outputs.append(ExitOutput(logits, gate if k < K - 1 else None))
    return outputs


def batch(*size: int, index: Tensor | None = None) -> Batch:
    index = torch.arange(N) if index is None else index
    target = torch.randint(C, (len(index), *size))
    return Batch(torch.randn(len(index), 3), target, index, 0.5)


def values(terms: Sequence[Term]) -> dict[str, float]:
    return {term.name: float(term.value.detach()) for term in terms}


def total(terms: Sequence[Term]) -> Tensor:
    return torch.stack([term.value for term in terms]).sum()


def nll(logits: Tensor, target: int) -> float:
    powers = [math.exp(z) for z in logits.tolist()]
    return -math.log(powers[target] / sum(powers))


def literal(
    outputs: Sequence[ExitOutput], target: Tensor, tags: Sequence[int], weight: float
) -> dict[str, float]:
    """The loss from the paper's code, one input and one exit at a time; labels alone."""
    rows = [n for n in range(len(target)) if target[n] >= 0]
    costs = COSTS.relative().tolist()
    found = {
        "nll": sum(nll(outputs[tags[n]].logits[n], int(target[n])) for n in rows) / len(rows),
        "cost": weight * sum(costs[tags[n]] for n in rows) / len(rows),
    }
    for k, out in enumerate(outputs[:-1]):
        exiting = sum(tags[n] == k for n in rows) / len(rows)
        loss = 0.0
        for n in rows:
            h = 1 / (1 + math.exp(-float(out.gate[n].detach())))  # type: ignore[index]
            leaves = tags[n] == k
            loss -= (1 - exiting) * math.log(h) if leaves else exiting * math.log(1 - h)
        found[f"gate/{k}"] = loss / len(rows)
    return found


def tagged(tags: Sequence[int], **options) -> PseudoExit:
    objective = PseudoExit(**options)
    objective.tags = torch.tensor(tags, dtype=torch.int32)
    return objective


# ----------------------------------------------------------------------- the loss
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_pseudo_exit_equals_a_literal_loop(weight):
    tags = [0, 1, 1, 2, 3, 3, 0, 1, 3]
    outputs, given = exits(), batch()
    found = values(tagged(tags, weight=weight)(outputs, given, COSTS))
    assert found == pytest.approx(literal(outputs, given.target, tags, weight), rel=1e-10)


def test_pseudo_exit_takes_no_part_of_inputs_whose_target_does_not_count():
    tags = [0, 1, 1, 2, 3, 3, 0, 1, 3]
    outputs, given = exits(), batch()
    target = given.target.clone()
    target[0], target[4] = -100, -1
    found = values(tagged(tags, weight=0.7)(outputs, given._replace(target=target), COSTS))
    assert found == pytest.approx(literal(outputs, target, tags, 0.7), rel=1e-10)


def test_pseudo_exit_finds_tags_by_the_rows_number_wherever_it_is_in_the_batch():
    tags = [k % K for k in range(20)]
    order = torch.tensor([13, 2, 19, 7, 0])
    outputs, given = exits(rows=5), batch(index=order)
    found = values(tagged(tags, weight=0.7)(outputs, given, COSTS))
    wanted = literal(outputs, given.target, [tags[row] for row in order], 0.7)
    assert found == pytest.approx(wanted, rel=1e-10)


def test_pseudo_exit_of_maps_takes_means_over_positions_and_gates_over_inputs():
    tags = [0, 1, 1, 2, 3, 3, 0, 1, 3]
    outputs, given = exits(2, 3), batch(2, 3)
    target = given.target.clone()
    target[2, 0] = -100
    found = values(tagged(tags)(outputs, given._replace(target=target), COSTS))
    chosen = torch.stack([outputs[tag].logits[n] for n, tag in enumerate(tags)])
    assert found["nll"] == pytest.approx(float(F.cross_entropy(chosen, target).detach()), rel=1e-10)
    labels = torch.zeros(N, dtype=torch.long)
    shrunk = [out._replace(logits=out.logits[..., 0, 0]) for out in outputs]
    wanted = literal(shrunk, labels, tags, 1.0)
    for name in ("cost", "gate/0", "gate/1", "gate/2"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-10)


def test_pseudo_exit_smooths_labels_in_the_loss():
    outputs, given = exits(), batch()
    found = values(tagged([2] * N, label_smoothing=0.2)(outputs, given, COSTS))
    wanted = F.cross_entropy(outputs[2].logits, given.target, label_smoothing=0.2)
    assert found["nll"] == pytest.approx(float(wanted.detach()), rel=1e-10)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pseudo_exit_of_extreme_gates_and_logits_is_finite(sign):
    outputs, given = exits(scale=0.0), batch()
    with torch.no_grad():
        for out in outputs:
            out.logits.copy_(1e4 * torch.randn(N, C).sign())
            if out.gate is not None:
                out.gate.fill_(sign * 1e4)
    objective = PseudoExit()
    objective.refresh([(outputs, given)], COSTS, N)
    loss = total(objective(outputs, given, COSTS))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    for out in outputs:
        for leaf in (out.logits, out.gate):
            assert leaf is None or (leaf.grad is not None and bool(leaf.grad.isfinite().all()))


def test_pseudo_exit_learns_at_the_tagged_exit_alone():
    outputs, given = exits(), batch()
    terms = {term.name: term.value for term in tagged([1] * N)(outputs, given, COSTS)}
    terms["nll"].backward()
    moved = [bool((out.logits.grad != 0).any()) for out in outputs]  # type: ignore[operator]
    assert moved == [False, True, False, False]


# ----------------------------------------------------------------------- tags
def test_tags_before_the_first_refresh_are_drawn_evenly_by_row_and_seed():
    objective, rows = PseudoExit(), torch.arange(40_000)
    tags = objective.exits_of(rows, K)
    shares = torch.bincount(tags, minlength=K) / len(rows)
    assert float((shares - 1 / K).abs().max()) < 0.01  # 4.6 standard errors
    assert torch.equal(objective.exits_of(rows[500:700], K), tags[500:700])
    assert torch.equal(PseudoExit().exits_of(rows, K), tags)
    alike = float((PseudoExit(seed=1).exits_of(rows, K) == tags).float().mean())
    neighbours = float((tags[1:] == tags[:-1]).float().mean())
    assert alike == pytest.approx(1 / K, abs=0.01)
    assert neighbours == pytest.approx(1 / K, abs=0.01)


@pytest.mark.parametrize("weight", [0.0, 0.8, 100.0])
def test_refresh_tags_each_row_with_the_exit_of_the_smallest_loss_and_cost(weight):
    objective, order = PseudoExit(weight), torch.randperm(2 * N)
    answers, wanted = [], [0] * (2 * N)
    costs = COSTS.relative().tolist()
    for index in order.split(N):
        outputs, given = exits(), batch(index=index)
        answers.append((outputs, given))
        for n, row in enumerate(index.tolist()):
            figures = [
                nll(out.logits[n], int(given.target[n])) + weight * cost
                for out, cost in zip(outputs, costs, strict=True)
            ]
            wanted[row] = figures.index(min(figures))
    objective.refresh(iter(answers), COSTS, 2 * N)
    assert objective.tags.tolist() == wanted
    assert objective.exits_of(order, K).tolist() == [wanted[row] for row in order]
    if weight == 100.0:
        assert set(wanted) == {0}


def test_refresh_keeps_the_earlier_of_equal_exits():
    same = torch.randn(N, C).double()
    outputs = [ExitOutput(same, None if k == K - 1 else torch.zeros(N)) for k in range(K)]
    worse = outputs[0]._replace(logits=torch.zeros(N, C).double())
    given = batch()._replace(target=same.argmax(1))
    objective = PseudoExit(0.0)
    objective.refresh([([worse, *outputs[1:]], given)], COSTS, N)
    assert objective.tags.tolist() == [1] * N


def test_refresh_of_maps_takes_the_mean_over_positions_that_count():
    outputs, given = exits(2, 3), batch(2, 3)
    target = given.target.clone()
    target[2, 0] = -100
    objective = PseudoExit(0.3)
    objective.refresh([(outputs, given._replace(target=target))], COSTS, N)
    for n in range(N):
        figures = [
            float(F.cross_entropy(out.logits[n][None].detach(), target[n][None])) + 0.3 * cost
            for out, cost in zip(outputs, COSTS.relative().tolist(), strict=True)
        ]
        assert objective.tags[n] == figures.index(min(figures))


def test_row_that_is_not_looked_at_or_has_no_target_keeps_its_tag():
    objective, rows = PseudoExit(), torch.arange(N)
    drawn = objective.exits_of(rows, K)
    outputs, given = exits(), batch()
    target = given.target.clone()
    target[4] = -100
    seen = torch.tensor([0, 1, 4])
    part = [ExitOutput(o.logits[seen], None if o.gate is None else o.gate[seen]) for o in outputs]
    few = Batch(given.inputs[seen], target[seen], seen, 0.5)
    objective.refresh([(part, few)], COSTS, N)
    kept = [n for n in range(N) if n not in (0, 1)]
    assert torch.equal(objective.exits_of(rows, K)[kept], drawn[kept])
    objective.refresh([(outputs, given)], COSTS, N)
    before = objective.tags.clone()
    objective.refresh([(part, few)], COSTS, N)
    assert torch.equal(objective.tags[kept], before[kept])


def test_tags_of_any_number_are_part_of_the_state():
    one, other = PseudoExit(), PseudoExit()
    one.refresh([(exits(), batch())], COSTS, N)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.tags, one.tags)
    assert len(other.tags) == N
    around = Distill(PseudoExit())
    around.load_state_dict(Distill(one).state_dict())
    assert torch.equal(around.objective.tags, one.tags)
    other.load_state_dict(PseudoExit().state_dict())
    assert len(other.tags) == 0
    assert torch.equal(copy.deepcopy(one).tags, one.tags)


# ----------------------------------------------------------------------- a cost to land at
@pytest.mark.parametrize("target", [0.25, 0.4, 0.6, 1.0])
def test_tags_for_a_target_cost_have_it_on_average(target):
    rows, objective = 4000, PseudoExit(target_cost=target)
    generator = torch.Generator().manual_seed(0)
    # later exits are right about more inputs
    right = torch.rand(rows, generator=generator)[:, None] < torch.linspace(0.4, 0.95, K)
    noise = torch.randn(rows, K, generator=generator)
    margins = (3 * right - 1 + noise).double()  # [rows, K], logit of the right class of two
    logits = [torch.stack([torch.zeros(rows).double(), z], 1) for z in margins.unbind(1)]
    outputs = [
        ExitOutput(z, torch.zeros(rows) if k < K - 1 else None) for k, z in enumerate(logits)
    ]
    given = Batch(None, torch.ones(rows, dtype=torch.long), torch.arange(rows), 0.5)
    objective.refresh([(outputs, given)], COSTS, rows)
    costs = COSTS.relative()
    mean = float(costs[objective.tags.long()].mean())
    assert target - 1e-3 <= mean <= target + 1e-12
    # the losses that a tag costs are the least there are: of one lambda
    losses = F.softplus(-margins)
    tags = objective.tags.long()
    low, high = -math.inf, math.inf
    for k in range(K):
        own = losses[tags == k]
        for j in range(K):
            if len(own) and j != k:
                ratio = (own[:, j] - own[:, k]) / (costs[k] - costs[j])
                low = max(low, float(ratio.max())) if costs[j] > costs[k] else low
                high = min(high, float(ratio.min())) if costs[j] < costs[k] else high
    assert low <= high + 1e-9


def test_cost_of_a_target_is_what_the_gates_expect_and_moves_them():
    tags = [0, 1, 1, 2, 3, 3, 0, 1, 3]
    outputs, given = exits(), batch()
    objective = tagged(tags, target_cost=0.5)
    objective.pressure.found.fill_(0.7)
    terms = {term.name: term.value for term in objective(outputs, given, COSTS)}
    gates = torch.stack([out.gate.detach() for out in outputs[:-1]], 1)  # type: ignore[union-attr]
    offset = float(cost_offset(gates, COSTS.relative(), 0.5))  # from where gates are looked at
    expected = 0.0
    for n in range(N):
        going = 1.0
        for k, cost in enumerate(COSTS.relative().tolist()):
            leave = 1.0 if k == K - 1 else 1 / (1 + math.exp(offset - float(gates[n, k])))
            expected += going * leave * cost / N
            going *= 1 - leave
    assert float(terms["cost"].detach()) == pytest.approx(0.7 * expected, rel=1e-6)
    terms["cost"].backward()
    assert all(bool((out.gate.grad != 0).all()) for out in outputs[:-1])  # type: ignore[union-attr]


# ----------------------------------------------------------------------- around it, and the doors
@pytest.mark.parametrize("around", [Distill, GradientEquilibrium])
def test_objective_around_another_hands_refresh_on(around):
    inner = PseudoExit()
    objective = around(inner)
    assert objective.refreshes
    objective.refresh([(exits(), batch())], COSTS, N)
    assert len(inner.tags) == N
    assert not around(Joint()).refreshes
    assert not Joint().refreshes


@pytest.mark.parametrize(
    ("index", "message"),
    [([-1] * N, "a DataLoader does not say them"), ([*range(N - 1), N], f"0 to {N - 1}, got {N}")],
)
def test_row_without_a_number_or_beyond_the_tags_is_told(index, message):
    objective = tagged([0] * N)
    with pytest.raises(ValidationError, match=message):
        objective(exits(), batch(index=torch.tensor(index)), COSTS)
    with pytest.raises(ValidationError, match=message):
        objective.refresh([(exits(), batch(index=torch.tensor(index)))], COSTS, N)


def test_pseudo_exit_wants_gates_and_a_whole_seed():
    outputs = exits()
    outputs[1] = outputs[1]._replace(gate=None)
    with pytest.raises(ValidationError, match=r"exits \[1\]"):
        create_objective("pseudo_exit")(outputs, batch(), COSTS)
    for seed in (1.5, True, "x"):
        with pytest.raises(ValidationError, match="wanted seed as a whole number"):
            create_objective("pseudo_exit", seed=seed)
