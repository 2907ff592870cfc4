"""The parts of the page, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import tables
from .axes import NARROW, WIDE
from .charts import exit_rates, histogram, rate_bar, reliability
from .looks import Looks, exit_swatch, letter
from .markup import Markup, element, join
from .points import Figures
from .study import Study
from .words import headline, middle, readout, shares, with_range


def summary(studies: Sequence[Study], looks: Looks) -> Markup:
    """What came out, in sentences made from the figures."""
    said = []
    for number, study in enumerate(studies):
        first, *rest = headline(study)
        name = _study_name(number, study) if looks.several else ""
        said.append(
            join(name, element("p", first, class_="headline"), element("p", " ".join(rest)))
        )
    heading = element("h2", "Each with its first policy") if looks.several else ""
    class_ = None if looks.several else "summary"
    return element("section", heading, *said, class_=class_, aria_label="What came out")


def controls(studies: Sequence[Study], looks: Looks) -> Markup:
    """Slider and selectors; the script shows them, as they do nothing without it."""
    chosen = next((study for study in studies if study.curves), None)
    if chosen is None:
        return Markup("")
    options = [
        element("option", f"{letter(number)}: {study.name}", value=number)
        for number, study in enumerate(studies)
    ]
    study_select = element(
        "label", "Study ", element("select", *options, id="study"), hidden=not looks.several
    )
    policy_select = element("label", "Policy ", element("select", id="policy"))
    slider = element("input", type="range", id="budget", min=0, max=0, step=1, value=0)
    shown = element("output", id="budget-value", for_="budget")
    budget = element("label", element("span", "Budget "), slider, shown, class_="slider")
    return element(
        "form",
        study_select,
        policy_select,
        budget,
        _rule_box() if _has_rules(studies) else "",
        class_="controls",
        id="controls",
        hidden=True,
        autocomplete="off",  # a browser that fills in old values would contradict the page
        aria_label="Choose a policy and a budget",
    )


def reading(studies: Sequence[Study]) -> Markup:
    """Figures at the slider's budget; without a script those at the middle one."""
    chosen = next((study for study in studies if study.curves), None)
    if chosen is None:
        return Markup("")
    curve = (chosen.policies or chosen.curves)[0]
    point = curve.points[middle(curve)]
    texts = readout(chosen, curve, point)
    cards = [
        _card(name, key, texts)
        for name, key in (
            ("Accuracy", "accuracy"),
            ("Cost spent", "cost"),
            ("Against the full network", "drop"),
            ("Left before the last exit", "left"),
        )
    ]
    of = join(_live("study", texts), ": ") if len(studies) > 1 else ""
    name, where, budget, seeds = (
        _live(key, texts) for key in ("policy", "where", "budget", "seeds")
    )
    at = element("p", of, name, " ", where, " ", budget, ", ", seeds, class_="at")
    bar = element("div", rate_bar(point.rates), _exit_legend(chosen, point), class_="rates")
    return element(
        "section",
        element("h2", "At this operating point" if _has_rules(studies) else "At this budget"),
        at,
        element("dl", *cards, class_="cards"),
        bar,
        _histogram(studies, point),
        id="reading",
    )


def exits(studies: Sequence[Study], looks: Looks) -> Markup:
    """Exit rates by budget, a picture per policy."""
    parts = []
    for number, study in enumerate(studies):
        for p, curve in enumerate(study.curves):
            name = f"{study.name}: {curve.policy}" if looks.several else curve.policy
            figure = element(
                "figure",
                element("div", exit_rates(study, curve, WIDE), class_="wide"),
                element("div", exit_rates(study, curve, NARROW), class_="narrow"),
                _exit_legend(study),
                element(
                    "figcaption",
                    "Share of the test part that leaves by each exit; the "
                    "earliest exit is at the foot."
                    + (" The last column is the published rule." if curve.rule else ""),
                ),
            )
            parts.append(
                element(
                    "div",
                    element("h3", name),
                    figure,
                    tables.behind(tables.rates(study, curve)),
                    class_="of-policy",
                    data_study=number,
                    data_policy=p,
                )
            )
    if not parts:
        return Markup("")
    return element("section", element("h2", "Where inputs leave"), *parts)


def calibration(studies: Sequence[Study], looks: Looks) -> Markup:
    """Reliability diagrams, one per exit."""
    parts = [
        element(
            "div",
            _study_name(number, study) if looks.several else "",
            *_reliability(study),
            class_="of-study",
            data_study=number,
        )
        for number, study in enumerate(studies)
        if study.calibration
    ]
    if not parts:
        return Markup("")
    note = (
        "Bars: accuracy of the answers whose confidence lies there; on the dashed line confidence "
        "is right. Below: how many answers there are (n, each exit on its own scale). Bins are "
        "pooled over seeds; ECE, the expected calibration error, is the mean over seeds."
    )
    return element(
        "section",
        element("h2", "Can confidence be trusted?"),
        element("p", note, class_="note"),
        *parts,
    )


def timings(studies: Sequence[Study], looks: Looks) -> Markup:
    """Measured times, where there are some."""
    if not any(study.timings for study in studies):
        return Markup("")
    note = (
        "Times are medians on the clock. The measured speed-up is the full network's time over "
        "the policy's; the ideal one follows from the exit rates and the time of each segment; "
        "efficiency is their ratio."
    )
    if any(timing.ms.num > 1 for study in studies for timing in study.timings):
        note += " Speed-ups are taken seed by seed, and then their mean."
    return element(
        "section",
        element("h2", "Measured times"),
        element("p", note, class_="note"),
        tables.timings(studies, looks),
    )


# ------------------------------------------------------------------------ pieces
def _study_name(number: int, study: Study) -> Markup:
    return element("h3", f"{letter(number)}: {study.name}")


def _live(key: str, texts: dict[str, str]) -> Markup:
    return element("span", texts[key], data_show=key)


def _card(name: str, key: str, texts: dict[str, str]) -> Markup:
    value = element("dd", texts[key], data_show=key)
    note = element("dd", texts[f"{key}-range"], data_show=f"{key}-range", class_="range")
    return element("div", element("dt", name), value, note)


def _has_rules(studies: Sequence[Study]) -> bool:
    return any(curve.rule for study in studies for curve in study.curves)


def _rule_box() -> Markup:
    """Takes the published rule in place of a budget; the script hides it where there is none."""
    box = element("input", type="checkbox", id="rule")
    return element("label", box, " published rule", class_="rule-box", hidden=True)


def _histogram(studies: Sequence[Study], point: Figures) -> Markup:
    """The exits of the chosen operating point once more, with errors, where these are known."""
    if not any(study.told_errors for study in studies):
        return Markup("")
    kinds = {len(study.seeds) > 1 for study in studies}
    over = {
        frozenset({True}): "over seeds",
        frozenset({False}): "of the share, test inputs taken as independent draws",
    }.get(frozenset(kinds), "over seeds; of a single run, over its test inputs")
    note = f"Exit histogram; bars and \N{PLUS-MINUS SIGN} are one standard error {over}."
    return element(
        "figure",
        element("div", histogram(point, WIDE), class_="wide"),
        element("div", histogram(point, NARROW), class_="narrow"),
        element("figcaption", note),
    )


def _exit_legend(study: Study, point: Figures | None = None) -> Markup:
    items = []
    said = shares(point) if point else []
    for k in range(study.num_exits):
        rate = element("b", said[k], data_rate=k) if said else ""
        items.append(element("li", exit_swatch(k, study.num_exits), f"exit {k} ", rate))
    return element("ul", *items, class_="legend", data_exits=bool(said))


def _reliability(study: Study) -> Iterator[Markup]:
    bins = study.calibration or []
    figures = [
        element(
            "figure",
            element("h4", f"exit {k}", element("span", _ece(study, k), class_="ece")),
            reliability(k, study, bins[k]),
        )
        for k in range(study.num_exits)
    ]
    yield element("div", *figures, class_="panels")
    yield tables.behind(*(tables.calibration(k, bins[k]) for k in range(study.num_exits)))


def _ece(study: Study, k: int) -> str:
    ece = study.exits[k].ece
    return f"ECE {with_range(ece)}" if ece else ""
