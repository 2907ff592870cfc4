"""Bundles on the Hugging Face hub: only the files of a bundle go there, and only they come."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..errors import BundleError
from ..heads.build import HeadSpecs
from .document import Plain, short
from .folder import CARD, FILES, as_path, find, is_there
from .loading import Bundle, make, open_bundle
from .recipe import ATTACH
from .saving import save

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def push_to_hub(
    bundle: str | Path | Bundle,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a bundle to the Hugging Face hub; the repository is made where there is none.

    A short ``README.md`` goes along where the bundle has none of its own.

    Args:
        bundle: the folder of a bundle, or a bundle in memory.
        repo_id: ``name/of-repository``.
        private: make a new repository private.
        token: to be known by; by default the one that ``hf auth login`` keeps.

    Returns:
        Address of the upload.

    Raises:
        BundleError: if the bundle is damaged, or the hub does not take it.
    """
    _check_id(repo_id)
    from huggingface_hub import CommitOperationAdd, HfApi

    with _folder(bundle) as folder:
        document = open_bundle(folder).document
        here = {name: folder / name for name in FILES if (folder / name).exists()}
        parts = {CARD: card(document, repo_id).encode(), **here}
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.create_commit(  # one: all files change places at once
                repo_id=repo_id,
                operations=[CommitOperationAdd(name, part) for name, part in parts.items()],
                commit_message="Upload an offramp bundle",
            )
        except Exception as error:
            raise BundleError(
                f"the bundle cannot be put into {repo_id!r}: {_why(error)}"
            ) from error
    return str(done)


def from_pretrained(
    repo_id_or_path: str | Path,
    *,
    network: nn.Module | None = None,
    head: HeadSpecs | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    device: torch.device | str = "cpu",
) -> Bundle:
    """Load a bundle from the Hugging Face hub, or from a folder.

    Args:
        repo_id_or_path: a repository, or a folder, which goes first.
        network: as for `load`.
        head: as for `load`.
        revision: branch, tag or commit of the repository.
        cache_dir: where downloads are kept.
        token: as for `push_to_hub`.
        device: as for `load`.

    Raises:
        BundleError: if there is no such bundle, or as for `load`.
    """
    path = as_path(repo_id_or_path)
    if is_there(path):
        return make(open_bundle(path), network=network, head=head, device=device)
    _check_id(str(repo_id_or_path))
    from huggingface_hub import snapshot_download

    try:
        came = snapshot_download(
            str(repo_id_or_path),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            allow_patterns=list(FILES),
        )
    except Exception as error:
        raise BundleError(
            f"{str(repo_id_or_path)!r} is no folder and cannot be fetched from the hub: "
            f"{_why(error)}"
        ) from error
    folder = Path(str(came))
    # the hub's own cache keeps links, to files beside its snapshots
    root = folder.parents[1] if folder.parent.name == "snapshots" else None
    return make(open_bundle(folder, root), network=network, head=head, device=device)


def card(document: Plain, repo_id: str) -> str:
    """The text of ``README.md``: what it is, how it is loaded, what its exits cost."""
    kind = short(document["fingerprint"].get("class", ""), 100)
    version = short(document["offramp"], 40)
    attached, policy = document["recipe"]["name"] == ATTACH, document.get("policy")
    given = ", network=network" if attached else ""
    code = ["import offramp", "", f'bundle = offramp.from_pretrained("{repo_id}"{given})']
    if policy is not None:
        code.append("prediction = offramp.run(bundle.model, bundle.policy, inputs)")
    parts = [
        "---\nlibrary_name: offramp\ntags:\n- early-exit\n- multi-exit\n---",
        f"# {repo_id.rpartition('/')[2]}",
        f"A network with {document['num_exits']} exits (`{kind}`), saved by offramp {version}.",
        "\n".join(["```python", *code, "```"]),
    ]
    if attached:
        parts.append(f"`network` is a `{kind}`, made as it was for training; weights come along.")
    if policy is not None and policy["points"]:
        points = ", ".join(f"`{short(point, 40)}`" for point in policy["points"])
        parts.append(f"Operating points: {points}")
    costs = document.get("costs") or {"full": {}}
    full = costs["full"].get("macs")
    if full:
        head = ["| exit | cost, 1 is the network without exits |", "|---|---|"]
        rows = [f"| {k} | {value / full:.3f} |" for k, value in enumerate(costs["macs"])]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


@contextmanager
def _folder(bundle: str | Path | Bundle) -> Iterator[Path]:
    if not isinstance(bundle, Bundle):
        yield find(bundle)
        return
    with tempfile.TemporaryDirectory() as made:
        yield save(
            Path(made) / "bundle",
            bundle.model,
            policy=bundle.policy,
            costs=bundle.costs,
            class_names=bundle.class_names,
            preprocess=bundle.preprocess,
            info=bundle.info,
        )


def _check_id(repo_id: str) -> None:
    if not isinstance(repo_id, str) or not _REPOSITORY.fullmatch(repo_id) or len(repo_id) > 96:
        raise BundleError(
            f"wanted a folder that is there, or a repository as 'name/of-it'; got {repo_id!r}"
        )


def _why(error: Exception) -> str:
    return short(f"{type(error).__name__}: {error}", 300)
