"""The endpoint against a real socket: what gets in, what is cut off, and what nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import socket
import stat
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.client.connection import Connection
from atoll.exceptions import AtollError, AuthenticationError, ClusterLostError, ClusterStartError
from atoll.protocol import endpoint as endpoint_module
from atoll.protocol import stream as stream_module
from atoll.protocol.endpoint import Endpoint
from atoll.protocol.framing import MAXIMUM_UNPROVED_BYTES, FrameDecoder, frame
from atoll.protocol.handshake import ClientHandshake, Identity
from atoll.protocol.machine import Event, Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import (
    DemandRefused,
    Done,
    Failed,
    GetActor,
    GetState,
    Message,
    ObjectCreated,
    ReturnLease,
    SetDemand,
    State,
)
from atoll.protocol.values import SchedulingClass
from tests.patience import PATIENCE_S
from tests.protocol.serving import CLIENT, KEY, SERVER, Serving


def connect(serving: Serving) -> Connection:
    return Connection(serving.path, KEY, CLIENT)


def raw(path: str) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plain.connect(path)  # without a timeout, so that it waits for room in the listener's backlog
    plain.settimeout(PATIENCE_S)
    return plain


def drain(plain: socket.socket) -> bytes:
    """Read until the other side closes."""
    data = b""
    while True:
        try:
            piece = plain.recv(65536)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


def lost(events: list[Event]) -> list[PeerLost]:
    return [event for event in events if isinstance(event, PeerLost)]


def test_requests_and_answers(socket_directory: Path) -> None:
    with Serving(socket_directory) as serving:
        with connect(serving) as client:
            assert [client.request(GetState(number)) for number in (1, 2, 3)] == [Done(1), Done(2), Done(3)]
        serving.wait_for(lambda events: bool(lost(events)))
    assert serving.events[0] == PeerConnected(Peer(1), "client", CLIENT.process_id)
    assert serving.events[1] == Received(Peer(1), GetState(1))
    assert serving.events[-1] == PeerLost(Peer(1), "closed the connection")


def test_descriptors_come_with_their_message_however_full_the_socket_is(socket_directory: Path) -> None:
    """Each message has a descriptor of its own file; the reader is slow, so most of them wait in the stream."""
    count, padding = 40, b"x" * 50_000

    def answer(event: Event) -> None:
        if isinstance(event, Received):
            for number in range(count):
                descriptor = os.memfd_create(f"object-{number}")
                os.write(descriptor, str(number).encode())
                serving.endpoint.send(event.peer, ObjectCreated(number, number, 4096, 0, True), [descriptor])
                os.close(descriptor)
                serving.endpoint.send(event.peer, State(number, padding))

    with Serving(socket_directory) as serving:
        serving.on_event = answer
        with connect(serving) as client:
            client.send(GetState(1))
            serving.wait_for(lambda events: len(events) == 2)
            assert serving.call(lambda: serving.endpoint.unsent_bytes) > 0
            for number in range(count):
                created = client.receive(5)
                assert isinstance(created, ObjectCreated)
                assert created.request == number
                descriptor = client.take_descriptor()
                assert os.pread(descriptor, 10, 0) == str(number).encode()
                os.close(descriptor)
                assert client.receive(5) == State(number, padding)
        assert serving.call(lambda: serving.endpoint.unsent_bytes) == 0


def test_descriptors_that_were_never_sent_are_closed(socket_directory: Path) -> None:
    """The leak check at the end of every test is the assertion."""

    def answer(event: Event) -> None:
        if isinstance(event, Received):
            serving.endpoint.send(event.peer, State(0, b"x" * 2_000_000))
            with Path("/proc/self/status").open() as file:
                serving.endpoint.send(event.peer, Done(1), [file.fileno()])

    with Serving(socket_directory) as serving:
        serving.on_event = answer
        with connect(serving) as client:
            client.send(GetState(1))
            serving.wait_for(lambda events: len(events) == 2)
        serving.wait_for(lambda events: bool(lost(events)))


def test_a_peer_that_does_not_read_is_cut_off(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAXIMUM_UNSENT_BYTES", 3_000_000)

    def answer(event: Event) -> None:
        if isinstance(event, Received):
            for _ in range(10):
                serving.endpoint.send(event.peer, State(0, b"x" * 1_000_000))

    with Serving(socket_directory) as serving:
        serving.on_event = answer
        with connect(serving) as slow, connect(serving) as other:
            slow.send(GetState(1))
            serving.wait_for(lambda events: bool(lost(events)))
            assert "does not read" in lost(serving.events)[0].cause
            serving.on_event = serving.answer
            assert other.request(GetState(7)) == Done(7)


def test_two_endpoints_dial_and_speak(socket_directory: Path) -> None:
    async def main(path: str) -> tuple[list[Event], Peer]:
        events: list[Event] = []
        answered = asyncio.Event()

        def deliver(event: Event) -> None:
            events.append(event)
            if isinstance(event, Received):
                answered.set()

        dialler = Endpoint(KEY, Identity("agent", b"agent!!!"), deliver)
        peer = await dialler.dial(path)
        assert dialler.identity_of(peer) == SERVER
        dialler.send(peer, GetState(5))
        await asyncio.wait_for(answered.wait(), PATIENCE_S)
        dialler.close()
        return events, peer

    with Serving(socket_directory) as serving:
        events, peer = asyncio.run(main(serving.path))
    assert events == [PeerConnected(peer, "scheduler", SERVER.process_id), Received(peer, Done(5))]


def test_dialling_fails_with_a_named_error(socket_directory: Path) -> None:
    async def dial(path: str, key: bytes) -> None:
        dialler = Endpoint(key, Identity("agent", b"agent!!!"), lambda _event: None)
        try:
            await dialler.dial(path)
        finally:
            dialler.close()

    with pytest.raises(ClusterLostError, match="nobody answers"):
        asyncio.run(dial(str(socket_directory / "none"), KEY))
    with Serving(socket_directory) as serving, pytest.raises(AuthenticationError):
        asyncio.run(dial(serving.path, b"x" * 32))


def test_s6_a_socket_is_ours_alone_whatever_the_umask(socket_directory: Path) -> None:
    before = os.umask(0)
    try:
        with Serving(socket_directory) as serving:
            assert stat.S_IMODE(Path(serving.path).stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not Path(serving.path).exists(), "the file goes with its endpoint"


def test_s6_a_process_of_another_user_is_cut_off_before_its_first_byte_is_read(socket_directory: Path) -> None:
    with Serving(socket_directory, allowed_uid=os.geteuid() + 1) as serving:
        with pytest.raises((AuthenticationError, ClusterLostError)):
            connect(serving)
        assert serving.events == []


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(socket_directory: Path) -> None:
    with Serving(socket_directory) as serving:
        with pytest.raises(ClusterStartError, match="another process listens"):
            serving.call(lambda: serving.endpoint.listen(serving.path))
        with connect(serving) as client:
            assert client.request(GetState(1)) == Done(1)
    left = socket.socket(socket.AF_UNIX)
    left.bind(serving.path)
    left.close()
    with Serving(socket_directory) as serving, connect(serving) as client:
        assert client.request(GetState(1)) == Done(1)
    (socket_directory / "socket").write_text("somebody's notes")
    with pytest.raises(ClusterStartError, match="is no socket"):
        Endpoint(KEY, SERVER, lambda _event: None).listen(serving.path)


class Canary:
    """Says so if it is ever unpickled."""

    sung = 0

    def __reduce__(self) -> Any:
        return (Canary.sing, ())

    @staticmethod
    def sing() -> None:
        Canary.sung += 1


def test_s3_nothing_is_unpickled_in_any_state(socket_directory: Path) -> None:
    found: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "pickle.find_class":
            found.append(str(arguments))

    sys.addaudithook(hook)
    canaries = [pickle.dumps(Canary(), protocol) for protocol in range(6)]
    try:
        assert pickle.loads(canaries[2]) is None
        assert Canary.sung == 1, "the canary sings if it is unpickled"
        found.clear()
        with Serving(socket_directory) as serving:
            for canary in canaries:
                for prelude in (b"", frame(ClientHandshake(KEY, CLIENT).first_body())):
                    for body in (canary, frame(canary)):
                        with raw(serving.path) as plain:
                            plain.sendall(prelude + body)
                            plain.shutdown(socket.SHUT_WR)
                            drain(plain)
                with connect(serving) as client:
                    client.socket.sendall(frame(canary))
                    with pytest.raises(ClusterLostError):
                        client.receive(5)
        assert len(lost(serving.events)) == len(canaries)
    finally:
        watching = False
    assert found == []
    assert Canary.sung == 1


def test_s18_a_silent_peer_is_cut_off(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "PROOF_WITHIN_S", 0.05)
    with Serving(socket_directory) as serving, raw(serving.path) as silent, raw(serving.path) as slow:
        slow.sendall(frame(ClientHandshake(KEY, CLIENT).first_body())[:10])
        assert drain(silent) == b""
        assert drain(slow) == b""
        assert serving.call(lambda: serving.endpoint.unproved_count) == 0
        assert serving.events == []


def test_s18_proved_peers_are_not_cut_off(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "PROOF_WITHIN_S", 0.05)
    with Serving(socket_directory) as serving, connect(serving) as client:
        assert client.receive(0.15) is None
        assert client.request(GetState(1)) == Done(1)


def test_s18_a_peer_may_send_64_kib_before_its_proof(socket_directory: Path) -> None:
    hello = ClientHandshake(KEY, CLIENT).first_body()
    with Serving(socket_directory) as serving:
        with raw(serving.path) as plain:
            plain.sendall(struct.pack("<I", MAXIMUM_UNPROVED_BYTES + 1))
            drain(plain)
        with raw(serving.path) as plain:
            plain.sendall(frame(hello))
            assert plain.recv(65536)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                plain.sendall(struct.pack("<I", MAXIMUM_UNPROVED_BYTES) + b"x" * 16 * MAXIMUM_UNPROVED_BYTES)
        assert serving.events == []


def test_s18_a_thousand_idle_peers_neither_stay_nor_keep_others_out(socket_directory: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    idle: list[socket.socket] = []
    try:
        with Serving(socket_directory) as serving, connect(serving) as client:
            idle += [raw(serving.path) for _ in range(1000)]
            for number in range(1, 51):
                assert client.request(GetState(number)) == Done(number)
            with connect(serving) as late:
                assert late.request(GetState(1)) == Done(1)
            assert serving.call(lambda: serving.endpoint.unproved_count) <= endpoint_module.MAXIMUM_UNPROVED_PEERS
            for plain in idle:
                plain.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_s18_without_descriptors_the_endpoint_waits_and_goes_on(socket_directory: Path) -> None:
    with Serving(socket_directory) as serving, connect(serving) as client:
        real = serving.endpoint._listeners[0][0]

        class ExhaustedOnce:
            failures = 0

            def accept(self) -> Any:
                self.failures += 1
                if self.failures == 1:
                    raise OSError(24, "Too many open files")
                return real.accept()

            def fileno(self) -> int:
                return real.fileno()

        serving.call(lambda: serving.endpoint._accept(ExhaustedOnce()))  # type: ignore[arg-type]
        assert client.request(GetState(1)) == Done(1)
        with connect(serving) as late:
            assert late.request(GetState(2)) == Done(2)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=64), min_size=1, max_size=5), st.booleans())
def test_s19_garbage_ends_its_own_connection_only(bodies: list[bytes], proved: bool) -> None:
    serving = _shared_serving()
    with connect(serving) as other:
        if proved:
            with connect(serving) as client:
                client.socket.sendall(b"".join(frame(body) for body in bodies))
                with pytest.raises(ClusterLostError):
                    client.receive(5)
        else:
            with raw(serving.path) as plain:
                plain.sendall(b"".join(frame(body) for body in bodies))
                plain.shutdown(socket.SHUT_WR)
                list(FrameDecoder().feed(drain(plain)))
        assert other.request(GetState(3)) == Done(3)


_current: list[Serving] = []


def _shared_serving() -> Serving:
    return _current[0]


@pytest.fixture(autouse=True)
def _one_server_for_all_examples(request: pytest.FixtureRequest, socket_directory: Path) -> Any:
    if "s19" not in request.node.name:
        yield
        return
    with Serving(socket_directory) as serving:
        _current[:] = [serving]
        yield
        assert serving._thread.is_alive(), "the daemon lives"


def _mutations(message: Message) -> st.SearchStrategy[bytes]:
    data = frame_body(message)
    return st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)).map(
        lambda change: data[: change[0]] + bytes([change[1]]) + data[change[0] + 1 :]
    )


def frame_body(message: Message) -> bytes:
    from atoll.protocol.messages import encode

    return encode(message)


@settings(max_examples=60)
@given(_mutations(ObjectCreated(1, 2, 3, 4, True)))
def test_s19_a_flipped_byte_is_a_message_or_the_end_of_the_connection(body: bytes) -> None:
    serving = _shared_serving()
    with connect(serving) as client, connect(serving) as other:
        client.socket.sendall(frame(body) + frame_body_of_get_state())
        with contextlib.suppress(AtollError):
            answer = client.receive(5)
            if isinstance(answer, Failed):
                answer = client.receive(5)
            assert answer == Done(9)
        assert other.request(GetState(3)) == Done(3)


@pytest.mark.parametrize(
    ("message", "answered"),
    [
        (GetActor(7, 5, ""), Failed(7, "ProtocolError", "GetActor cannot be sent as it is")),  # type: ignore[arg-type]
        (SetDemand(3, SchedulingClass({"CPU": "one"}, ""), 1), DemandRefused(3, "ProtocolError", "SetDemand cannot")),  # type: ignore[dict-item]
        (ReturnLease("one"), Failed(0, "ProtocolError", "ReturnLease cannot be sent as it is")),  # type: ignore[arg-type]
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_with_a_field_of_the_wrong_type_is_answered(
    socket_directory: Path, message: Message, answered: Failed | DemandRefused
) -> None:
    with Serving(socket_directory) as serving, connect(serving) as client:
        client.socket.sendall(frame(frame_body(message)))
        answer = client.receive(5)
        assert isinstance(answer, Failed | DemandRefused)
        assert answer == msgspec.structs.replace(answered, text=answer.text)
        assert answer.text.startswith(answered.text)
        assert client.request(GetState(1)) == Done(1), "and it goes on"
        assert lost(serving.events) == []


def frame_body_of_get_state() -> bytes:
    return frame(frame_body(GetState(9)))


def test_a_core_may_close_a_peer_while_its_messages_are_read(socket_directory: Path) -> None:
    def answer(event: Event) -> None:
        if isinstance(event, Received):
            serving.endpoint.close_peer(event.peer)

    with Serving(socket_directory) as serving:
        serving.on_event = answer
        with connect(serving) as client:
            client.socket.sendall(frame_body_of_get_state() * 3)
            with pytest.raises(ClusterLostError):
                client.receive(5)
        done = threading.Event()
        serving.call(done.set)
        assert len([event for event in serving.events if isinstance(event, Received)]) == 1
        assert lost(serving.events) == [], "who closes a peer is not told that it is gone"
