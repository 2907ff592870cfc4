"""Networks of torchvision by name: as torchvision makes them, with exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from offramp import create_model, measure
from offramp.costs import count_macs
from offramp.errors import CheckpointError, OptionError, UnknownNameError

models = pytest.importorskip("torchvision.models")

SMALL = {"network": "resnet18", "at": ["layer1", "layer3"], "num_classes": 5, "image_size": 32}


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        (SMALL, 3),
        ({**SMALL, "in_channels": 1, "gate": True}, 1),
        ({**SMALL, "network": "squeezenet1_1", "at": ["features.4"]}, 3),
        ({**SMALL, "network": "shufflenet_v2_x0_5", "at": ["stage2"], "in_channels": 4}, 4),
    ],
)
def test_torchvision_network_answers_at_every_exit(options: dict[str, Any], channels: int) -> None:
    model = create_model("torchvision", **options).eval()
    images = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert [tuple(out.logits.shape) for out in outputs] == [(2, 5)] * (len(options["at"]) + 1)
    assert torch.equal(outputs[-1].logits, plain)


def test_torchvision_vision_transformer_is_made_for_the_size_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def get_model(name: str, **options: Any) -> nn.Module:
        asked.update(options, name=name)
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        return models.VisionTransformer(options["image_size"], 16, **sizes, num_classes=5)

    monkeypatch.setattr(models, "get_model", get_model)
    options = {**SMALL, "network": "vit_b_16", "at": ["encoder.layers.encoder_layer_0"]}
    model = create_model("torchvision", **options)
    assert asked == {"name": "vit_b_16", "weights": None, "num_classes": 5, "image_size": 32}
    assert model(torch.randn(2, 3, 32, 32))[0].logits.shape == (2, 5)


def test_pretrained_weights_are_loaded_and_the_classifier_of_other_classes_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = models.resnet18(num_classes=1000)
    weights = models.ResNet18_Weights

    def get_state_dict(self: Any, *args: Any, **named: Any) -> Any:
        return network.state_dict()

    monkeypatch.setattr(weights, "get_state_dict", get_state_dict)
    same = create_model("torchvision", **{**SMALL, "num_classes": 1000}, pretrained=True).network
    assert all(torch.equal(v, network.state_dict()[n]) for n, v in same.state_dict().items())
    other = create_model("torchvision", **SMALL, pretrained=True, in_channels=1).network
    assert other.fc.weight.shape == (5, 512)
    assert torch.equal(other.layer4[1].bn2.weight, network.layer4[1].bn2.weight)
    grey = torch.randn(2, 1, 32, 32)
    wanted = network.conv1(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(other.conv1(grey), wanted, rtol=1e-4, atol=1e-4)


def test_weights_that_cannot_be_fetched_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: Any, *args: Any, **named: Any) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(CheckpointError, match=r"fetched \(ConnectionError: no route\).*weights=p"):
        create_model("torchvision", **SMALL, pretrained=True)


def test_local_weights_come_before_those_of_the_library(tmp_path: Path) -> None:
    network = models.resnet18(num_classes=5)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = create_model("torchvision", **SMALL, pretrained=True, weights=tmp_path / "w.pth")
    assert torch.equal(model.network.fc.weight, network.fc.weight)
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="names are missing"):
        create_model("torchvision", **SMALL, weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "resnet17"}, UnknownNameError, "did you mean 'resnet1"),
        ({"network": "fasterrcnn_resnet50_fpn"}, UnknownNameError, "torchvision has no network"),
        ({"network": "Module"}, UnknownNameError, "no network named 'Module'"),
        ({"image_size": [32]}, ValueError, r"or as height and width, got \[32\]"),
        ({"image_size": "32"}, ValueError, "or as height and width, got '32'"),
        (
            {"network": "vit_b_16", "image_size": (32, 64)},
            ValueError,
            r"one side as image_size of 'vit_b_16', got \(32, 64\)",
        ),
        ({"network_options": {"aux_loss": True}}, OptionError, "cannot have"),
        ({"num_classes": "5"}, ValueError, "num_classes as a whole number .* got '5'"),
        ({"network_options": {"widht": 1}}, OptionError, "resnet18.*widht"),
        ({"network_options": {"weights": "DEFAULT"}}, OptionError, "cannot have"),
        ({"network_options": {"progress": True}}, OptionError, "cannot have"),
    ],
)
def test_torchvision_network_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("torchvision", **{**SMALL, **options})


# --------------------------------------------------------------------------- maps
MAPS = [
    ("deeplabv3_mobilenet_v3_large", ["backbone.3", "backbone.6"], [4, 8, 16]),
    ("lraspp_mobilenet_v3_large", ["backbone.3"], [4, 8]),
]


@pytest.mark.parametrize(("name", "at", "shares"), MAPS)
def test_torchvision_network_for_maps_answers_as_ever_at_its_own_size(
    name: str, at: list[str], shares: list[int]
) -> None:
    options = {"network": name, "at": at, "num_classes": 5, "image_size": (45, 60)}
    model = create_model("torchvision", **options).eval()
    plain = models.get_model(name, weights=None, weights_backbone=None, num_classes=5).eval()
    plain.load_state_dict(model.network.state_dict())
    images = torch.randn(2, 3, 180, 240)  # other than it was made with
    with torch.no_grad():
        outputs, wanted = model(images), plain(images)["out"]
    sizes = [(-(-180 // share), -(-240 // share)) for share in shares]
    assert [tuple(out.logits.shape) for out in outputs] == [(2, 5, *size) for size in sizes]
    grown = F.interpolate(outputs[-1].logits, (180, 240), mode="bilinear", align_corners=False)
    assert torch.equal(grown, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_resnets_for_maps_answer_as_ever_and_their_heads_are_cheap(name: str) -> None:
    at = ["backbone.layer1", "backbone.layer2", "backbone.layer3"]
    options = {"network": name, "at": at, "num_classes": 19, "image_size": (180, 240)}
    model = create_model("torchvision", **options).eval()
    plain = models.get_model(name, weights=None, weights_backbone=None, num_classes=19).eval()
    plain.load_state_dict(model.network.state_dict())
    images = torch.randn(1, 3, 180, 240)
    with torch.no_grad():
        outputs, wanted = model(images), plain(images)["out"]
    sizes = [(45, 60), (23, 30), (23, 30), (23, 30)]
    assert [tuple(out.logits.shape) for out in outputs] == [(1, 19, *size) for size in sizes]
    grown = F.interpolate(outputs[-1].logits, (180, 240), mode="bilinear", align_corners=False)
    assert torch.equal(grown, wanted)
    pieces = count_macs(model, images)
    channels, areas = (256, 512, 1024), (45 * 60, 23 * 30, 23 * 30)
    heads = [c * a * 19 for c, a in zip(channels, areas, strict=True)]
    assert pieces.heads.tolist() == [*heads, 0]  # its own classifier is of the last segment
    measure(model, images, latency=False)  # and warns of none


def test_torchvision_network_for_maps_trains_every_weight_and_runs_as_replayed(
    check_running,
) -> None:
    name, at, _ = MAPS[0]
    head = {"kind": "dense", "width": 8, "context": 2}
    options = {"network": name, "at": at, "num_classes": 3, "image_size": 33, "head": head}
    model = create_model("torchvision", **options)
    sum(out.logits.square().mean() for out in model(torch.randn(2, 3, 33, 47))).backward()
    assert all(p.grad is not None for p in model.parameters())
    check_running(model, torch.randn(4, 3, 33, 47))


def test_pretrained_weights_of_a_network_for_maps_are_loaded_without_the_auxiliary_head(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, at, _ = MAPS[0]
    network = models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    weights = models.get_model_weights(name)
    monkeypatch.setattr(weights, "get_state_dict", lambda *args, **named: network.state_dict())
    options = {"network": name, "at": at, "image_size": 33}
    same = create_model("torchvision", **options, num_classes=21, pretrained=True).network
    own = network.state_dict()
    assert all(torch.equal(value, own[n]) for n, value in same.state_dict().items())
    torch.save(own, tmp_path / "w.pth")
    path = tmp_path / "w.pth"
    other = create_model("torchvision", **options, num_classes=3, weights=path).network
    assert other.classifier[4].weight.shape == (3, 256, 1, 1)
    assert torch.equal(other.classifier[0].project[0].weight, own["classifier.0.project.0.weight"])
