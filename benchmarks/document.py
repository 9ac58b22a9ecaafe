"""`docs/benchmarks.md`, written from the JSON of a run: `python -m benchmarks.document RESULTS.json`.

The pictures are drawn beside it, and the JSON is copied beside it too, so that whoever measures on their own machine
can compare (`python -m benchmarks.compare docs/benchmarks.json mine.json`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plot, report, workloads
from benchmarks.results import Results, load, save

DOCS = Path(__file__).resolve().parent.parent / "docs"

INTRODUCTION = """\
# Benchmarks

This page, its pictures and `benchmarks.json` are written by one command from one run; nothing in them is typed.

```
make bench          # everything; about 15 minutes on two cores; rewrites this page
make bench-quick    # one short round; prints the tables only
python -m benchmarks.run --only task_sync,put_large --systems atoll,ray
python -m benchmarks.compare docs/benchmarks.json mine.json
```

Each system runs in a process of its own, alone on the machine, started and warmed up by the same lines, configured as
its documentation recommends for one machine (`benchmarks/systems/`, a file each, says how). The systems take turns in
rounds, in another order each time, and what the machine itself allows (a bare pickled round trip over a Unix socket,
calls pickled in batches, copies into touched memory, the disk) is measured in the same rounds. A figure is the median
of the rounds' medians; the brackets behind it give the lowest and the highest round (of a single round, its first and
last decile). What takes a peer longer than 6 s is measured in the first round only. Absolute times hold on no other
machine: read the ratios.
"""


def page(results: Results) -> Iterator[str]:
    """Yield the lines of the page."""
    yield INTRODUCTION
    yield "## What was run"
    yield ""
    for fact in report.facts(results):
        yield f"- {fact}"
    yield f"- `{results.command}`"
    yield ""
    yield "## Budgets"
    yield ""
    yield "What the design asks for. The factor is by how much a budget is over-fulfilled (above 1) or missed (below)."
    yield ""
    yield from report.markdown(report.budget_table(results))
    yield ""
    for name, (_draw, text) in plot.PICTURES.items():
        yield f"![{text}](images/{name}.svg)"
        yield ""
    yield "## Where a peer is better"
    yield ""
    better = report.defeats(results)
    if better.lines:
        yield from report.markdown(better)
    else:
        yield "In no row of this run."
    yield ""
    yield "## All figures"
    yield ""
    yield "In brackets: how many times better Atoll is than that system, or how much of a limit it reaches. A star:"
    yield "some rounds are missing, see below."
    yield ""
    yield from report.markdown(report.figure_table(results))
    yield ""
    yield from _remarks(results)
    yield "## The workloads"
    yield ""
    for name in dict.fromkeys(row.workload for row in results.rows.values()):
        text = " ".join(workloads.about(name).split()) if name in workloads.ALL else ""
        yield f"- **{name}**: {text}"


def _remarks(results: Results) -> Iterator[str]:
    said = [
        *(f"{name}, {'; '.join(titles)}: {why}" for name, why, titles in report.absences(results)),
        *report.remarks(results),
    ]
    if said:
        yield "## What was not measured, and what else there is to know"
        yield ""
        yield from (f"- {text}" for text in said)
        yield ""


def write(results: Results, docs: Path = DOCS) -> list[Path]:
    """Write page, pictures and JSON; return their paths."""
    text = "\n".join(page(results)).rstrip() + "\n"
    written = [docs / "benchmarks.md", docs / "benchmarks.json"]
    (docs / "images").mkdir(parents=True, exist_ok=True)
    written[0].write_text(text, encoding="utf-8")
    save(results, written[1])
    return [*written, *plot.write(results, docs / "images")]


if __name__ == "__main__":
    for path in write(load(Path(sys.argv[1]))):
        print(path)
