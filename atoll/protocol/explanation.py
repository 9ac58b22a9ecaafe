"""Why something waits, as a value: what the scheduler says, and magics, the API and the dashboard show.

JSON on the wire, like the cluster's state. Amounts are as people write them, times are seconds.
"""

from __future__ import annotations

import msgspec

from atoll.resources import format_bytes

WAITS, FITS, IMPOSSIBLE = "waits", "fits", "impossible"
END, ASK = "end", "ask"


class Holder(msgspec.Struct, frozen=True):
    """Who holds what is missing.

    Attributes:
        kind: `task`, `actor`, `group` (a bundle of a placement group) or `outside` (processes that are not ours).
        what: The function, cell, class or group.
        who: The notebook or script.
        since_s: For how long.
        resources: What it holds.
        devices: Numbers of the GPUs.
        lease_id: 0 if it is no lease.
    """

    kind: str
    what: str
    who: str
    since_s: float
    resources: dict[str, float]
    devices: list[int]
    lease_id: int

    def __str__(self) -> str:
        parts = [f"{amounts_text(self.resources)}" if self.resources else "nothing"]
        if self.devices:
            parts.append("GPU " + ", ".join(map(str, self.devices)))
        who = f" of {self.who}" if self.who else ""
        kind = {"actor": "actor ", "group": "placement group ", "outside": ""}.get(self.kind, "")
        since = "" if self.kind == "outside" else f" for {duration_text(self.since_s)}"
        return f"{kind}{self.what}{who} holds {' on '.join(parts)}{since}"


class NodeReason(msgspec.Struct, frozen=True):
    """Why a request does not go to a node now.

    Attributes:
        node: The node's name, or a bundle and its node.
        text: In words.
        missing: What is short; empty if something else is in the way.
        holders: Who holds it, the one who has held most of it first.
    """

    node: str
    text: str
    missing: dict[str, float]
    holders: list[Holder]


class Change(msgspec.Struct, frozen=True):
    """Something that would place the request now.

    Attributes:
        kind: `end` (of what others hold) or `ask` (for something else).
        text: In words.
        lease_ids: What would have to end.
        group_ids: Placement groups that would have to go, as hex.
        resources: What to ask for instead.
    """

    kind: str
    text: str
    lease_ids: list[int] = []
    group_ids: list[str] = []
    resources: dict[str, float] = {}


class Explanation(msgspec.Struct, frozen=True):
    """Where a request stands.

    Attributes:
        request: What is asked for, in words.
        state: `waits`, `fits` (it would begin now) or `impossible` (no node could ever give it).
        text: In one line.
        waited_s: For how long it waits.
        before: How many others stand before it.
        nodes: For each node that may be used, what is in the way.
        changes: What would place it now, the smallest change first.
        starts_in_s: When it can begin at the earliest, as far as can be known; None if it cannot be known.
        usual: What this code has usually needed, in words; empty if that is not known.
    """

    request: str
    state: str
    text: str
    waited_s: float = 0.0
    before: int = 0
    nodes: list[NodeReason] = []
    changes: list[Change] = []
    starts_in_s: float | None = None
    usual: str = ""

    def __str__(self) -> str:
        lines = [f"{self.request}: {self.text}"]
        if self.waited_s >= 1:
            lines[0] += f" (for {duration_text(self.waited_s)})"
        if self.before:
            lines.append(f"  {self.before} {'request stands' if self.before == 1 else 'requests stand'} before it")
        if self.usual:
            lines.append(f"  {self.usual}")
        for node in self.nodes:
            lines.append(f"  {node.text}")
            lines += [f"    {holder}" for holder in node.holders]
        if self.changes:
            lines.append("  it would begin now if:")
            lines += [f"    {change.text}" for change in self.changes]
        if self.state == WAITS:
            known = self.starts_in_s is not None
            when = f"in {duration_text(self.starts_in_s or 0.0)} at the earliest" if known else "nobody knows"
            lines.append(f"  expected start: {when}")
        return "\n".join(lines)


def amounts_text(amounts: dict[str, float]) -> str:
    """Return amounts as a person reads them."""
    sizes = {"memory": " memory", "gpu_memory": " GPU memory"}
    return ", ".join(
        f"{format_bytes(amount)}{sizes[name]}" if name in sizes else f"{amount:g} {name}"
        for name, amount in sorted(amounts.items())
    )


def duration_text(seconds: float) -> str:
    """Return a duration as a person reads it: `0.5 s`, `12 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Explanation)


def encode_explanation(explanation: Explanation) -> bytes:
    """Return it as JSON."""
    return _encoder.encode(explanation)


def decode_explanation(data: bytes) -> Explanation:
    """Read it from JSON.

    Raises:
        msgspec.ValidationError: It is of another version.
    """
    return _decoder.decode(data)
