"""Training throughput of `offramp.train.fit` against a bare PyTorch loop.

Both train the same architecture from the same tensors, in the same precision and layout. Runs are
interleaved, so that a busy machine slows both alike; the table gives medians, the ratio of each
pair, and the spread of those ratios.

    python benchmarks/train_throughput.py --quick
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from offramp.costs import measure
from offramp.model import MultiExitModel, create_model
from offramp.train import fit

MODELS = {
    "msdnet": {"num_exits": 5, "base": 1, "step": 1, "step_mode": "lin_grow"},
    "resnet56_cifar": {},
}


def bare(
    model: MultiExitModel, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace
) -> None:
    """What a user would write by hand: no accuracy, no schedule, no checks."""
    model.train()
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rows in torch.randperm(len(labels)).split(args.batch_size):
        inputs, target = images[rows].to(args.device), labels[rows].to(args.device)
        if args.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            torch.device(args.device).type, torch.bfloat16, args.precision == "bf16"
        ):
            outputs = model(inputs)
            loss = torch.stack(
                [F.cross_entropy(out.logits.float(), target) for out in outputs]
            ).sum()
        loss.backward()
        optimizer.step()


def ours(
    model: MultiExitModel, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace
) -> None:
    fit(
        model,
        (images, labels),
        epochs=1,
        batch_size=args.batch_size,
        precision=args.precision,
        channels_last=args.channels_last,
        device=args.device,
        costs=args.costs,
        progress=not args.no_progress,
    )


def seconds(run, model: MultiExitModel, images: torch.Tensor, labels: torch.Tensor, args) -> float:
    start = time.perf_counter()
    run(model, images, labels, args)
    if torch.device(args.device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Images per second of the bare loop and of fit, one pair per repeat."""
    generator = torch.Generator().manual_seed(0)
    num = args.batch_size * args.steps
    images = torch.randn(num, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (num,), generator=generator)
    model = create_model(name, num_classes=10, **MODELS[name]).to(args.device)
    args.costs = measure(model, images[:2], latency=False)
    few = args.batch_size * min(3, args.steps)
    for run in (bare, ours):  # warm up
        run(model, images[:few], labels[:few], args)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for repeat in range(args.repeats):
        pair = [("bare", bare), ("ours", ours)]
        for label, run in pair if repeat % 2 == 0 else pair[::-1]:
            times[label].append(num / seconds(run, model, images, labels, args))
    return times["bare"], times["ours"]


def main() -> None:
    parser = argparse.ArgumentParser(description="fit against a bare PyTorch loop")
    parser.add_argument("--quick", action="store_true", help="few steps, for a first look")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precision", default="bf16", choices=["float32", "bf16"])
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-progress", action="store_true", help="without the progress bar")
    args = parser.parse_args()
    cuda = torch.device(args.device).type == "cuda"
    args.batch_size = args.batch_size or (64 if args.quick and not cuda else 128)
    args.steps = args.steps or ((200 if cuda else 4) if args.quick else (1000 if cuda else 16))
    args.repeats = args.repeats or (5 if args.quick else 9)
    if args.threads:
        torch.set_num_threads(args.threads)

    table = Table(
        title=f"training at 32x32, {args.precision}, batch {args.batch_size}, {args.device}"
    )
    for column in ("model", "bare, images/s", "fit, images/s", "fit / bare", "spread (IQR)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in args.models:
        plain, mine = compare(name, args)
        ratios = [b / a for a, b in zip(plain, mine, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        figures = [statistics.median(plain), statistics.median(mine)]
        table.add_row(
            name,
            *[f"{figure:.1f}" for figure in figures],
            f"{statistics.median(ratios):.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
