"""Distillation: exits learn from the last one, or from a teacher (Hinton et al. 2015, section 2).

Around any objective: its terms, and for each exit that learns weight * T^2 * KL(t || s), where t
and s are the softmax of the teacher's and the exit's logits over T. Published settings:

- Block-dependent losses with self-distillation: weight .25, .30 or .35, T 1.5 or 2.5, no T^2.
- EENet (Ilhan et al. 2024), which takes the mean over classes too: ``Distill({"name": "joint",
  "weights": "linear"}, weight=0.01 / C, temperature=3, start=0.75)``.

Left out: a gradient into the teacher, which EENet's code lets through (there the last exit also
learns to be easy to imitate), and distillation of features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..types import Batch, Costs, ExitOutput, Gains, Term
from .base import Objective, register, wrapped


@register("distill")
class Distill(Objective):
    """Another objective's terms, and one per exit that pulls it towards a teacher's answer.

    Without a teacher the last exit teaches all others; no gradient reaches it from there. A teacher
    answers every batch once more, in eval mode and without gradients; it is no part of this
    objective's parameters or state, but goes where the objective goes.

    Args:
        objective: what is wrapped: a name, ``{"name": ..., **options}``, or an objective.
        weight: of the distillation terms.
        temperature: T, by which logits are divided; larger ones tell more of the wrong classes.
        scale: multiply by T^2, so that gradients are about as large at every temperature.
        teacher: takes ``Batch.inputs`` and gives logits [N, C, *S], or exits, whose last counts.
        start: progress of training, in [0, 1], from which on the terms count; before, they are
            zero and the teacher is not asked.
        ignore_index: target that does not count; handed to an objective given by name.
        label_smoothing: handed to an objective given by name; the teacher's answers stay as they
            are.

    Raises:
        ValidationError: if an argument is out of range, or ``ignore_index`` or ``label_smoothing``
            come with an objective that is made already.
        UnknownNameError: if there is no objective of that name.
        OptionError: if that objective does not take an option.

    Example:
        >>> objective = Distill("joint", weight=0.3, temperature=1.5)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['ce/0', 'ce/1', 'ce/2', 'distill/0', 'distill/1']
    """

    def __init__(
        self,
        objective: str | Mapping[str, Any] | Objective = "joint",
        *,
        weight: float = 0.3,
        temperature: float = 1.5,
        scale: bool = True,
        teacher: nn.Module | None = None,
        start: float = 0.0,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _within("weight", weight, 0, math.inf)
        _within("temperature", temperature, 0, math.inf)
        _within("start", start, 0, 1)
        if not temperature:
            raise ValidationError("wanted temperature above 0, got 0")
        if not (teacher is None or isinstance(teacher, nn.Module)):
            raise ValidationError(f"wanted teacher as a module, got {type(teacher).__name__}")
        self.objective = wrapped(objective, ignore_index, label_smoothing)
        self.ignore_index: int = getattr(self.objective, "ignore_index", ignore_index)
        self.weight, self.temperature, self.scale, self.start = weight, temperature, scale, start
        # not registered: it neither learns nor is saved
        object.__setattr__(self, "teacher", teacher)

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """The wrapped objective's terms, then ``distill/k`` for each exit that learns.

        A ``distill/k`` may move the weights that the wrapped terms of exit k, which are those
        whose names end in ``/k``, may all move.

        Raises:
            ValidationError: if the teacher's answer does not fit the exits'.
        """
        terms = self.objective(outputs, batch, costs)
        learners = outputs if self.teacher is not None else outputs[:-1]
        losses = self._losses([out.logits for out in learners], outputs[-1].logits, batch)
        return [
            *terms,
            *(Term(f"distill/{k}", loss, _since(terms, k)) for k, loss in enumerate(losses)),
        ]

    def gains(self, num_exits: int, progress: float) -> Gains | None:
        """Those of the wrapped objective."""
        return self.objective.gains(num_exits, progress)

    def refresh(
        self, answers: Iterable[tuple[Sequence[ExitOutput], Batch]], costs: Costs, rows: int
    ) -> None:
        """What the wrapped objective does with them."""
        self.objective.refresh(answers, costs, rows)

    @property
    def refreshes(self) -> bool:
        """Whether the wrapped objective does."""
        return self.objective.refreshes

    def _losses(self, students: list[Tensor], last: Tensor, batch: Batch) -> list[Tensor]:
        if batch.progress < self.start:
            return [_wide(last.new_zeros(())) for _ in students]
        answer = last.detach() if self.teacher is None else _ask(self.teacher, batch)
        if answer.shape[:2] != last.shape[:2] or answer.dim() != last.dim():
            raise ValidationError(
                f"wanted logits like those of the exits, {tuple(last.shape)}, of the teacher; got "
                f"{tuple(answer.shape)}"
            )
        counts = (batch.target >= 0) & (batch.target != self.ignore_index)  # [N, *S]
        factor = self.weight * (self.temperature**2 if self.scale else 1)
        return [factor * _divergence(answer, s, counts, self.temperature) for s in students]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distill:
        """Move, as `Module.to` does, the teacher as well."""
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        return self

    teacher: nn.Module | None


def _divergence(teacher: Tensor, student: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """KL(t || s) over classes, mean over the rows or positions of the student that count."""
    teacher, student = _wide(teacher), _wide(student)  # [N, C, *S]
    size = student.shape[2:]
    if teacher.shape[2:] != size:
        teacher = F.interpolate(teacher, size, mode="bilinear", align_corners=False)
    if counts.shape[1:] != size:  # of a coarser position all that it covers must count
        counts = F.interpolate(counts[:, None].float(), size, mode="area")[:, 0] == 1
    log_t = (teacher / temperature).log_softmax(1)
    log_s = (student / temperature).log_softmax(1)
    each = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)  # [N, *S]
    return each.masked_fill(~counts, 0).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def _ask(teacher: nn.Module, batch: Batch) -> Tensor:
    said = teacher.eval()(batch.inputs)
    if isinstance(said, list | tuple) and said and not hasattr(said, "logits"):
        said = said[-1]
    logits = getattr(said, "logits", said)
    if not isinstance(logits, Tensor):
        raise ValidationError(
            "wanted a teacher that gives logits [N, C, *S] or a list of ExitOutput, got "
            f"{type(said).__name__}"
        )
    return logits


def _since(terms: Sequence[Term], k: int) -> int:
    """From which segment on all terms of exit k may move weights."""
    return max((term.since for term in terms if term.name.endswith(f"/{k}")), default=0)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider: differences of log-probabilities are lost in bf16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _within(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and low <= value <= high):
        top = "" if high == math.inf else f" and at most {high}"
        raise ValidationError(f"wanted {name} as a number of at least {low}{top}, got {value!r}")
