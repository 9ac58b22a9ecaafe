"""The room of what a notebook sees: cells and magics.

Owns: what a cell reads and sets, the request and the result that travel, IPython in the worker, output and errors as
the notebook shows them, the views of the line magics. `grammar/` reads the magics' lines, `magics/` has the magics,
`server/` is the Jupyter server's part.

Never: decides where something runs, opens a connection, reads the scheduler's or a node agent's code. It asks the
cluster for everything through `engine`.

In: the text of cells; output, results and state of the cluster. Out: tasks and actor calls; messages of the kernel.

    a cell ─▶ magics ─▶ grammar, capture (analysis, namespace_pickle) ─▶ CellRequest ─▶ engine ═══▶ worker
                                                                                                     │
      cell_runner (worker_shell, worker_output) runs it there ◀──────────────────────────────────────┘
      │
      ├─ output (descriptors, throttle) ═▶ waiting ─▶ outputs (sinks)
      │        └─▶ records: a file a cell ─▶ detached (%logs, %attach, %tb)
      └─ CellResult ═▶ remote_cell.apply_result ─▶ the user's names
         failures   ═▶ errors ─▶ the user's own exception

`background/` has the cells that nobody waits for, which outlive their kernel.
What a cell changes in place comes back so (`given`, `looks`, `taking_over`).
Large values are shared memory (`buffers`). What is computed once for all notebooks: `cached`, `kept`.
"""

from __future__ import annotations

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext atoll`: add the magics. The cluster is joined by the first cell that needs it."""
    from atoll.kernel_ext import magics

    magics.install(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext atoll`: take the magics away. What runs, runs on."""
    from atoll.kernel_ext import magics

    magics.uninstall(shell)
