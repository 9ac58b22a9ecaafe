"""What is answered to a message that cannot be carried: too long, or with a field that is not what it has to be.

Whoever sent it waits for an answer, or says it again as soon as there is a new connection. So it gets an answer: the
same that a daemon gives to a request that makes no sense.
"""

from __future__ import annotations

import msgspec

from atoll.protocol.messages import MESSAGES, DemandRefused, Failed, Message

_KINDS = {kind.__name__: kind for kind in MESSAGES}


def refusal(message: Message, text: str) -> Failed | DemandRefused:
    """Return the answer to a message that could not be sent."""
    return _answer(type(message), getattr(message, type(message).__struct_fields__[0], 0), text)


def refusal_of_body(body: bytes, text: str) -> Failed | DemandRefused | None:
    """Return the answer to a body that is no message, or None if it is not even like one.

    Args:
        body: It could not be decoded.
        text: Why not.
    """
    try:
        fields = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], str) or fields[0] not in _KINDS:
        return None
    return _answer(_KINDS[fields[0]], fields[1] if len(fields) > 1 else 0, text)


def _answer(kind: type[Message], number: object, text: str) -> Failed | DemandRefused:
    """Return the answer to a message of a type by the number in its first field; 0 stands for all that waits."""
    name = kind.__struct_fields__[0] if kind.__struct_fields__ else ""
    line = f"{kind.__name__} cannot be sent as it is: {text}"
    if isinstance(number, int) and name == "demand_key":
        return DemandRefused(number, "ProtocolError", line)
    return Failed(number if isinstance(number, int) and name == "request" else 0, "ProtocolError", line)
