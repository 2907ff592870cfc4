"""The section ``train`` of a config: the options of a phase, phases, and the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import OfframpError
from ..train.options import Options, check_options
from ..train.validate import FIGURES
from .schema import ObjectiveConfig, Plain, TrainConfig
from .values import Option, fields_of, misfit, shown, unknown

# What `offramp.fit` takes for all phases together, as it takes it.
REST: dict[str, Option] = {
    "monitor": Option(str | None, None),
    "patience": Option(int | None, None),
    "workers": Option(int, 0),
    "save_every": Option(float, 60.0),
}
CheckObjective = Callable[[Any, str, list[str]], ObjectiveConfig]

_SMOOTHING = "label_smoothing"
_MONITOR = rf"({'|'.join(FIGURES)})/(last|mean|\d+)"
_EPOCHS = "wanted a whole number of at least 1"


def check_train(
    given: Any, where: str, faults: list[str], check_objective: CheckObjective
) -> TrainConfig:
    """How to train, every default filled in."""
    if not isinstance(given, dict):
        faults.append(f"{where}: got {shown(given)}, wanted a mapping of options, such as epochs")
        return TrainConfig(options={})
    own, before = fields_of(Options), len(faults)
    _check_keys(given, where, {**own, **REST, "phases": Option(list[Plain] | None, [])}, faults)
    told = given.get("phases")
    phases = list(told) if isinstance(told, list) else []
    for number, phase in enumerate(phases):
        place = f"{where}.phases.{number}"
        if isinstance(phase, dict):
            _check_keys(phase, place, {**own, "objective": Option()}, faults)
            if phase.get("objective") is not None:
                inner = check_objective(phase["objective"], f"{place}.objective", faults)
                phases[number] = {**phase, "objective": inner.plain()}
    options = {key: given.get(key, _plain(option.default)) for key, option in own.items()}
    rest = {key: given.get(key, option.default) for key, option in REST.items()}
    if len(faults) == before:  # ranges are checked where all types are right
        _check_ranges(options, phases, where, faults)
        _check_rest(rest, where, faults)
    return TrainConfig.model_construct(options=options, phases=phases, **rest)


def _check_keys(given: Plain, where: str, valid: dict[str, Option], faults: list[str]) -> None:
    for key, value in given.items():
        if key not in valid:
            faults.append(f"{where}.{key}: {unknown(key, valid, 'option of training')}")
        elif told := misfit(value, valid[key].type):
            faults.append(f"{where}.{key}: {told}")
        elif key == _SMOOTHING and value:  # a configured objective is made before it is trained
            faults.append(f"{where}.{key}: give it to the objective: objective.{key}={value}")


def _check_ranges(options: Plain, phases: list[Plain], where: str, faults: list[str]) -> None:
    """Numbers in their ranges, phase by phase; an option of all phases is told once."""
    seen: set[str] = set()
    for number, phase in enumerate(phases or [{}]):
        place = f"{where}.phases.{number}" if phases else where
        merged = {**options, **{key: phase[key] for key in phase if key in options}}
        if merged["epochs"] is None:
            also = f" here and in {where}" if phases else ""
            faults.append(f"{place}.epochs: missing{also}, {_EPOCHS}")
            continue
        try:
            check_options(Options(**merged))
        except OfframpError as error:
            if str(error) not in seen:
                faults.append(f"{place}: {error}")
            seen.add(str(error))


def _check_rest(rest: Plain, where: str, faults: list[str]) -> None:
    monitor, patience = rest["monitor"], rest["patience"]
    if monitor is not None and not re.fullmatch(_MONITOR, monitor):
        faults.append(
            f"{where}.monitor: got {shown(monitor)}, wanted accuracy/, nll/ or, for maps, miou/ "
            "with last, mean or the number of an exit, such as accuracy/last"
        )
    if patience is not None and patience < 1:
        faults.append(f"{where}.patience: got {patience}, wanted a whole number of at least 1")
    if patience is not None and monitor is None:
        faults.append(f"{where}.monitor: missing, wanted what patience looks at")
    for key in ("workers", "save_every"):
        if not rest[key] >= 0:
            faults.append(f"{where}.{key}: got {shown(rest[key])}, wanted a number of at least 0")


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
