"""Two processes with one thread each against one process: the same gradients, and the time.

First every process computes its share of one batch, batch norm frozen, and the gradients, summed
by one all-reduce over gloo, are compared with those of one process on the joint batch. Then `fit`
trains a ResNet on random images in three ways, in turns: one process of one thread, two processes
of one thread each, one process of two threads. The batch is the same for all together. Of each
training the first epoch warms up and the second is timed; ratios are of runs beside each other.

    python benchmarks/two_processes.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from offramp.model import MultiExitModel, create_model
from offramp.objectives import create_objective
from offramp.train import fit
from offramp.train.backward import forward_backward
from offramp.train.checkpoint import load_tensors, save_tensors
from offramp.train.parts import named_tensors
from offramp.train.world import World
from offramp.types import Batch, Costs

COSTS = Costs.from_relative([0.3, 0.6, 1.0])
WAYS = {
    "1 process, 1 thread": (1, 1),
    "2 processes, 1 thread": (2, 1),
    "1 process, 2 threads": (1, 2),
}


def make_model(name: str) -> MultiExitModel:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return create_model(name)


def make_data(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (rows,), generator=generator)


def gradients(args: argparse.Namespace) -> None:
    """Each process its share of one batch, in eval mode, so that batch norm is frozen."""
    world, model = World.current(), make_model(args.model).eval()
    images, labels = make_data(args.batch_size - 1)  # an odd number: shares are unequal
    rows = world.share(torch.arange(len(labels)))
    batch = Batch(images[rows], labels[rows], rows, 0.0)
    weight = torch.tensor(float(len(rows)))
    forward_backward(model, create_objective("joint"), batch, COSTS, weight=weight)
    world.reduce_gradients(list(model.parameters()), weight)
    if world.rank == 0:
        found = {n: t.grad for n, t in named_tensors(model).items() if t.grad is not None}
        save_tensors(args.out, found)
    World.leave()


def training(args: argparse.Namespace) -> None:
    """Two epochs of `fit`; rank 0 writes down how long the second took."""
    history = fit(
        make_model(args.model),
        make_data(args.steps * args.batch_size),
        epochs=2,
        batch_size=args.batch_size,
        precision=args.precision,
        channels_last=True,
        costs=COSTS,
        progress=False,
    )
    if World.leave().rank == 0:
        Path(args.out).write_text(json.dumps(history[-1]["seconds"]))


def launch(work: str, way: tuple[int, int], args: argparse.Namespace, out: Path) -> None:
    processes, threads = way
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, "--work", work, "--out", str(out), "--threads", str(threads)]
    for name in ("model", "batch_size", "steps", "precision"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True)


def main(args: argparse.Namespace) -> None:
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.safetensors") for number in range(2)]
        launch("gradients", (1, 1), args, files[0])
        launch("gradients", (2, 1), args, files[1])
        one, two = (load_tensors(file) for file in files)
        largest = max(float(t.abs().max()) for t in one.values())
        apart = max(float((one[name] - two[name]).abs().max()) for name in one)
        console.print(
            f"gradients of {len(one)} tensors, batch of {args.batch_size - 1}: "
            f"largest {largest:.3g}, largest difference {apart:.2g}"
        )
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(args.repeats):
            for name, way in WAYS.items():
                launch("training", way, args, Path(folder, "seconds.json"))
                seconds[name].append(json.loads(Path(folder, "seconds.json").read_text()))
    console.print(table(seconds, args.steps * args.batch_size))


def table(seconds: dict[str, list[float]], rows: int) -> Table:
    made = Table(title=f"{rows} images per epoch", title_justify="left")
    for name in ("", "images/s, median", "gain over the first, median (least to most)"):
        made.add_column(name)
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        gains = [before / now for before, now in zip(first, taken, strict=True)]
        told = f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"
        made.add_row(name, f"{rows / statistics.median(taken):.0f}", told)
    return made


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="of an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--work", choices=("gradients", "training"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.work is None:
        main(arguments)
    elif arguments.work == "gradients":
        gradients(arguments)
    else:
        training(arguments)
