"""The table: each system's figure, and how many times better Atoll is than the others (above 1) or worse (below)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Row, Run


def figure(value: float | None) -> str:
    """Return a figure with three significant digits, thousands separated."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, other: str) -> str:
    """Return how many times better Atoll is than another, or an empty text."""
    ours, theirs = row.median("Atoll"), row.median(other)
    if not ours or not theirs:
        return ""
    better = theirs / ours if row.lower_is_better else ours / theirs
    return f"{better:.3g}x" if better < 100 else f"{better:,.0f}x"


def lines(run: Run) -> Iterator[str]:
    """Yield the table."""
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in run.systems.items())
    yield f"{machine['cpus']} CPUs, Python {machine['python']}, {machine['system']}, load {machine['load_average']:.1f}"
    yield f"{versions}; medians of {run.rounds} interleaved rounds"
    yield "In brackets: how many times better Atoll is (below 1: worse)."
    yield ""
    names = [*run.systems, *run.limits]
    header = ["", *names]
    table = [[f"{row.name} [{row.unit}]", *(_cell(row, name) for name in names)] for row in run.rows]
    widths = [max(len(line[column]) for line in [header, *table]) for column in range(len(header))]
    for line in [header, *table]:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join([line[0].ljust(widths[0]), *cells[1:]])
    yield ""
    for row in run.rows:
        yield f"{row.name}: asked {row.budget}"
        for who, why in row.absent.items():
            yield f"    {who} {why}"


def _cell(row: Row, name: str) -> str:
    shown = figure(row.median(name))
    times = "" if name == "Atoll" else ratio(row, name)
    return f"{shown} ({times})" if times else shown
