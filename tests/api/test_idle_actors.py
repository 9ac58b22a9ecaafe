"""Idle actors give their GPUs up and take them back at the next call: real processes, simulated GPUs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import atoll
from atoll import exceptions
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.usefixtures("session")


class Model:
    """Moves what it has on its GPU itself."""

    def __init__(self, fails: str = "") -> None:
        self.moves: list[str] = []
        self._fails = fails

    def offload(self) -> None:
        self._move("offload")

    def restore(self) -> None:
        self._move("restore")

    def _move(self, what: str) -> None:
        if what == self._fails:
            raise RuntimeError("there is no room")
        self.moves.append(what)

    def seen(self) -> list[str]:
        return self.moves


class Counter:
    """Leaves it to the driver."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


@atoll.remote(num_cpus=0, num_gpus=2)
def hold(duration_s: float) -> str:
    time.sleep(duration_s)
    return "held"


@atoll.remote(num_cpus=0, num_gpus=2)
def hold_until(directory: str) -> str:
    (Path(directory) / "held").touch()
    while not (Path(directory) / "enough").exists():
        time.sleep(0.02)
    return "held"


def made(kind: type, *arguments: object) -> atoll.ActorHandle:
    return atoll.remote(kind).options(num_gpus=2, release_gpu_when_idle_s=0.2).remote(*arguments)


def test_an_idle_actor_lets_others_have_its_gpus_and_takes_them_back() -> None:
    model = made(Model)
    # On a slow machine it may have been idle for long enough before it is called at all.
    before = atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held", "all GPUs of the node, although the actor lives"
    assert atoll.get(model.seen.remote(), timeout=PATIENCE_S) == [*before, "offload", "restore"]


def test_a_call_waits_for_the_gpus_and_says_so(tmp_path: Path) -> None:
    model = made(Model)
    before = atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    holder = hold_until.remote(str(tmp_path))
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    call = model.seen.remote()
    while "given up while it was idle" not in atoll.why(call).text:
        assert time.monotonic() < deadline, atoll.why(call)
        time.sleep(0.02)
    assert "hold_until" in str(atoll.why(call)), "and who has them"
    (tmp_path / "enough").touch()
    assert atoll.get([holder, call], timeout=PATIENCE_S) == ["held", [*before, "offload", "restore"]]


def test_the_driver_does_it_for_an_actor_that_does_not() -> None:
    counter = made(Counter)
    assert atoll.get(counter.add.remote(), timeout=PATIENCE_S) == 1
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held"
    assert atoll.get([counter.add.remote() for _number in range(3)], timeout=PATIENCE_S) == [2, 3, 4], "in order"


def test_an_actor_that_cannot_restore_is_dead_and_its_callers_hear_why() -> None:
    model = made(Model, "restore")
    atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held"
    with pytest.raises(exceptions.ActorDiedError, match=r"restore\(\) raised RuntimeError: there is no room"):
        atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held"


def test_an_actor_that_cannot_offload_keeps_its_gpus() -> None:
    model = made(Model, "offload")
    until = time.monotonic() + PATIENCE_S
    while "it keeps its GPUs" not in atoll.why(model).text and time.monotonic() < until:
        time.sleep(0.02)
    assert atoll.why(model).text.endswith("while it is idle: offload() raised RuntimeError: there is no room")
    assert atoll.get(model.seen.remote(), timeout=PATIENCE_S) == []
    assert not atoll.wait([hold.remote(0.0)], timeout=0.5)[0], "it waits until the actor is gone"


def test_an_actor_that_is_away_is_killed_like_any_other() -> None:
    model = made(Model)
    atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held"
    atoll.kill(model)
    with pytest.raises(exceptions.ActorDiedError):
        atoll.get(model.seen.remote(), timeout=PATIENCE_S)
    assert atoll.get(hold.remote(0.0), timeout=PATIENCE_S) == "held"


def test_what_would_become_of_one_can_be_asked() -> None:
    eventually(lambda: atoll.simulate(num_gpus=2, release_gpu_when_idle_s=60).state == "fits", "others have ended")
    assert atoll.simulate(num_gpus=1, lifetime="detached", max_restarts=3).request == "1 GPU", "an actor takes no CPU"
    assert atoll.simulate(num_gpus=99, release_gpu_when_idle_s=60).state == "impossible"
    with pytest.raises(ValueError, match="an actor that holds GPUs"):
        atoll.simulate(release_gpu_when_idle_s=60)
    with pytest.raises(ValueError, match="unknown option"):
        atoll.simulate(num_gpus=1, release_gpu_when_idle_s=60, max_calls=1)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [({}, "holds GPUs"), ({"num_gpus": 1, "max_concurrency": 2}, "one call after the other")],
)
def test_options_that_make_no_sense(options: dict[str, float], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        atoll.remote(Counter).options(release_gpu_when_idle_s=60, **options)
