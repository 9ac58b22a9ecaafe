"""`atoll.init` with the arguments that programs for Ray give it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import atoll
from atoll import init_options

pytestmark = pytest.mark.processes


def test_an_address_says_whether_the_cluster_must_run() -> None:
    assert not init_options.must_exist(None)
    assert not init_options.must_exist("local")
    assert init_options.must_exist("auto")
    with pytest.raises(ValueError, match="without an address"):
        init_options.must_exist("ray://elsewhere:10001")


def test_settings_of_a_cluster_that_is_started() -> None:
    said = init_options.settings_said(3, None, 2**28)
    assert (said.num_cpus, said.store_capacity_bytes) == (3, 2**28)
    with pytest.raises(ValueError, match="whole number"):
        init_options.settings_said(0.5, None, None)
    with pytest.raises(ValueError, match="size"):
        init_options.settings_said(None, None, 0)
    with pytest.warns(UserWarning, match="those that the machine has"):
        init_options.settings_said(None, 2, None)


def test_arguments_that_there_are_not() -> None:
    with pytest.raises(TypeError, match="no_such"):
        atoll.init(no_such=1)


def test_a_cluster_that_runs_is_as_it_was_started(cluster: Path) -> None:
    with pytest.warns(UserWarning, match="num_cpus=7 is left out"):
        session = atoll.init("auto", num_cpus=7, include_dashboard=False, namespace=None)
    try:
        assert session.state().nodes[0].resources_total["CPU"] == float(os.environ["ATOLL_NUM_CPUS"])
    finally:
        atoll.shutdown()


def test_what_tasks_print_is_shown_unless_said(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @atoll.remote
    def talk() -> None:
        print("not to be seen")

    with atoll.init(log_to_driver=False):
        atoll.get(talk.remote())
    assert capsys.readouterr().out == ""
    assert not atoll.is_initialized()
