"""Distillation is the divergence that it says, of what counts, and moves only what it may."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp import create_objective
from offramp.errors import OptionError, UnknownNameError, ValidationError
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.objectives.distill import Distill
from offramp.objectives.joint import Joint
from offramp.types import Batch, Costs, ExitOutput, Term

N, C, K = 6, 5, 4
COSTS = Costs.from_relative([0.25, 0.5, 0.75, 1.0])


def exits(*sizes: tuple[int, ...], rows: int = N) -> list[ExitOutput]:
    """Random logits [N, C, *S], leaves that gradients are read from."""
    sizes = sizes or ((),) * K
    return [ExitOutput((3 * torch.randn(rows, C, *size)).requires_grad_()) for size in sizes]


def batch(*size: int, progress: float = 0.5, rows: int = N) -> Batch:
    target = torch.randint(C, (rows, *size))
    return Batch(torch.randn(rows, 3), target, torch.arange(rows), progress)


def literal(teacher: Tensor, student: Tensor, counts: Tensor, temperature: float) -> float:
    """The mean over what counts of sum t log(t / s), one number at a time."""
    total, num = 0.0, 0
    teacher, student = teacher.detach().movedim(1, -1), student.detach().movedim(1, -1)
    for place in counts.nonzero().tolist():
        t, s = (
            [math.exp(z / temperature) for z in each[*place].tolist()]
            for each in (teacher, student)
        )
        t, s = [x / sum(t) for x in t], [x / sum(s) for x in s]
        total += sum(a * math.log(a / b) for a, b in zip(t, s, strict=True))
        num += 1
    return total / max(num, 1)


def values(terms: Sequence[Term]) -> dict[str, float]:
    return {term.name: float(term.value.detach()) for term in terms}


def total(terms: Sequence[Term]) -> Tensor:
    return torch.stack([term.value for term in terms]).sum()


def taught(terms: Sequence[Term]) -> list[Term]:
    return [term for term in terms if term.name.startswith("distill/")]


def gradient(out: ExitOutput) -> Tensor:
    return torch.zeros_like(out.logits) if out.logits.grad is None else out.logits.grad


class Fixed(nn.Module):
    """A teacher that always says the same, and notes how it was asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.asked = answer, []
        self.weight = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor) -> Any:
        self.asked.append((inputs, self.training, torch.is_grad_enabled()))
        self.norm(inputs)
        return self.answer


class Blocks(Objective):
    """Terms that move their own blocks alone, the second exit's even less; two for each exit."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        losses = [F.cross_entropy(out.logits, batch.target) for out in outputs]
        first = [Term(f"own/{k}", loss, since=max(0, k - 1)) for k, loss in enumerate(losses[:-1])]
        also = [Term(f"more/{k}", loss, since=k) for k, loss in enumerate(losses[:2])]
        return [*first, *also, Term("all", losses[-1])]


# ----------------------------------------------------------------------- values
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("temperature", [1, 1.5, 2.5, 20.0])
def test_terms_of_self_distillation_equal_the_literal_sum(temperature: float, scale: bool) -> None:
    outputs, given = exits(), batch()
    objective = create_objective("distill", weight=0.35, temperature=temperature, scale=scale)
    came = values(objective(outputs, given, COSTS))
    assert list(came) == ["ce/0", "ce/1", "ce/2", "ce/3", "distill/0", "distill/1", "distill/2"]
    factor = 0.35 * (temperature**2 if scale else 1)
    for k in range(K - 1):
        divergence = literal(
            outputs[-1].logits, outputs[k].logits, torch.ones(N, dtype=torch.bool), temperature
        )
        assert came[f"distill/{k}"] == pytest.approx(factor * divergence, rel=1e-4)
    assert {name: came[name] for name in list(came)[:K]} == values(Joint()(outputs, given, COSTS))


@pytest.mark.parametrize("kind", ["logits", "exits", "list of one"])
def test_teacher_from_outside_teaches_every_exit(kind: str) -> None:
    outputs, given, answer = exits(), batch(), 3 * torch.randn(N, C)
    said = {"logits": answer, "list of one": [ExitOutput(answer)]}
    said["exits"] = (ExitOutput(torch.zeros(N, C)), ExitOutput(answer, torch.zeros(N)))
    teacher = Fixed(said[kind])
    came = values(Distill(weight=1, temperature=2, teacher=teacher)(outputs, given, COSTS))
    assert list(came)[K:] == [f"distill/{k}" for k in range(K)]
    for k in range(K):
        wanted = 4 * literal(answer, outputs[k].logits, torch.ones(N, dtype=torch.bool), 2)
        assert came[f"distill/{k}"] == pytest.approx(wanted, rel=1e-4)
    ((inputs, _, _),) = teacher.asked  # once for all exits
    assert inputs is given.inputs


def test_rows_that_do_not_count_teach_nothing() -> None:
    outputs, given = exits(), batch()
    given.target[1], given.target[4] = -100, 3
    objective = Distill(weight=1, temperature=1, ignore_index=3)
    counts = (given.target >= 0) & (given.target != 3)
    assert 0 < int(counts.sum()) < N - 1
    terms = objective(outputs, given, COSTS)
    wanted = literal(outputs[-1].logits, outputs[0].logits, counts, 1)
    assert values(terms)["distill/0"] == pytest.approx(wanted, rel=1e-4)
    total(terms).backward()
    for out in outputs:
        assert bool((gradient(out)[~counts] == 0).all())
    nothing = given._replace(target=torch.full((N,), -100))
    assert set(values(objective(outputs, nothing, COSTS)).values()) == {0.0}


def test_maps_count_by_position() -> None:
    outputs, given = exits((4, 6), (4, 6)), batch(4, 6)
    given.target[0, :2], given.target[3, 1, 5] = -100, 255
    counts = (given.target >= 0) & (given.target != 255)
    terms = Distill(weight=0.5, scale=False, ignore_index=255)(outputs, given, COSTS)
    wanted = 0.5 * literal(outputs[1].logits, outputs[0].logits, counts, 1.5)
    assert values(terms)["distill/0"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("students", [(2, 3), (8, 12), (4, 6)])
@pytest.mark.parametrize("answer", [(2, 3), (8, 12), (4, 6)])
def test_maps_of_other_sizes_are_compared_at_the_students(
    students: tuple[int, int], answer: tuple[int, int]
) -> None:
    outputs, given = exits(students, answer), batch(4, 6)
    given.target[0, 0, 0], given.target[5, 2:] = -100, -100
    teacher = F.interpolate(outputs[1].logits, students, mode="bilinear", align_corners=False)
    counts = torch.zeros(N, *students, dtype=torch.bool)
    for n in range(N):
        for i in range(students[0]):
            for j in range(students[1]):
                rows = range(i * 4 // students[0], -(-(i + 1) * 4 // students[0]))
                columns = range(j * 6 // students[1], -(-(j + 1) * 6 // students[1]))
                covered = [int(given.target[n, y, x]) for y in rows for x in columns]
                counts[n, i, j] = min(covered) >= 0
    assert not bool(counts.all())
    came = values(Distill(weight=1, temperature=1)(outputs, given, COSTS))
    wanted = literal(teacher, outputs[0].logits, counts, 1)
    assert came["distill/0"] == pytest.approx(wanted, rel=1e-4)


def test_exit_that_says_the_same_as_the_teacher_has_nothing_to_learn() -> None:
    given, answer = batch(), 3 * torch.randn(N, C)
    outputs = [ExitOutput(answer.clone().requires_grad_()) for _ in range(K)]
    terms = Distill(teacher=Fixed(answer))(outputs, given, COSTS)[K:]
    total(terms).backward()
    for out, term in zip(outputs, terms, strict=True):
        assert float(term.value.detach()) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(out.logits.grad, torch.zeros(N, C), rtol=0, atol=1e-6)


def test_single_exit_without_a_teacher_has_the_wrapped_terms_alone() -> None:
    assert list(values(Distill()(exits(()), batch(), COSTS))) == ["ce/0"]


def test_bf16_logits_are_compared_in_float32() -> None:
    outputs, given = exits(), batch()
    low = [ExitOutput(out.logits.detach().bfloat16()) for out in outputs]
    wide = [ExitOutput(out.logits.float()) for out in low]
    for one, two in zip(
        Distill()(low, given, COSTS)[K:], Distill()(wide, given, COSTS)[K:], strict=True
    ):
        assert one.value.dtype == torch.float32
        assert torch.equal(one.value, two.value)


# ----------------------------------------------------------------------- published settings
def test_weights_and_last_quarter_of_eenet_are_expressible() -> None:
    outputs, eenet = exits(), {"name": "joint", "weights": "linear"}
    objective = create_objective(
        "distill", objective=eenet, weight=0.01 / C, temperature=3, start=0.75
    )
    for progress in (0.0, 0.7499, 0.75, 0.99):
        given = batch(progress=progress)
        came = values(objective(outputs, given, COSTS))
        for k in range(K):
            ce = (k + 1) / (K * (K + 1)) * F.cross_entropy(outputs[k].logits, given.target)
            assert came[f"ce/{k}"] == pytest.approx(float(ce.detach()), rel=1e-5)
        for k in range(K - 1):
            soft = (outputs[-1].logits / 3).softmax(1)
            each = F.kl_div((outputs[k].logits / 3).log_softmax(1), soft, reduction="none")
            wanted = float(0.01 * 9 * each.mean().detach()) if progress >= 0.75 else 0.0
            assert came[f"distill/{k}"] == pytest.approx(wanted, rel=1e-4)


def test_self_distillation_of_block_dependent_losses_is_expressible() -> None:
    outputs, given = exits(), batch()
    terms = Distill(Blocks(), weight=0.25, temperature=2.5, scale=False)(outputs, given, COSTS)
    since = {term.name: term.since for term in terms}
    assert {k: since[f"distill/{k}"] for k in range(3)} == {0: 0, 1: 1, 2: 1}
    for k in range(K - 1):
        wanted = 0.25 * F.kl_div(
            (outputs[k].logits / 2.5).log_softmax(1),
            (outputs[-1].logits / 2.5).softmax(1),
            reduction="batchmean",
        )
        assert values(terms)[f"distill/{k}"] == pytest.approx(float(wanted.detach()), rel=1e-4)


# ----------------------------------------------------------------------- who learns
def test_no_gradient_reaches_the_last_exit_from_what_it_teaches() -> None:
    outputs = exits()
    terms = Distill()(outputs, batch(), COSTS)
    total(taught(terms)).backward()
    assert outputs[-1].logits.grad is None
    assert all(bool((out.logits.grad != 0).any()) for out in outputs[:-1])


def test_gradient_is_the_difference_of_probabilities() -> None:
    outputs = exits()
    terms = Distill(weight=1, temperature=2)(outputs, batch(), COSTS)
    total(taught(terms)).backward()
    t, s = ((outputs[k].logits / 2).softmax(1) for k in (-1, 0))
    torch.testing.assert_close(outputs[0].logits.grad, 2 * (s - t) / N)


def test_teacher_is_frozen_whatever_mode_the_objective_is_in() -> None:
    teacher = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, C))
    objective, given = Distill(teacher=teacher), batch()
    objective.train()
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    first = values(objective(exits(), given, COSTS))
    terms = objective(outputs := exits(), given, COSTS)
    total(terms).backward()
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[n], value) for n, value in teacher.state_dict().items())
    assert values(objective(outputs, given, COSTS)) == values(terms) != first


def test_teacher_is_no_part_of_the_objective_but_goes_with_it() -> None:
    teacher = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, C))
    objective = Distill(teacher=teacher)
    assert (list(objective.parameters()), list(objective.buffers())) == ([], [])
    assert dict(objective.state_dict()) == {}
    assert teacher not in [*objective.modules()]
    assert objective.to(torch.float64) is objective
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}
    objective.to("meta")
    assert {t.device.type for t in (*teacher.parameters(), *teacher.buffers())} == {"meta"}


def test_multi_exit_model_can_teach() -> None:
    segments = [nn.Linear(3, 3) for _ in range(2)]
    heads = [nn.Sequential(nn.Linear(3, C), _AsExit()) for _ in range(2)]
    teacher, given, outputs = MultiExitModel(segments, heads), batch(), exits()
    came = values(Distill(weight=1, temperature=1, teacher=teacher)(outputs, given, COSTS))
    answer = teacher.eval()(given.inputs)[-1].logits
    wanted = literal(answer, outputs[2].logits, torch.ones(N, dtype=torch.bool), 1)
    assert came["distill/2"] == pytest.approx(wanted, rel=1e-4)


class _AsExit(nn.Module):
    def forward(self, logits: Tensor) -> ExitOutput:
        return ExitOutput(logits)


def test_before_the_start_the_terms_are_zero_and_the_teacher_is_not_asked() -> None:
    teacher = Fixed(torch.randn(N, C))
    objective = Distill(teacher=teacher, start=0.5)
    outputs = exits()
    early = objective(outputs, batch(progress=0.49), COSTS)
    assert teacher.asked == []
    assert [float(term.value) for term in early[K:]] == [0.0] * K
    late = objective(outputs, batch(progress=0.5), COSTS)
    assert teacher.asked[0][1:] == (False, False)  # neither training nor with gradients
    assert [(t.name, t.since) for t in early] == [(t.name, t.since) for t in late]
    assert all(float(term.value.detach()) > 0 for term in late[K:])
    total(early).backward()


def test_parameters_of_the_wrapped_objective_learn_and_are_saved() -> None:
    class Learned(Joint):
        def __init__(self) -> None:
            super().__init__()
            self.log_variance = nn.Parameter(torch.zeros(()))

    objective = Distill(Learned())
    assert [name for name, _ in objective.named_parameters()] == ["objective.log_variance"]
    assert list(objective.state_dict()) == ["objective.log_variance"]


# ----------------------------------------------------------------------- the door
def test_options_are_handed_to_an_objective_that_is_only_named() -> None:
    assert Distill(ignore_index=255).ignore_index == 255
    assert Distill({"name": "joint", "ignore_index": 7}).ignore_index == 7
    assert Distill(Joint(ignore_index=9)).ignore_index == 9
    assert Distill().ignore_index == -100
    assert Distill(Blocks()).ignore_index == -100
    mapping = {"name": "joint"}
    Distill(mapping)
    assert mapping == {"name": "joint"}


def test_label_smoothing_acts_on_the_wrapped_terms_alone() -> None:
    outputs, given = exits(), batch()
    plain, smooth = (Distill(label_smoothing=e)(outputs, given, COSTS) for e in (0.0, 0.2))
    wanted = F.cross_entropy(outputs[0].logits, given.target, label_smoothing=0.2)
    torch.testing.assert_close(smooth[0].value, wanted)
    assert values(plain[K:]) == values(smooth[K:])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"weight": -0.1}, ValidationError, "weight as a number of at least 0, got -0.1"),
        ({"weight": "much"}, ValidationError, "weight .*'much'"),
        ({"weight": math.inf}, ValidationError, "weight .*inf"),
        ({"temperature": 0}, ValidationError, "temperature above 0"),
        ({"temperature": -2.0}, ValidationError, "temperature .*-2.0"),
        ({"temperature": math.nan}, ValidationError, "temperature .*nan"),
        ({"start": 1.5}, ValidationError, "start .*at most 1, got 1.5"),
        ({"start": True}, ValidationError, "start .*True"),
        ({"teacher": "resnet50"}, ValidationError, "teacher as a module, got str"),
        ({"objective": "jiont"}, UnknownNameError, "did you mean 'joint'"),
        ({"objective": {"weights": "linear"}}, ValidationError, "mapping with a 'name'"),
        ({"objective": {"name": "joint", "wieghts": 1}}, OptionError, "wieghts"),
        ({"objective": 3}, ValidationError, "got 3"),
        ({"objective": Joint(), "ignore_index": 255}, ValidationError, "ignore_index given to"),
        ({"objective": Joint(), "label_smoothing": 0.1}, ValidationError, "label_smoothing given"),
    ],
)
def test_bad_options_are_told_at_the_door(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        create_objective("distill", **options)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(N, C + 1), r"\(6, 5\), of the teacher; got \(6, 6\)"),
        (torch.zeros(N - 1, C), r"got \(5, 5\)"),
        (torch.zeros(N, C, 4, 4), r"got \(6, 5, 4, 4\)"),
        ({"logits": 1}, "got dict"),
        ([], "got list"),
    ],
)
def test_answer_of_a_teacher_that_does_not_fit_is_told(answer: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Distill(teacher=Fixed(answer))(exits(), batch(), COSTS)
