"""What the scheduler's core is good for, by figures: `python -m benchmarks.scheduling`.

Owns: simulated clusters without sockets (`throughput`), small cases beside brute force (`packing`), greedy sessions and
the four notebooks that share a GPU (`studies`) on the three real cores and a virtual clock, and what becomes of the
figures: pictures (`plots`) and the tables of docs/scheduling.md (`document`).

Never: decides anything by itself, or measures wall-clock time: what is timed is processor time, and what takes time in
a study is virtual.

In: the cores, and the simulator of `tests/sim`. Out: docs/scheduling.json, pictures, tables.
"""
