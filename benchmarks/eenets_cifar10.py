"""EENets on CIFAR-10: accuracy against cost, beside the plain network and smaller plain ones.

    python benchmarks/eenets_cifar10.py --data $OFFRAMP_DATA/cifar10 --out runs/eenets_cifar10

An EE-ResNet-20 with four early exits, trained in two stages as EENets do: all exits' losses first
(v0), then the loss of every suffix (v2), with lambda found for a mean cost of .2, .4, .6 and .8.
The four trainings of the second stage begin at the same weights of the first one. Plain ResNets of
depth 20, 14 and 8 have the same two stages: both begin with a fresh optimizer and a fresh rate.
Everything is scored on test once. What is finished stays: the same command goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import offramp
from offramp.data.augment import augmentation
from offramp.files import write_text

TARGETS = (0.2, 0.4, 0.6, 0.8)
AT_COSTS = (0.1, 0.3, 0.5, 0.7)
PLAIN = (20, 14, 8)


def train(model: offramp.MultiExitModel, splits: Any, objective: Any, epochs: int, seed: int):
    """One stage: Adam with a rate that rises for a while and then falls to zero."""
    offramp.fit(
        model,
        splits.train,
        objective,
        epochs=epochs,
        batch_size=64,
        optimizer="adam",
        lr=0.002,
        weight_decay=1e-4,
        schedule="cosine",
        warmup=0.1,
        channels_last=True,
        augment=augmentation(["crop", "flip"]),
        seed=seed,
        progress=False,
    )


def shown(result: Any) -> dict[str, Any]:
    return {
        "cost": result.cost,
        "cost_stderr": result.cost_stderr,
        "accuracy": 100 * result.accuracy,
        "rates": [each.rate for each in result.exits],
    }


def early(splits: Any, seed: int, stages: list[int], head: Any = "pool") -> dict[str, Any]:
    """All targets of a seed: what the gates' own rule does, and thresholds fitted to the budget."""
    torch.manual_seed(seed)
    places = {"at_costs": list(AT_COSTS)}
    first = offramp.create_model("ee_resnet", depth=20, placement=places, head=head)
    costs = offramp.measure(first, splits.example(1), latency=False)
    train(first, splits, "joint", stages[0], seed)
    found: dict[str, Any] = {"costs": costs.relative().tolist(), "joint": scored(first, splits)}
    for target in TARGETS:
        model = copy.deepcopy(first)
        objective = offramp.create_objective("suffix_mixture", target_cost=target)
        train(model, splits, objective, stages[1], seed)
        found[str(target)] = scored(model, splits, target)
        found[str(target)]["lambda"] = float(objective.pressure.found)
    return found


def scored(model: offramp.MultiExitModel, splits: Any, target: float | None = None):
    """Figures on test; thresholds are fitted on the calibration part."""
    model.eval()
    costs = offramp.measure(model, splits.example(1), latency=False)
    calibration = offramp.record(model, splits.calibration, progress=False)
    test = offramp.record(model, splits.test, progress=False)
    budgets = TARGETS if target is None else (target,)
    rule = offramp.create_policy("gate", num_exits=model.num_exits)
    found = {"exits": [100 * e.top1 for e in offramp.evaluate(rule, test, costs).exits]}
    if target is not None:
        found["rule"] = shown(offramp.evaluate(rule, test, costs))
        found["gate"] = shown(offramp.curve("gate", calibration, test, costs, budgets)[0])
    confident = offramp.curve("max_prob", calibration, test, costs, budgets)
    found["max_prob"] = [shown(each) for each in confident]
    return found


def plain(splits: Any, depth: int, seed: int, stages: list[int]) -> dict[str, Any]:
    """A network without early exits, of the same kind."""
    torch.manual_seed(seed)
    model = offramp.create_model("resnet_cifar", depth=depth, shortcut="B", at=[])
    for epochs in stages:
        train(model, splits, "joint", epochs, seed)
    costs = offramp.measure(model.eval(), splits.example(1), latency=False)
    test = offramp.record(model, splits.test, progress=False)
    last = offramp.evaluate(offramp.create_policy("fixed", num_exits=1), test, costs)
    return {"macs": float(costs.macs[-1]), "accuracy": 100 * last.accuracy}


def unit(kind: str, seed: int, args: argparse.Namespace) -> str:
    """One part of the work, in a process and with a thread of its own."""
    torch.set_num_threads(1)
    file = args.out / f"{kind}-{seed}.json"
    if not file.is_file():
        splits = offramp.create_dataset("cifar10", path=str(args.data))
        if kind == "early":
            found = early(splits, seed, args.stages, args.head)
        else:
            found = plain(splits, int(kind), seed, args.stages)
        write_text(file, json.dumps(found, indent=1) + "\n")
    return file.name


def table(out: Path, seeds: int) -> None:
    """The figures of all seeds, mean and standard deviation."""
    runs = [json.loads((out / f"early-{seed}.json").read_text()) for seed in range(seeds)]
    names = ("target", "rule: cost", "accuracy", "fitted: cost", "accuracy", "lambda", "rates")
    print("costs of the exits", [round(cost, 3) for cost in runs[0]["costs"]])
    print(" | ".join(names))
    for target in map(str, TARGETS):
        each = [run[target] for run in runs]
        cells = [
            spread([run[rule][figure] for run in each], digits)
            for rule in ("rule", "gate")
            for figure, digits in (("cost", 3), ("accuracy", 2))
        ]
        rates = zip(*[run["rule"]["rates"] for run in each], strict=True)
        shares = [round(statistics.mean(exits), 2) for exits in rates]
        print(" | ".join([target, *cells, spread([run["lambda"] for run in each], 2), str(shares)]))
    print("first stage alone, max_prob at the same budgets")
    for at, target in enumerate(TARGETS):
        each = [run["joint"]["max_prob"][at] for run in runs]
        cells = [spread([run[f] for run in each], d) for f, d in (("cost", 3), ("accuracy", 2))]
        print(" | ".join([str(target), *cells]))
    print("exits alone, after the first stage", mean_exits([run["joint"] for run in runs]))
    whole = None
    for depth in PLAIN:
        each = [json.loads((out / f"{depth}-{seed}.json").read_text()) for seed in range(seeds)]
        whole = whole or each[0]["macs"]
        cost = each[0]["macs"] / whole
        print(f"ResNet-{depth} | {cost:.3f} | {spread([run['accuracy'] for run in each], 2)}")


def mean_exits(runs: list[dict[str, Any]]) -> list[float]:
    return [round(statistics.mean(e), 2) for e in zip(*[r["exits"] for r in runs], strict=True)]


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.pstdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", type=int, nargs=2, default=[10, 5], help="epochs of each")
    parser.add_argument("--head", type=json.loads, default="pool", help="of the exits, as JSON")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    units = [(kind, seed) for kind in ("early", *map(str, PLAIN)) for seed in range(args.seeds)]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(unit, kind, seed, args) for kind, seed in units]:
            print("done", done.result(), flush=True)
    table(args.out, args.seeds)


if __name__ == "__main__":
    main()
