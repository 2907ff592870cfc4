"""Says at the end how many rows lay inside the margin around thresholds."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: the comparisons made, and the most rows that any of them had to leave out."""
    from .test_policies import INSIDE_COUNTS, MARGIN

    if INSIDE_COUNTS:
        inside, rows = max(INSIDE_COUNTS)
        none = sum(count == 0 for count, _ in INSIDE_COUNTS)
        terminalreporter.write_line(
            f"families: {len(INSIDE_COUNTS)} comparisons of running and replaying, {none} with no "
            f"row inside the margin of {MARGIN:g}, at most {inside} of {rows} rows inside"
        )
