"""`atoll.usage` on a cluster: what a task held and used is told by its name."""

from __future__ import annotations

import time

import pytest

import atoll


@pytest.fixture(autouse=True)
def _session(cluster: object) -> None:
    """Have a cluster."""


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_what_a_task_has_held_and_used() -> None:
    task = atoll.remote(num_cpus=0.5)(burn).options(name="burn for usage")
    began = time.monotonic()
    atoll.get(task.remote(0.9))
    took = time.monotonic() - began
    deadline = time.monotonic() + 10.0
    while True:
        (one,) = [one for one in atoll.usage() if one.cell == "burn for usage"]
        if one.used.get("CPU", 0.0) >= 0.4:  # what it used since the last sample, up to 0.4 s, is told as its worker's
            break
        assert time.monotonic() < deadline, one
        time.sleep(0.05)
    whole = time.monotonic() - began
    assert 0.5 * 0.9 <= one.held["CPU"] <= 0.5 * (whole + 0.1)
    assert one.used["CPU"] <= took + 1.0
    assert one.used["memory"] > 2**20
    assert one.actor == ""
    (notebook,) = [each for each in atoll.usage(by="notebook", today=True) if each.notebook == one.notebook]
    assert notebook.held["CPU"] >= one.held["CPU"]


def test_an_actor_has_a_line_of_its_own() -> None:
    @atoll.remote(num_cpus=0)
    class Counter:
        def add(self) -> int:
            return 1

    counter = Counter.options(name="counter for usage", num_cpus=0.25).remote()
    atoll.get(counter.add.remote())
    found = {one.actor: one for one in atoll.usage(by="actor")}
    assert found["counter for usage"].leases == 1
    assert found["counter for usage"].held["CPU"] > 0
    atoll.kill(counter)
