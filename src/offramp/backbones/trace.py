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
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import PlaceError, ValidationError
from ..modes import keep_modes
from ..trees import State


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
        return bool(_hooks(m)) or super().is_leaf_module(m, module_qualified_name)

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
        try:
            name = self.path_of_module(m)
        except NameError:  # made on the way, as a slice of a Sequential is: see its modules alone
            return forward(*args, **kwargs)
        result = (
            super().call_module(m, forward, args, kwargs)
            if self.descend
            else self._try(m, forward, args, kwargs)
        )
        if self.is_leaf_module(m, name):
            _hand_to_recorders(m, args, result)
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
        PlaceError: if torch.fx cannot follow the code around these places, or something there
            would be lost or frozen: a hook, a random number.
    """
    around = {name[:i] for name in at or () for i in _dots(name)}
    tracer = Tracer(inputs, None if at is None else around.__contains__)
    for name in ("", *sorted(around)):
        if _hooks(network.get_submodule(name)):
            which = repr(name) if name else f"the {type(network).__name__} itself"
            raise PlaceError(
                f"{which} has forward or backward hooks, and segments run what is in it piece by "
                "piece, without them: remove them, or take places outside of it"
            )
    try:
        with _NoRandomNumbers():
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


class _NoRandomNumbers(TorchDispatchMode):
    """Refuses to draw random numbers: while tracing, they would become constants."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise PlaceError(
                f"{func} draws random numbers there, which would be the same at every call; "
                "draw them in a module of its own"
            )
        return func(*args, **(kwargs or {}))


def _hooks(module: nn.Module) -> list[Any]:
    """Hooks that run when a module is called."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return [hook for kind in kinds for hook in getattr(module, kind).values()]


def _hand_to_recorders(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
    """Let transformers see the value of a module that is not run while tracing.

    Its networks gather hidden states by hooks of their own, for code that reads them further on.
    """
    for hook in module._forward_hooks.values():
        if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
            hook(module, args, result)


def _dots(name: str) -> list[int]:
    """Where the names of the modules around a name end."""
    return [i for i, letter in enumerate(name) if letter == "."]


@contextmanager
def mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Put a network into a mode and every module back into its own afterwards."""
    with keep_modes(network):
        network.train(training)
        yield


# -------------------------------------------------------------------------- inputs
def input_names(network: nn.Module) -> list[str]:
    """Names of the arguments that forward takes.

    Raises:
        ValidationError: if it names none.
    """
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except ValueError:  # a scripted network has no signature
        parameters = ()
    names = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if not names:
        raise ValidationError(
            f"wanted a network whose forward names its inputs, got {type(network).__name__}; "
            "of a compiled or wrapped network, give the one inside"
        )
    return names


def bind(network: nn.Module, inputs: State) -> dict[str, Any]:
    """The arguments of forward that inputs stand for: a tuple by position, a dict by name.

    Raises:
        ValidationError: if forward takes no such argument.
    """
    return by_name(input_names(network), inputs)


def by_name(names: list[str], inputs: State) -> dict[str, Any]:
    """Inputs by these names of arguments: a tuple by position, a dict by name.

    Raises:
        ValidationError: if there are more inputs than names.
    """
    if isinstance(inputs, dict) and set(inputs) <= set(names):
        return dict(inputs)
    if isinstance(inputs, tuple | list):
        if len(inputs) > len(names):
            raise ValidationError(f"wanted at most {len(names)} inputs, {names}, got {len(inputs)}")
        return dict(zip(names, inputs, strict=False))
    return {names[0]: inputs}


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
