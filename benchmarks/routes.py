"""What a training step costs for every way of routing gradients, over joint training.

MSDNet as in the public code for CIFAR-100 (seven exits, base 4, step 2), float32, random images.
Each scheme has its own copy of the model. In every round each of them takes one step (forward,
backward, SGD) and one forward pass in eval mode, in an order that turns, and is divided by what
joint training took in that round; the table has medians, and the least and most of all rounds.

By count: a segment's forward pass, the gradient of its state and that of its weights are each as
many MACs as torch counts in its forward pass, and where g gradients arrive there are g - 1 further
passes for the gradient of its state. Counted: what torch counts during a real step.

Peak memory is measured in a process per scheme. Allocated: what torch's allocator holds at most
during a step beyond what it held before it, the same in every run. Resident: by how much memory has
grown at most over three steps as the system sees it, with scratch space and the allocator's waste.

    python benchmarks/routes.py
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from offramp.costs import Pieces, count_macs
from offramp.model import MultiExitModel, create_model
from offramp.objectives import create_objective
from offramp.objectives.base import Objective
from offramp.train import backward_step
from offramp.train.routes import routes
from offramp.types import Batch, Costs

OVERLAP = {"name": "block_dependent", "overlap": 3}
SCHEMES: dict[str, dict[str, Any]] = {
    "joint": {"name": "joint"},
    "layer-wise": {"name": "layer_wise"},
    "grouped": {"name": "grouped", "groups": 2},
    "overlap 3": {**OVERLAP, "final": False},
    "overlap 3, final": {**OVERLAP, "final": True},
    "overlap 3, final, distilled": {"name": "distill", "objective": {**OVERLAP, "final": True}},
}
WANTED = {"layer-wise": 1.1, "grouped": 1.1, "overlap 3": 1.6, "overlap 3, final": 1.75}


class Training:
    """One scheme: a model, an objective, an optimizer and a batch."""

    def __init__(self, scheme: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        sizes = {"num_exits": args.num_exits, "base": args.base, "step": args.step}
        self.model: MultiExitModel = create_model("msdnet", num_classes=100, **sizes)
        self.objective: Objective = create_objective(**copy.deepcopy(SCHEMES[scheme]))
        # next to no learning, as targets are random; the work is the same
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.batch = random_batch(args.batch_size)
        self.costs = Costs.from_relative([k + 1.0 for k in range(args.num_exits)])

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        backward_step(self.model, self.objective, self.batch, self.costs)
        self.optimizer.step()

    @torch.inference_mode()
    def evaluate(self) -> None:
        self.model.eval()(self.batch.inputs)


def random_batch(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, 32, 32, generator=generator)
    labels = torch.randint(100, (rows,), generator=generator)
    return Batch(images, labels, torch.arange(rows), 0.5)


# --------------------------------------------------------------------- time
class Seconds(NamedTuple):
    step: dict[str, list[float]]  # by scheme, one figure per round
    evaluation: dict[str, list[float]]


def measure_times(args: argparse.Namespace) -> Seconds:
    trainings = {scheme: Training(scheme, args) for scheme in args.schemes}
    found = Seconds({s: [] for s in trainings}, {s: [] for s in trainings})
    for training in trainings.values():  # warm up
        training.step()
        training.evaluate()
    turns = list(trainings)
    for _ in track(range(args.rounds), "rounds", disable=args.no_progress):
        for scheme in turns:
            found.step[scheme].append(seconds(trainings[scheme].step))
        for scheme in turns:
            found.evaluation[scheme].append(seconds(trainings[scheme].evaluate))
        turns = [*turns[1:], turns[0]]
    return found


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# --------------------------------------------------------------------- counts
def by_count(objective: Objective, pieces: Pieces) -> float:
    """MACs of a step for one input, from those of the forward passes of segments and heads."""
    num = len(pieces.segments)
    asked = routes(objective, num, num_classes=100, progress=0.5)
    starts: list[set[int]] = [set() for _ in range(num)]  # first segments of each exit's terms
    for term, exits in zip(asked.terms, asked.exits, strict=True):
        for k in exits:
            starts[k].add(term.since)
    total = 0.0
    for k in range(num):
        arriving = {s for exit_ in starts[k:] for s in exit_ if s <= k}
        total += (3 + max(0, len(arriving) - 1)) * float(pieces.segments[k])
        total += (1 + 2 * len(starts[k])) * float(pieces.heads[k])
    return total


def counted(training: Training) -> int:
    """FLOPs that torch sees in a step of two rows."""
    training.batch = random_batch(2)
    with FlopCounterMode(display=False) as counter:
        training.step()
    return counter.get_total_flops()


# --------------------------------------------------------------------- memory
class Peak(NamedTuple):
    """MB, of what the allocator holds and of what the system has given."""

    allocated: float
    resident: float


def peak(scheme: str, args: argparse.Namespace) -> Peak:
    """Measured in this process, which must not have done anything else."""
    training = Training(scheme, args)
    before = resident("VmRSS")
    for _ in range(3):
        training.step()
    grown = resident("VmHWM") - before
    training.optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        training.step()
    events = cast(Any, seen.profiler).kineto_results.events()
    moves = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = accumulate(bytes_ for _, bytes_ in sorted(moves, key=lambda move: move[0]))
    return Peak(max(held) / 1e6, grown)


def resident(name: str) -> float:
    """MB resident now (VmRSS) or at most so far (VmHWM).

    Not by getrusage, which begins with the peak of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def peak_elsewhere(scheme: str, args: argparse.Namespace) -> Peak:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", scheme]
    for name in ("batch_size", "threads", "num_exits", "base", "step"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Peak(*json.loads(done.stdout.splitlines()[-1]))


# --------------------------------------------------------------------- table
def ratios(some: list[float], base: list[float]) -> str:
    each = [a / b for a, b in zip(some, base, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def memory_ratios(peaks: dict[str, Peak], scheme: str) -> list[str]:
    pairs = zip(peaks[scheme], peaks["joint"], strict=True) if peaks else ()
    return [f"{a / b:.2f}" for a, b in pairs]


def table(args: argparse.Namespace) -> Table:
    trainings = {scheme: Training(scheme, args) for scheme in args.schemes}
    with torch.no_grad():
        pieces = count_macs(trainings["joint"].model.eval(), torch.zeros(2, 3, 32, 32))
    ideal = {scheme: by_count(t.objective, pieces) for scheme, t in trainings.items()}
    macs = {scheme: counted(t) for scheme, t in trainings.items()}
    del trainings
    peaks = {s: peak_elsewhere(s, args) for s in args.schemes} if args.memory else {}
    times = measure_times(args)
    made = Table(title=title(times, peaks, args), title_justify="left")
    for name in ("over joint training", "step", "at most", "by count", "counted", "evaluation"):
        made.add_column(name)
    for name in ("allocated", "resident") if peaks else ():
        made.add_column(name)
    for scheme in args.schemes:
        made.add_row(
            scheme,
            ratios(times.step[scheme], times.step["joint"]),
            f"{WANTED[scheme]}" if scheme in WANTED else "",
            f"{ideal[scheme] / ideal['joint']:.2f}",
            f"{macs[scheme] / macs['joint']:.2f}",
            ratios(times.evaluation[scheme], times.evaluation["joint"]),
            *memory_ratios(peaks, scheme),
        )
    return made


def title(times: Seconds, peaks: dict[str, Peak], args: argparse.Namespace) -> str:
    step, evaluation = (statistics.median(t["joint"]) for t in times)
    told = (
        f"MSDNet K={args.num_exits}, base {args.base}, step {args.step}, batch {args.batch_size}, "
        f"{args.threads} threads, {args.rounds} rounds; joint: step {step:.2f} s, evaluation "
        f"{evaluation:.2f} s"
    )
    if peaks:
        told += "; peak {:.0f} MB allocated, {:.0f} MB resident".format(*peaks["joint"])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description="routed training steps over joint ones")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-exits", type=int, default=7)
    parser.add_argument("--base", type=int, default=4, help="layers of the first segment")
    parser.add_argument("--step", type=int, default=2, help="layers of every other segment")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-progress", action="store_true", help="without the progress bar")
    parser.add_argument("--peak-of", choices=list(SCHEMES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        sys.stdout.write(json.dumps(peak(args.peak_of, args)) + "\n")
        return
    args.schemes = list(dict.fromkeys(["joint", *args.schemes]))  # what all others are divided by
    console = Console(highlight=False, width=160)
    console.print(table(args))
    console.print(shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
