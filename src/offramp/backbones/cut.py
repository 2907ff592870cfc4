"""Cutting any network that torch.fx can follow into segments, where exits go.

The segments are views: they run the network's own modules and read its own attributes at every
call, so training them trains the network, and moving or saving the network works as ever. What a
later segment still reads (long skips) is carried in the state, a dict from value name to value.

The modules around the places are seen through once, in both modes, and not called any more. So a
hook on one of them is refused; one that is added later is not seen, nor is the mode of such a
module by itself (freeze ``model.segments[k]`` instead), and gradient checkpointing that they do is
without effect. All modules inside the segments are called as ever.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import PlaceError, ValidationError
from ..heads import Answer
from ..heads.build import HeadSpecs, Site, build_head, check_classes, per_exit
from ..heads.linear import Layout
from ..placement import At
from ..trees import State, tensors
from .base import Parts
from .blocks import resolve
from .dry_run import (
    ROWS,
    Facts,
    Watch,
    arguments,
    check_heads,
    check_runs,
    example_rows,
    follows,
    is_sized,
    undone,
    verify,
)
from .segment import Entry, Program, Segment, carried_key, compile_part, owned_by
from .survey import has_weights, survey
from .trace import Traced, bind, main_output, mode, split, trace

_SHOWN = 24  # names in an error message


def cut(
    network: nn.Module,
    at: At,
    example: State,
    *,
    num_classes: int | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """Cut a network after the named modules and make heads for the exits there.

    Args:
        network: what torch.fx can trace around these places; left as it is, parameters shared.
        at: names of modules, in the order in which they run; exit k reads the output of ``at[k]``;
            or an `offramp.placement`, whose choice ``resolved`` of the parts then has.
        example: inputs of the network, with a batch dimension; a tensor, a tuple or a dict.
        num_classes: number of classes, C, checked against the network's answer.
        head: kind of head, a function from a value's shape to a module, or one of these per exit.
        gate: give each early exit a gate.

    Raises:
        PlaceError: if an exit cannot go there; the message lists valid places.
        ValidationError: if the example or an option does not fit.
    """
    names = resolve(network, at, example)
    for training in (False, True):
        check_runs(network, example, training)
    check_names(network, names, example)
    inputs = list(bind(network, example))
    with torch.no_grad():
        cuts = {
            training: _Cut(network, inputs, list(names), example, training)
            for training in (False, True)
        }
    live = cuts[False]
    if str(cuts[True].traced.graph) == str(live.traced.graph):
        cuts[True].share_clones(live)
    segments = []
    for k in range(len(names) + 1):
        programs = {training: each.program(k) for training, each in cuts.items()}
        owned = owned_by(network, [each.parts[k] for each in cuts.values()])
        segments.append(
            Segment(network, programs, owned) if k else Entry(network, programs, owned, inputs)
        )
    logits = live.answer
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise ValidationError(
            f"wanted a network that answers with logits [N, C, *S], got {_describe(logits)}"
        )
    heads: list[nn.Module] = []
    for spec, place, end in zip(per_exit(head, len(names)), names, live.ends, strict=True):
        site = _site(network, place, live.facts[end].small, example, logits)
        site = site._replace(num_classes=check_classes(num_classes, logits.shape[1]), gate=gate)
        heads.append(build_head(spec, site).to(_like(network)).train(network.training))
    resolved = {} if names is at else {"at": list(names)}
    parts = Parts(segments, [*heads, Answer("logits")], network, resolved=resolved)
    for training in (False, True):
        verify(network, parts, example, training)
    check_heads(network, parts, example)
    return parts


class _Cut:
    """A network traced in one mode, split at the places, and what a dry run showed."""

    def __init__(
        self, network: nn.Module, inputs: list[str], at: list[str], example: State, training: bool
    ) -> None:
        self.network, self.at = network, at
        with mode(network, training):
            try:
                self.traced = trace(network, inputs, at)
            except PlaceError as error:  # the places that are valid are those of eval mode
                also = " in training mode" if training else f"; {name_valid(network, example)}"
                raise PlaceError(f"{error}{also}") from error
            self.ends = _ends(network, self.traced, at, example, training)
        self.parts = split(self.traced.graph, self.ends)
        crossing = {node for part in self.parts[1:] for node in part.reads}
        runs = []
        for rows in ROWS:
            watch = Watch(network, self.traced.graph, crossing)
            with undone(network, training):
                watch.run(*arguments(network, self.traced.graph, example_rows(example, rows)))
            runs.append(watch)
        self.facts = {node: Facts(runs[0].seen[node], runs[1].seen[node]) for node in runs[0].seen}
        # per part, the values it reads and changes in place
        self.clones = [
            {arg for node in part.nodes for run in runs for arg in run.changed[node]}
            & set(part.reads)
            for part in self.parts
        ]
        self.result = _answer_node(self.traced.graph)
        self.answer = main_output(self.facts[self.result].small)
        self._check(example)

    def program(self, k: int) -> Program:
        part, last = self.parts[k], k == len(self.at)
        made = set(part.nodes) - set(part.reads)
        sized = {n for n in {*part.reads, *self._keeps(k)} if is_sized(self.facts[n])}
        keeps = [
            n for n in self._keeps(k) if n not in sized or isinstance(self.facts[n].small, tuple)
        ]
        exports = [n for n in keeps if n in made]
        answer = ("logits",) if last else ()
        return Program(
            compile_part(self.network, part, exports, self.result if last else None),
            reads=self._keys(part.reads),
            writes=self._keys(exports) + answer,
            keeps=self._keys(keeps) + answer,
            sized=frozenset(self._keys(sized)),
            clones=frozenset(self._keys(self.clones[k])),
        )

    def share_clones(self, other: _Cut) -> None:
        """Both modes run the same code: what one changes in place, the other may."""
        for k, (ours, theirs) in enumerate(zip(self.clones, other.clones, strict=True)):
            names = {n.name for n in ours | theirs}
            for each in (self, other):
                each.clones[k] = {n for n in each.parts[k].reads if n.name in names}

    def _keeps(self, k: int) -> list[fx.Node]:
        if k == len(self.at):
            return []
        return list(dict.fromkeys([*self.parts[k].live, self.ends[k]]))

    def _keys(self, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
        """Names of values in the state; a place keeps its own, so both modes agree on it."""
        return tuple(
            self.at[self.ends.index(node)]
            if node in self.ends
            else carried_key(str(node.target) if node.op == "placeholder" else node.name)
            for node in nodes
        )

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
                f"wanted places in the order in which they run: {second!r} runs before {first!r}; "
                + name_valid(network, example)
            )
    if ends and not _weights_follow(network, traced.graph, ends[-1]):
        why = "the classifier has run, and its answer is the last exit already"
        raise _no_exit(at[-1], why, network, example)
    return ends


def _no_exit(place: str, why: str, network: nn.Module, example: State) -> PlaceError:
    valid = name_valid(network, example)
    return PlaceError(f"no exit can go after {place!r}: {why}; {valid}")


def _weights_follow(network: nn.Module, graph: fx.Graph, end: fx.Node) -> bool:
    nodes = list(graph.nodes)
    return any(has_weights(network, node) for node in nodes[nodes.index(end) + 1 :])


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
            raise PlaceError(
                f"wanted different places, got {name!r} twice; {name_valid(network, example)}"
            )


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


def _rows_of(value: Any) -> int:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else -1


def _describe(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
