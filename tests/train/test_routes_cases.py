"""Routed training of all kinds of networks, and with all options, against the literal windows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from offramp import create_model, create_objective
from offramp.errors import UnsupportedError
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.train import backward_step, fit
from offramp.train.backward import forward_backward
from offramp.train.parts import only_trained
from offramp.types import Batch, ExitOutput

from .chain import (
    CLASSES,
    COSTS,
    EXITS,
    SCHEMES,
    WIDTH,
    batch_of,
    chain,
    every_scheme,
    stepped,
)
from .windows import Gradients, assert_equal, by_terms, taken


# --------------------------------------------------------------------- one forward pass
@every_scheme
def test_step_runs_every_module_once_as_the_plain_model_does(scheme):
    model, plain = chain(), chain()
    model.heads[0] = nn.Sequential(nn.BatchNorm2d(WIDTH), model.heads[0])
    plain.heads[0] = nn.Sequential(nn.BatchNorm2d(WIDTH), plain.heads[0])
    batch = batch_of(dtype=torch.float32)
    wanted = plain(batch.inputs)
    passed = forward_backward(model, create_objective(**SCHEMES[scheme]), batch, COSTS)
    for out, right in zip(passed.outputs, wanted, strict=True):
        assert torch.equal(out.logits, right.logits)
    counts = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(count) for count in counts] == [1] * (EXITS + 1)
    for (name, came), right in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(came, right), name


@every_scheme
def test_step_adds_to_the_gradients_that_are_there(scheme):
    model, objective, batch = chain().double(), create_objective(**SCHEMES[scheme]), batch_of()
    once = stepped(model, objective, batch)
    for _ in range(2):
        backward_step(model, objective, batch, COSTS)
    assert_equal(taken(model), {name: 2 * grad for name, grad in once.items()}, 1e-12)


# --------------------------------------------------------------------- precision
@pytest.mark.parametrize("scheme", ["layer_wise", "overlap", "final", "distilled"])
def test_gradients_under_autocast_are_as_close_to_exact_ones_as_those_of_the_windows(scheme):
    options: dict[str, Any] = {"num_classes": CLASSES, "base": 1, "step": 1, "channels": 8}
    model = create_model("msdnet", num_exits=EXITS, **options).train()
    generator, target = torch.Generator().manual_seed(0), torch.arange(8) % CLASSES
    images = torch.randn(8, 3, 24, 24, generator=generator)
    batch, objective = Batch(images, target, target, 0.0), create_objective(**SCHEMES[scheme])
    exact = copy.deepcopy(model).double()
    backward_step(exact, objective, batch._replace(inputs=images.double()), COSTS)
    wanted = taken(exact)
    with torch.autocast("cpu", torch.bfloat16):
        backward_step(model, objective, batch, COSTS)
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    ours = apart(taken(model), wanted)
    theirs = apart(by_terms(model, objective, batch, COSTS, bf16=True), wanted)
    assert 1e-3 < ours < 1.1 * theirs, (ours, theirs)
    assert ours < 0.3  # batch norm makes bf16 coarse: the windows are as far apart


def apart(came: Gradients, wanted: Gradients) -> float:
    """The norm of the difference of all gradients, over the norm of the wanted ones."""
    differences = [(came[name].double() - grad).norm() for name, grad in wanted.items()]
    return float(torch.stack(differences).norm() / torch.stack(norms(wanted)).norm())


def norms(gradients: Gradients) -> list[Tensor]:
    return [grad.norm() for grad in gradients.values()]


# --------------------------------------------------------------------- maps
@pytest.mark.parametrize("scheme", ["layer_wise", "final", "distilled", "equilibrium"])
def test_gradients_of_maps_at_the_heads_resolutions_are_those_of_the_windows(scheme):
    model = create_model("small_fcn", num_classes=CLASSES, num_exits=EXITS, width=4, blocks=1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 20, 28, generator=generator, dtype=torch.float64)
    target = torch.randint(-1, CLASSES, (2, 20, 28), generator=generator)  # -1 does not count
    model, batch = model.double().train(), Batch(images, target, torch.arange(2), 0.0)
    objective = create_objective(**SCHEMES[scheme])
    wanted = by_terms(model, objective, batch, COSTS, gains=objective.gains(EXITS, 0.0))
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)


# --------------------------------------------------------------------- options of fit
PLAIN = {"schedule": "constant", "weight_decay": 0.0, "momentum": 0.0, "progress": False}


@pytest.mark.parametrize("scheme", ["final", "distilled", "equilibrium"])
def test_fit_that_accumulates_ends_with_the_weights_of_joint_batches(scheme):
    batch, ends = batch_of(24), []
    for options in ({"batch_size": 12}, {"batch_size": 4, "accumulate": 3}):
        model, data = chain(norm=False).double(), (batch.inputs, batch.target)
        objective = create_objective(**SCHEMES[scheme])
        fit(model, data, objective, epochs=2, lr=0.5, costs=COSTS, seed=3, **options, **PLAIN)
        ends.append(model.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)
    start = chain(norm=False).double().state_dict()
    assert not torch.allclose(ends[0]["segments.0.0.weight"], start["segments.0.0.weight"])


@pytest.mark.parametrize("clip", [None, 0.05])
def test_fit_takes_the_step_of_the_windows_clipped_to_a_norm(clip):
    model, batch = chain().double(), batch_of()
    objective = create_objective(**SCHEMES["final"])
    grads = by_terms(copy.deepcopy(model), objective, batch, COSTS)
    norm = float(torch.stack(norms(grads)).norm())
    factor = 1.0 if clip is None else clip / norm
    assert factor == 1.0 or factor < 0.5
    wanted = {n: p.detach() - 0.3 * factor * grads[n] for n, p in model.named_parameters()}
    data = (batch.inputs, batch.target)
    fit(model, data, objective, epochs=1, batch_size=8, lr=0.3, clip=clip, costs=COSTS, **PLAIN)
    came = {name: parameter.detach() for name, parameter in model.named_parameters()}
    torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-9)


# --------------------------------------------------------------------- frozen parts
@every_scheme
@pytest.mark.parametrize("train", ["heads", 0, 2, 4, (1, "heads"), (0, 3)], ids=str)
def test_gradients_of_the_parts_that_learn_are_those_of_the_windows(scheme, train):
    model, batch, objective = chain().double(), batch_of(), create_objective(**SCHEMES[scheme])
    with only_trained(model, list(train) if isinstance(train, tuple) else train):
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        gains = objective.gains(EXITS, 0.0)
        wanted = by_terms(model, objective, batch, COSTS, gains=gains)
        came = stepped(model, objective, batch)
        assert came.keys() <= learning
        assert_equal(came, wanted, 1e-9)


@pytest.mark.parametrize("train", ["heads", 2])
def test_fit_of_a_part_with_routes_moves_nothing_else(train):
    model, batch = chain(), batch_of(dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    objective = create_objective(**SCHEMES["final"])
    fit(model, (batch.inputs, batch.target), objective, epochs=2, train=train, progress=False)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    starts = {2: ("segments.2.",), "heads": tuple(f"heads.{k}." for k in range(EXITS - 1))}[train]
    assert moved == {name for name in before if name.startswith(starts)}


@every_scheme
@pytest.mark.parametrize("frozen", ["segments.0.", "segments.3.0.", "heads.2.", "segments.", ""])
def test_gradients_beside_frozen_parameters_are_those_of_the_windows(scheme, frozen):
    model, batch, objective = chain().double(), batch_of(), create_objective(**SCHEMES[scheme])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) or name == "heads.1.classifier.bias")
    wanted = by_terms(model, objective, batch, COSTS, gains=objective.gains(EXITS, 0.0))
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)


# --------------------------------------------------------------------- states
class Mixed(nn.Module):
    """On a state of many kinds of leaves; some are handed on as they are, some change."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.mix = k, nn.Linear(WIDTH, WIDTH)
        self.embed = nn.Embedding(4, WIDTH)

    def forward(self, state: Any) -> dict[str, Any]:
        if isinstance(state, Tensor):
            ids = torch.arange(len(state)) % 4
            first = torch.tanh(state.mean((2, 3)) @ torch.ones(2, WIDTH).to(state))
            state = {
                "x": [first, first],  # one tensor in two places
                "kept": torch.tanh(self.mix(first)),  # read by the last segment only
                "ids": ids,
                "there": ids > 0,
                "fixed": torch.linspace(0, 1, WIDTH).to(first).expand(len(ids), -1),
                "note": "text",
                "size": torch.Size([2, 3]),
                "none": None,
            }
        x, other = state["x"]
        x = self.mix(x) + self.embed(state["ids"]) * state["there"][:, None] + state["fixed"]
        if self.k == EXITS - 1:
            x = x + state["kept"] ** 2
        if self.k % 2:
            return state | {"x": [torch.tanh(x), other], "ids": state["ids"].flip(0)}
        return state | {"x": (torch.tanh(x) + other, torch.sin(x))}


class Reads(nn.Module):
    """A head that reads what is computed and what is handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, state: dict[str, Any]) -> ExitOutput:
        return ExitOutput(self.classify(state["x"][0] * state["x"][1] + state["kept"]))


class Tied(nn.Module):
    """A segment around a module that another one has too."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.Linear(WIDTH, WIDTH)

    def forward(self, state: Tensor) -> Tensor:
        return torch.tanh(self.own(state) + self.shared(self.shared(state)))


class Remade(nn.Module):
    """A segment that keeps nothing for its backward pass and runs again there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, state: Tensor) -> Tensor:
        return checkpoint(self.inner, state, use_reentrant=False)


class Through(nn.Module):
    """A segment without weights that gives back what it gets."""

    def forward(self, state: Tensor) -> Tensor:
        return state


def mixed() -> MultiExitModel:
    return MultiExitModel([Mixed(k) for k in range(EXITS)], [Reads() for _ in range(EXITS)])


def tied() -> MultiExitModel:
    """Segments 1 and 3 share a module, which is also the second one of a head."""
    shared, other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    segments: list[nn.Module] = [Tied(m) for m in (other, shared, other, shared, nn.Tanh())]
    segments[0] = nn.Sequential(nn.Flatten(), nn.Linear(50, WIDTH), segments[0])
    heads: list[nn.Module] = [LinearHead(WIDTH, CLASSES) for _ in range(EXITS)]
    heads[2] = nn.Sequential(shared, heads[2])
    return MultiExitModel(segments, heads)


def remade() -> MultiExitModel:
    start = nn.Sequential(nn.Flatten(), nn.Linear(50, WIDTH))
    segments = [start, *(Remade() for _ in range(EXITS - 1))]
    return MultiExitModel(segments, [LinearHead(WIDTH, CLASSES) for _ in range(EXITS)])


def through() -> MultiExitModel:
    """Segments 1 and 2 hand on the very same tensor, the last one has no weights."""
    segments = [nn.Flatten(), Through(), Through(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    segments[0] = nn.Sequential(nn.Flatten(), nn.Linear(50, WIDTH), nn.Tanh())
    return MultiExitModel(segments, [LinearHead(WIDTH, CLASSES) for _ in range(EXITS)])


@every_scheme
@pytest.mark.parametrize("make", [mixed, tied, remade, through])
def test_gradients_with_states_of_all_kinds_are_those_of_the_windows(make, scheme):
    model, batch, objective = make().double(), batch_of(), create_objective(**SCHEMES[scheme])
    wanted = by_terms(model, objective, batch, COSTS, gains=objective.gains(EXITS, 0.0))
    assert len(wanted) > EXITS
    assert_equal(stepped(model, objective, batch), wanted, 1e-9)


@pytest.mark.parametrize("scheme", ["overlap", "final"])
def test_gradients_of_shared_weights_under_autocast_are_close_to_exact_ones(scheme):
    model, objective = tied(), create_objective(**SCHEMES[scheme])
    batch = batch_of(dtype=torch.float32)
    wanted = by_terms(model, objective, batch, COSTS)
    with torch.autocast("cpu", torch.bfloat16):
        came = stepped(model, objective, batch)
    assert apart(came, {name: grad.double() for name, grad in wanted.items()}) < 0.02


class First(nn.Module):
    """Changes what it gets, in place, before anything else."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.after = LinearHead(WIDTH, CLASSES) if place == "head" else nn.Tanh()

    def forward(self, state: Tensor) -> Any:
        return self.after(state.mul_(2))


@pytest.mark.parametrize("place", ["segment", "head"])
@pytest.mark.parametrize("scheme", ["layer_wise", "final", "equilibrium"])
def test_state_changed_in_place_is_refused_where_terms_are_routed(place, scheme):
    model, batch = chain(), batch_of(dtype=torch.float32)
    for k, segment in enumerate(model.segments):  # addition does not keep its output, tanh does
        model.segments[k] = nn.Sequential(*list(segment.children())[:2])
    if place == "head":
        model.heads[1] = First(place)
    else:
        model.segments[2] = nn.Sequential(First(place), model.segments[2])
    with pytest.raises(UnsupportedError, match="segment 1 makes is changed in place"):
        backward_step(model, create_objective(**SCHEMES[scheme]), batch, COSTS)
    assert not taken(model)
    backward_step(model, create_objective("joint"), batch, COSTS)
    assert taken(model)


@pytest.mark.parametrize("scheme", ["joint", "overlap"])
def test_state_changed_in_place_is_refused_where_segments_share_weights(scheme):
    model, batch = tied(), batch_of(dtype=torch.float32)
    model.segments[2] = nn.Sequential(First("segment"), model.segments[2])
    with pytest.raises(UnsupportedError, match=r"in place by .* that share weights"):
        backward_step(model, create_objective(**SCHEMES[scheme]), batch, COSTS)
    assert not taken(model)
