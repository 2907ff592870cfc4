"""Scoring a run on its test part: every exit, every policy at every budget, and the controls."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch

from ..bundle import Bundle
from ..config import Config
from ..costs import count_macs, device_of
from ..data.base import Splits
from ..data.batches import open_data
from ..errors import RunError
from ..evaluate import Evaluator, Replay
from ..files import write_text
from ..metrics import has_maps, reliability
from ..modes import keep_modes
from ..records import load_records, record
from ..runtime.clock import time_policies
from ..trees import State, move
from ..types import Costs, Records
from ..version import __version__
from .build import make_data, rows_at_once
from .device import find_device
from .fitting import Fitted, load_policies
from .folder import Run
from .recorded import check_records
from .samples import draw_samples

FORMAT, VERSION = "offramp-results", 1
CONTROLS = ("random", "oracle")
RULE = "rule"  # the published thresholds, beside the budgets

_CLOCK_BATCH, _CLOCK_BATCHES = 32, 8  # rows of a batch that is timed, at most, and how many


def score(
    run: Run,
    *,
    clock: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a run on the test part and write ``results.json``.

    The model runs over the test part once; its records stay in the run, and scoring again replays
    them.

    Args:
        run: a run with fitted policies.
        clock: also time adaptive runs of the first policy against the full network.
        device: where the model runs; by default on a GPU, where there is one.
        progress: show progress bars on standard error.

    Returns:
        What was written; see `offramp.report`.

    Raises:
        RunError: if the run is not trained to its end or has no fitted policies, or its data or
            its model are no longer those of its records.
    """
    place = find_device(device)
    config, bundle, fitted = run.config, run.bundle(), load_policies(run)
    if bundle.costs is None:
        raise RunError(f"wanted a bundle with costs in {run.bundle_path}, got one without")
    bundle.model.to(place)
    splits, calibration = make_data(config), run.calibration()
    check_records(bundle.model, splits.calibration, calibration, f"{run.path}: calibration")
    test = _test_records(run, bundle, splits, progress)
    evaluator = _evaluator(bundle, test, fitted)
    replays = {each.label: _replays(each, evaluator) for each in fitted}
    results = _figures(config, splits, calibration, fitted, evaluator)
    results |= _replayed(fitted, replays, results["curves"])
    results["made"] = _made(config, splits)
    results["static"] = _truncated(bundle, move(splits.example(), place), results)
    left = [(f.label, [replays[f.label][point].exits for point in f.budgets]) for f in fitted]
    rules = {name: named[RULE].exits for name, named in replays.items() if RULE in named}
    results["samples"] = draw_samples(splits.test, test, left, splits.class_names, rules=rules)
    results["clock"] = _clock(bundle, fitted[0], splits, rows_at_once(config)) if clock else None
    write_text(run.results_path, json.dumps(results, allow_nan=False) + "\n")
    return results


def _test_records(run: Run, bundle: Bundle, splits: Splits, progress: bool) -> Records:
    folder = run.records_path("test")
    if (folder / "index.json").is_file():
        found = load_records(folder)
        check_records(bundle.model, splits.test, found, f"{run.path}: test")
        return found
    rows = rows_at_once(run.config)
    return record(bundle.model, splits.test, path=folder, batch_size=rows, progress=progress)


def _evaluator(bundle: Bundle, test: Records, fitted: Sequence[Fitted]) -> Evaluator:
    return Evaluator(test, cast(Costs, bundle.costs), unit=fitted[0].unit)


def _figures(
    config: Config,
    splits: Splits,
    calibration: Records,
    fitted: Sequence[Fitted],
    evaluator: Evaluator,
) -> dict[str, Any]:
    test, exits = evaluator.records, [each.to_dict() for each in evaluator.exits]
    budgets = list(fitted[0].budgets.values())
    controls = {name: evaluator.curve(name, calibration, budgets) for name in CONTROLS}
    return {
        "format": FORMAT,
        "version": VERSION,
        "task": "map" if has_maps(test) else "label",
        "name": config.name,
        "seed": config.seed,
        "num_test": len(test),
        "num_exits": test.num_exits,
        "class_names": list(splits.class_names),
        "unit": evaluator.unit,
        "costs": evaluator.costs.to_dict(),
        "exits": exits,
        "full": {"cost": 1.0, **_right(exits[-1])},
        "controls": list(CONTROLS),
        "curves": {
            name: [result.to_dict() for result in results] for name, results in controls.items()
        },
        "calibration": reliability(evaluator.measured.bins),
    }


def _right(alone: dict[str, Any]) -> dict[str, float]:
    """How often an exit by itself is right: of maps the share of pixels, and the mean IoU."""
    found = {"accuracy": alone["top1"]}
    return {**found, "miou": alone["miou"]} if "miou" in alone else found


def _made(config: Config, splits: Splits) -> dict[str, Any]:
    """With what, and on what, the results were made."""
    parts = ("train", "validation", "calibration", "test")
    sizes = {part: open_data(getattr(splits, part), 1).rows for part in parts}
    made = {"offramp": __version__, "torch": torch.__version__}
    return {**made, "data": config.data.name, "model": config.model.name, "parts": sizes}


def _replays(fitted: Fitted, evaluator: Evaluator) -> dict[str, Replay]:
    """A policy at every budget and, where it has one, by its rule."""
    rule, found = fitted.policy.rule(), fitted.policy.settings()
    settings = {point: found[point] for point in fitted.budgets}  # a file keeps no order
    return evaluator.replays(settings if rule is None else {**settings, RULE: rule})


def _replayed(
    fitted: Sequence[Fitted], replays: Mapping[str, Mapping[str, Replay]], controls: dict[str, Any]
) -> dict[str, Any]:
    """What the fitted policies make of the test part: curves, the rules', and who was right."""
    curves, rules, examine = {}, {}, {}
    for each in fitted:
        named = replays[each.label]
        curves[each.label] = [
            replace(named[point].result, policy=each.label, budget=budget).to_dict()
            for point, budget in each.budgets.items()
        ]
        if RULE in named:
            rules[each.label] = replace(named[RULE].result, policy=each.label).to_dict()
        known = {point: n.examined for point, n in named.items() if n.examined is not None}
        examine |= {each.label: known} if known else {}
    return {"curves": {**curves, **controls}, "rules": rules, "examine": examine}


def _truncated(bundle: Bundle, example: State, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The network cut off after each early exit: its segments and that one head alone.

    Its cost is known in multiply-accumulates; beside costs in another unit it has no place.
    """
    if results["unit"] != "macs":
        return []
    model = bundle.model
    with keep_modes(model, model.segments), torch.no_grad():
        pieces = count_macs(model.eval(), example)
    cut = (pieces.segments.cumsum(0) + pieces.heads) / pieces.full
    return [
        {"name": f"cut off after exit {k}", "cost": float(cut[k]), **_right(alone)}
        for k, alone in enumerate(results["exits"][:-1])
    ]


def _clock(bundle: Bundle, fitted: Fitted, splits: Splits, at_once: int) -> list[dict[str, Any]]:
    """Measured times of a policy at its budgets, at each batch size."""
    ways = {
        budget: copy.deepcopy(fitted.policy).use(point) for point, budget in fitted.budgets.items()
    }
    rows, most = [], min(_CLOCK_BATCH, at_once)
    # batch size -> inputs that are timed
    for size, count in {1: _CLOCK_BATCH, most: _CLOCK_BATCHES * most}.items():
        found = islice(open_data(splits.test, size).batches(None), count // size)
        inputs = [move(batch.inputs, device_of(bundle.model)) for batch in found]
        clocks = time_policies(bundle.model, ways, inputs)
        rows += [
            {"policy": fitted.label, "budget": budget, **clock._asdict()}
            for budget, clock in clocks.items()
        ]
    return rows
