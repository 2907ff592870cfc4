"""The page: safe, offline, honest in its words, and whole without its script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import ReportError
from offramp.report import write

from .made_up import HOSTILE, made_up

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # every element is closed where it was opened

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def having(self, name: str, value: str | None = None) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in a and value in (None, a[name])]

    @property
    def data(self) -> Any:
        return json.loads(self.raw["script"][0])


def small(**changes: Any) -> dict[str, Any]:
    given = {"pictures": 4, "side": 4, "budgets": (0.4, 0.5, 0.8)} | changes
    return made_up(**given)


def page(tmp_path: Path, *runs: dict[str, Any], **options: Any) -> Page:
    return Page(write(runs, tmp_path / "report.html", **options).read_text(encoding="utf-8"))


def test_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    made = page(tmp_path, small())
    assert all((a.get("src") or "data:").startswith("data:") for _, a in made.elements)
    assert [a["href"] for _, a in made.elements if "href" in a] == ["data:,"]
    assert [name for _, a in made.elements for name in a if name.startswith("on")] == []
    assert made.having("style") == []  # the policy would ignore it
    (policy,) = (a["content"] for a in made.having("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for kind, text in (("style", made.raw["style"][0]), ("script", made.raw["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert not re.search(r"https?:|@import|url\(|fetch|eval|innerHTML", text)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    honest = small(classes=[f"c{i}" for i in range(10)], pictures=20)
    hostile = small(classes=HOSTILE, pictures=20, name=HOSTILE[1], policies=tuple(HOSTILE[:4]))
    honest["curves"] = dict(zip(hostile["curves"], honest["curves"].values(), strict=False))
    hostile["static"][0]["name"] = hostile["made"]["x"] = HOSTILE[2]
    made = page(tmp_path, hostile, title=HOSTILE[3])
    names = {tag for tag, _ in made.elements}
    assert names == {tag for tag, _ in page(tmp_path, small(policies=("a", "b", "c"))).elements}
    assert [tag for tag, _ in made.elements].count("script") == 2
    assert "<img src=x onerror=\"document.title='broken'\">" in made.text
    assert "${title} $body %s {0}" in made.text
    assert made.data["studies"][0]["name"] == HOSTILE[1]
    assert "<" not in made.raw["script"][0]
    assert not re.search("[\u202e\ud800\x00\x85]", (tmp_path / "report.html").read_text("utf-8"))


def test_headline_says_the_figures_of_the_middle_budget(tmp_path: Path) -> None:
    runs = [small(seed=seed) for seed in range(3)]
    points = [run["curves"]["max_prob"][1] for run in runs]
    accuracy, cost = (100 * sum(p[key] for p in points) / 3 for key in ("accuracy", "cost"))
    left = 100 * sum(1 - p["exit_rates"][-1] for p in points) / 3
    full = 100 * sum(run["full"]["accuracy"] for run in runs) / 3
    clock = [c for run in runs for c in run["clock"]]
    chosen = [c for c in clock if c["policy"] == "max_prob" and c["budget"] == 0.5]
    speed_ups = [c["speed_up"] for c in chosen if c["batch_size"] == 1]
    ends = f"({min(speed_ups):.2f} to {max(speed_ups):.2f} over 3 seeds)"
    said = page(tmp_path, *runs).text
    assert (
        "Asked to spend 50% of the full network's multiply-accumulates, the policy max_prob "
        f"spends {cost:.1f}% (over the budget by {cost - 50:.1f} points) and reaches "
        f"{accuracy:.1f}% accuracy on 2,000 test inputs."
    ) in said
    assert (
        f"reaches {full:.1f}%, so this is {full - accuracy:.1f} percentage points less. "
        f"{left:.0f}% of the inputs leave before the last exit. These are means over 3 seeds."
    ) in said
    assert f"at batch size 1, a measured speed-up of {sum(speed_ups) / 3:.2f} {ends};" in said


def test_every_figure_of_the_tables_follows_from_the_results(tmp_path: Path) -> None:
    """Recomputed here from the results alone, with nothing of the report."""
    runs = [small(seed=seed, exits=3) for seed in range(3)]
    path = write(runs, tmp_path / "report.html")
    tables = [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>.*?</tr>", table)]
        for table in re.findall("<table>.*?</table>", path.read_text(encoding="utf-8"))
    ]
    curves, fixed, *others = [table[1:] for table in tables]
    rates = others[: len(runs[0]["curves"])]
    rows = iter(curves)
    for (policy, given), table in zip(runs[0]["curves"].items(), rates, strict=True):
        for b, point in enumerate(given):
            points = [run["curves"][policy][b] for run in runs]
            row = next(rows)
            assert row[0].split(" ")[0] == policy
            assert row[1] == f"{round(100 * point['budget'])}%"
            assert row[2] == figure([p["cost"] for p in points])
            assert row[3] == figure([p["accuracy"] for p in points])
            lost = [
                run["full"]["accuracy"] - p["accuracy"] for run, p in zip(runs, points, strict=True)
            ]
            shown = float(row[4].removesuffix(" points").replace("\u2212", "-"))
            assert shown == pytest.approx(-100 * sum(lost) / 3, abs=0.051)
            assert row[5] == figure([1 - p["exit_rates"][-1] for p in points]).split(" ")[0]
            excess = 100 * (sum(p["cost"] for p in points) / 3 - point["budget"])
            least = "less than 0.1" if excess < 0.05 else f"{excess:.1f}"
            assert row[7] == ("yes" if excess <= 0 else f"over by {least} points")
            columns = zip(*(p["exit_rates"] for p in points), strict=True)
            assert table[b][1:-1] == [figure(column).split(" ")[0] for column in columns]
    assert next(rows, None) is None
    for k, row in enumerate(fixed[:3]):
        assert row[1] == figure([run["exits"][k]["cost"] for run in runs])
        assert row[2] == figure([run["exits"][k]["top1"] for run in runs])
        assert row[5] == figure([run["exits"][k]["ece"] for run in runs])
    assert fixed[3][2] == figure([run["full"]["accuracy"] for run in runs])


def figure(values: Sequence[float]) -> str:
    mean, low, high = (f"{100 * v:.1f}" for v in (sum(values) / 3, min(values), max(values)))
    return f"{mean}%" if low == high else f"{mean}% ({low} to {high})"


def test_script_is_given_the_texts_of_the_tables(tmp_path: Path) -> None:
    run = small(exits=2, policies=("max_prob",), controls=())
    for point in run["curves"]["max_prob"]:
        point["exit_rates"] = [0.1225, 0.8775]  # halves, which Python and a browser round apart
    text = write([run], tmp_path / "report.html").read_text(encoding="utf-8")
    shares = Page(text).data["studies"][0]["curves"][0]["points"][0]["shares"]
    assert f"<td>{shares[0]}</td><td>{shares[1]}</td>" in text


def test_cost_over_the_budget_is_said_wherever_it_stands(tmp_path: Path) -> None:
    run = small(policies=("max_prob",), controls=())
    for point, cost in zip(run["curves"]["max_prob"], (0.4001, 0.512, 0.8), strict=True):
        point["cost"] = cost
    made = page(tmp_path, run)
    assert "spends 51.2% (over the budget by 1.2 points) and reaches" in made.text
    assert "over the budget by 1.2 points; 1 seed" in made.words
    said = [str(a["aria-label"]) for a in made.having("data-b") if "data-s" in a][:3]
    wanted = ("by less than 0.1 points, ", "by 1.2 points, ", None)
    for text, over in zip(said, wanted, strict=True):
        assert over in text if over else "over the budget" not in text
    kept = [w for w in made.words if w == "yes" or w.startswith("over by ")]
    assert kept == ["over by less than 0.1 points", "over by 1.2 points", "yes"]


def test_times_as_cost_are_not_called_counted(tmp_path: Path) -> None:
    said = page(tmp_path, small(clock=False) | {"unit": "latency_ms"}).text
    assert "is no time" not in said
    assert "fewer measured time" not in said
    assert "no whole runs were measured" in said


def test_axis_of_accuracy_ends_at_all(tmp_path: Path) -> None:
    run = small(policies=("a",), controls=())
    run["full"]["accuracy"] = run["exits"][-1]["top1"] = 1.0
    text = write([run], tmp_path / "p.html").read_text(encoding="utf-8")
    ticks = re.findall(r'text-anchor="end">([\d.]+)</text>', text)
    assert ticks and max(float(tick) for tick in ticks) == 100


def test_cost_is_never_called_a_speed_up(tmp_path: Path) -> None:
    said = page(tmp_path, small(clock=False)).text
    assert "No times were measured; fewer multiply-accumulates alone promise no shorter" in said
    assert not re.search(r"speed.?up|faster", said)


def test_slower_is_said_as_it_was_measured(tmp_path: Path) -> None:
    run = small()
    for clock in run["clock"]:
        clock["speed_up"] = 0.8
    assert "at batch size 1, so 1.25 times as long" in page(tmp_path, run).text
    other = small(seed=1)
    for clock in other["clock"]:
        clock["speed_up"] = 0.9
    said = page(tmp_path, run, other).text
    assert "a measured speed-up of 0.85 (0.80 to 0.90 over 2 seeds), so it is slower" in said
    assert "Speed-ups are taken seed by seed" in said


def test_better_than_the_full_network_is_said_so(tmp_path: Path) -> None:
    run = small()
    run["full"]["accuracy"] = run["curves"]["max_prob"][1]["accuracy"] - 0.02
    made = page(tmp_path, run)
    assert "so this is 2.0 percentage points more." in made.text
    assert "+2.0 points" in made.text


def test_page_is_whole_without_its_script(tmp_path: Path) -> None:
    run = small(policies=("max_prob", "patience"))
    made = page(tmp_path, run)
    assert "The slider needs JavaScript" in made.text
    assert [a["id"] for a in made.having("hidden") if "id" in a] == ["controls", "hint"]
    points = sum(len(points) for points in run["curves"].values())
    assert len(made.having("data-s")) == 2 * points  # a wide and a narrow chart
    assert sum(a.get("class") == "column" for _, a in made.elements) == 2 * points
    assert sum(a.get("class") == "rival exit" for _, a in made.elements) == 2 * 4
    assert sum(a.get("class") == "rival static" for _, a in made.elements) == 2 * 2
    assert sum(a.get("class") == "reliability" for _, a in made.elements) == 4
    assert len(made.having("data-i")) == 4
    for point in run["curves"]["patience"]:
        assert f"{100 * point['accuracy']:.1f}%" in made.text
    for exit_ in run["exits"]:
        assert f"{100 * exit_['ece']:.1f}%" in made.text


def test_table_of_times_gives_measured_ideal_and_efficiency(tmp_path: Path) -> None:
    run = small()
    run["clock"] = [
        {"policy": "max_prob", "budget": 0.5, "batch_size": 8, "ms": 2.5, "full_ms": 4.0,
         "speed_up": 1.6, "ideal": 2.0}
    ]  # fmt: skip
    said = page(tmp_path, run).text
    assert "max_prob 50% 8 2.50 4.00 1.60 2.00 80% 1" in said


def test_pictures_stand_at_the_exit_they_leave_by(tmp_path: Path) -> None:
    run = small(pictures=12)
    text = write([run], tmp_path / "report.html").read_text(encoding="utf-8")
    exits = run["samples"]["exits"]["max_prob"][1]
    groups = re.split(r'data-exit="(\d)"', text)[1:]
    for k, group in zip(groups[::2], groups[1::2], strict=True):
        shown = [int(i) for i in re.findall(r'data-i="(\d+)"', group)]
        here = [i for i, exit_ in enumerate(exits) if exit_ == int(k)]
        assert shown == sorted(here, key=lambda i: (run["samples"]["labels"][i], i))
    for i, exit_ in enumerate(exits):
        right = run["samples"]["labels"][i] == run["samples"]["answers"][exit_][i]
        assert f'data-i="{i}" class="{"right" if right else "wrong"}"' in text


def test_pictures_of_one_class_stand_together_at_every_exit(tmp_path: Path) -> None:
    text = write([small(pictures=60)], tmp_path / "report.html").read_text(encoding="utf-8")
    shown = 0
    for group in re.split(r"data-exit=", text)[1:]:
        labels = [int(c) for c in re.findall(r'<b title="class (\d)"', group)]
        assert labels == sorted(labels)
        shown += len(labels)
    assert shown == 60


def test_pictures_whose_target_does_not_count_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    run = small(pictures=1)
    run["samples"]["labels"] = [-100]
    text = write([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'data-i="0" class="unknown"' in text
    assert '<b title="no label">no label</b><span>class 0</span>' in text


@pytest.mark.parametrize(
    "changes",
    [
        {"exits": 1, "policies": (), "controls": (), "clock": False},
        {"exits": 1, "pictures": 0},
        {"policies": (), "pictures": 0},
        {"policies": (), "controls": ()},
        {"budgets": (0.5,)},
        {"exits": 12},
    ],
)
def test_sparse_runs_make_a_page(changes: dict[str, Any], tmp_path: Path) -> None:
    run = small(**changes)
    for key in ("calibration", "static", "made"):
        run.pop(key)
    made = page(tmp_path, run)
    assert made.open == []
    assert "Can confidence be trusted?" not in made.text


def test_flat_accuracies_still_have_an_axis(tmp_path: Path) -> None:
    run = small(policies=("a",), controls=())
    run["static"] = []
    for point in [*run["curves"]["a"], run["full"]]:
        point["accuracy"] = 1.0
    for exit_ in run["exits"]:
        exit_["top1"] = 1.0
    assert "nan" not in write([run], tmp_path / "p.html").read_text(encoding="utf-8").lower()


def test_seeds_that_lack_a_budget_are_named(tmp_path: Path) -> None:
    made = page(tmp_path, small(seed=0), small(seed=1, budgets=(0.4, 0.8)), small(seed=2))
    assert "2 of 3 seeds: 0, 2" in made.text
    assert "shape hollow" in {a.get("class") for _, a in made.elements}
    lines = [a for tag, a in made.elements if tag == "polyline"]
    assert {len((a["points"] or "").split()) for a in lines} == {1, 2}  # one per set of seeds


def test_studies_are_overlaid_and_lettered(tmp_path: Path) -> None:
    made = page(tmp_path, small(name="one"), small(name="two"), small(name="three"))
    assert {a["data-s"] for a in made.having("data-s")} == {"0", "1", "2"}
    assert "one \u00b7 two \u00b7 three" in made.text
    assert {"A: one", "B: two", "C: three"} <= set(made.words)


def test_page_goes_beside_the_run_or_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    for seed in (0, 1):
        (study / f"seed-{seed}").mkdir(parents=True)
        file = study / f"seed-{seed}" / "results.json"
        file.write_text(json.dumps(small(seed=seed)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert write([study]) == study / "report.html"
    assert write([study / "seed-0"]) == study / "seed-0" / "report.html"
    assert write([study / "seed-1" / "results.json"]) == study / "seed-1" / "report.html"
    assert write([study / "seed-0", study / "seed-1"]) == Path("report.html")
    assert write([study], tmp_path / "new" / "page.html").is_file()
    for out, said in ((None, "wanted out"), (study, "got the folder")):
        with pytest.raises(ReportError, match=said):
            write([small()], out)


def test_page_does_not_tell_where_the_study_lies(tmp_path: Path) -> None:
    study = tmp_path / "home" / "study" / "seed-0"
    study.mkdir(parents=True)
    (study / "results.json").write_text(json.dumps(small()), encoding="utf-8")
    text = write([study.parent]).read_text(encoding="utf-8")
    assert "<dd>study/seed-0/results.json</dd>" in text
    assert str(tmp_path) not in text


def test_config_of_the_run_is_shown_as_text(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(small()), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("name: <b>&\nseed: 0\n", encoding="utf-8")
    assert "name: &lt;b&gt;&amp;\nseed: 0" in write([tmp_path]).read_text(encoding="utf-8")


def test_same_results_make_the_same_page(tmp_path: Path) -> None:
    pages = [write([small()], tmp_path / f"{i}.html").read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_page_of_a_whole_study_is_small(tmp_path: Path) -> None:
    runs = [made_up(seed=seed, pictures=60, side=32) for seed in range(3)]
    assert write(runs, tmp_path / "report.html").stat().st_size < 1_000_000
