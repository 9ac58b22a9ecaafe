"""The mutual proof of the cluster's key, before anything else is said.

    client ── Hello(versions, role, process id, nonce) ─────────────────▶ server
    client ◀─ Welcome(versions, process id, nonce, proof of the server) ─ server
    client ── Proof(proof of the client) ───────────────────────────────▶ server
    client ◀─ Accepted ────────────────────────────────────────────────── server

A proof is HMAC-SHA256 under the key over the side's label and the exact bytes of Hello and of Welcome's content, so
that it is bound to this conversation: a replayed, reflected or role-swapped proof does not match. The server proves
first, so a client never answers a stranger's challenge with something that it could use elsewhere. The key itself
never travels. After `Accepted`, bytes on a Unix socket are not encrypted: the kernel keeps them between two
processes of one user.

Versions are in the first two messages, compared by both sides, before proofs. Roles decide how much must be equal:
whoever unpickles the other's values (`worker` with its callers) must share Python's minor version and cloudpickle's
version too; a daemon needs the same Atoll and the same protocol only.

Both machines are sans-I/O: they take and return bodies of frames. This file does not know about sockets.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
from functools import lru_cache
from importlib import metadata

import msgspec

from atoll.exceptions import AuthenticationError, ProtocolError, VersionMismatchError

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
KEY_BYTES = 32
PROOF_WITHIN_S = 5.0
"""A peer that has not proved itself by then is cut off (claim S18)."""


class Versions(msgspec.Struct, frozen=True, array_like=True):
    """What two processes must agree on."""

    protocol: int
    atoll: str
    python: str
    cloudpickle: str

    def difference(self, other: Versions, *, shares_values: bool) -> str | None:
        """Return what differs and matters, in words, or None."""
        names = ["protocol", "atoll"] + (["python", "cloudpickle"] if shares_values else [])
        for name in names:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name} {ours} here, {name} {theirs} there"
        return None


@lru_cache(maxsize=1)
def our_versions() -> Versions:
    """Return the versions of this process."""
    return Versions(
        protocol=PROTOCOL_VERSION,
        atoll=metadata.version("atoll"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        cloudpickle=metadata.version("cloudpickle"),
    )


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks: `role` is `client`, `worker`, `agent` or `scheduler`."""

    role: str
    process_id: bytes


ROLES = ("client", "worker", "agent", "scheduler")


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first message, from whoever connected."""

    versions: Versions
    identity: Identity
    shares_values: bool
    nonce: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The answer. `proof` covers everything before it."""

    versions: Versions
    identity: Identity
    nonce: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof"):
    """The client's proof."""

    proof: bytes


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The server believes the client."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The server does not; `kind` names a class of `atoll.exceptions`. Said before closing, without secrets."""

    kind: str
    text: str


_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Hello | Welcome | Proof | Accepted | Refused] = msgspec.msgpack.Decoder(
    Hello | Welcome | Proof | Accepted | Refused
)


def _prove(key: bytes, label: bytes, hello: bytes, identity: Identity, nonce: bytes) -> bytes:
    transcript = hashlib.sha256(hello).digest() + hashlib.sha256(_encode((identity, nonce))).digest()
    return hmac.digest(key, b"atoll handshake 1 " + label + b"\0" + transcript, "sha256")


def _read(body: bytes) -> Hello | Welcome | Proof | Accepted | Refused:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"that is no handshake of Atoll: {error}") from None


def _check_identity(identity: Identity, nonce: bytes) -> None:
    if identity.role not in ROLES or len(identity.process_id) != 8 or len(nonce) != NONCE_BYTES:
        raise ProtocolError("a handshake with a field of the wrong size or an unknown role")


class ClientHandshake:
    """The connecting side.

    Args:
        key: The cluster's key.
        identity: Who we are.
        shares_values: Whether pickled values will be exchanged with the other side.
        versions: Ours; tests give others.

    Attributes:
        peer: Who the server is, once it has proved itself.
        finished: Whether both sides believe each other.
    """

    def __init__(
        self, key: bytes, identity: Identity, *, shares_values: bool = False, versions: Versions | None = None
    ) -> None:
        self._key = key
        self._versions = versions or our_versions()
        self._shares_values = shares_values
        self._hello = _encode(Hello(self._versions, identity, shares_values, secrets.token_bytes(NONCE_BYTES)))
        self.peer: Identity | None = None
        self.finished = False

    def first_body(self) -> bytes:
        """Return the body to send first."""
        return self._hello

    def receive(self, body: bytes) -> bytes | None:
        """Take a body from the server; return one to send back, or None.

        Raises:
            AuthenticationError: The server could not prove the key, or refused our proof.
            VersionMismatchError: The versions differ; names both.
            ProtocolError: It is no handshake, or out of order.
        """
        message = _read(body)
        if isinstance(message, Refused):
            if message.kind == VersionMismatchError.__name__:
                raise VersionMismatchError(message.text)
            raise AuthenticationError(message.text)
        if self.peer is None and isinstance(message, Welcome):
            return self._answer(message)
        if self.peer is not None and isinstance(message, Accepted) and not self.finished:
            self.finished = True
            return None
        raise ProtocolError(f"{type(message).__name__} out of order in the handshake")

    def _answer(self, welcome: Welcome) -> bytes:
        difference = self._versions.difference(welcome.versions, shares_values=self._shares_values)
        if difference:
            raise VersionMismatchError(_mismatch(difference))
        _check_identity(welcome.identity, welcome.nonce)
        expected = _prove(self._key, b"server", self._hello, welcome.identity, welcome.nonce)
        if not hmac.compare_digest(expected, welcome.proof):
            raise AuthenticationError(
                "what listens there does not know this cluster's key; it may be of another or an earlier cluster"
            )
        self.peer = welcome.identity
        return _encode(Proof(_prove(self._key, b"client", self._hello, welcome.identity, welcome.nonce)))


class ServerHandshake:
    """The listening side.

    Args:
        key: The cluster's key.
        identity: Who we are.
        versions: Ours; tests give others.

    Attributes:
        peer: Who the client says it is; to be believed only when `finished`.
        finished: Whether the client has proved the key.
    """

    def __init__(self, key: bytes, identity: Identity, *, versions: Versions | None = None) -> None:
        self._key = key
        self._identity = identity
        self._versions = versions or our_versions()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._hello = b""
        self.peer: Identity | None = None
        self.finished = False

    def receive(self, body: bytes) -> bytes:
        """Take a body from the client and return the one to send back.

        Raises:
            AuthenticationError: The client's proof is wrong. Send `refusal` of the error, then close.
            VersionMismatchError: The versions differ; likewise.
            ProtocolError: It is no handshake, or out of order; likewise.
        """
        message = _read(body)
        if self.peer is None and isinstance(message, Hello):
            return self._welcome(message, body)
        if self.peer is not None and not self.finished and isinstance(message, Proof):
            expected = _prove(self._key, b"client", self._hello, self._identity, self._nonce)
            if not hmac.compare_digest(expected, message.proof):
                raise AuthenticationError(
                    "the key does not match: it is of another or an earlier cluster; run `atoll doctor`"
                )
            self.finished = True
            return _encode(Accepted())
        raise ProtocolError(f"{type(message).__name__} out of order in the handshake")

    def _welcome(self, hello: Hello, body: bytes) -> bytes:
        _check_identity(hello.identity, hello.nonce)
        difference = hello.versions.difference(self._versions, shares_values=hello.shares_values)
        if difference:
            raise VersionMismatchError(_mismatch(difference))
        self.peer = hello.identity
        self._hello = body
        proof = _prove(self._key, b"server", body, self._identity, self._nonce)
        return _encode(Welcome(self._versions, self._identity, self._nonce, proof))


def refusal(error: Exception) -> bytes:
    """Return the body that tells a client why it is refused."""
    return _encode(Refused(type(error).__name__, str(error)))


def _mismatch(difference: str) -> str:
    return f"two processes of this cluster do not fit together: {difference}. Install one version, then restart both."
