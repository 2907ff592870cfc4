"""Cutting any network that torch.fx can follow into segments, where exits go.

The segments are views: they run the network's own modules and read its own attributes at every
call, so training them trains the network, and moving or saving the network works as ever. What a
later segment still reads (long skips) is carried in the state, a dict from value name to value.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import PlaceError, ValidationError
from ..heads import Answer
from ..heads.build import HeadSpecs, Site, build_head, check_classes, per_exit
from ..heads.linear import Layout
from ..trees import State, map_tensors, tensors
from .base import Parts
from .segment import Entry, Program, Segment, compile_part, owned_by
from .survey import survey
from .trace import (
    ROWS,
    Facts,
    Observer,
    Traced,
    bind,
    check_runs,
    example_rows,
    follows,
    is_sized,
    main_output,
    mode,
    shape_of,
    split,
    trace,
)

_SHOWN = 24  # names in an error message


def cut(
    network: nn.Module,
    at: Sequence[str],
    example: State,
    *,
    num_classes: int | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """Cut a network after the named modules and make heads for the exits there.

    Args:
        network: what torch.fx can trace around these places; left as it is, parameters shared.
        at: names of modules, in the order in which they run; exit k reads the output of ``at[k]``.
        example: inputs of the network, with a batch dimension; a tensor, a tuple or a dict.
        num_classes: number of classes, C, checked against the network's answer.
        head: kind of head, a function from a value's shape to a module, or one of these per exit.
        gate: give each early exit a gate.

    Raises:
        PlaceError: if an exit cannot go there; the message lists valid places.
        ValidationError: if the example or an option does not fit.
    """
    check_runs(network, example)
    check_names(network, at, example)
    inputs = list(bind(network, example))
    with torch.no_grad():
        cuts = {
            training: _Cut(network, inputs, list(at), example, training)
            for training in (False, True)
        }
    live = cuts[False]
    if str(cuts[True].traced.graph) == str(live.traced.graph):
        cuts[True].share_clones(live)
    segments = []
    for k in range(len(at) + 1):
        programs = {training: each.program(k) for training, each in cuts.items()}
        owned = owned_by(network, [each.parts[k] for each in cuts.values()])
        segments.append((Segment if k else Entry)(network, programs, owned))
    logits = live.answer
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise ValidationError(
            f"wanted a network that answers with logits [N, C, *S], got {_describe(logits)}"
        )
    heads: list[nn.Module] = []
    for spec, place, end in zip(per_exit(head, len(at)), at, live.ends, strict=True):
        site = _site(network, place, live.facts[end].small, example, logits)
        site = site._replace(num_classes=check_classes(num_classes, logits.shape[1]), gate=gate)
        heads.append(build_head(spec, site).to(_like(network)))
    parts = Parts(segments, [*heads, Answer("logits")], network)
    _verify(network, parts, example)
    return parts


class _Cut:
    """A network traced in one mode, split at the places, and what a dry run showed."""

    def __init__(
        self, network: nn.Module, inputs: list[str], at: list[str], example: State, training: bool
    ) -> None:
        self.network, self.at = network, at
        with mode(network, training):
            self.traced = trace(network, inputs, at)
            self.ends = _ends(network, self.traced, at, example, training)
            self.parts = split(self.traced.graph, self.ends)
            runs = [
                _dry_run(network, self.traced.graph, example_rows(example, rows)) for rows in ROWS
            ]
        self.facts = {node: Facts(runs[0].seen[node], runs[1].seen[node]) for node in runs[0].seen}
        self.clones = {node for run in runs for node in run.changed}
        self.result = _answer_node(self.traced.graph)
        self.answer = main_output(self.facts[self.result].small)
        self._check(example)

    def program(self, k: int) -> Program:
        part, last = self.parts[k], k == len(self.at)
        sized = {self._key(n): self._sized(n) for n in part.reads if k and is_sized(self.facts[n])}
        nodes = set(part.nodes) - set(part.reads)
        exports = [n for n in self._keeps(k) if n in nodes and not is_sized(self.facts[n])]
        writes = [*(self._key(n) for n in exports), *(["logits"] if last else [])]
        stay = [self._key(n) for n in self._keeps(k) if not is_sized(self.facts[n])]
        keeps = ["logits"] if last else stay
        changed = frozenset(self._key(n) for n in part.reads if k and n in self._changed_in(k))
        run = compile_part(self.network, part, exports, self.result if last else None)
        return Program(
            run,
            tuple(self._key(n) for n in part.reads),
            tuple(writes),
            tuple(keeps),
            sized,
            changed,
        )

    def share_clones(self, other: _Cut) -> None:
        """Both modes run the same code: what one changes in place, the other may."""
        names = {n.name for n in self.clones} | {n.name for n in other.clones}
        for each in (self, other):
            each.clones = {n for n in each.traced.graph.nodes if n.name in names}

    def _keeps(self, k: int) -> list[fx.Node]:
        if k == len(self.at):
            return []
        return list(dict.fromkeys([*self.parts[k].live, self.ends[k]]))

    def _key(self, node: fx.Node) -> str:
        """The name of a value in the state; a place keeps its own, so both modes agree on it."""
        if node in self.ends:
            return self.at[self.ends.index(node)]
        return str(node.target) if node.op == "placeholder" else node.name

    def _changed_in(self, k: int) -> set[fx.Node]:
        return {n for n in self.parts[k].reads if n in self.clones}

    def _sized(self, node: fx.Node) -> tuple[int, ...] | None:
        small = self.facts[node].small
        return None if isinstance(small, int) else tuple(small[1:])

    def _check(self, example: State) -> None:
        for k, (place, end) in enumerate(zip(self.at, self.ends, strict=True)):
            if not isinstance(self.facts[end].small, Tensor):
                why = f"it returns {_describe(self.facts[end].small)}, not one tensor"
                raise _no_exit(place, why, self.network, example)
            for node in self._keeps(k):
                why = follows(self.facts[node])
                if why:
                    why = f"{node.name!r} would be carried there, but {why}"
                    raise _no_exit(place, why, self.network, example)
        if _rows_of(self.answer) != ROWS[0]:
            raise PlaceError(
                f"the network's answer has no batch dimension first: {_describe(self.answer)}"
            )


# --------------------------------------------------------------------------- tracing
class _Watch(Observer):
    """An observer that also notes which values are changed in place after they were made."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph, shape_of)
        self.changed: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and compare its arguments' version counters."""
        args = [(arg, tensor) for arg in n.all_input_nodes for tensor in tensors(self.env[arg])]
        versions = [tensor._version for _, tensor in args]
        value = super().run_node(n)
        self.changed |= {a for (a, t), v in zip(args, versions, strict=True) if t._version != v}
        return value


def _dry_run(network: nn.Module, graph: fx.Graph, example: State) -> _Watch:
    """Run a graph without leaving a trace in buffers or the global random state."""
    watch = _Watch(network, graph)
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            bound = bind(network, map_tensors(torch.Tensor.clone, example))
            watch.run(*(bound[n.target] for n in graph.nodes if n.op == "placeholder"))
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
    return watch


def _ends(
    network: nn.Module, traced: Traced, at: list[str], example: State, training: bool
) -> list[fx.Node]:
    """The node at which each place ends, or an error that says why no exit can go there."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    ends: list[fx.Node] = []
    for name in at:
        calls = traced.ends.get(name, [])
        if len(calls) != 1 or calls[0] is None:
            often = f"runs {len(calls)} times" if len(calls) > 1 else "returns no tensor"
            now = "training" if training else "evaluation"
            why = f"it {often if calls else 'does not run'} in {now}"
            raise _no_exit(name, why, network, example)
        ends.append(calls[0])
    for earlier, later, first, second in zip(ends, ends[1:], at, at[1:], strict=False):
        if earlier is later:
            raise _no_exit(second, f"it is the same place as {first!r}", network, example)
        if order[earlier] > order[later]:
            raise PlaceError(
                f"wanted places in the order in which they run: {second!r} runs before {first!r}"
            )
    if ends and not has_weights_after(network, traced.graph, ends[-1]):
        why = "the classifier has run, and its answer is the last exit already"
        raise _no_exit(at[-1], why, network, example)
    return ends


def _no_exit(place: str, why: str, network: nn.Module, example: State) -> PlaceError:
    valid = name_valid(network, example)
    return PlaceError(f"no exit can go after {place!r}: {why}; {valid}")


def has_weights_after(network: nn.Module, graph: fx.Graph, end: fx.Node) -> bool:
    """Whether parameters are still used after a node."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    later = [node for node in graph.nodes if order[node] > order[end]]
    modules = [network.get_submodule(str(n.target)) for n in later if n.op == "call_module"]
    return any(True for m in modules for _ in m.parameters()) or any(
        n.op == "get_attr" for n in later
    )


def check_names(network: nn.Module, at: Sequence[str], example: State) -> None:
    """Check that the places are names of modules, each once.

    Raises:
        PlaceError: if one is unknown or given twice.
    """
    if isinstance(at, str):
        raise PlaceError(f"wanted a list of module names, got the string {at!r}")
    names = [name for name, _ in network.named_modules() if name]
    for name in at:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PlaceError(
                f"the network has no module {name!r}; {hint}{name_valid(network, example)}"
            )
        if list(at).count(name) > 1:
            raise PlaceError(f"wanted different places, got {name!r} twice")


def name_valid(network: nn.Module, example: State) -> str:
    """The valid places as the end of an error message, the outermost modules first to be named."""
    names = valid_places(network, example)
    shown = sorted(names, key=lambda name: name.count("."))[:_SHOWN]
    more = f" and {len(names) - _SHOWN} inside them" if len(names) > _SHOWN else ""
    return f"valid places: {', '.join(n for n in names if n in shown) or 'none'}{more}"


def valid_places(network: nn.Module, example: State) -> list[str]:
    """Names of the modules after which an exit can go, in the order in which they run."""
    try:
        return [place.name for place in survey(network, example)[1]]
    except PlaceError:
        return []


# --------------------------------------------------------------------------- building
def _answer_node(graph: fx.Graph) -> fx.Node:
    """The node of the network's logits."""
    node = next(iter(reversed(graph.nodes))).args[0]
    if not isinstance(node, fx.Node):
        raise ValidationError(
            f"wanted a network that answers with logits, got {type(node).__name__}"
        )
    return node


def _site(network: nn.Module, name: str, value: Tensor, example: State, logits: Tensor) -> Site:
    shape = tuple(value.shape)
    if len(shape) < 2:
        raise PlaceError(f"wanted a value [N, C, ...] to read at {name!r}, got shape {shape}")
    kind = "dense" if logits.dim() > 2 and len(shape) == 4 else "linear"
    return Site(shape, logits.shape[1], name, guess_layout(network, shape, example), kind)


def guess_layout(network: nn.Module, shape: tuple[int, ...], example: State) -> Layout:
    """Where the channels of a value are: tokens [N, L, C] and maps [N, H, W, C] have them last.

    A map's height and width keep the ratio of the image's; where both readings do, channels come
    first. A value [N, A, B] is tokens unless the network has one-dimensional convolutions.
    """
    if len(shape) == 3:
        waves = any(isinstance(m, nn.Conv1d) for m in network.modules())
        return "channels_first" if waves else "channels_last"
    image = next((t for t in tensors(example) if t.dim() == 4), None)
    if len(shape) != 4 or image is None:
        return "channels_first"
    ratio = image.shape[2] / image.shape[3]

    def is_map(height: int, width: int) -> bool:
        return abs(height - ratio * width) < 1 + ratio

    return "channels_last" if is_map(*shape[1:3]) and not is_map(*shape[2:4]) else "channels_first"


def _like(network: nn.Module) -> Tensor:
    return next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))


def _verify(network: nn.Module, parts: Parts, example: State) -> None:
    """Run the cut network once against the uncut one."""
    with mode(network, False), torch.no_grad():
        inputs = example_rows(example, ROWS[1])
        want = main_output(network(**bind(network, map_tensors(torch.Tensor.clone, inputs))))
        state = map_tensors(torch.Tensor.clone, inputs)
        for segment in parts.segments:
            state = segment(state)
    if not torch.allclose(state["logits"], want, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise PlaceError(
            "cut there, the network does not answer as before: it keeps values outside its forward"
        )


def _rows_of(value: Any) -> int:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else -1


def _describe(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
