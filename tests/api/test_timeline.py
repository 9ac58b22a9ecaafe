"""`timeline()`: slices and arrows, from a state that is written down; and a real one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.protocol.state import ClusterState, SpanState
from atoll.trace import trace_events
from tests.patience import PATIENCE_S

OUTER, INNER = "aa" * 8, "bb" * 8


def span(key: str, worker: str, name: str, start: float, **rest: Any) -> SpanState:
    values = {"duration_s": 1.0, "count": 1, "state": "finished", "task_id": ""} | rest
    return SpanState(key=key, worker_id=worker, node_id="n1", job="j1", name=name, start=start, **values)


def state(*spans: SpanState) -> ClusterState:
    empty: dict[str, Any] = {name: [] for name in ClusterState.__struct_fields__ if name != "spans"}
    given = {"cluster_id": "c", "version": "v", "now": 0.0, "started": 0.0, "simulated_devices": False}
    return ClusterState(**(empty | given | {"spans": list(spans)}))


def test_slices_are_on_the_tracks_of_their_workers_with_times_in_microseconds() -> None:
    events = trace_events(
        state(span("2", INNER, "short", 12.0, count=40), span("1", OUTER, "fit", 10.0, state="failed"))
    )
    slices = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in slices] == [
        ("fit", 10e6, 1e6),
        ("short (40 times)", 12e6, 1e6),
    ]
    assert slices[0]["tid"] != slices[1]["tid"]
    assert slices[0]["cname"] == "terrible"
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {
        "node n1",
        f"worker {OUTER[:8]}",
        f"worker {INNER[:8]}",
    }


def test_an_arrow_leads_from_the_slice_that_submitted() -> None:
    events = trace_events(
        state(
            span("1", OUTER, "first", 1.0, task_id="dd" * 16),
            span("2", OUTER, "outer", 10.0, duration_s=5.0, task_id="dd" * 16),
            span("3", INNER, "inner", 11.0, task_id=OUTER + "00" * 8),
        )
    )
    begin, end = [event for event in events if event["ph"] in "sf"]
    assert (begin["ph"], begin["ts"], end["ph"], end["ts"]) == ("s", 11e6, "f", 11e6)
    assert begin["id"] == end["id"]
    assert begin["tid"] != end["tid"]


@pytest.mark.processes
@pytest.mark.usefixtures("session")
def test_what_ran_is_written_for_perfetto(tmp_path: Path) -> None:
    @atoll.remote
    def inner_task() -> None:
        time.sleep(0.03)

    @atoll.remote
    def outer_task() -> None:
        atoll.get(inner_task.remote())

    atoll.get(outer_task.remote())
    file = tmp_path / "trace.json"
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert atoll.timeline(str(file)) is None
        events = json.loads(file.read_text())
        if {"s", "f"} <= {event["ph"] for event in events}:
            break
        time.sleep(0.1)
    names = {event["name"].rpartition(".")[2] for event in events if event["ph"] == "X"}
    assert names == {"inner_task", "outer_task"}
    assert sum(event["ph"] == "s" for event in events) == 1
    assert isinstance(atoll.timeline(), list)


@pytest.mark.processes
@pytest.mark.usefixtures("session")
def test_the_cluster_is_described_as_ray_does() -> None:
    total, free = atoll.cluster_resources(), atoll.available_resources()
    assert (total["CPU"], total["GPU"]) == (2, 2)
    assert total["object_store_memory"] == 256 * 2**20
    assert free["memory"] <= total["memory"]
    (node,) = atoll.nodes()
    assert node["Resources"] == total
    assert node["NodeID"] == atoll.get_runtime_context().get_node_id()

    @atoll.remote(num_gpus=1)
    def look() -> Any:
        context = atoll.get_runtime_context()
        return atoll.get_gpu_ids(), context.get_accelerator_ids(), context.runtime_env, context.get_session_name()

    ids, accelerators, env, name = atoll.get(look.options(runtime_env={"env_vars": {"A": "1"}}).remote())
    assert ids in ([0], [1])
    assert accelerators == {"GPU": [str(ids[0])]}
    assert env == {"env_vars": {"A": "1"}}
    assert name == atoll.get_runtime_context().get_session_name()
    assert atoll.get_gpu_ids() == []
