"""What the tests of data share: a cache of their own for the package `datasets`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets-cache")


@pytest.fixture
def own_cache(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written to the user's cache; parquet files are converted once per run."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache_folder)
    return cache_folder
