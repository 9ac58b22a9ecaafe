"""How reasons look: as text, as HTML, and in one line."""

from __future__ import annotations

import msgspec

from atoll.kernel_ext.why_view import WhyView
from atoll.protocol.explanation import (
    ASK,
    DONE,
    END,
    FITS,
    IMPOSSIBLE,
    RUNS,
    WAITS,
    Change,
    Explanation,
    Holder,
    NodeReason,
)

TRAIN = Holder("task", "train", "a.ipynb", 720.0, {"CPU": 1, "GPU": 1}, [0], 3)
LLM = Holder("actor", "llm", "b.ipynb", 7200.0, {"GPU": 1}, [1], 4)
OUTSIDE = Holder("outside", "a process outside of the cluster", "", 0.0, {"gpu_memory": 8 * 2**30}, [1], 0)

WAITING = Explanation(
    "1 CPU, 1 GPU",
    WAITS,
    "waits for what others hold",
    200.0,
    2,
    [
        NodeReason("one", "one: 1 GPU short (2 of 2 GPU in use)", {"GPU": 1}, [TRAIN, LLM, OUTSIDE]),
        NodeReason("two", "two: 1 GPU short (0 of 0 GPU in use); it could never give that", {"GPU": 1}, []),
    ],
    [Change(END, "train of a.ipynb on one ended", [3]), Change(ASK, "it asked for 1 CPU", resources={"CPU": 1})],
    190.0,
    what="fit (t42)",
    who="c.ipynb",
    job="0c",
)


def test_a_wait_as_text() -> None:
    assert WhyView([WAITING], "0c").text() == (
        "○ fit (t42) waits for 1 CPU, 1 GPU · 3 min · 2 before it\n"
        "\n"
        "  one   1 GPU short (2 of 2 GPU in use), held by\n"
        "        train of a.ipynb: 1 CPU, 1 GPU on GPU 0, 12 min\n"
        "        actor llm of b.ipynb: 1 GPU on GPU 1, 2.0 h\n"
        "        a process outside of the cluster: 8 GiB GPU memory on GPU 1\n"
        "  two   1 GPU short (0 of 0 GPU in use); it could never give that\n"
        "\n"
        "  would begin now if   train of a.ipynb on one ended\n"
        "                       it asked for 1 CPU\n"
        "  expected             in 3 min at the earliest"
    )


def test_whose_it_is_is_told_of_other_notebooks() -> None:
    assert WhyView([WAITING], "ff").text().startswith("○ fit (t42) of c.ipynb waits for")
    assert "before it" in WhyView([WAITING], "ff").html()


def test_a_wait_as_html_is_a_real_table_and_inert() -> None:
    hostile = Holder("task", "<script>alert(1)</script>", "a\x1b[2J.ipynb", 1.0, {"CPU": 1}, [], 1)
    shown = WhyView(
        [Explanation("1 CPU", WAITS, "", nodes=[NodeReason("<b>", "<b>: short", {}, [hostile])], what="<img src=x>")]
    )
    assert "<script>" not in shown.html()
    assert "<img" not in shown.html()
    assert "&lt;script&gt;" in shown.html()
    assert "\x1b" not in shown.text()
    html = WhyView([WAITING], "0c").html()
    assert html.count("<tr>") == 5
    assert "<ul><li>train of a.ipynb on one ended</li><li>it asked for 1 CPU</li></ul>" in html
    assert "<p>expected: in 3 min at the earliest</p>" in html


def test_one_line_is_the_same_everywhere() -> None:
    assert WAITING.line == (
        "one: 1 GPU short (2 of 2 GPU in use), held by train of a.ipynb for 12 min and 2 more; "
        "two: 1 GPU short (0 of 0 GPU in use); it could never give that; expected in 3 min at the earliest"
    )
    assert msgspec.structs.replace(WAITING, starts_in_s=0.01).expected == "at any moment"
    assert Explanation("9 GPU", IMPOSSIBLE, "no node has that").line == "no node has that"


def test_what_does_not_wait() -> None:
    runs = Explanation("", RUNS, "runs on one, pid 7", what="fit", job="0c")
    assert WhyView([runs], "0c").text() == "● fit runs on one, pid 7"
    assert WhyView([Explanation("", DONE, "it has ended", what="t42")]).text() == "✓ t42 it has ended"
    assert WhyView([], empty="Nothing waits.").text() == "Nothing waits."
    assert WhyView([], empty="Nothing waits.").html() == "<div><p>Nothing waits.</p></div>"


def test_what_would_be() -> None:
    fits = Explanation("1 GPU", FITS, "it begins now on one", starts_in_s=0.0)
    assert WhyView([fits], dry=True).text() == "● a cell like this would begin now on one: 1 GPU"
    never = Explanation("9 GPU", IMPOSSIBLE, "the largest has 2", changes=[Change(ASK, "it asked for 2 GPU")])
    assert WhyView([never], dry=True).text() == (
        "✗ a cell like this could never begin: the largest has 2\n\n  would be possible if   it asked for 2 GPU"
    )
    waits = WhyView([WAITING], dry=True).text()
    assert waits.startswith("○ a cell like this of c.ipynb would wait for 1 CPU, 1 GPU")
