"""`offramp fit`: policies fitted to budgets on the calibration part."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

Path_ = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a study.")]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of a policy, or {name: NAME, option: value}; repeat. By default the recipe's."
    ),
]
Budgets = Annotated[
    list[float] | None,
    typer.Option("--budget", help="Mean cost, as a share of the full network's; repeat."),
]
Unit = Annotated[str, typer.Option(help="What the cost is counted in: macs or params.")]
Json = Annotated[bool, typer.Option("--json", help="Print what was fitted as JSON.")]


def fit(
    run: Path_,
    policy: Policy = None,
    budget: Budgets = None,
    unit: Unit = "macs",
    as_json: Json = False,
) -> None:
    """Fit policies to budgets, on the calibration part of a trained run.

    Every budget becomes an operating point. The first policy, set to the first budget, goes into
    the run's bundle.

    \b
    Examples:
      offramp fit runs/mnist
      offramp fit runs/mnist --policy entropy --budget 0.5
      offramp fit runs/mnist --policy max_prob --policy margin --budget 0.3 --budget 0.5
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..config import named_policies
    from ..runs import check_policies, fit_policies, open_runs

    policies = None if policy is None else named_policies(policy)
    runs = open_runs(run)
    for each in runs:
        check_policies(each, policies)  # before the first is fitted
    told = []
    for each in runs:
        fitted = fit_policies(each, policies, budget, unit=unit)
        points = list(fitted[0].budgets)
        names = [one.label for one in fitted]
        told.append({"run": str(each.path), "policies": names, "points": points, "unit": unit})
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    for line in told:
        typer.echo(f"{line['run']}: {', '.join(line['policies'])} at {', '.join(line['points'])}")
    typer.echo(f"Next: {shlex.join(['offramp', 'eval', str(run)])}")
