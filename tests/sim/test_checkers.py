"""The checkers can fail: each of these plants a bug, and the simulator must find it and say what is wrong.

A bug is planted in a core or in what surrounds it; some seed of the first few dozens must notice.
"""

from __future__ import annotations

from typing import Any

import pytest

from atoll.client.core.objects import ObjectTable
from atoll.client.core.tasks import Tasks
from atoll.nodeagent.core.lifetimes import Lifetimes
from atoll.protocol import messages as m
from atoll.protocol.channel_messages import DropHolds, TaskReturned
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core import names as name_records
from atoll.scheduler.core.actor import Actor
from atoll.scheduler.core.groups import Group, GroupTable
from atoll.scheduler.core.names import NameTable
from atoll.scheduler.core.supply import Supply
from atoll.testing import Machine, SimulationFailure
from tests.sim.daemon_processes import AgentProcess, SimulatedJournal
from tests.sim.options import options_for
from tests.sim.scenario import run_seed
from tests.sim.worker_process import WorkerProcess

SEEDS = 150


def failure_of(profiles: str = "", begin: int = 0, seeds: int = SEEDS) -> str:
    """Run seeds until one fails, from one on that is known to be near, and return what it says."""
    for seed in range(begin, begin + seeds):
        if profiles and options_for(seed).profile not in profiles.split():
            continue
        try:
            run_seed(seed)
        except SimulationFailure as failure:
            text = str(failure)
            assert f"make simulate SEED={seed}" in text, "it says how to see it again"
            assert "the last steps:" in text
            return text
    return ""


def lose(monkeypatch: pytest.MonkeyPatch, sender: type[Machine], kind: type[Any]) -> None:
    """Have a kind of machine lose a kind of message that it should send."""
    send = sender.send

    def losing(machine: Any, peer: Any, message: Any) -> None:
        if type(message) is not kind:
            send(machine, peer, message)

    monkeypatch.setattr(sender, "send", losing)


def test_an_agent_that_loses_lease_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, AgentProcess, m.LeaseEnded)
    assert "everything comes to rest: not within" in failure_of()


def test_a_worker_that_loses_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, WorkerProcess, TaskReturned)
    assert "driver-1 waits for" in failure_of("calm")


def test_a_worker_that_never_drops_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, WorkerProcess, DropHolds)
    assert "every ref is let go: not within" in failure_of("calm")


def test_a_worker_that_keeps_a_ref_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(_worker: WorkerProcess) -> Any:
        return iter(())

    monkeypatch.setattr(WorkerProcess, "_register_borrowed", forgetful)
    assert "unknown to its owner" in failure_of()


def test_a_caller_that_lets_go_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = ObjectTable.resolve

    def careless(table: ObjectTable, object_id: bytes, location: Any, contained: list[bytes]) -> Any:
        return resolve(table, object_id, location, [])

    monkeypatch.setattr(ObjectTable, "resolve", careless)
    assert "every ref is let go: not within" in failure_of("calm")


def test_a_task_that_must_not_run_twice_and_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(tasks: Tasks, record: Any, now: Any) -> bool:
        record.peer = None
        record.attempt += 1
        if record.attempt > 3:
            return False
        tasks.ready(record, now)
        return True

    monkeypatch.setattr(Tasks, "retry", again)
    assert "must not run twice, and runs again" in failure_of()


def test_a_device_that_two_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def held_or_not(supply: Supply, wanted: Any) -> Any:
        return list(supply.devices.values())[: max(1, wanted.device_units // UNITS_PER_ONE)] or None

    monkeypatch.setattr(Supply, "devices_for", held_or_not)
    assert "device" in failure_of()


@pytest.mark.timeout(240)
def test_an_actor_whose_next_process_begins_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = property(lambda _actor: None, lambda _actor, _home: None)
    monkeypatch.setattr(Actor, "leaving", nothing)  # the home of a process that is being killed is forgotten
    assert "lives in" in failure_of(begin=45, seeds=900), "about one seed in a hundred shows it"


def test_a_name_that_two_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = NameTable.claim

    def generous(table: NameTable, peer: Any, message: Any) -> None:
        record = table._names.get(message.name)
        if record is not None and record.location is None and message.compute:
            table._turn.send(peer, m.NameClaimed(message.request, None, True))
        else:
            claim(table, peer, message)

    monkeypatch.setattr(NameTable, "claim", generous)
    assert "at once" in failure_of()


def test_a_name_that_is_given_before_the_object_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = NameTable.publish

    def hasty(table: NameTable, peer: Any, message: Any) -> None:
        publish(table, peer, message)
        table.adopted(message.location.object_id)

    monkeypatch.setattr(NameTable, "publish", hasty)
    assert "was published and has no object" in failure_of()


def test_a_journal_that_forgets_names(monkeypatch: pytest.MonkeyPatch) -> None:
    read = SimulatedJournal.read

    def forgetful(journal: SimulatedJournal) -> list[tuple[str, str, bytes]]:
        return [record for record in read(journal) if record[0] != name_records.TABLE]

    monkeypatch.setattr(SimulatedJournal, "read", forgetful)
    text = failure_of("scheduler")
    assert "was published and has no object" in text or "all bytes are freed: not within" in text


def test_a_store_that_uses_bytes_again_while_somebody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpinned(_lifetimes: Lifetimes, _stored: Any, _peer: Any) -> None:
        """Pin nothing."""

    monkeypatch.setattr(Lifetimes, "pin", unpinned)
    assert failure_of()


def test_a_store_that_keeps_what_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    lose_delete = Lifetimes.delete

    def lazy(lifetimes: Lifetimes, peer: Any, message: Any, now: Any) -> None:
        lose_delete(lifetimes, peer, m.DeleteObjects(message.object_ids[1:]), now)

    monkeypatch.setattr(Lifetimes, "delete", lazy)
    monkeypatch.setattr(Lifetimes, "job_ended", lambda _lifetimes, _process, _now: None)
    monkeypatch.setattr(Lifetimes, "owner_gone", lambda _lifetimes, _process, _now: None)
    assert "all bytes are freed: not within" in failure_of("calm")


def test_a_scheduler_that_places_half_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def place_one(table: GroupTable, group: Group) -> bool:
        bundle = group.bundles[0]
        node = table._placement.best(bundle.shape)
        if node is not None:
            node.reserve(bundle.number, bundle.shape.wanted)
            table._settle(bundle, node)
            table._complete(group)
        return node is not None

    monkeypatch.setattr(GroupTable, "_place", place_one)
    monkeypatch.setattr(GroupTable, "check_invariants", lambda _table: None)
    assert "is CREATED with 1 of" in failure_of("calm")
