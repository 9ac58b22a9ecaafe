"""Objects and names, as users see them, on a real cluster."""

from __future__ import annotations

import copy
import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import ObjectLostError, ObjectStoreFullError, OwnerDiedError, SerializationError
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


def in_another_process(code: str) -> str:
    """Run a script as another job of the same user and return what it prints."""
    source = "import atoll, numpy as np\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        b"x" * 300_000,
        bytearray(b"y" * 300_000),
        {"a": [1, (2, 3)], "b": {4}},
        np.arange(10),
        np.arange(500_000).reshape(1000, 500).T,
        [np.zeros(30_000), np.ones(40_000)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_as_they_were(value: Any) -> None:
    back = atoll.get(atoll.put(value))
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)


def test_tables_come_back_without_a_copy(session: Session) -> None:
    frame = pd.DataFrame({"delay": np.arange(200_000.0), "hour": np.arange(200_000) % 24})
    table = pa.table({"delay": np.arange(200_000.0)})
    back_frame, back_table = atoll.get([atoll.put(frame), atoll.put(table)])
    pd.testing.assert_frame_equal(back_frame, frame)
    assert back_table.equals(table)
    segments = [(s.address, s.address + s.size_bytes) for s in session.store._segments.values()]
    address = back_table.column("delay").chunk(0).buffers()[1].address
    assert any(start <= address < end for start, end in segments), "the table's buffer lies in shared memory"


def test_large_arrays_are_read_only_views_that_outlive_their_ref() -> None:
    ref = atoll.put(np.arange(100_000))
    view = atoll.get(ref)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    part = view[50:60]
    del view, ref
    gc.collect()
    other = [atoll.put(np.zeros(100_000)) for _ in range(4)]
    assert part.tolist() == list(range(50, 60)), "memory in use was given to another object"
    del part, other


def test_a_task_reads_what_was_put_and_returns_what_is_large() -> None:
    @atoll.remote
    def double(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array * 2

    ref = atoll.put(np.arange(300_000))
    assert atoll.get(double.remote(double.remote(ref)))[-1] == 4 * 299_999
    assert atoll.get(double.remote(np.arange(300_000)))[-1] == 2 * 299_999


def test_r12_an_object_larger_than_the_store_is_refused_with_both_sizes() -> None:
    with pytest.raises(ObjectStoreFullError, match=r"(?s)288.*256 MiB"):
        atoll.put(_mega(288))


def test_a_store_full_of_what_is_in_use_is_an_error_and_nothing_else_breaks() -> None:
    arrays: list[Any] = []

    def fill() -> None:
        while len(arrays) < 10:
            arrays.append(atoll.get(atoll.put(_mega(48))))

    with pytest.raises(ObjectStoreFullError, match="in use and cannot be spilled"):
        fill()
    assert 4 <= len(arrays) <= 5
    assert all(array[0] == 1 == array[-1] for array in arrays)
    arrays.clear()
    assert atoll.get(atoll.put(_mega(200)))[-1] == 1


def test_more_than_fits_is_kept_on_disk_and_read_where_it_is_wanted(cluster: Path) -> None:
    @atoll.remote
    def ends(array: np.ndarray[Any, Any]) -> tuple[int, int]:
        return int(array[0]), int(array[-1])

    refs = [atoll.put(np.full(48 * 2**20, number, "u1")) for number in range(8)]
    assert len(list(cluster.glob("*/spill/*.spill"))) >= 3
    assert [atoll.get(ends.remote(ref)) for ref in refs] == [(number, number) for number in range(8)]
    small = [atoll.put(np.full(200_000, number, "u1")) for number in range(200)]
    assert all(atoll.get(ref)[-1] == number for number, ref in enumerate(refs))
    assert all(atoll.get(ref)[0] == number for number, ref in enumerate(small))
    del refs, small
    gc.collect()
    until = time.monotonic() + PATIENCE_S
    while list(cluster.glob("*/spill/*.spill")):
        assert time.monotonic() < until, "files of objects that nobody refers to are left"
        time.sleep(0.02)


def test_r10_a_spill_file_that_was_altered_is_a_lost_object(cluster: Path) -> None:
    refs = [atoll.put(np.full(48 * 2**20, number, "u1")) for number in range(7)]
    for path in cluster.glob("*/spill/*.spill"):
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"?")
    lost = 0
    for number, ref in enumerate(refs):
        try:
            array = atoll.get(ref)
            assert array.min() == array.max() == number
        except ObjectLostError:
            lost += 1
    assert lost >= 2


def mapped() -> list[tuple[int, str]]:
    """The size and protection of each mapping of shared memory that this process has."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:atoll" in line]
    return [(int(line[0].split("-")[1], 16) - int(line[0].split("-")[0], 16), line[1]) for line in lines]


def test_mappings_of_memory_that_is_gone_are_given_back() -> None:
    for size in (70, 75, 80, 90, 100, 110, 120, 130):
        ref = atoll.put(_mega(size))
        assert atoll.get(ref)[-1] == 1
        del ref
    until = time.monotonic() + PATIENCE_S
    while sum(size for size, _protection in mapped()) > 2 * 200 * 2**20:
        assert time.monotonic() < until, f"memory that was given back is mapped: {mapped()}"
        time.sleep(0.02)


def test_s8_who_wrote_an_object_reads_it_through_memory_that_cannot_be_written_to() -> None:
    got = atoll.get(atoll.put(np.arange(300_000)))
    address = got.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            assert line.split()[1] == "r--p"
            return
    pytest.fail("the array lies nowhere")


def test_an_interrupt_ends_waiting_for_room() -> None:
    arrays = [atoll.get(atoll.put(_mega(48))) for _ in range(4)]
    timer = threading.Timer(0.15, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        atoll.put(_mega(128))
    timer.join()
    arrays.clear()
    assert atoll.get(atoll.put(_mega(200)))[0] == 1, "what was asked for in vain takes no room"


def _mega(size: int) -> np.ndarray[Any, Any]:
    return np.ones(size * 2**20, dtype="u1")


def test_put_refuses_refs_and_what_does_not_pickle() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        atoll.put(atoll.put(1))
    with pytest.raises(SerializationError, match="generator"):
        atoll.put(i for i in range(3))


def test_a_name_is_found_by_another_job_without_a_copy() -> None:
    atoll.cache["squares"] = np.arange(200_000) ** 2
    atoll.cache["small"] = {"answer": 42}
    assert in_another_process('print(atoll.cache["squares"][-1], atoll.cache["small"]["answer"])') == f"{199_999**2} 42"
    assert sorted(atoll.cache) == ["small", "squares"]
    del atoll.cache["squares"], atoll.cache["small"]
    assert "squares" not in atoll.cache
    with pytest.raises(KeyError, match="squares"):
        atoll.cache["squares"]


def test_a_name_outlives_the_job_that_gave_it() -> None:
    in_another_process('atoll.cache["theirs"] = np.arange(100_000)')
    assert atoll.cache["theirs"].sum() == np.arange(100_000).sum()

    @atoll.remote
    def total(array: np.ndarray[Any, Any]) -> int:
        return int(array.sum())

    assert atoll.get(total.remote(atoll.cache.ref("theirs"))) == np.arange(100_000).sum()
    del atoll.cache["theirs"]


def test_a_forked_process_has_a_session_of_its_own() -> None:
    script = """
        import os, sys
        @atoll.remote
        def double(x):
            return 2 * x
        print(atoll.get(double.remote(1)), flush=True)
        child = os.fork()
        if child == 0:
            print(atoll.get(double.remote(2)), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(atoll.get(double.remote(4)), flush=True)
    """
    assert in_another_process(script).split() == ["2", "4", "8"]


def test_get_or_compute_computes_once_whoever_asks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    script = f"""
        import time
        def load():
            with open({str(log)!r}, "a") as file:
                file.write("computed\\n")
            time.sleep(0.3)
            return np.arange(100_000)
        print(atoll.cache.get_or_compute("once", load).sum())
    """
    source = "import atoll, numpy as np\n" + textwrap.dedent(script)
    askers = [subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {asker.communicate(timeout=PATIENCE_S)[0].strip() for asker in askers}
    assert sums == {str(np.arange(100_000).sum())}
    assert log.read_text() == "computed\n"
    del atoll.cache["once"]


def test_a_computation_that_fails_leaves_the_name_free() -> None:
    def fail() -> None:
        raise OSError("no such table")

    with pytest.raises(OSError, match="no such table"):
        atoll.cache.get_or_compute("late", fail)
    assert atoll.cache.get_or_compute("late", lambda: 5) == 5
    del atoll.cache["late"]


def test_what_was_computed_and_cannot_be_kept_is_not_lost() -> None:
    with pytest.warns(UserWarning, match="'unkept' is not kept for others: .*ObjectRef"):
        (ref,) = atoll.cache.get_or_compute("unkept", lambda: [atoll.put(1)])
    assert atoll.get(ref) == 1
    assert atoll.cache.get_or_compute("unkept", lambda: 2) == 2
    del atoll.cache["unkept"]


def test_the_cache_refuses_what_would_go_with_the_kernel() -> None:
    with pytest.raises(SerializationError, match="ObjectRef"):
        atoll.cache["bad"] = [atoll.put(1)]
    with pytest.raises(TypeError, match="non-empty string"):
        atoll.cache[3] = 1  # type: ignore[index]


def test_what_is_anonymous_goes_with_its_owner(tmp_path: Path) -> None:
    @atoll.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def read(self) -> Any:
            return atoll.get(self.refs[0], timeout=PATIENCE_S)

    keeper = Keeper.options(name="keeper").remote()
    in_another_process('atoll.get(atoll.get_actor("keeper").keep.remote([atoll.put(np.zeros(100_000))]))')
    with pytest.raises(OwnerDiedError):
        atoll.get(keeper.read.remote(), timeout=PATIENCE_S)
    atoll.kill(keeper)


def test_a_borrowed_ref_keeps_its_object_alive() -> None:
    @atoll.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def read(self) -> float:
            return float(atoll.get(self.refs[0]).sum())

    keeper = Keeper.remote()
    ref = atoll.put(np.ones(100_000))
    atoll.get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    fill = [atoll.put(np.zeros(100_000)) for _ in range(5)]
    assert atoll.get(keeper.read.remote(), timeout=PATIENCE_S) == 100_000
    del fill


def test_a_cycle_that_a_task_leaves_behind_does_not_keep_its_arguments(session: Session) -> None:
    @atoll.remote
    def leave_cycle(array: np.ndarray[Any, Any]) -> None:
        cycle: dict[str, Any] = {"array": array}
        cycle["itself"] = cycle

    def settles_at(count: int) -> bool:
        until = time.monotonic() + PATIENCE_S
        while len(session.state().objects) != count and time.monotonic() < until:
            time.sleep(0.05)
        return len(session.state().objects) == count

    array = atoll.put(np.zeros(200_000))
    assert settles_at(1)
    atoll.get(leave_cycle.remote(array))
    del array
    assert settles_at(0)


def test_a_ref_that_came_from_another_process_can_be_passed_on_as_an_argument() -> None:
    @atoll.remote
    def plus(number: int, more: int) -> int:
        return number + more

    @atoll.remote
    def passes_on(refs: list[Any]) -> int:
        return int(atoll.get(plus.remote(refs[0], 10)))

    @atoll.remote
    def leaves(refs: list[Any]) -> list[Any]:
        return [plus.remote(refs[0], 20)]

    refs = [plus.remote(1, 1)]
    assert atoll.get(passes_on.remote(refs), timeout=PATIENCE_S) == 12
    assert atoll.get(atoll.get(leaves.remote(refs), timeout=PATIENCE_S)[0], timeout=PATIENCE_S) == 22


def test_a_copy_of_a_ref_is_the_same_ref() -> None:
    ref = atoll.put(4)
    assert copy.copy(ref) is ref
    assert atoll.get(copy.deepcopy({"a": [ref]})["a"]) == [4]


def test_get_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="not int"):
        atoll.get(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="there is a int in it"):
        atoll.get([3])  # type: ignore[list-item]


def test_what_the_next_call_takes_too_stays_pinned_between_them_and_no_longer(session: Session) -> None:
    @atoll.remote
    class Reader:
        def uses(self, ref: list[Any], _array: Any = None) -> int:
            from atoll.client.current import current_session

            store = current_session().store
            place = store._places.get(ref[0].binary())
            return 0 if place is None else place.uses - list(store._released).count(ref[0].binary())

    reader = Reader.remote()
    ref = atoll.put(np.ones(100_000))
    assert atoll.get(reader.uses.remote([ref])) == 0
    assert atoll.get(reader.uses.remote([ref], ref)) == 2, "its view, and what is carried over"
    assert atoll.get(reader.uses.remote([ref], ref)) == 2
    assert atoll.get(reader.uses.remote([ref])) == 0, "the next call does not take it"
    atoll.get(reader.uses.remote([ref], ref))
    del ref
    until = time.monotonic() + PATIENCE_S
    while session.state().objects:
        assert time.monotonic() < until, "an idle process keeps what its last call took"
        time.sleep(0.02)
