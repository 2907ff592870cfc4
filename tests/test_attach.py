"""Attaching exits to the networks that people have: torchvision, timm and Hugging Face."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from offramp import attach
from offramp.errors import ValidationError
from offramp.model import MultiExitModel

SMALL, USUAL = 64, 224


def torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        return getattr(models, name)(**options)

    return make


def timm(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return pytest.importorskip("timm").create_model(name, **options)

    return make


# name -> (maker, side of the image, three places of which the second is cut in the quick tier)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, list[str]]] = {
    "resnet18": (torchvision("resnet18"), SMALL, ["layer1", "layer2.0", "layer3"]),
    "resnet50": (torchvision("resnet50"), SMALL, ["layer1", "layer2.1.conv2", "layer3"]),
    "densenet121": (
        torchvision("densenet121", drop_rate=0.1),
        SMALL,
        ["features.denseblock1", "features.denseblock2.denselayer3", "features.transition3"],
    ),
    "vgg11_bn": (torchvision("vgg11_bn"), SMALL, ["features.8", "features.15", "classifier.0"]),
    "mobilenet_v3_small": (
        torchvision("mobilenet_v3_small"),
        SMALL,
        ["features.2", "features.5", "features.9"],
    ),
    "efficientnet_b0": (
        torchvision("efficientnet_b0"),
        SMALL,
        ["features.2", "features.4.1", "features.6"],
    ),
    "vit_b_16": (
        torchvision("vit_b_16", image_size=SMALL, dropout=0.1),
        SMALL,
        [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8)],
    ),
    "swin_t": (torchvision("swin_t"), SMALL, ["features.1", "features.3.1", "features.5"]),
    "convnext_tiny": (
        torchvision("convnext_tiny"),
        SMALL,
        ["features.1", "features.3.2", "features.5"],
    ),
    "timm resnet50": (timm("resnet50"), SMALL, ["layer1", "layer2.3", "layer3"]),
    "timm vit_tiny_patch16_224": (
        timm("vit_tiny_patch16_224", drop_path_rate=0.1),
        USUAL,
        ["blocks.2", "blocks.5", "blocks.8"],
    ),
    "timm swin_tiny_patch4_window7_224": (
        timm("swin_tiny_patch4_window7_224"),
        USUAL,
        ["layers.0", "layers.1", "layers.2"],
    ),
    "timm efficientnet_b0": (
        timm("efficientnet_b0", drop_path_rate=0.2),
        SMALL,
        ["blocks.1", "blocks.3.1", "blocks.5"],
    ),
    "timm mobilenetv4_conv_small": (
        timm("mobilenetv4_conv_small"),
        SMALL,
        ["blocks.0", "blocks.2.1", "blocks.3"],
    ),
}


def last(model: MultiExitModel, x: Tensor) -> Tensor:
    """The last exit's answer, early heads not run."""
    state = x
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


def check(make: Callable[[], nn.Module], side: int, at: list[str]) -> None:
    """What attach promises: the same answers in both modes, any batch size, the same parameters."""
    torch.manual_seed(0)
    network = make()
    twin = copy.deepcopy(network)
    model = attach(network, at, example=torch.randn(1, 3, side, side))
    assert model.num_exits == len(at) + 1
    x = torch.randn(3, 3, side, side)
    for training in (False, True):
        model.train(training), twin.train(training)
        torch.manual_seed(1)
        with torch.no_grad():
            expected = twin(x)
        torch.manual_seed(1)
        with torch.set_grad_enabled(training):
            answer = last(model, x)
        assert torch.equal(answer, expected), f"training={training}"
    answer.square().mean().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None]
    assert not untouched
    for ours, theirs in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    outputs = model.eval()(x)
    assert [tuple(out.logits.shape) for out in outputs] == [tuple(expected.shape)] * len(outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_attach_keeps_the_network_as_it_was(name: str) -> None:
    make, side, at = NETWORKS[name]
    check(make, side, at[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_attach_keeps_the_network_as_it_was_at_three_places(name: str) -> None:
    check(*NETWORKS[name])


def test_training_through_offramp_trains_the_original_network() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = attach(network, ["1"], example=torch.zeros(2, 4))
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    sum(out.logits.square().sum() for out in model(torch.randn(8, 4))).backward()
    optimizer.step()
    assert list(network.state_dict()) == list(before)
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_network_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"wanted a torch.nn.Module.*got str"):
        attach("resnet18", ["layer1"], example=torch.zeros(1, 3, 8, 8))


def test_attached_model_knows_its_recipe_and_nothing_of_the_example_but_its_shape() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = attach(network, ("1",), example=torch.full((5, 4), 7.5), gate=True)
    assert model.recipe is not None
    assert model.recipe.name == "attach"
    assert model.recipe.options == {
        "at": ["1"],
        "num_classes": None,
        "head": "auto",
        "gate": True,
        "example": {"shape": [4], "dtype": "float32"},
    }
