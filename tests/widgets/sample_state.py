"""A cluster's state made by hand, rich enough for every panel: the same for the same arguments.

Two notebooks and a script share one node (or two) with simulated GPUs: an actor that holds a model, a parallel
simulation of many tiny tasks, a training task, failures, a task that waits for another, requests that wait.
"""

from __future__ import annotations

import random

from atoll.protocol.state import (
    ActorState,
    ClusterState,
    DemandState,
    DeviceState,
    JobState,
    LeaseState,
    NameState,
    NodeState,
    ObjectState,
    SpanState,
)

NOW = 1_760_000_000.0
GIB = 2**30
MIB = 2**20

QUICKSTART = "a1" * 8
RISK = "b2" * 8
SCRIPT = "c3" * 8
SERVER = "d4" * 8


def sample_state(*, now: float = NOW, nodes: int = 1, gpus: int = 4, seed: int = 7, name: str = "") -> ClusterState:
    """Return a busy cluster.

    Args:
        now: The wall clock.
        nodes: How many; workers are dealt to them in turn.
        gpus: Simulated GPUs on each node.
        seed: Of what varies.
        name: Put in place of every name that a user chooses, to see what a hostile one does.
    """
    chance = random.Random(seed)
    node_ids = [f"{index + 1:02x}" * 8 for index in range(nodes)]
    leases, spans = _work(chance, now, node_ids, gpus, name)
    return ClusterState(
        cluster_id="5f3a9c01d2e4b677",
        version="0.1.0",
        now=now,
        started=now - 5_421,
        simulated_devices=gpus > 0,
        nodes=[_node(index, node_id, leases, gpus, chance) for index, node_id in enumerate(node_ids)],
        leases=leases,
        actors=_actors(now, node_ids[0], leases, name),
        jobs=[
            JobState(QUICKSTART, name or "01_quickstart.ipynb", "kernel", 4021, "", True, now - 3_605, 6, 0),
            JobState(RISK, name or "risk_model.ipynb", "kernel", 4390, "", True, now - 1_260, 5, 4),
            JobState(SCRIPT, name or "nightly.py", "script", 5120, "", True, now - 240, 2, 0),
            JobState(SERVER, "Jupyter server", "server", 3990, "", True, now - 5_421, 0, 0),
        ],
        demands=[
            DemandState(
                RISK,
                name or "train_fold",
                {"CPU": 2, "GPU": 1},
                4,
                now - 12.4,
                name or "dromedary: all 4 GPUs are held; the first is free when `flights_model` or a fold ends",
            )
        ],
        objects=_objects(node_ids[0], name),
        names=[
            NameState(name or "flights", "ready", 118 * MIB, now - 3_500),
            NameState("weather", "ready", 9 * MIB, now - 3_480),
            NameState("features/2013", "computing", 0, now - 3),
        ],
        spans=spans,
    )


def _work(
    chance: random.Random, now: float, node_ids: list[str], gpus: int, name: str
) -> tuple[list[LeaseState], list[SpanState]]:
    """Return the leases and what their workers ran in the last five minutes."""
    plans: list[tuple[str, str, list[tuple[str, float, int]], dict[str, float], list[int], str]] = [
        (
            QUICKSTART,
            "flights_model",
            [("predict", 0.8, 1), ("predict", 1.6, 40)],
            {"CPU": 1, "GPU": 1},
            [0],
            "e1" * 16,
        ),
        (RISK, "tokenizer", [("encode", 0.5, 12)], {"CPU": 1}, [], "e2" * 16),
        (RISK, "train_fold", [("train_fold", 38, 1)], {"CPU": 2, "GPU": 1}, [1], ""),
        (RISK, "train_fold", [("train_fold", 44, 1)], {"CPU": 2, "GPU": 1}, [2], ""),
        (QUICKSTART, "delay_by_hour", [("delay_by_hour", 3.2, 1), ("delay_by_carrier", 5.1, 1)], {"CPU": 1}, [], ""),
        (QUICKSTART, "delay_by_hour", [("delay_by_hour", 2.6, 1), ("join_weather", 8.4, 1)], {"CPU": 1}, [], ""),
        (QUICKSTART, "step", [("step", 1.4, 5200)], {"CPU": 1}, [], ""),
        (QUICKSTART, "step", [("step", 1.1, 4100)], {"CPU": 1}, [], ""),
        (RISK, "explain", [("explain", 12, 1), ("plot", 1.2, 1)], {"CPU": 1, "GPU": 0.5}, [3], ""),
        (SCRIPT, "resample", [("resample", 6.5, 1)], {"CPU": 1}, [], ""),
        (SCRIPT, "write_day", [("write_day", 2.2, 1)], {"CPU": 1}, [], ""),
    ]
    leases: list[LeaseState] = []
    spans: list[SpanState] = []
    for number, (job, label, tasks, resources, devices, actor) in enumerate(plans):
        node_id = node_ids[number % len(node_ids)]
        worker_id = f"{0x70 + number:02x}" * 8
        waiting_now = actor != "" and number == 1
        mine = _spans(chance, now, node_id, worker_id, job, tasks, waiting_now, name)
        spans.extend(mine)
        running = [span for span in mine if span.state == "running"]
        leases.append(
            LeaseState(
                lease_id=number + 1,
                node_id=node_id,
                worker_id=worker_id,
                pid=4100 + 7 * number,
                job=job,
                label=name or label,
                resources=resources,
                devices=devices if gpus else [],
                actor=actor,
                doing=running[-1].name if running else "",
                blocked=number == 5,
                since=now - (280 if actor else chance.uniform(4, 60)),
                cpu_percent=chance.uniform(70, 101) if running else 0.4,
                memory_bytes=int(chance.uniform(120, 900) * MIB),
            )
        )
    spans.sort(key=lambda span: span.start + span.duration_s)
    return leases, spans


def _spans(
    chance: random.Random,
    now: float,
    node_id: str,
    worker_id: str,
    job: str,
    tasks: list[tuple[str, float, int]],
    idle: bool,
    name: str,
) -> list[SpanState]:
    spans: list[SpanState] = []
    at = now - 300 + chance.uniform(0, 40)
    while at < now - 0.5:
        task, typical_s, count = chance.choice(tasks)
        duration_s = typical_s * chance.uniform(0.6, 1.5)
        running = at + duration_s >= now
        if running and idle:
            break
        state = "running" if running else "failed" if chance.random() < 0.03 else "finished"
        spans.append(
            SpanState(
                key=f"{len(spans):04x}",
                worker_id=worker_id,
                node_id=node_id,
                job=job,
                name=name or task,
                start=at,
                duration_s=min(duration_s, now - at),
                count=max(1, int(count * chance.uniform(0.7, 1.2))),
                state=state,
            )
        )
        at += duration_s + (chance.expovariate(1.2) if chance.random() < 0.8 else chance.uniform(3, 18))
    return spans


def _node(index: int, node_id: str, leases: list[LeaseState], gpus: int, chance: random.Random) -> NodeState:
    mine = [lease for lease in leases if lease.node_id == node_id]
    cpus = sum(lease.resources["CPU"] for lease in mine if not lease.blocked)
    held = sum(lease.resources.get("GPU", 0) for lease in mine)
    return NodeState(
        node_id=node_id,
        name=["dromedary", "caravel"][index % 2],
        pid=4003 + index,
        resources_total={"CPU": 16, "GPU": gpus, "memory": 58.5 * GIB},
        resources_free={"CPU": 16 - cpus, "GPU": max(0, gpus - held), "memory": 41 * GIB},
        cpu_percent=71.0,
        memory_used_bytes=int(27.4 * GIB),
        memory_total_bytes=64 * GIB,
        store_used_bytes=int(3.62 * GIB),
        store_capacity_bytes=int(19.2 * GIB),
        devices=[_device(number, mine, chance) for number in range(gpus)],
    )


def _device(number: int, leases: list[LeaseState], chance: random.Random) -> DeviceState:
    holders = [lease for lease in leases if number in lease.devices]
    held = sum(min(1.0, lease.resources["GPU"]) for lease in holders)
    return DeviceState(
        uuid=f"SIM-GPU-{number:08d}",
        index=number,
        model="Simulated GPU 16 GiB",
        simulated=True,
        memory_total_bytes=16 * GIB,
        memory_used_bytes=int(chance.uniform(4, 13) * GIB) if holders else 0,
        foreign_memory_bytes=0,
        use_percent=chance.uniform(35, 97) if holders else 0.0,
        held=held,
        holders=[lease.label for lease in holders],
    )


def _actors(now: float, node_id: str, leases: list[LeaseState], name: str) -> list[ActorState]:
    def actor(number: int, title: str, class_name: str, state: str, incarnation: int, cause: str) -> ActorState:
        actor_id = f"{0xE0 + number:02x}" * 16
        lease = next((lease for lease in leases if lease.actor == actor_id), None)
        return ActorState(
            actor_id=actor_id,
            name=name or title,
            namespace="",
            class_name=name or class_name,
            state=state,
            incarnation=incarnation,
            node_id=lease.node_id if lease else node_id,
            pid=lease.pid if lease else 0,
            job=lease.job if lease else RISK,
            resources=lease.resources if lease else {"CPU": 1},
            devices=lease.devices if lease else [],
            cause=name or cause,
            created=now - 290 + number,
        )

    return [
        actor(1, "flights_model", "LateModel", "alive", 0, ""),
        actor(2, "tokenizer", "Tokenizer", "alive", 2, ""),
        actor(3, "scratch", "Scratch", "dead", 0, "killed by its notebook"),
    ]


def _objects(node_id: str, name: str) -> list[ObjectState]:
    named = [
        ("flights", 118 * MIB, 5),
        ("weather", 9 * MIB, 2),
        ("features/2012", 402 * MIB, 3),
        ("embeddings", 1536 * MIB, 4),
    ]
    loose = [
        (806 * MIB, 2, RISK),
        (403 * MIB, 1, RISK),
        (240 * MIB, 1, QUICKSTART),
        (96 * MIB, 0, QUICKSTART),
        (640 * 1024, 1, SCRIPT),
    ]
    return [
        ObjectState(f"{number:02x}" * 20, node_id, name or title, "", size, pins)
        for number, (title, size, pins) in enumerate(named)
    ] + [
        ObjectState(f"{owner}{number + 3:016x}{0:08x}", node_id, "", owner, size, pins)
        for number, (size, pins, owner) in enumerate(loose)
    ]
