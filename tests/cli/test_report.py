import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def studies(scored: Path, here: Path) -> None:
    """Two studies of two seeds that differ in their objective and in every exit's accuracy."""
    for name, objective, gain in (("joint", "joint", 0.0), ("last", "layer_wise", 0.02)):
        for seed in (0, 1):
            copied = Path(shutil.copytree(scored, here / name / f"seed-{seed}"))
            results = json.loads((copied / "results.json").read_text("utf-8")) | {"seed": seed}
            for k, exit_ in enumerate(results["exits"]):
                exit_["top1"] = 0.5 + 0.1 * k + 0.01 * seed + gain * (1 + seed)
            (copied / "results.json").write_text(json.dumps(results), "utf-8")
            config = (copied / "config.yaml").read_text("utf-8")
            assert "name: joint" in config
            changed = config.replace("name: joint", f"name: {objective}")
            (copied / "config.yaml").write_text(changed, "utf-8")


def test_report_of_several_studies_gives_paired_gains(
    scored: Path, tmp_path: Path, command: Command
) -> None:
    studies(scored, tmp_path)
    page = tmp_path / "both.html"
    said = command("report", tmp_path / "joint", tmp_path / "last", "--out", page, "--json")
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    assert (told["measure"], told["baseline"]) == ("accuracy", "joint")
    joint, last = told["schemes"]
    assert [each["name"] for each in (joint, last)] == ["joint", "layer_wise"]
    assert "gain" not in joint["exits"][0]
    for k, exit_ in enumerate(last["exits"]):
        own = [0.5 + 0.1 * k + 0.01 * seed + 0.02 * (1 + seed) for seed in (0, 1)]
        assert abs(exit_["mean"] - statistics.mean(own)) < 1e-12
        assert (exit_["low"], exit_["high"]) == (min(own), max(own))
        gain = exit_["gain"]
        assert [round(value, 12) for value in gain["values"]] == [0.02, 0.04]
        assert [round(end, 4) for end in gain["interval"]] == [-0.0971, 0.1571]  # t of 1: 12.706
        assert gain["better"] == 2
    assert set(joint["curves"]) == {"max_prob", "random", "oracle"}
    text = page.read_text("utf-8")
    assert text.count('class="routes"') == 2 and "exit 1 trains segment 1;" in text


def test_report_labels_studies_and_takes_any_as_baseline(
    scored: Path, tmp_path: Path, command: Command
) -> None:
    studies(scored, tmp_path)
    words = [f"all={tmp_path / 'joint'}", f"own segment={tmp_path / 'last'}"]
    out = ["--out", tmp_path / "both.html", "--baseline", "own segment"]
    said = command("report", *words, *out)
    assert (said.code, said.err) == (0, "")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[-1] == f"Wrote {tmp_path / 'both.html'}"
    assert "all 50.50 60.50 70.50" in lines and "own segment 53.50 63.50 73.50" in lines
    assert "gain \u22123.00 \u22123.00 \u22123.00" in lines
    assert "95% \u221215.71 to +9.71 \u221215.71 to +9.71 \u221215.71 to +9.71" in lines


def test_path_with_an_equals_sign_is_a_path(scored: Path, tmp_path: Path, command: Command) -> None:
    named = scored.rename(tmp_path / "lr=0.1")
    said = command("report", named, "--json")
    assert json.loads(said.out)["runs"] == [str(named)]


def test_report_names_the_studies_on_a_narrow_terminal(
    scored: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies(scored, tmp_path)
    monkeypatch.setenv("COLUMNS", "44")
    said = command("report", tmp_path / "joint", tmp_path / "last", "--out", tmp_path / "page.html")
    first = {line.split()[0] for line in said.out.splitlines() if line.strip()}
    assert {"joint", "layer_wise", "seeds", "gain", "95%"} <= first
