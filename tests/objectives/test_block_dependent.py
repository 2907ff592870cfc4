"""Block-dependent losses: which segments each exit moves, over a training too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from offramp.errors import ValidationError
from offramp.objectives.block_dependent import BlockDependent
from offramp.objectives.distill import Distill
from offramp.types import Batch, Costs, ExitOutput

K = 5
COSTS = Costs.from_relative([0.2, 0.4, 0.6, 0.8, 1.0])


def outputs() -> list[ExitOutput]:
    return [ExitOutput(torch.randn(4, 3, requires_grad=True)) for _ in range(K)]


def batch(progress: float = 0.0) -> Batch:
    return Batch(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), torch.arange(4), progress)


def test_overlap_may_change_over_training():
    objective = BlockDependent(lambda num, progress: 1 + int(progress * num), final=False)
    said = {p: [t.since for t in objective(outputs(), batch(p), COSTS)] for p in (0, 0.25, 1)}
    assert said == {0: [0, 1, 2, 3, 4], 0.25: [0, 0, 1, 2, 3], 1: [0] * K}


@pytest.mark.parametrize("steps", [{0: 5, 0.5: 2}, {"0": 5, "0.5": 2}, {0.5: 2, 0.0: 5}])
def test_overlap_may_be_told_from_some_progress_on(steps):
    objective = BlockDependent(steps, final=False)
    said = {p: [t.since for t in objective(outputs(), batch(p), COSTS)] for p in (0, 0.49, 0.5, 1)}
    assert said == {0: [0] * K, 0.49: [0] * K, 0.5: [0, 0, 1, 2, 3], 1: [0, 0, 1, 2, 3]}


@pytest.mark.parametrize("steps", [{}, {0.5: 2}, {0: 3, 1.5: 2}, {0: 3, "late": 2}, {0: 3, "0": 2}])
def test_steps_that_do_not_cover_training_are_told(steps):
    with pytest.raises(ValidationError, match="wanted overlap from some progress on"):
        BlockDependent(steps)


def test_every_step_is_checked_at_the_door():
    with pytest.raises(ValidationError, match="overlap as a whole number of at least 1 or"):
        BlockDependent({0: 3, 0.5: 0})
    with pytest.raises(ValidationError, match="wanted weights 'uniform', 'linear'"):
        BlockDependent(weights={0: "uniform", 0.5: "late"})


@pytest.mark.parametrize("overlap", [0, 2.0, True, "3", None])
def test_overlap_that_is_no_number_of_segments_is_told(overlap):
    wanted = "overlap as a whole number of at least 1 or a schedule, got"
    with pytest.raises(ValidationError, match=wanted):
        BlockDependent(overlap)
    with pytest.raises(ValidationError, match=wanted):
        BlockDependent(lambda num, progress: overlap)(outputs(), batch(), COSTS)


def test_final_that_is_no_truth_value_is_told():
    with pytest.raises(ValidationError, match="final as True or False, got 'no'"):
        BlockDependent(final="no")


@pytest.mark.parametrize("final", [False, True])
def test_teacher_from_outside_pulls_every_exit_along_its_own_route(final):
    inner = BlockDependent(2, final=final)
    terms = Distill(inner, teacher=nn.Linear(2, 3))(outputs(), batch(), COSTS)
    since = {term.name: term.since for term in terms}
    wanted = [0, 0, 1, 2, 0 if final else 3]
    assert [since[f"distill/{k}"] for k in range(K)] == wanted
    assert [since[f"ce/{k}"] for k in range(K)] == wanted
