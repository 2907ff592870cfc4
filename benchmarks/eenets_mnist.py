"""EENets on MNIST: an EE-ResNet-20 at a fifth of its cost, against the plain one, on the clock.

    python benchmarks/eenets_mnist.py --early runs/eenets_mnist --plain runs/plain_mnist \\
        --data $OFFRAMP_DATA/mnist

The runs are those of `benchmarks/README.md`. Both networks answer the same test images, in turns,
eager against eager; the adaptive run leaves at the first gate above one half.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from resnet56_cifar10 import interleaved

import offramp
from offramp.runtime.adaptive import run
from offramp.runtime.clock import full_network


def clock(
    model: offramp.MultiExitModel, plain: offramp.MultiExitModel, images: torch.Tensor, repeats: int
) -> list[dict[str, Any]]:
    """Speed-up of the adaptive run over the plain network, beside the ideal, per batch size."""
    policy = offramp.create_policy("gate", num_exits=model.num_exits).eval()
    table = []
    for batch_size, rows in ((1, 200), (32, 2048), (256, 2048)):
        batches = images[:rows].split(batch_size)
        costs = offramp.measure(model, batches[0], repeats=50 if batch_size == 1 else 15)
        times = interleaved(
            {
                "plain": lambda b=batches: [full_network(plain, x) for x in b],
                "adaptive": lambda b=batches: [run(model, policy, x) for x in b],
            },
            repeats,
        )
        ratios = [a / b for a, b in zip(times["plain"], times["adaptive"], strict=True)]
        exits = torch.cat([run(model, policy, x).exits for x in batches])
        rates = exits.bincount(minlength=model.num_exits).double() / len(exits)
        ideal = 1 / float((rates * costs.relative("latency_ms")).sum())
        measured = statistics.median(ratios)
        table.append(
            {
                "batch_size": batch_size,
                "exit_rates": [round(rate, 4) for rate in rates.tolist()],
                "relative_latency": [round(c, 3) for c in costs.relative("latency_ms").tolist()],
                "speed_up": round(measured, 2),
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
                "ideal": round(ideal, 2),
                "efficiency": round(measured / ideal, 2),
                "by MACs": round(1 / float((rates * costs.relative()).sum()), 2),
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--early", type=Path, required=True, help="the run of eenets_mnist_small")
    parser.add_argument("--plain", type=Path, required=True, help="the run of the plain network")
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    images = offramp.create_dataset("mnist", path=str(args.data)).test
    rows = torch.arange(2048)
    inputs = images[0][rows] if isinstance(images, tuple) else images.batch(rows)[0]
    early, plain = (offramp.load(each / "bundle").model.eval() for each in (args.early, args.plain))
    with torch.inference_mode():
        print(json.dumps(clock(early, plain, inputs, args.repeats), indent=1))


if __name__ == "__main__":
    main()
