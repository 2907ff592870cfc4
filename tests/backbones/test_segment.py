"""Segments of cut networks: what they take, carry and change, and how they are frozen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from offramp import measure
from offramp.attach import attach
from offramp.errors import ValidationError
from offramp.model import MultiExitModel


class Net(nn.Module):
    """Three convolutions and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(x))).mean((2, 3)))


def images(rows: int = 4, side: int = 8) -> Tensor:
    return torch.randn(rows, 3, side, side)


def last(model: MultiExitModel, x: object) -> Tensor:
    """The last exit's answer, early heads not run."""
    state = x
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


# --------------------------------------------------------------------------- inputs
class Scaled(Net):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x) * scale


def test_inputs_that_are_not_those_of_the_example_are_refused() -> None:
    x = images()
    model = attach(Scaled(), ["a"], example=x)
    with pytest.raises(ValidationError, match=r"wanted inputs \['x'\].*got \['scale', 'x'\]"):
        model({"x": x, "scale": 3.0})
    both = attach(Scaled(), ["a"], example={"x": x, "scale": 1.0}).eval()
    assert torch.equal(both((x, 3.0))[-1].logits, both.network(x, 3.0))  # type: ignore[misc]
    with pytest.raises(ValidationError, match=r"wanted inputs \['scale', 'x'\].*got \['x'\]"):
        both(x)


# --------------------------------------------------------------------------- modes
class Dropping(Net):
    """Drops by a function on both sides of the cut, with a batch norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.dropout(self.norm(self.a(x)), 0.5, self.training))
        return self.fc(self.c(F.dropout(x, 0.5, self.training)).mean((2, 3)))


def is_random(segment: nn.Module, state: object) -> bool:
    first, second = (next(iter(segment(state).values())) for _ in range(2))
    return not torch.equal(first, second)


def test_segment_in_eval_mode_is_frozen_while_the_rest_trains() -> None:
    model, x = attach(Dropping(), ["b"], example=images()).train(), images()
    state = model.segments[0](x)
    assert is_random(model.segments[0], x) and is_random(model.segments[1], state)
    model.segments[0].eval()
    mean = model.network.norm.running_mean.clone()  # type: ignore[union-attr]
    assert not is_random(model.segments[0], x) and is_random(model.segments[1], state)
    assert torch.equal(model.network.norm.running_mean, mean)  # type: ignore[union-attr]
    measure(model, x, latency=False)
    assert not is_random(model.segments[0], x)  # a measurement leaves it frozen
    model.train()
    assert is_random(model.segments[0], x)


def test_networks_own_switch_reaches_the_segments_both_ways() -> None:
    model, x = attach(Dropping(), ["b"], example=images()).eval(), images()
    assert not is_random(model.segments[0], x)
    model.network.train()  # type: ignore[union-attr]
    assert is_random(model.segments[0], x)
    model.network.eval()  # type: ignore[union-attr]
    assert not is_random(model.segments[0], x)


@pytest.mark.parametrize("training", [False, True])
def test_model_and_heads_start_in_the_mode_of_the_network(training: bool) -> None:
    model = attach(Net().train(training), ["a"], example=images())
    assert model.training is training and model.heads[0].training is training


# --------------------------------------------------------------------------- carrying
class SameName(Net):
    """A module of the name that torch.fx gives to a carried value, and one of an input's name."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.x = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.a(x))
        y = self.x(self.relu(self.b(skip)))
        return self.fc((self.a(y + x) + self.c(skip)).mean((2, 3)))


def test_module_with_the_name_of_a_carried_value_is_told_apart() -> None:
    network, x = SameName().eval(), images()
    model = attach(network, ["relu", "x"], example=x).eval()
    assert torch.equal(last(model, x), network(x))
    skip = F.relu(network.a(x))
    assert torch.equal(model.segments[0](x)["relu"], network.relu(network.b(skip)))


class Sized(Net):
    """Takes sizes before the cut and uses them after it."""

    def forward(self, x: Tensor) -> Tensor:
        shape, rows, side = x.size(), x.size(0), x.size(3)
        x = F.interpolate(self.b(F.max_pool2d(self.a(x), 2)), shape[2:])
        return self.fc(self.c(x).reshape(rows, 8, -1).mean(2)) + side


def test_shape_that_is_carried_follows_the_rows_and_the_size_of_the_image() -> None:
    network = Sized().eval()
    model = attach(network, ["a", "b"], example=images()).eval()
    x = images(5, side=12)
    assert torch.equal(last(model, x), network(x))
    state, _ = model.step(0, x)
    assert [value for value in state.values() if not isinstance(value, Tensor)] == [(3, 12, 12), 12]
    state, _ = model.step(1, model.compact(state, torch.tensor([4, 2, 1])))
    _, out = model.step(2, model.compact(state, torch.tensor([0, 1])))
    torch.testing.assert_close(out.logits, network(x)[[4, 2]])


class ThroughView(Net):
    """Changes what the head reads through a view of it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.a(x).flatten(2)
        flat.relu_()
        return self.fc(flat.mean(2))


def test_change_in_place_through_a_view_does_not_touch_what_the_head_read() -> None:
    network, x = ThroughView(), images()
    model = attach(network, ["a"], example=x, head=lambda shape: Squared())
    state = model.segments[0](x)
    before = state["a"].detach().clone()
    logits = model.heads[0](state).logits
    (logits.sum() + model.segments[1](state)["logits"].sum()).backward()
    assert torch.equal(state["a"], before)


class Squared(nn.Module):
    """A head whose backward pass needs the value it read."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5].square().mean((2, 3))


class Lists(Net):
    """Carries a list, into which a module puts another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.put = Put()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        both = self.put([x, 2 * x])
        x = self.b(both[0])
        both = self.put(both)
        return self.fc(self.c(x + both[0] + both[1]).mean((2, 3)))


class Put(nn.Module):
    def forward(self, both: list[Tensor]) -> list[Tensor]:
        both[0] = both[0] + 1
        return both


def test_module_that_changes_a_list_leaves_the_state_alone() -> None:
    network, x = Lists().eval(), images()
    model = attach(network, ["a", "b"], example=x).eval()
    assert torch.equal(last(model, x), network(x))
    state = model.segments[1](model.segments[0](x))
    first, second = (model.segments[2](state)["logits"] for _ in range(2))
    assert torch.equal(first, second)


# --------------------------------------------------------------------------- tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # on Python 3.13.0
def test_segments_compile_whole_and_export_with_any_batch_size() -> None:
    network = Sized().eval()
    model = attach(network, ["a", "b"], example=images()).eval()
    state = model.segments[0](images(3))
    compiled = torch.compile(model.segments[1], fullgraph=True, backend="eager")
    assert torch.equal(compiled(state)["b"], model.segments[1](state)["b"])
    rows = torch.export.Dim("rows", min=1)
    shapes = tree_map(lambda leaf: {0: rows} if isinstance(leaf, Tensor) else None, state)
    program = torch.export.export(model.segments[1], (state,), dynamic_shapes=(shapes,))
    other = model.segments[0](images(5))
    assert torch.equal(program.module()(other)["b"], model.segments[1](other)["b"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moving_the_model_moves_segments_and_heads(dtype: torch.dtype) -> None:
    network = Net().eval()
    model = attach(network, ["a", "b"], example=images()).eval().to(dtype)
    x = images().to(dtype)
    assert {out.logits.dtype for out in model(x)} == {dtype}
    assert torch.equal(last(model, x), network(x))


def test_attaching_in_inference_mode_gives_heads_that_train() -> None:
    network = Net()
    with torch.inference_mode():
        model = attach(network, ["a"], example=images())
    sum(out.logits.square().sum() for out in model(images())).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.parameters())
