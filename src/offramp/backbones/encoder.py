"""Cuts a network that is one stack of layers where torch.fx cannot trace it: Hugging Face encoders.

There is no table of families and no second implementation of masks: every segment runs the
network's own forward on a view of it (`stack`), so masks are made by the network, for whatever
attention it uses, and the state carries them as [N, L].

Left out: encoder-decoders, several stacks, layers that share parameters, and networks that do
something to the hidden state outside of a module, or need the token numbers after the layers: the
cut network is compared with the uncut one, in both modes, and refused where it differs. A module
that is replaced in the network after the cut is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError, PlaceError, UnsupportedError, ValidationError
from ..heads import Answer, LinearHead
from ..heads.build import HeadSpec, HeadSpecs, Site, build_head, check_classes, per_exit
from ..modes import keep_modes
from ..trees import State, num_rows, take
from ..types import ExitOutput
from .base import Parts
from .stack import (
    Segment,
    Stack,
    Survey,
    answer,
    arguments,
    find_stack,
    main_input,
    named,
    segments_of,
    survey_stack,
)

_DROPOUTS = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "mlp_dropout",
)  # names in configurations


def is_stack(network: nn.Module) -> bool:
    """Whether a network is a transformers model that is one stack of layers inside a classifier.

    This looks at the structure alone: `cut_stack`, which runs the network, may still refuse it. A
    network for maps is none: the layers of one may change the resolution.
    """
    for_maps = type(network).__name__.endswith("ForSemanticSegmentation")
    return not for_maps and find_stack(network) is not None


def stack_places(network: nn.Module) -> list[str]:
    """Names of the layers after which an exit can go, in order: all but the last.

    Raises:
        UnsupportedError: if the network is not one stack of layers; see `is_stack`.

    Example:
        >>> stack_places(BertForSequenceClassification(BertConfig(num_hidden_layers=3)))
        ['bert.encoder.layer.0', 'bert.encoder.layer.1']
    """
    return list(_stack(network).layers[:-1])


def cut_stack(
    network: nn.Module,
    at: Sequence[str],
    example: State,
    *,
    num_classes: int | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """Cut a stack of layers into segments, with an early head after each but the last.

    The state after segment 0 is ``{"hidden": [N, L, D]}``, with ``"attention_mask"`` [N, L] where
    the inputs have one; the last segment leaves ``{"logits": [N, C]}``. Where no exit reads
    padding, compaction drops the trailing columns that are padding in every row that stays.

    Args:
        network: a transformers model with a classifier; its own answer is the last exit.
        at: names out of `stack_places`, in the order they run.
        example: inputs, a mapping of tensors (``input_ids``, ...) or one tensor, which is the
            model's main input. Later inputs have the same names and any batch size.
        num_classes: number of classes, C, checked against the network's answer.
        head: ``auto`` and ``pooler`` read the first token, as BERT's pooler does; ``linear``
            averages the tokens that are no padding; or a function of the feature's shape
            (N, L, D) that makes a module from that feature to logits or to an `ExitOutput`; or
            one of these per early exit.
        gate: add a gate to the early heads.

    Raises:
        PlaceError: if a name in ``at`` is no place, comes twice or out of order.
        ValidationError: if the example does not fit the network, or an option is wrong.
        UnsupportedError: if the cut network would not compute what the network does.
    """
    stack = _stack(network)
    ends = _positions(stack, at)
    inputs = named(example, main_input(network))
    probes = [_probe(network, inputs, rows) for rows in (2, 3)]
    with keep_modes(network), torch.no_grad():
        surveys = [survey_stack(network.eval(), stack, probe) for probe in probes]
        segments = segments_of(
            network, stack, surveys[1], [*ends, len(stack.layers) - 1], list(inputs)
        )
        for probe, survey in zip(probes, surveys, strict=True):
            _compare(segments, ends, probe, survey)
        _compare_training(network, segments, probes[1])
        heads = _heads(network, surveys[1], ends, (num_classes, head, gate))
        trims = _may_trim(segments, [module.eval() for module in heads], probes[1])
    for module in heads:
        module.train(network.training)
    return Parts(segments, heads, network=network, compact=trim_padding if trims else take)


def trim_padding(state: State, rows: Tensor) -> State:
    """Keep some rows of a state, and drop the trailing columns that are padding in all of them."""
    kept = take(dict(state) if isinstance(state, Mapping) else state, rows)
    if not isinstance(kept, dict) or "hidden" not in kept or "attention_mask" not in kept:
        return kept
    hidden, mask = kept["hidden"], kept["attention_mask"]  # [n, L, D], [n, L]
    if mask.shape != hidden.shape[:2] or not bool((mask != 0).any()):
        return kept
    length = int((mask != 0).any(0).nonzero()[-1]) + 1
    return {**kept, "hidden": hidden[:, :length], "attention_mask": mask[:, :length]}


class TokenMean(LinearHead):
    """Average over the tokens that are no padding, and a linear classifier.

    A plain mean would change with the padding, which depends on the other inputs of the batch.
    """

    def forward(self, state: State) -> ExitOutput:
        """The exit's output for ``hidden`` and, where there is one, ``attention_mask``."""
        hidden, mask = state["hidden"], state.get("attention_mask")  # [N, L, D], [N, L]
        if mask is None or mask.shape != hidden.shape[:2]:
            return super().forward(state)
        weight = (mask != 0).to(hidden.dtype).unsqueeze(2)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)  # [N, D]
        return super().forward({**state, "hidden": mean})


# --------------------------------------------------------------------- at the door
def _stack(network: nn.Module) -> Stack:
    stack = find_stack(network)
    if stack is None:
        raise UnsupportedError(
            "wanted a transformers model with a classifier around one stack of layers "
            f"(a ModuleList of two or more, no decoder), got {type(network).__name__}"
        )
    return stack


def _positions(stack: Stack, at: Sequence[str]) -> list[int]:
    """Number of the layer that each name in ``at`` says."""
    valid = f"valid places, in order: {', '.join(stack.layers[:-1])}"
    if isinstance(at, str) or not len(at):
        raise PlaceError(f"wanted a list of at least one place, got {at!r}; {valid}")
    for name in at:
        if name == stack.layers[-1]:
            raise PlaceError(
                f"no exit can go after {name!r}: after it only the classifier is left, and "
                f"the network's own exit is already there; {valid}"
            )
        if name not in stack.layers:
            raise PlaceError(f"wanted places of this network, got {name!r}; {valid}")
    ends = [stack.layers.index(name) for name in at]
    if len(set(ends)) != len(ends):
        raise PlaceError(f"wanted each place once, got {list(at)}; {valid}")
    if ends != sorted(ends):
        raise PlaceError(f"wanted places in the order they run, got {list(at)}; {valid}")
    return ends


def _probe(network: Any, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The example with so many rows and, where there is a mask, more padding in row 1."""
    unknown = sorted(
        {name for name in inputs if name not in arguments(network)} | {"labels"} & set(inputs)
    )
    if unknown or not num_rows(inputs):
        raise ValidationError(
            f"wanted at least one row of what {type(network).__name__} takes (no labels), "
            f"got {num_rows(inputs)} rows and the unfit names {unknown}"
        )
    probe = {name: value[torch.arange(rows) % len(value)] for name, value in inputs.items()}
    mask, pad = probe.get("attention_mask"), getattr(network.config, "pad_token_id", None)
    if mask is not None and mask.dim() == 2 and int((mask[1] != 0).sum()) > 1:
        last = int((mask[1] != 0).nonzero()[-1])
        mask[1, last:] = 0
        if (
            "input_ids" in probe and pad is not None
        ):  # shows a classifier that looks for padding there
            probe["input_ids"][1, last:] = pad
    return probe


# -------------------------------------------------------------------------- checks
def _run(segments: Sequence[nn.Module], inputs: State) -> list[State]:
    """The state after every segment."""
    states: list[State] = []
    for segment in segments:
        states.append(segment(states[-1] if states else inputs))
    return states


def _compare(
    segments: Sequence[Segment], ends: Sequence[int], probe: State, survey: Survey
) -> None:
    """Refuse a cut whose features or logits are not the uncut network's, in eval mode."""
    try:
        states = _run(segments, probe)
    except Exception as error:
        raise UnsupportedError(
            f"the network does not run in segments: {type(error).__name__}: {error}"
        ) from error
    wanted = [*(survey.features[end] for end in ends), survey.logits]
    for k, (state, right) in enumerate(zip(states, wanted, strict=True)):
        if not _close(state["logits" if "logits" in state else "hidden"], right):
            raise UnsupportedError(
                f"the cut network differs from the uncut one at exit {k}, for {len(right)} rows"
            )


def _compare_training(
    network: nn.Module, segments: Sequence[Segment], probe: Mapping[str, Tensor]
) -> None:
    """Refuse a cut that, in training mode, uses random numbers in another way than the network."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    network.train()
    answers = []
    for run in (lambda: answer(network, probe), lambda: _run(segments, probe)[-1]["logits"]):
        with torch.random.fork_rng(sorted({t.get_device() for t in probe.values() if t.is_cuda})):
            torch.manual_seed(0)
            answers.append(run())
        for buffer, value in buffers:
            buffer.copy_(value)
    network.eval()
    if not _close(answers[0], answers[1]):
        raise UnsupportedError(
            "the cut network differs from the uncut one in training mode, with the same seed"
        )


def _may_trim(
    segments: Sequence[Segment], heads: Sequence[nn.Module], probe: Mapping[str, Tensor]
) -> bool:
    """Whether no exit of a padded row changes when its padding is dropped."""
    full = segments[0](probe)
    row = torch.ones(1, dtype=torch.long, device=full["hidden"].device)
    states = [take(full, row), trim_padding(full, row)]
    for k, head in enumerate(heads):
        states = [segments[k](state) for state in states] if k else states
        if not _close(*(head(state).logits for state in states)):
            return False
    return True


def _close(value: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding; what this tells apart differs by far more."""
    slack = torch.finfo(wanted.dtype).eps ** 0.75  # 6e-6 in float32
    return value.shape == wanted.shape and torch.allclose(
        value, wanted, slack, slack, equal_nan=True
    )


# --------------------------------------------------------------------------- heads
def _heads(
    network: Any, survey: Survey, ends: Sequence[int], options: tuple[int | None, HeadSpecs, bool]
) -> list[nn.Module]:
    """The early heads and the network's own answer."""
    num_classes, specs, gate = options
    classes = check_classes(num_classes, survey.logits.shape[1])
    config = network.config
    dropout = next((float(getattr(config, n)) for n in _DROPOUTS if hasattr(config, n)), 0.0)
    heads: list[nn.Module] = []
    for spec, end in zip(per_exit(specs, len(ends)), ends, strict=True):
        feature = survey.features[end]
        site = Site(
            tuple(feature.shape), classes, "hidden", "channels_last", "pooler", gate, dropout
        )
        heads.append(_head(spec, site).to(feature.device, feature.dtype))
        out = heads[-1].eval()({"hidden": feature})
        came = tuple(out.logits.shape) if isinstance(out, ExitOutput) else type(out).__name__
        if came != (len(feature), classes):
            raise ValidationError(
                f"wanted logits {(len(feature), classes)} from a head, got {came}"
            )
    return [*heads, Answer("logits")]


def _head(spec: HeadSpec, site: Site) -> nn.Module:
    options = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    if options.pop("kind", None) == "linear":
        if options:
            raise OptionError(f"a linear head on tokens takes no options, got {list(options)}")
        width, layout = site.shape[2], site.layout
        return TokenMean(width, site.num_classes, layout=layout, gate=site.gate, reads=site.reads)
    return build_head(spec, site)
