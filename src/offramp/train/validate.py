"""The figures of every exit on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.batches import Rows, Source
from ..errors import ValidationError
from ..model import MultiExitModel
from ..modes import keep_modes
from ..types import ExitOutput
from .meter import counts, mean_iou
from .place import Place
from .seeds import mix, random_states_kept
from .world import World

FIGURES = ("accuracy", "miou", "nll")  # what a monitor can look at


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

    Both are means over the positions that count, at the resolution of the targets. Of maps there is
    the mean intersection over union too, over the classes that are wanted or answered somewhere. No
    random state is touched.

    Raises:
        ValidationError: if there is no batch, or a target is no class.
    """
    world = world or World()
    sums: Tensor | None = None  # [K, 3 + 3 C]
    with keep_modes(model, model.segments), random_states_kept(place.device):
        model.eval()
        share = None if world.size == 1 else world.share
        seeds = lambda number: mix(seed, "validation", number)  # noqa: E731
        for rows in source.batches(seeds=seeds, share=share):
            if rows.spare and sums is not None:
                continue
            found = _sums(model, place.bring(rows), place, ignored)
            if rows.spare:  # it only says how many sums there are
                found = torch.zeros_like(found)
            sums = found if sums is None else sums + found
    if sums is None:
        raise ValidationError("wanted at least one batch of validation data, got none")
    return _figures(world.total(sums).cpu())


class Monitor(NamedTuple):
    """The validation figure that decides which weights are best."""

    figure: str  # one of FIGURES
    exit: str | int  # last, mean or a number

    @classmethod
    def named(cls, name: str, num_exits: int) -> Monitor:
        """A monitor from its name, such as ``accuracy/last``; ``miou`` is for maps.

        Raises:
            ValidationError: if there is no such figure; the message lists those there are.
        """
        figure, _, place = str(name).partition("/")
        numbers = [str(k) for k in range(num_exits)]
        if figure not in FIGURES or place not in ("last", "mean", *numbers):
            raise ValidationError(
                "wanted monitor as accuracy/, nll/ or, for maps, miou/ with last, mean or an exit "
                f"from 0 to {num_exits - 1}, such as 'accuracy/last'; got {name!r}"
            )
        return cls(figure, int(place) if place in numbers else place)

    def value(self, entry: dict[str, Any]) -> float:
        """How good an epoch was: the larger the better, and NaN is worst.

        Raises:
            ValidationError: if the epoch has no such figure.
        """
        if f"validation_{self.figure}" not in entry:
            raise ValidationError(
                f"wanted targets that are maps for monitor='{self.figure}/{self.exit}', got labels"
            )
        values: Sequence[float] = entry[f"validation_{self.figure}"]
        if self.exit == "mean":
            found = sum(values) / len(values)
        else:
            found = values[-1 if self.exit == "last" else int(self.exit)]
        found = -found if self.figure == "nll" else found
        return found if found == found else float("-inf")


def _figures(sums: Tensor) -> dict[str, list[float]]:
    """Figures from sums of each exit, [K, 3 + 3 C]; C is 0 for labels."""
    counted, right, nll = sums[:, :3].unbind(1)
    figures = {
        "validation_accuracy": (right / counted.clamp_min(1)).tolist(),
        "validation_nll": (nll / counted.clamp_min(1)).tolist(),
    }
    classes = sums[:, 3:].view(len(sums), 3, -1)
    return {**figures, "validation_miou": mean_iou(classes)} if classes.numel() else figures


def _sums(model: MultiExitModel, rows: Rows, place: Place, ignored: int | None) -> Tensor:
    """Positions that count, those right, their log-likelihood, and classes; [K, 3 + 3 C]."""
    with place.autocast():
        outputs = model(rows.inputs)
    target = rows.target.long()
    target = target.masked_fill(~counts(target, ignored), -100)
    classes = outputs[0].logits.shape[1]
    if bool((target >= classes).any()):
        raise ValidationError(
            f"wanted validation targets below C={classes}, got {int(target.max())}"
        )
    return torch.stack([_exit_sums(out, target) for out in outputs])


def _exit_sums(out: ExitOutput, target: Tensor) -> Tensor:
    from ..metrics import chunks, measure_units, sum_units  # here: torchmetrics is slow to import

    num_classes = out.logits.shape[1]
    parts = []
    for rows in chunks(target, num_classes):
        units = measure_units(out.logits[rows], target[rows])
        sums = sum_units(units, num_classes if target.dim() > 1 else 0)
        counted, right, _, nll = sums.units.sum(0)
        parts.append(torch.cat([torch.stack([counted, right, nll]), sums.classes.sum(0).flatten()]))
    return torch.stack(parts).sum(0)
