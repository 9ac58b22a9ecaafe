from __future__ import annotations

import json

from atoll.protocol.state import encode_state
from atoll.widgets.changes import QUIET_S, ChangeFilter
from tests.widgets.sample_state import NOW, sample_state


def test_the_first_state_goes_through_and_the_same_again_does_not() -> None:
    changes = ChangeFilter(0.2)
    first = encode_state(sample_state())
    assert changes.take(first, 0.0) == first
    assert changes.take(first, 0.2) is None


def test_a_state_that_differs_in_its_time_only_is_no_change() -> None:
    changes = ChangeFilter(0.2)
    sample = sample_state(now=NOW)
    changes.take(encode_state(sample), 0.0)
    later = encode_state(sample).replace(b'"now":1760000000.0', b'"now":1760000001.5')
    assert b"1760000001.5" in later
    assert changes.take(later, 1.0) is None
    said = changes.take(later, QUIET_S)
    assert said is not None
    assert json.loads(said) == {"kind": "unchanged", "now": 1760000001.5}


def test_no_more_than_one_in_the_interval_and_the_last_one_wins() -> None:
    changes = ChangeFilter(0.2)
    states = [encode_state(sample_state(seed=seed)) for seed in range(3)]
    assert changes.take(states[0], 0.0) == states[0]
    assert changes.take(states[1], 0.05) is None
    assert changes.take(states[2], 0.2) == states[2]


def test_after_forgetting_the_same_state_is_news() -> None:
    changes = ChangeFilter(0.2)
    state = encode_state(sample_state())
    changes.take(state, 0.0)
    changes.forget()
    assert changes.take(state, 0.0) == state


def test_a_name_that_looks_like_the_time_hides_no_change() -> None:
    changes = ChangeFilter(0.2)
    one, other = (encode_state(sample_state(name=f'"now":{number}')) for number in (1, 2))
    changes.take(one, 0.0)
    assert changes.take(other, 1.0) == other
