"""Fitting policies on a run's calibration records, and putting one into its bundle."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from ..bundle import save
from ..config import Config, PolicyConfig
from ..errors import BudgetError, RunError, ValidationError
from ..files import write_text
from ..functional import check_budget
from ..policies import ExitPolicy, create_policy
from ..policies.base import Control
from ..train.checkpoint import load_tensors, save_tensors
from ..types import UNITS, Budget, Costs, ExitOutput
from .folder import Run

INDEX = "index.json"


class Fitted(NamedTuple):
    """A fitted policy; every budget is an operating point, by its name."""

    label: str
    policy: ExitPolicy
    budgets: dict[str, float]  # operating point -> budget, relative to the full network
    unit: str


def fit_policies(
    run: Run,
    policies: Sequence[PolicyConfig] | None = None,
    budgets: Sequence[float] | None = None,
    *,
    unit: str = "macs",
) -> list[Fitted]:
    """Fit policies to budgets on the calibration part; the first one goes into the bundle.

    Results of policies that were fitted before are taken away.

    Args:
        run: a trained run.
        policies: by default those of the run's configuration.
        budgets: bounds of the mean cost, relative to the full network; by default those of the
            configuration. The bundle's policy is set to the first.
        unit: of the budgets; ``macs`` or ``params``.

    Raises:
        RunError: if the run is not trained to its end, or nothing is to be fitted.
        ValidationError: if a policy cannot be made for the run's exits.
        BudgetError: if a budget is out of reach; the message states the reachable range.
    """
    config, bundle, records = run.config, run.bundle(), run.calibration()
    chosen = config.policies if policies is None else policies
    asked = config.budgets if budgets is None else budgets
    if bundle.costs is None or not chosen or not asked:
        raise RunError(
            f"wanted costs, policies and budgets to fit, got {len(chosen)} policies, "
            f"{len(asked)} budgets and {'no' if bundle.costs is None else ''} costs"
        )
    if unit not in UNITS:
        raise ValidationError(f"wanted unit as one of {list(UNITS)}, got {unit!r}")
    numbers = {repr(float(budget)).removesuffix(".0"): float(budget) for budget in asked}
    if len(numbers) < len(asked):
        raise ValidationError(f"wanted budgets that differ, got {list(asked)}")
    points = {name: Budget(budget, unit, relative=True) for name, budget in numbers.items()}
    outputs = records.shards[0].outputs
    fitted = [Fitted(each.label, _policy(each, outputs), numbers, unit) for each in chosen]
    for each in fitted:
        each.policy.fit_points(records, bundle.costs, points)
    run.results_path.unlink(missing_ok=True)  # they are of the policies before
    _write(run, fitted, chosen)
    save(
        run.bundle_path,
        bundle.model,
        policy=fitted[0].policy,
        costs=bundle.costs,
        class_names=bundle.class_names,
        preprocess=bundle.preprocess,
        info=bundle.info,
    )
    return fitted


def load_policies(run: Run) -> list[Fitted]:
    """The policies that were fitted in a run.

    Raises:
        RunError: if the run is not trained to its end, or there are none, or they are damaged.
    """
    run.check_trained()
    file = run.policies_path / INDEX
    if not file.is_file():
        command = shlex.join(["offramp", "fit", str(run.path)])
        raise RunError(f"wanted fitted policies in the run {run.path}, got none yet: {command}")
    index = run.read_json(file, "fit")
    found = []
    try:
        for entry in index["policies"]:
            config = PolicyConfig(**entry)
            policy = _made(config, index["num_exits"])
            policy.load_state_dict(load_tensors(run.policies_path / _file(config.label)))
            found.append(Fitted(config.label, policy, index["budgets"], index["unit"]))
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{file}, or a policy that it names, is damaged: {error}") from None
    return found


def check_policies(run: Run, policies: Sequence[PolicyConfig] | None = None) -> None:
    """Raise what says why policies cannot be fitted in a run, if they cannot; nothing is written.

    Args:
        run: a trained run.
        policies: by default those of the run's configuration.

    Raises:
        RunError: if the run is not trained to its end.
        ValidationError: if a policy cannot be made for the run's exits.
    """
    outputs = run.calibration().shards[0].outputs
    for each in run.config.policies if policies is None else policies:
        _policy(each, outputs)


def check_fit(config: Config, costs: Costs, outputs: Sequence[ExitOutput]) -> None:
    """Raise what says why a configuration's policies cannot be made or its budgets be met.

    Args:
        config: a configuration.
        costs: of its model.
        outputs: what the model's exits say about some rows, trained or not; K of them.

    Raises:
        ValidationError: if a policy cannot be made for such exits, as one that reads gates where
            there are none.
        BudgetError: if a budget is out of reach; the message states the reachable range.
    """
    for each in config.policies:
        _policy(each, outputs)
    for budget in config.budgets:
        try:
            check_budget(costs.relative(), budget)
        except BudgetError as error:
            raise BudgetError(f"budgets: {error}") from None


def check_alike(runs: Sequence[Run]) -> None:
    """Raise what says that runs of one study are fitted unlike each other, if they are.

    Raises:
        RunError: if one has no fitted policies, or others than the first, or other budgets.
    """
    first, *others = [[(f.label, f.budgets, f.unit) for f in load_policies(run)] for run in runs]
    for run, fitted in zip(runs[1:], others, strict=True):
        if fitted != first:
            command = shlex.join(["offramp", "fit", str(run.path.parent)])
            raise RunError(
                f"wanted the same policies and budgets in every run of a study, got others in "
                f"{run.path} than in {runs[0].path}: {command} fits all of them"
            )


def _policy(config: PolicyConfig, outputs: Sequence[ExitOutput]) -> ExitPolicy:
    """A policy that is not fitted, for exits that say such things."""
    policy = _made(config, len(outputs))
    try:
        policy.check_outputs(outputs)
    except ValidationError as error:
        raise ValidationError(f"policy {config.label!r}: {error}") from None
    return policy


def _made(config: PolicyConfig, num_exits: int) -> ExitPolicy:
    policy = create_policy(config.name, num_exits=num_exits, **config.options)
    if isinstance(policy, Control):
        raise ValidationError(
            f"wanted a policy that can run, got the control {config.name!r}, which only scores "
            "records: offramp eval adds it by itself"
        )
    return policy


def _write(run: Run, fitted: Sequence[Fitted], configs: Sequence[PolicyConfig]) -> None:
    """Write every policy, then the index that names them, then tidy up what it does not name."""
    for each in fitted:
        save_tensors(run.policies_path / _file(each.label), each.policy.state_dict())
    index = {
        "num_exits": fitted[0].policy.num_exits,
        "unit": fitted[0].unit,
        "budgets": fitted[0].budgets,
        "policies": [config.model_dump() for config in configs],
    }
    write_text(run.policies_path / INDEX, json.dumps(index, indent=1) + "\n")
    named = {INDEX, *(_file(each.label) for each in fitted)}
    for file in run.policies_path.iterdir():
        if file.name not in named:
            file.unlink()


def _file(label: str) -> str:
    return f"{label}.safetensors"
