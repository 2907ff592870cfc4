"""Cutting with torch.fx: small networks, each with one trap in it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.attach import attach
from offramp.errors import PlaceError, ValidationError
from offramp.heads import DenseHead, LinearHead
from offramp.model import MultiExitModel
from offramp.types import ExitOutput


class Net(nn.Module):
    """Three convolutions with a long skip from the first to the end."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.act = nn.ReLU(inplace=inplace)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        x = self.b(self.act(self.a(skip)))
        return self.head((x + skip).mean((2, 3)))


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 8, 8)


def last(model: MultiExitModel, x: Tensor) -> Tensor:
    """The last exit's answer, early heads not run."""
    state = x
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


@pytest.mark.parametrize("training", [False, True])
def test_cut_network_answers_bit_for_bit_as_before(training: bool) -> None:
    network = Net()
    model = attach(network, ["a", "b"], example=images(1))
    x = images(7)
    expected = copy.deepcopy(network).train(training)(x)
    model.train(training)
    assert torch.equal(last(model, x), expected)


def test_cut_leaves_buffers_modes_and_random_state_alone() -> None:
    network = Net()
    network.a.eval()
    before = copy.deepcopy(network.state_dict())
    x = images()
    state = torch.get_rng_state()
    attach(network, ["a"], example=x, head=lambda shape: Corner())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.a.training and network.training and network.b.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_gradients_of_the_last_exit_reach_the_networks_own_parameters() -> None:
    network = Net()
    model = attach(network, ["a", "b"], example=images())
    twin = copy.deepcopy(network)
    x = images()
    last(model.train(), x).square().sum().backward()
    twin.train()(x).square().sum().backward()
    for (name, ours), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name


def test_segments_own_every_parameter_of_the_network_once() -> None:
    network = Net()
    model = attach(network, ["a", "b"], example=images())
    owned = [id(p) for segment in model.segments for p in segment.parameters()]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"network", "heads"}
    assert {
        n.removeprefix("network.") for n in model.state_dict() if n.startswith("network.")
    } == set(network.state_dict())


def test_inplace_activation_after_a_cut_does_not_touch_what_the_head_read() -> None:
    network = Net(inplace=True)
    model = attach(network, ["a"], example=images(), head=lambda shape: Flat(shape))
    x = images()
    plain = Net(inplace=False)
    plain.load_state_dict(network.state_dict())
    other = attach(plain, ["a"], example=images(), head=lambda shape: Flat(shape))
    other.heads.load_state_dict(model.heads.state_dict())
    for each in (model, other):
        sum(out.logits.square().sum() for out in each.train()(x)).backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


class Flat(nn.Module):
    """A head whose backward pass needs the value it read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[1], 5, 1)

    def forward(self, x: Tensor) -> ExitOutput:
        return ExitOutput(self.conv(x).square().mean((2, 3)))


class Corner(nn.Module):
    """A head without weights: five channels of one position."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5, 0, 0]


class InplaceSkip(Net):
    """Changes a value in place that it reads again later."""

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        y = self.a(F.relu(skip, inplace=True))
        return self.head((self.b(y) + skip).mean((2, 3)))


def test_value_changed_in_place_is_carried_on_as_changed() -> None:
    network = InplaceSkip().eval()
    x = images()
    model = attach(network, ["stem", "a"], example=x).eval()
    outputs = model(x)
    assert torch.equal(outputs[-1].logits, network(x))
    assert torch.equal(outputs[0].logits, model.heads[0]({"stem": network.stem(x)}).logits)


class ModeNet(Net):
    """Branches on self.training: dropout by function, and an auxiliary answer."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 5)

    def forward(self, x: Tensor):
        x = self.a(self.stem(x))
        x = F.dropout(x, 0.5, self.training)
        side = self.aux(x.mean((2, 3))) if self.training else None
        y = self.head(self.b(x).mean((2, 3)))
        return (y, side) if self.training else y


def test_mode_is_not_frozen_by_tracing() -> None:
    network = ModeNet()
    x = images()
    model = attach(network, ["a", "b"], example=x)
    model.eval()
    assert torch.equal(last(model, x), network(x))
    assert torch.equal(last(model, x), last(model, x))
    model.train()
    torch.manual_seed(3)
    expected = copy.deepcopy(network)(x)[0]
    torch.manual_seed(3)
    assert torch.equal(last(model, x), expected)
    assert not torch.equal(last(model, x), expected)
    network.eval()  # the network's own switch works too
    assert torch.equal(last(model, x), network(x))


class SizeNet(Net):
    """Reads the batch size before the cuts and uses it after them."""

    def forward(self, x: Tensor) -> Tensor:
        rows, shape = x.shape[0], x.shape
        y = self.b(self.a(self.stem(x)))
        y = F.interpolate(y, shape[-2:])
        return self.head(y.reshape(rows, 8, -1).mean(2))


def test_batch_size_in_the_state_follows_the_rows_that_are_left() -> None:
    network = SizeNet().eval()
    model = attach(network, ["a", "b"], example=images()).eval()
    x = images(6)
    state, _ = model.step(0, x)
    state = model.compact(state, torch.tensor([1, 4]))
    state, _ = model.step(1, state)
    _, out = model.step(2, state)
    torch.testing.assert_close(out.logits, network(x[[1, 4]]))


class Frozen(Net):
    """A shape with the batch size in the middle: it cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (8, x.shape[0] * 2)
        y = self.b(self.a(self.stem(x)))
        return self.head(y.mean((2, 3)).reshape(shape[1] // 2, shape[0]))


def test_number_that_depends_on_the_batch_is_refused() -> None:
    with pytest.raises(
        PlaceError, match=r"no exit can go after 'a'.*for a batch of 2 and .* for one of 3"
    ):
        attach(Frozen(), ["a"], example=images())


class SequenceFirst(nn.Module):
    """Turns to [L, N, D] and back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.mid = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.mid(x.transpose(0, 1)).transpose(0, 1)
        return self.out(x.mean(1))


def test_batch_dimension_that_is_not_first_is_refused() -> None:
    x = torch.randn(2, 5, 4)
    assert attach(SequenceFirst(), ["embed"], example=x).num_exits == 2
    with pytest.raises(
        PlaceError,
        match=r"'mid'.*batch as first dimension, got shapes \(5, 2, 8\).*valid places: embed",
    ):
        attach(SequenceFirst(), ["mid"], example=x)


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.b(self.a(self.stem(x)))).mean((2, 3)))


class Loose(Net):
    """Cannot be traced around its modules: control flow on values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 0:
            x = self.a(x)
        return self.head(self.b(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "at", "message"),
    [
        (
            Net(),
            ["aa"],
            r"no module 'aa'; did you mean 'a'\? valid places: stem, a.0, a.1, a, act, b",
        ),
        (Net(), ["a", "a"], r"'a' twice"),
        (Net(), ["a", "a.1"], r"after 'a.1': it is the same place as 'a'; valid places: stem"),
        (Net(), ["head"], r"the classifier has run.*valid places: stem, a.0, a.1, a, act, b"),
        (Net(), ["b", "a"], r"order in which they run: 'a' runs before 'b'"),
        (Net(), "layer", r"list of module names, got the string 'layer'"),
        (Twice(), ["b"], r"'b': it runs 2 times in evaluation; valid places: stem, a.0, a.1, a"),
        (Twice(), ["act"], r"'act': it does not run in evaluation"),
        (Loose(), ["a"], r"torch.fx cannot follow the code around \['a'\]"),
    ],
)
def test_wrong_place_is_refused_with_the_valid_ones(
    network: nn.Module, at: list[str], message: str
) -> None:
    with pytest.raises(PlaceError, match=message):
        attach(network, at, example=images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": torch.zeros(0, 3, 8, 8)}, "at least one row"),
        ({"example": images(), "head": "round"}, "head among auto, linear, conv, dense, pooler"),
        ({"example": images(), "head": "pooler"}, "pooler head does not fit"),
        (
            {"example": images(), "head": ["linear", "linear"]},
            "wanted 1 heads, one per early exit, got 2",
        ),
        ({"example": (images(), images(), images())}, r"at most 1 inputs, \['x'\], got 3"),
    ],
)
def test_wrong_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        attach(Net(), ["a"], **options)


def test_copy_of_a_model_is_independent_of_it() -> None:
    model = attach(Net(), ["a"], example=images()).eval()
    x = images()
    before = model(x)[-1].logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(x)[-1].logits, before)
    assert twin(x)[-1].logits.abs().max() == 0


def test_state_dict_round_trip_restores_network_and_heads() -> None:
    model = attach(Net(), ["a"], example=images(), gate=True).eval()
    other = attach(Net(), ["a"], example=images(), gate=True).eval()
    other.load_state_dict(model.state_dict())
    x = images()
    for ours, theirs in zip(model(x), other(x), strict=True):
        assert torch.equal(ours.logits, theirs.logits)
    assert model(x)[0].gate.shape == (4,) and model(x)[1].gate is None


def test_heads_follow_the_values_layout() -> None:
    class ChannelsLast(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(self.stem(x))
            x = self.act(x.permute(0, 2, 3, 1))
            return self.head(self.b(x.permute(0, 3, 1, 2)).mean((2, 3)))

    x = torch.randn(2, 3, 12, 12)
    model = attach(ChannelsLast(), ["a", "act"], example=x)
    first, second = model.heads[0], model.heads[1]
    assert isinstance(first, LinearHead) and first.layout == "channels_first"
    assert isinstance(second, LinearHead) and second.layout == "channels_last"
    value = torch.randn(2, 12, 12, 8)
    torch.testing.assert_close(second.features(value), first.features(value.permute(0, 3, 1, 2)))


def test_network_that_answers_with_a_map_gets_dense_heads() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 1))
    model = attach(network, ["1"], example=images())
    assert isinstance(model.heads[0], DenseHead)
    assert [tuple(out.logits.shape) for out in model(images())] == [(4, 4, 3, 3)] * 2


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(
        self, left: Tensor, right: Tensor, scale: float = 1.0, extra: Tensor | None = None
    ) -> Tensor:
        x = self.one(left)
        if extra is not None:
            x = x + extra
        return self.out((x + self.two(right)) * scale)


@pytest.mark.parametrize("kind", [dict, tuple])
def test_inputs_by_name_and_by_position(kind: type) -> None:
    network, left, right = Keyed(), torch.randn(3, 4), torch.randn(3, 3)
    inputs = {"right": right, "left": left} if kind is dict else (left, right)
    model = attach(network, ["one"], example=inputs)
    assert torch.equal(model(inputs)[-1].logits, network(left, right))


def test_two_modules_ends_at_one_place_share_one_name_each() -> None:
    model = attach(Net(), ["a.0", "a"], example=images())
    assert model.num_exits == 3
