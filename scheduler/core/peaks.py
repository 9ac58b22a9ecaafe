"""How much memory code usually needs: learned from what workers report, of the host's memory and of devices.

What is learned goes by the digest of the code: of a function, an actor's class, a cell. The last runs count, and of
them all but the most unusual; some room is added. Whoever asks for `memory="auto"` is given that. Before anything is
known it gets the part of a node that its CPUs are, or a whole device. What ran out of memory counts as having needed
what it was advised to ask for.

Nothing of it is written down: after a restart of the scheduler each code costs one run with the part that is usual at
first, and a report of every task would have to be written for more.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from atoll.protocol.values import MemoryLoss, SchedulingClass, Span
from atoll.resources import CPU, GPU, GPU_MEMORY, MEMORY, UNITS_PER_ONE, format_bytes, roomy_size
from atoll.scheduler.core.nodes import Node, NodeTable

MAXIMUM_CODES = 4096
KEPT_RUNS = 32
SHARE_OF_RUNS = 0.95
"""An estimate is enough for this share of the runs that are remembered."""

ROOM = 1.2
LEAST_ROOM_BYTES = 64 * 2**20


class Peaks(NamedTuple):
    """What the last runs of a code have needed at their peaks, in bytes; 0 where nothing was seen."""

    runs: int
    memory_bytes: int
    device_bytes: int


class _Code:
    __slots__ = ("device_bytes", "memory_bytes")

    def __init__(self) -> None:
        self.memory_bytes: deque[int] = deque(maxlen=KEPT_RUNS)
        self.device_bytes: deque[int] = deque(maxlen=KEPT_RUNS)


class PeakTable:
    """What is known of the needs of code.

    Args:
        nodes: What there is to give.
    """

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._codes: OrderedDict[bytes, _Code] = OrderedDict()

    def __len__(self) -> int:
        return len(self._codes)

    # -------------------------------------------------------------------------------------------------- learning

    def learn(self, spans: Iterable[Span]) -> None:
        """Take a report of what has ended. Pieces whose peaks nobody saw say nothing."""
        for span in spans:
            if span.code and span.state != "running" and (span.peak_bytes or span.device_peak_bytes):
                code = self._code(span.code)
                code.memory_bytes.append(span.peak_bytes)
                code.device_bytes.append(span.device_peak_bytes)

    def ran_out(self, digest: bytes, loss: MemoryLoss) -> None:
        """A run ended because its memory was not enough."""
        if digest:
            self._code(digest).memory_bytes.append(loss.advised_bytes)

    def _code(self, digest: bytes) -> _Code:
        code = self._codes.pop(digest, None) or _Code()
        self._codes[digest] = code
        if len(self._codes) > MAXIMUM_CODES:
            self._codes.popitem(last=False)
        return code

    # ---------------------------------------------------------------------------------------------------- asking

    def of(self, digest: bytes) -> Peaks | None:
        """Return what a code has usually needed, or None if it is not known."""
        code = self._codes.get(digest)
        if code is None:
            return None
        return Peaks(len(code.memory_bytes), _usual(code.memory_bytes), _usual(code.device_bytes))

    def resolve(self, scheduling_class: SchedulingClass) -> SchedulingClass:
        """Return a class with amounts in the place of what is to be as much as has been needed."""
        if not scheduling_class.auto:
            return scheduling_class
        known = self.of(scheduling_class.code)
        amounts = dict(scheduling_class.resources)
        if MEMORY in scheduling_class.auto:
            least = amounts.get(MEMORY, 0) // UNITS_PER_ONE
            wanted = _with_room(known.memory_bytes) if known is not None and known.memory_bytes else 0
            wanted = max(wanted, least) or self._usual_share(amounts)
            amounts[MEMORY] = min(wanted, self._largest(MEMORY)) * UNITS_PER_ONE
        if GPU_MEMORY in scheduling_class.auto:
            wanted = _with_room(known.device_bytes) if known is not None and known.device_bytes else 0
            if 0 < wanted <= self._largest_device():
                amounts[GPU_MEMORY] = wanted * UNITS_PER_ONE
            else:
                amounts[GPU] = UNITS_PER_ONE
        return msgspec.structs.replace(
            scheduling_class, resources={name: units for name, units in amounts.items() if units}
        )

    def _usual_share(self, amounts: dict[str, int]) -> int:
        """Return the memory of the part of the largest node that these CPUs are. Bytes."""

        def share(node: Node) -> int:
            cpus = max(node.total.get(CPU, 0), UNITS_PER_ONE)
            wanted = min(max(amounts.get(CPU, 0), UNITS_PER_ONE), cpus)
            return node.total.get(MEMORY, 0) // UNITS_PER_ONE * wanted // cpus

        return max(map(share, self._nodes), default=0)

    def _largest(self, name: str) -> int:
        return max((node.total.get(name, 0) // UNITS_PER_ONE for node in self._nodes), default=0)

    def _largest_device(self) -> int:
        return max((use.device.memory_bytes for node in self._nodes for use in node.devices.values()), default=0)

    def in_words(self, digest: bytes) -> str:
        """Return what a code has usually needed, for people; empty if it is not known."""
        known = self.of(digest)
        if known is None:
            return ""
        parts = [f"{format_bytes(known.memory_bytes)} of memory"] if known.memory_bytes else []
        parts += [f"{format_bytes(known.device_bytes)} of GPU memory"] if known.device_bytes else []
        runs = "its last run" if known.runs == 1 else f"its last {known.runs} runs"
        return f"{runs} used up to {' and '.join(parts)}" if parts else ""


def _usual(runs: Iterable[int]) -> int:
    """Return what was enough for most of the runs in which something was seen."""
    seen = sorted(size for size in runs if size)
    return seen[math.ceil(SHARE_OF_RUNS * len(seen)) - 1] if seen else 0


def _with_room(size_bytes: int) -> int:
    return roomy_size(int(ROOM * size_bytes) + LEAST_ROOM_BYTES)
