"""Aggregation over nodes: what combining on each node before anything travels saves, counted in bytes.

`K` tasks on each of `N` nodes make a vector each; their sum is wanted on another node.

    apart     every vector travels: N x K of them, as between cloud functions that share nothing
    packed    each node's vectors are added up there, where they are, and N sums travel

The stores count what they receive from other nodes. "Cloud Programming Simplified" (Jonas and others, 2019, section 3)
says that K functions packed on one machine send K times fewer messages; here it is K times fewer bytes, exactly.

    python -m benchmarks.aggregation            on a cluster of this machine, with two more nodes
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import atoll
from atoll.util.scheduling_strategies import NodeAffinitySchedulingStrategy

QUIET_S = 0.6
"""Samples of a node that works come every 0.4 s: what comes beyond what was expected is seen within this time."""

PATIENCE_S = 10.0
"""So long is waited for what was expected."""


class Moved(NamedTuple):
    """One aggregation.

    Attributes:
        total: The sum over all elements, to be compared.
        moved_bytes: Between stores.
        object_bytes: Of one vector.
        seconds: For the aggregation.
    """

    total: int
    moved_bytes: int
    object_bytes: int
    seconds: float


def _make(elements: int, seed: int) -> Any:
    import numpy as np

    return np.full(elements, seed, np.int64)


def _add(*vectors: Any) -> Any:
    return functools.reduce(lambda one, other: one + other, vectors)


def _total(*vectors: Any) -> int:
    return int(sum(int(vector.sum()) for vector in vectors))


def received_bytes(expected: int = 0) -> int:
    """Return what the stores of all nodes have received from others: once it is what was expected, and a bit later."""
    from atoll.client.current import current_session

    def look() -> int:
        return sum(node.received_bytes for node in current_session().state().nodes)

    until = time.monotonic() + PATIENCE_S
    while look() < expected and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(QUIET_S)
    return look()


def aggregate(nodes: list[str], root: str, per_node: int, elements: int, *, packed: bool) -> Moved:
    """Add up vectors that lie on several nodes.

    Args:
        nodes: Ids of the nodes where they are made.
        root: Id of the node where the sum is wanted.
        per_node: Vectors on each.
        elements: Of each vector, of 8 bytes.
        packed: Whether each node's are added up there first. Nothing says where: the scheduler goes where they are.
    """
    from atoll.client.current import current_session

    make, add, total = (atoll.remote(num_cpus=0.5)(function) for function in (_make, _add, _total))
    parts = [
        [
            make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(elements, number)
            for number in range(per_node)
        ]
        for node in nodes
    ]
    vectors = [ref for refs in parts for ref in refs]
    atoll.wait(vectors, num_returns=len(vectors))
    object_bytes = current_session().location(vectors[0].binary()).size_bytes
    before, began = received_bytes(), time.monotonic()
    if packed:
        vectors = [add.remote(*refs) for refs in parts]
    at_root = NodeAffinitySchedulingStrategy(root, soft=False)
    found = atoll.get(total.options(scheduling_strategy=at_root).remote(*vectors))
    took = time.monotonic() - began
    after = received_bytes(before + object_bytes * len(vectors))
    return Moved(found, after - before, object_bytes, took)


def main() -> None:
    """Start a cluster of three nodes, aggregate both ways, print what moved."""
    from atoll.client import daemons
    from atoll.client.launch import find_cluster
    from atoll.config import settings
    from atoll.protocol.cluster_file import default_path

    atoll.init()
    running = find_cluster()
    assert running is not None, "a session was begun in it"
    started = [daemons.start_node(running, default_path(), f"node-{number}", settings()) for number in (1, 2)]
    try:
        while len(atoll.nodes()) < len(started) + 1:
            time.sleep(0.05)
        root, *others = [node["NodeID"] for node in atoll.nodes()]
        print("per node  apart, bytes  packed, bytes  times fewer")
        for per_node in (2, 4, 8):
            apart, packed = (aggregate(others, root, per_node, 2**18, packed=way) for way in (False, True))
            ratio = apart.moved_bytes / packed.moved_bytes
            print(f"{per_node:8}  {apart.moved_bytes:12,}  {packed.moved_bytes:13,}  {ratio:11g}")
    finally:
        atoll.shutdown()
        daemons.end_processes([process.pid for process in started])


if __name__ == "__main__":
    main()
