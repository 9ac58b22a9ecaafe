"""A script that ends: whatever is under way, it ends soon, says nothing, and what other threads began is done first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

BEGIN = """
import threading, time
import atoll

@atoll.remote
def nap(duration_s, size=0):
    time.sleep(duration_s)
    return bytes(size)

atoll.init()
"""

UNFINISHED = "future = nap.remote(600).future()"

WAITED_FOR_IN_A_CALLBACK = """
begun = threading.Event()
def wait(_future):
    begun.set()
    try:
        atoll.get(nap.remote(600))
    except atoll.exceptions.AtollError:
        pass
nap.remote(0).future().add_done_callback(wait)
begun.wait()
"""

FUTURE_IN_A_CALLBACK = """
done = threading.Event()
def follow(_future):
    print(len(nap.remote(0, 5).future().result()))
    done.set()
nap.remote(0).future().add_done_callback(follow)
done.wait()
"""

CALLBACK = """
begun = threading.Event()
def late(_future):
    begun.set()
    time.sleep(0.1)
    print(5)
nap.remote(0).future().add_done_callback(late)
begun.wait()
"""

OTHER_THREAD = """
def go_on():
    threading.main_thread().join()
    print(len(nap.remote(0.02, 5).future().result()))
threading.Thread(target=go_on).start()
"""

LARGE_IN_ANOTHER_THREAD = """
def go_on():
    threading.main_thread().join()
    print(len(atoll.get(atoll.put(bytearray(20_000_000)))) // 4_000_000)
threading.Thread(target=go_on).start()
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        pytest.param(UNFINISHED, "", id="unfinished futures"),
        pytest.param(WAITED_FOR_IN_A_CALLBACK, "", id="a callback that waits"),
        pytest.param(FUTURE_IN_A_CALLBACK, "5\n", id="a callback that waits for another future"),
        pytest.param(CALLBACK, "5\n", id="in the middle of a callback"),
        pytest.param(OTHER_THREAD, "5\n", id="a thread that waits for a future"),
        pytest.param(LARGE_IN_ANOTHER_THREAD, "5\n", id="a thread that puts a large value"),
    ],
)
def test_a_script_that_ends(cluster: Path, program: str, said: str) -> None:
    assert cluster
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
