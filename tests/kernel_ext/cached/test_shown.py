from __future__ import annotations

from typing import Any

from atoll.kernel_ext.cached.shown import LEFT_OUT, MAXIMUM_BYTES, overwritten, settled
from atoll.kernel_ext.cell_messages import CLEAR, DISPLAY, RESULT, STDERR, STDOUT, decode_event, encode_event


def display(text: str, display_id: str = "", update: bool = False) -> tuple[str, bytes]:
    transient = {"display_id": display_id} if display_id else {}
    content = {"data": {"text/plain": text}, "metadata": {}, "transient": transient, "update": update}
    return DISPLAY, encode_event(content)


def clear(wait: bool) -> tuple[str, bytes]:
    return CLEAR, encode_event({"wait": wait})


def text_of(piece: tuple[str, bytes]) -> Any:
    kind, payload = piece
    return decode_event(payload)["data"]["text/plain"] if kind == DISPLAY else payload.decode()


def test_text_of_one_stream_is_joined_and_streams_keep_their_order() -> None:
    pieces = [(STDOUT, b"a"), (STDOUT, b"b"), (STDERR, b"c"), (STDOUT, b"d")]
    assert settled(pieces) == [(STDOUT, b"ab"), (STDERR, b"c"), (STDOUT, b"d")]


def test_a_display_is_what_it_was_updated_to() -> None:
    shown = settled([display("one", "p"), (STDOUT, b"between"), display("two", "p", True), display("three", "p", True)])
    assert [text_of(piece) for piece in shown] == ["three", "between"]
    assert decode_event(shown[0][1])["update"] is False
    assert settled([display("lost", "q", True)]) == []


def test_what_was_cleared_is_gone() -> None:
    assert settled([(STDOUT, b"a"), clear(False), (STDOUT, b"b")]) == [(STDOUT, b"b")]
    assert settled([(STDOUT, b"a"), clear(True)]) == [(STDOUT, b"a")], "nothing came that it waited for"
    assert settled([(STDOUT, b"a"), clear(True), (STDOUT, b"b")]) == [(STDOUT, b"b")]


def test_a_progress_bar_is_its_last_state() -> None:
    assert overwritten(b"0%\r 50%\r100%\ndone\r\n") == b"100%\ndone\n"
    assert overwritten(b"long line\rshort\n") == b"shortline\n"
    assert settled([(STDERR, b"\r 0%"), (STDERR, b"\r 100%"), (STDERR, b"\n")]) == [(STDERR, b" 100%\n")]


def test_too_much_is_cut() -> None:
    shown = settled([(STDOUT, b"x"), (RESULT, b"y" * MAXIMUM_BYTES), (STDOUT, b"z")])
    assert shown == [(STDOUT, b"x"), (STDERR, LEFT_OUT.encode())]
