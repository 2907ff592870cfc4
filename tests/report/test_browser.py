"""The page in a browser: it asks for nothing, its slider moves all of it, it fits a phone."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from offramp.report import write

from .browser import Browser
from .made_up import HOSTILE, made_up, made_up_sweep

pytestmark = pytest.mark.slow

RIGHT, ENTER = "\ue014", "\ue007"
TEXT = "return document.querySelector(arguments[0]).textContent"
SEEN = (
    "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility())"
    ".map((e) => [e.dataset.study, e.dataset.policy].join(' '))"
)
# what a user does: set the control, then tell the page
SET = (
    "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    "one.dispatchEvent(new Event(arguments[0] === 'budget' ? 'input' : 'change'))"
)
RING = (
    "const ring = document.querySelector('.wide .ring').getBoundingClientRect();"
    "const mark = document.querySelector(arguments[0]).getBoundingClientRect();"
    "return [ring.x + ring.width / 2 - mark.x - mark.width / 2,"
    " ring.y + ring.height / 2 - mark.y - mark.height / 2]"
)


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    return [made_up(seed=seed, classes=HOSTILE, pictures=20) for seed in range(3)]


@pytest.fixture
def study(window: Browser, runs: list[dict[str, Any]], tmp_path: Path) -> Path:
    window.size(1280)
    window.media()
    window.log("browser")
    window.log("performance")
    return write(runs, tmp_path / "report.html")


def test_page_loads_without_a_request_or_a_complaint(window: Browser, study: Path) -> None:
    window.open(study)
    window.run(SET, "budget", 6)
    window.run(SET, "policy", 1)
    messages = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    asked = [
        message["params"]["request"]["url"].partition("#")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        # the browser's own first page asks for chrome:// addresses
        and message["params"]["documentURL"].startswith(study.as_uri())
    ]
    assert {url for url in asked if not url.startswith("data:image/png;")} == {study.as_uri()}
    assert window.log("browser") == []
    assert window.run("return document.title") == "made-up study"


def test_policy_of_the_page_stops_requests(window: Browser, study: Path) -> None:
    window.open(study)
    window.run(
        "const img = document.createElement('img'); img.src = 'https://example.org/a.png';"
        "document.body.append(img); const s = document.createElement('script');"
        "s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    said = " ".join(entry["message"] for entry in window.log("browser"))
    assert said.count("Content Security Policy") >= 2
    assert window.run("return document.title") == "made-up study"


def test_slider_moves_figures_marks_and_pictures(
    window: Browser, study: Path, runs: list[dict[str, Any]]
) -> None:
    window.open(study)
    for b in (0, 7, 3):
        window.run(SET, "budget", b)
        points = [run["curves"]["max_prob"][b] for run in runs]
        for key in ("accuracy", "cost"):
            mean = sum(point[key] for point in points) / 3
            assert window.run(TEXT, f"[data-show={key}]") == f"{100 * mean:.1f}%"
        assert window.run(TEXT, "#budget-value") == f"{100 * points[0]['budget']:.4g}%"
        rates = [sum(p["exit_rates"][k] for p in points) / 3 for k in range(4)]
        for k, rate in enumerate(rates):
            shown = float(window.run(TEXT, f"[data-rate='{k}']").rstrip("%"))
            assert shown == pytest.approx(100 * rate, abs=0.06)
        apart = window.run(RING, f".wide .mark[data-p='0'][data-b='{b}'] path")
        assert apart == pytest.approx([0, 0], abs=1.5)
        now = "return [...document.querySelectorAll('.wide .of-policy .now, .wide .now')]"
        columns = window.run(now + ".filter((e) => e.checkVisibility()).map((e) => e.dataset.b)")
        assert columns == [str(b)]
        assert_pictures(window, runs[0], "max_prob", b)


def assert_pictures(window: Browser, run: dict[str, Any], policy: str, b: int) -> None:
    found = window.run(
        "return [...document.querySelectorAll('[data-i]')].map((e) => [Number(e.dataset.i),"
        " Number(e.closest('[data-exit]').dataset.exit), e.className])"
    )
    samples, exits = run["samples"], run["samples"]["exits"][policy][b]
    wanted = [
        [i, k, "right" if samples["answers"][k][i] == samples["labels"][i] else "wrong"]
        for i, k in enumerate(exits)
    ]
    assert sorted(found) == wanted


def test_policy_selector_keeps_the_budget(
    window: Browser, study: Path, runs: list[dict[str, Any]]
) -> None:
    window.open(study)
    window.run(SET, "budget", 5)
    window.run(SET, "policy", 1)
    assert window.run(TEXT, "[data-show=policy]") == "patience"
    assert window.run(TEXT, "#budget-value") == "80%"
    assert window.run(SEEN, ".of-policy") == ["0 1"]
    assert_pictures(window, runs[0], "patience", 5)
    window.run(SET, "policy", 3)  # the control that has no pictures
    assert "no pictures for random (control)" in window.run(TEXT, "[data-at]")


def test_address_holds_the_state(window: Browser, study: Path) -> None:
    window.open(study, "#policy=entropy&budget=0.9")
    assert window.run(TEXT, "[data-show=policy]") == "entropy"
    assert window.run(TEXT, "#budget-value") == "90%"
    window.run(SET, "budget", 0)
    assert window.run("return location.hash") == "#policy=entropy&budget=0.3"
    window.open(study, "#policy=none&budget=x&study=<b>")
    assert window.run(TEXT, "[data-show=policy]") == "max_prob"
    assert window.log("browser") == []


def test_keys_move_the_slider_and_go_from_mark_to_mark(window: Browser, study: Path) -> None:
    window.open(study)
    window.run("document.getElementById('budget').focus()")
    window.keys(RIGHT)
    assert window.run(TEXT, "#budget-value") == "80%"
    value = "return document.getElementById('budget').getAttribute('aria-valuetext')"
    assert window.run(value) == "budget 80%"
    window.run("document.querySelector('.wide .accuracy [tabindex=\"0\"]').focus()")
    for _ in range(60):
        window.keys(RIGHT)
        if window.run("return document.activeElement.dataset.p") == "2":
            break
    said = window.run("return document.activeElement.getAttribute('aria-label')")
    assert said.startswith("entropy, budget 30%: accuracy ")
    assert window.run(TEXT, "#hint") == said
    window.keys(ENTER)
    assert window.run(TEXT, "[data-show=policy]") == "entropy"
    assert window.run(TEXT, "#budget-value") == "30%"


def test_study_selector_shows_the_chosen_study(window: Browser, tmp_path: Path) -> None:
    first, second = made_up(name="a & b", pictures=2), made_up(name="</b>", pictures=3)
    bare = made_up(name="bare", policies=(), controls=(), pictures=0, clock=False)
    window.size(1280)
    window.open(write([bare, first, second], tmp_path / "report.html"))
    assert window.run("return document.getElementById('study').value") == "1"
    window.run(SET, "study", 2)
    assert window.run(SEEN, ".of-policy") == ["2 0"]
    assert window.run(SEEN, ".pictures") == ["2 "]
    assert window.run("return document.querySelectorAll('#reading .legend li').length") == 4
    assert window.run("return document.querySelectorAll('[data-bar] rect').length") == 4
    window.run(SET, "study", 0)
    assert window.run("return document.getElementById('reading').hidden") is True
    assert window.run(SEEN, ".of-policy") == []
    assert window.log("browser") == []


def test_one_policy_is_shown_at_a_time_for_all_studies(window: Browser, tmp_path: Path) -> None:
    runs = [made_up(name=name, seed=seed, pictures=0) for name in "ab" for seed in (0, 1)]
    window.size(1280)
    window.open(write(runs, tmp_path / "report.html"))
    shown = (
        "return [...document.querySelectorAll('.by-policy')].filter((e) => e.checkVisibility())"
        ".map((e) => e.dataset.policy)"
    )
    assert window.run(shown) == ["max_prob"]
    window.run(SET, "study", 1)
    window.run(SET, "policy", 2)
    window.run(SET, "budget", 5)
    assert window.run(shown) == ["entropy"]
    rings = "return document.querySelectorAll('.ring:not([hidden])').length"
    assert window.run(rings) == 2  # of the wide and of the narrow chart
    apart = window.run(
        "const at = (e) => { const b = e.getBoundingClientRect(); return b.x + b.width / 2; };"
        "const chart = document.querySelector('.by-policy:not([hidden]) .wide');"
        "return at(chart.querySelector('.ring')) - "
        'at(chart.querySelector(\'.mark[data-s="1"][data-b="5"] path\'))'
    )
    assert abs(apart) < 1.5
    window.run("document.querySelector('.by-exit .rival').dispatchEvent(new Event('mouseenter'))")
    assert window.run(TEXT, "#hint").startswith("a, exit 0: accuracy ")
    assert window.log("browser") == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_page_of_several_studies_fits_its_width(
    window: Browser, width: int, tmp_path: Path
) -> None:
    runs = []
    for number in range(6):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        made = made_up(name=f"a_study_with_a_long_name_{number}", exits=10, pictures=0)
        (folder / "results.json").write_text(json.dumps(made), "utf-8")
        config = "model: {name: x}\ntrain: {epochs: 1}\nobjective: {name: layer_wise}\n"
        (folder / "config.yaml").write_text(config, "utf-8")
        runs.append(folder)
    window.size(width)
    window.open(write(runs, tmp_path / "report.html"))
    window.run("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    assert window.run("return document.documentElement.scrollWidth") <= width
    smallest = window.run(
        "const size = (e) => { const at = e.getScreenCTM();"
        " return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(at.a, at.b); };"
        "return Math.min(...[...document.querySelectorAll('svg text')]"
        ".filter((e) => e.checkVisibility() && e.textContent).map(size))"
    )
    assert smallest > 8.5  # pixels


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_page_fits_its_width_and_only_boxes_scroll(
    window: Browser, study: Path, width: int
) -> None:
    window.size(width)
    window.open(study)
    window.run("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    assert window.run("return document.documentElement.scrollWidth") <= width
    shown = "return getComputedStyle(document.querySelector('.accuracy').parentElement).display"
    assert (window.run(shown) == "none") == (width < 640)
    smallest = window.run(
        "const size = (e) => { const at = e.getScreenCTM();"
        " return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(at.a, at.b); };"
        "return Math.min(...[...document.querySelectorAll('svg text')]"
        ".filter((e) => e.checkVisibility() && e.textContent).map(size))"
    )
    assert smallest > 8.5  # pixels


def test_names_of_networks_cut_off_at_an_exit_stand_apart(window: Browser, tmp_path: Path) -> None:
    run = made_up(policies=(), controls=(), pictures=0)
    pairs = zip(run["exits"][:-1], "abc", strict=True)
    run["static"] = [{"name": n, "cost": e["cost"], "accuracy": e["top1"]} for e, n in pairs]
    for width in (1280, 390):
        window.size(width)
        window.open(write([run], tmp_path / "report.html"))
        boxes = window.run(
            "return [...document.querySelectorAll('.accuracy .name')].filter((e) => "
            "e.checkVisibility() && e.textContent).map((e) => "
            "{ const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; })"
        )
        assert len(boxes) == (8 if width > 600 else 7)
        for a, b in combinations(boxes, 2):
            assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 3 or b[3] <= a[2] + 3


def test_twelve_pictures_of_an_exit_stand_in_one_row(window: Browser, tmp_path: Path) -> None:
    run = made_up(exits=2, pictures=24)
    for left in run["samples"]["exits"].values():
        left[:] = [[i % 2 for i in range(24)] for _ in left]
    window.size(1280)
    window.open(write([run], tmp_path / "report.html"))
    tops = "return [...document.querySelectorAll('[data-i]')].map((e) => Math.round(e.offsetTop))"
    assert len(set(window.run(tops))) == 2


@pytest.mark.parametrize("width", [1280, 390])
def test_labels_of_many_budgets_stand_apart(window: Browser, width: int, tmp_path: Path) -> None:
    budgets = tuple(round(0.28 + 0.0375 * number, 4) for number in range(20))
    window.size(width)
    window.open(write([made_up(budgets=budgets, pictures=0)], tmp_path / "report.html"))
    places = window.run(
        "return [...document.querySelectorAll('.column > text')].filter((e) => "
        "e.checkVisibility() && e.textContent.endsWith('%')).map((e) => "
        "{ const at = e.getBoundingClientRect(); return [at.left, at.right]; })"
    )
    assert len(places) >= 4
    assert all(left > right + 3 for (_, right), (left, _) in pairwise(places))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(window: Browser, study: Path, scheme: str) -> None:
    window.media(scheme=scheme)
    window.open(study)
    colours = window.run(
        "const style = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(arguments[0].map((n) => [n, style.getPropertyValue('--' + n)]))",
        ["page", "panel", "ink", "soft", "accent", "good", "bad", "grey"]
        + [f"c{i}" for i in range(7)],
    )
    for name, colour in colours.items():
        wanted = 4.5 if name in ("ink", "soft", "accent", "good", "bad") else 2.8
        if name not in ("page", "panel"):
            assert contrast(colour, colours["page"]) >= wanted, name


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_page_reads_without_its_script(window: Browser, study: Path) -> None:
    window.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.open(study)
        names = ("#controls", "noscript p", ".wide .accuracy", "#reading", ".pictures img")
        seen = "document.querySelector('{}').checkVisibility()"
        shown = [window.evaluate(seen.format(name)) for name in names]
    finally:
        window.devtools("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == [False, True, True, True, True]


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A page of gates: rules, errors, a sweep, who is right."""
    run = made_up(policies=("max_prob", "gate"), rules=("gate",), pictures=20)
    (tmp_path / "results.json").write_text(json.dumps(run), "utf-8")
    (tmp_path / "sweep.json").write_text(json.dumps(made_up_sweep()), "utf-8")
    return write([tmp_path])


def test_published_rule_moves_the_page_and_the_slider_takes_it_back(
    window: Browser, learned: Path
) -> None:
    run = json.loads((learned.parent / "results.json").read_text("utf-8"))
    rule = run["rules"]["gate"]
    window.size(1280)
    window.open(learned)
    hidden = "return document.getElementById('rule').parentElement.hidden"
    assert window.run(hidden) is True  # max_prob has no rule
    window.run(SET, "policy", 1)
    assert window.run(hidden) is False
    window.run("document.getElementById('rule').click()")
    assert window.run(TEXT, "[data-show=budget]") == "published rule"
    assert window.run(TEXT, "[data-show=accuracy]") == f"{100 * rule['accuracy']:.1f}%"
    assert window.run(RING, ".wide .mark.rule path") == pytest.approx([0, 0], abs=1.5)
    assert window.run("return location.hash") == "#policy=gate&budget=rule"
    found = window.run(
        "return [...document.querySelectorAll('[data-i]')].map((e) => [Number(e.dataset.i),"
        " Number(e.closest('[data-exit]').dataset.exit)])"
    )
    assert sorted(found) == [[i, k] for i, k in enumerate(run["samples"]["rules"]["gate"])]
    heights = window.run(
        "return [...document.querySelectorAll('.wide .share-bar rect')]"
        ".map((e) => Number(e.getAttribute('height')))"
    )
    assert heights == pytest.approx([120 * rate for rate in rule["exit_rates"]], abs=0.02)
    window.run(SET, "budget", 2)
    assert window.run("return document.getElementById('rule').checked") is False
    assert window.run(TEXT, "#budget-value") == "50%"
    window.open(learned, "#policy=gate&budget=rule")
    assert window.run("return document.getElementById('rule').checked") is True
    window.run(SET, "policy", 0)  # which has no rule: the budget from before is back
    assert window.run(TEXT, "#budget-value") == "70%"
    assert window.log("browser") == []


def test_bars_of_the_chosen_policy_stand_out(window: Browser, learned: Path) -> None:
    window.size(1280)
    window.open(learned)
    now = "return [...document.querySelectorAll('.wide .bars.now')].map((e) => e.dataset.p)"
    assert window.run(now) == ["0"]
    window.run(SET, "policy", 1)
    assert window.run(now) == ["1"]


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_page_of_gates_fits_its_width(window: Browser, learned: Path, width: int) -> None:
    window.size(width)
    window.open(learned, "#policy=gate&budget=rule")
    window.run("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    assert window.run("return document.documentElement.scrollWidth") <= width
    smallest = window.run(
        "const size = (e) => { const at = e.getScreenCTM();"
        " return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(at.a, at.b); };"
        "return Math.min(...[...document.querySelectorAll('svg text')]"
        ".filter((e) => e.checkVisibility() && e.textContent).map(size))"
    )
    assert smallest > 8.5  # pixels
    ticks = window.run(
        "return [...document.querySelectorAll('.macs text')].filter((e) => e.checkVisibility())"
        ".map((e) => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top]; })"
    )
    row = sorted(tick for tick in ticks if tick[2] == ticks[0][2])
    assert len(row) >= 3
    assert all(left > right for (_, right, _), (left, _, _) in pairwise(row))
