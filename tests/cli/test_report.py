import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_report_writes_a_page_into_the_run(scored: Path, command: Command) -> None:
    said = command("report", scored)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"Wrote {scored / 'report.html'}\n"
    assert (scored / "report.html").read_text("utf-8").lower().startswith("<!doctype html>")


def test_report_takes_title_out_and_several_runs(
    scored: Path, tmp_path: Path, command: Command
) -> None:
    study = tmp_path / "study"
    for seed in (0, 1):
        copied = Path(shutil.copytree(scored, study / f"seed-{seed}"))
        results = json.loads((copied / "results.json").read_text("utf-8"))
        (copied / "results.json").write_text(json.dumps({**results, "seed": seed}), "utf-8")
    page = tmp_path / "pages" / "both.html"
    said = command("report", study, "--out", page, "--title", "Two <seeds>", "--json")
    assert (said.code, said.err) == (0, "")
    runs = [str(study / "seed-0"), str(study / "seed-1")]
    assert json.loads(said.out) == {"report": str(page), "runs": runs}
    assert "Two &lt;seeds&gt;" in page.read_text("utf-8")
