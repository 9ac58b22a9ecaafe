"""What only a real kernel, a real worker and a real scheduler can show of the magics' options, and `%why`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_ext.real_kernel import Kernel, Ran, running_cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_cluster(ATOLL_SIMULATED_GPUS="2") as variables:
        yield variables


@pytest.fixture(scope="module")
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    kernel.good("%%remote\npass")
    yield kernel
    kernel.close()


def shown(ran: Ran) -> str:
    """Return the text of what a cell's last expression was shown as."""
    kind, content = ran.messages[-1]
    assert kind == "execute_result", ran.messages
    text: str = content["data"]["text/plain"]
    return text


# ------------------------------------------------------------------------------------------------------- time limit


def test_a_cell_that_runs_too_long_is_stopped_where_it_is_and_keeps_what_it_has_set(kernel: Kernel) -> None:
    ran = kernel.run("%%remote timeout=0.5\nimport time\ngot = 1\ntime.sleep(60)\ngot = 2")
    assert ran.error["ename"] == "CellTimeoutError"
    assert "longer than timeout=500ms and was stopped. What it had set until then is here." in ran.error["evalue"]
    traceback = "\n".join(ran.error["traceback"])
    assert "----> 4 time.sleep(60)" in traceback
    assert "kernel_ext" not in traceback
    assert kernel.value("got") == "1"
    assert kernel.value("isinstance(__import__('sys').last_value, TimeoutError)") == "True"


def test_a_cell_that_does_not_stop_costs_its_worker_and_nothing_else(kernel: Kernel) -> None:
    stubborn = (
        "import time\nimport atoll.kernel_ext.time_limit as limit\nlimit.GRACE_S = 0.2\n"
        "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    )
    ran = kernel.run(f"%%remote timeout=0.5 retries=3\n{stubborn}")
    assert ran.error["ename"] == "CellTimeoutError"
    assert "its worker was ended; what it had set is lost" in ran.error["evalue"]
    kernel.good("%%remote timeout=30\nafter = 1")
    assert kernel.value("after") == "1"


def test_a_cell_inside_of_an_actor_is_stopped_too_and_the_actor_lives(kernel: Kernel) -> None:
    kernel.good("%%actor counter quiet\nseen = 0")
    ran = kernel.run("%%remote on=counter timeout=0.5\nimport time\nseen = 5\ntime.sleep(60)")
    assert ran.error["ename"] == "CellTimeoutError"
    assert kernel.value("counter['seen']") == "5"


# ------------------------------------------------------------------------------------------ retries, environment


def test_a_cell_runs_again_after_its_worker_died_only_if_it_says_so(kernel: Kernel) -> None:
    dying = (
        "import os, pathlib\nmark = pathlib.Path('{mark}')\nprint('begun')\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\nmark.unlink()\nsurvived = True"
    )
    mark = kernel.value("__import__('tempfile').mkdtemp()").strip("'") + "/mark"
    ran = kernel.run(f"%%remote\n{dying.format(mark=mark)}")
    assert ran.error["ename"] == "WorkerCrashedError"
    kernel.good(f"import os; os.unlink('{mark}')")
    ran = kernel.good(f"%%remote retries=1\n{dying.format(mark=mark)}")
    assert ran.text() == "begun\nbegun\n"
    assert ran.text("stderr") == "[attempt 2: the worker of the attempt before it is gone]\n"
    assert kernel.value("survived") == "True"


def test_an_exception_is_an_answer_and_is_not_tried_again(kernel: Kernel) -> None:
    ran = kernel.run("%%remote retries=3\nprint('once')\n1 / 0")
    assert ran.error["ename"] == "ZeroDivisionError"
    assert ran.text() == "once\n"


def test_variables_of_a_cells_environment(kernel: Kernel) -> None:
    kernel.good("%%remote env=COLOUR=blue,DEPTH=3\nimport os\nseen = os.environ['COLOUR'], os.environ['DEPTH']")
    assert kernel.value("seen") == "('blue', '3')"
    kernel.good("%%remote env={'env_vars': {'COLOUR': 'red'}}\nimport os\nseen = os.environ['COLOUR']")
    assert kernel.value("seen") == "'red'"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%actor a idle=10m\nx = 1", "UsageError: idle= is for an actor that holds GPUs: give gpu= or gpu_mem="),
        (
            "%%remote gpu=0.3 gpu_mem=40G\n1",
            "UsageError: gpu= below 1 and gpu_mem= both say how large a share of a GPU is: give one of them",
        ),
        ("%%actor class\nx = 1", "UsageError: 'class' is a word of Python and names nothing; take another name"),
        ("%%remote for bg\nx = 1", "UsageError: 'for' is a word of Python and names nothing; take another name"),
        ("%uncache nosuch", "UsageError: no cached result holds nosuch; %cached shows what is kept"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_in_the_words_of_the_line(kernel: Kernel, cell: str, said: str) -> None:
    ran = kernel.run(cell)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in ran.error["traceback"]] == [said]


def test_a_variable_that_an_actor_has_not_is_told_with_those_that_it_has(kernel: Kernel) -> None:
    kernel.good("%%actor shelf\nbooks = 3\ndef count(): return books")
    ran = kernel.run("shelf['films']")
    assert ran.error["ename"] == "KeyError"
    assert ran.error["traceback"] == ["KeyError: \"actor shelf has no variable 'films'; its variables are: books\""]
    kernel.good("import atoll\natoll.kill(atoll.get_actor('shelf'))")


def test_quit_in_a_remote_cell_says_what_ends_a_cell(kernel: Kernel) -> None:
    ran = kernel.run("%%remote\nquit()")
    assert ran.status == "error"
    assert "sys.exit() ends the cell" in ran.text("stderr")


# ------------------------------------------------------------------------------------------------------------ queues


def test_cells_of_a_queue_run_one_after_the_other_also_after_a_failure(kernel: Kernel, tmp_path: Path) -> None:
    kernel.good("import tempfile, pathlib\nlog = str(pathlib.Path(tempfile.mkdtemp()) / 'log')")
    gate = tmp_path / "gate"
    wait = f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"
    body = "import pathlib, time\nwith open(log, 'a') as f: f.write('{n}<')\n" + wait + "\n{then}\n"
    end = "with open(log, 'a') as f: f.write('>{n}')"
    for n in range(3):
        fails = "with open(log, 'a') as f: f.write('>0')\n1 / 0" if n == 0 else end.format(n=n)
        kernel.good(f"%%remote job{n} queue=line bg\n" + body.format(n=n, then=fails))
    assert re.fullmatch(r"○ job2 \(t\d+\) waits · job1 \(t\d+\) first", shown(kernel.good("%why job2")))
    gate.touch()
    kernel.good("%%remote queue=line\norder = open(log).read()")
    assert kernel.value("order") == "'0<>01<>12<>2'"
    assert kernel.value("job0.status, job1.status, job2.status") == "('failed', 'done', 'done')"
    assert kernel.value("__import__('atoll.kernel_ext.completion').kernel_ext.completion.known_values('queue')") == "[]"


def test_a_queue_is_one_for_all_notebooks_and_outlives_the_kernel_that_sent_its_cells(
    kernel: Kernel, environment: dict[str, str], tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    body = (
        f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        f"with open({str(log)!r}, 'a') as f: f.write('{{n}}<'); time.sleep(0.05); f.write('>')"
    )
    with contextlib.closing(Kernel(environment)) as other:
        for n in range(2):
            other.good(f"%%remote theirs{n} queue=shared bg\n" + body.format(n=n))
    kernel.good("%%remote ours queue=shared bg\n" + body.format(n=2))
    assert re.fullmatch(r"○ ours \(t\d+\) waits · theirs1 \(t\d+\) first", shown(kernel.good("%why ours")))
    assert kernel.value("__import__('atoll.kernel_ext.completion').kernel_ext.completion.known_values('queue')") == (
        "['shared']"
    )
    gate.touch()
    assert kernel.value("ours.result() is None and ours.status") == "'done'"
    assert log.read_text() == "0<>1<>2<>"


# ------------------------------------------------------------------------------------------------- why, dry, places


def test_why_a_cell_waits_says_who_holds_what_it_needs(kernel: Kernel, environment: dict[str, str]) -> None:
    kernel.good("%%remote holder gpu=2 bg\nimport time\nprint('on')\nwhile True: time.sleep(0.05)")
    told = "str(get_ipython().run_line_magic('why', 'holder'))"
    kernel.good(f"import time\nwhile 'runs on' not in {told}: time.sleep(0.05)")
    assert re.fullmatch(r"● holder \(t\d+\) runs on \S+, pid \d+, GPU 0, 1 for .* s", shown(kernel.good("%why holder")))
    kernel.good("%%remote waiter gpu=1 bg\nresult = 1")
    number = kernel.value("waiter.record").strip("'")
    text = shown(kernel.good("%why waiter"))
    lines = text.splitlines()
    assert re.fullmatch(rf"○ waiter \({number}\) waits for 1 CPU, 1 GPU.*", lines[0]), text
    assert "1 GPU short (2 of 2 GPU in use)" in lines[2]
    assert lines[3].strip().startswith("holder of notebook: 1 CPU, 2 GPU on GPU 0, 1, ")
    assert any("would begin now if   holder" in line for line in lines), text
    assert any(line.startswith("  expected") for line in lines)
    everything = shown(kernel.good("%why"))
    assert everything.startswith("○ waiter waits for 1 CPU, 1 GPU")
    jobs = shown(kernel.good("%jobs"))
    assert "waiting: vm: 1 GPU short".replace("vm", lines[2].split()[0]) in jobs, (
        "the same words, as far as there is room"
    )
    other = Kernel(environment)
    try:
        assert "1 GPU short" in shown(other.good(f"%why {number}")), "another notebook asks"
        assert "waiter of notebook" in shown(other.good("%why"))
        assert "there is no cell t9999" in other.run("%why t9999").error["evalue"]
    finally:
        other.close()
    assert re.match(r"○ a cell like this would wait for 1 CPU, 1 GPU", shown(kernel.good("%%remote gpu=1 dry\nx = 1")))
    kernel.good("holder.cancel()\nassert waiter.result(timeout_s=20) is None")
    assert f"✓ waiter ({number}) it has ended" in shown(kernel.good(f"%why {number}"))
    assert shown(kernel.good("%why")) == "Nothing waits."
    # The waiter's worker is kept for half a second, for a cell like it; until then it holds its GPU, and that is told.
    while "would wait" in (would := shown(kernel.good("%%remote gpu=2 dry\nx = 1"))):
        assert "waiter of notebook" in would
    assert "a cell like this would begin now on" in would
    assert "would begin now" in shown(kernel.good("%%actor would gpu=1 idle=10m dry\nx = 1"))
    told = shown(kernel.good("%%remote gpu=3 dry\nx = 1"))
    assert "could never begin" in told
    assert "would be possible if" in told
    assert "'x'" not in kernel.value("sorted(globals())")


def test_nodes_are_known_by_name_and_what_is_not_there_is_told(kernel: Kernel) -> None:
    kernel.good("import atoll\nnode = atoll.nodes()[0]['NodeName'] if hasattr(atoll, 'nodes') else None")
    node = shown(kernel.good("%cluster")).splitlines()[3].split()[0]
    kernel.good(f"%%remote node={node} labels=atoll.io/node-id:!none\nhere = 1")
    kernel.good(f"%%remote node=~{node} priority=2 deadline=1h\nhere = 2")
    assert kernel.value("here") == "2"
    assert "no node" in kernel.run(f"%%remote node=!{node}\npass").error["evalue"]
    assert f"there is no node 'nowhere'; there are: {node}" in kernel.run("%%remote node=nowhere\npass").error["evalue"]
    kernel.good("%%actor place quiet\nwhere = __import__('os').uname().nodename")
    kernel.good("%%remote near=place\nimport os\nwhere = os.uname().nodename")
    ran = kernel.run("%%remote near=plac\npass")
    assert "no actor and no object in shared memory is called 'plac'. Did you mean near=place?" in ran.error["evalue"]


def test_other_things_will_do(kernel: Kernel) -> None:
    kernel.good("%%remote gpu=7 or=cpu=1\nimport os\ngot = os.environ.get('CUDA_VISIBLE_DEVICES', '')")
    assert kernel.value("got") in ("''", "'-1'")
    ran = kernel.run("%%remote gpu=H100\npass")
    assert "no node has a GPU of type H100; there are: " in ran.error["evalue"]


# ------------------------------------------------------------------------------------------------ here, and defaults


def test_local_runs_here_with_the_cells_own_lines(kernel: Kernel) -> None:
    kernel.good("%%remote local\nimport os\nhere = os.getpid()\nhere")
    assert kernel.value("here == os.getpid() == _") == "True"
    ran = kernel.run("%%remote local\n\nkept = 1\n1 / 0")
    assert ran.error["ename"] == "ZeroDivisionError"
    assert [kind for kind, _content in ran.messages] == ["error"], "it is shown once"
    traceback = "\n".join(ran.error["traceback"])
    assert "----> 4 1 / 0" in traceback
    assert "kernel_ext" not in traceback
    assert kernel.value("kept") == "1"
    assert "take the %%remote line away" in kernel.run("%%remote local\nawait x").error["evalue"]


def test_defaults_count_until_a_cell_says_otherwise(kernel: Kernel) -> None:
    assert kernel.good("%remote defaults env=SHADE=dark timeout=30").text() == "%%remote env=SHADE=dark timeout=30\n"
    kernel.good("%%remote\nimport os\nshade = os.environ.get('SHADE')")
    assert kernel.value("shade") == "'dark'"
    kernel.good("%%remote env=SHADE=light\nimport os\nshade = os.environ.get('SHADE')")
    assert kernel.value("shade") == "'light'"
    assert kernel.good("%remote defaults gpu=1").text() == "%%remote env=SHADE=dark timeout=30 gpu=1\n"
    kernel.good("%%remote on=counter\nseen += 1")
    assert kernel.good("%remote defaults clear").text() == "%%remote has no defaults\n"
    assert "write %%remote" in kernel.run("%remote gpu=1").error["evalue"] + kernel.run("%remote x").error["evalue"]


def test_what_there_is_completes_in_a_kernel(kernel: Kernel) -> None:
    def completed(text: str) -> list[str]:
        """Return what the text becomes, as a front end would have it."""
        asked = kernel.client.complete(text, len(text))
        reply = kernel.client.get_shell_msg(timeout=20)
        while reply["parent_header"].get("msg_id") != asked:
            reply = kernel.client.get_shell_msg(timeout=20)
        content = reply["content"]
        return [text[: content["cursor_start"]] + match for match in content["matches"]]

    node = kernel.value("__import__('os').uname().nodename").strip("'")
    assert completed("%%remote gpu=1 node=") == [f"%%remote gpu=1 node={node}"]
    assert completed("%%remote tim") == ["%%remote timeout="]
    models = completed("%%remote gpu=")
    assert models
    assert all(re.fullmatch(r"%%remote gpu=\w+", model) for model in models), models
    kernel.good("%%actor helper quiet\nx = 1")
    assert completed("%%remote on=help") == ["%%remote on=helper"]
    assert "%why helper" in completed("%why ")
    assert completed("%remote def") == ["%remote defaults"]
    assert completed("%actors help") == ["%actors helper"]
    assert completed("%jobs hel") == ["%jobs helper"]
    assert f"%cluster {node}" in completed("%cluster ")
    kernel.good("%%remote sleeper bg quiet\npass")
    assert completed("%logs sl") == ["%logs sleeper"]
    assert kernel.good("%logs sleeper").text() == ""
    kernel.good("frame = 1")
    assert completed("%%remote in=fra") == ["%%remote in=frame"]


# ----------------------------------------------------------------------------------------------- memory, idle actors


def test_a_cell_that_takes_more_than_mem_is_ended_and_says_what_to_write(kernel: Kernel) -> None:
    ran = kernel.run("%%remote mem=100M\nimport time\nheld = bytearray(400 << 20)\ntime.sleep(30)")
    assert ran.error["ename"] == "OutOfMemoryError"
    (line,) = ran.error["traceback"]
    said = r"OutOfMemoryError: the cell used \d\S* MiB of memory at its peak, and mem=100M was set aside for it\. "
    assert re.match(said + r"Nothing here has changed\. Run it again with mem=\d+M, or with mem=auto\.", line), line
    assert kernel.run("held").error["ename"] == "NameError"


def test_a_cells_actor_gives_its_gpus_up_when_it_is_idle_and_takes_them_back(kernel: Kernel) -> None:
    kernel.good(
        "%%actor vault gpu=2 idle=0.3\nmoves = []\ndef offload(): moves.append('offload')\n"
        "def restore(): moves.append('restore')\ndef seen(): return list(moves)"
    )
    kernel.good("%%remote gpu=2 out=there\nthere = 'both, although the actor lives'")
    assert kernel.value("there") == "'both, although the actor lives'"
    assert kernel.value("vault.seen()[:2]") == "['offload', 'restore']"
    kernel.good("import atoll\natoll.kill(atoll.get_actor('vault'))")
