"""The pictures of a run: how Atoll stands beside each peer, and how much of two cores is work at each duration.

SVG, drawn so that the same figures give the same file. A system has its colour and its mark in all pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.budgets import OURS
from benchmarks.results import Results

STYLES = {
    "Atoll": ("#0072b2", "o"),
    "Ray": ("#d55e00", "s"),
    "Dask": ("#e69f00", "^"),
    "ipyparallel": ("#cc79a7", "D"),
    "joblib/loky": ("#009e73", "v"),
    "ProcessPool": ("#555555", "P"),
}

RATIOS = (
    "task_sync",
    "task_async",
    "actor_sync",
    "actor_async",
    "put_large.100mb",
    "put_large.1gb",
    "get_large.get",
    "get_large.through",
    "put_small.value",
    "simulator.task",
    "simulator.actor",
    "cold_start",
    "attach",
    "actor_start",
    "remote_cell",
    "many_refs.waited",
    "nested_tree",
    "arguments.1kb",
    "arguments.1mb",
    "arguments.100mb",
    "tables.arrow",
    "task_map",
)


def _ratios(results: Results, axes: Any) -> None:
    """How many times better Atoll is than each peer, on a logarithmic scale."""
    rows = [results.rows[key] for key in RATIOS if key in results.rows and results.rows[key].median(OURS)]
    for name in results.systems:
        if name != OURS:
            points = [(row.advantage(name), -number) for number, row in enumerate(rows)]
            found = [(ratio, place) for ratio, place in points if ratio is not None]
            colour, mark = STYLES[name]
            axes.plot([x for x, _ in found], [y for _, y in found], mark, color=colour, label=name, markersize=6)
    axes.axvline(1, color="#999999", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks([-number for number in range(len(rows))], [row.title for row in rows])
    axes.set_xlabel("times better than the peer (left of 1: the peer is better)")
    axes.grid(axis="x", color="#eeeeee")


def _durations(results: Results, axes: Any) -> None:
    """The share of two cores that is work, by the duration of a task."""
    seconds = {"10us": 1e-5, "100us": 1e-4, "1ms": 1e-3, "10ms": 1e-2, "100ms": 0.1, "1s": 1.0}
    for name in results.systems:
        points = [
            (duration, results.rows[f"durations.{key}"].median(name))
            for key, duration in seconds.items()
            if f"durations.{key}" in results.rows
        ]
        found = [(x, y) for x, y in points if y is not None]
        colour, mark = STYLES[name]
        axes.plot([x for x, _ in found], [y for _, y in found], f"{mark}-", color=colour, label=name, markersize=6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 105)
    axes.set_xlabel("duration of a task in seconds")
    axes.set_ylabel("share of two cores that is work, %")
    axes.grid(color="#eeeeee")


PICTURES: dict[str, tuple[Callable[[Results, Any], None], str]] = {
    "benchmarks": (_ratios, "How many times better Atoll is than each peer, by workload"),
    "benchmarks-durations": (_durations, "The share of two cores that is work, by the duration of a task"),
}


def write(results: Results, directory: Path) -> list[Path]:
    """Draw all pictures; return their paths."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "atoll", "svg.fonttype": "none", "font.family": "sans-serif"}
    written = []
    for name, (draw, title) in PICTURES.items():
        figure, axes = plt.subplots(figsize=(9, 6.5 if draw is _ratios else 4), layout="constrained")
        draw(results, axes)
        axes.set_title(title, fontsize=11)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if axes.lines:
            figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=len(results.systems))
        path = directory / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
        # Lines do not end in blanks, so that editors and checks leave the file alone.
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n", encoding="utf-8")
        written.append(path)
    return written
