"""How long tasks usually run, by the name that people see: learned from what workers report."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from atoll.protocol.values import Span

WEIGHT = 0.3
"""Of the newest report in the mean."""

MAXIMUM_NAMES = 4096


class Durations:
    """Means that follow what is new."""

    def __init__(self) -> None:
        self._means: OrderedDict[str, float] = OrderedDict()

    def learn(self, spans: Iterable[Span]) -> None:
        """Take a report. A span of many short tasks counts for one of them."""
        for span in spans:
            if span.state == "running" or span.count < 1:
                continue
            one = span.duration_s / span.count
            mean = self._means.pop(span.name, None)
            self._means[span.name] = one if mean is None else mean + WEIGHT * (one - mean)
            if len(self._means) > MAXIMUM_NAMES:
                self._means.popitem(last=False)

    def of(self, name: str) -> float | None:
        """Return how long a task of this name usually runs, or None."""
        return self._means.get(name)
