"""The room of background cells: `%%remote fit bg`.

Owns: the handle (`handle`), what is known of a cell and how that reads (`story`, `line`, `live`), the thread that
follows the cells of a process (`watcher`), the process that a cell has to itself (`host`), the way to speak to it
(`ear`), its values after its end (`kept`), and which names are still to come from such cells (`pending`).

Never: needs the kernel that sent a cell. The cell is a detached actor that begins by itself; what it shows stands in
its record, what it has set in the cache. A kernel only follows, whether it sent the cell or found it by its number.

In: a request, a number (`t42`), the pieces of a record, the cluster's state. Out: a line that is updated in the cell
that began it, output there, the values when they are asked for.

    kernel ── request ──▶ host (an actor of its own) ── pieces ──▶ record t42 ──▶ watcher ──▶ the cell's output
       └── "cancel" ──▶ ear ─┘        └── CellResult ──▶ cache "cell t42" ──▶ fit["model"]
"""
