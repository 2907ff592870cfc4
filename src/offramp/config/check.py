"""A config tree, checked as a whole: every fault is found before one is told."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError, OfframpError
from ..placement import as_placement
from ..policies.base import Control
from ..registry import Registry, datasets, models, objectives, policies
from .gates import check_gates
from .schema import (
    Config,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Plain,
    PolicyConfig,
    TrainConfig,
)
from .train import check_train
from .values import Option, misfit, options_of, shown, unknown

_SECTIONS = tuple(Config.model_fields)
_NEEDED = ("data", "model", "train")
_FILLED = ("num_classes", "num_exits")  # options that come from the data and the model
_BUDGETS = (0.25, 0.5, 0.75)


def check(tree: Plain, name: str, faults: list[str]) -> Config:
    """The config that a tree stands for.

    Sections are made without pydantic's own checks: a faulty one is told, and never used.

    Args:
        tree: what the file says, overrides included.
        name: of the study, where the file gives none.
        faults: what is wrong already.

    Raises:
        ConfigError: if anything is wrong: one line per fault.
    """
    faults = list(faults)
    tree = {key: value for key, value in tree.items() if value is not None}
    for key in tree:
        if key not in _SECTIONS:
            faults.append(f"{key}: {unknown(key, _SECTIONS, 'section')}")
    parts: Plain = {
        "name": _name(tree.get("name", name), faults),
        "seed": _seed(tree.get("seed", 0), faults),
    }
    for key in _NEEDED:
        if key not in tree:
            faults.append(f"{key}: missing, wanted {_WANTED[key]}")
    for key, checker in _CHECKERS.items():
        given = tree.get(key, _DEFAULTS.get(key))
        parts[key] = None if given is None else checker(given, key, faults)
    if faults:
        raise ConfigError(faults)
    return Config(**parts)


def check_policies(given: list[Any]) -> list[PolicyConfig]:
    """Policies by themselves.

    Raises:
        ConfigError: if anything is wrong: one line per fault.
    """
    faults: list[str] = []
    made = _policies(given, "policies", faults)
    if faults:
        raise ConfigError(faults)
    return made


def check_objective(given: Any, where: str, faults: list[str]) -> ObjectiveConfig:
    """An objective, ``joint`` where none is named, and the one inside it."""
    if isinstance(given, dict):
        given = {"name": "joint", **given}
    name, options = _named(given, where, objectives, faults, skip=("objective", "teacher"))
    if options.get("objective") is not None:
        inner = check_objective(options["objective"], f"{where}.objective", faults)
        options["objective"] = inner.plain()
    if options.get("teacher") is not None:
        options["teacher"] = _path(_simple(options["teacher"], str, f"{where}.teacher", faults))
    return ObjectiveConfig.model_construct(name=name, options=options)


def _name(given: Any, faults: list[str]) -> Any:
    if told := misfit(given, str):
        faults.append(f"name: {told}")
    elif not given.strip() or given.startswith(".") or set(given) & set("/\\\0\n"):
        faults.append(f"name: got {given!r}, wanted what can name a folder")
    return given


def _seed(given: Any, faults: list[str]) -> Any:
    if misfit(given, int) or not 0 <= given < 1 << 63:
        faults.append(f"seed: got {shown(given)}, wanted a whole number of at least 0")
    return given


def _data(given: Any, where: str, faults: list[str]) -> DataConfig:
    extra = {"augment": Option(list[str | Plain], [])}
    name, options = _named(given, where, datasets, faults, extra=extra)
    augment = options.pop("augment", None) or []
    if isinstance(options.get("path"), str):
        options["path"] = _path(options["path"])
    if isinstance(augment, list):
        faults += [f"{where}.augment: {told}" for told in _augment_faults(augment)]
    return DataConfig.model_construct(
        name=name, options=options, augment=augment if isinstance(augment, list) else []
    )


def _model(given: Any, where: str, faults: list[str]) -> ModelConfig:
    name, options = _named(
        given, where, models, faults, extra={"checkpoint": Option(str | None, None)}
    )
    for key in ("checkpoint", "weights"):
        if isinstance(options.get(key), str):
            options[key] = _path(options[key])
    for key in ("at", "placement"):
        told = any(fault.startswith(f"{where}.{key}:") for fault in faults)
        if isinstance(options.get(key), dict) and not told:
            faults += [f"{where}.{key}: {fault}" for fault in _placement_faults(options[key])]
    return ModelConfig.model_construct(name=name, options=options)


def _policies(given: Any, where: str, faults: list[str]) -> list[PolicyConfig]:
    if not isinstance(given, list) or not given:
        faults.append(f"{where}: got {shown(given)}, wanted a list with at least one policy")
        return []
    made: list[PolicyConfig] = []
    for number, each in enumerate(given):
        place = f"{where}.{number}"
        extra = {"label": Option(str, None)}
        name, options = _named(each, place, policies, faults, extra=extra)
        label = options.pop("label", None) or name
        if isinstance(label, str) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
            faults.append(
                f"{place}.label: got {shown(label)}, wanted letters, digits, '_', '-', '.'"
            )
        factory = policies.get(name) if name in policies.names() else None
        if isinstance(factory, type) and issubclass(factory, Control):
            faults.append(f"{place}: {name!r} is a control, which cannot run; eval adds it itself")
        if "num_exits" in options:
            faults.append(f"{place}.num_exits: comes from the model; leave it out")
        if label in [policy.label for policy in made]:
            faults.append(f"{place}.label: {label!r} is taken; give this one a label of its own")
        made.append(PolicyConfig.model_construct(name=name, options=options, label=str(label)))
    return made


def _budgets(given: Any, where: str, faults: list[str]) -> list[float]:
    wanted = "wanted a list of numbers above 0, shares of the original network's cost"
    if not isinstance(given, list) or not given:
        faults.append(f"{where}: got {shown(given)}, {wanted}")
        return []
    for number, each in enumerate(given):
        if misfit(each, float) or not 0 < each < math.inf:
            faults.append(f"{where}.{number}: got {shown(each)}, wanted a number above 0")
        elif each in given[:number]:
            faults.append(f"{where}.{number}: got {shown(each)} a second time")
    return given


def _named(
    given: Any,
    where: str,
    registry: Registry[Any],
    faults: list[str],
    *,
    extra: dict[str, Option] | None = None,
    skip: tuple[str, ...] = (),
) -> tuple[str, Plain]:
    """Name and options of something registered; ``skip``: options that the caller checks."""
    tree = {"name": given} if isinstance(given, str) else given
    name = tree.get("name") if isinstance(tree, dict) else None
    if not isinstance(name, str):
        valid = ", ".join(registry.names())
        faults.append(
            f"{where}: got {shown(given)}, wanted the name of one {registry.kind}, valid: {valid}"
        )
        return "", {}
    options = {key: value for key, value in tree.items() if key != "name"}
    try:
        known = options_of(registry.get(name))
    except OfframpError as error:
        faults.append(f"{where}.name: {error}")
        return name, {}
    valid = {**(known or {}), **(extra or {})}
    offered = set(valid) - ({"num_exits"} if registry is policies else set())
    what = f"option of the {registry.kind} {name!r}"
    for key, value in options.items():
        if key in valid:
            told = None if key in skip else misfit(value, valid[key].type)
        else:
            told = None if known is None else unknown(key, offered, what)
        if told:
            faults.append(f"{where}.{key}: {told}")
    for key, option in (known or {}).items():
        if option.required and key not in options and key not in _FILLED:
            faults.append(f"{where}.{key}: missing, the {registry.kind} {name!r} needs it")
    return name, options


def _augment_faults(spec: list[Any]) -> list[str]:
    if not spec:
        return []
    from ..data.augment import augmentation

    try:
        augmentation(spec)
    except OfframpError as error:
        return [str(error)]
    return []


def _placement_faults(given: Plain) -> list[str]:
    try:
        as_placement(given)
    except OfframpError as error:
        return [str(error)]
    return []


def _simple(value: Any, kind: type, where: str, faults: list[str]) -> Any:
    if told := misfit(value, kind):
        faults.append(f"{where}: {told}")
    return value


def _path(text: Any) -> Any:
    """A path that exists becomes absolute; a hub id stays as it is."""
    if not isinstance(text, str):
        return text
    path = Path(text).expanduser()
    return str(path.absolute()) if text.startswith("~") or path.exists() else text


def _train(given: Any, where: str, faults: list[str]) -> TrainConfig:
    return check_train(given, where, faults, check_objective)


_WANTED = {
    "data": "the name of a data set, and its options",
    "model": "the name of a model, and its options",
    "train": "the options of training, such as epochs",
}
_DEFAULTS: Plain = {"objective": "joint", "policies": ["max_prob"], "budgets": list(_BUDGETS)}
_CHECKERS = {
    "data": _data,
    "model": _model,
    "objective": check_objective,
    "train": _train,
    "gates": check_gates,
    "policies": _policies,
    "budgets": _budgets,
}
