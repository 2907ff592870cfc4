"""Results that no network gave: plausible, deterministic, for tests of the report only."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from typing import Any

HOSTILE = [
    "cat",
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\"><b onclick='x'>&amp;",
    "${title} $body %s {0}",
    "a very long name of a class that goes on and on without any end in sight",
    "\u202etac \ud800 \x00 \u0085",
    "\u732b",
    "'; alert(1); //",
    "-->]]>",
]


def made_up(
    *,
    name: str = "made-up study",
    seed: int = 0,
    exits: int = 4,
    budgets: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    policies: tuple[str, ...] = ("max_prob", "patience", "entropy"),
    controls: tuple[str, ...] = ("random", "oracle"),
    pictures: int = 60,
    side: int = 32,
    clock: bool = True,
    classes: list[str] | None = None,
    gain: float = 0.0,
    task: str = "label",
    rules: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Give what a `results.json` may hold; with rules of some policies, all that gates bring."""
    draw = random.Random(f"{name} {seed}")
    costs = [0.25 + 0.78 * k / max(exits - 1, 1) for k in range(exits)] if exits > 1 else [1.0]
    top1 = [0.935 + gain - 0.11 * max(1 - c, 0) ** 1.3 + draw.uniform(-0.006, 0.006) for c in costs]
    full = 0.935 + gain + draw.uniform(-0.004, 0.004)
    names = classes or [f"class {c}" for c in range(10)]
    made = {
        policy: [_point(policy, b, costs, full, draw) for b in budgets if exits > 1]
        for policy in (*policies, *controls)
    }
    if task == "map":
        for point in (point for points in made.values() for point in points):
            point["miou"] = point["accuracy"] - 0.25
    drawn = _samples(exits, made, len(names), pictures, side, draw)
    if task == "map" and drawn:
        drawn = _as_maps(drawn, len(names), side, draw)
    learned = _learned(rules, made, costs, full, drawn, draw) if rules else {}
    return {
        **learned,
        "task": task,
        "format": "offramp-results",
        "version": 1,
        "name": name,
        "seed": seed,
        "num_test": 2000,
        "num_exits": exits,
        "class_names": names,
        "unit": "macs",
        "costs": {
            "macs": [125e6 * c for c in costs],
            "params": [85e4 * c for c in costs],
            "latency_ms": None,
            "full": {"macs": 125e6, "params": 85e4},
            "batch_size": None,
        },
        "exits": [
            {
                "exit": k,
                "top1": a,
                "top5": min(a + 0.06, 1),
                "nll": 1.2 - a,
                "ece": 0.02 + 0.01 * k + draw.uniform(0, 0.004),
                "cost": c,
                "rate": None,
                "miou": a - 0.3 if task == "map" else None,
            }
            for k, (a, c) in enumerate(zip(top1, costs, strict=True))
        ],
        "full": {"cost": 1.0, "accuracy": full},
        "static": [
            {"name": "ResNet-20, trained alone", "cost": 0.33, "accuracy": full - 0.024},
            {"name": "ResNet-32, trained alone", "cost": 0.55, "accuracy": full - 0.011},
        ],
        "controls": list(controls),
        "curves": made,
        "calibration": [_bins(a, draw) for a in top1],
        "samples": drawn,
        "clock": _clock(policies, draw) if clock else None,
        "made": {
            "offramp": "0.1.0",
            "torch": "2.15.0",
            "data": {"name": "made up", "train": 8000, "validation": 1000, "calibration": 1000},
        },
    }


def _point(
    policy: str, budget: float, costs: list[float], full: float, draw: Any
) -> dict[str, Any]:
    reach = (budget - costs[0]) / (costs[-1] - costs[0])
    rates = _rates(budget * draw.uniform(0.97, 1.01), costs)
    loss = {"max_prob": 0.03, "patience": 0.05, "entropy": 0.034, "random": 0.08, "oracle": -0.03}
    gap = loss.get(policy, 0.04) * max(1 - reach, 0) ** 1.6 + draw.uniform(-0.004, 0.004)
    cost = sum(r * c for r, c in zip(rates, costs, strict=True))
    return {
        "policy": policy,
        "unit": "macs",
        "num": 2000,
        "budget": budget,
        "cost": cost,
        "accuracy": min(full - gap, 1.0),
        "stderr": 0.006,
        "full_accuracy": full,
        "nll": 0.3,
        "ece": 0.03,
        "overthinking": 0.02,
        "exit_counts": [round(2000 * r) for r in rates],
        "exit_rates": rates,
        "drop": gap,
    }


def _learned(
    rules: tuple[str, ...],
    curves: dict[str, Any],
    costs: list[float],
    full: float,
    samples: dict[str, Any] | None,
    draw: Any,
) -> dict[str, Any]:
    """Published rules, standard errors of costs, and who is right where; changes what is given."""
    found, examined = {}, {}
    for points in curves.values():
        for point in points:
            spent = zip(point["exit_rates"], costs, strict=True)
            squares = sum(r * (c - point["cost"]) ** 2 for r, c in spent)
            point["cost_stderr"] = (squares / 2000) ** 0.5
    for policy in rules:
        budgets = [point["budget"] for point in curves[policy]]
        rule = _point(policy, draw.uniform(min(budgets), max(budgets)), costs, full, draw)
        found[policy] = {**rule, "budget": None, "cost_stderr": 0.006}
        names = [*(f"{budget:g}" for budget in budgets), "rule"]
        examined[policy] = {name: [_examined(draw) for _ in costs] for name in names}
    if samples:
        samples["rules"] = {
            policy: [draw.randrange(len(costs)) for _ in samples["images"]] for policy in rules
        }
    return {"rules": found, "examine": examined}


def _examined(draw: Any) -> list[list[list[int]]]:
    """2,000 inputs by [score reaches the threshold][right here][right at the last exit]."""
    leave = draw.randrange(200, 1800)
    counts = []
    for num, good in ((2000 - leave, 0.7), (leave, 0.97)):
        both = int(num * (good - 0.02))
        here, last = int(num * 0.01), int(num * (0.99 - good))
        counts.append([[num - both - here - last, last], [here, both]])
    return counts


def made_up_sweep(
    *, seed: int = 0, exits: int = 4, alphas: int = 21, test: bool = True
) -> dict[str, Any]:
    """Give what a `sweep.json` may hold: most of the way from the last exit to the first."""
    draw = random.Random(f"sweep {seed}")
    costs = [0.25 + 0.78 * k / max(exits - 1, 1) for k in range(exits)]
    steps = [number / max(alphas - 1, 1) for number in range(alphas)]

    def outcome(alpha: float) -> dict[str, Any]:
        rates = _rates(costs[-1] - (costs[-1] - costs[0]) * min(alpha**1.4, 0.999), costs)
        return {
            "accuracy": 0.935 - 0.09 * alpha**4 + draw.uniform(-0.004, 0.004),
            "cost": sum(r * c for r, c in zip(rates, costs, strict=True)),
            "mean_exit": sum(k * r for k, r in enumerate(rates)),
            "rates": rates,
        }

    return {
        "format": "offramp-sweep",
        "version": 1,
        "unit": "macs",
        "alphas": steps,
        "points": [
            {
                "alpha": alpha,
                "calibration": outcome(alpha),
                "test": outcome(alpha) if test else None,
            }
            for alpha in steps
        ],
        "seconds": 3.21,
    }


def _rates(budget: float, costs: list[float]) -> list[float]:
    """Geometric exit rates that meet a budget, by bisection."""
    low, high, rates = 1e-3, 1e3, [1.0]
    for _ in range(60):
        middle = (low * high) ** 0.5
        weights = [middle**k for k in range(len(costs))]
        rates = [w / sum(weights) for w in weights]
        if sum(r * c for r, c in zip(rates, costs, strict=True)) < budget:
            low = middle
        else:
            high = middle
    return rates


def _bins(accuracy: float, draw: Any) -> list[dict[str, Any]]:
    bins: list[dict[str, Any]] = []
    for b in range(15):
        middle = (b + 0.5) / 15
        count = int(2000 * accuracy * middle**5 / 2.9) if b > 2 else 0
        right = min(max(middle - 0.08 * (1 - middle) + draw.uniform(-0.03, 0.03), 0), 1)
        bins.append(
            {
                "confidence": middle if count else None,
                "accuracy": right if count else None,
                "count": count,
            }
        )
    return bins


def _samples(
    exits: int, curves: dict[str, Any], classes: int, num: int, side: int, draw: Any
) -> dict[str, Any] | None:
    if not num:
        return None
    labels = [i % classes for i in range(num)]
    hardness = [draw.random() for _ in range(num)]
    answers = [
        [
            labels[i] if hardness[i] < 0.7 + 0.25 * (k + 1) / exits else (labels[i] + 1) % classes
            for i in range(num)
        ]
        for k in range(exits)
    ]
    left = {
        policy: [[_exit(hardness[i], point["exit_rates"]) for i in range(num)] for point in points]
        for policy, points in curves.items()
        if policy not in ("random",)
    }
    return {
        "images": [png(side, labels[i], hardness[i], draw) for i in range(num)],
        "labels": labels,
        "answers": answers,
        "exits": left,
    }


def _as_maps(samples: dict[str, Any], classes: int, side: int, draw: Any) -> dict[str, Any]:
    """The same pictures, with others for their targets and for each exit's answer."""
    labels, answers = samples["labels"], samples["answers"]
    return {
        "images": samples["images"],
        "exits": samples["exits"],
        "targets": [png(side, label, 0.0, draw) for label in labels],
        "answers": [[png(side, answer, 0.1, draw) for answer in row] for row in answers],
        "colours": [f"#{16 * c + 15:06x}" for c in range(classes)],
    }


def _exit(hardness: float, rates: list[float]) -> int:
    reached = 0.0
    for k, rate in enumerate(rates):
        reached += rate
        if hardness <= reached:
            return k
    return len(rates) - 1


def png(side: int, label: int, hardness: float, draw: Any) -> str:
    """A small picture as a data address: a coloured blob in noise, more of it where it is hard."""
    rows = []
    for y in range(side):
        row = bytearray([0])
        for x in range(side):
            near = (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side * (0.15 + 0.03 * label)) ** 2
            for channel in range(3):
                base = (90 + 16 * label * (channel + 1)) % 256 if near else 60 + 40 * channel
                row.append(min(max(int(base + draw.gauss(0, 8 + 60 * hardness)), 0), 255))
        rows.append(bytes(row))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _clock(policies: tuple[str, ...], draw: Any) -> list[dict[str, Any]]:
    rows = []
    for policy in policies:
        for budget in (0.5, 0.7, 0.9):
            for size in (1, 32):
                full = (4.1 if size == 1 else 1.3) * draw.uniform(0.98, 1.02)
                ideal, efficiency = 0.97 / budget, 0.93 if size == 1 else 0.8
                rows.append(
                    {
                        "policy": policy,
                        "budget": budget,
                        "batch_size": size,
                        "ms": full / (ideal * efficiency),
                        "full_ms": full,
                        "speed_up": ideal * efficiency,
                        "ideal": ideal,
                    }
                )
    return rows
