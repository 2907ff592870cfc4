"""What gates are fitted on: their inputs, and every exit's loss, over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..costs import device_of
from ..data.batches import Data, Source, open_data
from ..errors import DataError, ValidationError
from ..functional import correctness, upsample
from ..model import MultiExitModel
from ..modes import keep_modes
from ..objectives.base import counted
from ..types import ExitOutput
from .bar import progress_bar
from .place import Place
from .seeds import mix, random_states_kept

_WIDE = 2**30  # bytes of float32 features beyond which they are kept in 16 bits
_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class GateData:
    """What goes into every gate, and what every exit makes of the same inputs.

    For N inputs it takes ``4 N (F_0 + ... + F_{K-2} + 2 K + 1)`` bytes, with F_k features at gate
    k, or about half of that where the features are kept in 16 bits.
    """

    features: list[Tensor]  # K-1, each [N, F_k], float32 or float16
    losses: Tensor  # [N, K] float32, cross-entropy in nats; of a map, its mean over positions
    right: Tensor  # [N, K] float32, whether an exit is right; of a map, the share of its positions
    units: Tensor  # [N] float32, targets that count: 1, or the positions of a map

    @property
    def num_rows(self) -> int:
        """Number of inputs, N."""
        return len(self.losses)

    @property
    def num_exits(self) -> int:
        """Number of exits, K."""
        return self.losses.shape[1]

    def take(self, rows: Tensor) -> GateData:
        """Keep some inputs; ``rows`` are numbers [n] or a mask [N].

        Raises:
            ValidationError: if none is left.
        """
        kept = GateData(
            [part[rows] for part in self.features],
            self.losses[rows],
            self.right[rows],
            self.units[rows],
        )
        if not kept.num_rows:
            raise ValidationError("wanted at least one row, got none")
        return kept


def cache_gates(
    model: MultiExitModel,
    data: Data,
    *,
    batch_size: int = 256,
    ignore_index: int = -100,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> GateData:
    """Run all exits over a data set once and keep what gates are fitted on.

    The model runs in evaluation mode without gradients; afterwards every module is in the mode it
    was in, and no random state is touched. Features beyond 1 GiB in float32 are kept in float16.

    Args:
        model: a model with a linear gate at every early exit.
        data: a data set of ``(input, target)``, a loader of ``(inputs, target)`` batches, or a pair
            of tensors in memory.
        batch_size: rows per batch, where ``data`` is no loader.
        ignore_index: a target that does not count, beside the negative ones.
        device: where the model is moved to and runs; by default where it is. What is kept lies on
            the CPU.
        progress: show a progress bar on standard error.

    Raises:
        ValidationError: if an early exit has no gate, or one that is no linear layer to one logit;
            the model has one exit only; ``batch_size`` is below 1; or a target is no class.
        DataError: if ``data`` are none of these, or are empty.

    Example:
        >>> data = cache_gates(model, (images, labels))
        >>> [part.shape for part in data.features], data.losses.shape
        ([torch.Size([1000, 64]), torch.Size([1000, 128])], torch.Size([1000, 3]))
    """
    layers = linear_gates(model)
    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise ValidationError(f"wanted batch_size of at least 1, got {batch_size!r}")
    if device is not None:
        model.to(device)
    source, place = open_data(data, batch_size), Place(device_of(model))
    parts: list[_Part] = []
    with ExitStack() as stack:
        stack.enter_context(keep_modes(model, model.segments))
        stack.enter_context(random_states_kept(place.device))
        seen = stack.enter_context(_listening(layers))
        title = "caching what goes into the gates"
        bar = stack.enter_context(progress_bar(source.steps or 0, title)) if progress else None
        model.eval()
        for part in _run(model, source, place, seen, ignore_index):
            parts.append(part)
            if bar is not None:
                bar.advance()
    if not parts:
        raise DataError("wanted at least one row of data, got none")
    columns = zip(*(part.features for part in parts), strict=True)
    rest = zip(*(part[1:] for part in parts), strict=True)
    return GateData([torch.cat(column) for column in columns], *map(torch.cat, rest))


def linear_gates(model: MultiExitModel) -> list[nn.Linear]:
    """The gate of every early exit, K-1 linear layers.

    Raises:
        ValidationError: if there is no early exit, or one has no gate or another kind of gate.
    """
    if not isinstance(model, MultiExitModel):
        raise ValidationError(
            f"wanted a MultiExitModel, as attach or create_model make; got {type(model).__name__}"
        )
    if model.num_exits < 2:
        raise ValidationError("wanted early exits with gates, got a model of a single exit")
    found: list[nn.Linear] = []
    for k, head in enumerate(list(model.heads)[:-1]):
        gates = [gate for name, gate in head.named_modules() if name.rpartition(".")[2] == "gate"]
        if len(gates) != 1:
            raise ValidationError(
                f"wanted one gate at every early exit, got {len(gates)} at exit {k}; gate=True "
                "gives it, as in attach(..., gate=True)"
            )
        gate = gates[0]
        if not isinstance(gate, nn.Linear) or gate.out_features != 1 or gate.bias is None:
            raise ValidationError(
                f"wanted a linear layer to one logit, with a bias, as gate of exit {k}, got {gate}"
            )
        found.append(gate)
    return found


# ----------------------------------------------------------------------- the pass
class _Part(NamedTuple):
    """What one batch adds."""

    features: list[Tensor]  # K-1, each [n, F_k]
    losses: Tensor  # [n, K]
    right: Tensor  # [n, K]
    units: Tensor  # [n]


@contextmanager
def _listening(layers: list[nn.Linear]) -> Iterator[list[Tensor]]:
    """Give a list whose entry k is what went into gate k last."""
    seen = [torch.empty(0)] * len(layers)

    def listen(k: int) -> Callable[[nn.Module, Any], None]:
        def note(_: nn.Module, inputs: Any) -> None:
            seen[k] = inputs[0].detach()

        return note

    handles = [layer.register_forward_pre_hook(listen(k)) for k, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(
    model: MultiExitModel, source: Source, place: Place, seen: list[Tensor], ignored: int
) -> Iterator[_Part]:
    dtype = torch.float32
    for number, rows in enumerate(source.batches(seeds=lambda n: mix(0, "gates", n))):
        rows = place.bring(rows)
        outputs = model(rows.inputs)
        if not number:
            dtype = _dtype(sum(part.shape[1] for part in seen), source.rows)
        features = [_kept(part, dtype) for part in seen]
        yield _Part(features, *_answers(outputs, rows.target, ignored))


def _dtype(width: int, rows: int | None) -> torch.dtype:
    return torch.float16 if 4 * width * (rows or 0) > _WIDE else torch.float32


def _kept(features: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy on the CPU; what float16 cannot hold becomes the largest number it can."""
    if dtype == torch.float16:
        features = features.clamp(-_HALF, _HALF)
    return features.to("cpu", dtype, copy=True)


def _answers(
    outputs: Sequence[ExitOutput], target: Tensor, ignored: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n, K], right [n, K] and units [n] of a batch, on the CPU."""
    target = counted(target, outputs[0].logits.shape[1], ignored)
    units = (target >= 0).reshape(len(target), -1).sum(1)
    losses = torch.stack([_losses(out.logits, target) for out in outputs], 1)
    right = correctness([out.logits for out in outputs], target)
    share = losses / units.clamp_min(1).unsqueeze(1)
    return share.float().cpu(), right.float().cpu(), units.float().cpu()


def _losses(logits: Tensor, target: Tensor) -> Tensor:
    """Summed cross-entropy of each input, [n, C, *S], [n, *T] -> [n]."""
    if target.dim() == 1:
        return F.cross_entropy(logits.float(), target, ignore_index=-100, reduction="none")
    # one row at a time: at the targets' resolution logits may be large
    rows = zip(logits.split(1), target.split(1), strict=True)
    large = (F.cross_entropy(upsample(z, t.shape[1:]).float(), t, reduction="sum") for z, t in rows)
    return torch.stack(list(large))
