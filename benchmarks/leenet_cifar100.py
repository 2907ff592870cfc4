"""LEENet's gates on a network trained on CIFAR-100: a sweep of alpha, and alpha found for budgets.

    offramp train leenet_cifar100_small data.path=$OFFRAMP_DATA/cifar100 --out runs/leenet_cifar100
    python benchmarks/leenet_cifar100.py --run runs/leenet_cifar100 --out leenet_cifar100.json

Gates learn from the training part, alpha is found on the calibration part, and the test part is
scored: the run's own parts, which are disjoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from leenet_resnet56_cifar10 import beside, sweep, tuned

import offramp
from offramp.config import load_config
from offramp.gates import cache_gates
from offramp.runs.build import make_data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()

    model = offramp.load(args.run / "bundle").model.eval()
    splits = make_data(load_config(args.run))
    costs = offramp.measure(model, splits.example(1), latency=False)
    parts = [cache_gates(model, p) for p in (splits.train, splits.calibration, splits.test)]
    report: dict[str, object] = {"costs": [round(c, 4) for c in costs.relative().tolist()]}
    report["sweep"] = sweep(*parts, costs)
    points, report["budgets"] = tuned(*parts, costs)
    held = {"calibration": splits.calibration, "test": splits.test, "cached": parts[2]}
    compared = beside(model, points, held, costs)
    print(json.dumps(compared, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report | compared, indent=1) + "\n")


if __name__ == "__main__":
    main()
