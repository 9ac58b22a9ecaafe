"""Control messages about what a cluster has done and what becomes of its nodes. Part of `messages`."""

from __future__ import annotations

from atoll.protocol.message import Message


class GetUsage(Message, frozen=True):
    """Ask what notebooks, cells and actors have held and used. Answered by `Usage`."""

    request: int


class Usage(Message, frozen=True):
    """The answer to `GetUsage`: JSON of `atoll.protocol.usage.UsageReport`."""

    request: int
    usage: bytes
