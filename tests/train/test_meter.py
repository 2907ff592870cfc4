"""Right answers are counted as a slow loop counts them."""

from __future__ import annotations

import pytest
import torch

from offramp.train.meter import hits
from offramp.types import ExitOutput


def test_hits_counts_labels_and_leaves_negative_targets_out():
    generator = torch.Generator().manual_seed(0)
    outputs = [ExitOutput(torch.randn(20, 4, generator=generator)) for _ in range(3)]
    target = torch.randint(0, 4, (20,), generator=generator)
    target[3] = -100
    correct, counted = hits(outputs, target)
    for k, out in enumerate(outputs):
        rows = [row for row in range(20) if row != 3]
        right = sum(out.logits[row].argmax().item() == target[row].item() for row in rows)
        assert int(correct[k]) == right
        assert int(counted[k]) == 19


def test_hits_compares_maps_at_the_heads_own_resolution():
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 4]
    outputs = [ExitOutput(torch.randn(3, 5, s, s, generator=generator)) for s in sizes]
    target = torch.randint(-1, 5, (3, 4, 4), generator=generator)
    correct, counted = hits(outputs, target)
    for k, size in enumerate(sizes):
        step, right, valid = 4 // size, 0, 0
        for n in range(3):
            for i in range(size):
                for j in range(size):
                    wanted = int(target[n, i * step, j * step])
                    valid += wanted >= 0
                    right += int(outputs[k].logits[n, :, i, j].argmax()) == wanted
        assert (int(correct[k]), int(counted[k])) == (right, valid)


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
@pytest.mark.parametrize("ignored", [2, 255])
def test_hits_leaves_the_ignored_target_out(dtype, ignored):
    generator = torch.Generator().manual_seed(1)
    outputs = [ExitOutput(torch.randn(20, 4, generator=generator)) for _ in range(2)]
    target = torch.randint(0, 4, (20,), generator=generator)
    target[5] = 255
    correct, counted = hits(outputs, target.to(dtype), ignored)
    rows = [row for row in range(20) if int(target[row]) != ignored]
    for k, out in enumerate(outputs):
        right = sum(int(out.logits[row].argmax()) == int(target[row]) for row in rows)
        assert (int(correct[k]), int(counted[k])) == (right, len(rows))
