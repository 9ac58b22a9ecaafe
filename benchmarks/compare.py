"""Two runs beside each other: `python -m benchmarks.compare A.json B.json [--system Atoll] [--fail-above 1.25]`.

A change is called one when the rounds' spreads do not overlap and it is more than 5 %. The limits, which no change of
Atoll's moves, are shown too: if they moved, the machine did. With `--fail-above` the command ends with 1 when
something became slower by more than that factor, beyond the spread and beyond what its limits moved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Table, columns, times, with_spread
from benchmarks.results import Cell, Results, Row, load

NOTABLE = 1.05


@dataclass(frozen=True)
class Change:
    """One system's or limit's figure in two runs.

    Attributes:
        before: In the first.
        after: In the second.
        who: The system or limit.
        factor: How many times better the second is.
        clear: Whether it is more than the rounds spread.
    """

    before: Row
    after: Row
    who: str
    factor: float
    clear: bool

    @property
    def verdict(self) -> str:
        """A word for it."""
        if not self.clear:
            return ""
        return "better" if self.factor > 1 else "WORSE"


def changes(first: Results, second: Results, names: Sequence[str]) -> Iterator[Change]:
    """Yield what both runs have measured of these systems and limits."""
    for key, before in first.rows.items():
        after = second.rows.get(key)
        for name in names:
            if after is None or not before.median(name) or not after.median(name):
                continue
            one, other = before.median(name), after.median(name)
            assert one
            assert other
            factor = one / other if before.lower_is_better else other / one
            notable = max(factor, 1 / factor) > NOTABLE
            yield Change(before, after, name, factor, notable and not _overlap(before.cells[name], after.cells[name]))


def _overlap(one: Cell, other: Cell) -> bool:
    assert one.spread is not None
    assert other.spread is not None
    return one.spread[0] <= other.spread[1] and other.spread[0] <= one.spread[1]


def table(first: Results, second: Results, system: str) -> Table:
    """Return the comparison."""
    limits = [*dict.fromkeys([*first.limits, *second.limits])]
    lines = [
        [
            f"{change.before.title} [{change.before.unit}]" if change.who == system else f"    {change.who}",
            with_spread(change.before.cells[change.who]),
            with_spread(change.after.cells[change.who]),
            times(change.factor),
            change.verdict,
        ]
        for change in changes(first, second, [system, *limits])
    ]
    return Table([system, first.commit or "first", second.commit or "second", "better by", ""], lines)


def slower(first: Results, second: Results, system: str, factor: float) -> list[Change]:
    """Return what became slower by more than a factor, that of the limits beside it taken off."""
    limits = [*dict.fromkeys([*first.limits, *second.limits])]
    drift: dict[str, float] = {}
    for change in changes(first, second, limits):
        drift[change.before.key] = min(drift.get(change.before.key, 1.0), change.factor)
    return [
        change
        for change in changes(first, second, [system])
        if change.clear and change.factor / drift.get(change.before.key, 1.0) < 1 / factor
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; see above for what is returned."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Two runs beside each other.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--system", default="Atoll", metavar="NAME", help="whose figures (default Atoll)")
    parser.add_argument("--fail-above", type=float, metavar="FACTOR", help="end with 1 if something is slower by more")
    options = parser.parse_args(arguments)
    try:
        first, second = load(options.first), load(options.second)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    for name in ("cpus", "processor", "memory_gb", "python"):
        if first.machine.get(name) != second.machine.get(name):
            print(f"not the same machine: {name} {first.machine.get(name)} and {second.machine.get(name)}")
    if first.scale != second.scale:
        print(f"not the same scale: {first.scale:g} and {second.scale:g}; take ratios with care")
    print("\n".join(columns(table(first, second, options.system))))
    if options.fail_above is None:
        return 0
    worse = slower(first, second, options.system, options.fail_above)
    for change in worse:
        print(f"slower by more than {options.fail_above:g}x: {change.before.title}", file=sys.stderr)
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
