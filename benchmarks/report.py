"""The table: each system's figure, and how many times better Atoll is than the others (above 1) or worse (below)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Row, Run


def figure(value: float | None) -> str:
    """Return a figure with three significant digits, thousands separated."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, other: str) -> float | None:
    """Return how many times better Atoll is than another, or None where one of the two has no figure."""
    ours, theirs = row.median("Atoll"), row.median(other)
    if not ours or not theirs:
        return None
    return theirs / ours if row.lower_is_better else ours / theirs


def lines(run: Run) -> Iterator[str]:
    """Yield the table."""
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in run.systems.items())
    yield f"{machine['cpus']} CPUs, Python {machine['python']}, {machine['system']}, load {machine['load_average']:.1f}"
    yield f"{versions}; medians of {run.rounds} interleaved rounds"
    yield "In brackets: how many times better Atoll is than a peer; how much of what the machine allows it reaches."
    yield ""
    names = [*run.systems, *run.limits]
    header = ["", *names]
    table = [[f"{row.name} [{row.unit}]", *(_cell(run, row, name) for name in names)] for row in run.rows]
    widths = [max(len(line[column]) for line in [header, *table]) for column in range(len(header))]
    for line in [header, *table]:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join([line[0].ljust(widths[0]), *cells[1:]])
    yield ""
    for row in run.rows:
        yield f"{row.name}: asked {row.budget}"
        for who, why in row.absent.items():
            yield f"    {who} {why}"


def _cell(run: Run, row: Row, name: str) -> str:
    shown, times = figure(row.median(name)), ratio(row, name)
    if name == "Atoll" or times is None:
        return shown
    if name in run.limits:
        return f"{shown} ({times:.0%})"
    return f"{shown} ({times:,.0f}x)" if times >= 100 else f"{shown} ({times:.3g}x)"
