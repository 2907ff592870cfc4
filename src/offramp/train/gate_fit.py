"""Linear gates that minimise LEENet's expected loss, for many trade-offs in one computation.

github.com/afxwong/EarlyExitNet (2023). With p_k the probability that an input leaves at exit k,
L_k its cross-entropy there and c_k its cost, gates minimise the mean over inputs of
sum over k of p_k ((1 - alpha) L_k + alpha c_k).

The public code takes a few steps of 1e-8 from random gates, which so hardly see their input: all
inputs move from the last exit to the first within a hundredth of alpha. Here

- what goes into a gate is standardised, gates start from 0, and Adam keeps its state;
- each alpha's loss is divided by its own spread, which moves no minimum and lets one rate, one
  decay and one softness serve them all;
- the entropy of where an input leaves is rewarded at first, and at the end no more. Without that, a
  gate that opens early in the training for most inputs starves those behind it, and which ones
  these are jumps from alpha to alpha;
- all that the optimizer keeps belongs to one alpha, so gates are the same, but for rounding,
  whatever others are fitted beside them. Nothing is left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ValidationError
from ..model import MultiExitModel
from .gate_data import GateData, linear_gates
from .gate_lens import Lens

_EPS = 1e-6  # of Adam: a gate that hardly anyone reaches is not moved by the noise of rounding
_BLOCK = 8192  # rows that are worked on at once


@dataclass(frozen=True)
class Gates:
    """Linear gates of all early exits, apart from the model they are for."""

    weights: list[Tensor]  # K-1, each [F_k] float32
    biases: Tensor  # [K-1] float32

    def logits(self, data: GateData) -> Tensor:
        """Logit of leaving at each early exit, [N, K-1], as the model with these gates gives it.

        Raises:
            ValidationError: if the data are of other gates.
        """
        widths = [len(weight) for weight in self.weights]
        if (came := [part.shape[1] for part in data.features]) != widths:
            raise ValidationError(f"wanted data of gates on {widths} features, got {came}")
        pairs = zip(data.features, self.weights, self.biases, strict=True)
        return torch.stack([_linear(part, weight, bias) for part, weight, bias in pairs], 1)

    def exits(self, data: GateData) -> Tensor:
        """The first exit whose gate is above 0, a probability of one half, [N]."""
        leave = F.pad((self.logits(data) > 0).int(), (0, 1), value=1)
        return leave.argmax(1)

    def put(self, model: MultiExitModel) -> None:
        """Write these gates into the heads of a model; nothing else of it changes.

        Raises:
            ValidationError: if the model's gates are not linear layers on as many features.
        """
        layers = linear_gates(model)
        widths, wanted = [g.in_features for g in layers], [len(w) for w in self.weights]
        if widths != wanted:
            raise ValidationError(f"wanted a model with gates on {wanted} features, got {widths}")
        with torch.no_grad():
            for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                layer.weight.copy_(weight.unsqueeze(0))
                layer.bias.copy_(bias.unsqueeze(0))


class Fitting(NamedTuple):
    """How gates are fitted; the defaults serve from about a thousand inputs on."""

    steps: int = 300
    lr: float = 0.05  # of Adam; like the softness it falls to 0 along half a cosine
    decay: float = 5.0  # of squared weights on standardised features, over the number of inputs
    softness: float = 0.15  # worth of entropy at the start, in spreads of the loss
    rows: int = 8192  # inputs of a step: all of them, if there are no more

    def check(self) -> None:
        """Check that every option is in its range.

        Raises:
            ValidationError: if one is not.
        """
        for name, value in self._asdict().items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            whole = name in ("steps", "rows")
            least = name in ("decay", "softness")  # these may be 0
            right = number and 0 <= value < math.inf and (value > 0 or least)
            if not right or (whole and not isinstance(value, int)):
                kind = "whole number" if whole else "finite number"
                bound = "of at least 0" if least else "above 0"
                raise ValidationError(f"wanted {name} as a {kind} {bound}, got {value!r}")


def solve(
    data: GateData, costs: Tensor, alphas: Sequence[float], nats: float, how: Fitting
) -> list[Gates]:
    """The gates of every alpha.

    Args:
        data: what they are fitted on.
        costs: [K], relative.
        alphas: A shares of the cost, in [0, 1].
        nats: what a cost of 1 weighs, in nats, where alpha is one half.
        how: see `Fitting`.
    """
    how.check()
    counts = data.units > 0
    if not bool(counts.all()):  # what does not count would only teach gates to open
        data = data.take(counts.nonzero().squeeze(1))
    lenses = [Lens(part) for part in data.features]
    shares = torch.tensor(alphas, dtype=torch.float32)
    weights = [torch.zeros(lens.inputs.shape[1], len(alphas)) for lens in lenses]
    biases = [torch.zeros(len(alphas)) for _ in lenses]
    optimizer = torch.optim.Adam(
        [part.requires_grad_() for part in (*weights, *biases)], lr=how.lr, eps=_EPS
    )
    losses = Losses(data.losses, costs, shares, nats)
    decay = how.decay / data.num_rows
    for step, rows in enumerate(_rows(data.num_rows, how)):
        fall = (1 + math.cos(math.pi * step / how.steps)) / 2
        optimizer.param_groups[0]["lr"] = how.lr * fall
        optimizer.zero_grad()
        with torch.enable_grad():
            triples = zip(lenses, weights, biases, strict=True)
            logits = [torch.addmm(b, lens.inputs[rows], w) for lens, w, b in triples]
            value = expected(logits, losses.of(rows), softness=how.softness * fall)
            large = torch.stack([weight.square().sum() for weight in weights])
            (value.mean(0).sum() + decay * large.sum()).backward()
        optimizer.step()
    triples = zip(lenses, weights, biases, strict=True)
    found = [lens.fold(w.detach(), b.detach()) for lens, w, b in triples]
    return [
        Gates([weight[a] for weight, _ in found], torch.stack([bias[a] for _, bias in found]))
        for a in range(len(alphas))
    ]


def expected(
    logits: Sequence[Tensor], losses: Sequence[Tensor], *, softness: float = 0.0
) -> Tensor:
    """What an input loses on average over the exits where it may leave, [N, A].

    This is the sum over k of p_k J_k, from the last exit back: V_k = V_{k+1} + g_k (J_k - V_{k+1}),
    which needs no logarithm of p_k.

    Args:
        logits: K-1, each [N, A], the logits of g_k, the probability of leaving at exit k.
        losses: K, each [N, A], the loss J_k of leaving at exit k.
        softness: take off so much of the entropy of where it leaves, in nats.
    """
    value = losses[-1]
    for logit, loss in zip(reversed(logits), reversed(losses[:-1]), strict=True):
        leave = logit.sigmoid()
        value = torch.addcmul(value, leave, loss - value)
        if softness:  # the entropy of one gate is softplus(z) - z g, finite for any z
            entropy = torch.addcmul(F.softplus(logit), logit, leave, value=-1)
            value = value - softness * entropy
    return value


class Losses:
    """What leaving at each exit loses against leaving at the last, in units of its spread.

    The spread is, for each alpha, the root mean square over inputs and early exits. What every exit
    has in common moves no gate.

    Args:
        losses: [N, K], in nats.
        costs: [K], relative.
        alphas: [A].
        nats: what a cost of 1 weighs where alpha is one half.
    """

    def __init__(self, losses: Tensor, costs: Tensor, alphas: Tensor, nats: float) -> None:
        self.more = losses.float() - losses[:, -1:].float()  # [N, K]
        self.saved = nats * (costs - costs[-1]).float()  # [K]
        early, saved = self.more[:, :-1].double(), self.saved[:-1].double()
        a = alphas.double()
        square = (1 - a) ** 2 * early.square().mean() + a**2 * saved.square().mean()
        square = square + 2 * a * (1 - a) * (early * saved).mean()
        spread = square.clamp_min(1e-12).sqrt()
        self.share_of_loss, self.share_of_cost = ((1 - a) / spread).float(), (a / spread).float()

    def of(self, rows: Tensor | slice) -> list[Tensor]:
        """K losses, each [n, A], of some rows."""
        own = self.more[rows]
        return [
            torch.addcmul(saved * self.share_of_cost, own[:, k : k + 1], self.share_of_loss)
            for k, saved in enumerate(self.saved)
        ]


def _rows(num: int, how: Fitting) -> Iterator[Tensor | slice]:
    """The rows of each step: all of them, or one after another of fixed, mixed parts."""
    parts = -(-num // how.rows)
    if parts == 1:
        yield from [slice(None)] * how.steps
        return
    mixed = torch.randperm(num, generator=torch.Generator().manual_seed(0)).chunk(parts)
    for step in range(how.steps):
        yield mixed[step % len(mixed)]


def _linear(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits as the gate's own layer gives them, [N, F], [F], [] -> [N]."""
    parts = features.split(_BLOCK)
    own = weight.unsqueeze(0), bias.unsqueeze(0)
    return torch.cat([F.linear(part.float(), *own) for part in parts]).squeeze(1)
