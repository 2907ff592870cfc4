"""What a backbone file hands over: the parts of a multi-exit model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..registry import models
from ..trees import State, take

register = models.register


def keep_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The renaming of a backbone whose own names are the public ones."""
    return dict(state)


class Parts(NamedTuple):
    """Segments and heads of a multi-exit model, before they are one."""

    segments: Sequence[nn.Module]  # K, State -> State
    heads: Sequence[nn.Module]  # K, State -> ExitOutput
    network: nn.Module | None = None  # owns the segments' parameters, where they are views of it
    compact: Callable[[State, Tensor], State] = take
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = keep_names  # public names -> ours
    # options as they came out, such as the names that a placement chose; the recipe has these
    resolved: Mapping[str, Any] = MappingProxyType({})

    def load_public(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Load weights that have the names of the public implementation.

        Raises:
            CheckpointError: if the file cannot be read or a name or shape does not fit.
        """
        target = model if self.network is None else self.network
        own, given = target.state_dict(), self.rename(read_weights(checkpoint))
        # batch norm counts its batches only since torch 0.4.1; older files have no such counts
        counts = {n: v for n, v in own.items() if n.endswith(".num_batches_tracked")}
        given = counts | given
        wrong = {
            "missing": [n for n in own if n not in given],
            "unknown": [n for n in given if n not in own],
            "of another shape": [n for n in own if n in given and own[n].shape != given[n].shape],
        }
        told = [f"{len(ns)} names are {what}, as {ns[0]}" for what, ns in wrong.items() if ns]
        if told:
            raise CheckpointError(f"{checkpoint} does not fit this model: {'; '.join(told)}")
        target.load_state_dict(given)


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """State dict of a checkpoint file, safetensors or torch, without ``module.`` prefixes.

    Raises:
        CheckpointError: if there is no such file or it holds no state dict.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"wanted a checkpoint file, got {path}, which does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
    state: Any = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"wanted a state dict of tensors in {path}, got {type(loaded).__name__}"
        )
    return {name.removeprefix("module."): value for name, value in state.items()}
