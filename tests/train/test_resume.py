"""A training that dies at any moment and is resumed ends as one that was not disturbed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from offramp.errors import TrainingError, ValidationError
from offramp.objectives.joint import Joint
from offramp.train import fit, resume
from offramp.train.log import Log
from offramp.types import Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut needs it; a process that dies does not."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Death(Exception):
    """The end of a process, as far as one process can play it."""


class Fate:
    """Counts moments, and dies at one of them."""

    def __init__(self, last: float) -> None:
        self.moments, self.last = 0, last

    def tick(self) -> None:
        self.moments += 1
        if self.moments == self.last:
            raise Death


class Jitter:
    """An augmentation that draws, and at which a process may die."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        self.fate.tick()
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


class Drawing(Dataset):
    """Items that draw from every random state there is."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[1])

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        shift = torch.randn(()) + random.random() + numpy.random.rand()
        return self.data[0][row] + 0.1 * shift, int(self.data[1][row])


PHASES = [
    {"epochs": 2, "train": "all"},
    {"epochs": 2, "train": "heads", "ema": None, "optimizer": "adamw", "lr": 0.01, "clip": 1.0},
]


def trained(tiny, data, out: Path, fate: Fate, monkeypatch, **options: Any) -> dict[str, Any]:
    """Weights, history and log of one attempt; each writing to the disk is two moments."""
    with monkeypatch.context() as patch:
        for owner, name in ((resume, "save_checkpoint"), (resume, "save_tensors"), (Log, "write")):
            patch.setattr(owner, name, around(getattr(owner, name), fate))
        model = tiny(dropout=0.3)
        given = {
            "batch_size": 8,
            "accumulate": 2,
            "mixup": 0.4,
            "ema": 0.8,
            "phases": PHASES,
            "save_every": 0.0,
            "validation": data,
            "monitor": "nll/mean",
        }
        given |= {"augment": Jitter(fate), "costs": COSTS, "progress": False, "seed": 3} | options
        history = fit(model, given.pop("source", data), out=out, **given)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": model.state_dict(),
        "history": [timeless(entry) for entry in history],
        "log": [timeless(line) for line in lines],
        "best": (out / "checkpoints" / "best.safetensors").read_bytes(),
    }


def around(function: Callable[..., Any], fate: Fate) -> Callable[..., Any]:
    def both(*args: Any, **options: Any) -> Any:
        fate.tick()
        result = function(*args, **options)
        fate.tick()
        return result

    return both


def timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("seconds", "images_per_s")}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = zip(one["weights"].values(), other["weights"].values(), strict=True)
    equal = all(torch.equal(a, b) for a, b in weights)
    return equal and all(one[key] == other[key] for key in ("history", "log", "best"))


def survives(tiny, data, folder: Path, monkeypatch, every: int = 1, **options: Any) -> int:
    """Die at every so many moments of a training and resume it; returns the number of moments."""
    fate = Fate(last=0)
    wanted = trained(tiny, data, folder / "whole", fate, monkeypatch, **options)
    for moment in range(1, fate.moments + 1, every):
        out = folder / str(moment)
        with pytest.raises(Death):
            trained(tiny, data, out, Fate(moment), monkeypatch, **options)
        came = trained(tiny, data, out, Fate(0), monkeypatch, resume=True, **options)
        assert same(came, wanted), moment
    return fate.moments


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_fit_resumed_from_any_moment_is_bit_identical(tiny, data, tmp_path, monkeypatch, every):
    small = data[0][:20], data[1][:20]
    assert survives(tiny, small, tmp_path, monkeypatch, every) > 40


def test_fit_resumed_from_the_end_of_an_epoch_is_bit_identical(tiny, data, tmp_path, monkeypatch):
    options = {"save_every": 1e9, "optimizer": "adamw", "lr": 0.01, "cutmix": 1.0}
    assert survives(tiny, data, tmp_path, monkeypatch, every=7, **options) > 30


def test_fit_with_a_dataset_that_draws_is_resumed(tiny, data, tmp_path, monkeypatch):
    survives(tiny, data, tmp_path, monkeypatch, every=37, source=Drawing(data))


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["ours", "the loader's"])
def test_fit_with_workers_is_resumed(tiny, data, tmp_path, monkeypatch, whose):
    source = Drawing(data)
    if whose != "ours":
        source = DataLoader(source, batch_size=8, shuffle=True, num_workers=2)
    survives(tiny, data, tmp_path, monkeypatch, every=13, source=source, workers=2)


class Learns(Joint):
    """An objective with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(50))
        self.calls = 0  # not of the fingerprint of a training in progress

    def forward(self, outputs, batch, costs):
        self.seen[batch.index] += 1
        self.calls += 1
        scaled = [out._replace(logits=self.scale * out.logits) for out in outputs]
        return super().forward(scaled, batch, costs)


def test_fit_that_gets_worse_is_resumed(tiny, data, tmp_path, monkeypatch):
    worse = {"epochs": 6, "lr": 0.05, "schedule": growing, "ema": None}
    options = {"phases": [worse], "patience": 3}
    assert survives(tiny, data, tmp_path, monkeypatch, every=9, **options) > 30
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["best"] for line in lines} == {True, False}


def growing(progress: float) -> float:
    return 100.0**progress


def test_fit_resumes_the_objective_too(tiny, data, tmp_path, monkeypatch):
    whole = Learns()
    wanted = trained(tiny, data, tmp_path / "whole", Fate(0), monkeypatch, objective=whole)
    for moment in (12, 30):
        out, again = tmp_path / str(moment), Learns()
        with pytest.raises(Death):
            trained(tiny, data, out, Fate(moment), monkeypatch, objective=Learns())
        came = trained(tiny, data, out, Fate(0), monkeypatch, objective=again, resume=True)
        assert same(came, wanted)
        assert torch.equal(again.scale, whole.scale) and torch.equal(again.seen, whole.seen)


def test_fit_in_bf16_and_channels_last_is_resumed(tiny, data, tmp_path, monkeypatch):
    phases = [{"epochs": 1, "channels_last": True, "precision": "bf16"}, {"epochs": 1}]
    survives(tiny, data, tmp_path, monkeypatch, every=11, phases=phases)


@pytest.mark.parametrize("own", [False, True])
def test_fit_with_a_shuffling_dataloader_is_resumed(tiny, data, tmp_path, monkeypatch, own):
    generator = torch.Generator().manual_seed(77) if own else None
    loader = DataLoader(Drawing(data), batch_size=8, shuffle=True, generator=generator)
    survives(tiny, data, tmp_path, monkeypatch, every=47, source=loader)
    if generator is not None:
        untouched = torch.Generator().manual_seed(77)
        assert torch.equal(generator.get_state(), untouched.get_state())


class More(Sampler):
    """Says that it has three batches, and has more."""

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        yield from torch.arange(50).split(8)


def test_fit_with_a_sampler_that_goes_on_is_resumed(tiny, data, tmp_path, monkeypatch):
    loader = DataLoader(TensorDataset(*data), batch_sampler=More())
    survives(tiny, data, tmp_path, monkeypatch, every=2, source=loader, phases=[{"epochs": 2}])


def test_fit_removes_what_killed_writes_left(tiny, data, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = [
        tmp_path / "checkpoints" / f"best.safetensors.{'0' * 32}.partial",
        tmp_path / f"metrics.jsonl.{'0' * 32}.partial",
    ]
    for path in left:
        path.touch()
    fit(tiny(), data, epochs=1, out=tmp_path, resume=True, progress=False)
    assert not any(path.exists() for path in left)


def test_fit_can_die_several_times(tiny, data, tmp_path, monkeypatch):
    wanted = trained(tiny, data, tmp_path / "whole", Fate(0), monkeypatch)
    for moment in (9, 31, 14, 25):
        with pytest.raises(Death):
            trained(tiny, data, tmp_path / "often", Fate(moment), monkeypatch, resume=True)
    came = trained(tiny, data, tmp_path / "often", Fate(0), monkeypatch, resume=True)
    assert same(came, wanted)


def test_fit_of_a_finished_run_returns_at_once_what_it_found(tiny, data, tmp_path, monkeypatch):
    wanted = trained(tiny, data, tmp_path, Fate(0), monkeypatch)
    fate = Fate(0)
    again = trained(tiny, data, tmp_path, fate, monkeypatch, resume=True)
    assert same(again, wanted)
    assert fate.moments == 0  # not a step, not a line, not a file


def test_fit_writes_a_line_every_64_steps_wherever_checkpoints_fall(
    tiny, data, tmp_path, monkeypatch
):
    lines = {}
    rows = torch.arange(100) % 50
    for name, every in (("often", 7), ("never", 1000)):
        monkeypatch.setattr(
            resume.Keeper, "is_due", lambda self, step, every=every: step % every == 0
        )
        options = {"batch_size": 1, "epochs": 2, "costs": COSTS, "progress": False}
        fit(tiny(), (data[0][rows], data[1][rows]), out=tmp_path / name, **options)
        text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        lines[name] = [timeless(json.loads(line)) for line in text]
    assert lines["often"] == lines["never"]
    kinds = [(line["kind"], line.get("step")) for line in lines["often"]]
    assert kinds == [("steps", 63), ("epoch", None), ("steps", 163), ("epoch", None)]


def test_fit_saves_the_measured_costs(tiny, data, tmp_path, monkeypatch):
    seen: list[Costs] = []

    class Sees(Joint):
        def forward(self, outputs, batch, costs):
            seen.append(costs)
            return super().forward(outputs, batch, costs)

    options = {"costs": None, "objective": Sees()}
    with pytest.raises(Death):
        trained(tiny, data, tmp_path, Fate(9), monkeypatch, **options)
    trained(tiny, data, tmp_path, Fate(0), monkeypatch, resume=True, **options)
    assert all(costs.to_dict() == seen[0].to_dict() for costs in seen)


# ------------------------------------------------------------------------ errors
def test_fit_does_not_begin_anew_over_checkpoints(tiny, data, tmp_path):
    options = {"epochs": 1, "out": tmp_path, "progress": False}
    fit(tiny(), data, **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match="give resume=True"):
        fit(tiny(), data, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.2}, r"phases\.0\.lr was 0\.1 and is 0\.2$"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"objective": "joint", "label_smoothing": 0.1}, r"label_smoothing was 0\.0 and is 0\.1"),
        ({"objective": Joint("linear")}, "weights was 'uniform' and is 'linear'"),
        ({"augment": lambda inputs, generator: inputs}, "augment was None and is .*lambda"),
        ({"phases": [{}, {"epochs": 3}]}, r"phases\.1\..* was absent"),
        ({"epochs": 2, "lr": 0.2, "momentum": 0.5, "clip": 1, "ema": 0.9}, "and 1 more"),
    ],
)
def test_fit_says_in_what_the_checkpoint_differs(tiny, data, tmp_path, change, message):
    options = {"epochs": 1, "out": tmp_path, "progress": False}
    fit(tiny(), data, **options)
    with pytest.raises(TrainingError, match=message):
        fit(tiny(), data, **(options | change), resume=True)


def test_fit_says_that_the_checkpoint_is_of_other_data_or_another_model(tiny, data, tmp_path):
    options = {"epochs": 1, "out": tmp_path, "progress": False}
    fit(tiny(), data, **options)
    with pytest.raises(TrainingError, match="rows was 50 and is 40"):
        fit(tiny(), (data[0][:40], data[1][:40]), resume=True, **options)
    other = tiny()
    other.heads[2].classifier = torch.nn.Linear(8, 4)
    with pytest.raises(TrainingError, match=r"model\.heads\.2\.classifier\.weight was .*3, 8"):
        fit(other, data, resume=True, **options)


def test_fit_resume_without_a_checkpoint_starts_afresh(tiny, data, tmp_path):
    options = {"epochs": 1, "progress": False}
    ours, theirs = tiny(), tiny()
    fit(ours, data, out=tmp_path, resume=True, **options)
    fit(theirs, data, **options)
    assert torch.equal(ours.segments[2][0].weight, theirs.segments[2][0].weight)


def test_fit_says_that_a_run_needs_a_folder(tiny, data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValidationError, match="out as a folder"):
        fit(tiny(), data, epochs=1, out=tmp_path / "file", progress=False)
    with pytest.raises(ValidationError, match=r"wanted out, the folder.*got None"):
        fit(tiny(), data, epochs=1, resume=True, progress=False)


def test_dataset_of_tensors_is_resumed_as_tensors_are(tiny, data, tmp_path, monkeypatch):
    one = trained(tiny, data, tmp_path / "a", Fate(0), monkeypatch, source=TensorDataset(*data))
    other = trained(tiny, data, tmp_path / "b", Fate(0), monkeypatch)
    assert same(one, other)
