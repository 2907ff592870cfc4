"""`fit` takes tensors, a Dataset and a DataLoader."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from offramp.model import MultiExitModel
from offramp.objectives.joint import Joint
from offramp.train import fit
from offramp.types import ExitOutput


def test_fit_gives_the_same_weights_from_a_dataset_as_from_tensors(tiny, data):
    ours, theirs = tiny(), tiny()
    fit(ours, data, epochs=2, batch_size=16, progress=False)
    fit(theirs, TensorDataset(*data), epochs=2, batch_size=16, progress=False)
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_fit_trains_from_a_shuffled_dataloader_without_touching_the_random_state(tiny, data):
    def trained() -> MultiExitModel:
        model = tiny()
        loader = DataLoader(TensorDataset(*data), batch_size=16, shuffle=True)
        history = fit(model, loader, epochs=2, validation=loader, progress=False)
        assert len(history) == 2
        return model

    before = torch.get_rng_state()
    one, other = trained(), trained()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.segments[0][0].weight, other.segments[0][0].weight)


class Pairs(Dataset):
    """Items whose inputs are a dict."""

    def __init__(self, inputs, targets) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row):
        return {name: value[row] for name, value in self.inputs.items()}, int(self.targets[row])


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, state):
        logits = self.linear(state["a"]) * state["b"]
        return ExitOutput(logits)


def test_fit_takes_inputs_that_are_a_dict(data):
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "a": torch.randn(50, 4, generator=generator),
        "b": torch.rand(50, 1, generator=generator),
    }
    weights = []
    for given in ((inputs, data[1]), Pairs(inputs, data[1])):
        torch.manual_seed(0)
        model = MultiExitModel([nn.Identity(), nn.Identity()], [Sums(), Sums()])
        history = fit(model, given, epochs=2, batch_size=16, validation=given, progress=False)
        assert history[1]["loss"] < history[0]["loss"]
        weights.append(model.heads[1].linear.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
def test_fit_gives_the_same_weights_with_and_without_validation(tiny, data, kind):
    dataset = TensorDataset(*data)
    shuffled = DataLoader(dataset, batch_size=16, shuffle=True)
    validation = {"tensors": data, "dataset": dataset, "loader": shuffled}[kind]
    with_it, without = tiny(dropout=0.5), tiny(dropout=0.5)
    fit(with_it, data, epochs=2, batch_size=16, validation=validation, progress=False)
    fit(without, data, epochs=2, batch_size=16, progress=False)
    pairs = zip(with_it.state_dict().values(), without.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("ignore_index", [0, -100])
def test_fit_leaves_what_the_objective_ignores_out_of_the_accuracy(tiny, data, ignore_index):
    model, objective = tiny(), Joint(ignore_index=ignore_index)
    history = fit(model, data, objective, epochs=1, lr=1e-9, validation=data, progress=False)
    inputs, targets = data
    model.eval()
    for k, out in enumerate(model(inputs)):
        rows = [row for row in range(50) if int(targets[row]) != ignore_index]
        right = sum(int(out.logits[row].argmax()) == int(targets[row]) for row in rows)
        assert history[0]["validation_accuracy"][k] == pytest.approx(right / len(rows))
