"""What each exit of a configured model costs, before or after training."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bundle import load
from ..config import Config, load_config
from ..costs import Pieces, count_macs, measure
from ..errors import ConfigError, OfframpWarning, ValidationError
from ..model import MultiExitModel, create_model
from ..registry import datasets, models
from ..trees import State, move, tensors
from ..types import Costs
from .build import dry_run, make_data, make_model
from .device import find_device

BUNDLE = "bundle.json"


@dataclass(frozen=True)
class Profile:
    """Costs of a model at some batch sizes."""

    model: str  # its name
    shape: tuple[int, ...]  # of one input
    num_classes: int  # that every exit answers with, C
    device: str
    costs: list[Costs]  # one per batch size
    full_spread_ms: list[float]  # of the full network, interquartile range, likewise
    pieces: Pieces  # multiply-accumulates of every segment and head by itself, for one input

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON."""
        times = [
            {**costs.to_dict(), "full_spread_ms": spread}
            for costs, spread in zip(self.costs, self.full_spread_ms, strict=True)
        ]
        relative = self.costs[0].relative().tolist()
        told = {"model": self.model, "shape": list(self.shape), "num_classes": self.num_classes}
        told["device"] = self.device
        macs = {name: values.tolist() for name, values in self.pieces._asdict().items()}
        return {**told, "relative": relative, "costs": times, "pieces": macs}


def profile(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    batch_sizes: Sequence[int] = (1, 32),
    shape: str | None = None,
    repeats: int = 20,
    device: torch.device | str | None = None,
) -> Profile:
    """Count and time the exits of a model, and its full network without early heads.

    Args:
        source: a recipe's name, a YAML file, the folder of a run, or a bundle.
        overrides: ``a.b.c=value`` each; a bundle takes none.
        batch_sizes: inputs to time at once.
        shape: of one input, such as ``3,32,32``; then no data are read, and the number of classes
            is the model's own default where its options do not say it. By default that of the
            data, or of the images that a bundle was made for.
        repeats: timed runs of each batch size.
        device: where to run; by default on a GPU, where there is one.

    Raises:
        ConfigError: if the config is faulty.
        ValidationError: if the shape is none, or the model does not take it.
    """
    place = find_device(device)
    given = None if shape is None else torch.zeros(1, *_sides(shape))
    if (Path(source) / BUNDLE).is_file():
        name, model, example = _from_bundle(Path(source), overrides, given)
    else:
        config = load_config(source, overrides)
        name, (model, example) = config.model.name, _from_config(config, given)
    model = model.to(place).eval()
    dry_run(model, move(example, place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OfframpWarning)  # of dear heads: `pieces` has them
        found = [_measure(model, example, size, repeats) for size in batch_sizes]
    costs, spreads = map(list, zip(*found, strict=True))
    with torch.no_grad():
        pieces = count_macs(model, move(example, place))
        classes = model(move(example, place))[-1].logits.shape[1]
    sides = tuple(tensors(example)[0].shape[1:])
    return Profile(name, sides, classes, str(place), costs, spreads, pieces)


def _from_bundle(
    path: Path, overrides: Sequence[str], given: State | None
) -> tuple[str, MultiExitModel, State]:
    if overrides:
        raise ConfigError([f"wanted no key=value with a bundle, got {overrides[0]!r}"])
    bundle = load(path)
    if given is None:
        if bundle.preprocess is None:
            raise ValidationError(f"{path} does not say the shape of its inputs: wanted --shape")
        channels = 1 if bundle.preprocess.mode == "L" else 3
        given = torch.zeros(1, channels, *bundle.preprocess.size)
    name = "model" if bundle.recipe is None else bundle.recipe.name
    return name, bundle.model, given


def _from_config(config: Config, given: State | None) -> tuple[MultiExitModel, State]:
    """The model, its weights drawn, and one input."""
    known = inspect.signature(models.get(config.model.name)).parameters
    options = {k: v for k, v in config.model.options.items() if k not in ("checkpoint", "weights")}
    if "pretrained" in known:
        options["pretrained"] = False
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"options": options})}
    )
    if given is not None:
        return create_model(config.model.name, **options), given
    if "in_memory" in inspect.signature(datasets.get(config.data.name)).parameters:
        files = {**config.data.options, "in_memory": False}  # one input is all that is decoded
        data = config.data.model_copy(update={"options": files})
        config = config.model_copy(update={"data": data})
    splits = make_data(config)
    return make_model(config, splits), splits.example()


def _measure(
    model: MultiExitModel, example: State, batch_size: int, repeats: int
) -> tuple[Costs, float]:
    """Costs, and the spread of the full network, which is timed by itself."""
    costs = measure(model, example, batch_size=batch_size, repeats=repeats)
    alone = MultiExitModel([nn.Sequential(*model.segments)], [model.heads[-1]]).eval()
    whole = measure(alone, example, batch_size=batch_size, repeats=repeats)
    if whole.latency_ms is None or whole.spread_ms is None:
        return costs, 0.0
    full = {**costs.full, "latency_ms": float(whole.latency_ms[0])}
    return replace(costs, full=full), float(whole.spread_ms[0])


def _sides(shape: str) -> list[int]:
    sides = [side.strip() for side in shape.replace("x", ",").split(",")]
    if not all(side.isdecimal() and 0 < int(side) < 1 << 16 for side in sides):
        raise ValidationError(f"wanted the shape of one input, such as 3,32,32, got {shape!r}")
    return [int(side) for side in sides]
