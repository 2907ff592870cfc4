"""Views of a network that is one stack of layers: what a segment of it runs, and how they are made.

A view is made of shallow copies of the modules on the path from the network to its list of layers.
In it, every layer of another segment is replaced by a module that hands the hidden state through,
and so is what makes the tokens, in all segments but the first, and what runs after the layers, in
all but the last. A dry run shows which modules these are. All other modules are the network's own.
The list keeps its length, so a forward that goes by a layer's number stays right.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ..errors import UnsupportedError, ValidationError
from ..trees import State, num_rows


class Stack(NamedTuple):
    """Where in a network its layers are."""

    name: str  # of the list of layers
    layers: tuple[str, ...]  # names, in order
    path: tuple[str, ...]  # names of the modules around the list, the network ("") first
    base: str  # the innermost of these that takes the model's inputs: it makes tokens and masks


class Survey(NamedTuple):
    """What a dry run of the uncut network shows; modules are named that are beside the path."""

    logits: Tensor  # [N, C]
    features: list[Tensor]  # one per layer, [N, L, D]
    as_tuple: bool  # layers return a tuple
    before: frozenset[str]  # modules that make the tokens
    after: frozenset[str]  # modules that run after the layers
    unused: frozenset[str]  # modules that have parameters and do not run


# ------------------------------------------------------------------------- segments
class Segment(nn.Module):
    """Runs a view of the network, from one exit's state to the next.

    Its parameters are exactly the segment's.

    Args:
        view: the view.
        sources: each module that was copied for it, and the network's own.
    """

    def __init__(self, view: nn.Module, sources: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.view, self.sources, self.options = view, tuple(sources), plain(view)
        main = str(getattr(view, "main_input_name", "input_ids"))
        self.door = "inputs_embeds" if "inputs_embeds" in arguments(view) else main

    def forward(self, state: State) -> State:
        """The next exit's state."""
        return {**state, "hidden": self.run(self.inner(state))[0]}

    def run(self, inputs: Mapping[str, Tensor]) -> Any:
        """The view's output, in the modes that the network's own modules are in now."""
        for shadow, source in self.sources:
            if shadow.training != source.training:
                shadow.training = source.training
        return self.view(**inputs, **self.options)

    def inner(self, state: State) -> dict[str, Tensor]:
        """A state as the view's inputs: the hidden state comes in where the tokens are made."""
        return {self.door if name == "hidden" else name: value for name, value in state.items()}


class FirstSegment(Segment):
    """From the inputs to the first exit's state.

    Args:
        view, sources: as for `Segment`.
        main: name of the model's main input.
        names: names that the inputs must have.
    """

    def __init__(
        self,
        view: nn.Module,
        sources: Sequence[tuple[nn.Module, nn.Module]],
        main: str,
        names: Collection[str],
    ) -> None:
        super().__init__(view, sources)
        self.main, self.names = main, sorted(names)

    def forward(self, state: State) -> State:
        """The first exit's state: ``hidden`` and, where there is one, ``attention_mask``."""
        inputs = named(state, self.main)
        if sorted(inputs) != self.names:
            raise ValidationError(
                f"wanted inputs {self.names}, as in the example; got {sorted(inputs)}"
            )
        mask = {name: value for name, value in inputs.items() if name == "attention_mask"}
        return {"hidden": self.run(inputs)[0], **mask}


class LastSegment(Segment):
    """From the last early exit's state to the network's own logits."""

    def forward(self, state: State) -> State:
        """The state after the last segment: ``logits``."""
        return {"logits": self.run(self.inner(state)).logits}


class Through(nn.Module):
    """Stands in a view for a module of another segment: hands the hidden state through.

    Attributes are the replaced module's, for a forward that looks at them (a layer's kind, the
    dtype of a weight); it is held in a tuple so that its parameters are not registered here.
    """

    def __init__(self, source: nn.Module, as_tuple: bool = False) -> None:
        super().__init__()
        self.source, self.as_tuple = (source,), as_tuple

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "source" not in self.__dict__:
                raise
            return getattr(self.__dict__["source"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden state, as it came."""
        if args and _is_tokens(args[0]):  # nearly always, and many times per input: no search
            return (args[0],) if self.as_tuple else args[0]
        offered = (*args, kwargs.get("hidden_states"), *kwargs.values())
        floats = [v for v in offered if isinstance(v, Tensor) and v.is_floating_point()]
        hidden = next((v for v in floats if _is_tokens(v)), *floats[:1])  # a pooler may get [N, D]
        return (hidden,) if self.as_tuple else hidden


def segments_of(
    network: nn.Module, stack: Stack, survey: Survey, ends: Sequence[int], names: Collection[str]
) -> list[Segment]:
    """One segment per exit; ``ends`` numbers the last layer of each, ``names`` the inputs."""
    segments: list[Segment] = []
    for k, end in enumerate(ends):
        first, last = k == 0, k == len(ends) - 1
        own = stack.layers[0 if first else ends[k - 1] + 1 : end + 1]
        foreign = {*stack.layers} - {*own}
        foreign |= (set() if first else survey.before) | (set() if last else survey.after)
        sources: list[tuple[nn.Module, nn.Module]] = []
        view = _view(network, "" if last else stack.base, (stack, survey, foreign, sources))
        if first:
            segments.append(FirstSegment(view, sources, main_input(network), names))
        else:
            segments.append((LastSegment if last else Segment)(view, sources))
    return segments


def _view(
    network: nn.Module, name: str, plan: tuple[Stack, Survey, set[str], list[Any]]
) -> nn.Module:
    """A shallow copy of a module on the path, whose foreign parts hand the hidden state through."""
    stack, survey, foreign, sources = plan
    source = network.get_submodule(name)
    shadow = copy.copy(source)
    children: dict[str, nn.Module | None] = {}
    for child, module in source._modules.items():
        full = _join(name, child)
        if module is not None and full in foreign:
            children[child] = Through(module, survey.as_tuple and full in stack.layers)
        elif full in stack.path or full == stack.name:
            children[child] = _view(network, full, plan)
        elif full not in survey.unused:
            children[child] = module
    shadow.__dict__["_modules"] = children
    sources.append((shadow, source))
    return shadow


# ---------------------------------------------------------------- finding the stack
def find_stack(network: nn.Module) -> Stack | None:
    """The one stack of layers of a transformers model with a classifier, or None."""
    # without an import: where transformers is not loaded, the network is not one of its models
    loaded = sys.modules.get("transformers.modeling_utils")
    kind = getattr(loaded, "PreTrainedModel", None)
    if kind is None or not isinstance(network, kind):
        return None
    config: Any = network.config
    found = [_describe(network, name, kind) for name in _lists(network)]
    if len(found) > 1:
        found = [
            stack
            for stack in found
            if len(stack.layers) == getattr(config, "num_hidden_layers", None)
        ]
    if len(found) != 1 or getattr(config, "is_encoder_decoder", False) or not found[0].base:
        return None
    return found[0]


def _lists(network: nn.Module) -> list[str]:
    """Names of the outermost lists of at least two distinct modules of one class."""
    names: list[str] = []
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if isinstance(module, nn.ModuleList) and len(set(module)) == len(module) > 1 and not inside:
            names += [name] * (len({type(layer) for layer in module}) == 1)
    return names


def _describe(network: nn.Module, name: str, kind: type) -> Stack:
    parts = name.split(".")
    path = tuple(".".join(parts[:i]) for i in range(len(parts)))
    models = [p for p in path if isinstance(network.get_submodule(p), kind)]
    takers = [p for p in models if main_input(network) in arguments(network.get_submodule(p))]
    count = len(cast(nn.ModuleList, network.get_submodule(name)))
    return Stack(
        name, tuple(f"{name}.{i}" for i in range(count)), path, takers[-1] if takers else ""
    )


# -------------------------------------------------------------------------- dry run
def survey_stack(network: nn.Module, stack: Stack, probe: Mapping[str, Tensor]) -> Survey:
    """Run the uncut network, and see what runs before and after the layers.

    Raises:
        ValidationError: if it does not run on the probe or gives no logits [N, C].
        UnsupportedError: if views of it cannot be made.
    """
    beside = _beside(network, stack)
    seen: list[tuple[str, Any]] = []  # (name, None) where one starts, (name, output) where it ends
    handles: list[Any] = []

    def watch(name: str) -> None:
        module = network.get_submodule(name)
        handles.append(module.register_forward_pre_hook(lambda *_: seen.append((name, None))))
        handles.append(module.register_forward_hook(lambda *given: seen.append((name, given[-1]))))

    for name in (*beside, *stack.layers):
        watch(name)
    try:
        logits = answer(network, probe)
    finally:
        for handle in handles:
            handle.remove()
    ran = [(name, out) for name, out in seen if name in stack.layers and out is not None]
    features = [out[0] if isinstance(out, tuple) else out for _, out in ran]
    shapes = {tuple(f.shape) if _is_tokens(f) else None for f in features}
    if [name for name, _ in ran] != list(stack.layers) or len(shapes) != 1 or None in shapes:
        raise UnsupportedError(
            f"wanted layers in {stack.name!r} that run once each, in order, and keep [N, L, D]; "
            f"got shapes {shapes} from {[name for name, _ in ran]}"
        )
    return Survey(
        logits,
        features,
        isinstance(ran[0][1], tuple),
        *_sides(network, stack, beside, seen, len(logits)),
    )


def _beside(network: nn.Module, stack: Stack) -> list[str]:
    """Names of the children of the modules on the path, without the path itself."""
    around = [(name, network.get_submodule(name)) for name in stack.path]
    direct = [
        _join(name, own)
        for name, module in around
        for own, p in module._parameters.items()
        if p is not None
    ]
    wrapped = [
        name or type(network).__name__ for name, module in around if "forward" in vars(module)
    ]
    if direct or wrapped:
        raise UnsupportedError(
            f"the modules around {stack.name!r} cannot be copied: they have parameters of "
            f"their own ({direct}) or a replaced forward ({wrapped})"
        )
    names = [_join(name, child) for name, module in around for child, _ in module.named_children()]
    return [name for name in names if name not in (*stack.path, stack.name)]


def _sides(
    network: nn.Module,
    stack: Stack,
    beside: Sequence[str],
    seen: Sequence[tuple[str, Any]],
    rows: int,
) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Modules that make the tokens, that run after the layers, and that do not run.

    What has no parameters and makes no tokens, as rotary positions, stays in every view.
    """
    order = [name for name, _ in seen]
    start, stop = order.index(stack.layers[0]), len(order) - order[::-1].index(stack.layers[-1])
    early, within, late = set(order[:start]), set(order[start:stop]), set(order[stop:])
    tokens = {n for n, out in seen[:start] if _is_tokens(out) and len(out) == rows}
    other = {n for n, out in seen[:start] if out is not None} - tokens
    owns = {name for name in beside if any(True for _ in network.get_submodule(name).parameters())}
    for name in beside:
        if name in owns and (name in within or (name in early and name in late | other)):
            raise UnsupportedError(
                f"{name!r} has parameters that more than one segment of {stack.name!r} would need"
            )
    before = (early & set(beside)) - other - within - late
    after = (late & set(beside)) - within - early
    return frozenset(before), frozenset(after), frozenset(owns - set(order))


# --------------------------------------------------------------------- calling models
def answer(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits of the uncut network, [N, C].

    Raises:
        ValidationError: if it does not run on the inputs or gives no such logits.
    """
    try:
        out = network(**inputs, **plain(network))
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        raise ValidationError(
            f"{type(network).__name__} does not run on {shapes}: {error}"
        ) from error
    logits, rows = getattr(out, "logits", None), num_rows(inputs)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
        raise ValidationError(
            f"wanted logits [N={rows}, C] from {type(network).__name__}, got {came}"
        )
    return logits


def named(inputs: State, main: str) -> dict[str, Tensor]:
    """Inputs by name; one tensor is the main input.

    Raises:
        ValidationError: if something is no tensor, or they have no common batch.
    """
    by_name = dict(inputs) if isinstance(inputs, Mapping) else {main: inputs}
    wrong = [
        f"{name}: {type(value).__name__}"
        for name, value in by_name.items()
        if not isinstance(value, Tensor)
    ]
    if wrong or not by_name:
        raise ValidationError(
            f"wanted one tensor or a mapping of names to tensors, got {wrong or 'nothing'}"
        )
    num_rows(by_name)
    return by_name


def main_input(network: nn.Module) -> str:
    """Name of a model's main input."""
    return str(getattr(network, "main_input_name", "input_ids"))


def arguments(network: nn.Module) -> set[str]:
    """Names that a model's forward takes."""
    return set(inspect.signature(network.forward).parameters)


def plain(network: nn.Module) -> dict[str, bool]:
    """Arguments that ask for the answer and no more, whatever the configuration says."""
    config: Any = network.config
    more = ("output_hidden_states", "output_attentions")
    return {"return_dict": True, **{name: False for name in more if getattr(config, name, False)}}


def _is_tokens(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child
