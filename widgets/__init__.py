"""The room of what shows the cluster live in a notebook.

Owns: the dashboard widget (Python here, JavaScript in `js/`, its committed bundle in `static/`), the still pictures
of it for saved notebooks and terminals, and the thread that carries state to a page while the kernel is busy; and what
JupyterLab loads to show the lines of background cells (`js/cells/`, its committed bundle in `labextension/`).

Never: decides anything about the cluster, keeps it alive, talks to a node agent or worker, loads anything from
another origin, or puts text into a page other than as text.

In: `atoll.protocol.state.ClusterState`, from the scheduler. Out: comm messages to the page, HTML and text.

    scheduler ── State ──▶ ClusterSource ──▶ Updater (a thread) ── comm ──▶ js/transport.js ──▶ js/dashboard.js
    scheduler ── State ──▶ the Jupyter server's extension ── WebSocket ────────▲
    records of cells ────▶ the Jupyter server's extension ── WebSocket ──▶ js/cells/book.js ──▶ js/cells/renderer.js
"""
