"""What a checked config holds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Plain = dict[str, Any]  # what YAML and JSON can hold


class Section(BaseModel):
    """A part of a config; it does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(Section):
    """Something registered, by name, and the options that its factory is called with."""

    name: str
    options: Plain = Field(default_factory=dict)

    def plain(self) -> Plain:
        """The section as it stands in a file: name and options side by side."""
        return {"name": self.name, **self.options}


class DataConfig(Named):
    """A data set, and how training batches are augmented."""

    augment: list[str | Plain] = Field(default_factory=list)

    def plain(self) -> Plain:
        """The section as it stands in a file."""
        return {**super().plain(), **({"augment": self.augment} if self.augment else {})}


class ModelConfig(Named):
    """A model; ``num_classes``, where it is not among the options, is that of the data."""


class ObjectiveConfig(Named):
    """An objective; an option ``objective`` is a nested one, in the same plain form."""

    name: str = "joint"


class PolicyConfig(Named):
    """A policy; results are filed under its label, by default the name."""

    label: str

    def plain(self) -> Plain:
        """The section as it stands in a file."""
        label = {} if self.label == self.name else {"label": self.label}
        return {"name": self.name, **label, **self.options}


class TrainConfig(Section):
    """How to train: the options of a phase, phases where there are several, and the rest.

    ``options`` holds every option of a phase, defaults included, under the keywords of
    `offramp.fit`; a phase holds what it changes, and may have an objective of its own, as a mapping
    with a name.
    """

    options: Plain
    phases: list[Plain] = Field(default_factory=list)
    monitor: str | None = None
    patience: int | None = None
    workers: int = 0
    save_every: float = 60.0

    def plain(self) -> Plain:
        """The section as it stands in a file."""
        rest = {name: getattr(self, name) for name in TrainConfig.model_fields if name != "options"}
        if not rest["phases"]:
            del rest["phases"]
        return {**self.options, **rest}


class GatesConfig(Section):
    """Gates that are trained by themselves, after all phases, for one target.

    ``target`` is ``budget``, ``alpha``, ``speedup`` or ``max_drop``, and ``value`` its number, on
    the calibration part; ``data`` names the part whose rows the gates learn from; ``options`` are
    ``nats`` of `offramp.gates.fit_gates` and those of `offramp.gates.Fitting`.
    """

    target: str
    value: float
    unit: str = "macs"
    data: str = "train"
    options: Plain = Field(default_factory=dict)

    def plain(self) -> Plain:
        """The section as it stands in a file."""
        return {self.target: self.value, "unit": self.unit, "data": self.data, **self.options}


class Config(Section):
    """A whole study of one model on one data set, checked."""

    name: str
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig
    train: TrainConfig
    gates: GatesConfig | None = None  # None: they are trained with the rest, if at all
    policies: list[PolicyConfig]
    budgets: list[float]  # relative to the original network, in multiply-accumulates
    seed: int = 0

    def plain(self) -> Plain:
        """The config as it stands in a file."""
        return {
            "name": self.name,
            "seed": self.seed,
            "data": self.data.plain(),
            "model": self.model.plain(),
            "objective": self.objective.plain(),
            "train": self.train.plain(),
            **({} if self.gates is None else {"gates": self.gates.plain()}),
            "policies": [policy.plain() for policy in self.policies],
            "budgets": self.budgets,
        }
