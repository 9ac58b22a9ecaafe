"""The benchmark's arithmetic and table, on figures made up here. What is measured is measured by `make bench`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from benchmarks import limits, workloads
from benchmarks.measure import Row, Run, run_rounds
from benchmarks.report import figure, lines, ratio
from benchmarks.run import parse
from benchmarks.systems import NotOffered


def row(**samples: list[list[float]]) -> Row:
    return Row("call", "µs", True, "fast", samples, {})


def test_the_median_of_medians_is_robust() -> None:
    assert row(Atoll=[[1, 2, 900], [3, 3, 3], [5, 5]]).median("Atoll") == 3
    assert row().median("Atoll") is None


@pytest.mark.parametrize(("lower_is_better", "expected"), [(True, 4.0), (False, 0.25)])
def test_a_ratio_above_one_is_better(lower_is_better: bool, expected: float) -> None:
    one = msgspec.structs.replace(row(Atoll=[[50]], Ray=[[200]]), lower_is_better=lower_is_better)
    assert ratio(one, "Ray") == expected
    assert ratio(one, "ProcessPool") is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.41423, "0.414"), (99.5, "99.5"), (1849.2, "1,849"), (0.0, "0")]
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


class Fake:
    version = "1"

    def __init__(self, name: str) -> None:
        self.name = name


def workload(measure: Any) -> Any:
    return SimpleNamespace(
        NAME="call",
        UNIT="µs",
        LOWER_IS_BETTER=True,
        BUDGET="fast",
        measure=measure,
        limits=lambda _scale: {"bare socket": [10.0]},
    )


def test_systems_take_turns_and_what_they_lack_is_said() -> None:
    order: list[str] = []

    def measure(system: Any, _scale: float) -> list[float]:
        order.append(system.name)
        if system.name == "ProcessPool":
            raise NotOffered("actors")
        if system.name == "Ray":
            raise RuntimeError("no\nluck")
        return [40.0]

    systems: Any = [Fake("Atoll"), Fake("Ray"), Fake("ProcessPool")]
    run = run_rounds([workload(measure)], systems, 3, 1.0, lambda _line: None)
    assert order == ["Atoll", "Ray", "ProcessPool", "Atoll", "Atoll"]
    (found,) = run.rows
    assert found.absent == {"Ray": "FAILED: RuntimeError: no", "ProcessPool": "has no actors"}
    assert found.samples["Atoll"] == [[40.0]] * 3
    text = "\n".join(lines(run))
    assert "10 (25%)" in text
    assert "Ray FAILED: RuntimeError: no" in text
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


def test_the_order_turns_with_the_rounds() -> None:
    order: list[str] = []

    def measure(system: Any, _scale: float) -> list[float]:
        order.append(system.name)
        return [1.0]

    systems: Any = [Fake("a"), Fake("b")]
    run_rounds([workload(measure)], systems, 2, 1.0, lambda _line: None)
    assert order == ["a", "b", "b", "a"]


def test_every_workload_says_what_it_is() -> None:
    assert len(workloads.ALL) == 7
    for one in workloads.ALL:
        assert one.NAME
        assert one.BUDGET
        assert isinstance(one.LOWER_IS_BETTER, bool)
        assert one.__doc__


def test_an_unknown_system_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--systems", "atoll,dusk"])
    assert "no such system: dusk" in capsys.readouterr().err


@pytest.mark.processes
def test_the_limits_are_measured() -> None:
    with limits.echo_process() as connection:
        assert len(limits.round_trip_s(connection, 20)) == 20
        assert limits.batched_calls_per_s(connection, 2000) > 1000
    assert min(limits.memcpy_bytes_per_s(10**6, 3, 2)) > 10**6
