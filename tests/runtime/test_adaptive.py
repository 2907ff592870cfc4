"""Adaptive execution: what runs, for whom, and in which order the answers come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offramp.errors import UnsupportedError, ValidationError
from offramp.evaluate import evaluate
from offramp.functional import upsample
from offramp.model import MultiExitModel
from offramp.policies import create_policy
from offramp.policies.base import ExitPolicy
from offramp.policies.fixed import Fixed
from offramp.policies.max_prob import MaxProb
from offramp.policies.oracle import Oracle
from offramp.records import record
from offramp.runtime import anytime, run
from offramp.trees import State, take
from offramp.types import Carry, Costs, ExitOutput

aten = torch.ops.aten


class Count(nn.Module):
    """A segment that changes nothing and notes the rows it ran for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen.append(state["row"].tolist())
        return state


class Say(nn.Module):
    """A head whose logits are the row number and its own exit."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, state: dict[str, Tensor]) -> ExitOutput:
        row = state["row"].float()
        return ExitOutput(torch.stack([row, torch.full_like(row, self.k)], 1), state["gate"])


class Plan(ExitPolicy):
    """Leaves at the exit that the gate names; its carry counts the exits that each row has seen."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        seen = carry["seen"] if carry else torch.zeros(len(out.logits))
        if out.gate is None or bool((seen != k).any()):
            raise AssertionError(f"the carry of exit {k} is not that of its rows: {seen}")
        return (out.gate <= k).float(), {"seen": seen + 1}

    def answer(self, k: int, out: ExitOutput, carry: Carry) -> Tensor:
        return torch.cat([out.logits, carry["seen"][:, None]], 1)


def counting_model(exits: int = 4) -> tuple[MultiExitModel, list[Count]]:
    segments = [Count() for _ in range(exits)]
    return MultiExitModel(segments, [Say(k) for k in range(exits)]).eval(), segments


def planned(exits: list[int]) -> dict[str, Tensor]:
    return {"row": torch.arange(len(exits)), "gate": torch.tensor(exits)}


def plan(exits: int = 4) -> Plan:
    policy = Plan(exits)
    policy.thresholds[:-1] = 0.5
    return policy


PLANS = [
    [2, 0, 3, 1, 0, 2, 3, 3, 0],
    [0, 0, 0],
    [3, 3, 3, 3],
    [1, 1],
    [2],
    [9, 9, 0],  # never ready: the last exit takes them
]


@pytest.mark.parametrize("exits", PLANS)
def test_run_answers_in_input_order_at_the_planned_exit(exits: list[int]) -> None:
    model, _ = counting_model()
    got = run(model, plan(), planned(exits))
    left = [min(k, 3) for k in exits]
    assert got.exits.tolist() == left
    assert got.logits.tolist() == [[row, k, k + 1] for row, k in enumerate(left)]


@pytest.mark.parametrize("exits", PLANS)
def test_run_never_runs_a_segment_for_rows_that_have_left(exits: list[int]) -> None:
    model, segments = counting_model()
    run(model, plan(), planned(exits))
    for k, segment in enumerate(segments):
        staying = [row for row, leaves in enumerate(exits) if leaves >= k]
        assert segment.seen == ([staying] if staying else [])


def test_run_compacts_only_where_somebody_leaves_and_somebody_stays() -> None:
    kept: list[list[int]] = []

    def compact(state: State, rows: Tensor) -> State:
        kept.append(rows.tolist())
        return take(state, rows)

    segments = [Count() for _ in range(4)]
    model = MultiExitModel(segments, [Say(k) for k in range(4)], compact=compact).eval()
    run(model, plan(), planned([3, 1, 3, 1]))
    assert kept == [[0, 2]]


def test_run_sends_everyone_to_the_last_exit_though_no_score_is_reached() -> None:
    model, _ = counting_model()
    policy = plan()
    policy.thresholds.fill_(float("inf"))
    assert run(model, policy, planned([0, 0])).exits.tolist() == [3, 3]


def test_run_with_one_exit_is_the_network() -> None:
    model, _ = counting_model(1)
    assert run(model, plan(1), planned([5, 0])).exits.tolist() == [0, 0]


def test_run_tracks_no_gradients_and_leaves_inputs_alone() -> None:
    model = MultiExitModel([nn.Linear(3, 3)] * 2, [Scores(), Scores()]).eval()
    inputs = torch.randn(5, 3)
    before = inputs.clone()
    got = run(model, Fixed(2, 0), inputs)
    assert not got.logits.requires_grad
    assert torch.equal(inputs, before)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: numbers read, and shapes that data decide."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [i for i in args[1] if i is not None] if func is aten.index.Tensor else []
        reads = (aten.item.default, aten._local_scalar_dense.default, aten.nonzero.default)
        self.count += func in reads or any(i.dtype == torch.bool for i in masks)
        return func(*args, **(kwargs or {}))


def test_run_waits_for_the_device_at_most_once_per_exit() -> None:
    model = MultiExitModel([nn.Linear(3, 3) for _ in range(4)], [Scores() for _ in range(4)]).eval()
    policy = MaxProb(4)
    policy.thresholds[:-1] = 0.0
    with Waits() as waits:
        exits = run(model, policy, torch.randn(200, 3)).exits
    assert len(exits.unique()) > 2
    assert waits.count == 3  # none after the last exit, which takes everyone


# ----------------------------------------------------------------------- maps
class Shrink(nn.Module):
    def forward(self, state: Tensor) -> Tensor:
        return F.avg_pool2d(state, 2)


class Scores(nn.Module):
    def forward(self, state: Tensor) -> ExitOutput:
        return ExitOutput(state)


def shrinking_model() -> MultiExitModel:
    return MultiExitModel([Shrink(), Shrink()], [Scores(), Scores()]).eval()


def test_maps_of_different_size_come_at_the_size_asked_for() -> None:
    images = torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    policy = MaxProb(2)
    scores = policy.score(0, ExitOutput(F.avg_pool2d(images, 2)), {})[0].flatten(1).mean(1)
    policy.thresholds[0] = scores.median() + 1e-3
    got = run(shrinking_model(), policy, images, size=(10, 9))
    assert set(got.exits.tolist()) == {0, 1}
    for row, k in enumerate(got.exits.tolist()):
        small = F.avg_pool2d(images[row : row + 1], 2 ** (k + 1))
        wanted = F.interpolate(small, (10, 9), mode="bilinear", align_corners=False)
        torch.testing.assert_close(got.logits[row : row + 1], wanted)


@pytest.mark.parametrize("name", ["max_prob", "margin", "entropy", "patience", "shared"])
@pytest.mark.parametrize("reduce", ["mean", "quantile", "worst_patch"])
@pytest.mark.parametrize("way", ["falling", "rising"])
def test_run_on_maps_equals_replay_of_records(name: str, reduce: str, way: str) -> None:
    """Resolution falls or rises from exit to exit, by factors that are not whole, too."""
    sizes = {"falling": ((16, 20), (7, 9), (3, 4)), "rising": ((3, 4), (7, 9), (16, 20))}[way]
    segments = [Resize(nn.Conv2d(3, 3, 3, padding=1), size) for size in sizes]
    model = MultiExitModel(segments, [Scores() for _ in sizes]).eval()
    images, targets = 3 * torch.randn(60, 3, 16, 20), torch.randint(-1, 3, (60, 16, 20))
    records = record(model, (images, targets), batch_size=13, progress=False)
    costs = Costs.from_relative([0.3, 0.6, 1.0])
    policy = create_policy(name, num_exits=3, reduce=reduce).fit(records, costs, 0.6)
    got = run(model, policy, images, size=(16, 20))
    exits = policy.exits(records)
    assert len(exits.unique()) > 1
    assert torch.equal(got.exits, exits)
    answers = [upsample(answer, (16, 20)) for answer in policy.answers(records.shards[0])]
    for row, k in enumerate(exits.tolist()):
        torch.testing.assert_close(got.logits[row], answers[k][row], rtol=1e-4, atol=1e-5)
    # what a run answers is what an evaluation of the records says it answers
    right = (got.logits.argmax(1) == targets) & (targets >= 0)
    wanted = float(right.sum()) / float((targets >= 0).sum())
    assert evaluate(policy, records, costs).accuracy == pytest.approx(wanted, abs=1e-3)


class Resize(nn.Module):
    """A convolution, then another resolution."""

    def __init__(self, conv: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv, self.size = conv, size

    def forward(self, state: Tensor) -> Tensor:
        return F.interpolate(2 * self.conv(state), self.size, mode="bilinear")


def test_maps_of_different_size_without_a_size_are_an_error() -> None:
    with pytest.raises(ValidationError, match=r"\(4, 4\) and \(2, 2\).*size=\(height, width\)"):
        run(shrinking_model(), Fixed(2), torch.randn(2, 3, 8, 8))


def test_size_for_labels_is_an_error() -> None:
    model = MultiExitModel([nn.Identity()], [Scores()]).eval()
    with pytest.raises(ValidationError, match=r"size is for maps .* got logits \(2, 5\)"):
        run(model, Fixed(1), torch.randn(2, 5), size=(4, 4))


# ----------------------------------------------------------------------- refusals
def test_model_in_training_mode_is_an_error_before_anything_runs() -> None:
    model, segments = counting_model()
    model.train()
    with pytest.raises(ValidationError, match=r"eval mode.*model\.eval\(\)"):
        run(model, plan(), planned([0]))
    with pytest.raises(ValidationError, match="eval mode"):
        anytime(model, planned([0]))
    assert segments[0].seen == []


def test_empty_batch_is_an_error() -> None:
    model, _ = counting_model()
    with pytest.raises(ValidationError, match="at least one row"):
        run(model, plan(), planned([]))
    with pytest.raises(ValidationError, match="at least one row"):
        anytime(model, planned([]))


def test_rows_that_disagree_are_an_error() -> None:
    model, _ = counting_model()
    with pytest.raises(ValidationError, match="one common first dimension"):
        run(model, plan(), {"row": torch.zeros(2), "gate": torch.zeros(3)})


def test_policy_of_another_number_of_exits_is_an_error() -> None:
    model, _ = counting_model()
    with pytest.raises(ValidationError, match="policy of 4 exits, got 3"):
        run(model, plan(3), planned([0]))


def test_control_is_refused_before_anything_runs() -> None:
    model, segments = counting_model()
    with pytest.raises(UnsupportedError, match="Oracle is an offline control"):
        run(model, Oracle(4), planned([0]))
    assert segments[0].seen == []


# ----------------------------------------------------------------------- anytime
def test_anytime_computes_a_segment_only_when_asked() -> None:
    model, segments = counting_model()
    answers = anytime(model, planned([0, 1]))
    for k in range(4):
        assert [len(segment.seen) for segment in segments] == [1] * k + [0] * (4 - k)
        assert next(answers).logits.tolist() == [[0, k], [1, k]]
    with pytest.raises(StopIteration):
        next(answers)


def test_anytime_equals_the_forward_pass() -> None:
    torch.manual_seed(0)
    model = MultiExitModel([nn.Linear(4, 4) for _ in range(3)], [Scores() for _ in range(3)]).eval()
    inputs = torch.randn(5, 4)
    for got, wanted in zip(anytime(model, inputs), model(inputs), strict=True):
        assert torch.equal(got.logits, wanted.logits)
        assert not got.logits.requires_grad
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()  # in between
