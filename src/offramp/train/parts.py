"""What of a model is trained, and the rest frozen: no gradient, eval mode, statistics at rest."""

from __future__ import annotations

import difflib
import re
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
_OF_AN_EXIT = re.compile(r"(head|gate)\.(\d+)")


def check_parts(model: MultiExitModel, train: Part | Sequence[Part]) -> None:
    """Check that the model has these parts, and that there is something to train in them.

    Raises:
        ValidationError: if it has not, or there is no such part.
    """
    for part in _listed(train):
        if part in _NAMES:
            _check_many(model, part)
        elif isinstance(part, str) and (one := _OF_AN_EXIT.fullmatch(part)):
            _check_exit(model, one[1], int(one[2]))
        elif isinstance(part, str):
            _check_module(model, part)
        elif isinstance(part, bool) or part not in range(model.num_exits):
            raise _no_such(model, part)


def trainable(model: MultiExitModel, train: Part | Sequence[Part]) -> list[nn.Parameter]:
    """The parameters of these parts that require a gradient, each once.

    A parameter that the rest of the model uses too is none of them.
    """
    every = parameters(modules_of(model))
    if "all" not in _listed(train):
        chosen, rest = _divided(model, train)
        own, others = _ids(parameters(chosen)), _ids(parameters(rest))
        # by the network's own modules: a segment may hold a parameter that a module of it owns
        named, unnamed = _named(model, train)
        learning = (own - others) | (_ids(parameters(named)) - _ids(parameters(unnamed)))
        every = [p for p in every if id(p) in learning]
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


def gates_of(head: nn.Module) -> list[nn.Module]:
    """The gates inside a head: its modules of that name."""
    return [m for name, m in head.named_modules() if name.rpartition(".")[2] == "gate"]


def _set_modes(model: MultiExitModel, train: Part | Sequence[Part]) -> None:
    model.train("all" in _listed(train))
    if "all" in _listed(train):
        return
    chosen, _ = _divided(model, train)
    named, _ = _named(model, train)
    for module in (*chosen, *named):
        module.training = True
    segments = [part for part in _listed(train) if not isinstance(part, str)]
    if model.network is not None and (segments or named):
        model.network.training = True  # segments of a cut network ask it which mode to run


def _divided(
    model: MultiExitModel, train: Part | Sequence[Part]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules that are trained, and the rest of segments and heads; shared ones are of the rest.

    Parts that are modules of the network are left to `_named`.
    """
    wanted, last = _listed(train), model.num_exits - 1
    chosen: list[nn.Module] = []
    rest: list[nn.Module] = []
    for k, segment in enumerate(model.segments):
        (chosen if k in wanted else rest).extend(segment.modules())
    for k, head in enumerate(model.heads):
        if f"head.{k}" in wanted or ("heads" in wanted and k < last):
            chosen.extend(head.modules())
            continue
        gates = gates_of(head) if "gates" in wanted or f"gate.{k}" in wanted else []
        own = [module for gate in gates for module in gate.modules()]
        chosen.extend(own)
        rest.extend(module for module in head.modules() if id(module) not in _ids(own))
    return [module for module in chosen if id(module) not in _ids(rest)], rest


def _named(
    model: MultiExitModel, train: Part | Sequence[Part]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules of the network that are trained by name, those inside included, and its others."""
    names = [part for part in _listed(train) if isinstance(part, str) and _is_name(part)]
    if model.network is None or not names:
        return [], []
    roots = [model.network.get_submodule(name) for name in names]
    named = list({id(m): m for root in roots for m in root.modules()}.values())
    inside = _ids(named)
    return named, [m for m in model.network.modules() if id(m) not in inside]


def _is_name(part: str) -> bool:
    return part not in _NAMES and not _OF_AN_EXIT.fullmatch(part)


# ------------------------------------------------------------------------ checks
def _check_many(model: MultiExitModel, part: Part) -> None:
    if part == "heads" and model.num_exits < 2:
        raise ValidationError("wanted early heads for train='heads', got a model of a single exit")
    if part == "gates" and not any(gates_of(head) for head in model.heads):
        raise ValidationError("wanted heads with a gate for train='gates', got a model of no gates")


def _check_exit(model: MultiExitModel, kind: str, k: int) -> None:
    if k >= model.num_exits:
        raise ValidationError(
            f"wanted train='{kind}.K' of an exit K from 0 to {model.num_exits - 1}, got {k}"
        )
    if kind == "gate" and not gates_of(model.heads[k]):
        raise ValidationError(f"wanted a gate at exit {k} for train='gate.{k}', got a head of none")
    if kind == "head" and not any(True for _ in model.heads[k].parameters()):
        raise ValidationError(
            f"wanted a head that learns for train='head.{k}', got one without weights: the last "
            "exit's answer may be the network's own, which is trained by the name of its module, "
            "such as 'fc'"
        )


def _check_module(model: MultiExitModel, name: str) -> None:
    if model.network is None:
        raise _no_such(model, name)
    try:
        module = model.network.get_submodule(name) if name else None
    except AttributeError:
        module = None
    if module is None:
        names = [each for each, _ in model.network.named_modules() if each]
        near = difflib.get_close_matches(name, names, n=4) or names[:4]
        raise _no_such(model, name, f" (the network has modules {', '.join(map(repr, near))})")
    run = _ids(parameters(m for segment in model.segments for m in segment.modules()))
    if not run & _ids(module.parameters()):
        raise ValidationError(
            f"wanted a module that the model runs, with weights, for train={name!r}, got one whose "
            "weights no segment uses"
        )


def _no_such(model: MultiExitModel, part: object, more: str = "") -> ValidationError:
    module = "" if model.network is None else ", the name of a module of the network"
    return ValidationError(
        f"wanted train as one of {list(_NAMES)}, a segment from 0 to {model.num_exits - 1}, "
        f"'head.K' or 'gate.K' of an exit K{module} or several of these, got {part!r}{more}"
    )


def _listed(train: Part | Sequence[Part]) -> list[Part]:
    parts = cast(list[Part], list(train) if isinstance(train, list | tuple) else [train])
    if not parts:
        raise ValidationError("wanted at least one part to train, got none")
    return parts


def _ids(things: Iterable[object]) -> set[int]:
    return {id(thing) for thing in things}
