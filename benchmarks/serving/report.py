# SPDX-License-Identifier: Apache-2.0
"""Markdown tables and a plot of what `run` kept."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.report import Spread
from benchmarks.peers.run import read_samples
from benchmarks.serving.figures import OBJECTIVES_MS
from benchmarks.serving.loads import Level
from benchmarks.serving.plot import Line, Panel, write_svg
from benchmarks.serving.run import BARE, GENERATOR, SIDES, counts
from benchmarks.serving.server import RUNTIME
from enginery.bench.metrics import Distribution

Sample = dict[str, Any]
NAMES = {
    BARE: "bare runtime",
    "native": "gRPC, native",
    "python": "gRPC, python",
    "openai": "OpenAI, python",
    "openai_native": "OpenAI, native",
}
MAX_TAIL_RATIO = 3.0
"""P99 over P50, at most."""
POOLED = {"ttft": "ttfts_ms", "tpot": "tpots_ms", "e2e": "e2es_ms"}
CPU_KINDS = (RUNTIME, "tritonserver", "model process", "front end", GENERATOR)
KINDS = ("alone", "users", "rate")


@dataclass(frozen=True)
class Comparison:
    """A side, what it is compared with, and how much it may add.

    Attributes:
        side: the one that adds.
        base: the one without.
        max_ttft_ms: on average.
        max_share: of the throughput at 16 users.
    """

    side: str
    base: str
    max_ttft_ms: float
    max_share: float = 0.05


GOALS = (
    Comparison("native", BARE, 2.0),
    Comparison("python", BARE, 2.0),
    Comparison("openai", "python", 3.0),
    Comparison("openai_native", "native", 3.0),
)
GOAL_LEVEL = Level("users", 16.0)


@dataclass(frozen=True)
class Cell:
    """All samples of a side at a level."""

    level: Level
    side: str
    samples: Sequence[Sample]

    def median(self, name: str) -> float:
        """Over rounds."""
        return float(statistics.median(sample[name] for sample in self.samples))

    def median_of(self, value: Callable[[Sample], float]) -> float:
        """Over rounds, of what is computed from a sample."""
        return statistics.median(map(value, self.samples))

    def latency(self, name: str) -> Distribution:
        """Of the requests of all rounds; of tokens the medians over rounds."""
        if name in POOLED:
            return Distribution.of([v for s in self.samples for v in s[POOLED[name]]])
        names = self.samples[0][name]
        return Distribution(
            **{key: statistics.median(s[name][key] for s in self.samples) for key in names}
        )

    @property
    def holds(self) -> bool:
        """Whether the 99th percentiles of TTFT and TPOT are within the objectives."""
        return all(self.latency(name).p99 < limit for name, limit in OBJECTIVES_MS.items())

    @property
    def tail_ratio(self) -> tuple[float, str]:
        """The largest P99 over P50 of the latencies of requests, and of which."""
        return max((_ratio(self.latency(name)), name) for name in POOLED)


def _ratio(distribution: Distribution) -> float:
    return distribution.p99 / distribution.p50 if distribution.p50 > 0 else 0.0


def report(args: argparse.Namespace) -> int:
    """Prints the tables and writes the plot."""
    samples = [sample for sample in read_samples(args.samples) if counts(sample)]
    cells = cells_of(samples)
    print("\n".join([*describe(samples), "", *goals(cells), "", *limits(cells), ""]))
    for kind in KINDS:
        chosen = [cell for cell in cells if cell.level.kind == kind]
        if chosen:
            print("\n".join([*table(chosen), ""]))
    print("\n".join([*cpu_table(cells), ""]))
    write_svg(args.plot or args.samples.with_suffix(".svg"), panels(cells))
    return 0


def cells_of(samples: Sequence[Sample]) -> list[Cell]:
    """The samples by level and side, in order."""
    found: dict[tuple[int, float, int], list[Sample]] = {}
    for s in samples:
        key = (KINDS.index(s["kind"]), s["value"], SIDES.index(s["side"]))
        found.setdefault(key, []).append(s)
    return [
        Cell(Level(KINDS[kind], value), SIDES[side], found[kind, value, side])
        for kind, value, side in sorted(found)
    ]


def describe(samples: Sequence[Sample]) -> list[str]:
    """On what, when and at which commit."""
    return [
        f"* machine: {', '.join(dict.fromkeys(s['machine'] for s in samples))}",
        f"* from {min(s['date'] for s in samples)} to {max(s['date'] for s in samples)}",
        f"* commit: {', '.join(dict.fromkeys(s['commit'] for s in samples))}",
        f"* load average before a run: {Spread.of([s['load_average'] for s in samples])}",
        f"* processors busy with something else: {Spread.of([s['disturbance'] for s in samples])}",
    ]


def goals(cells: Sequence[Cell]) -> list[str]:
    """What a server adds, against what it may add."""
    head = ["", "to", "TTFT, one at a time (ms)", "goal", "met", "TTFT, 16 users (ms)"]
    head += ["throughput lost, 16 users", "goal", "met"]
    lines = ["### What is added\n", _row(head), _row(["---"] * len(head))]
    for goal in GOALS:
        alone, loaded = (
            [a - b for a, b in by_round(cells, goal, level, added_ttft_ms)]
            for level in (Level("alone", 1.0), GOAL_LEVEL)
        )
        rates = by_round(cells, goal, GOAL_LEVEL, lambda s: s["output_tok_s"])
        row = [NAMES[goal.side], NAMES[goal.base]]
        row += _verdict(alone, goal.max_ttft_ms, "{:.1f}")
        row += _verdict(loaded, goal.max_ttft_ms, "{:.1f}")[:1]
        row += _verdict([1 - a / b for a, b in rates], goal.max_share, "{:.1%}")
        lines.append(_row(row))
    return lines


def added_ttft_ms(sample: Sample) -> float:
    """What clients saw more than the runtime, as a mean over the same requests.

    Exact however fast the machine was meanwhile. The bare runtime's tokens are timed by itself.
    """
    means = sample["server_means_ms"]
    return sample["ttft_all_mean_ms"] - means["ttft"] if means else 0.0


def by_round(
    cells: Sequence[Cell], goal: Comparison, level: Level, value: Callable[[Sample], float]
) -> list[tuple[float, float]]:
    """A figure of the side and of what it is compared with, in each round that has both."""
    found = {
        cell.side: {sample["round"]: value(sample) for sample in cell.samples}
        for cell in cells
        if cell.level == level
    }
    side, base = found.get(goal.side, {}), found.get(goal.base, {})
    return [(side[r], base[r]) for r in sorted(side.keys() & base.keys())]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _verdict(values: Sequence[float], limit: float, form: str) -> list[str]:
    goal = f"≤ {form.format(limit)}"
    if not values:
        return ["–", goal, "–"]
    median, *ends = (form.format(x) for x in (statistics.median(values), min(values), max(values)))
    shown = f"{median} ({ends[0]} to {ends[1]})"
    return [shown, goal, "yes" if statistics.median(values) <= limit else "no"]


def limits(cells: Sequence[Cell]) -> list[str]:
    """Up to which load the objectives hold, for each side."""
    lines = [
        "### Up to which load\n",
        "| | TTFT P99 < 500 ms and TPOT P99 < 50 ms | P99 ≤ 3 × P50 of TTFT, TPOT and E2E |",
        "|---|---|---|",
    ]
    loaded = [cell for cell in cells if cell.level.kind != "alone"]
    lowest = {cell.level.kind: cell.level for cell in reversed(loaded)}
    for side in SIDES:
        rows = []
        for holds in (lambda c: c.holds, lambda c: c.tail_ratio[0] <= MAX_TAIL_RATIO):
            last = [last_level(cells, side, kind, holds) for kind in ("users", "rate")]
            rows.append(", ".join(str(level) for level in last if level) or "–")
        if any(cell.side == side and cell.level in lowest.values() for cell in loaded):
            lines.append(_row([NAMES[side], *rows]))
    return lines


def last_level(
    cells: Sequence[Cell], side: str, kind: str, holds: Callable[[Cell], bool]
) -> Level | None:
    """The highest level of a kind at which, and below which, something holds."""
    last = None
    for cell in cells:
        if cell.side == side and cell.level.kind == kind:
            if not holds(cell):
                break
            last = cell.level
    return last


def table(cells: Sequence[Cell]) -> list[str]:
    """All figures of the levels of one kind."""
    head = [
        "load", "side", "n", "tokens/s", "goodput (requests/s)", "TTFT", "TPOT", "ITL", "E2E",
        "P99/P50", "server adds to TTFT", "processors: all, load generator",
    ]  # fmt: skip
    title = {"alone": "One at a time", "users": "Closed loop", "rate": "Open loop, Poisson"}
    rows = [head, ["---"] * len(head)]
    for cell in cells:
        latencies = [cell.latency(name) for name in ("ttft", "tpot", "itl", "e2e")]
        ratio, which = cell.tail_ratio
        rows.append(
            [
                str(cell.level),
                NAMES[cell.side],
                str(sum(s["num_requests"] for s in cell.samples)),
                f"{cell.median('output_tok_s'):.0f}",
                f"{cell.median('goodput_s'):.2f} ({cell.median('share_met'):.0%})",
                *("/".join(_ms(v) for v in (d.p50, d.p90, d.p99)) for d in latencies),
                f"{ratio:.1f} ({which.upper()})",
                "–" if cell.side == BARE else f"{cell.median_of(added_ttft_ms):.1f}",
                _processors(cell),
            ]
        )
    lines = [_row(row) for row in rows]
    return [f"### {title[cells[0].level.kind]}: milliseconds, P50/P90/P99\n", *lines]


def _processors(cell: Cell) -> str:
    shares = [(sum(s["processors"].values()), s["processors"].get(GENERATOR)) for s in cell.samples]
    total = statistics.median(share for share, _ in shares)
    sent = [share for _, share in shares if share is not None]
    return f"{total:.2f}, {statistics.median(sent):.2f}" if sent else f"{total:.2f}"


def cpu_table(cells: Sequence[Cell]) -> list[str]:
    """CPU time of each kind of process, per response."""
    name = "cpu_us_per_response"
    lines = [
        "### CPU time per response: microseconds, medians of rounds\n",
        _row(["load", "side", *CPU_KINDS]),
        _row(["---"] * (2 + len(CPU_KINDS))),
    ]
    for cell in cells:
        found = [sample[name] for sample in cell.samples if name in sample]
        if cell.side == BARE or not found:
            continue
        medians = (statistics.median(each.get(kind, 0.0) for each in found) for kind in CPU_KINDS)
        lines.append(_row([str(cell.level), NAMES[cell.side], *(f"{m:.0f}" for m in medians)]))
    return lines


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def panels(cells: Sequence[Cell]) -> list[Panel]:
    """Throughput against latency in the closed loop, and latency against the rate."""
    found = []
    for kind, x_title in (("users", "output tokens/s"), ("rate", "requests/s")):
        for name in ("ttft", "tpot", "e2e"):
            lines = []
            for side in SIDES:
                chosen = [c for c in cells if c.side == side and c.level.kind == kind]
                points = [
                    (
                        c.median("output_tok_s") if kind == "users" else c.level.value,
                        c.latency(name).p50,
                        c.latency(name).p99,
                    )
                    for c in chosen
                ]
                if points:
                    lines.append(Line(NAMES[side], SIDES.index(side), points))
            limit = OBJECTIVES_MS.get(name)
            if lines:
                found.append(Panel(f"{name.upper()} (ms), P50 and P99", x_title, lines, limit))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `report` takes."""
    parser.add_argument("samples", type=Path, metavar="FILE", help="what `run` wrote")
    parser.add_argument("--plot", type=Path, help="SVG (FILE with the ending .svg)")
