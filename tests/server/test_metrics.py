"""The route for Prometheus: what a scraper gets, and what it is made from."""

from __future__ import annotations

from typing import Any

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from atoll.kernel_ext.server.metrics import MAXIMUM_NOTEBOOKS, Notebooks, exposition
from atoll.protocol.state import ClusterState
from atoll.protocol.usage import OTHERS, UsageReport, UsageRow
from tests.server.hand_scheduler import HandScheduler
from tests.widgets.sample_state import sample_state


def report(*rows: UsageRow) -> UsageReport:
    return UsageReport(0.0, 0.0, 0, list(rows))


def row(notebook: str, cell: str, cpu: float, gpu: float = 0.0) -> UsageRow:
    held = {"CPU": cpu, "GPU": gpu, "memory": cpu * 100}
    return UsageRow(notebook, "kernel", cell, "", 1, held, {"CPU": cpu / 2}, held, {})


def parsed(state: ClusterState, usage: UsageReport, notebooks: Notebooks | None = None) -> dict[str, Metric]:
    text = exposition(state, usage, notebooks or Notebooks()).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples}


async def test_a_scraper_gets_what_the_scheduler_says(scheduler: HandScheduler, jp_fetch: Any) -> None:
    scheduler.usage = report(row("a.ipynb", "fit", 10.0, 4.0), row("a.ipynb", "score", 2.0))
    response = await jp_fetch("atoll", "api", "metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name: family for family in text_string_to_metric_families(response.body.decode())}
    assert values(found["atoll_held_cpu_seconds"], "notebook") == {"a.ipynb": 12.0}
    assert values(found["atoll_held_gpu_seconds"], "notebook") == {"a.ipynb": 4.0}
    assert values(found["atoll_used_cpu_seconds"], "notebook") == {"a.ipynb": 6.0}
    assert found["atoll_held_cpu_seconds"].type == "counter"
    (nodes,) = found["atoll_nodes"].samples
    assert nodes.value == len(scheduler.state.nodes)
    assert all(name.startswith("atoll_") for name in found), "the server's own metrics are on its own route"


async def test_without_a_cluster_a_scraper_hears_503(cluster: object, jp_fetch: Any) -> None:
    response = await jp_fetch("atoll", "api", "metrics", raise_error=False)
    assert response.code == 503


def test_names_follow_the_conventions_and_every_family_has_help() -> None:
    found = parsed(sample_state(), report(row("a.ipynb", "fit", 1.0)))
    units = ("_seconds", "_bytes", "_ratio", "_byte_seconds")
    for name, family in found.items():
        assert family.documentation, name
        if family.type == "counter":
            assert name.endswith(units), name
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
    assert len(found) > 20


def test_notebooks_beyond_the_limit_are_added_up_and_no_counter_moves() -> None:
    notebooks, state = Notebooks(), sample_state()
    rows = [row(f"{number:04d}.ipynb", "fit", 1.0) for number in range(MAXIMUM_NOTEBOOKS + 20)]
    before = values(parsed(state, report(*rows), notebooks)["atoll_held_cpu_seconds"], "notebook")
    assert len(before) == MAXIMUM_NOTEBOOKS + 1
    assert before[OTHERS] == 20.0
    busier = [row(f"{number:04d}.ipynb", "fit", 1.0 + number) for number in range(MAXIMUM_NOTEBOOKS + 30)]
    after = values(parsed(state, report(*busier), notebooks)["atoll_held_cpu_seconds"], "notebook")
    assert after.keys() == before.keys()
    assert all(after[name] >= before[name] for name in before)


def test_hostile_names_stay_inside_their_label() -> None:
    name = 'evil"} 1\natoll_nodes 99\\ {x="\u202e.ipynb'
    found = parsed(sample_state(), report(row(name, "fit", 3.0)))
    assert values(found["atoll_held_cpu_seconds"], "notebook") == {name: 3.0}
    (nodes,) = found["atoll_nodes"].samples
    assert nodes.value == len(sample_state().nodes)


def test_agents_of_one_host_are_told_apart() -> None:
    state = sample_state()
    node = state.nodes[0]
    twins = [msgspec.structs.replace(node, node_id=each * 16) for each in ("aa", "bb")]
    found = parsed(msgspec.structs.replace(state, nodes=twins), report())
    assert len(values(found["atoll_store_capacity_bytes"], "node")) == 2
