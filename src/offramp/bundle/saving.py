"""Saving a model, its policy and what using them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..model import MultiExitModel
from ..policies import ExitPolicy
from ..types import Costs
from ..version import __version__
from . import policy as policies
from . import recipe as recipes
from .document import NAME, Plain, check_plain, write
from .facts import costs_from, names_from
from .folder import POLICY, WEIGHTS, as_path, replacing_folder
from .tensors import Named, entry_of, fingerprint, table_of, write_tensors


def save(
    path: str | Path,
    model: MultiExitModel,
    *,
    policy: ExitPolicy | None = None,
    costs: Costs | None = None,
    class_names: Sequence[str] | None = None,
    preprocess: Any = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Save a bundle: a folder with ``bundle.json``, ``model.safetensors``, ``policy.safetensors``.

    It is there whole or not at all; a bundle that is there already is replaced. A network that
    exits were attached to is saved under its own names, so that ``network.load_state_dict`` can
    read it, beside ``heads.*``. The model stays as it is.

    Args:
        path: the folder.
        model: made by `attach` or `create_model`.
        policy: fitted, with its operating points.
        costs: what each exit costs.
        class_names: one per class.
        preprocess: how an input is made from what users have; it has a method ``to_dict``.
        info: more that is worth knowing, as plain data: numbers, words, lists and dicts.

    Returns:
        The folder.

    Raises:
        BundleError: if something cannot be saved, or something else is in the folder.

    Example:
        >>> offramp.save("bundle", model, policy=policy, costs=costs)
        PosixPath('bundle')
    """
    folder = as_path(path)
    if not isinstance(model, MultiExitModel):
        raise BundleError(f"wanted a MultiExitModel to save, got {type(model).__name__}")
    _check_exits(model, policy=policy, costs=costs)
    named = Named(model)
    entries = _entries(model, named, policy)
    entries["costs"] = None if costs is None else costs_from(costs.to_dict(), len(model.heads))[0]
    entries["class_names"] = None if class_names is None else names_from(class_names, model)
    entries["preprocess"] = None if preprocess is None else _described(preprocess)
    entries["info"] = _plain(info or {})
    for name, value in entries.items():
        check_plain(value, name)
    with replacing_folder(folder) as partial:
        write_tensors(named.tensors, partial / WEIGHTS)
        entries["files"] = {WEIGHTS: entry_of(partial / WEIGHTS)}
        if policy is not None:
            write_tensors(policy.state_dict(), partial / POLICY)
            entries["files"][POLICY] = entry_of(partial / POLICY)
        write(partial / NAME, entries)
    return folder


def _entries(model: MultiExitModel, named: Named, policy: ExitPolicy | None) -> Plain:
    table = table_of(named.tensors)
    network = model if model.network is None else model.network
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    return {
        "offramp": __version__,
        "recipe": recipes.to_plain(model.recipe, table),
        "num_exits": model.num_exits,
        "fingerprint": {
            "sha256": fingerprint(table),
            "heads": named.heads,
            "class": kind,
        },
        "policy": None if policy is None else policies.to_plain(policy),
    }


def _check_exits(model: MultiExitModel, **things: Any) -> None:
    for name, thing in things.items():
        if thing is None:
            continue
        came = getattr(thing, "num_exits", None)
        if came != model.num_exits:
            what = type(thing).__name__ if came is None else f"{came}"
            raise BundleError(f"wanted {name} of {model.num_exits} exits, got {what}")


def _described(preprocess: Any) -> Any:
    """Preprocessing as plain data; that of a bundle of another kind is plain already."""
    if isinstance(preprocess, Mapping):
        return _plain(preprocess)
    if not hasattr(preprocess, "to_dict"):
        raise BundleError(
            f"wanted preprocessing with a method to_dict, got {type(preprocess).__name__}"
        )
    return _plain(preprocess.to_dict())


def _plain(value: Any) -> Any:
    """Tuples as lists: JSON has no others."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
