"""The recipe of a model in a bundle: written as plain data, followed with bounds.

Nothing is imported by a name in it. A name is looked up among the registered models; a network that
exits were attached to is given by the caller, and compared with the fingerprint first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..attach import attach
from ..errors import BundleError, MissingExtraError, OfframpError
from ..examples import make_example
from ..heads.build import HeadSpecs
from ..model import MultiExitModel, Recipe, create_model
from ..registry import models
from .document import Plain, check_plain, short
from .guard import bounded
from .tensors import DTYPES, Table, check_same, network_table

ATTACH = "attach"

_FIRST_WEIGHTS = {"pretrained", "weights"}  # of a model that takes both: a bundle has its own
_MOST_ITEMS, _MOST_LETTERS, _LEAST_BOUND, _MOST_BOUND = 4096, 256, 2**16, 2**18
_MOST_SIDE = 2048  # of the images that a network is tried on


def to_plain(recipe: Recipe | None, table: Table) -> Plain:
    """A recipe as plain data; a head made by a function is named, not saved.

    Args:
        recipe: the model's.
        table: the model's tensors.

    Raises:
        BundleError: if there is no recipe, or an option of it cannot be saved.
    """
    if recipe is None:
        raise BundleError(
            "wanted a model made by offramp.attach or offramp.create_model, got one put together "
            "by hand: register a function that makes it, see offramp.backbones.base.register"
        )
    dropped = _first_weights(recipe.name)
    options: Plain = {}
    for name, value in recipe.options.items():
        if name in dropped:
            continue
        options[name] = _heads(value) if name == "head" else _listed(value)
        check_plain(options[name], f"the model's option {name!r}")
    made = {"name": recipe.name, "options": options}
    try:
        _check_options(options, recipe.name, table)
        if recipe.name == ATTACH:
            make_example(options["example"])
    except OfframpError as error:
        raise BundleError(f"this model cannot be saved: {short(error)}") from error
    return made


def build(
    plain: Plain, table: Table, mark: Plain, *, network: nn.Module | None, head: HeadSpecs | None
) -> MultiExitModel:
    """A model from its recipe, with weights yet to be loaded.

    Args:
        plain: the recipe in the bundle.
        table: the tensors in the bundle.
        mark: the fingerprint in the document.
        network: what exits were attached to.
        head: for heads that were made by functions.

    Raises:
        BundleError: if the recipe, the network or the heads do not fit the bundle.
    """
    name, options = plain.get("name"), plain.get("options")
    if not isinstance(name, str) or not isinstance(options, dict) or len(plain) != 2:
        raise BundleError("wanted a recipe with name and options in the document, got another")
    _check_options(options, name, table)
    options = _with_heads(options, head)
    # what is made here is overwritten, so it leaves no trace in the random state
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        if name == ATTACH:
            return _attach(options, table, mark, network)
        if network is not None:
            raise BundleError(
                f"wanted no network: this bundle makes its own, by {name!r}; "
                f"got {type(network).__name__}"
            )
        return _create(name, options, table)


def _attach(options: Plain, table: Table, mark: Plain, network: nn.Module | None) -> MultiExitModel:
    if not isinstance(network, nn.Module):
        came = "none" if network is None else type(network).__name__
        kind, digest = short(mark.get("class", "module"), 100), short(mark["sha256"], 12)
        raise BundleError(
            "wanted the network that exits were attached to, made as it was then: "
            f"load(path, network=...) with a {kind} (fingerprint {digest}); got {came}"
        )
    own = {n: entry for n, entry in table.items() if not n.startswith(mark["heads"])}
    check_same(own, network_table(network), f"the {type(network).__name__} given")
    wanted = {"at", "num_classes", "head", "gate", "example"}
    if options.keys() != wanted:
        raise BundleError(f"wanted the options {sorted(wanted)} of attach in the recipe")
    config = getattr(network, "config", None)
    padding = getattr(config, "pad_token_id", None)
    try:
        like = next((p for p in network.parameters() if p.is_floating_point()), None)
        example = make_example(options["example"], like=like, padding=padding)
        return attach(network, **{**options, "example": example})
    except Exception as error:
        raise BundleError(f"the exits cannot be attached again: {_why(error)}") from error


def _create(name: str, options: Plain, table: Table) -> MultiExitModel:
    for option in sorted(_first_weights(name) & options.keys()):
        raise BundleError(f"wanted no {option!r} in a recipe: a bundle has its own weights")
    try:
        with bounded(len(table), _numbers(table)):
            model = create_model(name, **options)
    except (BundleError, MissingExtraError):
        raise
    except Exception as error:
        raise BundleError(f"the model cannot be made from its recipe: {_why(error)}") from error
    return model


def _first_weights(name: str) -> set[str]:
    """Options of a model that say where a network's first weights come from."""
    if name not in models.names():
        return set()
    taken = signature(models.get(name)).parameters
    return _FIRST_WEIGHTS if taken.keys() >= _FIRST_WEIGHTS else set()


def match_dtypes(model: MultiExitModel, tensors: Mapping[str, Tensor], table: Table) -> None:
    """Give floating-point tensors the precision that they were saved in.

    The tensors stay the same objects, which segments share.
    """
    kinds = {word: dtype for dtype, word in DTYPES.items()}
    floats = {kinds[w] for w, _ in table.values() if w in kinds and kinds[w].is_floating_point}
    if len(floats) == 1:
        model.to(floats.pop())  # what is in no file too, such as tables of positions
        return
    wanted = {
        t.data_ptr(): kinds[table[name][0]]
        for name, t in tensors.items()
        if name in table and t.numel() and table[name][0] in kinds
    }
    for value in [*model.parameters(), *model.buffers()]:
        dtype = wanted.get(value.data_ptr())
        if dtype is not None and dtype.is_floating_point and value.is_floating_point():
            value.data = value.data.to(dtype)


# --------------------------------------------------------------------------- heads
def _heads(spec: Any) -> Any:
    if callable(spec):
        return {"function": short(getattr(spec, "__qualname__", type(spec).__qualname__), 200)}
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [_heads(each) for each in spec]
    return spec


def _with_heads(options: Plain, head: HeadSpecs | None) -> Plain:
    """The options with the given heads in the place of functions that were not saved."""
    spec = options.get("head")
    each = spec if isinstance(spec, list) else [spec]
    unsaved: list[Any] = [one for one in each if _is_unsaved(one)]
    if not unsaved:
        if head is not None:
            raise BundleError(f"wanted no head: this bundle's heads are {short(repr(spec), 80)}")
        return options
    if head is None:
        raise BundleError(
            f"this bundle has heads made by a function ({_function(unsaved[0])}), which is not in "
            "it: give it as load(path, head=...)"
        )
    if not callable(head) or not isinstance(spec, list):
        return {**options, "head": head}
    return {**options, "head": [head if _is_unsaved(one) else one for one in spec]}


def _is_unsaved(spec: Any) -> bool:
    """Whether a head was made by a function; a kind of head with options is a dict too."""
    return isinstance(spec, dict) and spec.keys() == {"function"}


def _function(plain: Plain) -> str:
    return short(plain.get("function", "?"), 80)


# --------------------------------------------------------------------------- plain data
def _listed(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_listed(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _listed(each) for name, each in value.items()}
    return value


def _check_options(options: Plain, name: str, table: Table) -> None:
    bound = min(max(_LEAST_BOUND, _numbers(table)), _MOST_BOUND)
    # an example has bounds of its own, see `make_example`
    own = {n: value for n, value in options.items() if (name, n) != (ATTACH, "example")}
    _check(own, f"the recipe of {short(repr(name), 60)}", bound)


def _check(value: Any, what: str, bound: int) -> None:
    """Check that options are few, short and small, as those of a model that fits the file are."""
    if isinstance(value, dict | list):
        if len(value) > _MOST_ITEMS:
            raise BundleError(f"wanted at most {_MOST_ITEMS} entries in {what}, got {len(value)}")
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(each, what, bound)
        size = value.get("image_size") if isinstance(value, dict) else None
        sides = size if isinstance(size, list) else [size]
        if any(isinstance(side, int) and side > _MOST_SIDE for side in sides):
            raise BundleError(f"wanted an image_size of at most {_MOST_SIDE}, got {size}")
    elif isinstance(value, str) and len(value) > _MOST_LETTERS:
        raise BundleError(f"wanted at most {_MOST_LETTERS} letters in {what}, got {len(value)}")
    elif isinstance(value, int | float) and abs(value) > bound:
        raise BundleError(
            f"wanted numbers of at most {bound} in {what}, as a model of this size has; got {value}"
        )


def _numbers(table: Table) -> int:
    return sum(math.prod(shape) for _, shape in table.values())


def _why(error: Exception) -> str:
    kind = "" if isinstance(error, OfframpError) else f"{type(error).__name__}: "
    return short(f"{kind}{error}", 500)
