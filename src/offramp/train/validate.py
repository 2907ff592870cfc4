"""The figures of every exit on validation data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.batches import Rows, Source
from ..errors import ValidationError
from ..model import MultiExitModel
from ..modes import keep_modes
from ..types import ExitOutput
from .meter import counts
from .place import Place
from .seeds import mix, random_states_kept
from .world import World


@torch.no_grad()
def validate(
    model: MultiExitModel,
    source: Source,
    place: Place,
    *,
    ignored: int | None = None,
    world: World | None = None,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Accuracy and negative log-likelihood (nats) of each exit in eval mode, K numbers each.

    Both are means over the positions that count, at the resolution of the targets. No random state
    is touched.
    """
    world = world or World()
    sums = torch.zeros(3, model.num_exits, dtype=torch.float64, device=place.device)
    with keep_modes(model, model.segments), random_states_kept(place.device):
        model.eval()
        share = None if world.size == 1 else world.share
        seeds = lambda number: mix(seed, "validation", number)  # noqa: E731
        for rows in source.batches(seeds=seeds, share=share):
            if not rows.spare:
                sums += _sums(model, place.bring(rows), place, ignored)
    counted, right, nll = world.total(sums).cpu()
    return {
        "validation_accuracy": (right / counted.clamp_min(1)).tolist(),
        "validation_nll": (nll / counted.clamp_min(1)).tolist(),
    }


class Monitor(NamedTuple):
    """The validation figure that decides which weights are best."""

    figure: str  # accuracy or nll
    exit: str | int  # last, mean or a number

    @classmethod
    def named(cls, name: str, num_exits: int) -> Monitor:
        """A monitor from its name, such as ``accuracy/last``.

        Raises:
            ValidationError: if there is no such figure; the message lists those there are.
        """
        figure, _, place = str(name).partition("/")
        numbers = [str(k) for k in range(num_exits)]
        if figure not in ("accuracy", "nll") or place not in ("last", "mean", *numbers):
            raise ValidationError(
                "wanted monitor as accuracy/ or nll/ with last, mean or an exit from 0 to "
                f"{num_exits - 1}, such as 'accuracy/last'; got {name!r}"
            )
        return cls(figure, int(place) if place in numbers else place)

    def value(self, entry: dict[str, Any]) -> float:
        """How good an epoch was: the larger the better, and NaN is worst."""
        values: Sequence[float] = entry[f"validation_{self.figure}"]
        if self.exit == "mean":
            found = sum(values) / len(values)
        else:
            found = values[-1 if self.exit == "last" else int(self.exit)]
        found = found if self.figure == "accuracy" else -found
        return found if found == found else float("-inf")


def _sums(model: MultiExitModel, rows: Rows, place: Place, ignored: int | None) -> Tensor:
    """Positions that count, those that each exit gets right, and their log-likelihood; [3, K]."""
    with place.autocast():
        outputs = model(rows.inputs)
    target = rows.target.long()
    target = target.masked_fill(~counts(target, ignored), -100)
    classes = outputs[0].logits.shape[1]
    if bool((target >= classes).any()):
        raise ValidationError(
            f"wanted validation targets below C={classes}, got {int(target.max())}"
        )
    return torch.stack([_exit_sums(out, target) for out in outputs], 1)


def _exit_sums(out: ExitOutput, target: Tensor) -> Tensor:
    return torch.stack(list(_chunk_sums(out.logits, target))).sum(0)


def _chunk_sums(logits: Tensor, target: Tensor) -> Iterator[Tensor]:
    from ..metrics import chunks, measure_units  # here: torchmetrics takes long to import

    for rows in chunks(target, logits.shape[1]):
        units = measure_units(logits[rows], target[rows])
        nll = units.nll.double().masked_fill(~units.valid, 0)
        yield torch.stack([units.valid.sum().double(), units.right.sum().double(), nll.sum()])
