"""What a workload is, and what it is given to take its samples with.

A workload is a file in `benchmarks/workloads` with a `WORKLOAD`. It measures one system at a time through the
adapter's methods, and records samples under the keys of its metrics. How many samples there are follows from the time
that they take: a system that is a hundred times slower is measured for as long, not a hundred times longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

USUAL_STORE_BYTES = 5 * 2**30
LIMITS = "limits"
"""The name under which the machine's limits take their turns, as if they were a system."""


class NotOffered(Exception):
    """The system has nothing of this kind; says of what, to be read after "has no"."""


class Skipped(Exception):
    """This system cannot be measured here and now; says why."""


@dataclass(frozen=True)
class Metric:
    """One figure of a workload, a row of the table.

    Attributes:
        key: `workload.what`, or the workload's name alone.
        title: What is shown.
        unit: Of all its samples.
        lower_is_better: Whether it is a time or a cost.
    """

    key: str
    title: str
    unit: str
    lower_is_better: bool = True


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        metrics: Its rows.
        measure: Takes samples of a started system.
        limits: Takes samples of what the machine allows; recorded under the limit's own name.
        rounds: In how many rounds it is measured at most: for what takes long and spreads little.
        cap_s: A system that takes longer for one turn is ended, and the table says so.
        store_bytes: How large the store is; another size than the usual has a start of its own.
        started: Whether the system runs while it is measured; if not, the workload starts it itself.
        quick: Whether it belongs to the short run too.
        early: It is measured before the others, on a system that has done nothing else yet.
    """

    metrics: tuple[Metric, ...]
    measure: Callable[[Turn], None]
    limits: Callable[[Turn], None] | None = None
    rounds: int = 3
    cap_s: float = 40.0
    store_bytes: int = USUAL_STORE_BYTES
    started: bool = True
    quick: bool = False
    early: bool = False


class Turn:
    """One turn of one system at one workload: takes the samples and keeps them.

    Args:
        system: The adapter, started.
        scale: 1 for a full turn; less for a shorter one.
        tiny: Sizes and counts shrink too: the figures mean nothing, everything is tried.

    Attributes:
        samples: By metric (for limits: by metric and name of the limit).
        absent: By metric: why it has no samples.
        notes: What a reader has to know of these figures.
        spoiled: The system is not fit for another workload: it is ended and started anew.
    """

    def __init__(self, system: Any, scale: float = 1.0, *, tiny: bool = False) -> None:
        self.system = system
        self.scale = scale
        self.tiny = tiny
        self.samples: dict[str, list[float]] = {}
        self.absent: dict[str, str] = {}
        self.notes: list[str] = []
        self.spoiled = False

    def record(self, key: str, *values: float, limit: str = "") -> None:
        """Keep samples of a metric, or of a limit beside it."""
        self.samples.setdefault(f"{key}|{limit}" if limit else key, []).extend(values)

    def note(self, text: str) -> None:
        """Keep a remark for the reader, once."""
        if text not in self.notes:
            self.notes.append(text)

    def attempt(self, key: str, measure: Callable[[], None]) -> bool:
        """Measure one of several metrics; its failure is its own. Tells whether it went well."""
        try:
            measure()
        except NotOffered as error:
            self.absent[key] = f"has no {error}"
        except Skipped as error:
            self.absent[key] = str(error)
        except Exception as error:  # what fails is a result, and it is shown
            self.absent[key] = failure_text(error)
        return key not in self.absent

    def count(self, full: int, least: int = 1) -> int:
        """Return how many of something: fewer in a tiny turn."""
        return max(least, full // 100) if self.tiny else full

    def size(self, full_bytes: int) -> int:
        """Return how large something is: smaller in a tiny turn."""
        return max(1024, full_bytes // 200) if self.tiny else full_bytes

    def seconds(self, full_s: float) -> float:
        """Return how long to take samples."""
        return 0.02 if self.tiny else full_s * self.scale

    def times(self, call: Callable[[], object], *, most: int = 2000, within_s: float = 0.6) -> list[float]:
        """Return how many seconds each of several calls took: at least two, after some that do not count.

        Args:
            call: Is called again and again.
            most: No more than so many.
            within_s: No longer than so long, a fifth of it to warm up.
        """
        within_s = self.seconds(within_s)
        most = self.count(most, least=2)
        clock = time.perf_counter
        warm_until = clock() + within_s / 5
        for _ in range(max(1, most // 10)):
            call()
            if clock() > warm_until:
                break
        found: list[float] = []
        until = clock() + within_s
        while len(found) < most and (len(found) < 2 or clock() < until):
            start = clock()
            call()
            found.append(clock() - start)
        return found

    def rate(self, call: Callable[[int], object], *, within_s: float = 0.6, first: int = 50) -> list[float]:
        """Return how many a second are done when so many are given at once that it takes about `within_s`.

        The smaller bursts before it warm up and do not count.
        """
        within_s = self.seconds(within_s)
        count = first
        while True:
            start = time.perf_counter()
            call(count)
            took = time.perf_counter() - start
            if took > within_s / 4:
                break
            count = int(count * min(8.0, max(2.0, within_s / 2 / took)))
        rates = []
        for _ in range(1 if took > within_s else 2):
            start = time.perf_counter()
            call(count)
            rates.append(count / (time.perf_counter() - start))
        return rates


def failure_text(error: BaseException) -> str:
    """Return one line for a failure: its kind, and the last line of what it says that is not a frame's."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__
    return f"FAILED: {text}"
