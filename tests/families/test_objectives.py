"""Properties of every registered objective on every kind of task.

Each property is a plain function of an objective's name and a task's, so an objective that is
registered anywhere, in a test as well, can be put to all of them: see `CHECKS`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.registry import objectives
from offramp.trees import map_tensors, take, tensors
from offramp.types import Batch, Costs, ExitOutput, Term

from .toys import COSTS, EXITS, TASKS, toy

Check = Callable[[str, str], None]


# ----------------------------------------------------------------------- properties
def check_terms_are_named_finite_scalars(name: str, task: str) -> None:
    """At least one term; each a finite scalar with a name of its own, at every progress."""
    for progress in (0.0, 0.5, 1.0):
        terms = terms_of(name, fresh(task), batch_of(task, progress=progress))
        assert terms
        assert all(isinstance(term, Term) for term in terms)
        assert len({term.name for term in terms}) == len(terms)
        for term in terms:
            assert term.value.shape == ()
            assert math.isfinite(float(term.value.detach())), term


def check_since_names_a_segment(name: str, task: str) -> None:
    """A term moves weights from a segment that there is."""
    for term in terms_of(name, fresh(task), batch_of(task)):
        assert isinstance(term.since, int)
        assert 0 <= term.since < EXITS


def check_gradients_reach_every_head(name: str, task: str) -> None:
    """Every exit's logits learn something, and all gradients are finite."""
    model = fresh(task)
    total(terms_of(name, model, batch_of(task))).backward()
    for k, head in enumerate(model.heads):
        # the last head of a cut network only reads the answer of the last segment
        learning = [*head.parameters()] or [*model.segments[k].parameters()]
        moved = [p.grad for p in learning if p.grad is not None]
        assert any(bool((grad != 0).any()) for grad in moved), f"nothing moves head {k}"
    assert finite_gradients(model)


def check_one_row_is_a_batch(name: str, task: str) -> None:
    """A batch of one row has finite terms and gradients."""
    model = fresh(task)
    total(terms_of(name, model, batch_of(task, rows=1))).backward()
    assert finite_gradients(model)


def check_float64_equals_float32(name: str, task: str) -> None:
    """Terms have the precision of the logits, and agree over precisions."""
    batch = batch_of(task)
    single = terms_of(name, fresh(task), batch)
    inputs = map_tensors(lambda t: t.double() if t.is_floating_point() else t, batch.inputs)
    model = fresh(task).double()
    double = terms_of(name, model, batch._replace(inputs=inputs))
    for one, two in zip(single, double, strict=True):
        assert one.name == two.name
        assert two.value.dtype == torch.float64
        torch.testing.assert_close(one.value.double(), two.value, rtol=1e-4, atol=1e-5)


def check_bf16_autocast_is_close_to_float32(name: str, task: str) -> None:
    """Under autocast terms are finite, close to those in float32, and so are gradients."""
    batch, model = batch_of(task), fresh(task)
    with torch.autocast("cpu", torch.bfloat16):
        terms = terms_of(name, model, batch)
    total(terms).backward()
    assert finite_gradients(model)
    for one, two in zip(terms, terms_of(name, fresh(task), batch), strict=True):
        torch.testing.assert_close(one.value.float(), two.value, rtol=0.1, atol=0.05)


def check_saturated_logits_stay_finite(name: str, task: str) -> None:
    """Logits and gates of 1e4, right or wrong, give finite terms and gradients."""
    batch = batch_of(task)
    with torch.no_grad():
        outs = map_tensors(lambda t: 1e4 * t.sign(), fresh(task)(batch.inputs))
    leaves = [leaf.requires_grad_() for leaf in tensors(outs)]
    loss = total(objectives.create(name)(outs, batch, COSTS))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(leaf.grad is None or bool(leaf.grad.isfinite().all()) for leaf in leaves)


def check_ignored_positions_do_not_count(name: str, task: str) -> None:
    """On maps, what the logits say where the target is -100 changes no term."""
    batch, model = batch_of(task), fresh(task)
    if batch.target.dim() == 1:
        return
    target = batch.target.clone()
    target[:, :2] = -100  # the upper half, so that it is one at every resolution
    batch = batch._replace(target=target)
    with torch.no_grad():
        outputs = model(batch.inputs)
        if any(out.logits.shape[2:] != target.shape[1:] for out in outputs):
            return  # resampled logits mix what counts with what does not
        changed = [out._replace(logits=out.logits.clone()) for out in outputs]
        for out in changed:
            out.logits[:, 0, :2] += 3.0
        objective = objectives.create(name)
        for one, two in zip(
            objective(outputs, batch, COSTS), objective(changed, batch, COSTS), strict=True
        ):
            assert bool(one.value.isfinite())
            torch.testing.assert_close(one.value, two.value)


CHECKS: tuple[Check, ...] = (
    check_terms_are_named_finite_scalars,
    check_since_names_a_segment,
    check_gradients_reach_every_head,
    check_one_row_is_a_batch,
    check_float64_equals_float32,
    check_bf16_autocast_is_close_to_float32,
    check_saturated_logits_stay_finite,
    check_ignored_positions_do_not_count,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", objectives.names())
def test_every_registered_objective(check: Check, name: str, task: str) -> None:
    check(name, task)


# ----------------------------------------------------------------------- objectives of a test's own
@contextmanager
def registered(objective: type[Objective]) -> Iterator[str]:
    objectives.register("of_a_test")(objective)
    try:
        yield "of_a_test"
    finally:
        objectives.remove("of_a_test")


class OwnSegment(Objective):
    """Cross-entropy of every exit, each moving its own segment alone."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        return [
            Term(f"own/{k}", self.loss(out.logits, batch.target), since=k)
            for k, out in enumerate(outputs)
        ]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape[2:] != target.shape[1:]:
            logits = F.interpolate(logits, target.shape[1:], mode="bilinear")
        return F.cross_entropy(logits, target)


class SameName(OwnSegment):
    """Broken: two terms of one name."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        return [term._replace(name="own") for term in super().forward(outputs, batch, costs)]


class Beyond(OwnSegment):
    """Broken: a term that moves the segment after the last one."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        return [t._replace(since=t.since + 1) for t in super().forward(outputs, batch, costs)]


class LastAlone(OwnSegment):
    """Broken: early exits learn nothing."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        return super().forward(outputs, batch, costs)[-1:]


class Probabilities(OwnSegment):
    """Broken: takes the logarithm of a probability, which may be 0."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(logits.softmax(1).log(), target)


class Spread(OwnSegment):
    """Broken: divides by what a batch of one row does not have."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target) / (logits.flatten(1).mean(1).std(unbiased=False) ** 2)


class Single(OwnSegment):
    """Broken: drops to float32 whatever comes."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits.float(), target)


class Half(OwnSegment):
    """Broken under autocast: sums in bf16 what is small beside what is large."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = super().loss(logits, target)
        low = torch.bfloat16 if logits.dtype == torch.bfloat16 else loss.dtype
        return (loss.to(low) + 1000.0) - 1000.0


class EveryPosition(OwnSegment):
    """Broken: counts positions that are to be ignored."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target.clamp_min(0))


def test_new_objective_of_one_class_passes_every_check() -> None:
    with registered(OwnSegment) as name:
        assert name in objectives.names()
        for task in TASKS:
            for check in CHECKS:
                check(name, task)
    assert name not in objectives.names()


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (SameName, check_terms_are_named_finite_scalars),
        (Beyond, check_since_names_a_segment),
        (LastAlone, check_gradients_reach_every_head),
        (Probabilities, check_saturated_logits_stay_finite),
        (Spread, check_one_row_is_a_batch),
        (Single, check_float64_equals_float32),
        (Half, check_bf16_autocast_is_close_to_float32),
        (EveryPosition, check_ignored_positions_do_not_count),
    ],
)
def test_broken_objective_fails_the_check_made_for_it(
    broken: type[Objective], check: Check
) -> None:
    with registered(broken) as name, pytest.raises(AssertionError):
        check(name, "map")


# ----------------------------------------------------------------------- helpers
def fresh(task: str) -> MultiExitModel:
    """The toy's model without gradients from another check."""
    return copy.deepcopy(toy(task).model)


def batch_of(task: str, rows: int = 16, progress: float = 0.5) -> Batch:
    some = torch.arange(rows)
    toy_ = toy(task)
    return Batch(take(toy_.inputs, some), toy_.targets[some], some, progress)


def terms_of(name: str, model: MultiExitModel, batch: Batch) -> list[Term]:
    return objectives.create(name)(model(batch.inputs), batch, COSTS)


def total(terms: Sequence[Term]) -> Tensor:
    return torch.stack([term.value for term in terms]).sum()


def finite_gradients(model: MultiExitModel) -> bool:
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(grads) and all(bool(grad.isfinite().all()) for grad in grads)
