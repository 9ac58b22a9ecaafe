"""Results: what each system took in each round, as it is kept in JSON.

A round's samples are kept as their count, median and quantiles. A system's figure is the median of its rounds'
medians; its spread reaches from the lowest of those to the highest.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1


class Round(msgspec.Struct, frozen=True):
    """The samples of one system in one round.

    Attributes:
        number: Of the round, from 1.
        count: How many samples.
        low: The first decile (with few samples, the least).
        median: The median.
        high: The last decile (with few samples, the greatest).
    """

    number: int
    count: int
    low: float
    median: float
    high: float


class Cell(msgspec.Struct):
    """One system's figures of one metric.

    Attributes:
        rounds: In order.
        absent: Why there are none, or no more.
    """

    rounds: list[Round] = []
    absent: str = ""

    @property
    def median(self) -> float | None:
        """The median of the rounds' medians."""
        return statistics.median(one.median for one in self.rounds) if self.rounds else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest of the rounds' medians; of one round, its deciles."""
        if not self.rounds:
            return None
        if len(self.rounds) == 1:
            return self.rounds[0].low, self.rounds[0].high
        medians = [one.median for one in self.rounds]
        return min(medians), max(medians)


class Row(msgspec.Struct):
    """One metric.

    Attributes:
        key: Of the metric.
        workload: It belongs to.
        title: What is shown.
        unit: Of all figures.
        lower_is_better: Whether it is a time or a cost.
        cells: By system's or limit's name.
        notes: What a reader has to know.
    """

    key: str
    workload: str
    title: str
    unit: str
    lower_is_better: bool
    cells: dict[str, Cell] = {}
    notes: list[str] = []

    def median(self, who: str) -> float | None:
        """Return a system's or limit's figure."""
        cell = self.cells.get(who)
        return cell.median if cell is not None else None

    def advantage(self, other: str, who: str = "Atoll") -> float | None:
        """Return how many times better `who` is than another (below 1: worse), or None where a figure is missing."""
        ours, theirs = self.median(who), self.median(other)
        if not ours or not theirs or ours < 0 or theirs < 0:
            return None
        return theirs / ours if self.lower_is_better else ours / theirs


class Results(msgspec.Struct):
    """All of one run.

    Attributes:
        format: Of this file.
        commit: What was measured.
        date: When.
        machine: Its shape.
        command: By which it is repeated.
        rounds: How many were asked for.
        scale: 1 for full turns.
        systems: Versions, by name, in the table's order.
        limits: Names of the limits.
        load_averages: At the beginning of each round.
        rows: By metric.
        remarks: By system: what it left behind, or did not survive.
        took_s: The whole run.
    """

    format: int
    commit: str
    date: str
    machine: dict[str, Any]
    command: str
    rounds: int
    scale: float
    systems: dict[str, str]
    limits: list[str] = []
    load_averages: list[float] = []
    rows: dict[str, Row] = {}
    remarks: dict[str, list[str]] = {}
    took_s: float = 0.0

    def add(self, key: str, who: str, number: int, samples: Sequence[float]) -> None:
        """Keep a round's samples."""
        cell = self.rows[key].cells.setdefault(who, Cell())
        cell.rounds.append(summary(number, samples))
        cell.absent = ""

    def miss(self, key: str, who: str, why: str) -> None:
        """Note why a system has no figure (in a later round: no more figures)."""
        self.rows[key].cells.setdefault(who, Cell()).absent = why

    def replace_with(self, other: Results) -> None:
        """Take over what another run has measured; the rest stays. Both runs are told of in `command`."""
        for key, row in other.rows.items():
            known = self.rows.get(key)
            if known is None:
                self.rows[key] = row
            else:
                known.cells |= row.cells
                known.notes = [*dict.fromkeys([*known.notes, *row.notes])]
        self.systems |= other.systems
        self.limits = [*dict.fromkeys([*self.limits, *other.limits])]
        self.remarks |= other.remarks
        self.load_averages += other.load_averages
        self.took_s += other.took_s
        if other.commit != self.commit:
            self.commit = f"{self.commit}, in part {other.commit}"
        self.command = f"{self.command}; then {other.command}"


def summary(number: int, samples: Sequence[float]) -> Round:
    """Return a round's figures."""
    ordered = sorted(samples)
    tenth = len(ordered) // 10
    return Round(number, len(ordered), ordered[tenth], statistics.median(ordered), ordered[-1 - tenth])


def load(path: Path) -> Results:
    """Read results.

    Raises:
        ValueError: It is no file of results, or of another format; one line says which.
    """
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, name: str) -> Results:
    """As `load`, of a file's content."""
    try:
        found = msgspec.json.decode(data, type=Results)
    except msgspec.DecodeError as error:
        raise ValueError(f"{name} holds no results of `make bench`: {error}") from None
    if found.format != FORMAT:
        raise ValueError(f"{name} was written in format {found.format}; this version reads {FORMAT}")
    return found


def save(results: Results, path: Path) -> None:
    """Write results; whoever reads at that moment finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".tmp")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    written.replace(path)
