"""What the room of cells asks of a cluster: the one place where it touches the client's API.

Owns: the contract (`contract`), the cluster behind `import atoll` (`cluster`), what of it runs or was called (`calls`),
and which one this process uses (`current`).

Never: knows a magic, shows anything, or decides what a cell is. Whoever needs only the types imports `contract`, which
imports nothing of this package but the messages of cells.

In: requests, options, names of the cluster. Out: things that run, the cluster's state and its values.

    magics, background, cached ──▶ current ──▶ cluster ──▶ calls ──▶ the client
                 └───────────────▶ contract ◀──┘
"""
