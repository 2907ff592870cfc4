"""The parts of the page, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import tables
from .charts import NARROW, WIDE, accuracy_cost, exit_rates, rate_bar, reliability
from .looks import CROSS, DIAMOND, STAR, Looks, exit_swatch, letter, static_key, swatch
from .markup import Markup, element, join
from .study import Study
from .words import COST, headline, middle, percent, readout, with_range


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
    name, budget, seeds = (_live(key, texts) for key in ("policy", "budget", "seeds"))
    at = element("p", of, name, " at a budget of ", budget, ", ", seeds, class_="at")
    bar = element("div", rate_bar(point.rates), _exit_legend(chosen, point.rates), class_="rates")
    return element(
        "section",
        element("h2", "At this budget"),
        at,
        element("dl", *cards, class_="cards"),
        bar,
        id="reading",
    )


def trade(study: Study, looks: Looks) -> Markup:
    """Accuracy against cost, with all that competes."""
    unit, timed = COST[study.unit], study.unit == "latency_ms"
    note = (
        "Up and to the left is better. Cost is the mean over the test part, relative to the full "
        f"network's {unit}{'' if timed else '; it is counted and is no time'}. The axis of "
        "accuracy does not start at zero."
    )
    if len(study.seeds) > 1:
        note += (
            " Marks are means over seeds, shaded bands reach from the lowest to the highest "
            "accuracy of a seed. Lines join points of the same seeds only; an open mark lacks "
            "some seed."
        )
    return element(
        "section",
        element("h2", "Accuracy against cost"),
        element(
            "figure",
            element("div", accuracy_cost(study, looks, WIDE), class_="wide"),
            element("div", accuracy_cost(study, looks, NARROW), class_="narrow"),
            element("ul", *_legend_items(study, looks), class_="legend"),
            element("figcaption", note),
        ),
        tables.behind(tables.curves([study], looks), tables.fixed([study], looks)),
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
                    "earliest exit is at the foot.",
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


def _exit_legend(study: Study, rates: Sequence[float] = ()) -> Markup:
    items = []
    for k in range(study.num_exits):
        rate = element("b", percent(rates[k]), data_rate=k) if rates else ""
        items.append(element("li", exit_swatch(k, study.num_exits), f"exit {k} ", rate))
    return element("ul", *items, class_="legend", data_exits=bool(rates))


def _legend_items(study: Study, looks: Looks) -> Iterator[Markup]:
    for curve in study.curves:
        drawn = swatch(looks.shape(0, curve), looks.colour(0, curve), looks.dashes(0, curve))
        yield element("li", drawn, curve.policy + (" (control)" if curve.control else ""))
    for index, static in enumerate(study.static):
        drawn = swatch(CROSS, "static", line=False)
        yield element("li", drawn, f"{static_key(index)}: {static.name}")
    yield element("li", swatch(DIAMOND, "exit", line=False), "every input at that exit")
    yield element("li", swatch(STAR, "star", line=False), "full network")


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
