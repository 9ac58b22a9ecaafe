"""How fast Atoll is, beside systems that do the same and beside what the machine allows, in one run.

    run ──▶ one host process a system and round ──▶ adapter (`systems/`) ◀── workloads (`workloads/`), a file each
     │            caps, restarts, leftovers: `conductor`, `leftovers`
     └──▶ results (JSON) ──▶ budgets ──▶ table (`report`), pictures (`plot`), docs/benchmarks.md (`document`), `compare`

Owns: the workloads, the adapters, the limits of the machine (`limits`), rounds and medians (`results`), the budgets of
the design as conditions that are checked (`budgets`), and everything that shows figures.
Never: a figure from another run, another machine or a document; a peer's failure that is not shown. Absolute times
hold on no other machine, so each figure stands beside peers and limits that were measured in the same rounds.
In: the public API of each system. Out: a table, JSON with every round, a page and pictures for the documentation.
"""
