"""What is said to the scheduler of where a task's bytes are: bounded, rounded, and nothing with one node."""

from __future__ import annotations

from atoll.client.core.locality import MAXIMUM_NAMED, WORTH_BYTES, near
from atoll.client.core.records import INLINE, STORED, ObjectEntry
from atoll.protocol.values import ObjectLocation

MIB = 2**20


def stored(number: int, node: bytes, size: int) -> tuple[bytes, ObjectEntry]:
    object_id = b"object-%013d" % number
    entry = ObjectEntry()
    entry.state, entry.value = STORED, ObjectLocation(object_id, node, size)
    return object_id, entry


def test_the_nodes_with_most_are_named_and_sizes_rounded_up() -> None:
    entries = dict(
        [
            stored(1, b"a", 3 * MIB),
            stored(2, b"b", 5 * MIB),
            stored(3, b"a", 3 * MIB),
            stored(4, b"c", MIB),
            stored(5, b"d", 9),
        ]
    )
    assert near(list(entries), entries) == [(b"a", 8 * MIB), (b"b", 8 * MIB)]
    assert MAXIMUM_NAMED == 2


def test_what_is_taken_twice_is_moved_once() -> None:
    object_id, entry = stored(1, b"a", 2 * MIB)
    assert near([object_id, object_id], {object_id: entry}) == [(b"a", 2 * MIB)]


def test_little_is_not_worth_a_word() -> None:
    small = dict([stored(1, b"a", WORTH_BYTES // 2), stored(2, b"b", WORTH_BYTES // 2 - 1)])
    assert near(list(small), small) == []
    inline = ObjectEntry()
    inline.state, inline.value = INLINE, b"x" * 2 * MIB
    assert near([b"i" * 20], {b"i" * 20: inline}) == []
