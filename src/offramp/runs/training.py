"""Training a study: one run per seed, from a configuration to a bundle."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..bundle import save
from ..config import Config, dump_config, load_config
from ..costs import device_of, measure
from ..data.base import Splits
from ..errors import RunError, ValidationError
from ..files import write_text
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..objectives.gated import GatedObjective
from ..records import record
from ..train.loop import fit
from ..train.world import World
from ..trees import move
from ..types import Batch, Costs, ExitOutput
from .build import (
    answers_with,
    dry_run,
    make_augment,
    make_data,
    make_model,
    make_objective,
    rows_at_once,
)
from .device import find_device
from .fitting import check_fit
from .folder import CONFIG, SEED, Run
from .gating import check_gating, train_gates

_FIRST = (CONFIG, "metrics.jsonl")  # what there is before the first checkpoint


def train(
    config: Config,
    out: str | Path,
    *,
    seeds: int = 1,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train, record the calibration part and save a bundle; once per seed.

    Where the configuration has a section ``gates``, gates are trained by themselves when all phases
    are done, and an alpha is found on the calibration part; ``gates.json`` says which.

    The test part is not touched. What stops on the way goes on with ``resume``; runs that are
    trained already stay as they are. Policies and budgets that could not be fitted are told before
    training. What was made of an earlier bundle of the run, such as results, is taken away.

    Args:
        config: what to train, and on what.
        out: the run's folder, or with several seeds the folder of ``seed-0``, ``seed-1``, ...
        seeds: how many runs, whose seeds follow ``config.seed``.
        resume: go on with what is there.
        device: where to train; by default on a GPU, where there is one.
        progress: show progress bars on standard error.

    Raises:
        RunError: if the folder holds something already and ``resume`` does not say to go on, or
            what it holds is of another configuration.
    """
    place = find_device(device)
    plan = _plan(config, Path(out), seeds)
    for run, own in plan:  # every folder is looked at before the first is trained
        _check(run, own, resume)
    World.current().barrier()  # no process writes before all have looked
    for run, own in plan:
        if not (run.bundle_path / "bundle.json").is_file():
            _train(run, own, resume=resume, device=place, progress=progress)
    return [run for run, _ in plan]


def _plan(config: Config, out: Path, seeds: int) -> list[tuple[Run, Config]]:
    if seeds < 1:
        raise RunError(f"wanted at least one seed, got {seeds}")
    if seeds == 1:
        return [(Run(out), config)]
    if (out / CONFIG).is_file():
        raise RunError(f"wanted a folder for {seeds} runs, got {out}, which holds a single one")
    own = [config.model_copy(update={"seed": config.seed + n}) for n in range(seeds)]
    return [(Run(out / f"{SEED}{each.seed}"), each) for each in own]


def _check(run: Run, config: Config, resume: bool) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"wanted a folder for the run, got the file {run.path}")
    if not _is_begun(run.path):
        return
    if not (run.path / CONFIG).is_file():
        raise RunError(f"wanted an empty folder or one of a run, got {run.path} with other files")
    if not resume:
        raise RunError(
            f"{run.path} holds a run already: wanted another folder (--out), or --resume to go on"
        )
    before = dump_config(load_config(run.path))
    if before != dump_config(config):
        changed = _differences(before, dump_config(config))
        raise RunError(
            f"wanted the configuration that {run.path} began with; it differs: {changed}"
        )


def _is_begun(folder: Path) -> bool:
    """Whether a folder holds more than a training leaves that is killed before its first step."""
    return folder.is_dir() and any(
        entry.name not in _FIRST and entry.suffix != ".partial" for entry in folder.iterdir()
    )


def _differences(before: str, after: str) -> str:
    first, second = before.splitlines(), after.splitlines()
    gone = [line.strip() for line in first if line not in second]
    new = [line.strip() for line in second if line not in first]
    return f"then {gone[:3]}, now {new[:3]}"


def _train(run: Run, config: Config, *, resume: bool, device: torch.device, progress: bool) -> None:
    world = World.current()
    with _begun(run, config, world):
        objective, options = make_objective(config.objective.plain()), _options(config)
        splits = make_data(config)
        model = make_model(config, splits).to(device)
        phases = options["phases"] or [{}]
        taught = [phase.get("objective", objective) for phase in phases]
        costs = _checked(config, model, splits, taught)
        fit(
            model,
            splits.train,
            objective,
            validation=splits.validation,
            augment=make_augment(config),
            costs=costs,
            out=run.path,
            resume=resume,
            seed=config.seed,
            device=device,
            progress=progress,
            **options,
        )
    if world.rank == 0:
        _finish(run, config, splits, model.eval(), costs, progress=progress)
    world.barrier()


def _checked(
    config: Config, model: MultiExitModel, splits: Splits, taught: Sequence[Objective]
) -> Costs:
    """Costs of a model that takes the data, in training too, and what is to be fitted to it.

    The objectives of all phases are looked at: the last one begins when most of the work is done.
    """
    monitor = config.train.monitor or ""
    if monitor.startswith("miou") and answers_with(splits.validation) == "label":
        raise ValidationError(
            f"wanted data whose targets are maps for train.monitor={monitor}, got labels: "
            f"{monitor.replace('miou', 'accuracy')} is for these"
        )
    outputs = dry_run(model.eval(), move(splits.example(2), device_of(model)))
    costs = measure(model, splits.example(2), latency=False)
    check_fit(config, costs, outputs)
    for objective in taught:
        _check_gates(objective, outputs, costs)
    check_gating(config, model, splits, costs)
    options = [config.train.options, *config.train.phases]
    least = min(each["batch_size"] for each in options if "batch_size" in each)
    few = move(splits.example(min(least, 2)), device_of(model))
    dry_run(copy.deepcopy(model).train(), few)  # a copy, as batch norm takes in what it sees
    return costs


@torch.no_grad()
def _check_gates(objective: Objective, outputs: Sequence[ExitOutput], costs: Costs) -> None:
    """Ask what teaches gates, also inside another objective, about the outputs of a dry run."""
    logits = outputs[0].logits
    rows = torch.arange(len(logits))
    target = torch.zeros(len(logits), *logits.shape[2:], dtype=torch.long, device=logits.device)
    for inner in objective.modules():
        if isinstance(inner, GatedObjective):
            inner(outputs, Batch(None, target, rows, 0.0), costs)


@contextmanager
def _begun(run: Run, config: Config, world: World) -> Iterator[None]:
    """Write down the configuration; where training fails before its first checkpoint, leave none.

    It is written first, so that a folder that takes nothing is told before any work.
    """
    fresh = not _is_begun(run.path)
    made = [path for path in (run.path, *run.path.parents) if not path.exists()]
    try:
        if world.rank == 0:
            write_text(run.path / CONFIG, dump_config(config))
        world.barrier()
        yield
    except Exception:
        begun = any((run.path / "checkpoints").glob("step-*"))
        if world.rank == 0 and fresh and not begun:
            _remove(run.path, made)
        raise


def _remove(folder: Path, made: Sequence[Path]) -> None:
    """Take out what a training that never began has written, and the folders made for it."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in _FIRST:
        with suppress(OSError):
            (folder / name).unlink()
    for empty in made:
        with suppress(OSError):
            empty.rmdir()


def _options(config: Config) -> dict[str, Any]:
    """What `offramp.fit` takes, from the configuration."""
    train = config.train
    phases = [
        {**phase, "objective": make_objective(phase["objective"])}
        if "objective" in phase
        else phase
        for phase in train.phases
    ]
    whole = {n: getattr(train, n) for n in ("monitor", "patience", "workers", "save_every")}
    return {**train.options, **whole, "phases": phases}


def _finish(
    run: Run, config: Config, splits: Splits, model: MultiExitModel, costs: Costs, *, progress: bool
) -> None:
    """Train gates, record the calibration part, and save the bundle, which says that all is done.

    What was made of a bundle that was there before is of another model, and goes first.
    """
    for file in (run.results_path, run.sweep_path, run.path / "report.html"):
        file.unlink(missing_ok=True)
    for folder in (run.records_path("test"), run.policies_path):
        shutil.rmtree(folder, ignore_errors=True)
    train_gates(run, config, splits, model, costs, progress=progress)
    folder, rows = run.records_path("calibration"), rows_at_once(config)
    record(model, splits.calibration, path=folder, batch_size=rows, progress=progress)
    made = {"name": config.name, "seed": config.seed, "data": config.data.name}
    save(
        run.bundle_path,
        model,
        costs=costs,
        class_names=splits.class_names,
        preprocess=splits.preprocess,
        info={**made, "task": answers_with(splits.calibration)},
    )
