"""The small network for maps: shapes, costs written out, what a position sees, and how it runs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from offramp import create_model, measure
from offramp.errors import ValidationError


@pytest.mark.parametrize("size", [(180, 240), (64, 64), (45, 61), (1, 7)])
@pytest.mark.parametrize("exits", [1, 2, 6])
def test_small_fcn_answers_at_a_quarter_and_then_an_eighth(size: tuple, exits: int) -> None:
    model = create_model("small_fcn", num_classes=5, num_exits=exits, width=4, blocks=1, gate=True)
    outputs = model.eval()(torch.randn(2, 3, *size))
    for k, out in enumerate(outputs):
        share = 8 if k else 4
        assert out.logits.shape == (2, 5, *(math.ceil(side / share) for side in size))
        assert (None if out.gate is None else out.gate.shape) == ((2,) if k < exits - 1 else None)


def counted(height: int, width: int) -> list[tuple[int, int]]:
    """Multiply-accumulates of the segments and heads of the default, from its description."""
    half = math.ceil(height / 2) * math.ceil(width / 2)
    quarter = math.ceil(height / 4) * math.ceil(width / 4)
    eighth = math.ceil(height / 8) * math.ceil(width / 8)
    stem = half * 3 * 32 * 9
    parts = []
    for n_in, n_out, area in ((32, 32, quarter), (32, 64, eighth), (64, 128, eighth)):
        first = area * (9 * n_in * n_out + 9 * n_out * n_out + n_in * n_out)  # with its shortcut
        second = area * 2 * 9 * n_out * n_out
        parts.append((first + second, area, n_out))
    parts.append((eighth * 4 * 9 * 128 * 128, eighth, 128))
    parts[0] = (parts[0][0] + stem, *parts[0][1:])
    heads = [area * c * (c + 9 + 11) + c * 11 for _, area, c in parts]  # 1 x 1, 3 x 3, answer, mean
    return [(segment, head) for (segment, _, _), head in zip(parts, heads, strict=True)]


def test_small_fcn_costs_what_its_description_says() -> None:
    model = create_model("small_fcn")
    costs = measure(model, torch.zeros(1, 3, 180, 240), latency=False)
    pairs = counted(180, 240)
    sums = [sum(s + h for s, h in pairs[: k + 1]) for k in range(4)]
    assert costs.macs.tolist() == sums
    assert costs.full["macs"] == sum(s for s, _ in pairs) + pairs[-1][1]
    assert [round(total / 1e9, 2) for total in sums] == [0.12, 0.21, 0.59, 1.01]
    assert all(head < segment / 20 for segment, head in pairs)


@pytest.mark.parametrize(("context", "more"), [(0, (0, 0, 0, 0)), (4, (32, 64, 64, 64))])
def test_small_fcn_sees_as_far_around_a_position_as_it_says(context: int, more: tuple) -> None:
    model = create_model("small_fcn", num_classes=1, width=1, context=context, pooled=False).eval()
    for module in model.modules():  # nothing cancels out, so whatever is seen has a gradient
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    images = torch.ones(1, 3, 576, 576, requires_grad=True)
    seen = []
    for out in model(images):
        side = out.logits.shape[2]
        out.logits[0, 0, side // 2, side // 2].backward(retain_graph=True)
        assert images.grad is not None
        rows = images.grad[0, 0].abs().sum(1).nonzero().squeeze(1)
        seen.append(int(rows[-1] - rows[0]) + 1)
        images.grad = None
    assert seen == [at + far for at, far in zip((31, 87, 215, 471), more, strict=True)]


def test_small_fcn_trains_every_weight_in_bfloat16_and_channels_last() -> None:
    model = create_model("small_fcn", width=8, blocks=1, gate=True)
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 36, 44).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images)
    losses = [out.logits.float().square().mean() for out in outputs]
    losses += [out.gate.float().square().mean() for out in outputs if out.gate is not None]
    sum(losses).backward()
    assert outputs[0].logits.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_small_fcn_runs_as_it_is_replayed(check_running) -> None:
    check_running(create_model("small_fcn", width=8, blocks=1), torch.randn(4, 3, 90, 52))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_exits": 0}, "num_exits as a whole number of at least 1, got 0"),
        ({"width": 3.5}, "width as a whole number .* got 3.5"),
        ({"blocks": True}, "blocks as a whole number .* got True"),
        ({"context": -1}, "context of a dense head .* at least 0, got -1"),
        ({"gate": "yes"}, "gate as True or False, got 'yes'"),
        ({"pooled": None}, "pooled as True or False, got None"),
    ],
)
def test_small_fcn_says_what_it_wanted(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        create_model("small_fcn", **options)
