"""Shares of sessions: what is held now and lately, weights, turns."""

from __future__ import annotations

import random

import pytest

from atoll.protocol import messages as m
from atoll.protocol.machine import Instant, Peer
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core import shares
from atoll.scheduler.core.history import History
from atoll.scheduler.policy.fair_share import (
    HALF_LIFE_S,
    FadingClock,
    Rules,
    dominant_share,
    recent_average,
    share_lately,
)
from tests.scheduler.world import PYTHON, World, job_id

ONE = UNITS_PER_ONE


def recent(history: History[float], clock: float) -> dict[str, float]:
    return recent_average(history.holding, history.noted, clock)


def test_half_of_what_was_held_counts_after_a_half_life() -> None:
    clock, history = FadingClock(60.0, 1000.0), History[float]()
    history.take({"GPU": ONE}, clock.read(1000.0))
    assert recent(history, clock.read(1060.0)) == {"GPU": pytest.approx(ONE / 2)}
    history.give_back({"GPU": ONE}, clock.read(1060.0))
    assert recent(history, clock.read(1120.0)) == {"GPU": pytest.approx(ONE / 4)}


def test_the_average_is_that_of_small_steps() -> None:
    """Beside the definition: in each step, a part of the difference to what is held is made up for."""
    chance, clock, history = random.Random(3), FadingClock(60.0, 0.0), History[float]()
    average = 0.0
    for step in range(20_000):  # half an hour and more
        now = step * 0.1
        if chance.random() < 0.05:
            if chance.random() < 0.5:
                history.take({"CPU": ONE}, clock.read(now))
            elif history.holding:
                history.give_back({"CPU": ONE}, clock.read(now))
        kept = 2.0 ** (-0.1 / 60.0)
        average = average * kept + history.holding.get("CPU", 0) * (1.0 - kept)
    assert recent(history, clock.read(2000.0))["CPU"] == pytest.approx(average)


def test_without_a_half_life_the_past_does_not_count() -> None:
    clock, history = FadingClock(0.0, 0.0), History[float]()
    history.take({"GPU": ONE}, clock.read(0.0))
    history.give_back({"GPU": ONE}, clock.read(1e6))
    assert recent(history, clock.read(1e6)) == {"GPU": 0.0}
    assert share_lately({"GPU": ONE}, {"GPU": ONE}, 1.0, {"GPU": 0.5 / ONE}, 1.0) == 500_000


def test_a_clock_that_counts_anew_forgets_nothing() -> None:
    """After more half-lives than a clock runs, sessions are what they are by one that was begun late."""
    world = World()
    world.agent(cpus=4)
    client = world.client(1)
    world.demand(client, 2)
    one, _other = world.granted(client)
    for _ in range(8):
        world.wait(10 * HALF_LIFE_S)
    world.say(client, m.ReturnLease(one.lease_id))
    world.serve()
    world.wait(HALF_LIFE_S)
    assert world.state(client).jobs[0].share == 0.625
    job = next(iter(world.core.cluster.jobs))
    assert world.core.cluster.shares.recent(job) == {"CPU": pytest.approx(1.5 * ONE)}


def test_the_dominant_share_is_the_largest_over_the_weight() -> None:
    totals = {"CPU": 10 * ONE, "GPU": 2 * ONE}
    assert dominant_share({"CPU": 2 * ONE, "GPU": ONE}, {}, totals, 1.0) == 500_000
    assert dominant_share({"CPU": 2 * ONE}, {"GPU": 0.6 * ONE}, totals, 1.0) == 300_000
    assert dominant_share({"CPU": 2 * ONE}, {"CPU": 3.0 * ONE}, totals, 2.0) == 250_000
    assert dominant_share({"tpu": ONE}, {"old": ONE}, totals, 1.0) == 0, "what is not there any more does not count"


def test_whoever_runs_the_cluster_has_the_last_word_on_weights() -> None:
    rules = Rules(weights=(("report*.ipynb", 2.0), ("*", 0.5)))
    assert rules.weight_of("report-3.ipynb", 1.0) == 2.0
    assert rules.weight_of("sweep.py", 50.0) == 0.5
    assert Rules().weight_of("sweep.py", 3.0) == 3.0


def test_weights_are_shown_and_wrong_ones_refused() -> None:
    world = World()
    world.agent()
    peer = world.connect("client", job_id(1))
    world.say(peer, m.RegisterJob(1, job_id(1), "kernel", "a.ipynb", 1, "", PYTHON, -1.0))
    assert "a weight of -1.0 is none" in world.only(peer, m.Failed).text
    world.say(peer, m.RegisterJob(2, job_id(1), "kernel", "a.ipynb", 1, "", PYTHON, 3.0))
    assert world.state(peer).jobs[0].weight == 3.0


def test_who_has_had_less_goes_first() -> None:
    world = World()
    world.agent(cpus=1)
    one, two = world.client(1), world.client(2)
    world.demand(one, 1)
    (held,) = world.granted(one)
    world.wait(60)
    world.demand(one, 2, key=2, CPU=1, label="next")  # type: ignore[arg-type]
    world.demand(two, 1)
    world.say(one, m.ReturnLease(held.lease_id))
    assert world.granted(one) == []
    assert len(world.granted(two)) == 1


def test_a_kernel_that_is_restarted_is_the_same_notebook() -> None:
    world = World()
    world.agent(cpus=1)
    one, two = world.client(1), world.client(2)
    world.demand(one, 1)
    assert len(world.granted(one)) == 1
    world.wait(60)
    share = next(job.share for job in world.state(two).jobs if job.name == "notebook-1.ipynb")
    world.lose(one)
    world.serve()
    again = world.connect("client", b"job-new1")
    world.say(again, m.RegisterJob(1, b"job-new1", "kernel", "notebook-1.ipynb", 9, "", PYTHON))
    shares = {job.name: job.share for job in world.state(two).jobs}
    assert shares["notebook-2.ipynb"] == 0.0
    assert 0.0 < shares["notebook-1.ipynb"] <= share - 0.9, "what it held lately, and nothing that it holds"


def test_a_device_that_is_asked_back_is_given_to_who_it_was_asked_for() -> None:
    """Two sessions and one device: whoever gets it keeps it for a while, and then the other does."""
    world = World()
    agent = world.agent(cpus=4, gpus=1)
    clients = [world.client(1), world.client(2)]
    for client in clients:
        world.demand(client, 2, GPU=1)
    turns = []
    for _ in range(8):
        world.wait(0.3)  # a worker starts slowly: meanwhile others have waited for long
        (start,) = world.heard(agent, m.StartLease)
        world.say(agent, m.LeaseStarted(start.lease_id, b"work%04d" % start.lease_id, "/w", 1))
        (holder,) = [client for client in clients if world.heard(client, m.LeaseGranted)]
        turns.append(holder)
        assert world.heard(holder, m.LeaseRecalled) == [], "who has just got it may use it"
        world.wait(0.3)
        (recalled,) = world.heard(holder, m.LeaseRecalled)
        world.say(holder, m.ReturnLease(recalled.lease_id))
        world.demand(holder, 2, GPU=1)
        world.say(agent, m.LeaseEnded(world.only(agent, m.EndLease).lease_id))
    assert turns == clients * 4


def shares_of(world: World, peer: Peer) -> dict[str, float]:
    return {job.name: job.share for job in world.state(peer).jobs}


def restarted(world: World, *, lives_on: bool) -> World:
    """A crash and five seconds: what was written down is there, and perhaps what ran."""
    after = World(journal=world.journal)
    after.now = Instant(world.now + 5.0)
    after.environment = world.environment
    held = [lease for lease in world.core.cluster.leases if lives_on]
    leases = [(lease.lease_id, lease.worker_id, lease.address) for lease in held]
    after.agent(1, cpus=1, leases=leases, started=[world.running[lease.lease_id] for lease in held])
    return after


def test_a_restarted_scheduler_knows_who_has_had_how_much() -> None:
    world = World()
    world.agent(1, cpus=1)
    one = world.client(1)
    world.demand(one, 1)
    (held,) = world.granted(one)
    world.wait(100.0)
    world.say(one, m.ReturnLease(held.lease_id))
    world.serve()
    world.wait(2.0)  # it is written down within a second
    before = shares_of(world, one)["notebook-1.ipynb"]
    assert before == pytest.approx((1.0 - 2.0 ** (-100 / HALF_LIFE_S)), rel=0.01)
    after = restarted(world, lives_on=False)
    after.client(1)
    assert shares_of(after, after.client(2)) == {
        "notebook-1.ipynb": pytest.approx(before * 2.0 ** (-5 / HALF_LIFE_S), abs=1e-6),
        "notebook-2.ipynb": 0.0,
    }


def test_what_was_held_while_nobody_looked_counts() -> None:
    """The scheduler crashes nine seconds after what was held was last written down, and is back five seconds later."""
    world = World()
    world.agent(1, cpus=1)
    one = world.client(1)
    world.demand(one, 1)
    world.granted(one)
    begun = world.now
    world.wait(99.0)
    after = restarted(world, lives_on=True)
    client = after.client(1)
    after.wait(20.0)
    share = shares_of(after, client)["notebook-1.ipynb"]
    assert share == pytest.approx(2.0 - 2.0 ** (-(after.now - begun) / HALF_LIFE_S), abs=1e-6)


def test_what_nobody_comes_back_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAXIMUM_REMEMBERED", 3)
    world = World()
    world.agent(1, cpus=1)
    for number in range(1, 7):
        client = world.client(number)
        world.demand(client, 1)
        world.granted(client)
        world.wait(30.0)
        world.lose(client)
        world.serve()
    kept = [key for table, key in world.journal if table == shares.TABLE]
    assert kept == [job_id(number).hex() for number in (4, 5, 6)]
    again = world.connect("client", b"job-new5")
    world.say(again, m.RegisterJob(1, b"job-new5", "kernel", "notebook-5.ipynb", 9, "", PYTHON))
    assert job_id(5).hex() not in {key for table, key in world.journal if table == shares.TABLE}
    assert shares_of(world, again)["notebook-5.ipynb"] > 0.0
