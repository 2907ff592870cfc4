"""Joint training sums the weighted cross-entropy of all exits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from offramp.errors import ValidationError
from offramp.objectives.base import cross_entropy, exit_weights
from offramp.objectives.joint import Joint
from offramp.registry import objectives
from offramp.types import Batch, Costs, ExitOutput

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


def outputs(*shape: int) -> list[ExitOutput]:
    generator = torch.Generator().manual_seed(0)
    return [ExitOutput(torch.randn(shape, generator=generator)) for _ in range(3)]


def batch(target: torch.Tensor, progress: float = 0.0) -> Batch:
    return Batch(torch.zeros(len(target), 1), target, torch.arange(len(target)), progress)


def literal(logits: torch.Tensor, target: torch.Tensor) -> float:
    """Mean of -log softmax at the target, row by row; negative targets do not count."""
    losses = []
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        if label >= 0:
            losses.append(math.log(sum(math.exp(x) for x in row)) - row[label])
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ("uniform", [1.0, 1.0, 1.0]),
        ("linear", [1 / 12, 2 / 12, 3 / 12]),
        ([0.5, 0.0, 2.0], [0.5, 0.0, 2.0]),
        (lambda num, progress: [progress * k for k in range(num)], [0.0, 0.25, 0.5]),
    ],
)
def test_joint_weighs_the_cross_entropy_of_every_exit(weights, wanted):
    target = torch.tensor([0, 3, 2, -100, 1])
    outs = outputs(5, 4)
    terms = Joint(weights)(outs, batch(target, progress=0.25), COSTS)
    assert [term.name for term in terms] == ["ce/0", "ce/1", "ce/2"]
    assert [term.since for term in terms] == [0, 0, 0]
    for term, out, weight in zip(terms, outs, wanted, strict=True):
        assert float(term.value) == pytest.approx(weight * literal(out.logits, target), rel=1e-5)


def test_joint_linear_weights_sum_to_a_half():
    for num in (1, 2, 7):
        assert sum(exit_weights("linear", num, 0.0)) == pytest.approx(0.5)


def test_joint_leaves_the_named_target_out():
    target = torch.tensor([0, 3, 2, 1])
    ignoring = Joint(ignore_index=3)(outputs(4, 4), batch(target), COSTS)
    kept = [ExitOutput(out.logits[[0, 2, 3]]) for out in outputs(4, 4)]
    plain = Joint()(kept, batch(target[[0, 2, 3]]), COSTS)
    for a, b in zip(ignoring, plain, strict=True):
        torch.testing.assert_close(a.value, b.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_joint_leaves_every_negative_target_out_whatever_is_named(dtype):
    outs = outputs(6, 4)
    target = torch.tensor([0, 255, -1, 3, -100, 2], dtype=dtype)
    for term, out in zip(Joint(ignore_index=255)(outs, batch(target), COSTS), outs, strict=True):
        wanted = F.cross_entropy(out.logits[[0, 3, 5]], torch.tensor([0, 3, 2]))
        assert float(term.value) == pytest.approx(float(wanted), rel=1e-6)


def test_joint_says_that_a_target_is_no_class():
    with pytest.raises(ValidationError, match="wanted targets below C=4, got 7"):
        Joint()(outputs(3, 4), batch(torch.tensor([0, 7, -1])), COSTS)


def test_joint_says_that_targets_are_no_whole_numbers():
    with pytest.raises(ValidationError, match=r"numbers of classes, got torch\.float32"):
        Joint()(outputs(3, 4), batch(torch.tensor([0.0, 0.5, 1.0])), COSTS)


def test_joint_brings_maps_to_the_size_of_the_target():
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 4, (2, 8, 8), generator=generator)
    small = outputs(2, 4, 4, 4)
    terms = Joint()(small, batch(target), COSTS)
    for term, out in zip(terms, small, strict=True):
        grown = F.interpolate(out.logits, (8, 8), mode="bilinear", align_corners=False)
        flat = grown.permute(0, 2, 3, 1).reshape(-1, 4)
        assert float(term.value) == pytest.approx(literal(flat, target.flatten()), rel=1e-5)


def test_joint_is_zero_where_every_target_is_ignored():
    outs = outputs(3, 4)
    for out in outs:
        out.logits.requires_grad_()
    terms = Joint(ignore_index=-1)(outs, batch(torch.full((3,), -1)), COSTS)
    sum(term.value for term in terms).backward()
    assert [float(term.value.detach()) for term in terms] == [0.0] * 3
    assert all(float(out.logits.grad.abs().sum()) == 0 for out in outs)


def test_joint_smooths_labels_as_the_mean_over_all_classes():
    target = torch.tensor([0, 3, 2, -100, 1])
    for term, out in zip(
        Joint(label_smoothing=0.2)(outputs(5, 4), batch(target), COSTS), outputs(5, 4), strict=True
    ):
        even = sum(literal(out.logits, target.clamp(max=0) + c * (target >= 0)) for c in range(4))
        wanted = 0.8 * literal(out.logits, target) + 0.2 * even / 4
        assert float(term.value) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, "a", True, None])
def test_joint_says_that_the_smoothing_is_no_share(smoothing):
    with pytest.raises(ValidationError, match=r"label_smoothing in \[0, 1\)"):
        Joint(label_smoothing=smoothing)


def test_cross_entropy_of_no_rows_is_zero():
    for shape in ((), (4, 4)):
        logits = torch.zeros(0, 3, *shape[:1], *shape[1:], requires_grad=True)
        value = cross_entropy(logits, torch.zeros(0, *shape).long(), label_smoothing=0.1)
        value.backward()
        assert value.item() == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "3 non-negative weights"),
        ([1.0, -1.0, 1.0], "3 non-negative weights"),
        (lambda num, progress: [1.0], "3 non-negative weights"),
        (lambda num, progress: 1.0, "3 non-negative weights, one per exit, got 1.0"),
        (3, "3 non-negative weights, one per exit, got 3"),
        ([1.0, "a", 1.0], "3 non-negative weights"),
        ([1.0, float("nan"), 1.0], "3 non-negative weights"),
    ],
)
def test_joint_says_that_weights_do_not_fit(weights, message):
    with pytest.raises(ValidationError, match=message):
        Joint(weights)(outputs(5, 4), batch(torch.zeros(5).long()), COSTS)


def test_routes_that_are_not_one_per_exit_are_told():
    class Short(Joint):
        def since(self, num_exits, progress):
            return [0, 1]

    with pytest.raises(ValidationError, match=r"since of 3 exits, got \[0, 1\]"):
        Short()(outputs(5, 4), batch(torch.zeros(5).long()), COSTS)


def test_joint_is_found_by_name_and_says_which_weights_it_knows():
    assert isinstance(objectives.create("joint", weights="linear"), Joint)
    with pytest.raises(ValidationError, match=r"'uniform', 'linear'.*got 'cubic'"):
        Joint("cubic")
