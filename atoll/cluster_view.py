"""The cluster as a program sees it: nodes, resources, devices, the time line. Ray's names and shapes.

People see it by the magics, the dashboard and `atoll status`, which read the same state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from atoll.client import context
from atoll.client.current import current_session
from atoll.protocol.state import NodeState, SpanState

_RUNNING = "running"


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
            "Labels": {},
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


def timeline(filename: str | PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Return what workers did in the last five minutes, as Chrome's and Perfetto's trace events.

    Args:
        filename: Write them there, as JSON, and return None. Open it at ui.perfetto.dev or chrome://tracing.

    Returns:
        The events: a row for each worker, grouped by node, times in microseconds since 1970.

    Raises:
        ClusterLostError: The scheduler is gone.
        OSError: The file cannot be written.
    """
    state = current_session().state()
    names = {node.node_id: node.name for node in state.nodes}
    rows: dict[tuple[str, str], None] = {}
    events = []
    for span in state.spans:
        rows[span.node_id, span.worker_id] = None
        events.append(_trace_event(span, state.now))
    described = [_name_event("process_name", node, "", names.get(node, node)) for node in {node for node, _ in rows}]
    described += [_name_event("thread_name", node, worker, f"worker {worker[:8]}") for node, worker in rows]
    events = described + events
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events), encoding="utf-8")
    return None


def _trace_event(span: SpanState, now: float) -> dict[str, Any]:
    duration_s = max(now - span.start, 0.0) if span.state == _RUNNING else span.duration_s
    return {
        "ph": "X",
        "cat": "task",
        "name": span.name,
        "pid": span.node_id,
        "tid": span.worker_id,
        "ts": span.start * 1e6,
        "dur": duration_s * 1e6,
        "args": {"job": span.job, "state": span.state, "count": span.count},
    }


def _name_event(kind: str, node: str, worker: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": node, "tid": worker, "args": {"name": name}}
