"""Which nodes have what a task takes: said to the scheduler with the class of the task, bounded and rounded.

Tasks whose bytes lie alike are of one class, and share leases. So that there are few such classes, sizes are rounded up
to powers of two, few nodes are named, and what is quickly moved is left out. With one node there is nothing to say, and
nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.client.core.records import STORED, ObjectEntry
from atoll.protocol.values import ObjectLocation

WORTH_BYTES = 2**20
"""Less than this in all is moved before anybody could have waited."""

MAXIMUM_NAMED = 2


def near(dependencies: Sequence[bytes], entries: Mapping[bytes, ObjectEntry]) -> list[tuple[bytes, int]]:
    """Return the nodes that have most of what a task takes, most first, with how much; nothing if that is little.

    Args:
        dependencies: Ids of what it takes, all of them resolved.
        entries: What is known of them.
    """
    sizes: dict[bytes, int] = {}
    for object_id in dict.fromkeys(dependencies):
        entry = entries[object_id]
        if entry.state == STORED and isinstance(entry.value, ObjectLocation):
            sizes[entry.value.node_id] = sizes.get(entry.value.node_id, 0) + entry.value.size_bytes
    if sum(sizes.values()) < WORTH_BYTES:
        return []
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:MAXIMUM_NAMED]
    return [(node_id, 1 << (size - 1).bit_length()) for node_id, size in ordered]
