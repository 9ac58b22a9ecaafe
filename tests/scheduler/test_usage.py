"""The ledger: what notebooks, cells and actors have held and used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Instant
from atoll.protocol.usage import EARLIER, OTHERS, RESERVED, UsageRow, decode_usage
from atoll.scheduler.core import usage
from atoll.scheduler.core.account import AccountKey
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.core.usage import Ledger
from tests.scheduler.world import WALL, World

DAY_S = 24 * 3600.0
MICRO = 1_000_000


def rows(world: World, peer: Any) -> dict[tuple[str, str, str], UsageRow]:
    world.say(peer, m.GetUsage(5))
    report = decode_usage(world.only(peer, m.Usage).usage)
    return {(row.notebook, row.cell, row.actor): row for row in report.rows}


def test_a_cell_is_charged_for_as_long_as_it_holds_something() -> None:
    world = World()
    world.agent(1, cpus=4, gpus=2)
    client = world.client(1)
    world.demand(client, CPU=2, GPU=1, label="fit")
    world.wait(0.25)  # the worker starts: what it takes is taken from others already
    (granted,) = world.granted(client)
    world.wait(3.0)
    row = rows(world, client)["notebook-1.ipynb", "fit", ""]
    assert (row.held, row.leases, row.kind) == ({"CPU": 6.5, "GPU": 3.25}, 1, "kernel")
    world.say(client, m.ReturnLease(granted.lease_id))
    world.wait(0.5)  # the worker ends: a device is free only when the agent says so
    world.serve()
    world.wait(100.0)
    row = rows(world, client)["notebook-1.ipynb", "fit", ""]
    assert (row.held, row.leases) == ({"CPU": 7.5, "GPU": 3.75}, 0)


def test_lent_processors_are_not_held() -> None:
    world = World()
    world.agent(1)
    client = world.client(1)
    world.demand(client, CPU=1, label="parent")
    (granted,) = world.granted(client)
    worker = world.connect("worker", granted.worker_id)
    world.wait(1.0)
    world.say(worker, m.TaskBlocked(granted.lease_id))
    world.wait(10.0)
    world.say(worker, m.TaskUnblocked(granted.lease_id))
    world.wait(2.0)
    assert rows(world, client)["notebook-1.ipynb", "parent", ""].held == {"CPU": 3.0}


def test_actors_and_sessions_of_one_notebook() -> None:
    world = World()
    world.agent(1, cpus=4)
    first, second = world.client(1), world.client(2)
    world.say(first, m.CreateActor(1, b"", world.actor_spec(1, "llm", shape=world.shape(CPU=2))))
    world.demand(second, CPU=1, label="%%remote")
    world.serve()
    world.wait(4.0)
    found = rows(world, first)
    assert found["notebook-1.ipynb", "", "llm"].held == {"CPU": 8.0}
    assert found["notebook-2.ipynb", "%%remote", ""].held == {"CPU": 4.0}
    world.lose(second)
    world.serve()
    again = world.client(2)  # the same notebook, after a restart of its kernel
    world.demand(again, CPU=1, label="%%remote")
    world.serve()
    world.wait(1.0)
    assert rows(world, first)["notebook-2.ipynb", "%%remote", ""].held == {"CPU": 5.0}


def test_a_background_cell_is_charged_as_a_cell_of_its_name_and_not_as_an_actor() -> None:
    world = World()
    world.agent(1, cpus=4)
    client = world.client(1)
    for number in (1, 2):
        spec = world.actor_spec(number, f"t{number}", shape=world.shape(CPU=1))
        spec = msgspec.structs.replace(spec, namespace=values.CELLS_NAMESPACE, class_name="fit")
        world.say(client, m.CreateActor(number, b"", spec))
    world.serve()
    world.wait(4.0)
    row = rows(world, client)["notebook-1.ipynb", "fit", ""]
    assert (row.held, row.leases) == ({"CPU": 8.0}, 2)


def test_a_placement_group_pays_for_what_nothing_has_taken() -> None:
    world = World()
    world.agent(1, cpus=4)
    client = world.client(1)
    group_id = world.group(client, {"CPU": 3})
    world.wait(1.0)
    world.demand(client, CPU=1, label="inside", group=group_id)
    world.serve()
    world.wait(2.0)
    found = rows(world, client)
    assert found["notebook-1.ipynb", RESERVED, ""].held == {"CPU": 3.0 + 4.0}
    assert found["notebook-1.ipynb", "inside", ""].held == {"CPU": 2.0}


def test_today_begins_at_local_midnight() -> None:
    turn = Turn(Instant(0.0), WALL)
    hour_s = 3600.0
    ledger = Ledger(turn, 2 * hour_s)
    local_s = (WALL + 2 * hour_s) % DAY_S
    key = AccountKey("a.ipynb", "kernel", "fit")
    ledger.take(key, {"CPU": 10_000})
    until_midnight_s = DAY_S - local_s
    turn.now = Instant(until_midnight_s + 5.0)
    (row,) = ledger.report().rows
    assert row.held["CPU"] == pytest.approx(until_midnight_s + 5.0)
    assert row.held_today["CPU"] == pytest.approx(5.0)
    turn.now = Instant(until_midnight_s + 3 * DAY_S + 7.0)
    (row,) = ledger.report().rows
    assert row.held_today["CPU"] == pytest.approx(7.0)
    assert row.held["CPU"] == pytest.approx(until_midnight_s + 3 * DAY_S + 7.0)


def test_memory_is_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAXIMUM_ACCOUNTS", 10)
    turn = Turn(Instant(0.0), WALL)
    ledger = Ledger(turn)
    jobs = [Job(b"job-%04d" % number, Instant(0.0)) for number in range(40)]
    for number, job in enumerate(jobs):
        job.name = f"{number}.ipynb"
        for cell in range(5):
            key = ledger.key_of(job, f"cell {cell}")
            ledger.take(key, {"CPU": 10_000})
            turn.now = Instant(turn.now + 1.0)
            ledger.give_back(key, {"CPU": 10_000})
            assert len(ledger) <= 11
    assert ledger.held_sums() == {"CPU": 200 * 10_000 * MICRO}
    found = {(row.notebook, row.cell): row for row in ledger.report().rows}
    assert found[OTHERS, EARLIER].held["CPU"] > 150
    assert found["39.ipynb", "cell 4"].held == {"CPU": 1.0}
    journal = {a.key for a in turn.actions if hasattr(a, "value") and a.table == usage.TABLE}
    assert not journal  # what never was written down need not be removed, and nothing was yet


def test_a_restarted_scheduler_goes_on_counting() -> None:
    world = World()
    world.agent(1, cpus=4)
    client = world.client(1)
    world.demand(client, count=2, CPU=1, label="fit")
    long, short = world.granted(client)
    world.wait(100.0)
    world.say(client, m.ReturnLease(short.lease_id))
    world.serve()
    world.wait(3.5)
    after = World(journal=world.journal)  # a crash: nothing was said at the end
    after.now = Instant(world.now + 5.0)
    after.environment = world.environment
    after.core.cluster.turn.now = after.now
    begun = world.running[long.lease_id]
    after.agent(1, cpus=4, leases=[(long.lease_id, long.worker_id, long.address)], started=[begun])
    client = after.client(1)
    assert rows(after, client)["notebook-1.ipynb", "fit", ""].held == {"CPU": 108.5 + 100.0}
    after.wait(1.0)
    assert rows(after, client)["notebook-1.ipynb", "fit", ""].held == {"CPU": 109.5 + 100.0}


def test_what_ended_unseen_is_counted_to_where_it_was_written_down() -> None:
    world = World()
    world.agent(1, cpus=4)
    client = world.client(1)
    world.demand(client, CPU=1, label="fit")
    world.granted(client)
    world.wait(100.0)
    after = World(journal=world.journal)
    after.now = Instant(world.now + 5.0)
    after.environment = world.environment
    after.agent(1, cpus=4)  # nothing lives on there
    held = rows(after, after.client(1))["notebook-1.ipynb", "fit", ""].held["CPU"]
    assert 100.0 - usage.WRITE_EVERY_S <= held <= 100.0


def test_use_is_measured() -> None:
    world = World()
    agent = world.agent(1, cpus=4, gpus=1)
    client = world.client(1)
    world.demand(client, count=2, CPU=1, GPU=0.25, label="fit")
    one, _two = world.granted(client)

    def sample(cpu_time_s: float) -> None:
        workers = [
            values.WorkerSample(one.worker_id, 1, 0.0, 2**30, cpu_time_s),
            values.WorkerSample(_two.worker_id, 2, 0.0, 0, 1.0),
        ]
        devices = [values.DeviceSample("SIM-GPU-0", 50.0, 0)]
        world.say(agent, m.NodeSampled(values.NodeSample(0, 0, 0, 0, 0, devices, workers, [])))

    sample(3.0)  # what was before is not ours to count
    world.wait(2.0)
    sample(4.5)
    row = rows(world, client)["notebook-1.ipynb", "fit", ""]
    assert row.used == {"CPU": 1.5, "GPU": 1.0, "memory": 2.0 * 2**30}
    world.say(client, m.ReturnLease(one.lease_id))
    world.serve()
    world.wait(2.0)
    sample(5.0)  # the last of it is known only after its end
    row = rows(world, client)["notebook-1.ipynb", "fit", ""]
    assert row.used == {"CPU": 2.0, "GPU": 2.0, "memory": 2.0 * 2**30}


def test_a_lease_serves_cells_of_several_names() -> None:
    world = World()
    agent = world.agent(1, cpus=4)
    client = world.client(1)
    world.demand(client, CPU=2, label="first")
    (granted,) = world.granted(client)
    start = world.core.cluster.turn.wall(world.now)
    worker = granted.worker_id

    def ran(name: str, duration_s: float, state: str, key: int) -> None:
        world.say(agent, m.SpansRecorded([values.Span(worker, b"job-0001", name, start, duration_s, 1, state, key)]))

    world.wait(10.0)
    ran("first", 3.0, "finished", 1)
    ran("second", 4.0, "running", 2)
    assert {cell: row.held for (_, cell, _a), row in rows(world, client).items()} == {
        "first": {"CPU": 12.0},
        "second": {"CPU": 8.0},
    }
    world.wait(2.0)
    ran("second", 6.0, "finished", 2)
    world.say(client, m.ReturnLease(granted.lease_id))
    world.serve()
    ran("third", 0.5, "finished", 3)  # it comes after the end of the lease
    found = {cell: row.held["CPU"] for (_, cell, _a), row in rows(world, client).items()}
    assert found == {"first": 11.0, "second": 12.0, "third": 1.0}


SHAPES: list[dict[str, float]] = [{"CPU": 1}, {"CPU": 0.5, "GPU": 0.3}, {"GPU": 1}, {"CPU": 2, "memory": 2**30}]


class Conservation(RuleBasedStateMachine):
    """All that accounts have held is the integral of what was occupied, to the last unit, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.integral: dict[str, int] = {}
        self.agent = self.world.agent(1, cpus=4, gpus=1)
        self.clients = [self.world.client(number) for number in (1, 2)]
        self.workers: dict[int, Any] = {}
        self.groups = 0
        self.long_waits = 2

    @rule(client=st.integers(0, 1), shape=st.sampled_from(SHAPES), count=st.integers(0, 3), label=st.sampled_from("ab"))
    def demand(self, client: int, shape: dict[str, float], count: int, label: str) -> None:
        group = {"group": b"group%011d" % self.groups} if self.groups and label == "b" else {}
        self.world.demand(self.clients[client], count, SHAPES.index(shape) + 1, label=label, **shape, **group)  # type: ignore[arg-type]

    @rule(client=st.integers(0, 1))
    def group(self, client: int) -> None:
        self.groups += 1
        self.world.group(self.clients[client], {"CPU": 1}, {"CPU": 1}, number=self.groups)

    @rule(client=st.integers(0, 1))
    def remove_group(self, client: int) -> None:
        self.world.say(self.clients[client], m.RemoveGroup(3, b"group%011d" % self.groups))

    @rule()
    def agents_work(self) -> None:
        self.world.serve()

    @rule(data=st.data(), kill=st.booleans())
    def give_back(self, data: st.DataObject, kill: bool) -> None:
        held = [lease for lease in self.world.core.cluster.leases if lease.record is not None]
        if held:
            lease = data.draw(st.sampled_from(held))
            assert lease.record is not None
            self.world.say(lease.record.peer, m.ReturnLease(lease.lease_id, kill))

    @rule(data=st.data(), blocked=st.booleans())
    def block(self, data: st.DataObject, blocked: bool) -> None:
        held = [lease for lease in self.world.core.cluster.leases if lease.worker_id]
        if held:
            lease = data.draw(st.sampled_from(held))
            if lease.lease_id not in self.workers:
                self.workers[lease.lease_id] = self.world.connect("worker", lease.worker_id)
            kind = m.TaskBlocked if blocked else m.TaskUnblocked
            self.world.say(self.workers[lease.lease_id], kind(lease.lease_id))

    @rule()
    def node_is_replaced(self) -> None:
        self.world.running.clear()
        self.world.lose(self.agent)
        self.agent = self.world.agent(1, cpus=4, gpus=1)

    @rule(microseconds=st.integers(1, 200_000_000))
    def time_passes(self, microseconds: int) -> None:
        """So long that the timers of what is written down run out several times."""
        self._pass(microseconds)

    @precondition(lambda self: self.long_waits)
    @rule(microseconds=st.integers(1, 40_000_000_000))
    def hours_pass(self, microseconds: int) -> None:
        """Past midnight, perhaps. Twice in a story: in ten hours the timers run out thousands of times."""
        self.long_waits -= 1
        self._pass(microseconds)

    def _pass(self, microseconds: int) -> None:
        """In steps, since what waits may begin on the way."""
        until = self.world.now + microseconds / MICRO
        while self.world.now < until:
            due = self.world.core.next_deadline()
            step = until if due is None else min(max(due, self.world.now), until)
            before = round(self.world.now * MICRO)
            occupied = [node.occupied for node in self.world.core.cluster.nodes]
            self.world.now = Instant(step)
            elapsed = round(self.world.now * MICRO) - before
            for amounts in occupied:
                for name, units in amounts.items():
                    self.integral[name] = self.integral.get(name, 0) + units * elapsed
            self.world.wait(0.0)

    def teardown(self) -> None:
        self.world.core.cluster.turn.now = self.world.now
        assert self.world.core.cluster.ledger.held_sums() == self.integral


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=50, stateful_step_count=40)
