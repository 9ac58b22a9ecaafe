"""The mutual proof: who knows the key gets through, and nobody else, with whatever they recorded (claims S5, R25)."""

from __future__ import annotations

import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.exceptions import AtollError, AuthenticationError, ProtocolError, VersionMismatchError
from atoll.protocol import handshake
from atoll.protocol.handshake import ClientHandshake, Identity, ServerHandshake, our_versions, refusal

KEY = b"k" * 32
WORKER = Identity("worker", b"worker!!")
SERVER = Identity("agent", b"agent!!!")
OURS = our_versions()


def converse(client: ClientHandshake, server: ServerHandshake) -> list[bytes]:
    """Let both talk until they believe each other; return all bodies in order."""
    hello = client.first_body()
    welcome = server.receive(hello)
    proof = client.receive(welcome)
    assert proof is not None
    accepted = server.receive(proof)
    assert client.receive(accepted) is None
    return [hello, welcome, proof, accepted]


def test_both_sides_know_each_other_afterwards() -> None:
    client, server = ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER)
    bodies = converse(client, server)
    assert client.finished
    assert server.finished
    assert client.peer == SERVER
    assert server.peer == WORKER
    assert not any(KEY in body for body in bodies)


def test_s5_a_client_with_a_wrong_key_stops_at_the_servers_proof() -> None:
    client, server = ClientHandshake(b"x" * 32, WORKER), ServerHandshake(KEY, SERVER)
    welcome = server.receive(client.first_body())
    with pytest.raises(AuthenticationError, match="does not know this cluster's key"):
        client.receive(welcome)
    assert not client.finished
    assert not server.finished


def test_s5_a_server_refuses_a_proof_under_another_key() -> None:
    hello = ClientHandshake(KEY, WORKER).first_body()
    server = ServerHandshake(KEY, SERVER)
    server.receive(hello)
    forged = msgspec.msgpack.encode(handshake.Proof(hmac.digest(b"x" * 32, b"anything", "sha256")))
    with pytest.raises(AuthenticationError, match="key does not match"):
        server.receive(forged)
    assert not server.finished


def test_s5_a_replayed_conversation_is_refused() -> None:
    hello, _welcome, proof, _accepted = converse(ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER))
    server = ServerHandshake(KEY, SERVER)
    server.receive(hello)
    with pytest.raises(AuthenticationError):
        server.receive(proof)
    assert not server.finished


def test_s5_a_replayed_server_is_refused() -> None:
    _hello, welcome, _proof, accepted = converse(ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER))
    client = ClientHandshake(KEY, WORKER)
    with pytest.raises(AuthenticationError):
        client.receive(welcome)
    with pytest.raises(ProtocolError, match="out of order"):
        client.receive(accepted)


def test_s5_a_reflected_proof_is_refused() -> None:
    """An attacker answers the server's challenge with the server's own proof."""
    server = ServerHandshake(KEY, SERVER)
    welcome = msgspec.msgpack.decode(server.receive(ClientHandshake(KEY, WORKER).first_body()), type=handshake.Welcome)
    with pytest.raises(AuthenticationError):
        server.receive(msgspec.msgpack.encode(handshake.Proof(welcome.proof)))


def test_s5_roles_cannot_be_swapped() -> None:
    """A client that is made to talk to another client, or to itself, believes nothing."""
    client = ClientHandshake(KEY, WORKER)
    with pytest.raises(ProtocolError, match="out of order"):
        client.receive(client.first_body())
    server = ServerHandshake(KEY, SERVER)
    welcome = server.receive(client.first_body())
    with pytest.raises(ProtocolError, match="out of order"):
        ServerHandshake(KEY, SERVER).receive(welcome)


@pytest.mark.parametrize("field", ["role", "process", "nonce", "shares_values"])
def test_s5_a_proof_is_bound_to_every_field_of_the_conversation(field: str) -> None:
    """Somebody in the middle changes one field of Hello on its way."""
    client, server = ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER)
    hello = msgspec.msgpack.decode(client.first_body(), type=handshake.Hello)
    changed = {
        "role": msgspec.structs.replace(hello, identity=Identity("client", WORKER.process_id)),
        "process": msgspec.structs.replace(hello, identity=Identity("worker", b"somebody")),
        "nonce": msgspec.structs.replace(hello, nonce=b"n" * 32),
        "shares_values": msgspec.structs.replace(hello, shares_values=True),
    }[field]
    welcome = server.receive(msgspec.msgpack.encode(changed))
    with pytest.raises(AuthenticationError):
        client.receive(welcome)


def test_s5_every_nonce_is_new() -> None:
    assert ClientHandshake(KEY, WORKER).first_body() != ClientHandshake(KEY, WORKER).first_body()


@pytest.mark.parametrize(
    ("field", "shares"), [("atoll", False), ("protocol", False), ("python", True), ("cloudpickle", True)]
)
def test_r25_a_server_names_the_versions_that_differ(field: str, shares: bool) -> None:
    other = msgspec.structs.replace(OURS, **{field: 99 if field == "protocol" else "99.9"})
    client = ClientHandshake(KEY, WORKER, shares_values=shares, versions=other)
    with pytest.raises(VersionMismatchError) as caught:
        ServerHandshake(KEY, SERVER).receive(client.first_body())
    assert f"{field} 99" in str(caught.value)
    assert f"{field} {getattr(OURS, field)}" in str(caught.value)
    with pytest.raises(VersionMismatchError, match=f"{field} 99"):
        client.receive(refusal(caught.value))


def test_r25_a_client_compares_too() -> None:
    """A server that let a difference pass is refused by the client."""
    other = msgspec.structs.replace(OURS, python="2.7")
    lenient = ServerHandshake(KEY, SERVER, versions=other)
    client = ClientHandshake(KEY, WORKER)
    welcome = lenient.receive(client.first_body())
    strict = ClientHandshake(KEY, WORKER, shares_values=True)
    with pytest.raises(VersionMismatchError, match=r"python 2\.7 there"):
        strict.receive(welcome)
    assert client.receive(welcome) is not None, "a daemon needs no equal Python"


@given(st.binary(max_size=200), st.integers(0, 2))
def test_s19_garbage_in_any_state_is_a_named_error(body: bytes, state: int) -> None:
    client, server = ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER)
    if state >= 1:
        server.receive(client.first_body())
    if state == 2:
        client, server = ClientHandshake(KEY, WORKER), ServerHandshake(KEY, SERVER)
        converse(client, server)
    for machine in (client, server):
        finished = machine.finished
        with pytest.raises(AtollError):
            machine.receive(body)
        assert machine.finished == finished
