"""Measured time: adaptive runs against the full network, in turns, and what would be ideal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..costs import device_of, measure
from ..model import MultiExitModel
from ..policies.base import ExitPolicy
from ..trees import State, num_rows, take
from .adaptive import Size, run

Key = TypeVar("Key")


class Clock(NamedTuple):
    """Measured time of a policy at one batch size, beside the full network's in the same run."""

    batch_size: int
    ms: float  # median, per input
    full_ms: float  # of the full network, per input
    speed_up: float  # over the full network, measured
    ideal: float  # if an input took just the measured time of its exit

    @property
    def efficiency(self) -> float:
        """Share of the ideal speed-up that was reached."""
        return self.speed_up / self.ideal


def time_policies(
    model: MultiExitModel,
    policies: Mapping[Key, ExitPolicy],
    batches: Sequence[State],
    *,
    repeats: int = 5,
) -> dict[Key, Clock]:
    """Time adaptive runs of policies against the full network, all in turns.

    The full network is every segment and the last head, without early heads, as it was before.
    Where exits answer with maps of different size, all are brought to that of the full network.

    Args:
        model: in eval mode.
        policies: fitted ones, by any key.
        batches: inputs, of one batch size but for the last.
        repeats: timed rounds over all batches; figures are medians.
    """
    size = answer_size(model, batches[0])
    runs: dict[Any, Callable[[State], Any]] = {None: lambda batch: full_network(model, batch)}
    for key, policy in policies.items():
        runs[key,] = lambda batch, policy=policy: run(model, policy, batch, size=size)
    seconds = interleaved(runs, batches, repeats=repeats, device=device_of(model))
    rows = sum(num_rows(batch) for batch in batches)
    first = num_rows(batches[0])
    times = measure(model, batches[0], repeats=10 if first > 1 else 50).relative("latency_ms")
    clocks = {}
    for key, policy in policies.items():
        took, full = seconds[key,], seconds[None]
        ideal = ideal_speed_up(model, policy, batches, times)
        ms, full_ms = 1000 * took / rows, 1000 * full / rows
        clocks[key] = Clock(first, ms, full_ms, full / took, ideal)
    return clocks


@torch.inference_mode()
def full_network(model: MultiExitModel, inputs: State) -> Tensor:
    """The last exit's logits, [N, C, *S], with no early head run on the way."""
    state = inputs
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


@torch.inference_mode()
def answer_size(model: MultiExitModel, inputs: State) -> Size | None:
    """Height and width of the last exit's maps; None where all exits answer with one size."""
    sizes = [out.logits.shape[2:] for out in model(take(inputs, torch.arange(1)))]
    if all(size == sizes[-1] for size in sizes):
        return None
    height, width = sizes[-1]
    return height, width


@torch.inference_mode()
def interleaved(
    runs: Mapping[Key, Callable[[State], Any]],
    batches: Sequence[State],
    *,
    repeats: int,
    device: torch.device | None = None,
) -> dict[Key, float]:
    """Median seconds of each run over all batches, in turns, so that a slow spell hits all.

    Args:
        runs: what to time, by any key.
        batches: inputs; every run gets them one by one.
        repeats: timed rounds; one more before them warms up.
        device: waited for before the clock is read, where it is a GPU.
    """
    cuda = device is not None and device.type == "cuda"
    taken: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(repeats + 1):
        for key, answer in runs.items():
            start = time.perf_counter()
            for batch in batches:
                answer(batch)
            if cuda:
                torch.cuda.synchronize(device)
            taken[key].append(time.perf_counter() - start)
    return {key: statistics.median(times[1:]) for key, times in taken.items()}


def ideal_speed_up(
    model: MultiExitModel, policy: ExitPolicy, batches: Sequence[State], times: Tensor
) -> float:
    """Speed-up if an input took just the time of its exit, [K], relative to the full network's."""
    size = answer_size(model, batches[0])
    exits = torch.cat([run(model, policy, batch, size=size).exits for batch in batches])
    rates = exits.bincount(minlength=model.num_exits).cpu() / len(exits)  # [K]
    return 1 / float((rates * times).sum())
