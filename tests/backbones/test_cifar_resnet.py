"""CIFAR ResNets: sizes from the paper's layer formula, and public weights on real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.backbones.cifar_resnet import CifarResNet
from offramp.errors import CheckpointError, OptionError, PlaceError, ValidationError
from offramp.model import create_model, list_models

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _formula(depth: int, classes: int = 10) -> int:
    """Weights of a 6n + 2 network without projections: He et al. 2016, section 4.2."""
    n = (depth - 2) // 6
    conv = 9 * (3 * 16 + 2 * n * 16 * 16)
    conv += 9 * (16 * 32 + (2 * n - 1) * 32 * 32)
    conv += 9 * (32 * 64 + (2 * n - 1) * 64 * 64)
    norm = 2 * (16 + 2 * n * (16 + 32 + 64))
    return conv + norm + 64 * classes + classes


# --------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("depth", "millions", "exact"),
    [
        (20, 0.27, 269_722),
        (32, 0.46, 464_154),
        (44, 0.66, 658_586),
        (56, 0.85, 853_018),
        (110, 1.7, 1_727_962),
    ],
)
def test_cifar_resnet_has_the_published_parameters(depth: int, millions: float, exact: int) -> None:
    with torch.device("meta"):
        network = CifarResNet(depth)
    assert _count(network) == exact == _formula(depth)
    assert round(exact / 1e6, 1 if depth == 110 else 2) == millions


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.8), (56, 125.5)])
def test_cifar_resnet_has_the_published_macs(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network, image = CifarResNet(depth).eval(), torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, rel=0.01)


def test_cifar_resnet_option_b_adds_the_projections_and_nothing_else() -> None:
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    plain, projected = CifarResNet(20), CifarResNet(20, shortcut="B")
    assert _count(projected) == _count(plain) + projections
    new = set(dict(projected.named_parameters())) - set(dict(plain.named_parameters()))
    parts = ("0.weight", "1.weight", "1.bias")
    assert new == {f"layer{i}.0.shortcut.{part}" for i in (2, 3) for part in parts}


def test_cifar_resnet_with_bottlenecks_has_the_size_of_eenets_resnet56_3() -> None:
    """Nine bottlenecks per stage and EENet's heads: 0.94 million parameters."""

    def unit(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

    def head(shape: tuple[int, ...]) -> nn.Module:
        wide, narrow = shape[1], shape[1] // 4
        convs = [*unit(wide, narrow), *unit(narrow, narrow), *unit(narrow, narrow)]
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(narrow, 10))

    model = create_model("resnet_cifar", depth=83, block="bottleneck", shortcut="B", head=head)
    blocks = n_in = 0
    for width in (16, 32, 64):
        for first in (True, *[False] * 8):
            blocks += n_in * width if n_in else 16 * width
            blocks += 9 * width * width + 4 * width * width + 2 * (width + width + 4 * width)
            blocks += (n_in or 16) * 4 * width + 8 * width if first else 0
            n_in = 4 * width
    network = 3 * 16 * 9 + 32 + blocks + 2570
    heads = sum(9 * 6 * w * w + 6 * w + 10 * w + 10 for w in (16, 32))
    assert _count(model) == network + heads
    assert round(_count(model) / 1e6, 2) == 0.94


# --------------------------------------------------------------------------- what it computes
def _by_hand(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Logits from the public names alone: option A, basic or bottleneck blocks."""

    def conv_bn(name: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, None, stride, padding=weight.shape[-1] // 2)
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{bn}.{part}"] for part in parts))

    x = conv_bn("conv1", "bn1", images).relu()
    for stage in (1, 2, 3):
        i = 0
        while f"layer{stage}.{i}.conv1.weight" in state:
            at, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            last = 3 if f"{at}.conv3.weight" in state else 2
            y = x
            for j in range(1, last + 1):
                here = stride if j == last - 1 else 1
                y = conv_bn(f"{at}.conv{j}", f"{at}.bn{j}", y, here)
                y = y if j == last else y.relu()
            short = torch.zeros_like(y)
            start = (y.shape[1] - x.shape[1]) // 2
            short[:, start : start + x.shape[1]] = x[:, :, ::stride, ::stride]
            x, i = (y + short).relu(), i + 1
    return F.linear(x.flatten(2).mean(2), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(("depth", "block"), [(14, "basic"), (20, "bottleneck")])
def test_cifar_resnet_computes_what_its_names_say(depth: int, block: str) -> None:
    network = CifarResNet(depth, 7, block=block).eval()  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = network(images), _by_hand(network.state_dict(), images)
    assert ours.shape == (3, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shortcut": "B", "gate": True},
        {"depth": 11, "block": "bottleneck", "at": ["layer1.0", "layer3.0"], "head": "conv"},
    ],
)
def test_cifar_resnet_last_exit_is_the_plain_network(options: dict[str, object]) -> None:
    model = create_model("resnet_cifar", **{"depth": 8, "num_classes": 5, **options}).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert torch.equal(outputs[-1].logits, plain)
    assert [tuple(out.logits.shape) for out in outputs] == [(3, 5)] * 3
    gates = [out.gate is not None for out in outputs]
    assert gates == [bool(options.get("gate"))] * 2 + [False]


def test_cifar_resnet_without_places_has_one_exit() -> None:
    model = create_model("resnet20_cifar", at=()).eval()
    assert model.num_exits == 1
    assert model(torch.randn(2, 3, 32, 32))[0].logits.shape == (2, 10)


def test_cifar_resnet_starts_from_he_initialisation_over_the_fan_in() -> None:
    for module in CifarResNet(20).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 9000:
            fan_in = module.weight[0].numel()
            assert module.weight.detach().std().item() == pytest.approx(
                (2 / fan_in) ** 0.5, rel=0.05
            )


@pytest.mark.parametrize("name", ["resnet_cifar", "resnet20_cifar"])
def test_cifar_resnet_takes_images_of_other_channels(name: str) -> None:
    options = {"in_channels": 1} | ({"depth": 8} if name == "resnet_cifar" else {})
    model = create_model(name, **options).eval()
    assert model.network.conv1.weight.shape == (16, 1, 3, 3)
    with torch.no_grad():
        assert model(torch.randn(2, 1, 28, 28))[-1].logits.shape == (2, 10)


# --------------------------------------------------------------------------- names and errors
def test_cifar_resnet_depths_are_listed_and_built() -> None:
    depths = {name: int(name[6:-6]) for name in list_models("resnet*_cifar") if name[6] != "_"}
    assert sorted(depths.values()) == [20, 32, 44, 56, 110]
    for name in ("resnet32_cifar", "resnet44_cifar"):
        assert _count(create_model(name, at=()).network) == _formula(depths[name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"depth": 21}, ValidationError, r"wanted a depth of 6n \+ 2 .*8, 14, 20.* got 21"),
        ({"depth": 2}, ValidationError, "got 2"),
        ({"depth": 56.0}, ValidationError, "got 56.0"),
        ({"depth": 14, "block": "bottleneck"}, ValidationError, r"9n \+ 2 .*11, 20, 29.* got 14"),
        ({"block": "wide"}, ValidationError, "wanted a block basic or bottleneck, got 'wide'"),
        ({"shortcut": "C"}, ValidationError, "wanted a shortcut A or B, got 'C'"),
        ({"num_classes": 0}, ValidationError, "wanted num_classes .* got 0"),
        ({"in_channels": 0}, ValidationError, "wanted in_channels .* got 0"),
        ({"depth": 8, "at": ["layer9"]}, PlaceError, "layer9"),
        ({"depth": 8, "at": "layer1"}, PlaceError, "wanted a list"),
        ({"width": 3}, OptionError, "it takes"),
    ],
)
def test_cifar_resnet_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("resnet_cifar", **options)


def test_cifar_resnet_refuses_the_weights_of_another_depth(tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    torch.save({"state_dict": CifarResNet(14).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"layer1\.2\.conv1"):
        create_model("resnet20_cifar", checkpoint=path)


# --------------------------------------------------------------------------- public weights
@pytest.fixture(scope="module")
def cifar10_start(offramp_data: Path, tmp_path_factory) -> tuple[Tensor, Tensor]:
    """The first 500 test images [500, 3, 32, 32], normalised, and their labels [500]."""
    import datasets

    datasets.disable_progress_bars()
    cache = str(tmp_path_factory.mktemp("datasets"))
    name = str(offramp_data / "cifar10")
    rows = datasets.load_dataset(name, split="test", cache_dir=cache).select(range(500))
    images = torch.stack([_pixels(row["img"]) for row in rows])
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return (images - mean) / std, torch.tensor(rows["label"])


def _pixels(image) -> Tensor:
    """A picture as [3, H, W] in [0, 1]."""
    flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1) / 255


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnet_public_weights_score_as_published(depth, offramp_data, cifar10_start) -> None:
    (checkpoint,) = (offramp_data / "weights").glob(f"resnet{depth}-*.th")
    model = create_model(f"resnet{depth}_cifar", checkpoint=checkpoint).eval()
    images, labels = cifar10_start
    with torch.no_grad():
        right = sum(
            (model(x)[-1].logits.argmax(1) == y).sum().item()
            for x, y in zip(images.split(100), labels.split(100), strict=True)
        )
    assert right / len(labels) >= (0.91 if depth == 56 else 0.89)
