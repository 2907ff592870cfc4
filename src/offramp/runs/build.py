"""Data, model and objective, made from a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..bundle import load
from ..config import Config
from ..data.augment import Augment, augmentation
from ..data.base import Splits, create_dataset
from ..data.batches import Data, open_data
from ..errors import DataError, OfframpError, ValidationError
from ..model import MultiExitModel, create_model
from ..objectives import Objective, create_objective
from ..registry import models
from ..trees import State, tensors
from ..types import ExitOutput

_MOST_ROWS = 256  # of a batch that is answered


def make_data(config: Config) -> Splits:
    """The data set of a configuration, in its four parts.

    Parts are drawn by the run's seed, unless ``data.seed`` says another.

    Raises:
        DataError: if the data cannot be read.
    """
    return create_dataset(config.data.name, **{"seed": config.seed, **config.data.options})


def make_augment(config: Config) -> Augment | None:
    """What is done to training batches; None where nothing is."""
    return augmentation(config.data.augment) if config.data.augment else None


def make_model(config: Config, splits: Splits) -> MultiExitModel:
    """The model of a configuration, its weights drawn by seed; no random state is touched.

    The number of classes is that of the data, where the configuration does not say it.
    """
    options = dict(config.model.options)
    if "num_classes" in inspect.signature(models.get(config.model.name)).parameters:
        options.setdefault("num_classes", splits.num_classes)
        if options["num_classes"] < splits.num_classes:
            raise DataError(
                f"wanted a model of at least {splits.num_classes} classes, as the data have; got "
                f"model.num_classes={options['num_classes']}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return create_model(config.model.name, **options)


def answers_with(data: Data) -> str:
    """``map`` where targets have positions, else ``label``; a DataLoader gives its first batch."""
    source = open_data(data, 1)
    rows = next(source.batches()) if source.first is None else source.first()
    return "map" if rows.target.dim() > 1 else "label"


def rows_at_once(config: Config) -> int:
    """Rows of a batch that is answered: what memory held in training it holds without gradients."""
    options = [config.train.options, *config.train.phases]
    return min(_MOST_ROWS, *(each["batch_size"] for each in options if "batch_size" in each))


def dry_run(model: MultiExitModel, example: State) -> list[ExitOutput]:
    """Run a model once, so that inputs it does not take are told before the long work.

    Raises:
        ValidationError: if it does not take inputs of that shape.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(example)
    except OfframpError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shape = "x".join(str(side) for side in tensors(example)[0].shape[1:])
        mode = "train on" if model.training else "take"
        told = str(error).partition("\n")[0]
        raise ValidationError(
            f"the model does not {mode} inputs of shape {shape}, {len(tensors(example)[0])} at "
            f"once: {told}"
        ) from None


def make_objective(named: Mapping[str, Any]) -> Objective:
    """An objective from its name and options.

    A ``teacher``, of the objective or of one inside it, is the path of a bundle, whose model
    teaches.
    """
    options = _with_teachers(named)
    return create_objective(options.pop("name"), **options)


def _with_teachers(named: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(named)
    if isinstance(options.get("objective"), Mapping):
        options["objective"] = _with_teachers(options["objective"])
    if options.get("teacher") is not None:
        options["teacher"] = load(options["teacher"]).model
    return options
