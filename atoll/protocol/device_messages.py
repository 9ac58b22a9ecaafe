"""What is said about devices on control connections. Part of `atoll.protocol.messages`, which explains the rest."""

from __future__ import annotations

from atoll.protocol.message import Message

DEVICES_TAKEN = "DevicesTaken"
"""The kind of a `LeaseFailed` that is no fault of the request: its devices could not be had, others may do."""


class ReleaseDevice(Message, frozen=True):
    """Give a quarantined device again: somebody has looked after it. A client asks, the scheduler tells the agent.

    Attributes:
        request: For the answer, `Done` or `Failed`; an agent does not answer.
        uuid: Which; a client may write the beginning of it, or the number of a GPU of the only node.
    """

    request: int
    uuid: str


class ReportDeviceFault(Message, frozen=True):
    """What CUDA said to a worker's code leaves its context unusable: the worker is to be replaced.

    Attributes:
        text: What it said.
        counts: Whether the device is to blame, not the code.
    """

    text: str
    counts: bool
