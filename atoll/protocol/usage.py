"""What notebooks, cells and actors have held and used, as people see it: JSON in the answer to `GetUsage`.

Amounts are integrals over time: CPU-seconds, GPU-seconds, byte-seconds of memory. *Held* is what leases and placement
groups kept from others, whether they did anything with it or not. *Used* is what was measured.
"""

from __future__ import annotations

import msgspec

OTHERS = "(others)"
"""In the place of a notebook: many that were added up, since there were too many to be kept apart."""

EARLIER = "(earlier cells)"
"""In the place of a cell: likewise, of one notebook."""

RESERVED = "(reserved)"
"""In the place of a cell: what placement groups hold and nothing has taken from them."""


class UsageRow(msgspec.Struct, frozen=True):
    """What one cell, function or actor of one notebook has held and used.

    Attributes:
        notebook: The file of the notebook or script. Its sessions are added up.
        kind: `kernel`, `script` or `server`.
        cell: The name of the cell or function; `EARLIER` or `RESERVED`; empty for an actor.
        actor: The name of the actor, or its class; empty if it is none.
        leases: That it has now.
        held: By resource, in seconds times the amount; bytes times seconds for memory. Since the cluster was started.
        used: Likewise, as measured: CPU, memory, GPU.
        held_today: The part of `held` since midnight.
        used_today: The part of `used` since midnight.
    """

    notebook: str
    kind: str
    cell: str
    actor: str
    leases: int
    held: dict[str, float]
    used: dict[str, float]
    held_today: dict[str, float]
    used_today: dict[str, float]


class UsageReport(msgspec.Struct, frozen=True):
    """All of it. `now` and `since` are seconds since 1970; `day` is today, as days since 1970 in local time."""

    now: float
    since: float
    day: int
    rows: list[UsageRow]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(UsageReport)


def encode_usage(report: UsageReport) -> bytes:
    """Return a report as JSON."""
    return _encoder.encode(report)


def decode_usage(data: bytes | memoryview) -> UsageReport:
    """Read a report from JSON.

    Raises:
        msgspec.ValidationError: It is of another version.
    """
    return _decoder.decode(data)
