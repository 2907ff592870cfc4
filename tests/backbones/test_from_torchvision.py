"""Classifiers of torchvision by name: as torchvision makes them, with exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from offramp import create_model
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
        ({"num_classes": "5"}, ValueError, "num_classes as a whole number .* got '5'"),
        ({"network_options": {"widht": 1}}, OptionError, "resnet18.*widht"),
        ({"network_options": {"weights": "DEFAULT"}}, OptionError, "cannot have"),
        ({"network_options": {"progress": True}}, OptionError, "cannot have"),
    ],
)
def test_torchvision_network_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("torchvision", **{**SMALL, **options})
