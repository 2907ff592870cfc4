"""A training in progress: its phases and epochs, and the checkpoints in between."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.batches import Source
from ..model import MultiExitModel
from ..types import Costs
from .bar import Display
from .meter import History, Meter, headline
from .parts import buffers_of, named_tensors, only_trained
from .phases import Phase, describe
from .place import Place
from .refresh import refresh
from .resume import Best, Keeper, Position
from .steps import Run, epoch_steps
from .validate import Monitor, validate
from .world import World


@dataclass
class Session:
    """A training: what does not change from phase to phase, and how far it is."""

    model: MultiExitModel
    phases: list[Phase]
    checks: list[Source | None]  # validation data, cut for each phase
    place: Place
    world: World
    seed: int
    keeper: Keeper
    monitor: Monitor | None = None
    patience: int | None = None
    costs: Costs | None = None
    history: History = field(default_factory=list)
    steps: int = 0  # done, over all phases
    at: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        """Note what must be the same when the training is resumed, before it changes."""
        check = self.checks[0]
        self.fingerprint: dict[str, Any] = {
            "seed": self.seed,
            "monitor": None if self.monitor is None else "/".join(map(str, self.monitor)),
            "patience": self.patience,
            "costs": None if self.costs is None else self.costs.to_dict(),
            "validation_rows": None if check is None else check.rows,
            "phases": [describe(phase) for phase in self.phases],
            "model": {
                name: [str(tensor.dtype), list(tensor.shape)]
                for name, tensor in named_tensors(self.model).items()
            },
        }

    def save(self, at: Position, now: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint; ``now`` is the state of a phase that is not at its end."""
        if self.keeper.folder is not None:
            tree = {
                "at": tuple(at),
                "steps": self.steps,
                "history": self.history,
                "costs": None if self.costs is None else self.costs.to_dict(),
                "model": named_tensors(self.model),
                "objectives": [phase.objective.state_dict() for phase in self.phases],
                "now": None if now is None else dict(now),
            }
            self.keeper.save(self.steps, tree, self.fingerprint)

    @torch.no_grad()
    def load(self, tree: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.at, self.steps, self.history = Position(*tree["at"]), tree["steps"], tree["history"]
        self.costs = None if tree["costs"] is None else Costs.from_dict(tree["costs"])
        for name, tensor in named_tensors(self.model).items():
            tensor.copy_(tree["model"][name])
        for phase, state in zip(self.phases, tree["objectives"], strict=True):
            phase.objective.load_state_dict(state)


def run_phases(
    session: Session, state: Mapping[str, Any] | None, display: Display | None
) -> History:
    """Run the phases that are not done.

    Args:
        session: the training.
        state: the checkpoint to go on from, if there is one.
        display: where progress is shown, if anywhere.
    """
    world, model = session.world, session.model
    for number, phase in enumerate(session.phases):
        options = phase.options
        place = session.place.of(options)
        place.settle(model, phase.objective)  # of phases that are done too: layouts stay
        if number == 0:
            _start(session, state, display)
        world.broadcast(phase.objective.state_dict().values())
        if number < session.at.phase:
            continue
        now = state["now"] if state is not None and number == state["at"][0] else None
        with only_trained(model, options.train):
            run = Run(model, session.phases, number, place, world, session.seed, session.costs)
            _train_phase(session, run, now, display)
        session.at = Position(number + 1)
        session.save(session.at)
    world.barrier()
    return session.history


def _start(session: Session, state: Mapping[str, Any] | None, display: Display | None) -> None:
    """Take the checkpoint's weights, or the first process's; the model is where it will be."""
    if state is not None:
        session.load(state)
    session.world.broadcast(named_tensors(session.model).values())
    if display is not None:
        display.advance(session.steps)


def _train_phase(
    session: Session, run: Run, now: Mapping[str, Any] | None, display: Display | None
) -> None:
    """Run the epochs of a phase that are not done, and leave the model with its final weights."""
    keeper, best = session.keeper, Best(session.keeper)
    if now is not None:
        run.load(now["run"])
        best.load(now["best"])
    meter_state = None if now is None else now["meter"]
    for epoch in range(session.at.epoch, run.phase.epochs):
        note = _note(session, run, epoch)
        if epoch and not session.at.step:  # a checkpoint within an epoch has it behind it
            refresh(run, epoch, display, note)
        meter = _meter(session, run, epoch, display, note)
        if meter_state is not None:
            meter.load(meter_state)
        skip, meter_state = session.at.step, None
        with closing(epoch_steps(run, epoch, skip)) as steps:
            for done, step in enumerate(steps, skip + 1):
                meter.add(step)
                session.steps, session.costs = session.steps + 1, run.costs
                if keeper.is_due(session.steps):
                    parts = {"run": run.to_dict(), "best": best.to_dict(), "meter": meter.to_dict()}
                    session.save(Position(run.number, epoch, done), parts)
        _end_epoch(session, run, best, meter.summary())
        session.at = Position(run.number, epoch + 1)
        if session.patience is not None and best.since >= session.patience:
            break
        if epoch + 1 < run.phase.epochs:
            parts = {"run": run.to_dict(), "best": best.to_dict(), "meter": None}
            session.save(session.at, parts)
    # no checkpoint lies between the best weights of this phase and the first ones of the next
    if run.average is not None:
        run.average.settle()
    best.settle(named_tensors(session.model))


def _end_epoch(session: Session, run: Run, best: Best, figures: Mapping[str, Any]) -> None:
    """Validate, keep the weights if they are the best ones, and note the epoch."""
    entry: dict[str, Any] = {"phase": run.number, **figures}
    check = session.checks[run.number]
    with nullcontext() if run.average is None else run.average.in_place():
        session.world.broadcast(buffers_of(session.model))
        if check is not None:
            entry |= validate(
                session.model,
                check,
                run.place,
                ignored=run.phase.ignored,
                world=session.world,
                seed=session.seed,
            )
        if session.monitor is not None:
            value = session.monitor.value(entry)
            entry["best"] = best.take_in(value, named_tensors(session.model))
    session.history.append(entry)
    session.keeper.write({"kind": "epoch", **entry})


def _note(session: Session, run: Run, epoch: int) -> str:
    """What the progress bar calls an epoch, with the last one's validation figure."""
    several = f"phase {run.number + 1}/{len(session.phases)}  " if len(session.phases) > 1 else ""
    note = f"{several}epoch {epoch + 1}/{run.phase.epochs}"
    before = session.history[-1] if session.history else {}
    if "validation_accuracy" in before:
        note += f"  validation {headline(before, 'validation_')}"
    return note


def _meter(session: Session, run: Run, epoch: int, display: Display | None, note: str) -> Meter:
    """The meter of an epoch."""
    return Meter(
        epoch,
        session.model.num_exits,
        display=display,
        report=lambda line: session.keeper.write({"kind": "steps", "phase": run.number, **line}),
        world=session.world,
        note=note,
    )
