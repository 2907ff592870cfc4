"""What the answer of each exit costs: multiply-accumulates, parameters and measured time."""

from __future__ import annotations

import time
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .backbones.macs import countable
from .errors import OfframpWarning, ValidationError
from .model import MultiExitModel
from .modes import keep_modes
from .trees import State, move, num_rows, take
from .types import Costs

DEAR = 0.1  # share of its segment from which on an early head is dear


class Pieces(NamedTuple):
    """One figure for every segment and every head by itself."""

    segments: Tensor  # [K], or [R, K] over R repeats
    heads: Tensor  # the same shape

    @property
    def cumulative(self) -> Tensor:
        """Segments 0..k and heads 0..k, [..., K]."""
        return (self.segments + self.heads).cumsum(-1)

    @property
    def full(self) -> Tensor:
        """The sum of all segments and the last head: the original network, [...]."""
        return self.segments.sum(-1) + self.heads[..., -1]

    @property
    def shares(self) -> Tensor:
        """Each head's figure over its segment's, [..., K]; infinite where a segment has none."""
        return self.heads / self.segments


class Times(NamedTuple):
    """Milliseconds over R repeats."""

    pieces: Pieces  # [R, K]
    whole: Tensor  # [R], the original network in one go


def measure(
    model: MultiExitModel,
    example: State,
    *,
    latency: bool = True,
    batch_size: int | None = None,
    warmup: int = 3,
    repeats: int = 10,
) -> Costs:
    """What it takes to have the answer of each exit, all earlier heads included.

    Runs in eval mode and leaves every module's mode as it was. Multiply-accumulates are those of
    matrix products, convolutions and attention, as torch's own counter knows them; element-wise
    work, pooling and recurrent cells count nothing. Times are those of the model as it stands
    (device, layout, an autocast around this call).

    Args:
        model: the model to measure.
        example: inputs with their batch dimension, as ``model`` takes them; moved to its device.
        latency: also measure time; without it ``latency_ms`` and ``spread_ms`` are None.
        batch_size: rows to time at, repeated or cut from the example; by default the example's own.
        warmup: runs that are not timed.
        repeats: timed runs, of the pieces one by one and of the original network in one go;
            ``latency_ms`` is their median, ``spread_ms`` their interquartile range.

    Warns:
        OfframpWarning: if the model answers with maps and an early head takes more than a tenth of
            its segment's multiply-accumulates: a head on every position easily costs more than the
            network under it.

    Raises:
        ValidationError: if the model is no `MultiExitModel`, the example has no rows, or a number
            is too small.

    Example:
        >>> costs = measure(model, torch.zeros(1, 3, 32, 32), latency=False)
        >>> costs.relative()
        tensor([0.3562, 0.6871, 1.0032], dtype=torch.float64)
    """
    _check(model, example, batch_size, warmup, repeats)
    example = move(example, device_of(model))
    with keep_modes(model, model.segments), torch.no_grad():
        model.eval()
        macs, dims = _count(model, example)
        times = _time(model, _resize(example, batch_size), warmup, repeats) if latency else None
    if dims > 2 and (told := dear_heads(macs)):
        warnings.warn("; ".join(told), OfframpWarning, stacklevel=2)
    params, full_params = _count_params(model)
    full = {"macs": float(macs.full), "params": full_params}
    if times is None:
        return Costs(macs=macs.cumulative, params=params, full=full)
    pieces, whole = times
    low, median, high = pieces.cumulative.quantile(torch.tensor([0.25, 0.5, 0.75]).double(), 0)
    return Costs(
        macs=macs.cumulative,
        params=params,
        latency_ms=median,
        full=full | {"latency_ms": float(whole.quantile(0.5))},
        spread_ms=high - low,
        batch_size=num_rows(example) if batch_size is None else batch_size,
    )


def modules_of(model: MultiExitModel) -> list[nn.Module]:
    """Every module once, those of segments that are views of a network included."""
    return list({id(m): m for root in (model, model.segments) for m in root.modules()}.values())


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the processor where it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check(
    model: object, example: State, batch_size: int | None, warmup: int, repeats: int
) -> None:
    if not isinstance(model, MultiExitModel):
        raise ValidationError(
            f"wanted a MultiExitModel, as attach or create_model make; got {type(model).__name__}"
        )
    if num_rows(example) < 1:
        raise ValidationError("wanted an example with at least one row, got an empty batch")
    if batch_size is not None and batch_size < 1:
        raise ValidationError(f"wanted batch_size of at least 1, got {batch_size}")
    if warmup < 0 or repeats < 1:
        raise ValidationError(f"wanted warmup >= 0 and repeats >= 1, got {warmup} and {repeats}")


def _resize(example: State, batch_size: int | None) -> State:
    """The example with so many rows, repeated or cut."""
    if batch_size is None:
        return example
    rows = torch.arange(batch_size) % num_rows(example)
    return take(example, rows)


def count_macs(model: MultiExitModel, example: State) -> Pieces:
    """Multiply-accumulates for one input of every segment and every head, in the model's mode."""
    return _count(model, example)[0]


def dear_heads(macs: Pieces) -> list[str]:
    """One line for every early head that takes more than a tenth of its segment."""
    shares = macs.shares[:-1].tolist()
    return [
        f"the head of exit {k} takes {in_words(float(macs.heads[k]))} multiply-accumulates, "
        f"{percent(share)} of its segment's {in_words(float(macs.segments[k]))}"
        for k, share in enumerate(shares)
        if share > DEAR
    ]


def in_words(number: float) -> str:
    """A count in thousands, millions or billions, to three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """A share in per cent, to two digits at least."""
    return f"{100 * share:.{1 if share < DEAR else 0}f} %"


def _count(model: MultiExitModel, example: State) -> tuple[Pieces, int]:
    """Multiply-accumulates, and the dimensions of the last exit's logits."""
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes long to import

    segments, heads, state, dims = [], [], example, 0
    with countable():
        for segment, head in zip(model.segments, model.heads, strict=True):
            with FlopCounterMode(display=False) as counter:
                state = segment(state)
            segments.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                dims = head(state).logits.dim()
            heads.append(counter.get_total_flops())
    per_input = 2.0 * num_rows(example)  # the counter gives FLOPs of the whole batch
    segments, heads = (torch.tensor(flops).double() / per_input for flops in (segments, heads))
    return Pieces(segments, heads), dims


def _count_params(model: MultiExitModel) -> tuple[Tensor, float]:
    """Distinct parameters up to each exit, [K], and those of all segments and the last head."""
    seen: dict[int, int] = {}
    totals = []
    for segment, head in zip(model.segments, model.heads, strict=True):
        seen |= _sizes(segment) | _sizes(head)
        totals.append(sum(seen.values()))
    full = _sizes(model.segments) | _sizes(model.heads[-1])
    return torch.tensor(totals).double(), float(sum(full.values()))


def _sizes(module: nn.Module) -> dict[int, int]:
    return {id(parameter): parameter.numel() for parameter in module.parameters()}


def _time(model: MultiExitModel, example: State, warmup: int, repeats: int) -> Times:
    """Milliseconds of each piece in each repeat, [R, K], and of the original network, [R]."""
    cuda = device_of(model).type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize(device_of(model))
        return time.perf_counter()

    rows: list[list[float]] = []
    for _ in range(warmup + repeats):
        state, marks = example, [now()]
        for segment, head in zip(model.segments, model.heads, strict=True):
            state = segment(state)
            marks.append(now())
            head(state)
            marks.append(now())
        state = example  # on a GPU the pieces, each waited for, sum to more than this takes
        for segment in model.segments:
            state = segment(state)
        model.heads[-1](state)
        marks.append(now())
        rows.append(marks)
    spans = 1000 * torch.tensor(rows[warmup:], dtype=torch.float64).diff(dim=1)  # [R, 2K + 1]
    return Times(Pieces(spans[:, 0:-1:2], spans[:, 1:-1:2]), spans[:, -1])
