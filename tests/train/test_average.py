"""The moving average is the recursion of its formula, and what is not trained does not drift."""

from __future__ import annotations

import copy

import pytest
import torch

from offramp.train import fit
from offramp.train.average import Average
from offramp.types import Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


def test_average_follows_its_recursion(tiny):
    model = tiny().train()
    average, values = Average(model, 0.9), {}
    wanted = {name: t.double().clone() for name, t in model.state_dict().items()}
    for turn in range(5):
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    tensor += turn - 1.5
                    values[name] = tensor
        average.update()
        for name, tensor in values.items():
            wanted[name] = 0.9 * wanted[name] + 0.1 * tensor.double()
    assert average.values.keys() == values.keys()
    assert "segments.0.1.running_var" in values
    for name, value in average.values.items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6)


def test_average_is_in_place_for_a_while_only(tiny):
    model = tiny().train()
    average, weight = Average(model, 0.5), model.segments[0][0].weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 2.0
    average.update()
    with average.in_place():
        torch.testing.assert_close(weight.detach(), before + 1)
    assert torch.equal(weight.detach(), before + 2)
    average.settle()
    torch.testing.assert_close(weight.detach(), before + 1)


def test_average_leaves_frozen_tensors_and_masks_alone(tiny):
    model = tiny().train()
    model.segments[0].requires_grad_(False).eval()
    model.segments[1].register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    names = Average(model, 0.5).values
    assert not any(name.startswith("segments.0.") or name.endswith("mask") for name in names)
    assert "segments.1.1.running_mean" in names


def test_fit_ends_with_the_average_of_its_steps(tiny, data):
    seen = []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            seen.append(copy.deepcopy(model.state_dict()))

    model = tiny()
    wanted = copy.deepcopy(model.state_dict())
    options = {"epochs": 2, "batch_size": 16, "costs": COSTS, "validation": data}
    history = fit(
        model, data, optimizer=lambda p: Watching(p, 0.1), ema=0.8, progress=False, **options
    )
    for state in seen:
        for name, value in state.items():
            if value.is_floating_point():
                wanted[name] = 0.8 * wanted[name] + 0.2 * value
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)
    right = [float((o.logits.argmax(1) == data[1]).float().mean()) for o in model.eval()(data[0])]
    assert history[-1]["validation_accuracy"] == pytest.approx(right)


def test_fit_with_an_average_trains_as_without(tiny, data):
    def losses(**options):
        history = fit(tiny(), data, epochs=3, batch_size=16, costs=COSTS, progress=False, **options)
        return [entry["loss"] for entry in history]

    assert losses(ema=0.9, validation=data) == losses()
