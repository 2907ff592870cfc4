"""What is not trained stays as it is, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from offramp import attach, create_model
from offramp.errors import ValidationError
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.train import fit
from offramp.train.parts import named_tensors, trainable

OPTIONS = {"epochs": 2, "batch_size": 16, "weight_decay": 0.1, "ema": 0.5, "progress": False}


@pytest.fixture
def gated(tiny) -> MultiExitModel:
    model = tiny(dropout=0.3)
    for k, width in enumerate((4, 6)):
        head = LinearHead(width, 3, gate=True)
        model.heads[k] = nn.Sequential(nn.BatchNorm2d(width), head)
    return model


def moved(model: nn.Module, data, **options) -> set[str]:
    """Names of what training moved."""
    before = copy.deepcopy(model.state_dict())
    fit(model, data, **(OPTIONS | options))
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def named(model: nn.Module, *starts: str) -> set[str]:
    return {name for name in model.state_dict() if name.startswith(starts)}


def test_fit_of_a_segment_moves_that_segment_and_nothing_else(tiny, data):
    model = tiny(dropout=0.3)
    assert moved(model, data, train=1) == named(model, "segments.1.")


def test_fit_of_several_parts_moves_them_and_nothing_else(tiny, data):
    model = tiny(dropout=0.3)
    wanted = named(model, "segments.2.", "heads.0.", "heads.1.")
    assert moved(model, data, train=["heads", 2]) == wanted


def test_fit_of_all_among_several_moves_all(tiny, data):
    model = tiny()
    assert moved(model, data, train=("all", 1)) == set(model.state_dict())


def test_fit_of_gates_moves_the_gates_and_nothing_else(gated, data):
    from offramp.objectives.base import Objective
    from offramp.types import Term

    class Gates(Objective):
        def forward(self, outputs, batch, costs):
            own = [out.gate for out in outputs if out.gate is not None]
            return [Term(f"gate/{k}", gate.sigmoid().mean()) for k, gate in enumerate(own)]

    seen = []
    gated.heads[0][0].register_forward_hook(lambda m, i, o: seen.append(m.training))
    found = moved(gated, data, train="gates", objective=Gates())
    assert found == {f"heads.{k}.1.gate.{name}" for k in (0, 1) for name in ("weight", "bias")}
    assert not any(seen)


class Net(nn.Module):
    """An ordinary network with batch norm, a token of its own and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(4, 1, 1))
        self.a = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3))
        self.c = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.c(self.b(self.a(x) * self.token)).mean((2, 3)))


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        (0, ("network.a.",)),
        (1, ("network.token", "network.b.")),
        ([1, 2], ("network.token", "network.b.", "network.c.", "network.out.")),
        ("heads", ("heads.",)),
    ],
)
def test_fit_of_parts_of_an_attached_network(data, train, wanted):
    torch.manual_seed(1)
    model = attach(Net(), ["a", "b"], example=data[0][:2])
    assert moved(model, data, train=train) == named(model, *wanted)


def test_fit_of_a_segment_runs_only_that_segment_in_training_mode(data):
    torch.manual_seed(1)
    model, modes, dropped = attach(Net(), ["a", "b"], example=data[0][:2]), {}, []
    for name in ("a", "b", "c"):
        norm = model.network.get_submodule(name)[1]
        norm.register_forward_hook(lambda m, i, o, name=name: modes.update({name: m.training}))
    drop = model.network.b[2]
    drop.register_forward_hook(lambda m, i, o: dropped.append(bool((o == 0).any())))
    fit(model, data, train=1, **OPTIONS)
    assert modes == {"a": False, "b": True, "c": False}
    assert dropped[-1]


def test_fit_trains_parts_of_a_registered_model_too(data):
    model = create_model("msdnet", num_classes=3, num_exits=2, base=1, step=1, channels=4, growth=2)
    images = data[0].repeat(1, 2, 3, 3)[:, :3, :16, :16]
    found = moved(model, (images, data[1]), train=0)
    assert found and found <= named(model, "segments.0.")


def test_a_shared_parameter_is_trained_only_where_all_its_users_are(tiny):
    model = tiny()
    model.heads[1].classifier.bias = model.heads[0][1].classifier.bias
    model.heads[2].classifier.bias = model.heads[0][1].classifier.bias
    assert id(model.heads[0][1].classifier.bias) not in map(id, trainable(model, "heads"))
    assert id(model.heads[0][1].classifier.bias) in map(id, trainable(model, "all"))


def test_named_tensors_has_every_tensor_once_also_those_of_views(data):
    model = attach(Net(), ["a", "b"], example=data[0][:2])
    named_ones = named_tensors(model)
    assert named_ones.keys() == model.state_dict().keys()
    assert len({id(tensor) for tensor in named_ones.values()}) == len(named_ones)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (3, "a segment from 0 to 2.*got 3"),
        (-1, "got -1"),
        (True, "got True"),
        (["heads", "tail"], "got 'tail'"),
        ([], "at least one part"),
        ("gates", "a model of no gates"),
        (None, "got None"),
    ],
)
def test_fit_says_that_there_is_no_such_part(tiny, data, train, message):
    with pytest.raises(ValidationError, match=message):
        fit(tiny(), data, epochs=1, train=train, progress=False)
