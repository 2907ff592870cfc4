"""Tracing: what torch.fx would silently lose or freeze is refused, what it need not is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offramp import places
from offramp.attach import attach
from offramp.errors import PlaceError, ValidationError


class Net(nn.Module):
    """A container of two convolutions, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class LayerDrop(Net):
    """Skips a module at random in training."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.training and torch.rand(1) < 0.5:
            x = 2 * x
        return self.fc(x.mean((2, 3)))


class Noise(Net):
    """Adds noise whose shape no input says."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.body(x) + torch.randn(8, 1, 1)).mean((2, 3)))


class Sliced(Net):
    """Runs a Sequential in two pieces."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body[2:](self.body[:2](x)).mean((2, 3)))


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("kind", [LayerDrop, Noise])
def test_random_number_that_tracing_would_freeze_is_refused(kind: type[Net]) -> None:
    network, x = kind(), images()
    state = torch.get_rng_state()
    with pytest.raises(PlaceError, match=r"draws random numbers there.*in a module of its own"):
        attach(network, ["body"], example=x)
    assert torch.equal(torch.get_rng_state(), state)


def test_slice_of_a_sequential_is_seen_through() -> None:
    network, x = Sliced().eval(), images()
    assert "body.1" in {place.name for place in places(network, x)}
    model = attach(network, ["body.1"], example=x).eval()
    assert torch.equal(model(x)[-1].logits, network(x))
    assert torch.equal(model.segments[0](x)["body.1"], network.body[:2](x))


@pytest.mark.parametrize("name", ["", "body"])
def test_hook_that_would_be_lost_is_refused_and_one_inside_a_segment_runs(name: str) -> None:
    network, seen = Net(), []
    handle = network.get_submodule(name).register_forward_hook(lambda *_: seen.append(name))
    which = f"'{name}'" if name else "the Net itself"
    with pytest.raises(PlaceError, match=f"{which} has forward or backward hooks"):
        attach(network, ["body.1"], example=images())
    if name:  # outside of it, the module is one call
        assert "body.1" not in {place.name for place in places(network, images())}
        model = attach(network, ["body"], example=images())
        seen.clear()
        model(images())
        assert seen == ["body"]
    handle.remove()
    assert attach(network, ["body.1"], example=images()).num_exits == 2


def test_code_that_cannot_be_followed_is_refused_with_the_places_around_it() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else x

    network = nn.Sequential(nn.Linear(4, 8), Forked(), nn.Linear(8, 3))
    with pytest.raises(PlaceError, match=r"cannot follow.*'1.inner'.*valid places: 0, 1"):
        attach(network, ["1.inner"], example=torch.randn(2, 4))


def test_network_that_keeps_values_from_call_to_call_in_training_is_refused() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return super().forward(x)
            self.calls += 1
            return super().forward(x) * self.calls

    with pytest.raises(PlaceError, match="does not answer as before in training mode"):
        attach(Counting(), ["body"], example=images())


def test_example_on_which_the_network_cannot_train_is_refused() -> None:
    class Fussy(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("too small")
            return super().forward(x)

    assert places(Fussy(), images())
    with pytest.raises(ValidationError, match=r"Fussy .* in training mode: too small"):
        attach(Fussy(), ["body"], example=images())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_network_is_refused_with_a_hint(wrap) -> None:
    with pytest.raises(ValidationError, match=r"names its inputs, got .*give the one inside"):
        attach(wrap(Net().eval()), ["module.body"], example=images())


@pytest.mark.parametrize("head", [lambda shape: Wide(7), "linear"])
def test_head_whose_answer_does_not_fit_the_networks_is_refused(head) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with pytest.raises(ValidationError, match=r"4 dimensions that begin with \(3, 4\).*exit 0"):
        attach(network, ["1"], example=images(), head=head)


class Wide(nn.Module):
    """A map of so many classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
