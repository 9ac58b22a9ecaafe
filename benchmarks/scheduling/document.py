"""The part of docs/scheduling.md that is measured: tables, and pictures beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.scheduling import packing, plots, studies, throughput

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CASES = 60


class Everything(NamedTuple):
    """All figures."""

    throughput: list[throughput.Figures]
    groups: tuple[float, float]
    packed: packing.Packed
    greedy: studies.Fairness
    weighted: studies.Fairness
    with_past: studies.Fairness
    without_past: studies.Fairness
    by_cell: studies.Sharing
    by_session: studies.Sharing

    @classmethod
    def measured(cls, sizes: Sequence[int], requests: int, rounds: int) -> Everything:
        """Measure everything: some minutes."""
        return cls(
            throughput.measure(sizes, requests, rounds),
            throughput.groups(),
            packing.run(CASES),
            studies.greedy(),
            studies.greedy(studies.WEIGHTS),
            studies.long_and_short(600.0),
            studies.long_and_short(0.0),
            studies.sharing(holding=False),
            studies.sharing(holding=True),
        )


def throughput_table(found: Sequence[throughput.Figures]) -> str:
    """Return the table of placements a second."""
    lines = ["| nodes | placements | a second | µs each | slowest event |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {each.nodes} | {each.placements:,} | {each.rate:,.0f} | {1e6 / each.rate:.0f}"
        f" | {each.slowest_s * 1e3:.1f} ms |"
        for each in found
    ]
    return "\n".join(lines)


def text_of(found: Everything) -> str:
    """Return what stands between the marks of the page."""
    first, last = found.throughput[0], found.throughput[-1]
    growth = first.rate / last.rate
    nodes = f"{last.nodes:,} nodes cost {growth:.2g} times what {first.nodes} does"
    logarithm = math.log(last.nodes / max(1, first.nodes)) if last.nodes > first.nodes else 1.0
    return f"""### How quick

{throughput_table(found.throughput)}

A placement on {nodes}; the logarithm would allow {1 + logarithm:.1f} times. A placement group of
four bundles on a hundred nodes is created in {found.groups[0] * 1e3:.2f} ms and removed in
{found.groups[1] * 1e3:.2f} ms.

![Processor time of a placement by the number of nodes](images/scheduling-throughput.svg)

### How much is used

{found.packed.cases} small clusters of two or three nodes, with requests of six shapes that always wait. Beside
the scheduler stands brute force, which tries every way to place every subset of what waits: the scheduler has
{100 * found.packed.of_best:.1f} % of that in use. It keeps room for what is large: there, the longest wait is
{found.packed.longest_s:.0f} s, with brute force {found.packed.longest_best_s:.0f} s, which is all the time there was.

### Who gets it

Four sessions that want all there is; Jain's index is 1 if all have the same.

| what | share of each | Jain's index |
| --- | --- | --- |
{_row("8 CPUs, equal sessions", found.greedy)}
{_row("8 CPUs, weights 1, 1, 2 and 4: share over weight", found.weighted)}
{_row("1 GPU, tasks of 17 s beside tasks of 1 s", found.with_past)}
{_row("the same, if the past does not count", found.without_past)}

![Seconds of a GPU held by four sessions](images/scheduling-fairness.svg)

### What a lease for each cell saves

Four notebooks and one GPU. Each has {studies.CELLS} cells of 20 s on average, and thinks for 180 s after each: 90 % of
the time. A lease for each cell, or the GPU taken once and kept until the last cell:

| | a lease for each cell | a GPU for each notebook, while it is there |
| --- | --- | --- |
| a cell waits, median | {found.by_cell.median_s:.1f} s | {found.by_session.median_s:.1f} s |
| a cell waits, at most | {found.by_cell.longest_s:.0f} s | {found.by_session.longest_s:.0f} s |
| all four are done after | {_minutes(found.by_cell.last_s)} | {_minutes(found.by_session.last_s)} |
| the GPU is busy | {100 * found.by_cell.busy:.0f} % | {100 * found.by_session.busy:.0f} % |

![Cells that have ended, over time](images/scheduling-sharing.svg)
"""


def _row(what: str, found: studies.Fairness) -> str:
    total = sum(found.held_s)
    shares = ", ".join(f"{100 * held / total:.0f} %" for held in found.held_s)
    return f"| {what} | {shares} | {found.fairness:.3f} |"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def write(found: Everything, directory: Path) -> None:
    """Write the pictures, and the page between its marks."""
    plots.write(found.throughput, found.with_past, found.without_past, found.by_cell, found.by_session, directory)
    page = directory / "scheduling.md"
    before, _old, after = _split(page.read_text(encoding="utf-8"))
    page.write_text(f"{before}{BEGIN}\n{text_of(found)}{END}{after}", encoding="utf-8")


def _split(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    assert begin, "the page has its marks"
    assert end, "the page has its marks"
    return before, old, after
