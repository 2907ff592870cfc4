"""An objective that wants to sees every row before an epoch; training does not notice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from offramp.errors import DataError
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.objectives.distill import Distill
from offramp.objectives.gradient_equilibrium import GradientEquilibrium
from offramp.objectives.joint import Joint
from offramp.objectives.pseudo_exit import PseudoExit
from offramp.train import fit, refresh
from offramp.train.bar import Display
from offramp.types import Batch, Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
OPTIONS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 7,  # of 50 rows: the last one alone is left out of training
    "costs": COSTS,
    "progress": False,
    "seed": 3,
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def gated(tiny):
    def make() -> MultiExitModel:
        model = tiny(dropout=0.3)
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            model.heads[0] = nn.Sequential(nn.BatchNorm2d(4), LinearHead(4, 3, gate=True))
            model.heads[1] = LinearHead(6, 3, gate=True)
        return model

    return make


class Watch(Joint):
    """Notes what it is shown; looks at ``most`` batches."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self.looks: list[tuple[Costs, int]] = []
        self.batches: list[Batch] = []
        self.outputs: list[Any] = []

    def refresh(self, answers: Iterable[Any], costs: Costs, rows: int) -> None:
        self.looks.append((costs, rows))
        for number, (outputs, batch) in enumerate(answers, 1):
            self.outputs.append(outputs)
            self.batches.append(batch)
            if number == self.most:
                return


class Noise:
    """An augmentation, at whose n-th batch the process dies."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        self.last -= 1
        if self.last == 0:
            raise KeyboardInterrupt
        return inputs + torch.randn(inputs.shape, generator=generator)


# ----------------------------------------------------------------------- what is shown
def test_rows_are_shown_in_order_before_every_epoch_but_the_first(tiny, data):
    watch = Watch()
    fit(tiny(), data, watch, augment=Noise(), mixup=0.4, **OPTIONS)
    assert watch.looks == [(COSTS, 50)] * 2
    per_look = len(watch.batches) // 2
    for epoch, look in ((1, watch.batches[:per_look]), (2, watch.batches[per_look:])):
        assert torch.equal(torch.cat([b.index for b in look]), torch.arange(50))
        assert torch.equal(torch.cat([b.inputs for b in look]), data[0])
        assert torch.equal(torch.cat([b.target for b in look]), data[1])
        assert {b.progress for b in look} == {epoch / 3}


def test_answers_are_those_of_the_model_in_eval_mode_without_gradients(tiny, data):
    model, modes, wanted = tiny(dropout=0.3), [], []

    class Ask(Watch):
        def refresh(self, answers, costs, rows):
            super().refresh(answers, costs, rows)
            modes.extend(module.training for module in model.modules())
            wanted.append(model(data[0][:7]))

    watch = Ask()
    fit(model, data, watch, **OPTIONS)
    assert modes and not any(modes)
    for came, out in zip(watch.outputs[0], wanted[0], strict=True):
        assert not came.logits.requires_grad
        torch.testing.assert_close(came.logits, out.logits)


def test_answers_have_the_precision_and_the_layout_of_training(tiny, data):
    watch = Watch()
    fit(tiny(), data, watch, precision="bf16", channels_last=True, **OPTIONS)
    rounded = [out.logits.bfloat16().float() for out in watch.outputs[0]]
    for out, low in zip(watch.outputs[0], rounded, strict=True):
        assert out.logits.dtype == torch.float32
        assert torch.equal(out.logits, low)
    inputs = watch.batches[0].inputs
    assert inputs.is_contiguous(memory_format=torch.channels_last)


class Items(Dataset):
    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[1])

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.data[0][row], int(self.data[1][row])


class Blocks(Items):
    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.data[0][rows], self.data[1][rows]


@pytest.mark.parametrize("kind", [Items, Blocks])
def test_rows_of_any_data_with_numbers_are_shown(tiny, data, kind):
    watch = Watch()
    fit(tiny(), kind(data), watch, **OPTIONS | {"epochs": 2})
    assert torch.equal(torch.cat([b.index for b in watch.batches]), torch.arange(50))
    assert torch.equal(torch.cat([b.inputs for b in watch.batches]), data[0])


@pytest.mark.parametrize("objective", [PseudoExit, lambda: Distill(PseudoExit())])
def test_data_loader_is_refused_where_rows_need_numbers(gated, data, objective):
    loader = DataLoader(TensorDataset(*data), batch_size=7)
    with pytest.raises(DataError, match=r"rows have numbers for .*give its Dataset itself"):
        fit(gated(), loader, objective(), **OPTIONS)


# ----------------------------------------------------------------------- what is not touched
@pytest.mark.parametrize("train", ["all", "heads", [1, "head.0"]])
@pytest.mark.parametrize("around", [lambda o: o, Distill, GradientEquilibrium])
def test_training_that_shows_its_rows_ends_bit_for_bit_as_one_that_does_not(
    tiny, data, train, around
):
    ends = []
    for objective in (Joint(), Watch()):
        model = tiny(dropout=0.3)
        options = OPTIONS | {"train": train, "ema": 0.8, "augment": Noise()}
        history = fit(model, Items(data), around(objective), validation=data, **options)
        ends.append((model.state_dict(), [entry["validation_nll"] for entry in history]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


def test_reading_rows_to_show_them_touches_no_random_state(tiny, data):
    class Drawing(Items):
        def __getitem__(self, row):
            return self.data[0][row] + random.random() + numpy.random.rand() + torch.rand(()), 0

    class Look(Watch):
        def __init__(self, most: int) -> None:
            super().__init__(most)
            self.states: list[Any] = []

        def forward(self, outputs, batch, costs):
            drawn = torch.rand(4).tolist(), random.random(), numpy.random.rand()
            self.states.append(drawn)
            return super().forward(outputs, batch, costs)

    one, two = Look(1), Look(10**9)
    for look in (one, two):
        fit(tiny(dropout=0.3), Drawing(data), look, **OPTIONS)
    assert len(one.batches) < len(two.batches)
    assert one.states == two.states
    assert len({drawn[1] for drawn in one.states}) > 10


@pytest.mark.parametrize(("most", "wanted"), [(0, 0), (2, 2)])
def test_rows_are_read_only_as_they_are_asked_for(tiny, data, most, wanted):
    model, runs = tiny(), []

    class Lazy(Watch):
        def refresh(self, answers, costs, rows):
            runs.clear()
            if most:
                super().refresh(answers, costs, rows)
            assert len(runs) == wanted
            self.done = True

    watch = Lazy(most)
    model.register_forward_hook(lambda *_: runs.append(1))
    fit(model, data, watch, **OPTIONS)
    assert watch.done
    assert model.training


# ----------------------------------------------------------------------- resuming
class Counted(PseudoExit):
    """Counts how often it is refreshed."""

    times = 0

    def refresh(self, answers, costs, rows):
        super().refresh(answers, costs, rows)
        self.times += 1


def attempt(gated, data, out: Path, last: int = 0) -> tuple[dict[str, Tensor], Counted]:
    """Six steps an epoch; every one leaves a checkpoint."""
    model, objective = gated(), Counted(0.3)
    with suppress(KeyboardInterrupt):
        options = OPTIONS | {"batch_size": 8, "augment": Noise(last), "save_every": 0.0}
        fit(model, (data[0][:48], data[1][:48]), objective, out=out, resume=True, **options)
    return model.state_dict(), objective


@pytest.mark.parametrize(
    ("last", "before", "after"),
    [
        (4, 0, 2),  # in the first epoch
        (7, 1, 2),  # after the first look, before the first step that it led to: once more
        (8, 1, 1),  # after that step
        (10, 1, 1),
        (13, 2, 1),
        (15, 2, 0),
    ],
)
def test_refresh_is_run_again_only_where_no_step_came_of_it(
    gated, data, tmp_path, last, before, after
):
    wanted, whole = attempt(gated, data, tmp_path / "whole")
    assert whole.times == 2
    _, first = attempt(gated, data, tmp_path / "broken", last)
    assert first.times == before
    came, second = attempt(gated, data, tmp_path / "broken")
    assert second.times == after
    assert torch.equal(second.tags, whole.tags)
    assert len(second.tags) == 48
    assert all(torch.equal(came[name], wanted[name]) for name in wanted)


def test_phases_each_begin_without_a_look(tiny, data):
    watch = Watch()
    options = OPTIONS | {"phases": [{"epochs": 2}, {"epochs": 1, "train": "heads"}, {"epochs": 3}]}
    fit(tiny(), data, watch, **options)
    assert len(watch.looks) == 1 + 0 + 2


# ----------------------------------------------------------------------- the bar
def test_progress_bar_says_what_takes_long(tiny, data, monkeypatch):
    monkeypatch.setattr(refresh, "_PATIENCE", -1.0)
    shown: list[str] = []

    class Bar(Display):
        def show(self, text: str) -> None:
            shown.append(text)

        def advance(self, steps: int = 1) -> None:
            pass

    from contextlib import nullcontext

    from offramp.train import loop

    monkeypatch.setattr(loop, "progress_bar", lambda *_: nullcontext(Bar()))
    fit(tiny(), data, Watch(), **OPTIONS | {"epochs": 2, "progress": True})
    told = [text for text in shown if "looks at all rows" in text]
    assert told[0] == "epoch 2/2  looks at all rows, 0 of 8 batches"
    assert told[-1] == "epoch 2/2  looks at all rows, 7 of 8 batches"
