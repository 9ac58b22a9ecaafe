from __future__ import annotations

from typing import Any

from atoll.kernel_ext.throttle import (
    DISPLAYS_AT_ONCE,
    KEPT_CHARACTERS,
    LINE_CHARACTERS,
    TEXT_A_SECOND,
    TEXT_AT_ONCE,
    Throttle,
)


def display(text: str, display_id: str = "", update: bool = False) -> dict[str, Any]:
    return {"data": {"text/plain": text}, "transient": {"display_id": display_id}, "update": update}


def flood(throttle: Throttle, lines: int, now: float = 0.0) -> list[tuple[str, Any]]:
    sent = []
    for line in range(lines):
        sent += throttle.text("stdout", f"line {line:9d} {'x' * 84}\n", now)
    return sent


def test_what_is_not_too_much_goes_through_at_once() -> None:
    throttle = Throttle()
    assert flood(throttle, 3) == [("stdout", f"line {line:9d} {'x' * 84}\n") for line in range(3)]
    assert throttle.end() == []


def test_a_flood_is_counted_and_its_end_is_shown() -> None:
    throttle = Throttle()
    sent = flood(throttle, 100_000)
    shown = len(sent)
    assert TEXT_AT_ONCE // 100 - 1 <= shown <= TEXT_AT_ONCE // 100 + 1
    ((stream, text),) = throttle.end()
    assert stream == "stdout"
    assert text.endswith(f"line {99_999:9d} {'x' * 84}\n")
    left_out = (100_000 - shown) * 100 - KEPT_CHARACTERS
    assert f"[{left_out:,} characters" in text
    assert throttle.end() == []


def test_short_lines_count_as_usual_ones_and_the_note_says_where_all_of_it_is() -> None:
    throttle = Throttle("t42")
    shown = sum(len(throttle.text("stdout", "x\n" * 100, 0.0)) for _ in range(1000))
    assert shown == TEXT_AT_ONCE // LINE_CHARACTERS // 100
    ((_stream, text),) = throttle.end()
    assert "left out: too much at once; %logs t42 all shows all of it]\n" in text


def test_a_flood_that_goes_on_is_told_of_once_a_second() -> None:
    throttle = Throttle()
    flood(throttle, 20_000)
    notes, lines = 0, 0
    for step in range(1, 10_001):  # ten seconds
        for _stream, text in throttle.text("stdout", "x\n" * 10, step / 1000):
            notes += text.count("left out")
            lines += text.count("\n")
    assert 5 <= notes <= 10
    assert lines <= 10 * TEXT_A_SECOND / LINE_CHARACTERS + 10 * 2


def test_after_a_pause_more_is_shown_with_what_was_left_out_before() -> None:
    throttle = Throttle()
    flood(throttle, 20_000)
    sent = throttle.text("stdout", "on\n", 10.0)
    assert len(sent) == 2
    assert "left out: too much at once]" in sent[0][1]
    assert sent[1] == ("stdout", "on\n")


def test_short_text_that_was_held_back_is_shown_whole() -> None:
    throttle = Throttle()
    throttle.text("stdout", "x" * TEXT_AT_ONCE, 0.0)
    assert throttle.text("stderr", "late\n", 0.0) == []
    assert throttle.end() == [("stderr", "late\n")]


def test_of_updates_the_last_is_shown_and_displays_are_counted() -> None:
    throttle = Throttle()
    for count in range(DISPLAYS_AT_ONCE):
        assert throttle.display(display(str(count)), 0.0)
    for count in range(1000):
        assert throttle.display(display(f"bar {count}", "bar", update=True), 0.0) == []
    for count in range(7):
        throttle.display(display(f"more {count}"), 0.0)
    told, last = throttle.end()
    assert told == ("stdout", "\n[7 displays left out: too much at once]\n")
    assert last == ("display", display("bar 999", "bar", update=True))
