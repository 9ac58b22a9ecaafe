"""How fast Atoll is, beside systems that do the same and beside what the machine allows, in one run.

Owns: one file a workload (`workloads/`), one adapter a system (`systems/`), the limits of the machine (`limits.py`),
rounds and medians (`measure.py`), the table (`report.py`).
Never: a figure from another run, another machine or a document. Absolute times hold on no other machine, so what is
printed are ratios to peers and to limits that were measured in the same rounds.
In: the public API of each system. Out: a table, and JSON with every sample (`--json`).
"""
