"""A step of several batches has the gradient of the joint batch, and clipping bounds it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from offramp.train import fit
from offramp.train.seeds import mix
from offramp.types import Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
PLAIN = {"costs": COSTS, "progress": False, "weight_decay": 0.0, "momentum": 0.0}


class Watching(torch.optim.SGD):
    """Keeps the gradients of every step."""

    def __init__(self, parameters, seen) -> None:
        super().__init__(parameters, lr=0.1)
        self.seen = seen

    def step(self, closure=None):
        (group,) = self.param_groups
        self.seen.append([p.grad.clone() for p in group["params"]])
        return super().step(closure)


@pytest.fixture
def model(tiny):
    """In eval mode where it matters: batch norm sees each batch by itself."""
    model = tiny()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda m, i: m.eval() and None)
    return model


def test_fit_accumulates_the_gradient_of_the_joint_batch(model, data):
    inputs, target = data[0], data[1].clone()
    target[::3] = -100  # so that batches count differently
    seen = []
    history = fit(
        model,
        (inputs, target),
        epochs=1,
        batch_size=8,
        accumulate=3,
        optimizer=lambda p: Watching(p, seen),
        schedule=lambda progress: 0.0,
        **PLAIN,
    )
    order = torch.randperm(50, generator=torch.Generator().manual_seed(mix(0, 0, "order", 0)))
    assert len(seen) == 3  # seven batches: 24, 24 and 2 rows
    parameters = list(model.parameters())
    model.eval()
    for grads, rows in zip(seen, order.split(24), strict=True):
        model.zero_grad()
        losses = [F.cross_entropy(out.logits, target[rows]) for out in model(inputs[rows])]
        sum(losses).backward()
        for ours, p in zip(grads, parameters, strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-4, atol=1e-6)
    assert history[0]["loss"] > 0


def test_fit_counts_steps_and_progress_of_accumulated_batches(tiny, data):
    from offramp.objectives.joint import Joint

    class Watch(Joint):
        progress: list[float] = []  # noqa: RUF012

        def forward(self, outputs, batch, costs):
            self.progress.append(batch.progress)
            return super().forward(outputs, batch, costs)

    watch = Watch()
    fit(tiny(), data, watch, epochs=2, batch_size=16, accumulate=3, **PLAIN)
    assert watch.progress == [0, 0, 0, 0.25, 0.5, 0.5, 0.5, 0.75]


def test_fit_accumulated_history_is_that_of_its_batches(tiny, data):
    options = {"epochs": 1, "batch_size": 16, "schedule": lambda progress: 0.0} | PLAIN
    one, other = (fit(tiny(), data, accumulate=n, **options)[0] for n in (1, 3))
    assert one["accuracy"] == other["accuracy"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    assert one["terms"] == pytest.approx(other["terms"], rel=1e-6)


def test_fit_clips_the_norm_of_all_gradients(tiny, data):
    norms = {}
    for clip in (None, 0.05):
        seen = []
        options = {"epochs": 1, "batch_size": 25, "clip": clip} | PLAIN
        fit(tiny(), data, optimizer=lambda p, seen=seen: Watching(p, seen), **options)
        norms[clip] = [float(torch.cat([g.flatten() for g in grads]).norm()) for grads in seen]
    assert min(norms[None]) > 0.06
    assert norms[0.05] == pytest.approx([0.05, 0.05], rel=1e-3)


def test_fit_where_nothing_counts_does_not_move(tiny, data):
    model = tiny()
    nothing = torch.full((50,), -100)
    fit(model, (data[0], nothing), epochs=1, batch_size=16, accumulate=2, **PLAIN)
    for ours, theirs in zip(model.parameters(), tiny().parameters(), strict=True):
        assert torch.equal(ours, theirs)
