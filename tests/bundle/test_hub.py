"""Bundles on the hub, through a stand-in that keeps its repositories in folders."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import offramp
from offramp.bundle.folder import aside
from offramp.errors import BundleError

from .conftest import Made, mlp


class Hub:
    """Takes uploads and gives downloads as the hub's own client lays them out: links to blobs."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, list[tuple[str, dict[str, Any]]]()

    def api(self, token: str | None = None) -> Hub:
        self.calls.append(("HfApi", {"token": token}))
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"private": private, "exist_ok": exist_ok}))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def create_commit(
        self,
        *,
        repo_id: str,
        operations: list[huggingface_hub.CommitOperationAdd],
        commit_message: str,
    ) -> str:
        for operation in operations:
            with operation.as_file() as stream:
                (self.root / repo_id / operation.path_in_repo).write_bytes(stream.read())
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(
        self, repo_id: str, *, allow_patterns: list[str], cache_dir: Path, **named: Any
    ) -> str:
        self.calls.append(("snapshot_download", named))
        home = Path(cache_dir) / f"models--{repo_id.replace('/', '--')}"
        blobs, snapshot = home / "blobs", home / "snapshots" / "1"
        blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted((self.root / repo_id).iterdir())):
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, blobs / f"{number}")
                (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number}")
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", made.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_bundle_goes_to_the_hub_and_comes_back(
    attached: Made, hub: Hub, tmp_path: Path, check_same: Any
) -> None:
    address = offramp.push_to_hub(attached.path, "me/mine", private=True, token="t")
    assert address == "https://hub/me/mine/commit/1"
    assert ("HfApi", {"token": "t"}) in hub.calls
    assert ("create_repo", {"private": True, "exist_ok": True}) in hub.calls
    names = ["README.md", "bundle.json", "model.safetensors", "policy.safetensors"]
    assert sorted(file.name for file in (hub.root / "me/mine").iterdir()) == names
    # what else lies in the repository is not fetched
    (hub.root / "me/mine" / "setup.py").write_text("print('never')")
    cache = tmp_path / "cache"
    bundle = offramp.from_pretrained("me/mine", network=mlp(), revision="v1", cache_dir=cache)
    check_same(attached.model, bundle.model, attached.inputs)
    assert bundle.policy is not None and list(bundle.policy.points) == ["fast", "b. 2", "slow"]
    assert not list(cache.rglob("setup.py"))
    assert hub.calls[-1] == ("snapshot_download", {"revision": "v1", "token": None})


def test_bundle_in_memory_goes_to_the_hub(built: Made, hub: Hub, tmp_path: Path) -> None:
    offramp.push_to_hub(offramp.load(built.path), "mine")
    bundle = offramp.from_pretrained("mine", cache_dir=tmp_path / "cache")
    assert bundle.info == {"runs": [1, 2]}
    assert bundle.class_names == ("class 0", "class 1", "class 2")
    assert not (built.path / "README.md").exists()


def test_folder_is_loaded_without_the_hub(built: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert offramp.from_pretrained(built.path).policy is not None
    built.path.rename(aside(built.path))  # as a save leaves it that was killed
    assert offramp.from_pretrained(built.path).policy is not None


def test_commit_that_fails_leaves_the_bundle(
    attached: Made, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**named: object) -> Any:
        raise TimeoutError("the line\nis down")

    before = sorted(attached.path.iterdir())
    monkeypatch.setattr(hub, "create_commit", fail)
    with pytest.raises(BundleError, match="put into 'me/mine': TimeoutError: the line is down"):
        offramp.push_to_hub(attached.path, "me/mine")
    assert sorted(attached.path.iterdir()) == before
    assert list((hub.root / "me/mine").iterdir()) == []


def test_card_says_how_to_use_the_bundle(attached: Made, built: Made, hub: Hub) -> None:
    for made, given in ((attached, ", network=network"), (built, "")):
        offramp.push_to_hub(made.path, "me/first")
        offramp.push_to_hub(made.path, "me/mine")
        card = (hub.root / "me/mine/README.md").read_text(encoding="utf-8")
        assert f'offramp.from_pretrained("me/mine"{given})' in card
        assert "me/first" not in card
        assert card.startswith("---\nlibrary_name: offramp\n")
        assert "`fast`, `b. 2`, `slow`" in card
        exits = made.model.num_exits
        assert all(f"| {k} | {(k + 1) / exits:.3f} |" in card for k in range(exits))
        (made.path / "README.md").write_text("my own words")
        offramp.push_to_hub(made.path, "me/mine")
        assert (hub.root / "me/mine/README.md").read_text() == "my own words"


def test_bundle_is_not_written_to(attached: Made, hub: Hub) -> None:
    before = {file.name: file.read_bytes() for file in attached.path.iterdir()}
    offramp.push_to_hub(attached.path, "me/mine")
    assert {file.name: file.read_bytes() for file in attached.path.iterdir()} == before


def test_card_does_not_hinder_saving_again(attached: Made, hub: Hub) -> None:
    (attached.path / "README.md").write_text("my own words")
    offramp.push_to_hub(attached.path, "me/mine")
    offramp.save(attached.path, attached.model)
    assert not (attached.path / "README.md").exists()


def test_links_out_of_the_repository_are_refused(
    attached: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offramp.push_to_hub(attached.path, "me/mine")
    came = Path(hub.snapshot_download("me/mine", allow_patterns=["*"], cache_dir=tmp_path / "c"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **named: str(came))
    (came / "model.safetensors").unlink()
    (came / "model.safetensors").symlink_to(attached.path / "model.safetensors")
    with pytest.raises(BundleError, match="a link out of it"):
        offramp.from_pretrained("me/mine", network=mlp())


def test_failing_hub_is_one_clear_error(
    attached: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object, **named: object) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(BundleError, match=r"fetched from the hub: ConnectionError: no route to h"):
        offramp.from_pretrained("me/mine")
    with pytest.raises(BundleError, match="cannot be put into 'me/mine': ConnectionError"):
        offramp.push_to_hub(attached.path, "me/mine")
    for name in ("a/b/c", "../x", "", "a b"):
        with pytest.raises(BundleError, match=r"wanted (a|the path of a) folder"):
            offramp.from_pretrained(name)


def test_damaged_bundle_is_not_uploaded(attached: Made, hub: Hub) -> None:
    file = attached.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"wanted .*model.safetensors with \d+ bytes, got"):
        offramp.push_to_hub(attached.path, "me/mine")
    assert hub.calls == []
