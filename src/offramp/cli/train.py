"""`offramp train`: from a recipe to a trained run with a bundle."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from .spread import spread

Source = Annotated[str, typer.Argument(help="A recipe's name, a YAML file or a run to go on with.")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as train.epochs=3 or data.path=photos.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME.")]
Seeds = Annotated[int, typer.Option(min=1, help="Train so many runs, one per seed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the runs' folders and figures as JSON.")]

_PARTS = ("", "validation_")  # how figures of an epoch begin


def train(
    source: Source,
    changes: Changes = None,
    out: Out = None,
    seeds: Seeds = 1,
    resume: Resume = False,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a recipe; the run's folder gets checkpoints, metrics, calibration records, a bundle.

    Killed at any moment, the same command with --resume goes on to the same weights. Started by
    torchrun or accelerate launch, processes share the batches.

    \b
    Examples:
      offramp train digits
      offramp train mnist data.path=mnist train.epochs=3 --out runs/short
      offramp train my.yaml --seeds 3
      offramp train runs/mnist --resume
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..config import load_config
    from ..runs import is_run
    from ..runs import train as train_runs
    from ..train.world import World

    config = load_config(source, changes or [])
    if out is None:
        out = Path(source) if is_run(source) else Path("runs") / config.name
    runs = train_runs(config, out, seeds=seeds, resume=resume, device=device, progress=not quiet)
    if World.leave().rank:  # of several processes the first one speaks
        return
    told = [_told(run.path) for run in runs]
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    for each in told:
        typer.echo(f"{each['run']}: {_shares([each])}; bundle in {each['bundle']}")
    if len(told) > 1:
        typer.echo(f"{len(told)} seeds, mean ± standard deviation: {_shares(told)}")
    typer.echo(f"Next: {shlex.join(['offramp', 'fit', str(out)])}")


def _shares(told: list[dict[str, Any]]) -> str:
    """Validation accuracy of each exit, of maps the mean IoU, over the runs."""
    figure, title = ("miou", "mean IoU") if "miou" in told[0] else ("accuracy", "accuracy")
    exits = zip(*[each[f"validation_{figure}"] for each in told], strict=True)
    shares = [spread([100 * share for share in each], 2) for each in exits]
    return f"validation {title} per exit {', '.join(shares)} %"


def _told(path: Path) -> dict[str, Any]:
    """Where a run is, and the last epoch's figures."""
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [line for line in map(json.loads, lines) if line["kind"] == "epoch"][-1]
    names = ["accuracy", *(["miou"] if "miou" in last else [])]
    figures = {f"{part}{name}": last.get(f"{part}{name}") for name in names for part in _PARTS}
    return {"run": str(path), "bundle": str(path / "bundle"), **figures}
