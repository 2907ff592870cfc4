"""VGG for CIFAR: the layers of torchvision's under its names, the published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.backbones.vgg_cifar import CifarVgg
from offramp.errors import CheckpointError, OptionError, PlaceError, ValidationError
from offramp.model import create_model


def _meta(**options: Any) -> CifarVgg:
    with torch.device("meta"):
        return CifarVgg(**options)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


# --------------------------------------------------------------------------- sizes and names
@pytest.mark.parametrize(
    ("depth", "params", "macs"), [(11, 9.76, 153.29), (13, 9.94, 228.79), (16, 15.25, 313.73)]
)
def test_vgg_cifar_has_the_published_size(depth: int, params: float, macs: float) -> None:
    """Millions, as in the tables of chenyaofo/pytorch-cifar-models (ten classes)."""
    network = _meta(depth=depth).eval()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(params, abs=0.005)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(macs, rel=2e-3)


@pytest.mark.parametrize(("depth", "millions"), [(11, 28.150), (13, 28.334), (16, 33.647)])
def test_vgg_cifar_with_a_wide_classifier_has_the_published_size(
    depth: int, millions: float
) -> None:
    """As in the table of huyvnphan/PyTorch_CIFAR10."""
    params = sum(p.numel() for p in _meta(depth=depth, hidden=4096).parameters())
    assert params / 1e6 == pytest.approx(millions, abs=0.0005)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_cifar_has_the_names_of_torchvision(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = _shapes(models.get_model(f"vgg{depth}_bn", weights=None, num_classes=10))
    ours = _shapes(_meta(depth=depth, hidden=4096))
    # a map of 7 x 7 goes into the first layer that torchvision's classifier has
    assert ours.pop("classifier.0.weight") == (4096, 512)
    assert theirs.pop("classifier.0.weight") == (4096, 512 * 49)
    assert ours == theirs
    widths = [shape[0] for name, shape in _shapes(_meta(depth=depth)).items() if "classif" in name]
    assert widths == [512] * 4 + [10] * 2


# --------------------------------------------------------------------------- what it computes
def _by_hand(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """VGG-11 from the public names alone."""
    x, at = images, 0
    for convs in (1, 1, 2, 2, 2):
        for _ in range(convs):
            x = F.conv2d(x, state[f"features.{at}.weight"], state[f"features.{at}.bias"], padding=1)
            parts = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(state[f"features.{at + 1}.{part}"] for part in parts)).relu()
            at += 3
        x, at = F.max_pool2d(x, 2), at + 1
    x = x.mean((2, 3))
    for layer in (0, 3):
        x = F.linear(
            x, state[f"classifier.{layer}.weight"], state[f"classifier.{layer}.bias"]
        ).relu()
    return F.linear(x, state["classifier.6.weight"], state["classifier.6.bias"])


@pytest.mark.parametrize("side", [32, 64])
def test_vgg_cifar_computes_what_its_names_say(side: int) -> None:
    network = CifarVgg(11, 7, in_channels=1).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias)
    images = torch.randn(2, 1, side, side)
    with torch.no_grad():
        ours, theirs = network(images), _by_hand(network.state_dict(), images)
    assert ours.shape == (2, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_vgg_cifar_has_its_exits_after_poolings() -> None:
    model = create_model("vgg_cifar", num_classes=5, gate=True).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert torch.equal(outputs[-1].logits, plain)
    assert [tuple(out.logits.shape) for out in outputs] == [(3, 5)] * 4
    assert [out.gate is not None for out in outputs] == [True, True, True, False]
    assert [head.reads for head in model.heads[:-1]] == ["features.7", "features.14", "features.21"]
    assert [m.classifier.in_features for m in model.heads[:-1]] == [128, 256, 512]


def test_vgg_cifar_names_the_poolings_of_every_depth() -> None:
    assert _meta(depth=16).poolings() == [f"features.{i}" for i in (6, 13, 23, 33, 43)]


# --------------------------------------------------------------------------- weights and errors
def test_vgg_cifar_takes_public_weights_by_name_and_no_others(tmp_path: Path) -> None:
    public = CifarVgg(hidden=640)
    torch.save(public.state_dict(), tmp_path / "vgg11_bn.pt")
    model = create_model("vgg_cifar", hidden=640, at=(), checkpoint=tmp_path / "vgg11_bn.pt")
    own = model.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in public.state_dict().items())
    with pytest.raises(CheckpointError, match=r"of another shape, as classifier\.0\.weight"):
        create_model("vgg_cifar", at=(), checkpoint=tmp_path / "vgg11_bn.pt")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"depth": 12}, ValidationError, r"depth as one of \[11, 13, 16, 19\], got 12"),
        ({"depth": "11"}, ValidationError, "got '11'"),
        ({"hidden": 0}, ValidationError, "wanted hidden as a whole number .* got 0"),
        ({"num_classes": 0}, ValidationError, "wanted num_classes .* got 0"),
        ({"in_channels": 1.5}, ValidationError, "wanted in_channels .* got 1.5"),
        ({"at": ["features.29"]}, PlaceError, "features.29"),
        ({"width": 3}, OptionError, "it takes"),
    ],
)
def test_vgg_cifar_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("vgg_cifar", **options)
