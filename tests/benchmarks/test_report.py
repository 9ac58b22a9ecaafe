"""The benchmark's arithmetic, tables, page and comparison, on figures made up here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import budgets, compare, report, results, workloads
from benchmarks.budgets import Budget, judge
from benchmarks.results import Cell, Results, Row, summary
from benchmarks.run import parse
from benchmarks.systems import ADAPTERS, System, adapter
from benchmarks.workload import NotOffered, Turn
from benchmarks.workloads.skewed import makespan

ROOT = Path(__file__).resolve().parents[2]


def row(key: str = "task_sync", lower: bool = True, **medians: list[float]) -> Row:
    cells = {
        name: Cell([summary(number, [value]) for number, value in enumerate(values, 1)])
        for name, values in medians.items()
    }
    return Row(key, "task_sync", "a call", "µs", lower, cells)


def run_of(*rows: Row, commit: str = "abc") -> Results:
    machine = {"cpus": 2, "processor": "some", "memory_gb": 8, "system": "Linux 6", "python": "3.11"}
    found = Results(
        results.FORMAT, commit, "2026-01-01", machine, "python -m benchmarks.run", 3, 1.0, {"Atoll": "1", "Ray": "2"}
    )
    found.limits = ["bare socket"]
    found.rows = {one.key: one for one in rows}
    return found


def test_the_median_of_medians_is_robust() -> None:
    cell = Cell([summary(1, [1, 2, 900]), summary(2, [3, 3, 3]), summary(3, [5, 5])])
    assert cell.median == 3
    assert cell.spread == (2, 5)
    assert Cell().median is None


def test_one_rounds_spread_is_its_deciles() -> None:
    assert Cell([summary(1, range(1, 101))]).spread == (11, 90)


@pytest.mark.parametrize(("lower", "expected"), [(True, 4.0), (False, 0.25)])
def test_an_advantage_above_one_is_better(lower: bool, expected: float) -> None:
    one = row(lower=lower, Atoll=[50], Ray=[200])
    assert one.advantage("Ray") == expected
    assert one.advantage("Dask") is None


@pytest.mark.parametrize(
    ("budget", "met", "factor"),
    [
        (Budget("k", "", 55), True, 1.1),
        (Budget("k", "", 40), False, 0.8),
        (Budget("k", "", 25, of="Ray"), True, 1.28),
        (Budget("k", "", 1 / 4, of="bare socket"), False, 0.8),
        (Budget("k", "", 2, of="Dask"), None, None),
    ],
)
def test_budgets_are_judged(budget: Budget, met: bool | None, factor: float | None) -> None:
    found = judge(budget, row(Atoll=[50], Ray=[1600], **{"bare socket": [10]}))
    assert found.met is met
    assert found.factor == (None if factor is None else pytest.approx(factor))
    assert judge(budget, None).met is None


def test_every_budget_is_of_a_metric_that_is_measured() -> None:
    metrics = {metric.key for one in workloads.ALL.values() for metric in one.metrics}
    assert {budget.metric for budget in budgets.BUDGETS} <= metrics


def test_every_workload_says_what_it_is() -> None:
    keys = [metric.key for one in workloads.ALL.values() for metric in one.metrics]
    assert len(keys) == len(set(keys))
    for name, one in workloads.ALL.items():
        assert workloads.about(name)
        assert all(metric.key.partition(".")[0] == name for metric in one.metrics)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.41423, "0.414"), (99.5, "99.5"), (1849.2, "1,849"), (0.0, "0"), (0.0004, "4.0e-04")],
)
def test_figures(value: float | None, text: str) -> None:
    assert report.figure(value) == text


def test_the_report_hides_neither_defeat_nor_failure() -> None:
    one = row(Atoll=[50, 60], Ray=[20, 25])
    other = row("task_async", lower=False, Atoll=[100])
    found = run_of(one, other)
    found.miss("task_async", "Ray", "over its time: more than 40 s, ended")
    found.remarks = {"Ray": ["left 2 processes after its end"]}
    text = "\n".join(report.lines(found))
    assert "Where a peer is better" in text
    assert "2.44x" in text  # 55 / 22.5
    assert "too long" in text
    assert "over its time: more than 40 s" in text
    assert "left 2 processes" in text
    assert "NOT MET" in text  # 1,600 µs were asked for at most 1/25 of Ray


def test_the_page_is_written_from_the_results(tmp_path: Path) -> None:
    found = run_of(row(Atoll=[50, 51], Ray=[1600, 1500], **{"bare socket": [10]}))
    results.save(found, tmp_path / "run.json")
    # In a process of its own: matplotlib keeps the files of its fonts open.
    script = (
        "import sys; from pathlib import Path; from benchmarks import document, results\n"
        "for name in ('one', 'two'):\n"
        "    document.write(results.load(Path(sys.argv[1]) / 'run.json'), Path(sys.argv[1], name))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=50)
    first, second = tmp_path / "one", tmp_path / "two"
    page = (first / "benchmarks.md").read_text(encoding="utf-8")
    assert "## Where a peer is better" in page
    assert "In no row of this run." in page
    assert "≤ 1/25 of Ray" in page
    pictures = [path.name for path in (first / "images").iterdir()]
    assert len(pictures) == 2
    assert all(f"(images/{name})" in page for name in pictures)
    assert results.load(first / "benchmarks.json") == found
    for path in ("benchmarks.md", *(f"images/{name}" for name in pictures)):
        assert (first / path).read_bytes() == (second / path).read_bytes()


def test_results_survive_their_file_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no results"):
        results.load(path)
    found = run_of(row(Atoll=[1]))
    found.format = 99
    results.save(found, path)
    with pytest.raises(ValueError, match="format 99"):
        results.load(path)


def test_a_part_can_be_measured_again() -> None:
    whole = run_of(row(Atoll=[50], Ray=[1600]), row("task_async", Atoll=[7]))
    whole.replace_with(run_of(row(Atoll=[40]), commit="def"))
    assert whole.rows["task_sync"].median("Atoll") == 40
    assert whole.rows["task_sync"].median("Ray") == 1600
    assert whole.rows["task_async"].median("Atoll") == 7
    assert whole.commit == "abc, in part def"


def test_a_comparison_knows_noise_from_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_of(row(Atoll=[50, 52, 54], **{"bare socket": [10, 10, 10]}), row("task_async", Atoll=[7, 9]))
    second = run_of(
        row(Atoll=[80, 82, 84], **{"bare socket": [10, 10, 10]}), row("task_async", Atoll=[8, 10]), commit="def"
    )
    paths = []
    for name, one in (("a", first), ("b", second)):
        paths.append(str(tmp_path / name))
        results.save(one, Path(paths[-1]))
    assert compare.main([*paths, "--fail-above", "1.25"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("WORSE") == 1
    assert "slower by more than 1.25x" in shown.err
    assert compare.main([*paths, "--fail-above", "2"]) == 0
    assert compare.main([str(tmp_path / "none"), paths[0]]) == 2


def test_a_slower_machine_is_not_a_slower_system() -> None:
    first = run_of(row(Atoll=[50, 51], **{"bare socket": [10, 10]}))
    second = run_of(row(Atoll=[100, 101], **{"bare socket": [20, 20]}))
    assert not compare.slower(first, second, "Atoll", 1.25)


def test_an_ideal_schedule() -> None:
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 4], 2) == 5
    assert makespan([], 2) == 0


class Lacking(System):
    name = "Lacking"


def test_what_a_system_lacks_is_said() -> None:
    turn = Turn(Lacking(), tiny=True)
    assert not turn.attempt("put", lambda: Lacking().put(1))
    assert turn.absent["put"] == "has no objects that are shared between tasks"

    def fail() -> None:
        raise RuntimeError("no\nluck")

    turn.attempt("other", fail)
    assert turn.absent["other"] == "FAILED: RuntimeError: no"
    with pytest.raises(NotOffered, match="actors"):
        Lacking().actor(object)


def test_samples_follow_from_time_not_from_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("benchmarks.workload.time", SimpleNamespace(perf_counter=lambda: now))
    turn = Turn(Lacking())
    bursts: list[int] = []

    def work(count: int = 1, each_s: float = 0.01) -> None:
        nonlocal now
        bursts.append(count)
        now += count * each_s

    assert turn.times(work, most=2000, within_s=1.0) == pytest.approx([0.01] * 100, abs=1e-9)
    assert len(turn.times(work, most=30, within_s=1.0)) == 30
    assert len(turn.times(lambda: work(1, 5.0), within_s=1.0)) == 2
    bursts.clear()
    assert turn.rate(lambda count: work(count, 1e-5), first=10, within_s=0.8) == pytest.approx([1e5, 1e5])
    assert bursts[0] == 10
    assert 0.2 < bursts[-1] * 1e-5 < 0.8


def test_adapters_are_made_without_their_systems() -> None:
    assert {adapter(key).name for key in ADAPTERS} == {
        "Atoll", "Ray", "Dask", "ipyparallel", "joblib/loky", "ProcessPool"
    }  # fmt: skip


def test_names_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert [*parse(["--only", "put_large.1gb,task_sync"]).only] == ["task_sync", "put_large"]
    assert "queued_tasks" not in parse(["--quick"]).only
    assert parse(["--systems", "ray,atoll"]).systems == ["atoll", "ray"]
    with pytest.raises(SystemExit):
        parse(["--systems", "atoll,dusk"])
    assert "no such system: dusk" in capsys.readouterr().err
