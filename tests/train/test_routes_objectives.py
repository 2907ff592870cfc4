"""Routed training with objectives of all kinds, and with gains, against the literal windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp import create_objective
from offramp.errors import ValidationError
from offramp.objectives.base import Objective
from offramp.train import backward_step
from offramp.train.backward import forward_backward
from offramp.train.mixing import Mixing, blend
from offramp.types import Batch, ExitOutput, Gains, Term

from .chain import COSTS, EXITS, SCHEMES, batch_of, chain, every_scheme, stepped
from .windows import assert_equal, by_terms, summed, window

# --------------------------------------------------------------------- objectives
Make = Callable[[Sequence[ExitOutput], Batch], list[Term]]


class Made(Objective):
    """Terms that a function makes, and gains."""

    def __init__(self, make: Make, gains: Gains | None = None) -> None:
        super().__init__()
        self.make, self.given = make, gains

    def forward(self, outputs, batch, costs):
        return self.make(outputs, batch)

    def gains(self, num_exits, progress):
        return self.given


class Learned(Objective):
    """Losses weighted by parameters of its own (Kendall et al. 2018), read at two windows."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.linspace(-1, 1, EXITS, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(()))

    def forward(self, outputs, batch, costs):
        scale = (-self.log_variance).exp()
        losses = [scale[k] * ce(out, batch) for k, out in enumerate(outputs)]
        own = Term("own", self.log_variance.sum(), 3)
        return [own, *(Term(f"ce/{k}", loss, max(0, k - 1)) for k, loss in enumerate(losses))]


def ce(out: ExitOutput, batch: Batch) -> Tensor:
    return F.cross_entropy(out.logits, batch.target)


def several_exits(outputs: Sequence[ExitOutput], batch: Batch) -> list[Term]:
    """Terms that read more than one exit, and gates."""
    mean = torch.stack([out.logits for out in outputs[1:4]]).mean(0)
    pairs = [(a.logits - b.logits).square().mean() for a, b in zip(outputs, outputs[2:])]  # noqa: B905
    gates = torch.stack([out.gate for out in outputs if out.gate is not None])
    return [
        Term("ensemble", F.cross_entropy(mean, batch.target), 2),
        *(Term(f"pair/{k}", pair, k) for k, pair in enumerate(pairs)),
        Term("gates", gates.sigmoid().mean() * mean.square().mean(), 1),
        Term("last", ce(outputs[-1], batch), 0),
    ]


def several_windows(outputs: Sequence[ExitOutput], batch: Batch) -> list[Term]:
    """Terms of one exit that stop at different segments, and share a part of the graph."""
    log_probs = outputs[3].logits.log_softmax(1)
    return [
        Term("right", F.nll_loss(log_probs, batch.target), 0),
        Term("sure", -(log_probs.exp() * log_probs).sum(1).mean(), 2),
        Term("small", log_probs.square().mean(), 3),
        Term("early", ce(outputs[1], batch), 1),
        Term("last", ce(outputs[4], batch), 2),
    ]


def heads_alone(outputs: Sequence[ExitOutput], batch: Batch) -> list[Term]:
    """Where ``since`` lies above an exit, its head learns and no segment."""
    return [Term(f"ce/{k}", ce(out, batch), min(k + 1, 4)) for k, out in enumerate(outputs)]


def nothing_to_learn(outputs: Sequence[ExitOutput], batch: Batch) -> list[Term]:
    """Terms without a gradient, beside one that has one."""
    zero = outputs[0].logits.new_zeros(())
    return [Term("a", zero, 3), Term("b", ce(outputs[3], batch), 2), Term("c", zero, 0)]


@pytest.mark.parametrize(
    "make", [several_exits, several_windows, heads_alone, nothing_to_learn, Learned]
)
def test_gradients_of_terms_of_all_kinds_are_those_of_the_windows(make):
    model, batch = chain(gate=True).double(), batch_of()
    objective = Learned() if make is Learned else Made(make)
    wanted = by_terms(model, objective, batch, COSTS)
    assert ("own.log_variance" in wanted) == (make is Learned)
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)


@pytest.mark.parametrize("scheme", ["overlap", "final"])
def test_distillation_that_has_not_begun_leaves_the_gradients_as_they_are(scheme):
    model, batch, options = chain().double(), batch_of(), SCHEMES[scheme]
    wanted = stepped(model, create_objective(**options), batch)
    later = create_objective("distill", objective=options, start=0.75)
    assert_equal(stepped(model, later, batch), wanted, 1e-12)
    begun = stepped(model, later, batch._replace(progress=0.75))
    with pytest.raises(AssertionError):
        assert_equal(begun, wanted, 1e-3)


@every_scheme
def test_gradients_of_mixed_inputs_are_those_of_mixed_windows(scheme):
    model, objective = chain().double(), create_objective(**SCHEMES[scheme])
    batch, partner = Mixing(mixup=0.7)(batch_of(), seed=4)
    assert partner is not None and 0.1 < partner.share < 0.9

    def mixed_terms(terms: list[Term], outputs: Sequence[ExitOutput]) -> list[Term]:
        return blend(terms, objective(outputs, partner.batch, COSTS), partner.share)

    gains = objective.gains(EXITS, 0.0)
    wanted = by_terms(model, objective, batch, COSTS, gains=gains, change=mixed_terms)
    assert_equal(stepped(model, objective, batch, partner=partner), wanted, 1e-9)


@pytest.mark.parametrize("objective", ["final", "distilled", "equilibrium", "learned"])
def test_weight_multiplies_all_gradients_and_nothing_else(objective):
    model, batch = chain().double(), batch_of()
    made = Learned() if objective == "learned" else create_objective(**SCHEMES[objective])
    once, weight = stepped(model, made, batch), torch.tensor(7.0)
    assert_equal(
        stepped(model, made, batch, weight=weight), {n: 7 * g for n, g in once.items()}, 1e-12
    )
    plain = forward_backward(model, made, batch, COSTS)
    weighted = forward_backward(model, made, batch, COSTS, weight=weight)
    assert torch.equal(plain.loss, weighted.loss)
    assert [t.value.item() for t in plain.terms] == [t.value.item() for t in weighted.terms]


# --------------------------------------------------------------------- gains
def published(num_exits: int) -> Gains:
    """Counted from 1: 1 / (K-i+1) from exit i, (K-i) / (K-i+1) from block i+1 (Li et al. 2019)."""
    numbers = range(1, num_exits + 1)
    heads = [1 / (num_exits - i + 1) for i in numbers]
    return Gains(heads, [(num_exits - i) / (num_exits - i + 1) for i in numbers[:-1]])


def test_gradient_equilibrium_has_the_published_gains():
    for num_exits in (1, 2, 5):
        gains = create_objective("gradient_equilibrium").gains(num_exits, 0.0)
        assert gains is not None
        assert [*gains.heads] == pytest.approx([*published(num_exits).heads])
        assert [*gains.boundaries] == pytest.approx([*published(num_exits).boundaries])


@pytest.mark.parametrize("inner", SCHEMES)
def test_gradients_of_gradient_equilibrium_are_those_of_scaled_windows(inner):
    model, batch = chain().double(), batch_of()
    objective = create_objective("gradient_equilibrium", objective=SCHEMES[inner])
    gains = published(EXITS)
    if inner == "equilibrium":  # around another one gains are multiplied
        gains = Gains([a * a for a in gains.heads], [a * a for a in gains.boundaries])
    wanted = by_terms(model, objective, batch, COSTS, gains=gains)
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)
    without = by_terms(model, objective, batch, COSTS)
    heads = {name for name in wanted if name.startswith("heads.")}
    assert_equal({n: without[n] for n in heads}, {n: wanted[n] for n in heads}, 1e-9)


@pytest.mark.parametrize(
    "gains",
    [
        Gains([0.0, 1.0, 2.0, 0.5, -1.0], [0.5, 1.0, 3.0, 1.0]),
        Gains([1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]),
        Gains([1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("make", [several_exits, several_windows, heads_alone])
def test_gradients_with_any_gains_are_those_of_scaled_windows(gains, make):
    model, batch, objective = chain(gate=True).double(), batch_of(), Made(make, gains)
    wanted = by_terms(model, objective, batch, COSTS, gains=gains)
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (Gains([1.0] * 5, [1.0] * 5), "5 heads and 4 boundaries, got 5 and 5"),
        (Gains([1.0] * 4, [1.0] * 4), "5 heads and 4 boundaries, got 4 and 4"),
    ],
)
def test_gains_that_do_not_fit_the_exits_are_refused(gains, message):
    with pytest.raises(ValidationError, match=message):
        backward_step(chain().double(), Made(heads_alone, gains), batch_of(), COSTS)


def test_gains_may_change_over_training():
    class Rising(Made):
        def gains(self, num_exits, progress):
            return Gains([progress] * num_exits, [1.0] * (num_exits - 1))

    model, batch = chain().double(), batch_of()
    rising = Rising(lambda outputs, batch: [Term("last", ce(outputs[-1], batch))])
    half, full = (stepped(model, rising, batch._replace(progress=p)) for p in (0.5, 1.0))
    factors = {name: 1.0 if name.startswith("heads.") else 0.5 for name in full}
    assert_equal(half, {name: factors[name] * grad for name, grad in full.items()}, 1e-12)


@pytest.mark.parametrize("since", [-1, 5, 1.0])
def test_since_that_is_no_segment_is_refused(since):
    objective = Made(lambda outputs, batch: [Term("a", ce(outputs[2], batch), since)])
    with pytest.raises(ValidationError, match="since as a segment from 0 to 4, got"):
        backward_step(chain().double(), objective, batch_of(), COSTS)


def test_windows_of_the_reference_run_below_without_gradients():
    """The reference itself, on the smallest case: exit 1 alone, its segment alone."""
    model, batch = chain(norm=False).double(), batch_of()
    outputs = window(model, batch.inputs, 1, until=1)
    ce(outputs[1], batch).backward()
    state = model.segments[0](batch.inputs).detach()
    loss = ce(model.heads[1](model.segments[1](state)), batch)
    learning = [*model.segments[1].parameters(), *model.heads[1].parameters()]
    grads = torch.autograd.grad(loss, learning)
    there = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(there) == len(grads)
    assert all(p.grad is not None and p.grad.equal(g) for p, g in zip(learning, grads, strict=True))
    assert summed([{"a": grads[0]}, {"a": grads[0]}])["a"].equal(2 * grads[0])
