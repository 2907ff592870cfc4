"""Figures of an exit against slow loops, and against torchmetrics where the two must agree."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_jaccard_index,
)

from offramp import metrics as metrics_module
from offramp.errors import ValidationError
from offramp.metrics import (
    ExitMetrics,
    Figures,
    has_maps,
    measure_answers,
    measure_chosen,
    measure_exits,
    measure_units,
    reliability,
)
from offramp.types import Records


def units_of(logits: Tensor, targets: Tensor, ignore: int) -> list[tuple[list[float], int, int]]:
    """Logits, target and input of every position that counts, one by one."""
    found = []
    for i in range(len(targets)):
        scores, wanted = logits[i : i + 1], targets[i : i + 1]
        if scores.shape[2:] != wanted.shape[1:]:
            size = list(wanted.shape[1:])
            scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
        columns = scores[0].reshape(scores.shape[1], -1).T.tolist()
        for column, target in zip(columns, wanted.flatten().tolist(), strict=True):
            if target >= 0 and target != ignore:
                found.append((column, target, i))
    return found


def literal_iou(answers: list[int], targets: list[int], classes: int) -> list[float]:
    """Intersection over union of each class as sets of positions; NaN where both are empty."""
    found = []
    for c in range(classes):
        answered = {at for at, answer in enumerate(answers) if answer == c}
        wanted = {at for at, target in enumerate(targets) if target == c}
        union = answered | wanted
        found.append(len(answered & wanted) / len(union) if union else math.nan)
    return found


def literal(logits: Tensor, targets: Tensor, ignore: int = -100) -> Figures:
    """All figures by loops over positions."""
    units = units_of(logits, targets, ignore)
    tops = [max(range(len(c)), key=lambda j, c=c: (c[j], -j)) for c, _, _ in units]
    iou = literal_iou(tops, [target for _, target, _ in units], logits.shape[1])
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    top1 = top5 = 0
    nll = 0.0
    hits: dict[int, list[bool]] = {}
    for column, target, row in units:
        order = sorted(range(len(column)), key=lambda c: (-column[c], c))
        total = math.log(sum(math.exp(z - max(column)) for z in column)) + max(column)
        right = order[0] == target
        top1 += right
        top5 += target in order[:5]
        nll += total - column[target]
        confidence = math.exp(max(column) - total)
        where = next(b for b in range(15) if confidence <= (b + 1) / 15 + 1e-12)
        bins[where].append((confidence, right))
        hits.setdefault(row, []).append(right)
    num = len(units)
    ece = 0.0
    for members in bins:
        if members:
            mean_confidence = sum(c for c, _ in members) / len(members)
            accuracy = sum(r for _, r in members) / len(members)
            ece += len(members) / num * abs(accuracy - mean_confidence)
    accuracy = top1 / num
    spread = sum((sum(h) - accuracy * len(h)) ** 2 for h in hits.values())
    figures = (accuracy, top5 / num, nll / num, ece, math.sqrt(spread) / num, num)
    return Figures(*figures, iou if targets.dim() > 1 else None)


def close(came: Figures, wanted: Figures) -> bool:
    assert (came.iou is None) == (wanted.iou is None)
    assert came.iou == pytest.approx(wanted.iou, nan_ok=True)
    return tuple(came[:6]) == pytest.approx(tuple(wanted[:6]), rel=1e-6, abs=1e-7)


def sharpened(*shape: int) -> Tensor:
    """Logits from hardly to very certain, with some equal ones."""
    return (torch.randn(*shape) * 4).mul(2).round().div(2)


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_figures_of_labels_equal_a_literal_loop(classes: int) -> None:
    logits, targets = sharpened(200, classes), torch.randint(classes, (200,))
    targets[::7] = -100
    assert close(measure_answers([(logits, targets)]), literal(logits, targets))


@pytest.mark.parametrize("size", [(6, 8), (3, 4), (12, 5)])
def test_figures_of_maps_are_taken_at_the_resolution_of_the_targets(size: tuple[int, int]) -> None:
    logits, targets = torch.randn(7, 6, *size) * 3, torch.randint(-1, 6, (7, 6, 8))
    targets[2] = -100  # an input of which nothing counts
    assert close(measure_answers([(logits, targets)]), literal(logits, targets))


def test_an_ignored_class_does_not_count() -> None:
    logits, targets = sharpened(100, 4), torch.randint(-1, 4, (100,))
    came = measure_answers([(logits, targets)], ignore_index=2)
    assert close(came, literal(logits, targets, ignore=2))
    assert came.num_units == sum(t in (0, 1, 3) for t in targets.tolist())


def test_figures_equal_those_of_torchmetrics() -> None:
    logits, targets = torch.randn(500, 8) * 2, torch.randint(8, (500,))
    came = measure_answers([(logits, targets)])
    for k, value in ((1, came.top1), (5, came.top5)):
        assert value == pytest.approx(
            float(multiclass_accuracy(logits, targets, 8, top_k=k, average="micro"))
        )
    error = multiclass_calibration_error(logits, targets, 8, n_bins=15, norm="l1")
    assert came.ece == pytest.approx(float(error), abs=1e-6)
    assert came.nll == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-6)


def test_stderr_of_labels_is_that_of_a_share() -> None:
    logits, targets = torch.randn(300, 3), torch.randint(3, (300,))
    came = measure_answers([(logits, targets)])
    assert came.stderr == pytest.approx(math.sqrt(came.top1 * (1 - came.top1) / 300))


def test_stderr_of_maps_takes_inputs_as_draws_not_positions() -> None:
    # every position of an input is right or every one is wrong: 4 draws, not 4 * 100
    logits = torch.zeros(4, 2, 10, 10)
    logits[:, 1] = 1
    targets = torch.ones(4, 10, 10, dtype=torch.long)
    targets[0] = 0
    came = measure_answers([(logits, targets)])
    assert (came.top1, came.num_units) == (0.75, 400)
    assert came.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_saturated_confidence_counts_in_the_last_bin() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, 100.0], [3.0, 0.0], [2.2, 0.0]])
    targets = torch.tensor([0, 1, 1, 0, 0])
    last, before = (1 / (1 + math.exp(-z)) for z in (3.0, 2.2))  # 0.95 and 0.90: the two last bins
    wanted = (abs(3 - (3 + last)) + abs(1 - before)) / 5
    assert measure_answers([(logits, targets)]).ece == pytest.approx(wanted)


@pytest.mark.parametrize("classes", [3, 5])
def test_confidence_on_an_edge_counts_in_the_bin_below(classes: int) -> None:
    # 1/3 is 5/15 and 1/5 is 3/15: equal logits lie on an edge, and share a bin with what is below
    logits = torch.zeros(2, classes)
    logits[1, 0] = 1e-3
    units = measure_units(logits, torch.zeros(2, dtype=torch.long))
    counts = metrics_module._bin_sums(units)[:, 0].sum(0)
    edge = 15 // classes
    assert counts[edge - 1 : edge + 1].tolist() == [1, 1]


def test_nan_logits_are_never_right() -> None:
    logits = torch.tensor([[float("nan"), 0.0, 0.0], [float("nan")] * 3, [1.0, 0.0, float("nan")]])
    units = measure_units(logits, torch.tensor([0, 0, 0]))
    assert not units.right.any()
    assert units.rank.squeeze(1).tolist() == [3, 3, 1]


def test_figures_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(9, 4, 3, 3), torch.randint(-1, 4, (9, 6, 6))
    whole = measure_answers([(logits, targets)])
    monkeypatch.setattr(metrics_module, "_ELEMENTS", 2 * 4 * 36)
    assert [s.stop - s.start for s in metrics_module.chunks(targets, 4)] == [2] * 5
    assert close(measure_answers([(logits, targets)]), whole)
    parts = [(logits[i : i + 4], targets[i : i + 4]) for i in range(0, 9, 4)]
    assert close(measure_answers(parts), whole)


def test_metrics_of_two_processes_are_joined_by_sums() -> None:
    logits, targets = torch.randn(60, 5), torch.randint(5, (60,))
    first, second, whole = ExitMetrics(5), ExitMetrics(5), ExitMetrics(5)
    first.update(measure_units(logits[:20], targets[:20]))
    second.update(measure_units(logits[20:], targets[20:]))
    whole.update(measure_units(logits, targets))
    assert {str(reduce) for reduce in first._reductions.values()} == {
        str(reduce) for reduce in whole._reductions.values()
    }
    for name in ("units", "bins", "classes", "inputs"):
        setattr(first, name, getattr(first, name) + getattr(second, name))
    assert close(first.compute(), whole.compute())


def shards_of(logits: list[Tensor], targets: Tensor, rows: int) -> Records:
    parts = [
        Records.from_arrays([z[i : i + rows] for z in logits], targets[i : i + rows]).shards[0]
        for i in range(0, len(targets), rows)
    ]
    return Records(parts)


def literal_overthinking(logits: list[Tensor], targets: Tensor) -> float:
    per_exit = [units_of(z, targets, -100) for z in logits]
    count = 0
    for unit in zip(*per_exit, strict=True):
        right = [max(range(len(c)), key=lambda j, c=c: (c[j], -j)) == t for c, t, _ in unit]
        count += any(right[:-1]) and not right[-1]
    return count / len(per_exit[0])


@pytest.mark.parametrize("kind", ["label", "map"])
def test_exits_are_measured_one_by_one_over_shards(kind: str) -> None:
    if kind == "label":
        logits, targets = [sharpened(50, 6) for _ in range(3)], torch.randint(-1, 6, (50,))
    else:
        logits = [torch.randn(10, 4, s, s) for s in (2, 4, 8)]
        targets = torch.randint(-1, 4, (10, 8, 8))
    records = shards_of(logits, targets, 3)
    figures, overthinking, _, inputs, hits = measure_exits(records)
    assert len(figures) == 3
    assert has_maps(records) == (inputs is not None) == (hits is None) == (kind == "map")
    for came, z in zip(figures, logits, strict=True):
        assert close(came, literal(z, targets))
    assert overthinking == pytest.approx(literal_overthinking(logits, targets))
    assert overthinking > 0


def test_overthinking_is_right_early_and_wrong_at_the_end() -> None:
    right, wrong = [5.0, 0.0], [0.0, 5.0]
    by_row = [  # exits of each row; all targets are 0
        [right, wrong, wrong],  # overthinking
        [wrong, right, wrong],  # overthinking
        [right, right, right],
        [wrong, wrong, wrong],
        [wrong, wrong, right],
        [right, right, wrong],  # overthinking, but its target does not count
    ]
    targets = torch.tensor([0, 0, 0, 0, 0, -100])
    logits = torch.tensor(by_row).transpose(0, 1)
    assert measure_exits(Records.from_arrays(logits, targets)).overthinking == pytest.approx(2 / 5)


def test_nothing_that_counts_is_an_error() -> None:
    logits, targets = torch.randn(2, 4, 3), torch.full((4,), -100)
    with pytest.raises(ValidationError, match="at least one target that counts"):
        measure_exits(Records.from_arrays(logits, targets))
    with pytest.raises(ValidationError, match="at least one target that counts"):
        measure_answers([(logits[0], torch.ones(4, dtype=torch.long))], ignore_index=1)
    with pytest.raises(ValidationError, match="at least one target that counts"):
        measure_answers([])


def test_reliability_bins_are_those_of_a_literal_loop() -> None:
    logits, targets = torch.randn(2, 200, 4) * 2, torch.arange(200) % 4
    targets[:3] = -100
    found = reliability(measure_exits(Records.from_arrays(logits, targets)).bins)
    for k, bins in enumerate(found):
        sums = [[0, 0, 0.0] for _ in range(15)]
        for row, target in zip(logits[k], targets.tolist(), strict=True):
            if target < 0:
                continue
            top = float(row.softmax(0).max())
            place = next(i for i in range(15) if top <= (i + 1) / 15 + 1e-6)
            sums[place][0] += 1
            sums[place][1] += int(row.argmax()) == target
            sums[place][2] += top
        for one, (count, right, confidence) in zip(bins, sums, strict=True):
            assert one["count"] == count
            if not count:
                assert one["accuracy"] is None and one["confidence"] is None
                continue
            assert one["accuracy"] == pytest.approx(right / count)
            assert one["confidence"] == pytest.approx(confidence / count, abs=1e-6)


# ------------------------------------------------------------------------ intersection over union
def grown(logits: Tensor, targets: Tensor) -> Tensor:
    size = list(targets.shape[1:])
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(3, 4), (6, 8), (13, 5)])
def test_iou_equals_that_of_torchmetrics(size: tuple[int, int]) -> None:
    logits, targets = torch.randn(9, 6, *size), torch.randint(5, (9, 6, 8))  # class 5 is not wanted
    logits[:, 4] -= 20  # class 4 is never answered
    targets[torch.rand(targets.shape) < 0.2] = -100
    came = measure_answers([(logits, targets)])
    answers = grown(logits, targets).argmax(1)
    each = multiclass_jaccard_index(answers, targets, 6, average="none", ignore_index=-100)
    mean = multiclass_jaccard_index(answers, targets, 6, average="macro", ignore_index=-100)
    assert came.iou == pytest.approx(each.tolist())
    assert came.miou == pytest.approx(float(mean))


def test_absent_classes_are_left_out_of_the_mean() -> None:
    logits = torch.full((1, 5, 1, 4), -9.0)
    for at, answer in enumerate([0, 0, 1, 3]):
        logits[0, answer, 0, at] = 9
    targets = torch.tensor([[[0, 1, 1, -100]]])  # of class 3 the answer does not count
    came = measure_answers([(logits, targets)])
    assert came.iou == pytest.approx([1 / 2, 1 / 2, math.nan, math.nan, math.nan], nan_ok=True)
    assert came.miou == pytest.approx(0.5)
    assert came.top1 == pytest.approx(2 / 3)


def test_labels_have_no_iou() -> None:
    came = measure_answers([(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))])
    assert came.iou is None and came.miou is None


def test_answer_of_nan_is_of_no_class() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0, 0, :2] = torch.tensor([5.0, float("nan")])
    targets = torch.tensor([[[0, 0, 0, 1]]])
    came = measure_answers([(logits, targets)])
    # right at 0 and 2; position 1 is answered by nothing and 3 by class 0
    assert came.iou == pytest.approx([2 / 4, 0])


@pytest.mark.parametrize("ignored", [-100, 1])
def test_inputs_measured_once_give_the_figures_of_every_choice(ignored: int) -> None:
    targets = torch.randint(-1, 4, (10, 8, 8))
    logits = [torch.randn(10, 4, s, s) for s in (2, 4, 8)]
    inputs = measure_exits(shards_of(logits, targets, 3), ignored).inputs
    assert inputs is not None
    for exits in (torch.randint(3, (10,)), torch.zeros(10).long(), torch.full((10,), 2)):
        rows = [
            (grown(logits[k][i : i + 1], targets), targets[i : i + 1])
            for i, k in enumerate(exits.tolist())
        ]
        wanted = literal(*map(torch.cat, zip(*rows, strict=True)), ignore=ignored)
        assert close(measure_chosen(inputs, exits), wanted)
