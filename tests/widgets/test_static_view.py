from __future__ import annotations

from html.parser import HTMLParser

import msgspec
import pytest

from atoll.widgets.static_view import bar, duration, number, size, static_html, text
from tests.widgets.sample_state import sample_state

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">\x1b[31m"\'&'

# What GitHub keeps of a notebook's HTML, of what we use.
KEPT = {"div", "p", "b", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"}


class Reader(HTMLParser):
    """Notes every tag and attribute, and that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_only_what_a_sanitizer_keeps() -> None:
    reader = read(static_html(sample_state()))
    assert reader.tags <= KEPT
    assert reader.attributes == []


def test_everything_is_in_it() -> None:
    said = " ".join(read(static_html(sample_state())).texts)
    for word in (
        "dromedary",
        "GPU 3",
        "(simulated)",
        "flights_model.predict",
        "all 4 GPUs are held",
        "embeddings",
        "Timeline",
    ):
        assert word in said, word


def test_s17_hostile_names_are_text() -> None:
    state = sample_state(name=HOSTILE)
    reader = read(static_html(state))
    assert reader.tags <= KEPT
    assert reader.attributes == []
    assert any("<script>" in each for each in reader.texts), "as text it is there"


def test_s17_text_moves_no_cursor() -> None:
    assert "\x1b" not in text(sample_state(name=HOSTILE))


def test_text_has_a_line_for_each_thing() -> None:
    lines = text(sample_state()).splitlines()
    assert sum("(simulated)" in line for line in lines) == 4
    assert any("flights_model.predict" in line for line in lines)
    assert any("4 train_fold wait" in line for line in lines)
    assert text(sample_state()) == text(sample_state())


def test_an_empty_cluster_can_be_shown() -> None:
    empty = msgspec.structs.replace(
        sample_state(), nodes=[], leases=[], actors=[], jobs=[], demands=[], objects=[], names=[], spans=[]
    )
    assert "Nothing has run" in static_html(empty)
    assert "0 nodes" in text(empty)


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "▁" * 10), (1, "█" * 10), (0.5, "█████▁▁▁▁▁"), (7, "█" * 10), (-1, "▁" * 10)]
)
def test_bars(share: float, shown: str) -> None:
    assert bar(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 ms"),
        (0.25, "250 ms"),
        (1.25, "1.2 s"),
        (59.2, "59 s"),
        (185, "3m 05s"),
        (7440, "2h 04m"),
        (180_000, "2d 02h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_sizes_and_numbers() -> None:
    assert [size(512), size(1536), size(2**40 * 3), size(999 * 2**20)] == ["512 B", "1.5 KiB", "3 TiB", "999 MiB"]
    assert [number(2), number(0.5), number(-0.00001)] == ["2", "0.5", "0"]
