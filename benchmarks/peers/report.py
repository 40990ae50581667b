# SPDX-License-Identifier: Apache-2.0
"""A Markdown table and a plot of a samples file."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.ceilings import Machine, ceilings, machine_of
from benchmarks.peers.plot import Bar, write_svg
from benchmarks.peers.run import read_samples
from benchmarks.peers.sides import PRECISIONS, SIDES

OURS = "enginery"
RATES = ("prefill_512_tok_s", "decode_tok_s", "load_tok_s")
COSTS = ("first_token_ms", "peak_rss_mb")
RATIO_GOALS = {
    "int8": {"prefill_512_tok_s": 1.25, "decode_tok_s": 1.25, "load_tok_s": 1.5},
    "bf16": {"prefill_512_tok_s": 1.05, "decode_tok_s": 1.05, "load_tok_s": 1.25},
    "int4": {"prefill_512_tok_s": 1.25, "decode_tok_s": 1.5, "load_tok_s": 1.5},
}
FIRST_TOKEN_RATIO, FIRST_TOKEN_MS = 5.0, 200.0
MEMORY_ALLOWANCE_MB = 150.0
CEILING_SHARE = 0.85
"""Where a goal asks for more than this share of the ceiling, this share is the goal."""

Group = tuple[str, str, int, str]
"""Shape, precision, num_threads, isa."""


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        low, median, high = (_number(v) for v in (self.low, self.median, self.high))
        return f"{median} ({low}–{high})"


@dataclass(frozen=True)
class Comparison:
    """Ours against the best peer, in one measure."""

    best_peer: str
    ratio: Spread
    """Of the same rounds, larger is better for us: rates ours / peer, costs peer / ours."""


def report(args: argparse.Namespace) -> int:
    """Prints the tables and writes the plot."""
    samples = read_samples(args.samples)
    limits = [sample for sample in samples if sample.get("kind") == "limits"]
    print(describe(samples, limits))
    for group in groups(samples):
        chosen = [s for s in samples if s.get("kind") == "sample" and group_of(s) == group]
        print(table(group, chosen, [x for x in limits if x["num_threads"] == group[2]]))
    args.plot = args.plot or args.samples.with_suffix(".svg")
    write_svg(args.plot, bars(samples))
    return 0


def group_of(sample: dict[str, Any]) -> Group:
    """What samples must agree in to be compared."""
    return sample["shape"], sample["precision"], sample["num_threads"], sample["isa"]


def groups(samples: Iterable[dict[str, Any]]) -> list[Group]:
    """The groups that the samples fall into, int8 first."""
    found = {group_of(sample) for sample in samples if sample.get("kind") == "sample"}
    return sorted(found, key=lambda g: (g[3] != "native", g[0], PRECISIONS.index(g[1]), g[2]))


def by_round(samples: Iterable[dict[str, Any]], side: str, name: str) -> dict[int, float]:
    """A side's values of one measure; of samples of the same round the last counts."""
    return {s["round"]: s[name] for s in samples if s["side"] == side and name in s}


def compare(samples: Sequence[dict[str, Any]], name: str) -> Comparison | None:
    """Ours over the peer with the best median, as a ratio per round; None without both."""
    ours = by_round(samples, OURS, name)
    peers = {side: by_round(samples, side, name) for side in SIDES if side != OURS}
    medians = {side: statistics.median(v.values()) for side, v in peers.items() if v}
    if not ours or not medians:
        return None
    is_cost = name in COSTS
    best = (min if is_cost else max)(medians, key=medians.__getitem__)
    rounds = sorted(ours.keys() & peers[best].keys())
    if not rounds:
        return None
    pairs = [(ours[r], peers[best][r]) for r in rounds]
    return Comparison(best, Spread.of([p / o if is_cost else o / p for o, p in pairs]))


def ceilings_by_round(
    group: Group, samples: Iterable[dict[str, Any]], machine: Machine
) -> dict[str, dict[int, float]]:
    """The ceiling of each rate in each of our rounds.

    Args:
        group: whose.
        samples: of the group.
        machine: the best that any round measured. Memory is that beside our sample, where it was
            measured there.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in RATES}
    if not machine.ops_per_s:
        return found
    for sample in samples:
        if sample["side"] != OURS:
            continue
        bandwidth = sample.get("bandwidth_gb_s", 0.0) * 1e9 or machine.bytes_per_s
        if bandwidth:
            at = dataclasses.replace(machine, bytes_per_s=bandwidth)
            for name, value in ceilings(group[0], group[1], at).items():
                found[name][sample["round"]] = value
    return found


def goal_of(
    precision: str, name: str, samples: Sequence[dict[str, Any]], tops: Mapping[int, float]
) -> tuple[str, bool] | None:
    """What is asked of us and whether it is met; None where nothing can be said.

    Args:
        precision: of the samples.
        name: of the measure.
        samples: of one group.
        tops: the rate's ceiling by round; empty where it is not known.

    Returns:
        The goal in words, and the verdict. Of rates it is of the median round, each of which is
        asked for the ratio to the peer beside it or for a share of its ceiling, whichever is less.
    """
    comparison = compare(samples, name)
    if comparison is None:
        return None
    ours = statistics.median(by_round(samples, OURS, name).values())
    if name == "first_token_ms":
        is_met = ours < FIRST_TOKEN_MS and comparison.ratio.median >= FIRST_TOKEN_RATIO
        return f"< {FIRST_TOKEN_MS:.0f} and ×{FIRST_TOKEN_RATIO:.0f}", is_met
    if name == "peak_rss_mb":
        peers = [s for s in samples if s["side"] == OURS and "peer" in s]
        allowed = peers[-1]["peer"]["weight_mb"] + peers[-1]["peer"]["kv_mb"] + MEMORY_ALLOWANCE_MB
        return f"≤ {_number(allowed)}, least", ours <= allowed and comparison.ratio.median > 1
    ratio, theirs = RATIO_GOALS[precision][name], by_round(samples, comparison.best_peer, name)
    rates = {r: v for r, v in by_round(samples, OURS, name).items() if r in theirs}
    asked = {r: min(ratio * theirs[r], CEILING_SHARE * tops.get(r, float("inf"))) for r in rates}
    by_ceiling = sum(asked[r] < ratio * theirs[r] for r in rates)
    words = f"{CEILING_SHARE:.0%} of the ceiling" if 2 * by_ceiling > len(rates) else f"×{ratio}"
    return words, statistics.median(rates[r] / asked[r] for r in rates) >= 1


def table(group: Group, samples: Sequence[dict[str, Any]], limits: list[dict[str, Any]]) -> str:
    """The Markdown table of one group."""
    shape, precision, num_threads, isa = group
    sides = [side for side in SIDES if any(s["side"] == side for s in samples)]
    tops = ceilings_by_round(group, samples, machine_of(limits, precision, isa))
    head = ["", *sides, "ratio to the best peer", "goal", "met", "ceiling", "share"]
    rows = [head, ["---"] * len(head)]
    for name in RATES + COSTS:
        values = {side: by_round(samples, side, name) for side in sides}
        comparison = compare(samples, name)
        of_rounds = tops.get(name, {})
        goal = goal_of(precision, name, samples, of_rounds)
        ours = values.get(OURS, {})
        shares = [ours[r] / top for r, top in of_rounds.items() if r in ours]
        rows.append(
            [
                name,
                *(str(Spread.of([*v.values()])) if v else "–" for v in values.values()),
                f"{comparison.ratio} × {comparison.best_peer}" if comparison else "–",
                goal[0] if goal else "–",
                ("yes" if goal[1] else "no") if goal else "–",
                str(Spread.of([*of_rounds.values()])) if of_rounds else "–",
                f"{statistics.median(shares):.0%}" if shares else "–",
            ]
        )
    title = f"### {shape}, {precision}, {num_threads} threads, {isa}\n"
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"* {side}: {_note(samples, side)}" for side in sides]
    return "\n".join([title, *lines, "", *notes, ""])


def _note(samples: Iterable[dict[str, Any]], side: str) -> str:
    last = [s for s in samples if s["side"] == side][-1]
    if "error" in last:
        return f"failed: {last['error'].strip().splitlines()[-1]}"
    peer = last["peer"]
    return f"{peer['version']}; {peer['class']}; lm_head {peer['lm_head']}; KV {peer['kv_cache']}"


def describe(samples: list[dict[str, Any]], limits: list[dict[str, Any]]) -> str:
    """On what, when and at which commit, and what the machine could do."""
    names = dict.fromkeys(n for x in limits for n in x if n.endswith(("_gb_s", "_gops")))
    spreads = {name: Spread.of([x[name] for x in limits if name in x]) for name in names}
    others = [s["disturbance"] for s in samples if "disturbance" in s]
    lines = [
        f"* machine: {', '.join(dict.fromkeys(s['machine'] for s in samples))}",
        f"* from {min(s['date'] for s in samples)} to {max(s['date'] for s in samples)}",
        f"* commit: {', '.join(dict.fromkeys(s['commit'] for s in samples))}",
        f"* processors busy with something else: {Spread.of(others)}" if others else "",
        *(f"* {name}: {spread}" for name, spread in spreads.items()),
    ]
    return "\n".join([line for line in lines if line] + [""])


def bars(samples: Sequence[dict[str, Any]]) -> dict[str, list[Bar]]:
    """The plot's groups of bars: all rates and costs of all groups."""
    found: dict[str, list[Bar]] = {}
    for group in groups(samples):
        chosen = [s for s in samples if s.get("kind") == "sample" and group_of(s) == group]
        for name in RATES + COSTS:
            values = {side: by_round(chosen, side, name) for side in SIDES}
            title = f"{group[0]} {group[1]} {group[3]}: {name}"
            spreads = {side: Spread.of([*v.values()]) for side, v in values.items() if v}
            found[title] = [Bar(side, s.median, s.low, s.high) for side, s in spreads.items()]
    return found


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `report` takes."""
    parser.add_argument("samples", type=Path, metavar="FILE", help="what `run` wrote")
    parser.add_argument("--plot", type=Path, help="SVG (FILE with the ending .svg)")
