"""What every control message is. The messages themselves are in `messages`."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all control messages: an array on the wire, its first item the name of its type."""
