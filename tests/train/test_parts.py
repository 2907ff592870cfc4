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
from offramp.objectives.base import Objective
from offramp.train import fit
from offramp.train.parts import named_tensors, trainable
from offramp.types import Term

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


class Gates(Objective):
    """Opens or shuts all gates."""

    def forward(self, outputs, batch, costs):
        own = [out.gate for out in outputs if out.gate is not None]
        return [Term(f"gate/{k}", gate.sigmoid().mean()) for k, gate in enumerate(own)]


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


@pytest.mark.parametrize("exit_", [0, 1])
def test_fit_of_the_head_or_the_gate_of_one_exit_moves_that_alone(gated, data, exit_):
    head = named(gated, f"heads.{exit_}.")
    gate = named(gated, f"heads.{exit_}.1.gate.")
    assert moved(gated, data, train=f"gate.{exit_}", objective=Gates()) == gate
    # nothing of this objective comes to the gate
    assert moved(gated, data, train=f"head.{exit_}", objective="joint") == head - gate


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ("out", ("network.out.",)),
        (["heads", "out"], ("heads.", "network.out.")),
        (["head.1", "b.0"], ("heads.1.", "network.b.0.")),
        ("c", ("network.c.",)),
        (["gate.0", "c.1", 0], ("heads.0.gate.", "network.c.1.", "network.a.")),
    ],
)
def test_fit_of_modules_of_the_network_moves_them_and_nothing_else(data, train, wanted):
    torch.manual_seed(1)
    model = attach(Net(), ["a", "b"], example=data[0][:2], gate=True)
    found = moved(model, data, train=train, objective="mixture")
    assert found == named(model, *wanted)


def test_fit_of_a_module_runs_only_that_module_in_training_mode(data):
    torch.manual_seed(1)
    model, modes = attach(Net(), ["a", "b"], example=data[0][:2]), {}
    for name, module in model.network.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: modes.update({name: m.training}))
    fit(model, data, train="c.1", **OPTIONS)
    assert {name for name, mode in modes.items() if mode} == {"c.1"}
    assert {"a.1", "b.1", "b.2", "out"} <= set(modes)


def test_fit_of_a_module_trains_the_parameters_that_its_containers_own(data):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.ones(4, 1, 1)), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(x) * self.scale

    torch.manual_seed(1)
    network = Net()
    network.b[2] = Scaled()
    model = attach(network, ["a", "b"], example=data[0][:2])
    assert moved(model, data, train="b.2") == named(model, "network.b.2.")


def test_module_that_shares_a_parameter_with_the_rest_does_not_move_it(data):
    torch.manual_seed(1)
    network = Net()
    network.c[1].weight = network.b[1].weight
    model = attach(network, ["a", "b"], example=data[0][:2])
    shared = id(network.b[1].weight)
    assert shared not in map(id, trainable(model, "c"))
    assert shared in map(id, trainable(model, ["c", "b"]))
    assert id(network.c[1].bias) in map(id, trainable(model, "c"))


def test_phases_of_leenet_leave_the_backbone_as_it_is_bit_for_bit(data):
    """Heads exit by exit, a fresh last classifier, then gates alone."""
    torch.manual_seed(1)
    model = attach(Net(), ["a", "b"], example=data[0][:2], gate=True)
    backbone = named(model, "network.") - named(model, "network.out.")
    before = copy.deepcopy(model.state_dict())
    phases = [
        {"train": "head.0", "objective": "joint"},
        {"train": "head.1", "objective": "joint"},
        {"train": "out", "objective": "joint"},
        {"train": ["heads", "out"], "objective": "joint"},
        {"train": "gates", "objective": "expected_loss"},
    ]
    fit(model, data, phases=phases, **(OPTIONS | {"epochs": 1}))
    after = model.state_dict()
    assert len(backbone) > 15
    assert any("running_var" in name for name in backbone)
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert all(not torch.equal(before[n], after[n]) for n in after if n not in backbone)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_module_of_a_stack_of_layers_is_trained_alone():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    network = transformers.BertForSequenceClassification(config)
    inputs = {
        "input_ids": torch.randint(1, 30, (20, 5)),
        "attention_mask": torch.ones(20, 5).long(),
    }
    places = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    model = attach(network, places, example=inputs)
    found = moved(model, (inputs, torch.arange(20) % 3), train=["head.1", "classifier"])
    assert found == named(model, "heads.1.", "network.classifier.")


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
        ("head.3", "an exit K from 0 to 2, got 3"),
        ("gate.1", "a gate at exit 1.*a head of none"),
        ("fc", "'head.K' or 'gate.K' of an exit K or several of these, got 'fc'"),
        ("", "got ''"),
    ],
)
def test_fit_says_that_there_is_no_such_part(tiny, data, train, message):
    with pytest.raises(ValidationError, match=message):
        fit(tiny(), data, epochs=1, train=train, progress=False)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("head.2", "one without weights.*the name of its module, such as 'fc'"),
        ("outt", "the name of a module of the network or several.*got 'outt'.*modules 'out'"),
        ("a.2", "got one whose weights no segment uses"),
        ("spare", "got one whose weights no segment uses"),
    ],
)
def test_fit_says_what_is_wrong_with_the_name_of_a_module(data, train, message):
    network = Net()
    network.spare = nn.Linear(3, 3)
    model = attach(network, ["a", "b"], example=data[0][:2])
    with pytest.raises(ValidationError, match=message):
        fit(model, data, epochs=1, train=train, progress=False)
