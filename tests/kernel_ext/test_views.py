from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.views import (
    MOST_UNNAMED,
    VIEWS,
    View,
    actors_view,
    bar,
    cluster_view,
    gpus_view,
    jobs_view,
    objects_view,
)
from atoll.protocol.state import (
    ActorState,
    ClusterState,
    DemandState,
    DeviceState,
    JobState,
    LeaseState,
    NameState,
    NodeState,
    ObjectState,
)

GIB = 2**30


def state(**changes: Any) -> ClusterState:
    """A cluster with something of everything."""
    device = DeviceState("SIM-1", 0, "Simulated GPU", True, 16 * GIB, 4 * GIB, GIB, 37.0, 1.0, ["fit"])
    total, free = {"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * GIB}, {"CPU": 2.5, "GPU": 0.0, "memory": 8.0 * GIB}
    node = NodeState("n1", "reef", 10, total, free, 61.4, 3 * GIB, 8 * GIB, GIB // 2, 2 * GIB, [device])
    running = LeaseState(
        1, "n1", "w1", 101, "j1", "fit", {"CPU": 1.0, "GPU": 1.0}, [0], "", "fit", False, 90.0, 98.0, GIB
    )
    kept = LeaseState(2, "n1", "w2", 102, "j2", "llm", {"CPU": 0.5}, [], "a1", "", False, 40.0, 0.0, GIB // 4)
    alive = ActorState("a1", "llm", "", "llm", "alive", 0, "n1", 102, "j2", {"CPU": 0.5}, [], "", 40.0)
    dead = ActorState("a0", "old", "", "old", "dead", 0, "n1", 99, "j2", {}, [], "killed", 20.0)
    values: dict[str, Any] = {
        "cluster_id": "c1",
        "version": "0.1.0",
        "now": 100.0,
        "started": 10.0,
        "simulated_devices": True,
        "nodes": [node],
        "leases": [running, kept],
        "actors": [dead, alive],
        "jobs": [
            JobState("j1", "one.ipynb", "kernel", 7, "", True, 50.0, 1, 1),
            JobState("j2", "two.ipynb", "kernel", 8, "", True, 30.0, 1, 0),
        ],
        "demands": [DemandState("j1", "next", {"GPU": 1.0}, 2, 95.0, "1 GPU is held by fit")],
        "objects": [
            ObjectState("o1", "n1", "flights", "", 60 * 2**20, 2),
            ObjectState("ffeeddccbbaa9988000000000000002a00000000", "n1", "", "j1", 2**20, 0),
        ],
        "names": [NameState("flights", "ready", 60 * 2**20, 20.0), NameState("busy", "computing", 0, 99.0)],
        "spans": [],
        **changes,
    }
    return ClusterState(**values)


def test_cluster() -> None:
    assert cluster_view(state()).text() == (
        "Atoll 0.1.0 · 1 node · 2 sessions · 1 actor · 2 waiting · up 1 min\n"
        "\n"
        "  NODE  CPUS LEASED        BUSY         MEMORY            STORE  GPUS\n"
        "  reef  ███····· 1.5 of 4  61 %  3 GiB / 8 GiB  512 MiB / 2 GiB  1 of 1 held\n"
        "waiting: next (2 times): 1 GPU is held by fit\n"
        "The GPUs are simulated: they can be held, and compute nothing."
    )


def test_jobs_marks_this_session_and_says_what_waits() -> None:
    text = jobs_view(state(), "j1").text()
    lines = text.splitlines()
    assert lines[0] == "2 sessions, 2 workers in use"
    assert " ".join(lines[3].split()) == "actor llm two.ipynb idle 0.5 CPU 0 % 256 MiB 1 min 102"
    assert " ".join(lines[4].split()) == "fit one.ipynb (this one) running 1 CPU, 1 GPU 98 % 1 GiB 10 s 101"
    assert "next (2 times)" in lines[5]
    assert "waiting: 1 GPU is held by fit" in lines[5]


def test_a_view_shows_what_is_asked_for_by_the_names_that_it_offers() -> None:
    view = jobs_view(state(), "j1")
    assert view.known() == ["llm", "two.ipynb", "fit", "one.ipynb", "next"]
    assert [row[0] for row in view.only(["fit"]).rows] == ["fit"]
    assert [row[0] for row in view.only(["one.ipynb"]).rows] == ["fit", "next (2 times)"]
    assert [row[0] for row in view.only(["llm", "next"]).rows] == ["actor llm", "next (2 times)"]
    assert view.only(()) == view
    with pytest.raises(MagicUsageError, match=r"there is no fitt here; there is fit"):
        view.only(["fitt"])
    assert objects_view(state()).known() == ["busy", "flights", "ffee·42", "one.ipynb"]
    assert gpus_view(state()).only(["reef"]).rows == gpus_view(state()).only(["reef:0"]).rows
    assert cluster_view(state()).known() == ["reef"]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_every_row_has_names(view: Callable[[ClusterState], View]) -> None:
    made = view(state())
    assert len(made.names) == len(made.rows)
    for name in made.known():
        assert made.only([name]).rows


def test_actors_have_the_living_first() -> None:
    view = actors_view(state())
    assert [row[0] for row in view.rows] == ["llm", "old"]
    assert view.rows[1][1] == "dead: killed"
    assert view.title == "1 actor"


def test_a_crash_is_told_in_words_that_fit_and_simulated_gpus_only_where_there_is_one() -> None:
    shown = state()
    cause = "WorkerCrashedError: the worker (pid 29977) exited with code 3"
    crashed = msgspec.structs.replace(shown.actors[0], cause=cause)
    view = actors_view(msgspec.structs.replace(shown, actors=[crashed]))
    assert "dead: the worker (pid 29977) exited with code 3 " in view.text()
    assert "simulated" not in view.text()
    bare = msgspec.structs.replace(shown.nodes[0], devices=[])
    assert "simulated" not in cluster_view(msgspec.structs.replace(shown, nodes=[bare])).text()
    holds = msgspec.structs.replace(shown.actors[1], devices=[0])
    assert "simulated" in actors_view(msgspec.structs.replace(shown, actors=[holds])).text()


def test_an_idle_actor_is_shown_to_have_given_its_gpus_up() -> None:
    shown = state()
    alive = next(actor for actor in shown.actors if actor.state == "alive")
    away = msgspec.structs.replace(alive, away=[0, 1])
    wanted = msgspec.structs.replace(alive, actor_id="a9", name="vlm", away=[2], wanted_back=True)
    kept = msgspec.structs.replace(alive, actor_id="a8", name="old", kept="offload() raised ValueError: no")
    text = actors_view(msgspec.structs.replace(shown, actors=[kept])).text()
    assert text.endswith("\nold keeps its GPUs while it is idle: offload() raised ValueError: no")
    view = actors_view(msgspec.structs.replace(shown, actors=[away, wanted]))
    assert [row[view.headings.index("GPUS")] for row in view.rows] == ["0, 1 given up", "2 wanted back"]


def test_actors_are_shown_with_their_calls_and_background_cells_are_among_what_runs() -> None:
    shown = state()
    alive = next(actor for actor in shown.actors if actor.state == "alive")
    llm = msgspec.structs.replace(alive, calls=1234, last_call=95.0)
    cell = msgspec.structs.replace(alive, actor_id="a9", name="t7", namespace="cells", class_name="load")
    lease = msgspec.structs.replace(shown.leases[0], actor="a9", label="load", doing="load")
    calls = msgspec.structs.replace(shown.leases[0], actor=llm.actor_id, doing="generate")
    shown = msgspec.structs.replace(shown, actors=[llm, cell], leases=[lease, calls])
    view = actors_view(shown)
    assert [row[0] for row in view.rows] == ["llm"]
    assert view.rows[0][view.headings.index(">CALLS")] == "1234"
    assert view.rows[0][view.headings.index(">LAST")] == "5 s"
    assert {row[0] for row in jobs_view(shown).rows} >= {"load (t7)", "actor llm: generate"}


def test_objects() -> None:
    assert objects_view(state()).rows == (
        ("busy", "computing", "0 B", "0", "the cache"),
        ("flights", "ready", "60 MiB", "2", "the cache"),
        ("ffee·42", "ready", "1 MiB", "0", "one.ipynb"),
    )


def test_of_many_objects_without_a_name_the_largest_are_shown_and_the_others_are_added_up() -> None:
    owned = [
        ObjectState(f"{'ab' * 8}{number:016x}00000000", "n1", "", "j1", number * 2**10, 0) for number in range(300)
    ]
    view = objects_view(state(objects=owned))
    lines = view.text().splitlines()
    assert len(lines) == 3 + 2 + MOST_UNNAMED + 1
    assert [line.split()[0] for line in lines[5:7]] == ["abab·299", "abab·298"]
    assert lines[-1] == "and 280 more, 38.14 MiB; %objects OWNER shows all of one owner"
    assert view.html().count("<tr>") == 1 + 2 + MOST_UNNAMED
    assert "and 280 more" in view.html()
    assert len(view.only(["one.ipynb"]).text().splitlines()) == 3 + 300
    assert "abab·3 " in view.only(["abab·3"]).text()


def test_gpus_tell_of_foreign_memory_and_that_they_are_simulated() -> None:
    text = gpus_view(state()).text()
    assert "fit + 1 GiB by processes that are not ours" in text
    assert "simulated" in text


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_every_view_is_deterministic_inert_and_says_when_it_is_empty(name: str) -> None:
    full = VIEWS[name](state())
    assert full == VIEWS[name](state())
    assert full.html().count("<tr>") == len(full.rows) + 1
    empty = state(nodes=[], leases=[], actors=[], jobs=[], demands=[], objects=[], names=[], simulated_devices=False)
    view = VIEWS[name](empty)
    assert view.empty in view.text()
    assert view.empty in view.html()


def test_hostile_names_are_inert_text() -> None:
    view = View("<b>", ("A", ">B"), (("<script>alert(1)</script>", "\x1b[31mred\x07"),), "", ("<i>",))
    assert "<script>" not in view.html()
    assert "<i>" not in view.html()
    assert "\x1b" not in view.text()


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(1, 20))
def test_a_bar_has_its_length(part: float, whole: float, cells: int) -> None:
    assert len(bar(part, whole, cells)) == cells


def test_bars() -> None:
    assert bar(0, 4) == "········"
    assert bar(4, 4) == "████████"
    assert bar(1, 16) == "▌·······"
    assert bar(1, 0) == "········"
