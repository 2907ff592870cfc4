"""Training a study: one run per seed, from a configuration to a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..bundle import save
from ..config import Config, dump_config, load_config
from ..costs import measure
from ..data.base import Splits
from ..errors import OfframpError, RunError
from ..files import write_text
from ..model import MultiExitModel
from ..records import record
from ..train.loop import fit
from ..train.world import World
from ..types import Costs
from .build import make_augment, make_data, make_model, make_objective
from .device import find_device
from .folder import SEED, Run


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

    The test part is not touched. What stops on the way goes on with ``resume``; runs that are
    trained already stay as they are.

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
    for run, own in plan:
        if not (run.bundle_path / "bundle.json").is_file():
            _train(run, own, resume=resume, device=place, progress=progress)
    return [run for run, _ in plan]


def _plan(config: Config, out: Path, seeds: int) -> list[tuple[Run, Config]]:
    if seeds < 1:
        raise RunError(f"wanted at least one seed, got {seeds}")
    if seeds == 1:
        return [(Run(out), config)]
    own = [config.model_copy(update={"seed": config.seed + n}) for n in range(seeds)]
    return [(Run(out / f"{SEED}{each.seed}"), each) for each in own]


def _check(run: Run, config: Config, resume: bool) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"wanted a folder for the run, got the file {run.path}")
    if not run.path.is_dir() or not any(run.path.iterdir()):
        return
    if not (run.path / "config.yaml").is_file():
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


def _differences(before: str, after: str) -> str:
    first, second = before.splitlines(), after.splitlines()
    gone = [line.strip() for line in first if line not in second]
    new = [line.strip() for line in second if line not in first]
    return f"then {gone[:3]}, now {new[:3]}"


def _train(run: Run, config: Config, *, resume: bool, device: torch.device, progress: bool) -> None:
    world = World.current()
    splits = make_data(config)
    model = make_model(config, splits).to(device)
    costs = measure(model, splits.example(2), latency=False)
    with _begun(run, config, world):
        fit(
            model,
            splits.train,
            make_objective(config.objective.plain()),
            validation=splits.validation,
            augment=make_augment(config),
            costs=costs,
            out=run.path,
            resume=resume,
            seed=config.seed,
            device=device,
            progress=progress,
            **_options(config),
        )
    if world.rank == 0:
        _finish(run, config, splits, model.eval(), costs, progress=progress)
    world.barrier()


@contextmanager
def _begun(run: Run, config: Config, world: World) -> Iterator[None]:
    """Write down the configuration; where training is refused at its door, leave nothing."""
    if world.rank == 0:
        write_text(run.path / "config.yaml", dump_config(config))
    world.barrier()
    try:
        yield
    except OfframpError:
        if world.rank == 0 and not any((run.path / "checkpoints").glob("step-*")):
            _remove(run.path)
        raise


def _remove(folder: Path) -> None:
    """Take out what a training that never began has written, and the folder if it is empty then."""
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for empty in (folder / "checkpoints", folder):
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
    """Record the calibration part, and save the bundle, which says that all is done."""
    record(model, splits.calibration, path=run.records_path("calibration"), progress=progress)
    save(
        run.bundle_path,
        model,
        costs=costs,
        class_names=splits.class_names,
        preprocess=splits.preprocess,
        info={"name": config.name, "seed": config.seed, "data": config.data.name},
    )
