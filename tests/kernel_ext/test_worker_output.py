from __future__ import annotations

import json
import sys
import threading

import pytest

from atoll.kernel_ext.worker_output import COLLECT_CHARACTERS, OutputPort, WorkerStreams
from tests.patience import PATIENCE_S


class Sent:
    def __init__(self) -> None:
        self.pieces: list[tuple[str, bytes]] = []
        self.came = threading.Event()

    def __call__(self, kind: str, payload: bytes) -> None:
        self.pieces.append((kind, payload))
        self.came.set()

    def text(self, kind: str) -> str:
        return b"".join(payload for sent, payload in self.pieces if sent == kind).decode()


def test_a_line_is_sent_at_once_and_more_is_collected() -> None:
    sent = Sent()
    port = OutputPort(sent)
    port.write("stdout", "first\n")
    assert sent.pieces == [("stdout", b"first\n")]
    for index in range(100):
        port.write("stdout", f"{index}\n")
    assert len(sent.pieces) <= 3
    port.close()
    assert sent.text("stdout") == "first\n" + "".join(f"{index}\n" for index in range(100))


def test_what_is_collected_is_sent_by_itself() -> None:
    sent = Sent()
    port = OutputPort(sent)
    port.write("stdout", "no newline")
    assert sent.came.wait(PATIENCE_S)
    port.close()
    assert sent.text("stdout") == "no newline"


def test_order_of_streams_and_events() -> None:
    sent = Sent()
    port = OutputPort(sent)
    port.write("stdout", "a")
    port.write("stderr", "b")
    port.send("display", {"data": {"text/plain": "c", "image/png": b"\x00\x01"}})
    port.write("stdout", "d")
    port.close()
    assert [kind for kind, _ in sent.pieces] == ["stdout", "stderr", "display", "stdout"]
    assert json.loads(sent.pieces[2][1]) == {"data": {"text/plain": "c", "image/png": "AAE="}}


def test_much_text_is_sent_in_pieces() -> None:
    sent = Sent()
    port = OutputPort(sent)
    for _ in range(100):
        port.write("stdout", "x" * 1000)
    assert len(sent.pieces) >= 100_000 // (COLLECT_CHARACTERS + 1000)
    port.close()
    assert sent.text("stdout") == "x" * 100_000


def test_many_threads_lose_nothing() -> None:
    sent = Sent()
    port = OutputPort(sent)

    def work(letter: str) -> None:
        for _ in range(500):
            port.write("stdout", letter)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    port.close()
    text = sent.text("stdout")
    assert {letter: text.count(letter) for letter in "abcd"} == dict.fromkeys("abcd", 500)


def test_streams_belong_to_the_cell_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    streams = WorkerStreams()
    outside = sys.stdout
    first, second = Sent(), Sent()
    for sent in (first, second):
        port = OutputPort(sent)
        streams.begin(port)
        kept = sys.stdout
        print("inside")
        port.close()
        streams.end()
    assert sys.stdout is outside
    assert first.text("stdout") == second.text("stdout") == "inside\n"
    print("late", file=kept)
    assert capsys.readouterr().out == "late\n"
    with pytest.raises(TypeError, match="must be str, not <class 'int'>"):
        kept.write(1)  # type: ignore[arg-type]
    assert not kept.isatty()
