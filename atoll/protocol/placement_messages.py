"""Control messages about where things go: placement groups, and why something waits. Part of `messages`."""

from __future__ import annotations

from atoll.protocol.message import Message
from atoll.protocol.values import GroupSpec, SchedulingClass


class CreateGroup(Message, frozen=True):
    """Reserve bundles of resources, all or none. Answered by `Done` once it is written down, or `Failed`.

    It is created later, when there is room: `WaitGroup` tells. What takes from it may be asked for at once.
    """

    request: int
    spec: GroupSpec


class RemoveGroup(Message, frozen=True):
    """Give a placement group up, and end what runs in it. Answered by `Done`, also if there is none."""

    request: int
    group_id: bytes


class WaitGroup(Message, frozen=True):
    """Answered by `GroupChanged` when the group is created or removed, or `Failed` if it was never there."""

    request: int
    group_id: bytes


class FindGroup(Message, frozen=True):
    """Look at a placement group, by its id or, if that is empty, by its name. Answered by `GroupChanged` at once."""

    request: int
    group_id: bytes
    name: str = ""
    namespace: str = ""


class Explain(Message, frozen=True):
    """Ask why something waits, or with `scheduling_class` what would be if it were asked for. Answered by `Explained`.

    Attributes:
        request: Answered by `Explained`, or `Failed` if the scheduler knows of no such thing.
        demand_key: The sender's own number of a class; 0 if it is not about one.
        actor_id: The actor; empty if it is not about one.
        scheduling_class: What might be asked for; None if it is about something that is.
        code: Digest of what is to run, so that the answer can say what it has usually needed.
    """

    request: int
    demand_key: int = 0
    actor_id: bytes = b""
    scheduling_class: SchedulingClass | None = None
    code: bytes = b""


class ExplainAll(Message, frozen=True):
    """Ask about everything that waits. Answered by `ExplainedAll`."""

    request: int


class GroupChanged(Message, frozen=True):
    """A placement group. `state` is `PENDING`, `CREATED`, `RESCHEDULING` or `REMOVED`; `nodes` has one id a bundle."""

    request: int
    spec: GroupSpec
    state: str
    nodes: list[bytes]


class Explained(Message, frozen=True):
    """The answer to `Explain`: JSON of `atoll.protocol.explanation.Explanation`."""

    request: int
    explanation: bytes


class ExplainedAll(Message, frozen=True):
    """The answer to `ExplainAll`: as in `Explained`, in the order in which they are served."""

    request: int
    explanations: list[bytes]
