"""Every block of code in the documentation is run, or says that it is not complete."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from .pages import DOCS, KINDS, PAGES, Block, blocks, execute, modules_of

RUN = [page for page in PAGES if blocks(page, "python", "python file")]
SLOW = [page for page in PAGES if blocks(page, "python slow")]
FRAGMENTS = [block for page in PAGES for block in blocks(page, "python fragment")]


@pytest.mark.parametrize("page", PAGES)
def test_block_says_what_it_is(page: str) -> None:
    wrong = [f"line {b.line}: {b.kind!r}" for b in blocks(page) if b.kind not in KINDS]
    assert wrong == []


# words that the table of names in the design replaces
NOT_SAID = r"\b(ramps?|trunk|highway|side branch|assigner|quota|criterion|cached logits)\b"


@pytest.mark.parametrize("page", PAGES)
def test_page_uses_the_names_that_the_code_uses(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert re.findall(NOT_SAID, text, flags=re.IGNORECASE) == []


def run_page(page: str, folder: Path, *kinds: str) -> None:
    with modules_of(page, folder) as modules:
        for name in modules:
            importlib.import_module(name)
        names: dict[str, object] = {"__name__": "a_page"}
        for block in blocks(page, *kinds):
            execute(block, names)


SAYS = {"guide/network.md": "tensor(True)"}  # the loaded bundle answers as before it was saved


@pytest.mark.parametrize("page", RUN)
def test_page_runs(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, "python")
    printed = capsys.readouterr().out.splitlines()
    assert page not in SAYS or SAYS[page] in printed


@pytest.mark.slow
@pytest.mark.skipif(not SLOW, reason="no page has slow blocks")
@pytest.mark.parametrize("page", SLOW)
def test_page_runs_with_its_slow_blocks(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, "python", "python slow")


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda b: f"{b.page}:{b.line}")
def test_fragment_is_python(block: Block) -> None:
    ast.parse(block.code)
