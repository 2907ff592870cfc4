"""LEENet's gates on the public CIFAR-10 ResNet-56: a sweep of alpha, and alpha found for budgets.

    python benchmarks/leenet_resnet56_cifar10.py --data $OFFRAMP_DATA --out leenet.json

The backbone is the public checkpoint, frozen; heads on early blocks learn on the training part. It
has seen all of CIFAR-10 train, where its last exit is always right. So one half of test is divided
between gates (three fifths) and alpha (two fifths), and the other half is scored, once.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from resnet56_cifar10 import load, train_heads
from torch import Tensor

import offramp
from offramp.gates import GateData, GatePoint, cache_gates, sweep_gates, tune_gates

AT = ("layer1.4", "layer1", "layer2.4", "layer2")
BUDGETS = (0.5, 0.6, 0.7, 0.8, 0.9)


def crossing(points: list[GatePoint], cost: float) -> float:
    """The alpha at which the mean cost falls below a cost, in a line between neighbours."""
    for one, other in pairwise(points):
        if one.cost >= cost > other.cost:
            share = (one.cost - cost) / (one.cost - other.cost)
            return one.alpha + share * (other.alpha - one.alpha)
    return math.nan


def width(points: list[GatePoint], costs: offramp.Costs) -> dict[str, float]:
    """Where in alpha inputs move from the last exit to the first."""
    first, last = costs.relative()[[0, -1]].tolist()
    ends = [crossing(points, first + share * (last - first)) for share in (0.9, 0.1)]
    return {
        "90 % of the way": round(ends[0], 3),
        "10 %": round(ends[1], 3),
        "width": round(ends[1] - ends[0], 3),
    }


def sweep(
    train: GateData, calibration: GateData, test: GateData, costs: offramp.Costs, **named: Any
):
    """21 alphas: what each does on calibration and on test, and how long it takes."""
    start, busy = time.perf_counter(), time.process_time()
    points = sweep_gates(train, calibration, costs, 21, **named)
    took = {
        "seconds": round(time.perf_counter() - start, 2),
        "processor seconds": round(time.process_time() - busy, 2),
    }
    print(json.dumps(took), "\n alpha  cost  accuracy  mean exit | test cost  accuracy  mean exit")
    rows = []
    for point in points:
        scored = point.on(test, costs)
        pairs = [(p.cost, 100 * p.accuracy, p.mean_exit) for p in (point, scored)]
        rows.append([round(v, 4) for v in (point.alpha, *pairs[0], *pairs[1])])
        print("{:6.2f} {:5.3f} {:8.2f} {:10.2f}  | {:8.3f} {:9.2f} {:10.2f}".format(*rows[-1]))
    transition = width(points, costs)
    print("transition", json.dumps(transition), flush=True)
    return {**took, "transition": transition, "rows": rows}


def tuned(train: GateData, calibration: GateData, test: GateData, costs: offramp.Costs):
    """Gates for each budget, and the realised cost on test against it."""
    points, rows = [], []
    print("budget   alpha  calibration    test  error %  standard errors  accuracy")
    for budget in BUDGETS:
        point = tune_gates(train, calibration, costs, budget=budget)
        scored = point.on(test, costs)
        noise = math.hypot(point.cost_stderr, scored.cost_stderr)
        row = {
            "budget": budget,
            "alpha": round(point.alpha, 5),
            "calibration": round(point.cost, 5),
            "test": round(scored.cost, 4),
            "error in per cent": round(100 * (scored.cost / budget - 1), 2),
            "standard errors": round((scored.cost - budget) / noise, 2),
            "accuracy": round(100 * scored.accuracy, 2),
            "mean exit": round(scored.mean_exit, 3),
            "rates": [round(rate, 4) for rate in scored.rates],
        }
        points.append(point)
        rows.append(row)
        print(
            "{:6.2f} {:8.5f} {:10.5f} {:9.4f} {:8.2f} {:10.2f} {:14.2f}".format(
                *[*row.values()][:7]
            )
        )
    return points, rows


def beside(
    model: offramp.MultiExitModel,
    points: list[GatePoint],
    parts: dict[str, Any],
    costs: offramp.Costs,
) -> dict[str, object]:
    """The gates in the model against their replay, and a confidence policy at the same budgets."""
    point = points[len(points) // 2]
    point.gates.put(model)
    records = {
        name: offramp.record(model, part) for name, part in parts.items() if name != "cached"
    }
    run = offramp.evaluate(offramp.create_policy("gate", model.num_exits), records["test"], costs)
    replayed = point.on(parts["cached"], costs)
    confident = offramp.curve("max_prob", *records.values(), costs, BUDGETS)
    return {
        "cost of the gates in the model, and replayed": [run.cost, replayed.cost],
        "accuracy likewise": [100 * run.accuracy, 100 * replayed.accuracy],
        "exits alone": [round(100 * each.top1, 2) for each in run.exits],
        "max_prob": [
            {"budget": b, "cost": round(r.cost, 4), "accuracy": round(100 * r.accuracy, 2)}
            for b, r in zip(BUDGETS, confident, strict=True)
        ],
    }


def attached(folder: Path, seed: int) -> offramp.MultiExitModel:
    """The public network with heads and gates after early blocks."""
    torch.manual_seed(seed)
    return offramp.create_model(
        "resnet56_cifar",
        num_classes=10,
        at=AT,
        head={"kind": "conv", "width": 64},
        gate=True,
        checkpoint=next((folder / "weights").glob("resnet56-*.th")),
    )


def thirds(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for gates, for alpha and for the score: 3, 2 and 5 tenths."""
    mixed = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    calibration, scored = mixed.chunk(2)
    cut = 3 * len(calibration) // 5
    return calibration[:cut], calibration[cut:], scored


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cifar10/ and weights/"
    )
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few images only: does it run?")
    args = parser.parse_args()

    train, test = load(args.data, "train"), load(args.data, "test")
    if args.quick:
        args.epochs = 1
        train, test = [tuple(part[:1000] for part in pair) for pair in (train, test)]
    model = attached(args.data, args.seed)
    train_heads(model, train, args.epochs, args.seed)
    model.eval()
    costs = offramp.measure(model, test[0][:1], latency=False)
    seen, held = cache_gates(model, train), cache_gates(model, test)
    rows = thirds(held.num_rows, args.seed)
    fitted, calibration, scored = (held.take(part) for part in rows)
    report: dict[str, object] = {"costs": [round(c, 4) for c in costs.relative().tolist()]}
    for name, data in {"held-out rows": fitted, "rows of train": seen}.items():
        print(f"gates fitted on {data.num_rows} {name}")
        report[f"sweep, gates on {name}"] = sweep(data, calibration, scored, costs)
        points, report[f"budgets, gates on {name}"] = tuned(data, calibration, scored, costs)
    print("gates fitted on held-out rows, balanced")
    report["sweep, balanced"] = sweep(fitted, calibration, scored, costs, nats="balanced")
    parts = {n: (test[0][r], test[1][r]) for n, r in (("calibration", rows[1]), ("test", rows[2]))}
    compared = beside(model, points, {**parts, "cached": scored}, costs)
    print(json.dumps(compared, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report | compared, indent=1) + "\n")


if __name__ == "__main__":
    main()
