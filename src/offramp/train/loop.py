"""`fit`, the door to training: what it takes, and the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from ..costs import device_of
from ..data.batches import Data, Source, open_data
from ..errors import DataError, ValidationError
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..types import Costs
from .bar import Display, progress_bar
from .meter import History
from .options import Augment, MakeOptimizer, Options, Part, is_number, whole
from .phases import OPTIONS, Common, Phase, check_augments, check_costs, check_mixing, plan
from .place import Place, check_layout
from .resume import Keeper, open_folder
from .schedules import Schedule
from .seeds import random_states_kept
from .session import Session, run_phases
from .validate import Monitor
from .world import World


def fit(
    model: MultiExitModel,
    data: Data,
    objective: str | Objective = "joint",
    *,
    epochs: int | None = None,
    batch_size: int = 128,
    accumulate: int = 1,
    optimizer: Literal["sgd", "adam", "adamw"] | MakeOptimizer = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    schedule: Literal["cosine", "one_cycle", "poly", "step", "constant"] | Schedule = "cosine",
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    warmup: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    precision: Literal["float32", "bf16", "auto"] = "float32",
    channels_last: bool = False,
    train: Part | Sequence[Part] = "all",
    phases: Sequence[Mapping[str, Any]] = (),
    augment: Augment | None = None,
    validation: Data | None = None,
    monitor: str | None = None,
    patience: int | None = None,
    costs: Costs | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train a multi-exit model in place.

    Modes and ``requires_grad`` are put back afterwards, whatever happens. The caller's random state
    is not touched. What a step draws depends on the seed and on its number alone: on a CPU, the
    same seed gives the same weights, bit for bit, and a training that is killed and resumed ends
    with the weights and the history of one that was not disturbed.

    Args:
        model: the model; it stays on ``device`` and in the layout asked for.
        data: tensors (inputs, targets), a map-style Dataset of such pairs, data with a method
            ``batch(rows)``, or a DataLoader, which keeps its own batches and order and does not say
            rows: ``Batch.index`` is then -1, and no objective that is refreshed from all rows, as
            ``pseudo_exit`` is, can be trained. A last batch of a single row is left out, but for a
            DataLoader's. A DataLoader's workers that persist are not resumed bit for bit.
        objective: what to minimise, by name or itself; its own parameters learn too. By name, each
            phase has a new one. When training is resumed it goes on from its ``state_dict``, of
            several processes the first one's.
        epochs: passes over the data.
        batch_size: rows of a batch, of all processes together; a last one too small to give each
            process two is shared by fewer.
        accumulate: batches per step; the gradient is that of their joint mean over the targets
            that count.
        optimizer: ``sgd``, ``adam``, ``adamw`` or a function from parameters to an optimizer; the
            function sees to its own rates, which the schedule multiplies, and takes no ``lr``.
        lr: learning rate at a factor of 1.
        momentum: of ``sgd``.
        nesterov: of ``sgd``: look ahead along the momentum.
        weight_decay: of every parameter that is trained.
        schedule: the factor of the learning rate: ``cosine``, ``one_cycle``, ``poly``, ``step``,
            ``constant`` or a function of the progress in [0, 1).
        milestones: of ``step``: shares of the progress at which the rate is multiplied.
        gamma: of ``step``: by what it is multiplied.
        warmup: share of all steps, in [0, 1), over which the learning rate first rises in a line.
        clip: upper bound of the norm of all gradients together.
        ema: decay of a moving average of the weights that are trained, and of batch norm's
            statistics. Validation, the best weights and the weights at the end are the average's.
        label_smoothing: handed to an objective that is given by name.
        mixup: parameter of the Beta distribution by which inputs are mixed in pairs.
        cutmix: likewise for boxes cut out of images [N, C, H, W]; with both, a coin decides for
            each batch. Training accuracy is then that of the input with the share as drawn, and
            says little.
        precision: ``bf16`` runs model and objective under autocast; logits become float32 before
            the objective sees them. ``auto`` is ``bf16`` where the device has units for it, and
            ``float32`` where it would be emulated, which takes ten times as long.
        channels_last: lay out weights and inputs of four dimensions channels last.
        train: what learns: ``all``, ``heads`` (the early ones; the last exit is the network's own),
            ``gates``, ``head.K`` or ``gate.K`` of exit K alone, the number of a segment, the name
            of a module of the network that exits were attached to, such as ``fc``, or several of
            these. All else stays as it is, bit for bit, batch-norm statistics included.
        phases: parts of the training that run one after another, each a mapping of the options
            above, ``objective`` and ``augment`` that it has for itself. Each has its own optimizer,
            schedule, average, best weights and ``Batch.progress``.
        augment: changes the inputs of a training batch on the device, ``(inputs, generator)``. One
            that has a method ``paired(inputs, target, generator)``, as those of
            `offramp.data.augmentation` do, is asked for inputs and targets by it; targets that are
            maps need one.
        validation: data on which every exit is measured after every epoch.
        monitor: the validation figure that decides which weights a phase ends with: ``accuracy``,
            ``nll`` or, for maps, ``miou``, then ``last``, ``mean`` or an exit, such as
            ``accuracy/last``. Of equal figures the later one is kept.
        patience: end a phase after so many epochs without a better figure.
        costs: handed to the objective; by default measured, without latency.
        out: the run's folder, for ``metrics.jsonl`` and ``checkpoints``; several processes must all
            be able to read it.
        resume: go on from the newest checkpoint in ``out``, or start where there is none.
        save_every: seconds between two checkpoints within an epoch; one is saved after every epoch.
        workers: processes that read a Dataset.
        seed: of the order of rows, of dropout, of ``augment`` and of what a Dataset draws.
        device: where to train; by default where the model is.
        progress: show a progress bar on standard error.

    Returns:
        One dict per epoch: phase, epoch (of the phase), loss, terms (means over rows), accuracy
        (training, per exit), lr (of the last step), seconds and images_per_s; with validation data
        validation_accuracy and validation_nll (nats), per exit; with a monitor best, whether these
        weights were the best of the phase so far. Where targets are maps there are miou and
        validation_miou too: mean intersection over union, in training at the heads' resolution.

    Raises:
        ValidationError: if an option is wrong, the message lists the valid choices; or if an
            objective cannot teach as many exits, in whichever phase.
        OptionError: if a phase has an option that is none.
        BudgetError: if an objective's ``target_cost`` is out of reach.
        DataError: if the data are of no kind that it takes.
        TrainingError: if a term is not finite, found within 64 steps; if there are checkpoints in
            ``out`` and ``resume`` is not asked for; or if they are of another training.

    Example:
        >>> history = fit(model, (images, labels), epochs=3, progress=False)
        >>> history[-1]["accuracy"]
        [0.91, 0.95, 0.97]
    """
    given = dict(locals())  # the options of a phase are handed on together
    _check(model, costs, validation, monitor, patience=patience, save_every=save_every)
    whole("workers", workers, 0)
    whole("seed", seed, 0)
    common = Common(Options(**{name: given[name] for name in OPTIONS}), objective, augment)
    planned = plan(model, data, common, phases, workers=workers)
    checks = [_open_validation(validation, phase, workers) for phase in planned]
    place = Place(torch.device(device) if device is not None else device_of(model))
    for each in planned:
        check_layout(model, place.of(each.options))
    if costs is not None:
        check_costs(planned, costs)
    folder = open_folder(out, resume)
    world = World.current()
    _check_shared(data, validation, world)
    session = Session(
        model=model,
        phases=planned,
        checks=checks,
        place=place,
        world=world,
        seed=seed,
        keeper=Keeper(folder, save_every, world),
        monitor=None if monitor is None else Monitor.named(monitor, model.num_exits),
        patience=patience,
        costs=costs,
    )
    with random_states_kept(place.device):
        check_augments(planned)
        check_mixing(planned)
        state = session.keeper.open(session.fingerprint, resume)
        with _shown(planned, progress and world.rank == 0) as display:
            return run_phases(session, state, display)


def _shown(phases: Sequence[Phase], progress: bool) -> AbstractContextManager[Display | None]:
    if not progress:
        return nullcontext()
    total = sum(phase.total for phase in phases)
    return progress_bar(total, f"{sum(phase.epochs for phase in phases)} epochs")


# ------------------------------------------------------------------------ checks
def _check(
    model: object,
    costs: Costs | None,
    validation: Data | None,
    monitor: str | None,
    *,
    patience: int | None,
    save_every: float,
) -> None:
    if not isinstance(model, MultiExitModel):
        raise ValidationError(
            f"wanted a MultiExitModel, as attach or create_model make; got {type(model).__name__}"
        )
    if costs is not None and not isinstance(costs, Costs):
        raise ValidationError(f"wanted costs as measure gives them, got {type(costs).__name__}")
    if costs is not None and costs.num_exits != model.num_exits:
        raise ValidationError(f"wanted costs of {model.num_exits} exits, got {costs.num_exits}")
    if monitor is not None:
        Monitor.named(monitor, model.num_exits)
        if validation is None:
            raise ValidationError(f"wanted validation data for monitor={monitor!r}, got none")
    if patience is not None:
        whole("patience", patience)
        if monitor is None:
            raise ValidationError("wanted a monitor for patience to look at, got None")
    if not is_number(save_every) or not save_every >= 0:
        raise ValidationError(f"wanted save_every as seconds of at least 0, got {save_every!r}")


def _open_validation(validation: Data | None, phase: Phase, workers: int) -> Source | None:
    if validation is None:
        return None
    return open_data(validation, phase.options.batch_size, workers=workers)


def _check_shared(data: Data, validation: Data | None, world: World) -> None:
    """Every batch is shared out: a DataLoader that shares already would lose rows."""
    for loader in (data, validation):
        if world.size > 1 and isinstance(loader, DataLoader):
            sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
            if isinstance(sampler, DistributedSampler):
                raise DataError(
                    "wanted a DataLoader that gives every process all rows, as each batch is "
                    "shared out among the processes; got one with a DistributedSampler"
                )
