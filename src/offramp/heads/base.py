"""What every head does: read its value from the state, make features, classify, and gate."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..errors import ValidationError
from ..trees import State
from ..types import ExitOutput


class Head(nn.Module, ABC):
    """A head with a linear classifier and, where asked, a linear gate on the same features.

    Args:
        features: width F of what `features` returns.
        num_classes: number of classes, C.
        gate: add a gate, the logit of "leave here".
        reads: key of the value to read from the state; None where the state is that value.

    Raises:
        ValidationError: if ``gate`` is neither True nor False.
    """

    def __init__(
        self, features: int, num_classes: int, *, gate: bool = False, reads: int | str | None = None
    ) -> None:
        super().__init__()
        self.reads = reads
        self.classifier = nn.Linear(features, num_classes)
        if not isinstance(gate, bool):
            raise ValidationError(f"wanted gate as True or False, got {gate!r}")
        self.gate = nn.Linear(features, 1) if gate else None

    @abstractmethod
    def features(self, value: Tensor) -> Tensor:
        """Features of a batch, [N, ...] -> [N, F]."""

    def forward(self, state: State) -> ExitOutput:
        """The exit's output for a state."""
        features = self.features(state if self.reads is None else state[self.reads])
        gate = None if self.gate is None else self.gate(features).squeeze(1)
        return ExitOutput(self.classifier(features), gate)


class Answer(nn.Module):
    """The last exit of a cut network: its own answer, read from the state."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, state: State) -> ExitOutput:
        """The network's own logits."""
        return ExitOutput(state[self.reads])
