"""The code blocks of the documentation, page by page, and what it takes to run them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from offramp.registry import datasets, models, objectives, policies

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REGISTRIES = {r.kind: r for r in (models, objectives, policies, datasets)}

# What stands behind the opening fence. A block of any other kind fails, so none is left out unseen.
#   python           run: the blocks of a page in order, in one namespace
#   python slow      the same, in the slow tests
#   python file      a module, named in its first line; the page's blocks can import it
#   python fragment  not run, and not complete; Python all the same
#   sh               every offramp command in it must parse
#   yaml             part of a recipe: must load
#   text             no code
KINDS = ("python", "python slow", "python file", "python fragment", "sh", "yaml", "text")

_FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1\s*$", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int  # of its first line of code
    kind: str
    code: str

    @property
    def file(self) -> str:
        """The name in the first line of a module."""
        match = re.match(r"# (\w+\.py)\n", self.code)
        assert match, f"{self.page}:{self.line} is a file and does not begin with its name"
        return match[1]


PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def blocks(page: str, *kinds: str) -> list[Block]:
    """The blocks of a page in order; of some kinds alone, where they are named."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        kind = " ".join(match[2].split())
        line = text.count("\n", 0, match.start()) + 2
        if not kind.startswith("{") and (not kinds or kind in kinds):
            found.append(Block(page, line, kind, match[3]))
    return found


def execute(block: Block, names: dict[str, Any]) -> None:
    """Run a block; a traceback names the page and the line in it."""
    code = "\n" * (block.line - 1) + block.code
    exec(compile(code, str(DOCS / block.page), "exec"), names)


@contextmanager
def modules_of(page: str, folder: Path) -> Iterator[list[str]]:
    """Write a page's modules where they can be imported; afterwards nothing of them is left."""
    before = {kind: set(registry.names()) for kind, registry in REGISTRIES.items()}
    files = blocks(page, "python file")
    for block in files:
        (folder / block.file).write_text(block.code, encoding="utf-8")
    names = [block.file.removesuffix(".py") for block in files]
    sys.path.insert(0, str(folder))
    try:
        yield names
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        for kind, registry in REGISTRIES.items():
            for name in set(registry.names()) - before[kind]:
                registry.remove(name)
