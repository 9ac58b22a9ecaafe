"""Background cells in a real kernel on a real cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_ext.real_kernel import Kernel, Ran, plain, running_cluster
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_cluster(ATOLL_STATUS="on", ATOLL_SIMULATED_GPUS="1") as variables:
        yield variables


@pytest.fixture(scope="module")
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    kernel.good("%%remote\npass")
    yield kernel
    kernel.close()


def wait_until_shown(kernel: Kernel, cell: str, pattern: str, before: Ran | None = None) -> None:
    """Wait until the last line of a background cell is so: it is shown by a thread, after others may know the end."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := lines(before or Ran(), kernel, cell)) or not re.fullmatch(pattern, found[-1]):
        assert time.monotonic() < deadline, found
        kernel.good("pass")


def lines(ran: Ran, kernel: Kernel, message: str = "") -> list[str]:
    """Return the lines about background cells that a cell has shown, also after its end."""
    late = [content for parent, content in kernel.late if parent == message]
    return [
        content["data"]["text/plain"]
        for kind, content in [*ran.messages, *late]
        if kind in ("display_data", "update_display_data")
    ]


def result(ran: Ran) -> str:
    """Return the text of a remote cell's value. Its own line may follow it, if it took a while."""
    text: str = next(content["data"]["text/plain"] for kind, content in ran.messages if kind == "execute_result")
    return text


def test_a_handle_has_what_the_cell_has_set(kernel: Kernel) -> None:
    sent = kernel.send("a = 1")
    kernel.finish(sent)
    kernel.late.clear()
    sent = kernel.send(
        "%%remote fit bg\nprint('tick')\nmodel = a + 1\ndef use(): return model\nimport json\nmodel * 10"
    )
    ran = kernel.finish(sent)
    assert re.fullmatch(r"◌ fit t\d+  sent", lines(ran, kernel)[0])
    assert kernel.value("fit.result(timeout_s=30)") == "20"
    assert (
        kernel.value("fit['model'], fit['use'](), fit.status, sorted(fit)")
        == "(2, 2, 'done', ['json', 'model', 'use'])"
    )
    assert kernel.value("'model' in globals(), 'use' in globals()") == "(False, False)"
    assert (
        kernel.run("fit['nothing']").error["evalue"]
        == "\"the cell fit has set no 'nothing'; it has set model, use, json\""
    )
    assert kernel.value("await fit") == "20"
    assert kernel.good("fit.logs()").text() == "tick\n"
    wait_until_shown(kernel, sent, r"✓ fit t\d+  done in \d+\.\d s · it set model, use")
    assert ("stdout", "tick\n") in [content for parent, content in kernel.late if parent == sent]


def test_what_fails_is_shown_in_its_cell_and_raised_for_who_asks(kernel: Kernel) -> None:
    kernel.late.clear()
    sent = kernel.send("%%remote bad bg\nraise ValueError('bad luck')")
    ran = kernel.finish(sent)
    kernel.run("bad.wait()")
    error = kernel.run("bad.result()").error
    assert (error["ename"], error["evalue"]) == ("ValueError", "bad luck")
    assert any("%%remote bad on" in line for line in error["traceback"])
    wait_until_shown(kernel, sent, ".*· ValueError: bad luck", ran)
    shown = [content for parent, (kind, content) in kernel.late if parent == sent and kind == "error"]
    assert [content["ename"] for content in shown] == ["ValueError"]


def test_it_is_cancelled_while_it_runs_and_while_it_waits(kernel: Kernel) -> None:
    kernel.good("%%remote slow bg gpu=1\nimport time\nx = 1\nprint('begun')\nfor _ in range(600): time.sleep(0.1)")
    kernel.good("%%remote queued bg gpu=1\npass")
    number = kernel.value("slow.record").strip("'")
    while kernel.good(f"%logs {number}").text() != "begun\n":
        time.sleep(0.02)
    kernel.good("import time\nwhile not queued.story.phase == 'waiting': time.sleep(0.02)")
    assert "GPU" in kernel.value("queued.story.reason")
    kernel.good("queued.cancel()\nqueued.wait(30)\nslow.cancel()\nslow.wait(30)")
    assert kernel.value("queued.status, slow.status") == "('cancelled', 'cancelled')"
    assert kernel.run("queued.result()").error["ename"] == "TaskCancelledError"
    assert kernel.run("slow.result()").error["ename"] == "KeyboardInterrupt"


def test_cells_that_depend_on_each_other_wait(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"
    kernel.good("table = 'old'")
    kernel.good(f"%%remote load bg\nimport pathlib, time\n{wait}\ntable = [1, 2, 3]")
    kernel.good("%%remote train bg\nweights = [2 * row for row in table]")
    sent = kernel.send("%%remote\nsum(weights), load['table'], table")
    told = ""
    while not re.fullmatch(r"○ waits for .*train \(t\d+\).* · \d+\.\d s", told):
        message = kernel.client.get_iopub_msg(timeout=PATIENCE_S)
        if message["parent_header"].get("msg_id") == sent:
            told = plain(message["content"].get("data", {}).get("text/plain", ""))
    gate.touch()
    ran = kernel.finish(sent)
    assert result(ran) == "(12, [1, 2, 3], [1, 2, 3])"
    assert kernel.value("table") == "'old'"
    kernel.good("table = 'new'")
    assert result(kernel.good("%%remote\ntable")) == "'new'"
    kernel.good("%%remote broken bg\n1 / 0\nmade = 1")
    ran = kernel.run("%%remote\nmade + 1")
    assert re.match(
        r"broken \(t\d+\), which sets made, failed: ZeroDivisionError: division by zero", ran.error["evalue"]
    )


def test_large_values_stay_in_shared_memory_and_can_be_written_to(kernel: Kernel) -> None:
    kernel.good("%%remote big bg\nimport numpy as np\nrows = np.zeros(1_000_000)\nother = rows")
    kernel.good("rows = big['rows']\nrows[0] = 5")
    assert kernel.value("float(big['other'][0]), float(rows[1]), rows is big['other']") == "(5.0, 0.0, True)"
    assert result(kernel.good("%%remote\nfloat(rows.sum())")) == "5.0"


def test_what_goes_with_its_process_is_left_there(kernel: Kernel) -> None:
    kernel.good("%%remote holder bg\nimport atoll\nref = atoll.put(1)\nx = 2")
    assert kernel.value("holder['x'], sorted(holder)") == "(2, ['atoll', 'x'])"
    assert "goes with the cell's process" in kernel.run("holder['ref']").error["evalue"]


def test_beside_an_actors_state(kernel: Kernel) -> None:
    kernel.good("%%actor keeper quiet\nimport time\nvalues = [1]\ndef count(): return len(values)")
    kernel.good("%%remote on=keeper more bg\ntime.sleep(0.3)\nvalues.append(2)\nseen = list(values)")
    assert kernel.value("more['seen'], keeper.count()") == "([1, 2], 2)"
    kernel.good("import atoll\natoll.kill(atoll.get_actor('keeper'))")


def test_a_process_that_dies_fails_its_cell_with_the_reason(kernel: Kernel) -> None:
    kernel.good(
        "%%remote doomed bg\nimport os, signal, time\nprint('last words')\ntime.sleep(0.2)\nos.kill(os.getpid(), 9)"
    )
    error = kernel.run("doomed.result()").error
    assert "killed" in error["evalue"] or "SIGKILL" in error["evalue"]
    assert kernel.value("doomed.status") == "'failed'"
    assert kernel.good("doomed.logs()").text() == "last words\n"


def test_it_outlives_its_kernel_while_it_runs_and_while_it_waits(environment: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"import time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.05)"
    first = Kernel(environment)
    try:
        first.good(f"%%remote fit bg gpu=1\nprint('begun')\n{wait}\nmodel = {{'deep': [1]}}\nprint('over')")
        first.good("%%remote after bg gpu=1\nprint('its turn')\nsecond = 2")
        first.good("%%remote user bg\nthird = second + model['deep'][0]")
        first.good(
            "import time\nwhile fit.story.phase != 'running' or after.story.phase != 'waiting': time.sleep(0.02)"
        )
        numbers = first.value("fit.record, after.record, user.record")
        fit, after, user = eval(numbers)
        first.restart()
        gate.touch()
        ran = first.good(f"%attach {fit}")
        assert ran.text() == "begun\nover\n"
        assert lines(ran, first)[-1].startswith(f"✓ fit {fit}  done")
        assert first.value("model, fit['model'], fit").startswith("({'deep': [1]}, {'deep': [1]}, <background cell fit")
        assert first.good(f"%attach {after}").text() == "its turn\n"
        first.good(f"%attach {user} bg")
        assert first.value("second, user['third'], 'third' in globals()") == "(2, 3, False)"
    finally:
        first.close()


def test_dozens_at_once_do_not_hold_up_the_kernel(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    kernel.late.clear()
    kernel.good(f"import IPython, time\nshell = IPython.get_ipython()\ngate = {str(gate)!r}")
    kernel.good(
        "for i in range(24):\n"
        "    cell = f'print({i})\\nimport pathlib, time\\n'\n"
        "    cell += f'while not pathlib.Path(gate).exists(): time.sleep(0.1)\\nx = {i}'\n"
        "    shell.run_cell_magic('remote', f'many{i} bg cpu=0.1', cell)"
    )
    assert kernel.value("1 + 1, sum(globals()[f'many{i}'].done() for i in range(24))") == "(2, 0)"
    gate.touch()
    assert kernel.value("sum(globals()[f'many{i}']['x'] for i in range(24))") == str(sum(range(24)))


def test_a_line_tells_of_what_ended_meanwhile_unless_it_was_asked_for(kernel: Kernel) -> None:
    kernel.good("from atoll.kernel_ext.background import notices\nnotices.WORTH_TELLING_S = 0.2\nimport time")
    kernel.good("%%remote seen bg\nimport time\ntime.sleep(0.3)")
    kernel.good("%%remote unseen bg\nimport time\ntime.sleep(0.3)")
    kernel.good("seen.wait()\nwhile not unseen.done(): time.sleep(0.02)")
    told = lines(kernel.good("pass"), kernel)
    assert [re.sub(r"\d+", "1", line) for line in told] == ["✓ unseen t1  is done, after 1.1 s"]
    assert kernel.good("notices.WORTH_TELLING_S = 5.0").messages == [], "it is told once"


def test_values_of_cells_that_nobody_can_name_are_dropped(environment: dict[str, str], kernel: Kernel) -> None:
    kernel.good("import atoll, pathlib\nfrom atoll.kernel_ext.engine.current import current_engine")
    kernel.good("atoll.cache['cell t99999'] = 1\natoll.cache['cell phone'] = 2")
    kernel.good("%%remote kept bg\nx = 1")
    kernel.good("kept.wait()\ncurrent_engine().sweep()")
    assert kernel.value("kept['x'], 'cell t99999' in atoll.cache, 'cell phone' in atoll.cache") == "(1, False, True)"


def test_values_go_with_their_handle(kernel: Kernel) -> None:
    kernel.good("%%remote brief bg\nx = 1")
    number = kernel.value("brief.wait() or brief.record").strip("'")
    assert kernel.value(f"'cell {number}' in {{info.name for info in atoll.cache.entries()}}") == "True"
    kernel.good("%%remote brief bg\nx = 2")
    assert kernel.value(f"'cell {number}' in {{info.name for info in atoll.cache.entries()}}") == "False"
    assert kernel.good(f"%logs {number}").status == "ok"
    assert "not kept any more" in kernel.run(f"%attach {number}").error["evalue"]
