"""Phases run one after another, each with options of its own."""

from __future__ import annotations

import copy

import pytest
import torch

from offramp.errors import BudgetError, DataError, OptionError, ValidationError
from offramp.objectives.distill import Distill
from offramp.objectives.grouped import Grouped
from offramp.objectives.joint import Joint
from offramp.objectives.mixture import Mixture
from offramp.train import fit
from offramp.types import Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
PLAIN = {"costs": COSTS, "progress": False}


class Watch(Joint):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, outputs, batch, costs):
        self.seen.append((len(batch.target), batch.progress))
        return super().forward(outputs, batch, costs)


class Short(Joint):
    def since(self, num_exits, progress):
        return [0] * (num_exits - 1)


def test_fit_runs_phases_with_their_own_options(tiny, data):
    one, other, rates = Watch(), Watch(), []

    class Rates(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    history = fit(
        tiny(),
        data,
        one,
        epochs=1,
        batch_size=25,
        optimizer=lambda parameters: Rates(parameters, 0.1),
        schedule=lambda progress: 1 - progress,
        phases=[{}, {"objective": other, "epochs": 2, "batch_size": 50, "train": "heads"}],
        **PLAIN,
    )
    assert one.seen == [(25, 0.0), (25, 0.5)]
    assert other.seen == [(50, 0.0), (50, 0.5)]
    assert rates == pytest.approx([0.1, 0.05, 0.1, 0.05])
    assert [(entry["phase"], entry["epoch"]) for entry in history] == [(0, 0), (1, 0), (1, 1)]


def test_fit_in_phases_trains_in_each_what_it_says(tiny, data):
    both, first = tiny(), tiny()
    phases = [{"epochs": 2}, {"epochs": 2, "train": "heads"}]
    fit(both, data, phases=phases, batch_size=16, **PLAIN)
    fit(first, data, epochs=2, batch_size=16, **PLAIN)
    ours, theirs = both.state_dict(), first.state_dict()
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert moved == {name for name in ours if name.startswith(("heads.0.", "heads.1."))}


def test_fit_with_one_phase_is_fit_without(tiny, data):
    one, other = tiny(), tiny()
    fit(one, data, phases=[{"epochs": 1, "lr": 0.03}], **PLAIN)
    fit(other, data, epochs=1, lr=0.03, **PLAIN)
    assert torch.equal(one.segments[0][0].weight, other.segments[0][0].weight)


def test_fit_smooths_labels_of_an_objective_by_name(tiny, data):
    one, other = tiny(), tiny()
    fit(one, data, epochs=1, label_smoothing=0.2, **PLAIN)
    fit(other, data, Joint(label_smoothing=0.2), epochs=1, **PLAIN)
    assert torch.equal(one.segments[0][0].weight, other.segments[0][0].weight)


@pytest.mark.parametrize(
    ("phases", "error", "message"),
    [
        ([{"epochs": 1}, {"epoch": 1}], OptionError, "phase 1 has no option 'epoch'; valid: acc"),
        ([{"epochs": 1, "monitor": "nll/last"}], OptionError, "no option 'monitor'"),
        ([{"epochs": 1}, {}], ValidationError, "epochs as a whole number of at least 1, got None"),
        ([{"epochs": 1}, {"epochs": 1, "train": 9}], ValidationError, "got 9"),
        ([{"epochs": 1, "augment": 3}], ValidationError, "augment as a function.*got 3"),
        ([{"epochs": 1}, 5], ValidationError, "phase 1 as a mapping of options, got int"),
        ({"epochs": 1}, ValidationError, "a sequence of mappings, got dict"),
        (
            [{"epochs": 1, "objective": Joint(), "label_smoothing": 0.1}],
            ValidationError,
            "give it to Joint itself",
        ),
    ],
)
def test_fit_says_what_is_wrong_with_a_phase_before_any_training(
    tiny, data, phases, error, message
):
    model, watch = tiny(), Watch()
    with pytest.raises(error, match=message):
        fit(model, data, watch, phases=phases, progress=False)
    assert not watch.seen


@pytest.mark.parametrize("costs", [COSTS, None])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Grouped([2, 2]), ValidationError, "groups of 3 segments in all"),
        (lambda: Grouped({0: 3, 0.75: [2, 2]}), ValidationError, "groups of 3 segments in all"),
        (lambda: Joint([1, 2]), ValidationError, "3 non-negative weights"),
        (lambda: Joint(lambda num, p: [1] * (num - (p > 0.9))), ValidationError, "3 non-neg"),
        (lambda: Distill(Grouped([2, 2])), ValidationError, "groups of 3 segments in all"),
        (lambda: Short(), ValidationError, "since of 3 exits"),
        (lambda: Mixture(target_cost=5.0), BudgetError, "target_cost of 5 is out of reach"),
        (lambda: Mixture(lambda num, p: 0.5 - p), ValidationError, "-0.01"),
    ],
)
def test_fit_says_before_any_training_what_the_last_phase_cannot_teach(
    tiny, data, costs, make, error, message
):
    model, watch = tiny(), Watch()
    before = copy.deepcopy(model.state_dict())
    phases = [{"epochs": 1, "objective": watch}, {"epochs": 1, "objective": make()}]
    with pytest.raises(error, match=message):
        fit(model, data, phases=phases, costs=costs, progress=False)
    assert not watch.seen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fit_needs_data_of_known_length(tiny):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield torch.zeros(2, 6, 6), 0

    loader = torch.utils.data.DataLoader(Endless(), batch_size=2)
    with pytest.raises(DataError, match="known length"):
        fit(tiny(), loader, epochs=1, progress=False)
