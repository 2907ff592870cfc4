"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .browser import Browser, browser


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A window, as the test before left it."""
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one
