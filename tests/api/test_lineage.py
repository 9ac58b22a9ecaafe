"""Lost results are computed again: from what is left, as often as their tasks may run, or it is said why not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.client.core.records import FREED
from atoll.client.session import Session
from atoll.exceptions import AtollError, GetTimeoutError, ObjectLostError, ObjectReconstructionFailedError
from atoll.protocol.messages import DeleteObjects, GetObject, ObjectFound, ReleaseObjects
from tests.patience import PATIENCE_S, eventually

Array = np.ndarray[Any, Any]
ELEMENTS = 40_000


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory in which tasks leave files."""
    return tmp_path


def _is_stored(session: Session, object_id: bytes) -> bool:
    answer = session.ask_agent(GetObject(session.next_request(), object_id))
    if isinstance(answer, ObjectFound):
        session.tell_agent(ReleaseObjects([object_id]))
    return isinstance(answer, ObjectFound)


def _lose(session: Session, *refs: atoll.ObjectRef[Any]) -> None:
    """Take objects out of the store behind everybody's back."""
    atoll.wait(list(refs), num_returns=len(refs), timeout=PATIENCE_S)
    session.tell_agent(DeleteObjects([ref.binary() for ref in refs]))
    for ref in refs:
        eventually(lambda ref=ref: not _is_stored(session, ref.binary()))  # type: ignore[misc]


def _runs(notes: Path, name: str) -> int:
    return len(list(notes.glob(f"{name}-*")))


def _note(notes: Path, name: str) -> None:
    (notes / f"{name}-{time.monotonic_ns()}").touch()


@atoll.remote
def first(notes: Path, value: int = 1) -> Array:
    _note(notes, "first")
    return np.full(ELEMENTS, value)


@atoll.remote
def second(notes: Path, array: Array, inside: list[Any] | None = None) -> Array:
    _note(notes, "second")
    more = int(atoll.get(inside[0])[0]) if inside else 0
    return array + 1 + more


@atoll.remote
def element(array: Array) -> int:
    return int(array[7])


def test_a_lost_result_is_computed_again(session: Session, notes: Path) -> None:
    ref = first.remote(notes, 5)
    _lose(session, ref)
    assert atoll.get(ref)[3] == 5
    assert _runs(notes, "first") == 2


def test_what_nobody_refers_to_takes_no_room_although_it_may_be_needed_again(session: Session, notes: Path) -> None:
    middle = first.remote(notes, 5)
    ref = second.remote(notes, middle)
    atoll.wait([ref])
    address = middle.binary()
    del middle
    eventually(lambda: not _is_stored(session, address))
    _lose(session, ref)
    assert atoll.get(ref)[3] == 6
    assert (_runs(notes, "first"), _runs(notes, "second")) == (2, 2)
    eventually(lambda: not _is_stored(session, address))


def test_what_is_inside_of_arguments_is_computed_again_too(session: Session, notes: Path) -> None:
    inside = first.remote(notes, 10)
    base = first.remote(notes, 1)
    ref = second.remote(notes, base, [inside])
    atoll.wait([ref])
    del inside, base
    _lose(session, ref)
    assert atoll.get(ref)[3] == 12
    assert _runs(notes, "second") == 2


def test_a_task_that_takes_a_lost_result_waits_for_it(session: Session, notes: Path) -> None:
    ref = first.remote(notes, 5)
    _lose(session, ref)
    assert atoll.get([element.remote(ref) for _ in range(3)], timeout=PATIENCE_S) == [5, 5, 5]
    assert _runs(notes, "first") == 2


@atoll.remote
class Reader:
    def element(self, array: Array) -> int:
        return int(array[7])

    def borrowed(self, refs: list[Any]) -> int:
        return int(atoll.get(refs[0])[7])


def test_an_actor_that_takes_a_lost_result_waits_for_it(session: Session, notes: Path) -> None:
    reader = Reader.remote()
    ref = first.remote(notes, 5)
    _lose(session, ref)
    calls = [reader.element.remote(ref), reader.borrowed.remote([ref])]
    assert atoll.get(calls, timeout=PATIENCE_S) == [5, 5]
    atoll.kill(reader)


def test_another_process_that_has_a_ref_has_it_computed_again(session: Session, notes: Path) -> None:
    @atoll.remote
    def reads(refs: list[Any]) -> int:
        return int(atoll.get(refs[0])[7])

    ref = first.remote(notes, 5)
    _lose(session, ref)
    assert atoll.get(reads.remote([ref]), timeout=PATIENCE_S) == 5
    assert _runs(notes, "first") == 2


def test_only_one_of_several_results_is_lost_while_another_is_read(session: Session, notes: Path) -> None:
    @atoll.remote(num_returns=2)
    def two() -> tuple[Array, Array]:
        _note(notes, "two")
        return np.full(ELEMENTS, 1), np.full(ELEMENTS, 2)

    one, other = two.remote()
    view = atoll.get(one)
    _lose(session, other)
    assert atoll.get(other)[0] == 2
    assert view[0] == 1
    assert atoll.get(one)[0] == 1
    assert _runs(notes, "two") == 2


def test_a_value_of_a_stream_that_was_lost_is_yielded_again(session: Session, notes: Path) -> None:
    @atoll.remote
    def arrays() -> Iterator[Array]:
        _note(notes, "arrays")
        for number in range(3):
            yield np.full(ELEMENTS, number)

    refs = list(arrays.remote())
    _lose(session, refs[1])
    assert [int(atoll.get(ref)[0]) for ref in refs] == [0, 1, 2]
    assert _runs(notes, "arrays") == 2


def test_each_time_costs_a_retry(session: Session, notes: Path) -> None:
    ref = first.options(max_retries=2).remote(notes, 5)
    for _ in range(2):
        _lose(session, ref)
        assert atoll.get(ref)[0] == 5
    _lose(session, ref)
    with pytest.raises(ObjectReconstructionFailedError, match="first has no retry left"):
        atoll.get(ref)
    assert _runs(notes, "first") == 3


def test_without_retries_it_is_lost(session: Session, notes: Path) -> None:
    ref = first.options(max_retries=0).remote(notes, 5)
    _lose(session, ref)
    with pytest.raises(ObjectReconstructionFailedError, match="max_retries=0"):
        atoll.get(ref)
    with pytest.raises(ObjectLostError):
        atoll.get(element.remote(ref), timeout=PATIENCE_S)


def test_what_was_put_is_lost(session: Session) -> None:
    ref = atoll.put(np.ones(ELEMENTS))
    session.store.forget([ref.binary()])  # else this process has it pinned
    with session.lock:
        session._release_views()
    _lose(session, ref)
    with pytest.raises(ObjectLostError, match="it was put"):
        atoll.get(ref)


def test_a_task_whose_argument_was_put_and_is_gone_cannot_run_again(session: Session, notes: Path) -> None:
    ref = second.remote(notes, np.zeros(ELEMENTS))
    atoll.wait([ref])
    eventually(lambda: FREED in [entry.state for entry in session.core.objects.entries.values()])
    _lose(session, ref)
    with pytest.raises(ObjectReconstructionFailedError, match="what its task takes"):
        atoll.get(ref)


def test_a_timeout_holds_for_what_is_computed_again(session: Session, notes: Path) -> None:
    @atoll.remote
    def slow() -> Array:
        if _runs(notes, "slow"):
            while not (notes / "go").exists():
                time.sleep(0.002)
        _note(notes, "slow")
        return np.zeros(ELEMENTS)

    ref = slow.remote()
    _lose(session, ref)
    with pytest.raises(GetTimeoutError):
        atoll.get(ref, timeout=0.05)
    (notes / "go").touch()
    assert atoll.get(ref, timeout=PATIENCE_S)[0] == 0


def test_what_is_remembered_goes_with_the_last_ref(session: Session, notes: Path) -> None:
    ref = first.remote(notes)
    for _ in range(200):
        ref = second.remote(notes, ref)
    atoll.wait([ref], timeout=60)
    objects = session.core.objects
    eventually(lambda: len(objects.needed) == 200)
    del ref
    eventually(lambda: not objects.entries and not objects.needed and not objects.origins)
    assert session.core._lineage.size_bytes == 0


@atoll.remote(num_returns=2)
def pair(notes: Path) -> tuple[Array, list[Any]]:
    _note(notes, "pair")
    return np.ones(ELEMENTS), [np.ones(ELEMENTS), atoll.put("inside")]


def test_a_task_that_runs_again_for_one_result_leaves_the_other_and_what_is_inside_as_they_are(
    session: Session, notes: Path
) -> None:
    one, other = pair.remote(notes)
    _lose(session, one)
    assert atoll.get(one, timeout=PATIENCE_S).sum() == ELEMENTS
    assert _runs(notes, "pair") == 2
    assert atoll.get(atoll.get(other, timeout=PATIENCE_S)[1], timeout=PATIENCE_S) == "inside"


@atoll.remote(num_returns=2, max_retries=0)
def half_and_gone(interrupted: bool) -> Iterator[Array]:
    yield np.ones(ELEMENTS)
    if interrupted:
        time.sleep(60)
    os._exit(1)


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_a_task_had_stored_before_it_broke_off_does_not_stay(session: Session, cancelled: bool) -> None:
    one = half_and_gone.remote(cancelled)[0]
    if cancelled:
        eventually(lambda: _is_stored(session, one.binary()))
        atoll.cancel(one)
    with pytest.raises(AtollError):
        atoll.get(one, timeout=PATIENCE_S)
    eventually(lambda: not _is_stored(session, one.binary()))
