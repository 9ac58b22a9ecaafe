"""The cluster as tables, for `%cluster`, `%jobs`, `%actors`, `%objects` and `%gpus`. Pure: state in, text and HTML out.

A table is made once and rendered twice. Whatever a user has named is escaped.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from atoll.kernel_ext.background.story import NAMESPACE as BACKGROUND
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.plain_text import counted, duration, printable, table
from atoll.protocol.state import ActorState, ClusterState, DemandState, DeviceState, LeaseState
from atoll.resources import CPU, MEMORY, format_bytes
from atoll.status import gpus_of, holders_of, kept_lines, object_label, quarantine_lines, store_of

MOST_UNNAMED = 20
"""So many objects without a name are shown, the largest."""


@dataclass(frozen=True)
class View:
    """A table with what stands above it.

    Attributes:
        title: One line.
        headings: Of the columns; `>` at the beginning aligns right.
        rows: Cells as text.
        empty: What is said where there is no row.
        notes: Lines below.
        names: Of each row, by what it can be asked for.
        most: So many rows are shown; all where rows are asked for by their names.
        rest: Is said below in place of the others.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str
    notes: tuple[str, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    most: int = sys.maxsize
    rest: str = ""

    def known(self) -> list[str]:
        """Return all that can be asked for, each once, in the order of the rows."""
        return list(dict.fromkeys(name for names in self.names for name in names if name))

    def only(self, wanted: Sequence[str]) -> View:
        """Return the rows that somebody asks for by their names; all of them where nothing is asked for.

        Raises:
            MagicUsageError: There is none of a name; says what there is.
        """
        for name in wanted:
            if name not in self.known():
                near = difflib.get_close_matches(name, self.known(), n=3, cutoff=0.4) or self.known()[:5]
                raise MagicUsageError(f"there is no {name} here" + (f"; there is {', '.join(near)}" if near else ""))
        rows = [row for row, names in zip(self.rows, self.names, strict=True) if {*wanted} & {*names}]
        kept = tuple(names for names in self.names if {*wanted} & {*names})
        return replace(self, rows=tuple(rows), names=kept, most=sys.maxsize) if wanted else self

    @property
    def _told(self) -> tuple[str, ...]:
        """What stands below."""
        return (self.rest, *self.notes) if len(self.rows) > self.most else self.notes

    def text(self) -> str:
        """Return it for a terminal."""
        if not self.rows:
            return "\n".join([f"{self.title}: {self.empty}", *self.notes])
        rows = [[printable(cell) for cell in row] for row in self.rows[: self.most]]
        lines = (line.rstrip() for line in table(list(self.headings), rows))
        return "\n".join([self.title, "", *lines, *self._told])

    def html(self) -> str:
        """Return it for a notebook: a real table, which looks right without any style, too."""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._told)
        if not self.rows:
            return f"<div><p><b>{escape(self.title)}</b>: {escape(self.empty)}</p>{notes}</div>"
        aligned = ["right" if heading.startswith(">") else "left" for heading in self.headings]
        head = "".join(
            f'<th style="text-align:{side}">{escape(heading.removeprefix(">").lower())}</th>'
            for side, heading in zip(aligned, self.headings, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{side};font-variant-numeric:tabular-nums">{escape(cell)}</td>'
                for side, cell in zip(aligned, row, strict=True)
            )
            + "</tr>"
            for row in self.rows[: self.most]
        )
        return (
            f"<div><p><b>{escape(self.title)}</b></p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{notes}</div>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}


def bar(part: float, whole: float, cells: int = 8) -> str:
    """Return a bar made of blocks: `███▌····`."""
    if whole <= 0:
        return "·" * cells
    eighths = round(min(max(part / whole, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    shown = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return shown + "·" * (cells - len(shown))


def resources_text(amounts: Mapping[str, float]) -> str:
    """Return amounts as people read them: `2 CPU, 1 GPU, 4 GiB`."""
    parts = [
        format_bytes(amount) if name == MEMORY else f"{amount:g} {name}" for name, amount in sorted(amounts.items())
    ]
    return ", ".join(parts) or "-"


def _of(part: float, whole: float) -> str:
    return f"{format_bytes(part)} / {format_bytes(whole)}"


def _simulated(state: ClusterState, *, shows_gpus: bool) -> tuple[str, ...]:
    """Return the note below a table in which GPUs stand that are none."""
    is_told = state.simulated_devices and shows_gpus
    return ("The GPUs are simulated: they can be held, and compute nothing.",) if is_told else ()


def cluster_view(state: ClusterState) -> View:
    """Return the nodes: `%cluster`."""
    rows = []
    nodes = sorted(state.nodes, key=lambda node: node.name)
    for node in nodes:
        total, free = node.resources_total.get(CPU, 0), node.resources_free.get(CPU, 0)
        rows.append(
            (
                node.name + (f" ({node.drain.phase})" if node.drain is not None else ""),
                f"{bar(total - free, total)} {total - free:g} of {total:g}",
                f"{node.cpu_percent:.0f} %",
                _of(node.memory_used_bytes, node.memory_total_bytes),
                store_of(node),
                _gpus_of(node.devices) or "-",
            )
        )
    waiting = sum(demand.count for demand in state.demands)
    notes = [f"waiting: {_waiting(demand)}: {demand.reason}" for demand in state.demands]
    notes += [
        f"{node.name} is being drained: {line}"
        for node in state.nodes
        for line in (node.drain.waits_for if node.drain is not None else ())
    ]
    jobs = sum(job.connected and job.kind != "server" for job in state.jobs)
    living = sum(actor.state != "dead" for actor in state.actors)
    parts = [
        counted(len(state.nodes), "node"),
        counted(jobs, "session"),
        counted(living, "actor"),
        f"{waiting} waiting" if waiting else "",
        f"up {duration(state.now - state.started)}",
    ]
    title = f"Atoll {state.version} · " + " · ".join(part for part in parts if part)
    headings = ("NODE", "CPUS LEASED", ">BUSY", ">MEMORY", ">STORE", "GPUS")
    known = tuple((node.name,) for node in nodes)
    simulated = _simulated(state, shows_gpus=any(node.devices for node in nodes))
    return View(title, headings, tuple(rows), "no nodes", (*notes, *simulated), known)


def _gpus_of(devices: list[DeviceState]) -> str:
    held = sum(device.held > 0 for device in devices)
    return f"{held} of {len(devices)} held" if devices else ""


def jobs_view(state: ClusterState, job: str = "") -> View:
    """Return what runs and waits, by session: `%jobs`.

    Args:
        state: The cluster's.
        job: This session, in hex, which is marked.
    """
    names = {item.job: item.name or item.kind for item in state.jobs}
    actors = {actor.actor_id: actor.name or actor.class_name for actor in state.actors}
    cells = {actor.actor_id: actor.name for actor in state.actors if actor.namespace == BACKGROUND}
    rows = []
    known: list[tuple[str, ...]] = []
    for lease in sorted(state.leases, key=lambda lease: (lease.since, lease.lease_id)):
        session = names.get(lease.job, "-") + (" (this one)" if job and lease.job == job else "")
        number = cells.get(lease.actor, "").partition(" ")[0]
        held_by = "" if number else actors.get(lease.actor, "")
        known.append((number, lease.label, lease.doing, held_by, names.get(lease.job, "")))
        rows.append(
            (
                _doing(lease, actors, cells),
                session,
                _lease_state(lease),
                resources_text(lease.resources),
                f"{lease.cpu_percent:.0f} %",
                format_bytes(lease.memory_bytes),
                duration(max(0.0, state.now - lease.since)),
                str(lease.pid),
            )
        )
    for demand in state.demands:
        session = names.get(demand.job, "-") + (" (this one)" if job and demand.job == job else "")
        since = duration(max(0.0, state.now - demand.since))
        known.append((demand.label, names.get(demand.job, "")))
        rows.append(
            (
                _waiting(demand),
                session,
                f"waiting: {demand.reason}",
                resources_text(demand.resources),
                "-",
                "-",
                since,
                "-",
            )
        )
    connected = [item for item in state.jobs if item.connected and item.kind != "server"]
    headings = ("RUNS", "SESSION", "STATE", "HOLDS", ">CPU", ">MEMORY", ">FOR", ">PID")
    title = f"{counted(len(connected), 'session')}, {counted(len(state.leases), 'worker')} in use"
    return View(title, headings, tuple(rows), "nothing runs", names=tuple(known))


def _waiting(demand: DemandState) -> str:
    return f"{demand.label} ({demand.count} times)" if demand.count > 1 else demand.label


def _doing(lease: LeaseState, actors: dict[str, str], cells: dict[str, str]) -> str:
    """Return what a worker runs, for people.

    Args:
        lease: Its lease.
        actors: Names by id.
        cells: Numbers of background cells, by the ids of the actors that run them.
    """
    if lease.actor in cells:
        return f"{lease.label} ({cells[lease.actor]})"
    if lease.actor:
        name = f"actor {actors.get(lease.actor, lease.actor[:8])}"
        return f"{name}: {lease.doing}" if lease.doing else name
    return lease.doing or lease.label or "-"


def _lease_state(lease: LeaseState) -> str:
    if lease.blocked:
        return "waits in get"
    return "running" if lease.doing else "idle"


def actors_view(state: ClusterState) -> View:
    """Return the actors, the living first: `%actors`."""
    leases = {lease.actor: lease for lease in state.leases if lease.actor}
    nodes = {node.node_id: node.name for node in state.nodes}

    def order(actor: ActorState) -> tuple[bool, str, float]:
        return actor.state == "dead", actor.name, actor.created

    rows = []
    own = [actor for actor in state.actors if actor.namespace != BACKGROUND]
    for actor in (own := sorted(own, key=order)):
        lease = leases.get(actor.actor_id)
        rows.append(
            (
                actor.name or f"({actor.class_name})",
                _actor_state(actor),
                nodes.get(actor.node_id, "-") if actor.state != "dead" else "-",
                resources_text(actor.resources),
                gpus_of(actor),
                format_bytes(lease.memory_bytes) if lease is not None and actor.state != "dead" else "-",
                str(actor.calls) if actor.state != "dead" else "-",
                duration(max(0.0, state.now - actor.last_call)) if actor.last_call else "-",
                duration(max(0.0, state.now - actor.created)),
                str(actor.pid) if actor.pid and actor.state != "dead" else "-",
            )
        )
    living = sum(actor.state != "dead" for actor in own)
    headings = ("ACTOR", "STATE", "NODE", "HOLDS", "GPUS", ">MEMORY", ">CALLS", ">LAST", ">AGE", ">PID")
    known = tuple((actor.name or actor.class_name,) for actor in own)
    notes = (*kept_lines(own), *_simulated(state, shows_gpus=any(actor.devices or actor.away for actor in own)))
    return View(counted(living, "actor"), headings, tuple(rows), "make one with %%actor name", notes, known)


def _actor_state(actor: ActorState) -> str:
    if actor.state != "dead" or not actor.cause:
        return actor.state
    return f"{actor.state}: {actor.cause.removeprefix('WorkerCrashedError: ')}"


def objects_view(state: ClusterState) -> View:
    """Return the cache's names and the other objects in shared memory, the largest first: `%objects`.

    A notebook may have thousands without a name, of which the small ones are added up.
    """
    rows = []
    sizes = {item.name: item.size_bytes for item in state.objects if item.name}
    pins = {item.name: item.pins for item in state.objects if item.name}
    for name in sorted(state.names, key=lambda name: name.name):
        size = sizes.get(name.name, name.size_bytes)
        rows.append((name.name, name.state, format_bytes(size), str(pins.get(name.name, 0)), "the cache"))
    owners = {item.job: item.name or item.kind for item in state.jobs}
    known = {name.name for name in state.names}
    anonymous = [item for item in state.objects if not item.name or item.name not in known]
    anonymous.sort(key=lambda item: (-item.size_bytes, item.object_id))
    most = len(rows) + MOST_UNNAMED
    left_bytes = sum(item.size_bytes for item in anonymous[MOST_UNNAMED:])
    rest = (
        f"and {len(anonymous) - MOST_UNNAMED} more, {format_bytes(left_bytes)}; %objects OWNER shows all of one owner"
    )
    for item in anonymous:
        owner = owners.get(item.owner, "a worker" if item.owner else "the cluster")
        rows.append((object_label(item.object_id), "ready", format_bytes(item.size_bytes), str(item.pins), owner))
    total = sum(item.size_bytes for item in state.objects)
    title = f"{counted(len(rows), 'object')}, {format_bytes(total)} in shared memory"
    headings = ("OBJECT", "STATE", ">SIZE", ">IN USE BY", "OWNER")
    named = tuple((row[0], row[4] if row[4] in owners.values() else "") for row in rows)
    return View(title, headings, tuple(rows), "the store is empty", names=named, most=most, rest=rest)


def gpus_view(state: ClusterState) -> View:
    """Return the GPUs: `%gpus`."""
    rows = [
        (
            f"{node.name}:{device.index}",
            device.model,
            f"{bar(device.use_percent, 100)} {device.use_percent:.0f} %",
            _of(device.memory_used_bytes, device.memory_total_bytes),
            f"{device.held:.0%}",
            holders_of(device),
        )
        for node in sorted(state.nodes, key=lambda node: node.name)
        for device in node.devices
    ]
    headings = ("GPU", "MODEL", "BUSY", ">MEMORY", ">HELD", "HELD BY")
    notes = (*quarantine_lines(state), *_simulated(state, shows_gpus=bool(rows)))
    known = tuple((row[0], row[0].rpartition(":")[0]) for row in rows)
    return View(counted(len(rows), "GPU"), headings, tuple(rows), "this cluster has none", notes, known)


VIEWS: dict[str, Callable[[ClusterState], View]] = {
    "cluster": cluster_view,
    "jobs": jobs_view,
    "actors": actors_view,
    "objects": objects_view,
    "gpus": gpus_view,
}
