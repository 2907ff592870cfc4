"""Loading a bundle: everything is checked before it is used, and no code of it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import BundleError
from ..heads.build import HeadSpecs
from ..model import MultiExitModel, Recipe
from ..policies import ExitPolicy
from ..types import Costs
from . import policy as policies
from . import recipe as recipes
from .document import NAME, Plain, read
from .facts import costs_from, names_from, preprocess_from
from .folder import POLICY, WEIGHTS, find, own_file
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
    opened = open_bundle(find(path))
    return make(opened, network=network, head=head, device=device)


class Opened(NamedTuple):
    """A bundle whose files have been checked, and that has not been used yet."""

    document: Plain
    weights: Path
    table: Table  # of the weights
    policy: Path | None
    policy_table: Table


def open_bundle(folder: Path, root: Path | None = None) -> Opened:
    """Read the document of a bundle and check its files; ``root`` is where links may lead.

    Raises:
        BundleError: if something is missing, damaged, foreign or newer.
    """
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
    if policy is None:
        return Opened(document, weights, table, None, {})
    file = own_file(folder, POLICY, root)
    return Opened(document, weights, table, file, check_file(file, files[POLICY]))


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
    document = opened.document
    exits, costs, names = document["num_exits"], document.get("costs"), document.get("class_names")
    facts = {
        "costs": None if costs is None else costs_from(costs, exits)[1],
        "class_names": None if names is None else tuple(names_from(names)),
        "info": document["info"],
    }
    if document.get("preprocess") is not None:
        facts["preprocess"] = preprocess_from(document["preprocess"])
    model = _model(opened, network, head)
    policy = document.get("policy")
    if policy is not None and opened.policy is not None:
        values = read_tensors(opened.policy)
        made = policies.build(policy, model.num_exits, opened.policy_table, values)
        facts["policy"] = made.to(device)
    return Bundle(model.to(device).eval(), recipe=model.recipe, **facts)


def _model(opened: Opened, network: nn.Module | None, head: HeadSpecs | None) -> MultiExitModel:
    document, table = opened.document, opened.table
    heads = document["fingerprint"]["heads"]
    model = recipes.build(document["recipe"], table, heads, network=network, head=head)
    if model.num_exits != document["num_exits"]:
        raise BundleError(
            f"wanted a recipe for {document['num_exits']} exits, got one for {model.num_exits}"
        )
    named = Named(model)
    recipes.match_dtypes(model, named.tensors, table)
    named = Named(model)
    if named.heads != heads:
        raise BundleError(f"wanted heads named {named.heads}* in the file, got {heads}*")
    check_same(table, table_of(named.tensors), "the model that the recipe makes")
    named.load(model, read_tensors(opened.weights))
    return model
