"""SIGKILL, in earnest: a training that is killed and resumed ends as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
from torch import Tensor

import offramp.metrics  # noqa: F401  # here, so that no child has to
from offramp.train import fit
from offramp.train.checkpoint import save_tensors
from offramp.types import Costs

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("a process is forked here, to be killed", allow_module_level=True)


def work(tiny, data: tuple[Tensor, Tensor], out: Path) -> None:
    """Train to the end, from wherever the run stands, and write the weights down."""
    model = tiny(dropout=0.3)
    fit(
        model,
        data,
        phases=[{"epochs": 6}, {"epochs": 6, "train": "heads", "optimizer": "adamw", "lr": 0.01}],
        batch_size=4,
        accumulate=2,
        mixup=0.2,
        ema=0.9,
        validation=data,
        monitor="accuracy/mean",
        costs=Costs.from_relative([0.3, 0.6, 1.0]),
        out=out,
        resume=True,
        save_every=0.02,
        seed=5,
        progress=False,
    )
    save_tensors(out / "end.safetensors", model.state_dict())


def killed(tiny, data, out: Path, chance: random.Random, within: float, times: int) -> int:
    """Start, kill after a while and start again; returns how often a living process was killed."""
    kills = 0
    while not (out / "end.safetensors").exists():
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the fork of a process with threads
            child = multiprocessing.get_context("fork").Process(target=work, args=(tiny, data, out))
            child.start()
        child.join(chance.uniform(0, within) if kills < times else None)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            kills += 1
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
    return kills


def lines(out: Path) -> list[dict]:
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in read
    ]


@pytest.mark.parametrize("times", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_fit_killed_at_random_moments_ends_byte_for_byte_the_same(tiny, data, tmp_path, times):
    begin = time.perf_counter()
    assert killed(tiny, data, tmp_path / "whole", random.Random(0), 0.0, 0) == 0
    whole = time.perf_counter() - begin
    out = tmp_path / "killed"
    kills = killed(tiny, data, out, random.Random(times), 2 * whole / (times + 1), times)
    assert kills > 0
    name = "end.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert lines(out) == lines(tmp_path / "whole")
