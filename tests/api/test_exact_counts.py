"""Objects live exactly as long as somebody refers to them, also where those who do are killed.

A walk by seed: refs go to processes, processes drop them or are killed, and now and then what the store has is compared
with what the walk says should be there: nothing less, and nothing more.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.client.session import Session
from tests.patience import PATIENCE_S, eventually

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

SIZE = 40_000
"""Of each array, in float64: 320 kB, so that it is in the store."""


class Holder:
    """Keeps refs, and makes objects of its own that others keep."""

    def __init__(self) -> None:
        self.refs: dict[str, Any] = {}

    def pid(self) -> int:
        return os.getpid()

    def keep(self, key: str, inside: list[Any]) -> None:
        self.refs[key] = inside[0]

    def pass_on(self, key: str, other: Any) -> None:
        atoll.get(other.keep.remote(key, [self.refs[key]]))

    def drop(self, key: str) -> None:
        del self.refs[key]


class Walk:
    """What is done, and what should be there.

    Args:
        session: Of the test.
        seed: Of the choices.
    """

    def __init__(self, session: Session, seed: int) -> None:
        self.session = session
        self.random = random.Random(seed)
        kind = atoll.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Holder)
        self.actors = [kind.remote() for _ in range(3)]
        self.ours: dict[str, Any] = {}
        self.held: list[set[str]] = [set() for _ in self.actors]
        self.ids: dict[str, str] = {}
        self.made = 0

    def put(self) -> None:
        key = f"object-{self.made}"
        self.made += 1
        self.ours[key] = atoll.put(np.full(SIZE, self.made, dtype=float))
        self.ids[key] = self.ours[key].hex()

    def give(self) -> None:
        actor = self.random.randrange(len(self.actors))
        if self.ours:
            key = self.random.choice(sorted(self.ours))
            atoll.get(self.actors[actor].keep.remote(key, [self.ours[key]]))
            self.held[actor].add(key)

    def pass_on(self) -> None:
        one, other = self.random.sample(range(len(self.actors)), 2)
        if self.held[one]:
            key = self.random.choice(sorted(self.held[one]))
            atoll.get(self.actors[one].pass_on.remote(key, self.actors[other]))
            self.held[other].add(key)

    def drop(self) -> None:
        actor = self.random.randrange(len(self.actors))
        if self.held[actor]:
            key = self.random.choice(sorted(self.held[actor]))
            atoll.get(self.actors[actor].drop.remote(key))
            self.held[actor].discard(key)

    def drop_ours(self) -> None:
        if self.ours:
            del self.ours[self.random.choice(sorted(self.ours))]

    def kill(self) -> None:
        actor = self.random.randrange(len(self.actors))
        os.kill(atoll.get(self.actors[actor].pid.remote()), signal.SIGKILL)
        self.held[actor].clear()

    def storm(self) -> None:
        """Calls and kills without waiting for either: what of it has happened nobody knows."""
        pids = atoll.get([actor.pid.remote() for actor in self.actors])
        self.random.shuffle(pids)
        for number in range(24):
            ref = atoll.put(np.full(SIZE, float(number)))
            self.random.choice(self.actors).keep.remote(f"storm-{number}", [ref])
            if number % 8 == self.random.randrange(8) and pids:
                os.kill(pids.pop(), signal.SIGKILL)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def check(self) -> None:
        """Wait until the store has exactly what somebody refers to."""
        gc.collect()
        expected = {self.ids[key] for key in set(self.ours).union(*self.held)}
        until = time.monotonic() + PATIENCE_S
        while (found := {each.object_id for each in self.session.state().objects}) != expected:
            if time.monotonic() > until:
                lost, left = expected - found, found - expected
                raise AssertionError(f"after {self.made} objects: lost {sorted(lost)}, left behind {sorted(left)}")
            time.sleep(0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_drops_and_kills_the_store_has_what_is_referred_to_and_nothing_else(
    session: Session, seed: int
) -> None:
    walk = Walk(session, seed)
    kinds = [walk.put] * 3 + [walk.give] * 4 + [walk.pass_on] * 3 + [walk.drop] * 2 + [walk.drop_ours] * 2 + [walk.kill]
    for step in range(48):
        walk.random.choice(kinds)()
        if step % 8 == 7:
            walk.check()
    for key in list(walk.ours):
        assert atoll.get(walk.ours[key])[0] == int(key.rpartition("-")[2]) + 1
    walk.storm()
    walk.ours.clear()
    del walk.actors[:]
    for held in walk.held:
        held.clear()
    walk.check()
    eventually(lambda: session.state().nodes[0].store_used_bytes == 0, "no byte is reserved in the store")
