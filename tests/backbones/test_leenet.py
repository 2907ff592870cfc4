"""LEENet's networks: exits on the published inputs, their costs, its phases, and how they run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.backbones.densenet_cifar import CifarDenseNet
from offramp.backbones.vgg_cifar import CifarVgg
from offramp.costs import count_macs
from offramp.errors import CheckpointError, OptionError, PlaceError, ValidationError
from offramp.model import MultiExitModel, create_model
from offramp.train.parts import named_tensors

ROWS, CLASSES = 12, 5


class Case(NamedTuple):
    """A network of LEENet's, the modules that it wraps, and what is known of its exits."""

    network: str
    side: int  # of the images it is tried on
    wrapped: tuple[str, ...]  # LEENet's exits are on the inputs of these
    widths: tuple[int, ...]  # of what the pooled heads read
    answer: str  # the network's own last layer

    @property
    def num_exits(self) -> int:
        return len(self.wrapped) + 1


_VGG = ("features.8", "features.15", "features.22", "avgpool")
_DENSE = tuple(f"features.denseblock{i}" for i in (2, 3, 4))
LARGE = [
    Case("resnet50", 64, ("layer1", "layer2", "layer3"), (64, 256, 512), "fc"),
    Case("densenet121", 64, _DENSE, (128, 256, 512), "classifier"),
    Case("vgg11_bn", 64, _VGG, (128, 256, 512, 512), "classifier.6"),
]
SMALL = [
    Case("densenet121_cifar", 32, ("dense2", "dense3", "dense4"), (48, 96, 192), "linear"),
    Case("vgg11_bn_cifar", 32, _VGG, (128, 256, 512, 512), "classifier.6"),
]
VGG = SMALL[1]
CASES = [*SMALL, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE)]


class Made(NamedTuple):
    case: Case
    model: MultiExitModel
    images: Tensor  # [N, 3, H, W], each of another contrast
    targets: Tensor  # [N]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.network)
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """One model per network, for all tests of it: none relies on what its weights are."""
    case: Case = request.param
    if case in LARGE:
        pytest.importorskip("torchvision")
    torch.manual_seed(3)
    model = create_model(
        "leenet", network=case.network, num_classes=CLASSES, image_size=case.side
    ).eval()
    images = torch.randn(ROWS, 3, case.side, case.side)
    images *= torch.linspace(0.3, 3, ROWS)[torch.randperm(ROWS)][:, None, None, None]
    yield Made(case, model, images, torch.arange(ROWS) % CLASSES)


# --------------------------------------------------------------------------- places and shapes
def _inputs_of(network: nn.Module, names: tuple[str, ...], images: Tensor) -> list[Tensor]:
    """What the wrapped modules are given when the plain network runs."""
    network, seen = copy.deepcopy(network), {}
    for name in names:
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, args[0].clone())
        )
    network(images)
    return [seen[name] for name in names]


def test_leenet_exits_read_the_inputs_of_the_wrapped_modules(made: Made) -> None:
    case, model, state = made.case, made.model, made.images[:3]
    with torch.no_grad():
        wanted = _inputs_of(made.model.network, case.wrapped, made.images[:3])
        read = []
        for segment, head in zip(model.segments[:-1], model.heads[:-1], strict=True):
            state = segment(state)
            read.append(state[head.reads])
    assert [tuple(value.shape) for value in read] == [tuple(value.shape) for value in wanted]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(read, wanted, strict=True))


def test_leenet_exits_answer_and_have_gates_but_for_the_last(made: Made) -> None:
    case, model, images = made.case, made.model, made.images[:3]
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert [tuple(out.logits.shape) for out in outputs] == [(3, CLASSES)] * case.num_exits
    gates = [None if out.gate is None else tuple(out.gate.shape) for out in outputs]
    assert gates == [(3,)] * (case.num_exits - 1) + [None]
    assert torch.equal(outputs[-1].logits, plain)


def test_classifier_of_cifar_vgg_reads_what_its_pooling_does() -> None:
    """So LEENet's exit on the input of classifier.0, for CIFAR-100, is that on avgpool's."""
    network, images = CifarVgg().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooling, classifier = _inputs_of(network, ("avgpool", "classifier.0"), images)
    assert torch.equal(pooling.flatten(1), classifier)


# --------------------------------------------------------------------------- costs
def test_leenet_heads_cost_their_width_times_classes_and_gate(made: Made) -> None:
    pieces = count_macs(made.model, made.images[:1])
    heads = [width * (CLASSES + 1) for width in made.case.widths]
    assert pieces.heads.tolist() == [*heads, 0]
    costs = offramp.measure(made.model, made.images[:1], latency=False)
    relative = costs.relative()
    full = float(pieces.segments.sum())
    wanted = (pieces.segments + pieces.heads).cumsum(0) / full
    torch.testing.assert_close(relative, wanted.double())
    share = sum(heads) / full
    assert share < 1e-3
    assert float(relative[-1]) == pytest.approx(1 + share)


def test_flat_heads_of_leenet_read_every_number_of_the_map() -> None:
    model = create_model("leenet", network=VGG.network, head={"kind": "flat"})
    sides = (8, 4, 2, 1)
    widths = [w * side * side for w, side in zip(VGG.widths, sides, strict=True)]
    heads = list(model.heads[:-1])
    assert [head.classifier.in_features for head in heads] == widths
    assert [head.gate.in_features for head in heads] == widths


# --------------------------------------------------------------------------- phases
def _changed(before: dict[str, Tensor], model: MultiExitModel) -> set[str]:
    return {n for n, now in named_tensors(model).items() if not torch.equal(before[n], now)}


def _step(made: Made, objective: str, train: Any) -> set[str]:
    """Names of what one step of a phase changes; buffers are among what could."""
    before = {n: t.detach().clone() for n, t in named_tensors(made.model).items()}
    made.model.train()  # what is not trained has to be frozen all the same
    history = offramp.fit(
        made.model,
        (made.images, made.targets),
        objective,
        epochs=1,
        batch_size=ROWS,
        optimizer="adam",
        lr=1e-3,
        train=train,
        progress=False,
    )
    made.model.eval()
    assert len(history) == 1
    return _changed(before, made.model)


def _classifier(k: int) -> set[str]:
    return {f"heads.{k}.classifier.weight", f"heads.{k}.classifier.bias"}


def test_leenet_heads_learn_exit_by_exit_and_nothing_else_moves(made: Made) -> None:
    early = range(made.case.num_exits - 1)
    for k in early if made.case in SMALL else early[::2]:
        assert _step(made, "joint", f"head.{k}") == _classifier(k)


def test_leenet_heads_learn_all_at_once_and_nothing_else_moves(made: Made) -> None:
    wanted = set().union(*(_classifier(k) for k in range(made.case.num_exits - 1)))
    assert _step(made, "joint", "heads") == wanted


def test_leenet_trains_a_fresh_last_layer_and_nothing_else_moves(made: Made) -> None:
    answer = f"network.{made.case.answer}"
    assert _step(made, "joint", made.case.answer) == {f"{answer}.weight", f"{answer}.bias"}


def test_leenet_gates_learn_and_nothing_else_moves(made: Made) -> None:
    early = range(made.case.num_exits - 1)
    wanted = {f"heads.{k}.gate.{part}" for k in early for part in ("weight", "bias")}
    assert _step(made, "expected_loss", "gates") == wanted


# --------------------------------------------------------------------------- running
def test_leenet_runs_as_it_is_replayed_with_its_gates(made: Made) -> None:
    model, num_exits = made.model, made.case.num_exits
    data = made.images, made.targets
    records = offramp.record(model, data, batch_size=5, progress=False)
    costs = offramp.measure(model, made.images[:1], latency=False)
    low, high = costs.relative()[[0, -1]].tolist()
    policy = offramp.create_policy("gate", num_exits=num_exits)
    policy.fit(records, costs, budget=(low + high) / 2)
    exits = policy.exits(records)
    assert len(exits.unique()) > 1
    got = offramp.run(model, policy, made.images)
    scores, margin = policy.scores(records), 1e-4
    clear = ((scores - policy.thresholds).abs()[:, :-1] > margin).all(1)
    assert int(clear.sum()) >= ROWS - 2
    assert torch.equal(got.exits[clear], exits[clear])
    wanted = torch.stack(records.logits)[exits, torch.arange(ROWS)]  # [N, C]
    torch.testing.assert_close(got.logits[clear], wanted[clear], rtol=1e-3, atol=1e-3)


def test_leenet_unfitted_leaves_at_the_first_gate_above_one_half() -> None:
    model = create_model("leenet", network=VGG.network).eval()
    images = torch.randn(6, 3, 32, 32) * torch.linspace(0.3, 3, 6)[:, None, None, None]
    with torch.no_grad():
        for head in model.heads[:-1]:  # about half of the images on either side
            head.gate.weight.mul_(30)
        gates = torch.stack([out.gate for out in model(images)[:-1]], 1)  # [N, K-1]
        for k, head in enumerate(model.heads[:-1]):
            head.gate.bias.sub_(gates[:, k].median())
        gates = torch.stack([out.gate for out in model(images)[:-1]], 1)
    wanted = [next((k for k, g in enumerate(row) if g > 0), 4) for row in gates.tolist()]
    got = offramp.run(model, offramp.create_policy("gate", num_exits=5), images)
    clear = gates.abs().min(1).values > 1e-4
    assert len(set(wanted)) > 1
    assert got.exits[clear].tolist() == [k for k, ok in zip(wanted, clear, strict=True) if ok]


# --------------------------------------------------------------------------- options and weights
def test_leenet_takes_other_places_and_no_gates() -> None:
    options: dict[str, Any] = {"network": "densenet121_cifar", "network_options": {"growth": 4}}
    model = create_model("leenet", **options, at=["dense1", "trans3"], gate=False).eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 32, 32))
    assert [head.reads for head in model.heads[:-1]] == ["dense1", "trans3"]
    assert [out.gate for out in outputs] == [None] * 3


def test_leenet_loads_weights_and_starts_the_classifier_of_other_classes_anew(
    tmp_path: Path,
) -> None:
    network = CifarDenseNet(100, growth=4)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    options = {"network": "densenet121_cifar", "network_options": {"growth": 4}}
    files = {**options, "weights": tmp_path / "w.pth"}
    same = create_model("leenet", **files, num_classes=100).network.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())
    other = create_model("leenet", **files, num_classes=10, in_channels=1).network
    assert other.linear.weight.shape == (10, network.linear.in_features)
    assert torch.equal(other.dense4[1].conv2.weight, network.dense4[1].conv2.weight)
    torch.testing.assert_close(other.conv1.weight[:, 0], network.conv1.weight.sum(1))
    with pytest.raises(CheckpointError, match="does not fit CifarDenseNet"):
        create_model("leenet", network="densenet121_cifar", weights=tmp_path / "w.pth")


def test_leenet_takes_both_public_vggs(tmp_path: Path) -> None:
    for hidden in (512, 640):
        torch.save(CifarVgg(hidden=hidden).state_dict(), tmp_path / "w.pt")
        options = {"network_options": {"hidden": hidden}, "weights": tmp_path / "w.pt"}
        model = create_model("leenet", network="vgg11_bn_cifar", **options)
        assert model.network.classifier[3].out_features == hidden


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "resnet18"}, ValidationError, "one of resnet50, densenet121, .*'resnet18'"),
        ({"network": None}, ValidationError, "got None"),
        ({"pretrained": True}, ValidationError, "wanted weights=path for 'vgg11_bn_cifar'"),
        ({"at": ["features.99"]}, PlaceError, "no module 'features.99'"),
        ({"image_size": "32"}, ValidationError, "image_size as a whole number .* got '32'"),
        ({"num_classes": 0}, ValidationError, "num_classes as a whole number .* got 0"),
        ({"network_options": {"depth": 16}}, OptionError, "vgg11_bn_cifar.*depth"),
        ({"network_options": {"growth": 12}}, OptionError, "vgg11_bn_cifar.*growth"),
        ({"network_options": {"num_classes": 3}}, OptionError, "cannot have"),
        ({"weights": "nowhere.pth"}, CheckpointError, "nowhere.pth, which does not exist"),
        ({"network": "resnet50", "network_options": {"widht": 1}}, OptionError, "widht"),
    ],
)
def test_leenet_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("leenet", **{"network": "vgg11_bn_cifar", **options})
