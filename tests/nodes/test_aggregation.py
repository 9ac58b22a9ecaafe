"""B4: K results packed on a node move exactly K times fewer bytes between nodes; and tasks go where their bytes are."""

from __future__ import annotations

from atoll.client.session import Session
from benchmarks.aggregation import aggregate
from tests.nodes.conftest import StartNode

NODES, PER_NODE, ELEMENTS = 2, 4, 2**18


def test_b4_packed_exactly_k_times_fewer_bytes_move(session: Session, nodes: StartNode) -> None:
    there = [nodes(f"node-{number}", cpus=8) for number in range(NODES)]
    root = session.node_id.hex()
    apart = aggregate(there, root, PER_NODE, ELEMENTS, packed=False)
    packed = aggregate(there, root, PER_NODE, ELEMENTS, packed=True)
    assert apart.total == packed.total == NODES * ELEMENTS * sum(range(PER_NODE))
    assert apart.moved_bytes == NODES * PER_NODE * apart.object_bytes
    assert packed.moved_bytes == NODES * packed.object_bytes
    assert apart.moved_bytes == PER_NODE * packed.moved_bytes
