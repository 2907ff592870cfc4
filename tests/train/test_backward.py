"""One step leaves the gradients of the terms' sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from offramp.errors import ValidationError
from offramp.objectives.base import Objective
from offramp.objectives.joint import Joint
from offramp.train import backward_step
from offramp.types import Batch, Costs, Term

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


def batch_of(data) -> Batch:
    return Batch(*data, torch.arange(len(data[1])), 0.0)


class Given(Objective):
    def __init__(self, terms) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, outputs, batch, costs):
        value = outputs[-1].logits.mean()
        return [
            Term(name, value if row is None else value.expand(row), s)
            for name, row, s in self.terms
        ]


def test_backward_step_leaves_the_gradients_of_the_sum_and_returns_the_terms(tiny, data):
    ours, theirs = tiny(), tiny()
    terms = backward_step(ours, Joint([0.2, 0.3, 0.5]), batch_of(data), COSTS)
    losses = [F.cross_entropy(out.logits, data[1]) for out in theirs(data[0])]
    (0.2 * losses[0] + 0.3 * losses[1] + 0.5 * losses[2]).backward()
    assert [term.name for term in terms] == ["ce/0", "ce/1", "ce/2"]
    for term, weight, loss in zip(terms, (0.2, 0.3, 0.5), losses, strict=True):
        assert float(term.value.detach()) == pytest.approx(weight * float(loss.detach()))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


def test_backward_step_adds_to_the_gradients_that_are_there(tiny, data):
    once, twice = tiny(), tiny()
    backward_step(once, Joint(), batch_of(data), COSTS)
    for _ in range(2):
        backward_step(twice, Joint(), batch_of(data), COSTS)
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(2 * a.grad, b.grad)


def test_backward_step_under_autocast_gives_float32_gradients_and_terms(tiny, data):
    model, exact = tiny(), tiny()
    with torch.autocast("cpu", torch.bfloat16):
        terms = backward_step(model, Joint(), batch_of(data), COSTS)
    backward_step(exact, Joint(), batch_of(data), COSTS)
    assert all(term.value.dtype == torch.float32 for term in terms)
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in exact.parameters()])
    assert float(F.cosine_similarity(ours, theirs, 0)) > 0.99
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ([], ValidationError, "at least one term"),
        ([("a", None, 0), ("a", None, 0)], ValidationError, r"different names, got \['a', 'a'\]"),
        ([("a", 3, 0)], ValidationError, r"one number per term, got \(3,\) for 'a'"),
        (
            [("a", None, 0), ("b", None, 3)],
            ValidationError,
            "segment from 0 to 2, got 3 for the term 'b'",
        ),
    ],
)
def test_backward_step_says_what_is_wrong_with_the_terms(tiny, data, terms, error, message):
    model = tiny()
    with pytest.raises(error, match=message):
        backward_step(model, Given(terms), batch_of(data), COSTS)
    assert all(parameter.grad is None for parameter in model.parameters())
