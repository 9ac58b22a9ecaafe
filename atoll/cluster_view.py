"""The cluster as a program sees it: nodes, resources, devices. Ray's names and shapes.

People see it by the magics, the dashboard and `atoll status`, which read the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atoll.client import context
from atoll.client.current import current_session
from atoll.protocol.state import NodeState


def nodes() -> list[dict[str, Any]]:
    """Return the nodes: `NodeID`, `Alive`, `NodeName`, `NodeManagerAddress`, `Resources`, `Labels`.

    Raises:
        ClusterLostError: The scheduler is gone.
    """
    return [
        {
            "NodeID": node.node_id,
            "Alive": True,
            "alive": True,
            "NodeName": node.name,
            "NodeManagerHostname": node.name,
            "NodeManagerAddress": node_address(),
            "Resources": _with_store(node, node.resources_total),
            "Labels": node.labels,
        }
        for node in current_session().state().nodes
    ]


def cluster_resources() -> dict[str, float]:
    """Return what all nodes have together: CPUs, GPUs, bytes of memory and of the object store, custom resources.

    Raises:
        ClusterLostError: The scheduler is gone.
    """
    return _sum(lambda node: node.resources_total)


def available_resources() -> dict[str, float]:
    """Return what nobody has taken at this moment, in the shape of `cluster_resources`; what is used up is left out.

    Raises:
        ClusterLostError: The scheduler is gone.
    """
    return _sum(lambda node: node.resources_free)


def _sum(amounts: Callable[[NodeState], dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in current_session().state().nodes:
        for name, amount in _with_store(node, amounts(node)).items():
            total[name] = total.get(name, 0.0) + amount
    return {name: amount for name, amount in total.items() if amount}


def _with_store(node: NodeState, amounts: dict[str, float]) -> dict[str, float]:
    return {**amounts, "object_store_memory": float(node.store_capacity_bytes)}


def get_gpu_ids() -> list[int]:
    """Return the numbers of the GPUs that this worker's lease holds; none in a kernel or script.

    A share of a GPU has its number, too. `CUDA_VISIBLE_DEVICES` is set to the same devices, by their names.
    """
    return list(context.current_gpus())


def node_address() -> str:
    """Return the address of this node. A cluster listens on no network: it is the loopback's."""
    return "127.0.0.1"
