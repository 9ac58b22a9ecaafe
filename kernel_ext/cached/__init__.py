"""The room of `%%cached`: a cell that runs once for all notebooks of the cluster.

Owns: what a cell's result depends on and how that is compared (`key`: code, values, modules, versions; `observed`:
files and variables that it was seen to read), what is kept of a run (`entries`), what is said of a hit and a miss.

Never: runs a cell or packs its names (`capture`, `cell_runner` do), keeps a value itself (the cluster's names do),
trusts a file's time alone where its content can be compared.

In: a cell, the notebook's namespace. Out: the names that the cell keeps, its output, and a line that says why.

    cell ─▶ key (code, values, modules) ─▶ a name in the cluster ─┬─ ready: dependencies as they were? ─▶ hit
                                                                  ├─ another notebook computes it: wait
                                                                  └─ ours to compute ─▶ worker ─▶ entry ─▶ published

A miss where nothing has changed costs time; a hit where something has changed is a wrong result. So whatever cannot be
compared counts as changed (docs/decisions/0066-what-a-cached-cell-depends-on.md).
"""
