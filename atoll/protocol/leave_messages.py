"""What is said about devices that an idle actor gives up for a while: see `atoll.nodeagent.core.device_leave`.

agent ─▶ worker      OffloadDevices RestoreDevices
worker ─▶ agent      DevicesOffloaded WantDevices DevicesRestored
agent ─▶ scheduler   DevicesReleased DevicesWanted DevicesKept
scheduler ─▶ agent   DevicesReturned
"""

from __future__ import annotations

from atoll.protocol.message import Message


class OffloadDevices(Message, frozen=True):
    """Your actor has been idle: give up what it has on its devices, and hold calls. Answered by `DevicesOffloaded`."""

    lease_id: int


class DevicesOffloaded(Message, frozen=True):
    """The answer to `OffloadDevices`.

    Attributes:
        lease_id: The lease.
        own: Whether the actor does it itself, and has; else it only holds calls, and the driver is to do it.
        text: Why it could not: what `offload()` raised. Then it goes on as before.
        busy: It had something to do after all, and goes on.
    """

    lease_id: int
    own: bool
    text: str = ""
    busy: bool = False


class WantDevices(Message, frozen=True):
    """A call has come for an actor that has given its devices up. Answered, some time, by `RestoreDevices`."""

    lease_id: int


class RestoreDevices(Message, frozen=True):
    """The devices are its own again: restore what it had on them itself, and go on. Answered by `DevicesRestored`."""

    lease_id: int


class DevicesRestored(Message, frozen=True):
    """The answer to `RestoreDevices`; `text` says what `restore()` raised."""

    lease_id: int
    text: str = ""


class DevicesReleased(Message, frozen=True):
    """An idle actor has given the devices of its lease up; they are others' until they are returned."""

    lease_id: int


class DevicesKept(Message, frozen=True):
    """An idle actor could not give the devices of its lease up, keeps them, and is not asked again.

    Attributes:
        lease_id: The lease.
        text: Why.
    """

    lease_id: int
    text: str


class DevicesWanted(Message, frozen=True):
    """It has been called, and wants them back. Answered, when they are free, by `DevicesReturned`."""

    lease_id: int


class DevicesReturned(Message, frozen=True):
    """The devices of a lease are its own again."""

    lease_id: int
