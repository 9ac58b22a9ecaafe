"""Frames come out as they went in, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.exceptions import ProtocolError
from atoll.protocol.framing import HEADER_BYTES, MAXIMUM_BODY_BYTES, FrameDecoder, frame


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 97), min_size=1, max_size=20))
def test_any_chunking_gives_the_same_bodies(bodies: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(frame(body) for body in bodies)
    decoder = FrameDecoder()
    found = []
    position = turn = 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        found += list(decoder.feed(stream[position : position + size]))
        position += size
        turn += 1
    assert found == bodies
    assert decoder.pending_bytes == 0


def test_s18_an_announced_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    decoder = FrameDecoder(maximum_bytes=100)
    assert list(decoder.feed(frame(b"x" * 100))) == [b"x" * 100]
    with pytest.raises(ProtocolError, match="announced 101 bytes"):
        list(decoder.feed((101).to_bytes(HEADER_BYTES, "little")))


def test_a_body_that_is_too_long_is_not_framed() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return MAXIMUM_BODY_BYTES + 1

    with pytest.raises(ProtocolError, match="longer than"):
        frame(Long())


def test_a_reader_that_stops_early_loses_nothing() -> None:
    decoder = FrameDecoder()
    first = decoder.feed(frame(b"one") + frame(b"two"))
    assert next(first) == b"one"
    first.close()
    assert list(decoder.feed(b"")) == [b"two"]
