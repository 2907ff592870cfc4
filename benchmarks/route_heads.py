"""Is it the features or the heads? The first and the last head of trained runs, learnt anew.

Each run's network is frozen but for these two heads, which begin as they were drawn and learn from
the run's training part. Printed: accuracy on the run's validation part, before and after, in per
cent. The test part is not touched.

    python benchmarks/route_heads.py runs/joint runs/final
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import offramp
from offramp.config import load_config
from offramp.runs import open_runs
from offramp.runs.build import make_augment, make_data, make_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs or studies")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    for run in (run for path in args.runs for run in open_runs(path)):
        config = load_config(run.path)
        splits = make_data(config)
        drawn = make_model(config, splits)
        model = offramp.load(run.bundle_path).model
        ends = (0, model.num_exits - 1)
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        epochs = [entry for entry in map(json.loads, lines) if entry["kind"] == "epoch"]
        kept = [entry for entry in epochs if entry.get("best")] or epochs
        before = kept[-1]["validation_accuracy"]
        for k in ends:
            model.heads[k].load_state_dict(drawn.heads[k].state_dict())
        history = offramp.fit(
            model,
            splits.train,
            augment=make_augment(config),
            validation=splits.validation,
            train=[f"head.{k}" for k in ends],
            epochs=args.epochs,
            batch_size=64,
            lr=0.1,
            weight_decay=1e-4,
            schedule="one_cycle",
            seed=config.seed,
        )
        after = history[-1]["validation_accuracy"]
        told = "  ".join(f"exit {k}: {100 * before[k]:.2f} -> {100 * after[k]:.2f}" for k in ends)
        print(f"{run.path}  {told}", flush=True)


if __name__ == "__main__":
    main()
