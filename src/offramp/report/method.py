"""How the numbers were made: what a reader must know to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .markup import Markup, element
from .study import Study
from .words import COST, errors_meant, num_test

_MEANING = {
    "macs": (
        "multiply-accumulates (1 MAC = 2 FLOPs) that one input needs until it has its answer: all "
        "segments up to its exit and every head on the way. They are counted. A smaller count is "
        "not by itself a shorter time"
    ),
    "params": "parameters that take part in an answer. They are counted and are no time",
    "latency_ms": "the measured time of the segments and heads on the way to an answer",
}


def method(studies: Sequence[Study]) -> Markup:
    """Parts, seeds, versions, and what each word means."""
    terms = [
        (
            "Parts",
            "Networks learn from the train part and are chosen on the validation part. "
            "Policies are fitted on the calibration part. All figures here are of the test part, "
            "which takes no part in fitting.",
        ),
        (
            "Cost",
            f"Cost is {_MEANING[studies[0].unit]}. It is a mean over inputs, relative to "
            "the original network without early heads, which is 100%; the last exit may cost a "
            "little more, for the heads on the way.",
        ),
        (
            "Full network",
            "The same trained network without its early heads: the accuracy of the last exit, at a "
            "cost of 100%.",
        ),
        (
            "Budget",
            "An upper bound of the mean cost, kept on the calibration part; on the test "
            "part the cost that is spent can lie to either side, and it is said where it is over.",
        ),
        (
            "Seeds",
            "Figures are means over the seeds that have just that budget, and ranges go "
            "from the lowest to the highest seed. Nothing is averaged over different budgets. The "
            "drop is taken against the full network of the same seed.",
        ),
        *_learned(studies),
        (
            "Controls",
            "Grey curves are no methods. random leaves by chance; oracle knows the "
            "right answers. They show how much there is to gain.",
        ),
        (
            "Headline",
            "It takes the first policy of the results at its middle budget, whichever does best.",
        ),
    ]
    listed = [item for name, text in terms for item in _entry(name, text)]
    return element(
        "section",
        element("h2", "How the numbers were made"),
        element("dl", *listed),
        *(_about(study) for study in studies),
        class_="method",
    )


def _learned(studies: Sequence[Study]) -> Iterator[tuple[str, str]]:
    """What the words of errors and of published rules mean, where they are used."""
    if meant := errors_meant(studies):
        yield (
            "Errors",
            f"{meant} Of a single run, the standard error of a cost is that of the mean over its "
            "test inputs; it says nothing of how another seed would come out.",
        )
    if any(curve.rule for study in studies for curve in study.curves):
        yield (
            "Published rule",
            "Thresholds as the method's authors set them, not fitted to any budget: what it "
            "costs follows from training alone.",
        )


def _about(study: Study) -> Markup:
    rows = [
        ("test inputs", num_test(study)),
        ("seeds", ", ".join(str(seed) for seed in study.seeds)),
        ("exits", str(study.num_exits)),
        ("unit of cost", COST[study.unit]),
        ("read from", ", ".join(_last_parts(source) for source in study.sources)),
        *_made(study.made),
    ]
    listed = [item for name, text in rows for item in _entry(name, text)]
    config = ""
    if study.config:
        config = element(
            "details",
            element("summary", f"config.yaml of seed {study.seeds[0]}"),
            element("pre", study.config, tabindex=0),
        )
    return element("div", element("h3", study.name), element("dl", *listed), config)


def _last_parts(source: str) -> str:
    """Where a run lay, without the folders above its study: a page is shown to others."""
    return "/".join(Path(source).parts[-3:])


def _made(made: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What the runs say of themselves; values that differ between seeds are all given."""
    flat = [dict(_flat("", part)) for part in made]
    for key in dict.fromkeys(key for part in flat for key in part):
        yield key, "; ".join(dict.fromkeys(part[key] for part in flat if key in part))


def _flat(prefix: str, part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", f"{value:,}" if type(value) is int else str(value)


def _entry(name: str, text: str) -> tuple[Markup, Markup]:
    return element("dt", name), element("dd", text)
