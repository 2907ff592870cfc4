"""Gates trained by themselves: at the end of a training, and for a whole sweep of alphas (LEENet).

Nothing but the gates learns here. So the network runs over the data once, what its gates read and
what each exit loses are kept, and all the rest is a matter of seconds.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import torch

from ..config import Config, GatesConfig
from ..costs import measure
from ..data.base import Splits
from ..data.batches import Data, open_data
from ..errors import BudgetError, RunError, ValidationError
from ..files import write_text
from ..functional import check_budget
from ..model import MultiExitModel
from ..train.gate_data import GateData, cache_gates
from ..train.gate_fit import Fitting
from ..train.gates import GatePoint, Nats, sweep_gates, tune_gates
from ..train.log import Log
from ..types import UNITS, Costs
from .build import make_data, rows_at_once
from .device import find_device
from .folder import Run
from .recorded import check_records

FORMAT, SWEEP, VERSION = "offramp-gates", "offramp-sweep", 1
PARTS = ("train", "validation")  # whose rows gates may learn from


def check_gating(config: Config, model: MultiExitModel, splits: Splits, costs: Costs) -> None:
    """Raise what says why a configuration's gates cannot be trained, before anything is.

    Raises:
        ValidationError: if an early exit has no gate, or one of another kind than is trained here.
        BudgetError: if the target is out of reach; the message states the reachable range.
    """
    asked = config.gates
    if asked is None:
        return
    first = next(open_data(splits.train, 2).batches())
    try:
        cache_gates(model, (first.inputs, first.target), progress=False)
    except ValidationError as error:
        raise ValidationError(f"gates: {error}") from None
    if asked.target not in ("budget", "speedup"):
        return
    budget = asked.value if asked.target == "budget" else 1 / asked.value
    try:
        check_budget(_timed(model, splits, costs, asked.unit).relative(asked.unit), budget)
    except BudgetError as error:
        raise BudgetError(f"gates.{asked.target}: {error}") from None


def train_gates(
    run: Run,
    config: Config,
    splits: Splits,
    model: MultiExitModel,
    costs: Costs,
    *,
    progress: bool = True,
) -> None:
    """Train a model's gates as its configuration asks, write down what was found.

    Alpha is found on the calibration part; ``gates.json`` and a line of ``metrics.jsonl`` say what
    it is. Nothing is drawn that the configuration does not decide, so gates trained a second time
    are the same. Without a section ``gates`` nothing happens.
    """
    asked, start = config.gates, time.perf_counter()
    if asked is None:
        run.gates_path.unlink(missing_ok=True)
        return
    rows = rows_at_once(config)
    learned, held = (
        cache_gates(model, part, batch_size=rows, progress=progress)
        for part in (getattr(splits, asked.data), splits.calibration)
    )
    cached = time.perf_counter()
    point = _found(asked, learned, held, _timed(model, splits, costs, asked.unit))
    point.gates.put(model)
    told: dict[str, Any] = {
        "target": {asked.target: asked.value},
        "unit": asked.unit,
        "data": asked.data,
        "alpha": point.alpha,
        "calibration": _figures(point),
    }
    write_text(run.gates_path, _json({"format": FORMAT, "version": VERSION, **told}))
    seconds = {"cache_seconds": cached - start, "seconds": time.perf_counter() - cached}
    _log(run, {"kind": "gates", **told, **seconds})


def sweep(
    run: Run,
    alphas: int = 21,
    *,
    unit: str = "macs",
    nats: Nats | None = None,
    data: str | None = None,
    test: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the gates of a run once for every alpha, and write ``sweep.json``.

    The run's bundle stays as it is: nothing is chosen here, neither by calibration nor by test
    figures.

    Args:
        run: a trained run of a model with gates.
        alphas: how many, at equal steps from 0 (accuracy alone) to 1 (cost alone).
        unit: of the cost: ``macs``, ``params`` or ``latency_ms``, which is measured on the way, on
            one input at a time.
        nats: what the whole network is worth where alpha is one half, in nats, or ``balanced``;
            see `offramp.gates.fit_gates`. By default as the run's configuration says.
        data: the part whose rows the gates learn from, ``train`` or ``validation``; likewise.
        test: also give the figures of the test part.
        device: where the network runs; by default on a GPU, where there is one.
        progress: show progress bars on standard error.

    Returns:
        What was written: ``format``, ``version``, ``unit``, ``data``, ``alphas``; ``points`` with
        ``alpha`` and the figures ``accuracy``, ``cost`` (relative), ``cost_stderr``, ``mean_exit``
        (counted from 0) and ``rates`` of ``calibration`` and of ``test``, which is None where it
        was not asked for; and ``seconds``, that all fits and calibration figures took together.

    Raises:
        RunError: if the run is not trained to its end, or its data are no longer those that it was
            trained on.
        ValidationError: if its model has no gates, or an option is wrong.
    """
    _check_asked(alphas, unit, nats, data)  # before the network runs
    config, bundle = run.config, run.bundle()
    part = data or ("train" if config.gates is None else config.gates.data)
    if bundle.costs is None:
        raise RunError(f"wanted a bundle with costs in {run.bundle_path}, got one without")
    splits, model = make_data(config), bundle.model.to(find_device(device)).eval()
    check_records(model, splits.calibration, run.calibration(), f"{run.path}: calibration")

    def cached(rows: Data) -> GateData:
        return cache_gates(model, rows, batch_size=rows_at_once(config), progress=progress)

    learned, held = cached(getattr(splits, part)), cached(splits.calibration)
    tested = cached(splits.test) if test else None
    costs = _timed(model, splits, bundle.costs, unit)
    start = time.perf_counter()
    options = {**_fit_options(config.gates), **({} if nats is None else {"nats": nats})}
    points = sweep_gates(learned, held, costs, alphas, unit=unit, **options)
    seconds = time.perf_counter() - start
    told: dict[str, Any] = {
        "format": SWEEP,
        "version": VERSION,
        "unit": unit,
        "data": part,
        "alphas": [point.alpha for point in points],
        "points": [
            {
                "alpha": point.alpha,
                "calibration": _figures(point),
                "test": None if tested is None else _figures(point.on(tested, costs)),
            }
            for point in points
        ],
        "seconds": seconds,
    }
    write_text(run.sweep_path, _json(told))
    return told


def _found(asked: GatesConfig, learned: GateData, held: GateData, costs: Costs) -> GatePoint:
    """Gates for the target that a configuration asks for."""
    options = {"unit": asked.unit, **_fit_options(asked)}
    if asked.target == "alpha":
        return sweep_gates(learned, held, costs, [asked.value], **options)[0]
    return tune_gates(learned, held, costs, **{asked.target: asked.value}, **options)


def _fit_options(asked: GatesConfig | None) -> dict[str, Any]:
    """How gates are fitted, as `offramp.gates` takes it."""
    if asked is None:
        return {}
    rest = {key: value for key, value in asked.options.items() if key != "nats"}
    return {"nats": asked.options["nats"], "how": Fitting(**rest)}


def _check_asked(alphas: object, unit: str, nats: object, data: str | None) -> None:
    if not isinstance(alphas, int) or isinstance(alphas, bool) or alphas < 2:
        raise ValidationError(f"wanted alphas as a whole number of at least 2, got {alphas!r}")
    if unit not in UNITS:
        raise ValidationError(f"wanted unit as one of {', '.join(UNITS)}, got {unit!r}")
    number = isinstance(nats, int | float) and not isinstance(nats, bool) and 0 < nats < math.inf
    if not (number or nats in (None, "balanced")):
        raise ValidationError(f"wanted nats as a positive number or 'balanced', got {nats!r}")
    if data not in (None, *PARTS):
        raise ValidationError(f"wanted data as one of {', '.join(PARTS)}, got {data!r}")


def _timed(model: MultiExitModel, splits: Splits, costs: Costs, unit: str) -> Costs:
    """Costs that know the unit: what a run counts, and times of one input where they are asked."""
    if unit != "latency_ms":
        return costs
    timed = measure(model, splits.example(), batch_size=1, repeats=20)
    return replace(timed, macs=costs.macs, params=costs.params, full={**costs.full, **timed.full})


def _figures(point: GatePoint) -> dict[str, Any]:
    names = ("accuracy", "cost", "cost_stderr", "mean_exit")
    return {**{name: getattr(point, name) for name in names}, "rates": list(point.rates)}


def _log(run: Run, line: dict[str, Any]) -> None:
    """Add a line to the run's metrics; training goes on from a checkpoint without it."""
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().count(b"\n") if path.is_file() else 0
    Log(path, keep=lines).write(line)


def _json(told: dict[str, Any]) -> str:
    return json.dumps(told, allow_nan=False, indent=1) + "\n"
