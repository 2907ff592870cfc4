"""Dry runs: what the values of a network look like, and whether a cut network answers as before.

They leave no trace in the network's buffers and modes, and none in the global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from ..errors import OfframpError, PlaceError, ValidationError
from ..trees import State, map_tensors, num_rows, take, tensors
from .base import Parts
from .trace import bind, main_output, mode

ROWS = (2, 3)  # the two batch sizes of a dry run: what does not follow the batch shows


@contextmanager
def undone(network: nn.Module, training: bool) -> Iterator[None]:
    """Run a network in a mode and leave no trace in buffers, modes and global random state."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted({p.get_device() for p in network.parameters() if p.is_cuda})
    with mode(network, training), torch.no_grad(), torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer.copy_(before)


def example_rows(example: State, rows: int) -> State:
    """An example of so many rows, its own rows repeated.

    Raises:
        ValidationError: if the example holds no row.
    """
    num = num_rows(example)
    if num < 1:
        raise ValidationError("wanted an example with at least one row, got an empty batch")
    return take(example, torch.arange(rows, device=tensors(example)[0].device) % num)


def check_runs(network: nn.Module, example: State, training: bool = False) -> None:
    """Check that a network runs on an example in a mode.

    Raises:
        ValidationError: if it does not; the message has the shapes and the network's own error.
    """
    inputs = bind(network, map_tensors(Tensor.clone, example_rows(example, ROWS[0])))
    try:
        with undone(network, training):
            network(**inputs)
    except Exception as error:
        shapes = [tuple(tensor.shape) for tensor in tensors(inputs)]
        why = str(error).partition("\n")[0]
        name, when = type(network).__name__, " in training mode" if training else ""
        raise ValidationError(f"{name} does not run on inputs {shapes}{when}: {why}") from error


# ------------------------------------------------------------------- looking at values
class Facts(NamedTuple):
    """What a dry run shows of a value at two batch sizes."""

    small: Any
    large: Any


def follows(facts: Facts) -> str:
    """Why a value cannot be carried across a cut, empty where it can.

    A tensor must have the batch as its first dimension; a number or shape must not depend on the
    batch, unless it is the batch size itself or begins with it.
    """
    small, large = facts
    before, after = tensors(small), tensors(large)
    if before:
        for a, b in zip(before, after, strict=True):
            if (first_dim(a), first_dim(b)) != ROWS:
                shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
                sizes = f"{ROWS[0]} and {ROWS[1]}"
                wanted = "wanted the batch as first dimension"
                return f"{wanted}, got shapes {shapes} for batches of {sizes}"
        return ""
    if small == large or is_sized(facts):
        return ""
    return f"it is {small!r} for a batch of {ROWS[0]} and {large!r} for one of {ROWS[1]}"


def is_sized(facts: Facts) -> bool:
    """Whether a value is the batch size, or a shape that begins with it."""
    small, large = facts
    if isinstance(small, int) and isinstance(large, int):
        return (small, large) == ROWS
    if isinstance(small, tuple) and isinstance(large, tuple) and small and large:
        return (small[0], large[0]) == ROWS and small[1:] == large[1:]
    return False


def first_dim(tensor: Tensor) -> int:
    """Size of the first dimension, -1 where there is none."""
    return tensor.shape[0] if tensor.dim() else -1


class Runner(fx.Interpreter):
    """Runs a graph on the network itself, as the code that is generated from it would."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Raises:
            PlaceError: if it fails, where the network itself did not: tracing lost something.
        """
        try:
            return super().run(*args, **kwargs)
        except OfframpError:
            raise
        except Exception as error:
            why = str(error).partition("\n")[0]
            raise PlaceError(
                f"torch.fx cannot follow {type(self.module).__name__}: run from its trace, it "
                f"fails with {type(error).__name__}: {why}"
            ) from error

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """The arguments of a node; lists are the callee's own to change, as in plain code."""
        return _plain(super().fetch_args_kwargs_from_env(n))


def _plain(value: Any) -> Any:
    """A value with ordinary lists and dicts in place of the ones that torch.fx locks."""
    if isinstance(value, immutable_list):
        return [_plain(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if type(value) is tuple else value


class Observer(Runner):
    """Runs a graph and keeps what each node gave."""

    def __init__(self, network: nn.Module, graph: fx.Graph, look: Callable[[Any], Any]) -> None:
        super().__init__(network, garbage_collect_values=True, graph=graph)
        self.look = look
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep what ``look`` makes of its value."""
        value = super().run_node(n)
        self.seen[n] = self.look(value)
        return value


def shape_of(value: Any) -> Any:
    """A value without its data: tensors on the meta device, everything else as it is."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, tuple | list | dict):
        return map_tensors(shape_of, value)
    return value


class Watch(Observer):
    """An observer that also notes where values that cross a cut are changed in place."""

    def __init__(self, network: nn.Module, graph: fx.Graph, crossing: set[fx.Node]) -> None:
        super().__init__(network, graph, shape_of)
        self.crossing = crossing
        self.held: dict[fx.Node, list[Tensor]] = {}
        self.changed: dict[fx.Node, set[fx.Node]] = {}  # by which node, which values

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and compare version counters, which a tensor shares with its views."""
        before = {node: [t._version for t in held] for node, held in self.held.items()}
        value = super().run_node(n)
        self.changed[n] = {
            node
            for node, versions in before.items()
            if versions != [t._version for t in self.held[node]]
        }
        if n in self.crossing:
            self.held[n] = tensors(value)
        return value


def arguments(network: nn.Module, graph: fx.Graph, example: State) -> list[Any]:
    """Values of a graph's placeholders, in order, that the graph may change."""
    bound = bind(network, map_tensors(torch.Tensor.clone, example))
    return [bound[str(node.target)] for node in graph.nodes if node.op == "placeholder"]


# ------------------------------------------------------------------------- checking a cut
def verify(network: nn.Module, parts: Parts, example: State, training: bool) -> None:
    """Run the cut network once against the uncut one, with the same random numbers."""
    inputs = example_rows(example, ROWS[1])

    def uncut(given: State) -> Any:
        return main_output(network(**bind(network, given)))

    def cut_up(given: State) -> Any:
        for segment in parts.segments:
            given = segment(given)
        return given["logits"]

    answers = []
    for run in (uncut, cut_up):
        with undone(network, training):
            torch.manual_seed(0)
            answers.append(run(map_tensors(Tensor.clone, inputs)))
    if not torch.allclose(*answers, rtol=1e-3, atol=1e-4, equal_nan=True):
        now = "training" if training else "eval"
        raise PlaceError(
            f"cut there, the network does not answer as before in {now} mode: it keeps values "
            "outside its forward, or changes one in place that has a second name"
        )


def check_heads(network: nn.Module, parts: Parts, example: State) -> None:
    """Run every head once: each must answer in the shape of the network's answer."""
    state = map_tensors(Tensor.clone, example_rows(example, ROWS[1]))
    came = []
    with undone(network, False):
        for segment, head in zip(parts.segments, parts.heads, strict=True):
            state = segment(state)
            with mode(head, False):
                out = head(state)
            came.append(tuple(out.logits.shape))
    for k, shape in enumerate(came):
        if shape[:2] != came[-1][:2] or len(shape) != len(came[-1]):
            raise ValidationError(
                f"wanted logits of {len(came[-1])} dimensions that begin with "
                f"{came[-1][:2]} from the head of exit {k}, got {shape}"
            )
