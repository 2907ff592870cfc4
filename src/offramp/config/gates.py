"""The section ``gates`` of a config: gates trained on cached features after all phases.

They learn from rows of the training part unless told otherwise, as published. An overfitted
network's losses there are near zero at its last exit, which moves alpha; but alpha is found on the
calibration part, so the cost is kept, and what orders inputs are the losses of the early heads,
which next to a frozen network overfit little. There are more of these rows: on CIFAR-10, with a
network right about all its training images, gates from 7,800 of them were 1 to 2 points more
accurate at equal cost than gates from 1,000 held-out images. Where early exits have overfitted too,
take ``data: validation``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from ..train.gate_fit import Fitting
from ..train.gates import fit_gates
from .schema import GatesConfig
from .values import Option, misfit, options_of, shown, unknown


class Target(NamedTuple):
    """What gates can be trained for."""

    wanted: str  # in words
    low: float
    high: float


TARGETS = {
    "budget": Target("above 0: mean cost over the original network's", math.ulp(0), math.inf),
    "alpha": Target("in [0, 1]: weight of the cost beside the loss", 0.0, 1.0),
    "speedup": Target("of at least 1: the original network's time over the mean", 1.0, math.inf),
    "max_drop": Target("in [0, 1): accuracy below the last exit's", 0.0, math.nextafter(1, 0)),
}

_OWN: dict[str, Option] = {
    "unit": Option(Literal["macs", "params", "latency_ms"]),  # its default depends on the target
    "data": Option(Literal["train", "validation"], "train"),
}
_LEAST = {
    **dict.fromkeys(("steps", "rows"), ("of at least 1", 1.0)),
    **dict.fromkeys(("nats", "lr"), ("above 0", math.ulp(0))),
}
_NOTHING = GatesConfig(target="", value=0.0)


def check_gates(given: Any, where: str, faults: list[str]) -> GatesConfig:
    """How gates are trained after all phases, every default filled in."""
    one = f"one of {', '.join(TARGETS)}, such as {where}={{budget: 0.5}}"
    if not isinstance(given, dict):
        faults.append(f"{where}: got {shown(given)}, wanted a mapping with {one}")
        return _NOTHING
    fit = _fit_options()
    valid = {**dict.fromkeys(TARGETS, Option(float | None)), **_OWN, **fit}
    before = len(faults)
    for key, value in given.items():
        if key not in valid:
            faults.append(f"{where}.{key}: {unknown(key, valid, 'option of gates')}")
        elif told := misfit(value, valid[key].type):
            faults.append(f"{where}.{key}: {told}")
    targets = [key for key in TARGETS if given.get(key) is not None]
    if len(targets) != 1:
        came = " and ".join(targets) or "none of them"
        faults.append(f"{where}: got {came}, wanted {one}")
    if len(faults) > before:
        return _NOTHING
    options = {key: given.get(key, option.default) for key, option in fit.items()}
    unit = given.get("unit", "latency_ms" if targets == ["speedup"] else "macs")
    data = given.get("data", _OWN["data"].default)
    made = GatesConfig.model_construct(
        target=targets[0], value=given[targets[0]], unit=unit, data=data, options=options
    )
    faults += _range_faults(made, where)
    return made


def _fit_options() -> dict[str, Option]:
    """What the fit of gates takes beside data, costs and alpha: see `offramp.gates.fit_gates`."""
    return {"nats": (options_of(fit_gates) or {})["nats"], **(options_of(Fitting) or {})}


def _range_faults(gates: GatesConfig, where: str) -> Iterator[str]:
    wanted, low, high = TARGETS[gates.target]
    if not (low <= gates.value <= high and gates.value < math.inf):
        yield f"{where}.{gates.target}: got {shown(gates.value)}, wanted a number {wanted}"
    if gates.target == "speedup" and gates.unit != "latency_ms":
        yield (
            f"{where}.unit: a speedup is one of measured time, latency_ms; got {gates.unit!r}, for "
            f"which {where}={{budget: {1 / max(gates.value, 1):.3g}, unit: {gates.unit}}} says it"
        )
    for key, value in gates.options.items():
        wanted, least = _LEAST.get(key, ("of at least 0", 0.0))
        if not isinstance(value, str) and not least <= value < math.inf:
            yield f"{where}.{key}: got {shown(value)}, wanted a number {wanted}"
