"""The one model class: K segments, K heads, one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from .backbones.base import Parts
from .errors import ValidationError
from .registry import models
from .trees import State, take
from .types import ExitOutput


class Recipe(NamedTuple):
    """How a model was made: enough to make it again, weights aside."""

    name: str  # of a registered model, or "attach"
    options: dict[str, Any]


class MultiExitModel(nn.Module):
    """A network that can answer early: segments that run in turn, and a head after each.

    `step` is all there is to it: training, records, adaptive runs, cost counting and export are
    loops over it. The last exit is the full network.

    Args:
        segments: K modules, each from state to state; the first takes the inputs.
        heads: K modules, each from state to `ExitOutput`.
        network: the network that the segments are views of, where there is one. It then owns the
            parameters: ``state_dict`` holds them once, as ``network.*`` beside ``heads.*``.
        compact: keeps some rows of a state, ``(state, rows) -> state``; by default every tensor is
            indexed.

    Raises:
        ValidationError: if segments and heads differ in number.
    """

    segments: nn.ModuleList
    heads: nn.ModuleList
    recipe: Recipe | None  # set by `create_model` and `attach`; a bundle needs it

    def __init__(
        self,
        segments: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        *,
        network: nn.Module | None = None,
        compact: Callable[[State, Tensor], State] = take,
    ) -> None:
        super().__init__()
        if len(segments) != len(heads) or not segments:
            raise ValidationError(
                f"wanted one head per segment, got {len(segments)} segments and {len(heads)} heads"
            )
        self._compact = compact
        self.recipe = None
        self.network = network
        if network is None:
            self.segments = nn.ModuleList(segments)
        else:  # views on the network: not registered, or every parameter would be saved twice
            self.training = network.training
            object.__setattr__(self, "segments", nn.ModuleList(segments))
        self.heads = nn.ModuleList(heads)

    @property
    def num_exits(self) -> int:
        """Number of exits, K, the last one included."""
        return len(self.heads)

    def step(self, k: int, state: State) -> tuple[State, ExitOutput]:
        """Advance to exit ``k``: the state to carry on from, and that exit's output."""
        state = self.segments[k](state)
        return state, self.heads[k](state)

    def forward(self, inputs: State) -> list[ExitOutput]:
        """All K exits."""
        state, outputs = inputs, []
        for k in range(self.num_exits):
            state, out = self.step(k, state)
            outputs.append(out)
        return outputs

    def compact(self, state: State, rows: Tensor) -> State:
        """Keep some rows of a state; ``rows`` are indices [n]."""
        return self._compact(state, rows)

    def train(self, mode: bool = True) -> MultiExitModel:
        """Set training mode, on the segments' views too."""
        super().train(mode)
        if self.network is not None:
            self.segments.train(mode)
        return self


def create_model(
    name: str, *, checkpoint: str | Path | None = None, **options: Any
) -> MultiExitModel:
    """A registered multi-exit model.

    Args:
        name: one of `list_models`.
        checkpoint: a file with the weights of the public implementation, loaded by name.
        options: what the model takes, such as ``num_classes``.

    Raises:
        UnknownNameError: if there is no model of that name.
        OptionError: if the model does not take an option.
        CheckpointError: if the checkpoint does not fit.

    Example:
        >>> model = create_model("msdnet", num_classes=10, num_exits=3, base=1, step=1)
        >>> model.num_exits
        3
    """
    parts: Parts = models.create(name, **options)
    model = MultiExitModel(
        parts.segments, parts.heads, network=parts.network, compact=parts.compact
    )
    if checkpoint is not None:
        parts.load_public(model, checkpoint)
    model.recipe = Recipe(name, {**options, **parts.resolved})
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, such as ``"resnet*"``."""
    return models.names(pattern)
