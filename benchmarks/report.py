"""The results as text: the budgets, all figures, where a peer is faster, and what a system could not do.

The same tables are printed on a terminal (in columns) and written into the documentation (as Markdown).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.budgets import OURS, judge_all
from benchmarks.results import Cell, Results, Row


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: Names of its columns; the first is of text, the others of figures.
        lines: The cells.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


def figure(value: float | None) -> str:
    """Return a figure with three significant digits, thousands separated."""
    if value is None:
        return "-"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_spread(cell: Cell | None, unit: str = "") -> str:
    """Return a figure and, in brackets, from where to where it reached."""
    if cell is None or cell.median is None or cell.spread is None:
        return "-"
    low, high = (figure(value) for value in cell.spread)
    shown = figure(cell.median)
    spread = "" if low == high == shown else f" ({low}–{high})"  # noqa: RUF001 - a range has an en dash
    return f"{shown}{' ' if unit else ''}{unit}{spread}"


def times(factor: float | None) -> str:
    """Return how many times better something is."""
    if factor is None:
        return ""
    if factor == float("inf"):
        return "∞"
    return f"{factor:,.0f}x" if factor >= 100 else f"{factor:.3g}x"


def budget_table(results: Results) -> Table:
    """Every budget: met or not, and by what factor."""
    lines = []
    for verdict in judge_all(results.rows):
        row = results.rows[verdict.budget.metric]
        against = verdict.budget.of
        beside = f"{against}: {with_spread(row.cells.get(against), row.unit)}" if against else ""
        lines.append(
            [
                row.title,
                verdict.budget.asked,
                with_spread(row.cells.get(OURS), row.unit),
                beside,
                {True: "met", False: "NOT MET", None: "not measured"}[verdict.met],
                times(verdict.factor),
            ]
        )
    return Table(["work", "asked", OURS, "beside", "", "factor"], lines)


def figure_table(results: Results) -> Table:
    """Every figure; in brackets how many times better Atoll is than the system or limit."""
    names = [name for name in [*results.systems, *results.limits] if _has_any(results, name)]
    lines = []
    for row in results.rows.values():
        label = f"{row.title} [{row.unit}]" if row.unit else row.title
        lines.append([label, *(_cell(row, name) for name in names)])
    return Table(["", *names], lines)


def _has_any(results: Results, name: str) -> bool:
    return any(name in row.cells for row in results.rows.values())


def _cell(row: Row, name: str) -> str:
    cell = row.cells.get(name)
    if cell is None:
        return ""
    if cell.median is None:
        return _short(cell.absent)
    factor = row.advantage(name) if name != OURS else None
    mark = "*" if cell.absent else ""
    return figure(cell.median) + mark + (f" ({times(factor)})" if factor is not None else "")


def _short(why: str) -> str:
    """Return a word for why there is no figure; the whole reason stands in a list of its own."""
    words = {"has no": "not offered", "over its time": "too long", "FAILED": "FAILED", "does not spill": "no spill"}
    return next((word for begin, word in words.items() if why.startswith(begin)), "not run")


def defeats(results: Results) -> Table:
    """Where a peer is better than Atoll. What lies within both spreads is said to."""
    lines = []
    for row in results.rows.values():
        for name in results.systems:
            factor = row.advantage(name) if name != OURS else None
            if factor is not None and factor < 1:
                ours, theirs = row.cells[OURS], row.cells[name]
                close = "within the spread" if _overlap(ours, theirs) else ""
                unit = row.unit
                lines.append(
                    [row.title, name, with_spread(theirs, unit), with_spread(ours, unit), times(1 / factor), close]
                )
    return Table(["work", "system", "its figure", OURS, "better by", ""], lines)


def _overlap(one: Cell, other: Cell) -> bool:
    assert one.spread is not None
    assert other.spread is not None
    return one.spread[0] <= other.spread[1] and other.spread[0] <= one.spread[1]


def absences(results: Results) -> Iterator[tuple[str, str, list[str]]]:
    """Yield why systems have no figures: system, reason, and the works that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in results.rows.values():
        for name, cell in row.cells.items():
            if cell.absent:
                found.setdefault((name, cell.absent), []).append(row.title)
    order = [*results.systems, *results.limits]
    for (name, why), titles in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        yield name, why, titles


def remarks(results: Results) -> Iterator[str]:
    """Yield what a reader has to know beside the figures."""
    for row in results.rows.values():
        for note in row.notes:
            yield f"{row.title}: {note}"
    for name, texts in results.remarks.items():
        for text in texts:
            yield f"{name} {text}"


def facts(results: Results) -> Iterator[str]:
    """Yield what was measured, on what."""
    machine = results.machine
    yield (
        f"{machine['cpus']} CPUs ({machine['processor']}), {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}"
    )
    if results.load_averages:
        loads = ", ".join(f"{load:.1f}" for load in results.load_averages)
        yield f"load average before each round: {loads}"
    yield f"commit {results.commit or 'unknown'}, {results.date}, {results.took_s / 60:.0f} min in all"
    yield "; ".join(f"{name} ({versions})" for name, versions in results.systems.items())


def columns(table: Table) -> Iterator[str]:
    """Yield a table for a terminal."""
    all_lines = [table.header, *table.lines]
    widths = [max(len(line[column]) for line in all_lines) for column in range(len(table.header))]
    for line in all_lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip()


def markdown(table: Table) -> Iterator[str]:
    """Yield a table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    yield line(table.header)
    yield "| --- |" + " ---: |" * (len(table.header) - 1)
    for cells in table.lines:
        yield line(cells)


def lines(results: Results) -> Iterator[str]:
    """Yield the whole report for a terminal."""
    yield from facts(results)
    yield "Medians of interleaved rounds. In brackets: how many times better Atoll is (below 1: worse)."
    yield ""
    yield from columns(figure_table(results))
    if budget_table(results).lines:
        yield ""
        yield from columns(budget_table(results))
        found = [verdict.met for verdict in judge_all(results.rows)]
        met, missed, unknown = (found.count(verdict) for verdict in (True, False, None))
        yield f"{met} of {len(found)} budgets met, {missed} not met, {unknown} not measured"
    better = defeats(results)
    if better.lines:
        yield ""
        yield "Where a peer is better:"
        yield from columns(better)
    said = [
        *(f"{name}: {', '.join(titles)}: {why}" for name, why, titles in absences(results)),
        *remarks(results),
    ]
    if said:
        yield ""
        yield from said
