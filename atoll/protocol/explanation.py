"""Why something waits, as a value: what the scheduler says, and magics, the API and the dashboard show.

JSON on the wire, like the cluster's state. Amounts are as people write them, times are seconds.

The words are composed here, once, for all who show them: `Explanation.line` is the one line of status lines, `%jobs`
and the dashboard, `str(explanation)` the report of a terminal, and `%why` lays out the same parts in a notebook.
"""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.resources import format_bytes

WAITS, FITS, IMPOSSIBLE, RUNS, DONE = "waits", "fits", "impossible", "runs", "done"
END, ASK = "end", "ask"

SOON_S = 0.05
"""What is expected sooner than so is not told as a number, which would be zero."""


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

    @property
    def name(self) -> str:
        """Who it is: `actor llm of a.ipynb`."""
        kind = {"actor": "actor ", "group": "placement group "}.get(self.kind, "")
        return f"{kind}{self.what}{f' of {self.who}' if self.who else ''}"

    @property
    def holds(self) -> str:
        """What it holds: `1 CPU, 1 GPU on GPU 0`."""
        amounts = amounts_text(self.resources) if self.resources else "nothing"
        return f"{amounts} on GPU {', '.join(map(str, self.devices))}" if self.devices else amounts

    @property
    def since(self) -> str:
        """For how long: `12 min`; empty where it cannot be known."""
        return duration_text(self.since_s) if self.kind != "outside" else ""

    def __str__(self) -> str:
        return f"{self.name} holds {self.holds}{f' for {self.since}' if self.since else ''}"


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
        state: `waits`, `fits` (it would begin now), `impossible` (no node could ever give it), `runs` or `done`.
        text: In one line.
        waited_s: For how long it waits.
        before: How many others stand before it.
        nodes: For each node that may be used, what is in the way.
        changes: What would place it now, the smallest change first.
        starts_in_s: When it can begin at the earliest, as far as can be known; None if it cannot be known.
        usual: What this code has usually needed, in words; empty if that is not known.
        what: The function, cell, actor or group that waits.
        who: The notebook or script.
        job: That session, as hex.
        count: How many of them wait.
        recalled: So many workers were asked back from others for it.
        more_nodes: So many nodes are not in `nodes`.
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
    what: str = ""
    who: str = ""
    job: str = ""
    count: int = 1
    recalled: int = 0
    more_nodes: int = 0

    @property
    def expected(self) -> str:
        """When it can begin: `in 3 min at the earliest`; empty where that says nothing."""
        if self.state != WAITS:
            return ""
        if self.starts_in_s is None:
            return "nobody knows" if self.nodes else ""
        if self.starts_in_s < SOON_S:
            return "at any moment"
        return f"in {duration_text(self.starts_in_s)} at the earliest"

    @property
    def line(self) -> str:
        """The reason in one line: what is short, who has held most of it, when it can begin."""
        if self.state != WAITS or not self.nodes:
            return self.text
        parts = []
        for node in self.nodes[:2]:
            first = node.holders[0] if node.holders else None
            held = f", held by {first.name}{f' for {first.since}' if first.since else ''}" if first else ""
            others = f" and {len(node.holders) - 1} more" if len(node.holders) > 1 else ""
            parts.append(f"{node.text}{held}{others}")
        left = len(self.nodes) - 2 + self.more_nodes
        if left > 0:
            parts.append(f"{left} other node{'s' if left > 1 else ''} likewise")
        if self.recalled:
            parts.append(f"{self.recalled} recalled from others, to be returned when their tasks end")
        if self.starts_in_s is not None:
            parts.append(f"expected {self.expected}")
        return "; ".join(parts)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it in a notebook as people read it."""
        printer.text(str(self))

    def __str__(self) -> str:
        lines = [f"{self.request}: {self.text}" if self.request else self.text]
        if self.waited_s >= 1:
            lines[0] += f" (for {duration_text(self.waited_s)})"
        if self.before:
            lines.append(f"  {self.before} {'request stands' if self.before == 1 else 'requests stand'} before it")
        if self.usual:
            lines.append(f"  {self.usual}")
        for node in self.nodes:
            lines.append(f"  {node.text}")
            lines += [f"    {holder}" for holder in node.holders]
        if self.more_nodes:
            lines.append(f"  and {self.more_nodes} other nodes")
        if self.recalled:
            lines.append(f"  {self.recalled} recalled from others, to be returned when their tasks end")
        if self.changes:
            lines.append("  it would begin now if:")
            lines += [f"    {change.text}" for change in self.changes]
        if self.expected:
            lines.append(f"  expected start: {self.expected}")
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
