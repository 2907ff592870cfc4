"""What of a model is trained, and the rest frozen: no gradient, eval mode, statistics at rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from ..costs import modules_of
from ..errors import ValidationError
from ..model import MultiExitModel
from ..modes import keep_modes
from .options import Part

_NAMES = ("all", "heads", "gates")


def check_parts(model: MultiExitModel, train: Part | Sequence[Part]) -> None:
    """Check that the model has these parts.

    Raises:
        ValidationError: if it has not, or there is no such part.
    """
    for part in _listed(train):
        if isinstance(part, bool) or part not in (*_NAMES, *range(model.num_exits)):
            raise ValidationError(
                f"wanted train as one of {list(_NAMES)}, a segment from 0 to "
                f"{model.num_exits - 1} or several of these, got {part!r}"
            )
    if "heads" in _listed(train) and model.num_exits < 2:
        raise ValidationError("wanted early heads for train='heads', got a model of a single exit")
    if "gates" in _listed(train) and not any(_gates(head) for head in model.heads):
        raise ValidationError("wanted heads with a gate for train='gates', got a model of no gates")


def trainable(model: MultiExitModel, train: Part | Sequence[Part]) -> list[nn.Parameter]:
    """The parameters of these parts that require a gradient, each once.

    A parameter that the rest of the model uses too is none of them.
    """
    every = parameters(modules_of(model))
    if "all" not in _listed(train):
        chosen, rest = _divided(model, train)
        own, others = _ids(parameters(chosen)), _ids(parameters(rest))
        every = [p for p in every if id(p) in own - others]
    return [p for p in every if p.requires_grad]


@contextmanager
def only_trained(model: MultiExitModel, train: Part | Sequence[Part]) -> Iterator[None]:
    """Set modes and ``requires_grad`` for training these parts, and put both back afterwards."""
    every = parameters(modules_of(model))
    flags = [(parameter, parameter.requires_grad) for parameter in every]
    with keep_modes(model, model.segments):
        try:
            _set_modes(model, train)
            learning = _ids(trainable(model, train))
            for parameter in every:
                parameter.requires_grad_(id(parameter) in learning)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None


def parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters of modules, each once, in the order in which they come."""
    return list({id(p): p for module in modules for p in module.parameters(recurse=False)}.values())


def named_tensors(model: MultiExitModel) -> dict[str, Tensor]:
    """Every parameter and buffer once, by name; buffers that ``state_dict`` leaves out too."""
    named, seen = {}, set()
    for prefix, root in (("", model), ("segments", model.segments)):
        for tensors in (root.named_parameters(prefix), root.named_buffers(prefix)):
            for name, tensor in tensors:
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    named[name] = tensor
    return named


def buffers_of(model: MultiExitModel) -> list[Tensor]:
    """Every buffer once."""
    return [t for t in named_tensors(model).values() if not isinstance(t, nn.Parameter)]


def _set_modes(model: MultiExitModel, train: Part | Sequence[Part]) -> None:
    model.train("all" in _listed(train))
    if "all" in _listed(train):
        return
    chosen, _ = _divided(model, train)
    for module in chosen:
        module.training = True
    if model.network is not None and any(part not in _NAMES for part in _listed(train)):
        model.network.training = True  # segments of a cut network ask it which mode to run


def _divided(
    model: MultiExitModel, train: Part | Sequence[Part]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules that are trained, and the rest of segments and heads; shared ones are of the rest."""
    wanted, last = _listed(train), model.num_exits - 1
    chosen: list[nn.Module] = []
    rest: list[nn.Module] = []
    for k, segment in enumerate(model.segments):
        (chosen if k in wanted else rest).extend(segment.modules())
    for k, head in enumerate(model.heads):
        if "heads" in wanted and k < last:
            chosen.extend(head.modules())
            continue
        gates = _gates(head) if "gates" in wanted else []
        own = [module for gate in gates for module in gate.modules()]
        chosen.extend(own)
        rest.extend(module for module in head.modules() if id(module) not in _ids(own))
    return [module for module in chosen if id(module) not in _ids(rest)], rest


def _gates(head: nn.Module) -> list[nn.Module]:
    return [m for name, m in head.named_modules() if name.rpartition(".")[2] == "gate"]


def _listed(train: Part | Sequence[Part]) -> list[Part]:
    parts = cast(list[Part], list(train) if isinstance(train, list | tuple) else [train])
    if not parts:
        raise ValidationError("wanted at least one part to train, got none")
    return parts


def _ids(things: Iterable[object]) -> set[int]:
    return {id(thing) for thing in things}
