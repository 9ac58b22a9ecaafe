"""The dashboard as it stands still: HTML for a saved notebook, text for a terminal. Pure.

What is saved is read on GitHub, in nbviewer and in mails, which strip styles and scripts. So the HTML is headings, real
tables and `<details>`, with bars made of block characters, and looks right without any style. Whatever a user has
named is escaped; nothing else is put between the tags than numbers and words of ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

from atoll.protocol.state import ActorState, ClusterState, DeviceState, LeaseState, NodeState, ObjectState
from atoll.resources import from_units, to_units
from atoll.status import gpus_of, holders_of, object_label

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 40
_SLOTS = 10


def static_html(state: ClusterState) -> str:
    """Return the state as HTML that survives being sanitized."""
    parts = [
        f"<div><p><b>Atoll</b> {escape(state.cluster_id[:8])} · {escape(_headline(state))}</p>",
        _table("Nodes", ["node", "CPU", "leased", "memory", "object store", "GPUs"], map(_node_row, state.nodes)),
    ]
    devices = [row for node in state.nodes for row in _device_rows(node)]
    if devices:
        parts.append(_table("GPUs", ["GPU", "model", "use", "memory", "held by"], devices))
    parts.append(_table("Running", ["what", "process", "GPU", "CPU", "memory", "for"], _lease_rows(state)))
    if state.demands:
        rows = [
            [f"{d.count} {d.label}", _resources(d.resources), duration(state.now - d.since), d.reason]
            for d in state.demands
        ]
        parts.append(_table("Waiting", ["what", "wants", "for", "why"], rows))
    if state.actors:
        parts.append(
            _table(
                "Actors",
                ["actor", "class", "state", "process", "age"],
                (_actor_row(a, state.now) for a in state.actors),
            )
        )
    if state.objects:
        parts.append(_table("Objects in shared memory", ["name", "size", "", "pins", "owner"], _object_rows(state)))
    parts.append(_history(state))
    return "\n".join([*parts, "</div>"])


def text(state: ClusterState) -> str:
    """Return the state as a few lines of text."""
    lines = [f"Atoll {state.cluster_id[:8]} · {_headline(state)}"]
    for node in state.nodes:
        name, cpu, leased, memory, store, _gpus = _node_row(node)
        lines.append(f"{name}  CPU {cpu}, {leased} leased  memory {memory}  object store {store}")
        lines.extend("  " + "  ".join(part for part in row if part) for row in _device_rows(node))
    lines.extend("  ▸ " + "  ".join(part for part in row if part) for row in _lease_rows(state)[:_MOST_ROWS])
    lines.extend(
        f"  … {demand.count} {demand.label} wait for {_resources(demand.resources)}: {demand.reason}"
        for demand in state.demands
    )
    lines.extend(f"  ◆ {name.name}  {size(name.size_bytes)}  {name.state}" for name in state.names)
    return "\n".join(_one_line(line) for line in lines)


def _headline(state: ClusterState) -> str:
    running = sum(1 for lease in state.leases if lease.doing)
    alive = sum(1 for actor in state.actors if actor.state == "alive")
    waiting = sum(demand.count for demand in state.demands)
    said = [
        _count(len(state.nodes), "node"),
        f"{running} running",
        f"{waiting} waiting",
        _count(alive, "actor"),
        _count(len(state.objects), "object"),
    ]
    if state.simulated_devices:
        said.append("simulated GPUs")
    said.append("as of " + time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.now)))
    return " · ".join(said)


def _node_row(node: NodeState) -> list[str]:
    cpus = node.resources_total.get("CPU", 0.0)
    leased = cpus - node.resources_free.get("CPU", 0.0)
    held = sum(device.held for device in node.devices)
    return [
        node.name + (f" (drained: {node.drain.phase})" if node.drain is not None else ""),
        f"{bar(node.cpu_percent / 100)} {node.cpu_percent:.0f}%",
        f"{number(leased)} of {number(cpus)}",
        _share(node.memory_used_bytes, node.memory_total_bytes),
        _share(node.store_used_bytes, node.store_capacity_bytes),
        f"{number(held)} of {len(node.devices)} held" if node.devices else "none",
    ]


def _device_rows(node: NodeState) -> list[list[str]]:
    return [
        [
            f"{node.name} GPU {device.index}",
            f"{device.model} (simulated)" if device.simulated else device.model,
            f"{bar(device.use_percent / 100)} {device.use_percent:.0f}%",
            _share(device.memory_used_bytes, device.memory_total_bytes),
            _holders(device),
        ]
        for device in node.devices
    ]


def _holders(device: DeviceState) -> str:
    text = holders_of(device)
    return ("held" if device.held else "free") if text == "-" else text


def _lease_rows(state: ClusterState) -> list[list[str]]:
    nodes = {node.node_id: node.name for node in state.nodes}
    actors = {actor.actor_id: actor.name or actor.class_name for actor in state.actors}

    def row(lease: LeaseState) -> list[str]:
        what = actors.get(lease.actor, "actor") if lease.actor else lease.doing or f"{lease.label} (idle)"
        if lease.actor:
            what += f".{lease.doing}" if lease.doing else " (ready)"
        return [
            what + (" (waits)" if lease.blocked else ""),
            f"{nodes.get(lease.node_id, lease.node_id[:8])} {lease.pid}",
            gpus_of(lease).replace("-", ""),
            f"{lease.cpu_percent:.0f}%",
            size(lease.memory_bytes),
            duration(state.now - lease.since),
        ]

    return [row(lease) for lease in sorted(state.leases, key=lambda lease: (not lease.doing, lease.since))]


def _actor_row(actor: ActorState, now: float) -> list[str]:
    said = actor.state + (f": {actor.cause}" if actor.cause else "")
    return [
        actor.name or actor.actor_id[:8],
        actor.class_name,
        said,
        str(actor.pid or ""),
        duration(now - actor.created),
    ]


def _object_rows(state: ClusterState) -> list[list[str]]:
    jobs = {job.job: job.name for job in state.jobs}
    largest = max((each.size_bytes for each in state.objects), default=0) or 1

    def row(each: ObjectState) -> list[str]:
        owner = "cluster" if each.name else jobs.get(each.owner, "a worker")
        return [
            each.name or object_label(each.object_id),
            size(each.size_bytes),
            bar(each.size_bytes / largest),
            str(each.pins),
            owner,
        ]

    return [row(each) for each in sorted(state.objects, key=lambda each: (not each.name, -each.size_bytes))]


def _history(state: ClusterState) -> str:
    """Return how busy each worker was, a character for each stretch of the last five minutes."""
    labels = {lease.worker_id: str(lease.pid) for lease in state.leases}
    steps, window_s = 60, 300.0
    busy: dict[str, list[float]] = {}
    for span in state.spans:
        line = busy.setdefault(span.worker_id, [0.0] * steps)
        start = (span.start - state.now + window_s) / window_s * steps
        end = min(float(steps), start + span.duration_s / window_s * steps)
        for step in range(max(0, int(start)), min(steps, int(end) + 1)):
            line[step] += max(0.0, min(step + 1, end) - max(step, start))
    rows = [[labels.get(worker, worker[:8]), "".join(map(_block, line))] for worker, line in sorted(busy.items())]
    if not rows:
        return "<p>Nothing has run in the last five minutes.</p>"
    table = _table("", ["worker", "five minutes ago … now"], rows)
    return f"<details><summary>Timeline: {_count(len(state.spans), 'span')}</summary>\n{table}</details>"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kept = list(rows)
    if not kept:
        return f"<p>{escape(title)}: none</p>"
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in kept[:_MOST_ROWS]
    )
    left = f"<p>… and {len(kept) - _MOST_ROWS} more</p>" if len(kept) > _MOST_ROWS else ""
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>{left}"


def bar(share: float) -> str:
    """Return a bar of block characters for a share from 0 to 1."""
    filled = max(0.0, min(1.0, share)) * _SLOTS
    return "".join(_block(filled - slot) for slot in range(_SLOTS))


def _block(share: float) -> str:
    """Return the block character for a share from 0 to 1; what is nearly nothing shows as the lowest."""
    return _BLOCKS[max(0, min(len(_BLOCKS) - 1, round(share * (len(_BLOCKS) - 1))))]


def number(amount: float) -> str:
    """Return an amount of a resource as people read it: `2.5`."""
    return f"{from_units(to_units('amount', max(0.0, round(amount, 4)))):g}"


def size(size_bytes: float) -> str:
    """Return a size with a binary unit: `512 B`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1023.95:
            return f"{size_bytes:.3g} {unit}" if size_bytes < 99.95 else f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} TiB"


def duration(seconds: float) -> str:
    """Return a time as people read it: `850 ms`, `12 s`, `3m 05s`, `2h 04m`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    large, name, small, small_name = (86400, "d", 3600, "h")
    if seconds < 3600:
        large, name, small, small_name = (60, "m", 1, "s")
    elif seconds < 86400:
        large, name, small, small_name = (3600, "h", 60, "m")
    return f"{int(seconds // large)}{name} {int(seconds % large // small):02d}{small_name}"


def _share(used: float, total: float) -> str:
    return f"{bar(used / total if total else 0)} {size(used)} of {size(total)}"


def _resources(resources: dict[str, float]) -> str:
    return ", ".join(
        f"{size(amount)} memory" if name == "memory" else f"{number(amount)} {name}"
        for name, amount in sorted(resources.items())
    )


def _count(many: int, what: str) -> str:
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def _one_line(line: str) -> str:
    """Return a line without characters that would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "�" for character in line)
