"""Cells in a real kernel on a real cluster: the messages are those of a local cell."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_ext.real_kernel import Kernel, running_cluster
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_cluster() as variables:
        yield variables


@pytest.fixture(scope="module")
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    kernel.good("%%remote\npass")
    yield kernel
    kernel.close()


def test_streams_keep_their_order(kernel: Kernel) -> None:
    sent = kernel.send("%%remote\nimport sys\nprint(1)\nprint(2, file=sys.stderr)\nprint(3)")
    order = []
    while len(order) < 3:
        message = kernel.client.get_iopub_msg(timeout=PATIENCE_S)
        if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == sent:
            order.append((message["content"]["name"], message["content"]["text"]))
    kernel.finish(sent)
    assert order == [("stdout", "1\n"), ("stderr", "2\n"), ("stdout", "3\n")]


def test_text_of_a_subprocess_comes_in_order_and_in_its_cell(kernel: Kernel, tmp_path: Path) -> None:
    late = f"until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo late; touch {tmp_path}/written"
    ran = kernel.good(
        "%%remote\nimport subprocess\nprint('first')\ndone = subprocess.run(['echo', 'second']).returncode\n"
        f"print('third')\nleft = subprocess.Popen(['sh', '-c', {late!r}]).pid"
    )
    assert ran.text() == "first\nsecond\nthird\n"
    ran = kernel.good(
        f"%%remote\nimport pathlib, time\nprint('mine')\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "(here / 'gate').touch()\nwhile not (here / 'written').exists(): time.sleep(0.02)"
    )
    assert ran.text() == "mine\n", "what the first cell left running wrote into the second"


def test_large_values_of_a_cell_that_failed_come_through_shared_memory(kernel: Kernel) -> None:
    kernel.good("import atoll, numpy as np\ngiven = np.zeros(200_000)")
    failing = "%%remote\nbig = np.arange(200_000)\ntwice = big * 2\ngiven[5] = 1\nsmall = [1]\nbig[10**9]"
    assert kernel.run(failing).error["ename"] == "IndexError"
    kernel.good("from atoll.kernel_ext.buffers import sealed_place")
    assert kernel.value("all(sealed_place(memoryview(each).cast('B')) for each in (big, twice))") == "True"
    assert kernel.value("int(given.sum()), small") == "(1, [1])"
    assert kernel.value("[name for name in atoll.cache if name.startswith('cell ')]") == "[]"
    kernel.good("big[0] = 7")
    kernel.good("%%remote\ntotals = int(big[:3].sum()), int(twice[:3].sum())")
    assert kernel.value("totals") == "(10, 6)"
    kernel.good("del big, twice")


def test_what_has_died_is_told_with_what_to_do_next(kernel: Kernel) -> None:
    told = kernel.run("%%remote\nimport os; os._exit(3)").error
    assert re.fullmatch(
        r"%%remote: the worker \(pid \d+\) exited with code 3 \(attempt 1\)\. "
        r"Run it again, or have that done with max_retries=2",
        told["evalue"],
    )
    assert told["traceback"][0].endswith(
        "(attempt 1). Nothing here has changed. Run the cell again, or with retries=2, which tries it again by itself"
    )
    assert len(told["traceback"]) == 1
    kernel.good("%%actor frail\ndef die():\n    import os; os._exit(3)")
    (line,) = kernel.run("frail.die()").error["traceback"]
    assert line.endswith("What it held is lost: run the cell %%actor frail again, which makes it anew")
    assert kernel.run("%%actor broken\nx = 1 / 0").error["ename"] == "ZeroDivisionError"
    (shown,) = [content for kind, content in kernel.good("%actors broken").messages if kind == "execute_result"]
    assert "dead: its cell raised ZeroDivisionError: division by zero" in shown["data"]["text/plain"]
    failing = "import atoll\n@atoll.remote(max_retries=1)\ndef die():\n    import os; os._exit(3)\n"
    told = kernel.run(failing + "atoll.get(die.remote())").error
    assert told["evalue"].endswith("exited with code 3 (attempt 2). It was tried 2 times; max_retries= says how often")
    kernel.good("del frail, die")


def test_what_a_task_raises_is_shown_with_the_lines_of_the_cells_and_no_frame_of_ours(kernel: Kernel) -> None:
    kernel.good("import atoll\n@atoll.remote\ndef inverse(x):\n    return 1 / x")
    shown = "\n".join(kernel.run("atoll.get(inverse.remote(0))").error["traceback"])
    assert "----> 1 atoll.get(inverse.remote(0))" in shown
    assert re.search(
        r"  Cell In\[\w+\], line 4, in inverse\n    return 1 / x\nZeroDivisionError: division by zero$", shown
    )
    assert "/atoll/" not in shown, "a frame of ours is shown"
    shown = "\n".join(kernel.run("import threading\natoll.put(threading.Lock())").error["traceback"])
    assert "api.py" not in shown
    assert shown.endswith("SerializationError: cannot send a lock: cannot pickle '_thread.lock' object")
    inside = "%%remote\nimport atoll\natoll.get(atoll.put([]), timeout=-1) or atoll.get(inverse.remote(0))"
    assert kernel.run(inside).error["ename"] == "ValueError"
    shown = "\n".join(kernel.run("%%remote\nimport atoll\natoll.get(inverse.remote(0))").error["traceback"])
    assert "----> 3 atoll.get(inverse.remote(0))" in shown
    assert "api.py" not in shown
    text = kernel.value("atoll.why(inverse.remote(1))")
    assert not text.startswith("Explanation(")


def test_what_was_taken_from_a_background_cell_outlives_its_handle(kernel: Kernel) -> None:
    again = "%%remote fit bg\nimport numpy as np\nmodel = np.ones({size})"
    kernel.good(again.format(size=200_000))
    kernel.good("import atoll\nmine, first = fit['model'], 'cell ' + fit.record")
    kernel.good(again.format(size=3))
    kernel.good("import gc\ncollected = gc.collect()")
    kernel.good("pass  # before a cell is when that is seen")
    assert kernel.value("first in atoll.cache") == "False"
    kernel.good("%%remote\ntotal = int(mine.sum())")
    assert kernel.value("total") == "200000"
    kernel.good("%%cached table\nimport numpy as np\ntable = np.ones(200_000)")
    kernel.good("kept = table")
    kernel.good("%uncache table")
    kernel.good("%%remote\ntotal = int(kept.sum()) + 1")
    assert kernel.value("total") == "200001"
    kernel.good("del kept, mine, table, fit")


def test_what_is_said_of_cached_cells_in_the_background_works(kernel: Kernel) -> None:
    refused = kernel.run("%%cached df bg\ndf = [1, 2]").error
    assert refused["ename"] == "MagicUsageError"
    assert "df = atoll.cache.get_or_compute('df', load)" in refused["evalue"]
    kernel.good("def load(): return [1, 2]")
    kernel.good("%%remote fit bg\nimport atoll\ndf = atoll.cache.get_or_compute('df', load)")
    assert kernel.value("fit['df']") == "[1, 2]"
    assert kernel.value("atoll.cache['df']") == "[1, 2]"
    kernel.good("del atoll.cache['df'], fit")


def test_a_module_beside_the_notebook_that_is_edited_takes_effect_in_the_next_cell(
    kernel: Kernel, tmp_path: Path
) -> None:
    module = tmp_path / "edited_beside.py"
    module.write_text("value = 1\n")
    enter = f"%%remote\nimport os, sys\nos.chdir({str(tmp_path)!r})\nsys.path.insert(0, '')\n"
    kernel.good(f"{enter}import edited_beside\nseen = edited_beside.value")
    assert kernel.value("seen") == "1"
    module.write_text("value = 22\n")
    kernel.good("%%remote\nimport edited_beside\nseen = edited_beside.value")
    assert kernel.value("seen") == "22"
    kernel.good(f"%%remote\nos.chdir({str(Path.cwd())!r})\nsys.path.remove('')")


def test_a_flood_is_counted_and_the_cell_is_not_held_up(kernel: Kernel) -> None:
    ran = kernel.good("%%remote\nfor i in range(3000): print('line', i, 'x' * 5000)")
    text = ran.text()
    assert len(text) < 6_000_000
    assert re.search(r"left out: too much at once; %logs t\d+ all shows all of it\]", text)
    assert text.endswith("x" * 500 + "\n")


def test_large_values_travel_once_and_are_never_stale(kernel: Kernel) -> None:
    kernel.good("import numpy as np\nsource = np.zeros(2_000_000)")
    kernel.good("from atoll.kernel_ext.engine.current import current_engine")
    kept = "[str(kept.ref) for kept in current_engine()._memory._kept.values()]"
    kernel.good("%%remote\ntotal = source.sum()\nmade = source + 1")
    before = kernel.value(kept)
    kernel.good("%%remote\ntotal = source.sum() + made.sum()")
    assert kernel.value(kept) == before, "nothing was stored: the one is there, the other came from a worker"
    kernel.good("source[7] = 5; made[9] = 101")
    kernel.good("%%remote\ntotal = source.sum() + made.sum()")
    assert kernel.value("float(total)") == str(2_000_000.0 + 5 + 100)
    kernel.good("%%remote\nmade[3] = -1")
    assert kernel.value("float(made[3]), float(made[9]), float(made.sum())") == "(-1.0, 101.0, 2000098.0)"


def stubborn(gate: Path, answer: str) -> str:
    """Return source that says that it has begun, and goes on until a file is there, whoever interrupts it."""
    return (
        f"import pathlib, time\nprint('begun')\ngate = pathlib.Path({str(gate)!r})\nwhile True:\n    try:\n"
        "        while not gate.exists(): time.sleep(0.05)\n        break\n"
        f"    except KeyboardInterrupt:\n        print({answer!r})\n"
    )


def test_a_cell_that_does_not_stop_is_detached_and_found_again(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    kernel.good("box = []")
    sent = kernel.send(f"%%remote\n{stubborn(gate, 'not now')}box.append('late')\nprint('over')")
    while kernel.client.get_iopub_msg(timeout=PATIENCE_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    ran = kernel.finish(sent)
    assert ran.error["ename"] == "KeyboardInterrupt"
    found = re.search(r"runs on as (t\d+): %attach t\d+ waits for it, %logs", ran.error["evalue"])
    assert found is not None
    number = found[1]
    assert kernel.value("box") == "[]"
    assert kernel.good(f"%logs {number}").text() == "begun\nnot now\n"
    gate.touch()
    assert kernel.good(f"%attach {number}").text() == "begun\nnot now\nover\n"
    assert kernel.value("box") == "['late']"


def test_a_second_press_does_not_wait(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    sent = kernel.send(f"%%remote\n{stubborn(gate, 'no')}")
    while kernel.client.get_iopub_msg(timeout=PATIENCE_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    while kernel.client.get_iopub_msg(timeout=PATIENCE_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    ran = kernel.finish(sent)
    number = re.search(r"runs on as (t\d+)", ran.error["evalue"])
    assert number is not None
    gate.touch()
    kernel.good(f"%attach {number[1]}")


def test_output_outlives_the_kernel_and_an_error_can_be_looked_into(environment: dict[str, str]) -> None:
    kernel = Kernel(environment)
    try:
        kernel.good("def divide(a, b):\n    half = a / 2\n    return a / b")
        ran = kernel.run("%%remote told bg\nprint('first')\nrows = list(range(100))\ndivide(6, 0)")
        number = kernel.value("told.record").strip("'")
        kernel.good("try:\n    told.result()\nexcept ZeroDivisionError:\n    pass")
        assert ran.status == "ok"
        kernel.restart()
        assert kernel.good(f"%logs {number}").text() == "first\n"
        text = kernel.good(f"%tb {number}").text()
        assert "ZeroDivisionError: division by zero" in text
        assert "in divide\n    a = 6\n    b = 0\n    half = 3.0" in text
        assert "rows = [0, 1, 2, 3, 4, 5, 6, 7, ...]" in text
        assert "executor.py" not in text
        failed = kernel.run("%logs 42")
        assert "needs the number of a cell: %logs t42. Kept are t" in failed.error["evalue"]
    finally:
        kernel.close()


def test_output_comes_while_the_cell_runs(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"
    sent = kernel.send(f"%%remote\nimport pathlib, time\nprint('first')\n{wait}\nprint('second')")
    while (message := kernel.client.get_iopub_msg(timeout=PATIENCE_S))["msg_type"] != "stream":
        pass
    assert message["content"]["text"] == "first\n"
    gate.touch()
    assert kernel.finish(sent).text() == "second\n"


def test_output_of_a_background_cell_goes_to_its_own_cell(kernel: Kernel) -> None:
    kernel.late.clear()
    first = kernel.send(
        "%%remote slow bg\nimport time\nfor i in range(5):\n    print('tick', i)\n    time.sleep(0.1)\n1 / 0"
    )
    early = kernel.finish(first).messages
    second = kernel.run("import time\nwhile not slow.done():\n    time.sleep(0.02)\nprint('mine')")
    assert second.messages == [("stdout", "mine\n")]
    deadline = time.monotonic() + PATIENCE_S
    while not any(kind == "error" for _parent, (kind, _content) in kernel.late):
        assert time.monotonic() < deadline, kernel.late
        kernel.good("pass")
    late = early + [message for parent, message in kernel.late if parent == first]
    assert "".join(text for kind, text in late if kind == "stdout") == "".join(f"tick {i}\n" for i in range(5))
    errors = [content for kind, content in late if kind == "error"]
    assert [error["ename"] for error in errors] == ["ZeroDivisionError"]
    assert kernel.value("slow.status") == "'failed'"


def test_interrupt_cancels_and_the_next_cell_works(kernel: Kernel) -> None:
    sent = kernel.send("%%remote\nimport time\nx = 1\nprint('begun')\nfor _ in range(6000):\n    time.sleep(0.1)")
    while kernel.client.get_iopub_msg(timeout=PATIENCE_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    ran = kernel.finish(sent)
    assert ran.error["ename"] == "KeyboardInterrupt"
    text = "\n".join(ran.error["traceback"])
    assert "time.sleep(0.1)" in text
    assert "executor.py" not in text
    assert kernel.value("x") == "1"
    kernel.good("%%remote\ny = x + 1")
    assert kernel.value("y") == "2"


def test_what_no_node_can_give_fails_at_once(kernel: Kernel) -> None:
    ran = kernel.run("%%remote cpu=1000\npass")
    assert ran.error["ename"] == "TaskUnschedulableError"
    assert len(ran.error["traceback"]) == 1


def test_an_actor_outlives_its_kernel_and_is_found_by_another(environment: dict[str, str]) -> None:
    first = Kernel(environment)
    try:
        first.good("%%actor keeper\nimport os\nvalues = []\ndef add(x):\n    values.append(x)\n    return len(values)")
        assert first.value("keeper.add('a')") == "1"
        second = Kernel(environment)
        try:
            second.good("%actor keeper")
            assert second.value("keeper.add('b')") == "2"
            second.good("%%remote on=keeper out=seen\nseen = list(values)")
            assert second.value("seen") == "['a', 'b']"
            ran = second.run("%%actor keeper\nvalues = None")
            assert "is held by an actor made in another session with other code" in ran.error["evalue"]
        finally:
            second.close()
        first.restart()
        first.good("%actor keeper")
        assert first.value("keeper.add('c')") == "3"
        first.good("import atoll\natoll.kill(atoll.get_actor('keeper'))")
    finally:
        first.close()


def test_an_actor_that_dies_in_its_constructor_leaves_its_name_free(kernel: Kernel) -> None:
    ran = kernel.run("%%actor broken\nx = 1\nraise LookupError('no state')")
    assert ran.error["ename"] == "LookupError"
    assert any("----> 3 raise LookupError" in line for line in ran.error["traceback"])
    kernel.good("%%actor broken\ndef f(): return 1")
    assert kernel.value("broken.f()") == "1"
    kernel.good("import atoll\natoll.kill(atoll.get_actor('broken'))")


def test_an_actor_is_shown_with_its_calls_and_ends_when_nobody_uses_it(kernel: Kernel) -> None:
    kernel.good("%%actor brief expire=1s\nstate = [1]\ndef add(x):\n    state.append(x)\n    return len(state)")
    kernel.good("for i in range(3): brief.add(i)")
    kernel.good("from atoll.kernel_ext.engine.current import current_engine")
    rows = "[(a.calls, a.state, a.cause) for a in current_engine().state().actors if a.name == 'brief']"
    deadline = time.monotonic() + PATIENCE_S
    while kernel.value(rows) != "[(3, 'alive', '')]":
        assert time.monotonic() < deadline, kernel.value(rows)
    while "'dead'" not in kernel.value(rows):
        assert time.monotonic() < deadline, kernel.value(rows)
        time.sleep(0.05)
    assert "nobody has used it for 1 s; run its cell again" in kernel.value(rows)
    assert "nobody has used it" in kernel.run("brief.add(1)").error["evalue"]
    kernel.good("%%actor brief\ndef add(x): return x")
    assert kernel.value("brief.add(7)") == "7"
    kernel.good("import atoll\natoll.kill(atoll.get_actor('brief'))")


def test_widgets_are_shown_as_text_with_what_to_do_and_bars_are_live(kernel: Kernel) -> None:
    ran = kernel.good("%%remote\nimport ipywidgets\nipywidgets.IntSlider(3)")
    text = ran.messages[-1][1]["data"]["text/plain"]
    assert text.startswith("IntSlider(value=3)\n(shown as text: ")
    assert "Make it in a cell of the notebook" in text
    ran = kernel.good("%%remote\nout = ipywidgets.Output()\nwith out: print('inside')\ndisplay(out)")
    assert ran.messages == [("stdout", "inside\n")], "what goes into it is shown by the cell"
    bar = "for _ in tqdm(range(12), 'fit', leave={}): time.sleep(0.03)"
    ran = kernel.good("%%remote\nfrom tqdm.notebook import tqdm\nimport time\n" + bar.format(True))
    shown = [(kind, content["data"]["text/plain"]) for kind, content in ran.messages]
    assert shown[0][0] == "display_data"
    assert shown[0][1].startswith("fit:   0%|")
    assert {kind for kind, _text in shown[1:]} == {"update_display_data"}
    assert len(shown) >= 3
    assert shown[-1][1].startswith("fit: 100%|██████████| 12/12")
    assert kernel.good("%%remote\n" + bar.format(False)).messages[-1][1]["data"]["text/plain"] == ""


def test_refs_and_large_arrays_go_both_ways(kernel: Kernel) -> None:
    kernel.good("import atoll, numpy as np\nref = atoll.put([1, 2])\nbig = np.ones(1_000_000)")
    kernel.good("%%remote\ngot = atoll.get(ref)\nbig[0] = 5\ntotal = big.sum()\nother = big * 2")
    assert kernel.value("got, float(total), float(big[0]), float(other[0])") == "([1, 2], 1000004.0, 5.0, 10.0)"
    kernel.good("other[1] = 3")


def test_an_actor_is_asked_from_a_remote_cell(kernel: Kernel) -> None:
    kernel.good("%%actor asked\ndef double(x):\n    print('asked for', x)\n    return 2 * x")
    ran = kernel.good("%%remote\nasked.double(21)")
    assert ran.text() == "asked for 21\n"
    assert ran.messages[-1][1]["data"]["text/plain"] == "42"
    kernel.good("import atoll\natoll.kill(atoll.get_actor('asked'))")


def test_views_show_what_there_is(kernel: Kernel) -> None:
    for magic in ("cluster", "jobs", "actors", "objects", "gpus"):
        ran = kernel.good(f"%{magic}")
        data = ran.messages[-1][1]["data"]
        assert data["text/plain"]
        assert data["text/html"].startswith("<div>")


def test_a_gpu_that_is_not_there_is_not_given_again(kernel: Kernel) -> None:
    said = kernel.run("%gpus release=7").error["evalue"]
    assert said == "%gpus release=7: no GPUs are meant by '7'; there are: none"
    assert "is no GPU" in kernel.run("%gpus release='a b'").error["evalue"]
