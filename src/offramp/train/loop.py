"""The training loop: a generator of one record per step, and `fit`, which drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..costs import device_of, measure, modules_of
from ..data.batches import Data, Rows, Source, open_data
from ..errors import DataError, ValidationError
from ..model import MultiExitModel
from ..modes import keep_modes
from ..objectives.base import Objective
from ..trees import State, map_tensors, move, take
from ..types import Batch, Costs
from .backward import forward_backward
from .meter import History, Meter, Step, hits, progress_bar
from .options import (
    MakeOptimizer,
    check_model,
    check_numbers,
    find_objective,
    find_optimizer,
    one_of,
)
from .schedules import Schedule, factor, find

Augment = Callable[[State, torch.Generator], State]


def fit(
    model: MultiExitModel,
    data: Data,
    objective: str | Objective = "joint",
    *,
    epochs: int,
    batch_size: int = 128,
    optimizer: Literal["sgd", "adamw"] | MakeOptimizer = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    schedule: Literal["cosine", "constant"] | Schedule = "cosine",
    warmup: float = 0.0,
    precision: Literal["float32", "bf16"] = "float32",
    channels_last: bool = False,
    train: Literal["all", "heads"] = "all",
    augment: Augment | None = None,
    validation: Data | None = None,
    costs: Costs | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train a multi-exit model in place.

    Modes and ``requires_grad`` are put back afterwards, whatever happens. The caller's random state
    is not touched; on a CPU, the same seed gives the same weights, bit for bit.

    Args:
        model: the model; it stays on ``device`` and in the layout asked for.
        data: tensors (inputs, targets), a map-style Dataset of such pairs, or a DataLoader, which
            keeps its own batches and order and does not say rows: ``Batch.index`` is then -1. Of
            tensors and Datasets, a last batch of a single row is left out.
        objective: what to minimise, by name or itself; its own parameters learn too.
        epochs: passes over the data.
        batch_size: rows of a batch.
        optimizer: ``sgd``, ``adamw`` or a function from parameters to an optimizer; the function
            sees to its own rates, which the schedule multiplies, and takes no ``lr``.
        lr: learning rate at a factor of 1.
        momentum: of ``sgd``.
        nesterov: of ``sgd``: look ahead along the momentum.
        weight_decay: of every parameter.
        schedule: the factor of the learning rate: ``cosine``, ``constant`` or a function of the
            progress in [0, 1).
        warmup: share of all steps, in [0, 1), over which the learning rate first rises in a line.
        precision: ``bf16`` runs model and objective under autocast; logits become float32 before
            the objective sees them.
        channels_last: lay out weights and inputs of four dimensions channels last.
        train: ``heads`` trains the early heads alone: the last exit is the network's own, and it
            and the segments stay as they are, batch-norm statistics included.
        augment: changes the inputs of a training batch on the device, ``(inputs, generator)``.
        validation: data whose accuracy is measured after every epoch.
        costs: handed to the objective; by default measured, without latency.
        seed: of the order of rows, of dropout and of ``augment``.
        device: where to train; by default where the model is.
        progress: show a progress bar on standard error.

    Returns:
        One dict per epoch: loss, terms (means over rows), accuracy (training, per exit), lr (of the
        last step), seconds, images_per_s, and validation_accuracy (per exit) where there is
        validation data.

    Raises:
        ValidationError: if an option is wrong; the message lists the valid choices.
        DataError: if the data are of no kind that it takes.
        TrainingError: if a term is not finite; found within 64 steps.

    Example:
        >>> history = fit(model, (images, labels), epochs=3, progress=False)
        >>> history[-1]["accuracy"]
        [0.91, 0.95, 0.97]
    """
    check_model(model, train, costs)
    check_numbers(epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, warmup=warmup)
    one_of("precision", precision, ("float32", "bf16"))
    make = find_optimizer(optimizer, lr, weight_decay, momentum=momentum, nesterov=nesterov)
    curve, goal = find(schedule), find_objective(objective)
    source = open_data(data, batch_size, keep_single=False)
    checking = None if validation is None else open_data(validation, batch_size)
    place = Place(
        torch.device(device) if device is not None else device_of(model), precision, channels_last
    )
    if source.steps is None:
        raise DataError("wanted data of known length, got a DataLoader that does not know its own")
    total, history = epochs * source.steps, []
    bar = progress_bar(total, epochs) if progress else nullcontext()
    with _seeded(seed, place.device), _phase(model, train), bar as display:
        place.settle(model, goal)
        worker = make(_trainable(model, goal))
        run = Run(
            model, goal, worker, place, curve, warmup, source.steps, total, seed, augment, costs
        )
        for epoch in range(epochs):
            meter = Meter(epoch, model.num_exits, display)
            for step in epoch_steps(run, source, epoch):
                meter.add(step)
            history.append(meter.summary())
            if checking is not None:
                history[-1]["validation_accuracy"] = accuracy(model, checking, place, run.ignored)
    return history


class Place(NamedTuple):
    """Where and how a model runs."""

    device: torch.device
    precision: str = "float32"
    channels_last: bool = False

    def settle(self, *modules: nn.Module) -> None:
        """Move modules to the device and into the layout."""
        for module in modules:
            module.to(self.device)
            if self.channels_last:
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def bring(self, rows: Rows) -> Rows:
        """Rows on the device and in the layout."""
        inputs = move(rows.inputs, self.device)
        if self.channels_last:
            inputs = map_tensors(_channels_last, inputs)
        return Rows(inputs, move(rows.target, self.device), rows.row)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision, as a context."""
        return (
            torch.autocast(self.device.type, torch.bfloat16)
            if self.precision == "bf16"
            else nullcontext()
        )


@dataclass
class Run:
    """Everything that the steps of a phase share."""

    model: MultiExitModel
    objective: Objective
    optimizer: torch.optim.Optimizer
    place: Place
    schedule: Schedule
    warmup: float
    steps: int  # of an epoch
    total: int  # steps of the phase
    seed: int
    augment: Augment | None = None
    costs: Costs | None = None  # measured on the first batch where none are given

    def __post_init__(self) -> None:
        """Note the rates that the schedule multiplies, and make the generators."""
        self.rates: list[float] = [group["lr"] for group in self.optimizer.param_groups]
        self.order = torch.Generator().manual_seed(self.seed)  # of rows
        self.ignored: int | None = getattr(self.objective, "ignore_index", None)
        self.chance = torch.Generator(self.place.device).manual_seed(self.seed)  # of augment

    def set_lr(self, step: int) -> float:
        """Set the learning rate of a step; returns the first group's."""
        share = factor(self.schedule, step, self.total, self.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        return self.rates[0] * share


def epoch_steps(run: Run, source: Source, epoch: int) -> Iterator[Step]:
    """Train for one pass over the data, one record per step."""
    for number, rows in enumerate(source.batches(run.order), epoch * run.steps):
        inputs, target, index = run.place.bring(rows)
        if run.augment is not None:
            inputs = run.augment(inputs, run.chance)
        if run.costs is None:
            run.costs = measure(
                run.model, take(inputs, torch.arange(min(2, len(target)))), latency=False
            )
        batch = Batch(inputs, target, index, progress=number / run.total)
        lr = run.set_lr(number)
        run.optimizer.zero_grad(set_to_none=True)
        with run.place.autocast():
            passed = forward_backward(run.model, run.objective, batch, run.costs)
        run.optimizer.step()
        terms = {term.name: term.value.detach() for term in passed.terms}
        correct, counted = hits(passed.outputs, target, run.ignored)
        loss = passed.loss.detach()
        yield Step(epoch, number, batch.progress, lr, len(target), loss, terms, correct, counted)


@torch.no_grad()
def accuracy(
    model: MultiExitModel, source: Source, place: Place, ignored: int | None = None
) -> list[float]:
    """Share that each exit gets right, in eval mode, K numbers; no random state is touched."""
    counts = torch.zeros(2, model.num_exits, dtype=torch.long, device=place.device)
    with keep_modes(model, model.segments), _forked(place.device):
        model.eval()
        for rows in source.batches(None):
            inputs, target, _ = place.bring(rows)
            with place.autocast():
                outputs = model(inputs)
            counts += torch.stack(hits(outputs, target, ignored))
    return (counts[0].cpu().double() / counts[1].cpu().clamp_min(1)).tolist()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed this device and the processor, and put their random states back afterwards."""
    with _forked(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Put the random states of this device and the processor back afterwards."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def _phase(model: MultiExitModel, train: str) -> Iterator[None]:
    """Set modes and ``requires_grad`` for training, and put both back afterwards."""
    parameters = _parameters(modules_of(model))
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    with keep_modes(model, model.segments):
        try:
            model.train(train == "all")
            if train == "heads":
                _freeze(model)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None


def _freeze(model: MultiExitModel) -> None:
    """Leave nothing to learn but the early heads; batch norm elsewhere keeps its statistics."""
    early = model.heads[:-1]
    early.train()
    own = {id(p) for p in early.parameters()}
    used = {id(p) for part in (model.segments, model.heads[-1]) for p in part.parameters()}
    for parameter in _parameters(modules_of(model)):
        if id(parameter) not in own - used:
            parameter.requires_grad_(False)


def _trainable(model: MultiExitModel, objective: Objective) -> list[nn.Parameter]:
    found = [p for p in _parameters([*modules_of(model), *objective.modules()]) if p.requires_grad]
    if not found:
        raise ValidationError(
            "wanted at least one parameter to train, but requires_grad is False for all of them"
        )
    return found


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters of modules, each once, in the order in which they come."""
    return list({id(p): p for module in modules for p in module.parameters(recurse=False)}.values())
