"""Do the losses that routes take from a segment help or hinder there, while a network trains?

A recipe's network trains jointly; the recipe's objective says which losses are to be taken. At some
points of the training, gradients of every exit's loss are computed over training batches, augmented
as in training, and those of the first and the last exit's loss over batches of the validation part,
which no weight has seen. To first order, a step along the loss of exit j lowers the loss of exit i
on unseen inputs by the product of the two, in every segment. Printed, for i the first exit and the
last:

- taken: the share of what all losses together do for exit i that comes from those which a scheme
  takes away. Above 0 they help exit i, below 0 they hinder it.
- cosines, a mean over the segments of exit i, of the update with its gradient on unseen inputs,
  joint and by the scheme. A cosine knows no length, so a learning rate per segment does not change
  it: where the scheme's is the lower one, no such rate makes up for what it lost.

    python benchmarks/route_conflicts.py bdl_cifar100_small data.path=$OFFRAMP_DATA/cifar100
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import offramp
from offramp.config import load_config
from offramp.data.augment import Augment, augmented
from offramp.data.batches import Data, open_data
from offramp.model import MultiExitModel
from offramp.objectives.base import ExitLosses
from offramp.objectives.joint import Joint
from offramp.runs.build import make_augment, make_data, make_model, make_objective

CHUNKS = 8  # of the training batches, for standard errors


class Snapshots(Joint):
    """Joint training that keeps the model's weights as they are at some points of the progress."""

    def __init__(self, model: MultiExitModel, points: Sequence[float]) -> None:
        super().__init__()
        self.left = sorted(points)
        self.kept: dict[float, dict[str, Tensor]] = {}
        # a function, as an attribute of that kind would make the model a part of the objective
        self._take = lambda: copy.deepcopy(model.state_dict())

    def forward(self, outputs: Any, batch: Any, costs: Any) -> Any:
        while self.left and batch.progress >= self.left[0]:
            self.kept[self.left.pop(0)] = self._take()
        return super().forward(outputs, batch, costs)


def gradients(
    model: MultiExitModel, batches: Iterable[tuple[Tensor, Tensor]], exits: Sequence[int]
) -> dict[int, list[Tensor]]:
    """Mean gradient of each exit's cross-entropy in every segment up to it, a vector for each."""
    sums: dict[int, list[Tensor]] = {}
    count = 0
    for inputs, target in batches:
        outputs = model(inputs)
        count += 1
        for k in exits:
            weights = [list(segment.parameters()) for segment in list(model.segments)[: k + 1]]
            loss = torch.nn.functional.cross_entropy(outputs[k].logits, target)
            flat = [weight for part in weights for weight in part]
            found = iter(torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True))
            own = [torch.cat([next(found).flatten() for _ in part]) for part in weights]
            before = sums.get(k)
            sums[k] = own if before is None else [a + b for a, b in zip(before, own, strict=True)]
    return {k: [value / count for value in values] for k, values in sums.items()}


def batches(
    data: Data, size: int, seed: int, augment: Augment | None = None
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches without end, in random order."""
    chance, source = torch.Generator().manual_seed(seed), open_data(data, size)
    if (source.rows or size) < size:
        raise SystemExit(f"wanted at least {size} rows in each part, got {source.rows}")
    while True:
        for rows in source.batches(chance):
            if len(rows.target) == size:
                inputs, target = rows.inputs, rows.target
                if augment is not None:
                    inputs, target = augmented(augment, inputs, target, chance)
                yield inputs, target


def compare(
    taught: list[dict[int, list[Tensor]]], unseen: list[Tensor], exit: int, since: Sequence[int]
) -> dict[str, Any]:
    """What the module's docstring says of exit i, from the gradients of every chunk of batches."""
    num = len(since)

    def updates(by: dict[int, list[Tensor]], routed: bool) -> list[Tensor]:
        """What moves each segment up to the exit: the sum of its exits' gradients."""
        reach = [
            [j for j in range(b, num) if not (routed and b < since[j])] for b in range(exit + 1)
        ]
        return [torch.stack([by[j][b] for j in exits]).sum(0) for b, exits in enumerate(reach)]

    def mean(measure: Callable[[Tensor, Tensor], Tensor], moved: list[Tensor]) -> Tensor:
        pairs = zip(moved, unseen, strict=True)
        return torch.stack([measure(update, gradient) for update, gradient in pairs]).mean()

    told = [[updates(by, routed) for routed in (False, True)] for by in taught]
    done = torch.stack([torch.stack([mean(torch.dot, u) for u in both]) for both in told])
    cosine = partial(torch.cosine_similarity, dim=0)
    cosines = torch.stack([torch.stack([mean(cosine, u) for u in both]) for both in told])
    whole = done[:, 0].mean()
    taken, gap = (done[:, 0] - done[:, 1]) / whole, cosines[:, 1] - cosines[:, 0]
    root = len(taught) ** 0.5
    return {
        "taken": float(taken.mean()),
        "taken_se": float(taken.std() / root),
        "cosine_joint": float(cosines[:, 0].mean()),
        "cosine_scheme": float(cosines[:, 1].mean()),
        "gap_se": float(gap.std() / root),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*", help="key=value, as for offramp train")
    parser.add_argument("--at", type=float, nargs="+", default=[0.1, 0.5, 0.98])
    parser.add_argument("--batches", type=int, default=40, help="of 64, on each side")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    config = load_config(args.recipe, args.changes)
    scheme = make_objective(config.objective.plain())
    if not isinstance(scheme, ExitLosses):
        parser.error(f"wanted a recipe whose objective is a scheme, got {config.objective.name}")
    if config.train.phases:
        parser.error("wanted a recipe of one phase, got one with train.phases")
    splits, train = make_data(config), config.train.options
    model, augment = make_model(config, splits), make_augment(config)
    objective = Snapshots(model, args.at)
    offramp.fit(model, splits.train, objective, augment=augment, seed=config.seed, **train)
    table = Table("progress", "exit", "taken", "± s.e.", "cosine joint", "scheme", "± s.e.")
    report: list[dict[str, Any]] = []
    for point, state in objective.kept.items():
        model.load_state_dict(state)
        model.train()
        ends, since = (0, model.num_exits - 1), scheme.since(model.num_exits, point)
        held = batches(splits.validation, 64, 1)
        unseen = gradients(model, itertools.islice(held, args.batches), ends)
        coming = batches(splits.train, 64, 2, augment)
        taught = [
            gradients(
                model,
                itertools.islice(coming, max(1, args.batches // CHUNKS)),
                range(model.num_exits),
            )
            for _ in range(CHUNKS)
        ]
        for exit in ends:
            found = compare(taught, unseen[exit], exit, since)
            report.append({"progress": point, "exit": exit, **found})
            table.add_row(f"{point:.2f}", str(exit), *(f"{value:+.3f}" for value in found.values()))
    Console(width=100).print(table)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
