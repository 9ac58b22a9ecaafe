"""`python -m benchmarks.run`: measure, and print the tables.

--quick            one short round of the design's budgets (and of nothing else, unless --only says what)
--tiny             everything once, as small as it gets: the figures mean nothing, it shows that all of it runs
--rounds N         how often each system takes its turns (default 3)
--minutes N        no further round is begun when it would end later (default 15)
--only A,B         only these workloads, or these metrics' workloads (see --list)
--systems A,B      only these of atoll, ray, dask, ipyparallel, loky, process_pool
--json PATH        where the results go (default .build/benchmarks/latest.json); written after every turn of a system
--merge            keep what the file has, and replace what this run measures: for repeating a part
--document         write docs/benchmarks.md, its pictures and docs/benchmarks.json too

It ends with 1 when Atoll failed at something; what a peer cannot do is a result.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import machine, report, results, workloads
from benchmarks.conductor import Conductor
from benchmarks.host import versions
from benchmarks.results import Results, Row
from benchmarks.systems import ADAPTERS, adapter
from benchmarks.workload import LIMITS, USUAL_STORE_BYTES, Workload

JSON = machine.ROOT / ".build" / "benchmarks" / "latest.json"
GIVE_UP_AFTER_STARTS = 2
ONCE_ABOVE_S = 6.0
"""What took a peer so long is not repeated in later rounds."""
FEW = 3
"""Where no more workloads than these are measured, everything is repeated: there is time for it."""
SYSTEM_S = 200.0
"""A peer whose turns of one round take longer than this has none after that in this round."""
QUICK_SCALE = 0.35
OURS = "atoll"


def say(line: str) -> None:
    """Show progress, beside the table."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


class Runner:
    """One run.

    Args:
        found: Takes the results.
        conductor: Gives the turns.
        chosen: Workloads by name.
        keys: Systems, in the table's order.
        scale: Of the turns.
        save: Called after every system's turns.
        tiny: See `Turn`.
    """

    def __init__(
        self,
        found: Results,
        conductor: Conductor,
        chosen: dict[str, Workload],
        keys: Sequence[str],
        scale: float,
        save: Callable[[], None],
        *,
        tiny: bool,
    ) -> None:
        self._found = found
        self._conductor = conductor
        self._chosen = chosen
        self._keys = keys
        self._scale = scale
        self._save = save
        self._tiny = tiny
        self._once_above_s = ONCE_ABOVE_S if len(chosen) > FEW else math.inf
        self._names = {key: adapter(key).name for key in keys}
        self._took: dict[tuple[str, str], float] = {}
        self._turns: dict[tuple[str, str], int] = {}
        self._given_up: set[tuple[str, str]] = set()
        self._failed_starts = dict.fromkeys(keys, 0)

    def expected_s(self, *, quick: bool) -> float:
        """Return how long a round will take at most, going by the last turns of all."""
        return sum(
            took
            for (key, name), took in self._took.items()
            if self._turns[key, name] < self._chosen[name].rounds
            and (key in (OURS, LIMITS) or took < self._once_above_s)
            and (self._chosen[name].quick or not quick)
        )

    def round(self, number: int, rounds: int, *, quick: bool) -> None:
        """Let every system take its turns; whoever comes first is another one each time.

        Args:
            number: Of the round, from 1.
            rounds: How many there are to be.
            quick: Only the workloads of the short run.
        """
        chosen = {name: one for name, one in self._chosen.items() if one.quick or not quick}
        self._found.load_averages.append(round(os.getloadavg()[0], 2))
        turn = (number - 1) % len(self._keys)
        for key in [*self._keys[turn:], *self._keys[:turn]]:
            began = time.monotonic()
            if key == self._keys[0]:
                self._limits(number, chosen)
            for name, workload in sorted(chosen.items(), key=_order):
                if (key, name) in self._given_up or self._turns.get((key, name), 0) >= workload.rounds:
                    continue
                if key != OURS and time.monotonic() - began > SYSTEM_S:
                    for metric in workload.metrics:
                        why = f"not run: its turns before in this round took more than {SYSTEM_S:g} s"
                        self._found.miss(metric.key, self._names[key], why)
                elif key == OURS or self._took.get((key, name), 0.0) < self._once_above_s:
                    self._turn(key, name, workload, number)
            self._conductor.end_system()
            self._found.remarks = {self._names.get(who, who): said for who, said in self._conductor.remarks.items()}
            self._save()
            say(f"round {number} of {rounds}: {self._names[key]} took {time.monotonic() - began:.0f} s")

    def _limits(self, number: int, chosen: dict[str, Workload]) -> None:
        """Measure the limits, next to the first system's turns."""
        for name, workload in chosen.items():
            if workload.limits is None or self._turns.get((LIMITS, name), 0) >= workload.rounds:
                continue
            answer = self._ask(LIMITS, name, workload)
            for key, samples in answer.get("samples", {}).items():
                metric, _, limit = key.partition("|")
                if limit not in self._found.limits:
                    self._found.limits.append(limit)
                self._found.add(metric, limit, number, samples)

    def _turn(self, key: str, name: str, workload: Workload, number: int) -> None:
        who = self._names[key]
        if workload.store_bytes != USUAL_STORE_BYTES and not adapter(key).has_bounded_store:
            why = "not compared: it has no store whose size would bound what is kept in memory"
            answer: dict[str, Any] = {"absent": {metric.key: why for metric in workload.metrics}}
        elif self._failed_starts[key] >= GIVE_UP_AFTER_STARTS and workload.started:
            answer = {"error": f"FAILED to start {GIVE_UP_AFTER_STARTS} times"}
        else:
            answer = self._ask(key, name, workload)
        if "error" in answer:
            self._given_up.add((key, name))
            self._failed_starts[key] += answer["error"].startswith("FAILED to start")
            answer["absent"] = {metric.key: answer["error"] for metric in workload.metrics}
        for metric, samples in answer.get("samples", {}).items():
            self._found.add(metric, who, number, samples)
        for metric, why in answer["absent"].items():
            self._found.miss(metric, who, why)
            if why.startswith("FAILED") or "error" in answer:
                say(f"  {who}, {metric}: {why}")
        if len(answer["absent"]) == len(workload.metrics):
            self._given_up.add((key, name))
        row = self._found.rows[workload.metrics[0].key]
        row.notes = [*dict.fromkeys([*row.notes, *answer.get("notes", [])])]

    def _ask(self, key: str, name: str, workload: Workload) -> dict[str, Any]:
        began = time.monotonic()
        answer = self._conductor.turn(
            key,
            name,
            self._scale,
            cap_s=workload.cap_s,
            store_bytes=workload.store_bytes,
            started=workload.started,
            tiny=self._tiny,
        )
        figures = ", ".join(
            report.figure(results.summary(0, samples).median) for samples in answer.get("samples", {}).values()
        )
        self._turns[key, name] = self._turns.get((key, name), 0) + 1
        took = self._took[key, name] = time.monotonic() - began
        say(f"  {self._names.get(key, key):<12} {name:<14} {took:5.1f} s  {figures}")
        return answer


def _order(item: tuple[str, Workload]) -> tuple[bool, bool, bool]:
    """First who starts the system itself, then who wants a fresh one, last who has a start of its own."""
    workload = item[1]
    return workload.started, not workload.early, workload.store_bytes != USUAL_STORE_BYTES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(arguments)
    if options.list:
        for name, workload in workloads.ALL.items():
            print(f"{name:<16}", ", ".join(metric.key for metric in workload.metrics))
        return 0
    systems = installed(options.systems)
    if not systems:
        say("there is no system to measure")
        return 2
    options.systems = [*systems]
    found = empty(options, {adapter(key).name: text for key, text in systems.items()})
    kept = options.json.read_bytes() if options.merge and options.json.exists() else b""
    began = time.monotonic()

    def merged() -> Results:
        """Return what is known by now, beside what was known before."""
        found.took_s = time.monotonic() - began
        if not kept:
            return found
        whole = results.decode(kept, str(options.json))
        whole.replace_with(found)
        return whole

    with Conductor(say) as conductor:
        scale = QUICK_SCALE if options.quick else 1.0
        runner = Runner(
            found,
            conductor,
            options.only,
            options.systems,
            scale,
            lambda: results.save(merged(), options.json),
            tiny=options.tiny,
        )
        try:
            run_rounds(runner, options, began)
        except KeyboardInterrupt:
            say("interrupted: what was measured until now follows")
            finish(merged(), options, document=False)
            return 128 + signal.SIGINT
    finish(merged(), options, document=options.document)
    return int(any("FAILED" in row.cells["Atoll"].absent for row in found.rows.values() if "Atoll" in row.cells))


def finish(whole: Results, options: argparse.Namespace, *, document: bool) -> None:
    """Write the results and show them."""
    results.save(whole, options.json)
    print("\n".join(report.lines(whole)))
    print(f"\n{options.json}")
    if document:
        from benchmarks.document import write

        print("\n".join(str(path) for path in write(whole)))


def installed(keys: Sequence[str]) -> dict[str, str]:
    """Return the versions of those systems that are installed."""
    found = {}
    for key in keys:
        try:
            found[key] = versions(key)
        except metadata.PackageNotFoundError as error:
            say(f"{key} is left out: {error.name} is not installed (pip install '.[bench]')")
    return found


def run_rounds(runner: Runner, options: argparse.Namespace, began: float) -> None:
    """Run as many rounds as were asked for and as there is time for."""
    rounds = min(options.rounds, max(workload.rounds for workload in options.only.values()))
    for number in range(1, rounds + 1):
        left_s = options.minutes * 60 - (time.monotonic() - began)
        # What is asked for most is measured again where there is no time for everything.
        quick = number > 1 and left_s < runner.expected_s(quick=False)
        expected_s = runner.expected_s(quick=quick)
        if number > 1 and left_s < expected_s:
            say(f"no round {number}: it would take {expected_s:.0f} s of the {left_s:.0f} s that are left")
            break
        runner.round(number, rounds, quick=quick)


def empty(options: argparse.Namespace, systems: dict[str, str]) -> Results:
    """Return results with the rows of these workloads and no figures."""
    rows = {
        metric.key: Row(metric.key, name, metric.title, metric.unit, metric.lower_is_better)
        for name, workload in options.only.items()
        for metric in workload.metrics
    }
    return Results(
        format=results.FORMAT,
        commit=machine.commit(),
        date=time.strftime("%Y-%m-%d"),
        machine=machine.shape(),
        command=options.command,
        rounds=options.rounds,
        scale=QUICK_SCALE if options.quick else 1.0,
        systems=systems,
        rows=rows,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Atoll beside its peers, in one run.")
    parser.add_argument("--quick", action="store_true", help="one short round of the budgets")
    parser.add_argument("--tiny", action="store_true", help="only try whether everything runs")
    parser.add_argument("--rounds", type=int, default=0, metavar="N")
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="begin no round that would end later")
    parser.add_argument("--only", metavar="A,B", help="workloads or metrics")
    parser.add_argument("--systems", default=",".join(ADAPTERS), metavar="A,B")
    parser.add_argument("--json", type=Path, default=JSON, metavar="PATH")
    parser.add_argument("--merge", action="store_true", help="replace in the file only what is measured now")
    parser.add_argument("--document", action="store_true", help="write the page of the documentation")
    parser.add_argument("--list", action="store_true", help="show workloads and metrics")
    options = parser.parse_args(arguments)
    options.command = command_of(options)
    options.rounds = options.rounds or (1 if options.quick or options.tiny else 3)
    if options.rounds < 1:
        parser.error("--rounds: give a whole number from 1")
    options.systems = [key for key in ADAPTERS if key in _chosen(parser, "system", options.systems, list(ADAPTERS))]
    metrics = {metric.key: name for name, one in workloads.ALL.items() for metric in one.metrics}
    wanted = _chosen(parser, "workload", options.only, [*workloads.ALL, *metrics]) if options.only else []
    names = {metrics.get(text, text) for text in wanted}
    if not names:
        names = {name for name, one in workloads.ALL.items() if one.quick or not options.quick}
    options.only = {name: one for name, one in workloads.ALL.items() if name in names}
    return options


def command_of(options: argparse.Namespace) -> str:
    """Return the command that measures the same, without the paths of this machine."""
    flags = [f"--{name}" for name in ("quick", "tiny") if getattr(options, name)]
    if options.rounds:
        flags.append(f"--rounds {options.rounds}")
    if options.only:
        flags.append(f"--only {options.only}")
    if options.systems != ",".join(ADAPTERS):
        flags.append(f"--systems {options.systems}")
    return " ".join(["python -m benchmarks.run", *flags])


def _chosen(parser: argparse.ArgumentParser, what: str, text: str, known: Sequence[str]) -> list[str]:
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in known]
    if unknown:
        parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
