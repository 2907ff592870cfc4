"""Seeing through a network with torch.fx, just as far as the places of its exits need.

Only the containers around those places are traced; every other module stays one opaque call and
runs its own code, so dropout, stochastic depth, hooks and control flow inside it behave as ever.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..errors import PlaceError, ValidationError
from ..trees import State, map_tensors, num_rows, take, tensors

ROWS = (2, 3)  # the two batch sizes of a dry run: what does not follow the batch shows


class Traced(NamedTuple):
    """The graph of a network's forward, and the nodes at which its modules end."""

    graph: fx.Graph
    ends: dict[
        str, list[fx.Node | None]
    ]  # per module one node a call; None where it is no single value


class Tracer(fx.Tracer):
    """Traces forward for the named inputs only, so that other arguments keep their defaults."""

    def __init__(self, inputs: Sequence[str], descend: Callable[[str], bool] | None) -> None:
        super().__init__()
        self.inputs, self.descend = list(inputs), descend
        self.ends: dict[str, list[fx.Node | None]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one opaque call."""
        if self.descend is not None:
            return not self.descend(module_qualified_name)
        return super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the inputs; what is not given keeps the default of forward."""
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self.inputs]

        def call(root: nn.Module, *values: Any) -> Any:
            return root_fn(root, **dict(zip(self.inputs, values, strict=True)))

        return call, [self.root, *proxies]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace or record a call, and note where it ends."""
        name = self.path_of_module(m)
        result = (
            super().call_module(m, forward, args, kwargs)
            if self.descend
            else self._try(m, forward, args, kwargs)
        )
        self.ends.setdefault(name, []).append(result.node if isinstance(result, fx.Proxy) else None)
        return result

    def _try(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """See through a module where that is possible; where not, take back what was traced."""
        mark, stack = next(iter(reversed(self.graph.nodes))), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever the module's code does with a proxy
            for node in reversed(list(self.graph.nodes)):
                if node is mark:
                    break
                self.graph.erase_node(node)
            self.module_stack = stack
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def trace(network: nn.Module, inputs: Sequence[str], at: Sequence[str] | None = None) -> Traced:
    """Trace a network in its present mode: the containers of the places ``at``, or all it can.

    Raises:
        PlaceError: if torch.fx cannot follow the code around these places.
    """
    around = {name[:i] for name in at or () for i in _dots(name)}
    tracer = Tracer(inputs, None if at is None else around.__contains__)
    try:
        graph = tracer.trace(network)
    except Exception as error:
        what = f"the code around {list(at)}" if at else f"{type(network).__name__}.forward"
        raise PlaceError(f"torch.fx cannot follow {what}: {error}") from error
    output = next(iter(reversed(graph.nodes)))
    output.args = (main_output(output.args[0]),)
    return Traced(graph, tracer.ends)


def main_output(value: Any) -> Any:
    """The logits among what a network returns: ``logits`` or ``out`` by name, or the first."""
    if isinstance(value, Tensor | fx.Node):
        return value
    if hasattr(value, "logits"):
        return value.logits
    if isinstance(value, dict):
        return main_output(value.get("logits", value.get("out", next(iter(value.values()), None))))
    if isinstance(value, tuple | list):
        return main_output(value[0]) if value else None
    return value


def _dots(name: str) -> list[int]:
    """Where the names of the modules around a name end."""
    return [i for i, letter in enumerate(name) if letter == "."]


@contextmanager
def mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Put a network into a mode and every module back into its own afterwards."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, flag in before:
            module.training = flag


# -------------------------------------------------------------------------- inputs
def bind(network: nn.Module, inputs: State) -> dict[str, Any]:
    """The arguments of forward that inputs stand for: a tuple by position, a dict by name.

    Raises:
        ValidationError: if forward takes no such argument.
    """
    names = [
        p.name
        for p in inspect.signature(network.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if not names:
        raise ValidationError(
            f"wanted a network whose forward names its inputs, got {type(network).__name__}"
        )
    if isinstance(inputs, dict) and set(inputs) <= set(names):
        return dict(inputs)
    if isinstance(inputs, tuple | list):
        if len(inputs) > len(names):
            raise ValidationError(f"wanted at most {len(names)} inputs, {names}, got {len(inputs)}")
        return dict(zip(names, inputs, strict=False))
    return {names[0]: inputs}


def example_rows(example: State, rows: int) -> State:
    """An example of so many rows, its own rows repeated.

    Raises:
        ValidationError: if the example holds no row.
    """
    num = num_rows(example)
    if num < 1:
        raise ValidationError("wanted an example with at least one row, got an empty batch")
    return take(example, torch.arange(rows, device=tensors(example)[0].device) % num)


def check_runs(network: nn.Module, example: State) -> None:
    """Check that a network runs on an example.

    Raises:
        ValidationError: if it does not; the message has the shapes and the network's own error.
    """
    inputs = bind(network, map_tensors(Tensor.clone, example_rows(example, ROWS[0])))
    try:
        with mode(network, False), torch.no_grad():
            network(**inputs)
    except Exception as error:
        shapes = [tuple(tensor.shape) for tensor in tensors(inputs)]
        why = str(error).partition("\n")[0]
        name = type(network).__name__
        raise ValidationError(f"{name} does not run on inputs {shapes}: {why}") from error


# -------------------------------------------------------------------------- parts
class Part(NamedTuple):
    """The nodes between two places, what they read and what must be handed on."""

    nodes: list[fx.Node]
    reads: list[fx.Node]
    live: list[fx.Node]  # values that later parts read


def split(graph: fx.Graph, ends: Sequence[fx.Node]) -> list[Part]:
    """Split a graph after the given nodes; attributes of the network are read anew in each part."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    cuts = [order[end] for end in ends]
    where = {node: bisect_left(cuts, i) for node, i in order.items()}
    last_use = {node: max((where[user] for user in node.users), default=-1) for node in order}
    values = [node for node in order if node.op not in ("get_attr", "output")]
    parts = []
    for k in range(len(ends) + 1):
        nodes = [
            node for node in order if where[node] == k and node.op not in ("get_attr", "output")
        ]
        used = {arg for node in order if where[node] == k for arg in node.all_input_nodes}
        reads = [
            n for n in values if (where[n] < k and n in used) or (k == 0 and n.op == "placeholder")
        ]
        live = [n for n in values if where[n] <= k < last_use[n]]
        parts.append(Part(nodes, reads, live))
    return parts


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


class Observer(fx.Interpreter):
    """Runs a graph on the network itself and keeps what each node gave."""

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
