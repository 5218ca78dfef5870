"""What a run of the fault bench came to: a line a round while it runs, a table and a summary at its end, or JSON."""

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from loadgen.chaos.rounds import Result

MEDIAN_BUDGET_S, WORST_BUDGET_S = 2.0, 5.0
_SHOWN_WORDS = 20
_FIGURES = (
    "fault\ns",
    "whole\ns",
    "pause\ns",
    "lost",
    "unde-\nclared",
    "dupli-\ncates",
    "books\nunequal",
    "declared\nmissing",
)


class Summary(msgspec.Struct, frozen=True):
    """Sums and times over all rounds. `late`: rounds past the worst-case budget."""

    rounds: int
    seed: int
    rate: int
    failed: int
    lost: int
    undeclared: int
    repeated: int
    violations: int
    books: int
    tickers: int
    declared: int
    whole_median_s: float | None
    whole_worst_s: float | None
    never_whole: int
    late: int
    in_time: bool
    by_fault: Mapping[str, float | None]


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` writes it."""

    summary: Summary
    rounds: Sequence[Result]


def summed(results: Sequence[Result], seed: int, rate: int) -> Summary:
    """The summary of these rounds."""
    times = [one.whole_s for one in results if one.whole_s is not None]
    never = len(results) - len(times)
    by_fault: dict[str, list[float]] = {}
    for one in results:
        by_fault.setdefault(one.fault, []).append(float("inf") if one.whole_s is None else one.whole_s)
    middle, worst = (median(times), max(times)) if times else (None, None)
    late = never + sum(time > WORST_BUDGET_S for time in times)
    return Summary(
        rounds=len(results),
        seed=seed,
        rate=rate,
        failed=sum(not one.clean for one in results),
        lost=sum(one.lost for one in results),
        undeclared=sum(one.undeclared for one in results),
        repeated=sum(one.repeated for one in results),
        violations=sum(one.violations for one in results),
        books=sum(one.books for one in results),
        tickers=sum(one.tickers for one in results),
        declared=sum(one.declared for one in results),
        whole_median_s=None if middle is None else round(middle, 2),
        whole_worst_s=None if worst is None else round(worst, 2),
        never_whole=never,
        late=late,
        in_time=late == 0 and (middle is None or middle <= MEDIAN_BUDGET_S),
        by_fault={fault: None if max(found) == float("inf") else max(found) for fault, found in by_fault.items()},
    )


def line(result: Result, total: int) -> str:
    """One round in one line."""
    verdict = "ok" if result.clean else "FAILED"
    return (
        f"{result.number:>3}/{total} {result.at} {result.topology:<6} {result.fault:<10} {result.target:<28} "
        f"{result.fault_s:5.2f} s, whole after {_seconds(result.whole_s):>6} s  {verdict}"
    )


def rendered(report: Report) -> RenderableType:
    """The table, the summary, and what went wrong in words."""
    table = Table(title="fault bench", title_justify="left")
    for name in ("round", "topology", "fault", "target"):
        table.add_column(name, justify="right" if name == "round" else "left", no_wrap=True)
    for name in _FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rungs")
    for one in report.rounds:
        table.add_row(
            str(one.number),
            one.topology,
            one.fault,
            one.target,
            f"{one.fault_s:.2f}",
            _seconds(one.whole_s),
            f"{one.pause_s:.2f}",
            *(_count(count) for count in (one.lost, one.undeclared, one.repeated, one.books, one.declared)),
            ", ".join(f"{name} {count}" for name, count in sorted(one.rungs.items())),
            style=None if one.clean else "bold red",
        )
    return Group(table, *_words(report))


def _words(report: Report) -> Sequence[str]:
    found = report.summary
    wrong = (
        f"{found.lost} trades lost, {found.undeclared} undeclared, {found.repeated} duplicates or reorderings, "
        f"{found.books} books and {found.tickers} tickers unequal, {found.violations} other violations, "
        f"{found.declared} trades declared missing"
    )
    times = (
        f"whole again after {_seconds(found.whole_median_s)} s (median), {_seconds(found.whole_worst_s)} s (worst); "
        f"budget {MEDIAN_BUDGET_S:g} s and {WORST_BUDGET_S:g} s: {'kept' if found.in_time else 'exceeded'}"
    )
    never = f", {found.never_whole} rounds never whole" if found.never_whole else ""
    lines = [f"{found.rounds} rounds, seed {found.seed}, {found.rate:,} messages/s: {wrong}", times + never]
    for one in report.rounds:
        slow = [f"held up last by: {'; '.join(one.held_up[:3])}"] if (one.whole_s or 0) > MEDIAN_BUDGET_S else []
        if one.words or slow:
            lines.append(f"round {one.number} ({one.fault} {one.target}, {one.at}):")
            lines += [f"  {words}" for words in slow]
            lines += [f"  {words}" for words in one.words[:_SHOWN_WORDS]]
    lines.append(f"FAILED: {found.failed} of {found.rounds} rounds" if found.failed else "OK: nothing lost")
    return lines


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def _count(value: int) -> str:
    return str(value) if value else "·"
