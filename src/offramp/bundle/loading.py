"""Loading a bundle: everything is checked before it is used, and no code of it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BundleError
from ..heads.build import HeadSpecs
from ..model import MultiExitModel, Recipe
from ..policies import ExitPolicy
from ..types import Costs
from . import policy as policies
from . import recipe as recipes
from .document import NAME, Plain, read, short
from .facts import costs_from, names_from, preprocess_from
from .folder import POLICY, WEIGHTS, as_path, find, own_file
from .tensors import (
    HEADS,
    Named,
    Table,
    check_file,
    check_same,
    fingerprint,
    read_tensors,
    table_of,
)

_TRIES = 5  # at reading a bundle that others keep replacing


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model and what using it takes, as it was saved."""

    model: MultiExitModel  # in eval mode
    policy: ExitPolicy | None = None  # fitted, with its operating points
    costs: Costs | None = None
    class_names: tuple[str, ...] | None = None
    preprocess: Any = None  # a `data.preprocess.Preprocess`, or what another kind's `to_dict` gave
    recipe: Recipe | None = None
    info: Plain | None = None


def load(
    path: str | Path,
    *,
    network: nn.Module | None = None,
    head: HeadSpecs | None = None,
    device: torch.device | str = "cpu",
) -> Bundle:
    """Load a bundle that `save` wrote.

    A bundle is data: no code of it is run, and what does not fit is refused before it is used. It
    does say which registered model is made, so plug-ins must be imported first.

    Args:
        path: the folder.
        network: what exits were attached to, fresh or trained: its weights are overwritten. Models
            of `create_model` need none.
        head: for heads that were made by a function, that function.
        device: where model and policy are put.

    Raises:
        BundleError: if the bundle is damaged, foreign, newer than this offramp or unreasonable, or
            the network or head is not the one that it was made with.

    Example:
        >>> bundle = offramp.load("bundle", network=torchvision.models.resnet18(num_classes=10))
        >>> prediction = offramp.run(bundle.model, bundle.policy, images)
    """
    return make(open_bundle(as_path(path)), network=network, head=head, device=device)


class Opened(NamedTuple):
    """A bundle whose files have been checked, and that has not been used yet."""

    document: Plain
    table: Table  # of the weights
    weights: dict[str, Tensor]
    policy_table: Table
    policy: dict[str, Tensor]


def open_bundle(path: Path, root: Path | None = None) -> Opened:
    """Read the document of a bundle and check its files; ``root`` is where links may lead.

    What is read is of one bundle, also while another takes its place.

    Raises:
        BundleError: if something is missing, damaged, foreign or newer.
    """
    failed = BundleError(f"{path} was replaced while it was read, {_TRIES} times: load it again")
    for _ in range(_TRIES):
        folder, before = path, None
        try:
            folder = find(path)
            before = _stamp(folder)
            opened = _open(folder, root)
        except BundleError as error:
            if before is not None and _stamp(folder) == before:
                raise
            failed = error  # perhaps it was seen between two names
        else:
            if _stamp(folder) == before:
                return opened
    raise failed


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What tells a folder's document from the one that takes its place."""
    try:
        found = (folder / NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _open(folder: Path, root: Path | None) -> Opened:
    document = read(own_file(folder, NAME, root))
    files = document["files"]
    policy = document.get("policy")
    wanted = {WEIGHTS} if policy is None else {WEIGHTS, POLICY}
    if files.keys() != wanted:
        raise BundleError(f"wanted the files {sorted(wanted)} in the document, got others")
    weights = own_file(folder, WEIGHTS, root)
    table = check_file(weights, files[WEIGHTS])
    mark = document["fingerprint"]
    heads = mark.get("heads")
    if heads not in HEADS or fingerprint(table) != mark.get("sha256"):
        raise BundleError(f"{weights} is not of the network whose fingerprint the document has")
    values = read_tensors(weights)
    if policy is None:
        return Opened(document, table, values, {}, {})
    file = own_file(folder, POLICY, root)
    policy_table = check_file(file, files[POLICY])
    return Opened(document, table, values, policy_table, read_tensors(file))


def make(
    opened: Opened,
    *,
    network: nn.Module | None,
    head: HeadSpecs | None,
    device: torch.device | str,
) -> Bundle:
    """Make what a bundle that has been opened holds.

    Raises:
        BundleError: if its parts do not fit each other, or the network or head given.
    """
    _check_device(device)
    document = opened.document
    exits, costs, names = document["num_exits"], document.get("costs"), document.get("class_names")
    facts = {
        "costs": None if costs is None else costs_from(costs, exits)[1],
        "info": document["info"],
    }
    if document.get("preprocess") is not None:
        facts["preprocess"] = preprocess_from(document["preprocess"])
    model = _model(opened, network, head)
    facts["class_names"] = None if names is None else tuple(names_from(names, model))
    policy = document.get("policy")
    if policy is not None:
        made = policies.build(policy, model.num_exits, opened.policy_table, opened.policy)
        facts["policy"] = made.to(device)
    return Bundle(model.to(device).eval(), recipe=model.recipe, **facts)


def _model(opened: Opened, network: nn.Module | None, head: HeadSpecs | None) -> MultiExitModel:
    document, table, mark = opened.document, opened.table, opened.document["fingerprint"]
    model = recipes.build(document["recipe"], table, mark, network=network, head=head)
    if model.num_exits != document["num_exits"]:
        raise BundleError(
            f"wanted a recipe for {document['num_exits']} exits, got one for {model.num_exits}"
        )
    named = Named(model)
    recipes.match_dtypes(model, named.tensors, table)
    named = Named(model)
    if named.heads != mark["heads"]:
        raise BundleError(f"wanted heads named {named.heads}* in the file, got {mark['heads']}*")
    check_same(table, table_of(named.tensors), "the model that the recipe makes")
    named.load(model, opened.weights)
    return model


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:  # of many kinds: no such word, no driver, no such backend
        why = short(str(error).partition("\n")[0], 160)
        raise BundleError(f"wanted a device that is there, got {str(device)!r}: {why}") from error
