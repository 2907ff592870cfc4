"""Validation figures are those of a slow loop, and the best weights are kept by them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from offramp.data.batches import open_data
from offramp.errors import ValidationError
from offramp.model import MultiExitModel
from offramp.train import fit
from offramp.train.checkpoint import load_tensors
from offramp.train.place import Place
from offramp.train.resume import Best, Keeper
from offramp.train.validate import Monitor, validate
from offramp.train.world import World
from offramp.types import Costs, ExitOutput

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
CPU = Place(torch.device("cpu"))


@pytest.mark.parametrize("ignored", [None, 2, 255])
def test_validate_equals_a_loop_over_rows(tiny, data, ignored):
    inputs, target = data[0], data[1].clone()
    target[4], target[5] = -100, 255 if ignored == 255 else -1
    model = tiny(dropout=0.5)
    found = validate(model, open_data((inputs, target), 16), CPU, ignored=ignored)
    model.eval()
    rows = [n for n in range(50) if int(target[n]) >= 0 and int(target[n]) != ignored]
    for k, out in enumerate(model(inputs)):
        nll, right = 0.0, 0
        for n in rows:
            logits = out.logits[n].tolist()
            nll += math.log(sum(math.exp(x) for x in logits)) - logits[int(target[n])]
            right += logits.index(max(logits)) == int(target[n])
        assert found["validation_nll"][k] == pytest.approx(nll / len(rows), rel=1e-5)
        assert found["validation_accuracy"][k] == pytest.approx(right / len(rows))


class Dense(nn.Module):
    """A head that answers with a map of half the resolution of its input."""

    def forward(self, state):
        return ExitOutput(functional.avg_pool2d(state, 2))


@pytest.mark.parametrize("batch", [2, 5])
def test_validate_of_maps_has_the_mean_iou_at_the_resolution_of_the_targets(batch):
    inputs, target = torch.randn(5, 3, 8, 6), torch.randint(-1, 3, (5, 8, 6))
    model = MultiExitModel([nn.Identity(), nn.Tanh()], [Dense(), Dense()])
    found = validate(model, open_data((inputs, target), batch), CPU, ignored=1)
    valid = (target >= 0) & (target != 1)
    for k, out in enumerate(model(inputs)):
        size = [8, 6]
        answer = functional.interpolate(out.logits, size, mode="bilinear").argmax(1)
        shares = []
        for c in range(3):
            one, two = (answer == c) & valid, (target == c) & valid
            if (one | two).any():
                shares.append(int((one & two).sum()) / int((one | two).sum()))
        assert found["validation_miou"][k] == pytest.approx(sum(shares) / len(shares))
        right = int(((answer == target) & valid).sum()) / int(valid.sum())
        assert found["validation_accuracy"][k] == pytest.approx(right)


def test_validate_of_labels_has_no_iou(tiny, data):
    found = validate(tiny(), open_data(data, 16), CPU)
    assert sorted(found) == ["validation_accuracy", "validation_nll"]


def test_validate_says_that_there_is_no_batch(tiny):
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValidationError, match="one batch of validation data, got none"):
        validate(tiny(), open_data(DataLoader(Nothing()), 1), CPU)


def test_validate_says_that_a_target_is_no_class(tiny, data):
    with pytest.raises(ValidationError, match="targets below C=3, got 7"):
        validate(tiny(), open_data((data[0], data[1] + 5), 16), CPU)


def test_validate_leaves_modes_and_random_states_alone(tiny, data):
    model, before = tiny(dropout=0.5), torch.get_rng_state()
    model.segments[1].eval()
    modes = [module.training for module in model.modules()]
    validate(model, open_data(data, 16), CPU)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(before, torch.get_rng_state())


ENTRY = {
    "validation_accuracy": [0.5, 0.75, 0.7],
    "validation_nll": [0.9, 0.3, 0.6],
    "validation_miou": [0.2, 0.4, 0.3],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy/last", 0.7),
        ("accuracy/mean", 0.65),
        ("accuracy/1", 0.75),
        ("nll/last", -0.6),
        ("nll/mean", -0.6),
        ("nll/0", -0.9),
        ("miou/last", 0.3),
        ("miou/mean", 0.3),
        ("miou/1", 0.4),
    ],
)
def test_monitor_reads_the_figure_that_it_names(name, value):
    assert Monitor.named(name, 3).value(ENTRY) == pytest.approx(value)


def test_monitor_of_maps_says_that_targets_are_labels():
    entry = {"validation_accuracy": [0.5], "validation_nll": [0.9]}
    with pytest.raises(ValidationError, match="targets that are maps for monitor='miou/last'"):
        Monitor.named("miou/last", 1).value(entry)


def test_monitor_takes_nan_for_the_worst():
    entry = {"validation_nll": [math.nan]}
    assert Monitor.named("nll/last", 1).value(entry) == -math.inf


@pytest.mark.parametrize("name", ["accuracy", "loss/last", "nll/3", "accuracy/-1", "", 3])
def test_monitor_says_which_figures_there_are(name):
    with pytest.raises(ValidationError, match=r"exit from 0 to 2, such as 'accuracy/last'; got"):
        Monitor.named(name, 3)


def test_best_keeps_the_later_of_equal_weights_and_counts_the_epochs_since():
    best, weight = Best(Keeper(None, 60.0, World())), torch.zeros(1)
    found = []
    for turn, value in enumerate([1.0, 0.5, 1.0, 2.0, 1.0, math.nan]):
        weight.fill_(turn)
        found.append((best.take_in(value, {"w": weight}), best.since))
    assert found == [(True, 0), (False, 1), (True, 2), (True, 0), (False, 1), (False, 2)]
    best.settle({"w": weight})
    assert weight.item() == 3


def falling(inputs, generator):
    """An augmentation that makes the training worse and worse."""
    falling.calls += 1
    return inputs if falling.calls < 9 else 50 * torch.randn(inputs.shape, generator=generator)


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_fit_ends_with_the_best_weights_and_stops_when_it_gets_no_better(
    tiny, data, tmp_path, kept
):
    falling.calls = 0
    model = tiny()
    history = fit(
        model,
        data,
        epochs=30,
        batch_size=16,
        augment=falling,
        validation=data,
        monitor="nll/mean",
        patience=3,
        costs=COSTS,
        out=tmp_path if kept == "file" else None,
        progress=False,
    )
    figures = [sum(entry["validation_nll"]) / 3 for entry in history]
    first = figures.index(min(figures))
    assert len(history) == first + 4 < 30
    records = [min(figures[: n + 1]) for n in range(len(figures))]
    assert [entry["best"] for entry in history] == [
        figure == record for figure, record in zip(figures, records, strict=True)
    ]
    found = validate(model, open_data(data, 16), CPU)
    assert found["validation_nll"] == history[first]["validation_nll"]
    if kept == "file":
        weights = load_tensors(tmp_path / "checkpoints" / "best.safetensors")
        assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "accuracy/last"}, "validation data for monitor"),
        ({"patience": 2}, "wanted a monitor for patience"),
        ({"monitor": "top1"}, "got 'top1'"),
        ({"save_every": -1}, "save_every"),
        ({"workers": -1}, "workers as a whole number of at least 0"),
        ({"seed": 0.5}, "seed as a whole number"),
    ],
)
def test_fit_says_what_its_options_of_the_whole_need(tiny, data, options, message):
    with pytest.raises(ValidationError, match=message):
        fit(tiny(), data, epochs=1, progress=False, **options)
