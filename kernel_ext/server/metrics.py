"""The cluster for Prometheus: a state and a usage report in, the text exposition format out. Pure.

Names follow Prometheus' conventions: `atoll_` in front, base units, `_total` behind what only grows. Labels are
bounded: nodes and devices by their number, notebooks to `MAXIMUM_NOTEBOOKS`; the notebooks beyond are added up under
`(others)`. Which notebooks have a line of their own depends on when they came, not on how busy they are, so that no
counter ever moves from one line to another while the cluster lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atoll.protocol.state import ClusterState, DeviceState, NodeState
from atoll.protocol.usage import OTHERS, UsageReport
from atoll.resources import CPU, GPU, MEMORY

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAXIMUM_NOTEBOOKS = 100
MAXIMUM_LABEL = 200

_SUMS = ((CPU, "cpu_seconds", "CPU time"), (GPU, "gpu_seconds", "GPU time"), (MEMORY, "memory_byte_seconds", "Memory"))


class Notebooks:
    """Which notebooks have a line of their own: the first that were seen. Lives as long as the server."""

    def __init__(self) -> None:
        self._cluster = ""
        self._known: dict[str, None] = {}

    def label(self, cluster_id: str, notebook: str) -> str:
        """Return the label of a notebook."""
        if cluster_id != self._cluster:
            self._cluster, self._known = cluster_id, {}
        if notebook not in self._known and len(self._known) >= MAXIMUM_NOTEBOOKS:
            return OTHERS
        self._known[notebook] = None
        return notebook[:MAXIMUM_LABEL]


class ClusterCollector(Collector):
    """One state and one report as metrics.

    Args:
        state: The cluster's state.
        report: Who has held and used how much.
        notebooks: Which notebooks have a line of their own.
    """

    def __init__(self, state: ClusterState, report: UsageReport, notebooks: Notebooks) -> None:
        self._state = state
        self._report = report
        self._notebooks = notebooks

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        yield from self._of_cluster()
        yield from self._of_nodes()
        yield from self._of_devices()
        yield from self._of_notebooks()

    def _of_cluster(self) -> Iterator[Metric]:
        state = self._state
        yield GaugeMetricFamily("atoll_nodes", "Nodes that take part.", value=len(state.nodes))
        connected = sum(job.connected for job in state.jobs)
        yield GaugeMetricFamily("atoll_sessions", "Notebook sessions and scripts that are connected.", value=connected)
        yield GaugeMetricFamily("atoll_leases", "Workers in use.", value=len(state.leases))
        waiting = sum(demand.count for demand in state.demands)
        yield GaugeMetricFamily("atoll_waiting_requests", "Leases that are waited for.", value=waiting)
        actors = GaugeMetricFamily("atoll_actors", "Actors, by state.", labels=["state"])
        for name in ("pending", "alive", "restarting"):
            actors.add_metric([name], sum(actor.state == name for actor in state.actors))
        yield actors
        yield GaugeMetricFamily(
            "atoll_start_time_seconds", "When the scheduler was started, since 1970.", value=state.started
        )

    def _of_nodes(self) -> Iterator[Metric]:
        held = GaugeMetricFamily("atoll_node_resource_held", "What is not free.", labels=["node", "resource"])
        total = GaugeMetricFamily("atoll_node_resource_total", "What there is.", labels=["node", "resource"])
        reads: list[tuple[str, str, Callable[[NodeState], float]]] = [
            ("atoll_node_cpu_ratio", "How busy its processors are, 0 to 1.", lambda n: n.cpu_percent / 100),
            ("atoll_node_memory_used_bytes", "Memory in use on the host.", lambda n: n.memory_used_bytes),
            ("atoll_node_memory_bytes", "Memory of the host.", lambda n: n.memory_total_bytes),
            ("atoll_store_used_bytes", "Objects in shared memory.", lambda n: n.store_used_bytes),
            ("atoll_store_capacity_bytes", "What the store holds at most.", lambda n: n.store_capacity_bytes),
            ("atoll_store_spilled_bytes", "Objects on disk only.", lambda n: n.store_spilled_bytes),
        ]
        gauges = [(GaugeMetricFamily(name, text, labels=["node"]), read) for name, text, read in reads]
        received = CounterMetricFamily("atoll_store_received_bytes", "Objects from other nodes.", labels=["node"])
        sent = CounterMetricFamily("atoll_store_sent_bytes", "Objects to other nodes.", labels=["node"])
        for node in self._state.nodes:
            name = _label_of(node)
            for resource, amount in node.resources_total.items():
                total.add_metric([name, resource], amount)
                held.add_metric([name, resource], amount - node.resources_free.get(resource, 0.0))
            received.add_metric([name], node.received_bytes)
            sent.add_metric([name], node.sent_bytes)
            for gauge, read in gauges:
                gauge.add_metric([name], read(node))
        yield from (held, total, received, sent)
        yield from (gauge for gauge, _read in gauges)

    def _of_devices(self) -> Iterator[Metric]:
        labels = ["node", "gpu", "uuid", "model"]
        reads: list[tuple[str, str, Callable[[DeviceState], float]]] = [
            ("atoll_gpu_held_ratio", "The part of it that leases hold, 0 to 1.", lambda d: d.held),
            ("atoll_gpu_busy_ratio", "How busy it is, 0 to 1.", lambda d: d.use_percent / 100),
            ("atoll_gpu_memory_used_bytes", "Its memory in use.", lambda d: d.memory_used_bytes),
            ("atoll_gpu_foreign_memory_bytes", "Of it, by others.", lambda d: d.foreign_memory_bytes),
            ("atoll_gpu_memory_bytes", "Its memory.", lambda d: d.memory_total_bytes),
        ]
        gauges = [(GaugeMetricFamily(name, text, labels=labels), read) for name, text, read in reads]
        for node in self._state.nodes:
            for device in node.devices:
                for gauge, read in gauges:
                    gauge.add_metric([_label_of(node), str(device.index), device.uuid, device.model], read(device))
        yield from (gauge for gauge, _read in gauges)

    def _of_notebooks(self) -> Iterator[Metric]:
        sums: dict[str, dict[tuple[str, str], float]] = {}
        for row in sorted(self._report.rows, key=lambda row: row.notebook):
            label = self._notebooks.label(self._state.cluster_id, row.notebook)
            mine = sums.setdefault(label, {})
            for how, amounts in (("held", row.held), ("used", row.used)):
                _add(mine, how, amounts)
        for how, what in (("held", "that leases held, used or not"), ("used", "that was measured to be used")):
            for resource, unit, text in _SUMS:
                counter = CounterMetricFamily(f"atoll_{how}_{unit}", f"{text} {what}.", labels=["notebook"])
                for notebook, mine in sums.items():
                    counter.add_metric([notebook], max(0.0, mine.get((how, resource), 0.0)))
                yield counter


def _add(sums: dict[tuple[str, str], float], how: str, amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        sums[how, name] = sums.get((how, name), 0.0) + amount


def _label_of(node: NodeState) -> str:
    """Return a node's label: its name, and the beginning of its id, since agents of one host have one name."""
    return f"{node.name}/{node.node_id[:8]}"


def exposition(state: ClusterState, report: UsageReport, notebooks: Notebooks) -> bytes:
    """Return the metrics as text (`CONTENT_TYPE`). The registry is this call's own: nothing of Jupyter's is in it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ClusterCollector(state, report, notebooks))
    return bytes(generate_latest(registry))
