"""The object store between real processes: what readers can and cannot do, and what happens when memory is short."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from atoll.client.connection import Connection
from atoll.nodeagent.segments import SegmentError, SharedSegment
from atoll.protocol.messages import (
    CreateObject,
    DeleteObjects,
    Failed,
    GetObject,
    NodeSampled,
    ObjectCreated,
    ObjectFound,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
)
from tests.nodeagent.running import RunningAgent, ask, check_that_it_answers_meanwhile
from tests.patience import eventually

Start = Callable[..., RunningAgent]
MIB = 2**20


def create(connection: Connection, object_id: bytes, size: int) -> tuple[ObjectCreated, mmap.mmap | None]:
    answer = connection.request(CreateObject(connection.next_request(), object_id, size))
    assert isinstance(answer, ObjectCreated), answer
    if not answer.has_descriptor:
        return answer, None
    descriptor = connection.take_descriptor()
    mapped = mmap.mmap(descriptor, answer.segment_bytes)
    os.close(descriptor)
    os.close(connection.take_descriptor())  # to read with
    return answer, mapped


def put(connection: Connection, object_id: bytes, data: bytes, pin: bool = False) -> ObjectCreated:
    created, mapped = create(connection, object_id, len(data))
    assert mapped is not None
    mapped[created.offset : created.offset + len(data)] = data
    mapped.close()
    sealed = connection.request(SealObject(connection.next_request(), object_id, b"layout", pin))
    assert isinstance(sealed, ObjectSealed)
    return created


def find(connection: Connection, object_id: bytes) -> tuple[ObjectFound, int]:
    found = connection.request(GetObject(connection.next_request(), object_id))
    assert isinstance(found, ObjectFound), found
    return found, connection.take_descriptor()


@pytest.mark.processes
def test_an_object_is_read_by_another_process(start_agent: Start) -> None:
    agent = start_agent()
    with agent.attached() as (writer, ids), agent.attached() as (reader, _ids):
        small, large = ids.object_id(), ids.object_id()
        put(writer, small, b"coral")
        put(writer, large, b"reef" * MIB)
        for object_id, data in ((small, b"coral"), (large, b"reef" * MIB)):
            found, descriptor = find(reader, object_id)
            with mmap.mmap(descriptor, found.segment_bytes, prot=mmap.PROT_READ) as mapped:
                assert mapped[found.offset : found.offset + found.size_bytes] == data
            os.close(descriptor)
            assert found.layout == b"layout"
            again = reader.request(GetObject(reader.next_request(), object_id))
            assert isinstance(again, ObjectFound)
            assert not again.has_descriptor


@pytest.mark.processes
def test_s7_segments_have_no_name_that_another_user_could_open(start_agent: Start) -> None:
    before = set(Path("/dev/shm").iterdir())
    agent = start_agent()
    with agent.attached() as (writer, ids):
        put(writer, ids.object_id(), b"secret" * MIB)
        links = [str(entry.readlink()) for entry in Path(f"/proc/{agent.process.pid}/fd").iterdir()]
        # Whatever is no socket, pipe, log or the like is an unnamed file of memory.
        assert {link for link in links if "shm" in link or "memfd" in link} == {"/memfd:atoll (deleted)"}
        assert set(Path("/dev/shm").iterdir()) == before


@pytest.mark.processes
def test_s8_a_reader_cannot_alter_an_object(start_agent: Start) -> None:
    agent = start_agent()
    with agent.attached() as (writer, ids), agent.attached() as (reader, _ids):
        object_id = ids.object_id()
        put(writer, object_id, b"x" * MIB)
        found, descriptor = find(reader, object_id)
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, found.segment_bytes)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"y")
        for size in (0, found.segment_bytes * 2):
            with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
                os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, found.segment_bytes, prot=mmap.PROT_READ) as mapped:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            address = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), 3) == -1
            assert ctypes.get_errno() == 13
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))
            assert mapped[:1] == b"x"
        os.close(descriptor)


def test_s8_a_reader_cannot_open_a_segment_anew_or_resize_it() -> None:
    """As a user without privileges, which root is not: the segment is made and opened again by one in a child."""
    script = textwrap.dedent(
        """
        import os, sys
        from atoll.nodeagent.segments import SharedSegment, available_bytes
        from atoll.nodeagent import processes
        available_bytes()  # what this imports lies where another user may not read
        if os.getuid() == 0:
            os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
            processes._prctl(4, 1)  # a process that changed its user is not given its own /proc/self otherwise
        segment = SharedSegment(8192)
        segment.reserve()
        for descriptor in (segment.readable, segment.writable):
            try:
                os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            except PermissionError:
                print("denied")
            for size in (0, 4096, 16384):
                try:
                    os.ftruncate(descriptor, size)
                except OSError:
                    print("denied")
        """
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["denied"] * 8


@pytest.mark.processes
def test_r8_kill_during_put_gives_the_bytes_back(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M")
    script = textwrap.dedent(
        """
        import os, sys, time
        from atoll.client.connection import Connection
        from atoll.ids import IdFactory, ProcessId
        from atoll.protocol.handshake import Identity
        from atoll.protocol.messages import AttachProcess, CreateObject
        process_id = b"put-put!"
        connection = Connection(sys.argv[1], bytes.fromhex(sys.stdin.readline()), Identity("client", process_id))
        connection.request(AttachProcess(1, process_id, os.getpid()))
        print(connection.request(CreateObject(2, process_id + bytes(12), 60 * 2**20)), flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, agent.cluster.agent_socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(agent.key.hex() + "\n")
        writer.stdin.flush()
        assert "ObjectCreated" in writer.stdout.readline()
        with agent.attached() as (other, ids):
            full = other.request(CreateObject(other.next_request(), ids.object_id(), 50 * MIB))
            assert isinstance(full, Failed)
            assert full.kind == "ObjectStoreFullError"
            lost = other.request(GetObject(other.next_request(), b"put-put!" + bytes(12)))
            assert isinstance(lost, Failed)
            assert lost.kind == "ObjectLostError"
            writer.kill()

            def is_there_room() -> bool:
                answer = other.request(CreateObject(other.next_request(), ids.object_id(), 50 * MIB))
                return isinstance(answer, ObjectCreated)

            eventually(is_there_room, "the bytes are back")
            lost = other.request(GetObject(other.next_request(), b"put-put!" + bytes(12)))
            assert isinstance(lost, Failed)
            assert lost.kind == "ObjectLostError"


def test_r11_memory_that_the_host_has_not_is_a_clean_error() -> None:
    segment = SharedSegment(64 * MIB)
    left = iter([600 * MIB, 260 * MIB])
    with pytest.raises(SegmentError, match=r"no memory left for 64 MiB: 4 MiB of it are available"):
        segment.reserve(available=lambda: next(left))
    segment.close()


def test_a_segment_that_is_closed_meanwhile_is_neither_reserved_nor_cut() -> None:
    """Its descriptor's number may be another segment's by then."""
    segment = SharedSegment(64 * MIB)

    def closed_by_another_thread() -> int:
        segment.close()
        return 2**40

    segment.reserve(closed_by_another_thread)
    segment.cut(MIB)


def segment_blocks(segment: SharedSegment) -> int:
    return os.fstat(segment.writable).st_blocks


def test_r11_a_refused_reservation_is_an_error_and_never_sigbus() -> None:
    script = textwrap.dedent(
        """
        import resource
        from atoll.nodeagent.segments import SharedSegment, SegmentError
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            SharedSegment(2**22).reserve()
        except SegmentError as error:
            print(error)
        """
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert "4 MiB" in output


def test_r11_every_page_of_a_segment_is_reserved_before_anybody_writes() -> None:
    segment = SharedSegment(8 * MIB)
    assert segment_blocks(segment) == 0
    segment.reserve()
    assert segment_blocks(segment) * 512 == 8 * MIB
    seals = fcntl.fcntl(segment.writable, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    segment.close()
    segment.close()


def test_a_closed_segment_gives_its_memory_back_although_it_is_mapped() -> None:
    segment = SharedSegment(64 * MIB)
    segment.reserve()
    reader = os.dup(segment.readable)
    with mmap.mmap(reader, 64 * MIB, prot=mmap.PROT_READ):
        segment.close()
        assert os.fstat(reader).st_blocks == 0
    os.close(reader)


@pytest.mark.processes
def test_r12_an_object_larger_than_the_store_is_refused_at_once_with_both_sizes(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M")
    with agent.attached() as (connection, ids):
        answer = connection.request(CreateObject(connection.next_request(), ids.object_id(), 30 * 2**30))
    assert isinstance(answer, Failed)
    assert answer.kind == "ObjectStoreFullError"
    assert "the object needs 30 GiB; the store holds at most 64 MiB (64 MiB free)" in answer.text


@pytest.mark.processes
def test_r12_the_loop_goes_on_while_much_memory_is_reserved(start_agent: Start) -> None:
    if psutil.virtual_memory().available < 3 * 2**30:
        pytest.skip("less than 3 GiB of memory are free here")
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="2G")
    with agent.attached() as (large, ids), agent.attached() as (small, small_ids):
        usual = [ask(small, small_ids) for _number in range(50)]
        large.send(CreateObject(large.next_request(), ids.object_id(), 3 * 2**29))
        waits = []
        while not large.receive(timeout_s=0.0):
            waits.append(ask(small, small_ids))
    assert len(waits) > 3, "the reservation was over before anything else could be asked"
    check_that_it_answers_meanwhile(waits, usual)


@pytest.mark.processes
def test_memory_is_used_again_when_the_last_pin_goes(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M")
    with agent.attached() as (writer, ids), agent.attached() as (reader, _ids):
        first, second = ids.object_id(), ids.object_id()
        created = put(writer, first, bytes(40 * MIB))
        _found, descriptor = find(reader, first)
        os.close(descriptor)
        writer.send(DeleteObjects([first]))
        full = writer.request(CreateObject(writer.next_request(), second, 40 * MIB))
        assert isinstance(full, Failed)
        reader.send(ReleaseObjects([first]))
        unknown = reader.request(GetObject(reader.next_request(), first))
        assert isinstance(unknown, Failed)
        again, _mapped = create(writer, second, 40 * MIB)
        assert again.offset == created.offset == 0


@pytest.mark.processes
def test_the_agent_keeps_no_descriptor_of_what_is_deleted(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M")
    directory = Path(f"/proc/{agent.process.pid}/fd")
    with agent.attached() as (writer, ids):
        before = len(list(directory.iterdir()))
        for _turn in range(20):
            object_id = ids.object_id()
            put(writer, object_id, bytes(50 * MIB))
            writer.send(DeleteObjects([object_id]))
        writer.request(GetObject(writer.next_request(), ids.object_id()))
        eventually(lambda: len(list(directory.iterdir())) <= before, "no descriptor of a destroyed segment is kept")


@pytest.mark.processes
def test_many_segments_need_many_descriptors(start_agent: Start) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("the system allows few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="256M", ATOLL_STORE_PREPARED_BYTES="0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with agent.attached() as (writer, ids):
        for _number in range(180):
            _created, mapped = create(writer, ids.object_id(), MIB + MIB // 8)
            assert mapped is not None
            mapped.close()


def shared_bytes(agent: RunningAgent) -> int:
    """The memory of the agent's segments, from its descriptors. Each segment has two."""
    sizes = {}
    for entry in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:atoll" in str(entry.readlink()):
                status = entry.stat()
                sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


@pytest.mark.processes
def test_memory_is_prepared_used_at_once_and_given_back(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_PREPARED_BYTES="64M", ATOLL_STORE_IDLE_GIVE_BACK_S="2")
    assert shared_bytes(agent) == 0, "nobody has come yet"
    with agent.attached() as (writer, ids):
        eventually(lambda: shared_bytes(agent) == 64 * MIB, "64 MiB are prepared")
        created = put(writer, ids.object_id(), bytes(20 * MIB))
        assert created.segment_bytes == 20 * MIB, "the large one was cut"
    eventually(lambda: shared_bytes(agent) == 0, "all is given back when nobody needs it")


@pytest.mark.processes
def test_samples_tell_of_the_store_and_the_workers(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease()
    with agent.attached() as (writer, ids):
        object_id = ids.object_id()
        put(writer, object_id, bytes(4 * MIB))
        while True:
            sample = agent.scheduler.expect(NodeSampled).sample
            if sample.objects and sample.workers:
                break
    assert sample.objects[0].object_id == object_id
    assert sample.objects[0].size_bytes == 4 * MIB
    assert sample.store_used_bytes == 4 * MIB
    assert started.pid in {worker.pid for worker in sample.workers}
