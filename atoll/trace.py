"""`atoll.timeline`: what the workers ran, for Perfetto (ui.perfetto.dev) and chrome://tracing.

A track for each worker, below its node; a slice for each task, or for many short ones of a name in a row, with their
count. Where a task was submitted by another task, an arrow leads from that one's slice to its own: a task's id begins
with the id of the process that submitted it, so the slice that ran there at the time is known.

It reaches back five minutes: so long the cluster remembers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from atoll.client.current import current_session
from atoll.ids import PROCESS_ID_BYTES
from atoll.protocol.state import ClusterState, SpanState

_COLOURS = {"failed": "terrible", "running": "good"}


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]] | None:
    """Return what ran as events of the Chrome trace format, or write them to a file.

    Args:
        filename: Where to write; then nothing is returned.

    Raises:
        ClusterLostError: The scheduler is gone.
        OSError: The file cannot be written.
    """
    events = trace_events(current_session().state())
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events), encoding="utf-8")
    return None


def trace_events(state: ClusterState) -> list[dict[str, Any]]:
    """Return the trace of a state: names of tracks first, then slices by their start, then arrows."""
    nodes = {node.node_id: number for number, node in enumerate(state.nodes, 1)}
    names = {node.node_id: node.name for node in state.nodes}
    jobs = {job.job: job.name for job in state.jobs}
    spans = sorted(state.spans, key=lambda span: (span.start, span.key))
    for span in spans:
        nodes.setdefault(span.node_id, len(nodes) + 1)
    workers = {worker: number for number, worker in enumerate(dict.fromkeys(span.worker_id for span in spans), 1)}
    events: list[dict[str, Any]] = [
        _named("process_name", number, 0, f"node {names.get(node_id) or node_id[:8]}")
        for node_id, number in nodes.items()
    ]
    for worker, number in workers.items():
        place = next(span.node_id for span in spans if span.worker_id == worker)
        events.append(_named("thread_name", nodes[place], number, f"worker {worker[:8]}"))
    events += [_slice(span, nodes[span.node_id], workers[span.worker_id], jobs) for span in spans]
    return events + _arrows(spans, nodes, workers)


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _slice(span: SpanState, process: int, thread: int, jobs: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {"state": span.state, "job": jobs.get(span.job) or span.job, "tasks": span.count}
    if span.task_id:
        told["task_id"] = span.task_id
    event = {
        "ph": "X",
        "cat": "task",
        "name": span.name if span.count == 1 else f"{span.name} ({span.count} times)",
        "ts": span.start * 1e6,
        "dur": span.duration_s * 1e6,
        "pid": process,
        "tid": thread,
        "args": told,
    }
    if span.state in _COLOURS:
        event["cname"] = _COLOURS[span.state]
    return event


def _arrows(spans: list[SpanState], nodes: dict[str, int], workers: dict[str, int]) -> list[dict[str, Any]]:
    by_worker: dict[str, list[SpanState]] = defaultdict(list)
    for span in spans:
        by_worker[span.worker_id].append(span)
    events: list[dict[str, Any]] = []
    for number, span in enumerate(spans, 1):
        submitter = span.task_id[: 2 * PROCESS_ID_BYTES]
        before = [other for other in by_worker.get(submitter, ()) if other.start <= span.start and other is not span]
        if not before:
            continue
        parent = before[-1]
        arrow = {"cat": "submitted", "name": "submitted", "id": number}
        at = min(span.start, parent.start + parent.duration_s)
        events.append(
            arrow | {"ph": "s", "ts": at * 1e6, "pid": nodes[parent.node_id], "tid": workers[parent.worker_id]}
        )
        events.append(
            arrow
            | {"ph": "f", "bp": "e", "ts": span.start * 1e6, "pid": nodes[span.node_id], "tid": workers[span.worker_id]}
        )
    return events
