"""When a queue of calls reads what has come."""

from __future__ import annotations

import pytest

from atoll.client.session import Session
from atoll.util import calls
from atoll.util.calls import Call, CallQueue

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("call_s", "turns"), [(2 * calls.MEDIUM_S, 3), (calls.MEDIUM_S, 0)])
def test_after_each_submission_of_a_long_call_is_read_what_has_come(
    session: Session, monkeypatch: pytest.MonkeyPatch, call_s: float, turns: int
) -> None:
    """Whoever makes long calls is busy itself meanwhile, and a lease that has come begins now. Short ones go on."""
    known = property(lambda _queue: call_s, lambda _queue, _learned: None)  # whatever these calls take
    monkeypatch.setattr(CallQueue, "_call_s", known, raising=False)
    queue = CallQueue(None, {})
    queue.limit, queue._strict = 3, True
    events: list[str] = []
    when_ready = session.when_ready
    monkeypatch.setattr(session.reactor, "turn", lambda: events.append("turn"))
    monkeypatch.setattr(session, "when_ready", lambda *how: (events.append("sent"), when_ready(*how)))
    values: list[object] = []
    for number in range(3):
        queue.submit(Call(abs, (-number,), {}, begin=lambda: True, finish=lambda value, _error: values.append(value)))
    assert queue.wait_idle(30.0)
    assert events == (["sent", "turn"] if turns else ["sent"]) * 3
    assert sorted(values, key=repr) == [0, 1, 2]
