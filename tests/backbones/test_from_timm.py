"""Networks of timm by name: as timm makes them, with exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from offramp import create_model
from offramp.backbones.library import spread
from offramp.errors import CheckpointError, OptionError, PlaceError, UnknownNameError

timm = pytest.importorskip("timm")

SMALL = {"network": "resnet18", "at": ["layer1", "layer3"], "num_classes": 5, "image_size": 32}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (SMALL, (3, 32, 32)),
        ({**SMALL, "in_channels": 1, "gate": True, "head": "conv"}, (1, 32, 32)),
        (
            {
                **SMALL,
                "network": "vit_tiny_patch16_224",  # its positions depend on the size of the image
                "at": ["blocks.0"],
                "network_options": {"depth": 2},
            },
            (3, 32, 32),
        ),
        ({**SMALL, "image_size": [40, 64]}, (3, 40, 64)),
        (
            {
                **SMALL,
                "network": "vit_tiny_patch16_224",
                "at": ["blocks.0"],
                "network_options": {"depth": 2},
                "image_size": (32, 48),
            },
            (3, 32, 48),
        ),
    ],
)
def test_timm_network_answers_at_every_exit(options: dict[str, Any], shape: tuple) -> None:
    model = create_model("timm", **options).eval()
    images = torch.randn(2, *shape)
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert [tuple(out.logits.shape) for out in outputs] == [(2, 5)] * (len(options["at"]) + 1)
    assert torch.equal(outputs[-1].logits, plain)
    assert (outputs[0].gate is not None) == options.get("gate", False)


def test_timm_network_is_the_one_that_timm_makes() -> None:
    model = create_model("timm", **{**SMALL, "network_options": {"drop_rate": 0.25}})
    network = timm.create_model("resnet18", num_classes=5, drop_rate=0.25)
    network.load_state_dict(model.network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), model.eval()(x)[-1].logits)
    assert model.network.drop_rate == 0.25


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_local_weights_are_loaded_and_the_classifier_of_other_classes_is_not(
    kind: str, tmp_path: Path
) -> None:
    network = timm.create_model("resnet18", num_classes=7)
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        save_file(network.state_dict(), path)
    same = create_model("timm", **{**SMALL, "num_classes": 7}, weights=path).network
    assert all(torch.equal(v, network.state_dict()[n]) for n, v in same.state_dict().items())
    other = create_model("timm", **SMALL, weights=path, in_channels=1).network
    assert other.fc.weight.shape == (5, 512)
    assert torch.equal(other.layer4[1].bn2.weight, network.layer4[1].bn2.weight)
    grey = torch.randn(2, 1, 32, 32)
    wanted = network.conv1(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(other.conv1(grey), wanted, rtol=1e-4, atol=1e-4)


def test_weights_are_spread_so_that_grey_stays_grey() -> None:
    conv = nn.Conv2d(3, 4, 3, bias=False)
    for channels in (1, 2, 5):
        other = nn.Conv2d(channels, 4, 3, bias=False)
        other.weight.data = spread(conv.weight.data, channels)
        grey = torch.randn(2, 1, 6, 6)
        torch.testing.assert_close(
            other(grey.expand(-1, channels, -1, -1)), conv(grey.expand(-1, 3, -1, -1))
        )


def test_weights_that_cannot_be_fetched_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    make = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ConnectionError("no route\nto host")
        return make(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    wanted = r"timm's 'resnet18' cannot be fetched \(ConnectionError: no route\); .*weights=path"
    with pytest.raises(CheckpointError, match=wanted):
        create_model("timm", **SMALL, pretrained=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "resnet19"}, UnknownNameError, "did you mean 'resnet1?8|did you mean '"),
        ({"network": "hf-hub:me/mine"}, UnknownNameError, "timm has no network named 'hf-hub:me"),
        ({"network": 3}, UnknownNameError, "no network named '3'"),
        ({"at": ["layer9"]}, PlaceError, "layer9"),
        ({"num_classes": 0}, ValueError, "num_classes as a whole number .* got 0"),
        ({"image_size": 32.5}, ValueError, "image_size as a whole number .* got 32.5"),
        ({"in_channels": True}, ValueError, "in_channels as a whole number .* got True"),
        ({"network_options": {"widht": 1}}, OptionError, "resnet18.*widht"),
        ({"network_options": {"checkpoint_path": "x"}}, OptionError, "cannot have"),
        ({"network_options": {"num_classes": 2}}, OptionError, "cannot have"),
        ({"weights": "nowhere.pt"}, CheckpointError, "nowhere.pt, which does not exist"),
    ],
)
def test_timm_network_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("timm", **{**SMALL, **options})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(nn.Linear(3, 3).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit ResNet: \d+ names are missing"):
        create_model("timm", **SMALL, weights=tmp_path / "w.safetensors")
