"""Where exits go, as shares of what the network costs (EENets, Demir & Akbas 2024).

A placement is a rule, not a list of names: exit i goes after the first block at which the cost so
far reaches the i-th share of the network's, without exits; no block gets two. `offramp.attach` and
every model with an option ``at`` take one where they take names, as ``at=pareto(6)`` or, in a file,
as ``at: {pareto: 6}``. The names that come out stand in the model's recipe.

Costs are multiply-accumulates, as `offramp.measure` counts them. The public code of EENets also
counts batch norm, activations and pooling. That is one or two per cent of a ResNet, which now and
then moves an exit by one block.

Blocks are found in any network. They are modules with at least two layers of weights that end where
nothing else is carried along, and that are no mere containers of such modules: residual blocks, the
layers of a transformer or of a DenseNet whose layers hand on all their channels, else its dense
blocks. A stem is none, nor is a transition of one convolution. In a network without at least two of
these, as VGG, every step of cost is a block: a convolution or linear layer with all that follows at
no cost, activations and pooling included. A block with nothing but the classifier after it is left
out, as its exit would be the network's own once more. Of an encoder of Hugging Face, the blocks are
its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import PlaceError, ValidationError

_GOLDEN = (1 + math.sqrt(5)) / 2
_MOST = 100  # early exits
_SHOWN = 12  # numbers in an error message


@dataclass(frozen=True)
class Placement:
    """Where early exits go: shares of the network's cost, one per early exit.

    Attributes:
        shares: targets, between 0 and 1, each above the one before.
        rule: the function that made it, and its argument.

    Raises:
        ValidationError: if there are no shares, or they are not as they should be.
    """

    shares: tuple[float, ...]
    rule: str = "at_costs"

    def __post_init__(self) -> None:
        """Check the shares."""
        numbers = all(_is_number(share) and 0 < share < 1 for share in self.shares)
        if not self.shares or not numbers or list(self.shares) != sorted(set(self.shares)):
            raise ValidationError(
                "wanted shares of the network's cost between 0 and 1, each above the one before, "
                f"got {_listed(self.shares)}"
            )

    def choose(self, costs: Sequence[float]) -> list[int]:
        """Numbers of the blocks after which exits go.

        Args:
            costs: cost up to the end of each block over that of the network, in order.

        Raises:
            PlaceError: if not all exits fit; the message says how many do.

        Example:
            >>> pareto(2).choose([0.13, 0.25, 0.36, 0.45, 0.57])
            [1, 2]
        """
        chosen: list[int] = []
        for i, cost in enumerate(costs):
            if len(chosen) < len(self.shares) and cost >= self.shares[len(chosen)]:
                chosen.append(i)
        if len(chosen) < len(self.shares):
            raise PlaceError(
                f"wanted places for {len(self.shares)} early exits, at {_listed(self.shares)} of "
                f"the network's cost; {len(chosen)} fit, as blocks end at {_listed(costs)}"
            )
        return chosen


Rule = Mapping[str, int | Sequence[float]]  # {"pareto": 6}: a placement as plain data
At = Sequence[str] | Placement | Rule  # where exits go: names of modules, or a placement


def fine(n: int) -> Placement:
    """Early exits close together and close to the input: exit i at ``1 - 0.95 ** i``.

    Args:
        n: number of early exits.

    Raises:
        ValidationError: if it is no whole number from 1 to 100.

    Example:
        >>> [round(share, 3) for share in fine(3).shares]
        [0.05, 0.098, 0.143]
    """
    return _rule("fine", n, lambda i: 1 - 0.95**i)


def pareto(n: int) -> Placement:
    """Early exits ever closer together: exit i at ``1 - 0.8 ** i``.

    Args:
        n: number of early exits.

    Raises:
        ValidationError: if it is no whole number from 1 to 100.

    Example:
        >>> [round(share, 3) for share in pareto(3).shares]
        [0.2, 0.36, 0.488]
    """
    return _rule("pareto", n, lambda i: 1 - 0.8**i)


def linear(n: int) -> Placement:
    """Early exits at equal distances: exit i at ``i / (n + 1)``.

    Args:
        n: number of early exits.

    Raises:
        ValidationError: if it is no whole number from 1 to 100.

    Example:
        >>> linear(3).shares
        (0.25, 0.5, 0.75)
    """
    return _rule("linear", n, lambda i: i / (n + 1))


def gold_ratio(n: int) -> Placement:
    """Early exits ever further apart: exit i at ``1.618 ** (i - 1 - n)``, each 1.6 times the last.

    Args:
        n: number of early exits.

    Raises:
        ValidationError: if it is no whole number from 1 to 100.

    Example:
        >>> [round(share, 3) for share in gold_ratio(3).shares]
        [0.236, 0.382, 0.618]
    """
    return _rule("gold_ratio", n, lambda i: _GOLDEN ** (i - 1 - n))


def at_costs(*shares: float) -> Placement:
    """Early exits at shares of your own choice.

    Args:
        shares: between 0 and 1, each above the one before.

    Raises:
        ValidationError: if they are not.

    Example:
        >>> at_costs(0.1, 0.4).choose([0.13, 0.25, 0.36, 0.45, 0.57])
        [0, 3]
    """
    return Placement(tuple(shares))


def as_placement(at: object) -> Placement | None:
    """The placement that an option says, as one or as plain data; None where it is neither.

    Args:
        at: a placement, ``{"pareto": 6}``, ``{"at_costs": [0.1, 0.4]}``, or something else.

    Raises:
        ValidationError: if it is a mapping that says no placement.

    Example:
        >>> as_placement({"linear": 3}) == linear(3)
        True
    """
    if isinstance(at, Placement):
        return at
    if not isinstance(at, Mapping):
        return None
    name, value = next(iter(at.items()), ("", 0))
    if len(at) != 1 or name not in (*RULES, "at_costs"):
        raise ValidationError(
            f"wanted a placement as one of {', '.join(RULES)} with a number of exits, or at_costs "
            f"with a list of shares, as {{pareto: 6}}; got {dict(at)}"
        )
    if name != "at_costs":
        return RULES[name](value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValidationError(f"wanted a list of shares for at_costs, got {value!r}")
    return at_costs(*value)


RULES: dict[str, Callable[[int], Placement]] = {
    "fine": fine,
    "pareto": pareto,
    "linear": linear,
    "gold_ratio": gold_ratio,
}


def _rule(name: str, n: object, share: Callable[[int], float]) -> Placement:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MOST:
        raise ValidationError(
            f"wanted the number of early exits of {name} as a whole number from 1 to {_MOST}, got "
            f"{n!r}"
        )
    return Placement(tuple(share(i) for i in range(1, n + 1)), f"{name}({n})")


def _listed(values: Sequence[object]) -> str:
    shown = [f"{v:.3g}" if _is_number(v) else repr(v) for v in values]
    more = ["..."] if len(shown) > _SHOWN else []
    return ", ".join([*shown[: _SHOWN - 1], *more, *shown[-1:]] if more else shown) or "none"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
