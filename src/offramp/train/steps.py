"""The steps of a phase: a generator of one record per step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..costs import measure
from ..data.augment import augmented
from ..data.batches import Rows
from ..model import MultiExitModel
from ..trees import map_tensors, take
from ..types import Batch, Costs
from .average import Average
from .backward import Passed, forward_backward
from .meter import Step, counts, hits, join
from .mixing import Mixing, Partner, ask
from .parts import parameters, trainable
from .phases import Phase, check_costs
from .place import Place
from .schedules import factor
from .seeds import mix, reseed
from .world import World


@dataclass
class Run:
    """Everything that the steps of a phase share; made while only its parts are trainable."""

    model: MultiExitModel
    phases: Sequence[Phase]
    number: int  # of the phase
    place: Place
    world: World
    seed: int
    costs: Costs | None = None  # measured on the first batch where none are given

    def __post_init__(self) -> None:
        """Make the optimizer and the average, and note the rates that the schedule multiplies."""
        options = self.phase.options
        own = [p for p in parameters(self.phase.objective.modules()) if p.requires_grad]
        learning = [*trainable(self.model, options.train), *own]
        self.learning: list[nn.Parameter] = list({id(p): p for p in learning}.values())
        self.optimizer = self.phase.make(self.learning)
        self.rates: list[float] = [group["lr"] for group in self.optimizer.param_groups]
        self.average = None if options.ema is None else Average(self.model, options.ema)
        self.mixing = Mixing(options.mixup, options.cutmix)
        self.chance = torch.Generator(self.place.device)  # of augment
        # alone, a batch is a step, and its gradient is what backward leaves, bit for bit
        self.weighted = options.accumulate > 1 or self.world.size > 1

    @property
    def phase(self) -> Phase:
        """The phase that runs."""
        return self.phases[self.number]

    def set_lr(self, step: int) -> float:
        """Set the learning rate of a step; returns the first group's."""
        share = factor(self.phase.schedule, step, self.phase.total, self.phase.options.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        return self.rates[0] * share

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint in the middle of the phase needs, beside the model."""
        average = None if self.average is None else self.average.values
        return {"optimizer": self.optimizer.state_dict(), "average": average}

    def load(self, plain: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.optimizer.load_state_dict(plain["optimizer"])
        if self.average is not None:
            self.average.load(plain["average"])


def epoch_steps(run: Run, epoch: int, skip: int = 0) -> Generator[Step, None, None]:
    """Train for one pass over the data, one record per step.

    Args:
        run: the phase.
        epoch: number of the pass; with the seed, it decides the order of rows.
        skip: steps at the start that are done already.
    """
    phase, accumulate = run.phase, run.phase.options.accumulate
    if skip >= phase.steps:  # a DataLoader that has more would not end
        return
    order = torch.Generator().manual_seed(mix(run.seed, run.number, "order", epoch))
    batches = phase.source.batches(
        order,
        skip=skip * accumulate,
        seeds=lambda batch: mix(run.seed, run.number, "read", epoch, batch),
        share=_share(run),
    )
    parts: list[Step] = []
    weights: list[Tensor | None] = []
    with closing(batches):
        for batch, rows in enumerate(batches, skip * accumulate):
            now = _Now(epoch, epoch * phase.steps + batch // accumulate, batch)
            lr = _begin(run, now.step) if not parts else parts[0].lr
            part, weight = _pass(run, now, rows)
            parts.append(part._replace(lr=lr))
            weights.append(weight)
            last = batch + 1 == phase.batches
            if last or len(parts) == accumulate:
                _end(run, weights)
                yield join(parts)
                parts, weights = [], []
            if last:
                return
    if parts:  # a DataLoader that gave less than it said
        _end(run, weights)
        yield join(parts)


def _share(run: Run) -> Callable[[Tensor], Tensor] | None:
    """What cuts this process's part out of a batch's rows."""
    if run.world.size == 1:
        return None
    # batch norm cannot learn from a single row: a small last batch goes to fewer processes
    full = run.phase.source.batch_size
    return partial(run.world.share, least=2 if full is None or full >= 2 * run.world.size else 1)


class _Now(NamedTuple):
    """Where in the phase a batch is."""

    epoch: int
    step: int  # of the phase
    batch: int  # of the epoch


def _begin(run: Run, step: int) -> float:
    """Set the rate of a step, which is returned, and forget the last one's gradients."""
    run.optimizer.zero_grad(set_to_none=True)
    return run.set_lr(step)


def _pass(run: Run, now: _Now, rows: Rows) -> tuple[Step, Tensor | None]:
    """Run a batch forward and backward: what it did, and the weight of its gradients, if any."""
    drawn = (run.seed, run.number, now.epoch, now.batch, run.world.rank)
    reseed(mix(*drawn, "model"), run.place.device)
    batch, partner = _prepared(run, now, rows, drawn)
    ignored = run.phase.ignored
    weight = counts(batch.target, ignored).sum() if run.weighted else None
    costs = cast(Costs, run.costs)
    with run.place.autocast():
        if rows.spare:
            passed = _ask_idly(run, batch, partner, costs)
        else:
            passed = forward_backward(
                run.model, run.phase.objective, batch, costs, partner=partner, weight=weight
            )
    terms = {term.name: term.value for term in passed.terms}
    seen = hits(passed.outputs, batch.target, ignored)
    num = len(batch.target)
    done = Step(now.epoch, now.step, batch.progress, 0.0, num, passed.loss, terms, *seen)
    return (_nothing(done) if rows.spare else done), weight


def _prepared(
    run: Run, now: _Now, rows: Rows, drawn: tuple[int, ...]
) -> tuple[Batch, Partner | None]:
    """The batch that the model sees: on the device, augmented and mixed."""
    inputs, target, index, spare = run.place.bring(rows)
    if run.phase.augment is not None:
        chance = run.chance.manual_seed(mix(*drawn, "augment"))
        inputs, target = augmented(run.phase.augment, inputs, target, chance)
    if run.costs is None:
        few = take(inputs, torch.arange(min(2, len(target))))
        run.costs = measure(run.model, few, latency=False)
        check_costs(run.phases, run.costs)
    if spare:  # before they are mixed: no partner's target may count either
        target = torch.full_like(target, -100)
    batch = Batch(inputs, target, index, now.step / run.phase.total)
    return run.mixing(batch, mix(*drawn, "mixing")) if run.mixing else (batch, None)


def _ask_idly(run: Run, batch: Batch, partner: Partner | None, costs: Costs) -> Passed:
    """Ask the objective about rows that do not count, as often as the other processes ask it.

    It may add up something over all processes. No gradient is taken: of nothing it may be NaN.
    """
    outputs = run.model(batch.inputs)
    terms = ask(run.phase.objective, outputs, batch, costs, partner)
    loss = torch.stack([term.value for term in terms]).sum()
    return map_tensors(Tensor.detach, Passed(outputs, terms, loss))


def _nothing(step: Step) -> Step:
    """A step that counts nothing; not even an infinite loss."""
    return step._replace(
        rows=0,
        loss=torch.zeros_like(step.loss),
        terms={name: torch.zeros_like(value) for name, value in step.terms.items()},
        correct=torch.zeros_like(step.correct),
        counted=torch.zeros_like(step.counted),
    )


def _end(run: Run, weights: list[Tensor | None]) -> None:
    """One step of the optimizer, with the gradients of all batches and processes."""
    if run.weighted:
        total = torch.stack([weight for weight in weights if weight is not None]).sum()
        run.world.reduce_gradients(run.learning, total)
    if run.phase.options.clip is not None:
        nn.utils.clip_grad_norm_(run.learning, run.phase.options.clip)
    run.optimizer.step()
    if run.average is not None:
        run.average.update()
