"""The Jupyter server's part of Atoll: the cluster begins and ends with the server, and the browser can watch it.

Owns: the extension app and its settings, the cluster's life as the server sees it, one connection to the scheduler,
the HTTP routes and the WebSockets under `/atoll/api`; following background cells for pages that no kernel feeds.

Never: runs a task, unpickles, opens a listener of its own, shows a key, changes anything on a GET, delays the
server's start, or lets anybody in whom Jupyter has not authenticated and authorised.

In: HTTP and WebSocket requests of the server's users; `State` and `Usage` from the scheduler; records of cells.
Out: JSON, metrics for Prometheus; control messages.

    AtollExtension ──▶ ServerCluster ── Supervisor (blocking, in an executor) ──▶ daemons
          │                 └── Endpoint (the server's own loop) ── RegisterJob(kind="server"), WatchState ──▶ scheduler
          ├── handlers: state, health, metrics, kill, restart, drop; state/watch ──▶ js/transport.js
          └── cells: CellPages (background/watcher, a thread) ── cells/watch ──▶ js/cells/book.js
"""
