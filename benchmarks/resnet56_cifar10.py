"""Exits on the public CIFAR-10 ResNet-56: accuracy against cost, and real time.

    python benchmarks/resnet56_cifar10.py --data $OFFRAMP_DATA --out resnet56.json

The backbone is the public checkpoint, frozen; heads at the ends of its first two stages learn on
the training part. The checkpoint has seen all of CIFAR-10 train, so policies are calibrated on one
half of test and scored once on the other. Times are ratios within one run, eager against eager.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import offramp
from offramp.errors import extra
from offramp.heads import ConvHead
from offramp.runtime.adaptive import run

BUDGETS = [0.5, 0.6, 0.7, 0.8, 0.9]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the checkpoints were trained with
AT = ("layer1", "layer2")


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Normalised images [N, 3, 32, 32] and labels [N] of one part."""
    with extra("data"):
        from datasets import load_dataset
    rows = load_dataset(str(folder / "cifar10"), split=part).with_format("torch")
    images = torch.stack([row["img"] for row in rows]).float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    return (images - mean) / std, torch.as_tensor(rows["label"][:])


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels and mirror half of them."""
    num, size = len(images), images.shape[-1]
    padded = F.pad(images, (4, 4, 4, 4))
    dy, dx = torch.randint(9, (2, num, 1, 1, 1), generator=generator)
    flip = torch.rand(num, 1, 1, 1, generator=generator) < 0.5
    rows = (dy + torch.arange(size).view(1, 1, size, 1)).expand(num, 3, size, size + 8)
    columns = torch.arange(size).view(1, 1, 1, size)
    columns = (dx + torch.where(flip, size - 1 - columns, columns)).expand(num, 3, size, size)
    return padded.gather(2, rows).gather(3, columns)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent right of a plain network."""
    model.eval()
    with torch.inference_mode():
        pairs = zip(images.split(500), labels.split(500), strict=True)
        hits = [(model(x).argmax(1) == y).sum() for x, y in pairs]
    return 100 * float(sum(hits)) / len(labels)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run in each repeat, all runs once a repeat, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def clock(
    model: offramp.MultiExitModel, policy: nn.Module, images: Tensor, repeats: int
) -> list[dict]:
    """Measured and ideal speed-up of the adaptive run over the uncut network, per batch size."""
    full, table = model.network, []
    for batch_size, rows in ((1, 200), (32, 1024), (256, 1024)):
        batches = images[:rows].split(batch_size)
        costs = offramp.measure(model, batches[0], repeats=30 if batch_size == 1 else 8)
        with torch.inference_mode():
            times = interleaved(
                {
                    "full": lambda b=batches: [full(x) for x in b],
                    "adaptive": lambda b=batches: [run(model, policy, x) for x in b],
                },
                repeats,
            )
            exits = torch.cat([run(model, policy, x).exits for x in batches])
        ratios = [a / b for a, b in zip(times["full"], times["adaptive"], strict=True)]
        rates = torch.bincount(exits, minlength=model.num_exits).double() / len(exits)
        ideal = 1 / float((rates * costs.relative("latency_ms")).sum())
        measured = statistics.median(ratios)
        table.append(
            {
                "batch_size": batch_size,
                "exit_rates": [round(r, 4) for r in rates.tolist()],
                "measured_speed_up": round(measured, 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "ideal_speed_up": round(ideal, 3),
                "efficiency": round(measured / ideal, 3),
                "relative_latency": [round(c, 4) for c in costs.relative("latency_ms").tolist()],
            }
        )
    return table


def train_heads(model: offramp.MultiExitModel, train: Any, epochs: int, seed: int) -> None:
    """Train the early heads alone; the backbone stays as it is."""
    offramp.fit(
        model,
        train,
        epochs=epochs,
        train="heads",
        lr=0.05,
        precision="bf16",
        channels_last=True,
        augment=crop_and_flip,
        seed=seed,
    )
    model.to(memory_format=torch.contiguous_format)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cifar10/ and weights/"
    )
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    weights = {d: next((args.data / "weights").glob(f"resnet{d}-*.th")) for d in (20, 56)}
    test = load(args.data, "test")
    torch.manual_seed(args.seed)
    model = offramp.create_model(
        "resnet56_cifar",
        num_classes=10,
        at=AT,
        head=lambda shape: ConvHead(shape[1], 10, width=64),
        checkpoint=weights[56],
    )
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    report: dict[str, object] = {"last exit before": accuracy(model.network, *test)}
    train_heads(model, load(args.data, "train"), args.epochs, args.seed)
    model.eval()
    after = model.network.state_dict()
    report["backbone unmoved"] = all(torch.equal(after[name], before[name]) for name in before)
    report["last exit after"] = accuracy(model.network, *test)

    costs = offramp.measure(model, test[0][:1], latency=False)
    report["costs"] = costs.relative().tolist()
    records = offramp.record(model, test, progress=False)
    shuffled = torch.randperm(len(records), generator=torch.Generator().manual_seed(args.seed))
    halves = shuffled.chunk(2)
    calibration, scored = records.take(halves[0]), records.take(halves[1])
    small = offramp.create_model("resnet20_cifar", num_classes=10, at=(), checkpoint=weights[20])
    small_costs = offramp.measure(small, test[0][:1], latency=False)
    rows = halves[1].sort().values
    report["static ResNet-20"] = {
        "cost": small_costs.full["macs"] / costs.full["macs"],
        "accuracy": accuracy(small.network, test[0][rows], test[1][rows]),
    }
    report["full ResNet-56"] = accuracy(model.network, test[0][rows], test[1][rows])
    names = [*offramp.list_policies()]
    budgets = [0.4, *BUDGETS]
    for name in names:
        results = offramp.curve(name, calibration, scored, costs, budgets)
        report[name] = [
            {
                "budget": round(b, 3),
                "cost": round(r.cost, 4),
                "accuracy": round(100 * r.accuracy, 2),
            }
            for b, r in zip(budgets, results, strict=True)
        ]
        report["exits"] = [round(100 * e.top1, 2) for e in results[0].exits]
    policy = offramp.create_policy("max_prob", num_exits=3).fit(calibration, costs, 0.6)
    report["clock at budget 0.6"] = clock(model, policy.eval(), test[0][rows], args.repeats)
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
