"""What the line magics may say: those that show the cluster, and those that show what cells have shown."""

from __future__ import annotations

from atoll.kernel_ext.grammar.schema import Flag, Grammar, Option
from atoll.kernel_ext.grammar.values import read_device

CLUSTER = Grammar(
    magic="%cluster",
    summary="Show the cluster's nodes: what they have, what is used, what waits.",
    examples=(("%cluster", "every node"), ("%cluster big", "the node big")),
    names_help="nodes; all if not said",
    names_known="node",
    name_free=True,
)

JOBS = Grammar(
    magic="%jobs",
    summary="Show what runs and what waits, of all sessions.",
    examples=(
        ("%jobs", "every session"),
        ("%jobs fit sales.ipynb", "what is called fit, and what that notebook has sent"),
    ),
    names_help="cells by number or name, functions, actors, notebooks; everything if not said",
    names_known="job",
    name_free=True,
)

ACTORS = Grammar(
    magic="%actors",
    summary="Show the actors of the cluster.",
    examples=(("%actors", "every actor, those that have died for a while too"), ("%actors llm", "one of them")),
    names_help="actors; all if not said",
    names_known="actors",
    name_free=True,
)

OBJECTS = Grammar(
    magic="%objects",
    summary="Show the names of the cache and the objects in shared memory, the largest first.",
    examples=(("%objects", "every object"), ("%objects sales.ipynb", "those that a notebook has made")),
    names_help="names of the cache, ends of ids, notebooks; everything if not said",
    names_known="object",
    name_free=True,
)

GPUS = Grammar(
    magic="%gpus",
    summary="Show the GPUs: how busy they are, who holds them, which are quarantined.",
    examples=(
        ("%gpus", "every GPU"),
        ("%gpus big", "those of the node big"),
        ("%gpus big:0", "one of them"),
        ("%gpus release=2", "give GPU 2 again, which was quarantined since it failed"),
    ),
    names_help="GPUs, or nodes; all if not said",
    names_known="device",
    name_free=True,
    options=(
        Option(
            "release",
            "GPU",
            "give a quarantined GPU again: its number, or NODE:NUMBER, or its UUID",
            read_device,
            "2",
        ),
    ),
)

USAGE = Grammar(
    magic="%usage",
    summary="Show who has held and used how much: CPU and GPU time, memory times time.",
    examples=(
        ("%usage", "this notebook today, and all notebooks since the cluster was started"),
        ("%usage cell", "each cell and actor, of all notebooks"),
        ("%usage notebook today", "each notebook, since midnight"),
    ),
    flags=(
        Flag("notebook", "a line for each notebook"),
        Flag("cell", "a line for each cell, function and actor"),
        Flag("actor", "a line for each actor"),
        Flag("today", "only what was since midnight"),
    ),
    notes=(
        "Held is what was kept from others, used is what was measured meanwhile.",
        "A notebook's sessions are added up, also after a restart of its kernel.",
    ),
)

DASHBOARD = Grammar(
    magic="%dashboard",
    summary="Show the cluster live.",
    examples=(("%dashboard", "below this cell"),),
)

_CELL = "the number of a cell, as its status line and %jobs have it (t42), or the variable of a background cell"

WHY = Grammar(
    magic="%why",
    summary=(
        "Say why something waits: on each node what is short and who holds it, what would let it begin now, and when "
        "it can begin; or where it runs."
    ),
    examples=(
        ("%why", "everything that waits, of all notebooks"),
        ("%why t42", "a cell, also one of another notebook"),
        ("%why fit", "a background cell by the variable of its handle; a ref; an actor by its name"),
    ),
    name_help="a cell's number or name, a variable, or an actor; everything that waits if not said",
    name_free=True,
    name_known="why",
    notes=(
        "%%remote gpu=2 dry tells the same of a cell before it is sent.",
        "In a program: atoll.why(ref) and atoll.simulate(num_gpus=2).",
    ),
)

LOGS = Grammar(
    magic="%logs",
    summary="Show what a cell has shown so far, also after a reload or a restart of the kernel.",
    examples=(
        ("%logs t42", "what the cell has shown"),
        ("%logs fit", "a background cell by its variable"),
        ("%logs t42 all", "also what was too much at once"),
    ),
    flags=(Flag("all", "also what was left out because it was too much at once for a page"),),
    name_help=_CELL,
    name_free=True,
    name_known="cell",
)

ATTACH = Grammar(
    magic="%attach",
    summary="Show what a cell shows until it ends, and take over what it has set. An interrupt ends the showing only.",
    examples=(
        ("%attach t42", "wait for a cell that runs on, a background cell of an earlier kernel say"),
        ("%attach t42 bg", "of a background cell: only bind its handle"),
    ),
    flags=(Flag("bg", "do not wait: bind the handle of a background cell, and leave its names to fit['model']"),),
    name_help=_CELL,
    name_free=True,
    name_known="cell",
)

TRACEBACK = Grammar(
    magic="%tb",
    summary="Show the error of a remote cell with the values of its local variables.",
    examples=(("%tb t42", "of a remote cell"), ("%tb", "IPython's own: the last error of this kernel")),
    name_help=_CELL + "; or one of IPython's modes, such as Verbose",
    name_free=True,
    name_known="cell",
)

BIND = Grammar(
    magic="%actor",
    summary="Bind the name of an actor that another notebook has made.",
    examples=(("%actor llm", "then llm.generate('...') from any cell"),),
    name_help="the actor's name",
    name_required=True,
    name_known="actor",
    notes=("To make an actor, write %%actor above a cell.",),
)
