"""The demonstration: a small network on real digit scans answers early, and the clock is the judge.

Everything it says is measured in the run that says it. Policies are fitted on the calibration part
and the test part is scored once; the operating point it talks about stands in this file, so that
no run picks it by its own test figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attach import attach
from .costs import measure
from .data.base import Splits, create_dataset
from .errors import ValidationError
from .evaluate import ExitResult, Result, curve, evaluate_exits, save_csv
from .files import write_text
from .model import MultiExitModel
from .policies.base import ExitPolicy
from .records import record
from .registry import policies
from .report.plot import accuracy_cost
from .runtime.adaptive import run
from .runtime.clock import ideal_speed_up, interleaved
from .train.loop import fit
from .types import Costs, ExitOutput, Records

POLICIES = ("max_prob", "entropy", "margin", "patience", "shared")
CONTROLS = ("random", "oracle")
BUDGETS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # shares of the full network's MACs
POLICY, BUDGET = "max_prob", 0.3  # the operating point that is compared with other networks
FULL, STATIC = "full network", "small network"

_PLACES = ("stage0", "stage1", "stage2")
_SMALL = (24, 0)  # width and depth of a network that costs about BUDGET of the full one
_ONE_BY_ONE = 64  # test inputs that are also timed one at a time

Log = Callable[[str], None]


class Point(NamedTuple):
    """A network that does the same work for every input."""

    name: str
    cost: float  # MACs, relative to the full network
    accuracy: float


class Clock(NamedTuple):
    """Measured time of one way to answer."""

    name: str
    budget: float | None  # None where there is no policy
    batch_size: int
    ms: float  # median, per input
    speed_up: float  # over the full network, both measured, in turns
    ideal: float | None = None  # from exit rates and measured segment times; None without a policy

    @property
    def efficiency(self) -> float | None:
        """Share of the ideal speed-up that was reached."""
        return None if self.ideal is None else self.speed_up / self.ideal


@dataclass(frozen=True)
class Outcome:
    """What the demonstration found."""

    seed: int
    num_test: int
    full: Point
    static: Point
    exits: list[ExitResult]  # each by itself
    curves: dict[str, list[Result]]  # by policy, one result per budget
    clocks: list[Clock]
    seconds: float  # that it all took
    files: dict[str, str]

    def result(self, policy: str, budget: float) -> Result:
        """The result of a policy at a budget."""
        return self.curves[policy][BUDGETS.index(budget)]

    def clock(self, name: str, budget: float | None, batch_size: int) -> Clock | None:
        """What was timed under that name, if it was."""
        wanted = (name, budget, batch_size)
        return next((c for c in self.clocks if c[:3] == wanted), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON."""
        return {
            "seed": self.seed,
            "num_test": self.num_test,
            "full": self.full._asdict(),
            "static": self.static._asdict(),
            "exits": [asdict(e) for e in self.exits],
            "curves": {name: [r.to_dict() for r in rs] for name, rs in self.curves.items()},
            "clocks": [{**c._asdict(), "efficiency": c.efficiency} for c in self.clocks],
            "seconds": self.seconds,
            "files": self.files,
        }


def run_demo(
    out: str | Path, *, seed: int = 0, quick: bool = False, log: Log = lambda line: None
) -> Outcome:
    """Train, calibrate, evaluate and time a multi-exit network; write a picture and the numbers.

    Args:
        out: folder for ``demo.png``, ``demo.json`` and ``demo.csv``; made where it is not there.
        seed: of the data split, the weights and the training.
        quick: train for a fraction of the time, which costs accuracy.
        log: told what happens next.

    Raises:
        MissingExtraError: if scikit-learn or matplotlib is not installed.
        ValidationError: if ``out`` is no folder and cannot be made one; found before any training.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValidationError(
            f"wanted a folder to write to, got {out}: {error.strerror}"
        ) from error
    begin = time.perf_counter()
    with _one_thread():
        outcome = _measured(Path(out), seed, quick, log)
    outcome = replace(outcome, seconds=time.perf_counter() - begin)
    _write(outcome)
    return outcome


class DigitNet(nn.Module):
    """An ordinary residual network for 8 x 8 scans; it knows nothing of exits.

    Args:
        width: channels.
        depth: blocks of the last stage.
    """

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.stage0 = nn.Sequential(_conv(1, width), _conv(width, width))
        self.stage1 = Block(width)
        self.stage2 = Block(width)
        self.stage3 = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.classify = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of scans [N, 1, 8, 8]."""
        x = self.stage3(self.stage2(self.stage1(self.stage0(x))))
        return self.classify(x.mean((2, 3)))


class Block(nn.Module):
    """Two 3 x 3 convolutions, and the input carried around them.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, channels, H, W] to the same shape."""
        return F.relu(x + self.norm(self.second(self.first(x))))


# ------------------------------------------------------------------------ the run
@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for a while: for networks this small, more gain little and make times unsteady."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(out: Path, seed: int, quick: bool, log: Log) -> Outcome:
    epochs, repeats = (2, 2) if quick else (8, 5)
    splits = create_dataset("digits", seed=seed)
    inputs, _ = cast(tuple[Tensor, Tensor], splits.test)
    log(f"training a network with {len(_PLACES) + 1} exits on digit scans")
    network, model = _multi_exit(splits, seed, epochs)
    log("training a smaller network without exits, for comparison")
    small = _static(splits, seed, epochs)
    log("recording every exit and fitting policies on the calibration part")
    costs = measure(model, inputs[:1], latency=False)
    calibration = record(model, splits.calibration, progress=False)
    test = record(model, splits.test, progress=False)
    curves = {n: curve(n, calibration, test, costs, BUDGETS) for n in (*POLICIES, *CONTROLS)}
    log("timing adaptive runs against both networks")
    ways = _ways(model, calibration, costs)
    fixed = {FULL: network, STATIC: small.segments[0]}
    clocks = _time(model, ways, fixed, inputs, len(inputs), repeats)
    clocks += _time(model, ways, fixed, inputs[:_ONE_BY_ONE], 1, repeats)
    exits = evaluate_exits(test, costs)
    return Outcome(
        seed=seed,
        num_test=len(inputs),
        full=Point(FULL, 1.0, exits[-1].top1),
        static=_point(small, splits, costs),
        exits=exits,
        curves=curves,
        clocks=clocks,
        seconds=0.0,
        files={suffix: str(out / f"demo.{suffix}") for suffix in ("png", "json", "csv")},
    )


# ------------------------------------------------------------------------ networks
def _conv(before: int, channels: int) -> nn.Sequential:
    conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class _Plain(nn.Module):
    """The head of a network that has only one: its logits as they are."""

    def forward(self, logits: Tensor) -> ExitOutput:
        return ExitOutput(logits)


def _multi_exit(splits: Splits, seed: int, epochs: int) -> tuple[nn.Module, MultiExitModel]:
    """The full network and, sharing its weights, the multi-exit model; trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = DigitNet()
        model = attach(network, _PLACES, example=splits.example(2))
    _train(model, splits, seed, epochs)
    return network, model


def _static(splits: Splits, seed: int, epochs: int) -> MultiExitModel:
    """A smaller network, trained in the same way for as many epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = MultiExitModel([DigitNet(*_SMALL)], [_Plain()])
    _train(model, splits, seed, epochs)
    return model


def _train(model: MultiExitModel, splits: Splits, seed: int, epochs: int) -> None:
    fit(
        model,
        splits.train,
        "joint",
        epochs=epochs,
        batch_size=32,
        lr=0.05,
        nesterov=True,
        warmup=0.2,
        seed=seed,
        progress=False,
    )
    model.eval()


def _point(small: MultiExitModel, splits: Splits, costs: Costs) -> Point:
    own = measure(small, splits.example(), latency=False)
    found = evaluate_exits(record(small, splits.test, progress=False), own)[-1]
    return Point(STATIC, float(own.macs[-1]) / costs.full["macs"], found.top1)


# ------------------------------------------------------------------------ time
def _ways(
    model: MultiExitModel, calibration: Records, costs: Costs
) -> dict[tuple[str, float], ExitPolicy]:
    """The policies to time: one at every budget, the others at its operating point."""
    wanted = [(POLICY, b) for b in BUDGETS] + [(p, BUDGET) for p in POLICIES if p != POLICY]
    return {
        (name, budget): policies.create(name, num_exits=model.num_exits).fit(
            calibration, costs, budget
        )
        for name, budget in wanted
    }


def _time(
    model: MultiExitModel,
    ways: Mapping[tuple[str, float], ExitPolicy],
    fixed: Mapping[str, nn.Module],
    inputs: Tensor,  # [N, 1, 8, 8]
    batch_size: int,
    repeats: int,
) -> list[Clock]:
    """Time every way to answer at one batch size."""
    batches = inputs.split(batch_size)
    runs: dict[tuple[str, float | None], Callable[[Tensor], Any]] = {
        (name, None): network for name, network in fixed.items()
    }
    for key, policy in ways.items():
        runs[key] = lambda batch, policy=policy: run(model, policy, batch)
    seconds = interleaved(runs, batches, repeats=repeats)
    full = seconds[FULL, None]
    times = measure(model, batches[0], repeats=10 if batch_size > 1 else 50).relative("latency_ms")
    ideal: dict[tuple[str, float | None], float] = {
        key: ideal_speed_up(model, policy, batches, times) for key, policy in ways.items()
    }
    return [
        Clock(
            name,
            budget,
            batch_size,
            1000 * took / len(inputs),
            full / took,
            ideal.get((name, budget)),
        )
        for (name, budget), took in seconds.items()
    ]


# ------------------------------------------------------------------------ files
def _write(outcome: Outcome) -> None:
    accuracy_cost(
        outcome.curves,
        exits=outcome.exits,
        full=outcome.full[1:],
        static=[outcome.static],
        path=outcome.files["png"],
        title="Handwritten digits, answered early",
    )
    save_csv([r for results in outcome.curves.values() for r in results], outcome.files["csv"])
    write_text(outcome.files["json"], json.dumps(outcome.to_dict(), indent=1) + "\n")
