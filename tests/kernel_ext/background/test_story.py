"""What is known of a background cell, and how it reads."""

from __future__ import annotations

import msgspec
import pytest

from atoll.kernel_ext.background.line import shown, sparkline
from atoll.kernel_ext.background.story import MISSING_AFTER_S, NAMESPACE, WAITS, CellStory
from atoll.kernel_ext.cell_course import ATTEMPT, Attempt
from atoll.kernel_ext.engine.contract import Glance
from atoll.kernel_ext.records import BEGIN, END, Ending, Head
from atoll.progress_messages import PROGRESS, Progress, encode_progress
from atoll.protocol.state import ActorState, DemandState, DeviceState, LeaseState, NodeState

pack = msgspec.msgpack.encode


def story(**more: object) -> CellStory:
    return CellStory("t42", "fit", "fit", 1000.0, **more)  # type: ignore[arg-type]


def actor(name: str = "t42", state: str = "pending", cause: str = "", actor_id: str = "a1") -> ActorState:
    return ActorState(actor_id, name, NAMESPACE, "fit", state, 0, "n1", 7, "j1", {}, [], cause, 1000.0)


def glance(
    actors: list[ActorState], *, now: float = 1001.0, placed: bool = False, cpu: float = 0.0, doing: str = "fit"
) -> Glance:
    devices = [DeviceState("u0", 0, "T4", True, 16, 4, 0, 80.0, 1.0, [])]
    nodes = [NodeState("n1", "reef", 1, {}, {}, 0.0, 0, 0, 0, 0, devices)]
    lease = LeaseState(1, "n1", "w1", 7, "j1", "fit", {}, [0], "a1", doing, False, 1002.0, cpu, 3 * 2**30)
    demand = DemandState("j1", "fit", {}, 1, 1000.0, "1 GPU is held by load")
    return Glance(now, nodes, [lease] if placed else [], actors, [] if placed else [demand])


def text(told: CellStory, now: float) -> str:
    return shown(told, now)["text/plain"]


def test_from_sent_to_done() -> None:
    told = story()
    assert text(told, 1000.2) == "◌ fit t42  sent"
    assert told.look(glance([actor()])) == ""
    assert text(told, 1005.0) == "○ fit t42  waits · 1 GPU is held by load · 5.0 s"
    for cpu in (0.0, 100.0):
        told.look(glance([actor(state="alive")], placed=True, cpu=cpu))
    assert text(told, 1072.0) == "● fit t42  on reef · GPU 0 · 1 min 10 s · GPU 80 % ▇▇ · 3.0 GiB"
    told.take(PROGRESS, encode_progress(Progress(9, 12, "epochs")), 1072.0)
    assert " · 75% 9/12 epochs · " in text(told, 1072.0)
    assert "width:75.0%" in shown(told, 1072.0)["text/html"]
    told.take(END, pack(Ending("done", names=["model", "score"], seconds=75.0, where="reef (pid 7)")), 1080.0)
    assert text(told, 2000.0) == "✓ fit t42  done in 1 min 15 s · it set model, score"
    assert told.look(glance([])) == "", "what has ended is not looked for"


def test_output_tells_that_it_runs_before_the_cluster_does() -> None:
    told = story()
    told.take(BEGIN, pack(Head("fit", "fit", 999.0)), 1000.0)
    assert told.phase == "sent"
    assert told.sent_at == 999.0
    told.take("stdout", b"x", 1001.0)
    assert told.phase == "running"


def test_who_follows_it_later_knows_when_it_began() -> None:
    told = CellStory.of("t42", Head("fit", "fit", 999.0, notify=True))
    told.take(BEGIN, pack(told.head), 1060.0)
    told.take(ATTEMPT, pack(Attempt("reef", 7, 1000.0)), 1060.0)
    told.take("stdout", b"x", 1060.0)
    assert told.phase == "running"
    assert text(told, 1060.0).endswith("1 min 00 s")
    assert told.notify


def test_failed_and_cancelled() -> None:
    told = story()
    told.take(END, pack(Ending("failed", ["..."], kind="ValueError", text="bad\nluck", seconds=2.0)), 1003.0)
    assert text(told, 1003.0) == "✗ fit t42  failed after 2.0 s · ValueError: bad luck"
    told = story()
    told.take(END, pack(Ending("failed", ["..."], kind="KeyboardInterrupt", seconds=2.0)), 1003.0)
    assert text(told, 1003.0) == "⊘ fit t42  cancelled after 2.0 s"


def test_a_process_that_dies_is_told_to_the_caller_who_reads_what_is_left_first() -> None:
    told = story()
    told.look(glance([actor(state="alive")], placed=True))
    death = told.look(glance([actor(state="dead", cause="OutOfMemoryError: too much")]))
    assert death == "OutOfMemoryError: too much"
    assert not told.ended
    told.lose(death, 1009.0)
    assert text(told, 1009.0) == "✗ fit t42  failed after 7.0 s · OutOfMemoryError: too much"


def test_a_cell_that_nobody_knows_is_lost_after_a_while_only() -> None:
    told = story()
    assert told.look(glance([], now=1001.0)) == ""
    assert told.look(glance([], now=1000.0 + MISSING_AFTER_S + 1)) != ""


def test_a_cell_that_waits_for_others() -> None:
    told = story(waits_for="load (t41)")
    room = actor("t42" + WAITS, "alive", actor_id="a0")
    told.look(glance([room]))
    assert text(told, 1002.0) == "○ fit t42  waits for load (t41) · 2.0 s"
    gone = actor("t42" + WAITS, "dead", cause="it ended itself", actor_id="a0")
    told.look(glance([gone, actor()]))
    assert "1 GPU is held" in text(told, 1002.0)
    told = story(waits_for="load (t41)")
    assert told.look(glance([gone], now=1100.0)) == "it ended itself"


def test_a_cell_inside_of_an_actor() -> None:
    host = ActorState("a1", "llm", "other", "llm", "alive", 0, "n1", 7, "j1", {}, [0], "", 900.0)
    told = CellStory("t42", "ask", "cell_run", 1000.0, host="llm")
    told.look(glance([host], placed=True, doing="generate"))
    assert text(told, 1002.0) == "○ ask t42  waits · llm is busy · 2.0 s"
    told.look(glance([host], placed=True, doing="cell_run"))
    assert text(told, 1005.0).startswith("● ask t42  in llm · GPU 0 · 3.0 s")


@pytest.mark.parametrize(("values", "blocks"), [([0, 50, 100], "▁▅█"), ([200.0], "█"), ([], "")])
def test_sparklines(values: list[float], blocks: str) -> None:
    assert sparkline(values, 100.0) == blocks


def test_a_long_reason_is_shortened_and_whole_where_the_mouse_rests() -> None:
    told = story()
    told.phase, told.reason = "waiting", "because " * 40
    bundle = shown(told, 1001.0)
    assert len(bundle["text/plain"]) < 180
    assert "title=" in bundle["text/html"]
