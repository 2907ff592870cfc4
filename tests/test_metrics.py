"""Figures of an exit against slow loops, and against torchmetrics where the two must agree."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from offramp import metrics as metrics_module
from offramp.errors import ValidationError
from offramp.metrics import (
    ExitMetrics,
    Figures,
    measure_answers,
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


def literal(logits: Tensor, targets: Tensor, ignore: int = -100) -> Figures:
    """All figures by loops over positions."""
    units = units_of(logits, targets, ignore)
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
    return Figures(accuracy, top5 / num, nll / num, ece, math.sqrt(spread) / num, num)


def close(came: Figures, wanted: Figures) -> bool:
    return tuple(came) == pytest.approx(tuple(wanted), rel=1e-6, abs=1e-7)


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
    counts = metrics_module._bin_sums(units)[0]
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
    first, second, whole = ExitMetrics(), ExitMetrics(), ExitMetrics()
    first.update(measure_units(logits[:20], targets[:20]))
    second.update(measure_units(logits[20:], targets[20:]))
    whole.update(measure_units(logits, targets))
    assert {str(reduce) for reduce in first._reductions.values()} == {
        str(reduce) for reduce in whole._reductions.values()
    }
    for name in ("sums", "bins", "inputs"):
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
    figures, overthinking = measure_exits(shards_of(logits, targets, 3))
    assert len(figures) == 3
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
    assert measure_exits(Records.from_arrays(logits, targets))[1] == pytest.approx(2 / 5)


def test_nothing_that_counts_is_an_error() -> None:
    logits, targets = torch.randn(2, 4, 3), torch.full((4,), -100)
    with pytest.raises(ValidationError, match="at least one target that counts"):
        measure_exits(Records.from_arrays(logits, targets))
    with pytest.raises(ValidationError, match="at least one target that counts"):
        measure_answers([(logits[0], torch.ones(4, dtype=torch.long))], ignore_index=1)


def test_reliability_bins_are_those_of_a_literal_loop() -> None:
    logits, targets = torch.randn(2, 200, 4) * 2, torch.arange(200) % 4
    targets[:3] = -100
    found = reliability(Records.from_arrays(logits, targets))
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
