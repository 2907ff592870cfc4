"""Making the head that fits a value: which one, and where its channels are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from ..errors import OptionError, ValidationError
from ..trees import State
from ..types import ExitOutput
from .conv import ConvHead
from .dense import DenseHead
from .flat import FlatHead
from .linear import Layout, LinearHead
from .pooler import PoolerHead

HeadKind = Literal["auto", "linear", "conv", "dense", "pooler", "flat"]
HeadFactory = Callable[[tuple[int, ...]], nn.Module]  # a value's shape -> module on it
HeadOptions = Mapping[str, Any]  # {"kind": "dense", "width": 64}: a kind and options of that head
HeadSpec = HeadKind | HeadOptions | HeadFactory
HeadSpecs = HeadSpec | Sequence[HeadSpec]

KINDS = ("auto", "linear", "conv", "dense", "pooler", "flat")


class Site(NamedTuple):
    """What a head is made for."""

    shape: tuple[int, ...]  # of the value it reads, [N, ...]
    num_classes: int
    reads: str  # key of that value in the state
    layout: Layout = "channels_first"
    auto: HeadKind = "linear"  # what "auto" stands for here
    gate: bool = False
    dropout: float = 0.1  # of a pooler


class Reading(nn.Module):
    """A user's module as a head: it reads one value and returns logits or an `ExitOutput`."""

    def __init__(self, module: nn.Module, reads: str) -> None:
        super().__init__()
        self.module, self.reads = module, reads

    def forward(self, state: State) -> ExitOutput:
        """The exit's output for a state."""
        out: Tensor | ExitOutput = self.module(state[self.reads])
        return out if isinstance(out, ExitOutput) else ExitOutput(out)


def build_head(spec: HeadSpec, site: Site) -> nn.Module:
    """The head of one exit.

    Args:
        spec: a kind of head, the same with options of that head, as ``{"kind": "dense",
            "width": 64}``, or a function from the value's shape to a module on that value.
        site: what it is made for.

    Raises:
        ValidationError: if the kind is unknown or does not fit the value's shape.
        OptionError: if a head of that kind does not take an option.
    """
    if isinstance(spec, nn.Module):
        raise ValidationError(
            f"wanted a head as a kind or a function from a shape to a module, got the module "
            f"{type(spec).__name__}: one module cannot fit every exit"
        )
    if callable(spec) and not isinstance(spec, str):
        if site.gate:
            raise ValidationError("wanted gate=False: a function makes a head with its own gate")
        made = spec(site.shape)
        if not isinstance(made, nn.Module):
            raise ValidationError(
                f"wanted a module from the function given as head, got {type(made)}"
            )
        return Reading(made, site.reads)
    options = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    kind = options.pop("kind", "auto")
    kind = site.auto if kind == "auto" else kind
    channels = site.shape[-1 if site.layout == "channels_last" else 1]
    if kind == "linear":
        return _make(LinearHead, channels, site, {"layout": site.layout}, options)
    if kind == "flat":
        return _make(FlatHead, site.shape[1:], site, {"layout": site.layout}, options)
    if kind == "pooler" and len(site.shape) == 3:
        return _make(PoolerHead, site.shape[2], site, {}, {"dropout": site.dropout, **options})
    if kind in ("conv", "dense") and len(site.shape) == 4 and site.layout == "channels_first":
        return _make(ConvHead if kind == "conv" else DenseHead, channels, site, {}, options)
    if kind in KINDS:
        raise ValidationError(
            f"a {kind} head does not fit a {site.layout} value of shape {site.shape}"
        )
    raise ValidationError(f"wanted a head among {', '.join(KINDS)}, or a function, got {kind!r}")


def _make(
    head: type[nn.Module],
    size: int | tuple[int, ...],
    site: Site,
    fixed: Mapping[str, Any],
    options: Mapping[str, Any],
) -> nn.Module:
    taken = {"gate": site.gate, "reads": site.reads, **fixed}
    known = [name for name in signature(head).parameters if name not in taken]
    known = [name for name in known if name not in ("channels", "shape", "num_classes")]
    wrong = [name for name in options if name not in known]
    if wrong:
        raise OptionError(f"{head.__name__} takes {', '.join(known) or 'no options'}, got {wrong}")
    return head(size, site.num_classes, **taken, **options)


def check_classes(num_classes: int | None, answered: int) -> int:
    """Number of classes of every exit: what the network answers with.

    Raises:
        ValidationError: if another number is asked for.
    """
    if num_classes not in (None, answered):
        raise ValidationError(
            f"wanted num_classes={answered}, as the network answers, got {num_classes}: all exits "
            "share one set of classes, so change the network's own classifier first"
        )
    return answered


def per_exit(specs: HeadSpecs, num: int) -> list[HeadSpec]:
    """One head specification for each early exit.

    Raises:
        ValidationError: if a sequence of another length is given, or no sequence.
    """
    if isinstance(specs, str | Mapping) or callable(specs):
        return [cast(HeadSpec, specs)] * num
    if not isinstance(specs, Sequence):
        raise ValidationError(
            f"wanted a head among {', '.join(KINDS)}, a function, or one of these per early exit, "
            f"got {type(specs).__name__}"
        )
    if len(specs) != num:
        raise ValidationError(f"wanted {num} heads, one per early exit, got {len(specs)}")
    return list(cast(Sequence[HeadSpec], specs))
