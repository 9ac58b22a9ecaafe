"""What cannot be sent as it is, too long or of a type that nobody can read: one clear error, and all goes on."""

from __future__ import annotations

import pytest

import atoll
from atoll.client import channel
from atoll.client.session import Session
from atoll.exceptions import ProtocolError, SerializationError
from atoll.protocol.messages import Failed, GetActor
from atoll.util.placement_group import placement_group

pytestmark = [pytest.mark.processes]

LIMIT_BYTES = 2**20


@atoll.remote
def add(a: int, b: int = 1) -> int:
    return a + b


class Counter:
    def count(self) -> int:
        return 1


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch, session: Session) -> Session:
    """A session that sends nothing larger than a mebibyte."""
    monkeypatch.setattr(channel, "MAXIMUM_DIRECT_BYTES", LIMIT_BYTES)
    monkeypatch.setattr(channel, "MAXIMUM_BODY_BYTES", LIMIT_BYTES)
    return session


def _well(session: Session) -> None:
    """Nothing was lost: neither the connections nor the thread that reads when nobody waits."""
    assert atoll.get(add.remote(1), timeout=10) == 2
    assert session.reactor._thread.is_alive()


def test_names_that_are_no_text_are_refused_where_they_are_given(session: Session) -> None:
    with pytest.raises(TypeError, match=r"get_actor\(name=5\): give str, not int"):
        atoll.get_actor(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name=5: give str, not int"):
        placement_group([{"CPU": 1}], name=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogates not allowed at position 1"):
        atoll.remote(Counter).options(name="a\udcff")
    _well(session)


def test_a_request_that_the_scheduler_cannot_read_is_answered_and_the_connection_stays(session: Session) -> None:
    uplink = session._uplinks.by_role["scheduler"]
    before = uplink.channel
    answer = session.ask_scheduler(GetActor(session.next_request(), 5, ""), timeout_s=5)  # type: ignore[arg-type]
    assert isinstance(answer, Failed)
    assert answer.text.startswith("GetActor cannot be sent as it is: Expected `str`, got `int`")
    assert uplink.channel is before
    with pytest.raises(ProtocolError, match="surrogates not allowed"):
        session.ask_scheduler(GetActor(session.next_request(), "\udcff", ""), timeout_s=5)
    assert session._uplinks._requests == {}
    _well(session)


def test_a_function_that_is_too_long_for_a_message_fails_alone(small_messages: Session) -> None:
    large = b"x" * 2 * LIMIT_BYTES
    refs = [add.remote(1), atoll.remote(lambda: len(large)).remote(), add.remote(2)]
    assert atoll.get(refs[0], timeout=10) == 2
    with pytest.raises(SerializationError, match=r"a message of 2\d+ bytes is longer than 1048576"):
        atoll.get(refs[1], timeout=10)
    assert atoll.get(refs[2], timeout=10) == 3
    _well(small_messages)


def test_a_class_that_is_too_long_for_a_message_fails_alone(small_messages: Session) -> None:
    large = b"x" * 2 * LIMIT_BYTES

    class Large(Counter):
        def size(self) -> int:
            return len(large)

    actor = atoll.remote(Large).remote()
    with pytest.raises(ProtocolError, match=r"CreateActor cannot be sent as it is: a message of 2\d+ bytes"):
        atoll.get(actor.size.remote(), timeout=10)
    _well(small_messages)


@atoll.remote(max_calls=1, max_retries=0)
def raises_too_much() -> None:
    """Fails in a worker of its own, which sends nothing larger than a mebibyte."""
    from atoll.client import channel as of_the_worker

    of_the_worker.MAXIMUM_DIRECT_BYTES = LIMIT_BYTES
    raise ValueError("x" * 2 * LIMIT_BYTES)


def test_an_exception_that_is_too_long_for_a_message_is_an_error_that_says_so(session: Session) -> None:
    with pytest.raises(SerializationError, match=r"TaskRaised cannot be sent: a message of [45]\d+ bytes"):
        atoll.get(raises_too_much.remote(), timeout=10)
    _well(session)
