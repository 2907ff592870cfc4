"""Right answers are counted as a slow loop counts them."""

from __future__ import annotations

import math

import pytest
import torch

from offramp.functional import class_counts, class_iou
from offramp.train.meter import Meter, Step, hits, join, mean_iou
from offramp.types import ExitOutput


def test_hits_counts_labels_and_leaves_negative_targets_out():
    generator = torch.Generator().manual_seed(0)
    outputs = [ExitOutput(torch.randn(20, 4, generator=generator)) for _ in range(3)]
    target = torch.randint(0, 4, (20,), generator=generator)
    target[3] = -100
    correct, counted, classes = hits(outputs, target)
    for k, out in enumerate(outputs):
        rows = [row for row in range(20) if row != 3]
        right = sum(out.logits[row].argmax().item() == target[row].item() for row in rows)
        assert int(correct[k]) == right
        assert int(counted[k]) == 19
    assert classes is None


def test_hits_compares_maps_at_the_heads_own_resolution():
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 4]
    outputs = [ExitOutput(torch.randn(3, 5, s, s, generator=generator)) for s in sizes]
    target = torch.randint(-1, 5, (3, 4, 4), generator=generator)
    correct, counted, classes = hits(outputs, target)
    for k, size in enumerate(sizes):
        step, right, valid = 4 // size, 0, 0
        for n in range(3):
            for i in range(size):
                for j in range(size):
                    wanted = int(target[n, i * step, j * step])
                    valid += wanted >= 0
                    right += int(outputs[k].logits[n, :, i, j].argmax()) == wanted
        assert (int(correct[k]), int(counted[k])) == (right, valid)
        assert classes is not None and classes.shape == (2, 3, 5)
        assert classes[k, 0].sum() == right and classes[k, 2].sum() == valid


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
@pytest.mark.parametrize("ignored", [2, 255])
def test_hits_leaves_the_ignored_target_out(dtype, ignored):
    generator = torch.Generator().manual_seed(1)
    outputs = [ExitOutput(torch.randn(20, 4, generator=generator)) for _ in range(2)]
    target = torch.randint(0, 4, (20,), generator=generator)
    target[5] = 255
    correct, counted, classes = hits(outputs, target.to(dtype), ignored)
    assert classes is None
    rows = [row for row in range(20) if int(target[row]) != ignored]
    for k, out in enumerate(outputs):
        right = sum(int(out.logits[row].argmax()) == int(target[row]) for row in rows)
        assert (int(correct[k]), int(counted[k])) == (right, len(rows))


def step(seed: int, rows: int = 3, classes: int = 4) -> Step:
    """A step over maps of two exits."""
    generator = torch.Generator().manual_seed(seed)
    outputs = [ExitOutput(torch.randn(3, classes, s, s, generator=generator)) for s in (2, 4)]
    target = torch.randint(-1, classes - 1, (3, 4, 4), generator=generator)
    one = torch.ones(())
    return Step(0, seed, 0.0, 0.1, rows, one, {"ce": one}, *hits(outputs, target))


def test_meter_of_maps_has_the_mean_iou_of_all_steps_together():
    meter, steps = Meter(0, 2), [step(seed) for seed in range(5)]
    for each in [*steps, step(9, rows=0)]:  # one of rows that count not
        meter.add(each)
    figures = meter.summary()
    counts = sum(each.classes for each in steps)
    for k in range(2):
        shares = []
        for c in range(4):
            right, answered, wanted = (int(n) for n in counts[k, :, c])
            if answered + wanted:
                shares.append(right / (answered + wanted - right))
        assert figures["miou"][k] == pytest.approx(sum(shares) / len(shares))
    other = Meter(0, 2)
    other.load(meter.to_dict())
    assert other.summary()["miou"] == figures["miou"]


def test_meter_shows_mean_iou_of_maps_and_accuracy_of_labels():
    meter, step_of_labels = Meter(0, 2), step(0)._replace(classes=None)
    meter.add(step(0))
    meter.read()
    assert "mIoU " in meter._text() and "accuracy" not in meter._text()
    meter = Meter(0, 2)
    meter.add(step_of_labels)
    assert "miou" not in meter.summary()
    assert "accuracy " in meter._text()


def test_joined_step_has_the_classes_of_all_batches():
    parts = [step(0), step(1), step(2, rows=0)]
    assert torch.equal(join(parts).classes, parts[0].classes + parts[1].classes)
    assert join([part._replace(classes=None) for part in parts]).classes is None


def test_iou_of_nothing_that_counts_is_none_to_speak_of():
    counts = class_counts(torch.zeros(1, 4).long(), torch.full((1, 4), -100), 3)
    assert all(math.isnan(share) for share in class_iou(counts)[0].tolist())
    assert mean_iou(counts) == [0.0]
